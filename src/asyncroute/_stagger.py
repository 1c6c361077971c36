"""Several attempts of one request: who starts when, and who wins. One loop for every mode.

With an infinite stagger it is a fallback chain, with none a race, in between a hedge; the judge
makes it a cascade, a vote, or a collection of all answers. It is the algorithm of Happy Eyeballs
(RFC 8305): start one, start the next after a delay or at once after a failure, stop the rest when
one has won.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Protocol, final

from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled

from asyncroute._judge import Judge, Verdict

if TYPE_CHECKING:
    from asyncroute._attempt import Stop, Try
    from asyncroute._course import Course

__all__ = ("Hedges", "Stagger")


class Hedges(Protocol):
    """What starts further attempts when their time has come. See `_hedging`."""

    context: Context
    """The caller's: attempts that a timer starts run in it."""
    stagger: Stagger | None

    @property
    def is_leaving(self) -> bool:
        """Whether the caller is being cancelled, though still busy with an attempt."""
        ...

    def disarm(self) -> None:
        """Start no more."""
        ...


@final
class Stagger:
    """Carries out the attempts of one request.

    An attempt runs in the caller's task where that is possible: its provider ends at once when
    cancelled, nothing else runs, and any answer wins or no second one is started meanwhile. All
    others are tasks of the supervisor, and the caller waits for one that was given up no longer
    than the loser's grace.

    Args:
        course: The request, and who is next.
        judge: What an attempt's end means.
        at_once: How many attempts are started together.
        hedging: What starts hedges, if there may be any.
        inline: The attempt that runs in the caller's task already, if one does.
    """

    __slots__ = (
        "_at_once",
        "_course",
        "_ended",
        "_hedging",
        "_inline",
        "_is_over",
        "_judge",
        "_live",
        "_wake",
    )

    def __init__(
        self,
        course: Course,
        judge: Judge,
        *,
        at_once: int = 1,
        hedging: Hedges | None = None,
        inline: Try | None = None,
    ) -> None:
        self._course = course
        self._judge = judge
        self._at_once = at_once
        self._hedging = hedging
        self._inline = inline
        self._live: set[Try] = set()
        self._ended: list[Try] = []
        self._wake: asyncio.Future[None] | None = None
        self._is_over = False
        course.listener = self
        if hedging is not None:
            hedging.stagger = self

    async def run(self, first: Try | None = None) -> Try | None:
        """Carry the request through.

        Args:
            first: The first attempt, where it was chosen already: one that has ended in the
                caller's task, or one to be started.

        Returns:
            The attempt whose answer won, or the best answer that was not accepted, or None.

        Raises:
            asyncio.CancelledError: The caller was cancelled; all attempts have been given up.
        """
        winner: Try | None = None
        why: Stop = "cancelled"
        self._inline = None
        wanted = 0
        try:
            if first is None:
                wanted = self._at_once
            elif first.is_settled:
                self._ended.append(first)
            else:
                self.spawn(first)
            winner = await self._carry_out(wanted)
            why = "superseded"
        finally:
            self._end()
            if self._ended or self._live:
                await self._end_others(winner, why)
        return winner or self._judge.best()

    async def abandon(self) -> None:
        """Give up all attempts: the caller has gone while one ran in its task."""
        self._end()
        await self._end_others(None, "cancelled")

    def _end(self) -> None:
        self._is_over = True
        if self._hedging is not None:
            self._hedging.disarm()
            self._hedging.stagger = None  # no way back to here: see `Course.dissolve`

    async def _end_others(self, winner: Try | None, why: Stop) -> None:
        """Give up all but the winner, and wait for them as long as the grace."""
        # `_ended` holds streams that committed in the same turn as the winner.
        for attempt in (*self._ended, *self._live):
            attempt.stop(why)
        try:
            for attempt in self._ended:
                await attempt.leave(why)
            if self._live:
                await self._wait_for_losers()
        except BaseException:
            if winner is not None:
                await winner.leave()  # the caller has gone: nobody reads its stream
            raise

    async def _carry_out(self, wanted: int) -> Try | None:
        """Start so many, and what the judge wants for each that ends, until one wins."""
        while wanted or self._live or self._ended:
            if wanted:
                await self._start(wanted)
            if not self._ended:
                if not self._live:
                    wanted = await self._pause()
                    continue
                await self._next_end()
            wanted = 0
            while self._ended:
                attempt = self._ended.pop(0)
                if attempt.fatal is not None:
                    raise attempt.fatal
                verdict = await self._judge.judge(attempt, len(self._live) + len(self._ended))
                if verdict is Verdict.WIN:
                    return attempt
                wanted += verdict is Verdict.NEXT
        return None

    async def _start(self, wanted: int) -> None:
        """Start so many attempts, as far as there are models for them."""
        if wanted > 1 or self._course.tries:
            # A scope of anyio's does not interrupt a task that is about to run: ask it.
            await checkpoint_if_cancelled()
        for _ in range(wanted):
            attempt = self._next()
            if attempt is None:
                return
            if wanted == 1 and self._may_run_inline(attempt):
                await self._run_inline(attempt)
                self._ended.append(attempt)
            else:
                self.spawn(attempt)

    async def _run_inline(self, attempt: Try) -> None:
        self._inline = attempt
        await attempt.run()
        self._inline = None

    def _next(self) -> Try | None:
        course = self._course
        return course.next_try(course.runtime.now(), is_raced=self._at_once > 1)

    async def _pause(self) -> int:
        """Wait until something may be started; return how many attempts, 0 if none may ever."""
        course = self._course
        at = course.next_at(course.runtime.now())
        if at is None:
            return 0
        timer = course.runtime.loop.call_at(at, self._wake_up)
        try:
            await self._next_end()
        finally:
            timer.cancel()
        if self._ended:
            return 0  # what the judge says
        return 1 if course.tries else self._at_once

    def _may_run_inline(self, attempt: Try) -> bool:
        if self._live or self._at_once > 1 or not attempt.served.cancels_promptly:
            return False
        return self._hedging is None or self._judge.takes_first_answer

    def spawn(self, attempt: Try) -> None:
        """Run an attempt in a task of the supervisor."""
        self._live.add(attempt)
        context = None if self._hedging is None else self._hedging.context.copy()
        attempt.task = self._course.runtime.supervisor.spawn(
            attempt.run(),
            name=f"asyncroute {attempt.role} {attempt.endpoint.model_id}",
            context=context,
            on_end=attempt.settle,  # one cancelled before its first step never gets to it itself
        )

    def _next_end(self) -> asyncio.Future[None]:
        """Return a future that is done once an attempt has ended, or something else is news."""
        self._wake = wake = self._course.runtime.loop.create_future()
        return wake

    # What attempts tell

    @property
    def has_news(self) -> bool:
        """Whether an attempt has ended of which nothing has followed yet."""
        return bool(self._ended)

    def on_stopped(self, attempt: Try, /) -> None:
        """Wait for an attempt that was given up no longer than the grace. For the course."""
        if attempt in self._live and not self._is_over:
            runtime = self._course.runtime
            runtime.loop.call_later(runtime.loser_grace, self._let_go, attempt, context=Context())

    def on_ended(self, attempt: Try, /) -> None:
        """Take up that an attempt has ended, or a stream has begun. For the course."""
        if attempt not in self._live:
            return
        self._live.discard(attempt)
        if not self._is_over:
            self._go_on_after(attempt)
        self._wake_up()

    def _go_on_after(self, attempt: Try) -> None:
        if self._inline is None:
            self._ended.append(attempt)
        elif attempt.has_answer:
            self._ended.append(attempt)
            self._inline.stop("superseded")
        elif self._hedging is None or not self._hedging.is_leaving:
            # The caller's task is busy with the first attempt: what follows is started from here.
            following = self._next()
            if following is not None:
                self.spawn(following)

    def on_closed(self) -> None:
        """Look up from waiting. For the course."""
        self._wake_up()

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _wait_for_losers(self) -> None:
        """Wait for those that were given up, as long as the grace."""
        runtime = self._course.runtime
        grace = runtime.loop.call_later(runtime.loser_grace, self._let_go_all, context=Context())
        is_cancelled_again = False
        # Shielded: a scope of the caller's would cancel this wait anew on every turn.
        with CancelScope(shield=True):
            while self._live:
                try:
                    await self._next_end()
                except asyncio.CancelledError:
                    is_cancelled_again = True
        grace.cancel()
        if is_cancelled_again:
            raise asyncio.CancelledError

    def _let_go(self, attempt: Try) -> None:
        """Wait no longer for an attempt that ignores being given up. It settles when it ends."""
        if attempt in self._live:
            attempt.give_permit_back(self._course.runtime.now())
            self.on_ended(attempt)

    def _let_go_all(self) -> None:
        for attempt in tuple(self._live):
            self._let_go(attempt)
