"""Anthropic's SDK: the contract over real HTTP; what of the chat API becomes what, and back."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from typing import TYPE_CHECKING, Any

import anthropic
import anthropic._exceptions
import httpx2
import pytest
from over_http import (
    CONVERSATION,
    KEY,
    TOOL,
    Dialect,
    OverHttpContract,
    call_of,
    failure_of,
    mapped_kinds,
    stream_of,
    talk,
    text_of,
)
from served import SSE, Hang, Scripted, response

from asyncroute import Call, Chunk, ConfigurationError, ModelConfig, QueryRequest, Usage
from asyncroute.providers import AnthropicProvider
from contracts.provider import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmock.pytest_plugin import LLMock

pytestmark = pytest.mark.real_time


def event(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


def delta(**fields: Any) -> bytes:
    return event("content_block_delta", index=0, delta=fields)


def begin(**usage: int) -> bytes:
    return event("message_start", message={"usage": usage or {"input_tokens": 5}})


def end(stop_reason: str = "end_turn", **usage: int) -> bytes:
    counts = usage or {"output_tokens": 7}
    stopped = event("message_delta", delta={"stop_reason": stop_reason}, usage=counts)
    return stopped + event("message_stop")


class Messages(Dialect):
    llmock = extra = module = "anthropic"

    def provider(self, server: Scripted | LLMock, key: str | None = KEY) -> AnthropicProvider:
        is_told = isinstance(server, Scripted)
        return AnthropicProvider(
            key, base_url=server.root if is_told else server.base_url("anthropic")
        )

    def client(self, server: Scripted) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            api_key=KEY, base_url=server.root, max_retries=3, timeout=0.5
        )

    def of(self, client: anthropic.AsyncAnthropic) -> AnthropicProvider:
        return AnthropicProvider(client=client)

    async def close(self, client: anthropic.AsyncAnthropic) -> None:
        await client.close()

    def whole(self, text: str) -> dict[str, Any]:
        return {
            "type": "message",
            "role": "assistant",
            "model": "claude-2026",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 7},
        }

    def pieces(self, *texts: str) -> bytes:
        block = event("content_block_start", content_block={"type": "text", "text": ""})
        said = [delta(type="text_delta", text=text) for text in texts]
        return begin() + block + event("ping") + b"".join(said)

    def ending(self) -> bytes:
        return event("content_block_stop") + end()


class TestContract(OverHttpContract):
    dialect = Messages()


@pytest.fixture
async def provider(told: Scripted) -> AsyncIterator[AnthropicProvider]:
    async with Messages().provider(told) as provider:
        yield provider


# ---------------------------------------------------------------- the SDK's exceptions


def subclasses_of(kind: type[Any]) -> set[type[Any]]:
    found = kind.__subclasses__()
    return {*found, *(deeper for each in found for deeper in subclasses_of(each))}


# Those of a code of their own, where the SDK has such, are spread over many modules.
STATUS_ERRORS = subclasses_of(anthropic.APIStatusError)
KINDS = {
    **dict.fromkeys((it.__name__ for it in STATUS_ERRORS), "rate_limited"),
    "APIConnectionError": "unavailable",
    "APIError": "unavailable",
    "APIResponseValidationError": "protocol",
    "APIStatusError": "rate_limited",
    "APITimeoutError": "attempt_timeout",
    "APIWebhookValidationError": "protocol",
    "AnthropicError": "unavailable",
    "CredentialsError": "authentication",
    "IdentityTokenFileError": "authentication",
    "RetryableError": "unavailable",
    "WorkloadIdentityError": "authentication",
}
"""With a status of 429 wherever there is a response: the status decides, not the class."""


def raised(kind: type[Exception]) -> Exception:
    request = httpx2.Request("POST", "http://host")
    answer = httpx2.Response(429, request=request, json={})
    if issubclass(kind, anthropic.APIResponseValidationError):
        return kind(answer, None)
    if issubclass(kind, anthropic.APIStatusError):
        return kind("no", response=answer, body=None)
    if issubclass(kind, anthropic.APITimeoutError):
        return kind(request)
    if issubclass(kind, anthropic.APIConnectionError):
        return kind(request=request)
    if issubclass(kind, anthropic.APIError):
        return kind("no", request, body=None)
    return kind("no")


def test_every_exception_of_the_sdk_is_mapped() -> None:
    defined = [it for it in vars(anthropic._exceptions).values() if inspect.isclass(it)]
    public = [getattr(anthropic, name) for name in anthropic.__all__]
    every = {
        *(it for it in defined if it.__module__ == anthropic._exceptions.__name__),
        *(it for it in public if isinstance(it, type)),
        *STATUS_ERRORS,
    }
    errors = [raised(it) for it in every if issubclass(it, Exception)]
    kinds = mapped_kinds(AnthropicProvider(KEY, base_url="http://host"), errors)
    assert kinds == {name: KINDS.get(name) for name in kinds}
    assert len(kinds) > 20


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"details": {"error_code": "enforced_spend_limit_reached"}}, "quota_exhausted"),
        (404, {"type": "not_found_error", "message": "model: x"}, "model_not_found"),
        (
            404,
            {"type": "not_found_error", "details": {"error_code": "file_expired"}},
            "bad_request",
        ),
        (400, {"message": "Your credit balance is too low to access it"}, "quota_exhausted"),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}, "context_too_long"),
        (
            400,
            {"message": "input length and `max_tokens` exceed context limit: 9 + 9 > 8"},
            "context_too_long",
        ),
        (400, {"type": "invalid_request_error", "message": "no"}, "bad_request"),
        (529, {"type": "overloaded_error"}, "provider_overloaded"),
    ],
)
async def test_a_code_says_more_than_a_status(
    told: Scripted, provider: AnthropicProvider, status: int, error: Any, kind: str
) -> None:
    told.says(response({"type": "error", "error": error}, status=f"{status} No"))
    assert (await failure_of(provider)).kind == kind


# ---------------------------------------------------------------- what is sent


async def test_a_conversation_is_translated(told: Scripted, provider: AnthropicProvider) -> None:
    told.says(response(Messages().whole("Hello")))
    schema = {"type": "object"}
    await provider.complete(
        talk(
            *CONVERSATION,
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": ""},
            {"role": "developer", "content": [{"type": "text", "text": "In French."}]},
            temperature=0.5,
            stop="\n",
            tools=[TOOL, {"type": "web_search_20260209", "name": "web_search"}],
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            parallel_tool_calls=False,
            response_format={"type": "json_schema", "json_schema": {"schema": schema}},
            user="me",
            thinking={"type": "adaptive"},
            max_completion_tokens=9,
            stream=True,
        )
    )
    assert told.paths == ["/v1/messages"]
    assert any(KEY in value for value in told.requests[0][0].values())
    function = TOOL["function"]
    assert isinstance(function, dict)
    assert told.bodies == [
        {
            "model": "gpt-4o",
            "max_tokens": 9,
            "system": [
                {"type": "text", "text": "Be brief ✓"},
                {"type": "text", "text": "In French."},
            ],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "iVBORw==",
                            },
                        },
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "tool_use",
                            "id": "call_7",
                            "name": "get_weather",
                            "input": {"city": "Paris"},
                        }
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "call_7",
                            "content": [{"type": "text", "text": '{"sky": "grey"}'}],
                        },
                        {"type": "text", "text": "And now?"},
                    ],
                },
            ],
            "tools": [
                {
                    "name": "get_weather",
                    "description": "The weather in a city",
                    "input_schema": function["parameters"],
                },
                {"type": "web_search_20260209", "name": "web_search"},
            ],
            "tool_choice": {
                "type": "tool",
                "name": "get_weather",
                "disable_parallel_tool_use": True,
            },
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
            "stop_sequences": ["\n"],
            "metadata": {"user_id": "me"},
            "thinking": {"type": "adaptive"},
            "temperature": 0.5,
        }
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "tool", "name": "f"}, {"type": "tool", "name": "f"}),
    ],
)
async def test_a_choice_of_tools_is_translated(
    told: Scripted, provider: AnthropicProvider, choice: Any, sent: Any
) -> None:
    told.says(response(Messages().whole("Hello")))
    await provider.complete(call_of(tools=[TOOL], tool_choice=choice))
    assert told.bodies[0]["tool_choice"] == sent


async def test_images_and_files_may_be_addresses(
    told: Scripted, provider: AnthropicProvider
) -> None:
    told.says(response(Messages().whole("Hello")))
    cached = {"cache_control": {"type": "ephemeral"}}
    parts = [
        {"type": "image_url", "image_url": {"url": "https://host/a.png"}, **cached},
        {"type": "image_url", "image_url": "https://host/b.png"},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a"},
        },
        {"type": "text", "text": "what?", **cached},
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
    ]
    await provider.complete(talk({"role": "user", "content": parts}))
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    assert told.bodies[0]["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://host/a.png"}, **cached},
        {"type": "image", "source": {"type": "url", "url": "https://host/b.png"}},
        {"type": "document", "source": pdf},
        {"type": "text", "text": "what?", **cached},
        {"type": "document", "source": {"type": "file", "file_id": "f"}},
    ]


@pytest.mark.parametrize(
    ("limit", "model", "params", "sent"),
    [
        (None, {}, {}, 4096),
        (None, {"max_tokens": 1000}, {}, 1000),
        (None, {"max_output_tokens": 64_000}, {}, 64_000),
        (9, {"max_output_tokens": 64_000}, {}, 9),
        (9, {}, {"max_tokens": 5}, 5),
        (None, {}, {"max_tokens": 50_000}, 50_000),
    ],
)
async def test_there_is_always_a_limit(
    told: Scripted,
    provider: AnthropicProvider,
    limit: int | None,
    model: dict[str, Any],
    params: dict[str, Any],
    sent: int,
) -> None:
    told.says(response(Messages().whole("Hello")))
    config = ModelConfig(**{"model_id": "claude", **model})
    await provider.complete(Call(config, QueryRequest(query="q", max_tokens=limit, params=params)))
    assert told.bodies[0]["max_tokens"] == sent


async def test_what_the_api_does_not_have_it_is_sent_to_refuse(
    told: Scripted, provider: AnthropicProvider
) -> None:
    told.says(response({"error": {"message": "seed: not permitted"}}, status="400 Bad"))
    error = await failure_of(provider, call_of(seed=7, response_format={"type": "json_object"}))
    assert error.kind == "bad_request"
    assert told.bodies[0]["seed"] == 7
    assert told.bodies[0]["response_format"] == {"type": "json_object"}


async def test_arguments_of_a_tool_call_that_are_none_are_a_bad_request(
    told: Scripted, provider: AnthropicProvider
) -> None:
    asked = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{nonsense"}}
    call = talk({"role": "assistant", "content": None, "tool_calls": [asked]})
    assert (await failure_of(provider, call)).kind == "bad_request"
    _, error = await stream_of(provider, call)
    assert error is not None
    assert (error.kind, error.model_id) == ("bad_request", "gpt-4o")
    assert told.requests == []


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="0"):
        AnthropicProvider(KEY, max_tokens=0)


# ---------------------------------------------------------------- what comes back


async def test_an_answer_of_many_blocks_is_read(
    told: Scripted, provider: AnthropicProvider
) -> None:
    body = Messages().whole("a")
    body["content"] += [
        {"type": "thinking", "thinking": "hm"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"é": 1}},
        {"type": "text", "text": "b"},
    ]
    body |= {
        "stop_reason": "tool_use",
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 90,
            "cache_creation_input_tokens": 10,
            "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }
    told.says(response(body))
    call = call_of()
    completion = await provider.complete(call)
    assert (completion.text, completion.finish_reason) == ("ab", "tool_calls")
    assert completion.tool_calls == (
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"é": 1}'}},
    )
    assert completion.usage == call.usage == Usage(105, 7, 90, 3, cache_write_tokens=10)
    assert completion.model == "claude-2026"


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
async def test_why_it_ended_is_said_in_the_chat_apis_words(
    told: Scripted, provider: AnthropicProvider, stop_reason: str, finish_reason: str
) -> None:
    told.says(response(Messages().whole("a") | {"stop_reason": stop_reason}))
    assert (await provider.complete(call_of())).finish_reason == finish_reason
    told.says(SSE, Messages().pieces("a"), end(stop_reason))
    chunks, error = await stream_of(provider)
    assert (chunks[-1].finish_reason, error) == (finish_reason, None)


async def test_nothing_but_a_refusal_is_content_refused_and_billed(
    told: Scripted, provider: AnthropicProvider
) -> None:
    told.says(response(Messages().whole("") | {"stop_reason": "refusal"}))
    told.says(SSE, begin(input_tokens=5), end("refusal", output_tokens=7))
    call = call_of()
    assert (await failure_of(provider, call)).kind == "content_refused"
    assert call.usage == Usage(5, 7)
    call = call_of()
    _, error = await stream_of(provider, call)
    assert error is not None
    assert error.kind == "content_refused"
    assert call.usage == Usage(5, 7)


async def test_tools_are_called_whole_and_in_pieces(llmock: LLMock) -> None:
    for _ in range(2):
        llmock.call_tool("get_weather", {"city": "Paris, the capital of France"})
    async with Messages().provider(llmock) as provider:
        call = call_of(tools=[TOOL])
        completion = await provider.complete(call)
        chunks, error = await stream_of(provider, call)
    [called] = completion.tool_calls
    assert called["function"]["name"] == "get_weather"
    assert error is None
    pieces = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert len(pieces) > 2
    assert pieces[0]["function"] == {"name": "get_weather", "arguments": ""}
    joined = "".join(piece["function"]["arguments"] for piece in pieces)
    assert json.loads(joined) == json.loads(called["function"]["arguments"])
    assert chunks[-1].finish_reason == completion.finish_reason == "tool_calls"


async def test_thinking_and_several_tools_are_streamed(
    told: Scripted, provider: AnthropicProvider
) -> None:
    def tool(name: str) -> bytes:
        return event(
            "content_block_start", content_block={"type": "tool_use", "id": name, "name": name}
        )

    told.says(
        SSE,
        begin(),
        delta(type="thinking_delta", thinking="hm"),
        delta(type="signature_delta", signature="x"),
        event("content_block_start", content_block={"type": "text", "text": "So"}),
        tool("f"),
        delta(type="input_json_delta", partial_json=""),
        delta(type="input_json_delta", partial_json="{}"),
        tool("g"),
        delta(type="input_json_delta", partial_json='{"a":1}'),
        end("tool_use"),
    )
    chunks, error = await stream_of(provider)
    assert error is None
    assert chunks[:2] == [Chunk(reasoning="hm"), Chunk("So")]
    assert [chunk.tool_call for chunk in chunks if chunk.tool_call] == [
        {"index": 0, "id": "f", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": "{}"}},
        {"index": 1, "id": "g", "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"a":1}'}},
    ]
    assert chunks[-1] == Chunk(finish_reason="tool_calls", usage=Usage(5, 7))


async def test_a_cancelled_stream_is_billed_with_what_had_come(
    told: Scripted, provider: AnthropicProvider
) -> None:
    usage = {"input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 1}
    told.says(SSE, begin(**usage), 0.01, delta(type="text_delta", text="x" * 40), Hang)
    call = call_of()
    async with running(lambda: stream_of(provider, call)) as task:
        task.cancel()
    await asyncio.wait([task])
    assert call.usage == Usage(150, 10, 50, 0, estimated=True)


async def test_the_last_word_on_usage_counts(told: Scripted, provider: AnthropicProvider) -> None:
    usage = {"input_tokens": 100, "cache_read_input_tokens": 50, "output_tokens": 1}
    told.says(SSE, begin(**usage), delta(type="text_delta", text="x" * 400), end(output_tokens=80))
    told.says(SSE, begin(**usage), end(input_tokens=120, output_tokens=80))
    for known in (Usage(150, 80, 50), Usage(120, 80)):
        call = call_of()
        chunks, error = await stream_of(provider, call)
        assert error is None
        assert chunks[-1].usage == call.usage == known


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("overloaded_error", "provider_overloaded"),
        ("rate_limit_error", "rate_limited"),
        ("api_error", "unavailable"),
        ("invalid_request_error", "bad_request"),
    ],
)
async def test_an_error_within_a_stream_is_told_by_the_same_table(
    told: Scripted, provider: AnthropicProvider, kind: str, expected: str
) -> None:
    told.says(SSE, Messages().pieces("a"), event("error", error={"type": kind, "message": "no"}))
    chunks, error = await stream_of(provider)
    assert text_of(chunks) == "a"
    assert error is not None
    assert (error.kind, error.model_id) == (expected, "gpt-4o")


# ---------------------------------------------------------------- for money


@pytest.mark.live
async def test_the_real_one_answers() -> None:
    if not os.environ.get("ANTHROPIC_API_KEY"):
        pytest.skip("ANTHROPIC_API_KEY is not set")
    model = ModelConfig(model_id=os.environ.get("ANTHROPIC_MODEL", "claude-haiku-4-5"))
    async with AnthropicProvider() as provider:
        request = QueryRequest(query="Say hello.", max_tokens=100)
        assert (await provider.complete(Call(model, request))).text
        chunks, error = await stream_of(provider, Call(model, request))
    assert error is None
    assert text_of(chunks)
    assert chunks[-1].usage is not None
