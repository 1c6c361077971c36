"""What several lanes share, and to whom it goes: a quota group's limits per minute, `max_workers`.

It goes to the first head, by priority, age and arrival, that it makes runnable, whichever queue it
is in.
"""

from __future__ import annotations

from contextvars import Context
from heapq import heapify, heappop, heapreplace
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Iterable

    from asyncroute._limits import Quota
    from asyncroute._queue import Waiter

__all__ = ("Contender", "Place", "Share", "Workers", "hand_out")


Place = tuple[tuple[float, int], "Hashable"]
"""Where a new waiter would stand: its order and its tenant (see `_queue.Waiter`)."""


class Contender(Protocol):
    """A lane as seen by those that share something with it."""

    def head(self, now: float, /) -> Waiter | None:
        """The waiter whose turn it is; those that gave up or came too late are dropped first."""
        ...

    def ahead(self, place: Place | None, /) -> tuple[int, int]:
        """Count who comes before a new waiter at *place* (None: last), and what they reserve."""
        ...

    def start_head(self, now: float, blocked: set[Share], /) -> bool:
        """Grant to the head if it can run now; one that lacks only a share enters it in *blocked*.

        Returns:
            Whether the head has left the queue.
        """
        ...


def hand_out(lanes: Iterable[Contender], now: float) -> None:
    """Start what can run of *lanes*, first by place, until nothing can.

    One pass is enough, as granting only takes away: a lane that cannot run cannot run later in the
    pass. A head that lacks nothing but a share's tokens or requests keeps later ones, in any queue,
    from taking them: big requests do not starve. A head that lacks a slot keeps nobody from
    anything.
    """
    heads = [(head.order, lane) for lane in tuple(lanes) if (head := lane.head(now)) is not None]
    heapify(heads)
    blocked: set[Share] = set()
    while heads:
        lane = heads[0][1]
        if lane.start_head(now, blocked) and (head := lane.head(now)) is not None:
            heapreplace(heads, (head.order, lane))
        else:
            heappop(heads)


@final
class Workers:
    """What bounds all lanes together (`max_workers`): taken with a slot or not at all.

    Attributes:
        limit: How many calls may run.
        used: How many do.
        waiting: The lanes somebody waits in.
    """

    __slots__ = ("limit", "used", "waiting")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.waiting: dict[Contender, None] = {}

    def wait(self, place: Place | None, duration: float) -> float:
        """Predict the seconds until one at *place* may run, at *duration* seconds a call."""
        ahead = sum(lane.ahead(place)[0] for lane in self.waiting)
        return max(ahead + 1 + self.used - self.limit, 0) * duration / self.limit

    def __repr__(self) -> str:
        return f"<Workers {self.used}/{self.limit}>"


@final
class Share:
    """A quota with the lanes that use it, and one timer for the moment when a head may have of it.

    Attributes:
        quota: The limits per minute.
        members: The models that share it.
        waiting: The lanes somebody waits in.
    """

    __slots__ = ("_timer", "members", "quota", "waiting")

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.members: set[str] = set()
        self.waiting: dict[Contender, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def wake_at(
        self, at: float, lanes: Iterable[Contender], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Look at *lanes* again at the instant *at*; an earlier appointment is replaced."""
        if self._timer is not None:
            if self._timer.when() == at:
                return
            self._timer.cancel()
        # An empty context: the timer serves whoever waits then, not the caller that set it.
        self._timer = loop.call_at(at, self._wake, at, lanes, loop, context=Context())

    def rest(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, at: float, lanes: Iterable[Contender], loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        hand_out(lanes, max(at, loop.time()))  # a loop's timer may be early by its resolution

    def wait(self, tokens: int, place: Place | None, now: float) -> float:
        """Predict the seconds until the limits allow *tokens* tokens to one at *place*."""
        count = 0
        for lane in self.waiting:
            others, wanted = lane.ahead(place)
            count += others
            tokens += wanted
        return self.quota.predict(count, tokens, now) - now

    def __repr__(self) -> str:
        return f"<Share of {len(self.members)} models, {len(self.waiting)} waiting: {self.quota!r}>"
