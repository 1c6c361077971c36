"""Figures of a replay: what they are is in `docs/learning.md`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum, inf, isfinite, nan, sqrt
from statistics import median
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Figure", "Line", "aiq", "apgr", "cost_share", "hull")


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all splits."""

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the splits."""
        return fsum(self.values) / len(self.values)

    @property
    def median(self) -> float:
        """Median over the splits."""
        return median(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the splits (of the values themselves, not of their mean)."""
        if not isfinite(self.mean):
            return nan
        return sqrt(fsum((v - self.mean) ** 2 for v in self.values) / len(self.values))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Mean costs (USD per query) and mean scores of one or more points."""

    name: str
    cost: Floats
    score: Floats


def cost_share(line: Line, cost: float, score: float) -> float:
    """Return the least cost on a line at a score of at least `score`, as a share of `cost`."""
    reached = line.cost[line.score >= score - 1e-12]
    return float(reached.min() / cost) if len(reached) else inf


def hull(cost: Floats, quality: Floats) -> NDArray[np.intp]:
    """Return the indices of the points on the upper left, non-decreasing concave hull, by cost."""
    kept: list[int] = []
    for index in np.lexsort((-quality, cost)):
        if kept and quality[index] <= quality[kept[-1]]:
            continue
        while len(kept) > 1 and _below(kept[-2], kept[-1], int(index), cost, quality):
            kept.pop()
        kept.append(int(index))
    return np.array(kept, dtype=np.intp)


def _below(left: int, middle: int, right: int, cost: Floats, quality: Floats) -> bool:
    rise = (quality[middle] - quality[left]) * (cost[right] - cost[left])
    return bool(rise <= (quality[right] - quality[left]) * (cost[middle] - cost[left]))


def aiq(line: Line, low: float, high: float) -> float:
    """Return the mean height of a line's hull over costs from `low` to `high`.

    Left of the hull's first point its score counts (nothing is given for costs not reached).
    """
    corners = hull(line.cost, line.score)
    grid = np.linspace(low, high, 1001)
    return float(np.interp(grid, line.cost[corners], line.score[corners]).mean())


def apgr(advantage: Floats, weak: Floats, strong: Floats) -> float:
    """Return the average performance gap recovered, 0.5 for a random order, nan without a gap.

    Equal advantages share their places, so that a constant prediction is a random order.
    """
    order = np.argsort(-advantage, kind="stable")
    ranked = advantage[order]
    gain = (strong - weak)[order].astype(np.float64)
    group = np.concatenate(([0], np.cumsum(np.diff(ranked) != 0)))
    total = gain.sum()
    if len(gain) == 0 or total == 0:
        return nan
    gain = (np.bincount(group, weights=gain) / np.bincount(group))[group]
    recovered = np.concatenate(([0.0], np.cumsum(gain))) / total
    return float((recovered[1:] + recovered[:-1]).mean() / 2)
