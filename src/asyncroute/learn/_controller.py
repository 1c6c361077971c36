"""What saving is worth: fixed by a knob, or set so that spend stays within a budget.

Pure: time is handed in, nothing is awaited, memory is constant.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol, final

from asyncroute.learn._forecast import price_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncroute.learn._forecast import Point

__all__ = ("Budget", "Controller", "Knob", "TargetCost")

HORIZON = 100
"""Queries over which a deviation from the target is made good, and a cost estimate remembers."""


class Controller(Protocol):
    """Sets the price that choices are made at, see `choose`."""

    def price(self, now: float) -> float:
        """Return the price for one more query, at an instant in seconds."""
        ...

    def record(self, price: float, cost: float, now: float) -> None:
        """Take in what a query chosen at `price` really cost, USD."""
        ...


@final
class Knob:
    """A fixed price.

    Args:
        knob: From 0 (cheapest) to 1 (best).
    """

    __slots__ = ("_price",)

    def __init__(self, knob: float) -> None:
        self._price = price_of(knob)

    @classmethod
    def at(cls, price: float) -> Knob:
        """Return the knob that stands at this price."""
        made = cls(1.0)
        made._price = price
        return made

    def price(self, now: float) -> float:
        """Return the price."""
        return self._price

    def record(self, price: float, cost: float, now: float) -> None:
        """Do nothing: the price is fixed."""

    def __repr__(self) -> str:
        return f"<Knob price={self._price:g}>"


@final
class _PriceList:
    """What each price is expected to cost, corrected by what was really paid."""

    __slots__ = ("_costs", "_expected", "_paid", "_prices")

    def __init__(self, curve: Sequence[Point]) -> None:
        if not curve:
            raise ValueError("a budget needs a predictor fitted to outcomes with costs")
        rising = sorted(curve, key=lambda point: point.price)
        self._prices = [point.price for point in rising]
        costs = [point.cost for point in rising]
        for index in range(1, len(costs)):  # a higher price never costs more but by noise
            costs[index] = min(costs[index], costs[index - 1])
        self._costs = costs
        self._paid = self._expected = max(costs[0], 1e-12) * HORIZON / 4

    def cost_of(self, price: float) -> float:
        """Return the mean cost of a query at `price`, uncorrected."""
        prices, costs = self._prices, self._costs
        for low in range(len(prices) - 1):
            if price < prices[low + 1]:
                part = (price - prices[low]) / (prices[low + 1] - prices[low])
                return costs[low] + max(part, 0.0) * (costs[low + 1] - costs[low])
        return costs[-1]

    def learn(self, price: float, cost: float) -> None:
        """Compare what a query cost with what it was expected to, forgetting slowly."""
        kept = 1.0 - 1.0 / HORIZON
        self._paid = self._paid * kept + cost
        self._expected = self._expected * kept + self.cost_of(price)

    def affordable(self, allowance: float) -> float:
        """Return the lowest price whose mean cost is within `allowance`; else the highest."""
        wanted = allowance * self._expected / max(self._paid, 1e-300)
        prices, costs = self._prices, self._costs
        if wanted >= costs[0]:
            return prices[0]
        for low in range(len(prices) - 1):
            if costs[low + 1] <= wanted:
                part = (costs[low] - wanted) / (costs[low] - costs[low + 1])
                return prices[low] + part * (prices[low + 1] - prices[low])
        return prices[-1]


def _positive(name: str, value: float) -> float:
    if not 0.0 < value < inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
    return value


@final
class TargetCost:
    """Keeps the mean cost of a query at or below a target, at the best quality that allows.

    It knows from the fitted curve what each price costs, learns from the bills by how much that is
    off, and makes good what was over- or underspent during the next `HORIZON` queries.

    Args:
        curve: `QualityPredictor.curve`.
        target_cost: Mean cost per query, USD.

    Raises:
        ValueError: For a target not above 0, or an empty curve.
    """

    __slots__ = ("_list", "_saved", "target_cost")

    def __init__(self, curve: Sequence[Point], target_cost: float) -> None:
        self.target_cost = _positive("target_cost", target_cost)
        self._list = _PriceList(curve)
        self._saved = 0.0

    def price(self, now: float) -> float:
        """Return the price at which what was saved and the target suffice."""
        return self._list.affordable(max(self.target_cost + self._saved / HORIZON, 0.0))

    def record(self, price: float, cost: float, now: float) -> None:
        """Take in what a query chosen at `price` really cost, USD."""
        self._list.learn(price, cost)
        # Savings are capped, or a quiet week would pay for a day of waste. Debts are not.
        self._saved = min(self._saved + self.target_cost - cost, self.target_cost * HORIZON / 2)

    def __repr__(self) -> str:
        return f"<TargetCost target_cost={self.target_cost:g} saved={self._saved:g}>"


@final
class Budget:
    """Spreads a budget over each period: spend stays within, quality as high as that allows.

    What is left is divided by the queries still to come, at the rate seen so far. A period begins
    with the rate of the last one; the first begins with the first query. A query counts when it is
    chosen, so that a burst does not find the whole budget each; its bill when it comes.

    Args:
        curve: `QualityPredictor.curve`.
        budget: USD per period.
        period: Seconds.

    Raises:
        ValueError: For a budget or period not above 0, or an empty curve.
    """

    __slots__ = ("_list", "_queries", "_rate", "_spent", "_start", "budget", "period")

    def __init__(self, curve: Sequence[Point], budget: float, period: float) -> None:
        self.budget = _positive("budget", budget)
        self.period = _positive("period", period)
        self._list = _PriceList(curve)
        self._start: float | None = None
        self._spent = 0.0
        self._queries = 0
        self._rate: float | None = None

    def left(self, now: float) -> float:
        """Return what may still be spent in the period of `now`, USD; negative when overspent."""
        self._begun(now)
        return self.budget - self._spent

    def price(self, now: float) -> float:
        """Return the price for one more query, the highest when nothing is left."""
        left = max(self.left(now), 0.0)
        self._queries += 1
        return self._list.affordable(left / self._to_come(now))

    def record(self, price: float, cost: float, now: float) -> None:
        """Take in what a query chosen at `price` really cost, USD."""
        self._begun(now)
        self._list.learn(price, cost)
        self._spent += cost

    def _to_come(self, now: float) -> float:
        """Return how many queries to expect in what is left of the period, at least this one.

        Seen and remembered rates are weighed by time; before there is either, the first tenth of a
        period is taken to be as busy as what was seen of it.
        """
        elapsed = max(now - self._begun(now), 0.0)
        weight = self.period / 10
        before = self._queries / max(elapsed, weight) if self._rate is None else self._rate
        rate = (self._queries + before * weight) / (elapsed + weight)
        return max(rate * (self.period - elapsed), 1.0)

    def _begun(self, now: float) -> float:
        """Return the start of the current period; begin a new one when the last is over."""
        if self._start is None:
            self._start = now
        over = int((now - self._start) // self.period)
        if over >= 1:
            self._rate = self._queries / self.period if over == 1 else None
            self._start += over * self.period
            self._spent, self._queries = 0.0, 0
        return self._start

    def __repr__(self) -> str:
        return f"<Budget budget={self.budget:g} spent={self._spent:g}>"
