"""What a request costs, in counts: no test times it. The figures are in `docs/performance.md`."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import pytest

from asyncroute import (
    Attempt,
    Call,
    Completion,
    ExecutionResult,
    HealthSettings,
    LLMRouter,
    MoneyBudget,
    Plan,
    QueryRequest,
    Ranking,
    UnavailableError,
    Usage,
)
from support import models

T = TypeVar("T")

FIELDS: dict[str, Any] = {
    "max_cost": 20.0,
    "required_quality": 0.1,
    "max_tokens": 100,
    "timeout": 30.0,
}
REQUEST = QueryRequest(query="hello", **FIELDS)
NEVER_EJECTED = HealthSettings(consecutive_failures=10**9, min_success_rate=0.0)
ANSWER = Completion("ok", Usage(20, 2))


class Instant:
    """Answers at once, or after some seconds; every so many-th call fails.

    Counts what is allocated while it is called.
    """

    def __init__(
        self, *, fails_every: int = 0, promptly: bool = True, seconds: float = 0.0
    ) -> None:
        self.cancels_promptly = promptly
        self.fails_every = fails_every
        self.seconds = seconds
        self.calls = 0
        self.blocks = 0

    async def complete(self, call: Call, /) -> Completion:
        self.blocks = sys.getallocatedblocks()
        self.calls += 1
        if self.fails_every and self.calls % self.fails_every == 0:
            raise UnavailableError("down")
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return ANSWER


class Planned:
    """Ranks models as configured, and wishes for a hedge."""

    async def select(self, request: object, candidates: Any, /) -> Ranking:
        return Ranking.in_order(candidates, plan=Plan(stagger=0.5))


class Silent:
    """Listens to everything, and says nothing."""

    def on_start(self, call: Call, /) -> None: ...

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None: ...

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None: ...


def with_every_feature(
    provider: Instant, *, requests_per_minute: int = 1_000_000, **settings: Any
) -> LLMRouter:
    """Make a router over eight models with limits of every kind, which are not reached."""
    configs = models(
        "abcdefgh",
        max_concurrent_requests=1000,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=10**9,
    )
    settings = {"budgets": [MoneyBudget(1e6)], "health": NEVER_EJECTED, "seed": 1, **settings}
    return LLMRouter(configs, {"*": provider}, **settings)


Start = Callable[[LLMRouter], Coroutine[Any, Any, object]]
"""Begins one call of the router."""


def execute(router: LLMRouter) -> Coroutine[Any, Any, object]:
    return router.execute(REQUEST)


def execute_text(router: LLMRouter) -> Coroutine[Any, Any, object]:
    return router.execute("hello", **FIELDS)


def execute_hedged(router: LLMRouter) -> Coroutine[Any, Any, object]:
    return router.execute(REQUEST, mode="hedged")


def execute_messages(router: LLMRouter) -> Coroutine[Any, Any, object]:
    return router.execute([{"role": "user", "content": "hello"}], **FIELDS)


def route(router: LLMRouter) -> Coroutine[Any, Any, object]:
    return router.route(REQUEST)


FAST: dict[str, tuple[Start, dict[str, Any], int]] = {
    "ready request": (execute, {}, 0),
    "text": (execute_text, {}, 0),
    "hedge armed": (execute_hedged, {}, 0),
    "observer": (execute, {"observers": [Silent()]}, 0),
    "fallback": (execute, {}, 2),
    "cached by text": (execute_text, {"cache": True}, 0),
    "cached by messages": (execute_messages, {"cache": True}, 0),
    "route": (route, {}, 0),
}
"""What is called, on which router, and how often its provider fails: all that need not wait."""

EVERY_FAST = pytest.mark.parametrize(
    ("start", "settings", "fails_every"), FAST.values(), ids=FAST.keys()
)


async def warm_up(router: LLMRouter, start: Start, times: int = 30) -> None:
    """What is done or made once is no cost of a call."""
    for _ in range(times):
        await start(router)


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, without a loop's help."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    pytest.fail(f"it suspended, waiting for {waits_for!r}")


@contextmanager
def counting_what_loops_do() -> Iterator[Counter[str]]:
    """Count the tasks started, timers set and callbacks scheduled on the running loop."""
    loop: Any = asyncio.get_running_loop()
    counts: Counter[str] = Counter()

    def counted(name: str) -> None:
        original = getattr(loop, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return original(*args, **kwargs)

        setattr(loop, name, call)

    names = ("create_task", "call_at", "call_soon")  # `call_later` is a `call_at`
    for name in names:
        counted(name)
    try:
        yield counts
    finally:
        for name in names:
            delattr(loop, name)


def functions_called(function: Callable[[], object]) -> int:
    """Count the functions called, Python's and C's, and the times that generators go on."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before = sys.getprofile()
    # What the collector calls for the garbage of other tests is no part of it.
    gc.collect()
    gc.disable()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count - 1  # putting the profiler back


# The way of a request that need not wait


@EVERY_FAST
async def test_a_call_that_need_not_wait_neither_suspends_nor_starts_anything(
    start: Start, settings: dict[str, Any], fails_every: int
) -> None:
    with counting_what_loops_do() as counts:
        async with with_every_feature(Instant(fails_every=fails_every), **settings) as router:
            await warm_up(router, start)
            counts.clear()
            for _ in range(100):
                finish(start(router))
            seen = dict(counts)
    assert seen.pop("call_at", 0) <= 2  # timers: one for all deadlines of 20 ms
    assert seen == {}  # no task, no callback


@pytest.mark.parametrize(
    ("promptly", "mode", "tasks"), [(False, None, 1), (True, "race", 2)], ids=["one", "race"]
)
async def test_a_task_takes_its_step_and_two_callbacks_and_wakes_the_caller_once(
    promptly: bool, mode: Any, tasks: int
) -> None:
    with counting_what_loops_do() as counts:
        async with with_every_feature(Instant(promptly=promptly)) as router:
            for _ in range(30):
                await router.execute(REQUEST, mode=mode)
            counts.clear()
            for _ in range(100):
                await router.execute(REQUEST, mode=mode)
            seen = dict(counts)
    assert seen.pop("call_at", 0) <= 2  # timers: one for all deadlines of 20 ms
    assert seen == {"create_task": 100 * tasks, "call_soon": 100 * (3 * tasks + 1)}


CEILINGS = {
    "ready request": 160,
    "text": 168,
    "hedge armed": 175,
    "observer": 170,
    "fallback": 400,
    "cached by text": 21,
    "cached by messages": 25,
    "route": 61,
}
"""Functions called, a tenth above what is needed. Going beyond wants a reason."""


@pytest.mark.parametrize("name", FAST)
async def test_a_call_takes_no_more_calls_of_functions_than_it_needs(name: str) -> None:
    start, settings, fails_every = FAST[name]
    async with with_every_feature(Instant(fails_every=fails_every), **settings) as router:
        await warm_up(router, start)
        taken = [functions_called(lambda: finish(start(router))) for _ in range(20)]
    assert max(taken) <= CEILINGS[name]


@pytest.mark.parametrize("count", [30, 300])
async def test_a_decision_takes_no_longer_where_many_are_set_aside(count: int) -> None:
    async with LLMRouter(models(map(str, range(count))), {"*": Instant()}) as router:
        now = asyncio.get_running_loop().time()
        for endpoint in list(router._registry)[: count // 3]:
            endpoint.block(now + 30, now)
        await warm_up(router, route)
        assert functions_called(lambda: finish(route(router))) <= 120


def test_a_router_of_many_models_is_made_in_one_pass() -> None:
    few, many = models(map(str, range(50))), models(map(str, range(400)))
    LLMRouter(few)  # what is done once only is done by now
    of_few = functions_called(lambda: LLMRouter(few))
    assert functions_called(lambda: LLMRouter(many)) <= 10 * of_few


async def test_a_call_in_flight_holds_no_more_memory_blocks_than_it_needs() -> None:
    provider = Instant()
    async with with_every_feature(provider, metrics_window=20) as router:
        await warm_up(router, execute, 200)
        held: list[int] = []
        for _ in range(20):
            before = sys.getallocatedblocks()
            finish(router.execute(REQUEST))
            held.append(provider.blocks - before)
    assert max(held) <= 30


async def test_a_result_that_is_kept_has_no_more_memory_blocks_than_it_needs() -> None:
    async with with_every_feature(Instant(), metrics_window=20) as router:
        await warm_up(router, execute, 200)
        kept: list[ExecutionResult | None] = [None] * 100
        before = sys.getallocatedblocks()
        for i in range(100):
            kept[i] = finish(router.execute(REQUEST))
        per_result = (sys.getallocatedblocks() - before) / 100
    assert per_result <= 35


# What is left when it is over


@pytest.mark.parametrize("fails_every", [0, 6], ids=["all answer", "with fallbacks"])
async def test_nothing_grows_with_the_number_of_past_requests(fails_every: int) -> None:
    provider = Instant(fails_every=fails_every)
    async with with_every_feature(provider, requests_per_minute=100, metrics_window=20) as router:

        async def some(calls: int) -> int:
            for _ in range(calls):
                assert (await router.execute(REQUEST)).success
                await asyncio.sleep(1)
            gc.collect()
            return sys.getallocatedblocks()

        await some(1500)  # fills rings and windows
        before = await some(100)
        growth = await some(500) - before
    assert growth < 50  # a single object a call would be 500
    assert provider.calls >= 2100


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ready request": ({}, {}),
    "fallback": ({"fails_every": 2}, {}),
    "hedge armed": ({}, {"mode": "hedged"}),
    "hedge armed, first fails": ({"fails_every": 2}, {"mode": "hedged"}),
    "hedge armed, supervised": ({"promptly": False}, {"mode": "hedged"}),
    "hedge started": ({"seconds": 0.1}, {"mode": "hedged", "hedge_after": 0.01}),
    "hedge planned": ({}, {"strategy": Planned()}),
    "race": ({}, {"mode": "race"}),
    "race, one fails": ({"fails_every": 2}, {"mode": "race"}),
    "all fail": ({"fails_every": 1}, {}),
    "supervised, all fail": ({"promptly": False, "fails_every": 1}, {}),
    "supervised": ({"promptly": False}, {}),
    "supervised fallback": ({"promptly": False, "fails_every": 2}, {}),
}


@pytest.mark.smoke
@pytest.mark.parametrize(("provider", "how"), KINDS.values(), ids=KINDS.keys())
async def test_nothing_is_left_for_the_cyclic_collector(
    provider: dict[str, Any], how: dict[str, Any]
) -> None:
    async with with_every_feature(Instant(**provider)) as router:
        for _ in range(10):
            await router.execute(REQUEST, **how)
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                answered = (await router.execute(REQUEST, **how)).success
                assert answered == (provider.get("fails_every") != 1)
            await asyncio.sleep(0)  # for callbacks of tasks that ended last
            found = gc.collect()
        finally:
            gc.enable()
    assert found == 0
