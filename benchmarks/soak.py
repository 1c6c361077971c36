"""A hundred thousand calls of mixed faults and cancellations; afterwards nothing may be left over.

    uv run python benchmarks/soak.py [--calls 100000] [--callers 1000] [--seed 1]

In virtual time. The provider (`soak_provider.py`) keeps a ledger of its own: what it was sent, how
many calls ran at once, what it bills. Exits with 1 if a figure is off.
"""
# ruff: noqa: SLF001 - it looks inside, to see that nothing is left there

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from soak_callers import Caller, Routers, Seen
from soak_provider import Chaos, Ledger

from asyncroute import LLMRouter, ModelConfig, MoneyBudget
from asyncroute.testing import VirtualClockLoop

GRACE = 0.1
"""Seconds by which a request may end late: a tick of 20 ms and the losers' grace of 50 ms."""


def open_routers(providers: dict[str, Chaos], seed: int) -> Routers:
    model = partial(
        ModelConfig,
        input_cost_per_1k=0.5,
        output_cost_per_1k=1.7,
        avg_latency_ms=900.0,
        max_tokens=32_000,
    )
    grouped = partial(
        model, requests_per_minute=1200, tokens_per_minute=400_000, quota_group="account"
    )
    models = [
        model(model_id="a", provider="prompt", max_concurrent_requests=100),
        model(model_id="bb", provider="rough", max_concurrent_requests=120),
        grouped(model_id="ccc", provider="prompt", max_concurrent_requests=40),
        grouped(model_id="dddd", provider="rough", max_concurrent_requests=50),
        model(
            model_id="eeeee",
            provider="prompt",
            max_concurrent_requests=60,
            requests_per_minute=1500,
        ),
        ModelConfig(
            model_id="ffffff", provider="rough", max_concurrent_requests=3, quality_score=0.9
        ),
    ]
    budgets = [
        MoneyBudget(1400.0, window=60.0),
        MoneyBudget(330.0, window=60.0, per="tenant"),
        MoneyBudget(500.0, window=60.0, per="model", only=["a"]),
    ]
    plain = LLMRouter(
        models,
        providers,
        budgets=budgets,
        fair_by="tenant",
        max_workers=300,
        queue_size=100,
        metrics_window=200,
        seed=seed,
    )
    shared = [model(model_id=f"shared-{name}", provider=name) for name in ("prompt", "rough")]
    caching = LLMRouter(
        shared, providers, cache=True, adaptive_concurrency=True, metrics_window=200, seed=seed
    )
    return Routers(plain, caching)


def left_in(router: LLMRouter) -> Counter[str]:
    """Count what is held, waited for, reserved, running or armed."""
    executor = router._executor
    assert executor is not None
    runtime, now = executor.runtime, executor.runtime.now()
    left: Counter[str] = Counter()
    left["requests in flight"] = len(executor._courses)
    left["tasks"] = len(runtime.supervisor)
    left["armed deadlines"] = sum(map(len, runtime.deadlines._buckets.values()))
    left["timers"] = len(runtime.deadlines._timers)
    left["shared runs"] = router._cache.snapshot().running if router._cache else 0
    for account in router._budgets.snapshot(now):
        left["reservations of money"] += account.open
        left["picodollars still booked"] += round(account.booked * 1e12)
    workers = router._balancer._workers
    left["workers"] = 0 if workers is None else workers.used
    for endpoint in router._registry:
        lane, limiter = endpoint.lane, endpoint.lane.capacity.limiter
        left["requests assigned"] += abs(endpoint.assigned)
        left["slots"] += lane.in_flight
        left["slots of the limiter"] += limiter.borrowed_tokens if limiter else 0
        left["queued waiters"] += lane.queued + len(lane.pool)
        left["probes"] += endpoint.health._probe is not None
        if lane.share is not None:
            tokens = lane.share.quota._tokens
            left["lanes waiting for limits"] += len(lane.share.waiting)
            left["timers of limits"] += lane.share._timer is not None
            if tokens is not None:
                tokens.fits(0, now)  # drops what has left the window
                left["tokens reserved"] += tokens.level
    return left


class Memory(NamedTuple):
    """What the process has after a collection."""

    blocks: int
    mebibytes: float

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        gc.collect()
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        resident = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
        return cls(sys.getallocatedblocks(), sum(resident) / 1024)


class Figure(NamedTuple):
    """A line of the report; where nothing is wanted of it, it cannot be off."""

    name: str
    value: str
    wanted: str = ""
    is_off: bool = False


class Soak:
    """The whole of it: a fifth to warm up, a rest, the other calls, what is left.

    Attributes:
        seen: What the callers saw.
        figures: The report.
    """

    def __init__(self, calls: int, callers: int = 1000, seed: int = 1) -> None:
        self.seen = Seen()
        self.figures: list[Figure] = []
        self._calls = calls
        self._callers = callers
        self._seed = seed
        self._rng = random.Random(seed)
        self._ledger = Ledger()
        self._loop_errors: Counter[str] = Counter()
        with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
            runner.run(self._run())

    @property
    def off(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.is_off]

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        tasks_before = len(asyncio.all_tasks())
        providers = {
            name: Chaos(self._ledger, random.Random(self._rng.random()), promptly=name == "prompt")
            for name in ("prompt", "rough")
        }
        routers = open_routers(providers, self._seed)
        async with routers.plain, routers.caching:
            tasks_at_rest = len(asyncio.all_tasks())
            warm_up = max(self._calls // 5, 1)
            await self._ask(routers, providers["rough"], warm_up)
            at_first, started = Memory.now(), time.perf_counter()
            await self._ask(routers, providers["rough"], self._calls - warm_up)
            seconds = time.perf_counter() - started
            left = left_in(routers.plain)
            left.update(left_in(routers.caching))
            left["tasks of the loop"] = len(asyncio.all_tasks()) - tasks_at_rest
            self._tell_what_happened()
            self._tell_what_is_left(left, at_first, Memory.now())
            self._tell_the_bill(routers)
        self._none(
            "tasks left when the routers are closed", len(asyncio.all_tasks()) - tasks_before
        )
        self._tell("calls per second", f"{(self._calls - warm_up) / seconds:,.0f}")
        for error, count in (self.seen.surprises + self._loop_errors).items():
            self._tell("error", f"{count} x {error}")

    def _on_loop_error(self, _: object, context: dict[str, Any]) -> None:
        self._loop_errors[f"{context.get('message')}: {context.get('exception')!r}"] += 1

    async def _ask(self, routers: Routers, chaos: Chaos, calls: int) -> None:
        callers = min(self._callers, calls)
        each, more = divmod(calls, callers)
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = Caller(routers, chaos, self.seen, random.Random(self._rng.random()))
                group.create_task(caller.ask(each + (number < more)))
        await asyncio.sleep(3600.0)  # until every limit per minute is free again

    def _tell(self, name: str, value: object) -> None:
        self.figures.append(Figure(name, str(value)))

    def _none(self, name: str, count: float) -> None:
        self.figures.append(Figure(name, f"{count:,}", "0", is_off=count != 0))

    def _at_most(self, name: str, value: float, most: float, unit: str = "") -> None:
        shown, wanted = f"{value:,.4g}{unit}", f"<= {most:,.4g}{unit}"
        self.figures.append(Figure(name, shown, wanted, is_off=not value <= most))

    def _tell_what_happened(self) -> None:
        seen, ledger = self.seen, self._ledger
        self._tell("calls", f"{sum(seen.kinds.values()):,} by {self._callers:,} callers")
        self._tell("virtual time", f"{asyncio.get_running_loop().time() - 7200:,.0f} s")
        for name, counts in (
            ("asked", seen.kinds),
            ("came to", seen.outcomes),
            ("attempts told", seen.roles),
            ("provider did", ledger.did),
        ):
            self._tell(name, ", ".join(f"{each} {n:,}" for each, n in counts.most_common()))
        self._none("unknown errors met by callers", sum(seen.surprises.values()))
        self._none("errors logged by the loop", sum(self._loop_errors.values()))
        for instant, seconds in seen.latest.items():
            self._at_most(f"latest end after {instant}", seconds, GRACE, " s")
        self._none("half streams that ended as if complete", seen.half_streams)
        self._none("calls sent after their request was over", ledger.too_late)
        self._none("calls above a model's slots", ledger.over_slots)
        self._none("calls above a limit per minute", ledger.over_rate)

    def _tell_what_is_left(self, left: Counter[str], at_first: Memory, at_last: Memory) -> None:
        left["calls open at the provider"] = self._ledger.open
        for what in sorted(left):
            self._none(f"left: {what}", left[what])
        blocks = at_last.blocks - at_first.blocks
        self._at_most("memory: blocks more than after a fifth", blocks, 20_000)
        mebibytes = at_last.mebibytes - at_first.mebibytes
        self._at_most("memory: resident more", mebibytes, 16.0, " MiB")

    def _tell_the_bill(self, routers: Routers) -> None:
        ledger = self._ledger
        totals = [router._metrics.snapshot() for router in routers]
        settled = {
            name: of["total_requests"]
            for router in routers
            for name, of in router.get_statistics()["model_stats"].items()
        }
        wrong = sum(abs(count - ledger.sent[name]) for name, count in settled.items())
        self._tell("provider calls sent", f"{ledger.sent.total():,}")
        self._tell("attempts settled", f"{sum(settled.values()):,}")
        self._none("sent but not settled, or settled twice", wrong)
        estimated = sum(total.estimated_cost for total in totals)
        spend = sum(total.total_cost for total in totals) - estimated
        self._tell("spend by reported usage", f"${spend:,.6f}")
        self._tell("the provider's ledger", f"${ledger.billed:,.6f}")
        self._at_most("difference", abs(spend - ledger.billed), 0.005, " $")
        # Also of calls that were cancelled before the provider had begun to bill them.
        self._tell("spend estimated", f"${estimated:,.2f}; unreported ${ledger.unreported:,.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    soak = Soak(asked.calls, asked.callers, asked.seed)
    table = Table(title=f"Soak, CPython {sys.version.split()[0]}, asyncio, seed {asked.seed}")
    for column in ("", "figure", "wanted"):
        table.add_column(column)
    for figure in soak.figures:
        table.add_row(*figure[:3], style="bold red" if figure.is_off else None)
    Console().print(table)
    return 1 if soak.off else 0


if __name__ == "__main__":
    sys.exit(main())
