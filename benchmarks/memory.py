"""What requests hold while in flight, and what they leave behind when they are over.

    uv run python benchmarks/memory.py [--calls 200000] [--json FILE]

In flight: bytes that Python allocated for calls held open, the caller's task included, by
tracemalloc. Left behind: bytes traced, and the process's resident set, over so many calls, every
fifth of which falls back, after as many as fill all rings and windows; and what the cyclic
collector finds after calls of every kind made without it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from measure import run
from report import Report, Row
from subject import ANSWER, NEVER_EJECTED, REQUEST, Instant, models, router_of

from asyncroute import Call, Completion, LLMRouter, QueryRequest, UnavailableError
from asyncroute.testing import run_virtual

Execute = Callable[[], Awaitable[object]]

IN_FLIGHT = 2000
KIB = 1024
PER_MINUTE = 500
"""Requests a model may start, so that its window of starts fills up soon."""

SETTLED = 10_000
"""Calls, by all models in turn, after which all rings and windows are full."""


class Holds:
    """Answers when it is told to."""

    cancels_promptly = True

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def complete(self, call: Call, /) -> Completion:
        await self.released.wait()
        return ANSWER


class FailsNowAndThen:
    """Takes its time, so that limits by the minute are never reached; every sixth call fails."""

    cancels_promptly = True

    def __init__(self, *, takes: float) -> None:
        self._takes = takes
        self.calls = self.failures = 0

    async def complete(self, call: Call, /) -> Completion:
        self.calls += 1
        if self._takes:
            await asyncio.sleep(self._takes)
        if self.calls % 6 == 0:
            self.failures += 1
            raise UnavailableError("down")
        return ANSWER


async def held_by(execute: Execute, holds: Holds) -> float:
    """Bytes of one call that is held open, its task included."""

    async def caller() -> None:
        await execute()

    async def open_calls() -> float:
        holds.released.clear()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(caller())
            for _ in range(5):
                await asyncio.sleep(0)
            held, _ = tracemalloc.get_traced_memory()
            holds.released.set()
        return (held - before) / IN_FLIGHT

    tracemalloc.start()
    await open_calls()  # what is grown once: sets, dictionaries, the loop's queue
    per_call = await open_calls()
    tracemalloc.stop()
    return per_call


async def in_flight() -> tuple[float, float]:
    """Bytes of a call in flight through the router, and of one that awaits the provider alone."""
    holds = Holds()
    bare = await held_by(holds.released.wait, holds)
    async with router_of(holds) as router:
        return await held_by(partial(router.execute, REQUEST), holds), bare


async def left_behind(calls: int) -> tuple[float, float]:
    """Bytes traced, and bytes of the resident set, that each call leaves."""
    provider = FailsNowAndThen(takes=0.2)
    configs = models(8, requests_per_minute=PER_MINUTE)
    async with router_of(provider, configs=configs, health=NEVER_EJECTED) as router:

        async def some(count: int, request: QueryRequest) -> tuple[int, int]:
            for _ in range(count):
                assert (await router.execute(request)).success
            gc.collect()
            return tracemalloc.get_traced_memory()[0], resident_bytes()

        tracemalloc.start()
        await some(SETTLED, REQUEST.model_copy(update={"strategy": "round_robin"}))
        traced, resident = await some(SETTLED, REQUEST)
        traced_after, resident_after = await some(calls, REQUEST)
        tracemalloc.stop()
    assert provider.failures > calls // 6
    return (traced_after - traced) / calls, (resident_after - resident) / calls


async def cyclic_objects() -> dict[str, float]:
    """Objects a call that only the cyclic collector finds, by kind of call."""
    found: dict[str, float] = {}
    failing = FailsNowAndThen(takes=0.0)
    promptly, supervised = Instant(), Instant(promptly=False)

    async def count(name: str, router: LLMRouter, calls: int = 1000, **how: str) -> None:
        async with router:
            await router.execute(REQUEST, **how)  # pyright: ignore[reportArgumentType]
            gc.collect()
            gc.disable()
            for _ in range(calls):
                await router.execute(REQUEST, **how)  # pyright: ignore[reportArgumentType]
            await asyncio.sleep(0)
            found[name] = gc.collect() / calls
            gc.enable()

    await count("one attempt", router_of(promptly))
    await count("fallbacks among them", router_of(failing, health=NEVER_EJECTED))
    await count("hedge armed", router_of(promptly), mode="hedged")
    await count("race of two", router_of(promptly), mode="race")
    await count("supervised", router_of(supervised))
    return found


def resident_bytes() -> int:
    """Bytes of this process in memory now; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    ours, bare = run(in_flight)
    traced, resident = run_virtual(left_behind, asked.calls)
    rows = [
        Row("a call in flight, its task included", ours / KIB, 4.0, unit="KiB"),
        Row("the same without a router", bare / KIB, unit="KiB"),
        # The process has caches that fill up at some time or other: less than a byte is nothing.
        Row("left by a call, traced", traced, 0.5, 0.0, unit="bytes"),
        Row("left by a call, resident set", resident, unit="bytes"),
    ]
    rows += [
        Row(f"cyclic objects a call, {name}", found, 0.0, unit="")
        for name, found in run(cyclic_objects).items()
    ]
    Report("Memory", tuple(rows)).tell(asked.json)


if __name__ == "__main__":
    main()
