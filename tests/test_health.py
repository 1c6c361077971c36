"""One model's health: when it may be called, and what its calls' outcomes make of it."""

from __future__ import annotations

import random
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncroute._errors import ConfigurationError
from asyncroute._health import Health, HealthSettings, Permit


class NoJitter(random.Random):
    """Draws the most there is: every ejection has its whole length."""

    def random(self) -> float:
        return 1.0


class FullJitter(random.Random):
    """Draws nothing: every ejection has half its length."""

    def random(self) -> float:
        return 0.0


def healthy(**changes: float) -> Health:
    return Health(HealthSettings(**changes), rng=NoJitter())  # type: ignore[arg-type]


def passed(health: Health, now: float) -> Permit:
    permit = health.try_pass(now)
    assert permit is not None
    return permit


def fail(health: Health, now: float, times: int = 5, *, may_eject: bool = True) -> None:
    for _ in range(times):
        health.failed(passed(health, now), now, may_eject=may_eject)


def ejected(now: float = 0.0, **changes: float) -> Health:
    health = healthy(**changes)
    fail(health, now)
    return health


def recovered(now: float = 10.0, **changes: float) -> Health:
    health = ejected(0.0, **changes)
    health.succeeded(passed(health, now), now)
    return health


# Healthy


def test_a_healthy_model_hands_out_one_shared_permit() -> None:
    health = healthy()
    assert health.try_pass(0.0) is health.try_pass(1e9)
    assert not passed(health, 0.0).is_probe
    assert health.status(0.0) == "healthy"
    assert health.available_at(3.0) <= 3.0
    assert health.weight(3.0) == 1.0
    assert not health.is_ramping(3.0)
    assert repr(health) == "<Health healthy>"


def test_a_permit_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        passed(healthy(), 0.0).epoch = 3  # type: ignore[misc]


# Ejection


def test_five_hard_failures_in_a_row_eject() -> None:
    health = healthy()
    fail(health, 1.0, 4)
    assert health.status(1.0) == "healthy"
    fail(health, 1.0, 1)
    assert health.status(1.0) == "ejected"
    assert health.is_ejected_hard(5.9)
    assert health.available_at(1.0) == 6.0
    assert health.try_pass(5.999) is None
    assert repr(health) == "<Health ejected for 5.0 s after 5 failures>"


def test_a_success_starts_the_count_of_failures_anew() -> None:
    health = healthy(min_samples=100)
    for now in range(10):
        fail(health, now, 4)
        health.succeeded(passed(health, now), now)
    assert health.status(10.0) == "healthy"


def test_a_bad_ratio_ejects_once_there_are_enough_samples() -> None:
    health = healthy()
    for _ in range(2):
        health.succeeded(passed(health, 0.0), 0.0)
        fail(health, 0.0, 3)
    health.succeeded(passed(health, 0.0), 0.0)
    assert health.status(0.0) == "healthy"  # 3 of 9
    fail(health, 0.0, 1)
    assert health.status(0.0) == "ejected"  # 3 of 10
    assert repr(health) == "<Health ejected for 5.0 s after 7 failures of 10>"


def test_exactly_half_is_good_enough() -> None:
    health = healthy()
    for _ in range(50):
        health.succeeded(passed(health, 0.0), 0.0)
        fail(health, 0.0, 1)
    assert health.status(0.0) == "healthy"


def test_outcomes_older_than_the_window_do_not_count() -> None:
    health = healthy(consecutive_failures=100)
    fail(health, 0.0, 9)
    fail(health, 60.0, 1)
    assert health.status(60.0) == "healthy"
    assert health.snapshot(60.0).failures == 1


def test_outcomes_within_the_window_do_count() -> None:
    health = healthy(consecutive_failures=100)
    fail(health, 0.0, 9)
    fail(health, 59.9, 1)
    assert health.status(59.9) == "ejected"


def test_half_of_an_ejection_is_jitter() -> None:
    health = Health(rng=FullJitter())
    fail(health, 0.0)
    assert health.available_at(0.0) == 2.5


def test_refused_accounts_eject_at_once() -> None:
    health = healthy()
    health.eject(passed(health, 0.0), 0.0, may_eject=True)
    assert health.status(0.0) == "ejected"
    assert repr(health) == "<Health ejected for 5.0 s after a refused account>"


# The last model


def test_the_last_model_is_not_ejected_but_its_failures_count_on() -> None:
    health = healthy()
    fail(health, 0.0, 20, may_eject=False)
    health.eject(passed(health, 0.0), 0.0, may_eject=False)
    assert health.status(0.0) == "healthy"
    fail(health, 0.0, 1, may_eject=True)
    assert health.status(0.0) == "ejected"


def test_a_failed_probe_ejects_also_the_last_model() -> None:
    health = ejected()
    health.failed(passed(health, 5.0), 5.0, may_eject=False)
    assert health.status(5.0) == "ejected"


def test_a_retry_after_blocks_also_the_last_model() -> None:
    health = healthy()
    health.rate_limited(passed(health, 0.0), 0.0, retry_after=3.0, may_eject=False)
    assert health.try_pass(2.9) is None


def test_a_rate_limit_that_names_no_time_does_not_block_the_last_model() -> None:
    health = healthy()
    health.rate_limited(passed(health, 0.0), 0.0, retry_after=None, may_eject=False)
    assert health.status(0.0) == "healthy"


# Probing


def test_exactly_one_of_fifty_probes_when_the_ejection_is_over() -> None:
    health = ejected()
    assert health.status(5.0) == "probing"
    assert not health.is_ejected_hard(5.0)
    permits = [health.try_pass(5.0) for _ in range(50)]
    given_out = [permit for permit in permits if permit is not None]
    assert len(given_out) == 1
    assert given_out[0].is_probe
    assert health.available_at(5.0) == inf
    assert not health.is_ejected_hard(5.0)
    assert repr(health) == "<Health probing after 5 failures>"


def test_time_alone_does_not_recover() -> None:
    health = ejected()
    assert health.status(1e6) == "probing"
    assert passed(health, 1e6).is_probe
    assert health.try_pass(1e6) is None


def test_a_probes_success_recovers_and_forgets_the_past() -> None:
    health = recovered(10.0)
    snapshot = health.snapshot(10.0)
    assert snapshot.status == "healthy"
    assert (snapshot.successes, snapshot.failures, snapshot.consecutive_failures) == (0, 0, 0)
    assert not passed(health, 10.0).is_probe
    fail(health, 10.0, 4)
    assert health.status(10.0) == "healthy"


def test_a_forgotten_probe_gives_its_place_to_the_next_and_counts_nothing() -> None:
    health = ejected()
    health.forget(passed(health, 5.0))
    assert health.available_at(5.0) <= 5.0
    assert health.status(5.0) == "probing"
    assert passed(health, 5.0).is_probe


def test_a_probe_settled_twice_does_not_let_a_second_one_out() -> None:
    health = ejected()
    first = passed(health, 5.0)
    health.forget(first)
    second = passed(health, 5.0)
    health.forget(first)
    health.succeeded(first, 5.0)
    health.failed(first, 5.0, may_eject=True)
    assert health.try_pass(5.0) is None
    health.succeeded(second, 6.0)
    assert health.status(6.0) == "healthy"


def test_a_normal_permit_forgotten_counts_nothing() -> None:
    health = healthy()
    for _ in range(100):
        health.forget(passed(health, 0.0))
    snapshot = health.snapshot(0.0)
    assert (snapshot.successes, snapshot.failures) == (0, 0)


def test_each_failed_probe_doubles_the_ejection_up_to_the_cap() -> None:
    health = ejected()
    lengths, now = [5.0], 5.0
    for _ in range(8):
        health.failed(passed(health, now), now, may_eject=True)
        lengths.append(health.available_at(now) - now)
        now = health.available_at(now)
    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert health.snapshot(now).ejections == 9
    assert repr(health) == "<Health ejected for 300.0 s after a failed probe>"


def test_growth_goes_on_after_a_short_recovery() -> None:
    health = recovered(10.0)
    fail(health, 69.0)
    assert health.available_at(69.0) == 79.0


def test_growth_ends_after_a_window_in_good_health() -> None:
    health = recovered(10.0)
    fail(health, 70.0)
    assert health.available_at(70.0) == 75.0


# Permits of another epoch


def test_calls_sent_before_the_ejection_say_nothing_any_more() -> None:
    health = healthy()
    old = passed(health, 0.0)
    fail(health, 0.0)
    before = health.snapshot(1.0)
    health.succeeded(old, 1.0)
    health.failed(old, 1.0, may_eject=True)
    health.rate_limited(old, 1.0, retry_after=50.0, may_eject=True)
    health.eject(old, 1.0, may_eject=True)
    health.forget(old)
    assert health.snapshot(1.0) == before


def test_a_probe_of_an_older_epoch_says_nothing_any_more() -> None:
    health = ejected()
    probe = passed(health, 5.0)
    health.failed(probe, 5.0, may_eject=True)
    health.succeeded(probe, 6.0)
    health.forget(probe)
    assert health.status(6.0) == "ejected"


def test_old_failures_do_not_eject_a_recovered_model() -> None:
    health = healthy()
    old = [passed(health, 0.0) for _ in range(20)]
    fail(health, 0.0)
    health.succeeded(passed(health, 5.0), 5.0)
    for permit in old:
        health.failed(permit, 6.0, may_eject=True)
    assert health.snapshot(6.0).failures == 0
    assert health.status(6.0) == "healthy"


# Rate limits


def test_a_retry_after_blocks_until_then_without_a_probe() -> None:
    health = healthy()
    health.rate_limited(passed(health, 1.0), 1.0, retry_after=20.0, may_eject=True)
    assert health.status(20.9) == "rate_limited"
    assert health.available_at(1.0) == 21.0
    assert not health.is_ejected_hard(1.0)
    assert health.try_pass(20.9) is None
    assert not passed(health, 21.0).is_probe
    assert repr(health) == "<Health healthy, blocked until 21.0>"


def test_a_success_does_not_lift_a_retry_after() -> None:
    health = healthy()
    permit = passed(health, 0.0)
    health.rate_limited(permit, 0.0, retry_after=20.0, may_eject=True)
    health.succeeded(permit, 1.0)
    assert health.try_pass(19.0) is None


@pytest.mark.parametrize("asked", [inf, 1e300, 61.0])
def test_a_retry_after_is_capped(asked: float) -> None:
    health = healthy()
    health.rate_limited(passed(health, 0.0), 0.0, retry_after=asked, may_eject=True)
    assert health.available_at(0.0) == 60.0


@pytest.mark.parametrize("asked", [None, 0.0, -5.0, -inf, nan])
def test_a_rate_limit_that_names_no_time_blocks_for_the_base(asked: float | None) -> None:
    health = healthy()
    health.rate_limited(passed(health, 0.0), 0.0, retry_after=asked, may_eject=True)
    assert health.status(0.0) == "rate_limited"
    assert health.available_at(0.0) == 5.0


def test_a_shorter_retry_after_does_not_shorten_a_longer_one() -> None:
    health = healthy()
    permit = passed(health, 0.0)
    health.rate_limited(permit, 0.0, retry_after=30.0, may_eject=True)
    health.rate_limited(permit, 1.0, retry_after=1.0, may_eject=True)
    health.rate_limited(permit, 1.0, retry_after=None, may_eject=True)
    assert health.available_at(1.0) == 30.0


def test_rate_limits_are_no_failures_in_a_row_but_spoil_the_ratio() -> None:
    health = healthy()
    permit = passed(health, 0.0)
    for _ in range(9):
        health.rate_limited(permit, 0.0, retry_after=1.0, may_eject=True)
    assert health.snapshot(0.0).consecutive_failures == 0
    assert health.status(0.0) == "rate_limited"
    health.rate_limited(permit, 0.0, retry_after=1.0, may_eject=True)
    assert health.status(0.0) == "ejected"


def test_a_rate_limit_fails_a_probe_and_its_retry_after_is_heeded() -> None:
    health = ejected()
    probe = passed(health, 5.0)
    health.rate_limited(probe, 5.0, retry_after=40.0, may_eject=False)
    assert health.status(14.9) == "ejected"  # 10 s, the second ejection
    assert health.status(15.0) == "rate_limited"
    assert health.available_at(5.0) == 45.0
    assert passed(health, 45.0).is_probe


def test_an_ejection_does_not_shorten_a_retry_after() -> None:
    health = healthy()
    permit = passed(health, 0.0)
    health.rate_limited(permit, 0.0, retry_after=50.0, may_eject=True)
    for _ in range(5):
        health.failed(permit, 0.0, may_eject=True)
    assert health.available_at(0.0) == 50.0
    assert health.is_ejected_hard(4.9)
    assert not health.is_ejected_hard(5.0)


def test_recovery_does_not_lift_a_block_from_outside() -> None:
    health = ejected()
    probe = passed(health, 5.0)
    health.block_until(30.0)
    health.succeeded(probe, 6.0)
    assert health.status(6.0) == "rate_limited"
    assert health.try_pass(29.0) is None
    assert not passed(health, 30.0).is_probe


def test_a_block_from_outside_is_cut_to_the_longest_ejection() -> None:
    health = healthy()
    health.block_until(inf)
    assert health.available_at(10.0) == 310.0
    assert not passed(health, 310.0).is_probe


def test_a_block_from_outside_ignores_what_is_no_instant() -> None:
    health = healthy()
    health.block_until(nan)
    assert health.status(0.0) == "healthy"


# Panic


def test_a_success_in_panic_recovers() -> None:
    health = ejected()
    health.succeeded(health.pass_anyway(), 1.0)
    assert health.status(1.0) == "healthy"
    assert health.is_ramping(1.0)


def test_recovery_in_panic_ends_the_ejection() -> None:
    health = ejected()
    health.succeeded(health.pass_anyway(), 1.0)
    health.block_until(2.0)
    assert health.available_at(1.0) == 2.0
    assert not health.is_ejected_hard(1.0)


def test_a_failure_in_panic_neither_prolongs_nor_stops_a_probe() -> None:
    health = ejected()
    permit = health.pass_anyway()
    health.failed(permit, 1.0, may_eject=True)
    health.eject(permit, 1.0, may_eject=True)
    assert health.available_at(1.0) == 5.0
    probe = passed(health, 5.0)
    health.failed(permit, 5.0, may_eject=True)
    health.forget(permit)
    assert health.try_pass(5.0) is None
    health.succeeded(probe, 6.0)
    assert health.status(6.0) == "healthy"


def test_a_retry_after_told_in_panic_is_heeded() -> None:
    health = ejected()
    health.rate_limited(health.pass_anyway(), 1.0, retry_after=30.0, may_eject=True)
    assert health.available_at(1.0) == 31.0


# Slow start


def test_a_recovered_model_comes_back_from_a_tenth_in_half_a_minute() -> None:
    health = recovered(10.0)
    assert [health.weight(10.0 + after) for after in (0, 3, 15, 30, 31)] == [0.1, 0.1, 0.5, 1, 1]
    assert health.is_ramping(39.9)
    assert not health.is_ramping(40.0)


def test_slow_start_can_be_switched_off() -> None:
    health = recovered(10.0, slow_start=0.0)
    assert health.weight(10.0) == 1.0
    assert not health.is_ramping(10.0)


# Clocks


def test_days_of_silence_do_no_harm() -> None:
    health = recovered(10.0)
    fail(health, 11.0, 4)
    later = 10 * 86400.0
    assert health.weight(later) == 1.0
    assert health.snapshot(later).failures == 0
    health.succeeded(passed(health, later), later)
    assert health.snapshot(later).successes == 1


def test_a_clock_set_back_does_not_prolong_an_ejection_for_ever() -> None:
    health = ejected(1e6)
    assert health.available_at(0.0) == 300.0
    assert health.status(0.0) == "ejected"
    assert passed(health, 300.0).is_probe


def test_a_clock_set_back_does_not_leave_slow_start_on_for_ever() -> None:
    health = recovered(1e6)
    assert health.weight(0.0) == 1.0
    assert not health.is_ramping(0.0)


def test_a_clock_set_back_starts_the_window_anew() -> None:
    health = healthy(consecutive_failures=100)
    fail(health, 1e6, 9)
    fail(health, 1.0, 5)
    assert health.status(1.0) == "healthy"
    assert health.snapshot(1.0).failures == 5
    assert health.snapshot(61.0).failures == 0


def test_a_clock_set_back_a_little_goes_on_counting() -> None:
    health = healthy()
    fail(health, 100.0, 2)
    fail(health, 99.0, 2)
    assert health.snapshot(99.0).failures == 4


# Settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consecutive_failures", 0),
        ("min_samples", 0),
        ("min_success_rate", 1.1),
        ("min_success_rate", nan),
        ("window", 0.0),
        ("window", inf),
        ("base_ejection", -1.0),
        ("max_ejection", 4.0),
        ("max_ejection", nan),
        ("slow_start", -1.0),
        ("slow_start_floor", 0.0),
        ("retry_after_cap", inf),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field} must be .*, not {value!r}$"):
        HealthSettings(**{field: value})  # type: ignore[arg-type]


# Whatever happens


class HealthMachine(RuleBasedStateMachine):
    """Random calls, outcomes and pauses, against what must hold at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.health = Health(rng=random.Random(7))
        self.out: list[Permit] = []

    @rule(pause=st.sampled_from([0.0, 0.1, 1.0, 5.0, 70.0, 400.0, 1e6]))
    def wait(self, pause: float) -> None:
        self.now += pause

    @rule()
    def call(self) -> None:
        status, available_at = self.health.status(self.now), self.health.available_at(self.now)
        permit = self.health.try_pass(self.now)
        assert (permit is not None) == (available_at <= self.now)
        if permit is None:
            assert status != "healthy"
            return
        assert permit.is_probe == (status == "probing")
        self.out.append(permit)

    @rule()
    def call_in_panic(self) -> None:
        if self.health.is_ejected_hard(self.now):
            self.out.append(self.health.pass_anyway())

    @precondition(lambda self: self.out)
    @rule(
        which=st.integers(0, 1000),
        outcome=st.sampled_from(["ok", "failed", "limited", "eject", "forget"]),
        retry_after=st.sampled_from([None, -1.0, 0.5, 20.0, 1e9]),
        may_eject=st.booleans(),
    )
    def settle(self, which: int, outcome: str, retry_after: float | None, may_eject: bool) -> None:
        health, now = self.health, self.now
        permit = self.out.pop(which % len(self.out))
        before = health.snapshot(now)
        available_at = health.available_at(now)
        match outcome:
            case "ok":
                health.succeeded(permit, now)
            case "failed":
                health.failed(permit, now, may_eject=may_eject)
            case "limited":
                health.rate_limited(permit, now, retry_after=retry_after, may_eject=may_eject)
            case "eject":
                health.eject(permit, now, may_eject=may_eject)
            case _:
                health.forget(permit)
        after = health.snapshot(now)
        if permit.epoch != before.epoch:
            assert after == before
        if not may_eject and not permit.is_probe:
            assert after.ejections == before.ejections
        if outcome != "ok" and not permit.is_probe:
            assert health.available_at(now) >= available_at
        if before.status != "ejected" and after.status == "ejected":
            assert 2.5 <= after.available_after <= 300.0

    @rule(after=st.sampled_from([-1.0, 3.0, 50.0]))
    def block(self, after: float) -> None:
        self.health.block_until(self.now + after)

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        epoch = self.health.snapshot(self.now).epoch
        assert sum(permit.is_probe and permit.epoch == epoch for permit in self.out) <= 1

    @invariant()
    def it_is_never_shut_for_longer_than_the_longest_ejection(self) -> None:
        snapshot = self.health.snapshot(self.now)
        is_probe_out = any(p.is_probe and p.epoch == snapshot.epoch for p in self.out)
        assert is_probe_out or snapshot.available_after <= 300.0
        assert (snapshot.available_after == inf) == is_probe_out

    @invariant()
    def weight_is_a_share(self) -> None:
        weight = self.health.weight(self.now)
        assert 0.1 <= weight <= 1.0
        assert self.health.is_ramping(self.now) or weight == 1.0


HealthMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWhateverHappens = HealthMachine.TestCase


@given(outcomes=st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), min_size=1, max_size=80))
def test_the_window_holds_what_the_last_minute_held(outcomes: list[tuple[float, bool]]) -> None:
    health = healthy()
    now, history = 0.0, list[tuple[float, bool]]()
    for pause, is_success in outcomes:
        now += pause
        permit = passed(health, now)
        if is_success:
            health.succeeded(permit, now)
        else:
            health.failed(permit, now, may_eject=False)
        history.append((now, is_success))
        snapshot = health.snapshot(now)
        surely = [won for at, won in history if now - at <= 53.9]
        perhaps = [won for at, won in history if now - at < 60.0]
        assert surely.count(True) <= snapshot.successes <= perhaps.count(True)
        assert surely.count(False) <= snapshot.failures <= perhaps.count(False)
