"""What comes back: decisions and results.

Slotted dataclasses, as in `_values`. What is not a field (the exception behind an error, the state
a decision was made from) sits in a base class's slot, out of the way of serialisers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, final

from asyncroute._errors import AsyncRouteError
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._values import Attempt, Usage

__all__ = ("CandidateView", "ExecutionResult", "RoutingDecision", "Trace", "decided")


class CandidateView(NamedTuple):
    """How a candidate looked when the decision was made.

    Attributes:
        model: Its configuration.
        score: The selector's score, 0 to 1.
        expected_cost: Dollars.
        expected_latency: Seconds.
    """

    model: ModelConfig
    score: float
    expected_cost: float
    expected_latency: float


class Trace(Protocol):
    """What a decision was made from: values captured when deciding, shaped when somebody asks."""

    def facts(self) -> tuple[Any, ...]:
        """All fields of the decision in their order, but for `fallback_models`, which are None."""
        ...

    def fallbacks(self) -> tuple[ModelConfig, ...]:
        """The models that follow the best one, in order."""
        ...

    def candidates(self) -> tuple[CandidateView, ...]:
        """The candidates, best first."""
        ...

    def votes(self) -> Mapping[str, Mapping[str, float]]:
        """For an ensemble: each voter's scores by model id; else empty."""
        ...


class _Traced:
    __slots__ = ("trace",)
    trace: Trace


@final
@dataclass(slots=True)
class RoutingDecision(_Traced):
    """Which model was chosen for a request, and why.

    Attributes:
        request: The request.
        strategy: The name of the strategy.
        selected_model: The model that comes first.
        fallback_models: Those that follow, in order.
        expected_cost: Dollars the selected model is expected to cost.
        expected_latency_ms: Milliseconds it is expected to take.
        score: Its score, 0 to 1.
        rejected: For every model not eligible, by id, the reason; also for every name in the
            request's `models` and `exclude` that no model has.
        relaxed: Constraints that were dropped to find any model, in order.
        cached: Whether the eligible set came from the decision cache.
    """

    request: QueryRequest
    strategy: str
    selected_model: ModelConfig
    fallback_models: Sequence[ModelConfig]
    expected_cost: float
    expected_latency_ms: float
    score: float
    rejected: Mapping[str, str]
    relaxed: tuple[str, ...] = ()
    cached: bool = False

    if not TYPE_CHECKING:  # else no misspelt attribute would be told of

        def __getattr__(self, name: str) -> Any:
            """Shape a field that was not read before: see `decided`."""
            if name not in _FIELDS:
                raise AttributeError(f"a RoutingDecision has no {name!r}")
            trace = getattr(self, "trace", None)
            if trace is None:
                raise AttributeError(f"{name!r} was not set")
            if name == "fallback_models":  # takes sorting, and is asked for by itself
                value = trace.fallbacks()
            else:
                value = trace.facts()[_FIELDS.index(name)]
            setattr(self, name, value)
            return value

    @property
    def candidates(self) -> tuple[CandidateView, ...]:
        """The eligible models as they looked when deciding, best first."""
        trace = getattr(self, "trace", None)
        return () if trace is None else trace.candidates()

    @property
    def votes(self) -> Mapping[str, Mapping[str, float]]:
        """For an ensemble: each voter's scores by model id; else empty."""
        trace = getattr(self, "trace", None)
        return {} if trace is None else trace.votes()

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied and pickled as values: the trace leads to the live models of a router.
        given = tuple(getattr(self, field.name) for field in fields(self))
        return _restored, (given, _Shaped(self.candidates, self.votes))

    def explain(self) -> str:
        """Describe the decision as a readable table, at most 80 columns wide.

        Returns:
            Plain text: the candidates best first, the models rejected and why, what was relaxed.
        """
        lines = [_wrapped(f"{self.strategy} chose {self.selected_model.model_id}"), ""]
        lines.append(f"  {'model':<32} {'score':>6} {'expected cost':>14} {'latency':>9}")
        for view in self.candidates:
            marker = "*" if view.model.model_id == self.selected_model.model_id else " "
            lines.append(
                f"{marker} {view.model.model_id:<32.32} {view.score:>6.3f}"
                f" {'$' + format(view.expected_cost, '.6g'):>14.14} {view.expected_latency:>7.2f} s"
            )
        for voter, scores in self.votes.items():
            votes = ", ".join(f"{model} {score:.2f}" for model, score in scores.items())
            lines.append(_wrapped(f"  vote of {voter}: {votes}"))
        if self.relaxed:
            lines.append(_wrapped(f"  relaxed to find any model: {', '.join(self.relaxed)}"))
        lines.extend(_wrapped(f"- {model}: {reason}") for model, reason in self.rejected.items())
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Give the dictionary of the specification, without `params` of any kind."""
        return {
            "selected_model": self.selected_model.model_dump(),
            "fallback_models": [model.model_dump() for model in self.fallback_models],
            "strategy": self.strategy,
            "expected_cost": self.expected_cost,
            "expected_latency_ms": self.expected_latency_ms,
            "score": self.score,
            "rejected": dict(self.rejected),
            "relaxed": list(self.relaxed),
            "cached": self.cached,
            "candidates": [
                {
                    "model_id": view.model.model_id,
                    "score": view.score,
                    "expected_cost": view.expected_cost,
                    "expected_latency_ms": view.expected_latency * 1000,
                }
                for view in self.candidates
            ],
            "votes": {voter: dict(scores) for voter, scores in self.votes.items()},
            "request": self.request.model_dump(),
        }


class _Shaped(NamedTuple):
    """The trace of a decision that was copied: what it came to."""

    seen: tuple[CandidateView, ...]
    voted: Mapping[str, Mapping[str, float]]

    def facts(self) -> tuple[Any, ...]:
        raise AttributeError("the decision was given its fields")

    def candidates(self) -> tuple[CandidateView, ...]:
        return self.seen

    def fallbacks(self) -> tuple[ModelConfig, ...]:
        return tuple(view.model for view in self.seen[1:])

    def votes(self) -> Mapping[str, Mapping[str, float]]:
        return self.voted


def _restored(given: tuple[Any, ...], trace: Trace) -> RoutingDecision:
    decision = RoutingDecision(*given)
    decision.trace = trace
    return decision


class _Kept:
    """What a result has beside its fields, each unset until it is needed."""

    __slots__ = ("_exception", "recalled")
    _exception: Exception
    recalled: Callable[[str], ExecutionResult]
    """Makes it again as it comes from the cache, for a request's id."""

    def fail_with(self, exception: Exception) -> None:
        """Attach the exception behind the error. For the router."""
        self._exception = exception


@final
@dataclass(slots=True)
class ExecutionResult(_Kept):
    """What became of a request. Check `success`, or call `unwrap()`.

    Attributes:
        success: Whether there is an answer.
        model_id: The model that answered, or the last one tried; None where none was reached.
        actual_latency_ms: Milliseconds from the start of the request to its end.
        actual_cost: Dollars that all attempts cost together, as known when the request ended.
        tokens_used: Tokens of the answer's model, in and out.
        response: The answer's text.
        error: The error's text.
        error_kind: The error's class in snake case without `_error`.
        usage: Tokens of the answer's model as billed.
        finish_reason: Why the answer ended, in the provider's word.
        tool_calls: Tool calls as the chat API gives them.
        attempts: What was tried, in the order of their starts.
        decision: How the model was chosen.
        cached: Whether the answer came from the result cache (and cost nothing).
        simulated: Whether a simulated provider answered.
        request_id: By which `feedback` and logs find this request again.
    """

    success: bool
    model_id: str | None
    actual_latency_ms: float
    actual_cost: float
    tokens_used: int
    response: str | None
    error: str | None = None
    error_kind: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    attempts: tuple[Attempt, ...] = ()
    decision: RoutingDecision | None = None
    cached: bool = False
    simulated: bool = False
    request_id: str = ""

    @property
    def exception(self) -> Exception | None:
        """The exception behind `error`, if the router made this result."""
        return getattr(self, "_exception", None)

    def unwrap(self) -> str:
        """Return the response, or raise what prevented it.

        Raises:
            AsyncRouteError: What `error_kind` names.
        """
        if self.success:
            return self.response or ""
        raise self.exception or AsyncRouteError(self.error or "the request failed")

    def to_dict(self) -> dict[str, Any]:
        """Give the dictionary of the specification; `model_used` is the `model_id`."""
        shaped = {field.name: getattr(self, field.name) for field in fields(self)}
        shaped["model_used"] = self.model_id
        shaped["usage"] = None if self.usage is None else asdict(self.usage)
        shaped["tool_calls"] = list(self.tool_calls)
        shaped["attempts"] = [asdict(attempt) for attempt in self.attempts]
        shaped["decision"] = None if self.decision is None else self.decision.to_dict()
        return shaped


def _wrapped(text: str) -> str:
    return textwrap.fill(text, width=80, subsequent_indent="    ")


_FIELDS = tuple(field.name for field in fields(RoutingDecision))


def decided(trace: Trace) -> RoutingDecision:
    """Make the decision whose trace this is, with fields that are shaped when they are read.

    Shaping them costs a tenth of a whole request, and they are hardly ever read.
    """
    decision = object.__new__(RoutingDecision)
    decision.trace = trace
    return decision
