"""Fitted weights as bytes and back, every part checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from asyncroute.learn._codec import WeightsError, pack, unpack
from asyncroute.learn._features import FEATURES, LinearMap
from asyncroute.learn._fit import PLACE, Weights
from asyncroute.learn._forecast import Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from asyncroute.learn._codec import Arrays, Header

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Saved", "decode", "encode")

_ARRAYS = (
    "codes",
    "scale",
    "bias",
    "centres",
    "lift",
    "quality",
    "cost",
    "mean_quality",
    "mean_cost",
    "evidence",
    "coverage",
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """All that makes a predictor but what it observed while serving."""

    models: tuple[str, ...]
    cascades: tuple[tuple[int, ...], ...]
    weights: Weights
    curve: tuple[Point, ...]
    coverage: Floats
    half_life: float


def encode(saved: Saved) -> bytes:
    """Return the bytes of `saved`; prototypes are kept in half precision."""
    weights, half = saved.weights, np.float16
    header: dict[str, object] = {
        "kind": "weights",
        "models": list(saved.models),
        "cascades": [list(cascade) for cascade in saved.cascades],
        "curve": [[point.price, point.cost, point.quality] for point in saved.curve],
        "half_life": saved.half_life,
    }
    arrays = (
        weights.map.codes,
        weights.map.scale,
        weights.map.bias,
        weights.centres.astype(half),
        weights.lift.astype(half),
        weights.quality,
        weights.cost,
        weights.mean_quality,
        weights.mean_cost,
        weights.evidence,
        saved.coverage,
    )
    return pack(header, dict(zip(_ARRAYS, arrays, strict=True)))


def decode(data: bytes) -> Saved:
    """Return what `encode` was given.

    Raises:
        WeightsError: When anything about it is wrong; the message says what.

    """
    header, arrays = unpack(data, "weights", _ARRAYS)
    models = header.texts("models")
    cascades = _cascades(header, len(models))
    curve = header.rows("curve")
    if not curve or any(len(row) != 3 for row in curve):
        raise WeightsError("curve must have points of three numbers")
    half_life = header.number("half_life")
    if not models or half_life == 0:
        raise WeightsError("models must not be empty and half_life above 0")
    _expect(arrays, len(models), len(models) + len(cascades))
    single = {name: arrays[name].astype(np.float32) for name in _ARRAYS if name != "codes"}
    weights = Weights(
        LinearMap(arrays["codes"].astype(np.int8), single["scale"], single["bias"]),
        single["centres"],
        single["lift"],
        single["quality"],
        single["cost"],
        single["mean_quality"],
        single["mean_cost"],
        single["evidence"],
    )
    points = tuple(Point(*row) for row in curve)
    return Saved(models, cascades, weights, points, single["coverage"], half_life)


def _cascades(header: Header, models: int) -> tuple[tuple[int, ...], ...]:
    rows = header.rows("cascades")
    for row in rows:
        if len(row) < 2 or any(index % 1 or index >= models for index in row):
            raise WeightsError(f"cascade must name at least two models by index, got {row!r}")
    return tuple(tuple(int(index) for index in row) for row in rows)


def _expect(arrays: Arrays, models: int, choices: int) -> None:
    """Check all shapes against each other."""
    for name in ("lift", "quality"):
        if arrays[name].ndim != 2:
            raise WeightsError(f"array {name} must have two dimensions")
    prototypes, factors = arrays["lift"].shape
    first = min(arrays["quality"].shape[0], factors)
    if prototypes == 0:
        raise WeightsError("array lift must have at least one row")
    shapes = {
        "codes": (PLACE + factors, FEATURES),
        "scale": (PLACE + factors,),
        "bias": (PLACE + factors,),
        "centres": (prototypes, PLACE),
        "quality": (first, choices),
        "cost": (factors - first, choices),
        "mean_quality": (choices,),
        "mean_cost": (choices,),
        "evidence": (prototypes,),
        "coverage": (models,),
    }
    for name, shape in shapes.items():
        arrays.expect(name, shape)
