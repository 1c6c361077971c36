"""Requests and tokens per minute, as pure objects that are told the time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncroute._errors import ConfigurationError
from asyncroute._limits import Bucket, Quota, QuotaLimits, RequestWindow, TokenWindow

# Moments as a loop has them: no round numbers, now and then twice the same.
steps = st.one_of(st.just(0.0), st.floats(0.01, 1), st.floats(0.1, 25))


def fill(window: RequestWindow, now: float) -> int:
    started = 0
    while window.try_take(now):
        started += 1
    return started


def starts_when_greedy(window: RequestWindow, until: float) -> list[float]:
    starts: list[float] = []
    now = 0.0
    while now <= until:
        assert window.try_take(now)
        starts.append(now)
        now = window.free_at(now)
    return starts


def most_in_a_window(starts: list[float]) -> int:
    return max(sum(at <= other < at + 60 for other in starts) for at in starts)


class TestRequestWindow:
    @pytest.mark.parametrize(
        ("limit", "burst", "at_once"),
        [(10, None, 10), (3, None, 3), (60, None, 10), (600, None, 100), (60, 2, 2), (60, 999, 60)],
    )
    def test_starts_a_burst_at_once_and_no_more(
        self, limit: int, burst: int | None, at_once: int
    ) -> None:
        assert fill(RequestWindow(limit, burst), now=5.0) == at_once

    def test_paces_after_the_burst(self) -> None:
        window = RequestWindow(60, burst=2)
        fill(window, 0.0)
        assert window.free_at(0.0) == pytest.approx(1.0, abs=0.01)
        assert not window.try_take(0.9)
        assert window.try_take(1.0)
        assert not window.try_take(1.0)

    @pytest.mark.parametrize("limit", [1, 7, 10, 60, 1000])
    def test_whoever_asks_again_at_free_at_has_the_full_limit_in_every_minute(
        self, limit: int
    ) -> None:
        starts = starts_when_greedy(RequestWindow(limit), until=200.0)
        assert most_in_a_window(starts) == limit
        assert all(
            later - first >= 60 for first, later in zip(starts, starts[limit:], strict=False)
        )
        assert sum(60 <= at < 120 for at in starts) >= limit - 1

    @given(st.integers(1, 12), st.integers(1, 12) | st.none(), st.lists(steps, max_size=60))
    def test_no_minute_has_more_starts_than_the_limit(
        self, limit: int, burst: int | None, waits: list[float]
    ) -> None:
        window, now, starts = RequestWindow(limit, burst), 1000.0, list[float]()
        for wait in waits:
            now += wait
            free_at = window.free_at(now)
            started = window.try_take(now)
            assert started == (free_at <= now)
            if started:
                starts.append(now)
        assert not starts or most_in_a_window(starts) <= limit

    @given(st.integers(1, 9), st.lists(steps, max_size=30))
    def test_free_at_is_right_to_the_instant(self, limit: int, waits: list[float]) -> None:
        window, now = RequestWindow(limit), 0.0
        for wait in waits:
            now += wait
            at = window.free_at(now)
            assert at >= now
            if at > now:
                assert not window.try_take(now)
            now = at
            assert window.try_take(now)

    def test_a_start_that_was_never_sent_is_given_back(self) -> None:
        window = RequestWindow(2)
        assert window.try_take(0.0)
        assert window.try_take(10.0)
        window.give_back(0.0, 20.0)
        assert window.try_take(20.0)
        assert not window.try_take(20.0)
        assert window.free_at(20.0) == 70.0

    def test_giving_back_what_has_left_the_window_frees_nobody_elses_start(self) -> None:
        window = RequestWindow(1)
        assert window.try_take(0.0)
        assert window.try_take(60.0)
        window.give_back(0.0, 61.0)
        assert not window.try_take(61.0)

    def test_predicts_when_those_ahead_have_started(self) -> None:
        window = RequestWindow(10)
        fill(window, 0.0)
        assert window.free_at(0.0, ahead=9) == 60.0
        assert window.free_at(0.0, ahead=10) == 120.0
        assert window.free_at(0.0, ahead=25) == 180.0

    def test_a_lower_limit_counts_what_has_started(self) -> None:
        window = RequestWindow(10)
        for at in range(10):
            assert window.try_take(at)
        window.reconfigure(3)
        assert window.free_at(10.0) == 67.0
        assert window.try_take(67.0)
        assert not window.try_take(67.0)

    def test_lowering_and_raising_the_limit_again_forgets_nothing(self) -> None:
        window = RequestWindow(20, burst=20)
        fill(window, 0.0)
        window.reconfigure(2)
        window.reconfigure(30, burst=30)
        assert fill(window, 1.0) == 10

    def test_a_new_limit_brings_no_new_burst(self) -> None:
        window = RequestWindow(600, burst=10)
        fill(window, 0.0)
        window.reconfigure(600, burst=12)
        assert fill(window, 0.0) == 2

    def test_memory_holds_one_window(self) -> None:
        window = RequestWindow(5)
        for at in range(0, 6000, 12):
            assert window.try_take(at)
        assert repr(window) == "<RequestWindow 5 per minute, 5 remembered>"

    @pytest.mark.parametrize(("limit", "burst"), [(0, None), (-1, None), (5, 0)])
    def test_refuses_a_figure_below_one(self, limit: int, burst: int | None) -> None:
        with pytest.raises(
            ConfigurationError, match=r"(requests_per_minute|burst) must be at least"
        ):
            RequestWindow(limit, burst)


class TestTokenWindow:
    def test_the_whole_limit_is_there_again_after_sixty_seconds(self) -> None:
        window = TokenWindow(1000)
        for minute in range(5):
            now = minute * 60.0
            assert window.free_at(1000, now) == now
            window.take(1000, now)
            assert window.free_at(1, now) == now + 60

    def test_tells_when_enough_of_it_is_free(self) -> None:
        window = TokenWindow(100)
        for at in (0.0, 10.0, 20.0):
            window.take(30, at)
        assert window.free_at(10, 25.0) == 25.0
        assert window.free_at(11, 25.0) == 60.0
        assert window.free_at(41, 25.0) == 70.0
        assert window.free_at(100, 25.0) == 80.0
        assert window.free_at(101, 25.0) == math.inf

    def test_a_refund_is_free_at_once(self) -> None:
        window = TokenWindow(100)
        bucket = window.take(100, 0.0)
        window.settle(bucket, 100, 40, 5.0)
        assert window.free_at(60, 5.0) == 5.0
        assert window.free_at(61, 5.0) == 60.0

    def test_a_debt_counts_from_when_it_is_known_and_may_pass_the_limit(self) -> None:
        window = TokenWindow(100)
        bucket = window.take(100, 0.0)
        window.settle(bucket, 100, 250, 30.0)
        assert window.level == 250
        assert not window.fits(0, 60.0)
        assert window.free_at(100, 60.0) == 90.0

    def test_a_refund_after_the_window_frees_nobody_elses_tokens(self) -> None:
        window = TokenWindow(100)
        old = window.take(100, 0.0)
        window.take(100, 60.0)
        window.settle(old, 100, 0, 61.0)
        assert window.level == 100

    def test_a_bucket_ends_a_minute_after_the_last_reservation_in_it(self) -> None:
        window = TokenWindow(100)
        window.take(50, 0.0)
        window.take(50, 0.75)
        assert window.free_at(1, 60.0) == 60.75
        assert not window.fits(1, 60.5)

    def test_keeps_at_most_one_bucket_a_second(self) -> None:
        window = TokenWindow(10**9)
        buckets = {window.take(1, tick / 100) for tick in range(60_000)}
        assert len(buckets) == 600
        assert sum(bucket.is_live for bucket in buckets) <= 61

    @given(
        st.integers(1, 100),
        st.lists(st.tuples(steps, st.integers(0, 100), st.floats(0, 2) | st.none()), max_size=60),
    )
    def test_no_minute_holds_more_than_was_reserved(
        self, limit: int, calls: list[tuple[float, int, float | None]]
    ) -> None:
        """The reservation, or the true usage where that is less, from the moment it is known."""
        window, now = TokenWindow(limit), 0.0
        counted: list[tuple[float, int]] = []
        for wait, amount, share in calls:
            now += wait
            free_at = window.free_at(amount, now)
            assert window.fits(amount, now) == (free_at <= now)
            if free_at > now:
                continue
            bucket = window.take(amount, now)
            if share is not None:
                actual = int(amount * share)
                window.settle(bucket, amount, actual, now)
                amount = min(actual, amount)
            counted.append((now, amount))
            assert sum(n for at, n in counted if at + 60 > now) <= limit

    @given(st.integers(1, 50), st.lists(st.tuples(steps, st.integers(0, 60)), max_size=40))
    def test_free_at_is_right_to_the_instant_and_at_most_a_second_late(
        self, limit: int, calls: list[tuple[float, int]]
    ) -> None:
        window, now = TokenWindow(limit), 0.0
        taken: list[tuple[float, int]] = []
        for wait, amount in calls:
            now += wait
            at = window.free_at(amount, now)
            if at == math.inf:
                assert amount > limit
                continue
            late = now if at == now else at - 1.001
            if late > now:
                held = sum(n for start, n in taken if start + 60 > late)
                assert held + amount > limit, "it could have started more than a second before"
            now = at
            assert window.fits(amount, now)
            window.take(amount, now)
            taken.append((now, amount))

    def test_a_new_limit_keeps_what_was_reserved(self) -> None:
        window = TokenWindow(100)
        window.take(80, 0.0)
        window.reconfigure(50)
        assert window.free_at(10, 1.0) == 60.0
        window.reconfigure(200)
        assert window.free_at(120, 1.0) == 1.0
        assert window.free_at(121, 1.0) == 60.0
        assert repr(window) == "<TokenWindow 80/200 per minute>"


class TestQuota:
    def test_takes_both_or_nothing(self) -> None:
        quota = Quota(QuotaLimits(requests_per_minute=2, tokens_per_minute=100))
        assert quota.try_take(60, 0.0)
        assert quota.try_take(60, 1.0) is None
        assert quota.free_at(60, 1.0) == 60.0
        assert quota.try_take(40, 1.0), "the refusal has taken no request"
        assert quota.try_take(0, 2.0) is None
        assert quota.free_at(0, 2.0) == 60.0

    @pytest.mark.parametrize("limits", [QuotaLimits(), QuotaLimits(5, None), QuotaLimits(None, 50)])
    def test_each_limit_may_be_missing(self, limits: QuotaLimits) -> None:
        quota = Quota(limits)
        taken = [quota.try_take(10, 0.0) for _ in range(9)]
        expected = 9 if limits == QuotaLimits() else 5
        assert sum(bucket is not None for bucket in taken) == expected
        assert quota.allows(10)
        assert quota.allows(51) == (limits.tokens_per_minute is None)

    def test_what_was_never_sent_gives_back_request_and_tokens(self) -> None:
        quota = Quota(QuotaLimits(1, 100))
        bucket = quota.try_take(100, 3.0)
        assert bucket is not None
        quota.give_back(3.0, bucket, 100, 4.0)
        assert quota.free_at(100, 4.0) == 4.0
        assert quota.try_take(100, 4.0)

    def test_predicts_through_several_windows(self) -> None:
        quota = Quota(QuotaLimits(None, 100))
        quota.try_take(100, 0.0)
        assert quota.predict(1, 100, 0.0) == 60.0
        assert quota.predict(2, 101, 0.0) == 120.0
        assert quota.predict(9, 250, 0.0) == 180.0
        assert Quota(QuotaLimits()).predict(9, 250, 7.0) == 7.0

    @pytest.mark.parametrize(
        "change",
        [lambda q: None, lambda q: q.reconfigure(QuotaLimits(4, 400))],
        ids=["kept", "raised"],
    )
    def test_reconfiguring_keeps_the_history(self, change: Callable[[Quota], None]) -> None:
        quota = Quota(QuotaLimits(2, 200))
        for _ in range(2):
            assert quota.try_take(100, 0.0)
        change(quota)
        more = 2 if quota.limits.requests_per_minute == 4 else 0
        assert sum(quota.try_take(100, 1.0) is not None for _ in range(9)) == more

    def test_a_limit_taken_away_and_set_again_starts_anew(self) -> None:
        quota = Quota(QuotaLimits(1, 100))
        bucket = quota.try_take(100, 0.0)
        assert isinstance(bucket, Bucket)
        quota.reconfigure(QuotaLimits())
        assert quota.try_take(10**6, 1.0)
        quota.settle(bucket, 100, 0, 1.0)
        quota.reconfigure(QuotaLimits(1, 100))
        quota.settle(bucket, 100, 0, 2.0)
        assert quota.free_at(100, 2.0) == 2.0
        assert "<TokenWindow 0/100 per minute>" in repr(quota)

    @pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute", "burst"])
    def test_refuses_a_figure_below_one(self, field: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{field} must be at least 1, not 0"):
            QuotaLimits(**{field: 0})
