"""Single flight: many callers who want the same thing share one run.

The run belongs to no caller. It is a task of whoever spawned it, and every caller waits on a future
of its own, so that one who is cancelled, or whose time is up, takes nobody along.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from functools import partial
from math import inf
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

__all__ = ("Flight", "SingleFlight", "Spawn", "Start")

V = TypeVar("V")

# After a waiter's time is up, this many turns of the loop may still bring the answer: with the loop
# blocked for a while, timers come due together with the answer they would beat by a turn or two.
_TURNS_OF_GRACE: Final = 2


@final
class _Failure:
    """An error that ended a run or a wait, to be raised by several waiters."""

    __slots__ = ("_error", "_traceback")

    def __init__(self, error: Exception) -> None:
        self._error = error
        # From the second frame on: the first is that of `_fly`, which nobody needs to see.
        first = error.__traceback__
        self._traceback = first and first.tb_next

    def for_one_waiter(self) -> Exception:
        """Return a copy of the error, with the run's traceback.

        One object raised by many would show each of them the frames of whoever raised it last, and
        grow. An exception that does not survive copying is shared all the same, and set back.
        """
        own = _copied(self._error)
        return (self._error if own is None else own).with_traceback(self._traceback)


# What a waiter is told: a value, an error, or None for a run that ended without either.
_Outcome: TypeAlias = tuple[V] | _Failure | None


@final
class Flight(Generic[V]):
    """One run, as the run itself and those who wait for it see it.

    Attributes:
        deadline: The latest deadline of its waiters so far, on the loop's clock. It grows while
            the run goes on: read it again rather than keep it.
        is_current: Whether a new caller would join this run. False once it has ended, was
            abandoned by its last waiter, or was detached.
        on_later: Told of the deadline whenever it has grown.
    """

    __slots__ = ("_waiters", "deadline", "is_current", "on_later", "task")

    def __init__(self) -> None:
        self.deadline = -inf
        self.is_current = True
        self.on_later: Callable[[float], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._waiters: dict[asyncio.Future[_Outcome[V]], None] = {}

    @property
    def waiters(self) -> int:
        """How many callers wait."""
        return len(self._waiters)

    def join(self, deadline: float) -> asyncio.Future[_Outcome[V]]:
        """Add a caller who waits until *deadline*."""
        waiter: asyncio.Future[_Outcome[V]] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        if deadline > self.deadline:
            self.deadline = deadline
            if self.on_later is not None:
                self.on_later(deadline)
        return waiter

    def leave(self, waiter: asyncio.Future[_Outcome[V]]) -> bool:
        """Take a caller away; True if it was the last and the run still goes on."""
        was_waiting = waiter in self._waiters
        self._waiters.pop(waiter, None)
        return was_waiting and not self._waiters

    def land(self, outcome: _Outcome[V]) -> None:
        """Tell all waiters. They are let go of: an error's frames lead here, never on to it."""
        self.is_current = False
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                # Errors too come as results: one set as an exception that nobody is left to fetch
                # would be logged as never retrieved.
                waiter.set_result(outcome)

    def __repr__(self) -> str:
        state = "current" if self.is_current else "left"
        return f"<Flight {state}, {self.waiters} waiting, until {self.deadline:.3f}>"


Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
Start: TypeAlias = Callable[[Flight[V]], Awaitable[V]]


@final
class SingleFlight(Generic[V]):
    """At most one current run for each key.

    It belongs to one event loop. It owns no task: runs are started by the `spawn` handed in, which
    must refuse, by raising, once its owner has begun to close.
    """

    __slots__ = ("_flights",)

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[V]] = {}

    async def run(self, key: Hashable, start: Start[V], *, deadline: float, spawn: Spawn) -> V:
        """Join the current run of *key*, or start one, and return what it brings.

        The run is cancelled, once, when its last waiter has left; a caller who comes later starts
        a new one, even while the old one is still dying. A run that ends cancelled by someone else
        is started anew once. The run sees the context in which it was spawned: its first caller's.

        Args:
            key: What is wanted.
            start: Called with the `Flight`; what it returns is awaited in the run's task. Not
                called by those who join.
            deadline: The instant, on the running loop's clock, until which this caller waits;
                `math.inf` for ever.
            spawn: Starts a task for the run, in a copy of the current context.

        Raises:
            TimeoutError: At *deadline*, or at once where that has passed. The caller counts as
                gone; the others wait on.
            RuntimeError: If the run was cancelled from outside twice.
            Exception: What the run raised: to each waiter a copy of its own where the exception
                can be copied. What *spawn* raised, to the caller who would have been the first.
        """
        for _ in range(2):
            outcome = await self._outcome(key, start, deadline, spawn)
            if outcome is None:
                continue
            if not isinstance(outcome, _Failure):
                return outcome[0]
            try:
                raise outcome.for_one_waiter()
            finally:
                del outcome  # the error's traceback leads to this frame: no way back from here
        raise RuntimeError("a run shared by several callers was cancelled from outside, twice")

    def detach(self, key: Hashable) -> None:
        """Let no new caller join the run of *key*; those who wait get what it brings."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.is_current = False

    def detach_all(self) -> None:
        """Do as `detach` for every key."""
        for key in list(self._flights):
            self.detach(key)

    def __len__(self) -> int:
        return len(self._flights)

    def __repr__(self) -> str:
        return f"<SingleFlight {len(self)} running>"

    async def _outcome(
        self, key: Hashable, start: Start[V], deadline: float, spawn: Spawn
    ) -> _Outcome[V]:
        loop = asyncio.get_running_loop()
        if not deadline > loop.time():
            raise TimeoutError("the deadline had passed before the wait for a shared run")
        flight = self._flights.get(key)
        if flight is None:
            flight, waiter = self._take_off(key, start, deadline, spawn)
        else:
            waiter = flight.join(deadline)
        timer = None
        try:
            if deadline != inf:
                timer = loop.call_at(deadline, _time_out, loop, waiter, _TURNS_OF_GRACE)
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if flight.leave(waiter) and flight.task is not None:
                self._remove(key, flight)
                flight.task.cancel()

    def _take_off(
        self, key: Hashable, start: Start[V], deadline: float, spawn: Spawn
    ) -> tuple[Flight[V], asyncio.Future[_Outcome[V]]]:
        flight: Flight[V] = Flight()
        self._flights[key] = flight
        waiter = flight.join(deadline)  # before the task: an eager one may land at once
        run = self._fly(key, flight, start)
        try:
            flight.task = spawn(run)
        except BaseException:
            run.close()
            self._remove(key, flight)
            raise
        # A task cancelled before its first step never gets into its own `finally`.
        flight.task.add_done_callback(partial(self._ended, key, flight))
        return flight, waiter

    async def _fly(self, key: Hashable, flight: Flight[V], start: Start[V]) -> None:
        try:
            value = await start(flight)
        except Exception as error:
            self._remove(key, flight)
            flight.land(_Failure(error))
        else:
            self._remove(key, flight)
            flight.land((value,))

    def _ended(self, key: Hashable, flight: Flight[V], _: asyncio.Task[None]) -> None:
        self._remove(key, flight)
        flight.land(None)

    def _remove(self, key: Hashable, flight: Flight[V]) -> None:
        flight.is_current = False
        if self._flights.get(key) is flight:
            del self._flights[key]


def _time_out(
    loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[_Outcome[Any]], turns: int
) -> None:
    if waiter.done():
        return
    if turns:
        loop.call_soon(_time_out, loop, waiter, turns - 1)
    else:
        waiter.set_result(_Failure(TimeoutError("the deadline passed while a shared run went on")))


def _copied(error: Exception) -> Exception | None:
    try:
        own = copy.copy(error)
    except Exception:  # whatever a foreign constructor may raise
        return None
    if type(own) is not type(error) or own.args != error.args:
        return None
    own.__cause__ = error.__cause__
    own.__context__ = error.__context__
    own.__suppress_context__ = error.__suppress_context__
    return own
