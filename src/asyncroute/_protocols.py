"""The seams: what a user may replace by one small class of their own, without inheriting."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol, Self, final, runtime_checkable

from asyncroute._arguments import check_mapping, is_number, is_whole
from asyncroute._errors import ConfigurationError
from asyncroute._inputs import Message, ModelConfig, QueryRequest
from asyncroute._results import ExecutionResult
from asyncroute._values import Attempt, Chunk, Completion, Usage

__all__ = (
    "Accept",
    "Agree",
    "Call",
    "Candidate",
    "ModelSelector",
    "Observer",
    "OnAttempt",
    "OnFeedback",
    "OnResult",
    "OnStart",
    "Plan",
    "Provider",
    "Ranking",
    "StreamingProvider",
    "is_selector",
)

Accept = Callable[[Completion], bool | Awaitable[bool]]
"""Whether an answer is good enough, for a cascade: a plain function or a coroutine function."""

Agree = Callable[[str, str], bool]
"""Whether two answers say the same, for a vote."""


@final
class Call:
    """One call of a provider: what to ask which model, and until when.

    Attributes:
        model: The model to ask.
        request: The request.
        deadline: The instant, on the running loop's clock, at which this attempt is given up.
        usage: Tokens known so far. A provider sets it as soon as it learns them, also while it
            streams; what is here when a call is cancelled is what the call is taken to have cost.
        cost: Dollars as billed, where the provider says so itself; else the model's prices count.
        first_content_after: Of a stream: seconds from the call to its first content, once it came.
            Not set by providers.
    """

    __slots__ = ("cost", "deadline", "first_content_after", "model", "request", "usage")

    def __init__(self, model: ModelConfig, request: QueryRequest, deadline: float = inf) -> None:
        self.model = model
        self.request = request
        self.deadline = deadline
        self.usage: Usage | None = None
        self.cost: float | None = None
        self.first_content_after: float | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation to send."""
        return self.request.chat

    @property
    def params(self) -> dict[str, Any]:
        """The model's parameters, overridden by the request's."""
        return {**self.model.params, **self.request.params}

    @property
    def max_tokens(self) -> int | None:
        """The longest answer to ask for: the smaller of the request's and the model's limit."""
        limits = [
            limit
            for limit in (self.request.max_tokens, self.model.max_output_tokens)
            if limit is not None
        ]
        return min(limits, default=None)

    def __repr__(self) -> str:
        return f"<Call of {self.model.model_id}>"


class Candidate(Protocol):
    """A read-only view of a model's live state, for selectors."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        ...

    def expected_cost(self, request: QueryRequest, /) -> float:
        """Dollars this request is expected to cost here."""
        ...

    @property
    def expected_latency(self) -> float:
        """Seconds a usual answer is expected to take, waiting not included."""
        ...

    @property
    def success_rate(self) -> float:
        """Share of recent calls that succeeded, smoothed, 0 to 1."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot or were just sent here."""
        ...

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        ...

    @property
    def load(self) -> float:
        """In flight and queued, over the number of slots."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """How a selector wants its ranking executed.

    Attributes:
        stagger: Seconds between the starts of attempts: inf is a fallback chain, 0 a race.
        width: At most so many models; a vote that they do not decide asks further ones.
        accept: For a cascade: whether an answer is good enough; else the next model is asked.
        quorum: For a vote: so many agreeing answers win; None for the first answer.
        agree: For a vote: whether two answers say the same; None compares normalised text.
        weights: For a vote: what a model's answer counts, by model id; one that is not named counts
            1. A weight of the quorum makes an answer final.

    Raises:
        ConfigurationError: A value cannot be meant, or so many models can never make the quorum.
    """

    stagger: float = inf
    width: int = 3
    accept: Accept | None = None
    quorum: int | None = None
    agree: Agree | None = None
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not (is_number(self.stagger) and self.stagger >= 0):
            raise ConfigurationError(f"stagger must be 0 or more seconds, got {self.stagger!r}")
        if not (is_whole(self.width) and self.width >= 1):
            raise ConfigurationError(f"width must be a whole number, 1 or more, got {self.width!r}")
        for name, function in (("accept", self.accept), ("agree", self.agree)):
            if function is not None and not callable(function):
                raise ConfigurationError(f"{name} must be a function or None, got {function!r}")
        check_mapping("weights", self.weights, "numbers", by="model id")
        weights = self.weights or {}
        for model_id, weight in weights.items():
            if not (is_number(weight) and weight >= 0):
                raise ConfigurationError(
                    f"weight of {model_id!r} must be 0 or more, got {weight!r}"
                )
        if self.quorum is None:
            return
        if not (is_whole(self.quorum) and self.quorum >= 1):
            raise ConfigurationError(
                f"quorum must be a whole number, 1 or more, or None, got {self.quorum!r}"
            )
        # Models that are not named count 1, and nobody knows how many of them there are.
        heavy = sorted((weight for weight in weights.values() if weight > 1), reverse=True)
        heavy = heavy[: self.width]
        most = sum(heavy) + self.width - len(heavy)
        if self.quorum > most:
            raise ConfigurationError(
                f"quorum must be within reach: width {self.width!r} makes {most:g} at most,"
                f" got {self.quorum!r}"
            )


class Ranking:
    """Candidates with their scores in [0, 1], best first.

    Args:
        candidates: The candidates, in any order.
        scores: A score for each.
        plan: How to execute the ranking, if the selector has a wish.
        votes: For an ensemble: each voter's scores by model id.

    Raises:
        TypeError: The plan is no `Plan`.
        ValueError: There is not one score for each candidate, or one is not a number.

    Iterating gives `(candidate, score)` pairs, best first; equals keep their order.
    """

    __slots__ = ("_order", "candidates", "captured", "plan", "scores", "votes")

    captured: Sequence[tuple[Any, ...]] | None
    """What was scored of each candidate, its `View` last, where a built-in selector kept it."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        scores: Sequence[float],
        *,
        plan: Plan | None = None,
        votes: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        if len(candidates) != len(scores):
            raise ValueError(
                f"a ranking needs a score for each candidate, got {len(scores)} scores"
                f" for {len(candidates)} candidates"
            )
        for candidate, score in zip(candidates, scores, strict=True):
            if not _is_comparable(score):
                raise ValueError(f"a score must be a number, got {score!r} for {candidate!r}")
        if plan is not None and not isinstance(plan, Plan):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"plan must be a Plan or None, got {plan!r}")
        # Kept as they are now: who ranks may use a list again.
        self.candidates: Sequence[Candidate] = (
            tuple(candidates) if isinstance(candidates, list) else candidates
        )
        self.scores = tuple(scores)
        self.plan = plan
        self.votes = votes
        self.captured = None
        self._order: list[int] | None = None

    @classmethod
    def in_order(
        cls,
        candidates: Sequence[Candidate],
        *,
        plan: Plan | None = None,
        votes: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Self:
        """Rank candidates as they stand, with scores that fall evenly from 1."""
        n = len(candidates)
        return cls(candidates, [1 - i / n for i in range(n)], plan=plan, votes=votes)

    def order(self) -> Sequence[int]:
        """The candidates' places, best first; equals keep their order."""
        if self._order is None:
            scores = self.scores
            self._order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        return self._order

    def best(self) -> int:
        """The place of the best candidate; cheaper than the whole order."""
        return self.scores.index(max(self.scores))

    def score_at(self, place: int) -> float:
        """The score of the candidate at a place."""
        return self.scores[place]

    def __iter__(self) -> Iterator[tuple[Candidate, float]]:
        for i in self.order():
            yield self.candidates[i], self.scores[i]

    def __len__(self) -> int:
        return len(self.candidates)

    def __repr__(self) -> str:
        ranked = ", ".join(f"{c.config.model_id} {score:.3f}" for c, score in self)
        return f"<Ranking {ranked}>"


def _is_comparable(score: Any) -> bool:
    try:
        return bool(score >= 0 or score < 0)  # which not-a-number is not
    except (ArithmeticError, TypeError, ValueError):
        return False


class ModelSelector(Protocol):
    """Who comes first. Must not suspend, unless it looks something up."""

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank the candidates for this request.

        Args:
            request: The request.
            candidates: The eligible models, at least one; treat it as read-only.

        Returns:
            All or some of the candidates; those left out are not used, not as fallbacks either.
        """
        ...


def is_selector(given: object) -> bool:
    """Whether it selects: an object, not the class of one."""
    return not isinstance(given, type) and callable(getattr(given, "select", None))


class Provider(Protocol):
    """Calls models.

    A class attribute `cancels_promptly = True` promises that `complete` ends at once when its task
    is cancelled, and lets it run in the caller's task.
    """

    async def complete(self, call: Call, /) -> Completion:
        """Answer the call.

        Raises:
            ProviderError: What went wrong, by kind. Anything else counts as `UnavailableError`.
        """
        ...


@runtime_checkable
class StreamingProvider(Protocol):
    """A provider that streams as well."""

    async def complete(self, call: Call, /) -> Completion:
        """Answer the call at once. See `Provider`."""
        ...

    def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Answer the call in chunks.

        The last one has a `finish_reason`; ending without one is an interruption.
        """
        ...


@runtime_checkable
class OnStart(Protocol):
    """An observer told that a provider is about to be called."""

    def on_start(self, call: Call, /) -> AbstractContextManager[object] | None:
        """Return a context to be held while we wait for the provider, or None.

        What its `__exit__` returns is ignored.
        """
        ...


@runtime_checkable
class OnAttempt(Protocol):
    """An observer told of every attempt, when its request is decided."""

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
        """Called once for each attempt."""
        ...


@runtime_checkable
class OnResult(Protocol):
    """An observer told of every result: cached, shed and refused ones too."""

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        """Called once for each request."""
        ...


@runtime_checkable
class OnFeedback(Protocol):
    """An observer or a registered selector that learns from ratings (`LLMRouter.feedback`).

    A registered selector that has it is told of attempts and results, too, if it has those methods.
    """

    def on_feedback(self, request: QueryRequest, result: ExecutionResult, score: float, /) -> None:
        """Called once for each answer that is rated, however late, with a score from 0 to 1."""
        ...


Observer = OnStart | OnAttempt | OnResult | OnFeedback
"""Implement what you need of the four."""
