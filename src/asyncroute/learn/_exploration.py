"""How much may be tried out: a share of the queries, and a share of what they cost."""

from __future__ import annotations

from typing import final

__all__ = ("ExplorationCap",)

_RECENT = 1000
"""Queries after which all counts are halved: the caps are about recent ones."""


@final
class ExplorationCap:
    """Limits exploration to a share of the queries and a share of the spend.

    Args:
        share: Of all queries, 0 to 1.
        cost_share: What exploring may add to the expected spend, as a share of it.

    Raises:
        ValueError: For a share outside [0, 1].
    """

    __slots__ = ("_added", "_explored", "_queries", "_spent", "cost_share", "share")

    def __init__(self, share: float, cost_share: float) -> None:
        for name, value in (("explore", share), ("explore_cost", cost_share)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {value!r}")
        self.share = share
        self.cost_share = cost_share
        self._queries = self._explored = self._spent = self._added = 0.0

    def try_spend(self, cost: float, extra: float) -> bool:
        """Take in one more query that may explore.

        Args:
            cost: What it is expected to cost without exploring, USD.
            extra: What exploring is expected to add, USD; negative where it saves.

        Returns:
            Whether it may.
        """
        added = max(extra, 0.0)
        allowed = (
            self._explored + 1 <= self.share * (self._queries + 1)
            and self._added + added <= self.cost_share * self._spent
        )
        self.count(cost)
        if allowed:
            self._explored += 1
            self._added += added
            self._spent += added
        return allowed

    def count(self, cost: float) -> None:
        """Take in one more query that does not explore."""
        self._queries += 1
        self._spent += cost
        if self._queries >= _RECENT:
            self._queries /= 2
            self._explored /= 2
            self._spent /= 2
            self._added /= 2

    def __repr__(self) -> str:
        return f"<ExplorationCap explored={self._explored:g} of {self._queries:g}>"
