"""Carries requests through: decide, admit, attempt, settle."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, final

from asyncroute._attempt import Try
from asyncroute._caching import is_worth_keeping, recalled, shared_copy
from asyncroute._course import Course
from asyncroute._deadlines import RanOutError, within
from asyncroute._errors import (
    AsyncRouteError,
    DeadlineExceededError,
    NoEligibleModelError,
    RouterStateError,
)
from asyncroute._hedging import Hedging
from asyncroute._judge import Everything
from asyncroute._modes import Manner, hedge_delay, staggered
from asyncroute._outcome import answered, failed, refused, reported, reports, streamed
from asyncroute._results import decided
from asyncroute._stagger import Stagger
from asyncroute._stream import OpenStream
from asyncroute._stream_try import StreamTry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from asyncroute._cache import CacheManager
    from asyncroute._course import Choice
    from asyncroute._decide import Decider
    from asyncroute._inputs import QueryRequest
    from asyncroute._protocols import ModelSelector, Plan
    from asyncroute._results import ExecutionResult
    from asyncroute._runtime import Runtime
    from asyncroute._served import Served
    from asyncroute._single_flight import Flight

__all__ = ("Counters", "Executor")

_ONE_AT_FIRST = (None, "sequential", "hedged")
"""The modes that start with one attempt, whose answer wins."""

_SHARED_GRACE = 0.06
"""Seconds that a waiter gives a shared run to say itself that its deadline has passed."""


@final
class Counters:
    """What a router's requests came to, over all time."""

    __slots__ = ("cached", "failed", "succeeded")

    def __init__(self) -> None:
        self.succeeded = 0
        self.failed = 0
        self.cached = 0

    @property
    def requests(self) -> int:
        """All requests that were decided."""
        return self.succeeded + self.failed


@final
class Executor:
    """Executes the requests of one open router.

    Args:
        runtime: What they share.
        decider: Chooses models.
        counters: Counts results.
        timeout: Seconds for a request that does not say.
        fair_by: The key of `metadata` by which waiting requests take turns.
    """

    __slots__ = (
        "_counters",
        "_courses",
        "_decider",
        "_fair_by",
        "_idle",
        "_is_closing",
        "_numbers",
        "_prefix",
        "_timeout",
        "runtime",
    )

    def __init__(
        self,
        runtime: Runtime,
        decider: Decider,
        counters: Counters,
        *,
        timeout: float,
        fair_by: str | None,
    ) -> None:
        self.runtime = runtime
        self._decider = decider
        self._counters = counters
        self._timeout = timeout
        self._fair_by = fair_by
        self._courses: set[Course] = set()
        self._idle: asyncio.Future[None] | None = None
        self._is_closing = False
        self._numbers = count(1)
        self._prefix = f"{random.getrandbits(48):012x}-"

    def new_id(self) -> str:
        """Return the id of a new request, unique without coordination."""
        return f"{self._prefix}{next(self._numbers)}"

    def deadline_of(self, request: QueryRequest, started_at: float) -> float:
        """The instant at which a request must be over."""
        timeout = request.timeout
        return started_at + (self._timeout if timeout is None else timeout)

    async def carry(
        self,
        request: QueryRequest,
        strategy: str,
        selector: ModelSelector,
        manner: Manner,
        *,
        served: Served | None = None,
        flight: Flight[ExecutionResult] | None = None,
    ) -> ExecutionResult:
        """Execute a request until one answer wins.

        Args:
            request: The request.
            strategy: The strategy's name, for the decision.
            selector: The strategy.
            manner: How to execute it.
            served: Calls every model instead of its own provider, if given.
            flight: The shared run this is, if it is one: its deadline may move later.

        Raises:
            RouterStateError: The router was closed meanwhile.
            asyncio.CancelledError: The caller was cancelled; every attempt has been settled, or
                keeps nothing but its own slot.
        """
        started_at = self.runtime.now()
        try:
            choice = await self._deciding(request, strategy, selector, started_at)
        except (NoEligibleModelError, DeadlineExceededError) as error:
            return self._refused(request, error, started_at)
        plan = choice.ranking.plan
        course = self._course(choice, manner, plan, started_at, served)
        if flight is not None:
            # Its waiters' own: a blocked loop may have kept the run from its first step.
            course.deadline = flight.deadline - _SHARED_GRACE
            flight.on_later = lambda deadline: course.extend(deadline - _SHARED_GRACE)
        try:
            attempt = None
            if plan is None and manner.mode in _ONE_AT_FIRST:
                attempt = course.next_try(self.runtime.now())  # choosing may have taken its time
            if attempt is None or not attempt.served.cancels_promptly:
                winner = await staggered(course, manner, plan, choice.first).run(attempt)
            elif manner.hedges:
                winner = await Hedging(
                    course, hedge_delay(manner, choice.first), manner.hedges, attempt
                ).run(attempt)
            else:
                await attempt.run()  # nothing runs beside it that would have to be watched
                winner = attempt
                if attempt.completion is None:
                    winner = await staggered(course, manner, plan, choice.first).run(attempt)
            if winner is not None:
                result = answered(course, winner, self.new_id(), self.runtime.now())
            elif course.is_closed:
                raise RouterStateError("the router was closed while the request was in flight")
            else:
                result = failed(course, self.new_id(), self.runtime.now())
        except BaseException:
            self._tell_attempts(course)
            raise
        finally:
            self._leave(course)
        try:
            return self._told(request, result)
        finally:
            del result  # its error's traceback may lead to this frame: no way back from here

    async def carry_all(
        self, request: QueryRequest, strategy: str, selector: ModelSelector, width: int
    ) -> list[ExecutionResult]:
        """Execute a request at several models at once; see `LLMRouter.execute_all`."""
        started_at = self.runtime.now()
        try:
            choice = await self._deciding(request, strategy, selector, started_at)
        except (NoEligibleModelError, DeadlineExceededError) as error:
            return [self._refused(request, error, started_at)]
        choice.keep(width)
        course = self._course(choice, Manner("race", width), None, started_at)
        try:
            await Stagger(course, Everything(), at_once=width).run()
            if course.is_closed:
                raise RouterStateError("the router was closed while the request was in flight")
            now = self.runtime.now()
            results = [
                reported(course, attempt, self.new_id(), now) for attempt in course.tries
            ] or [failed(course, self.new_id(), now)]
        except BaseException:
            self._tell_attempts(course)
            raise
        finally:
            self._leave(course)
        return [self._told(request, result) for result in results]

    def recall(self, cache: CacheManager[ExecutionResult], key: Hashable) -> ExecutionResult | None:
        """Answer from the cache, if the answer is there. Observers are not told yet.

        Raises:
            TypeError: The key has no hash.
        """
        result = cache.get(key, self.runtime.now())
        if result is None:
            return None
        counters = self._counters
        counters.cached += 1
        counters.succeeded += 1
        try:
            again = result.recalled
        except AttributeError:  # for the first time
            again = result.recalled = recalled(result)
        return again(self.new_id())

    async def carry_shared(
        self,
        cache: CacheManager[ExecutionResult],
        key: Hashable,
        request: QueryRequest,
        strategy: str,
        selector: ModelSelector,
        manner: Manner,
    ) -> ExecutionResult:
        """Join the run that fetches an answer that is not in the cache, or start that run.

        The run is the supervisor's and goes on for the others when a caller leaves.
        """
        started_at = self.runtime.now()
        is_mine = False
        deadline = self.deadline_of(request, started_at) + _SHARED_GRACE

        async def fetch(flight: Flight[ExecutionResult]) -> ExecutionResult:
            nonlocal is_mine
            is_mine = True
            return await self.carry(request, strategy, selector, manner, flight=flight)

        try:
            result = await cache.run(
                key,
                fetch,
                deadline=deadline,
                spawn=partial(self.runtime.supervisor.spawn, name="asyncroute shared run"),
                should_keep=is_worth_keeping,
            )
        except TimeoutError:
            waited = self.runtime.now() - started_at
            if started_at + waited < deadline:
                raise  # the predicate's own
            error = DeadlineExceededError(f"no answer within {waited:.3g} s of a shared run")
            return self._refused(request, error, started_at)
        if is_mine:
            return result
        self._counters.cached += 1
        waited = self.runtime.now() - started_at
        return self._told(request, shared_copy(result, self.new_id(), waited))

    async def open_stream(
        self,
        request: QueryRequest,
        strategy: str,
        selector: ModelSelector,
        manner: Manner,
        make_try: Callable[..., Try],
    ) -> OpenStream:
        """Carry a request on to the first content of a stream.

        Raises:
            AsyncRouteError: What kept every model from answering.
            asyncio.CancelledError: The caller was cancelled.
        """
        started_at = self.runtime.now()
        try:
            choice = await self._deciding(request, strategy, selector, started_at)
        except (NoEligibleModelError, DeadlineExceededError) as error:
            self._refused(request, error, started_at)
            raise
        course = self._course(choice, manner, None, started_at, make_try=make_try)
        winner = None
        try:
            winner = await staggered(course, manner, None, choice.first, streams=True).run()
            if winner is None and course.is_closed:
                raise RouterStateError("the router was closed while the stream was opened")
            if isinstance(winner, StreamTry):
                return OpenStream(course, winner, decided(choice))
            result = failed(course, self.new_id(), self.runtime.now())
        except BaseException:
            self._tell_attempts(course)
            raise
        finally:
            if winner is None:
                self._leave(course)
        error = self._told(request, result).exception
        assert error is not None
        raise error

    def close_stream(self, opened: OpenStream) -> ExecutionResult:
        """Make the result of a stream that has ended or was left."""
        result = streamed(opened.course, opened.attempt, self.new_id(), self.runtime.now())
        self._leave(opened.course)
        return self._told(opened.decision.request, result)

    def _deciding(
        self, request: QueryRequest, strategy: str, selector: ModelSelector, started_at: float
    ) -> Awaitable[Choice]:
        deciding = self._decider.decide(request, strategy, selector, started_at)
        if getattr(selector, "never_suspends", False):
            return deciding
        return self._decided_in_time(deciding, strategy, self.deadline_of(request, started_at))

    async def _decided_in_time(
        self,
        deciding: Awaitable[Choice],
        strategy: str,
        deadline: float,
    ) -> Choice:
        try:
            return await within(self.runtime.deadlines, deadline, deciding)
        except RanOutError:
            raise DeadlineExceededError(f"strategy {strategy} took too long to choose") from None

    def _course(
        self,
        choice: Choice,
        manner: Manner,
        plan: Plan | None,
        started_at: float,
        served: Served | None = None,
        make_try: Callable[..., Try] = Try,
    ) -> Course:
        if self._is_closing:
            raise RouterStateError("the router is closing")
        runtime, request = self.runtime, choice.request
        runtime.retries.deposits += 1
        runtime.hedges.calls.deposits += 1
        tenant = None
        if self._fair_by is not None:
            tenant = str(request.metadata.get(self._fair_by))
        at_once = manner.at_once if plan is None else manner.at_once_by(plan)
        if manner.most is not None:
            choice.keep(max(manner.most, at_once))
        timeout = request.timeout
        deadline = started_at + (self._timeout if timeout is None else timeout)
        course = Course(runtime, choice, started_at, deadline, tenant, served, at_once, make_try)
        self._courses.add(course)
        return course

    def _leave(self, course: Course) -> None:
        course.dissolve()
        self._courses.discard(course)
        if self._idle is not None and not self._courses and not self._idle.done():
            self._idle.set_result(None)

    def _refused(
        self, request: QueryRequest, error: AsyncRouteError, started_at: float
    ) -> ExecutionResult:
        waited = self.runtime.now() - started_at
        return self._told(request, refused(error, self.new_id(), waited))

    def _told(self, request: QueryRequest, result: ExecutionResult) -> ExecutionResult:
        """Count a result and tell the observers of it."""
        if result.success:
            self._counters.succeeded += 1
        else:
            self._counters.failed += 1
        if self.runtime.observers is not None:
            self.tell(request, result)
        return result

    def tell(self, request: QueryRequest, result: ExecutionResult) -> None:
        """Tell the observers of a result, if there are any."""
        observers = self.runtime.observers
        if observers is not None:
            observers.attempted(request, result.attempts)
            observers.resulted(request, result)

    def _tell_attempts(self, course: Course) -> None:
        """Tell of the attempts of a request that has no result: its caller has gone, or erred."""
        observers = self.runtime.observers
        if observers is not None:
            observers.attempted(course.request, reports(course, None, self.runtime.now()))

    # Closing

    async def drain(self, seconds: float) -> None:
        """Start nothing more, and wait so long at most until no request is in flight."""
        self._is_closing = True
        if not self._courses:
            return
        loop = self.runtime.loop
        self._idle = idle = loop.create_future()
        timer = loop.call_later(seconds, _set_once, idle) if seconds < inf else None
        try:
            await idle
        finally:
            self._idle = None
            if timer is not None:
                timer.cancel()

    def abort(self) -> Sequence[Course]:
        """Give up every request in flight."""
        courses = tuple(self._courses)
        for course in courses:
            course.close()
        return courses

    def __repr__(self) -> str:
        return f"<Executor: {len(self._courses)} requests in flight>"


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
