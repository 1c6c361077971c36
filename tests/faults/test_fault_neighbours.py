"""What one call does, or what happens to one, and what others notice of it: nothing."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from asyncroute import Call, Completion, RateLimitedError, Usage
from asyncroute.testing import run_virtual
from faults.rig import (
    GRACE,
    Ledger,
    assert_at_rest,
    assert_settled,
    block_loop,
    every_turn,
    says_healthy,
    works,
)
from support import Step, answers, fails, in_turn, model, now, router_of

BOTH = pytest.mark.parametrize("inline", [True, False], ids=["inline", "supervised"])


class Abort(BaseException):
    """What some library uses for its own purposes, as pytest does for `fail`."""


@BOTH
def test_what_is_no_exception_reaches_its_own_caller_and_nobody_else(inline: bool) -> None:
    async def aborts(call: Call) -> Completion:
        call.usage = Usage(10, 0)
        raise Abort("stop")

    async def scenario() -> None:
        ledger = Ledger({"a": aborts}, inline)
        async with router_of(ledger, "ab") as router:
            other = asyncio.create_task(router.execute("other", models=["b"]))
            await asyncio.sleep(0.05)
            with pytest.raises(Abort, match="stop"):
                await router.execute("q", models=["a"])
            assert (await other).success
            assert (await router.execute("later", models=["b"])).success
            assert_at_rest(router)
            assert_settled(router, ledger)

    run_virtual(scenario)


async def refuses(call: Call) -> None:
    await fails("rate_limited", retry_after=30.0, after=0.1)(call)


async def goes_on(call: Call) -> None:
    await works(1.0)(call)


async def asks_in_a_group_of_anyio(call: Call) -> Completion:
    async with anyio.create_task_group() as group:
        group.start_soon(refuses, call)
        group.start_soon(goes_on, call)
    raise AssertionError("the group raised")


async def asks_in_a_group(call: Call) -> Completion:
    """On CPython before 3.13 it leaves a cancellation of its task counted that nobody asked for."""
    async with asyncio.TaskGroup() as group:
        group.create_task(refuses(call))
        group.create_task(goes_on(call))
    raise AssertionError("the group raised")


@pytest.mark.parametrize(
    ("step", "inline"),
    [
        (asks_in_a_group_of_anyio, True),
        (asks_in_a_group_of_anyio, False),
        (asks_in_a_group, False),
    ],
)
async def test_a_provider_s_task_group_does_not_hide_what_went_wrong(
    step: Step, inline: bool
) -> None:
    ledger = Ledger({"a": step}, inline)
    async with router_of(ledger, "a") as router:
        result = await router.execute("q", timeout=5)
        (attempt,) = result.attempts
        assert attempt.error_kind == "rate_limited"
        assert isinstance(result.exception, Exception)
        assert isinstance(result.exception.__cause__, RateLimitedError)
        assert router._registry["a"].health.status(now()) == "rate_limited"
        assert_at_rest(router)


async def test_those_who_waited_for_a_retry_after_do_not_all_come_at_once() -> None:
    ledger = Ledger({"a": in_turn(fails("rate_limited", retry_after=20.0), works())})
    async with router_of(ledger, [model("a", max_concurrent_requests=100)]) as router:
        await router.execute("q", timeout=5)
        waiting = [asyncio.create_task(router.execute("q", timeout=50)) for _ in range(50)]
        await asyncio.wait(waiting)
        assert all(task.result().success for task in waiting)
        after = ledger.sent_at[1:]
        assert min(after) >= 20
        assert max(after.count(at) for at in after) <= 5
        assert_at_rest(router)


async def test_no_call_is_sent_when_a_blocked_loop_lets_it_start_after_its_deadline() -> None:
    async def blocks(call: Call) -> Completion:
        block_loop(0.3)
        return await answers()(call)

    ledger = Ledger({"a": blocks}, cancels_promptly=False)
    async with router_of(ledger, "ab") as router:
        first = asyncio.create_task(router.execute("q", models=["a"]))
        others = [
            asyncio.create_task(router.execute("q", models=["b"], timeout=0.2)) for _ in range(5)
        ]
        await asyncio.wait([first, *others])
        assert [task.result().error_kind for task in others] == ["deadline_exceeded"] * 5
        assert ledger.calls == ["a"]  # nobody is left to pay for another
        assert says_healthy(router, "b")
        assert_at_rest(router)


async def test_no_call_is_sent_when_its_turn_is_taken_up_after_its_deadline() -> None:
    """The slot was handed over in time; then the loop was blocked."""
    ledger = Ledger({"a": answers(after=0.1)}, cancels_promptly=False)
    async with router_of(
        ledger, [model("a", max_concurrent_requests=1, avg_latency_ms=100)]
    ) as router:
        lane = router._registry["a"].lane
        calls = [asyncio.create_task(router.execute("q", timeout=0.5)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert lane.queued == 1
        blocked: list[int] = []

        def block_when_it_is_its_turn(turn: int) -> None:
            if not lane.queued and not blocked:
                blocked.append(turn)
                block_loop(1.0)

        with every_turn(block_when_it_is_its_turn):
            await asyncio.wait(calls)
        assert blocked
        assert [task.result().success for task in calls] == [True, False]
        assert ledger.calls == ["a"]
        assert says_healthy(router, "a")
        assert_at_rest(router)


@BOTH
@pytest.mark.parametrize("mode", ["sequential", "hedged", "race"])
async def test_a_loop_blocked_while_answers_come_loses_none(mode: str, inline: bool) -> None:
    """The deadline and the answers come due together; what was paid for counts."""
    ledger = Ledger(default=answers(after=0.1), cancels_promptly=inline)
    ids = [model(name, max_concurrent_requests=100) for name in "ab"]
    async with router_of(ledger, ids) as router:
        calls = [
            asyncio.create_task(router.execute("q", mode=mode, timeout=0.2))  # type: ignore[arg-type]
            for _ in range(20)
        ]
        await asyncio.sleep(0.05)
        block_loop(0.3)
        await asyncio.wait(calls)
        assert all(task.result().success for task in calls)
        assert now() <= 0.35 + GRACE
        assert ledger.count["b"] == (20 if mode == "race" else 0)
        assert says_healthy(router, "a")
        assert_at_rest(router)


def gives_up_on_a_busy_loop(turn: int) -> None:
    assert turn < 1000, "the loop turns and turns, and no time passes"


async def test_a_loop_blocked_through_a_retry_s_pause_and_deadline_goes_on() -> None:
    ledger = Ledger({"a": fails("unavailable")})
    async with router_of(ledger, "a") as router:
        asking = asyncio.create_task(router.execute("q", timeout=0.5))
        for _ in range(3):
            await asyncio.sleep(0)
        assert ledger.calls == ["a"]  # it pauses before its retry
        block_loop(1.0)
        with every_turn(gives_up_on_a_busy_loop):
            result = await asking
        assert not result.success
        assert ledger.calls == ["a"]
        assert_at_rest(router)
