"""How cost is measured: CPU time, in short rounds that are interleaved in one process.

Only ratios within one round mean something on a shared machine, so a ratio is taken in each round
and its median is told. Needs the standard library only, so that it runs in any environment.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")

Case = Callable[[], Awaitable[object]]
"""Starts what is measured, once."""

Times = dict[str, list[float]]
"""Microseconds a call, round by round, by the case's name."""

PROMPT = "Explain in two sentences what a router for language models does, and why latency matters."

ROUND = 0.03
"""Seconds of CPU that one case takes in one round."""


def run(function: Callable[[], Coroutine[Any, Any, T]], loop: str = "asyncio") -> T:
    """Run a coroutine function on a loop of this kind, `asyncio` or `uvloop`."""
    if loop == "asyncio":
        return asyncio.run(function())
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(function())


async def cpu_us(case: Case, calls: int) -> float:
    """CPU microseconds of one call, by so many of them in a row."""
    gc.collect()
    started = time.process_time()
    for _ in range(calls):
        await case()
    return (time.process_time() - started) / calls * 1e6


async def interleaved(cases: Mapping[str, Case], rounds: int) -> Times:
    """Measure every case once a round; each makes as many calls a round as take `ROUND`."""
    calls: dict[str, int] = {}
    for name, case in cases.items():
        await cpu_us(case, 20)  # what is done once only
        calls[name] = max(10, int(ROUND * 1e6 / await cpu_us(case, 20)))
    times: Times = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name].append(await cpu_us(case, calls[name]))
    return times


def ratio(times: Times, name: str, to: str = "minimum") -> float:
    """How often the one goes into the other: the median of the rounds' ratios."""
    return median(a / b for a, b in zip(times[name], times[to], strict=True))


def surplus(times: Times, name: str, beyond: str, to: str = "minimum") -> float:
    """What one case costs more than another, as a ratio: the median of the rounds' ratios."""
    rounds = zip(times[name], times[beyond], times[to], strict=True)
    return median((a - b) / unit for a, b, unit in rounds)


def ratio_beyond(times: Times, name: str, to: str, beyond: str) -> float:
    """How often the one goes into the other, without what both do besides: the rounds' median."""
    rounds = zip(times[name], times[to], times[beyond], strict=True)
    return median((a - b) / (unit - b) for a, unit, b in rounds)


async def calls_per_second(case: Case, callers: int, calls: int) -> float:
    """Calls a second of CPU time that so many callers get through, each making so many in a row.

    To be read where the loop is never idle.
    """

    async def caller() -> None:
        for _ in range(calls):
            await case()

    gc.collect()
    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return callers * calls / (time.process_time() - started)
