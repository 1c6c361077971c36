"""Slots, limits and queue of every model, on a clock that jumps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from anyio import CapacityLimiter
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncroute._admission import Grant, Lane, LoadBalancer, QuotaLimits
from asyncroute._errors import ConfigurationError, OverloadedError
from asyncroute._slots import AdaptiveLimit

INF = math.inf


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


class Callers:
    """Tasks that acquire, and what became of each, in the order in which it did."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.group = group
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.grants: dict[str, Grant] = {}
        self.errors: dict[str, Exception] = {}
        self.at: dict[str, float] = {}

    @property
    def served(self) -> list[str]:
        return list(self.grants)

    def call(self, name: str, lane: Lane, tokens: int = 0, **options: Any) -> None:
        async def run() -> None:
            try:
                self.grants[name] = await lane.acquire(tokens, **options)
            except (OverloadedError, ValueError) as error:
                self.errors[name] = error
            self.at[name] = now()

        self.tasks[name] = self.group.create_task(run())

    async def queue(self, *names: str, lane: Lane, **options: Any) -> None:
        for name in names:
            self.call(name, lane, **options)
            await turns(2)

    def release(self, name: str, tokens_used: int | None = None) -> None:
        self.grants[name].release(now(), tokens_used)

    async def serve_all(self) -> list[str]:
        """Release whoever holds a slot, one after the other, until nobody does."""
        await turns()
        while held := [name for name, grant in self.grants.items() if grant.is_open]:
            self.release(held[0])
            await turns()
        return self.served


@asynccontextmanager
async def calling() -> AsyncGenerator[Callers]:
    async with asyncio.TaskGroup() as group:
        callers = Callers(group)
        yield callers
        for task in callers.tasks.values():
            task.cancel()
    for grant in callers.grants.values():
        grant.release(now())


def one_lane(slots: int = 1, quota: QuotaLimits | None = None, **options: Any) -> Lane:
    return LoadBalancer(**options).add("gpt-4", slots=slots, quota=quota)


class TestFastWay:
    async def test_takes_a_free_slot_without_suspending(self) -> None:
        lane = one_lane(slots=2)
        first, second = lane.try_acquire(0, now()), lane.try_acquire(0, now())
        assert first is not None
        assert second is not None
        assert lane.try_acquire(0, now()) is None
        assert repr(lane) == "<Lane gpt-4: 2/2 in flight, 0 queued>"
        first.release(now())
        assert lane.in_flight == 1
        assert lane.try_acquire(0, now()) is not None

    async def test_acquire_does_not_suspend_if_a_slot_is_free(self) -> None:
        with pytest.raises(StopIteration) as returned:
            one_lane().acquire(now=now()).send(None)
        assert isinstance(returned.value.value, Grant)

    async def test_refused_takes_nothing(self) -> None:
        lane = one_lane(slots=2, quota=QuotaLimits(100, 50))
        assert lane.try_acquire(40, now()) is not None
        assert lane.try_acquire(20, now()) is None
        assert lane.in_flight == 1
        assert lane.try_acquire(10, now()) is not None

    async def test_does_not_pass_those_who_wait(self) -> None:
        lane = one_lane(slots=3, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", lane=lane, tokens=60)
            await callers.queue("big", lane=lane, tokens=60)
            assert lane.try_acquire(10, now()) is None
            assert lane.queued == 1

    async def test_releasing_twice_gives_back_once(self) -> None:
        lane = one_lane(slots=2)
        grant, other = await lane.acquire(), await lane.acquire()
        grant.release(now())
        grant.release(now())
        grant.cancel(now())
        assert lane.in_flight == 1
        assert repr(grant) == "<Grant gpt-4: 0 tokens, given back>"
        assert repr(other) == "<Grant gpt-4: 0 tokens, open>"

    async def test_slots_are_those_of_a_limiter_of_the_running_loop(self) -> None:
        lane = one_lane()
        grant = await lane.acquire()
        limiter = lane.capacity.limiter
        assert limiter is not None
        assert type(limiter) is type(CapacityLimiter(1))
        assert limiter.statistics().borrowers == (grant,)
        grant.release(now())
        assert limiter.borrowed_tokens == 0

    async def test_the_first_slot_is_taken_in_a_task(self) -> None:
        lane, errors = one_lane(), list[str]()

        def outside() -> None:
            try:
                lane.try_acquire(0, now())
            except RuntimeError as error:
                errors.append(str(error))

        asyncio.get_running_loop().call_soon(outside)
        await turns()
        assert errors == ["slots must be taken inside a task the first time"]
        grant = await lane.acquire()
        asyncio.get_running_loop().call_soon(outside)
        await turns()
        assert len(errors) == 1
        grant.release(now())

    async def test_the_first_grant_may_be_made_by_a_timer(self) -> None:
        balancer, quota = LoadBalancer(), QuotaLimits(1)
        a, b = (balancer.add(i, quota=quota, quota_group="g") for i in "ab")
        async with calling() as callers:
            await callers.queue("a", lane=a)
            await callers.queue("b", lane=b)
            await asyncio.sleep(61)
            assert callers.at["b"] == 60.0
            assert type(b.capacity.limiter) is type(CapacityLimiter(1))

    async def test_one_task_may_hold_several_slots_and_another_release_them(self) -> None:
        async def give_back(grant: Grant) -> None:
            grant.release(now())

        lane = one_lane(slots=2)
        grants = [await lane.acquire() for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for grant in grants:
                group.create_task(give_back(grant))
        assert lane.in_flight == 0


def test_a_balancer_may_be_filled_before_a_loop_runs() -> None:
    lane = one_lane(slots=2, quota=QuotaLimits(10, 100))
    lane.set_slots(3)
    assert lane.slots == 3
    with pytest.raises(RuntimeError, match="no running event loop"):
        lane.try_acquire(0, 0.0)

    async def use() -> None:
        (await lane.acquire(10)).release(now())

    for _ in range(2):
        asyncio.run(use())
    assert lane.in_flight == 0


class TestQueue:
    async def test_a_slot_goes_to_who_waits_longest(self) -> None:
        lane = one_lane(slots=2)
        async with calling() as callers:
            await callers.queue(*"abcdef", lane=lane)
            assert callers.served == ["a", "b"]
            assert repr(lane) == "<Lane gpt-4: 2/2 in flight, 4 queued>"
            assert await callers.serve_all() == list("abcdef")

    async def test_a_slot_is_handed_over_at_once_so_that_nobody_barges_in(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", "b", lane=lane)
            callers.release("a")
            assert lane.try_acquire(0, now()) is None
            assert (lane.in_flight, lane.queued) == (1, 0)
            await turns()
            assert callers.served == ["a", "b"]

    async def test_a_thousand_callers_of_ten_slots_are_all_served_in_turn(self) -> None:
        lane = one_lane(slots=10)
        order, most = list[int](), 0

        async def call(number: int) -> None:
            nonlocal most
            grant = await lane.acquire(deadline=INF)
            order.append(number)
            most = max(most, lane.in_flight)
            await asyncio.sleep(1)
            grant.release(now())

        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(call(number))
        assert order == list(range(1000))
        assert most == 10
        assert now() == 100.0
        assert (lane.in_flight, lane.queued) == (0, 0)

    async def test_a_full_queue_refuses_at_once(self) -> None:
        lane = one_lane(queue_size=2)
        lane.capacity.duration = 4.0
        async with calling() as callers:
            await callers.queue("a", "b", "c", "d", lane=lane)
            assert lane.queued == 2
            error = callers.errors["d"]
            assert isinstance(error, OverloadedError)
            assert str(error) == "model 'gpt-4' is overloaded: its queue is full, 2 wait"
            assert error.retry_after == 12.0
            assert lane.snapshot().refused == 1
            assert await callers.serve_all() == ["a", "b", "c"]

    async def test_without_a_queue_nobody_waits(self) -> None:
        lane = one_lane(queue_size=0)
        await lane.acquire()
        with pytest.raises(OverloadedError) as refused:
            await lane.acquire()
        assert refused.value.retry_after == 1.0

    async def test_a_hopeless_wait_is_refused_at_once(self) -> None:
        lane = one_lane(slots=2)
        lane.capacity.duration = 4.0
        async with calling() as callers:
            await callers.queue("a", "b", "c", lane=lane)
            assert lane.predicted_wait(now()) == 4.0
            callers.call("hopeless", lane, deadline=now() + 3.9)
            callers.call("needs time itself", lane, deadline=now() + 5.9, need=2)
            callers.call("fits", lane, deadline=now() + 4.0)
            await turns()
            assert set(callers.errors) == {"hopeless", "needs time itself"}
            error = callers.errors["hopeless"]
            assert isinstance(error, OverloadedError)
            assert error.retry_after == 4.0
            assert now() == 0.0

    async def test_nothing_is_hopeless_before_anything_was_observed(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", "b", lane=lane, deadline=now() + 0.1)
            assert lane.queued == 1

    async def test_high_priority_is_not_refused_for_those_it_would_pass(self) -> None:
        lane = one_lane()
        lane.capacity.duration = 1.0
        async with calling() as callers:
            await callers.queue(*"abcdef", lane=lane)
            await callers.queue("low", lane=lane, deadline=now() + 2)
            await callers.queue("high", lane=lane, deadline=now() + 2, priority=1)
            assert set(callers.errors) == {"low"}
            callers.release("a")
            await turns()
            assert callers.served == ["a", "high"]

    async def test_a_new_tenant_is_not_refused_for_those_it_takes_turns_with(self) -> None:
        lane = one_lane(fair_by="tenant")
        lane.capacity.duration = 1.0
        async with calling() as callers:
            await callers.queue(*"abcdef", lane=lane, tenant="old")
            await callers.queue("old", lane=lane, deadline=now() + 2, tenant="old")
            await callers.queue("new", lane=lane, deadline=now() + 2, tenant="new")
            assert set(callers.errors) == {"old"}

    async def test_waiting_ends_when_there_is_no_time_left_to_run(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            callers.call("b", lane, deadline=now() + 10, need=3)
            await asyncio.sleep(6.9)
            assert lane.queued == 1
            await asyncio.sleep(0.2)
            assert callers.at["b"] == 7.0
            assert isinstance(callers.errors["b"], OverloadedError)
            assert (lane.queued, lane.in_flight) == (0, 1)
            assert lane.snapshot().expired == 1

    async def test_an_expired_waiter_costs_no_slot_even_if_its_timer_is_late(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            callers.call("late", lane, deadline=now() + 5)
            await turns()
            await callers.queue("b", lane=lane)
            callers.grants["a"].release(now() + 5.001)  # before the timer had a chance to run
            assert lane.in_flight == 1
            await turns()
            assert callers.served == ["a", "b"]
            assert set(callers.errors) == {"late"}

    async def test_a_waiter_may_start_at_the_last_instant(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            await callers.queue("b", lane=lane, deadline=now() + 5)
            callers.grants["a"].release(now() + 5)
            await turns()
            assert callers.served == ["a", "b"]

    async def test_an_expired_head_lets_those_behind_it_run(self) -> None:
        lane = one_lane(slots=9, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", lane=lane, tokens=50)
            await asyncio.sleep(10)
            await callers.queue("b", lane=lane, tokens=20)
            await callers.queue("big", lane=lane, tokens=90, deadline=now() + 60.5)
            await callers.queue("small", lane=lane, tokens=30)
            await asyncio.sleep(40)
            await callers.queue("high", lane=lane, tokens=20, priority=9)
            assert callers.served == ["a", "b", "high"]
            await asyncio.sleep(30)
            assert set(callers.errors) == {"big"}
            assert callers.at["small"] == callers.at["big"] == 70.5

    async def test_a_cancelled_head_lets_those_behind_it_run(self) -> None:
        lane = one_lane(slots=9, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", lane=lane, tokens=50)
            await callers.queue("big", lane=lane, tokens=60)
            await callers.queue("small", lane=lane, tokens=50)
            assert callers.served == ["a"]
            callers.tasks["big"].cancel()
            await turns()
            assert callers.served == ["a", "small"]

    async def test_who_comes_after_a_cancelled_head_has_an_instant_of_its_own(self) -> None:
        lane = one_lane(slots=9, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", lane=lane, tokens=10)
            await asyncio.sleep(10)
            await callers.queue("b", lane=lane, tokens=90)
            await callers.queue("at 70", lane=lane, tokens=100)
            await callers.queue("at 60", lane=lane, tokens=10)
            callers.tasks["at 70"].cancel()
            await asyncio.sleep(100)
            assert callers.at["at 60"] == 60.0

    async def test_a_cancelled_waiter_leaves_nothing_behind(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", "b", "c", lane=lane, deadline=now() + 99)
            callers.tasks["b"].cancel()
            await turns()
            assert lane.queued == 1
            assert await callers.serve_all() == ["a", "c"]
            assert (lane.queued, lane.in_flight) == (0, 0)

    @pytest.mark.parametrize("first", ["grant", "cancel"])
    async def test_grant_and_cancellation_in_one_turn_hand_everything_on(self, first: str) -> None:
        lane = one_lane(slots=1, quota=QuotaLimits(3, 100))
        async with calling() as callers:
            await callers.queue("a", "b", "c", lane=lane, tokens=30)
            steps: list[Callable[[], object]] = [
                lambda: callers.release("a"),
                callers.tasks["b"].cancel,
            ]
            for step in steps if first == "grant" else reversed(steps):
                step()
            await turns()
            assert callers.served == ["a", "c"]
            assert lane.in_flight == 1
            callers.release("c")
            assert lane.try_acquire(40, now()) is not None, "b's request and tokens are back"
            assert lane.try_acquire(0, now()) is None

    async def test_tokens_above_the_limit_are_a_mistake(self) -> None:
        lane = one_lane(quota=QuotaLimits(None, 100))
        message = "tokens is 101, above tokens_per_minute=100 of model 'gpt-4'"
        with pytest.raises(ValueError, match=message):
            await lane.acquire(101)
        assert (lane.in_flight, lane.queued) == (0, 0)

    async def test_timers_keep_no_callers_context(self) -> None:
        tenant: ContextVar[object] = ContextVar("tenant")
        tenant.set(marker := type("Marker", (), {})())
        lane = one_lane(slots=2, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", "b", lane=lane, tokens=60, deadline=now() + 100)
            timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
            contexts: list[Any] = [timer._context for timer in timers]
            assert len(contexts) == 2
            assert all(len(context) == 0 for context in contexts)
        assert marker

    @pytest.mark.parametrize("tenants", [1, 500])
    async def test_memory_follows_those_who_wait_not_those_who_did(self, tenants: int) -> None:
        lane = one_lane(queue_size=10**6, fair_by="tenant")
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            await callers.queue("first", lane=lane, priority=9)
            for number in range(2000):
                callers.call(
                    f"w{number}", lane, tenant=number % tenants, deadline=now() + 1 + number
                )
                if number % 4:
                    await turns(1)
                    callers.tasks[f"w{number}"].cancel()
            await asyncio.sleep(1990)
            waiting = lane.queued
            assert 0 < waiting < 20
            queue = lane._queue
            assert len(queue._turns) <= 2 * waiting + 20
            assert len(queue._tenants) <= 2 * waiting + 20
            assert sum(len(t.heap) for t in queue._tenants.values()) <= 3 * waiting + 50


class TestOrder:
    async def test_higher_priority_is_served_first(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            for name, priority in [("low", -1), ("mid1", 0), ("high", 2), ("mid2", 0)]:
                await callers.queue(name, lane=lane, priority=priority)
            assert await callers.serve_all() == ["a", "high", "mid1", "mid2", "low"]

    async def test_an_old_waiter_is_overtaken_only_for_ageing_seconds(self) -> None:
        lane = one_lane(ageing=10.0)
        async with calling() as callers:
            await callers.queue("a", "old", lane=lane)
            for second in range(20):
                await asyncio.sleep(1)
                await callers.queue(f"h{second + 1}", lane=lane, priority=1)
            served = await callers.serve_all()
            assert served.index("old") == 1 + 9, "h1 to h9 came within 10 s, h10 at 10 s did not"

    async def test_tenants_take_turns(self) -> None:
        lane = one_lane(fair_by="tenant")
        async with calling() as callers:
            await callers.queue("x", lane=lane)
            for number in range(4):
                await callers.queue(f"a{number}", lane=lane, tenant="a")
            for number in range(3):
                await callers.queue(f"b{number}", lane=lane, tenant="b")
            await callers.queue("c0", lane=lane, tenant="c")
            assert await callers.serve_all() == [
                "x", "a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3",
            ]  # fmt: skip

    async def test_a_tenant_does_not_save_up_turns(self) -> None:
        lane = one_lane(fair_by="tenant")
        async with calling() as callers:
            await callers.queue("x", lane=lane)
            for number in range(6):
                await callers.queue(f"a{number}", lane=lane, tenant="a")
            for name in ("x", "a0", "a1"):
                callers.release(name)
                await turns()
            for number in range(3):
                await callers.queue(f"b{number}", lane=lane, tenant="b")
            served = (await callers.serve_all())[4:]
            assert served in (
                ["b0", "a3", "b1", "a4", "b2", "a5"],
                ["a3", "b0", "a4", "b1", "a5", "b2"],
            )

    async def test_a_new_tenant_has_its_turn_in_the_next_round(self) -> None:
        lane = one_lane(fair_by="tenant")
        async with calling() as callers:
            await callers.queue("x", lane=lane)
            for number in range(9):
                for tenant in "abc":
                    await callers.queue(f"{tenant}{number}", lane=lane, tenant=tenant)
            for name in ("x", "a0", "b0", "c0", "a1", "b1"):
                callers.release(name)
                await turns()
            await callers.queue("d0", "d1", lane=lane, tenant="d")
            served = (await callers.serve_all())[7:]
            assert served.index("d0") < 4
            assert served.index("d1") < 8

    async def test_cancelled_waiters_cost_their_tenant_no_turn(self) -> None:
        lane = one_lane(fair_by="tenant")
        async with calling() as callers:
            await callers.queue("x", lane=lane)
            for number in range(9):
                await callers.queue(f"a{number}", lane=lane, tenant="a")
            for number in range(4):
                await callers.queue(f"b{number}", lane=lane, tenant="b")
            for number in range(6):
                callers.tasks[f"a{number}"].cancel()
            served = await callers.serve_all()
            assert served == ["x", "a6", "b0", "a7", "b1", "a8", "b2", "b3"]

    async def test_priority_orders_a_tenants_own_and_is_paid_for_in_turns(self) -> None:
        lane = one_lane(fair_by="tenant", ageing=2.0)
        async with calling() as callers:
            await callers.queue("x", lane=lane)
            for number in range(3):
                await callers.queue(f"b{number}", lane=lane, tenant="b")
            await callers.queue("a-low", lane=lane, tenant="a")
            for number in range(5):
                await callers.queue(f"a{number}", lane=lane, tenant="a", priority=1)
            served = await callers.serve_all()
            assert served[1:] == ["a0", "a1", "b0", "a2", "b1", "a3", "b2", "a4", "a-low"]

    async def test_a_stream_of_new_tenants_does_not_keep_an_old_one_waiting(self) -> None:
        lane = one_lane(fair_by="tenant")
        async with calling() as callers:
            await callers.queue("x", lane=lane)
            await callers.queue("old0", "old1", lane=lane, tenant="old")
            for number in range(3):
                await callers.queue(f"n{number}", lane=lane, tenant=f"n{number}")
            callers.release("x")
            for number in range(3, 30):
                await turns()
                held = next(name for name, grant in callers.grants.items() if grant.is_open)
                await callers.queue(f"n{number}", lane=lane, tenant=f"n{number}")
                callers.release(held)
            await turns()
            assert "old1" in callers.served[:12]


class TestLimits:
    async def test_a_rate_blocked_head_runs_at_the_instant_the_limit_is_free(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(2, None, burst=2))
        async with calling() as callers:
            await callers.queue(*"abcde", lane=lane)
            assert callers.served == ["a", "b"]
            await asyncio.sleep(150)
            assert callers.at == {"a": 0, "b": 0, "c": 60, "d": 60, "e": 120}

    async def test_ten_a_minute_admits_exactly_ten(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(10))
        async with calling() as callers:
            await callers.queue(*(f"c{n}" for n in range(25)), lane=lane)
            for minute in range(3):
                await asyncio.sleep(59)
                assert len(callers.served) == min(25, 10 * (minute + 1))
                await asyncio.sleep(1)

    async def test_fifty_calls_of_thirty_tokens_share_a_hundred(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue(*(f"c{n}" for n in range(50)), lane=lane, tokens=30)
            assert len(callers.served) == 3
            callers.release("c0", 0)
            await turns()
            assert len(callers.served) == 4

    async def test_a_big_request_is_not_passed_by_small_ones_behind_it(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", lane=lane, tokens=50)
            await callers.queue("big", lane=lane, tokens=90)
            await callers.queue("s1", "s2", lane=lane, tokens=5)
            await asyncio.sleep(59)
            assert callers.served == ["a"]
            await asyncio.sleep(2)
            assert callers.served == ["a", "big", "s1", "s2"]
            assert callers.at["big"] == 60.0

    async def test_a_refund_wakes_the_head_at_once(self) -> None:
        lane = one_lane(slots=9, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", "b", lane=lane, tokens=80)
            await asyncio.sleep(5)
            callers.release("a", 20)
            await turns()
            assert callers.at["b"] == 5.0

    async def test_a_debt_delays_the_next(self) -> None:
        lane = one_lane(slots=9, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", lane=lane, tokens=50)
            await asyncio.sleep(10)
            callers.release("a", 120)
            await callers.queue("b", lane=lane, tokens=40)
            await asyncio.sleep(100)
            assert callers.at["b"] == 70.0

    async def test_unknown_usage_keeps_the_reservation_spent(self) -> None:
        lane = one_lane(slots=9, quota=QuotaLimits(None, 100))
        grant = await lane.acquire(100)
        grant.release(now())
        assert lane.predicted_wait(now(), 1) == 60.0

    async def test_what_was_never_sent_gives_back_everything_and_teaches_nothing(self) -> None:
        lane = one_lane(slots=1, quota=QuotaLimits(1, 100))
        lane.capacity.duration = 3.0
        grant = await lane.acquire(100)
        await asyncio.sleep(1)
        grant.cancel(now())
        assert lane.snapshot().duration == 3.0
        assert lane.try_acquire(100, now()) is not None

    async def test_predicts_what_the_limits_make_of_those_ahead(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("a", "b", "c", lane=lane, tokens=80)
            assert lane.predicted_wait(now(), 40) == 120.0
            callers.call("hopeless", lane, 80, deadline=now() + 170)
            callers.call("fits", lane, 80, deadline=now() + 180)
            await turns()
            assert set(callers.errors) == {"hopeless"}

    async def test_one_timer_for_all_that_wait_for_a_limit(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(1))
        async with calling() as callers:
            await callers.queue(*"abcdefgh", lane=lane)
            assert len(asyncio.get_running_loop()._scheduled) == 1  # type: ignore[attr-defined]

    async def test_nobody_waiting_leaves_no_timer_armed(self) -> None:
        lane = one_lane(slots=99, quota=QuotaLimits(1))
        async with calling() as callers:
            await callers.queue("a", "b", lane=lane, deadline=now() + 99)
            callers.tasks["b"].cancel()
            await turns()
            timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
            assert all(timer.cancelled() for timer in timers)


class TestSharing:
    def group(self, balancer: LoadBalancer, *ids: str, slots: int = 9, **limits: int) -> list[Lane]:
        quota = QuotaLimits(**limits)
        return [balancer.add(i, slots=slots, quota=quota, quota_group="acct") for i in ids]

    async def test_models_of_one_group_share_their_limits(self) -> None:
        a, b = self.group(LoadBalancer(), "a", "b", requests_per_minute=3)
        assert a.try_acquire(0, now()) is not None
        assert b.try_acquire(0, now()) is not None
        assert b.try_acquire(0, now()) is not None
        assert a.try_acquire(0, now()) is None

    async def test_shared_limits_go_to_the_first_head_whichever_queue_it_is_in(self) -> None:
        a, b = self.group(LoadBalancer(), "a", "b", requests_per_minute=1)
        async with calling() as callers:
            await callers.queue("now", lane=a)
            await callers.queue("b1", lane=b)
            await asyncio.sleep(1)
            await callers.queue("a1", lane=a)
            await callers.queue("a2", lane=a, priority=1)
            await asyncio.sleep(1)
            await callers.queue("b2", lane=b)
            await asyncio.sleep(300)
            assert callers.served == ["now", "a2", "b1", "a1", "b2"]

    async def test_a_big_head_is_not_passed_from_another_queue(self) -> None:
        a, b = self.group(LoadBalancer(), "a", "b", tokens_per_minute=100)
        async with calling() as callers:
            await callers.queue("now", lane=a, tokens=50)
            await callers.queue("big", lane=a, tokens=90)
            await callers.queue("small", lane=b, tokens=10)
            assert b.try_acquire(10, now()) is None
            await asyncio.sleep(59)
            assert callers.served == ["now"]
            await asyncio.sleep(2)
            assert callers.served == ["now", "big", "small"]

    async def test_a_head_that_lacks_a_slot_keeps_nobody_from_the_limits(self) -> None:
        a, b = self.group(LoadBalancer(), "a", "b", slots=1, requests_per_minute=9)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a)
            await callers.queue("b1", lane=b)
            assert callers.served == ["a1", "b1"]

    async def test_a_refund_in_one_queue_wakes_another(self) -> None:
        a, b = self.group(LoadBalancer(), "a", "b", tokens_per_minute=100)
        async with calling() as callers:
            await callers.queue("a1", lane=a, tokens=90)
            await callers.queue("b1", lane=b, tokens=90)
            callers.release("a1", 5)
            await turns()
            assert callers.served == ["a1", "b1"]

    async def test_max_workers_bounds_all_models_and_goes_by_arrival(self) -> None:
        balancer = LoadBalancer(max_workers=2)
        a, b = balancer.add("a"), balancer.add("b")
        async with calling() as callers:
            await callers.queue("a1", lane=a)
            await callers.queue("b1", "b2", lane=b)
            await callers.queue("a2", lane=a)
            assert b.try_acquire(0, now()) is None
            assert repr(balancer) == "<LoadBalancer 2 models: 2 in flight, 2 queued>"
            callers.release("a1")
            await turns()
            assert callers.served == ["a1", "b1", "b2"]
            assert await callers.serve_all() == ["a1", "b1", "b2", "a2"]
        assert balancer.snapshot().in_flight == 0

    async def test_a_queue_that_is_empty_again_keeps_nobody_from_the_fast_way(self) -> None:
        (lane,) = self.group(LoadBalancer(max_workers=1), "a", tokens_per_minute=100)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=lane, tokens=10)
            callers.release("a1")
            await turns()
            callers.release("a2")
            assert lane.try_acquire(10, now()) is not None

    async def test_a_worker_is_not_held_by_who_waits_for_a_slot(self) -> None:
        balancer = LoadBalancer(max_workers=2)
        a, b = balancer.add("a", slots=1), balancer.add("b", slots=1)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a)
            assert balancer.snapshot().in_flight == 1
            await callers.queue("b1", lane=b)
            assert callers.served == ["a1", "b1"]

    async def test_waits_for_workers_are_predicted(self) -> None:
        balancer = LoadBalancer(max_workers=1)
        a, b = balancer.add("a", expected_duration=2.0), balancer.add("b", expected_duration=2.0)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a)
            assert b.predicted_wait(now()) == 4.0
            callers.call("high", b, priority=1, deadline=now() + 2)
            callers.call("low", b, deadline=now() + 3)
            await turns()
            assert set(callers.errors) == {"low"}

    async def test_unequal_figures_of_one_group_are_refused(self) -> None:
        balancer = LoadBalancer()
        balancer.add("a", quota=QuotaLimits(10, 100), quota_group="acct")
        message = "tokens_per_minute of model 'b' is 99, but 100 in quota_group 'acct'"
        with pytest.raises(ConfigurationError, match=message):
            balancer.add("b", quota=QuotaLimits(10, 99), quota_group="acct")
        assert "b" not in balancer
        with pytest.raises(ConfigurationError, match="requests_per_minute of model 'b' is None"):
            balancer.add("b", quota_group="acct")

    async def test_updating_a_shared_figure_changes_the_group(self) -> None:
        balancer = LoadBalancer()
        a, b = self.group(balancer, "a", "b", requests_per_minute=2)
        async with calling() as callers:
            await callers.queue("1", "2", "3", "4", lane=b)
            assert callers.served == ["1", "2"]
            balancer.update("a", slots=9, quota=QuotaLimits(3), quota_group="acct")
            await turns()
            assert callers.served == ["1", "2", "3"]
            assert a.try_acquire(0, now()) is None

    async def test_a_model_may_leave_its_group_with_calls_in_flight_and_queued(self) -> None:
        balancer = LoadBalancer()
        a, b = self.group(balancer, "a", "b", tokens_per_minute=100)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a, tokens=90)
            await callers.queue("b1", lane=b, tokens=80)
            balancer.update("a", slots=9)
            await turns()
            assert callers.served == ["a1", "a2"], "a2 needs no tokens any more"
            callers.release("a1", 10)
            await turns()
            assert callers.served == ["a1", "a2", "b1"], "the refund went where it came from"
            balancer.update("a", slots=9, quota=QuotaLimits(None, 100), quota_group="acct")
            assert a.try_acquire(11, now()) is None
            with pytest.raises(ConfigurationError, match="tokens_per_minute of model 'c'"):
                balancer.add("c", quota_group="acct")

    async def test_a_blocked_head_that_leaves_its_group_lets_the_others_go(self) -> None:
        balancer = LoadBalancer()
        a, b = self.group(balancer, "a", "b", tokens_per_minute=100)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a, tokens=60)
            await callers.queue("b1", lane=b, tokens=40)
            assert callers.served == ["a1"]
            balancer.update("a", slots=9)
            await turns()
            assert set(callers.served) == {"a1", "a2", "b1"}

    async def test_the_last_model_to_leave_a_group_leaves_its_figures_open(self) -> None:
        balancer = LoadBalancer()
        self.group(balancer, "a", requests_per_minute=2)
        balancer.update("a", slots=9)
        (b,) = self.group(balancer, "b", requests_per_minute=1)
        assert b.try_acquire(0, now()) is not None
        assert b.try_acquire(0, now()) is None


class TestSlots:
    async def test_growing_wakes_waiters(self) -> None:
        lane = one_lane()
        async with calling() as callers:
            await callers.queue(*"abcd", lane=lane)
            lane.set_slots(3)
            await turns()
            assert callers.served == ["a", "b", "c"]

    async def test_shrinking_takes_effect_as_slots_come_back(self) -> None:
        lane = one_lane(slots=3)
        async with calling() as callers:
            await callers.queue(*"abcd", lane=lane)
            lane.set_slots(1)
            assert repr(lane) == "<Lane gpt-4: 3/1 in flight, 1 queued>"
            callers.release("a")
            callers.release("b")
            await turns()
            assert callers.served == ["a", "b", "c"]
            callers.release("c")
            await turns()
            assert callers.served == ["a", "b", "c", "d"]

    async def test_with_no_slots_callers_wait_up_to_their_deadline(self) -> None:
        lane = one_lane(slots=0)
        lane.capacity.duration = 1.0
        assert lane.load == INF
        assert lane.predicted_wait(now()) == INF
        async with calling() as callers:
            await callers.queue("a", "b", lane=lane, deadline=now() + 30)
            await asyncio.sleep(20)
            assert lane.queued == 2
            lane.set_slots(1)
            await asyncio.sleep(11)
            assert callers.served == ["a"]
            lane.set_slots(0)
            assert isinstance(callers.errors["b"], OverloadedError)

    async def test_load_counts_those_who_run_and_those_who_wait(self) -> None:
        lane = one_lane(slots=2)
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            assert lane.load == 0.5
            await callers.queue("b", "c", lane=lane)
            assert lane.load == 1.5
            assert (lane.slots, lane.in_flight, lane.queued) == (2, 2, 1)

    async def test_the_duration_is_smoothed_and_may_be_told(self) -> None:
        lane = one_lane()
        for held in (2.0, 4.0):
            (await lane.acquire()).release(now(), held=held)
        assert lane.snapshot().duration == pytest.approx(2.2)
        grant = await lane.acquire()
        await asyncio.sleep(12.2)
        grant.release(now())
        assert lane.snapshot().duration == pytest.approx(3.2)

    async def test_overload_lowers_the_slots_and_success_raises_them(self) -> None:
        lane = one_lane(slots=10, adaptive=True)
        lane.capacity.duration = 2.0
        grants = [await lane.acquire() for _ in range(10)]
        for grant in grants[:5]:
            lane.on_overload(now())
            grant.release(now())
        assert lane.snapshot().limit == 7
        assert lane.slots == 10
        grants = [*grants[5:], await lane.acquire(), await lane.acquire()]
        assert lane.try_acquire(0, now()) is None
        for _ in range(7):
            lane.on_success()
        assert lane.try_acquire(0, now()) is not None
        assert lane.snapshot().limit == 8

    async def test_slots_of_an_adaptive_lane_may_be_changed(self) -> None:
        lane = one_lane(slots=10, adaptive=True)
        lane.set_slots(20)
        assert lane.snapshot().limit == 20
        lane.on_overload(now())
        lane.set_slots(30)
        assert lane.snapshot().limit == 14

    async def test_success_of_an_adaptive_lane_wakes_waiters(self) -> None:
        lane = one_lane(slots=2, adaptive=True)
        async with calling() as callers:
            await callers.queue("a", lane=lane)
            lane.on_overload(now())
            await callers.queue("b", lane=lane)
            assert callers.served == ["a"]
            lane.on_success()
            await turns()
            assert callers.served == ["a", "b"]

    async def test_a_lane_that_is_not_adaptive_takes_no_notice(self) -> None:
        lane = one_lane(slots=4)
        lane.on_overload(now())
        lane.on_success()
        assert lane.snapshot().limit == 4


class TestAdaptiveLimit:
    def test_one_wave_of_overload_cuts_once(self) -> None:
        limit = AdaptiveLimit(100)
        for at in (0.0, 1.0, 1.9):
            limit.on_overload(at, 2.0)
        assert limit.limit == 70
        limit.on_overload(2.0, 2.0)
        assert limit.limit == 49
        assert repr(limit) == "<AdaptiveLimit 49 of 100>"

    def test_never_falls_below_one_nor_rises_above_the_slots(self) -> None:
        limit = AdaptiveLimit(3)
        for at in range(9):
            limit.on_overload(at, 1.0)
        assert limit.limit == 1
        for _ in range(99):
            limit.on_success(3)
        assert limit.limit == 3

    def test_successes_while_idle_prove_nothing(self) -> None:
        limit = AdaptiveLimit(10)
        limit.on_overload(0.0, 1.0)
        for _ in range(99):
            limit.on_success(3)
        assert limit.limit == 7

    @pytest.mark.parametrize(
        ("cut", "slots", "limit"), [(0, 20, 20), (1, 20, 7), (1, 5, 5), (1, 0, 0)]
    )
    def test_follows_the_configured_slots(self, cut: int, slots: int, limit: int) -> None:
        adaptive = AdaptiveLimit(10)
        for at in range(cut):
            adaptive.on_overload(at, 1.0)
        adaptive.set_ceiling(slots)
        assert adaptive.limit == limit
        adaptive.set_ceiling(10)
        assert adaptive.limit >= 1


class TestBalancer:
    @pytest.mark.parametrize(
        ("field", "value"),
        [("max_workers", 0), ("queue_size", -1), ("ageing", -1.0), ("ageing", INF)],
    )
    def test_refuses_figures_out_of_range(self, field: str, value: float) -> None:
        with pytest.raises(ConfigurationError, match=f"{field} must .* {value}"):
            LoadBalancer(**{field: value})  # type: ignore[arg-type]

    def test_refuses_models_it_has_and_does_not_have(self) -> None:
        balancer = LoadBalancer()
        lane = balancer.add("a")
        with pytest.raises(ConfigurationError, match="model_id 'a' is there already"):
            balancer.add("a")
        with pytest.raises(ConfigurationError, match="model_id 'b' is unknown"):
            balancer.lane("b")
        with pytest.raises(ConfigurationError, match="slots must not be negative, but is -1"):
            balancer.add("b", slots=-1)
        with pytest.raises(ConfigurationError, match="expected_duration must not be negative"):
            balancer.add("b", expected_duration=math.nan)
        assert list(balancer) == [lane]
        assert len(balancer) == 1

    async def test_an_update_that_is_refused_changes_nothing(self) -> None:
        balancer = LoadBalancer()
        a = balancer.add("a", slots=2, quota=QuotaLimits(1), quota_group="x")
        balancer.add("b", quota=QuotaLimits(5), quota_group="y")
        for slots, group in [(-1, "x"), (3, "y")]:
            with pytest.raises(ConfigurationError):
                balancer.update("a", slots=slots, quota=QuotaLimits(7), quota_group=group)
        assert a.slots == 2
        assert a.try_acquire(0, now()) is not None
        assert a.try_acquire(0, now()) is None

    async def test_limits_lowered_below_a_waiters_tokens_send_it_away(self) -> None:
        balancer = LoadBalancer()
        lane = balancer.add("a", quota=QuotaLimits(None, 100))
        async with calling() as callers:
            await callers.queue("1", lane=lane, tokens=60)
            await callers.queue("big", lane=lane, tokens=80)
            await callers.queue("small", lane=lane, tokens=40)
            balancer.update("a", slots=10, quota=QuotaLimits(None, 70))
            await asyncio.sleep(61)
            assert "tokens is 80, tokens_per_minute now lower" in str(callers.errors["big"])
            assert callers.served == ["1", "small"]

    async def test_removing_a_model_sends_its_waiters_away_and_lets_calls_end(self) -> None:
        balancer = LoadBalancer(max_workers=2)
        lane, other = balancer.add("a", slots=1), balancer.add("b", slots=2)
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=lane)
            await callers.queue("b1", "b2", lane=other)
            balancer.remove("a")
            await turns()
            assert str(callers.errors["a2"]) == "model 'a' was removed"
            await callers.queue("a3", lane=lane)
            assert str(callers.errors["a3"]) == "model 'a' was removed"
            assert lane.try_acquire(0, now()) is None
            callers.release("a1")
            await turns()
            assert callers.served == ["a1", "b1", "b2"]
            assert "a" not in balancer

    async def test_a_removed_head_lets_the_others_of_its_group_go(self) -> None:
        balancer = LoadBalancer()
        quota = QuotaLimits(None, 100)
        a, b = (balancer.add(i, quota=quota, quota_group="g") for i in "ab")
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a, tokens=60)
            await callers.queue("b1", lane=b, tokens=40)
            balancer.remove("a")
            await turns()
            assert callers.served == ["a1", "b1"]

    async def test_a_model_that_comes_back_finds_what_it_sent(self) -> None:
        balancer = LoadBalancer()
        grant = await balancer.add("a", quota=QuotaLimits(1)).acquire()
        balancer.remove("a")
        lane = balancer.add("a", quota=QuotaLimits(2))
        assert lane.try_acquire(0, now()) is not None
        assert lane.try_acquire(0, now()) is None
        grant.release(now())

    async def test_closing_wakes_every_waiter_with_its_own_error(self) -> None:
        balancer = LoadBalancer(max_workers=1)
        a, b = balancer.add("a"), balancer.add("b")
        async with calling() as callers:
            await callers.queue("a1", "a2", lane=a, deadline=now() + 9)
            await callers.queue("b1", "b2", lane=b)
            balancer.close(lambda: OverloadedError("closed"))
            await turns()
            await callers.queue("late", lane=a)
            assert set(callers.errors) == {"a2", "b1", "b2", "late"}
            assert len({id(error) for error in callers.errors.values()}) == 4
            assert {str(error) for error in callers.errors.values()} == {"closed"}
            assert callers.served == ["a1"]
            callers.release("a1")
            assert balancer.snapshot().in_flight == 0

    async def test_slot_holds_for_the_length_of_its_body(self) -> None:
        balancer = LoadBalancer()
        lane = balancer.add("a", slots=1, quota=QuotaLimits(None, 100))
        async with balancer.slot("a", tokens=80, deadline=now() + 5) as grant:
            assert lane.in_flight == 1
            grant.tokens_used = 30
        assert lane.in_flight == 0
        with pytest.raises(LookupError):
            async with balancer.slot("a", tokens=70):
                raise LookupError
        assert lane.in_flight == 0
        with pytest.raises(OverloadedError):
            async with balancer.slot("a", tokens=1, deadline=now() + 5):
                pass
        with pytest.raises(ValueError, match="tokens must not be negative, but is -1"):
            async with balancer.slot("a", tokens=-1):
                pass

    async def test_a_snapshot_says_what_goes_on(self) -> None:
        balancer = LoadBalancer(max_workers=7)
        lane = balancer.add("a", slots=3)
        await lane.acquire()
        seen = balancer.snapshot()
        assert (seen.in_flight, seen.queued, seen.max_workers) == (1, 0, 7)
        assert seen.lanes["a"] == lane.snapshot()
        assert lane.snapshot().slots == 3
        assert repr(lane.capacity) == "<Slots 1/3>"
        assert repr(lane.workers) == "<Workers 1/7>"
        assert repr(lane._queue) == "<WaitQueue 0 waiting, 0 tenants>"
        share = balancer.add("b", quota=QuotaLimits(5)).share
        assert repr(share).startswith("<Share of 1 models, 0 waiting: <Quota ")
        plain = LoadBalancer()
        assert (plain.snapshot().in_flight, plain.snapshot().max_workers) == (0, None)


# Random schedules


class World:
    """A balancer of three models, two of them in one group, and everything that went on in it."""

    def __init__(self, group: asyncio.TaskGroup, workers: int | None, slots: list[int]) -> None:
        self.balancer = LoadBalancer(max_workers=workers, queue_size=6, ageing=5.0)
        self.limits = QuotaLimits(requests_per_minute=4, tokens_per_minute=100, burst=3)
        self.lanes = [
            self.balancer.add("a", slots=slots[0], quota=self.limits, quota_group="g"),
            self.balancer.add("b", slots=slots[1], quota=self.limits, quota_group="g"),
            self.balancer.add("c", slots=slots[2]),
        ]
        self.workers = workers
        self.group = group
        self.callers: list[asyncio.Task[None]] = []
        self.held: list[Grant] = []
        self.most_slots = list(slots)
        self.starts: list[float] = []
        self.tokens: list[list[float]] = []
        self.waiting: dict[int, tuple[Lane, tuple[float, int], int]] = {}
        self.overtaken: list[tuple[int, int]] = []
        self.hints: list[float | None] = []

    def acquire(self, lane: Lane, tokens: int, priority: int, wait: float) -> None:
        number = len(self.callers)
        tokens = tokens if lane.share else 0

        async def call() -> None:
            order = (now() - 5.0 * priority, number)
            self.waiting[number] = (lane, order, tokens)
            try:
                grant = await lane.acquire(tokens, priority=priority, deadline=now() + wait)
            except OverloadedError as error:
                self.hints.append(error.retry_after)
                return
            finally:
                del self.waiting[number]
            self.granted(number, order, grant)

        self.callers.append(self.group.create_task(call()))

    def granted(self, number: int, order: tuple[float, int], grant: Grant) -> None:
        for other, (lane, theirs, _) in self.waiting.items():
            still_waits = any(w.order[0] == theirs[0] for w in lane._queue)
            if lane is grant.lane and theirs < order and still_waits:
                self.overtaken.append((number, other))
        self.held.append(grant)
        if grant.share is not None:
            self.starts.append(grant.granted_at)
            self.tokens.append([grant.granted_at, grant.tokens])

    def check(self) -> None:
        assert not self.overtaken
        assert all(hint is None or hint > 0 for hint in self.hints)
        for lane, most in zip(self.lanes, self.most_slots, strict=True):
            holders = [grant for grant in self.held if grant.lane is lane]
            limiter = lane.capacity.limiter
            assert lane.in_flight == len(holders) <= most
            assert limiter is None or set(limiter.statistics().borrowers) == set(holders)
            assert lane.queued == sum(at is lane for at, _, _ in self.waiting.values())
        if self.workers is not None:
            assert self.balancer.snapshot().in_flight == len(self.held) <= self.workers
        self.check_that_nobody_waits_for_nothing()

    def check_that_nobody_waits_for_nothing(self) -> None:
        blocked: set[object] = set()
        for lane, _, tokens in sorted(self.heads(), key=lambda head: head[1]):
            is_free = lane.in_flight < lane.slots
            has_worker = self.workers is None or len(self.held) < self.workers
            if is_free and has_worker and lane.share not in blocked:
                assert lane.share is not None
                assert lane.share.quota.free_at(tokens, now()) > now(), f"{lane} could run"
                blocked.add(lane.share)

    def heads(self) -> list[tuple[Lane, tuple[float, int], int]]:
        firsts: dict[Lane, tuple[Lane, tuple[float, int], int]] = {}
        for entry in self.waiting.values():
            if entry[0] not in firsts or entry[1] < firsts[entry[0]][1]:
                firsts[entry[0]] = entry
        return list(firsts.values())

    def check_windows(self) -> None:
        for at in self.starts:
            assert sum(at <= other < at + 60 for other in self.starts) <= 4
        for at, _ in self.tokens:
            assert sum(n for other, n in self.tokens if at <= other < at + 60) <= 100

    def release(self, index: int, tokens_used: int | None) -> None:
        grant = self.held.pop(index % len(self.held))
        if tokens_used is None or grant.share is None:
            grant.release(now(), tokens_used)
        else:
            # What was given back at once may be reserved again in the same minute.
            entry = next(e for e in self.tokens if e == [grant.granted_at, grant.tokens])
            entry[1] = min(grant.tokens, tokens_used)
            grant.release(now(), tokens_used)

    def cancel_grant(self, index: int) -> None:
        grant = self.held.pop(index % len(self.held))
        if grant.share is not None:
            self.starts.remove(grant.granted_at)
            self.tokens.remove([grant.granted_at, grant.tokens])
        grant.cancel(now())


Step = Callable[[World], Awaitable[None] | None]
index = st.integers(0, 50)


def acquire(lane: int, tokens: int, priority: int, wait: float) -> Step:
    return lambda world: world.acquire(world.lanes[lane], tokens, priority, wait)


def release(which: int, tokens_used: int | None) -> Step:
    return lambda world: world.release(which, tokens_used) if world.held else None


def cancel_grant(which: int) -> Step:
    return lambda world: world.cancel_grant(which) if world.held else None


def cancel_caller(which: int) -> Step:
    def step(world: World) -> None:
        if world.callers:
            world.callers[which % len(world.callers)].cancel()

    return step


def release_and_cancel(which: int) -> Step:
    def step(world: World) -> None:
        release(which, 0)(world)
        cancel_caller(which)(world)

    return step


def set_slots(lane: int, slots: int) -> Step:
    def step(world: World) -> None:
        world.most_slots[lane] = max(world.most_slots[lane], slots)
        world.lanes[lane].set_slots(slots)

    return step


def sleep(seconds: float) -> Step:
    return lambda _: asyncio.sleep(seconds)


steps = st.one_of(
    st.builds(
        acquire,
        st.integers(0, 2),
        st.integers(0, 100),
        st.integers(-1, 2),
        st.sampled_from([0.0, 3.0, 30.0, 200.0, INF]),
    ),
    st.builds(
        acquire, st.integers(0, 1), st.integers(20, 60), st.just(0), st.sampled_from([50.0, INF])
    ),
    st.builds(release, index, st.none() | st.integers(0, 150)),
    st.builds(cancel_grant, index),
    st.builds(cancel_caller, index),
    st.builds(release_and_cancel, index),
    st.builds(set_slots, st.integers(0, 2), st.integers(0, 3)),
    st.builds(sleep, st.sampled_from([0.0, 0.5, 7.0, 15.0, 60.0])),
)


@given(
    st.none() | st.integers(1, 4),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.lists(steps, max_size=50),
)
@settings(max_examples=300, deadline=None)
async def test_whatever_happens_the_promises_hold(
    workers: int | None, slots: list[int], schedule: list[Step]
) -> None:
    async with asyncio.TaskGroup() as group:
        world = World(group, workers, slots)
        for step in schedule:
            awaitable = step(world)
            if awaitable is not None:
                await awaitable
            await turns()
            world.check()
        world.check_windows()
        for lane in range(3):
            set_slots(lane, 3)(world)
        while world.waiting or world.held:  # everybody is served in the end: else it hangs
            while world.held:
                world.release(0, None)
                await turns()
                world.check()
            if world.waiting:
                await asyncio.sleep(10)
        world.check_windows()
    for lane in world.lanes:
        assert (lane.in_flight, lane.queued) == (0, 0)
        assert not lane.pool
        assert lane.share is None or not lane.share.waiting
    timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert all(timer.cancelled() for timer in timers)
