"""Callers who want the same thing share one run, which belongs to none of them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncroute._single_flight import Flight, SingleFlight

Start = Callable[[Flight[str]], Awaitable[str]]
tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")


class Owner:
    """Spawns as a router's supervisor does, and keeps what it spawned."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.is_closed = False

    def spawn(self, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self.is_closed:
            raise RuntimeError("closed")
        self.tasks.append(asyncio.get_running_loop().create_task(run))
        return self.tasks[-1]


class Upstream:
    """What is asked for: answers after a second, and counts."""

    def __init__(self, seconds: float = 1.0, error: BaseException | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.calls = 0
        self.cancelled = 0

    async def __call__(self, flight: Flight[str]) -> str:
        self.calls += 1
        call = self.calls
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return f"answer {call}"


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def flights() -> SingleFlight[str]:
    return SingleFlight()


@pytest.fixture
def loop_errors() -> Iterator[list[dict[str, Any]]]:
    """What the loop was told of and nobody met; filled by `watch`."""
    told: list[dict[str, Any]] = []
    yield told
    assert told == []


class Callers:
    """Callers of one key, each in a task of its own."""

    def __init__(self, flights: SingleFlight[str], owner: Owner, start: Start) -> None:
        self.flights, self.owner, self.start = flights, owner, start

    def __call__(self, deadline: float = inf) -> asyncio.Task[str]:
        return asyncio.get_running_loop().create_task(
            self.flights.run("key", self.start, deadline=deadline, spawn=self.owner.spawn)
        )


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_hundred_identical_misses_make_one_run(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    call = Callers(flights, owner, upstream)
    callers = [call() for _ in range(100)]
    assert await asyncio.gather(*callers) == ["answer 1"] * 100
    assert upstream.calls == 1
    assert len(flights) == 0


async def test_other_keys_run_beside_each_other(flights: SingleFlight[str], owner: Owner) -> None:
    upstream = Upstream()
    runs = [flights.run(key, upstream, deadline=inf, spawn=owner.spawn) for key in range(3)]
    await asyncio.gather(*runs)
    assert upstream.calls == 3
    assert now() == 1.0


async def test_after_a_run_has_ended_the_next_caller_starts_anew(
    flights: SingleFlight[str], owner: Owner
) -> None:
    call = Callers(flights, owner, Upstream())
    assert await call() == "answer 1"
    assert await call() == "answer 2"


async def test_a_cancelled_first_caller_hurts_nobody(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    call = Callers(flights, owner, upstream)
    first, *others = [call() for _ in range(5)]
    await asyncio.sleep(0.5)
    first.cancel()
    assert await asyncio.gather(*others) == ["answer 1"] * 4
    assert first.cancelled()
    assert (upstream.calls, upstream.cancelled) == (1, 0)
    assert now() == 1.0


async def test_the_run_is_cancelled_once_when_its_last_waiter_leaves(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    call = Callers(flights, owner, upstream)
    callers = [call() for _ in range(3)]
    await asyncio.sleep(0.5)
    for caller in callers[:2]:
        caller.cancel()
    await turns(3)
    assert upstream.cancelled == 0
    callers[2].cancel()
    await turns(3)
    assert upstream.cancelled == 1
    assert owner.tasks[0].cancelled()
    assert owner.tasks[0].cancelling() == 1
    assert len(flights) == 0


async def test_a_new_caller_never_joins_a_dying_run(
    flights: SingleFlight[str], owner: Owner
) -> None:
    ended: list[str] = []

    async def slow_to_die(flight: Flight[str]) -> str:
        name = f"run {len(owner.tasks)}"
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            await asyncio.sleep(10)
            raise
        finally:
            ended.append(name)
        return name

    call = Callers(flights, owner, slow_to_die)
    caller = call()
    await asyncio.sleep(0.5)
    caller.cancel()
    await turns(2)
    assert ended == []
    assert await call() == "run 2"
    assert now() == 1.5
    await asyncio.wait(owner.tasks)
    assert ended == ["run 2", "run 1"]


async def test_who_joins_in_the_turn_in_which_the_last_one_is_cancelled_keeps_the_run(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    call = Callers(flights, owner, upstream)
    first = call()
    await asyncio.sleep(0.5)
    second = call()
    first.cancel()  # its task is woken after `second` has taken its first step
    assert await second == "answer 1"
    assert (upstream.calls, upstream.cancelled) == (1, 0)


async def test_a_run_that_answers_although_cancelled_tells_nobody(
    flights: SingleFlight[str], owner: Owner
) -> None:
    async def stubborn(flight: Flight[str]) -> str:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            assert not flight.is_current
        return "late"

    caller = Callers(flights, owner, stubborn)()
    await asyncio.sleep(0.5)
    caller.cancel()
    await turns(3)
    assert caller.cancelled()
    assert owner.tasks[0].done()
    assert not owner.tasks[0].cancelled()


async def test_a_caller_cancelled_just_before_the_answer_spoils_it_for_nobody(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    callers: list[asyncio.Task[str]] = []

    async def start(flight: Flight[str]) -> str:
        answer = await upstream(flight)
        callers[0].cancel()
        return answer

    call = Callers(flights, owner, start)
    callers += [call(), call()]
    assert await callers[1] == "answer 1"
    assert callers[0].cancelled()
    assert upstream.calls == 1


async def test_who_spawned_may_do_more_after_the_run_and_is_not_cancelled(
    flights: SingleFlight[str], owner: Owner
) -> None:
    async def and_more(run: Coroutine[Any, Any, None]) -> None:
        await run
        await asyncio.sleep(5)

    run = flights.run("key", Upstream(), deadline=inf, spawn=lambda run: owner.spawn(and_more(run)))
    assert await run == "answer 1"
    await owner.tasks[0]
    assert now() == 6


# Deadlines


async def test_a_waiter_waits_until_its_own_deadline_and_the_others_go_on(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream(seconds=3)
    call = Callers(flights, owner, upstream)
    patient, hasty = call(10), call(2)
    with pytest.raises(TimeoutError):
        await hasty
    assert now() == 2
    assert await patient == "answer 1"
    assert now() == 3
    assert upstream.cancelled == 0


async def test_a_run_lives_to_its_waiters_latest_deadline(
    flights: SingleFlight[str], owner: Owner
) -> None:
    seen: list[float] = []

    async def until_the_deadline(flight: Flight[str]) -> str:
        while now() < flight.deadline:
            seen.append(flight.deadline)
            await asyncio.sleep(1)
        return f"ended at {now():g}"

    call = Callers(flights, owner, until_the_deadline)
    first = call(2.5)
    await asyncio.sleep(0.5)
    second, third = call(4.5), call(3.5)
    with pytest.raises(TimeoutError):
        await first
    with pytest.raises(TimeoutError):
        await third
    with pytest.raises(TimeoutError):
        await second
    assert seen == [2.5, 4.5, 4.5, 4.5, 4.5]
    assert now() == 4.5
    await turns(2)
    assert owner.tasks[0].cancelled()


async def test_a_waiter_whose_time_is_up_counts_as_gone(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream(seconds=60)
    with pytest.raises(TimeoutError):
        await Callers(flights, owner, upstream)(1)
    await turns()
    assert upstream.cancelled == 1


@pytest.mark.parametrize("deadline", [5.0, 4.0, -inf, nan])
async def test_a_deadline_that_has_passed_starts_nothing(
    flights: SingleFlight[str], owner: Owner, deadline: float
) -> None:
    await asyncio.sleep(5)
    with pytest.raises(TimeoutError):
        await flights.run("key", Upstream(), deadline=deadline, spawn=owner.spawn)
    assert owner.tasks == []
    assert len(flights) == 0


async def test_an_answer_in_the_turn_of_the_deadline_is_not_lost(
    flights: SingleFlight[str], owner: Owner
) -> None:
    # As after the loop was blocked: the waiter's timer comes due first, the answer right after.
    assert await Callers(flights, owner, Upstream(seconds=1))(1) == "answer 1"


async def test_no_timer_is_left(flights: SingleFlight[str], owner: Owner) -> None:
    call = Callers(flights, owner, Upstream())
    caller = call(1000)
    await call(1000)
    await caller
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    assert all(handle.cancelled() for handle in scheduled)


# Errors


async def test_an_error_goes_to_all_waiters_and_the_next_caller_starts_anew(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream(error=ValueError("no"))
    call = Callers(flights, owner, upstream)
    outcomes = await asyncio.gather(*[call() for _ in range(3)], return_exceptions=True)
    assert [repr(error) for error in outcomes] == ["ValueError('no')"] * 3
    assert upstream.calls == 1
    upstream.error = None
    assert await call() == "answer 2"


async def test_each_waiter_raises_a_copy_with_its_own_traceback(
    flights: SingleFlight[str], owner: Owner
) -> None:
    cause = KeyError("cause")
    original = ValueError("no")
    original.__cause__ = cause
    original.add_note("noted")
    call = Callers(flights, owner, Upstream(error=original))
    first, second = await asyncio.gather(call(), call(), return_exceptions=True)
    assert isinstance(first, ValueError)
    assert isinstance(second, ValueError)
    assert len({id(first), id(second), id(original)}) == 3
    assert first.__cause__ is cause
    assert first.__suppress_context__
    assert first.__notes__ == ["noted"]
    for error in (first, second):
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames == ["run", "__call__"]


async def test_a_copy_shows_the_context_where_the_error_does(
    flights: SingleFlight[str], owner: Owner
) -> None:
    async def fail(flight: Flight[str]) -> str:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("no")  # noqa: B904

    (error,) = await asyncio.gather(Callers(flights, owner, fail)(), return_exceptions=True)
    assert isinstance(error, ValueError)
    assert isinstance(error.__context__, KeyError)
    assert not error.__suppress_context__


class Particular(Exception):
    """Cannot be copied: its constructor wants what `args` does not hold."""

    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")


class Misleading(Exception):
    """Copies into something else."""

    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")


@pytest.mark.parametrize("error", [Particular(status=3), Misleading(4)])
async def test_an_error_that_cannot_be_copied_is_shared_and_does_not_grow(
    flights: SingleFlight[str], owner: Owner, error: Exception
) -> None:
    context = error.__suppress_context__
    call = Callers(flights, owner, Upstream(error=error))
    outcomes = await asyncio.gather(*[call() for _ in range(5)], return_exceptions=True)
    assert all(outcome is error for outcome in outcomes)
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames == ["run", "__call__"]
    assert error.__suppress_context__ is context


@pytest.mark.parametrize("error_type", [ValueError, Particular])
async def test_errors_leave_nothing_to_the_garbage_collector(
    flights: SingleFlight[str], owner: Owner, error_type: type[Exception]
) -> None:
    async def fail(flight: Flight[str]) -> str:
        await asyncio.sleep(1)
        raise ValueError("no") if error_type is ValueError else Particular(status=3)

    async def caller() -> None:
        with contextlib.suppress(error_type):
            await flights.run("key", fail, deadline=now() + 9, spawn=owner.spawn)

    async def callers() -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(caller()) for _ in range(3)]
        for task in tasks:
            await task
        owner.tasks.clear()

    await callers()
    await turns(2)
    gc.collect()
    gc.disable()
    try:
        await callers()
        await turns(2)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, (BaseException, Flight))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


async def test_a_waiter_cancelled_in_the_turn_of_an_error_leaves_no_complaint(
    flights: SingleFlight[str], owner: Owner, loop_errors: list[dict[str, Any]]
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, told: loop_errors.append(told))
    callers: list[asyncio.Task[str]] = []

    async def fail(flight: Flight[str]) -> str:
        await asyncio.sleep(1)
        asyncio.get_running_loop().call_soon(callers[0].cancel)
        raise ValueError("no")

    call = Callers(flights, owner, fail)
    callers += [call(), call()]
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert isinstance(outcomes[1], ValueError)
    callers.clear()
    gc.collect()


# Runs that end otherwise


async def test_waiters_of_a_run_cancelled_from_outside_start_anew_together(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    call = Callers(flights, owner, upstream)
    callers = [call() for _ in range(4)]
    await asyncio.sleep(0.5)
    owner.tasks[0].cancel()
    assert await asyncio.gather(*callers) == ["answer 2"] * 4
    assert upstream.calls == 2


async def test_a_run_cancelled_before_its_first_step_wakes_its_waiters(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    caller = Callers(flights, owner, upstream)()
    await turns()
    owner.tasks[0].cancel()
    assert upstream.calls == 0
    assert await caller == "answer 1"


async def test_runs_that_cancel_themselves_are_not_started_for_ever(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream(error=asyncio.CancelledError())
    call = Callers(flights, owner, upstream)
    outcomes = await asyncio.gather(call(), call(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]
    assert upstream.calls == 2


async def test_when_the_owner_closes_its_waiters_get_its_refusal(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream = Upstream()
    call = Callers(flights, owner, upstream)
    callers = [call() for _ in range(3)]
    await asyncio.sleep(0.5)
    owner.is_closed = True
    owner.tasks[0].cancel()
    for outcome in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(outcome, RuntimeError)
        assert str(outcome) == "closed"
    assert upstream.calls == 1
    assert len(flights) == 0


async def test_two_owners_may_share_and_the_one_that_stays_takes_over(
    flights: SingleFlight[str], owner: Owner
) -> None:
    upstream, other = Upstream(), Owner()
    first, second = Callers(flights, owner, upstream)(), Callers(flights, other, upstream)()
    await asyncio.sleep(0.5)
    owner.is_closed = True
    owner.tasks[0].cancel()
    with pytest.raises(RuntimeError, match="closed"):
        await first
    assert await second == "answer 2"
    assert len(other.tasks) == 1


async def test_the_run_sees_its_first_callers_context(
    flights: SingleFlight[str], owner: Owner
) -> None:
    async def who(flight: Flight[str]) -> str:
        await asyncio.sleep(1)
        return tenant.get()

    call = Callers(flights, owner, who)
    tenant.set("first")
    first = call()
    tenant.set("second")
    second = call()
    assert await first == await second == "first"


async def test_a_run_that_ends_while_it_is_spawned_answers(flights: SingleFlight[str]) -> None:
    """As eager tasks do, from Python 3.12 on."""

    def spawn(run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        with pytest.raises(StopIteration):
            run.send(None)
        return asyncio.get_running_loop().create_task(asyncio.sleep(0))

    async def at_once(flight: Flight[str]) -> str:
        return "now"

    assert await flights.run("key", at_once, deadline=1, spawn=spawn) == "now"
    assert len(flights) == 0
    await turns(2)


async def test_a_detached_run_answers_its_waiters_and_is_joined_by_nobody(
    flights: SingleFlight[str], owner: Owner
) -> None:
    call = Callers(flights, owner, Upstream())
    before = call()
    await asyncio.sleep(0.5)
    flights.detach("key")
    flights.detach("unknown")
    after = call()
    assert await before == "answer 1"
    assert len(flights) == 1
    assert await after == "answer 2"


async def test_a_detached_run_is_cancelled_with_its_last_waiter_too(
    flights: SingleFlight[str], owner: Owner
) -> None:
    call = Callers(flights, owner, Upstream())
    before = call()
    await turns()
    flights.detach_all()
    after = call()
    await turns()
    before.cancel()
    assert await after == "answer 2"
    assert owner.tasks[0].cancelled()


async def test_reprs_say_how_many_wait(flights: SingleFlight[str], owner: Owner) -> None:
    seen: list[str] = []

    async def look(flight: Flight[str]) -> str:
        seen.append(repr(flight))
        return ""

    call = Callers(flights, owner, look)
    callers = [call(2), call(3)]
    await turns()
    assert repr(flights) == "<SingleFlight 1 running>"
    await asyncio.gather(*callers)
    assert seen == ["<Flight current, 2 waiting, until 3.000>"]


# Any schedule


class Script:
    """A caller: when it comes, how long it would wait, and when it is cancelled."""

    def __init__(self, comes_at: float, waits: float, cancelled_after: float) -> None:
        self.comes_at, self.waits, self.cancelled_after = comes_at, waits, cancelled_after

    def __repr__(self) -> str:
        return f"Script({self.comes_at}, {self.waits}, {self.cancelled_after})"


seconds = st.integers(0, 12).map(lambda tenths: tenths / 4)
scripts = st.lists(st.builds(Script, seconds, seconds, seconds), min_size=1, max_size=8)


@given(scripts=scripts, run_seconds=seconds, fails=st.booleans(), seed=st.integers(0, 99))
async def test_whatever_the_schedule_every_caller_ends_in_time_and_no_run_outlives_them(
    scripts: list[Script], run_seconds: float, fails: bool, seed: int
) -> None:
    flights: SingleFlight[str] = SingleFlight()
    owner = Owner()
    running = most = 0
    rng = random.Random(seed)

    async def start(flight: Flight[str]) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(run_seconds)
            if fails:
                raise ValueError("no")
            return "answer"
        finally:
            running -= 1

    async def caller(script: Script) -> str:
        await asyncio.sleep(script.comes_at)
        came_at = now()
        try:
            return await flights.run(
                "key", start, deadline=came_at + script.waits, spawn=owner.spawn
            )
        except ValueError:
            assert fails
            return "failed"
        except TimeoutError:
            return "late"
        finally:
            assert now() <= came_at + script.waits

    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[str]] = []
    order = list(scripts)
    rng.shuffle(order)
    for script in order:
        task = loop.create_task(caller(script))
        loop.call_later(script.comes_at + script.cancelled_after, task.cancel)
        tasks.append(task)
    await asyncio.wait(tasks)
    await turns(3)
    assert most <= 1
    assert running == 0
    assert len(flights) == 0
    assert all(task.done() for task in owner.tasks)
    for task in tasks:
        assert task.cancelled() or task.result() in ("answer", "failed", "late")
