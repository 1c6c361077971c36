"""What is measured: a router with every feature on, over providers that cost nothing themselves."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from measure import PROMPT

from asyncroute import (
    Attempt,
    Call,
    Completion,
    ExecutionResult,
    HealthSettings,
    LLMRouter,
    ModelConfig,
    MoneyBudget,
    QueryRequest,
    UnavailableError,
    Usage,
)

FIELDS: dict[str, Any] = {
    "max_cost": 20.0,
    "required_quality": 0.0,
    "max_tokens": 100,
    "timeout": 30.0,
}
"""Constraints and a deadline: all rows have them."""

REQUEST = QueryRequest(query=PROMPT, **FIELDS)

ANSWER = Completion("ok", Usage(20, 2))

NEVER_EJECTED = HealthSettings(consecutive_failures=1_000_000_000, min_success_rate=0.0)
"""Health goes on counting, and sets nobody aside: where every request is to fall back."""


class Instant:
    """Answers at once."""

    def __init__(self, *, promptly: bool = True) -> None:
        self.cancels_promptly = promptly

    async def complete(self, call: Call, /) -> Completion:
        return ANSWER


class FailsFirst:
    """Fails and answers in turn: each request's first model fails, whichever it is."""

    cancels_promptly = True

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, call: Call, /) -> Completion:
        self.calls += 1
        if self.calls % 2:
            raise UnavailableError("down")
        return ANSWER


AN_HOUR = HealthSettings(consecutive_failures=1, base_ejection=3600.0, max_ejection=3600.0)
"""Who fails once is set aside for as long as any benchmark takes."""


class FailsOnce:
    """Fails the first time, and answers from then on."""

    cancels_promptly = True

    def __init__(self) -> None:
        self.has_failed = False

    async def complete(self, call: Call, /) -> Completion:
        if not self.has_failed:
            self.has_failed = True
            raise UnavailableError("down")
        return ANSWER


class Sleeps:
    """Answers after 10 ms."""

    cancels_promptly = True

    async def complete(self, call: Call, /) -> Completion:
        await asyncio.sleep(0.01)
        return ANSWER


class Silent:
    """An observer of everything, that does nothing."""

    def on_start(self, call: Call, /) -> None: ...

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None: ...

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None: ...


def models(count: int, *, requests_per_minute: int = 100_000_000) -> list[ModelConfig]:
    """Make models with limits of every kind, which the benchmarks do not reach."""
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
                requests_per_minute=requests_per_minute,
                tokens_per_minute=1_000_000_000,
            )
        )
    return made


def router_of(provider: Any, count: int = 8, **options: Any) -> LLMRouter:
    """Make a router over so many models, with a money budget."""
    configs = options.pop("configs", None) or models(count)
    return LLMRouter(
        configs, {"p": provider}, **{"budgets": [MoneyBudget(1e9)], "seed": 1, **options}
    )
