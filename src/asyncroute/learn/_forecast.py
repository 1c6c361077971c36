"""What is expected of each choice, and which one to take at which price. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("PRICES", "PRIOR", "Forecast", "Point", "choose", "price_of")

PRIOR = 5.0
"""Observations a static mean counts as, against what was seen of a model."""
PRICES = (0.0, *(float(p) for p in np.geomspace(1e-3, 10.0, 40)), 1e6)
"""Prices for which a fit keeps what they would have led to, see `QualityPredictor.curve`."""


class Forecast(NamedTuple):
    """What is expected of each choice on one query.

    Attributes:
        quality: Expected score, 0 to 1.
        cost: Expected cost, USD; 0 where it is not known.
    """

    quality: Floats
    cost: Floats


@final
@dataclass(frozen=True, slots=True)
class Point:
    """What one price would have led to on the fitted queries, each predicted without itself.

    Attributes:
        price: See `choose`.
        cost: Mean cost per query, USD.
        quality: Mean score.
    """

    price: float
    cost: float
    quality: float


def choose(forecast: Forecast, price: float, reference: float) -> int:
    """Return the index of the best choice: most quality minus price times cost.

    Args:
        forecast: What is expected.
        price: Quality one would give up to save `reference`: 0 is the best at any cost, a large
            number the cheapest.
        reference: Cost of an average query on the model that is best on average, USD.
    """
    return int((forecast.quality - forecast.cost * np.float32(price / reference)).argmax())


def price_of(knob: float) -> float:
    """Return the price for a knob from 0 (cheapest) to 1 (best); half way is a price of 0.1.

    Raises:
        ValueError: For a knob outside [0, 1].
    """
    if not 0.0 <= knob <= 1.0:
        raise ValueError(f"knob must be from 0 to 1, got {knob!r}")
    return min(0.1 * (1.0 - knob) / knob, PRICES[-1]) if knob else PRICES[-1]
