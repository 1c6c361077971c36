"""Deadlines for many calls on few timers, and the one safe way to give up an await from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import Context
from typing import NoReturn, Protocol, TypeVar, final

from anyio.lowlevel import checkpoint_if_cancelled

__all__ = (
    "TICK",
    "Deadlines",
    "Expiring",
    "Interruptible",
    "RanOutError",
    "deliver_again",
    "within",
)

T = TypeVar("T")

TICK = 0.02
"""Seconds that share one timer: an entry expires up to this much late, never early."""


_NEVER = 1e12
"""The instant that never comes: some 30,000 years on, where ticks are not told apart any more."""


class Expiring(Protocol):
    """Something that has a last instant."""

    def expire(self) -> None:
        """Called once the instant has passed, from the loop, unless disarmed before."""
        ...


async def deliver_again() -> NoReturn:
    """Raise the cancellation of the caller anew, where a provider swallowed or renamed it.

    A scope of anyio's only takes a cancellation for its own that it delivered itself.
    """
    await checkpoint_if_cancelled()
    raise asyncio.CancelledError


@final
class Deadlines:
    """Coarse timers: whatever is due within the same 20 ms shares one timer of the loop.

    Arming and disarming are set operations, a quarter of what a timer of its own costs. After a
    timer has fired, two more turns of the loop pass before anything expires: an answer that came
    in the same turn, or while the loop was blocked, still counts.

    Attributes:
        loop: The loop they belong to.
    """

    __slots__ = ("_buckets", "_timers", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._buckets: dict[int, set[Expiring]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def arm(self, entry: Expiring, at: float) -> set[Expiring] | None:
        """Let `entry` expire at the instant `at` of the loop's clock.

        Returns:
            What to `discard(entry)` from to disarm it; None if `at` is never, or too far to count.
        """
        if at >= _NEVER:
            return None
        tick = int(at / TICK) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
            # An empty context: the timer is shared, and would otherwise keep the first caller's.
            self._timers[tick] = self.loop.call_at(
                tick * TICK, self._let_answers_in, tick, 2, context=Context()
            )
        bucket.add(entry)
        return bucket

    def close(self) -> None:
        """Drop all timers; nothing expires any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._buckets.clear()

    def _let_answers_in(self, tick: int, turns: int) -> None:
        if turns and self._buckets.get(tick):
            self.loop.call_soon(self._let_answers_in, tick, turns - 1, context=Context())
            return
        self._timers.pop(tick, None)
        for entry in tuple(self._buckets.pop(tick, ())):
            entry.expire()

    def __repr__(self) -> str:
        return f"<Deadlines: {sum(map(len, self._buckets.values()))} armed>"


class Interruptible:
    """An await in a task that may be given up from outside, told apart from other cancellations.

    `begin()` in the task, await, and `end()` on every way out. Between them `interrupt()` cancels
    the task once. `end()` takes that cancellation back, also where the awaited code swallowed it
    or turned it into an error of its own, and tells whether somebody else cancelled the task.
    """

    __slots__ = ("_cancelling", "_interrupted", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._interrupted = False

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the current task, and how many cancellations it has already been asked for."""
        task = asyncio.current_task(loop)  # told the loop, it makes no system call to find it
        if task is None:
            raise RuntimeError("must run in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._interrupted = False

    def interrupt(self) -> bool:
        """Cancel the await, once.

        Returns:
            False if it is over, or somebody else is cancelling the task: two cancellations in one
            turn would come out as the other's.
        """
        task = self._task
        if task is None or self._interrupted or task.cancelling() > self._cancelling:
            return False
        self._interrupted = True
        return task.cancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether the await was cancelled, by us or by somebody else; if it goes on, in spite."""
        task = self._task
        return task is not None and task.cancelling() > self._cancelling

    def end(self) -> bool:
        """Take our own cancellation back. True if the task was cancelled by somebody else."""
        task = self._task
        if task is None:
            return False
        self._task = None
        if self._interrupted:
            return task.uncancel() > self._cancelling
        return task.cancelling() > self._cancelling


class RanOutError(TimeoutError):
    """The instant of `within` passed: told apart from time-outs of what was awaited."""


@final
class _Patience(Interruptible):
    """An await that is given up at a deadline."""

    __slots__ = ("has_run_out",)

    def __init__(self) -> None:
        super().__init__()
        self.has_run_out = False

    def expire(self) -> None:
        self.has_run_out = self.interrupt()


async def within(deadlines: Deadlines, at: float, awaitable: Awaitable[T]) -> T:
    """Await something in the caller's task, until an instant at most.

    Raises:
        RanOutError: The instant passed first.
        asyncio.CancelledError: The caller was cancelled.
    """
    patience = _Patience()
    patience.begin(deadlines.loop)
    bucket = deadlines.arm(patience, at)
    is_gone = True
    try:
        result = await awaitable
        is_gone = patience.end()
    except (Exception, asyncio.CancelledError):
        is_gone = patience.end()
        if is_gone or not patience.has_run_out:
            raise
        raise RanOutError from None
    finally:
        if bucket is not None:
            bucket.discard(patience)
    if is_gone:
        await deliver_again()
    return result
