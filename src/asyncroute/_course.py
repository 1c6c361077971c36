"""The course of one request: its deadline, what it has tried, and which model is next."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast, final

from asyncroute._attempt import Try
from asyncroute._endpoint import Endpoint, View, scaled_latency
from asyncroute._errors import ConfigurationError, ProviderError
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._protocols import Call, Ranking
from asyncroute._results import CandidateView

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from asyncroute._health import Permit
    from asyncroute._runtime import Runtime
    from asyncroute._served import Served
    from asyncroute._values import Role

__all__ = ("Choice", "Course", "Listener")


@final
class Choice:
    """What deciding came to: whom to try, and what that was decided from, as it was then.

    It is the decision and its trace, made of values and shaped when somebody asks: shaping costs a
    good part of a whole decision, and is hardly ever read.

    Args:
        asked: The request.
        request: The request without the constraints that were relaxed.
        strategy: The strategy's name.
        ranking: The candidates with their scores.
        captured: For each candidate a tuple that ends with its `View`.
        first: The candidate that comes first.
        tokens_in: Estimated tokens of input.
        later: Those set aside for a while, who come last.
        count: How many candidates there are, those included.
        rejected: For every model not eligible, by id, the reason.
        relaxed: Constraints that were dropped to find any model, in order.
        cached: Whether the eligible set came from the decision cache.
    """

    __slots__ = (
        "_asked",
        "_cached",
        "_captured",
        "_later",
        "_order",
        "_rejected",
        "_relaxed",
        "_strategy",
        "_view",
        "count",
        "first",
        "ranking",
        "request",
        "tokens_in",
    )

    def __init__(  # noqa: PLR0913 - the facts of one decision
        self,
        asked: QueryRequest,
        request: QueryRequest,
        strategy: str,
        ranking: Ranking,
        captured: Sequence[tuple[Any, ...]],
        first: Endpoint,
        tokens_in: int,
        later: Sequence[Endpoint],
        count: int,
        rejected: Mapping[str, str],
        relaxed: tuple[str, ...],
        cached: bool,
    ) -> None:
        self.request = request
        self.ranking = ranking
        self.first = first
        self.tokens_in = tokens_in
        self.count = count
        self._asked = asked
        self._strategy = strategy
        self._captured = captured
        self._view = first.view
        self._later = later
        self._rejected = rejected
        self._relaxed = relaxed
        self._cached = cached
        self._order: list[Endpoint] | None = None

    # Carrying out

    @property
    def order(self) -> list[Endpoint]:
        """The candidates, best first. Made when asked for: most requests need only the first."""
        if self._order is None:
            # A selector ranks what it was given, and it was given endpoints.
            candidates = cast("Sequence[Endpoint]", self.ranking.candidates)
            self._order = [*map(candidates.__getitem__, self.ranking.order()), *self._later]
        return self._order

    def keep(self, width: int) -> None:
        """Drop all but so many of the best."""
        del self.order[width:]
        self.count = min(self.count, width)

    # Explaining: `Trace`

    def facts(self) -> tuple[Any, ...]:
        """The fields of the decision, but for its fallbacks."""
        ranking = self.ranking
        config, latency, usual, price_in, price_out = self._view
        tokens_out = min(usual, self.request.max_tokens or inf)
        return (
            self._asked,
            self._strategy,
            config,
            None,
            self.tokens_in * price_in + tokens_out * price_out,
            scaled_latency(latency, tokens_out, usual) * 1000,
            ranking.score_at(ranking.best()),
            dict(self._rejected),
            self._relaxed,
            self._cached,
        )

    def candidates(self) -> tuple[CandidateView, ...]:
        """The candidates as they looked when deciding, best first."""
        ranking, captured = self.ranking, self._captured
        return tuple(self._shaped(captured[i][-1], ranking.score_at(i)) for i in ranking.order())

    def fallbacks(self) -> tuple[ModelConfig, ...]:
        """The models that follow the best one, in order."""
        best = self.ranking.best()
        return tuple(self._captured[i][-1][0] for i in self.ranking.order() if i != best)

    def votes(self) -> Mapping[str, Mapping[str, float]]:
        """For an ensemble: each voter's scores by model id; else empty."""
        return self.ranking.votes or {}

    def _shaped(self, view: View, score: float) -> CandidateView:
        config, latency, usual, price_in, price_out = view
        tokens_out = min(usual, self.request.max_tokens or inf)
        cost = self.tokens_in * price_in + tokens_out * price_out
        return CandidateView(config, score, cost, scaled_latency(latency, tokens_out, usual))


class Listener(Protocol):
    """Who runs several attempts of a request."""

    def on_ended(self, attempt: Try, /) -> None:
        """An attempt was settled, or a stream has brought its first content."""
        ...

    def on_stopped(self, attempt: Try, /) -> None:
        """An attempt was given up, and has not ended yet."""
        ...

    def on_closed(self) -> None:
        """The router gave the request up."""
        ...


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
        served: Calls every model instead of its own provider, if given.
        at_once: How many models are asked at once.
        make_try: Makes an attempt: `Try` for whole answers, or a stream's.

    Attributes:
        choice: The decision, and who may be tried.
        tries: All attempts, in the order of their starts.
        is_closed: Whether the router gave the request up: nothing more is started.
        listener: Who is told what becomes of the attempts, if anybody must be.
    """

    __slots__ = (
        "_make_try",
        "_max_models",
        "_planned",
        "_rest",
        "_served",
        "choice",
        "deadline",
        "is_closed",
        "listener",
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
        started_at: float,
        deadline: float,
        tenant: str | None = None,
        served: Served | None = None,
        at_once: int = 1,
        make_try: Callable[..., Try] = Try,
    ) -> None:
        self.runtime = runtime
        self.started_at = started_at
        self.deadline = deadline
        self.tokens_in = choice.tokens_in
        self.tenant = tenant
        self.tries: list[Try] = []
        self.is_closed = False
        self.listener: Listener | None = None
        self.choice = choice
        self._served = served
        self._make_try = make_try
        most = runtime.fallback.max_models
        self._max_models = most if most > at_once else at_once
        self._planned: tuple[float, Endpoint] | None = None
        self._rest: list[Endpoint] | None = None

    @property
    def request(self) -> QueryRequest:
        """The request, without the constraints that were relaxed."""
        return self.choice.request

    @property
    def _untried(self) -> list[Endpoint]:
        """The candidates not tried yet, best first: of the first one's chain, if it has one."""
        rest = self._rest
        if rest is None:
            rest = self._rest = self._listed()
        return rest

    def _listed(self) -> list[Endpoint]:
        tried = [attempt.endpoint for attempt in self.tries]
        candidates = self.choice.order
        if tried:
            chain = self.runtime.fallback.chain_after(tried[0].model_id)
            if chain is not None:
                by_id = {endpoint.model_id: endpoint for endpoint in candidates}
                candidates = [by_id[model_id] for model_id in chain if model_id in by_id]
        return [endpoint for endpoint in candidates if endpoint not in tried]

    @property
    def _has_tried_enough(self) -> bool:
        """Whether no further model may be tried. One that had no room for us does not count."""
        if len(self.tries) < self._max_models:
            return False
        tried = [attempt for attempt in self.tries if attempt.role != "retry"]
        return sum(not attempt.was_shed for attempt in tried) >= self._max_models

    # Who is next

    def next_try(self, now: float, *, is_raced: bool = False) -> Try | None:
        """Start the next attempt, if one may start now; else see `next_at`."""
        if self.is_closed or now >= self.deadline:
            return None
        if self._planned is not None:
            return self._planned_try(now)
        role: Role = "race" if is_raced else "fallback" if self.tries else "first"
        if not self.tries:
            first = self.choice.first
            permit = first.health.try_pass(now) if first.is_available else None
            if permit is not None:  # nearly always: the rest need not even be listed
                return self._try(first, permit, role, now)
        candidate = self._next_candidate(now)
        return None if candidate is None else self._try(*candidate, role, now)

    def next_hedge(self, now: float) -> Try | None:
        """Start a hedge, if a model and the budgets allow it: another provider's model first."""
        if self.is_closed or not self.tries or now >= self.deadline:
            return None
        running = {attempt.endpoint.config.provider for attempt in self.tries}
        candidate = self._next_candidate(now, avoid=running)
        if candidate is None:
            return None
        endpoint, permit = candidate
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
        if self.is_closed or now >= self.deadline:  # as `next_try`, or its caller asks for ever
            return None
        if not self.tries:
            candidates = [e for e in self._untried if e.is_available]
            earliest = min((e.health.available_at(now) for e in candidates), default=inf)
            if earliest >= self.deadline:
                return None
            # Spread over a tenth of the wait: those who wait for one Retry-After come together.
            spread = earliest + 0.1 * (earliest - now) * self.runtime.rng.random()
            return spread if spread < self.deadline else earliest
        retry = self._planned or self._plan_retry(now)
        return None if retry is None else retry[0]

    def earliest_return(self, now: float) -> float | None:
        """Seconds until the first model that is set aside comes back, if that can be told."""
        earliest = min((e.health.available_at(now) for e in self.choice.order), default=inf)
        return earliest - now if now < earliest < inf else None

    def _next_candidate(
        self, now: float, avoid: Collection[str] = ()
    ) -> tuple[Endpoint, Permit] | None:
        """Return the best model that may follow and may be called now, with its permit."""
        if self._has_tried_enough:
            return None
        candidates = self._untried
        if avoid:
            candidates = sorted(candidates, key=lambda e: e.config.provider in avoid)
        for endpoint in candidates:
            if endpoint.is_available and (not self.tries or self._may_follow(endpoint)):
                permit = endpoint.health.try_pass(now)
                if permit is not None:
                    return endpoint, permit
        return None if self.tries else self._in_panic(now)

    def _in_panic(self, now: float) -> tuple[Endpoint, Permit] | None:
        """The best model, where all are ejected: nothing is left to lose, and nothing to probe."""
        candidates = [e for e in self._untried if e.is_available]
        if not candidates or not all(e.health.is_ejected_hard(now) for e in candidates):
            return None
        return candidates[0], candidates[0].health.pass_anyway()

    def _may_follow(self, endpoint: Endpoint) -> bool:
        if self._served is None and endpoint.served is None:
            return False
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
        if self._has_tried_enough and any(map(self._may_follow, self._untried)):
            return None
        retries = [attempt.endpoint for attempt in self.tries if attempt.role == "retry"]
        if len(retries) >= self._most_retries():
            return None
        for attempt in self._to_be_retried():
            endpoint, error = attempt.endpoint, self._last_error(attempt.endpoint)
            done = retries.count(endpoint)
            if error is None or done >= self.runtime.fallback.retries_after(error):
                continue
            if not endpoint.is_available or not self._is_affordable(endpoint):
                continue
            runtime = self.runtime
            pause = runtime.fallback.pause_before(
                done, error, runtime.rng, retry_after_cap=runtime.retry_after_cap
            )
            at = max(now + pause, endpoint.health.available_at(now))
            if at < self.deadline and runtime.retries.withdraw():
                self._planned = (at, endpoint)
                return self._planned
        return None

    def _to_be_retried(self) -> Sequence[Try]:
        """The attempts whose models may be asked again: all, unless an error rules out others."""
        rules_out_others = self.runtime.fallback.rules_out_others
        final = [
            attempt
            for attempt in self.tries
            if isinstance(attempt.error, ProviderError) and rules_out_others(attempt.error)
        ]
        return final or self.tries

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
        at, endpoint = self._planned
        if now < at:
            return None
        self._planned = None
        permit = endpoint.health.try_pass(now) if endpoint.is_available else None
        if permit is None:
            self.runtime.retries.give_back()
            return None
        return self._try(endpoint, permit, "retry", now)

    def _try(self, endpoint: Endpoint, permit: Permit, role: Role, now: float) -> Try:
        served = endpoint.served if self._served is None else self._served
        if served is None:
            endpoint.health.forget(permit)
            raise ConfigurationError(
                f"model {endpoint.model_id!r} needs provider {endpoint.config.provider!r},"
                " which was not given"
            )
        if permit.is_probe:
            endpoint.heed(now)  # nobody else may call it now
        call = Call(endpoint.config, self.choice.request, self.deadline)
        attempt = self._make_try(self, endpoint, served, permit, call, role, now)
        if not self.tries:
            self._rest = None  # it may have a chain
        elif self._rest is not None and endpoint in self._rest:
            self._rest.remove(endpoint)
        self.tries.append(attempt)
        return attempt

    # What attempts ask and tell

    def limit_for(self, endpoint: Endpoint, now: float, /) -> float:
        """The instant at which an attempt that is sent now is given up.

        While another may follow: the larger of half of what is left and three times the expected
        latency, but never so much that the next candidate has less than its own expected latency
        (half of what is left where even that does not fit). Else all that is left.
        """
        timeout, deadline = self.runtime.attempt_timeout, self.deadline
        if timeout is not None:
            return min(now + timeout, deadline)
        if deadline == inf or self._max_models == 1 or self.choice.count == 1:
            return deadline  # nobody follows
        left = deadline - now
        half = left / 2
        if (
            len(self.tries) > 1
            or self.runtime.fallback.has_chains
            or endpoint.journal.slowest * 3.0 > half
        ):
            untried = self._untried
            if self._has_tried_enough or not untried:
                return deadline
            return now + self._share(endpoint, untried[0], left)
        return now + half  # some model follows, and none is so slow that it would matter which

    @staticmethod
    def _share(endpoint: Endpoint, following: Endpoint, left: float) -> float:
        half = left / 2
        limit = max(half, 3.0 * endpoint.expected_latency)
        for_the_next = following.expected_latency
        if limit > left - for_the_next:
            limit = left - for_the_next if for_the_next < left else half
        return limit

    def others_can_serve(self, endpoint: Endpoint, now: float, /) -> bool:
        """Whether a model other than this one is able to serve the request."""
        return any(
            other is not endpoint and not other.health.is_ejected_hard(now)
            for other in self.choice.order
        )

    def extend(self, deadline: float) -> None:
        """Move the deadline later: somebody who is willing to wait longer has joined."""
        self.deadline = max(self.deadline, deadline)

    def close(self) -> None:
        """Give the whole request up: the router closes."""
        self.is_closed = True
        for attempt in self.tries:
            attempt.stop("cancelled")
        if self.listener is not None:
            self.listener.on_closed()

    def dissolve(self) -> None:
        """Let go of everything that leads back here, when the request is over.

        What is left has no cycle, so that nothing waits for the garbage collector. Attempts that
        ignore being given up keep what they need to settle.
        """
        self.listener = None
        if self._planned is not None:
            self._planned = None
            self.runtime.retries.give_back()
        for attempt in self.tries:
            if attempt.error is not None:
                attempt.dissolve()
        self.tries.clear()

    def has_stopped(self, attempt: Try, /) -> None:
        """An attempt is given up, before it has ended."""
        if self.listener is not None:
            self.listener.on_stopped(attempt)

    def has_committed(self, attempt: Try, /) -> None:
        """A supervised stream has brought its first content."""
        if self.listener is not None:
            self.listener.on_ended(attempt)

    def has_ended(self, attempt: Try, /) -> None:
        """An attempt has been settled."""
        if attempt.role == "hedge":
            self.runtime.hedges.settle(attempt.cost, expected_cost=attempt.expected_cost)
        if self.listener is not None:
            self.listener.on_ended(attempt)
