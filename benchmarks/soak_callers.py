"""The callers of the soak: they ask for one thing after another, and lose patience with some."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from soak_provider import LAST_WORD, Chaos, picked

from asyncroute import (
    AsyncRouteError,
    ExecutionResult,
    LLMRouter,
    QueryRequest,
    StreamInterruptedError,
)

GAP, TOTAL = 3.0, 20.0
"""The streams' limits: seconds between two chunks, and in all."""

KINDS = {
    "sequential": 40.0,
    "hedged": 20.0,
    "race": 8.0,
    "cascade": 4.0,
    "execute_all": 3.0,
    "own function": 4.0,
    "cached": 6.0,
    "stream": 15.0,
}
"""What callers ask for, by weight."""

TEXTS = tuple(f"{number}: " + "please tell me about routers " * number for number in range(1, 60))


class Routers(NamedTuple):
    """One for most, and one with a cache, whose runs several callers share."""

    plain: LLMRouter
    caching: LLMRouter


@dataclass(slots=True)
class Asked:
    """What providers see of a request: `is_over` once its caller has the result, or has gone."""

    is_over: bool = False


@dataclass(slots=True)
class Seen:
    """What the callers saw; `latest` has seconds after an instant, by which instant."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    roles: Counter[str] = field(default_factory=Counter[str])
    surprises: Counter[str] = field(default_factory=Counter[str])
    latest: defaultdict[str, float] = field(default_factory=lambda: defaultdict(lambda: -inf))
    half_streams: int = 0

    def note(self, instant: str, seconds: float) -> None:
        self.latest[instant] = max(self.latest[instant], seconds)


class Caller:
    """One of them; what it sees goes into what all have seen."""

    def __init__(self, routers: Routers, chaos: Chaos, seen: Seen, rng: random.Random) -> None:
        self._routers = routers
        self._chaos = chaos
        self._seen = seen
        self._rng = rng
        self._now = asyncio.get_running_loop().time

    async def ask(self, calls: int) -> None:
        for _ in range(calls):
            await asyncio.sleep(self._rng.expovariate(0.1))
            await self._ask_once()

    async def _ask_once(self) -> None:
        rng, seen, asked, started_at = self._rng, self._seen, Asked(), self._now()
        kind = picked(rng, KINDS)
        request = self._request(asked)
        patience = rng.expovariate(1.0) if rng.random() < 0.1 else inf
        seen.kinds[kind] += 1
        try:
            work = self._carry_out(kind, request)
            outcome = await (work if patience == inf else self._with_patience(patience, work))
        except AsyncRouteError as error:
            outcome = error.kind
        except Exception as error:
            seen.surprises[f"{kind}: {type(error).__name__}: {error}"] += 1
            outcome = "surprise"
        asked.is_over = kind != "cached"  # a shared run goes on for others
        seen.outcomes[outcome] += 1
        took = self._now() - started_at
        if outcome == "caller left":
            seen.note("a caller left", took - patience)
        elif kind != "stream":
            seen.note("a deadline", took - (request.timeout or 0.0))

    def _request(self, asked: Asked) -> QueryRequest:
        rng = self._rng
        return QueryRequest(
            query=rng.choice(TEXTS),
            strategy=rng.choice(("balanced", "cost_optimized", "latency_optimized", "round_robin")),
            max_tokens=rng.choice((None, 50, 200, 400)),
            max_cost=rng.choice((None, None, 2.0)),
            timeout=rng.uniform(2.0, 20.0),
            priority=rng.choice((0, 0, 0, 1)),
            metadata={"tenant": f"t{rng.randrange(5)}", "asked": asked},
        )

    async def _with_patience(self, seconds: float, work: Coroutine[Any, Any, str]) -> str:
        """Wait for the outcome, or leave: half by a time-out, half by being cancelled."""
        if self._rng.random() < 0.5:
            patience = asyncio.timeout(seconds)
            try:
                async with patience:
                    return await work
            except TimeoutError:
                if not patience.expired():
                    raise
                return "caller left"
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        timer = loop.call_later(seconds, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return "caller left"
        finally:
            timer.cancel()

    async def _carry_out(self, kind: str, request: QueryRequest) -> str:
        rng, (plain, caching) = self._rng, self._routers
        match kind:
            case "stream":
                return await self._read(request)
            case "execute_all":
                return self._outcome(*await plain.execute_all(request, width=2))
            case "own function":
                return self._outcome(await plain.execute_with_fallback(request, self._chaos.ask))
            case "cached":
                shared = {"metadata": {"tenant": "t"}, "max_tokens": 50}
                return self._outcome(await caching.execute(request.model_copy(update=shared)))
            case "cascade":
                accept = lambda _: rng.random() < 0.5  # noqa: E731
                return self._outcome(await plain.execute(request, mode="cascade", accept=accept))
            case "hedged" | "race" | "sequential":
                return self._outcome(await plain.execute(request, mode=kind))
            case _:
                raise AssertionError(kind)

    def _outcome(self, *results: ExecutionResult) -> str:
        for result in results:
            self._seen.roles.update(attempt.role for attempt in result.attempts)
        best = max(results, key=lambda result: result.success)
        return "answered" if best.success else best.error_kind or "no error"

    async def _read(self, request: QueryRequest) -> str:
        """Read a stream, some of them slowly, some not to their end."""
        rng, seen, started_at = self._rng, self._seen, self._now()
        mode = rng.choice((None, "hedged", "race"))
        most = rng.randint(0, 3) if rng.random() < 0.25 else 1000
        slowness = 2 * GAP if rng.random() < 0.1 else 0.0
        opened = self._routers.plain.stream(
            request, mode=mode, gap_timeout=GAP, total_timeout=TOTAL
        )
        outcome = "stream left early"
        try:
            async with opened as stream:
                self._note_opening(request, started_at)
                for _ in range(most):
                    asked_at = self._now()
                    chunk = await anext(stream, None)
                    seen.note("the limit of a gap", self._now() - asked_at - GAP)
                    if chunk is None:
                        outcome = "answered"
                        break
                    if slowness:
                        await asyncio.sleep(rng.uniform(0.0, slowness))
        except StreamInterruptedError:
            outcome = "stream interrupted"
        except AsyncRouteError:
            self._note_opening(request, started_at)
            raise
        result = opened.result()
        seen.roles.update(attempt.role for attempt in result.attempts)
        is_whole = (result.response or "").endswith(LAST_WORD)
        seen.half_streams += result.success and not is_whole
        seen.half_streams += outcome == "answered" and not result.success
        return outcome

    def _note_opening(self, request: QueryRequest, started_at: float) -> None:
        self._seen.note("a deadline", self._now() - started_at - (request.timeout or 0.0))
