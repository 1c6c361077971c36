"""A router as a LangChain chat model."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel
from test_pydantic_ai import assert_names_extra
from turns import COST, MODEL, Turns, assert_at_rest, calls, router_of, says

from asyncroute import (
    AllAttemptsFailedError,
    Chunk,
    ConfigurationError,
    DeadlineExceededError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute.integrations import ChatAsyncRoute


@pytest.fixture(params=[True, False], ids=["inline", "supervised"])
def inline(request: pytest.FixtureRequest) -> bool:
    return request.param


@tool
async def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


class City(BaseModel):
    """A city."""

    name: str
    people: int


BILL = {
    "input_tokens": 10,
    "output_tokens": 5,
    "total_tokens": 15,
    "input_token_details": {"cache_read": 4},
    "output_token_details": {"reasoning": 2},
}


async def test_a_message_has_text_usage_and_what_it_cost() -> None:
    provider = Turns(says("It ", "scatters."))
    async with router_of(provider) as router:
        chat = ChatAsyncRoute(router=router, max_cost=0.5, params={"seed": 1})
        asked = [SystemMessage("Be brief."), HumanMessage("Why is the sky blue?")]
        message = await chat.ainvoke(asked, temperature=0.5, timeout=9, stop=["#"])
        assert_at_rest(router, provider)
    assert message.text == "It scatters."
    assert message.usage_metadata == BILL
    assert message.response_metadata["model_name"] == "m"
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.response_metadata["cost"] == pytest.approx(COST)
    assert provider.chat == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why is the sky blue?"},
    )
    assert provider.params == {"seed": 1, "temperature": 0.5, "stop": ["#"]}
    assert (provider.requests[0].max_cost, provider.requests[0].timeout) == (0.5, 9)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_tool_is_called_and_its_result_goes_back(is_streamed: bool, inline: bool) -> None:
    wanted = calls(("weather", {"city": "Paris"}), ("weather", {"city": "Rome"}), numbered=inline)
    provider = Turns(wanted, says("Both ", "sunny."), inline=inline)
    async with router_of(provider) as router:
        chat = ChatAsyncRoute(router=router).bind_tools([weather], tool_choice="any")
        asked: list[Any] = [HumanMessage("Weather?")]
        if is_streamed:
            pieces = [piece async for piece in chat.astream(asked)]
            answer: AIMessage = pieces[0]
            for piece in pieces[1:]:
                answer += piece  # type: ignore[assignment, operator]
        else:
            answer = await chat.ainvoke(asked)
        assert [(call["name"], call["args"], call["id"]) for call in answer.tool_calls] == [
            ("weather", {"city": "Paris"}, "call_0"),
            ("weather", {"city": "Rome"}, "call_1"),
        ]
        returned = [await weather.ainvoke(call) for call in answer.tool_calls]
        assert all(isinstance(message, ToolMessage) for message in returned)
        assert (await chat.ainvoke([*asked, answer, *returned])).text == "Both sunny."
        assert_at_rest(router, provider)
    assert provider.params["tool_choice"] == "required"
    assert provider.params["tools"][0]["function"]["name"] == "weather"
    _, told, *results = provider.chat
    assert told["tool_calls"][1]["id"] == "call_1"
    assert [(turn["role"], turn["tool_call_id"], turn["content"]) for turn in results] == [
        ("tool", "call_0", "sunny in Paris"),
        ("tool", "call_1", "sunny in Rome"),
    ]


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ("weather", {"type": "function", "function": {"name": "weather"}}),
        ("auto", "auto"),
        (True, "required"),
        (None, None),
    ],
)
async def test_a_tool_choice_is_translated(wanted: Any, sent: Any) -> None:
    provider = Turns(says("fine"))
    async with router_of(provider) as router:
        await ChatAsyncRoute(router=router).bind_tools([weather], tool_choice=wanted).ainvoke("?")
    assert provider.params.get("tool_choice") == sent


async def test_arguments_that_are_no_json_are_told_apart() -> None:
    broken = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{"}}
    provider = Turns([Chunk(tool_call=broken), Chunk(finish_reason="tool_calls")])
    async with router_of(provider) as router:
        message = await ChatAsyncRoute(router=router).bind_tools([weather]).ainvoke("?")
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["args"] == "{"


async def test_structured_output_and_chains_work() -> None:
    provider = Turns(calls(("City", {"name": "Rome", "people": 3})))
    async with router_of(provider) as router:
        chat = ChatAsyncRoute(router=router).with_structured_output(City)
        chain = ChatPromptTemplate.from_messages([("human", "Tell of {city}")]) | chat
        assert await chain.ainvoke({"city": "Rome"}) == City(name="Rome", people=3)
    assert provider.params.keys() == {"tools", "tool_choice"}


async def test_a_stream_comes_in_pieces_with_usage_at_its_end(inline: bool) -> None:
    provider = Turns([Chunk(reasoning="Hm."), *says("It ", "scatters.")], inline=inline)
    async with router_of(provider) as router:
        pieces = [piece async for piece in ChatAsyncRoute(router=router).astream("Why?")]
        assert_at_rest(router, provider)
    assert [piece.text for piece in pieces if piece.text] == ["It ", "scatters."]
    assert pieces[0].additional_kwargs == {"reasoning_content": "Hm."}
    assert [piece.usage_metadata for piece in pieces if piece.usage_metadata] == [BILL]
    assert pieces[-1].response_metadata["model_name"] == "m"
    assert [piece.chunk_position for piece in pieces][-2:] == [None, "last"]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert isinstance(whole, AIMessageChunk)
    assert whole.response_metadata["finish_reason"] == "stop"


async def test_leaving_a_stream_early_closes_it(inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        async with aclosing(ChatAsyncRoute(router=router).astream("Why?")) as pieces:  # type: ignore[type-var]
            async for _ in pieces:
                break
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_cancelling_leaves_nothing(is_streamed: bool, inline: bool) -> None:
    provider = Turns(says(*"abcdefgh"), inline=inline)
    async with router_of(provider) as router:
        chat = ChatAsyncRoute(router=router)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.35):
                if is_streamed:
                    async for _ in chat.astream("Why?"):
                        pass
                else:
                    await chat.ainvoke("Why?")
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)
    assert len(provider.requests) == 1


async def test_errors_are_asyncroutes_and_langchains_fallbacks_take_over() -> None:
    provider = Turns(UnavailableError("down", status=503))
    second = Turns(says("second"))
    async with router_of(provider, timeout=1.0) as router, router_of(second) as other:
        down = ChatAsyncRoute(router=router)
        with pytest.raises((AllAttemptsFailedError, DeadlineExceededError), match="down"):
            await down.ainvoke("Why?", params={"user": "me"})
        chat = down.with_fallbacks([ChatAsyncRoute(router=other)])
        assert (await chat.ainvoke("Why?")).text == "second"


async def test_a_broken_stream_is_no_clean_end(inline: bool) -> None:
    provider = Turns(says("It ", finish=None), inline=inline)
    async with router_of(provider) as router:
        with pytest.raises(StreamInterruptedError):
            async for _ in ChatAsyncRoute(router=router).astream("Why?"):
                pass
        assert_at_rest(router, provider)


async def test_methods_that_block_say_what_to_use() -> None:
    provider = Turns(says("never"))
    async with router_of(provider) as router:
        chat = ChatAsyncRoute(router=router)
        for blocking in (chat.invoke, lambda q: list(chat.stream(q)), lambda q: chat.batch([q])):
            with pytest.raises(RouterStateError, match="ainvoke"):
                blocking("Why?")
        with pytest.raises(ConfigurationError, match="best_ever"):
            await ChatAsyncRoute(router=router, strategy="best_ever").ainvoke("Why?")
    assert provider.requests == []


async def test_langchains_cache_tells_models_and_parameters_apart() -> None:
    provider = Turns(says("one"), says("two"), says("three"))
    cache = InMemoryCache()
    async with router_of(provider) as router:

        async def ask(**fields: Any) -> str:
            return (await ChatAsyncRoute(router=router, cache=cache, **fields).ainvoke("Why?")).text

        assert [await ask(), await ask()] == ["one", "one"]
        assert await ask(params={"api_key": "sk-secret"}) == "two"
        assert await ask(params={"api_key": "sk-secret"}) == "two"
        assert await ask(strategy="cost_optimized") == "three"
        assert "sk-secret" not in repr(cache._cache)
        assert "sk-secret" not in repr(ChatAsyncRoute(router=router, params={"k": "sk-secret"}))
    assert len(provider.requests) == 3


async def test_a_batch_runs_at_once() -> None:
    provider = Turns(says("yes"))
    other = MODEL.model_copy(update={"model_id": "n"})
    async with router_of(provider, other) as router:
        started = asyncio.get_running_loop().time()
        answers = await ChatAsyncRoute(router=router, mode="race").abatch(["a", "b"])
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.2)
        await asyncio.sleep(0.1)
        assert_at_rest(router, provider)
    assert [answer.text for answer in answers] == ["yes", "yes"]
    assert len(provider.requests) == 4


def test_without_langchain_it_says_what_to_install() -> None:
    assert_names_extra("ChatAsyncRoute", "langchain_core", "asyncroute[langchain]")
