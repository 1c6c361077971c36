"""One attempt: admit, call the provider, settle. The only place that calls a provider."""

from __future__ import annotations

import asyncio
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol

from asyncroute._deadlines import TICK, Expiring, Interruptible, deliver_again
from asyncroute._errors import (
    AsyncRouteError,
    AttemptTimeoutError,
    BudgetExceededError,
    OverloadedError,
    ProtocolError,
    ProviderError,
    ProviderOverloadedError,
    RateLimitedError,
    StreamInterruptedError,
    UnavailableError,
    as_provider_error,
)
from asyncroute._estimate import text_tokens
from asyncroute._protocols import Call
from asyncroute._values import Attempt, Completion, Outcome, Role, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from asyncroute._budget import Reservation
    from asyncroute._endpoint import Endpoint
    from asyncroute._grant import Grant
    from asyncroute._health import Permit
    from asyncroute._observers import Observers
    from asyncroute._runtime import Runtime
    from asyncroute._served import Served

__all__ = ("SURELY_SLOW", "Request", "Stop", "Try", "not_a_completion")

Stop = Literal["timed_out", "superseded", "cancelled"]
"""Why an attempt was given up by us."""

SURELY_SLOW = 3.0
"""A time-out says something of the model only after so many times its expected latency."""

_TOO_MANY = 1 << 48
"""Tokens that no call has: what would not be a sum of floats any more."""


class Request(Protocol):
    """What an attempt needs to know of the request it is made for."""

    @property
    def runtime(self) -> Runtime: ...
    @property
    def started_at(self) -> float: ...
    @property
    def deadline(self) -> float:
        """May move later while attempts run."""
        ...

    @property
    def tokens_in(self) -> int: ...
    @property
    def tenant(self) -> str | None: ...
    def limit_for(self, endpoint: Endpoint, now: float, /) -> float:
        """The instant at which an attempt that is sent now is given up."""
        ...

    def others_can_serve(self, endpoint: Endpoint, now: float, /) -> bool:
        """Whether a model other than this one is able to serve the request."""
        ...

    def has_stopped(self, attempt: Try, /) -> None:
        """Told when an attempt is given up, before it has ended."""
        ...

    def has_committed(self, attempt: Try, /) -> None:
        """Told when a supervised stream has brought its first content."""
        ...

    def has_ended(self, attempt: Try, /) -> None:
        """Told once for each attempt, when it has been settled."""
        ...


class Try(Interruptible):
    """One try at one model, from its admission to its settlement.

    `run()` never raises an `Exception`: what came of it is read from the attributes.

    Attributes:
        endpoint: The model.
        served: What calls it.
        role: Why it is made.
        call: What the provider is given.
        completion: The answer, if there is one.
        error: What went wrong, if something did.
        fatal: What was raised in its own task that is no `Exception`.
        stopped_by: Why we gave it up, if we did.
        ended_at: When it was settled; None before.
        is_refused: Whether there is an answer that was not accepted.
        expected_cost: Dollars it was expected to cost.
        cost: Dollars it did cost, once settled.
        usage: Tokens it did use, once settled.
        task: Its own task, where it runs supervised.
    """

    __slots__ = (
        "_bucket",
        "_grant",
        "_last_instant",
        "_permit",
        "_request",
        "_reservation",
        "_tokens",
        "call",
        "completion",
        "cost",
        "ended_at",
        "endpoint",
        "error",
        "expected_cost",
        "fatal",
        "is_refused",
        "role",
        "sent_at",
        "served",
        "started_at",
        "stopped_by",
        "task",
        "usage",
    )

    def __init__(
        self,
        request: Request,
        endpoint: Endpoint,
        served: Served,
        permit: Permit,
        call: Call,
        role: Role,
        now: float,
    ) -> None:
        # As `super().__init__()`, whose call would cost as much as all that it sets.
        self._task = self.task = None
        self._interrupted = self.is_refused = False
        self._request = request
        self.served = served
        self._permit: Permit | None = permit
        self._grant: Grant | None = None
        self._reservation: Reservation | None = None
        self._bucket: set[Expiring] | None = None
        self.endpoint = endpoint
        self.call = call
        self.role: Role = role
        self.started_at = now
        self.sent_at: float | None = None
        self.ended_at: float | None = None
        self.completion: Completion | None = None
        self.error: AsyncRouteError | None = None
        self.fatal: BaseException | None = None
        self.stopped_by: Stop | None = None
        self.usage: Usage | None = None
        self.cost = 0.0
        tokens_in, tokens_out = request.tokens_in, endpoint.expected_output(call.request)
        self._tokens = tokens_in + int(tokens_out)
        self.expected_cost = tokens_in * endpoint.input_price + tokens_out * endpoint.output_price
        endpoint.assign()

    task: asyncio.Task[None] | None

    @property
    def is_settled(self) -> bool:
        """Whether everything it held has been given back and booked."""
        return self.ended_at is not None

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer, or for a stream the beginning of one."""
        return self.completion is not None

    @property
    def was_shed(self) -> bool:
        """Whether it never got as far as the provider: no room there, or no money."""
        return isinstance(self.error, (OverloadedError, BudgetExceededError))

    async def run(self) -> None:
        """Admit, call, settle; record what came of it.

        Raises:
            asyncio.CancelledError: Whoever awaits was cancelled, also where the provider swallowed
                it or made an error of its own of it: it is delivered again, so that no further
                call is paid for somebody who has gone.
        """
        self.begin(self._request.runtime.loop)
        failure: BaseException | None = None
        is_gone = True
        try:
            try:
                if not self._admit_at_once():
                    await self._queue_up()
                self._arm()
                self._take(await self._ask())
            except (Exception, asyncio.CancelledError) as error:
                failure = error
            except BaseException as error:
                failure = self._keep(error)
            # In a task of our own nobody is to be told once more; and on CPython before 3.13 a
            # provider's `asyncio.TaskGroup` may leave its own cancellation of the task counted.
            is_gone = self.end() and (
                self.task is None or isinstance(failure, asyncio.CancelledError)
            )
            if self.completion is not None:
                self.error = None  # it came in spite of being given up
            elif failure is not None and not is_gone:
                self._failed(failure)
        finally:
            if is_gone and self.stopped_by is None:
                self.stopped_by = "cancelled"
            if is_gone or failure is not None or not self._goes_on:
                self.settle()
            del failure  # the error's traceback leads to this frame: no way back from here
        if is_gone:
            await deliver_again()

    def _keep(self, error: BaseException) -> BaseException:
        """Keep what would end every task of the supervisor, to be raised in the caller's task."""
        if self.task is None or isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise error
        self.fatal = error
        return error

    @property
    def _goes_on(self) -> bool:
        """Whether the call is still open after `run`: a stream that is read on by its consumer."""
        return False

    def _admit_at_once(self) -> bool:
        """Reserve money, and take slot, request and tokens if it is nobody else's turn.

        Raises:
            BudgetExceededError: There is no money for it.
            AttemptTimeoutError: The deadline has passed.
        """
        endpoint, runtime, now = self.endpoint, self._request.runtime, self.started_at
        if self.task is not None:
            now = runtime.now()  # a blocked loop may have kept it from its first step
            if now >= self._request.deadline:
                raise AttemptTimeoutError("started after its deadline, and not sent")
        budgets = runtime.budgets
        if budgets is not None:
            self._reservation = budgets.reserve(
                endpoint.model_id, self.call.request.metadata, self.expected_cost, now
            )
        self._grant = endpoint.lane.try_acquire(self._tokens, now)
        if self._grant is None:
            return False
        self.sent_at = now
        return True

    async def _queue_up(self) -> None:
        """Wait for the turn to take slot, request and tokens.

        Raises:
            AttemptTimeoutError: The deadline has passed.
            OverloadedError: It would not be its turn in time, or the model is set aside meanwhile.
        """
        request, endpoint = self._request, self.endpoint
        self._grant = await endpoint.lane.acquire(
            self._tokens,
            deadline=request.deadline,
            need=endpoint.expected_latency,
            priority=self.call.request.priority,
            tenant=request.tenant,
        )
        now = request.runtime.now()
        if now >= request.deadline:  # a blocked loop may have kept it from going on with its turn
            raise AttemptTimeoutError("its turn came after its deadline, and it was not sent")
        available_at = endpoint.health.available_at(now)
        if available_at > now and self._permit and not self._permit.is_probe:
            raise OverloadedError(
                f"{endpoint.model_id} was set aside while the request was queued",
                retry_after=available_at - now if available_at < inf else None,
            )
        self.sent_at = now

    def _ask(self) -> Awaitable[Completion | None]:
        """Call the provider. What is awaited gives what `_take` takes up."""
        if self._request.runtime.observers is None:
            return self.served.provider.complete(self.call)
        return self._ask_observed(self._request.runtime.observers)

    def _take(self, completion: Completion | None) -> None:
        """Take up what asking gave: an answer.

        Raises:
            ProtocolError: It is none.
        """
        if not isinstance(completion, Completion):
            raise not_a_completion(completion)
        if not isinstance(completion.text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ProtocolError(
                f"the provider returned a {type(completion.text).__name__} as text, not a str"
            )
        self.completion = completion

    def _arm(self) -> None:
        request = self._request
        assert self.sent_at is not None
        self._last_instant = request.deadline
        self.call.deadline = at = request.limit_for(self.endpoint, self.sent_at)
        self._bucket = request.runtime.deadlines.arm(self, at)

    def _disarm(self) -> None:
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None

    async def _ask_observed(self, observers: Observers) -> Completion:
        held = observers.started(self.call)
        error: BaseException | None = None
        try:
            completion = await self.served.provider.complete(self.call)
            if isinstance(completion, Completion):  # pyright: ignore[reportUnnecessaryIsInstance]
                self.call.usage = completion.usage or self.call.usage
            return completion
        except BaseException as raised:
            error = self.error or raised  # a time-out of ours comes as a cancellation
            raise
        finally:
            if held:
                observers.ended(held, error)
            del error  # the frame would hold the error, and the error the frame

    def expire(self) -> None:
        """The attempt's limit has passed. For `Deadlines`."""
        deadline = self._request.deadline
        if self._is_cut_by_deadline and deadline > self.call.deadline:
            # Somebody who is willing to wait longer has joined meanwhile.
            self._last_instant = self.call.deadline = deadline
            self._bucket = self._request.runtime.deadlines.arm(self, deadline)
        else:
            self.stop("timed_out")

    def stop(self, why: Stop) -> None:
        """Give the attempt up, once, by one cancellation. It settles when it ends."""
        if self.is_settled or self.stopped_by is not None:
            return
        if self._task is None and self.task is not None:
            self.task.cancel()  # before its first step: it never runs, and is settled from outside
        elif not self.interrupt():
            # Somebody else cancels: the caller, or a time-out within the provider, which goes on.
            loop = self._request.runtime.loop
            loop.call_later(TICK, self.stop, why, context=Context())
            return
        self.stopped_by = why
        if why == "timed_out":
            waited = self.call.deadline - (self.sent_at or self.started_at)
            model_id = self.endpoint.model_id
            self.error = AttemptTimeoutError(f"no answer within {waited:.3g} s", model_id=model_id)
        self._request.has_stopped(self)

    async def leave(self, why: Stop = "cancelled") -> None:
        """Close what goes on after `run`: nothing, where the answer came whole."""

    @property
    def _is_cut_by_deadline(self) -> bool:
        """Whether the attempt's limit was the request's deadline, as it was then."""
        return self.call.deadline >= self._last_instant

    def _failed(self, error: BaseException) -> None:
        """Note what went wrong, unless it is only how the provider took being given up."""
        model_id = self.endpoint.model_id
        if self.stopped_by is not None:
            return
        if isinstance(error, (OverloadedError, BudgetExceededError)) and self.sent_at is None:
            self.error = error
        elif isinstance(error, asyncio.CancelledError):
            # Nobody cancelled us: the provider let a cancellation of its own out.
            self.error = UnavailableError("the provider cancelled itself", model_id=model_id)
        else:
            _cut_own_frames(error)
            self.error = as_provider_error(error, model_id)

    # Settling

    def settle(self) -> None:
        """Give back and book everything, once, without an await; tell metrics and health."""
        if self.ended_at is not None:
            return
        runtime, endpoint, sent_at = self._request.runtime, self.endpoint, self.sent_at
        self.ended_at = now = runtime.now()
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None
        grant = self._grant
        if sent_at is not None:
            tokens_billed = self._bill()
            if grant is not None:
                grant.release(now, tokens_billed)
            self._tell_metrics(now - sent_at)
        elif grant is not None:
            grant.cancel(now)
        if self._reservation is not None and runtime.budgets is not None:
            runtime.budgets.settle(self._reservation, self.cost, now)
        self.give_permit_back(now)
        endpoint.unassign(is_news=self.completion is None)
        self._request.has_ended(self)

    def _bill(self) -> int | None:
        """Find out what it used and cost: as reported, else an estimate where it was billed.

        Returns:
            The true tokens in and out, where the provider has told them.
        """
        call, completion = self.call, self.completion
        usage, cost = call.usage, call.cost
        if completion is not None and completion.usage is not None:
            usage = completion.usage
        try:
            if usage is None:
                usage = self._estimated_usage()
            elif not isinstance(usage, Usage):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("usage must be a Usage")
            elif not 0 <= (usage.input_tokens | usage.output_tokens) < _TOO_MANY:
                raise ValueError("tokens must not be negative, nor too many to count with")
            if cost is None:
                cost = 0.0 if usage is None else self.endpoint.bill(usage)
            else:
                cost = float(cost)  # of a `Decimal`, too
            if not 0.0 <= cost < inf:
                raise ValueError("a bill must be finite and not negative")
        except (ArithmeticError, TypeError, ValueError):  # what was reported are no figures
            call.cost = None
            usage = self._estimated_usage()
            cost = 0.0 if usage is None else self.endpoint.bill(usage)
        self.cost, self.usage = cost, usage
        if usage is None or usage.estimated:
            return None
        return usage.input_tokens + usage.output_tokens

    def _estimated_usage(self) -> Usage | None:
        if self.completion is None and not self._is_billed_unanswered():
            return None
        return Usage(self._request.tokens_in, self._tokens_received(), estimated=True)

    def _tokens_received(self) -> int:
        """Estimate the tokens of what came, whole or not."""
        return 0 if self.completion is None else text_tokens(self.completion.text)

    def _is_billed_unanswered(self) -> bool:
        # A provider bills the input of what it has begun to work on, not what it refused.
        return self.stopped_by is not None or isinstance(
            self.error, (AttemptTimeoutError, ProtocolError, StreamInterruptedError)
        )

    def _tell_metrics(self, elapsed: float) -> None:
        metrics, usage, cost = self.endpoint.metrics, self.usage, self.cost
        tokens_in = tokens_out = 0
        if usage is not None:
            tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
            if usage.estimated and self.call.cost is None:
                metrics.add_estimated_cost(cost)
        if self.completion is not None:
            metrics.record_success(elapsed, cost, tokens_in, tokens_out)
        elif self.stopped_by == "superseded":
            metrics.record_superseded(elapsed, cost, tokens_in, tokens_out)
        elif self.stopped_by == "cancelled" or self.error is None:
            metrics.record_cancelled(cost, tokens_in, tokens_out)
        else:
            metrics.record_failure(self.error.kind, cost, tokens_in, tokens_out)

    def give_permit_back(self, now: float) -> None:
        """Tell health what came of it, once.

        Part of settling; earlier for an attempt that ignores being given up: were it a probe, no
        other could be sent as long as it goes on.
        """
        permit, self._permit = self._permit, None
        if permit is None:
            return
        endpoint = self.endpoint
        if self.sent_at is None:
            endpoint.health.forget(permit)
            if permit.is_probe:
                endpoint.heed(now)  # another one may be sent
        elif self.completion is None:
            self._tell_of_failure(permit, now)
        else:
            if endpoint.lane.capacity.is_adaptive:
                endpoint.lane.on_success()
            if endpoint.health.succeeded(permit, now):
                endpoint.heed(now)  # it comes back slowly

    def _tell_of_failure(self, permit: Permit, now: float) -> None:
        endpoint, error = self.endpoint, self.error
        health, lane = endpoint.health, endpoint.lane
        if not isinstance(error, ProviderError) or self._says_nothing():
            health.forget(permit)
        else:
            may_eject = self._request.others_can_serve(endpoint, now)
            retry_after = error.retry_after
            if error.health == "hard":
                health.failed(permit, now, may_eject=may_eject)
            elif error.health == "soft":
                health.rate_limited(permit, now, retry_after=retry_after, may_eject=may_eject)
            elif error.health == "eject":
                health.eject(permit, now, may_eject=may_eject)
            else:
                health.forget(permit)
            if isinstance(error, (RateLimitedError, ProviderOverloadedError)):
                lane.on_overload(now)
                if retry_after is not None and retry_after > 0:
                    cap = self._request.runtime.retry_after_cap
                    endpoint.block(now + min(retry_after, cap), now)
        endpoint.heed(now)

    def _says_nothing(self) -> bool:
        """Whether the failure is ours or the caller's rather than the model's."""
        if self.stopped_by is None:
            return False
        if self.stopped_by != "timed_out" or self._is_cut_by_deadline:
            return True
        assert self.sent_at is not None
        return self.call.deadline - self.sent_at < SURELY_SLOW * self.endpoint.expected_latency

    def dissolve(self) -> None:
        """Let go of what went wrong: the request is over, and has been told of it.

        From CPython 3.12 on an error's traceback leads, over the frame of the provider and those
        that called it, to this attempt. A stream that has begun keeps its error for its consumer.
        """
        if not self.has_answer:
            self.error = None

    # Reporting

    def report(self, outcome: Outcome, now: float) -> Attempt:
        """Describe the attempt as it stands now, for the request's result."""
        started, sent = self.started_at, self.sent_at
        ended = now if self.ended_at is None else self.ended_at
        usage = self.usage
        error = self.error
        return Attempt(
            self.endpoint.model_id,
            self.role,
            outcome,
            started - self._request.started_at,
            (ended if sent is None else sent) - started,
            0.0 if sent is None else ended - sent,
            usage,
            self.cost,
            usage is not None and usage.estimated and self.call.cost is None,
            None if error is None else str(error),
            None if error is None else error.kind,
        )

    def __repr__(self) -> str:
        state = self.stopped_by or ("settled" if self.is_settled else "running")
        return f"<Try {self.role} {self.endpoint.model_id}: {state}>"


def not_a_completion(found: object) -> ProtocolError:
    """Make the error of a provider that returned something else."""
    return ProtocolError(f"the provider returned a {type(found).__name__}, not a Completion")


def _cut_own_frames(error: BaseException) -> None:
    """Take this module's frames off a traceback.

    They hold the attempt and the attempt holds the error: a cycle that only the collector frees.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is globals():
        traceback = traceback.tb_next
    error.__traceback__ = traceback
