"""The hand-written minimum that does the same work: what a call through a router cannot do without.

Decide over the models under three constraints, take a slot and a token of a rate, set a deadline,
call, record in a ring, build a result. Everything in one function: no queue, no fallback.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import perf_counter


class Model:
    __slots__ = (
        "capacity",
        "context",
        "cost",
        "failed",
        "is_healthy",
        "latency",
        "level",
        "level_at",
        "name",
        "position",
        "quality",
        "rate",
        "ring",
        "running",
        "score",
        "spent",
        "succeeded",
    )

    def __init__(self, n: int) -> None:
        rng = random.Random(n)
        self.name = f"m{n}"
        self.cost = rng.uniform(0.1, 10.0)
        self.quality = rng.random()
        self.context = rng.choice((8_000, 32_000, 128_000))
        self.latency = rng.uniform(0.1, 2.0)
        self.score = 0.04 * self.cost + 0.3 * (1.0 - self.quality)
        self.is_healthy = True
        self.running, self.capacity = 0, 10_000
        self.level = self.rate = 1e9
        self.level_at = 0.0
        self.ring, self.position = [0.0] * 1000, 0
        self.succeeded = self.failed = 0
        self.spent = 0.0


class Answer:
    __slots__ = (
        "attempts",
        "cached",
        "cost",
        "input_tokens",
        "latency",
        "model",
        "output_tokens",
        "request_id",
        "strategy",
        "text",
    )

    def __init__(  # noqa: PLR0913
        self,
        request_id: int,
        model: str,
        text: str,
        cost: float,
        latency: float,
        input_tokens: int,
        output_tokens: int,
        cached: bool,
        attempts: int,
        strategy: str,
    ) -> None:
        self.request_id = request_id
        self.model = model
        self.text = text
        self.cost = cost
        self.latency = latency
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.cached = cached
        self.attempts = attempts
        self.strategy = strategy


class Minimum:
    """Args: how many models, and a coroutine function that answers `(model, prompt)`."""

    def __init__(self, models: int, call: Callable[[str, str], Awaitable[str]]) -> None:
        self.models = [Model(n) for n in range(models)]
        self.call = call
        self.requests = 0

    def decide(self, context: int, max_cost: float, min_quality: float) -> Model:
        best, lowest = None, float("inf")
        for model in self.models:
            if (
                model.context < context
                or model.cost > max_cost
                or model.quality < min_quality
                or not model.is_healthy
                or model.running >= model.capacity
            ):
                continue
            score = model.score + 0.3 * model.latency + 0.01 * model.running
            if score < lowest:
                lowest, best = score, model
        if best is None:
            raise LookupError("no model")
        return best

    async def execute(
        self,
        prompt: str,
        context: int = 4000,
        max_cost: float = 20.0,
        min_quality: float = 0.0,
        timeout: float = 30.0,
    ) -> Answer:
        model = self.decide(context, max_cost, min_quality)
        started = perf_counter()
        model.running += 1
        try:
            level = min(model.level + (started - model.level_at) * model.rate, 1e9) - 1.0
            model.level, model.level_at = level, started
            if level < 0:
                await asyncio.sleep(-level / model.rate)
            async with asyncio.timeout(timeout):
                text = await self.call(model.name, prompt)
        except BaseException:
            model.failed += 1
            raise
        finally:
            model.running -= 1
        latency = perf_counter() - started
        position = model.position
        model.ring[position] = latency
        model.position = position + 1 if position < 999 else 0
        model.latency += 0.05 * (latency - model.latency)
        model.succeeded += 1
        model.spent += model.cost
        self.requests += 1
        return Answer(
            self.requests, model.name, text, model.cost, latency, 20, 2, False, 1, "balanced"
        )
