"""A fitted predictor as bytes and back, every part checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from asyncroute.learn._codec import WeightsError, pack, read_file, unpack, write_file
from asyncroute.learn._features import BUCKETS, SHAPE, LinearMap
from asyncroute.learn._fit import BENDS, PLACE, Weights
from asyncroute.learn._forecast import Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from asyncroute.learn._codec import Arrays, Header

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Saved", "decode", "encode", "read_file", "write_file")

_WEIGHTS = (
    *("centres", "region", "lift", "slopes", "trust"),
    *("quality", "cost", "middle", "mean_quality", "mean_cost", "evidence"),
)
_MAP = ("codes", "scale", "bias")
_LEARNED = ("rated", "rated_sums", "answered", "answered_sums")
_ARRAYS = (*_MAP, *_WEIGHTS, "coverage", *_LEARNED)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """All that makes a predictor.

    Attributes:
        models: Names, in the order of the weights' first columns.
        cascades: Model indices of the weights' other columns.
        weights: What was fitted.
        curve: What each price would have led to with single models.
        curve_with_cascades: The same with cascades.
        coverage: Share of the fitted queries each model was measured on.
        half_life: Seconds after which an outcome observed while serving counts half.
        ratings: Counts and sums of `Corrections`.
        answered: The same.
    """

    models: tuple[str, ...]
    cascades: Sequence[tuple[int, ...]]
    weights: Weights
    curve: tuple[Point, ...]
    curve_with_cascades: tuple[Point, ...]
    coverage: Floats
    half_life: float
    ratings: tuple[Floats, Floats]
    answered: tuple[Floats, Floats]

    @classmethod
    def fresh(
        cls,
        models: tuple[str, ...],
        cascades: Sequence[tuple[int, ...]],
        weights: Weights,
        coverage: Floats,
        half_life: float,
    ) -> Saved:
        """Return what has observed nothing while serving."""
        empty = np.zeros((len(weights.centres), len(models)), np.float32)
        nothing = (empty, empty)
        return cls(models, cascades, weights, (), (), coverage, half_life, nothing, nothing)


def encode(saved: Saved) -> bytes:
    """Return the bytes of `saved`."""
    weights = saved.weights
    header: dict[str, object] = {
        "kind": "weights",
        "models": list(saved.models),
        "cascades": [list(cascade) for cascade in saved.cascades],
        "curve": _rows(saved.curve),
        "curve_with_cascades": _rows(saved.curve_with_cascades),
        "half_life": saved.half_life,
    }
    arrays = {name: getattr(weights.map, name) for name in _MAP}
    arrays |= {name: getattr(weights, name) for name in _WEIGHTS}
    arrays["region"] = weights.region.astype(np.uint8)
    arrays["coverage"] = saved.coverage
    arrays |= dict(zip(_LEARNED, (*saved.ratings, *saved.answered), strict=True))
    return pack(header, arrays)


def _rows(curve: Sequence[Point]) -> list[list[float]]:
    return [[point.price, point.cost, point.quality] for point in curve]


def decode(data: bytes) -> Saved:
    """Return what `encode` was given.

    Raises:
        WeightsError: When anything about it is wrong; the message says what.
    """
    header, arrays = unpack(data, "weights", _ARRAYS)
    models = header.texts("models")
    cascades = _cascades(header, len(models))
    half_life = header.number("half_life")
    if not models or half_life == 0:
        raise WeightsError("models must not be empty and half_life above 0")
    _expect(arrays, len(models), len(models) + len(cascades))
    single = {name: arrays[name].astype(np.float32) for name in _ARRAYS if name != "codes"}
    linear = LinearMap(arrays["codes"].astype(np.int8), single["scale"], single["bias"])
    for name in ("rated", "answered"):
        np.maximum(single[name], 0, out=single[name])
    fitted: dict[str, Any] = {name: single[name] for name in _WEIGHTS}
    fitted["region"] = arrays["region"].astype(np.intp)
    return Saved(
        models,
        cascades,
        Weights(linear, **fitted),
        _curve(header, "curve"),
        _curve(header, "curve_with_cascades"),
        single["coverage"],
        half_life,
        (single["rated"], single["rated_sums"]),
        (single["answered"], single["answered_sums"]),
    )


def _curve(header: Header, name: str) -> tuple[Point, ...]:
    rows = header.rows(name)
    if any(len(row) != 3 for row in rows):
        raise WeightsError(f"{name} must have points of three numbers")
    return tuple(Point(*row) for row in rows)


def _cascades(header: Header, models: int) -> tuple[tuple[int, ...], ...]:
    rows = header.rows("cascades")
    for row in rows:
        if len(row) < 2 or any(index % 1 or index >= models for index in row):
            raise WeightsError(f"cascade must name at least two models by index, got {row!r}")
    return tuple(tuple(int(index) for index in row) for row in rows)


def _expect(arrays: Arrays, models: int, choices: int) -> None:
    """Check all shapes against each other."""
    for name in ("lift", "quality", "trust"):
        if arrays[name].ndim != 2:
            raise WeightsError(f"array {name} must have two dimensions")
    prototypes, factors = arrays["lift"].shape
    regions = len(arrays["trust"])
    first = min(max(arrays["quality"].shape[0] - BENDS, 1), factors - 1)
    if prototypes == 0:
        raise WeightsError("array lift must have at least one row")
    shapes = {
        "codes": (PLACE + factors, BUCKETS),
        "scale": (PLACE + factors,),
        "bias": (PLACE + factors,),
        "centres": (prototypes, PLACE),
        "region": (prototypes,),
        "slopes": (regions, SHAPE, factors),
        "trust": (regions, factors),
        "quality": (first + BENDS, choices),
        "cost": (factors - first + BENDS, choices),
        "middle": (2 * BENDS,),
        "mean_quality": (choices,),
        "mean_cost": (choices,),
        "evidence": (prototypes,),
        "coverage": (models,),
        **dict.fromkeys(_LEARNED, (prototypes, models)),
    }
    for name, shape in shapes.items():
        arrays.expect(name, shape)
    region = arrays["region"]
    if (region % 1).any() or region.min() < 0 or region.max() >= regions:
        raise WeightsError(f"array region must hold whole numbers from 0 to {regions - 1}")
