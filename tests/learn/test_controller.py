from __future__ import annotations

import itertools
import random

import pytest

from asyncroute.learn import Point
from asyncroute.learn._controller import Budget, Knob, TargetCost

CURVE = (
    Point(0.0, 10.0, 0.9),
    Point(0.1, 6.0, 0.85),
    Point(1.0, 2.0, 0.7),
    Point(1e6, 1.0, 0.5),
)


def paid(price: float) -> float:
    """The true cost at a price: what the curve says, by linear interpolation."""
    for low, high in itertools.pairwise(CURVE):
        if price <= high.price:
            part = (price - low.price) / (high.price - low.price)
            return low.cost + part * (high.cost - low.cost)
    return CURVE[-1].cost


@pytest.mark.parametrize("target", [1.5, 3.0, 6.0, 9.0])
@pytest.mark.parametrize("off", [0.6, 1.0, 1.5])
def test_the_mean_cost_comes_to_the_target_also_when_the_curve_is_off(
    target: float, off: float
) -> None:
    rng, controller, spent = random.Random(1), TargetCost(CURVE, target), 0.0
    for _ in range(3000):
        price = controller.price(0.0)
        cost = paid(price) * off * rng.uniform(0.2, 1.8)
        controller.record(price, cost, 0.0)
        spent += cost
    reachable = min(max(target, off * 1.0), off * 10.0)
    assert spent / 3000 == pytest.approx(reachable, rel=0.05)


def test_a_target_nobody_reaches_gives_the_highest_price_and_a_rich_one_the_lowest() -> None:
    assert TargetCost(CURVE, 0.5).price(0.0) == 1e6
    assert TargetCost(CURVE, 50.0).price(0.0) == 0.0


def test_savings_are_capped() -> None:
    controller = TargetCost(CURVE, 5.0)
    for _ in range(10_000):
        controller.record(1e6, 0.0, 0.0)
    assert repr(controller) == "<TargetCost target_cost=5 saved=250>"


@pytest.mark.parametrize("budget", [3000.0, 6000.0, 12_000.0])
def test_spend_stays_within_the_budget_of_a_period_and_uses_it(budget: float) -> None:
    rng, controller = random.Random(2), Budget(CURVE, budget, 2000.0)
    for period in range(3):
        spent = 0.0
        for second in range(2000):
            now = period * 2000.0 + second
            price = controller.price(now)
            cost = paid(price) * rng.uniform(0.5, 1.5)
            controller.record(price, cost, now)
            spent += cost
        assert 0.9 * budget <= spent <= 1.01 * budget


def test_an_overspent_period_is_the_cheapest_and_the_next_one_begins_fresh() -> None:
    controller = Budget(CURVE, 100.0, 60.0)
    controller.record(0.0, 150.0, 1.0)
    assert controller.left(2.0) == -50.0
    assert controller.price(2.0) == 1e6
    assert controller.left(61.0) == 100.0


def test_a_clock_that_goes_back_changes_nothing() -> None:
    controller = Budget(CURVE, 100.0, 60.0)
    controller.record(0.0, 10.0, 1001.0)
    assert controller.left(900.0) == 90.0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_names_what_is_wrong_with_it(value: float) -> None:
    with pytest.raises(ValueError, match="target_cost must be above 0"):
        TargetCost(CURVE, value)
    with pytest.raises(ValueError, match="budget must be above 0"):
        Budget(CURVE, value, 1.0)
    with pytest.raises(ValueError, match="period must be above 0"):
        Budget(CURVE, 1.0, value)


def test_an_empty_curve_is_refused() -> None:
    with pytest.raises(ValueError, match="fitted to outcomes with costs"):
        TargetCost((), 1.0)


def test_a_burst_before_any_bill_does_not_find_the_whole_budget_each() -> None:
    controller = Budget(CURVE, 500.0, 1000.0)
    spent = 0.0
    prices = [controller.price(0.0) for _ in range(100)]
    for price in prices:
        controller.record(price, paid(price), 0.0)
        spent += paid(price)
    assert prices[0] == 0.0
    assert prices[-1] == 1e6
    assert spent < 250.0


def test_a_knob_never_moves() -> None:
    knob = Knob(0.5)
    knob.record(0.1, 1e9, 0.0)
    assert knob.price(5.0) == pytest.approx(0.1)
    assert Knob.at(0.3).price(0.0) == 0.3
