"""What may be spent: extra calls, hedges and money."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncroute._budget import (
    Budgets,
    HedgeBudget,
    MoneyAccount,
    MoneyBudget,
    Reservation,
    RetryBudget,
)
from asyncroute._errors import BudgetExceededError, ConfigurationError

DAY = 86400.0


def reserved(budgets: Budgets, amount: float, now: float = 0.0, **metadata: object) -> Reservation:
    reservation = budgets.reserve("m", metadata, amount, now)
    assert reservation is not None
    return reservation


def room(
    budgets: Budgets, model_id: str, metadata: dict[str, Any] | None, amount: float, now: float
) -> Reservation | None:
    """What is reserved, or None where there is no room."""
    try:
        return budgets.reserve(model_id, metadata, amount, now)
    except BudgetExceededError:
        return None


def left(budgets: Budgets, now: float = 0.0) -> dict[str | None, float]:
    return {snapshot.key: snapshot.left for snapshot in budgets.snapshot(now)}


# Retries


def test_extra_calls_end_when_the_budget_is_empty() -> None:
    budget = RetryBudget()
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    assert repr(budget) == "<RetryBudget 0 of 10>"


def test_ten_requests_earn_one_extra_call_exactly() -> None:
    budget = RetryBudget()
    while budget.withdraw():
        pass
    for _ in range(1000):
        for _ in range(9):
            budget.deposit()
        assert not budget.withdraw()
        budget.deposit()
        assert budget.withdraw()
    assert budget.level == 0.0


def test_no_more_than_the_cap_is_saved_up() -> None:
    budget = RetryBudget(cap=2)
    for _ in range(1000):
        budget.deposit()
        budget.give_back()
    assert budget.level == 2.0


def test_a_call_not_made_is_given_back() -> None:
    budget = RetryBudget(cap=1, ratio=0)
    assert budget.withdraw()
    budget.give_back()
    assert budget.withdraw()
    assert not budget.withdraw()


def test_a_budget_of_nothing_allows_nothing() -> None:
    budget = RetryBudget(cap=0)
    budget.deposit()
    assert not budget.withdraw()


@given(steps=st.lists(st.sampled_from(["deposit", "withdraw", "give_back"]), max_size=300))
def test_extra_calls_never_exceed_cap_and_share(steps: list[str]) -> None:
    budget = RetryBudget()
    requests = made = 0
    for step in steps:
        if step == "deposit":
            budget.deposit()
            requests += 1
        elif step == "withdraw":
            made += budget.withdraw()
        elif made:
            budget.give_back()
            made -= 1
        assert made <= 10 + requests / 10
        assert 0 <= budget.level <= 10


@pytest.mark.parametrize("value", [-1.0, inf, nan])
def test_a_cap_that_cannot_be_meant_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"RetryBudget\.cap must be .*, not {value}"):
        RetryBudget(cap=value)
    with pytest.raises(ConfigurationError, match=rf"HedgeBudget\.cap must be .*, not {value}"):
        HedgeBudget(cap=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, nan])
def test_a_share_that_cannot_be_meant_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"RetryBudget\.ratio must be"):
        RetryBudget(ratio=value)
    with pytest.raises(ConfigurationError, match=r"HedgeBudget\.ratio must be"):
        HedgeBudget(ratio=value)
    with pytest.raises(ConfigurationError, match=r"HedgeBudget\.spend_share must be"):
        HedgeBudget(spend_share=value)


# Hedges


def test_before_there_is_spend_only_the_number_of_hedges_counts() -> None:
    budget = HedgeBudget()
    assert [budget.try_withdraw(1.0, 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert budget.spent == 10.0
    assert repr(budget) == "<HedgeBudget 0 calls, $10 spent>"


def test_free_hedges_are_limited_by_number_only() -> None:
    budget = HedgeBudget(cap=1)
    assert budget.try_withdraw(0.0, 100.0)
    assert not budget.try_withdraw(0.0, 100.0)
    for _ in range(20):
        budget.deposit()
    assert budget.try_withdraw(0.0, 100.0)


def test_running_hedges_count_with_what_they_are_expected_to_cost() -> None:
    budget = HedgeBudget(cap=1, ratio=1.0)
    assert budget.try_withdraw(3.0, 100.0)
    budget.deposit()
    assert not budget.try_withdraw(2.1, 100.0)
    assert budget.level == 1.0
    assert budget.try_withdraw(2.0, 100.0)


def test_the_hedges_of_the_start_need_no_share_of_the_spend() -> None:
    budget = HedgeBudget(cap=2, ratio=1.0)
    assert budget.try_withdraw(1.0, 1.0)
    assert budget.try_withdraw(1.0, 1.0)
    budget.deposit()
    assert not budget.try_withdraw(1.0, 1.0)


def test_a_settled_hedge_counts_with_what_it_did_cost() -> None:
    budget = HedgeBudget()
    assert budget.try_withdraw(5.0, 100.0)
    budget.settle(1.0, expected_cost=5.0)
    assert budget.spent == 1.0
    assert budget.try_withdraw(4.0, 100.0)


def test_a_free_hedge_is_allowed_also_above_the_share_of_spend() -> None:
    budget = HedgeBudget(cap=1, ratio=1.0)
    assert budget.try_withdraw(5.0, 100.0)
    budget.settle(7.0, expected_cost=5.0)
    budget.deposit()
    assert not budget.try_withdraw(0.01, 100.0)
    assert budget.try_withdraw(0.0, 100.0)


def test_a_hedge_not_started_costs_nothing() -> None:
    budget = HedgeBudget()
    assert budget.try_withdraw(5.0, 100.0)
    budget.give_back(expected_cost=5.0)
    assert (budget.level, budget.spent) == (10.0, 0.0)


# The settings of money


@pytest.mark.parametrize("field", ["limit", "window"])
@pytest.mark.parametrize("value", [-1.0, inf, -inf, nan])
def test_amounts_that_cannot_be_meant_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"MoneyBudget\.{field} must be .*, not {value}"):
        if field == "limit":
            MoneyBudget(value)
        else:
            MoneyBudget(1.0, value)


def test_names_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"MoneyBudget\.per must be .*, not ''"):
        MoneyBudget(1.0, per="")
    with pytest.raises(ConfigurationError, match=r"MoneyBudget\.only must be .*, not \(\)"):
        MoneyBudget(1.0, per="model", only=())
    with pytest.raises(ConfigurationError, match=r"MoneyBudget\.only must be None where"):
        MoneyBudget(1.0, only=("m",))


def test_one_name_alone_is_one_name() -> None:
    assert MoneyBudget(1.0, per="model", only="gpt").only == frozenset({"gpt"})  # type: ignore[arg-type]


# One budget of money


def test_no_budgets_are_false() -> None:
    assert not Budgets()
    assert Budgets([MoneyBudget(1.0)])
    assert repr(Budgets()) == "<Budgets none>"
    assert repr(Budgets([MoneyBudget(1.0)])) == "<Budgets $1 per router in 86400 s>"


def test_the_whole_limit_can_be_used_and_no_more() -> None:
    budgets = Budgets([MoneyBudget(1.0)])
    for _ in range(10):
        reserved(budgets, 0.1)
    assert left(budgets) == {None: 0.0}
    assert room(budgets, "m", None, 1e-12, 0.0) is None
    assert room(budgets, "m", None, 0.0, 0.0) is not None


def test_a_refusal_says_whose_money_what_is_left_and_when_it_renews() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0, per="tenant")])
    reserved(budgets, 0.75, 10.0, tenant="acme")
    with pytest.raises(BudgetExceededError) as caught:
        reserved(budgets, 0.5, 20.0, tenant="acme")
    assert caught.value.renews_after == 51.0
    assert str(caught.value) == (
        "the budget of tenant 'acme' ($1 per tenant in 60 s) has $0.25 left; "
        "the expected $0.5 fits in 51.0 s"
    )


def test_it_fits_at_the_time_of_renewal_and_not_before() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0)])
    reserved(budgets, 0.5, 0.0)
    reserved(budgets, 0.5, 30.0)
    assert budgets.refusal("m", None, 0.5, 40.0).renews_after == 21.0
    assert budgets.refusal("m", None, 0.6, 40.0).renews_after == 51.0
    assert room(budgets, "m", None, 0.5, 60.9) is None
    assert room(budgets, "m", None, 0.5, 61.0) is not None


def test_what_is_above_the_whole_limit_never_renews() -> None:
    budgets = Budgets([MoneyBudget(1.0)])
    with pytest.raises(BudgetExceededError, match="is more than the whole limit") as caught:
        reserved(budgets, 1.5)
    assert caught.value.renews_after is None


def test_a_refund_is_free_at_once() -> None:
    budgets = Budgets([MoneyBudget(1.0)])
    reservation = reserved(budgets, 1.0)
    budgets.settle(reservation, 0.25, 3.0)
    assert left(budgets) == {None: 0.75}
    assert repr(reservation) == "<Reservation $1 settled>"


def test_a_debt_counts_against_what_follows() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0)])
    budgets.settle(reserved(budgets, 0.5), 2.0, 30.0)
    assert left(budgets, 30.0) == {None: -1.0}
    assert room(budgets, "m", None, 0.1, 70.0) is None
    assert left(budgets, 91.0) == {None: 1.0}


def test_settling_twice_does_nothing() -> None:
    budgets = Budgets([MoneyBudget(1.0)])
    reservation = reserved(budgets, 0.5)
    budgets.settle(reservation, 0.25, 0.0)
    budgets.settle(reservation, 0.0, 0.0)
    budgets.settle(reservation, 9.0, 0.0)
    (snapshot,) = budgets.snapshot(0.0)
    assert (snapshot.booked, snapshot.left, snapshot.open) == (0.25, 0.75, 0)


@pytest.mark.parametrize("actual", [nan, inf, -1.0])
def test_a_cost_that_is_no_amount_leaves_the_reservation_spent(actual: float) -> None:
    budgets = Budgets([MoneyBudget(1.0)])
    budgets.settle(reserved(budgets, 0.5), actual, 0.0)
    (snapshot,) = budgets.snapshot(0.0)
    assert (snapshot.left, snapshot.open) == (0.5, 0)


def test_a_refund_after_its_reservation_left_the_window_is_not_given_twice() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0)])
    slow = reserved(budgets, 1.0, 0.0)
    reserved(budgets, 1.0, 100.0)
    budgets.settle(slow, 0.0, 100.0)
    assert left(budgets, 100.0) == {None: 0.0}


def test_a_million_small_sums_do_not_drift() -> None:
    budgets = Budgets([MoneyBudget(1.0)])
    for _ in range(20_000):
        budgets.settle(reserved(budgets, 0.3), 0.00001, 0.0)
    assert left(budgets) == {None: 0.8}


def test_a_clock_that_goes_back_frees_nothing() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0)])
    reserved(budgets, 0.6, 1000.0)
    reserved(budgets, 0.4, 0.0)
    assert room(budgets, "m", None, 0.1, 500.0) is None
    assert left(budgets, 1061.0) == {None: 1.0}


# Several accounts and budgets


def test_each_model_and_tenant_has_its_own_account() -> None:
    budgets = Budgets([MoneyBudget(1.0, per="model"), MoneyBudget(1.0, per="tenant")])
    assert room(budgets, "a", {"tenant": "x"}, 1.0, 0.0)
    assert room(budgets, "a", {"tenant": "y"}, 1.0, 0.0) is None
    assert room(budgets, "b", {"tenant": "x"}, 1.0, 0.0) is None
    assert room(budgets, "b", {"tenant": "y"}, 1.0, 0.0)


def test_any_key_of_the_metadata_can_be_a_budget() -> None:
    budgets = Budgets([MoneyBudget(1.0, per="team")])
    reserved(budgets, 1.0, team=7)
    reserved(budgets, 1.0, team="core", tenant="acme")
    assert left(budgets) == {"7": 0.0, "core": 0.0}


def test_requests_that_name_no_tenant_share_one_account() -> None:
    budgets = Budgets([MoneyBudget(1.0, per="tenant")])
    assert room(budgets, "m", None, 0.6, 0.0)
    assert room(budgets, "m", {"tenant": None}, 0.6, 0.0) is None
    assert room(budgets, "m", {}, 0.4, 0.0)


def test_only_those_named_are_limited() -> None:
    budgets = Budgets([MoneyBudget(0.0, per="tenant", only=["acme"])])
    assert budgets.reserve("m", {"tenant": "other"}, 5.0, 0.0) is None, "nothing binds it"
    assert budgets.reserve("m", None, 5.0, 0.0) is None
    with pytest.raises(BudgetExceededError):
        reserved(budgets, 0.1, tenant="acme")


def test_a_refusal_does_not_name_budgets_that_do_not_bind() -> None:
    budgets = Budgets([MoneyBudget(0.0, per="tenant", only=["acme"]), MoneyBudget(1.0)])
    assert "per router" in str(budgets.refusal("m", {"tenant": "other"}, 2.0, 0.0))
    assert budgets.refusal("m", None, 0.5, 0.0).renews_after == 0.0


def test_an_account_shows_what_is_left() -> None:
    account = MoneyAccount("acme", MoneyBudget(2.0, window=60.0, per="tenant"))
    account.book(500_000_000_000, 0.0)
    assert repr(account) == "<MoneyAccount 'acme' $1.5 of $2 left, 0 open>"


def test_all_budgets_or_none() -> None:
    budgets = Budgets([MoneyBudget(5.0), MoneyBudget(1.0, per="tenant"), MoneyBudget(9.0)])
    with pytest.raises(BudgetExceededError):
        reserved(budgets, 2.0, tenant="acme")
    assert [(s.booked, s.open) for s in budgets.snapshot(0.0)] == [(0.0, 0)] * 3
    budgets.settle(reserved(budgets, 0.75, tenant="acme"), 0.5, 0.0)
    assert [(s.booked, s.open) for s in budgets.snapshot(0.0)] == [(0.5, 0)] * 3


def test_of_several_refusals_the_last_to_renew_is_told() -> None:
    hour, day = MoneyBudget(1.0, window=3600.0), MoneyBudget(1.0)
    for order in ([hour, day], [day, hour]):
        budgets = Budgets([*order, MoneyBudget(100.0)])
        reserved(budgets, 1.0)
        error = budgets.refusal("m", None, 0.5, 0.0)
        assert error.renews_after == DAY + DAY / 60
        assert "86400 s" in str(error)


def test_idle_tenants_are_dropped() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0, per="tenant")])
    for number in range(5000):
        budgets.settle(reserved(budgets, 0.5, float(number), tenant=f"t{number}"), 0.25, number)
    assert len(budgets.snapshot(5000.0)) < 200


def test_a_tenant_with_an_open_call_is_not_dropped_and_its_debt_counts() -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0, per="tenant")])
    slow = reserved(budgets, 0.5, 0.0, tenant="acme")
    for number in range(100):
        budgets.settle(reserved(budgets, 0.5, 1000.0, tenant=f"t{number}"), 0.0, 1000.0)
    budgets.settle(slow, 3.0, 1000.0)
    assert left(budgets, 1000.0)["acme"] == -1.5


@given(
    steps=st.lists(
        st.tuples(
            st.floats(0.0, 40.0),
            st.sampled_from([0.1, 0.25, 0.3, 1.0]),
            st.sampled_from([None, 0.0, 0.05, 0.4]),
            st.integers(0, 100),
        ),
        max_size=80,
    )
)
def test_no_window_holds_more_than_the_limit_by_what_was_reserved(
    steps: list[tuple[float, float, float | None, int]],
) -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0)])
    now = 0.0
    booked: list[tuple[float, float]] = []  # when, and what stands of it now
    running: list[tuple[int, Reservation]] = []
    for pause, amount, actual, which in steps:
        now += pause
        reservation = room(budgets, "m", None, amount, now)
        if reservation is not None:
            running.append((len(booked), reservation))
            booked.append((now, amount))
            assert sum(sum_ for at, sum_ in booked if now - at < 60.0) <= 1.0 + 1e-9
        else:
            assert sum(sum_ for at, sum_ in booked if now - at <= 61.001) + amount > 1.0 - 1e-9
            renews_after = budgets.refusal("m", None, amount, now).renews_after
            assert renews_after is not None
            assert 0 < renews_after <= 61.001
        if actual is not None and running:
            index, reservation = running.pop(which % len(running))
            budgets.settle(reservation, actual, now)
            at, amount = booked[index]
            booked[index] = (at, min(amount, actual))
            booked.append((now, max(0.0, actual - amount)))
        (snapshot,) = budgets.snapshot(now)
        assert snapshot.open == len(running)
    for _, reservation in running:
        budgets.settle(reservation, 0.0, now)
    (snapshot,) = budgets.snapshot(now + 62.0)
    assert (snapshot.booked, snapshot.left, snapshot.open) == (0.0, 1.0, 0)


@given(
    pauses=st.lists(st.floats(0.0, 30.0), max_size=30),
    amount=st.sampled_from([0.2, 0.5, 1.0]),
)
def test_a_refused_sum_fits_when_its_budget_renews(pauses: list[float], amount: float) -> None:
    budgets = Budgets([MoneyBudget(1.0, window=60.0, per="tenant")])
    now = 0.0
    for pause in pauses:
        now += pause
        if room(budgets, "m", None, 0.1, now) is None:
            break
    if room(budgets, "m", None, amount, now) is None:
        renews_after = budgets.refusal("m", None, amount, now).renews_after
        assert renews_after is not None
        assert room(budgets, "m", None, amount, now + renews_after - 1e-6) is None
        assert room(budgets, "m", None, amount, now + renews_after + 1e-6) is not None
