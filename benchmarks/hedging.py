"""What hedging buys where latencies have a heavy tail, in virtual time.

    uv run python benchmarks/hedging.py [--calls 40000] [--seed 1] [--json FILE]
    uv run --with matplotlib python benchmarks/hedging.py --plot docs/hedging.png

Two models of two providers, both log-normal (median 0.8 s, sigma 0.5) with 1 % stalls of 20 to
30 s. Each case sends the same number of requests through a router of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from asyncroute import Call, Completion, LLMRouter, ModelConfig, QueryRequest, Usage
from asyncroute.testing import run_virtual

MEDIAN, SIGMA = 0.8, 0.5
STALLS = 0.01
PER_SECOND = 20.0
"""Requests, at random instants."""

CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "hedge at p95, 5 % budget": {"mode": "hedged"},
    "race of two": {"mode": "race", "width": 2},
}


class HeavyTailed:
    """A provider that is quick as a rule; counts its calls and the seconds they take."""

    cancels_promptly = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.calls = 0
        self.seconds = 0.0

    async def complete(self, call: Call, /) -> Completion:
        rng, loop = self._rng, asyncio.get_running_loop()
        seconds = MEDIAN * rng.lognormvariate(0.0, SIGMA)
        if rng.random() < STALLS:
            seconds = rng.uniform(20.0, 30.0)
        self.calls += 1
        call.usage = Usage(100, 0)
        started_at = loop.time()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.seconds += loop.time() - started_at
        return Completion("ok", Usage(100, 100))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case came to; times in seconds."""

    p50: float
    p99: float
    p999: float
    extra_calls: float
    """Calls beyond one for each request, as a share of the requests."""
    provider_seconds: float
    """For each request."""
    dollars: float
    """For 1,000 requests."""
    latencies: tuple[float, ...]


async def measure(case: dict[str, Any], calls: int, seed: int) -> Outcome:
    providers = {name: HeavyTailed(random.Random(f"{seed} {name}")) for name in ("one", "other")}
    models = [
        ModelConfig(
            model_id=f"model-{name}",
            provider=name,
            input_cost_per_1k=0.001,
            output_cost_per_1k=0.004,
            avg_latency_ms=900,
            max_concurrent_requests=1000,
            max_tokens=128_000,
        )
        for name in providers
    ]
    rng = random.Random(f"{seed} arrivals")
    request = QueryRequest(query="How long does it take?", strategy="round_robin", max_tokens=100)
    latencies: list[float] = []
    spent = 0.0

    async def ask() -> None:
        result = await router.execute(request, **case)
        assert result.success, result.error
        latencies.append(result.actual_latency_ms / 1000)

    async with LLMRouter(models, providers, seed=seed) as router:
        async with asyncio.TaskGroup() as group:
            for _ in range(calls):
                group.create_task(ask())
                await asyncio.sleep(rng.expovariate(PER_SECOND))
        spent = router.get_statistics()["total_cost"]
    latencies.sort()
    sent = sum(provider.calls for provider in providers.values())
    seconds = sum(provider.seconds for provider in providers.values())
    return Outcome(
        *(latencies[int(share * calls)] for share in (0.5, 0.99, 0.999)),
        extra_calls=sent / calls - 1,
        provider_seconds=seconds / calls,
        dollars=spent / calls * 1000,
        latencies=tuple(latencies),
    )


def shown(outcomes: dict[str, Outcome]) -> Table:
    table = Table(title="Latency, and what it costs: extra calls, provider seconds, dollars")
    table.add_column("")
    for heading in ("p50", "p99", "p99.9", "calls", "seconds", "dollars"):
        table.add_column(heading, justify="right")
    plain = outcomes["none"]
    for name, outcome in outcomes.items():
        table.add_row(
            name,
            *(f"{seconds:.2f} s" for seconds in (outcome.p50, outcome.p99, outcome.p999)),
            f"{outcome.extra_calls:+.1%}",
            f"{outcome.provider_seconds / plain.provider_seconds - 1:+.1%}",
            f"{outcome.dollars / plain.dollars - 1:+.1%}",
        )
    return table


PLACES = {
    "none": (5.3, 0.0122, "#b0413e"),
    "hedge at p95, 5 % budget": (4.5, 0.0015, "#1f6f8b"),
    "race of two": (0.6, 0.0021, "#7d7d7d"),
}
"""Where the plot names each case (seconds, share of requests), and its colour."""


def plot(outcomes: dict[str, Outcome], file: Path) -> None:
    """Draw the share of requests that take longer than so many seconds."""
    import matplotlib as mpl  # the figures do without it

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.4, 4.2), dpi=200)
    for name, outcome in outcomes.items():
        count = len(outcome.latencies)
        slower = [1 - i / count for i in range(count)]
        seconds, share, colour = PLACES[name]
        axes.plot(outcome.latencies, slower, color=colour, linewidth=2.2)
        calls = f"{outcome.extra_calls:+.1%} calls" if outcome.extra_calls else "no extra calls"
        axes.annotate(f"{name}\n{calls}", (seconds, share), color=colour, fontsize=11)
    ticks = (0.5, 1, 2, 5, 10, 20, 30)
    marks = {0.5: "p50", 0.05: "p95", 0.01: "p99", 0.001: "p99.9"}
    axes.set(xscale="log", yscale="log", xlim=(0.4, 36), ylim=(1e-4, 1.05))
    axes.set_xticks(ticks, [f"{tick:g} s" for tick in ticks])
    axes.set_yticks(list(marks), list(marks.values()))
    axes.minorticks_off()
    axes.grid(color="#e4e4e4")
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    title = "How long the slowest requests take if 1 call in 100 stalls for 20 to 30 s"
    axes.set_title(title, loc="left", fontsize=13)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    outcomes = {
        name: run_virtual(measure, case, asked.calls, asked.seed) for name, case in CASES.items()
    }
    Console().print(shown(outcomes))
    if asked.json is not None:
        figures = {name: asdict(outcome) for name, outcome in outcomes.items()}
        for figure in figures.values():
            del figure["latencies"]
        asked.json.write_text(json.dumps(figures, indent=1))
    if asked.plot is not None:
        plot(outcomes, asked.plot)


if __name__ == "__main__":
    main()
