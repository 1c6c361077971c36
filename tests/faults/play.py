"""A schedule of everything that may go wrong, played on one router, and what must hold throughout.

It says what each model does at each of its calls, and who asks when, how, for how long, and when
they leave. Durations come from a small grid, so that many things happen at one instant.
"""

from __future__ import annotations

import asyncio
import warnings
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from hypothesis import strategies as st

from asyncroute import (
    Call,
    Completion,
    ExecutionResult,
    HealthSettings,
    LLMRouter,
    MoneyBudget,
    RouterStateError,
    Usage,
)
from faults.rig import (
    GRACE,
    LOSER_GRACE,
    Ledger,
    assert_at_rest,
    block_loop,
    cleans_up,
    every_turn,
    no_loop_errors,
    raises_on_cancellation,
    renames_cancellation,
    stubborn,
    swallows_cancellation,
    turns,
    works,
)
from support import KINDS, InOrder, Step, model, now

EPSILON = 1e-9

LONGEST = 12.0
"""Seconds after which even the most stubborn call of a schedule has ended."""

DRAIN = 0.2
RETRIES_SAVED_UP = 10
MODELS_A_REQUEST = 3
MOST_TIMERS = 1000

seconds = st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1, 0.1, 0.2, 0.5, 1.0, 2.0])
waits = st.sampled_from([0.01, 0.02, 0.1, 0.1, 0.5, 1.0, 2.0, 10.0])


# What models do


def bills(step: Callable[[Call], Awaitable[Any]]) -> Step:
    """Let a call owe something from its start on, so that no cost is an estimate."""

    async def billed(call: Call) -> Completion:
        call.usage = Usage(10, 0)
        return await step(call)

    return billed


def failing(kind: str, after: float, retry_after: float | None) -> Step:
    async def step(call: Call) -> Completion:
        await asyncio.sleep(after)
        raise KINDS[kind]("scripted", retry_after=retry_after)

    return bills(step)


class Blocking:
    """Blocks the loop for some seconds, and answers."""

    def __init__(self, for_seconds: float) -> None:
        self.for_seconds = for_seconds

    async def __call__(self, call: Call) -> Completion:
        call.usage = Usage(10, 0)
        block_loop(self.for_seconds)
        await asyncio.sleep(0.01)
        return Completion("blocked", Usage(10, 1))


@bills
async def cancels_itself(call: Call) -> Completion:
    raise asyncio.CancelledError


@bills
async def answers_nonsense(call: Call) -> Any:
    await asyncio.sleep(0.01)
    return "not a completion"


@bills
async def has_a_bug(call: Call) -> Completion:
    raise ExceptionGroup("a group of its own", [ValueError("bug"), KeyError("bug")])


prompt = st.one_of(
    seconds.map(works),
    seconds.map(works),
    st.builds(
        failing,
        st.sampled_from(sorted(KINDS)),
        seconds,
        st.sampled_from([None, None, 0.05, 0.5, -1.0, float("nan")]),
    ),
    st.integers(0, 3).map(turns),
    st.sampled_from(
        [
            works(3600.0),
            bills(renames_cancellation()),
            bills(raises_on_cancellation(ValueError("while cleaning up"))),
            bills(swallows_cancellation()),
            cancels_itself,
            answers_nonsense,
            has_a_bug,
        ]
    ),
)
dawdling = st.one_of(
    prompt,
    st.sampled_from([cleans_up(0.03), cleans_up(0.5)]).map(bills),
    st.sampled_from([0.1, 2.0, 10.0]).map(stubborn),
)
with_blocks = st.one_of(prompt, st.sampled_from([0.05, 0.3, 1.0]).map(Blocking))


# Who asks

Mode = Literal["sequential", "hedged", "race", "cascade", "all"]


@dataclass(frozen=True)
class Asking:
    """One caller: when it comes, what it wants, when it leaves."""

    comes_at: float
    mode: Mode
    timeout: float
    hedge_after: float
    width: int
    leaves_after: float | None
    leaves_by_scope: bool
    query: int | None
    priority: int

    def of(self, router: LLMRouter, number: int) -> Coroutine[Any, Any, Any]:
        text = f"own {number}" if self.query is None else f"shared {self.query}"
        fields: dict[str, Any] = {"timeout": self.timeout, "priority": self.priority}
        fields["metadata"] = {"number": number}
        if self.mode == "all":
            return router.execute_all(text, width=self.width, **fields)
        if self.mode == "hedged":
            fields["hedge_after"] = self.hedge_after
        elif self.mode == "race":
            fields["width"] = self.width
        elif self.mode == "cascade":
            fields["accept"], fields["strategy"] = accepts, "balanced"
        return router.execute(text, mode=self.mode, **fields)


async def accepts(completion: Completion) -> bool:
    await asyncio.sleep(0.01)
    return completion.text in "bd"


askings = st.builds(
    Asking,
    comes_at=seconds,
    mode=st.sampled_from(["sequential", "sequential", "hedged", "race", "cascade", "all"]),
    timeout=waits,
    hedge_after=seconds,
    width=st.integers(1, 3),
    leaves_after=st.one_of(st.none(), st.none(), seconds),
    leaves_by_scope=st.booleans(),
    query=st.one_of(st.none(), st.integers(1, 2)),
    priority=st.integers(-1, 1),
)


# The schedule


@dataclass(frozen=True)
class Setting:
    """What a router is made of, and when it closes."""

    slots: tuple[int, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    money: float | None
    max_workers: int | None
    queue_size: int
    cache: bool
    closes_after: float | None


settings_of_routers = st.builds(
    Setting,
    slots=st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
    requests_per_minute=st.sampled_from([None, None, 3, 12]),
    tokens_per_minute=st.sampled_from([None, None, 600, 3000]),
    money=st.sampled_from([None, None, 0.005, 0.02]),
    max_workers=st.sampled_from([None, None, 1, 2]),
    queue_size=st.sampled_from([0, 2, 1000]),
    cache=st.booleans(),
    closes_after=st.sampled_from([None, None, None, 0.1, 0.5]),
)


@dataclass
class Seen:
    """How one caller fared."""

    asking: Asking
    came_at: float = 0.0
    left_at: float | None = None
    ended_at: float = 0.0
    results: list[ExecutionResult] = field(default_factory=list[ExecutionResult])
    error: BaseException | None = None


class Play:
    """One schedule, played on one router."""

    def __init__(self, setting: Setting, scripts: list[list[Step]], inline: list[bool]) -> None:
        self.setting = setting
        self.blocked = 0.0
        names = "abcd"[: len(setting.slots)]
        self.ledgers = {
            name: Ledger({name: self.in_a_circle(script)}, cancels_promptly=is_inline)
            for name, script, is_inline in zip(names, scripts, inline, strict=False)
        }
        self.models = [
            model(
                name,
                provider=name,
                cost_per_1k_tokens=0.001 * price,
                max_concurrent_requests=slots,
                requests_per_minute=setting.requests_per_minute,
                tokens_per_minute=setting.tokens_per_minute,
                avg_latency_ms=200,
            )
            for price, (name, slots) in enumerate(zip(names, setting.slots, strict=True), 1)
        ]
        self.closed_at: float | None = None

    def in_a_circle(self, script: list[Step]) -> Step:
        calls = 0

        async def step(call: Call) -> Completion:
            nonlocal calls
            does = script[calls % len(script)]
            calls += 1
            if isinstance(does, Blocking):
                self.blocked += does.for_seconds
            return await does(call)

        return step

    def router(self) -> LLMRouter:
        setting = self.setting
        return LLMRouter(
            self.models,
            dict(self.ledgers),
            selectors={"balanced": InOrder()},
            seed=1,
            budgets=[] if setting.money is None else [MoneyBudget(setting.money)],
            health=HealthSettings(consecutive_failures=2, base_ejection=0.5),
            max_workers=setting.max_workers,
            queue_size=setting.queue_size,
            cache=setting.cache,
            drain_timeout=DRAIN,
        )

    async def run(self, askings: list[Asking]) -> None:
        router = self.router()
        seen = [Seen(asking) for asking in askings]
        with every_turn(lambda _: self.look(router)), no_loop_errors(), warnings_of_the_let_go():
            async with router:
                callers = [
                    asyncio.create_task(self.ask(router, number, each))
                    for number, each in enumerate(seen)
                ]
                await asyncio.wait(callers, timeout=self.setting.closes_after)
                if not all(caller.done() for caller in callers):
                    self.closed_at = now()
            await asyncio.wait(callers)
            await asyncio.sleep(LONGEST)
        for each in seen:
            self.check(each)
        self.check_calls(seen)
        self.check_rest(router, seen)

    async def ask(self, router: LLMRouter, number: int, seen: Seen) -> None:
        asking = seen.asking
        await asyncio.sleep(asking.comes_at)
        seen.came_at = now()
        scope = anyio.CancelScope()
        task = asyncio.create_task(within(scope, seen, asking.of(router, number)))
        if asking.leaves_after is not None:
            await asyncio.wait([task], timeout=asking.leaves_after)
            if not task.done():
                seen.left_at = now()
                scope.cancel() if asking.leaves_by_scope else task.cancel()
        await asyncio.wait([task])
        seen.ended_at = now()
        if task.cancelled():
            seen.error = asyncio.CancelledError()
        elif error := task.exception():
            seen.error = error
        else:
            seen.results = task.result()

    # While it goes on

    def look(self, router: LLMRouter) -> None:
        setting = self.setting
        is_metered = setting.requests_per_minute or setting.tokens_per_minute
        workers = router._balancer._workers
        if workers is not None:
            assert workers.used <= workers.limit
        for endpoint in router._registry:
            lane = endpoint.lane
            running = len(self.ledgers[endpoint.config.model_id].running)
            assert running <= lane.in_flight, "a call runs without a slot"
            assert lane.in_flight <= endpoint.config.max_concurrent_requests
            assert lane.in_flight + lane.queued <= endpoint.assigned
            if lane.queued and lane.capacity.limit and not is_metered and workers is None:
                assert lane.in_flight >= lane.capacity.limit, "a slot is free, somebody waits"
        loop: Any = router._loop
        assert loop is None or len(loop._scheduled) < MOST_TIMERS

    # When it is over

    def check(self, seen: Seen) -> None:
        asking = seen.asking
        if isinstance(seen.error, asyncio.CancelledError):
            assert seen.left_at is not None, "cancelled, though nobody left"
        elif isinstance(seen.error, RouterStateError):
            assert self.closed_at is not None, "closed, though nobody closed it"
        else:
            assert seen.error is None, seen.error
        latest = seen.came_at + asking.timeout + GRACE
        if seen.left_at is not None:
            latest = min(latest, seen.left_at + LOSER_GRACE)
        if self.closed_at is not None and seen.came_at < self.closed_at:
            latest = min(latest, self.closed_at + DRAIN + LOSER_GRACE)
        assert seen.ended_at <= latest + self.blocked + EPSILON, "it ended late"
        for result in seen.results:
            assert result.success == (result.response is not None) == (result.error is None)
            assert not isinstance(result.exception, BaseExceptionGroup)
            outcomes = [attempt.outcome for attempt in result.attempts]
            assert outcomes.count("won") <= 1
            is_answered = "won" in outcomes or "not_accepted" in outcomes
            assert is_answered or result.cached or not result.success

    def check_calls(self, seen: list[Seen]) -> None:
        entries = [entry for ledger in self.ledgers.values() for entry in ledger.entries]
        for entry in entries:
            caller = seen[entry.call.request.metadata["number"]]
            if caller.asking.query is None or not self.setting.cache:
                deadline = caller.came_at + caller.asking.timeout
                assert entry.sent_at < deadline + EPSILON, "sent after the deadline"
                if caller.left_at is not None:
                    assert entry.sent_at <= caller.left_at + self.blocked, "sent for nobody"
            if self.closed_at is not None:
                assert entry.sent_at <= self.closed_at + DRAIN + self.blocked, "sent when closed"
        most = sum(max(MODELS_A_REQUEST, each.asking.width) for each in seen)
        assert len(entries) <= most + RETRIES_SAVED_UP + len(seen) // 10
        limit = self.setting.requests_per_minute
        for ledger in self.ledgers.values():
            sent_at = ledger.sent_at
            for number, at in enumerate(sent_at):
                in_window = bisect_left(sent_at, at + 60 - EPSILON) - number
                assert limit is None or in_window <= limit

    def check_rest(self, router: LLMRouter, seen: list[Seen]) -> None:
        assert_at_rest(router)
        figures = router.get_statistics()["model_stats"]
        for name, ledger in self.ledgers.items():
            assert_settled(figures[name], ledger)
        assert router.get_statistics()["total_requests"] >= sum(len(each.results) for each in seen)


def assert_settled(figures: dict[str, Any], ledger: Ledger) -> None:
    assert ledger.running == []
    assert figures["total_requests"] == len(ledger.entries)
    billed = sum(ledger.billed.values())
    assert abs(figures["total_cost"] - billed) < 1e-11
    answered = sum(entry.end == "answered" for entry in ledger.entries)
    assert figures["successes"] == answered


async def within(
    scope: anyio.CancelScope, seen: Seen, work: Coroutine[Any, Any, Any]
) -> list[ExecutionResult]:
    """Return what came of it: nothing, where the scope took a cancellation for its own."""
    with scope:
        seen.came_at = now()  # a blocked loop may have kept it from its first step
        answer = await work
        return answer if isinstance(answer, list) else [answer]
    return []


@contextmanager
def warnings_of_the_let_go() -> Generator[None]:
    """Take no notice of the warning that names those that ignore the end of their router."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the router let go", RuntimeWarning)
        yield
