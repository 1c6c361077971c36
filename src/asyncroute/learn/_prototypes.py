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
    rows = (
        np.argpartition(cosines, -NEAREST)[-NEAREST:] if len(cosines) > NEAREST else _first(cosines)
    )
    return Lit(rows, _shares(cosines[rows]))


def _first(cosines: Floats) -> NDArray[np.intp]:
    return np.arange(len(cosines))


def light_all(cosines: Floats) -> Floats:
    """Return the same for many texts: a row of `cosines` each, zeros where nothing is lit."""
    lit = np.zeros_like(cosines)
    if cosines.shape[1] <= NEAREST:
        return _shares(cosines)
    rows = np.argpartition(cosines, -NEAREST, axis=1)[:, -NEAREST:]
    np.put_along_axis(lit, rows, _shares(np.take_along_axis(cosines, rows, axis=1)), axis=1)
    return lit


def _shares(cosines: Floats) -> Floats:
    shares = np.maximum(cosines, _LEAST)
    square = shares * shares
    shares = square * square
    shares *= square  # to the 6th power, without pow()
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
