"""What each model's calls came to: rings of recent samples, and counters over all time.

One writer, the router's event loop; readers in any thread; no lock. Recording is O(1): a ring grows
to its window and from there on is overwritten in place.

Why readers need no lock under the GIL: whatever has to fit together is one tuple, published by one
assignment, and a ring is copied by one call into C that runs no Python code. So a reader meets the
state before or after a sample, never half of one. (A free-threaded build would need more.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from math import ceil, floor, isfinite
from operator import sub
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, final

from asyncroute._arguments import is_whole
from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("LatencyCurve", "MetricsTotals", "ModelMetrics", "ModelStatistics", "PerformanceMetrics")

# Sums are integers of these parts: they never drift, however many samples pass.
_NANO: Final = 1e9
_PICO: Final = 1e12

# The newest answer's share in the moving average: the last 20 answers make up 88 % of it.
_EWMA_WEIGHT: Final = 0.1

# Summed over all time: (outcomes, answers, nanoseconds, picodollars, input tokens, output tokens).
# A failure is an outcome without an answer and adds to nothing else here.
# A plain tuple, as a named one takes three times as long to make.
_Sums: TypeAlias = tuple[int, int, int, int, int, int]
_NO_SUMS: Final[_Sums] = (0, 0, 0, 0, 0, 0)
_OUTCOMES: Final = 0
_ANSWERS: Final = 1
_NANOS: Final = 2
_PICOS: Final = 3
_INPUTS: Final = 4
_OUTPUTS: Final = 5

# What calls without an answer came to:
# (superseded, cancelled, picodollars, input tokens, output tokens).
_Unanswered: TypeAlias = tuple[int, int, int, int, int]


@final
class ModelStatistics(NamedTuple):
    """One model's figures at one moment.

    Averages, success rate and percentiles are over the window, totals over all time. Averages are
    0.0 while there are no samples (`success_rate` is 1.0); percentiles and rates are None.
    """

    total_requests: int
    """Calls recorded: `successes + failures + superseded + cancelled`."""
    successes: int
    failures: int
    superseded: int
    """Calls given up because another answer was taken first."""
    cancelled: int
    """Calls given up because the caller had gone."""
    errors: dict[str, int]
    """Failures by kind of error."""
    success_rate: float
    avg_latency_ms: float
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    p50_first_token_ms: float | None
    p95_first_token_ms: float | None
    output_tokens_per_second: float | None
    """Of one stream while it flows: median."""
    avg_cost: float
    """Dollars an answer cost."""
    total_cost: float
    """Dollars spent: answers, failures, superseded and cancelled calls."""
    estimated_cost: float
    """The part of `total_cost` that no provider has confirmed."""
    avg_tokens: float
    """Input and output tokens of an answer."""
    total_input_tokens: int
    total_output_tokens: int
    active_requests: int
    queued_requests: int

    @property
    def total_tokens(self) -> int:
        """Input and output tokens over all time."""
        return self.total_input_tokens + self.total_output_tokens

    def to_dict(self) -> dict[str, object]:
        """Return the fields, and `total_tokens`, as a dictionary of plain values."""
        return {**self._asdict(), "total_tokens": self.total_tokens}


@final
class MetricsTotals(NamedTuple):
    """All models together.

    Counts are over the models kept now; money also over those removed since.
    """

    models: int
    total_requests: int
    successes: int
    failures: int
    superseded: int
    cancelled: int
    errors: dict[str, int]
    total_cost: float
    estimated_cost: float
    total_input_tokens: int
    total_output_tokens: int

    @property
    def total_tokens(self) -> int:
        """Input and output tokens over all time."""
        return self.total_input_tokens + self.total_output_tokens

    def to_dict(self) -> dict[str, object]:
        """Return the fields, and `total_tokens`, as a dictionary of plain values."""
        return {**self._asdict(), "total_tokens": self.total_tokens}


@final
class _Money:
    """What all models of one `PerformanceMetrics` cost, those removed included."""

    __slots__ = ("estimated_picos", "picos")

    def __init__(self) -> None:
        self.picos = 0
        self.estimated_picos = 0


@final
class LatencyCurve(dict[float, float | None]):
    """Quantiles of a ring as it was when some samples had been seen; worked out when asked for.

    Attributes:
        size: How many samples there were.
        stale_at: How many samples seen make it too old.
    """

    __slots__ = ("_bounds", "_values", "size", "stale_at")

    def __init__(self, samples: list[float], seen: int) -> None:
        super().__init__()
        samples.sort()
        split = bisect_left(samples, 0.0)
        self._bounds = [-bound for bound in reversed(samples[:split])]
        self._values = samples[split:]
        self.size = len(samples)
        # A tenth new at most: hedging asks on every call, and sorting is what each would pay for.
        self.stale_at = seen + max(1, self.size // 10)

    def __missing__(self, q: float) -> float | None:
        return self.setdefault(q, self._kaplan_meier(q))

    def _kaplan_meier(self, q: float) -> float | None:
        """Return the *q* quantile where some samples are only known to be larger than a bound.

        Every sample has the same weight until one leaves at its lower bound: its weight is then
        shared among all that are larger (Kaplan and Meier, 1958, in Efron's reading). Without
        bounds this is the nearest rank. Where only bounds are left, the largest sample is the best
        that is known.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q must be within [0, 1], got {q!r}")
        if not self.size:
            return None
        values, remaining = self._values, self.size
        passed, reached = 0, 0.0  # values below, and the probability up to there
        for bound in self._bounds:
            upto = bisect_right(values, bound, passed)
            at_bound = reached + (upto - passed) * (1.0 - reached) / remaining
            if at_bound >= q - 1e-9 and upto > passed:
                break
            remaining -= upto - passed + 1
            passed, reached = upto, at_bound
        if passed == len(values):
            return max(values[-1:] + self._bounds[-1:])
        share = (1.0 - reached) / remaining
        rank = max(ceil((q - reached) / share - 1e-9), 1)
        return values[min(passed + rank, len(values)) - 1]


_NO_CURVE: Final = LatencyCurve([], 0)


@final
class _Samples:
    """A ring of seconds. A lower bound is kept as its negative, so that both sort in one go."""

    __slots__ = ("_curve", "_ring", "_seen", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._ring: list[float] = []
        self._seen = 0
        self._curve = LatencyCurve([], 0)

    def add(self, seconds: float) -> None:
        seen = self._seen
        if seen < self._window:
            self._ring.append(seconds)
        else:
            self._ring[seen % self._window] = seconds
        self._seen = seen + 1

    def add_bound(self, seconds: float) -> None:
        if seconds > 0.0:  # "at least nothing" is no news
            self.add(-seconds)

    def curve(self) -> LatencyCurve:
        """Return the distribution as it is now."""
        seen = self._seen  # before the copy: then the curve is at worst newer than it says
        return LatencyCurve(self._ring.copy(), seen)

    def recent_curve(self) -> LatencyCurve:
        """Return a distribution that may lack the newest tenth."""
        curve = self._curve
        if self._seen >= curve.stale_at:
            curve = self._curve = self.curve()
        return curve

    def percentile(self, q: float, min_samples: int) -> float | None:
        """Return a quantile of a distribution that may lack the newest tenth."""
        curve = self.recent_curve()
        return curve[q] if curve.size >= min_samples else None


@final
class ModelMetrics:
    """What the calls of one model came to.

    Seconds and dollars are floats outside; inside, sums are integers and exact. Each call is
    recorded once, by the method that names its end. All of them are plain functions and belong to
    the loop's thread; everything that reads may be called from any thread.

    Attributes:
        model_id: The model's id.
        ewma_latency: Moving average of latency in seconds, the newest weighing 0.1; None before an
            answer.
        has_streamed: Whether a time to the first token was ever recorded.

    Args:
        model_id: The model's id, for the repr.
        window: How many recent samples each ring keeps; at least 1.

    Raises:
        ConfigurationError: If *window* is not a whole number from 1 on.
    """

    __slots__ = (
        "_errors",
        "_estimated_picos",
        "_first_tokens",
        "_history",
        "_latencies",
        "_money",
        "_output_rates",
        "_sums",
        "_unanswered",
        "_window",
        "ewma_latency",
        "has_streamed",
        "model_id",
    )

    def __init__(self, model_id: str, window: int = 1000, *, _money: _Money | None = None) -> None:
        self.model_id = model_id
        self._window = _checked_window(window)
        self._sums: _Sums = _NO_SUMS
        # The sums after each of the last `window + 1` outcomes: a mean over the window is a
        # difference of two of them, so that recording only ever adds.
        self._history: list[_Sums] = [_NO_SUMS]
        self._latencies = _Samples(self._window)
        self._first_tokens: _Samples | None = None
        self._output_rates: _Samples | None = None
        self.ewma_latency: float | None = None
        self.has_streamed = False
        self._errors: dict[str, int] = {}
        self._unanswered: _Unanswered = (0, 0, 0, 0, 0)
        self._estimated_picos = 0
        self._money = _Money() if _money is None else _money

    # Recording

    def record_success(
        self, latency: float, cost: float, input_tokens: int, output_tokens: int
    ) -> None:
        """Record an answer: *latency* in seconds, *cost* in dollars.

        Raises:
            ValueError, OverflowError: If *latency* or *cost* is not finite; nothing is recorded.
        """
        # Converted before anything is counted. `floor` of a half more is a third of `round`.
        nanos = floor(latency * _NANO + 0.5)
        picos = floor(cost * _PICO + 0.5)
        outcomes, answers, all_nanos, all_picos, inputs, outputs = self._sums
        outcomes += 1
        sums = (
            outcomes,
            answers + 1,
            all_nanos + nanos,
            all_picos + picos,
            inputs + input_tokens,
            outputs + output_tokens,
        )
        self._publish(outcomes, sums)
        self._latencies.add(latency)
        ewma = self.ewma_latency
        self.ewma_latency = latency if ewma is None else ewma + _EWMA_WEIGHT * (latency - ewma)
        self._money.picos += picos

    def record_failure(self, kind: str, cost: float, input_tokens: int, output_tokens: int) -> None:
        """Record a failure under its *kind* of error; its *cost* in dollars is spent.

        How long it took is not asked for: a model that fails fast must not look fast.
        """
        picos = floor(cost * _PICO + 0.5)
        outcomes, answers, nanos, all_picos, inputs, outputs = self._sums
        outcomes += 1
        self._publish(outcomes, (outcomes, answers, nanos, all_picos, inputs, outputs))
        self._errors[kind] = self._errors.get(kind, 0) + 1
        self._add_unanswered((0, 0, picos, input_tokens, output_tokens))

    def record_superseded(
        self, elapsed: float, cost: float, input_tokens: int, output_tokens: int
    ) -> None:
        """Record a call given up after *elapsed* seconds because another's answer was taken.

        It is no outcome. Its *cost* in dollars is spent, and its latency is known to be more than
        *elapsed*: percentiles take it as such a lower bound, the moving average only where the
        bound is above it. Were it dropped, only the fast calls would be left, percentiles would
        drift down and hedges would start ever earlier.
        """
        self._add_unanswered((1, 0, floor(cost * _PICO + 0.5), input_tokens, output_tokens))
        self._latencies.add_bound(elapsed)
        ewma = self.ewma_latency
        if ewma is not None and elapsed > ewma:
            self.ewma_latency = ewma + _EWMA_WEIGHT * (elapsed - ewma)

    def record_cancelled(self, cost: float, input_tokens: int, output_tokens: int) -> None:
        """Record a call whose caller had gone: it says nothing of the model, only *cost* counts."""
        self._add_unanswered((0, 1, floor(cost * _PICO + 0.5), input_tokens, output_tokens))

    def record_first_token(self, ttft: float) -> None:
        """Record the seconds from a stream's start to its first content."""
        if self._first_tokens is None:
            self._first_tokens = _Samples(self._window)
            self.has_streamed = True
        self._first_tokens.add(ttft)

    def record_no_first_token(self, elapsed: float) -> None:
        """Record a stream superseded after *elapsed* seconds, before its first content.

        A lower bound for `ttft_percentile`, as `record_superseded` is one for latency; a superseded
        stream is recorded by both.
        """
        if self._first_tokens is None:
            self._first_tokens = _Samples(self._window)
            self.has_streamed = True
        self._first_tokens.add_bound(elapsed)

    def record_output_rate(self, seconds_per_token: float) -> None:
        """Record how long one output token took a stream, once it flowed."""
        if self._output_rates is None:
            self._output_rates = _Samples(self._window)
        self._output_rates.add(seconds_per_token)

    def add_estimated_cost(self, cost: float) -> None:
        """Say that *cost* dollars of what was recorded are an estimate. Adds nothing to `spend`."""
        picos = floor(cost * _PICO + 0.5)
        self._estimated_picos += picos
        self._money.estimated_picos += picos

    # Recent: over the window

    @property
    def recent(self) -> tuple[int, int, int]:
        """Outcomes, answers, and the answers' output tokens in the window."""
        now, start = self._span()
        return (
            now[_OUTCOMES] - start[_OUTCOMES],
            now[_ANSWERS] - start[_ANSWERS],
            now[_OUTPUTS] - start[_OUTPUTS],
        )

    @property
    def samples(self) -> int:
        """Answers in the window."""
        now, start = self._span()
        return now[_ANSWERS] - start[_ANSWERS]

    @property
    def mean_latency(self) -> float | None:
        """Mean seconds of the answers in the window; None without one."""
        now, start = self._span()
        answers = now[_ANSWERS] - start[_ANSWERS]
        return (now[_NANOS] - start[_NANOS]) / answers / _NANO if answers else None

    @property
    def mean_cost(self) -> float | None:
        """Mean dollars of the answers in the window; None without one."""
        now, start = self._span()
        answers = now[_ANSWERS] - start[_ANSWERS]
        return (now[_PICOS] - start[_PICOS]) / answers / _PICO if answers else None

    @property
    def mean_output_tokens(self) -> float | None:
        """Mean output tokens of the answers in the window; None without one."""
        now, start = self._span()
        answers = now[_ANSWERS] - start[_ANSWERS]
        return (now[_OUTPUTS] - start[_OUTPUTS]) / answers if answers else None

    @property
    def success_rate(self) -> float:
        """Share of answers among the outcomes (answers, failures) in the window; 1.0 at first."""
        now, start = self._span()
        outcomes = now[_OUTCOMES] - start[_OUTCOMES]
        return (now[_ANSWERS] - start[_ANSWERS]) / outcomes if outcomes else 1.0

    @property
    def smoothed_success_rate(self) -> float:
        """`(answers + 5) / (outcomes + 5)`: a new model's first failure does not condemn it."""
        now, start = self._span()
        return (now[_ANSWERS] - start[_ANSWERS] + 5) / (now[_OUTCOMES] - start[_OUTCOMES] + 5)

    def latency_percentile(self, q: float, min_samples: int = 1) -> float | None:
        """Return the seconds that a share *q* of the calls stays within, superseded ones included.

        Made to be asked on every call: the newest tenth of the samples may be missing.

        Args:
            q: The share, within [0, 1]: 0.95 for the hedge delay.
            min_samples: Return None below so many samples.

        Raises:
            ValueError: If *q* is outside [0, 1].
        """
        return self._latencies.percentile(q, min_samples)

    def curve(self, *, streams: bool) -> LatencyCurve:
        """Return the quantiles of latency, or for streams of the time to the first content.

        Made to be asked on every call: the newest tenth of the samples may be missing.
        """
        samples = self._first_tokens if streams else self._latencies
        return _NO_CURVE if samples is None else samples.recent_curve()

    def ttft_percentile(self, q: float, min_samples: int = 1) -> float | None:
        """Return the seconds within which a share *q* of the streams brings its first content.

        As `latency_percentile` in everything else.
        """
        samples = self._first_tokens
        return None if samples is None else samples.percentile(q, min_samples)

    def seconds_per_output_token(self, min_samples: int = 1) -> float | None:
        """Return the median of `record_output_rate`; None below *min_samples*."""
        samples = self._output_rates
        return None if samples is None else samples.percentile(0.5, min_samples)

    # Over all time

    @property
    def requests(self) -> int:
        """Calls recorded, however they ended."""
        superseded, cancelled, _, _, _ = self._unanswered
        return self.successes + self.failures + superseded + cancelled

    @property
    def successes(self) -> int:
        """Answers."""
        return self._sums[_ANSWERS]

    @property
    def failures(self) -> int:
        """Failures of every kind."""
        return sum(self._errors.copy().values())

    @property
    def errors(self) -> dict[str, int]:
        """Failures by kind of error, a copy."""
        return self._errors.copy()

    @property
    def input_tokens(self) -> int:
        """Input tokens of all calls recorded."""
        return self._sums[_INPUTS] + self._unanswered[3]

    @property
    def output_tokens(self) -> int:
        """Output tokens of all calls recorded."""
        return self._sums[_OUTPUTS] + self._unanswered[4]

    @property
    def spend(self) -> float:
        """Dollars that all calls recorded cost, the sum exact to the picodollar."""
        return (self._sums[_PICOS] + self._unanswered[2]) / _PICO

    @property
    def estimated_spend(self) -> float:
        """The part of `spend` that is an estimate, in dollars."""
        return self._estimated_picos / _PICO

    def snapshot(self, active: int = 0, queued: int = 0) -> ModelStatistics:
        """Return all figures as they are now; *active* and *queued* are the caller's to know."""
        now, start = self._span()
        outcomes, answers, nanos, picos, inputs, outputs = map(sub, now, start)
        _, successes, _, spent, all_inputs, all_outputs = now
        superseded, cancelled, more_spent, more_inputs, more_outputs = self._unanswered
        errors = self._errors.copy()
        failures = sum(errors.values())
        p50, p95, p99 = _in_ms(self._latencies, 0.5, 0.95, 0.99)
        first_p50, first_p95 = _in_ms(self._first_tokens, 0.5, 0.95)
        (token_ms,) = _in_ms(self._output_rates, 0.5)
        per_answer = 1 / answers if answers else 0.0
        return ModelStatistics(
            total_requests=successes + failures + superseded + cancelled,
            successes=successes,
            failures=failures,
            superseded=superseded,
            cancelled=cancelled,
            errors=errors,
            success_rate=answers / outcomes if outcomes else 1.0,
            avg_latency_ms=nanos / 1e6 * per_answer,
            p50_latency_ms=p50,
            p95_latency_ms=p95,
            p99_latency_ms=p99,
            p50_first_token_ms=first_p50,
            p95_first_token_ms=first_p95,
            output_tokens_per_second=1e3 / token_ms if token_ms else None,
            avg_cost=picos / _PICO * per_answer,
            total_cost=(spent + more_spent) / _PICO,
            estimated_cost=self.estimated_spend,
            avg_tokens=(inputs + outputs) * per_answer,
            total_input_tokens=all_inputs + more_inputs,
            total_output_tokens=all_outputs + more_outputs,
            active_requests=active,
            queued_requests=queued,
        )

    def __repr__(self) -> str:
        latency = self.mean_latency
        pace = "no answer yet" if latency is None else f"mean {latency:.3f} s"
        return (
            f"<ModelMetrics {self.model_id}: {self.successes} answered, {self.failures} failed, "
            f"{pace}, ${self.spend:.6f}>"
        )

    def _publish(self, outcomes: int, sums: _Sums) -> None:
        # First the sums, then the ring: the slot written is the one that readers of the sums before
        # took for the start of their window, and they see that those were replaced meanwhile.
        self._sums = sums
        if outcomes <= self._window:
            self._history.append(sums)
        else:
            self._history[outcomes % (self._window + 1)] = sums

    def _span(self) -> tuple[_Sums, _Sums]:
        """Return the sums now and at the start of the window."""
        while True:
            sums = self._sums
            outcomes = sums[_OUTCOMES]
            if outcomes <= self._window:
                return sums, _NO_SUMS
            start = self._history[(outcomes + 1) % (self._window + 1)]
            if self._sums is sums:  # else another thread has recorded between the two reads
                return sums, start

    def _add_unanswered(self, more: _Unanswered) -> None:
        superseded, cancelled, picos, inputs, outputs = self._unanswered
        self._unanswered = (
            superseded + more[0],
            cancelled + more[1],
            picos + more[2],
            inputs + more[3],
            outputs + more[4],
        )
        self._money.picos += more[2]


@final
class PerformanceMetrics:
    """The `ModelMetrics` of every model, and what they cost together.

    Usable by itself::

        metrics = PerformanceMetrics()
        metrics.record("small", latency=0.8, cost=0.0004, input_tokens=120, output_tokens=60)
        metrics["small"].success_rate

    Args:
        window: How many recent samples each ring keeps; at least 1.

    Raises:
        ConfigurationError: If *window* is not a whole number from 1 on.
    """

    __slots__ = ("_models", "_money", "_window")

    def __init__(self, window: int = 1000) -> None:
        self._window = _checked_window(window)
        self._models: dict[str, ModelMetrics] = {}
        self._money = _Money()

    def for_model(self, model_id: str) -> ModelMetrics:
        """Return the metrics of a model, made when first asked for."""
        metrics = self._models.get(model_id)
        if metrics is None:
            metrics = ModelMetrics(model_id, self._window, _money=self._money)
            self._models[model_id] = metrics
        return metrics

    def remove(self, model_id: str) -> None:
        """Forget a model, if it is known.

        What it cost stays in `total_spend`, and so does what its calls in flight, which still hold
        its `ModelMetrics`, are yet to cost.
        """
        self._models.pop(model_id, None)

    def record(
        self,
        model_id: str,
        latency: float,
        cost: float = 0.0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        success: bool = True,
    ) -> None:
        """Record one call of a model: *latency* in seconds, *cost* in dollars.

        A failure is counted under the kind `provider`, and its latency is not taken; who knows more
        of it says so with `for_model(model_id).record_failure(...)`.

        Raises:
            ValueError: If a figure is negative or not finite; nothing is recorded.
        """
        figures = (latency, cost, input_tokens, output_tokens)
        names = ("latency", "cost", "input_tokens", "output_tokens")
        for name, figure in zip(names, figures, strict=True):
            if not (isfinite(figure) and figure >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {figure!r}")
        metrics = self.for_model(model_id)
        if success:
            metrics.record_success(latency, cost, input_tokens, output_tokens)
        else:
            metrics.record_failure("provider", cost, input_tokens, output_tokens)

    @property
    def total_spend(self) -> float:
        """Dollars spent over all time, on models removed since too; exact to the picodollar."""
        return self._money.picos / _PICO

    @property
    def estimated_spend(self) -> float:
        """The part of `total_spend` that is an estimate, in dollars."""
        return self._money.estimated_picos / _PICO

    def snapshot(self) -> MetricsTotals:
        """Return what all models came to together, as it is now."""
        models = [model.snapshot() for model in self._models.copy().values()]
        errors: Counter[str] = Counter()
        for model in models:
            errors.update(model.errors)
        return MetricsTotals(
            models=len(models),
            total_requests=sum(model.total_requests for model in models),
            successes=sum(model.successes for model in models),
            failures=sum(model.failures for model in models),
            superseded=sum(model.superseded for model in models),
            cancelled=sum(model.cancelled for model in models),
            errors=dict(errors),
            total_cost=self.total_spend,
            estimated_cost=self.estimated_spend,
            total_input_tokens=sum(model.total_input_tokens for model in models),
            total_output_tokens=sum(model.total_output_tokens for model in models),
        )

    def __getitem__(self, model_id: str) -> ModelMetrics:
        return self._models[model_id]

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models.copy())

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        return f"<PerformanceMetrics of {len(self)} models, ${self.total_spend:.6f}>"


def _checked_window(window: int) -> int:
    if not (is_whole(window) and window >= 1):
        raise ConfigurationError(f"window must be a whole number, at least 1, got {window!r}")
    return window


def _in_ms(samples: _Samples | None, *shares: float) -> list[float | None]:
    if samples is None:
        return [None] * len(shares)
    curve = samples.curve()
    seconds = [curve[q] for q in shares]
    return [None if value is None else value * 1e3 for value in seconds]
