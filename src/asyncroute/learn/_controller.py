"""Keeping spend within a budget: sets the price of a choice, and caps exploration.

Pure: time is handed in, nothing is awaited, memory is constant.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncroute.learn._forecast import Point

__all__ = ("BudgetController", "CostController", "ExplorationCap")

HORIZON = 100
"""Queries over which a deviation from the target is made good, and a cost estimate remembers."""


@final
class _PriceList:
    """What each price is expected to cost, corrected by what was really paid."""

    __slots__ = ("_costs", "_expected", "_paid", "_prices")

    def __init__(self, curve: Sequence[Point]) -> None:
        if not curve:
            raise ValueError("curve must have at least one point, got none")
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
    if not 0.0 < value < math.inf:
        msg = f"{name} must be above 0 and finite, got {value!r}"
        raise ValueError(msg)
    return value


@final
class CostController:
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

    def __repr__(self) -> str:
        return f"<CostController target_cost={self.target_cost:g} saved={self._saved:g}>"

    def price(self, now: float) -> float:
        """Return the price to choose with (see `choose`); `now` does not matter here."""
        del now
        return self._list.affordable(max(self.target_cost + self._saved / HORIZON, 0.0))

    def record(self, price: float, cost: float, now: float) -> None:
        """Take in what a query chosen at `price` really cost, USD."""
        del now
        self._list.learn(price, cost)
        # Savings are capped, or a quiet week would pay for a day of waste. Debts are not.
        self._saved = min(self._saved + self.target_cost - cost, self.target_cost * HORIZON / 2)


@final
class BudgetController:
    """Spreads a budget over each period: spend stays within, quality as high as that allows.

    What is left is divided by the queries still to come, at the rate seen so far. A period begins
    with the rate of the last one.

    Args:
        curve: `QualityPredictor.curve`.
        budget: USD per period.
        period: Seconds.
        now: Start of the first period.

    Raises:
        ValueError: For a budget or period not above 0, or an empty curve.

    """

    __slots__ = ("_list", "_queries", "_rate", "_spent", "_start", "budget", "period")

    def __init__(self, curve: Sequence[Point], budget: float, period: float, now: float) -> None:
        self.budget = _positive("budget", budget)
        self.period = _positive("period", period)
        self._list = _PriceList(curve)
        self._start = now
        self._spent = 0.0
        self._queries = 0
        self._rate: float | None = None

    def __repr__(self) -> str:
        return f"<BudgetController budget={self.budget:g} spent={self._spent:g}>"

    def left(self, now: float) -> float:
        """Return what may still be spent in the period of `now`, USD; negative when overspent."""
        self._turn(now)
        return self.budget - self._spent

    def price(self, now: float) -> float:
        """Return the price to choose with (see `choose`), the highest when nothing is left."""
        left = self.left(now)
        return self._list.affordable(max(left, 0.0) / self._to_come(now))

    def record(self, price: float, cost: float, now: float) -> None:
        """Take in what a query chosen at `price` really cost, USD."""
        self._turn(now)
        self._list.learn(price, cost)
        self._spent += cost
        self._queries += 1

    def _to_come(self, now: float) -> float:
        """Return how many queries to expect in what is left of the period, at least this one.

        Seen and remembered rates are weighed by time; before there is either, the first tenth of a
        period is taken to be as busy as what was seen of it.
        """
        elapsed = max(now - self._start, 0.0)
        weight = self.period / 10
        before = self._queries / max(elapsed, weight) if self._rate is None else self._rate
        rate = (self._queries + before * weight) / (elapsed + weight)
        return max(rate * (self.period - elapsed), 1.0)

    def _turn(self, now: float) -> None:
        """Begin a new period when the current one is over."""
        over = int((now - self._start) // self.period)
        if over < 1:
            return
        self._rate = self._queries / self.period if over == 1 else 0.0
        self._start += over * self.period
        self._spent, self._queries = 0.0, 0


@final
class ExplorationCap:
    """Limits exploration to a share of the queries and a share of the spend.

    Args:
        share: Of all queries, 0 to 1.
        cost_share: What exploring may add to the spend, as a share of it.

    Raises:
        ValueError: For a share outside [0, 1].

    """

    __slots__ = ("_added", "_explored", "_queries", "_spent", "cost_share", "share")

    def __init__(self, share: float = 0.05, cost_share: float = 0.05) -> None:
        for name, value in (("share", share), ("cost_share", cost_share)):
            if not 0.0 <= value <= 1.0:
                msg = f"{name} must be from 0 to 1, got {value!r}"
                raise ValueError(msg)
        self.share = share
        self.cost_share = cost_share
        self._queries = self._explored = self._spent = self._added = 0.0

    def __repr__(self) -> str:
        return f"<ExplorationCap explored={self._explored:g} of {self._queries:g}>"

    def allows(self, extra: float) -> bool:
        """Tell whether one more query may explore at an extra expected cost of `extra` USD."""
        return (
            self._explored + 1 <= self.share * (self._queries + 1)
            and self._added + max(extra, 0.0) <= self.cost_share * self._spent
        )

    def record(self, cost: float, extra: float | None = None) -> None:
        """Take in a query that cost `cost` USD, `extra` of it by exploring (None: it did not).

        After a thousand queries all counts are halved: the caps are about recent ones.
        """
        self._queries += 1
        self._spent += cost
        if extra is not None:
            self._explored += 1
            self._added += max(extra, 0.0)
        if self._queries >= 1000:
            self._queries /= 2
            self._explored /= 2
            self._spent /= 2
            self._added /= 2
