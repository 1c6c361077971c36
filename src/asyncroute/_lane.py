"""One model's capacity: slot, requests and tokens together, all or nothing, in one queue.

What runs next is decided synchronously by `hand_out`, whenever something may have become possible;
awaiting happens in `Lane.acquire` alone. What is free goes straight to the waiter whose turn it is,
so nobody barges in. One event loop and no locks: nothing is awaited between reading and writing.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import Context
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final, final

from asyncroute._errors import OverloadedError
from asyncroute._grant import Grant
from asyncroute._queue import Waiter, WaiterState, WaitQueue
from asyncroute._sharing import hand_out

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from asyncroute._sharing import Contender, Place, Share, Workers
    from asyncroute._slots import Slots

__all__ = ("Lane", "LaneSnapshot", "Rules")

_HINT: Final = 1.0
"""Seconds of `retry_after` where nothing was observed from which to predict."""


@final
@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every queue of one balancer: see `LoadBalancer`."""

    queue_size: int = 1000
    ageing: float = 10.0
    sequence: count[int] = field(default_factory=count)


@final
@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """A lane at one moment.

    Args:
        model_id: Whose lane.
        slots: As configured.
        limit: How many calls may run now: fewer than `slots` after overload, where adaptive.
        in_flight: How many do.
        queued: Callers that wait.
        duration: Seconds a slot is held, smoothed; 0 before the first call has ended.
        refused: Callers told at once that the queue is full or hopeless.
        expired: Callers whose turn did not come in time.
    """

    model_id: str
    slots: int
    limit: int
    in_flight: int
    queued: int
    duration: float
    refused: int
    expired: int


@final
class Lane:
    """One model's slots and queue; made by `LoadBalancer.add`.

    Args:
        model_id: Whose lane.
        slots: How many calls may run.
        rules: What holds for all queues.
        workers: What bounds all lanes together.
    """

    __slots__ = (
        "_closed",
        "_expired",
        "_queue",
        "_refused",
        "_rules",
        "capacity",
        "model_id",
        "pool",
        "share",
        "workers",
    )

    def __init__(
        self, model_id: str, slots: Slots, rules: Rules, workers: Workers | None = None
    ) -> None:
        self.model_id = model_id
        self.capacity = slots
        self._rules = rules
        self.workers = workers
        self.share: Share | None = None
        # The waiting lanes to look at when something becomes free here: only this one, if unshared.
        self.pool: dict[Contender, None] = {} if workers is None else workers.waiting
        self._queue = WaitQueue()
        self._closed: Callable[[], Exception] | None = None
        self._refused = self._expired = 0

    # Taking and giving back

    def try_acquire(self, tokens: int, now: float) -> Grant | None:
        """Take slot, request and *tokens* tokens at once, if nobody waits for them already.

        Returns:
            The grant, or None with nothing taken.
        """
        # What comes back is handed over at once, so a slot or worker that is free is free for all;
        # only for a limit per minute may somebody be waiting.
        slots, workers, share = self.capacity, self.workers, self.share
        if slots.used >= slots.limit:
            return None
        if workers is not None and workers.used >= workers.limit:
            return None
        if share is None:
            return Grant(self, tokens, now, None)
        if share.waiting:
            return None
        bucket = share.quota.try_take(tokens, now)
        return None if bucket is None else Grant(self, tokens, now, bucket)

    async def acquire(
        self,
        tokens: int = 0,
        *,
        deadline: float = math.inf,
        need: float = 0.0,
        priority: int = 0,
        tenant: Hashable = None,
        now: float | None = None,
    ) -> Grant:
        """Take slot, request and *tokens* tokens, waiting for the turn if need be.

        Args:
            tokens: What to reserve of the tokens per minute.
            deadline: The instant, on the loop's clock, at which the whole call must be over.
            need: Seconds that the call itself takes: waiting ends at `deadline - need`.
            priority: Higher is sooner; a step is worth `ageing` seconds of waiting.
            tenant: Tenants take turns; by default there is one.
            now: The loop's time, where the caller has it at hand.

        Returns:
            The grant, to be released or cancelled on every way out.

        Raises:
            OverloadedError: The queue is full, the predicted wait too long, or the turn did not
                come in time; `retry_after` says when to come again, where that can be told.
            ValueError: More tokens than the limit per minute.

        Cancelled, it leaves nothing behind; a grant made in the same turn goes to the next in line.
        """
        loop = asyncio.get_running_loop()
        if now is None:
            now = loop.time()
        grant = self.try_acquire(tokens, now)
        if grant is not None:
            return grant
        rank = priority * self._rules.ageing
        order = (now - rank, next(self._rules.sequence))
        start_by = deadline - need
        self._refuse_hopeless(tokens, now, start_by, (order, tenant))
        self.capacity.open()  # here, in a task: the grant may be made in a timer's callback
        waiter = Waiter(loop.create_future(), tokens, tenant, order, rank, start_by)
        self._queue.push(waiter)
        self._line_up()
        hand_out(self.pool, now)
        if waiter.state is WaiterState.WAITING:
            if start_by < math.inf:
                waiter.timer = loop.call_at(start_by, self._expire, waiter, context=Context())
            try:
                await waiter.future
            except BaseException:
                self._abandon(waiter, loop.time())
                raise
        grant = waiter.future.result()
        if grant is None:
            raise self._reason(waiter, loop.time())
        return grant

    # Contending: what `hand_out` asks

    def head(self, now: float, /) -> Waiter | None:
        """The waiter whose turn it is; those that gave up or came too late are dropped first."""
        while (waiter := self._queue.first()) is not None:
            if waiter.future.cancelled():
                self._end(waiter, WaiterState.GONE)
            elif waiter.start_by < now:
                self._end(waiter, WaiterState.EXPIRED)
            else:
                break
        return waiter

    def start_head(self, now: float, blocked: set[Share], /) -> bool:
        """Grant to the head if it can run now; see `Contender`."""
        waiter, slots, workers = self._queue.first(), self.capacity, self.workers
        if waiter is None or slots.used >= slots.limit:
            return False
        if workers is not None and workers.used >= workers.limit:
            return False
        bucket, share = None, self.share
        if share is not None:
            if share in blocked:
                return False
            bucket = share.quota.try_take(waiter.tokens, now)
            if bucket is None:
                return self._wait_for(share, waiter, now, blocked)
        self._end(waiter, WaiterState.GRANTED, Grant(self, waiter.tokens, now, bucket))
        return True

    def _wait_for(self, share: Share, waiter: Waiter, now: float, blocked: set[Share]) -> bool:
        at = share.quota.free_at(waiter.tokens, now)
        if at == math.inf:  # the limit was lowered while it waited
            self._end(waiter, WaiterState.IMPOSSIBLE)
            return True
        blocked.add(share)
        share.wake_at(at, self.pool, waiter.future.get_loop())
        return False

    def ahead(self, place: Place | None, /) -> tuple[int, int]:
        """Count who comes before a new waiter at *place* (None: last), and what they reserve."""
        queue = self._queue
        return (queue.live, queue.tokens) if place is None else queue.ahead(*place)

    # Waiting

    def _refuse_hopeless(self, tokens: int, now: float, start_by: float, place: Place) -> None:
        if self._closed is not None:
            raise self._closed()
        if self.share is not None and not self.share.quota.allows(tokens):
            limit = self.share.quota.limits.tokens_per_minute
            raise ValueError(
                f"tokens is {tokens}, above tokens_per_minute={limit} of model {self.model_id!r}"
            )
        waiting = self._queue.live
        if waiting >= self._rules.queue_size:
            self._refused += 1
            raise self._overloaded(f"its queue is full, {waiting} wait", now, tokens)
        # Without slots nobody can tell: wait. The place in line takes O(n) to find: if it matters.
        if not self.capacity.limit or now + self._wait(tokens, now, None) <= start_by:
            return
        wait = self._wait(tokens, now, place)
        if now + wait > start_by:
            self._refused += 1
            raise self._overloaded(f"a wait of {wait:.3g} s passes the deadline", now, tokens)

    def _line_up(self) -> None:
        """Be looked at when something becomes free."""
        self.pool[self] = None
        if self.share is not None:
            self.share.waiting[self] = None

    def _end(self, waiter: Waiter, state: WaiterState, grant: Grant | None = None) -> None:
        """Take *waiter* out of the queue, whatever became of it, and wake its caller."""
        if grant is None:
            self._queue.remove(waiter, state)
        else:
            self._queue.serve(waiter, state)
        if waiter.timer is not None:
            waiter.timer.cancel()
        if not waiter.future.done():
            waiter.future.set_result(grant)
        if not self._queue.live:
            self._withdraw()

    def _withdraw(self) -> None:
        self.pool.pop(self, None)
        share = self.share
        if share is not None:
            share.waiting.pop(self, None)
            if not share.waiting:
                share.rest()

    def _expire(self, waiter: Waiter) -> None:
        now = waiter.future.get_loop().time()  # a timer may be early by the clock's resolution
        self._drop(waiter, WaiterState.EXPIRED, max(waiter.start_by, now))

    def _abandon(self, waiter: Waiter, now: float) -> None:
        """The caller was cancelled, perhaps in the turn in which it was granted."""
        if waiter.state is WaiterState.WAITING:
            self._drop(waiter, WaiterState.GONE, now)
        elif waiter.state is WaiterState.GRANTED:
            waiter.future.result().cancel(now)

    def _drop(self, waiter: Waiter, state: WaiterState, now: float) -> None:
        was_first = self._queue.first() is waiter
        self._end(waiter, state)
        if was_first:  # it may have kept others from what they need
            hand_out(self.pool, now)

    def _reason(self, waiter: Waiter, now: float) -> Exception:
        if waiter.state is WaiterState.CLOSED and self._closed is not None:
            return self._closed()
        if waiter.state is WaiterState.IMPOSSIBLE:
            return OverloadedError(
                f"model {self.model_id!r}: tokens is {waiter.tokens}, tokens_per_minute now lower"
            )
        self._expired += 1
        return self._overloaded("its turn did not come in time", now, waiter.tokens)

    def _overloaded(self, why: str, now: float, tokens: int) -> OverloadedError:
        wait = self.predicted_wait(now, tokens)
        hint = None if wait == math.inf else wait or _HINT
        return OverloadedError(f"model {self.model_id!r} is overloaded: {why}", retry_after=hint)

    # Changing

    def set_slots(self, slots: int) -> None:
        """Change the slots live: more of them wake waiters, fewer take effect as slots come back.

        Raises:
            ConfigurationError: A negative figure.
        """
        self.capacity.resize(slots)
        self.look_again()

    def set_share(self, share: Share | None) -> None:
        """Take part in *share*, or none; grants made before settle with the one they came from."""
        old = self.share
        if share is not old:
            self._withdraw()
            self.share = share
            if self.workers is None:
                self.pool = {} if share is None else share.waiting
            if self._queue.live:
                self._line_up()
            if old is not None and old.waiting:
                hand_out(old.waiting, asyncio.get_running_loop().time())
        self.look_again()

    def on_success(self) -> None:
        """Tell that a call went well. Only adaptive lanes take notice."""
        self.capacity.on_success()
        self.look_again()

    def on_overload(self, now: float) -> None:
        """Tell that the provider was overloaded. Only adaptive lanes take notice."""
        self.capacity.on_overload(now)

    def look_again(self) -> None:
        """Start what has become possible, here and where something is shared."""
        if self.pool:
            hand_out(self.pool, asyncio.get_running_loop().time())

    def close(self, make_error: Callable[[], Exception]) -> None:
        """Wake every waiter with an error of its own, and refuse all that come later.

        Calls in flight end as usual.
        """
        self._closed = make_error
        self.capacity.resize(0)
        for waiter in list(self._queue):
            self._end(waiter, WaiterState.CLOSED)

    # Looking

    def predicted_wait(self, now: float, tokens: int = 0) -> float:
        """Predict for how many seconds a new caller would wait, from durations seen and the limits.

        0 if it could start at once, infinity without slots.
        """
        return self._wait(tokens, now, None)

    def _wait(self, tokens: int, now: float, place: Place | None) -> float:
        slots, workers, share = self.capacity, self.workers, self.share
        wait = slots.wait(self.ahead(place)[0])
        if workers is not None:
            wait = max(wait, workers.wait(place, slots.duration))
        return wait if share is None else max(wait, share.wait(tokens, place, now))

    @property
    def slots(self) -> int:
        """How many calls may run at once, as configured."""
        return self.capacity.configured

    @property
    def in_flight(self) -> int:
        """How many hold a slot."""
        return self.capacity.used

    @property
    def queued(self) -> int:
        """How many wait for one."""
        return self._queue.live

    @property
    def load(self) -> float:
        """Calls in flight and queued, by the slots there are; infinity without slots."""
        limit = self.capacity.limit
        return (self.capacity.used + self._queue.live) / limit if limit else math.inf

    def snapshot(self) -> LaneSnapshot:
        """Return the state at this moment."""
        slots = self.capacity
        return LaneSnapshot(
            self.model_id,
            slots.configured,
            slots.limit,
            slots.used,
            self._queue.live,
            slots.duration,
            self._refused,
            self._expired,
        )

    def __repr__(self) -> str:
        slots, queued = self.capacity, self._queue.live
        return f"<Lane {self.model_id}: {slots.used}/{slots.limit} in flight, {queued} queued>"
