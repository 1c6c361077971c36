"""What was observed while serving: per prototype and model, with decay, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from asyncroute.learn._codec import pack, unpack
from asyncroute.learn._forecast import PRIOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Corrections",)


@final
class Corrections:
    """How much better or worse models turned out than predicted, here and everywhere.

    Args:
        prototypes: Rows of the table.
        models: Columns of the table.

    """

    __slots__ = ("_counts", "_last", "_sums", "updates")

    def __init__(self, prototypes: int, models: int) -> None:
        self._counts = np.zeros((prototypes, models), np.float32)
        self._sums = np.zeros((prototypes, models), np.float32)
        self._last = np.zeros(models)
        self.updates = 0

    def observed(self, lit: Floats) -> tuple[Floats, Floats]:
        """Return per model the correction near a text, and how many observations are behind it.

        Two stages of shrinking: what holds everywhere to zero, what holds here to that.

        Args:
            lit: How much the text lights each prototype.

        """
        seen = lit @ self._counts
        everywhere = self._sums.sum(axis=0) / (self._counts.sum(axis=0) + np.float32(PRIOR))
        here = (lit @ self._sums - everywhere * seen) / (seen + np.float32(PRIOR))
        return everywhere + here, seen

    def add(self, lit: Floats, column: int, surprise: float, now: float, half_life: float) -> None:
        """Take in one outcome of one model.

        Args:
            lit: How much the text lights each prototype.
            column: Which model.
            surprise: Its score minus the fitted prediction.
            now: Seconds; going back is taken as no time passed.
            half_life: Seconds after which what was seen before counts half.

        """
        faded = 0.5 ** (max(now - float(self._last[column]), 0.0) / half_life)
        self._counts[:, column] *= faded
        self._sums[:, column] *= faded
        self._counts[:, column] += lit
        self._sums[:, column] += lit * np.float32(surprise)
        self._last[column] = max(now, float(self._last[column]))
        self.updates += 1

    def widen(self) -> None:
        """Add a column for one more model, without observations."""
        self._counts = np.pad(self._counts, ((0, 0), (0, 1)))
        self._sums = np.pad(self._sums, ((0, 0), (0, 1)))
        self._last = np.append(self._last, 0.0)

    def packed(self, models: Sequence[str]) -> bytes:
        """Return everything as bytes, columns by name."""
        header: dict[str, object] = {
            "kind": "state",
            "models": list(models),
            "updates": self.updates,
        }
        return pack(header, {"counts": self._counts, "sums": self._sums})

    @classmethod
    def unpacked(
        cls, data: bytes, prototypes: int, models: Sequence[str], now: float
    ) -> Corrections:
        """Return what `packed` returned, for these models: unknown ones have no observations.

        Time stands still between the two: clocks of two processes have nothing in common.

        Raises:
            WeightsError: When it is something else, or of another number of prototypes.

        """
        header, arrays = unpack(data, "state", ("counts", "sums"))
        names = header.texts("models")
        for name in ("counts", "sums"):
            arrays.expect(name, (prototypes, len(names)))
        made = cls(prototypes, len(models))
        made._last[:] = now
        made.updates = int(header.number("updates"))
        for at, name in enumerate(names):
            if name in models:
                column = models.index(name)
                made._counts[:, column] = np.maximum(arrays["counts"][:, at], 0)
                made._sums[:, column] = arrays["sums"][:, at]
        return made
