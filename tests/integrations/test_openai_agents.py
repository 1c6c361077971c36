"""A router as a model of the OpenAI Agents SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    Runner,
    WebSearchTool,
    function_tool,
    set_trace_processors,
    set_tracing_disabled,
    trace,
)
from agents.exceptions import ModelTimeoutError, UserError
from agents.models.interface import ModelTracing
from agents.retry import ModelRetryAdviceRequest, ModelRetrySettings
from agents.tracing import GenerationSpanData, Span, Trace, TracingProcessor
from openai.types.shared import Reasoning
from pydantic import BaseModel
from test_pydantic_ai import assert_names_extra
from turns import COST, MODEL, Turns, assert_at_rest, calls, router_of, says

from asyncroute import (
    AllAttemptsFailedError,
    Chunk,
    ExecutionResult,
    QueryRequest,
    RateLimitedError,
    RouterStateError,
    StreamInterruptedError,
)
from asyncroute.integrations import AgentsModel


@pytest.fixture(params=[True, False], ids=["inline", "supervised"])
def inline(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    set_tracing_disabled(True)
    yield
    set_tracing_disabled(False)


@function_tool
async def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


class City(BaseModel):
    name: str
    people: int


async def test_an_agent_gets_text_and_usage() -> None:
    provider = Turns(says("It ", "scatters."))
    async with router_of(provider) as router:
        agent = Agent(
            name="A",
            instructions="Be brief.",
            model=AgentsModel(router, max_cost=0.5, params={"seed": 1}),
            model_settings=ModelSettings(
                temperature=0.5,
                max_tokens=70,
                reasoning=Reasoning(effort="low"),
                extra_body={"user": "me"},
                extra_args={"stop": "#"},
            ),
        )
        result = await Runner.run(agent, "Why is the sky blue?")
        assert_at_rest(router, provider)
    assert result.final_output == "It scatters."
    usage = result.context_wrapper.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (1, 10, 5)
    assert usage.input_tokens_details.cached_tokens == 4
    assert usage.output_tokens_details.reasoning_tokens == 2
    assert provider.chat == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why is the sky blue?"},
    )
    assert provider.params == {
        "seed": 1,
        "temperature": 0.5,
        "reasoning_effort": "low",
        "user": "me",
        "stop": "#",
    }
    assert (provider.requests[0].max_tokens, provider.requests[0].max_cost) == (70, 0.5)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_tool_is_called_and_its_result_goes_back(is_streamed: bool, inline: bool) -> None:
    wanted = calls(("weather", {"city": "Paris"}), ("weather", {"city": "Rome"}), numbered=inline)
    provider = Turns(wanted, says("Both ", "sunny."), inline=inline)
    async with router_of(provider) as router:
        agent = Agent(
            name="A",
            model=AgentsModel(router),
            tools=[weather],
            model_settings=ModelSettings(parallel_tool_calls=True, tool_choice="required"),
        )
        if is_streamed:
            run = Runner.run_streamed(agent, "Weather?")
            async for _ in run.stream_events():
                pass
            output = run.final_output
        else:
            output = (await Runner.run(agent, "Weather?")).final_output
        assert_at_rest(router, provider)
    assert output == "Both sunny."
    first = provider.requests[0].params
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", True)
    assert first["tools"][0]["function"]["name"] == "weather"
    _, answer, *returned = provider.chat
    assert [call["id"] for call in answer["tool_calls"]] == ["call_0", "call_1"]
    assert [(turn["role"], turn["tool_call_id"], turn["content"]) for turn in returned] == [
        ("tool", "call_0", "sunny in Paris"),
        ("tool", "call_1", "sunny in Rome"),
    ]


async def test_an_output_type_and_a_handoff_work() -> None:
    provider = Turns(calls(("transfer_to_cities", {})), says('{"name": "Rome", ', '"people": 3}'))
    async with router_of(provider) as router:
        model = AgentsModel(router)
        cities = Agent(name="cities", model=model, output_type=City)
        result = await Runner.run(Agent(name="desk", model=model, handoffs=[cities]), "Rome?")
    assert result.final_output == City(name="Rome", people=3)
    assert provider.requests[0].params["tools"][0]["function"]["name"] == "transfer_to_cities"
    assert provider.params["response_format"]["type"] == "json_schema"


async def test_a_stream_comes_in_pieces_with_thoughts_and_usage(inline: bool) -> None:
    provider = Turns([Chunk(reasoning="Hm."), *says("It ", "scatters.")], inline=inline)
    async with router_of(provider) as router:
        run = Runner.run_streamed(Agent(name="A", model=AgentsModel(router)), "Why?")
        raw = [e.data async for e in run.stream_events() if e.type == "raw_response_event"]
        assert_at_rest(router, provider)
    assert [e.delta for e in raw if e.type == "response.output_text.delta"] == ["It ", "scatters."]
    assert any("reasoning" in event.type for event in raw)
    assert run.final_output == "It scatters."
    assert run.context_wrapper.usage.output_tokens == 5
    assert raw[-1].type == "response.completed"
    assert raw[-1].response.model == "m"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_cancelling_a_run_leaves_nothing(is_streamed: bool, inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        agent = Agent(name="A", model=AgentsModel(router))

        async def run() -> None:
            if not is_streamed:
                await Runner.run(agent, "Why?")
                return
            running = Runner.run_streamed(agent, "Why?")
            try:
                async for _ in running.stream_events():
                    pass
            finally:
                running.cancel()

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.35):
                await run()
        await asyncio.sleep(0.3)
        assert_at_rest(router, provider)
    assert len(provider.requests) == 1


async def test_the_sdks_timeout_cancels_the_call(inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        agent = Agent(
            name="A", model=AgentsModel(router), model_settings=ModelSettings(timeout=0.35)
        )
        with pytest.raises(ModelTimeoutError):
            await Runner.run(agent, "Why?")
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_errors_are_asyncroutes(is_streamed: bool) -> None:
    provider = Turns(RateLimitedError("slow down", status=429, retry_after=30.0))
    async with router_of(provider, timeout=1.0) as router:
        agent = Agent(name="A", model=AgentsModel(router))
        with pytest.raises(AllAttemptsFailedError):
            if is_streamed:
                async for _ in Runner.run_streamed(agent, "Why?").stream_events():
                    pass
            else:
                await Runner.run(agent, "Why?")
    with pytest.raises(RouterStateError):
        await Runner.run(agent, "Why?")


async def test_the_sdks_retries_wait_as_long_as_asked() -> None:
    provider = Turns(RateLimitedError("slow down", status=429, retry_after=30.0), says("now"))
    async with router_of(provider, timeout=1.0) as router:
        settings = ModelRetrySettings(max_retries=1, policy=lambda context: True)
        agent = Agent(
            name="A", model=AgentsModel(router), model_settings=ModelSettings(retry=settings)
        )
        assert (await Runner.run(agent, "Why?")).final_output == "now"
        assert asyncio.get_running_loop().time() >= 30.0
        advise = AgentsModel(router).get_retry_advice
        assert advise(ModelRetryAdviceRequest(ValueError("x"), attempt=1, stream=False)) is None
        silent = RouterStateError("x")
        assert advise(ModelRetryAdviceRequest(silent, attempt=1, stream=False)) is None


async def test_a_broken_stream_is_no_clean_end(inline: bool) -> None:
    provider = Turns(says("It ", finish=None), inline=inline)
    async with router_of(provider) as router:
        run = Runner.run_streamed(Agent(name="A", model=AgentsModel(router)), "Why?")
        with pytest.raises(StreamInterruptedError):
            async for _ in run.stream_events():
                pass
        assert_at_rest(router, provider)


async def test_conversations_of_openais_servers_are_refused() -> None:
    provider = Turns(says("never"))
    async with router_of(provider) as router:
        agent = Agent(name="A", model=AgentsModel(router))
        with pytest.raises(UserError, match="previous_response_id"):
            await Runner.run(agent, "Why?", previous_response_id="resp_1")
    assert provider.requests == []


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"model_settings": ModelSettings(truncation="auto")}, "truncation: settings"),
        ({"model_settings": ModelSettings(extra_headers={"x": "y"})}, "extra_headers: settings"),
        ({"tools": [WebSearchTool()]}, "Hosted tools"),
    ],
)
async def test_what_only_openai_has_is_refused(asked: dict[str, Any], named: str) -> None:
    provider = Turns(says("never"))
    async with router_of(provider) as router:
        agent = Agent(name="A", model=AgentsModel(router), **asked)
        with pytest.raises(UserError, match=named):
            await Runner.run(agent, "Why?")
        with pytest.raises(UserError, match=named):
            async for _ in Runner.run_streamed(agent, "Why?").stream_events():
                pass
    assert provider.requests == []


async def test_an_observer_knows_a_response_by_its_request_id_and_what_it_cost() -> None:
    class Costs:
        def __init__(self) -> None:
            self.by_request: dict[str | None, float] = {}

        def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
            self.by_request[result.request_id] = result.actual_cost

    costs = Costs()
    async with router_of(Turns(says("yes")), observers=[costs]) as router:
        result = await Runner.run(Agent(name="A", model=AgentsModel(router)), "Why?")
    (response,) = result.raw_responses
    assert costs.by_request == {response.request_id: pytest.approx(COST)}


class Spans(TracingProcessor):
    def __init__(self) -> None:
        self.ended: list[GenerationSpanData] = []

    def on_trace_start(self, trace: Trace) -> None: ...
    def on_trace_end(self, trace: Trace) -> None: ...
    def on_span_start(self, span: Span[Any]) -> None: ...
    def shutdown(self) -> None: ...
    def force_flush(self) -> None: ...
    def on_span_end(self, span: Span[Any]) -> None:
        if isinstance(span.span_data, GenerationSpanData):
            self.ended.append(span.span_data)


@pytest.mark.parametrize("tracing", [ModelTracing.ENABLED, ModelTracing.ENABLED_WITHOUT_DATA])
async def test_generations_are_traced_with_content_only_where_wanted(tracing: ModelTracing) -> None:
    spans = Spans()
    set_tracing_disabled(False)
    set_trace_processors([spans])
    provider = Turns(says("It scatters."))
    asked: dict[str, Any] = {
        "system_instructions": None,
        "input": "Why?",
        "model_settings": ModelSettings(),
        "tools": [],
        "output_schema": None,
        "handoffs": [],
        "tracing": tracing,
    }
    async with router_of(provider) as router:
        with trace("test"):
            await AgentsModel(router).get_response(**asked)
            async for _ in AgentsModel(router).stream_response(**asked):
                pass
    set_trace_processors([])
    assert len(spans.ended) == 2
    for span in spans.ended:
        assert (span.usage or {})["output_tokens"] == 5
        assert bool(span.input) is bool(span.output) is (tracing is ModelTracing.ENABLED)


async def test_a_race_is_as_good_as_any() -> None:
    provider = Turns(says("first"), inline=False)
    other = MODEL.model_copy(update={"model_id": "n"})
    async with router_of(provider, other) as router:
        model = AgentsModel(router, mode="race")
        assert (await Runner.run(Agent(name="A", model=model), "Why?")).final_output == "first"
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)
        assert repr(model) == f"<AgentsModel over {router!r}>"
    assert len(provider.requests) == 2


def test_without_the_sdk_it_says_what_to_install() -> None:
    assert_names_extra("AgentsModel", "agents", "asyncroute[openai-agents]")
