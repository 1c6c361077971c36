"""The example app under a real server, with real clients that leave half way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import uvicorn

from asyncroute import (
    AllAttemptsFailedError,
    AsyncRouteError,
    BudgetExceededError,
    Call,
    Chunk,
    Completion,
    ConfigurationError,
    ContentRefusedError,
    DeadlineExceededError,
    ModelConfig,
    NoEligibleModelError,
    OverloadedError,
    RouterStateError,
    Usage,
)
from asyncroute.providers import OpenAICompatibleProvider

if TYPE_CHECKING:
    from fastapi import FastAPI

pytestmark = pytest.mark.real_time

MODEL = ModelConfig(model_id="m", provider="p", cost_per_1k_tokens=0.01, max_concurrent_requests=4)
ASKED = {"text": "Hello"}


class Upstream:
    """Answers at once or never, and tells what became of its calls."""

    cancels_promptly = True

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.calls = self.is_open = self.cancelled = 0

    async def _wait(self) -> None:
        if not self.answers:
            await asyncio.sleep(60)

    async def complete(self, call: Call, /) -> Completion:
        self.calls += 1
        self.is_open += 1
        try:
            await self._wait()
            return Completion("Hi there", Usage(10, 5))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.is_open -= 1

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        self.calls += 1
        self.is_open += 1
        try:
            yield Chunk("Hi ")
            await self._wait()
            yield Chunk("there", finish_reason="stop", usage=Usage(10, 5))
        finally:
            self.is_open -= 1


@asynccontextmanager
async def serving(app: FastAPI, log_level: str = "error") -> AsyncIterator[httpx2.AsyncClient]:
    """Run the app on a port of its own; give a client for it."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level=log_level, ws="none", timeout_graceful_shutdown=1)
    )
    server.capture_signals = nullcontext  # type: ignore[method-assign]
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started or running.done())
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def until(holds: Callable[[], Any], *, at_most: float = 2.0) -> None:
    async with asyncio.timeout(at_most):
        while not holds():  # noqa: ASYNC110 - what is watched tells nobody
            await asyncio.sleep(0.002)


def app_over(provider: Any) -> FastAPI:
    return import_module("fastapi_app").create_app([MODEL], {"p": provider})


@asynccontextmanager
async def asking(client: httpx2.AsyncClient, *paths: str) -> AsyncIterator[None]:
    """Ask each path; at the end of the block the clients leave, answered or not."""
    asked = [asyncio.create_task(client.post(path, json=ASKED)) for path in paths]
    try:
        yield
    finally:
        assert not any(request.done() for request in asked)
        for request in asked:
            request.cancel()
        await asyncio.wait(asked)


async def load(client: httpx2.AsyncClient) -> tuple[int, int]:
    """Slots in use and requests that wait, as the app tells."""
    stats = (await client.get("/statistics")).json()["model_stats"]["m"]
    return stats["active_requests"], stats["queued_requests"]


async def until_load(client: httpx2.AsyncClient, wanted: tuple[int, int]) -> None:
    async with asyncio.timeout(2):
        while await load(client) != wanted:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.002)


def read_events(text: str) -> list[tuple[str, Any]]:
    pairs = (block.split("\n") for block in text.strip().split("\n\n"))
    return [(e.removeprefix("event: "), json.loads(d.removeprefix("data: "))) for e, d in pairs]


async def test_it_answers_streams_and_counts() -> None:
    app = app_over(Upstream(answers=True))
    async with serving(app) as client:
        answer = await client.post("/chat", json=ASKED)
        assert answer.json() == {"text": "Hi there", "model": "m", "cost": pytest.approx(0.00015)}
        streamed = await client.post("/chat/stream", json=ASKED)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert read_events(streamed.text) == [
            ("text", "Hi "),
            ("text", "there"),
            ("done", {"model": "m", "cost": pytest.approx(0.00015)}),
        ]
        statistics = (await client.get("/statistics")).json()
        assert statistics["total_requests"] == statistics["successful_requests"] == 2
        assert statistics["model_stats"]["m"]["active_requests"] == 0


async def test_a_client_that_leaves_ends_the_call_it_waited_for() -> None:
    provider = Upstream(answers=False)
    app = app_over(provider)
    async with serving(app) as client:
        async with asking(client, "/chat"):
            await until(lambda: provider.is_open)
            assert await load(client) == (1, 0)
        await until(lambda: not provider.is_open)
        assert (provider.calls, provider.cancelled) == (1, 1)
        await until_load(client, (0, 0))
        provider.answers = True
        assert (await client.post("/chat", json=ASKED)).status_code == 200


async def test_a_client_that_leaves_a_stream_closes_the_providers() -> None:
    provider = Upstream(answers=False)
    app = app_over(provider)
    async with serving(app) as client:
        async with client.stream("POST", "/chat/stream", json=ASKED) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data"):
                    break
            assert (provider.is_open, await load(client)) == (1, (1, 0))
        await until(lambda: not provider.is_open)
        await until_load(client, (0, 0))
        assert provider.calls == 1


async def test_many_clients_leave_at_once_and_every_slot_comes_back() -> None:
    provider = Upstream(answers=False)
    async with serving(app_over(provider)) as client:
        # Four have slots, the others queue.
        async with asking(client, *("/chat", "/chat/stream") * 8):
            await until_load(client, (4, 12))
            assert provider.is_open == 4
        await until_load(client, (0, 0))
        assert provider.is_open == 0
        calls = provider.calls
        provider.answers = True
        assert (await client.post("/chat", json=ASKED)).status_code == 200
        assert provider.calls == calls + 1


async def test_over_real_http_the_upstream_sees_the_connection_close() -> None:
    opened, closed = 0, 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, closed
        opened += 1
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            if b"accept: text/event-stream" in asked.lower() or opened > 1:
                chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "Hi"}}]})
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
                writer.write(f"data: {chunk}\n\n".encode())
                await writer.drain()
            while await reader.read(65536):  # to the end: when the other side closes
                pass
        finally:
            closed += 1
            writer.close()

    upstream = await asyncio.start_server(hold, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1"
    app = app_over(lambda: OpenAICompatibleProvider(url))
    async with upstream, serving(app) as client:
        async with asking(client, "/chat"):
            await until(lambda: opened == 1)
        await until(lambda: closed == 1)
        async with client.stream("POST", "/chat/stream", json=ASKED) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data"):
                    break
            assert (opened, closed) == (2, 1)
        await until(lambda: closed == 2)
        await until_load(client, (0, 0))


async def test_faults_of_providers_and_of_clients_have_a_status() -> None:
    class Refuses:
        cancels_promptly = True

        async def complete(self, call: Call, /) -> Completion:
            raise ContentRefusedError("not this", status=400)

    async with serving(app_over(Refuses())) as client:
        for path in ("/chat", "/chat/stream"):
            answer = await client.post(path, json=ASKED)
            assert (answer.status_code, answer.json()["kind"]) == (422, "all_attempts_failed")
            assert "not this" in answer.json()["detail"]
            for bad in ({}, {"text": ""}, {"text": "Hi", "max_cost": -1}):
                assert (await client.post(path, json=bad)).status_code == 422


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (OverloadedError("full", retry_after=1.2), 429, "2"),
        (OverloadedError("full"), 429, None),
        (BudgetExceededError("spent", renews_after=60.0), 402, "60"),
        (NoEligibleModelError("too dear"), 422, None),
        (NoEligibleModelError("all ejected", retry_after=4.0), 503, "4"),
        (DeadlineExceededError("late"), 504, None),
        (AllAttemptsFailedError("all down", retry_after=0.5), 502, "1"),
        (RouterStateError("closing"), 503, None),
        (ConfigurationError("no such strategy"), 500, None),
    ],
    ids=str,
)
async def test_errors_say_in_http_what_a_client_may_do(
    error: AsyncRouteError, status: int, retry_after: str | None
) -> None:
    class Failing:
        async def execute(self, text: str, **_: Any) -> None:
            raise error

        @asynccontextmanager
        async def stream(self, text: str, **_: Any) -> AsyncIterator[None]:
            raise error
            yield

    app = app_over(Upstream(answers=True))
    async with serving(app, log_level="critical") as client:
        app.state.router = Failing()
        for path in ("/chat", "/chat/stream"):
            answer = await client.post(path, json=ASKED)
            assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
            assert answer.headers["content-type"] != "text/event-stream"


async def test_a_stream_that_breaks_ends_in_an_event() -> None:
    class Breaks(Upstream):
        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            yield Chunk("Hi ")

    async with serving(app_over(Breaks(answers=True))) as client:
        streamed = await client.post("/chat/stream", json=ASKED)
        assert streamed.status_code == 200
        first, (name, data) = read_events(streamed.text)
        assert (first, name, data["kind"]) == (("text", "Hi "), "error", "stream_interrupted")
        assert await load(client) == (0, 0)


async def test_the_app_runs_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MODELS", "one, two")
    async with serving(import_module("fastapi_app").create_app()) as client:
        assert "simulated" in (await client.post("/chat", json=ASKED)).json()["text"]
        assert set((await client.get("/statistics")).json()["model_stats"]) == {"one", "two"}
