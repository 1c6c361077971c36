"""Mistral's SDK: the contract over real HTTP; what of the chat API its own names are."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from typing import TYPE_CHECKING, Any

import httpx2
import mistralai.client.basesdk
import mistralai.client.errors
import mistralai.extra.exceptions
import pytest
from mistralai.client import Mistral
from mistralai.client.utils import BackoffStrategy, RetryConfig
from over_http import (
    CONVERSATION,
    KEY,
    TOOL,
    Dialect,
    OverHttpContract,
    call_of,
    connections_of,
    failure_of,
    mapped_kinds,
    stream_of,
    text_of,
)
from served import SSE, Hang, Scripted, event, nothing_open, response

from asyncroute import Call, Chunk, ModelConfig, QueryRequest, Usage
from asyncroute.providers import MistralProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmock.pytest_plugin import LLMock

pytestmark = pytest.mark.real_time


class Chat(Dialect):
    llmock = extra = "mistral"
    module = "mistralai"

    def provider(self, server: Scripted | LLMock, key: str | None = KEY) -> MistralProvider:
        is_told = isinstance(server, Scripted)
        return MistralProvider(key, base_url=server.root if is_told else f"{server.url}/mistral")

    def client(self, server: Scripted) -> Mistral:
        retries = RetryConfig("backoff", BackoffStrategy(1, 2, 1.0, 1000), True)
        return Mistral(api_key=KEY, server_url=server.root, retry_config=retries, timeout_ms=500)

    def of(self, client: Mistral) -> MistralProvider:
        return MistralProvider(client=client)

    async def close(self, client: Mistral) -> None:
        await client.__aexit__(None, None, None)
        client.__exit__(None, None, None)

    def whole(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {
            "id": "a",
            "object": "chat.completion",
            "created": 1,
            "model": "mistral-2026",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        }

    def pieces(self, *texts: str) -> bytes:
        return b"".join(
            event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts
        )

    def ending(self) -> bytes:
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 7}
        return event({"choices": [choice], "usage": usage}) + event("[DONE]")


class TestContract(OverHttpContract):
    dialect = Chat()

    async def test_streams_text_and_ends_with_the_reason_and_the_usage(self, stage: Any) -> None:
        # Mistral counts with the last chunk, llmock only where it is asked in OpenAI's way.
        stage.told.says(SSE, Chat().pieces("Hel", "lo"), Chat().ending())
        call = call_of()
        (*pieces, last), error = await stream_of(stage.silent, call)
        assert (pieces, error) == ([Chunk("Hel"), Chunk("lo")], None)
        assert last == Chunk(finish_reason="stop", usage=Usage(5, 7))
        assert call.usage == Usage(5, 7)


@pytest.fixture
async def provider(told: Scripted) -> AsyncIterator[MistralProvider]:
    async with Chat().provider(told) as provider:
        yield provider


# ---------------------------------------------------------------- the SDK's exceptions

KINDS = {
    "HTTPValidationError": "rate_limited",
    "MistralError": "rate_limited",
    "NoResponseError": "unavailable",
    "ObservabilityError": "rate_limited",
    "ResponseValidationError": "rate_limited",
    "SDKError": "rate_limited",
}
"""With a status of 429 wherever there is a response: the status decides, not the class."""


def raised(kind: Any) -> Exception:
    answer = httpx2.Response(429, request=httpx2.Request("POST", "http://host"), json={})
    errors = mistralai.client.errors
    if kind is errors.NoResponseError:
        return kind()
    if kind is errors.HTTPValidationError:
        return kind(errors.HTTPValidationErrorData(), answer)
    if kind is errors.ResponseValidationError:
        return kind("no", answer, ValueError("no"))
    if kind is errors.ObservabilityError:
        data = errors.ObservabilityErrorData.model_construct(
            detail=type("Detail", (), {"message": "no"})()
        )
        return kind(data, answer)
    return kind("no", answer)


def test_every_exception_of_the_sdk_is_mapped() -> None:
    public = [getattr(mistralai.client.errors, name) for name in mistralai.client.errors.__all__]
    every = [it for it in public if issubclass(it, Exception)]
    provider = MistralProvider(KEY, base_url="http://host")
    assert mapped_kinds(provider, [raised(it) for it in every]) == KINDS


def test_every_exception_beside_the_api_is_mapped() -> None:
    module = mistralai.extra.exceptions
    every = [
        it
        for it in vars(module).values()
        if inspect.isclass(it) and issubclass(it, Exception) and it.__module__ == module.__name__
    ]
    errors = [it.__new__(it) for it in every]  # they are made in many ways
    kinds = mapped_kinds(MistralProvider(KEY, base_url="http://host"), errors)
    assert set(kinds.values()) == {"unavailable"}
    assert len(kinds) > 5


# ---------------------------------------------------------------- chat completions


async def test_messages_and_parameters_are_sent_by_the_sdks_names(
    told: Scripted, provider: MistralProvider
) -> None:
    told.says(response(Chat().whole("Hello")))
    schema = {"type": "object"}
    params: dict[str, Any] = {
        "temperature": 0.0,
        "seed": 7,
        "stop": ["\n"],
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "sky", "schema": schema, "strict": True},
        },
        "max_completion_tokens": 9,
        "stream": True,
    }
    request = QueryRequest(messages=CONVERSATION, params=params)
    completion = await provider.complete(Call(ModelConfig(model_id="m"), request))
    assert told.paths == ["/v1/chat/completions"]
    assert told.requests[0][0]["authorization"] == f"Bearer {KEY}"
    [body] = told.bodies
    assert (body["model"], body["random_seed"], body["max_tokens"]) == ("m", 7, 9)
    assert (body["stop"], body["temperature"], body["stream"]) == (["\n"], 0.0, False)
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert body["tools"][0]["function"]["name"] == "get_weather"
    system, user, assistant, tool = body["messages"]
    assert system == {"role": "system", "content": "Be brief ✓"}
    assert user["content"][1]["image_url"] == {"url": "data:image/png;base64,iVBORw=="}
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "call_7"
    assert assistant["tool_calls"][0]["function"]["name"] == "get_weather"
    assert (completion.text, completion.usage) == ("Hello", Usage(5, 7))
    assert completion.model == "mistral-2026"


async def test_what_the_sdk_does_not_have_is_a_bad_request(
    told: Scripted, provider: MistralProvider
) -> None:
    error = await failure_of(provider, call_of(nonsense=1))
    assert (error.kind, error.model_id) == ("bad_request", "gpt-4o")
    assert "nonsense" in str(error)
    assert told.requests == []


async def test_tools_are_called_whole_and_streamed(llmock: LLMock) -> None:
    for _ in range(2):
        llmock.call_tool("get_weather", {"city": "Paris"})
    async with Chat().provider(llmock) as provider:
        call = call_of(tools=[TOOL])
        completion = await provider.complete(call)
        chunks, error = await stream_of(provider, call)
    [called] = completion.tool_calls
    assert called["function"]["name"] == "get_weather"
    assert json.loads(called["function"]["arguments"]) == {"city": "Paris"}
    assert error is None
    [piece] = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert piece["function"]["name"] == "get_weather"
    assert chunks[-1].finish_reason == completion.finish_reason == "tool_calls"


async def test_thinking_is_apart_from_the_text(told: Scripted, provider: MistralProvider) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "ah"}]
    body = Chat().whole("")
    body["choices"][0]["message"]["content"] = parts
    told.says(response(body))
    assert (await provider.complete(call_of())).text == "ah"
    piece = event({"choices": [{"index": 0, "delta": {"content": [thinking]}}]})
    told.says(SSE, piece, Chat().pieces("ah"), Chat().ending())
    chunks, _ = await stream_of(provider)
    assert chunks == [
        Chunk(reasoning="hm"),
        Chunk("ah"),
        Chunk(finish_reason="stop", usage=Usage(5, 7)),
    ]


async def test_an_error_inside_a_success_is_told_by_the_same_table(
    told: Scripted, provider: MistralProvider
) -> None:
    told.says(response({"error": {"code": 503, "message": "busy"}}))
    assert (await failure_of(provider)).kind == "provider_overloaded"


async def test_a_caller_who_leaves_while_the_sdk_waits_for_its_threads_leaves_no_connection(
    told: Scripted, provider: MistralProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()

    async def in_no_hurry(work: Any, *arguments: Any) -> Any:
        if type(arguments[0]).__name__ == "AfterSuccessContext":
            answered.set()
            await asyncio.sleep(30)
        return work(*arguments)

    monkeypatch.setattr(mistralai.client.basesdk, "run_sync_in_thread", in_no_hurry)
    told.says(SSE, Chat().pieces("So"), Hang)
    task = asyncio.create_task(stream_of(provider))
    async with asyncio.timeout(5):
        await answered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await nothing_open(told)
    assert connections_of(provider) == []


# ---------------------------------------------------------------- for money


@pytest.mark.live
async def test_the_real_one_answers() -> None:
    if not os.environ.get("MISTRAL_API_KEY"):
        pytest.skip("MISTRAL_API_KEY is not set")
    model = ModelConfig(model_id=os.environ.get("MISTRAL_MODEL", "mistral-small-latest"))
    async with MistralProvider() as provider:
        request = QueryRequest(query="Say hello.", max_tokens=100)
        assert (await provider.complete(Call(model, request))).text
        chunks, error = await stream_of(provider, Call(model, request))
    assert error is None
    assert text_of(chunks)
    assert chunks[-1].usage is not None
