"""What each model's calls came to: rings of recent samples, and counters over all time."""

from __future__ import annotations

import statistics
import sys
import threading
from fractions import Fraction
from math import ceil, inf, nan
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncroute._errors import ConfigurationError
from asyncroute._metrics import ModelMetrics, PerformanceMetrics


def answered(*latencies: float, window: int = 1000) -> ModelMetrics:
    metrics = ModelMetrics("small", window)
    for latency in latencies:
        metrics.record_success(latency, 0.0, 0, 0)
    return metrics


# Recent


def test_without_samples_nothing_is_claimed() -> None:
    metrics = ModelMetrics("small")
    assert metrics.samples == 0
    assert metrics.mean_latency is None
    assert metrics.mean_cost is None
    assert metrics.mean_output_tokens is None
    assert metrics.ewma_latency is None
    assert metrics.latency_percentile(0.5) is None
    assert metrics.ttft_percentile(0.5) is None
    assert metrics.seconds_per_output_token() is None
    assert metrics.success_rate == metrics.smoothed_success_rate == 1.0
    assert metrics.spend == 0.0


def test_means_are_over_the_answers_in_the_window() -> None:
    metrics = ModelMetrics("small", 3)
    for number in range(1, 6):
        metrics.record_success(number, number / 1000, 10 * number, 100 * number)
    assert metrics.samples == 3
    assert metrics.mean_latency == 4.0
    assert metrics.mean_cost == 0.004
    assert metrics.mean_output_tokens == 400


def test_a_window_of_one_is_the_last_answer() -> None:
    metrics = answered(3, 1, 2, window=1)
    assert metrics.mean_latency == 2.0
    assert metrics.latency_percentile(0.0) == metrics.latency_percentile(1.0) == 2.0


def test_means_do_not_drift() -> None:
    metrics = ModelMetrics("small", 10)
    metrics.record_success(1e6, 1e6, 0, 0)
    for _ in range(20_000):
        metrics.record_success(0.1, 0.0003, 0, 0)
    assert metrics.mean_latency == 0.1
    assert metrics.mean_cost == 0.0003


def test_the_success_rate_is_over_the_outcomes_in_the_window() -> None:
    metrics = ModelMetrics("small", 4)
    for is_answer in (False, False, True, True, True, False):
        if is_answer:
            metrics.record_success(1.0, 0.0, 0, 0)
        else:
            metrics.record_failure("unavailable", 0.0, 0, 0)
    assert metrics.success_rate == 0.75
    assert metrics.smoothed_success_rate == 8 / 9


def test_fast_failures_never_look_fast() -> None:
    metrics = answered(2.0, 2.0)
    for _ in range(500):
        metrics.record_failure("rate_limited", 0.0, 0, 0)
    assert metrics.mean_latency == metrics.ewma_latency == 2.0
    assert metrics.latency_percentile(0.01) == 2.0
    assert metrics.samples == 2


def test_recent_answers_weigh_most_in_the_moving_average() -> None:
    metrics = answered(*[1.0] * 50, *[11.0] * 20)
    assert metrics.ewma_latency == pytest.approx(1 + 10 * (1 - 0.9**20))
    assert answered(4.0).ewma_latency == 4.0


# Percentiles


def test_percentiles_are_nearest_ranks() -> None:
    metrics = answered(*[number / 10 for number in range(100, 0, -1)])
    assert metrics.latency_percentile(0.0) == 0.1
    assert metrics.latency_percentile(0.07) == 0.7
    assert metrics.latency_percentile(0.5) == 5.0
    assert metrics.latency_percentile(0.95) == 9.5
    assert metrics.latency_percentile(0.951) == 9.6
    assert metrics.latency_percentile(1.0) == 10.0


def test_below_min_samples_there_is_no_percentile() -> None:
    metrics = answered(*[1.0] * 19)
    assert metrics.latency_percentile(0.95, 20) is None
    assert metrics.latency_percentile(0.95) == 1.0
    metrics.record_success(1.0, 0.0, 0, 0)
    assert metrics.latency_percentile(0.95, 20) == 1.0


@pytest.mark.parametrize("q", [-0.01, 1.01, nan, 95])
def test_a_share_outside_its_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"q must be within \[0, 1\], got"):
        answered(1.0).latency_percentile(q)


def test_percentiles_lack_the_newest_tenth_at_most() -> None:
    metrics = answered(*[1.0] * 100)
    assert metrics.latency_percentile(0.99) == 1.0
    for _ in range(9):
        metrics.record_success(5.0, 0.0, 0, 0)
    assert metrics.latency_percentile(0.99) == 1.0
    metrics.record_success(5.0, 0.0, 0, 0)
    assert metrics.latency_percentile(0.99) == 5.0
    assert metrics.latency_percentile(0.9) == 1.0


def test_a_snapshot_lacks_nothing() -> None:
    metrics = answered(*[1.0] * 100)
    assert metrics.latency_percentile(0.99) == 1.0
    for _ in range(5):
        metrics.record_success(5.0, 0.0, 0, 0)
    assert metrics.snapshot().p99_latency_ms == 5000.0


def test_only_the_window_counts() -> None:
    assert answered(9, 9, 9, 1, 2, 3, window=3).latency_percentile(1.0) == 3.0


# Superseded calls: their latency is known to be more than the time they had


def test_a_superseded_call_is_no_answer_and_no_failure() -> None:
    metrics = answered(1.0)
    metrics.record_superseded(0.5, 0.25, 10, 2)
    assert metrics.samples == metrics.requests - 1 == metrics.successes == 1
    assert metrics.success_rate == 1.0
    assert metrics.mean_latency == 1.0
    assert metrics.spend == 0.25


def test_superseded_calls_never_drag_a_percentile_down() -> None:
    metrics = answered(*range(1, 21))
    before = [metrics.latency_percentile(q / 20) for q in range(21)]
    for _ in range(20):
        metrics.record_superseded(0.9, 0.0, 0, 0)  # lost a race in which the other was very fast
    assert [metrics.latency_percentile(q / 20) for q in range(21)] == before


def test_a_lower_bound_weighs_for_what_is_above_it() -> None:
    metrics = answered(1, 2, 3, 4)
    metrics.record_superseded(2.5, 0.0, 0, 0)
    # A fifth each for 1 and 2; the bound's fifth goes to 3 and 4 in equal parts.
    assert metrics.latency_percentile(0.4) == 2
    assert metrics.latency_percentile(0.41) == 3
    assert metrics.latency_percentile(0.7) == 3
    assert metrics.latency_percentile(0.71) == 4


def test_where_only_bounds_are_left_the_largest_sample_is_the_best_guess() -> None:
    metrics = answered(*[1.0] * 18)
    metrics.record_superseded(3.0, 0.0, 0, 0)
    metrics.record_superseded(2.0, 0.0, 0, 0)
    assert metrics.latency_percentile(0.9) == 1.0
    assert metrics.latency_percentile(0.95) == 3.0
    only = ModelMetrics("small")
    only.record_superseded(2.0, 0.0, 0, 0)
    assert only.latency_percentile(0.5) == 2.0
    assert only.mean_latency is None


@pytest.mark.parametrize("elapsed", [0.0, -0.0])
def test_a_bound_of_nothing_is_no_news(elapsed: float) -> None:
    metrics = answered(1.0, 2.0)
    metrics.record_superseded(elapsed, 0.0, 0, 0)
    assert metrics.latency_percentile(0.0) == 1.0


def test_the_moving_average_takes_a_bound_only_upwards() -> None:
    metrics = answered(2.0)
    metrics.record_superseded(1.0, 0.0, 0, 0)
    assert metrics.ewma_latency == 2.0
    metrics.record_superseded(12.0, 0.0, 0, 0)
    assert metrics.ewma_latency == 3.0


def test_hedging_at_p95_does_not_pull_p95_down() -> None:
    # A twentieth of the calls stalls and loses against the hedge. Were it left out, what is then
    # the slowest twentieth would be hedged next, and so on down.
    metrics = answered(*[1 + number / 100 for number in range(100)])
    first = metrics.latency_percentile(0.95, 20)
    assert first is not None
    for number in range(5000):
        hedge_after = metrics.latency_percentile(0.95, 20)
        assert hedge_after is not None
        latency = 1 + (number * 37 % 100) / 100
        if latency > hedge_after:
            metrics.record_superseded(hedge_after + 0.01, 0.0, 0, 0)
        else:
            metrics.record_success(latency, 0.0, 0, 0)
    assert metrics.latency_percentile(0.95) == pytest.approx(first, abs=0.02)


def efron(values: list[int], bounds: list[int], q: Fraction) -> int:
    """Redistribute to the right, literally and exactly."""
    everything = sorted([(value, 0) for value in values] + [(bound, 1) for bound in bounds])
    weights = [Fraction(1, len(everything))] * len(everything)
    for at, (_, is_bound) in enumerate(everything):
        right = len(everything) - at - 1
        if is_bound and right:
            for other in range(at + 1, len(everything)):
                weights[other] += weights[at] / right
            weights[at] = Fraction(0)
    reached = Fraction(0)
    for (value, is_bound), weight in zip(everything, weights, strict=True):
        if not is_bound:
            reached += weight
            if reached >= q:
                return value
    return everything[-1][0]


@given(
    values=st.lists(st.integers(0, 30), max_size=25),
    bounds=st.lists(st.integers(1, 30), max_size=12),
    twentieths=st.integers(0, 20),
)
@example(values=[3, 2, 9, 6, 5, 4, 1], bounds=[8, 3, 9], twentieths=13)
def test_percentiles_agree_with_an_exact_redistribution(
    values: list[int], bounds: list[int], twentieths: int
) -> None:
    metrics = answered(*values)
    for bound in bounds:
        metrics.record_superseded(bound, 0.0, 0, 0)
    if values or bounds:
        expected = efron(values, bounds, Fraction(twentieths, 20))
        assert metrics.latency_percentile(twentieths / 20) == expected


# First tokens and output rates


def test_first_tokens_have_a_ring_of_their_own() -> None:
    metrics = answered(9.0)
    for ttft in (0.1, 0.2, 0.3, 0.4):
        metrics.record_first_token(ttft)
    assert metrics.ttft_percentile(0.5) == 0.2
    assert metrics.ttft_percentile(0.5, 5) is None
    metrics.record_no_first_token(0.35)
    assert metrics.ttft_percentile(0.5) == 0.3
    assert metrics.latency_percentile(0.5) == 9.0


def test_a_stream_given_up_before_its_first_token_may_come_first() -> None:
    metrics = ModelMetrics("small")
    metrics.record_no_first_token(3.0)
    assert metrics.ttft_percentile(0.95) == 3.0


def test_the_output_rate_is_a_median() -> None:
    metrics = ModelMetrics("small")
    for seconds in (0.01, 0.02, 5.0):
        metrics.record_output_rate(seconds)
    assert metrics.seconds_per_output_token() == 0.02
    assert metrics.seconds_per_output_token(4) is None
    assert metrics.snapshot().output_tokens_per_second == 50.0


# Over all time


def test_every_call_counts_once_and_every_cost_is_spent() -> None:
    metrics = ModelMetrics("small", 2)
    for _ in range(5):
        metrics.record_success(1.0, 0.1, 100, 10)
    metrics.record_failure("rate_limited", 0.0, 0, 0)
    metrics.record_failure("rate_limited", 0.01, 1, 0)
    metrics.record_failure("unavailable", 0.02, 2, 1)
    metrics.record_superseded(0.5, 0.03, 3, 2)
    metrics.record_cancelled(0.04, 4, 3)
    assert metrics.requests == 10
    assert metrics.successes == 5
    assert metrics.failures == 3
    assert metrics.errors == {"rate_limited": 2, "unavailable": 1}
    assert metrics.input_tokens == 510
    assert metrics.output_tokens == 56
    assert metrics.spend == 0.6


def test_cancelled_calls_say_nothing_of_the_model() -> None:
    metrics = answered(1.0)
    metrics.record_cancelled(0.5, 10, 0)
    assert metrics.success_rate == 1.0
    assert metrics.latency_percentile(0.0) == metrics.mean_latency == metrics.ewma_latency == 1.0


def test_spend_is_exact_where_floats_are_not() -> None:
    metrics = ModelMetrics("small", 10)
    for _ in range(1000):
        metrics.record_success(1.0, 0.1, 0, 0)
        metrics.record_cancelled(0.000_000_000_001, 0, 0)
    drifted = 0.0
    for _ in range(1000):  # not `sum`, which makes up for the drift from Python 3.12 on
        drifted += 0.1
    assert drifted != 100.0
    assert metrics.spend == 100.000_000_001


def test_estimated_spend_is_a_part_of_spend() -> None:
    metrics = PerformanceMetrics()
    model = metrics.for_model("small")
    model.record_cancelled(0.5, 0, 0)
    model.add_estimated_cost(0.25)
    assert (model.spend, model.estimated_spend) == (0.5, 0.25)
    assert (metrics.total_spend, metrics.estimated_spend) == (0.5, 0.25)


@pytest.mark.parametrize(("latency", "cost"), [(nan, 0.0), (1.0, nan), (inf, 0.0), (1.0, inf)])
def test_what_is_no_number_is_refused_before_anything_is_counted(
    latency: float, cost: float
) -> None:
    metrics = ModelMetrics("small")
    with pytest.raises((ValueError, OverflowError)):
        metrics.record_success(latency, cost, 1, 1)
    assert metrics.snapshot() == ModelMetrics("small").snapshot()


def test_rings_stop_growing_at_their_window() -> None:
    metrics = answered(*range(50), window=10)
    for _ in range(50):
        metrics.record_superseded(1.0, 0.0, 0, 0)
        metrics.record_failure("unavailable", 0.0, 0, 0)
        metrics.record_first_token(1.0)
    assert len(metrics._history) == 11
    assert len(metrics._latencies._ring) == 10
    assert metrics._first_tokens is not None
    assert len(metrics._first_tokens._ring) == 10


def test_a_snapshot_has_every_figure() -> None:
    metrics = ModelMetrics("small")
    metrics.record_success(0.5, 0.002, 100, 20)
    metrics.record_success(1.5, 0.004, 300, 40)
    metrics.record_failure("unavailable", 0.001, 50, 0)
    metrics.record_superseded(0.1, 0.001, 50, 5)
    metrics.record_cancelled(0.001, 50, 5)
    metrics.add_estimated_cost(0.002)
    metrics.record_first_token(0.2)
    metrics.record_output_rate(0.025)
    assert metrics.snapshot(active=3, queued=4).to_dict() == {
        "total_requests": 5,
        "successes": 2,
        "failures": 1,
        "superseded": 1,
        "cancelled": 1,
        "errors": {"unavailable": 1},
        "success_rate": 2 / 3,
        "avg_latency_ms": 1000.0,
        "p50_latency_ms": 500.0,
        "p95_latency_ms": 1500.0,
        "p99_latency_ms": 1500.0,
        "p50_first_token_ms": 200.0,
        "p95_first_token_ms": 200.0,
        "output_tokens_per_second": 40.0,
        "avg_cost": 0.003,
        "total_cost": 0.009,
        "estimated_cost": 0.002,
        "avg_tokens": 230.0,
        "total_input_tokens": 550,
        "total_output_tokens": 70,
        "total_tokens": 620,
        "active_requests": 3,
        "queued_requests": 4,
    }


def test_a_model_without_calls_can_be_printed() -> None:
    stats = ModelMetrics("small").snapshot()
    assert f"{stats.avg_latency_ms:.0f} {stats.avg_cost:.4f} {stats.success_rate:.0%}" == (
        "0 0.0000 100%"
    )
    assert stats.p95_latency_ms is None


def test_a_snapshot_does_not_change_afterwards() -> None:
    metrics = ModelMetrics("small")
    metrics.record_failure("unavailable", 0.0, 0, 0)
    stats = metrics.snapshot()
    metrics.record_failure("unavailable", 0.0, 0, 0)
    assert stats.errors == {"unavailable": 1}


def test_reprs_say_how_it_goes() -> None:
    metrics = PerformanceMetrics()
    assert repr(metrics.for_model("small")) == (
        "<ModelMetrics small: 0 answered, 0 failed, no answer yet, $0.000000>"
    )
    metrics.record("small", 0.5, 0.25)
    assert repr(metrics["small"]) == (
        "<ModelMetrics small: 1 answered, 0 failed, mean 0.500 s, $0.250000>"
    )
    assert repr(metrics) == "<PerformanceMetrics of 1 models, $0.250000>"


# All models


def test_metrics_of_a_model_are_made_on_demand_and_only_then() -> None:
    metrics = PerformanceMetrics(window=2)
    with pytest.raises(KeyError):
        metrics["small"]
    assert "small" not in metrics
    small = metrics.for_model("small")
    assert metrics["small"] is small is metrics.for_model("small")
    assert list(metrics) == ["small"]
    assert len(metrics) == 1


def test_money_stays_after_a_model_is_removed_and_is_forgotten_nowhere() -> None:
    metrics = PerformanceMetrics()
    metrics.record("small", 1.0, 0.1)
    metrics.record("large", 1.0, 0.2)
    in_flight = metrics["large"]
    metrics.remove("large")
    metrics.remove("large")
    in_flight.record_success(1.0, 0.3, 10, 10)
    metrics.record("large", 1.0, 0.4)
    assert metrics.total_spend == 1.0
    assert metrics["large"].spend == 0.4


def test_models_add_up() -> None:
    metrics = PerformanceMetrics()
    metrics.record("small", 1.0, 0.1, 10, 1)
    metrics.record("small", 1.0, 0.2, 10, 1, success=False)
    metrics.record("large", 2.0, 0.3, 100, 10, success=False)
    metrics["large"].record_failure("rate_limited", 0.0, 0, 0)
    metrics["large"].record_superseded(1.0, 0.1, 0, 0)
    metrics["large"].record_cancelled(0.1, 0, 0)
    assert metrics.snapshot().to_dict() == {
        "models": 2,
        "total_requests": 6,
        "successes": 1,
        "failures": 3,
        "superseded": 1,
        "cancelled": 1,
        "errors": {"provider": 2, "rate_limited": 1},
        "total_cost": 0.8,
        "estimated_cost": 0.0,
        "total_input_tokens": 120,
        "total_output_tokens": 12,
        "total_tokens": 132,
    }


@pytest.mark.parametrize("name", ["latency", "cost", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("figure", [-1, nan, inf])
def test_a_figure_that_cannot_be_is_refused_by_name(name: str, figure: float) -> None:
    metrics = PerformanceMetrics()
    with pytest.raises(ValueError, match=f"{name} must be finite and not negative, got {figure}"):
        metrics.record("small", **{"latency": 1.0, name: figure})  # type: ignore[arg-type]
    assert len(metrics) == 0


@pytest.mark.parametrize("owner", [PerformanceMetrics, lambda window: ModelMetrics("m", window)])
def test_a_window_of_nothing_is_refused(owner: type[PerformanceMetrics]) -> None:
    with pytest.raises(ConfigurationError, match=r"window must be .* at least 1, got 0"):
        owner(0)
    with pytest.raises(ConfigurationError, match=r"window must be a whole number.* got 2\.5"):
        owner(2.5)  # type: ignore[arg-type]


calls = st.lists(
    st.tuples(
        st.sampled_from(["success", "failure", "superseded", "cancelled"]),
        st.integers(0, 10**12),
        st.integers(0, 10**10),
        st.integers(0, 5000),
    ),
    max_size=60,
)


@given(calls=calls, window=st.integers(1, 20))
def test_figures_agree_with_a_plain_list_of_calls(
    calls: list[tuple[str, int, int, int]], window: int
) -> None:
    metrics = ModelMetrics("small", window)
    for end, nanos, picos, tokens in calls:
        latency, cost = nanos / 1e9, picos / 1e12
        if end == "success":
            metrics.record_success(latency, cost, tokens, 2 * tokens)
        elif end == "failure":
            metrics.record_failure("unavailable", cost, tokens, 0)
        elif end == "superseded":
            metrics.record_superseded(latency, cost, tokens, 0)
        else:
            metrics.record_cancelled(cost, tokens, 0)
    outcomes = [call for call in calls if call[0] in ("success", "failure")][-window:]
    answers = [call for call in outcomes if call[0] == "success"]
    assert metrics.samples == len(answers)
    assert metrics.success_rate == (len(answers) / len(outcomes) if outcomes else 1.0)
    if answers:
        assert metrics.mean_latency == pytest.approx(
            statistics.fmean(call[1] for call in answers) / 1e9, rel=1e-12
        )
        assert metrics.mean_cost == pytest.approx(
            statistics.fmean(call[2] for call in answers) / 1e12, rel=1e-12
        )
        assert metrics.mean_output_tokens == statistics.fmean(2 * call[3] for call in answers)
    assert metrics.spend == sum(call[2] for call in calls) / 1e12
    assert metrics.input_tokens == sum(call[3] for call in calls)
    assert metrics.requests == len(calls)


@given(latencies=st.lists(st.floats(0, 1000), min_size=1, max_size=60), window=st.integers(1, 20))
def test_percentiles_agree_with_a_sorted_list(latencies: list[float], window: int) -> None:
    metrics = answered(*latencies, window=window)
    recent = sorted(latencies[-window:])
    for percent in (0, 1, 50, 90, 95, 99, 100):
        rank = max(ceil(Fraction(percent, 100) * len(recent)), 1)
        assert metrics.latency_percentile(percent / 100) == recent[rank - 1]


class InterruptedReader(list[tuple[int, int, int, int, int, int]]):
    """A history that another thread writes to between a reader's look at the sums and at it."""

    metrics: ModelMetrics
    interruptions = 2

    def __getitem__(self, slot: Any) -> Any:
        if self.interruptions:
            self.interruptions -= 1
            for _ in range(2):
                self.metrics.record_success(1.0, 0.0, 0, 0)
        return super().__getitem__(slot)


def test_a_reader_starts_again_when_the_window_has_moved_on() -> None:
    metrics = answered(*[1.0] * 10, window=3)
    history = InterruptedReader(metrics._history)
    history.metrics = metrics
    metrics._history = history
    assert metrics.samples == 3
    assert history.interruptions == 0


class InterruptedWriter(list[tuple[int, int, int, int, int, int]]):
    """A history that another thread reads right after it was written to."""

    metrics: ModelMetrics

    def __setitem__(self, slot: Any, sums: Any) -> None:
        super().__setitem__(slot, sums)
        assert self.metrics.samples == 3


def test_a_reader_in_the_middle_of_recording_finds_whole_samples() -> None:
    metrics = answered(*[1.0] * 10, window=3)
    history = InterruptedWriter(metrics._history)
    history.metrics = metrics
    metrics._history = history
    for _ in range(5):
        metrics.record_success(1.0, 0.0, 0, 0)
    assert metrics.successes == 15


def test_readers_in_other_threads_see_no_sample_by_halves() -> None:
    metrics = ModelMetrics("small", 3)  # a small ring comes round often
    wrong: list[object] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            stats = metrics.snapshot()
            # Every answer takes 1 s and costs $1 for 3 + 4 tokens; failures are free.
            averages = (stats.avg_latency_ms, stats.avg_cost, stats.avg_tokens)
            if (stats.successes > 3 and averages != (1000.0, 1.0, 7.0)) or not (
                0.0 < stats.success_rate <= 1.0
                and stats.total_requests == stats.successes + sum(stats.errors.values())
                and stats.total_cost == stats.successes
                and 3 * stats.total_output_tokens == 4 * stats.total_input_tokens
            ):
                wrong.append(stats)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=read)
    try:
        reader.start()
        for number in range(20_000):
            metrics.record_success(1.0, 1.0, 3, 4)
            if number % 2:
                metrics.record_failure("unavailable", 0.0, 0, 0)
    finally:
        sys.setswitchinterval(interval)
        is_over.set()
        reader.join()
    assert wrong == []
