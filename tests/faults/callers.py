"""Who asks in random schedules: when they come, what they want, when they leave, how they fared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from hypothesis import strategies as st

from asyncroute import Completion, ExecutionResult, LLMRouter, ModelConfig, QueryRequest
from faults.steps import seconds
from support import now

CallModel = Callable[[ModelConfig, QueryRequest], Awaitable[Completion]]

GAP, TOTAL = 0.5, 2.0
"""The limits of streams: seconds between two chunks, and from the first one on."""

Way = Literal["sequential", "hedged", "race", "cascade", "all", "function", "stream"]
SHARED: frozenset[Way] = frozenset({"sequential", "hedged", "race", "cascade"})
"""What may come from the cache."""


@dataclass(frozen=True)
class Asking:
    """One caller: when it comes, what it wants, when it leaves."""

    comes_at: float
    way: Way
    timeout: float
    hedge_after: float
    width: int
    leaves_after: float | None
    leaves_by_scope: bool
    query: int | None
    priority: int
    tenant: str
    pause: float
    """Seconds that a stream's consumer takes for each chunk."""
    chunks: int
    """How many of them it reads at most."""

    def fields(self, number: int) -> dict[str, Any]:
        return {
            "query": f"own {number}" if self.query is None else f"shared {self.query}",
            "timeout": self.timeout,
            "priority": self.priority,
            "metadata": {"number": number, "tenant": self.tenant},
        }


askings = st.builds(
    Asking,
    comes_at=seconds,
    way=st.sampled_from(
        ["sequential", "sequential", "hedged", "race", "cascade", "all", "function", "stream"]
    ),
    timeout=st.sampled_from([0.01, 0.1, 0.1, 0.5, 1.0, 2.0, 10.0, 10.0, 10.0]),
    hedge_after=seconds,
    width=st.integers(1, 3),
    leaves_after=st.one_of(st.none(), st.none(), st.none(), seconds),
    leaves_by_scope=st.booleans(),
    query=st.one_of(st.none(), st.integers(1, 2)),
    priority=st.integers(-1, 1),
    tenant=st.sampled_from("xy"),
    pause=st.sampled_from([0.0, 0.0, 0.1, 5.0]),
    chunks=st.sampled_from([0, 1, 10, 10]),
)


@dataclass
class Caller:
    """One who asks, and what came of it."""

    number: int
    asking: Asking
    came_at: float = 0.0
    left_at: float | None = None
    ended_at: float = 0.0
    opened_at: float | None = None
    """When its stream brought its first chunk."""
    slowest_chunk: float = 0.0
    results: list[ExecutionResult] = field(default_factory=list[ExecutionResult])
    error: BaseException | None = None

    async def ask(self, router: LLMRouter, call_model: CallModel) -> None:
        await asyncio.sleep(self.asking.comes_at)
        self.came_at = now()
        scope, leaves_after = anyio.CancelScope(), self.asking.leaves_after
        task = asyncio.create_task(self._within(scope, router, call_model))
        if leaves_after is not None:
            await asyncio.wait([task], timeout=leaves_after)
            if not task.done():
                self.left_at = now()
                scope.cancel() if self.asking.leaves_by_scope else task.cancel()
        await asyncio.wait([task])
        self.ended_at = now()
        self.error = asyncio.CancelledError() if task.cancelled() else task.exception()

    async def _within(
        self, scope: anyio.CancelScope, router: LLMRouter, call_model: CallModel
    ) -> None:
        with scope:
            self.came_at = now()  # a blocked loop may have kept it from its first step
            self.results = await self._results(router, call_model)

    def _results(
        self, router: LLMRouter, call_model: CallModel
    ) -> Coroutine[Any, Any, list[ExecutionResult]]:
        asking, fields = self.asking, self.asking.fields(self.number)
        if asking.way == "all":
            return router.execute_all(fields.pop("query"), width=asking.width, **fields)
        if asking.way == "stream":
            return self._read(router, **fields)
        if asking.way == "function":
            return one(router.execute_with_fallback(QueryRequest(**fields), call_model))
        if asking.way == "hedged":
            fields["hedge_after"] = asking.hedge_after
        elif asking.way == "race":
            fields["width"] = asking.width
        elif asking.way == "cascade":
            fields["accept"], fields["strategy"] = accepts, "balanced"
        return one(router.execute(fields.pop("query"), mode=asking.way, **fields))

    async def _read(self, router: LLMRouter, query: str, **fields: Any) -> list[ExecutionResult]:
        opened = router.stream(
            query,
            mode="hedged" if self.asking.width == 2 else None,
            hedge_after=self.asking.hedge_after if self.asking.width == 2 else None,
            gap_timeout=GAP,
            total_timeout=TOTAL,
            **fields,
        )
        async with opened as stream:
            self.opened_at = now()
            for _ in range(self.asking.chunks):
                asked_at = now()
                try:
                    chunk = await anext(stream, None)
                finally:
                    self.slowest_chunk = max(self.slowest_chunk, now() - asked_at)
                if chunk is None:
                    break
                await asyncio.sleep(self.asking.pause)
        return [opened.result()]


async def accepts(completion: Completion) -> bool:
    await asyncio.sleep(0.01)
    return completion.text in "bd"


async def one(result: Coroutine[Any, Any, ExecutionResult]) -> list[ExecutionResult]:
    return [await result]
