"""What streams cost: a chunk, an open stream, and thousands of them cancelled at once.

    uv run python benchmarks/streams.py [--streams 2000] [--rounds 7] [--json FILE]

Per chunk: CPU time, medians of interleaved rounds, as multiples of the minimum of `floor.py`. What
iterating the provider's own generator costs is taken off, what is left is ours.

Open streams: of a provider in this process, whose memory is measured by what Python allocates; then
over HTTP from a server in a process of its own, where it is what the whole process grows by. The
client's process is kept on one core. In the end all are cancelled at once; exits with 1 if a task,
a connection, a slot or a stream is left.
"""
# ruff: noqa: SLF001 - it looks inside, to see that nothing is left there

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from floor import Minimum
from report import Report, Row
from rich.console import Console
from rich.table import Table

from asyncroute import Call, Chunk, Completion, LLMRouter, ModelConfig, StreamingProvider, Usage
from asyncroute.providers import OpenAICompatibleProvider

GATES = {"inline": (0.3, 0.1), "handed over": (1.0, 0.4)}
CHUNKS = 2000
TEXT = "and so on "


class Talker:
    """Streams chunks without end, `gap` seconds apart, or so many of them.

    A gap of 0 lets one turn of the loop pass, and None nothing.
    """

    def __init__(
        self, gap: float | None, *, promptly: bool = True, chunks: int = sys.maxsize
    ) -> None:
        self.gap = gap
        self.cancels_promptly = promptly
        self.chunks = chunks
        self.open = 0

    async def complete(self, call: Call, /) -> Completion:
        raise NotImplementedError

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        self.open += 1
        try:
            for _ in range(self.chunks):
                if self.gap is not None:
                    await asyncio.sleep(self.gap)
                yield Chunk(TEXT)
            yield Chunk(finish_reason="stop", usage=Usage(10, self.chunks))
        finally:
            self.open -= 1


class Untrusted:
    """A provider as if it could not be trusted to end at once: its streams are handed over."""

    def __init__(self, provider: StreamingProvider) -> None:
        self.complete = provider.complete
        self.stream = provider.stream


def router_of(provider: Any, slots: int) -> LLMRouter:
    model = ModelConfig(
        model_id="m", provider="p", cost_per_1k_tokens=0.01, max_concurrent_requests=slots
    )
    return LLMRouter([model], {"p": provider}, seed=1)


# A chunk


Case = Callable[[], Awaitable[float]]
"""Does something often; returns the microseconds of CPU time that each took."""

WHEN = {"each after a wait": 0.0, "all there at once": None}


async def measure_chunks(rounds: int) -> dict[str, float]:
    """Microseconds per chunk: the provider's own iteration, and what we add to it."""
    cases: dict[str, Case] = {"minimum": one_minimum}
    async with contextlib.AsyncExitStack() as stack:
        for when, gap in WHEN.items():
            cases[f"bare, {when}"] = partial(read_bare, gap)
            for how in GATES:
                talker = Talker(gap, promptly=how == "inline", chunks=CHUNKS)
                router = await stack.enter_async_context(router_of(talker, 10))
                cases[f"{how}, {when}"] = partial(read_routed, router)
        medians = await medians_of(cases, rounds)
    for when in WHEN:
        for how in GATES:
            medians[f"{how}, {when}"] -= medians[f"bare, {when}"]
    return medians


async def medians_of(cases: dict[str, Case], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            gc.collect()
            spent = await case()
            if turn:  # the first warms up
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


async def one_minimum() -> float:
    async def answer(model: str, prompt: str) -> str:
        return "ok"

    minimum = Minimum(8, answer)
    started = time.process_time()
    for _ in range(CHUNKS):
        await minimum.execute("hello")
    return (time.process_time() - started) / CHUNKS * 1e6


async def read_bare(gap: float | None) -> float:
    call: Any = None
    return await read(Talker(gap, chunks=CHUNKS).stream(call))


async def read_routed(router: LLMRouter) -> float:
    async with router.stream("hello") as stream:
        return await read(stream)


async def read(chunks: AsyncIterator[Chunk]) -> float:
    await anext(chunks)
    started = time.process_time()
    async for _ in chunks:
        pass
    return (time.process_time() - started) / CHUNKS * 1e6


# Many streams


@dataclass
class Crowd:
    """What so many open streams took, and what was left of them.

    Attributes:
        streams: How many were open at the same time.
        kib_each: KiB for each, the consumer's task included.
        chunks_a_second: Chunks that all consumers together got, in real seconds.
        gone_after: Seconds from the cancellation of all to the end of the last.
        left: What was left; only what there is.
    """

    streams: int
    kib_each: float
    chunks_a_second: float
    gone_after: float
    left: dict[str, int]


async def hold(
    router: LLMRouter,
    count: int,
    *,
    seconds: float,
    memory: Callable[[], float],
    still_open: Callable[[], Awaitable[dict[str, int]]],
) -> Crowd:
    """Open so many streams, read them for some seconds, and cancel all of them at once.

    Args:
        router: The router.
        count: How many streams.
        seconds: How long they are read.
        memory: Tells the memory in use, in bytes.
        still_open: Tells what is open behind the router.
    """
    loop = asyncio.get_running_loop()
    before_tasks = len(asyncio.all_tasks())
    gc.collect()
    before = memory()
    opened = received = 0

    async def consume() -> None:
        nonlocal opened, received
        async with router.stream("Tell me everything", gap_timeout=600.0) as stream:
            opened += 1
            async for _ in stream:
                received += 1

    consumers = [loop.create_task(consume()) for _ in range(count)]
    while opened < count:
        await asyncio.sleep(0.01)
        for consumer in consumers:
            if consumer.done():
                consumer.result()
    gc.collect()
    grown = memory() - before
    at_first, since = received, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (received - at_first) / max(time.perf_counter() - since, 1e-9)

    cancelled_at = time.perf_counter()
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    gone_after = time.perf_counter() - cancelled_at
    survivors = sum(not consumer.cancelled() for consumer in consumers)
    del consumers
    left = {**at_rest(router), "not cancelled": survivors, **await still_open()}
    for _ in range(2):
        await asyncio.sleep(0)
    left["tasks"] = len(asyncio.all_tasks()) - before_tasks
    return Crowd(
        count, grown / count / 1024, rate, gone_after, {k: n for k, n in left.items() if n}
    )


def at_rest(router: LLMRouter) -> dict[str, int]:
    """What the router still holds."""
    executor = router._executor
    assert executor is not None
    endpoint = router._registry["m"]
    return {
        "slots": endpoint.lane.in_flight,
        "assigned": endpoint.assigned,
        "requests": len(executor._courses),
        "supervised tasks": len(executor.runtime.supervisor),
        "armed": sum(map(len, executor.runtime.deadlines._buckets.values())),
    }


async def crowd_in_process(
    count: int, *, promptly: bool, seconds: float, gap: float = 0.5
) -> tuple[Crowd, float]:
    """Hold streams of a provider in this process.

    Returns:
        What they took, and the KiB of the same streams without a router.
    """
    talker = Talker(gap, promptly=promptly)

    async def consume() -> None:
        call: Any = None
        async with contextlib.aclosing(talker.stream(call)) as chunks:
            async for _ in chunks:
                pass

    async def still_open() -> dict[str, int]:
        return {"streams": talker.open}

    with allocations() as memory:
        gc.collect()
        before = memory()
        consumers = [asyncio.create_task(consume()) for _ in range(count)]
        await asyncio.sleep(gap * 1.5)
        gc.collect()
        bare = (memory() - before) / count / 1024
        for consumer in consumers:
            consumer.cancel()
        await asyncio.wait(consumers)
        del consumers
        async with router_of(talker, count) as router:
            crowd = await hold(router, count, seconds=seconds, memory=memory, still_open=still_open)
    return crowd, bare


@contextlib.contextmanager
def allocations() -> Iterator[Callable[[], float]]:
    """What Python has allocated since."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


# Over HTTP


def crowd_over_http(count: int, *, promptly: bool, seconds: float) -> Crowd:
    """Hold streams of a server on loopback."""
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        return asyncio.run(_crowd_of(url, count, promptly=promptly, seconds=seconds))
    finally:
        server.terminate()
        server.wait()


async def _crowd_of(url: str, count: int, *, promptly: bool, seconds: float) -> Crowd:
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(OpenAICompatibleProvider(url))
        trusted = provider if promptly else Untrusted(provider)
        router = await stack.enter_async_context(router_of(trusted, count))

        async def still_open() -> dict[str, int]:
            pool: Any = provider._client._transport._pool  # type: ignore[attr-defined]
            used = sum(not connection.is_idle() for connection in pool.connections)
            return {"connections": used, "streams at the server": await seen_open(url)}

        return await hold(router, count, seconds=seconds, memory=resident, still_open=still_open)


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return float(pages * resource.getpagesize())


async def seen_open(url: str) -> int:
    """How many streams the server has open, when it has had time to see that they are closed."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    count = 1
    for _ in range(100):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /open HTTP/1.1\r\n\r\n")
        count = int((await reader.read()).rpartition(b"\r\n")[2])
        writer.close()
        if not count:
            break
        await asyncio.sleep(0.1)
    return count


async def serve() -> None:
    """Answer every request by a stream without end, a chunk every half second."""
    event = {"choices": [{"index": 0, "delta": {"content": TEXT}, "finish_reason": None}]}
    data = f"data: {json.dumps(event)}\n\n".encode()
    chunk = b"%x\r\n%b\r\n" % (len(data), data)
    is_open: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%d" % len(is_open))
                return
            is_open.add(writer)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            talking = asyncio.create_task(talk(writer))
            try:
                while await reader.read(65536):  # to its end: then the client has gone
                    pass
            finally:
                talking.cancel()
        except ConnectionError:
            pass
        finally:
            is_open.discard(writer)
            writer.close()

    async def talk(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0.5)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0, help="for which they are read")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if asked.serve:
        keep_on_core(-1)
        asyncio.run(serve())
        return

    keep_on_core(0)
    chunks = asyncio.run(measure_chunks(asked.rounds))
    crowds: dict[str, Crowd] = {}
    for how in GATES:
        options: dict[str, Any] = {"promptly": how == "inline", "seconds": asked.seconds}
        crowd, bare = asyncio.run(crowd_in_process(asked.streams, **options))
        crowds["without a router"] = Crowd(asked.streams, bare, 0.0, 0.0, {})
        crowds[f"{how}, in process"] = crowd
    for how in GATES:
        # A process of its own: in a used one, what it grows by says little.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            options = {"promptly": how == "inline", "seconds": asked.seconds}
            job = apart.submit(crowd_over_http, asked.streams, **options)
            crowds[f"{how}, over HTTP"] = job.result()
    Console().print(crowd_table(crowds))
    Report("Streams", tuple(rows_of(chunks, crowds))).tell(asked.json)
    sys.exit(any(crowd.left for crowd in crowds.values()))


def rows_of(chunks: dict[str, float], crowds: dict[str, Crowd]) -> Iterator[Row]:
    for how, gates in GATES.items():
        for when in WHEN:
            spent = chunks[f"{how}, {when}"] / chunks["minimum"]
            yield Row(f"a streamed chunk, {how}, {when}", spent, *gates)
    for name, crowd in crowds.items():
        yield Row(f"an open stream, {name}", crowd.kib_each, unit="KiB")
    count = max(crowd.streams for crowd in crowds.values())
    left = sum(sum(crowd.left.values()) for crowd in crowds.values())
    yield Row(f"left of {count:,} streams cancelled at once", left, 0.0, unit="objects")


def keep_on_core(index: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [range(os.cpu_count() or 1)[index]])


def crowd_table(crowds: dict[str, Crowd]) -> Table:
    table = Table(title="Streams open at once, then cancelled at once")
    for column in ("", "streams", "KiB each", "chunks/s", "gone after s", "left"):
        table.add_column(column, justify="right" if column else "left")
    for name, crowd in crowds.items():
        left = ", ".join(f"{count} {what}" for what, count in crowd.left.items()) or "nothing"
        table.add_row(
            name,
            str(crowd.streams),
            f"{crowd.kib_each:.1f}",
            f"{crowd.chunks_a_second:.0f}",
            f"{crowd.gone_after:.2f}",
            left,
        )
    return table


if __name__ == "__main__":
    main()
