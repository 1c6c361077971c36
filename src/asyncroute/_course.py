"""The course of one request: its deadline, what it has tried, and which model is next."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, final

from asyncroute._attempt import Try
from asyncroute._endpoint import Endpoint
from asyncroute._errors import (
    BudgetExceededError,
    ConfigurationError,
    OverloadedError,
    ProviderError,
)
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Call, Plan
from asyncroute._results import RoutingDecision

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncroute._health import Permit
    from asyncroute._protocols import Provider
    from asyncroute._runtime import Runtime
    from asyncroute._values import Role

__all__ = ("Choice", "Course")


@final
@dataclass(slots=True)
class Choice:
    """What deciding came to.

    Attributes:
        decision: For the user.
        order: The candidates, best first; those set aside for a while come last.
        tokens_in: Estimated tokens of input.
        plan: How the selector wants the ranking executed, if it has a wish.
        request: The request without the constraints that were relaxed.
    """

    decision: RoutingDecision
    order: list[Endpoint]
    tokens_in: int
    plan: Plan | None
    request: QueryRequest


@final
class Course:
    """Walks a ranking as the fallback strategy allows. Satisfies `_attempt.Request`.

    Plain and synchronous: choosing the next model, taking its permit and counting it as assigned
    happen without an await between them.

    Args:
        runtime: What all requests share.
        choice: The request, and the candidates, best first.
        started_at: When the request came.
        deadline: When it must be over; may be moved later.
        tenant: Whose it is, where tenants take turns.
        provider: Calls every model instead of its own provider, if given.
        at_once: How many models are asked at once.
        make_try: Makes an attempt: `Try` for whole answers, or a stream's.

    Attributes:
        tries: All attempts, in the order of their starts.
        is_closed: Whether the router gave the request up: nothing more is started.
        on_stopped: Told of attempts that were given up.
        on_committed: Told of streams that have brought their first content.
        on_ended: Told of attempts that were settled.
    """

    __slots__ = (
        "_chained",
        "_make_try",
        "_max_models",
        "_models",
        "_order",
        "_planned",
        "_provider",
        "_retries",
        "_untried",
        "deadline",
        "is_closed",
        "on_committed",
        "on_ended",
        "on_stopped",
        "request",
        "runtime",
        "started_at",
        "tenant",
        "tokens_in",
        "tries",
    )

    def __init__(  # noqa: PLR0913 - the facts of one request
        self,
        runtime: Runtime,
        choice: Choice,
        *,
        started_at: float,
        deadline: float,
        tenant: str | None = None,
        provider: Provider | None = None,
        at_once: int = 1,
        make_try: Callable[..., Try] = Try,
    ) -> None:
        self.runtime = runtime
        self.request = choice.request
        self.started_at = started_at
        self.deadline = deadline
        self.tokens_in = choice.tokens_in
        self.tenant = tenant
        self.tries: list[Try] = []
        self.is_closed = False
        self.on_stopped: Callable[[Try], None] | None = None
        self.on_committed: Callable[[Try], None] | None = None
        self.on_ended: Callable[[Try], None] | None = None
        self._order = choice.order
        self._untried = list(choice.order)
        self._provider = provider
        self._make_try = make_try
        self._max_models = max(runtime.fallback.max_models, at_once)
        self._models = 0
        self._retries: dict[str, int] = {}
        self._planned: tuple[float, Endpoint] | None = None
        self._chained = False

    # Who is next

    def next_try(self, now: float, *, is_raced: bool = False) -> Try | None:
        """Start the next attempt, if one may start now; else see `next_at`."""
        if self.is_closed:
            return None
        if self._planned is not None and now >= self._planned[0]:
            return self._planned_try(now)
        endpoint, permit = self._next_candidate(now)
        if endpoint is None or permit is None:
            return None
        role: Role = "race" if is_raced else "fallback" if self._has_failed() else "first"
        return self._try(endpoint, permit, role, now)

    def next_hedge(self, now: float) -> Try | None:
        """Start a hedge, if a model and the budgets allow it: another provider's model first."""
        running = {attempt.endpoint.config.provider for attempt in self.tries}
        endpoint, permit = self._next_candidate(now, avoid=running)
        if endpoint is None or permit is None:
            return None
        hedges, retries = self.runtime.hedges, self.runtime.retries
        cost = self._expected_cost(endpoint)
        if not hedges.try_withdraw(cost, self.runtime.metrics.total_spend):
            endpoint.health.forget(permit)
            return None
        if not retries.withdraw():
            hedges.give_back(expected_cost=cost)
            endpoint.health.forget(permit)
            return None
        return self._try(endpoint, permit, "hedge", now)

    def next_at(self, now: float) -> float | None:
        """Return the instant at which a pause ends after which `next_try` has something to start.

        None where nothing may follow any more. A first attempt pauses where every model is set
        aside for a while; a retry pauses in any case, and is planned by this call.
        """
        if self.is_closed:
            return None
        if not self._has_failed():
            earliest = min((e.health.available_at(now) for e in self._untried), default=inf)
            return earliest if earliest < self.deadline else None
        retry = self._plan_retry(now)
        return None if retry is None else retry[0]

    def earliest_return(self, now: float) -> float | None:
        """Seconds until the first model that is set aside comes back, if that can be told."""
        earliest = min((e.health.available_at(now) for e in self._order), default=inf)
        return earliest - now if now < earliest < inf else None

    def _next_candidate(
        self, now: float, avoid: set[str] | None = None
    ) -> tuple[Endpoint | None, Permit | None]:
        if self._models >= self._max_models:
            return None, None
        self._follow_chain()
        candidates = [e for e in self._untried if self._may_follow(e)]
        if avoid:
            candidates.sort(key=lambda endpoint: endpoint.config.provider in avoid)
        for endpoint in candidates:
            permit = endpoint.health.try_pass(now)
            if permit is not None:
                return endpoint, permit
        if not self.tries and all(e.health.is_ejected_hard(now) for e in candidates):
            # Panic: nothing is left to lose, and nothing can be probed.
            for endpoint in candidates:
                return endpoint, endpoint.health.pass_anyway()
        return None, None

    def _follow_chain(self) -> None:
        if self._chained or not self._has_failed():
            return
        self._chained = True
        chain = self.runtime.fallback.chain_after(self.tries[0].endpoint.config.model_id)
        if chain is not None:
            by_id = {endpoint.config.model_id: endpoint for endpoint in self._untried}
            self._untried = [by_id[model_id] for model_id in chain if model_id in by_id]

    def _may_follow(self, endpoint: Endpoint) -> bool:
        allows = self.runtime.fallback.allows
        return self._is_affordable(endpoint) and all(
            allows(attempt.error, attempt.endpoint.config, endpoint.config)
            for attempt in self.tries
            if isinstance(attempt.error, ProviderError)
        )

    def _is_affordable(self, endpoint: Endpoint) -> bool:
        """Whether `max_cost` has room for one more attempt, beside what was spent and what runs."""
        limit = self.request.max_cost
        if limit is None:
            return True
        committed = sum(t.cost if t.is_settled else t.expected_cost for t in self.tries)
        return committed + self._expected_cost(endpoint) <= limit

    def _expected_cost(self, endpoint: Endpoint) -> float:
        return endpoint.cost_of(self.tokens_in, endpoint.expected_output(self.request))

    def _plan_retry(self, now: float) -> tuple[float, Endpoint] | None:
        """Plan to ask a model again that has failed, when no other is left."""
        if self._models >= self._max_models and any(map(self._may_follow, self._untried)):
            return None
        if sum(self._retries.values()) >= self._most_retries():
            return None
        for attempt in self.tries:
            endpoint, error = attempt.endpoint, self._last_error(attempt.endpoint)
            done = self._retries.get(endpoint.config.model_id, 0)
            if error is None or done >= self.runtime.fallback.retries_after(error):
                continue
            if not self._is_affordable(endpoint):
                continue
            pause = self.runtime.fallback.pause_before(done, error, self.runtime.rng)
            at = max(now + pause, endpoint.health.available_at(now))
            if at < self.deadline and self.runtime.retries.withdraw():
                self._planned = (at, endpoint)
                return self._planned
        return None

    def _most_retries(self) -> int:
        fallback = self.runtime.fallback
        return max((fallback.max_retries, *fallback.retries.values()))

    def _last_error(self, endpoint: Endpoint) -> ProviderError | None:
        for attempt in reversed(self.tries):
            if attempt.endpoint is endpoint:
                return attempt.error if isinstance(attempt.error, ProviderError) else None
        return None

    def _planned_try(self, now: float) -> Try | None:
        assert self._planned is not None
        _, endpoint = self._planned
        self._planned = None
        permit = endpoint.health.try_pass(now)
        if permit is None:
            return None
        model_id = endpoint.config.model_id
        self._retries[model_id] = self._retries.get(model_id, 0) + 1
        return self._try(endpoint, permit, "retry", now)

    def _has_failed(self) -> bool:
        return bool(self.tries)

    def _try(self, endpoint: Endpoint, permit: Permit, role: Role, now: float) -> Try:
        provider = self._provider or endpoint.provider
        if provider is None:
            endpoint.health.forget(permit)
            raise ConfigurationError(
                f"model {endpoint.config.model_id!r} needs provider {endpoint.config.provider!r},"
                " which was not given"
            )
        if role != "retry":
            self._untried.remove(endpoint)
            self._models += 1
        call = Call(endpoint.config, self.request, self.deadline)
        attempt = self._make_try(self, endpoint, provider, permit, call, role, now)
        self.tries.append(attempt)
        return attempt

    # What attempts ask and tell

    def limit_for(self, endpoint: Endpoint, now: float, /) -> float:
        """The instant at which an attempt that is sent now is given up.

        While another may follow: the larger of half of what is left and three times the expected
        latency, but never so much that the next candidate has less than its own expected latency
        (half of what is left where even that does not fit). Else all that is left.
        """
        timeout = self.runtime.attempt_timeout
        if timeout is not None:
            return min(now + timeout, self.deadline)
        left = self.deadline - now
        if left == inf or not self._untried or self._models >= self._max_models:
            return self.deadline
        half = left / 2
        limit = max(half, 3.0 * endpoint.expected_latency)
        for_the_next = self._untried[0].expected_latency
        if limit > left - for_the_next:
            limit = left - for_the_next if for_the_next < left else half
        return now + limit

    def others_can_serve(self, endpoint: Endpoint, now: float, /) -> bool:
        """Whether a model other than this one is able to serve the request."""
        return any(
            other is not endpoint and not other.health.is_ejected_hard(now) for other in self._order
        )

    def extend(self, deadline: float) -> None:
        """Move the deadline later: somebody who is willing to wait longer has joined."""
        self.deadline = max(self.deadline, deadline)

    def close(self) -> None:
        """Give the whole request up: the router closes."""
        self.is_closed = True
        for attempt in self.tries:
            attempt.stop("cancelled")

    def has_stopped(self, attempt: Try, /) -> None:
        """An attempt is given up, before it has ended."""
        if self.on_stopped is not None:
            self.on_stopped(attempt)

    def has_committed(self, attempt: Try, /) -> None:
        """A supervised stream has brought its first content."""
        if self.on_committed is not None:
            self.on_committed(attempt)

    def has_ended(self, attempt: Try, /) -> None:
        """An attempt has been settled."""
        if attempt.role == "hedge":
            self.runtime.hedges.settle(attempt.cost, expected_cost=attempt.expected_cost)
        if isinstance(attempt.error, (OverloadedError, BudgetExceededError)):
            self._models -= 1  # it never got as far as the provider
        if self.on_ended is not None:
            self.on_ended(attempt)
