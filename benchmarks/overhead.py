"""What routing costs beside the call, as multiples of a hand-written minimum, in one run.

    uv run python benchmarks/overhead.py [--rounds 7] [--calls 3000] [--json FILE]

CPU time, medians of interleaved rounds; believe ratios to about 15 %, absolute figures not at all.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from floor import Minimum
from rich.console import Console
from rich.table import Table

from asyncroute import (
    Call,
    Completion,
    LLMRouter,
    ModelConfig,
    MoneyBudget,
    QueryRequest,
    UnavailableError,
    Usage,
)

PROMPT = "Explain in two sentences what a router for language models does, and why latency matters."
GATES = {
    "execute, ready request": (2.0, 1.7),
    "execute, text and keywords": (2.7, 2.3),
    "execute, hedge armed": (2.4, 1.85),
    "execute, one observer": (2.3, 1.8),
    "execute, cached, by text": (0.4, 0.17),
    "route": (0.7, 0.5),
    "execute, fallback answers": (4.5, 3.8),
    "race of two": (12.0, 8.0),
    "supervised provider": (4.0, 3.0),
}


class Instant:
    """Answers at once; models named in `down` fail."""

    def __init__(self, *, promptly: bool = True, down: frozenset[str] = frozenset()) -> None:
        self.cancels_promptly = promptly
        self.down = down

    async def complete(self, call: Call, /) -> Completion:
        if call.model.model_id in self.down:
            raise UnavailableError("down")
        return Completion("ok", Usage(20, 2))


class Silent:
    def on_result(self, request: object, result: object, /) -> None: ...


def models(count: int) -> list[ModelConfig]:
    made: list[ModelConfig] = []
    for n in range(count):
        rng = random.Random(n)
        made.append(
            ModelConfig(
                model_id=f"m{n}",
                provider="p",
                cost_per_1k_tokens=rng.uniform(0.0001, 0.01),
                quality_score=rng.random(),
                max_tokens=rng.choice((8_000, 32_000, 128_000)),
                avg_latency_ms=1000 * rng.uniform(0.1, 2.0),
                max_concurrent_requests=10_000,
                requests_per_minute=100_000_000,
                tokens_per_minute=1_000_000_000,
            )
        )
    return made


async def cpu_us(call: Callable[[], Awaitable[Any]], calls: int) -> float:
    gc.collect()
    started = time.process_time()
    for _ in range(calls):
        await call()
    return (time.process_time() - started) / calls * 1e6


async def measure(rounds: int, calls: int) -> dict[str, float]:
    async def answer(model: str, prompt: str) -> str:
        return "ok"

    minimum = Minimum(8, answer)
    options: dict[str, Any] = {"budgets": [MoneyBudget(1e9)], "seed": 1}
    request = QueryRequest(
        query=PROMPT, max_cost=20.0, required_quality=0.0, max_tokens=100, timeout=30.0
    )
    async with (
        LLMRouter(models(8), {"p": Instant()}, **options) as router,
        LLMRouter(models(8), {"p": Instant()}, observers=[Silent()], **options) as observed,
        LLMRouter(models(8), {"p": Instant()}, cache=True, **options) as caching,
        LLMRouter(models(8), {"p": Instant(promptly=False)}, **options) as supervised,
    ):
        first = (await router.route(request)).selected_model.model_id
        down = Instant(down=frozenset({first}))
        async with LLMRouter(models(8), {"p": down}, **options) as failing:

            async def fall_back() -> None:
                endpoint = failing._registry[first]  # noqa: SLF001
                endpoint.health.__init__(rng=random.Random(1))
                failing._registry.journal.troubled.clear()  # noqa: SLF001
                await failing.execute(request)

            cases: dict[str, Callable[[], Awaitable[Any]]] = {
                "minimum": lambda: minimum.execute(PROMPT),
                "execute, ready request": lambda: router.execute(request),
                "execute, text and keywords": lambda: router.execute(
                    PROMPT, max_cost=20.0, required_quality=0.0, max_tokens=100, timeout=30.0
                ),
                "execute, hedge armed": lambda: router.execute(request, mode="hedged"),
                "execute, one observer": lambda: observed.execute(request),
                "execute, cached, by text": lambda: caching.execute(PROMPT, max_cost=20.0),
                "route": lambda: router.route(request),
                "execute, fallback answers": fall_back,
                "race of two": lambda: router.execute(request, mode="race"),
                "supervised provider": lambda: supervised.execute(request),
            }
            times: dict[str, list[float]] = {name: [] for name in cases}
            for call in cases.values():
                await cpu_us(call, 500)
            for _ in range(rounds):
                for name, call in cases.items():
                    times[name].append(await cpu_us(call, calls))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    medians = asyncio.run(measure(asked.rounds, asked.calls))
    minimum = medians["minimum"]
    table = Table(title=f"Overhead, CPython {sys.version.split()[0]}, asyncio")
    for column in ("", "µs", "x minimum", "gate", "aim"):
        table.add_column(column, justify="right" if column else "left")
    for name, microseconds in medians.items():
        gate, aim = GATES.get(name, ("", ""))
        ratio = f"{microseconds / minimum:.2f}"
        table.add_row(name, f"{microseconds:.1f}", ratio, str(gate), str(aim))
    Console().print(table)
    if asked.json is not None:
        ratios = {name: value / minimum for name, value in medians.items()}
        asked.json.write_text(json.dumps({"microseconds": medians, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
