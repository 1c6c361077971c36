"""Which prototypes a text lights: the nearest few, by their cosine to the 6th power."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Lit", "light", "light_all")

NEAREST = 8
_FLOOR, _LEAST = 1e-3, 1e-6
"""What a cosine counts as at least: a share of the highest one, and a number that has a power."""


class Lit(NamedTuple):
    """The prototypes that one text lights, and how much each: shares that sum to one."""

    rows: NDArray[np.intp]
    shares: Floats


def light(cosines: Floats) -> Lit:
    """Return what one text lights, from its cosine to every prototype, or a multiple of them."""
    if len(cosines) > NEAREST:
        rows = cosines.argpartition(-NEAREST)[-NEAREST:]
    else:
        rows = np.arange(len(cosines))
    # Of eight numbers: a loop is faster than six operations on arrays.
    near: list[float] = cosines.take(rows).tolist()
    floor = max(max(near) * _FLOOR, _LEAST)
    powers = [(cosine if cosine > floor else floor) ** 6 for cosine in near]
    whole = sum(powers)
    return Lit(rows, np.array([power / whole for power in powers], np.float32))


def light_all(cosines: Floats) -> Floats:
    """Return the same for many texts: a row of `cosines` each, zeros where nothing is lit."""
    if cosines.shape[1] <= NEAREST:
        return _shares(cosines)
    rows = cosines.argpartition(-NEAREST, axis=1)[:, -NEAREST:]
    lit = np.zeros_like(cosines)
    np.put_along_axis(lit, rows, _shares(np.take_along_axis(cosines, rows, axis=1)), axis=1)
    return lit


def _shares(cosines: Floats) -> Floats:
    """Return the shares of the prototypes (columns) in texts (rows)."""
    highest = cosines.max(axis=1, keepdims=True)
    shares = np.maximum(cosines, np.maximum(highest * np.float32(_FLOOR), np.float32(_LEAST)))
    shares *= shares * shares  # multiplied: powers take three times as long
    shares *= shares
    return shares / shares.sum(axis=1, keepdims=True)
