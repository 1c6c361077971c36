"""One model with its live state, and the set of those eligible for a kind of request."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias, final, overload

from asyncroute._estimate import DEFAULT_OUTPUT_TOKENS, input_tokens
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._lane import Lane
from asyncroute._values import Usage

if TYPE_CHECKING:
    from asyncroute._health import Health
    from asyncroute._metrics import LatencyCurve, ModelMetrics
    from asyncroute._served import Served

__all__ = ("Eligible", "Endpoint", "Journal", "Remaining", "View", "scaled_latency")

_PRIOR_SAMPLES = 5
"""The configured latency counts as much as so many observed answers."""

_ENOUGH_SAMPLES = 20
"""Answers from which on their mean length is believed."""

_SLOW_QUANTILE = 0.95
_SLOW_UNOBSERVED = 3.0
"""Times the expected latency that are slow while too little has been observed."""

_MANY = 32
"""Endpoints above which an index is cheaper than looking at each."""

_MOST_INDEXES = 32
"""Selectors for which an eligible set keeps what finds the best of it."""

_LEARNING_PAUSE = 0.05
"""Seconds between two times that answers of well known models are taken up."""

_JOURNAL_LENGTH = 4096
"""Changes that are remembered."""

_LEARNING_AT_ONCE = 3
"""Requests in flight at a model of which too little is known: to learn from, not a stampede."""


@final
class Journal:
    """What is known of all endpoints of a router together, and which of them changed lately.

    Attributes:
        changes: Endpoints in which something changed that scores depend on, the newest last.
        end: How many changes there were: a place to read on from.
        unlearned: Well known endpoints that have answered since they last learnt.
        learnt_at: When they did.
        longest_output: No endpoint's usual output was ever longer, in tokens.
        slowest: No endpoint's expected latency was ever longer, in seconds.
        troubled: Endpoints that may not be called freely just now.
        trouble: How often something changed about those.
    """

    __slots__ = (
        "changes",
        "end",
        "learnt_at",
        "longest_output",
        "slowest",
        "trouble",
        "troubled",
        "unlearned",
    )

    def __init__(self) -> None:
        self.changes: deque[Endpoint] = deque(maxlen=_JOURNAL_LENGTH)
        self.end = 0
        self.unlearned: set[Endpoint] = set()
        self.learnt_at = -inf
        self.longest_output = 0.0
        self.slowest = 0.0
        self.troubled: set[Endpoint] = set()
        self.trouble = 0

    def note(self, endpoint: Endpoint) -> None:
        """Say that something that scores depend on has changed."""
        self.changes.append(endpoint)
        self.end += 1

    def since(self, place: int, most: int) -> Iterable[Endpoint] | None:
        """Return what has changed since a place, the newest first; what did so twice comes twice.

        None where that is too long ago to tell, or more than so many are to be looked at.
        """
        missed = self.end - place
        if missed > most or missed > len(self.changes):
            return None
        return islice(reversed(self.changes), missed)

    def take_up(self, now: float) -> None:
        """Let those learn that have answered: before a decision, but 20 times a second at most.

        Where a model is known well, one of a thousand answers does not move what is expected.
        """
        if self.unlearned and abs(now - self.learnt_at) >= _LEARNING_PAUSE:
            self.learnt_at = now
            for endpoint in self.unlearned:
                endpoint.learn()
            self.unlearned.clear()

    def forget(self, endpoint: Endpoint) -> None:
        """Let go of an endpoint that was removed. Whoever reads the changes looks at all anew."""
        self.changes.clear()
        self.unlearned.discard(endpoint)
        self.troubled.discard(endpoint)
        self.trouble += 1


View: TypeAlias = tuple[ModelConfig, float, float, float, float]
"""What of an endpoint's state a decision keeps, to be explained by later: configuration, expected
latency in seconds, usual output in tokens, prices of a token of input and output in dollars."""


def scaled_latency(usual_latency: float, tokens_out: float, usual_output: float) -> float:
    """Seconds an answer of so many tokens takes where a usual one takes `usual_latency`.

    It is its share of the usual one, of which a tenth is spent before the first token.
    """
    return usual_latency * (0.1 + 0.9 * tokens_out / usual_output)


@final
class Endpoint:
    """A model with its live state. Satisfies `Candidate`.

    Attributes:
        model_id: The model's id.
        config: The model's configuration; replaced as a whole when it is updated.
        lane: Its slots, rates and queue.
        health: Whether it may be called.
        metrics: What its calls came to.
        assigned: Requests that chose it and are not over: just sent, queued or in flight.
        load: The same over its slots.
        is_available: Whether it is switched on.
        is_learning: Whether as many requests have chosen it as may choose a model of which too
            little is known.
        input_price: Dollars of a token of input.
        output_price: Dollars of a token of output.
        journal: What is known of all endpoints together.
        slots: Calls it may have in flight as configured, at least 1: what load is measured in.
        usual_output: Tokens an answer usually has.
        expected_latency: Seconds a usual answer is expected to take.
        expected_first_token: Seconds to the first token of a stream.
        success_rate: Share of recent calls that succeeded, smoothed.
        peers: The endpoints of its quota group, itself included.
        is_removed: Whether it is no model of the router any more; calls may still be in flight.
        served: The provider that calls it; None where the router has none by that name.
        view: What a decision keeps of it (see `View`): another object whenever it has learnt.
    """

    __slots__ = (
        "_answers",
        "_longest_output",
        "_slow_after",
        "_usual_latency",
        "assigned",
        "config",
        "expected_first_token",
        "expected_latency",
        "health",
        "input_price",
        "is_available",
        "is_learning",
        "is_removed",
        "journal",
        "lane",
        "load",
        "metrics",
        "model_id",
        "output_price",
        "peers",
        "served",
        "slots",
        "success_rate",
        "usual_output",
        "view",
    )

    def __init__(
        self,
        config: ModelConfig,
        *,
        lane: Lane,
        health: Health,
        metrics: ModelMetrics,
        journal: Journal,
    ) -> None:
        self.lane = lane
        self.health = health
        self.metrics = metrics
        self.journal = journal
        self.model_id = config.model_id
        self.assigned = 0
        self.is_removed = False
        self.peers: tuple[Endpoint, ...] = (self,)
        self.served: Served | None = None
        self.configure(config)

    def configure(self, config: ModelConfig) -> None:
        """Take over a new configuration; the live state stays."""
        self.config = config
        self.is_available = config.is_available
        self.input_price = config.input_price
        self.output_price = config.output_price
        self.slots = config.max_concurrent_requests or 1
        self._usual_latency = config.avg_latency_ms / 1000
        self._longest_output = config.max_output_tokens or inf
        self.learn()

    # What selectors see

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return self.lane.queued

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot or were just sent here."""
        return max(0, self.assigned - self.lane.queued)

    def expected_output(self, request: QueryRequest) -> float:
        """Tokens the answer is expected to have: the usual, or `max_tokens` where that is less."""
        asked = request.max_tokens
        usual = self.usual_output
        return usual if asked is None or asked > usual else asked

    def expected_cost(self, request: QueryRequest, /) -> float:
        """Dollars: estimated input and expected output at their prices."""
        return self.cost_of(input_tokens(request), self.expected_output(request))

    def cost_of(self, tokens_in: float, tokens_out: float) -> float:
        """Dollars for so many tokens."""
        return tokens_in * self.input_price + tokens_out * self.output_price

    def latency_of(self, tokens_out: float) -> float:
        """Seconds an answer of so many tokens is expected to take."""
        return scaled_latency(self.expected_latency, tokens_out, self.usual_output)

    def slow_after(self, *, streams: bool) -> float:
        """Seconds after which a call is so slow that a hedge is worth its cost.

        The p95, at least twice the median; for a stream of its time to the first token. Before
        twenty samples three times the expected latency. Source: Dean and Barroso, The Tail at
        Scale (2013).
        """
        if streams:  # whose first tokens are news while they flow, before anything is learnt
            return self._slow_now(self.metrics.curve(streams=True))
        kept = self._slow_after
        if kept is None:
            kept = self._slow_after = self._slow_now(self.metrics.curve(streams=False))
        return kept

    def _slow_now(self, curve: LatencyCurve) -> float:
        slow, median = curve[_SLOW_QUANTILE], curve[0.5]
        if curve.size < _ENOUGH_SAMPLES or slow is None or median is None:
            return _SLOW_UNOBSERVED * self.expected_latency
        return max(slow, 2.0 * median)

    # What the router tells

    def assign(self) -> None:
        """Count a request that chose this model."""
        self.assigned = assigned = self.assigned + 1
        self.load = assigned / self.slots
        self.is_learning = self._answers < _PRIOR_SAMPLES and assigned >= _LEARNING_AT_ONCE
        journal = self.journal
        journal.changes.append(self)  # as `note`, which is called for rarer news
        journal.end += 1

    def unassign(self, *, is_news: bool) -> None:
        """Count it off: it is over, or goes elsewhere.

        Args:
            is_news: Whether to learn of it at once; else with the next decision (`Journal`).
        """
        self.assigned = assigned = self.assigned - 1
        if is_news or self._answers < _ENOUGH_SAMPLES:
            self.learn()
            return
        self.load = assigned / self.slots
        journal = self.journal
        journal.unlearned.add(self)
        journal.changes.append(self)
        journal.end += 1

    def learn(self) -> None:
        """Take up what the metrics say now.

        Latency is the moving average of what was observed, blended with the configured one, which
        counts as much as five answers.
        """
        metrics = self.metrics
        outcomes, answers, tokens_out = metrics.recent
        self._answers = answers
        self._slow_after: float | None = None  # until it is asked for
        self.load = self.assigned / self.slots
        self.is_learning = self.assigned >= _LEARNING_AT_ONCE and answers < _PRIOR_SAMPLES
        latency, observed = self._usual_latency, metrics.ewma_latency
        if observed is not None:
            latency = (_PRIOR_SAMPLES * latency + answers * observed) / (_PRIOR_SAMPLES + answers)
        self.expected_latency = latency
        first_token = metrics.ttft_percentile(0.5, _PRIOR_SAMPLES) if metrics.has_streamed else None
        self.expected_first_token = latency * 0.2 if first_token is None else first_token
        self.success_rate = (answers + _PRIOR_SAMPLES) / (outcomes + _PRIOR_SAMPLES)
        usual = DEFAULT_OUTPUT_TOKENS
        if answers >= _ENOUGH_SAMPLES and tokens_out:
            usual = tokens_out / answers
        if usual > self._longest_output:
            usual = self._longest_output
        self.usual_output = usual
        self.view = (self.config, latency, usual, self.input_price, self.output_price)
        journal = self.journal
        if usual > journal.longest_output:
            journal.longest_output = usual
        if latency > journal.slowest:
            journal.slowest = latency
        journal.note(self)

    def heed(self, now: float) -> None:
        """Take up what health says now. Called whenever it may have changed, but for time."""
        health, journal = self.health, self.journal
        is_away = health.available_at(now) > now or health.is_ramping(now)
        if is_away and not self.is_removed:
            journal.troubled.add(self)
            journal.trouble += 1
        elif self in journal.troubled:
            journal.troubled.discard(self)
            journal.trouble += 1

    def block(self, until: float, now: float) -> None:
        """Keep calls away from its whole quota group until an instant: a Retry-After."""
        for peer in self.peers:
            peer.health.block_until(until)
            peer.heed(now)

    def bill(self, usage: Usage) -> float:
        """Dollars for tokens as billed."""
        if (
            usage.cached_tokens
            or usage.cache_write_tokens
            or usage.audio_input_tokens
            or usage.audio_output_tokens
        ):
            return usage.cost(self.config)
        return usage.input_tokens * self.input_price + usage.output_tokens * self.output_price

    def __repr__(self) -> str:
        return f"<Endpoint {self.config.model_id}: {self.assigned} assigned, {self.health!r}>"


@final
class Eligible(Sequence[Endpoint]):
    """The endpoints that may serve a kind of request, and why the others may not.

    It depends on the configuration and on the kind of request only, so it is cached; what changes
    with load, latency or turn is looked at anew each time.

    Attributes:
        endpoints: The endpoints.
        rejected: For each of the others, by model id, the reason.
        dearest_input: The highest price among them of a token of input, in dollars.
        dearest_output: The same of a token of output.
        tightest_limit: The lowest tokens per minute among them.
        is_large: Whether looking at each of them for every request would take too long.
        places: Where each of them stands.
        aside: Who of them was set aside when that was last looked at.
        indexes: By selector, what finds the best of the set.
        journal: What is known of all endpoints together.
    """

    __slots__ = (
        "aside",
        "dearest_input",
        "dearest_output",
        "endpoints",
        "indexes",
        "is_large",
        "journal",
        "places",
        "rejected",
        "tightest_limit",
    )

    def __init__(
        self, endpoints: Sequence[Endpoint], rejected: Mapping[str, str], journal: Journal
    ) -> None:
        self.endpoints = tuple(endpoints)
        self.rejected = rejected
        self.journal = journal
        self.dearest_input = max((e.input_price for e in endpoints), default=0.0)
        self.dearest_output = max((e.output_price for e in endpoints), default=0.0)
        limits = (e.config.tokens_per_minute for e in endpoints)
        self.tightest_limit = min((limit for limit in limits if limit is not None), default=inf)
        self.is_large = len(self.endpoints) > _MANY
        self.places = {endpoint: i for i, endpoint in enumerate(self.endpoints)}
        self.aside: Any = None  # an `Aside`, which is made of sets
        self.indexes: dict[object, Any] = {}

    def keep_index(self, selector: object, index: Any) -> None:
        """Keep what finds the best of the set for a selector, and for a few others at most."""
        if len(self.indexes) >= _MOST_INDEXES:  # a new selector object for every request
            del self.indexes[next(iter(self.indexes))]
        self.indexes[selector] = index

    def without(self, *groups: Collection[Endpoint]) -> Remaining:
        """Return the set without those of some groups."""
        return Remaining(self, set[Endpoint]().union(*groups))

    @overload
    def __getitem__(self, index: int, /) -> Endpoint: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[Endpoint]: ...
    def __getitem__(self, index: int | slice, /) -> Endpoint | Sequence[Endpoint]:
        return self.endpoints[index]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self.endpoints)

    def __len__(self) -> int:
        return len(self.endpoints)

    def __repr__(self) -> str:
        ids = ", ".join(endpoint.model_id for endpoint in self.endpoints)
        return f"<Eligible {ids}>"


@final
class Remaining(Sequence[Endpoint]):
    """A set without some: listed only when somebody goes through it.

    Attributes:
        eligible: The set.
        left_out: Those that are not in it.
    """

    __slots__ = ("_endpoints", "eligible", "left_out")

    def __init__(self, eligible: Eligible, left_out: Collection[Endpoint]) -> None:
        self.eligible = eligible
        self.left_out = left_out
        self._endpoints: list[Endpoint] | None = None

    def _listed(self) -> list[Endpoint]:
        if self._endpoints is None:
            self._endpoints = [e for e in self.eligible.endpoints if e not in self.left_out]
        return self._endpoints

    @overload
    def __getitem__(self, index: int, /) -> Endpoint: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[Endpoint]: ...
    def __getitem__(self, index: int | slice, /) -> Endpoint | Sequence[Endpoint]:
        return self._listed()[index]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._listed())

    def __len__(self) -> int:
        return len(self.eligible.endpoints) - len(self.left_out)

    def __repr__(self) -> str:
        ids = ", ".join(endpoint.model_id for endpoint in self)
        return f"<Remaining {ids}>"
