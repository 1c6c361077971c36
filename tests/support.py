"""What tests of the router share: a provider that plays by script, and models for it to play."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from asyncroute import (
    Call,
    Candidate,
    Completion,
    ExecutionResult,
    LLMRouter,
    ModelConfig,
    ProviderError,
    QueryRequest,
    Ranking,
    Usage,
)

Step = Callable[[Call], Awaitable[Completion]]
"""What a model does with one call."""

KINDS: dict[str, type[ProviderError]] = {kind.kind: kind for kind in ProviderError.__subclasses__()}


BILLED = Usage(10, 5)


def answers(text: str | None = None, *, after: float = 0.1, usage: Usage | None = BILLED) -> Step:
    """Answer after some seconds: with a text, or with the model's id."""

    async def step(call: Call) -> Completion:
        await asyncio.sleep(after)
        return Completion(call.model.model_id if text is None else text, usage)

    return step


def fails(kind: str = "unavailable", *, after: float = 0.0, **said: Any) -> Step:
    """Fail with an error of this kind; `said` is what the error carries."""

    async def step(call: Call) -> Completion:
        await asyncio.sleep(after)
        raise KINDS[kind](f"{call.model.model_id} failed", **said)

    return step


def raises(error: BaseException) -> Step:
    """Raise just this."""

    async def step(call: Call) -> Completion:
        raise error

    return step


def hangs(usage: Usage | None = None) -> Step:
    """Never answer; `usage` is what the call is known to have cost by then."""

    async def step(call: Call) -> Completion:
        call.usage = usage
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody answers")

    return step


def ignores_cancellation(seconds: float) -> Step:
    """Answer after so many seconds, whoever gives up meanwhile."""

    async def step(call: Call) -> Completion:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            try:
                await asyncio.sleep(until - loop.time())
            except asyncio.CancelledError:
                continue
        return Completion(call.model.model_id, Usage(10, 5))

    return step


def in_turn(*steps: Step) -> Step:
    """Take one step a call; the last one stays."""
    left = list(steps)

    async def step(call: Call) -> Completion:
        return await (left.pop(0) if len(left) > 1 else left[0])(call)

    return step


class Scripted:
    """A provider that plays each model by its script; those without one answer.

    Attributes:
        calls: The models called, in order.
        called_at: When, on the loop's clock.
        requests: What was asked.
        in_flight: Calls running now.
        most: The most that ever ran at once.
        billed: Dollars billed, by model: for answers, and for what a cancelled call had used.
    """

    def __init__(
        self,
        script: Mapping[str, Step] | None = None,
        *,
        default: Step | None = None,
        promptly: bool = True,
    ) -> None:
        self.cancels_promptly = promptly
        self.script = dict(script or {})
        self.default = default or answers()
        self.calls: list[str] = []
        self.called_at: list[float] = []
        self.requests: list[QueryRequest] = []
        self.in_flight = self.most = 0
        self.billed: defaultdict[str, float] = defaultdict(float)

    async def complete(self, call: Call, /) -> Completion:
        model_id = call.model.model_id
        self.calls.append(model_id)
        self.called_at.append(asyncio.get_running_loop().time())
        self.requests.append(call.request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        usage = None
        try:
            completion = await self.script.get(model_id, self.default)(call)
            usage = completion.usage
            return completion
        finally:
            self.in_flight -= 1
            usage = usage or call.usage
            if usage is not None:
                self.billed[model_id] += usage.cost(call.model)

    @property
    def count(self) -> Counter[str]:
        return Counter(self.calls)

    @property
    def total(self) -> float:
        return sum(self.billed.values())


class InOrder:
    """Ranks models as they were configured."""

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        return Ranking.in_order(candidates)


def model(model_id: str = "a", **fields: Any) -> ModelConfig:
    return ModelConfig(model_id=model_id, **{"cost_per_1k_tokens": 0.01, **fields})


def models(ids: Iterable[str] = "abc", **fields: Any) -> list[ModelConfig]:
    return [model(model_id, **fields) for model_id in ids]


def router_of(
    provider: Any, ids: Iterable[str | ModelConfig] = "abc", **settings: Any
) -> LLMRouter:
    """Make a router over these models that asks them in the order they are given."""
    configs = [each if isinstance(each, ModelConfig) else model(each) for each in ids]
    providers = {} if provider is None else {"*": provider}
    settings = {"seed": 1, **settings}
    selectors = {"balanced": InOrder(), **settings.pop("selectors", {})}
    return LLMRouter(configs, providers, selectors=selectors, **settings)


def roles(result: ExecutionResult) -> list[tuple[str, str, str]]:
    return [(each.model_id, each.role, each.outcome) for each in result.attempts]


def now() -> float:
    return asyncio.get_running_loop().time()


async def together(
    count: int, ask: Callable[[int], Awaitable[ExecutionResult]]
) -> list[ExecutionResult]:
    """Ask so many times at once."""
    return list(await asyncio.gather(*map(ask, range(count))))
