"""Which prototypes a text lights: the nearest few, by their cosine to the 6th power."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Lit", "light", "light_all")

NEAREST = 8
_LEAST = np.float32(1e-3)


class Lit(NamedTuple):
    """The prototypes that one text lights, and how much each: shares that sum to one."""

    rows: NDArray[np.intp]
    shares: Floats


def light(cosines: Floats) -> Lit:
    """Return what one text lights, from its cosine to every prototype."""
    if len(cosines) > NEAREST:
        rows = cosines.argpartition(-NEAREST)[-NEAREST:]
    else:
        rows = np.arange(len(cosines))
    return Lit(rows, _shares(cosines[rows]))


def light_all(cosines: Floats) -> Floats:
    """Return the same for many texts: a row of `cosines` each, zeros where nothing is lit."""
    if cosines.shape[1] <= NEAREST:
        return _shares(cosines)
    rows = cosines.argpartition(-NEAREST, axis=1)[:, -NEAREST:]
    lit = np.zeros_like(cosines)
    np.put_along_axis(lit, rows, _shares(np.take_along_axis(cosines, rows, axis=1)), axis=1)
    return lit


def _shares(cosines: Floats) -> Floats:
    shares = np.maximum(cosines, _LEAST)
    shares *= shares * shares  # multiplied: powers take three times as long
    shares *= shares
    shares /= np.add.reduce(shares, axis=-1, keepdims=True)
    return shares
