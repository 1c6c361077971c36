"""A router as the model of pydantic-ai's agents."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError, models
from pydantic_ai.exceptions import (
    ModelOverloadedError,
    ModelRateLimitError,
    ModelTimeoutError,
    UserError,
)
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.output import NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.settings import ToolOrOutput
from pydantic_ai.tools import ToolDefinition
from turns import COST, MODEL, Turns, assert_at_rest, calls, router_of, says

from asyncroute import (
    AuthenticationError,
    Chunk,
    ConfigurationError,
    ContextTooLongError,
    LLMRouter,
    ProviderError,
    RateLimitedError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute.integrations import RoutedModel


@pytest.fixture(params=[True, False], ids=["inline", "supervised"])
def inline(request: pytest.FixtureRequest) -> bool:
    return request.param


NOTHING = ModelRequestParameters()


class City(BaseModel):
    name: str
    people: int


async def weather(city: str) -> str:  # a plain one would run in a thread, which is not virtual
    """Tell the weather of a city."""
    return f"sunny in {city}"


async def test_an_agent_gets_text_usage_and_what_it_cost() -> None:
    provider = Turns(says("It ", "scatters."))
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router, max_cost=0.5), instructions="Be brief.")
        result = await agent.run("Why is the sky blue?", model_settings={"temperature": 0.5})
        assert_at_rest(router, provider)
    assert result.output == "It scatters."
    usage = result.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (10, 5, 4)
    assert float(usage.cost or 0) == pytest.approx(COST)
    assert (result.response.model_name, result.response.provider_name) == ("m", "asyncroute")
    assert (result.response.provider_details or {})["attempts"] == [("m", "first", "won")]
    assert provider.chat == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why is the sky blue?"},
    )
    assert provider.params == {"temperature": 0.5}
    assert provider.requests[0].max_cost == 0.5


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_tool_is_called_and_its_result_goes_back(is_streamed: bool, inline: bool) -> None:
    wanted = calls(("weather", {"city": "Paris"}), ("weather", {"city": "Rome"}), numbered=inline)
    provider = Turns(wanted, says("Both ", "sunny."), inline=inline)
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router), tools=[weather])
        if is_streamed:
            async with agent.run_stream("Weather?") as run:
                output = await run.get_output()
        else:
            output = (await agent.run("Weather?")).output
        assert_at_rest(router, provider)
    assert output == "Both sunny."
    assert [tool["function"]["name"] for tool in provider.params["tools"]] == ["weather"]
    _, answer, *returned = provider.chat
    assert [call["id"] for call in answer["tool_calls"]] == ["call_0", "call_1"]
    assert answer["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city":"Paris"}',
    }
    assert [(turn["role"], turn["tool_call_id"], turn["content"]) for turn in returned] == [
        ("tool", "call_0", "sunny in Paris"),
        ("tool", "call_1", "sunny in Rome"),
    ]


@pytest.mark.parametrize(
    ("output_type", "turn", "asked"),
    [
        (ToolOutput(City), calls(("final_result", {"name": "Rome", "people": 3})), "tools"),
        (NativeOutput(City), says('{"name": "Rome", "people": 3}'), "response_format"),
        (PromptedOutput(City), says('{"name": "Rome", "people": 3}'), "response_format"),
    ],
    ids=["tool", "native", "prompted"],
)
async def test_structured_output_comes_in_each_way(output_type: Any, turn: Any, asked: str) -> None:
    provider = Turns(turn)
    async with router_of(provider) as router:
        result = await Agent(RoutedModel(router), output_type=output_type).run("Rome?")
    assert result.output == City(name="Rome", people=3)
    assert asked in provider.params
    if asked == "tools":
        assert provider.params["tool_choice"] == "required"
    kind = provider.params.get("response_format", {}).get("type")
    if isinstance(output_type, NativeOutput):
        assert kind == "json_schema"
    if isinstance(output_type, PromptedOutput):
        assert kind == "json_object"
        assert "people" in provider.chat[0]["content"]


async def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    provider = Turns(
        calls(("final_result", {"name": "Rome"})),
        calls(("final_result", {"name": "Rome", "people": 3})),
    )
    async with router_of(provider) as router:
        result = await Agent(RoutedModel(router), output_type=City).run("Rome?")
    assert result.output.people == 3
    assert provider.chat[-1]["role"] == "tool"
    assert "people" in provider.chat[-1]["content"]


async def test_a_stream_comes_in_pieces_with_thoughts_usage_and_cost(inline: bool) -> None:
    provider = Turns([Chunk(reasoning="Hm. "), *says("It ", "scatters.")], inline=inline)
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router))
        async with agent.run_stream("Why?") as run:
            pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
        assert_at_rest(router, provider)
    assert pieces == ["It ", "scatters."]
    assert run.response.parts == [ThinkingPart("Hm. "), TextPart("It scatters.")]
    assert (run.response.model_name, run.response.finish_reason) == ("m", "stop")
    assert run.usage.output_tokens == 5
    assert float(run.usage.cost or 0) == pytest.approx(COST)
    assert (run.response.provider_details or {})["cost"] == pytest.approx(COST)


async def test_leaving_a_stream_early_closes_it(inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router))
        async with agent.run_stream("Why?") as run:
            async for _ in run.stream_text(delta=True, debounce_by=None):
                break
        await asyncio.sleep(0)
        assert_at_rest(router, provider)


async def test_a_stream_cancelled_between_two_pieces_ends_quietly(inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        model = RoutedModel(router)
        async with model.request_stream([ask("Why?")], None, NOTHING) as stream:
            events = aiter(stream)
            await anext(events)
            await stream.cancel()
            rest = [event async for event in events]
        assert_at_rest(router, provider)
    assert len(rest) <= 2 + (not inline) * 8
    assert stream.get().state == "interrupted"


async def test_a_stream_cancelled_while_somebody_reads_ends_for_them(inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), gap=5.0, inline=inline)
    async with router_of(provider) as router:
        model = RoutedModel(router)
        async with model.request_stream([ask("Why?")], None, NOTHING) as stream:

            async def read() -> float:
                async for _ in stream:
                    pass
                return asyncio.get_running_loop().time()

            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read())
                await asyncio.sleep(3.0)
                await stream.cancel()
        assert_at_rest(router, provider)
    assert reading.result() == pytest.approx(8.0)
    assert stream.get().state == "interrupted"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_cancelling_a_run_leaves_nothing(is_streamed: bool, inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router))

        async def run() -> None:
            if not is_streamed:
                await agent.run("Why?")
                return
            async with agent.run_stream("Why?") as run:
                await run.get_output()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.35):
                await run()
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (RateLimitedError("slow down", status=429, retry_after=7.0), ModelRateLimitError, 429),
        (RateLimitedError("slow down"), ModelRateLimitError, None),
        (UnavailableError("down", status=502), ModelHTTPError, 502),
        (UnavailableError("down"), ModelAPIError, None),
        (AuthenticationError("who?", status=401), ModelHTTPError, 401),
        (ContextTooLongError("too long", status=400), ModelHTTPError, 400),
        (ProviderError("odd", status=418), ModelHTTPError, 418),
    ],
)
async def test_errors_are_those_pydantic_ais_users_know(
    fault: ProviderError, kind: type[Exception], status: int | None
) -> None:
    async with router_of(Turns(fault), timeout=1.0) as router:
        with pytest.raises(kind) as streamed:
            async with RoutedModel(router).request_stream([ask("?")], None, NOTHING):
                pass
    async with router_of(Turns(fault), timeout=1.0) as router:
        with pytest.raises(kind) as whole:
            await Agent(RoutedModel(router)).run("Why?")
    for caught in (streamed.value, whole.value):
        assert caught.__cause__ is not None
        assert getattr(caught, "status_code", None) == status
        if fault.retry_after:
            assert getattr(caught, "retry_after", None) == 7.0


async def test_what_the_router_refuses_has_a_kind_too() -> None:
    provider = Turns(says("late"), gap=9.0)
    async with router_of(provider, queue_size=0) as router:
        model = RoutedModel(router, timeout=1.0)
        with pytest.raises(ModelTimeoutError):
            await Agent(model).run("Why?")
        router.update_model("m", max_concurrent_requests=0)
        with pytest.raises((ModelOverloadedError, ModelAPIError)):
            await Agent(model).run("Why?")
        router.update_model("m", is_available=False)
        with pytest.raises(ModelAPIError, match="switched off"):
            await Agent(model).run("Why?")


async def test_mistakes_stay_what_they_are() -> None:
    router = router_of(Turns(says("never")))
    with pytest.raises(RouterStateError):
        await Agent(RoutedModel(router)).run("Why?")
    async with router:
        with pytest.raises(ConfigurationError, match="best_ever"):
            await Agent(RoutedModel(router, strategy="best_ever")).run("Why?")
    provider = Turns(says("x"))
    async with LLMRouter([MODEL], {"other": provider}) as router:
        with pytest.raises(ConfigurationError, match="provider") as caught:
            async with RoutedModel(router).request_stream([ask("?")], None, NOTHING):
                pass
        assert caught.value.__cause__ is None


async def test_a_broken_stream_is_an_error_with_its_cause(inline: bool) -> None:
    provider = Turns(says("It ", finish=None), inline=inline)
    async with router_of(provider) as router:
        with pytest.raises(ModelAPIError) as caught:
            async with Agent(RoutedModel(router)).run_stream("Why?") as run:
                await run.get_output()
        assert_at_rest(router, provider)
    assert isinstance(caught.value.__cause__, StreamInterruptedError)
    assert caught.value.__cause__.text == "It "


async def test_pydantic_ais_fallback_takes_over() -> None:
    async def other(messages: list[Any], info: Any) -> ModelResponse:
        return ModelResponse([TextPart("other")])

    provider = Turns(UnavailableError("down", status=503))
    async with router_of(provider) as router:
        model: Model = FallbackModel(RoutedModel(router), FunctionModel(other))
        assert (await Agent(model).run("Why?")).output == "other"


async def test_settings_become_fields_and_parameters() -> None:
    provider = Turns(says("yes"))
    async with router_of(provider) as router:
        model = RoutedModel(
            router, settings={"max_tokens": 50, "stop_sequences": ["#"]}, params={"user": "me"}
        )
        await Agent(model, tools=[weather]).run(
            "Why?",
            model_settings={
                "timeout": 3,
                "seed": 4,
                "parallel_tool_calls": False,
                "extra_body": {"reasoning_effort": "low"},
            },
        )
    request = provider.requests[0]
    assert (request.max_tokens, request.timeout) == (50, 3.0)
    tools = request.params.pop("tools")
    assert len(tools) == 1
    assert request.params == {
        "user": "me",
        "stop": ["#"],
        "seed": 4,
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("wanted", "offered", "choice"),
    [
        ("auto", ["weather", "time", "final_result"], None),
        ("none", ["final_result"], None),
        ("required", ["weather", "time"], "required"),
        (["time"], ["time"], "required"),
        (ToolOrOutput(function_tools=["weather"]), ["weather", "final_result"], None),
    ],
    ids=["auto", "none", "required", "named", "tool or output"],
)
async def test_a_tool_choice_is_kept(wanted: Any, offered: list[str], choice: str | None) -> None:
    provider = Turns(says("fine"))
    asked = ModelRequestParameters(
        function_tools=[ToolDefinition(name="weather"), ToolDefinition(name="time")],
        output_tools=[ToolDefinition(name="final_result")],
        output_mode="tool",
    )
    async with router_of(provider) as router:
        await RoutedModel(router).request([ask("Why?")], {"tool_choice": wanted}, asked)
        with pytest.raises(UserError, match="dance"):
            await RoutedModel(router).request([ask("Why?")], {"tool_choice": ["dance"]}, asked)
    assert [tool["function"]["name"] for tool in provider.params["tools"]] == offered
    assert provider.params.get("tool_choice") == choice


async def test_no_tool_may_be_called_where_there_is_only_text() -> None:
    provider = Turns(says("fine"))
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router), tools=[weather])
        await agent.run("Why?", model_settings={"tool_choice": "none"})
    assert provider.params["tool_choice"] == "none"
    assert len(provider.params["tools"]) == 1


async def test_images_pass_and_need_a_model_that_sees() -> None:
    blind = MODEL.model_copy(update={"model_id": "blind", "supports": ("tools",)})
    provider = Turns(says("a cat"))
    async with router_of(provider, blind) as router:
        shown = ["What is it?", ImageUrl("https://pics.test/cat.png"), png()]
        await Agent(RoutedModel(router, strategy="quality_optimized")).run(shown)
        with pytest.raises(UserError, match="VideoUrl"):
            await Agent(RoutedModel(router)).run([VideoUrl("https://pics.test/cat.mp4")])
    assert [block["type"] for block in provider.chat[0]["content"]] == [
        "text",
        "image_url",
        "image_url",
    ]
    assert provider.chat[0]["content"][2]["image_url"]["url"] == "data:image/png;base64,AAE="
    assert len(provider.requests) == 1


def png() -> BinaryContent:
    return BinaryContent(b"\0\1", media_type="image/png")


async def test_an_earlier_conversation_is_told_without_its_thoughts() -> None:
    provider = Turns([Chunk(reasoning="Hm."), *says("One.")], says("Two."))
    async with router_of(provider) as router:
        agent = Agent(RoutedModel(router), system_prompt="Count.")
        first = await agent.run("Go")
        await agent.run("On", message_history=first.all_messages())
    assert provider.chat == (
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "Go"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "On"},
    )


async def test_a_race_is_as_good_as_any() -> None:
    provider = Turns(says("first"), inline=False)
    other = MODEL.model_copy(update={"model_id": "n"})
    async with router_of(provider, other) as router:
        result = await Agent(RoutedModel(router, mode="race")).run("Why?")
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)
    assert result.output == "first"
    assert len(provider.requests) == 2


async def test_requests_can_be_forbidden_as_with_any_model() -> None:
    async with router_of(Turns(says("never"))) as router:
        with models.override_allow_model_requests(False), pytest.raises(RuntimeError):
            await Agent(RoutedModel(router)).run("Why?")
        assert router.get_statistics()["total_requests"] == 0


async def test_two_models_over_two_routers_are_two() -> None:
    router = router_of(Turns(says("x")))
    assert RoutedModel(router) != RoutedModel(router)
    assert "RoutedModel" in repr(RoutedModel(router))


def test_without_pydantic_ai_it_says_what_to_install() -> None:
    assert_names_extra("RoutedModel", "pydantic_ai", "asyncroute[pydantic-ai]")


def assert_names_extra(name: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from asyncroute import ConfigurationError\n"
        f"try:\n    from asyncroute.integrations import {name}\n"
        "except ConfigurationError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15)
    assert ran.returncode == 0, ran.stderr
    assert extra in ran.stdout


def ask(text: str) -> ModelRequest:
    return ModelRequest([UserPromptPart(text)])
