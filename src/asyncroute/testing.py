"""What tests of code that routes need: a loop on which waiting costs nothing.

On a `VirtualClockLoop` an hour of `asyncio.sleep` passes at once, every timer fires at exactly the
instant it was set for, and a test that would hang raises `Deadlock` and says who waits where::

    def test_a_silent_model_is_given_up_after_its_timeout():
        async def scenario() -> float:
            async with LLMRouter(models=[...], providers={"slow": Silent()}) as router:
                await router.execute("hello", timeout=20)
                return asyncio.get_running_loop().time()

        assert run_virtual(scenario) == 20.0

With anyio's pytest plugin the same loop serves every `async def test_...`::

    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualClockLoop}

Virtual time belongs to timers. What other threads, sockets or processes do takes real time, of
which this loop knows nothing but the jobs of its own `run_in_executor`: run such tests on a real
loop. (anyio's worker threads do not go through `run_in_executor`.)
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, final

__all__ = ("Deadlock", "VirtualClockLoop", "run_virtual")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_TASKS_NAMED = 20  # in a Deadlock's message; a thousand callers waiting for one slot say no more


class Deadlock(BaseException):
    """Nothing is ready and no timer is armed: the loop would wait for ever.

    The message names the instant and every pending task with the chain of calls it waits in. It is
    raised by the loop, so it leaves `run_until_complete` and reaches no coroutine. No `Exception`,
    because runners take those for the failure of a coroutine that has ended, and here none has.
    """


class _PollingSelector(selectors.DefaultSelector):
    """Looks at what is ready; where the loop would go to sleep, asks it how long to, really."""

    def __init__(self, on_idle: Callable[[], float | None]) -> None:
        super().__init__()
        self._on_idle = on_idle

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        return super().select(self._on_idle())


@final
class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps to the next timer when nothing else is left to do.

    `time()` starts at 0.0 and moves only while nothing is ready, and then to the very instant of
    the next timer, without rounding, however far away it is. While a job of `run_in_executor` is
    awaited the clock stands still and the loop waits in real time; a job whose future was cancelled
    counts no more. Made for `loop_factory=`; it takes no arguments.

    Raises:
        Deadlock: From `run_forever` and `run_until_complete`, when nothing is ready, no job is
            awaited and no timer is armed, or none that is due before infinity.
    """

    # asyncio's own; it has no public name for either.
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float

    def __init__(self) -> None:
        self._now = 0.0
        self._jobs = 0
        super().__init__(_PollingSelector(self._idle))
        self._move_to(0.0)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed() else "running" if self.is_running() else "idle"
        return f"<VirtualClockLoop at {self._now} s, {state}>"

    def time(self) -> float:
        """Returns virtual seconds since the loop was made."""
        return self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Runs *func* in a thread, as asyncio does; the clock stands still until it has ended."""
        job = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        job.add_done_callback(self._job_ended)
        return job

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Waits for the default executor's threads, without the *timeout*.

        Runners call this last. Its thread is none of `run_in_executor`, and its timeout (from 3.12
        on) is a timer: uncounted, the clock would jump to it at once.
        """
        self._jobs += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jobs -= 1

    def _job_ended(self, _job: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    def _idle(self) -> float | None:
        """Moves the clock; returns for how many real seconds to wait (None: till woken up)."""
        if self._jobs:
            return None
        next_at = self._scheduled[0].when() if self._scheduled else math.inf
        if next_at == math.inf:
            raise Deadlock(self._stuck())
        self._move_to(next_at)
        return 0.0

    def _move_to(self, instant: float) -> None:
        self._now = instant
        # The loop runs timers due before `time() + _clock_resolution`. One unit in the last place
        # makes that "due by now" anywhere; asyncio's constant 1 ns fires timers early near zero and
        # is lost in rounding after a few months, when no timer would ever be due.
        self._clock_resolution = math.ulp(instant)

    def _stuck(self) -> str:
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
        lines = [f"nothing is ready and no timer is armed at {self._now} s; pending tasks:"]
        lines += [f"  {task.get_name()}: {_waits_in(task)}" for task in tasks[:_TASKS_NAMED]]
        if len(tasks) > _TASKS_NAMED:
            lines.append(f"  and {len(tasks) - _TASKS_NAMED} more")
        return "\n".join(lines)


def _waits_in(task: asyncio.Task[Any]) -> str:
    """The chain of coroutines from the task's own down to the one that does not return."""
    calls: list[str] = []
    step: object = task.get_coro()
    while (frame := getattr(step, "cr_frame", None)) is not None:
        file = frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
        calls.append(f"{frame.f_code.co_qualname} ({file}:{frame.f_lineno})")
        step = getattr(step, "cr_await", None)
    return " > ".join(calls) or repr(task.get_coro())


def run_virtual(function: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
    """Runs a coroutine function on a new `VirtualClockLoop` and closes the loop.

    May be called from any thread that runs no loop.

    Args:
        function: Called with *args*; what it returns is awaited.
        *args: Its positional arguments.

    Returns:
        What the coroutine returns.

    Raises:
        Deadlock: When everything waits and nothing can wake it.
        RuntimeError: When a loop runs in this thread already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("run_virtual() cannot be called from a running event loop")
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(function(*args))
