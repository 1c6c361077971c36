"""What was observed while serving: per prototype and model, with decay, in bounded memory."""

from __future__ import annotations

from math import isnan, nan
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from asyncroute.learn._forecast import PRIOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from asyncroute.learn._prototypes import Lit

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Corrections",)


@final
class Corrections:
    """How much better or worse models turned out than expected, here and everywhere.

    Args:
        counts: Decayed observations, a row per prototype, a column per model.
        sums: Their surprises, in the same shape.
    """

    __slots__ = ("_last", "_table", "_totals", "updates")

    def __init__(self, counts: Floats, sums: Floats) -> None:
        self._table = np.hstack([counts, sums]).astype(np.float32)  # one product reads both
        self._totals = self._table.sum(axis=0)
        self._last = [nan] * counts.shape[1]
        self.updates = int(np.ceil(self._totals[: counts.shape[1]].sum()))

    @classmethod
    def none(cls, prototypes: int, models: int) -> Corrections:
        """Return a table without observations."""
        empty = np.zeros((prototypes, models), np.float32)
        return cls(empty, empty)

    @property
    def counts(self) -> Floats:
        """Decayed observations, a row per prototype, a column per model."""
        return self._table[:, : len(self._last)]

    @property
    def sums(self) -> Floats:
        """Decayed sums of surprises, in the same shape."""
        return self._table[:, len(self._last) :]

    def observed(self, lit: Lit) -> tuple[Floats, Floats]:
        """Return per model the correction near a text, and how many observations are behind it.

        Two stages of shrinking: what holds everywhere to zero, what holds here to that.
        """
        width, prior = len(self._last), np.float32(PRIOR)
        near = lit.shares @ self._table[lit.rows]
        seen = near[:width]
        everywhere = self._totals[width:] / (self._totals[:width] + prior)
        here = (near[width:] - everywhere * seen) / (seen + prior)
        return everywhere + here, seen

    def add(self, lit: Lit, column: int, surprise: float, now: float, half_life: float) -> None:
        """Take in one outcome of one model.

        Args:
            lit: Which prototypes its text lights.
            column: Which model.
            surprise: How much better it was than expected.
            now: Seconds; going back is taken as no time passed.
            half_life: Seconds after which what was seen before counts half.
        """
        pair = np.array([column, column + len(self._last)])
        last = self._last[column]
        if now > last:
            self._table[:, pair] *= np.float32(0.5 ** ((now - last) / half_life))
        if isnan(last) or now > last:
            self._last[column] = now
        shares = lit.shares[:, None]
        self._table[np.ix_(lit.rows, pair)] += shares * np.array([1.0, surprise], np.float32)
        self._totals[pair] = self._table[:, pair].sum(axis=0)
        self.updates += 1

    def widened(self) -> Corrections:
        """Return a table with a column for one more model, without observations."""
        wide = ((0, 0), (0, 1))
        made = Corrections(np.pad(self.counts, wide), np.pad(self.sums, wide))
        made._last[:-1] = self._last
        made.updates = self.updates
        return made
