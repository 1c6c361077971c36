"""A hundred thousand calls of mixed faults and cancellations; afterwards nothing may be left over.

    uv run python benchmarks/soak.py [--calls 100000] [--callers 1000] [--seed 1]

In virtual time. The provider keeps a ledger of its own: what it was sent, how many calls ran at
once, what it bills. Exits with 1 if a figure is off.
"""
# ruff: noqa: SLF001 - it looks inside, to see that nothing is left there

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.table import Table

from asyncroute import (
    AsyncRouteError,
    BadRequestError,
    Call,
    Chunk,
    Completion,
    ContentRefusedError,
    ContextTooLongError,
    ExecutionResult,
    LLMRouter,
    ModelConfig,
    MoneyBudget,
    ProviderOverloadedError,
    QueryRequest,
    RateLimitedError,
    StreamInterruptedError,
    UnavailableError,
    Usage,
)
from asyncroute.testing import VirtualClockLoop

T = TypeVar("T")

GRACE = 0.1
"""Seconds by which a request may end late: a tick of 20 ms and the losers' grace of 50 ms."""

GAP, TOTAL = 3.0, 20.0
"""The streams' limits: seconds between two chunks, and in all."""

LAST_WORD = "the end."
"""Ends every stream that is complete, and no other."""

ACTS = {
    "answer": 75.0,
    "answer without usage": 2.0,
    "slow answer": 3.0,
    "hang": 2.0,
    "break off": 2.0,  # a failure when part of the answer has been billed
    "nonsense": 0.5,
    "500": 3.0,
    "connection lost": 1.0,
    "gives up by itself": 1.0,
    "503": 0.5,
    "429": 0.02,  # each keeps everybody from the model, and its group, for seconds
    "429 with Retry-After": 0.2,
    "400": 1.0,
    "content refused": 0.5,
    "too long": 0.5,
}
"""What a provider does with a call, by weight."""

LEAVES = {"obeys": 6.0, "answers all the same": 1.0, "raises": 2.0}
"""What a provider that cancels promptly does when it is cancelled, by weight."""

ROUGH_LEAVES = {**LEAVES, "goes on": 2.0, "cleans up for long": 2.0}
"""The same for one that does not."""

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


def picked(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


# The provider and its ledger


class SdkError(Exception):
    """What some SDK raises when it is cancelled."""


class Bill:
    """One call as the provider sees it. Reports to the router, if it does, as it counts."""

    __slots__ = ("call", "is_reported", "is_running", "model_id", "tokens_in", "tokens_out")

    def __init__(self, model_id: str, call: Call | None, *, is_reported: bool) -> None:
        self.model_id = model_id
        self.call = call
        self.is_reported = is_reported
        self.is_running = False
        self.tokens_in = self.tokens_out = 0

    def count(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens_in, self.tokens_out = tokens_in, tokens_out
        if self.is_reported and self.call is not None:
            self.call.usage = self.usage

    @property
    def usage(self) -> Usage:
        return Usage(self.tokens_in, self.tokens_out)


class Ledger:
    """What providers were sent and what they bill; limits are checked from their side."""

    def __init__(self, models: list[ModelConfig]) -> None:
        self.models = {model.model_id: model for model in models}
        self.sent: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.open_calls = 0
        self.streams = 0
        self.tokens: defaultdict[tuple[str, bool], list[int]] = defaultdict(lambda: [0, 0])
        self.starts: defaultdict[str, deque[float]] = defaultdict(deque)
        self.slots_overrun = 0
        self.rate_overrun = 0
        self.sent_too_late = 0

    def open(self, model: ModelConfig, request: QueryRequest, bill: Bill) -> None:
        name = model.model_id
        self.sent[name] += 1
        self.open_calls += 1
        self.work(bill)
        self.slots_overrun += self.running[name] > model.max_concurrent_requests
        self._count_start(model.quota_group or name, model.requests_per_minute)
        ask: Ask | None = request.metadata.get("ask")
        self.sent_too_late += ask is not None and ask.is_over

    def _count_start(self, account: str, limit: int | None) -> None:
        if limit is None:
            return
        now, starts = asyncio.get_running_loop().time(), self.starts[account]
        starts.append(now)
        while starts[0] + 60.0 <= now:  # summed as the router does, for the last bit's sake
            starts.popleft()
        self.rate_overrun += len(starts) > limit

    def work(self, bill: Bill) -> None:
        self.running[bill.model_id] += not bill.is_running
        bill.is_running = True

    def rest(self, bill: Bill) -> None:
        self.running[bill.model_id] -= bill.is_running
        bill.is_running = False

    def close(self, bill: Bill) -> None:
        self.rest(bill)
        self.open_calls -= 1
        tokens = self.tokens[bill.model_id, bill.is_reported]
        tokens[0] += bill.tokens_in
        tokens[1] += bill.tokens_out

    def billed(self, *, is_reported: bool) -> float:
        """Dollars of calls whose usage was reported, or of the others."""
        return sum(
            Usage(*tokens).cost(self.models[model_id])
            for (model_id, reported), tokens in self.tokens.items()
            if reported is is_reported
        )


class Chaos:
    """A provider that fails in every way there is, and now and then is down for a while."""

    def __init__(self, ledger: Ledger, rng: random.Random, *, promptly: bool) -> None:
        self.cancels_promptly = promptly
        self._ledger = ledger
        self._rng = rng
        self._leaves = LEAVES if promptly else ROUGH_LEAVES

    async def complete(self, call: Call, /) -> Completion:
        act = self._act(call.model)
        bill = Bill(call.model.model_id, call, is_reported=act != "answer without usage")
        return await self._carry_out(call.model, call.request, bill, act)

    async def ask(self, model: ModelConfig, request: QueryRequest) -> Completion:
        """For `execute_with_fallback`, which has no call to report through."""
        bill = Bill(model.model_id, None, is_reported=False)
        return await self._carry_out(model, request, bill, self._act(model))

    async def _carry_out(
        self, model: ModelConfig, request: QueryRequest, bill: Bill, act: str
    ) -> Completion:
        self._ledger.open(model, request, bill)
        try:
            try:
                return await self._work(request, bill, act)
            except asyncio.CancelledError:
                if not await self._leave():
                    raise
                return self._answered(bill, act)
        finally:
            self._ledger.close(bill)

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        act, rng = self._act(call.model), self._rng
        bill = Bill(call.model.model_id, call, is_reported=act != "answer without usage")
        self._ledger.open(call.model, call.request, bill)
        self._ledger.streams += 1
        tokens_in, parts = len(call.request.query or "") // 4, rng.randint(2, 8)
        if rng.random() < 0.1:
            parts = 40  # more than a stream may be ahead of its consumer
        gap = self._seconds(act) / parts
        try:
            await self._pause(rng.uniform(0.02, 0.5))
            _raise_if_failing(act, rng)
            for part in range(1, parts + 1):
                bill.count(tokens_in, 5 * part)
                await self._pause(gap)
                if act == "hang" and part == 2:
                    await self._pause(1800.0)
                if act in ("break off", "nonsense") and part == parts:
                    if act == "break off":
                        raise ConnectionError("reset by peer")
                    return
                is_last, usage = part == parts, bill.usage if bill.is_reported else None
                self._ledger.rest(bill)  # a stream that nobody reads may have lost its slot
                if is_last:
                    yield Chunk(LAST_WORD, finish_reason="stop", usage=usage)
                else:
                    yield Chunk("a few words ")
                self._ledger.work(bill)
        finally:
            self._ledger.streams -= 1
            self._ledger.close(bill)

    async def _work(self, request: QueryRequest, bill: Bill, act: str) -> Completion:
        tokens_in = len(request.query or "") // 4
        tokens_out = self._rng.randint(1, request.max_tokens or 400)
        await asyncio.sleep(self._rng.uniform(0.02, 0.5))
        _raise_if_failing(act, self._rng)
        bill.count(tokens_in, 0)
        seconds = self._seconds(act)
        for part in (1, 2):
            await asyncio.sleep(seconds / 2)
            bill.count(tokens_in, tokens_out * part // 2)
            if act == "hang":
                await asyncio.sleep(1800.0)
            if act == "break off":
                raise ConnectionError("reset by peer")
        if act == "nonsense":
            return "an answer that is none"  # type: ignore[return-value] # as some would
        return self._answered(bill, act)

    def _answered(self, bill: Bill, act: str) -> Completion:
        if act == "answer without usage":
            return Completion(LAST_WORD)
        bill.is_reported = True
        return Completion(LAST_WORD, bill.usage, "stop")

    async def _pause(self, seconds: float) -> None:
        """Wait, in a stream; what a cancellation does to it is up to the provider."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if not await self._leave():
                raise
            if self.cancels_promptly:
                raise

    async def _leave(self) -> bool:
        """Take a cancellation; True if it is swallowed."""
        leave = picked(self._rng, self._leaves)
        self._ledger.acts[f"cancelled: {leave}"] += 1
        if leave == "raises":
            raise SdkError("the connection was aborted") from None
        if leave in ("goes on", "cleans up for long"):
            await _sleep_whatever_happens(self._rng.uniform(0.1, 5.0))
        return leave in ("answers all the same", "goes on")

    def _act(self, model: ModelConfig) -> str:
        # Each model is down for 12 s of 5 minutes, one after another.
        since = asyncio.get_running_loop().time() + 37.0 * len(model.model_id)
        act = "500" if since % 300.0 < 12.0 else picked(self._rng, ACTS)
        self._ledger.acts[act] += 1
        return act

    def _seconds(self, act: str) -> float:
        return (
            self._rng.uniform(10.0, 30.0)
            if act == "slow answer"
            else self._rng.lognormvariate(-0.4, 0.5)
        )


def _raise_if_failing(act: str, rng: random.Random) -> None:
    if act == "connection lost":
        raise ConnectionError("reset by peer")
    if act == "gives up by itself":
        raise TimeoutError
    failures: dict[str, Callable[[], AsyncRouteError]] = {
        "500": lambda: UnavailableError("internal error", status=500),
        "503": lambda: ProviderOverloadedError("overloaded", status=503),
        "429": lambda: RateLimitedError("slow down", status=429),
        "429 with Retry-After": lambda: RateLimitedError(
            "slow down", status=429, retry_after=rng.uniform(0.2, 2.0)
        ),
        "400": lambda: BadRequestError("no such parameter", status=400),
        "content refused": lambda: ContentRefusedError("against the rules"),
        "too long": lambda: ContextTooLongError("too many tokens"),
    }
    if act in failures:
        raise failures[act]()


async def _sleep_whatever_happens(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        try:
            await asyncio.sleep(until - loop.time())
        except asyncio.CancelledError:
            continue


# The callers


@dataclass(slots=True)
class Ask:
    """One request; `is_over` from when its caller has the result, or has gone."""

    timeout: float
    leaves_after: float | None
    is_over: bool = False


@dataclass(slots=True)
class Seen:
    """What the callers saw."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    roles: Counter[str] = field(default_factory=Counter[str])
    late: float = -inf
    late_leaving: float = -inf
    late_chunk: float = -inf
    half_streams: int = 0
    surprises: Counter[str] = field(default_factory=Counter[str])


class Caller:
    """Asks one thing after another, and loses patience with some of them."""

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
        rng, seen = self._rng, self._seen
        leaves_after = rng.expovariate(1.0) if rng.random() < 0.1 else None
        ask = Ask(rng.uniform(2.0, 20.0), leaves_after)
        kind = picked(rng, KINDS)
        seen.kinds[kind] += 1
        started_at = self._now()
        try:
            outcome = await self._perhaps_leaving(ask, self._carry_out(kind, ask))
        except AsyncRouteError as error:
            outcome = error.kind
        except Exception as error:
            seen.surprises[f"{kind}: {type(error).__name__}: {error}"] += 1
            outcome = "surprise"
        ask.is_over = kind != "cached"  # a shared run goes on for others
        seen.outcomes[outcome] += 1
        ended_after = self._now() - started_at
        if outcome == "caller left" and leaves_after is not None:
            seen.late_leaving = max(seen.late_leaving, ended_after - leaves_after)
        elif kind != "stream":
            seen.late = max(seen.late, ended_after - ask.timeout)

    async def _perhaps_leaving(self, ask: Ask, work: Coroutine[Any, Any, str]) -> str:
        """Wait for the outcome, or leave: half by a time-out, half by being cancelled."""
        if ask.leaves_after is None:
            return await work
        if self._rng.random() < 0.5:
            try:
                async with asyncio.timeout(ask.leaves_after) as patience:
                    return await work
            except TimeoutError:
                if not patience.expired():
                    raise
                return "caller left"
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        timer = loop.call_later(ask.leaves_after, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return "caller left"
        finally:
            timer.cancel()

    async def _carry_out(self, kind: str, ask: Ask) -> str:
        rng, routers = self._rng, self._routers
        request = QueryRequest(
            query=TEXTS[rng.randrange(len(TEXTS))],
            strategy=rng.choice(("balanced", "cost_optimized", "latency_optimized", "round_robin")),
            max_tokens=rng.choice((None, 50, 200, 400)),
            max_cost=rng.choice((None, None, 2.0)),
            timeout=ask.timeout,
            priority=rng.choice((0, 0, 0, 1)),
            metadata={"tenant": f"t{rng.randrange(5)}", "ask": ask},
        )
        if kind == "stream":
            return await self._read(request, rng.choice((None, "hedged", "race")))
        if kind == "execute_all":
            results = await routers.plain.execute_all(request, width=2)
            return self._outcome(*results)
        if kind == "own function":
            result = await routers.plain.execute_with_fallback(request, self._chaos.ask)
        elif kind == "cached":
            shared = request.model_copy(update={"metadata": {"tenant": "t"}, "max_tokens": 50})
            result = await routers.caching.execute(shared)
        elif kind == "cascade":
            accept = lambda _: rng.random() < 0.5  # noqa: E731
            result = await routers.plain.execute(request, mode="cascade", accept=accept)
        else:
            result = await routers.plain.execute(request, mode=kind)  # type: ignore[arg-type]
        return self._outcome(result)

    def _outcome(self, *results: ExecutionResult) -> str:
        for result in results:
            self._seen.roles.update(attempt.role for attempt in result.attempts)
        best = max(results, key=lambda result: result.success)
        return "answered" if best.success else best.error_kind or "no error"

    async def _read(self, request: QueryRequest, mode: Any) -> str:
        rng, seen, started_at = self._rng, self._seen, self._now()
        most = rng.randint(0, 3) if rng.random() < 0.25 else 1000
        is_slow = rng.random() < 0.1
        opened = self._routers.plain.stream(
            request, mode=mode, gap_timeout=GAP, total_timeout=TOTAL
        )
        outcome = "answered"
        try:
            async with opened as stream:
                self._see_late_opening(started_at, request)
                for _ in range(most):
                    asked_at = self._now()
                    chunk = await anext(stream, None)
                    seen.late_chunk = max(seen.late_chunk, self._now() - asked_at - GAP)
                    if chunk is None:
                        break
                    if is_slow:
                        await asyncio.sleep(rng.uniform(0.0, 2 * GAP))
                else:
                    outcome = "stream left early"
        except StreamInterruptedError:
            outcome = "stream interrupted"
        except AsyncRouteError:
            self._see_late_opening(started_at, request)
            raise
        result = opened.result()
        self._seen.roles.update(attempt.role for attempt in result.attempts)
        is_whole = (result.response or "").endswith(LAST_WORD)
        seen.half_streams += result.success and not is_whole
        seen.half_streams += outcome == "answered" and not result.success
        return outcome

    def _see_late_opening(self, started_at: float, request: QueryRequest) -> None:
        late = self._now() - started_at - (request.timeout or 0.0)
        self._seen.late = max(self._seen.late, late)


TEXTS = tuple(f"{number}: " + "please tell me about routers " * number for number in range(1, 60))


# The routers


class Routers(NamedTuple):
    """One for most, and one with a cache, whose runs several callers share."""

    plain: LLMRouter
    caching: LLMRouter


def some_models() -> list[ModelConfig]:
    common: dict[str, Any] = {
        "input_cost_per_1k": 0.5,
        "output_cost_per_1k": 1.7,
        "avg_latency_ms": 900.0,
        "max_tokens": 32_000,
    }
    limits = {"requests_per_minute": 1200, "tokens_per_minute": 400_000}
    group: dict[str, Any] = {**common, **limits, "quota_group": "account"}
    return [
        ModelConfig(model_id="a", provider="prompt", max_concurrent_requests=100, **common),
        ModelConfig(model_id="bb", provider="rough", max_concurrent_requests=120, **common),
        ModelConfig(model_id="ccc", provider="prompt", max_concurrent_requests=40, **group),
        ModelConfig(model_id="dddd", provider="rough", max_concurrent_requests=50, **group),
        ModelConfig(
            model_id="eeeee",
            provider="prompt",
            max_concurrent_requests=60,
            **{**common, "requests_per_minute": 1500, "cost_per_1k_tokens": 0.2},
        ),
        ModelConfig(
            model_id="ffffff", provider="rough", max_concurrent_requests=3, quality_score=0.9
        ),
    ]


def cached_models() -> list[ModelConfig]:
    prices = {"input_cost_per_1k": 0.3, "output_cost_per_1k": 0.9}
    return [
        ModelConfig(model_id="shared-a", provider="prompt", **prices),
        ModelConfig(model_id="shared-b", provider="rough", **prices),
    ]


def open_routers(models: list[ModelConfig], providers: dict[str, Chaos], seed: int) -> Routers:
    budgets = [
        MoneyBudget(1400.0, window=60.0),
        MoneyBudget(330.0, window=60.0, per="tenant"),
        MoneyBudget(500.0, window=60.0, per="model", only=["a"]),
    ]
    shared = {model.model_id for model in cached_models()}
    plain = LLMRouter(
        [model for model in models if model.model_id not in shared],
        providers,
        budgets=budgets,
        fair_by="tenant",
        max_workers=300,
        queue_size=100,
        metrics_window=200,
        seed=seed,
    )
    caching = LLMRouter(
        cached_models(),
        providers,
        cache=True,
        adaptive_concurrency=True,
        metrics_window=200,
        seed=seed,
    )
    return Routers(plain, caching)


def left_in(router: LLMRouter) -> Counter[str]:
    """Count what is held, waited for, reserved, running or armed."""
    executor = router._executor
    assert executor is not None
    runtime, now = executor.runtime, executor.runtime.now()
    left: Counter[str] = Counter()
    left["requests in flight"] = len(executor._courses)
    left["tasks"] = len(runtime.supervisor)
    left["armed deadlines"] = sum(map(len, runtime.deadlines._buckets.values()))
    left["timers"] = len(runtime.deadlines._timers)
    left["shared runs"] = router._cache.snapshot().running if router._cache else 0
    for account in router._budgets.snapshot(now):
        left["reservations of money"] += account.open
        left["picodollars still booked"] += round(account.booked * 1e12)
    workers = router._balancer._workers
    left["workers"] = 0 if workers is None else workers.used
    for endpoint in router._registry:
        lane, limiter = endpoint.lane, endpoint.lane.capacity.limiter
        left["requests assigned"] += abs(endpoint.assigned)
        left["slots"] += lane.in_flight
        left["slots of the limiter"] += limiter.borrowed_tokens if limiter else 0
        left["queued waiters"] += lane.queued + len(lane.pool)
        left["probes"] += endpoint.health._probe is not None
        if lane.share is not None:
            tokens = lane.share.quota._tokens
            left["lanes waiting for limits"] += len(lane.share.waiting)
            left["timers of limits"] += lane.share._timer is not None
            left["tokens reserved"] += 0 if tokens is None or tokens.fits(0, now) else 1
            left["tokens reserved"] += 0 if tokens is None else tokens.level
    return left


# The run


class Memory(NamedTuple):
    """What the process has after a collection."""

    blocks: int
    mebibytes: float

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        gc.collect()
        resident = 0
        status = Path("/proc/self/status")
        if status.exists():
            lines = status.read_text().splitlines()
            resident = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return cls(sys.getallocatedblocks(), resident / 1024)


class Figure(NamedTuple):
    """A line of the report; where nothing is wanted of it, it cannot be off."""

    name: str
    value: str
    wanted: str = ""
    is_off: bool = False


@dataclass
class Report:
    """What came of a run; `seen` is what its callers saw."""

    seen: Seen
    figures: list[Figure] = field(default_factory=list[Figure])

    def tell(self, name: str, value: object) -> None:
        self.figures.append(Figure(name, str(value)))

    def none(self, name: str, count: float) -> None:
        self.figures.append(Figure(name, f"{count:,}", "0", is_off=count != 0))

    def at_most(self, name: str, value: float, most: float, unit: str = "") -> None:
        shown, wanted = f"{value:,.4g}{unit}", f"<= {most:,.4g}{unit}"
        self.figures.append(Figure(name, shown, wanted, is_off=not value <= most))

    @property
    def off(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.is_off]


class Soak:
    """The whole of it: a part to warm up, what is left then, the other parts, what is left."""

    def __init__(self, calls: int, callers: int, seed: int) -> None:
        self.calls = calls
        self.callers = callers
        self.rng = random.Random(seed)
        self.seed = seed
        self.models = some_models() + cached_models()
        self.ledger = Ledger(self.models)
        self.seen = Seen()
        self.loop_errors: Counter[str] = Counter()

    async def run(self) -> Report:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        before = len(asyncio.all_tasks())
        providers = {
            name: Chaos(self.ledger, random.Random(self.rng.random()), promptly=name == "prompt")
            for name in ("prompt", "rough")
        }
        routers = open_routers(self.models, providers, self.seed)
        async with routers.plain, routers.caching:
            holders = len(asyncio.all_tasks()) - before
            warm_up = max(self.calls // 5, 1)
            await self._ask(routers, providers["rough"], warm_up)
            at_first = self._memory_at_rest()
            started = time.perf_counter()
            await self._ask(routers, providers["rough"], self.calls - warm_up)
            seconds = time.perf_counter() - started
            left = left_in(routers.plain)
            left.update(left_in(routers.caching))
            left["tasks of the loop"] = len(asyncio.all_tasks()) - before - holders
            at_last = self._memory_at_rest()
            report = self._reported(routers, left, at_first, at_last)
            report.tell("calls per second", f"{(self.calls - warm_up) / seconds:,.0f}")
        return report

    def _on_loop_error(self, _: object, context: dict[str, Any]) -> None:
        self.loop_errors[f"{context.get('message')}: {context.get('exception')!r}"] += 1

    async def _ask(self, routers: Routers, chaos: Chaos, calls: int) -> None:
        callers = min(self.callers, calls)
        each, more = divmod(calls, callers)
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                caller = Caller(routers, chaos, self.seen, random.Random(self.rng.random()))
                group.create_task(caller.ask(each + (number < more)))
        await asyncio.sleep(3600.0)  # until every limit per minute is free again

    def _memory_at_rest(self) -> Memory:
        self.ledger.starts.clear()
        return Memory.now()

    def _reported(
        self, routers: Routers, left: Counter[str], at_first: Memory, at_last: Memory
    ) -> Report:
        report, seen, ledger = Report(self.seen), self.seen, self.ledger
        report.tell("calls", f"{sum(seen.kinds.values()):,} by {self.callers:,} callers")
        report.tell("virtual time", f"{asyncio.get_running_loop().time() - 7200:,.0f} s")
        report.tell("asked", _listed(seen.kinds))
        report.tell("came to", _listed(seen.outcomes))
        report.tell("attempts told", _listed(seen.roles))
        report.tell("provider did", _listed(ledger.acts))
        report.none("unknown errors met by callers", sum(seen.surprises.values()))
        report.none("errors logged by the loop", sum(self.loop_errors.values()))
        for what, count in sorted(left.items()):
            report.none(f"left: {what}", count)
        report.none("left: calls at the provider", ledger.open_calls)
        report.none("left: streams at the provider", ledger.streams)
        self._report_promises(report)
        self._report_bill(report, routers)
        blocks = at_last.blocks - at_first.blocks
        report.at_most("memory: blocks more than after a fifth", blocks, 20_000)
        report.at_most(
            "memory: resident more", at_last.mebibytes - at_first.mebibytes, 16.0, " MiB"
        )
        return report

    def _report_promises(self, report: Report) -> None:
        seen, ledger = self.seen, self.ledger
        report.at_most("latest end after a deadline", seen.late, GRACE, " s")
        report.at_most("latest end after a caller left", seen.late_leaving, GRACE, " s")
        report.at_most("latest chunk after the gap's limit", seen.late_chunk, GRACE, " s")
        report.none("half streams that ended as if complete", seen.half_streams)
        report.none("calls sent after their request was over", ledger.sent_too_late)
        report.none("calls above a model's slots", ledger.slots_overrun)
        report.none("calls above a limit per minute", ledger.rate_overrun)

    def _report_bill(self, report: Report, routers: Routers) -> None:
        ledger = self.ledger
        totals = [router._metrics.snapshot() for router in routers]
        stats = {
            name: of
            for router in routers
            for name, of in router.get_statistics()["model_stats"].items()
        }
        settled = sum(of["total_requests"] for of in stats.values())
        report.tell("provider calls sent", f"{sum(ledger.sent.values()):,}")
        wrong = sum(abs(stats[name]["total_requests"] - ledger.sent[name]) for name in stats)
        report.tell("attempts settled", f"{settled:,}")
        report.none("sent but not settled, or settled twice", wrong)
        estimated = sum(total.estimated_cost for total in totals)
        spend = sum(total.total_cost for total in totals) - estimated
        billed = ledger.billed(is_reported=True)
        report.tell("spend by reported usage", f"${spend:,.6f}")
        report.tell("the provider's ledger", f"${billed:,.6f}")
        report.at_most("difference", abs(spend - billed), 0.005, " $")
        unreported = ledger.billed(is_reported=False)
        # Also of calls that were cancelled before the provider had begun to bill them.
        report.tell("spend estimated", f"${estimated:,.2f}; the ledger has ${unreported:,.2f}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())


def soak(calls: int, callers: int = 1000, seed: int = 1) -> Report:
    """Run it on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        run = Soak(calls, callers, seed)
        report = runner.run(run.run())
    for error, count in [*run.seen.surprises.items(), *run.loop_errors.items()]:
        report.tell("error", f"{count} x {error}")
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    report = soak(asked.calls, asked.callers, asked.seed)
    table = Table(title=f"Soak, CPython {sys.version.split()[0]}, asyncio, seed {asked.seed}")
    for column in ("", "figure", "wanted"):
        table.add_column(column)
    for figure in report.figures:
        table.add_row(*figure[:3], style="bold red" if figure.is_off else None)
    Console().print(table)
    return 1 if report.off else 0


if __name__ == "__main__":
    sys.exit(main())
