from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time

import anyio
import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given
from hypothesis import strategies as st

from asyncroute.testing import Deadlock, VirtualClockLoop, run_virtual

pytestmark = pytest.mark.smoke

seconds = st.floats(min_value=0, max_value=1e9, allow_subnormal=True)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_waiting_costs_nothing_and_ends_at_the_exact_instant() -> None:
    async def scenario() -> list[float]:
        instants = [now()]
        for delay in (0.1, 0.2, 3600, 1e-12):
            await asyncio.sleep(delay)
            instants.append(now())
        return instants

    assert run_virtual(scenario) == [
        0.0,
        0.1,
        0.1 + 0.2,
        0.1 + 0.2 + 3600,
        0.1 + 0.2 + 3600 + 1e-12,
    ]


@given(st.lists(seconds, max_size=20))
def test_every_timer_fires_at_its_own_instant_in_order(delays: list[float]) -> None:
    async def scenario() -> list[tuple[float, float]]:
        fired: list[tuple[float, float]] = []
        loop = asyncio.get_running_loop()
        for delay in delays:
            loop.call_at(delay, lambda due: fired.append((due, loop.time())), delay)
        await asyncio.sleep(max(delays, default=0))
        await asyncio.sleep(0)
        return fired

    assert run_virtual(scenario) == [(due, due) for due in sorted(delays)]


@given(start=seconds, step=seconds)
def test_a_wait_until_an_instant_ends_wherever_the_clock_stands(start: float, step: float) -> None:
    async def scenario() -> tuple[float, int]:
        await asyncio.sleep(start)
        until, waits = now() + step, 0
        while now() < until:
            await asyncio.sleep(until - now())
            waits += 1
        return now() - until, waits

    late, waits = run_virtual(scenario)
    assert late == 0 or late <= math.ulp(start + step)
    assert waits <= 3


def test_a_wait_longer_than_the_loops_longest_select_is_one_jump() -> None:
    async def scenario() -> float:
        await asyncio.sleep(1e10)
        await asyncio.sleep(0.5)
        return now()

    assert run_virtual(scenario) == 1e10 + 0.5


def test_what_is_ready_runs_before_the_clock_moves() -> None:
    async def scenario() -> list[float]:
        seen: list[float] = []

        async def worker() -> None:
            for _ in range(100):
                await asyncio.sleep(0)
            seen.append(now())

        async with asyncio.TaskGroup() as group:
            group.create_task(worker())
            await asyncio.sleep(1e-9)
            seen.append(now())
        return seen

    assert run_virtual(scenario) == [0.0, 1e-9]


def test_a_cancelled_timer_is_not_jumped_to() -> None:
    async def scenario() -> float:
        asyncio.get_running_loop().call_later(5, print).cancel()
        async with asyncio.timeout(3600):
            await asyncio.sleep(10)
        return now()

    assert run_virtual(scenario) == 10


def test_deadlock_names_the_instant_and_who_waits_where() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        await asyncio.sleep(7)
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_nobody(), name="the patient one")

    with pytest.raises(Deadlock) as caught:
        run_virtual(scenario)
    message = str(caught.value)
    assert "no timer is armed at 7.0 s" in message
    assert "the patient one: " in message
    assert "wait_for_nobody (test_testing.py:" in message
    assert " > Event.wait (locks.py:" in message


def test_deadlock_reaches_no_coroutine_but_its_clean_up_runs() -> None:
    ends: list[str] = []

    async def scenario() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        except BaseException as error:
            ends.append(repr(error))

    with pytest.raises(Deadlock):
        run_virtual(scenario)
    assert ends == ["cancelled"]


def test_deadlock_of_many_names_some_and_counts_the_rest() -> None:
    async def scenario() -> None:
        never = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(never.wait())

    with pytest.raises(Deadlock, match=r"and 981 more$"):
        run_virtual(scenario)


def test_a_sleep_without_end_is_a_deadlock() -> None:
    with pytest.raises(Deadlock, match=r"at 0\.0 s"):
        run_virtual(asyncio.sleep, math.inf)


@pytest.mark.real_time
def test_the_clock_stands_still_while_an_executor_job_runs() -> None:
    async def scenario() -> tuple[str, float]:
        async with asyncio.timeout(3600):
            answer = await asyncio.to_thread(lambda: time.sleep(0.05) or "done")
        at = now()
        await asyncio.sleep(1)
        return answer, at

    assert run_virtual(scenario) == ("done", 0.0)


@pytest.mark.real_time
def test_closing_waits_for_the_thread_of_a_cancelled_job() -> None:
    release, ended = threading.Event(), threading.Event()

    def job() -> None:
        release.wait(5)
        ended.set()

    async def scenario() -> float:
        with anyio.move_on_after(3):
            waiter = asyncio.ensure_future(asyncio.to_thread(job))
            await asyncio.sleep(0)
            waiter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiter
            await asyncio.sleep(2)
        threading.Timer(0.05, release.set).start()
        return now()

    assert run_virtual(scenario) == 2
    assert ended.is_set()


def test_what_a_socket_holds_is_read_before_the_clock_moves() -> None:
    async def scenario() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            loop.call_soon(theirs.send, b"hello")
            async with asyncio.timeout(1):
                return await loop.sock_recv(ours, 5), now()

    assert run_virtual(scenario) == (b"hello", 0.0)


def test_anyio_and_aiolimiter_live_by_this_clock() -> None:
    async def scenario() -> tuple[float, float]:
        with anyio.move_on_after(20) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        gave_up_at = anyio.current_time()
        minute = AsyncLimiter(10, 60)
        for _ in range(40):
            await minute.acquire()
        return gave_up_at, now() - gave_up_at

    gave_up_at, took = run_virtual(scenario)
    assert gave_up_at == 20
    assert took == pytest.approx(180)


def test_anyio_run_takes_the_loop() -> None:
    async def scenario(delay: float) -> float:
        await anyio.sleep(delay)
        return anyio.current_time()

    options = {"loop_factory": VirtualClockLoop}
    assert anyio.run(scenario, 60.0, backend_options=options) == 60


def test_two_runs_are_the_same() -> None:
    async def scenario() -> list[tuple[int, float]]:
        trace: list[tuple[int, float]] = []
        slots = anyio.CapacityLimiter(3)

        async def caller(i: int) -> None:
            async with slots:
                await asyncio.sleep((i * 7919 % 13) / 10)
            trace.append((i, now()))

        async with asyncio.TaskGroup() as group:
            for i in range(200):
                group.create_task(caller(i))
        return trace

    first = run_virtual(scenario)
    assert len(first) == 200
    assert run_virtual(scenario) == first


def test_what_is_raised_comes_out_plain_and_the_loop_is_closed() -> None:
    async def scenario() -> None:
        loops.append(asyncio.get_running_loop())
        raise LookupError("here")

    loops: list[asyncio.AbstractEventLoop] = []
    with pytest.raises(LookupError, match="here"):
        run_virtual(scenario)
    assert repr(loops[0]) == "<VirtualClockLoop at 0.0 s, closed>"


def test_it_runs_in_any_thread_but_not_inside_a_loop() -> None:
    async def inner() -> float:
        await asyncio.sleep(3600)
        return now()

    async def outer() -> float:
        with pytest.raises(RuntimeError, match="running event loop"):
            run_virtual(inner)
        return await asyncio.to_thread(run_virtual, inner)

    assert run_virtual(outer) == 3600


async def test_async_tests_run_on_a_virtual_loop(request: pytest.FixtureRequest) -> None:
    loop = asyncio.get_running_loop()
    if request.config.getoption("--loop") == "uvloop":
        assert type(loop).__module__.startswith("uvloop")
    else:
        assert repr(loop) == "<VirtualClockLoop at 0.0 s, running>"


@pytest.mark.real_time
async def test_real_time_tests_do_not() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualClockLoop)
