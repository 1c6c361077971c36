"""When a second model is asked beside one that is slow."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, final

from asyncroute._deadlines import Interruptible
from asyncroute._judge import FirstAnswer
from asyncroute._stagger import Stagger

if TYPE_CHECKING:
    from asyncroute._attempt import Try
    from asyncroute._course import Course
    from asyncroute._deadlines import Expiring

__all__ = ("Hedging",)


@final
class Hedging:
    """The hedges of one request, and their timer. To be made in the caller's task.

    Nearly every request is answered before its first hedge. Until then there is nothing but this,
    beside the first attempt in the caller's task; what watches several is made when one is started.

    Args:
        course: The request, and who is next.
        delay: Seconds from the request's start to the first hedge, and from each to the next.
        most: How many hedges are started at most.
        first: The attempt that `run` is to run in the caller's task; None where a stagger runs all.

    Attributes:
        stagger: What watches the attempts; None while the first one runs alone.
        context: The caller's, in which hedges run: the timer is shared and runs in nobody's.
    """

    __slots__ = ("_alone", "_bucket", "_caller", "_course", "_delay", "_left", "context", "stagger")

    def __init__(self, course: Course, delay: float, most: int, first: Try | None = None) -> None:
        self._course = course
        self._delay = delay
        self._left = most
        self._alone = first
        # An attempt in the caller's task knows itself whether that is being cancelled.
        self._caller: Interruptible = first or self._waiting()
        self.stagger: Stagger | None = None
        self.context = copy_context()
        self._bucket: set[Expiring] | None = course.runtime.deadlines.arm(
            self, course.started_at + delay
        )

    async def run(self, first: Try) -> Try | None:
        """Run the first attempt in the caller's task, and carry the request through.

        Returns:
            As `Stagger.run`.

        Raises:
            As `Stagger.run`.
        """
        try:
            await first.run()
        except BaseException:
            self.disarm()
            if self.stagger is not None:
                await self.stagger.abandon()
            raise
        if first.completion is not None and self.stagger is None:
            self.disarm()
            return first
        self._alone = None
        self._caller = self._waiting()
        return await (self.stagger or self._watched()).run(first)

    def expire(self) -> None:
        """The time of a hedge has come. For `Deadlines`."""
        stagger = self.stagger
        if not self._left or self.is_leaving or (stagger is not None and stagger.has_news):
            return
        runtime = self._course.runtime
        now = runtime.now()
        attempt = self._course.next_hedge(now)
        if attempt is None:
            return
        (stagger or self._watched()).spawn(attempt)
        self._left -= 1
        if self._left:
            self._bucket = runtime.deadlines.arm(self, now + self._delay)

    def _waiting(self) -> Interruptible:
        """What tells of the caller's cancellation wherever the caller waits."""
        caller = Interruptible()
        caller.begin(self._course.runtime.loop)
        return caller

    def _watched(self) -> Stagger:
        return Stagger(self._course, FirstAnswer(), hedging=self, inline=self._alone)

    def disarm(self) -> None:
        """Start no more hedges."""
        self._left = 0
        if self._bucket is not None:
            self._bucket.discard(self)

    @property
    def is_leaving(self) -> bool:
        """Whether the caller is being cancelled, though still busy with an attempt."""
        # One that is settled while still the caller's delivers a cancellation again.
        return self._caller.is_cancelled or (self._alone is not None and self._alone.is_settled)
