"""The hand-written minimum that does the same work: what a call through a router cannot do without.

Decide over the models under three constraints, take a slot and a token of a rate, set a deadline,
call, record in a ring, build a result. Everything in one function: no queue, no second chance.
Beside it the least that a fallback and a cached result take. Needs the standard library only, so
that it runs in any environment, in one process with what is compared.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable
from time import monotonic, perf_counter

Provider = Callable[[str, str], Awaitable[str]]
"""Answers `(model, prompt)`."""


class Model:
    __slots__ = (
        "burst",
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
        self.level = self.rate = self.burst = 1e9
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


def best_of(
    models: Iterable[Model],
    context: int,
    max_cost: float,
    min_quality: float,
    without: Collection[Model] = (),
) -> Model:
    """Look at every model once: three constraints, health, a free slot; the lowest score wins."""
    best, lowest = None, 1e300
    for model in models:
        if (
            model.context < context
            or model.cost > max_cost
            or model.quality < min_quality
            or not model.is_healthy
            or model.running >= model.capacity
        ):
            continue
        score = model.score + model.latency * 0.3 + model.running * 0.01
        if score < lowest and (not without or model not in without):
            lowest, best = score, model
    if best is None:
        raise LookupError("no model")
    return best


class Minimum:
    """Args: how many models, and what answers for all of them."""

    def __init__(self, models: int, call: Provider) -> None:
        self.models = [Model(n) for n in range(models)]
        self.call = call
        self.requests = 0

    async def execute(
        self,
        prompt: str,
        context: int = 4000,
        max_cost: float = 20.0,
        min_quality: float = 0.0,
        timeout: float = 30.0,
    ) -> Answer:
        model = best_of(self.models, context, max_cost, min_quality)
        started = perf_counter()
        model.running += 1
        try:
            level = model.level + (started - model.level_at) * model.rate
            model.level_at = started
            model.level = level = (level if level < model.burst else model.burst) - 1.0
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
        model.latency += (latency - model.latency) * 0.05
        model.succeeded += 1
        model.spent += model.cost
        self.requests += 1
        return Answer(
            self.requests, model.name, text, model.cost, latency, 20, 2, False, 1, "balanced"
        )


class MinimumWithFallback(Minimum):
    """The same, and whatever fails is followed by the best of the models not tried yet."""

    async def execute(
        self,
        prompt: str,
        context: int = 4000,
        max_cost: float = 20.0,
        min_quality: float = 0.0,
        timeout: float = 30.0,
    ) -> Answer:
        tried: list[Model] = []
        while True:
            model = best_of(self.models, context, max_cost, min_quality, tried)
            tried.append(model)
            started = perf_counter()
            model.running += 1
            try:
                level = model.level + (started - model.level_at) * model.rate
                model.level_at = started
                model.level = level = (level if level < model.burst else model.burst) - 1.0
                if level < 0:
                    await asyncio.sleep(-level / model.rate)
                async with asyncio.timeout(timeout):
                    text = await self.call(model.name, prompt)
            except ConnectionError:
                model.failed += 1
                if len(tried) == 3:
                    raise
                continue
            except BaseException:
                model.failed += 1
                raise
            finally:
                model.running -= 1
            latency = perf_counter() - started
            position = model.position
            model.ring[position] = latency
            model.position = position + 1 if position < 999 else 0
            model.latency += (latency - model.latency) * 0.05
            model.succeeded += 1
            model.spent += model.cost
            self.requests += 1
            return Answer(
                self.requests,
                model.name,
                text,
                model.cost,
                latency,
                20,
                2,
                False,
                len(tried),
                "balanced",
            )


class MinimumWithCache(Minimum):
    """The same behind a cache by text and constraints: least recently used, with a time to live."""

    def __init__(self, models: int, call: Provider) -> None:
        super().__init__(models, call)
        self.cache: OrderedDict[tuple[object, ...], tuple[float, Answer]] = OrderedDict()

    async def execute(
        self,
        prompt: str,
        context: int = 4000,
        max_cost: float = 20.0,
        min_quality: float = 0.0,
        timeout: float = 30.0,
    ) -> Answer:
        key = (prompt, context, max_cost, min_quality)
        entry = self.cache.get(key)
        if entry is not None and entry[0] > monotonic():
            self.cache.move_to_end(key)
            return entry[1]
        answer = await super().execute(prompt, context, max_cost, min_quality, timeout)
        self.cache[key] = (monotonic() + 300.0, answer)
        if len(self.cache) > 1000:
            self.cache.popitem(last=False)
        return answer
