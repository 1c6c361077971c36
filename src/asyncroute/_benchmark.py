"""How the strategies compare: every one on the same queries, simulated, in virtual time."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, final

import anyio

from asyncroute._assembly import router_from, simulating
from asyncroute.providers import SimulatedProvider, Simulation
from asyncroute.testing import run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from asyncroute._inputs import QueryRequest
    from asyncroute._results import ExecutionResult
    from asyncroute._router import LLMRouter
    from asyncroute.config import RouterConfig

__all__ = ("STRATEGIES", "StrategyReport", "compare", "progress_bar", "strategies_of")

STRATEGIES = (
    "cost_optimized",
    "latency_optimized",
    "quality_optimized",
    "balanced",
    "round_robin",
    "least_loaded",
)
"""The strategies every router has."""

_CALLERS = 8
"""Queries that are under way at once: some load, so that balancing it means something."""

_BEHAVIOUR = Simulation(sigma=0.4, failure_rate=0.02, rate_limit_rate=0.01, retry_after=1.0)


@final
@dataclass(frozen=True, slots=True)
class StrategyReport:
    """What one strategy made of the queries.

    Attributes:
        requests: How many were executed.
        success_rate: Share that was answered, 0 to 1.
        avg_cost: Dollars of a request.
        total_cost: Dollars of all.
        avg_latency: Milliseconds of an answer.
        p95_latency: Milliseconds that 95 % of the answers stayed within.
        avg_quality: Quality score of the models that answered.
        models_used: Answers by model id, most first.
    """

    requests: int
    success_rate: float
    avg_cost: float
    total_cost: float
    avg_latency: float
    p95_latency: float
    avg_quality: float
    models_used: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as a dictionary."""
        return asdict(self)


def strategies_of(config: RouterConfig) -> tuple[str, ...]:
    """Name the strategies a configuration has."""
    return (*STRATEGIES, "ensemble") if config.enable_ensemble else STRATEGIES


def compare(
    config: RouterConfig,
    requests: Sequence[QueryRequest],
    iterations: int,
    *,
    seed: int,
    go_on: Callable[[], bool] = lambda: True,
) -> dict[str, StrategyReport]:
    """Execute all requests with every strategy, each on a fresh router with simulated models.

    Blocks until done: for threads that run no event loop. Equal seeds give equal reports.

    Args:
        config: The models, and what they are routed by.
        requests: The requests; their own strategies do not count.
        iterations: How often all of them are executed with each strategy.
        seed: Where chance comes from.
        go_on: Called before every request; False stops, and what is returned is incomplete.

    Returns:
        A report by strategy; `ensemble` is among them if the configuration enables it.
    """
    reports: dict[str, StrategyReport] = {}
    for strategy in strategies_of(config):
        asked = [request.model_copy(update={"strategy": strategy}) for request in requests]

        def source(asked: Sequence[QueryRequest] = asked) -> Iterator[QueryRequest]:
            for _ in range(iterations):
                for request in asked:
                    if not go_on():
                        return
                    yield request

        results = run_virtual(_execute_all, config, source(), seed)
        if not results:
            break
        reports[strategy] = _report(config, results)
    return reports


async def _execute_all(
    config: RouterConfig, requests: Iterator[QueryRequest], seed: int
) -> list[ExecutionResult]:
    simulated = SimulatedProvider(seed=seed, default=_BEHAVIOUR)
    results: list[ExecutionResult] = []

    async def caller(router: LLMRouter) -> None:
        for request in requests:
            results.append(await router.execute(request))  # noqa: PERF401 - awaits between

    # Without a cache, or all but the first iteration would come from it.
    plain = config.model_copy(update={"enable_caching": False, "budgets": ()})
    router = router_from(plain, simulating(config.models, simulated), seed)
    async with router, anyio.create_task_group() as callers:
        for _ in range(_CALLERS):
            callers.start_soon(caller, router)
    return results


def _report(config: RouterConfig, results: Sequence[ExecutionResult]) -> StrategyReport:
    quality = {model.model_id: model.quality_score for model in config.models}
    answered = [result for result in results if result.success and result.model_id is not None]
    latencies = [result.actual_latency_ms for result in answered] or [0.0]
    used = Counter(result.model_id for result in answered if result.model_id is not None)
    return StrategyReport(
        requests=len(results),
        success_rate=len(answered) / len(results),
        avg_cost=fmean(result.actual_cost for result in results),
        total_cost=sum(result.actual_cost for result in results),
        avg_latency=fmean(latencies),
        p95_latency=quantiles([*latencies, latencies[-1]], n=20, method="inclusive")[-1],
        avg_quality=sum(quality[model_id] * n for model_id, n in used.items()) / used.total()
        if used
        else 0.0,
        models_used=dict(used.most_common()),
    )


@contextmanager
def progress_bar(title: str, total: int) -> Generator[Callable[[], None]]:
    """Show a progress bar on a terminal's standard error, where rich is installed.

    Gives a function to be called for every step, from any thread.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda: None
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
