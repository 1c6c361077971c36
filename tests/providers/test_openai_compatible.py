"""Over real HTTP: against llmock, which speaks the real APIs, and, for what a decent server never
does, against `Scripted`, which writes the bytes it is told to."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import (
    CHUNKED,
    SSE,
    Abort,
    Hang,
    Part,
    Scripted,
    event,
    http_chunk,
    nothing_open,
    response,
)

from asyncroute._errors import (
    ConfigurationError,
    ProviderError,
    RouterStateError,
    StreamInterruptedError,
)
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._protocols import Call
from asyncroute._values import Chunk, Usage
from asyncroute.providers import OpenAICompatibleProvider
from asyncroute.providers._sse import Event, EventParser
from contracts.provider import A_WHILE, StreamingProviderContract, running, what_came

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from llmock.pytest_plugin import LLMock

pytestmark = pytest.mark.real_time

KEY = "sk-test-0123456789abcdef"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def call_of(
    query: str = "Why is the sky blue?", *, limit: int | None = None, **params: Any
) -> Call:
    return Call(
        ModelConfig(model_id="gpt-4o"), QueryRequest(query=query, max_tokens=limit, params=params)
    )


def connections_of(provider: Any) -> list[Any]:
    return provider._client._transport._pool.connections


def active(provider: OpenAICompatibleProvider) -> int:
    """Count the connections in use; idle ones are kept for the next call."""
    return sum(not connection.is_idle() for connection in connections_of(provider))


async def failure_of(provider: OpenAICompatibleProvider, call: Call | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(call or call_of())
    return caught.value


async def stream_of(
    provider: OpenAICompatibleProvider, call: Call | None = None
) -> tuple[list[Chunk], ProviderError | None]:
    return await what_came(provider, call or call_of())


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.fixture
async def provider(told: Scripted) -> AsyncIterator[OpenAICompatibleProvider]:
    async with OpenAICompatibleProvider(told.url, KEY) as provider:
        yield provider


def answer(
    content: Any = "Hello", finish_reason: str | None = "stop", **message: Any
) -> dict[str, Any]:
    return {
        "model": "gpt-4o-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }


def delta(content: str | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    piece = {**({} if content is None else {"content": content}), **more}
    return event({"choices": [{"index": 0, "delta": piece, "finish_reason": finish_reason}]})


DONE = event("[DONE]")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


# ---------------------------------------------------------------- the contract, against llmock


class LLMockStage:
    secret = KEY
    silence = 30.0

    def __init__(
        self, llmock: LLMock, told: Scripted, *providers: OpenAICompatibleProvider
    ) -> None:
        self.llmock = llmock
        self.told = told
        self.provider, self.silent = providers

    def fail(self) -> None:
        self.llmock.fail(500)

    def recover(self) -> None:
        pass

    def hang(self) -> None:
        # llmock sleeps on when its client has left; this server does not.
        self.provider = self.silent
        self.told.says(SSE, delta("So"), Hang)

    def interrupt(self) -> None:
        self.llmock.disconnect(after_chunks=4)

    def open(self) -> int:
        return active(self.provider)


class TestContract(StreamingProviderContract):
    @pytest.fixture
    async def stage(self, llmock: LLMock, told: Scripted) -> AsyncIterator[LLMockStage]:
        async with (
            OpenAICompatibleProvider(llmock.base_url(), KEY) as provider,
            OpenAICompatibleProvider(told.url, KEY) as silent,
        ):
            yield LLMockStage(llmock, told, provider, silent)


@pytest.fixture
async def against(llmock: LLMock) -> AsyncIterator[OpenAICompatibleProvider]:
    async with OpenAICompatibleProvider(llmock.base_url(), KEY) as provider:
        yield provider


# ---------------------------------------------------------------- what is sent


async def test_the_request_has_the_model_the_messages_and_the_key(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer()))
    await provider.complete(call_of())
    [(headers, body)] = told.requests
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"
    assert body == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
    }


async def test_parameters_and_messages_pass_through_untouched(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer()))
    messages = (
        {"role": "system", "content": "Be brief ✓"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "{}"},
    )
    params: dict[str, Any] = {
        "temperature": 0.0,
        "seed": 7,
        "stop": ["\n"],
        "tools": [TOOL],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "logprobs": None,
        "extra_of_some_server": {"a": [1]},
    }
    model = ModelConfig(model_id="m", params={"seed": 1, "top_p": 0.5})
    await provider.complete(Call(model, QueryRequest(messages=messages, params=params)))
    assert told.bodies == [{"model": "m", "top_p": 0.5, **params, "messages": list(messages)}]


@pytest.mark.parametrize(
    ("params", "limit", "sent"),
    [
        ({}, None, {}),
        ({}, 9, {"max_tokens": 9}),
        ({"max_tokens": 5}, 9, {"max_tokens": 5}),
        ({"max_tokens": 5}, 3, {"max_tokens": 3}),
        ({"max_completion_tokens": 5}, None, {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 50}, 9, {"max_completion_tokens": 9}),
    ],
)
async def test_the_smallest_limit_goes_into_the_field_the_model_takes(
    told: Scripted,
    provider: OpenAICompatibleProvider,
    params: dict[str, Any],
    limit: int | None,
    sent: dict[str, int],
) -> None:
    told.says(response(answer()))
    await provider.complete(call_of(limit=limit, **params))
    assert {k: v for k, v in told.bodies[0].items() if k.startswith("max_")} == sent


async def test_another_name_for_the_model_may_be_sent(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer()))
    await provider.complete(call_of(model="org/gpt-4o:free"))
    assert told.bodies[0]["model"] == "org/gpt-4o:free"


async def test_a_whole_answer_is_asked_for_whatever_the_parameters_say(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer()))
    await provider.complete(call_of(stream=True, stream_options={"include_usage": True}))
    assert "stream" not in told.bodies[0]
    assert "stream_options" not in told.bodies[0]


async def test_without_a_key_none_is_sent(told: Scripted) -> None:
    told.says(response(answer()))
    async with OpenAICompatibleProvider(told.url, headers={"X-Title": "app"}) as provider:
        await provider.complete(call_of())
    assert "authorization" not in told.requests[0][0]
    assert told.requests[0][0]["x-title"] == "app"


async def test_the_key_may_come_from_the_environment(
    told: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    told.says(response(answer()))
    async with OpenAICompatibleProvider(told.url, api_key_env="SOME_KEY") as provider:
        await provider.complete(call_of())
    assert told.requests[0][0]["authorization"] == f"Bearer {KEY}"


async def test_a_user_in_the_url_is_sent_and_neither_shown_nor_logged(
    told: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    told.says(response(answer()))
    url = told.url.replace("//", "//me:pa%40ssword@") + "/?api-version=3"
    with caplog.at_level(logging.DEBUG):
        async with OpenAICompatibleProvider(url) as provider:
            assert repr(provider) == f"<OpenAICompatibleProvider {told.url}>"
            await provider.complete(call_of())
    assert told.requests[0][0]["authorization"] == "Basic bWU6cGFAc3N3b3Jk"
    assert "ssword" not in caplog.text


async def test_a_request_that_is_no_json_is_a_bad_request_and_not_sent(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    for value in (object(), float("nan"), "\ud800"):
        error = await failure_of(provider, call_of(user=value))
        assert error.kind == "bad_request"
        assert error.model_id == "gpt-4o"
    assert told.connections == 0


# ---------------------------------------------------------------- whole answers


async def test_usage_with_cached_and_reasoning_tokens_is_read(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    body = answer()
    body["usage"] |= {
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    told.says(response(body))
    call = call_of()
    completion = await provider.complete(call)
    assert completion.usage == call.usage == Usage(5, 7, 4, 3)
    assert completion.model == "gpt-4o-2026"


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, None),
        ("many", None),
        ({"prompt_tokens": "5", "completion_tokens": -1}, None),
        ({"prompt_tokens": 5}, Usage(5, 0)),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_cache_hit_tokens": 2},
            Usage(5, 1, 2),
        ),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 0, 5)),
        ({"prompt_tokens": 5, "prompt_tokens_details": None}, Usage(5, 0)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
                "completion_tokens_details": {"audio_tokens": 2},
            },
            Usage(9, 5, 4, cache_write_tokens=3, audio_output_tokens=2),
        ),
        (  # no token is counted twice
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {
                    "cached_tokens": 4,
                    "cache_write_tokens": 9,
                    "audio_tokens": 9,
                },
                "completion_tokens_details": {"audio_tokens": 9},
            },
            Usage(9, 5, 4, cache_write_tokens=5, audio_output_tokens=5),
        ),
    ],
)
async def test_usage_is_what_the_server_says_or_none(
    told: Scripted, provider: OpenAICompatibleProvider, usage: Any, read: Usage | None
) -> None:
    told.says(response({**answer(), "usage": usage}))
    assert (await provider.complete(call_of())).usage == read


async def test_tool_calls_come_without_content(
    against: OpenAICompatibleProvider, llmock: LLMock
) -> None:
    llmock.call_tool("get_weather", {"city": "Paris"})
    completion = await against.complete(call_of(tools=[TOOL]))
    [tool_call] = completion.tool_calls
    assert tool_call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert (completion.text, completion.finish_reason) == ("", "tool_calls")
    assert llmock.last_request.body["tools"] == [TOOL]


async def test_content_in_parts_is_joined(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"text": "b"}, 3]
    told.says(response(answer(parts)))
    assert (await provider.complete(call_of())).text == "ab"


@pytest.mark.parametrize(
    "message",
    [
        answer("", "content_filter"),
        answer(None, "content_filter"),
        answer(None, "stop", refusal="I cannot help with that."),
    ],
)
async def test_nothing_but_a_refusal_is_content_refused_and_billed(
    told: Scripted, provider: OpenAICompatibleProvider, message: dict[str, Any]
) -> None:
    told.says(response(message))
    call = call_of()
    assert (await failure_of(provider, call)).kind == "content_refused"
    assert call.usage == Usage(5, 7)


async def test_an_answer_cut_by_the_filter_is_an_answer(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer("So far", "content_filter")))
    completion = await provider.complete(call_of())
    assert (completion.text, completion.finish_reason) == ("So far", "content_filter")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "text/plain", ""])
async def test_json_under_other_names_is_read(
    told: Scripted, provider: OpenAICompatibleProvider, content_type: str
) -> None:
    told.says(response(answer(), content_type=content_type))
    assert (await provider.complete(call_of())).text == "Hello"


# ---------------------------------------------------------------- faults of whole answers


@pytest.mark.parametrize(
    "reply",
    [
        response("<html>hello</html>", content_type="text/html"),
        response(answer(), content_type="text/event-stream"),
        response(json.dumps(answer())[:-20]),
        response(""),
        response("[]"),
        response("null"),
        response("{}"),
        response({"choices": []}),
        response({"choices": None}),
        response({"choices": [{}]}),
        response({"choices": [{"message": None, "finish_reason": "stop"}]}),
        response({"choices": "many"}),
        response("[" * 100_000),
        response(b"\xff\xfe\xff"),
        response("not gzip", content_encoding="gzip"),
        response("", status="302 Found", location="/login"),
    ],
)
async def test_what_cannot_be_understood_is_a_protocol_error(
    told: Scripted, provider: OpenAICompatibleProvider, reply: bytes
) -> None:
    told.says(reply)
    error = await failure_of(provider)
    assert (error.kind, error.model_id) == ("protocol", "gpt-4o")
    assert len(told.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        [response(answer())[:-10]],  # the length promised more
        [Abort],
        [b""],
        [b"HTTP/1.1 200 OK\r\ncontent-type: appl"],
        [b"SSH-2.0-OpenSSH_9.6\r\n"],
        [response(answer())[:-10], Abort],
    ],
)
async def test_a_dropped_connection_is_unavailable(
    told: Scripted, provider: OpenAICompatibleProvider, script: list[Part]
) -> None:
    told.says(*script)
    error = await failure_of(provider)
    assert (error.kind, error.model_id) == ("unavailable", "gpt-4o")
    assert told.connections == 1
    assert active(provider) == 0


async def test_a_refused_connection_is_unavailable_and_says_where() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with OpenAICompatibleProvider(f"http://me:secret@127.0.0.1:{port}/v1") as provider:
        error = await failure_of(provider)
        assert error.kind == "unavailable"
        assert f"http://127.0.0.1:{port}/v1: ConnectError" in str(error)
        assert "secret" not in str(error)
        _, streamed = await stream_of(provider)
        assert streamed is not None
        assert streamed.kind == "unavailable"


ERRORS: list[tuple[str, Any, str]] = [
    ("400 Bad Request", {"error": {"message": "no"}}, "bad_request"),
    ("400 Bad Request", {"error": {"code": "context_length_exceeded"}}, "context_too_long"),
    ("400 Bad Request", {"error": {"type": "exceed_context_size_error"}}, "context_too_long"),
    (
        "400 Bad Request",
        {"object": "error", "message": "This model's maximum context length is 8 tokens"},
        "context_too_long",
    ),
    (
        "400 Bad Request",
        {"error": {"message": "max_tokens is too large: at most 16384 completion tokens"}},
        "bad_request",
    ),
    ("400 Bad Request", {"error": "prompt is too long"}, "context_too_long"),
    ("400 Bad Request", {"error": {"code": "content_filter"}}, "content_refused"),
    ("400 Bad Request", {"error": {"code": "content_policy_violation"}}, "content_refused"),
    (
        "400 Bad Request",
        {"error": {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        "content_refused",
    ),
    ("400 Bad Request", {"error": {"message": "It was flagged as unsafe"}}, "content_refused"),
    ("400 Bad Request", [{"error": {"code": 400, "message": "no"}}], "bad_request"),
    ("400 Bad Request", "<html>", "bad_request"),
    ("401 Unauthorized", {"error": {"message": "bad key"}}, "authentication"),
    ("402 Payment Required", {"detail": "pay"}, "quota_exhausted"),
    ("403 Forbidden", {}, "authentication"),
    ("403 Forbidden", {"error": {"message": "requires moderation"}}, "content_refused"),
    ("404 Not Found", {"error": {"code": "model_not_found"}}, "model_not_found"),
    ("404 Not Found", "no such path", "model_not_found"),
    ("408 Request Timeout", {}, "attempt_timeout"),
    ("409 Conflict", {}, "unavailable"),
    ("410 Gone", {}, "model_not_found"),
    ("413 Content Too Large", {}, "context_too_long"),
    ("418 I'm a teapot", {}, "bad_request"),
    ("422 Unprocessable", {"detail": [{"loc": ["body"], "msg": "wrong"}]}, "bad_request"),
    ("425 Too Early", {}, "unavailable"),
    ("429 Too Many Requests", {"error": {"code": "rate_limit_exceeded"}}, "rate_limited"),
    ("429 Too Many Requests", "", "rate_limited"),
    ("429 Too Many Requests", {"error": {"type": "insufficient_quota"}}, "quota_exhausted"),
    (
        "429 Too Many Requests",
        {"error": {"message": "exceeded your current quota, maximum context length"}},
        "rate_limited",
    ),
    ("500 Internal Server Error", {"error": {"code": "rate_limit_exceeded"}}, "unavailable"),
    ("502 Bad Gateway", "<html>", "unavailable"),
    ("503 Service Unavailable", {}, "provider_overloaded"),
    ("504 Gateway Timeout", {}, "unavailable"),
    ("524 A Timeout Occurred", {}, "unavailable"),
    ("529 Overloaded", {}, "provider_overloaded"),
]


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_every_error_is_known_by_its_code_or_its_status(
    told: Scripted,
    provider: OpenAICompatibleProvider,
    status: str,
    body: Any,
    kind: str,
    *,
    streamed: bool,
) -> None:
    told.says(response(body, status=status))
    error = (await stream_of(provider))[1] if streamed else await failure_of(provider)
    assert error is not None
    assert (error.kind, error.model_id) == (kind, "gpt-4o")
    assert error.status == int(status.partition(" ")[0])
    assert len(told.requests) == 1  # nothing is retried here


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, "rate_limited"),
        ({"error": {"code": 502, "message": "upstream"}}, "unavailable"),
        ({"error": {"message": "broken"}}, "unavailable"),
        ({"error": "out of memory"}, "unavailable"),
        ({"choices": [{"error": {"code": 503, "message": "busy"}}]}, "provider_overloaded"),
    ],
)
async def test_an_error_inside_a_success_is_an_error(
    told: Scripted, provider: OpenAICompatibleProvider, body: Any, kind: str
) -> None:
    told.says(response(body))
    assert (await failure_of(provider)).kind == kind
    told.says(SSE, event(body))
    chunks, error = await stream_of(provider)
    assert chunks == []
    assert error is not None
    assert (error.kind, error.model_id) == (kind, "gpt-4o")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "2"}, 2.0),
        ({"retry_after": "0.4"}, 0.4),
        ({"retry_after_ms": "400", "retry_after": "1"}, 0.4),
        (
            {
                "date": "Mon, 23 Nov 2026 12:00:00 GMT",
                "retry_after": "Mon, 23 Nov 2026 12:00:30 GMT",
            },
            30.0,
        ),
        ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6m0s"}, 360.0),
        ({"retry_after": "86400"}, 86400.0),
        ({"retry_after": "-3"}, None),
        ({}, None),
    ],
)
async def test_the_time_to_wait_is_read_and_not_capped(
    told: Scripted,
    provider: OpenAICompatibleProvider,
    headers: dict[str, Any],
    seconds: float | None,
) -> None:
    told.says(response({}, status="429 Too Many Requests", **headers))
    error = await failure_of(provider)
    assert (error.kind, error.retry_after) == ("rate_limited", seconds)


async def test_llmocks_faults_are_told_apart(
    against: OpenAICompatibleProvider, llmock: LLMock
) -> None:
    llmock.rate_limit(retry_after=0.1).fail(500).outage(status=503)
    limited, broken, down = [await failure_of(against) for _ in range(3)]
    assert (limited.kind, limited.retry_after, limited.status) == ("rate_limited", 0.1, 429)
    assert (broken.kind, down.kind) == ("unavailable", "provider_overloaded")
    llmock.reset()
    llmock.fail(401).fail(402).fail(404).context_overflow().fail(429, code="insufficient_quota")
    kinds = [(await failure_of(against)).kind for _ in range(5)]
    assert kinds == [
        "authentication",
        "quota_exhausted",
        "model_not_found",
        "context_too_long",
        "quota_exhausted",
    ]
    assert len(llmock.requests) == 5


async def test_a_quota_and_a_window_that_llmock_enforces_are_told_apart(
    against: OpenAICompatibleProvider, llmock: LLMock
) -> None:
    llmock.limits(rpm=1, context_window=20)
    assert (await failure_of(against, call_of("word " * 100))).kind == "context_too_long"
    await against.complete(call_of())
    limited = await failure_of(against)
    assert limited.kind == "rate_limited"
    assert limited.retry_after is not None
    assert 0 < limited.retry_after <= 60


async def test_a_body_that_explains_too_much_is_read_in_part(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response("x" * 10_000_000, status="500 Oops", content_type="text/plain"))
    error = await failure_of(provider)
    assert error.kind == "unavailable"
    assert len(str(error)) < 330
    assert str(error).endswith("x… (status 500)")


async def test_an_explanation_that_breaks_off_leaves_the_status(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response("busy" * 100, status="503 Busy")[:-10], Abort)
    assert (await failure_of(provider)).kind == "provider_overloaded"


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "message",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Authorization: Bearer {KEY}",
        "Incorrect API key provided: sk-te**************cdef.",
        f"{'x' * 280} {KEY}",
    ],
)
async def test_a_key_the_server_echoes_is_taken_out(
    told: Scripted, provider: OpenAICompatibleProvider, message: str
) -> None:
    told.says(response({"error": {"message": message}}, status="401 Unauthorized"))
    error = await failure_of(provider)
    assert "***" in str(error)
    for i in range(len(KEY) - 8):
        assert KEY[i : i + 8] not in str(error)
    assert KEY[-4:] not in str(error)


async def test_values_of_headers_are_secrets_too(told: Scripted) -> None:
    told.says(response("key hunter2hunter2 is wrong", status="403 Forbidden"))
    async with OpenAICompatibleProvider(
        told.url, headers={"api-key": "hunter2hunter2"}
    ) as provider:
        error = await failure_of(provider)
    assert "key *** is wrong" in str(error)
    assert "hunter2" not in repr(provider)


async def test_a_clients_own_credentials_are_taken_out_too(told: Scripted) -> None:
    told.says(response("token abcdefgh1234 is wrong", status="403 Forbidden"))
    async with httpx2.AsyncClient(headers={"Authorization": "Token abcdefgh1234"}) as client:
        error = await failure_of(OpenAICompatibleProvider(told.url, client=client))
    assert "abcdefgh1234" not in str(error)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"base_url": "localhost:8000"}, "localhost:8000"),
        ({"base_url": "ftp://host"}, "ftp://host"),
        ({"base_url": "http://"}, "http://"),
        ({"base_url": ""}, "''"),
        ({"base_url": "http://me:secret@host:port/v1"}, "//***@host"),
        ({"api_key": "secret\x00key"}, "Authorization"),
        ({"api_key": "secret\nkey"}, "Authorization"),
        ({"api_key": "secret…key"}, "Authorization"),
        ({"headers": {"x-key": "secret\r\nx: y"}}, "x-key"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE"),
        ({"api_key": "secret", "api_key_env": "HOME"}, "api_key_env"),
        ({"base_url": "http://me:secret@host", "api_key": "secret"}, "base_url"),
    ],
)
def test_what_cannot_work_is_refused_without_telling_secrets(
    arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenAICompatibleProvider(**{"base_url": "http://host/v1", **arguments})
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- httpx2's exceptions


KINDS = {
    "CloseError": "unavailable",
    "ConnectError": "unavailable",
    "ConnectTimeout": "unavailable",
    "CookieConflict": "protocol",
    "DecodingError": "protocol",
    "HTTPError": "protocol",
    "HTTPStatusError": "protocol",
    "InvalidURL": "protocol",
    "LocalProtocolError": "protocol",
    "NetworkError": "unavailable",
    "PoolTimeout": "attempt_timeout",
    "ProtocolError": "protocol",
    "ProxyError": "unavailable",
    "ReadError": "unavailable",
    "ReadTimeout": "attempt_timeout",
    "RemoteProtocolError": "unavailable",
    "RequestError": "protocol",
    "RequestNotRead": "unavailable",
    "ResponseNotRead": "unavailable",
    "SSEError": "protocol",
    "StreamClosed": "unavailable",
    "StreamConsumed": "unavailable",
    "StreamError": "unavailable",
    "TimeoutException": "attempt_timeout",
    "TooManyRedirects": "protocol",
    "TransportError": "protocol",
    "UnsupportedProtocol": "unavailable",
    "WriteError": "unavailable",
    "WriteTimeout": "attempt_timeout",
}


def test_the_table_has_every_exception_of_httpx2() -> None:
    public = [getattr(httpx2, name) for name in httpx2.__all__]
    found = {it.__name__ for it in public if isinstance(it, type) and issubclass(it, Exception)}
    assert found == set(KINDS)


def raised(name: str) -> Exception:
    kind = getattr(httpx2, name)
    if name in ("StreamClosed", "StreamConsumed", "RequestNotRead", "ResponseNotRead"):
        return kind()
    if name == "HTTPStatusError":
        request = httpx2.Request("POST", "http://host")
        return kind(f"with {KEY}", request=request, response=httpx2.Response(500, request=request))
    return kind(f"with {KEY}")


class Breaking(httpx2.AsyncBaseTransport):
    """The lowest seam: raises before an answer, or within it."""

    def __init__(self, error: Exception, body: list[bytes] | None = None, *, sse: bool = False):
        self.error = error
        self.body = body
        self.sse = sse

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.body is None:
            raise self.error
        content_type = "text/event-stream" if self.sse else "application/json"
        return httpx2.Response(200, headers={"content-type": content_type}, content=self.pieces())

    async def pieces(self) -> AsyncGenerator[bytes]:
        for piece in self.body or ():
            yield piece
        raise self.error


@pytest.mark.parametrize(("name", "kind"), sorted(KINDS.items()))
async def test_every_exception_of_httpx2_is_mapped(name: str, kind: str) -> None:
    for transport in (Breaking(raised(name)), Breaking(raised(name), [b"{"])):
        async with httpx2.AsyncClient(transport=transport) as client:
            error = await failure_of(OpenAICompatibleProvider("http://host", KEY, client=client))
        assert (error.kind, error.model_id) == (kind, "gpt-4o")
        assert name in str(error)
        assert KEY not in str(error)
        assert KEY not in str(error.__cause__) or name != "LocalProtocolError"


@pytest.mark.parametrize("name", sorted(KINDS))
async def test_every_exception_within_a_stream_is_an_interruption(name: str) -> None:
    transport = Breaking(raised(name), [delta("Hel"), delta("lo")], sse=True)
    async with httpx2.AsyncClient(transport=transport) as client:
        chunks, error = await stream_of(OpenAICompatibleProvider("http://host", KEY, client=client))
    assert text_of(chunks) == "Hello"
    assert isinstance(error, StreamInterruptedError)
    assert (error.text, error.model_id) == ("Hello", "gpt-4o")
    assert KEY not in str(error)


# ---------------------------------------------------------------- streams


async def test_a_stream_asks_for_usage_and_gives_it_at_the_end(
    against: OpenAICompatibleProvider, llmock: LLMock
) -> None:
    llmock.reply("Because of Rayleigh scattering.")
    call = call_of()
    chunks, error = await stream_of(against, call)
    assert error is None
    assert text_of(chunks) == "Because of Rayleigh scattering."
    assert llmock.last_request.body["stream_options"] == {"include_usage": True}
    assert chunks[-1].usage == call.usage
    assert call.usage is not None
    assert call.usage.input_tokens > 0


async def test_the_callers_own_stream_options_are_kept(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(SSE, delta("a"), delta(finish_reason="stop"), DONE)
    await stream_of(
        provider, call_of(stream_options={"continuous_usage_stats": True}, stream=False)
    )
    assert told.bodies[0]["stream"] is True
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert told.bodies[0]["stream_options"] == options


async def test_usage_is_not_asked_for_where_it_is_not_wanted(told: Scripted) -> None:
    told.says(SSE, delta("a"), delta(finish_reason="stop"), DONE)
    async with OpenAICompatibleProvider(told.url, stream_usage=False) as provider:
        chunks, error = await stream_of(provider)
    assert error is None
    assert "stream_options" not in told.bodies[0]
    assert chunks[-1] == Chunk(finish_reason="stop")


async def test_usage_that_the_caller_asks_for_is_asked_for_all_the_same(told: Scripted) -> None:
    told.says(SSE, delta("a"), delta(finish_reason="stop"), USAGE, DONE)
    async with OpenAICompatibleProvider(told.url, stream_usage=False) as provider:
        chunks, _ = await stream_of(provider, call_of(stream_options={"include_usage": True}))
    assert told.bodies[0]["stream_options"] == {"include_usage": True}
    assert chunks[-1].usage == Usage(3, 2)


async def test_what_comes_after_the_end_does_not_count(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    end = delta(finish_reason="stop") + DONE
    told.says(SSE, delta("a") + end + delta("b") + event({"error": "late"}))
    chunks, error = await stream_of(provider)
    assert (chunks, error) == ([Chunk("a"), Chunk(finish_reason="stop")], None)


@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
async def test_a_server_that_refuses_to_count_is_remembered_by_model(
    told: Scripted, provider: OpenAICompatibleProvider, status: str
) -> None:
    refusal = {"error": {"message": "Unknown parameter: 'stream_options'."}}
    told.says(response(refusal, status=status))
    for _ in range(3):
        told.says(SSE, delta("a"), delta(finish_reason="stop"), DONE)
    other = Call(ModelConfig(model_id="other"), QueryRequest(query="q"))
    for call in (call_of(), call_of(), other):
        _, error = await stream_of(provider, call)
        assert error is None
    assert ["stream_options" in body for body in told.bodies] == [True, False, False, True]


async def test_tool_calls_come_in_pieces(against: OpenAICompatibleProvider, llmock: LLMock) -> None:
    llmock.call_tool("get_weather", {"city": "Paris, the capital of France"})
    chunks, error = await stream_of(against, call_of(tools=[TOOL]))
    assert error is None
    pieces = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert len(pieces) > 2
    assert pieces[0]["function"]["name"] == "get_weather"
    arguments = "".join(piece["function"]["arguments"] for piece in pieces)
    assert json.loads(arguments) == {"city": "Paris, the capital of France"}
    assert chunks[-1].finish_reason == "tool_calls"


async def test_several_tool_calls_in_one_event_are_several_chunks(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    both = [{"index": 0, "id": "a"}, {"index": 1, "id": "b"}]
    told.says(SSE, delta("so", tool_calls=both), delta(finish_reason="tool_calls"), DONE)
    chunks, _ = await stream_of(provider)
    assert chunks == [
        Chunk("so"),
        Chunk(tool_call=both[0]),
        Chunk(tool_call=both[1]),
        Chunk(finish_reason="tool_calls"),
    ]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_apart_from_the_text(
    told: Scripted, provider: OpenAICompatibleProvider, field: str
) -> None:
    told.says(SSE, delta(**{field: "hm"}), delta("ah"), delta(finish_reason="stop"), DONE)
    chunks, _ = await stream_of(provider)
    assert chunks == [Chunk(reasoning="hm"), Chunk("ah"), Chunk(finish_reason="stop")]


async def test_events_are_read_however_they_are_cut(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    said = (
        b"\xef\xbb\xbf: a comment\r\n\r\nevent: message\r\nid: 1\r\nretry: 10\r\n"
        + delta("H\u00e9").replace(b"\n", b"\r\n")
        + b': PROCESSING\n\ndata:{"choices":\ndata: [{"delta":{"content":"llo"}}]}\n\n'
        + delta("").replace(b"\n", b"\r")
        + event("")
        + event({"choices": [], "prompt_filter_results": []})
        + delta(finish_reason="stop")
        + USAGE
        + DONE
    )
    told.says(SSE, *(said[i : i + 1] for i in range(len(said))))
    call = call_of()
    chunks, error = await stream_of(provider, call)
    assert error is None
    assert text_of(chunks) == "Héllo"
    assert chunks[-1] == Chunk(finish_reason="stop", usage=Usage(3, 2))


def events_of(*blocks: bytes) -> list[Event]:
    parser = EventParser()
    found = [event for block in blocks for event in parser.feed(block)]
    return found + list(parser.flush())


def test_lines_of_data_are_one_event_that_a_blank_line_ends() -> None:
    said = b": c\nid: 1\ndata:a\ndata:  b\ndata\n\n\nevent: error\ndata: c\r\rdata: d"
    assert events_of(said) == [Event("", "a\n b\n"), Event("error", "c"), Event("", "d")]


lines = st.sampled_from(
    ["data: é", "data:x", "data", "data: ", ": c", "event: error", "id: 1", "nonsense", ""]
)


@given(st.lists(st.tuples(lines, st.sampled_from(["\n", "\r\n"]))), st.lists(st.integers(0, 200)))
def test_events_are_the_same_wherever_the_bytes_are_cut(
    said: list[tuple[str, str]], cuts: list[int]
) -> None:
    data = "".join(line + end for line, end in said).encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    blocks = [data[a:b] for a, b in pairwise(places)]
    single = [data[i : i + 1] for i in range(len(data))]
    assert events_of(*blocks) == events_of(*single) == events_of(data)
    assert events_of(*blocks) == events_of(data.replace(b"\r\n", b"\n"))
    assert events_of(*blocks) == events_of(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r"))


async def test_only_the_first_of_several_answers_is_streamed(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    second = event({"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]})
    told.says(SSE, delta("A"), second, DONE)
    chunks, error = await stream_of(provider)
    assert chunks == [Chunk("A")]
    assert error is not None
    assert error.kind == "stream_interrupted"


# ---------------------------------------------------------------- streams that break


@pytest.mark.parametrize("fault", ["truncate", "corrupt", "disconnect"])
@pytest.mark.parametrize("after", [0, 1, 3, 6, 7])
async def test_a_stream_cut_anywhere_is_interrupted_with_its_text_so_far(
    against: OpenAICompatibleProvider, llmock: LLMock, fault: str, after: int
) -> None:
    llmock.reply("One two three four.")  # a role, four pieces, a finish reason, usage, [DONE]
    getattr(llmock, fault)(after_chunks=after)
    chunks, error = await stream_of(against)
    assert isinstance(error, StreamInterruptedError)
    assert (error.text, error.model_id) == (text_of(chunks), "gpt-4o")
    assert not any(chunk.finish_reason for chunk in chunks)
    assert "One two three four.".startswith(error.text)
    assert (error.text == "") == (after < 2)
    assert active(against) == 0
    whole, error = await stream_of(against)
    assert (whole[-1].finish_reason, error) == ("stop", None)


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ([], ""),
        ([DONE], ""),
        ([delta("a"), DONE], "a"),
        ([delta("a"), delta(finish_reason="stop")], "a"),
        ([delta("a"), event("[]")], "a"),
        ([delta("a"), event("null")], "a"),
        ([delta("a"), event("[" * 100_000)], "a"),
        ([delta("a"), b'data: {"choices": [{"del'], "a"),
    ],
)
async def test_without_finish_reason_and_done_a_stream_has_no_end(
    told: Scripted, provider: OpenAICompatibleProvider, events: list[bytes], text: str
) -> None:
    told.says(SSE, *events)
    chunks, error = await stream_of(provider)
    assert isinstance(error, StreamInterruptedError)
    assert error.text == text_of(chunks) == text


async def test_a_server_that_never_says_done_can_be_lived_with(told: Scripted) -> None:
    told.says(SSE, delta("a"), delta(finish_reason="stop"))
    told.says(SSE, delta("a"))
    async with OpenAICompatibleProvider(told.url, done_marker=False) as provider:
        chunks, error = await stream_of(provider)
        assert (chunks[-1].finish_reason, error) == ("stop", None)
        _, error = await stream_of(provider)
        assert isinstance(error, StreamInterruptedError)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (event({"error": {"code": 429, "message": "slow down"}}), "rate_limited"),
        (event({"error": {"type": "overloaded_error"}}), "provider_overloaded"),
        (event({"error": {"message": "CUDA error", "type": "server_error"}}), "unavailable"),
        (b'event: error\ndata: {"message": "busy", "code": 503}\n\n', "provider_overloaded"),
        (b"event: error\ndata: something broke\n\n", "unavailable"),
        (
            event({"choices": [{"finish_reason": "error", "error": {"code": 502}}]}),
            "unavailable",
        ),
    ],
)
async def test_an_error_within_a_stream_is_told_by_the_same_table(
    told: Scripted, provider: OpenAICompatibleProvider, said: bytes, kind: str
) -> None:
    told.says(SSE, delta("a"), said, delta(finish_reason="stop"), DONE)
    chunks, error = await stream_of(provider)
    assert chunks == [Chunk("a")]
    assert error is not None
    assert (error.kind, error.model_id) == (kind, "gpt-4o")


async def test_a_stream_of_nothing_but_a_refusal_is_content_refused(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(SSE, delta(refusal="I ca"), delta(refusal="nnot."), delta(None, "stop"), USAGE, DONE)
    told.says(SSE, delta(""), delta(None, "content_filter"), USAGE, DONE)
    call = call_of()
    chunks, error = await stream_of(provider, call)
    assert (chunks, error and error.kind) == ([], "content_refused")
    assert "I cannot." in str(error)
    assert call.usage == Usage(3, 2)
    _, error = await stream_of(provider)
    assert error is not None
    assert error.kind == "content_refused"


async def test_a_server_that_does_not_stream_is_a_protocol_error(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer()))
    chunks, error = await stream_of(provider)
    assert chunks == []
    assert error is not None
    assert error.kind == "protocol"
    assert "application/json" in str(error)


# ---------------------------------------------------------------- connections


async def test_a_stream_read_to_its_end_leaves_its_connection_for_the_next(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    said = b"".join([delta("a"), delta(finish_reason="stop"), DONE])
    for _ in range(2):
        told.says(CHUNKED, http_chunk(said), 0.01, b"0\r\n\r\n")
        chunks, error = await stream_of(provider)
        assert (text_of(chunks), error) == ("a", None)
    told.says(response(answer(), keep=True))
    await provider.complete(call_of())
    assert told.connections == 1


async def test_a_server_that_lingers_after_the_end_holds_nobody(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(SSE, delta("a"), delta(finish_reason="stop"), DONE, Hang)
    async with asyncio.timeout(0.2):
        chunks, error = await stream_of(provider)
    assert (text_of(chunks), error) == ("a", None)
    await nothing_open(told)


@pytest.mark.parametrize(
    ("script", "streamed"),
    [
        ([Hang], False),
        ([Hang], True),
        ([response(answer())[:-9], Hang], False),
        ([response("busy", status="503 Busy")[:-2], Hang], False),
        ([response("busy", status="503 Busy")[:-2], Hang], True),
        ([response("busy")[:-2], Hang], True),
        ([SSE, Hang], True),
        ([SSE, b"data: {", Hang], True),
    ],
)
async def test_cancelling_closes_the_connection_wherever_the_server_is(
    told: Scripted, provider: OpenAICompatibleProvider, *, script: list[Part], streamed: bool
) -> None:
    told.says(*script)
    async with running(
        lambda: stream_of(provider) if streamed else provider.complete(call_of())
    ) as task:
        assert told.open == 1
        task.cancel()
    await nothing_open(told)
    assert connections_of(provider) == []


async def test_a_stalled_stream_is_closed_by_cancelling(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(SSE, delta("a"), Hang)
    async with running(lambda: stream_of(provider)) as task:
        task.cancel()
    await nothing_open(told)


async def test_many_streams_cancelled_at_once_leave_no_connection(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    for _ in range(50):
        told.says(SSE, delta("a"), Hang)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream_of(provider)) for _ in range(50)]
        while told.open < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(A_WHILE)
        for task in tasks:
            task.cancel()
    await nothing_open(told)
    assert connections_of(provider) == []


async def test_llmock_has_no_connection_left_when_a_slow_call_is_cancelled(
    llmock: LLMock, llmock_server: Any
) -> None:
    llmock.delay(0.2)
    connections: set[object] = llmock_server._server.server_state.connections
    before = connections.copy()
    async with (
        OpenAICompatibleProvider(llmock.base_url(), KEY) as provider,
        running(lambda: provider.complete(call_of())) as task,
    ):
        assert len(connections.copy() - before) == 1
        task.cancel()
    async with asyncio.timeout(1):
        while connections.copy() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert len(llmock.requests) == 1  # waits until it has come to its end there too


async def test_a_stream_that_stalls_too_long_is_given_up(
    against: OpenAICompatibleProvider, llmock: LLMock
) -> None:
    llmock.stall(after_chunks=3, seconds=0.2)
    async with running(lambda: stream_of(against)) as task:
        assert active(against) == 1
        task.cancel()
    assert active(against) == 0
    assert len(llmock.requests) == 1


async def test_leaving_closes_a_client_of_its_own(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(response(answer(), keep=True))
    told.says(response(answer(), keep=True))
    await provider.complete(call_of())
    assert told.open == 1
    await provider.aclose()
    await nothing_open(told)
    for _ in range(2):
        with pytest.raises(RouterStateError, match="closed"):
            await provider.complete(call_of())
        await provider.aclose()


async def test_a_client_of_the_users_stays_the_users(told: Scripted) -> None:
    told.says(response(answer(), keep=True))
    told.says(response(answer(), keep=True))
    async with httpx2.AsyncClient(headers={"x-mine": "1"}) as client:
        provider = OpenAICompatibleProvider(told.url, client=client)
        async with provider:
            await provider.complete(call_of())
        await provider.aclose()
        assert not client.is_closed
        await provider.complete(call_of())
        assert told.requests[1][0]["x-mine"] == "1"
    with pytest.raises(RouterStateError, match="closed"):
        await provider.complete(call_of())


async def test_a_clients_timeouts_do_not_count(told: Scripted) -> None:
    told.says(0.1, response(answer()))
    async with httpx2.AsyncClient(timeout=0.01) as client:
        completion = await OpenAICompatibleProvider(told.url, client=client).complete(call_of())
    assert completion.text == "Hello"


async def test_it_works_without_being_entered(told: Scripted) -> None:
    told.says(response(answer(), keep=True))
    provider = OpenAICompatibleProvider(told.url)
    assert (await provider.complete(call_of())).text == "Hello"
    await provider.aclose()


async def test_closing_while_a_stream_runs_interrupts_it(
    told: Scripted, provider: OpenAICompatibleProvider
) -> None:
    told.says(SSE, delta("a"), Hang)
    async with running(lambda: stream_of(provider)) as task:
        await provider.aclose()
        chunks, error = await task
    assert chunks == [Chunk("a")]
    assert isinstance(error, StreamInterruptedError)


@pytest.fixture
def used_elsewhere() -> Iterator[OpenAICompatibleProvider]:
    provider = OpenAICompatibleProvider("http://127.0.0.1:9/v1", KEY)
    with asyncio.Runner() as runner:
        runner.run(provider.__aenter__())
        yield provider
        runner.run(provider.aclose())


def test_another_loop_is_told_so(used_elsewhere: OpenAICompatibleProvider) -> None:
    async def scenario() -> None:
        with pytest.raises(RouterStateError, match="another event loop"):
            await used_elsewhere.complete(call_of())
        with pytest.raises(RouterStateError, match="another event loop"):
            await anext(used_elsewhere.stream(call_of()))
        with pytest.raises(RouterStateError, match="another event loop"):
            await used_elsewhere.aclose()

    with asyncio.Runner() as runner:
        runner.run(scenario())
