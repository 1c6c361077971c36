"""What a decision costs among thousands of models while their metrics and health change.

    uv run python benchmarks/scale.py [--decisions 800] [--json FILE]

In virtual time, with calls in flight all over. Before each decision a call by a model drawn by lot
is settled, and one in fifty of them fails and sets its model aside for seconds. Only the decision
is timed. Two of each batch are checked against a full scan by the selector's public `score`.

The unit is the minimum's whole call over eight models, timed in the same situation: after each
batch of decisions comes one of as many calls of the minimum, each timed by itself and after such a
settled call, too. Both sides find the processor's caches full of something else. Until this was so
the minimum was timed in a loop of its own, where it finds them full of itself and takes half as
long, while decisions were timed as they are now. For `balanced` that ratio is told as well, without
a gate, so that figures from then can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import time
from collections.abc import Sequence
from functools import partial
from math import isclose
from pathlib import Path
from statistics import median

from floor import Minimum
from measure import PROMPT, Case, cpu_us
from report import Report, Row
from subject import ANSWER, models, router_of

from asyncroute import (
    BalancedSelector,
    Call,
    Candidate,
    Completion,
    CostOptimizedSelector,
    HealthSettings,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    LLMRouter,
    QualityOptimizedSelector,
    QueryRequest,
    Ranking,
    ScoredSelector,
    UnavailableError,
)
from asyncroute.testing import run_virtual

GATES = {1_000: (2.0, 0.8), 10_000: (3.0, 1.1)}
SCORED: dict[str, ScoredSelector] = {
    "balanced": BalancedSelector(),
    "cost_optimized": CostOptimizedSelector(),
    "latency_optimized": LatencyOptimizedSelector(),
    "quality_optimized": QualityOptimizedSelector(),
    "least_loaded": LeastLoadedSelector(),
}
STRATEGIES = (*SCORED, "round_robin")

IN_FLIGHT = 0.2
"""Calls in flight all the time, as a share of the models."""

FAILS = 0.02
BATCH = 50
"""Decisions between two looks at the ratio."""

CLOCK = median([-(time.process_time_ns() - time.process_time_ns()) for _ in range(1000)])
"""Nanoseconds that reading it takes."""

ROUND_ROBIN_AT_MOST = 200
"""Decisions by turn, since each of them costs much."""


class Unsteady:
    """Takes 0.1 to 3 s, fails now and then; the calls that are to stay in flight never end."""

    cancels_promptly = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.holds = False

    async def complete(self, call: Call, /) -> Completion:
        if self.holds:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self._rng.uniform(0.1, 3.0))
        if self._rng.random() < FAILS:
            raise UnavailableError("down")
        return ANSWER


class ByLot:
    """Any one of the models."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        return Ranking.in_order([self._rng.choice(candidates)])


class Scan(ScoredSelector):
    """What another selector would choose, by looking at every model."""

    def __init__(self, selector: ScoredSelector) -> None:
        super().__init__()
        self._selector = selector

    def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
        return self._selector.score(request, candidate)


def requests(strategy: str) -> list[QueryRequest]:
    """Requests of several sizes."""
    return [
        QueryRequest(
            query=PROMPT * size, strategy=strategy, max_cost=20.0, max_tokens=longest, timeout=30.0
        )
        for size in (1, 4, 16)
        for longest in (50, 400)
    ]


async def check(router: LLMRouter, request: QueryRequest) -> None:
    """Compare a decision with a full scan. Equals are drawn by lot, so the score is what counts."""
    scan = Scan(SCORED[request.strategy])
    found, best = await router.route(request), await router.route(request, strategy=scan)
    assert isclose(found.score, best.score, rel_tol=1e-9), (
        f"{request.strategy} chose {found.selected_model.model_id} ({found.score}),"
        f" best is {best.selected_model.model_id} ({best.score})"
    )


async def time_decisions(
    router: LLMRouter, churn: Churn, strategy: str, decisions: int
) -> tuple[float, float]:
    """The decision as a multiple of the minimum: the medians over batches.

    Returns:
        Over the minimum as decisions are timed, one by one; over the minimum in a loop of its own.
    """

    async def answer(model: str, prompt: str) -> str:
        return "ok"

    minimum = Minimum(8, answer)
    execute = partial(minimum.execute, PROMPT)
    asked = requests(strategy)
    alike: list[float] = []
    in_loop: list[float] = []
    for batch in range(decisions // BATCH + 1):
        await router.route(asked[0])  # takes up what changed while the minimum was timed
        took = least = 0.0
        for i in range(BATCH):
            request = asked[i % len(asked)]
            await churn.once()
            took += await once_us(partial(router.route, request))
            if strategy in SCORED and i in (batch % BATCH, BATCH - 1):
                await check(router, request)
        for _ in range(BATCH):
            await churn.once()
            least += await once_us(execute)
        if batch:  # the first one warms up
            alike.append(took / least)
            in_loop.append(took / BATCH / await cpu_us(execute, 500))
    return median(alike), median(in_loop)


async def once_us(case: Case) -> float:
    """CPU microseconds of one call by itself."""
    clock = time.process_time_ns
    before = clock()
    await case()
    return (clock() - before - CLOCK) / 1000


class Churn:
    """Changes one model's metrics, and now and then its health."""

    def __init__(self, router: LLMRouter, provider: Unsteady, rng: random.Random) -> None:
        self._router = router
        self._provider = provider
        self._lot = ByLot(rng)
        self._request = QueryRequest(query=PROMPT, max_tokens=100, timeout=30.0)

    async def once(self) -> None:
        await self._router.execute(self._request, strategy=self._lot)

    async def hold(self, group: asyncio.TaskGroup, count: int) -> list[asyncio.Task[object]]:
        """Start calls that stay in flight."""
        self._provider.holds = True
        request = self._request.model_copy(update={"timeout": float("inf")})
        execute = partial(self._router.execute, request, strategy=self._lot)
        held: list[asyncio.Task[object]] = [group.create_task(execute()) for _ in range(count)]
        await asyncio.sleep(0.1)
        self._provider.holds = False
        return held


async def measure(count: int, decisions: int) -> dict[str, tuple[float, float]]:
    rng = random.Random(count)
    provider = Unsteady(rng)
    health = HealthSettings(consecutive_failures=1, slow_start=0.0)
    # Slow start would draw lots about who comes first, and there would be no exact answer.
    configs = models(count)
    async with router_of(provider, configs=configs, health=health) as router:
        churn = Churn(router, provider, rng)
        async with asyncio.TaskGroup() as group:
            held = await churn.hold(group, int(IN_FLIGHT * count))
            for _ in range(2 * BATCH):
                await churn.once()
            gc.collect()
            ratios: dict[str, tuple[float, float]] = {}
            for strategy in STRATEGIES:
                most = decisions if strategy in SCORED else min(decisions, ROUND_ROBIN_AT_MOST)
                ratios[strategy] = await time_decisions(router, churn, strategy, most)
            for task in held:
                task.cancel()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=800)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows: list[Row] = []
    for count, gates in GATES.items():
        ratios = run_virtual(measure, count, asked.decisions)
        name = f"decision among {count:,}"
        rows += [Row(f"{name}, {each}", ratio, *gates) for each, (ratio, _) in ratios.items()]
        rows.append(Row(f"{name}, balanced, over a minimum in a loop", ratios["balanced"][1]))
    Report("Choosing among many", tuple(rows), loop="virtual").tell(asked.json)


if __name__ == "__main__":
    main()
