"""The caller goes: whenever it goes, nothing is left behind and nothing more is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from asyncroute import (
    CacheManager,
    Completion,
    ExecutionResult,
    LLMRouter,
    MoneyBudget,
    QueryRequest,
    RouterStateError,
    Usage,
    _deadlines,
)
from faults.rig import (
    GRACE,
    LOSER_GRACE,
    TICK,
    Ledger,
    after_turns,
    assert_at_rest,
    assert_settled,
    cleans_up,
    every_turn,
    no_loop_errors,
    raises_on_cancellation,
    refuses,
    renames_cancellation,
    says_healthy,
    slots,
    stubborn,
    swallows_cancellation,
    works,
)
from support import fails, model, now, roles, router_of

BOTH = pytest.mark.parametrize("inline", [True, False], ids=["inline", "supervised"])

Ask = Callable[[LLMRouter], Coroutine[Any, Any, ExecutionResult]]

MISBEHAVIOURS = {
    "renames": renames_cancellation(),
    "raises": raises_on_cancellation(ValueError("while cleaning up")),
    "swallows": swallows_cancellation(),
    "cleans up": cleans_up(0.02),
    "obeys": works(3600),
}

# An inline provider that takes its time spins within a scope of anyio's, which cancels it anew on
# every turn: the virtual clock would stand still.
PROMPT = [how for how in MISBEHAVIOURS if how != "cleans up"]


# The sweep: cancelled at every await there is

WAYS: dict[str, tuple[Ask, dict[str, Any]]] = {
    "sequential": (lambda r: r.execute("q"), {}),
    "falls back": (lambda r: r.execute("q", models=["bad", "a"]), {}),
    "retries": (lambda r: r.execute("q", models=["bad"], timeout=3), {}),
    "hedged": (lambda r: r.execute("q", mode="hedged", hedge_after=0.03), {}),
    "race": (lambda r: r.execute("q", mode="race", width=3), {}),
    "race with a failure": (lambda r: r.execute("q", models=["bad", "a", "b"], mode="race"), {}),
    "cascade": (lambda r: r.execute("q", mode="cascade", accept=_ponders), {}),
    "all": (lambda r: _first_of(r.execute_all("q", width=3)), {}),
    "cached": (lambda r: r.execute("q"), {"cache": True}),
    "own function": (lambda r: r.execute_with_fallback(_request(), _answers), {}),
}


def _request() -> QueryRequest:
    return QueryRequest(query="q")


async def _answers(config: Any, request: Any) -> str:
    await asyncio.sleep(0.1)
    return "answer"


async def _first_of(results: Coroutine[Any, Any, list[ExecutionResult]]) -> ExecutionResult:
    return (await results)[0]


async def _ponders(completion: Any) -> bool:
    await asyncio.sleep(0.01)
    return completion.text == "c"


ONLY_SUPERVISED = {"race", "race with a failure", "all", "own function"}
RUN_ELSEWHERE = {*ONLY_SUPERVISED, "cached"}


class _Sent:
    """Makes the caller go after some turns, and counts the calls that were sent by then.

    Of tasks between the caller and the provider each that was ready for its first step may take
    that step before the cancellation, which passes through them one turn each, has reached it.
    """

    def __init__(
        self, ledger: Ledger, go: Callable[[], object], at: int, tasks_between: int
    ) -> None:
        self.ledger, self.go, self.at, self.counts_at = ledger, go, at, at + tasks_between
        self.has_left = False
        self.calls = 0

    def look(self, turn: int) -> None:
        if turn <= self.counts_at:
            self.calls = len(self.ledger.entries)
        if turn == self.at:
            self.has_left = True
            self.go()


def _sweep_router(ledger: Ledger, **settings: Any) -> LLMRouter:
    ids = [model(name, tokens_per_minute=100_000, requests_per_minute=1000) for name in "abc"]
    ids.append(model("bad"))
    return router_of(ledger, ids, budgets=[MoneyBudget(1.0)], **settings)


@BOTH
@pytest.mark.parametrize("kind", ["native", "scope"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_that_goes_at_any_await_leaves_nothing(
    way: str, kind: str, inline: bool
) -> None:
    ask, settings = WAYS[way]
    for count in range(1, 300):
        ledger = Ledger({"bad": refuses(0.01)}, inline)
        async with _sweep_router(ledger, **settings) as router:
            task, go = _calling(ask(router), kind)
            tasks_between = (way in RUN_ELSEWHERE) + (not inline and way not in ONLY_SUPERVISED)
            sent = _Sent(ledger, go, count, tasks_between)
            with every_turn(sent.look), no_loop_errors():
                await asyncio.wait([task])
                if way == "cached":  # the run is nobody's any more, and ends by itself
                    await asyncio.sleep(GRACE)
            assert_at_rest(router)
            if way != "own function":
                assert_settled(router, ledger)
            if not sent.has_left:
                assert task.result() is not None
                return
            assert len(ledger.entries) == sent.calls, f"{count}: sent after the caller had gone"
    raise AssertionError("the sweep never reached the end of a request")


def _calling(
    work: Coroutine[Any, Any, Any], kind: str
) -> tuple[asyncio.Task[Any], Callable[[], object]]:
    """Run it in a task; also return what makes its caller go."""
    if kind == "native":
        task = asyncio.create_task(work)
        return task, task.cancel
    scope = anyio.CancelScope()

    async def scoped() -> Any:
        with scope:
            return await work
        await _assert_cancellation_was_taken_back()
        return None

    task = asyncio.create_task(scoped())
    return task, scope.cancel


async def _assert_cancellation_was_taken_back() -> None:
    """Check that later timeouts of this task's own are still theirs."""
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await asyncio.sleep(2)
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            await anyio.sleep(2)
    assert task.cancelling() == 0
    await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", ["native", "scope"])
async def test_a_queued_caller_that_goes_at_any_await_leaves_its_place_to_the_next(
    kind: str,
) -> None:
    for count in range(1, 300):
        ledger = Ledger()
        async with router_of(ledger, [model("a", max_concurrent_requests=1)]) as router:
            first = asyncio.create_task(router.execute("1"))
            await asyncio.sleep(0)
            task, go = _calling(router.execute("2"), kind)
            others = [asyncio.create_task(router.execute(text)) for text in "34"]
            with after_turns(count, go):
                await asyncio.wait([task])
                await asyncio.wait([first, *others])
            assert_at_rest(router)
            assert_settled(router, ledger)
            asked = [entry.call.request.query for entry in ledger.entries]
            assert [text for text in asked if text != "2"] == ["1", "3", "4"]
            if not task.cancelled() and task.result() is not None:
                assert asked == ["1", "2", "3", "4"]
                return
    raise AssertionError("the sweep never reached the end of a request")


# In flight


@BOTH
async def test_a_caller_cancelled_in_flight_gives_its_slot_back_but_not_what_was_reserved(
    inline: bool,
) -> None:
    ledger = Ledger({"a": works(10, parts=10)}, inline)
    async with router_of(ledger, [model("a", tokens_per_minute=1000)]) as router:
        task = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(3.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_at_rest(router)
        assert_settled(router, ledger)
        assert router.get_statistics()["model_stats"]["a"]["cancelled"] == 1
        assert router.get_statistics()["total_cost"] > 0
        assert says_healthy(router, "a")


@BOTH
async def test_what_a_cancelled_call_cost_is_estimated_where_nobody_says(inline: bool) -> None:
    async def silent(call: Any) -> Any:
        await asyncio.sleep(100)

    ledger = Ledger({"a": silent}, inline)
    async with router_of(ledger, [model("a", tokens_per_minute=1000)]) as router:
        task = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(3)
        task.cancel()
        await asyncio.wait([task])
        assert_at_rest(router)
        figures = router.get_statistics()
        assert figures["total_cost"] == figures["estimated_cost"] > 0
        share = router._registry["a"].lane.share
        assert share is not None
        assert "<TokenWindow 262/1000" in repr(share.quota)  # the reservation stays spent


@pytest.mark.parametrize(
    ("how", "kind", "inline"),
    [
        (how, kind, inline)
        for how in MISBEHAVIOURS
        for kind in ("native", "scope")
        for inline in (True, False)
        if how in PROMPT or kind == "native" or not inline
    ],
)
async def test_however_a_provider_takes_it_no_further_call_is_sent(
    how: str, kind: str, inline: bool
) -> None:
    ledger = Ledger({"a": MISBEHAVIOURS[how]}, inline)
    async with router_of(ledger, "abc") as router:
        task, go = _calling(router.execute("hello"), kind)
        await asyncio.sleep(1)
        go()
        left_at = now()
        await asyncio.wait([task])
        if kind == "native":
            assert task.cancelled()
            assert now() - left_at <= LOSER_GRACE
        await asyncio.sleep(100)
        assert ledger.calls == ["a"]
        assert_at_rest(router)
        assert_settled(router, ledger)
        assert says_healthy(router, "a")


@pytest.mark.parametrize("how", PROMPT)
async def test_a_caller_s_own_timeout_is_a_timeout_and_says_nothing_of_the_model(how: str) -> None:
    ledger = Ledger({"a": MISBEHAVIOURS[how]})
    async with router_of(ledger, "ab") as router:
        for _ in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await router.execute("hello")
            with anyio.move_on_after(0.1) as scope:
                await router.execute("hello")
            assert scope.cancelled_caught
        assert ledger.count == {"a": 40}
        assert says_healthy(router, "a")
        await _assert_cancellation_was_taken_back()
        assert_at_rest(router)
        assert_settled(router, ledger)


async def test_a_stubborn_provider_holds_its_slot_and_nobody() -> None:
    ledger = Ledger({"a": stubborn(30)}, cancels_promptly=False)
    async with router_of(ledger, "ab") as router:
        task = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert now() == pytest.approx(1 + LOSER_GRACE)
        assert slots(router) == {"a": 1}
        await asyncio.sleep(30)
        assert ledger.calls == ["a"]
        assert_at_rest(router)
        assert_settled(router, ledger)


@BOTH
async def test_a_caller_cancelled_twice_goes_all_the_same_and_losers_end(inline: bool) -> None:
    ledger = Ledger(default=cleans_up(0.03), cancels_promptly=inline)
    async with router_of(ledger) as router:
        task = asyncio.create_task(router.execute("hello", mode="race", width=2))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert_at_rest(router)  # a second cancellation is no reason to leave losers behind
        assert_settled(router, ledger)


@BOTH
async def test_a_caller_in_a_cancelled_scope_waits_for_its_losers(inline: bool) -> None:
    ledger = Ledger(default=works(3600), cancels_promptly=inline)
    async with router_of(ledger) as router:
        with anyio.move_on_after(1):
            await router.execute("hello", mode="race", width=3)
        assert_at_rest(router)
        assert_settled(router, ledger)


async def test_a_probe_of_a_stubborn_provider_is_given_back_when_cancelled_twice() -> None:
    ledger = Ledger({"a": stubborn(30)}, cancels_promptly=False)
    async with router_of(ledger, "a") as router:
        health = router._registry["a"].health
        permit = health.try_pass(now())
        assert permit is not None
        health.eject(permit, now(), may_eject=True)
        await asyncio.sleep(10)
        task = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
        assert health._probe is not None
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)
        assert health._probe is None
        await asyncio.sleep(30)
        assert_at_rest(router)


async def test_a_request_made_while_its_caller_is_being_cancelled_is_served() -> None:
    ledger = Ledger({"a": works(3600)})
    outcomes: list[ExecutionResult] = []

    async def says_goodbye(router: LLMRouter) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            outcomes.append(await router.execute("goodbye", models=["b"]))
            outcomes.append(await router.execute("goodbye", models=["a"], timeout=1))
            raise

    async with router_of(ledger) as router:
        task = asyncio.create_task(says_goodbye(router))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert [(o.success, o.error_kind) for o in outcomes] == [
            (True, None),
            (False, "deadline_exceeded"),
        ]
        assert_at_rest(router)


# Ours, taken back


@BOTH
@pytest.mark.parametrize("how", MISBEHAVIOURS)
@pytest.mark.parametrize("mode", ["sequential", "hedged", "race"])
async def test_our_own_cancellation_never_reaches_the_caller(
    how: str, mode: Any, inline: bool
) -> None:
    ledger = Ledger({"a": MISBEHAVIOURS[how]}, inline)
    async with router_of(ledger, "ab") as router:
        result = await router.execute("hello", mode=mode, timeout=20)
        assert result.success
        await _assert_cancellation_was_taken_back()
        for _ in range(3):
            await router.execute("hello", models=["a"], timeout=0.5)
        await _assert_cancellation_was_taken_back()
        assert_at_rest(router)
        assert_settled(router, ledger)


async def test_a_timeout_of_the_caller_and_ours_at_one_instant_are_told_apart() -> None:
    ledger = Ledger(default=works(3600))
    async with router_of(ledger, "a") as router:
        for seconds in (0.98, 0.99, 1.0, 1.01, 1.02):
            started_at = now()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    try:
                        async with asyncio.timeout(seconds):
                            result = await router.execute("hello", timeout=1.0)
                    except TimeoutError:
                        assert now() - started_at == pytest.approx(seconds)
                    else:
                        assert result.error_kind == "deadline_exceeded"
                    await asyncio.sleep(3600)
            assert now() - started_at == pytest.approx(2)
        assert_at_rest(router)


async def test_a_task_cancelled_in_the_turn_in_which_its_deadline_passes_is_cancelled() -> None:
    for offset in (0, 1, 2, 3, 4, 5, 6, 7, 8):
        ledger = Ledger(default=works(3600))
        async with router_of(ledger, "ab") as router:
            task = asyncio.create_task(router.execute("hello", timeout=1.0, models=["a"]))
            loop = asyncio.get_running_loop()

            def go(turns: int, task: asyncio.Task[Any] = task) -> None:
                if turns:
                    asyncio.get_running_loop().call_soon(go, turns - 1, task)
                else:
                    task.cancel()

            started_at = now()
            loop.call_at(started_at + 1.0, go, offset)
            loop.call_at(started_at + 1.02, go, offset)
            await asyncio.wait([task])
            assert task.cancelled() or task.result().error_kind == "deadline_exceeded"
            assert now() - started_at <= 1.0 + GRACE
            assert ledger.calls == ["a"]
            assert_at_rest(router)
            assert_settled(router, ledger)


async def test_a_provider_s_own_timeout_does_not_save_it_from_ours() -> None:
    """Both cancel the task in one turn: the provider takes its own back, ours must come again."""

    async def tries_again(call: Any) -> Any:
        while True:
            try:
                async with asyncio.timeout_at(now() + 0.01):
                    await asyncio.sleep(1000)
            except TimeoutError:
                continue

    ledger = Ledger({"a": tries_again})
    async with router_of(ledger, "a") as router:
        result = await asyncio.wait_for(router.execute("hello", timeout=1), 10)
        assert result.error_kind == "deadline_exceeded"
        assert now() <= 1 + GRACE
        assert_at_rest(router)


@BOTH
async def test_a_provider_that_cancels_itself_has_failed(inline: bool) -> None:
    async def cancels_itself(call: Any) -> Any:
        raise asyncio.CancelledError

    ledger = Ledger({"a": cancels_itself}, inline)
    async with router_of(ledger, "ab") as router:
        result = await router.execute("hello")
        assert roles(result) == [("a", "first", "failed"), ("b", "fallback", "won")]
        assert_at_rest(router)
        assert_settled(router, ledger)


# Nested


@BOTH
async def test_a_provider_may_ask_the_router_itself(inline: bool) -> None:
    async def asks(call: Any) -> Any:
        inner = await router.execute("inner", models=["b"])
        return Completion(f"{inner.unwrap()} said so", Usage(1, 1))

    ledger = Ledger({"a": asks}, inline)
    one_slot = [model(name, max_concurrent_requests=1) for name in "ab"]
    async with router_of(ledger, one_slot, max_workers=2) as router:
        result = await router.execute("outer")
        assert result.unwrap() == "b said so"
        assert_at_rest(router)
        assert_settled(router, ledger)


@BOTH
async def test_nested_requests_that_run_out_together_both_end(inline: bool) -> None:
    """Whichever of the two is cancelled first, the other's turn must come."""

    async def asks_and_asks(call: Any) -> Any:
        call.usage = Usage()
        while True:
            await router.execute("inner", models=["b"], timeout=1.0)

    ledger = Ledger({"a": asks_and_asks, "b": works(3600)}, inline)
    async with router_of(ledger, [model(name) for name in "ab"]) as router:
        for _ in range(20):
            started_at = now()
            result = await asyncio.wait_for(
                router.execute("outer", models=["a"], timeout=1.0), 5 + GRACE
            )
            assert result.error_kind == "deadline_exceeded"
            assert now() - started_at <= 1 + GRACE
            await asyncio.sleep(1)
            assert_at_rest(router)
        assert_settled(router, ledger)


@BOTH
async def test_a_nested_request_ends_with_its_caller(inline: bool) -> None:
    async def asks(call: Any) -> Any:
        call.usage = Usage()
        result = await router.execute("inner", models=["b"], mode="race", width=1)
        raise AssertionError(f"went on with {result}")

    ledger = Ledger({"a": asks, "b": works(3600)}, inline)
    async with router_of(ledger, "abc") as router:
        task = asyncio.create_task(router.execute("outer"))
        await asyncio.sleep(1)
        assert ledger.calls == ["a", "b"]
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert ledger.calls == ["a", "b"]
        assert_at_rest(router)
        assert_settled(router, ledger)


# Sharing a run


async def test_followers_get_the_value_when_the_first_caller_goes() -> None:
    ledger = Ledger({"a": works(1)})
    async with router_of(ledger, "a", cache=True) as router:
        first, *followers = [asyncio.create_task(router.execute("q")) for _ in range(5)]
        await asyncio.sleep(0.5)
        first.cancel()
        results = [await task for task in followers]
        assert {r.response for r in results} == {"a"}
        assert ledger.calls == ["a"]
        assert sum(r.actual_cost for r in results) == 0.0  # whoever paid has gone
        assert_at_rest(router)
        assert_settled(router, ledger)


async def test_a_run_that_all_its_waiters_leave_is_cancelled_and_booked() -> None:
    ledger = Ledger({"a": works(10)})
    cache = CacheManager[ExecutionResult]()
    async with router_of(ledger, "a", cache=cache) as router:
        waiters = [asyncio.create_task(router.execute("q")) for _ in range(5)]
        await asyncio.sleep(5)
        for task in waiters:
            task.cancel()
        await asyncio.wait(waiters)
        joined = await router.execute("q")  # does not join what is dying
        assert joined.success
        assert ledger.calls == ["a", "a"]
        assert [entry.end for entry in ledger.entries] == ["cancelled", "answered"]
        assert cache.snapshot().size == 1
        assert_at_rest(router)
        assert_settled(router, ledger)


async def test_waiters_with_deadlines_of_their_own_leave_one_by_one() -> None:
    ledger = Ledger({"a": works(10)})
    async with router_of(ledger, "a", cache=True) as router:
        waiters = [
            asyncio.create_task(router.execute("q", timeout=timeout)) for timeout in (1, 5, 20)
        ]
        short = await waiters[0]
        assert (short.error_kind, now()) == ("deadline_exceeded", pytest.approx(1, abs=GRACE))
        middle = await waiters[1]
        assert (middle.error_kind, now()) == ("deadline_exceeded", pytest.approx(5, abs=GRACE))
        assert (await waiters[2]).success
        assert now() == pytest.approx(10)
        assert ledger.calls == ["a"]
        assert_at_rest(router)
        assert_settled(router, ledger)


# Closing


@BOTH
@pytest.mark.parametrize("how", MISBEHAVIOURS)
async def test_a_router_that_closes_ends_calls_in_flight(how: str, inline: bool) -> None:
    ledger = Ledger({"a": MISBEHAVIOURS[how]}, inline)
    async with router_of(ledger, "ab", drain_timeout=1.0) as router:
        waiting = [asyncio.create_task(router.execute("hello")) for _ in range(15)]
        waiting += [
            asyncio.create_task(router.execute("hello", mode="race", width=2)) for _ in range(2)
        ]
        await asyncio.sleep(0.01)
    assert now() <= 1.01 + 2 * GRACE
    await asyncio.sleep(0)
    assert all(task.done() for task in waiting)
    closed = [task for task in waiting if isinstance(task.exception(), RouterStateError)]
    # An answer that came in spite of the cancellation has been paid for, and is given.
    assert len(closed) == (5 if how == "swallows" else 15)
    assert_at_rest(router)
    assert_settled(router, ledger)
    with pytest.raises(RouterStateError):
        await router.execute("too late")


async def test_a_router_that_closes_ends_those_who_wait_to_retry() -> None:
    ledger = Ledger({"a": fails("rate_limited", retry_after=30)})
    async with router_of(ledger, "a", drain_timeout=1.0) as router:
        task = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(0.01)
    await asyncio.sleep(GRACE)
    assert task.done()
    assert isinstance(task.exception(), RouterStateError)
    assert ledger.calls == ["a"]
    assert_at_rest(router)


async def test_a_router_that_closes_starts_no_hedge() -> None:
    ledger = Ledger({"a": stubborn(3)}, cancels_promptly=False)
    tasks: list[asyncio.Task[Any]] = []
    async with router_of(ledger, "ab", drain_timeout=1.0) as router:
        for hedge_after in (1.0, 1.02, 1.04, 1.06, 1.1):
            call = router.execute("hello", mode="hedged", hedge_after=hedge_after)
            tasks.append(asyncio.create_task(call))
            await asyncio.sleep(0)
    # All that ran were waited for, none was let go of: they ended within the 5 s after.
    assert set(ledger.calls[5:]) <= {"b"}
    assert all(entry.sent_at <= 1.0 for entry in ledger.entries)
    await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks] == [RouterStateError] * 5
    assert_at_rest(router)


async def test_a_router_left_by_a_cancelled_scope_leaves_no_task() -> None:
    ledger = Ledger(default=works(3600), cancels_promptly=False)
    before = asyncio.all_tasks()
    waiting: list[asyncio.Task[Any]] = []
    router = router_of(ledger)
    with anyio.move_on_after(1):
        async with router:
            waiting += [asyncio.create_task(router.execute("hello")) for _ in range(3)]
            waiting += [asyncio.create_task(router.execute("hello", mode="race"))]
            await asyncio.sleep(3600)
    await asyncio.sleep(GRACE)
    assert asyncio.all_tasks() - before == set()
    assert [type(task.exception()) for task in waiting] == [RouterStateError] * 4
    assert_at_rest(router)
    assert_settled(router, ledger)


@pytest.mark.parametrize("kind", ["native", "scope"])
async def test_a_router_whose_closing_is_cancelled_leaves_no_task(kind: str) -> None:
    ledger = Ledger(default=works(3600), cancels_promptly=False)
    before = asyncio.all_tasks()
    waiting: list[asyncio.Task[Any]] = []
    routers: list[LLMRouter] = []

    async def uses() -> None:
        async with router_of(ledger) as router:
            routers.append(router)
            waiting.extend(asyncio.create_task(router.execute("hello")) for _ in range(3))
            await asyncio.sleep(0.5)

    task, go = _calling(uses(), kind)
    await asyncio.sleep(2)  # it drains now
    go()
    await asyncio.wait([task])
    await asyncio.sleep(GRACE)
    assert asyncio.all_tasks() - before == set()
    assert [type(task.exception()) for task in waiting] == [RouterStateError] * 3
    assert_at_rest(routers[0])
    assert_settled(routers[0], ledger)


def test_the_rig_s_tick_is_the_router_s() -> None:
    assert _deadlines.TICK == TICK
