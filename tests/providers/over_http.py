"""What every provider with an SDK in between keeps over real HTTP, whatever its API looks like.

Against llmock, which speaks the real APIs, and against `Scripted` for what no decent server does.
A provider's tests subclass `OverHttpContract` and say how its API looks: a `Dialect`.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from served import SSE, Abort, Hang, Part, Scripted, all_open, nothing_open, response

from asyncroute import (
    Call,
    Chunk,
    ConfigurationError,
    ModelConfig,
    ProviderError,
    QueryRequest,
    RouterStateError,
    StreamInterruptedError,
)
from contracts.provider import A_WHILE, StreamingProviderContract, running, what_came

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llmock.pytest_plugin import LLMock

KEY = "sk-test-0123456789abcdef"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CONVERSATION: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": "Be brief ✓"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_7",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_7", "content": '{"sky": "grey"}'},
)


def call_of(
    query: str = "Why is the sky blue?", *, limit: int | None = None, **params: Any
) -> Call:
    request = QueryRequest(query=query, max_tokens=limit, params=params)
    return Call(ModelConfig(model_id="gpt-4o"), request)


def talk(*messages: dict[str, Any], **params: Any) -> Call:
    return Call(ModelConfig(model_id="gpt-4o"), QueryRequest(messages=messages, params=params))


async def failure_of(provider: Any, call: Call | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.complete(call or call_of())
    return caught.value


async def stream_of(
    provider: Any, call: Call | None = None
) -> tuple[list[Chunk], ProviderError | None]:
    return await what_came(provider, call or call_of())


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def connections_of(provider: Any) -> list[Any]:
    """The connections of a client that the provider made itself."""
    return provider._wire._own._transport._pool.connections


def active(provider: Any) -> int:
    """Count the connections in use; idle ones are kept for the next call."""
    return sum(not connection.is_idle() for connection in connections_of(provider))


class Dialect(ABC):
    """How an API looks."""

    llmock: ClassVar[str]
    """The name by which llmock knows it."""

    extra: ClassVar[str]
    """What installs the SDK."""

    module: ClassVar[str]
    """The SDK."""

    has_end_marker: ClassVar[bool] = True
    """Whether a stream has an event that ends it."""

    @abstractmethod
    def provider(self, server: Scripted | LLMock, key: str | None = KEY) -> Any:
        """Make the provider for a server."""

    @abstractmethod
    def client(self, server: Scripted) -> Any:
        """Make a client of the SDK, as a user would."""

    @abstractmethod
    def of(self, client: Any) -> Any:
        """Make the provider for a client."""

    @abstractmethod
    async def close(self, client: Any) -> None:
        """Close a client of the SDK."""

    @abstractmethod
    def whole(self, text: str) -> dict[str, Any]:
        """An answer."""

    @abstractmethod
    def pieces(self, *texts: str) -> bytes:
        """The beginning of a streamed answer."""

    @abstractmethod
    def ending(self) -> bytes:
        """The end of a streamed answer."""


class Stage:
    secret = KEY
    silence = 30.0

    def __init__(self, dialect: Dialect, llmock: LLMock, told: Scripted, *providers: Any) -> None:
        self.dialect = dialect
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
        self.told.says(SSE, self.dialect.pieces("So"), Hang)

    def interrupt(self) -> None:
        self.llmock.disconnect(after_chunks=6)

    def open(self) -> int:
        return active(self.provider)


STATUSES = {
    "400 Bad Request": "bad_request",
    "401 Unauthorized": "authentication",
    "402 Payment Required": "quota_exhausted",
    "403 Forbidden": "authentication",
    "404 Not Found": "model_not_found",
    "408 Request Timeout": "attempt_timeout",
    "409 Conflict": "unavailable",
    "413 Content Too Large": "context_too_long",
    "422 Unprocessable": "bad_request",
    "429 Too Many Requests": "rate_limited",
    "500 Internal Server Error": "unavailable",
    "502 Bad Gateway": "unavailable",
    "503 Service Unavailable": "provider_overloaded",
    "504 Gateway Timeout": "unavailable",
    "529 Overloaded": "provider_overloaded",
}


class OverHttpContract(StreamingProviderContract):
    dialect: ClassVar[Dialect]

    @classmethod
    def setup_class(cls) -> None:
        # Fixtures make providers while a loop runs: what an SDK imports then is imported here.
        cls.dialect.provider(_nowhere())

    @pytest.fixture
    async def provider(self, told: Scripted) -> AsyncIterator[Any]:
        async with self.dialect.provider(told) as provider:
            yield provider

    @pytest.fixture
    async def against(self, llmock: LLMock) -> AsyncIterator[Any]:
        async with self.dialect.provider(llmock) as provider:
            yield provider

    @pytest.fixture
    async def stage(self, llmock: LLMock, told: Scripted) -> AsyncIterator[Stage]:
        llmock.reply("Because of Rayleigh scattering of the light.", times=None)
        async with (
            self.dialect.provider(llmock) as provider,
            self.dialect.provider(told) as silent,
        ):
            yield Stage(self.dialect, llmock, told, provider, silent)

    # ------------------------------------------------------------ faults, whole

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_a_status_is_told_by_the_table(
        self, told: Scripted, provider: Any, *, streamed: bool
    ) -> None:
        for status, kind in STATUSES.items():
            told.says(response({"error": {"message": "no"}}, status=status))
            error = (await stream_of(provider))[1] if streamed else await failure_of(provider)
            assert error is not None
            assert (error.kind, error.model_id) == (kind, "gpt-4o"), status
            assert error.status == int(status.partition(" ")[0])
        assert len(told.requests) == len(STATUSES)  # nothing is retried here
        assert active(provider) == 0

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_the_time_to_wait_is_read(
        self, told: Scripted, provider: Any, *, streamed: bool
    ) -> None:
        now, then = "Mon, 23 Nov 2026 12:00:00 GMT", "Mon, 23 Nov 2026 12:00:30 GMT"
        asked: list[tuple[dict[str, Any], float | None]] = [
            ({"retry_after": "2"}, 2.0),
            ({"retry_after": "1m30s"}, 90.0),
            ({"retry_after_ms": "400", "retry_after": "1"}, 0.4),
            ({"date": now, "retry_after": then}, 30.0),
            ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6m0s"}, 360.0),
            ({"retry_after": "-3"}, None),
            ({}, None),
        ]
        for headers, seconds in asked:
            told.says(response({}, status="429 Too Many Requests", **headers))
            error = (await stream_of(provider))[1] if streamed else await failure_of(provider)
            assert error is not None
            assert (error.kind, error.retry_after) == ("rate_limited", seconds), headers

    async def test_llmocks_faults_are_told_apart(self, against: Any, llmock: LLMock) -> None:
        llmock.rate_limit(retry_after=0.1).fail(500).fail(503).fail(401).fail(404)
        llmock.context_overflow()
        errors = [await failure_of(against) for _ in range(6)]
        assert [error.kind for error in errors] == [
            "rate_limited",
            "unavailable",
            "provider_overloaded",
            "authentication",
            "model_not_found",
            "context_too_long",
        ]
        assert errors[0].retry_after == 0.1
        assert len(llmock.requests) == 6

    async def test_what_is_no_answer_is_a_protocol_error(
        self, told: Scripted, provider: Any
    ) -> None:
        replies = [
            response("<html>hello</html>", content_type="text/html"),
            response('{"cut": "of'),
            response(""),
            response("[]"),
            response("null"),
            response("{}"),
            response(b"\xff\xfe\xff"),
            response("not gzip", content_encoding="gzip"),
            response("", status="302 Found", location="/login"),
        ]
        for reply in replies:
            told.says(reply)
            error = await failure_of(provider)
            assert (error.kind, error.model_id) == ("protocol", "gpt-4o"), reply
        assert len(told.requests) == len(replies)

    async def test_a_dropped_connection_is_unavailable(self, told: Scripted, provider: Any) -> None:
        scripts: list[list[Part]] = [
            [response(self.dialect.whole("Hello"))[:-10]],  # the length promised more
            [Abort],
            [b""],
            [b"HTTP/1.1 200 OK\r\ncontent-type: appl"],
            [b"SSH-2.0-OpenSSH_9.6\r\n"],
            [response("busy" * 100, status="503 Busy")[:-10], Abort],
        ]
        for script in scripts:
            told.says(*script)
            error = await failure_of(provider)
            assert (error.kind, error.model_id) == ("unavailable", "gpt-4o"), script
        assert told.connections == len(scripts)
        assert active(provider) == 0

    async def test_a_refused_connection_is_unavailable_and_says_why(self) -> None:
        async with self.dialect.provider(_nowhere()) as provider:
            error = await failure_of(provider)
            _, streamed = await stream_of(provider)
        assert streamed is not None
        assert (error.kind, streamed.kind) == ("unavailable", "unavailable")
        assert "ConnectError" in str(error)

    async def test_what_cannot_be_written_is_a_bad_request_and_not_sent(
        self, told: Scripted, provider: Any
    ) -> None:
        for value in (object(), "\ud800"):
            error = await failure_of(provider, call_of(user=value))
            assert (error.kind, error.model_id) == ("bad_request", "gpt-4o")
        assert told.requests == []

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
        self, told: Scripted, provider: Any, message: str
    ) -> None:
        told.says(response({"error": {"message": message}}, status="401 Unauthorized"))
        error = await failure_of(provider)
        assert "***" in str(error)
        for i in range(len(KEY) - 8):
            assert KEY[i : i + 8] not in str(error)

    async def test_a_key_is_in_no_repr_log_or_traceback(
        self, told: Scripted, provider: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        told.says(response(self.dialect.whole("Hello")))
        told.says(SSE, self.dialect.pieces("Hello"), self.dialect.ending())
        told.says(response({"error": {"message": f"wrong key {KEY}"}}, status="401 No"))
        told.says(SSE, self.dialect.pieces("Hello"), b"data: nonsense\n\n")
        told.says(Abort)
        with caplog.at_level(logging.DEBUG):
            await provider.complete(call_of())
            errors = [(await stream_of(provider))[1], await failure_of(provider)]
            errors += [(await stream_of(provider))[1], await failure_of(provider)]
        assert [error.kind for error in errors if error] == [
            "authentication",
            "stream_interrupted",
            "unavailable",
        ]
        told_all = [line for error in errors if error for line in traceback.format_exception(error)]
        assert not [text for text in (repr(provider), *told_all, caplog.text) if KEY in text]

    # ------------------------------------------------------------ streams that break

    async def test_a_stream_is_read_to_its_end(self, told: Scripted, provider: Any) -> None:
        said = self.dialect.pieces("H\u00e9", "llo") + self.dialect.ending()
        told.says(SSE, *(said[i : i + 7] for i in range(0, len(said), 7)))
        chunks, error = await stream_of(provider)
        assert error is None
        assert [chunk.text for chunk in chunks if chunk.text] == ["Hé", "llo"]
        assert chunks[-1].finish_reason == "stop"
        await nothing_open(told)

    async def test_without_its_end_a_stream_is_interrupted(
        self, told: Scripted, provider: Any
    ) -> None:
        told.says(SSE, self.dialect.pieces("Hel", "lo"))
        told.says(SSE)
        for text in ("Hello", ""):
            chunks, error = await stream_of(provider)
            assert text_of(chunks) == text
            assert isinstance(error, StreamInterruptedError)
            assert (error.text, error.model_id) == (text, "gpt-4o")
            assert not any(chunk.finish_reason for chunk in chunks)

    async def test_a_reason_alone_is_no_end(self, told: Scripted, provider: Any) -> None:
        if not self.dialect.has_end_marker:
            pytest.skip("this API has no event that ends a stream")
        events = self.dialect.ending().split(b"\n\n")
        told.says(SSE, self.dialect.pieces("Hello"), b"\n\n".join(events[:-2]) + b"\n\n")
        chunks, error = await stream_of(provider)
        assert isinstance(error, StreamInterruptedError)
        assert error.text == text_of(chunks) == "Hello"

    @pytest.mark.parametrize("broken", [b'data: {"cut\n\n', b"data: []\n\n", b"data: nonsense\n\n"])
    async def test_a_malformed_chunk_interrupts(
        self, told: Scripted, provider: Any, broken: bytes
    ) -> None:
        told.says(SSE, self.dialect.pieces("Hello"), broken, self.dialect.ending())
        chunks, error = await stream_of(provider)
        assert isinstance(error, StreamInterruptedError)
        assert error.text == text_of(chunks) == "Hello"
        assert active(provider) == 0

    @pytest.mark.parametrize("last", [Abort, b'data: {"cut'])
    async def test_a_stream_that_is_dropped_is_interrupted(
        self, told: Scripted, provider: Any, last: Part
    ) -> None:
        told.says(SSE, self.dialect.pieces("Hello"), 0.02, last)
        chunks, error = await stream_of(provider)
        assert isinstance(error, StreamInterruptedError)
        assert error.text == text_of(chunks) == "Hello"
        assert active(provider) == 0

    @pytest.mark.parametrize("fault", ["truncate", "corrupt", "disconnect"])
    async def test_llmocks_broken_streams_are_errors(
        self, against: Any, llmock: LLMock, fault: str
    ) -> None:
        for after in range(7):
            llmock.reply("One two three four five six seven.")
            getattr(llmock, fault)(after_chunks=after)
            chunks, error = await stream_of(against)
            assert error is not None
            assert not any(chunk.finish_reason for chunk in chunks)
            assert active(against) == 0
            if chunks:
                assert isinstance(error, StreamInterruptedError)
                assert error.text == text_of(chunks)

    async def test_an_error_with_status_200_is_an_error(
        self, told: Scripted, provider: Any
    ) -> None:
        fault = {"error": {"code": 429, "message": "slow down"}}
        told.says(response(fault))
        _, error = await stream_of(provider)
        assert error is not None
        assert error.kind == "rate_limited"

    async def test_a_server_that_does_not_stream_is_an_error(
        self, told: Scripted, provider: Any
    ) -> None:
        told.says(response("<html>", content_type="text/html"))
        chunks, error = await stream_of(provider)
        assert chunks == []
        assert error is not None
        assert error.kind == "protocol"

    # ------------------------------------------------------------ time

    async def test_a_slow_first_token_is_waited_for(self, against: Any, llmock: LLMock) -> None:
        llmock.slow_first_token(0.1)
        chunks, error = await stream_of(against)
        assert error is None
        assert text_of(chunks)
        assert len(llmock.requests) == 1

    async def test_a_stall_is_cancelled(self, against: Any, llmock: LLMock) -> None:
        llmock.reply("One two three four five six seven.")
        llmock.stall(after_chunks=4, seconds=0.2)
        begun, chunks = asyncio.Event(), list[Chunk]()

        async def read() -> None:
            async for chunk in against.stream(call_of()):
                chunks.append(chunk)
                begun.set()

        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not any(chunk.finish_reason for chunk in chunks)
        assert active(against) == 0
        assert len(llmock.requests) == 1

    async def test_cancelling_closes_the_connection_wherever_the_server_is(
        self, told: Scripted, provider: Any
    ) -> None:
        whole = response(self.dialect.whole("Hello"))
        scripts: list[tuple[list[Part], bool]] = [
            ([Hang], False),
            ([Hang], True),
            ([whole[:-9], Hang], False),
            ([response("busy", status="503 Busy")[:-2], Hang], False),
            ([response("busy", status="503 Busy")[:-2], Hang], True),
            ([response("busy")[:-2], Hang], True),
            ([SSE, Hang], True),
            ([SSE, b"data: {", Hang], True),
            ([SSE, self.dialect.pieces("So"), Hang], True),
        ]
        for script, streamed in scripts:
            told.says(*script)
            async with running(
                lambda streamed=streamed: (
                    stream_of(provider) if streamed else provider.complete(call_of())
                )
            ) as task:
                await all_open(told, 1)
                task.cancel()
            await nothing_open(told)
            assert connections_of(provider) == [], script

    async def test_a_call_cancelled_at_any_turn_leaves_no_connection(
        self, told: Scripted, provider: Any
    ) -> None:
        # One script for each, and some: a request may come to be read after its client has left.
        told.scripts += [[SSE, self.dialect.pieces("So"), Hang] for _ in range(80)]
        for i in range(40):
            task = asyncio.create_task(stream_of(provider))
            for _ in range(i):
                await asyncio.sleep(0)
            await asyncio.sleep(i / 10_000)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert connections_of(provider) == []
        await nothing_open(told)

    async def test_many_streams_cancelled_at_once_leave_no_connection(
        self, told: Scripted, provider: Any
    ) -> None:
        for _ in range(20):
            told.says(SSE, self.dialect.pieces("a"), Hang)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stream_of(provider)) for _ in range(20)]
            await all_open(told, 20)
            await asyncio.sleep(A_WHILE)
            for task in tasks:
                task.cancel()
        await nothing_open(told)
        assert connections_of(provider) == []

    # ------------------------------------------------------------ whose it is

    async def test_connections_are_kept_and_leaving_closes_them(
        self, told: Scripted, provider: Any
    ) -> None:
        for _ in range(2):
            told.says(response(self.dialect.whole("Hello"), keep=True))
            assert (await provider.complete(call_of())).text == "Hello"
        assert told.connections == told.open == 1
        await provider.aclose()
        await nothing_open(told)
        with pytest.raises(RouterStateError, match="closed"):
            await provider.complete(call_of())
        with pytest.raises(RouterStateError, match="closed"):
            await anext(provider.stream(call_of()))
        await provider.aclose()

    async def test_a_client_of_the_users_stays_the_users(self, told: Scripted) -> None:
        client = self.dialect.client(told)
        for keep in (True, False):
            told.says(response(self.dialect.whole("Hello"), keep=keep))
        async with self.dialect.of(client) as provider:
            assert (await provider.complete(call_of())).text == "Hello"
        await provider.aclose()
        assert (await provider.complete(call_of())).text == "Hello"
        await self.dialect.close(client)

    async def test_a_users_clients_retries_do_not_count(self, told: Scripted) -> None:
        client = self.dialect.client(told)  # with retries of its own
        provider = self.dialect.of(client)
        for _ in range(4):
            told.says(response({}, status="503 Busy"))
        assert (await failure_of(provider)).kind == "provider_overloaded"
        _, error = await stream_of(provider)
        assert error is not None
        assert error.kind == "provider_overloaded"
        assert len(told.requests) == 2
        await self.dialect.close(client)

    def test_another_loop_is_told_so(self) -> None:
        provider = self.dialect.provider(_nowhere())

        async def scenario() -> None:
            with pytest.raises(RouterStateError, match="another event loop"):
                await provider.complete(call_of())
            with pytest.raises(RouterStateError, match="another event loop"):
                await anext(provider.stream(call_of()))
            with pytest.raises(RouterStateError, match="another event loop"):
                await provider.aclose()

        with asyncio.Runner() as first, asyncio.Runner() as second:
            first.run(provider.__aenter__())
            second.run(scenario())
            first.run(provider.aclose())

    # ------------------------------------------------------------ configuration

    def test_its_module_imports_no_sdk_and_a_missing_one_is_named(self) -> None:
        provider = type(self.dialect.provider(_nowhere())).__name__
        code = f"""
import sys
from asyncroute import ConfigurationError
from asyncroute.providers import {provider}
assert {self.dialect.module!r} not in sys.modules, "imported too early"
sys.modules[{self.dialect.module!r}] = None
try:
    {provider}("key")
except ConfigurationError as error:
    print(error)
"""
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=15
        )
        assert f"asyncroute[{self.dialect.extra}]" in ran.stdout
        assert provider in ran.stdout

    def test_a_key_beside_a_client_is_refused(self, told: Scripted) -> None:
        client = self.dialect.client(told)
        with pytest.raises(ConfigurationError, match="api_key"):
            type(self.dialect.of(client))("secret", client=client)

    def test_no_key_is_a_mistake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("OPENAI", "ANTHROPIC", "GOOGLE", "GEMINI", "MISTRAL"):
            monkeypatch.delenv(f"{name}_API_KEY", raising=False)
        kind = type(self.dialect.provider(_nowhere()))
        with pytest.raises(ConfigurationError, match="api_key"):
            kind()
        with pytest.raises(ConfigurationError, match="SOME_KEY"):
            kind(api_key_env="SOME_KEY")

    @pytest.mark.parametrize("key", ["secret\x00key", "secret\nkey", "secret…key"])
    def test_a_key_that_cannot_be_sent_is_refused_without_telling_it(self, key: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.dialect.provider(_nowhere(), key)
        assert "secret" not in str(caught.value)


def _nowhere() -> Scripted:
    server = Scripted()
    server.url = "http://127.0.0.1:9/v1"
    return server


def mapped_kinds(provider: Any, errors: list[Exception]) -> dict[str, str]:
    """What becomes of each exception, by its class."""
    return {type(it).__name__: provider._wire.failure(it, call_of()).kind for it in errors}
