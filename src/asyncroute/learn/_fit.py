"""Fitting: from outcomes in a table to the weights a prediction needs. Linear algebra, no state.

The method, in five steps (all closed form but the clustering):

1. Feature vectors are centred and their n-gram block projected on its strongest directions
   (truncated singular value decomposition, randomised; Halko, Martinsson and Tropp 2011).
2. The first 16 directions, made unit length, are the *place* of a text. Spherical k-means puts up
   to 256 prototypes there; a text lights up the nearest 8 with its cosine to the 6th power.
3. What is to be predicted, deviations of each model from its own mean, is rotated into factors
   (principal axes of the targets): the first is how hard the query is, the others are who is good
   at what.
4. Each factor gets one ridge regression on directions, byte profile and lit prototypes together,
   its penalty chosen by leave-one-out error (exact, from the leverages).
5. Each factor is shrunk by its leave-one-out gain, one standard error to the safe side ("curds and
   whey", Breiman and Friedman 1997). A factor that does not generalise gets zero: with few data, or
   with texts that tell nothing, what is left is the static table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from asyncroute.learn._features import BUCKETS, FEATURES, LinearMap
from asyncroute.learn._prototypes import light_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("PLACE", "Fitted", "Table", "Weights", "blank", "fit_weights")

PLACE = 16
"""Dimensions of a text's place, in which prototypes are neighbours."""
QUALITY_FACTORS = 12
COST_FACTORS = 4
PROTOTYPES = 256
GAP = 0.02
"""Quality below the cost-quality front at which a choice stops mattering for the fit."""
DIRECTIONS = 256
PENALTIES = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
BYTE_WEIGHT = 0.3
"""Mean squared length of the byte block where that of the n-gram block is 1."""
PROTOTYPE_WEIGHT = 0.5
COST_CLIP = 4.0
"""A cost counts as at most this many times the model's mean: one endless answer is no pattern."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What is learned from: one row per query, one column per choice, nan where not measured."""

    features: Floats
    score: Floats
    cost: Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What a prediction needs; all arrays, see the module's text for their roles.

    Attributes:
        map: From features to place (first `PLACE` dimensions) and lean (one per factor).
        centres: Prototypes as rows, unit length.
        lift: What a lit prototype adds to each factor.
        quality: Loadings, from quality factors (rows) to choices.
        cost: Loadings, from cost factors to choices, as a share of the mean cost.
        mean_quality: Static table: mean score per choice.
        mean_cost: Mean cost per choice, USD; 0 where it is not known.
        evidence: Fitted observations that lit each prototype.

    """

    map: LinearMap
    centres: Floats
    lift: Floats
    quality: Floats
    cost: Floats
    mean_quality: Floats
    mean_cost: Floats
    evidence: Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a fit gives.

    Attributes:
        weights: For predictions.
        quality: Leave-one-out predictions for each cell of the table: what the router would have
            believed about a query it had not seen.
        cost: The same, USD.
    """

    weights: Weights
    quality: Floats
    cost: Floats


def blank(mean_quality: Floats) -> Weights:
    """Return the weights of what was fitted to nothing: one prototype, and the static table."""
    choices = len(mean_quality)

    def zeros(*shape: int) -> Floats:
        return np.zeros(shape, np.float32)

    return Weights(
        LinearMap.rounded(zeros(PLACE + 2, FEATURES), zeros(PLACE + 2)),
        zeros(1, PLACE),
        zeros(1, 2),
        zeros(1, choices),
        zeros(1, choices),
        mean_quality.astype(np.float32),
        zeros(choices),
        zeros(1),
    )


def _directions(rows: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the mean of `rows` and their strongest directions (columns)."""
    mean = rows.mean(axis=0)
    count = min(DIRECTIONS, max(len(rows) // 4, 1))
    probe = rng.standard_normal((rows.shape[1], count + 20), np.float32)

    def image(right: Floats) -> Floats:  # of the centred rows, without a copy of them
        return rows @ right - mean @ right

    left = image(probe)
    for _ in range(2):
        left = np.linalg.qr(left)[0]
        left = image(rows.T @ left - np.outer(mean, left.sum(axis=0)))
    left = np.linalg.qr(left)[0]
    small = left.T @ rows - np.outer(left.sum(axis=0), mean)
    return mean, np.linalg.svd(small, full_matrices=False)[2][:count].T


def _unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _prototypes(places: Floats, rng: np.random.Generator) -> Floats:
    """Return cluster centres of `places` (unit rows) by spherical k-means."""
    count = min(PROTOTYPES, max(len(places) // 5, 1))
    centres = places[rng.choice(len(places), count, replace=False)]
    for _ in range(15):
        nearest = (places @ centres.T).argmax(axis=1)
        sums = np.stack(
            [np.bincount(nearest, weights=column, minlength=count) for column in places.T], axis=1
        )
        empty = ~np.any(sums, axis=1)
        centres = _unit(np.where(np.expand_dims(empty, 1), centres, sums).astype(np.float32))
    return centres


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Design:
    """Inputs of the regressions, diagonalised once: `rows = left * sqrt(power) @ axes.T`."""

    left: Floats
    power: Floats
    axes: Floats

    @classmethod
    def of(cls, rows: Floats) -> _Design:
        power, axes = np.linalg.eigh((rows.T @ rows).astype(np.float64))
        keep = power > 1e-6 * power[-1]
        power, axes = power[keep].astype(np.float32), axes[:, keep].astype(np.float32)
        return cls((rows @ axes) / np.sqrt(power), power, axes)

    def ridge(self, targets: Floats) -> tuple[Floats, Floats]:
        """Return coefficients and leave-one-out predictions, the best penalty for each column."""
        count = len(targets)
        inner = self.left.T @ targets
        square = self.left * self.left
        least = np.full(targets.shape[1], np.inf, np.float32)
        coefficients = np.zeros((self.axes.shape[0], targets.shape[1]), np.float32)
        predictions = np.zeros_like(targets)
        for penalty in PENALTIES:
            kept = self.power / (self.power + np.float32(penalty))
            leverage = np.minimum(square @ kept + np.float32(1 / count), np.float32(0.99))
            fitted = self.left @ (kept[:, None] * inner)
            left_out = (fitted - leverage[:, None] * targets) / (1 - leverage[:, None])
            error = ((targets - left_out) ** 2).sum(axis=0)
            better = error < least
            least[better] = error[better]
            predictions[:, better] = left_out[:, better]
            scaled = (kept / np.sqrt(self.power))[:, None] * inner[:, better]
            coefficients[:, better] = self.axes @ scaled
        return coefficients, predictions


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Factors:
    """Fitted factors: input coefficients (columns), loadings (rows), leave-one-out predictions."""

    coefficients: Floats
    loadings: Floats
    left_out: Floats


def _factors(design: _Design, targets: Floats, weight: Floats, keep: int) -> _Factors:
    """Fit `targets` (centred, nan where not measured) by at most `keep` factors.

    `weight` says how much each column matters for which factors are kept.
    """
    measured = ~np.isnan(targets)
    filled = np.where(measured, targets, 0.0).astype(np.float32)
    coverage = max(float(measured.mean()), 1e-9)
    weighted = filled * weight
    axes = np.linalg.eigh((weighted.T @ weighted).astype(np.float64))[1][:, ::-1][:, :keep]
    axes = axes.astype(np.float32)
    factors = weighted @ axes
    coefficients, predictions = design.ridge(factors)
    # The gain is taken over measured cells alone. Zeros in the others have shrunk the regression
    # by the coverage, so that up to its inverse is given back if the data say so.
    agreement = predictions * factors
    energy = (predictions**2 * (measured @ (axes**2))).sum(axis=0)
    doubt = np.sqrt((agreement**2).sum(axis=0))
    gain = (agreement.sum(axis=0) - doubt) / np.maximum(energy, 1e-9)
    gain = np.clip(gain, 0.0, 1.0 / coverage).astype(np.float32)
    power = np.maximum((factors**2).sum(axis=0), 1e-9)
    loadings = (factors.T @ filled) / power[:, None]
    return _Factors(coefficients * gain, loadings, (predictions * gain) @ loadings)


def _relevance(quality: Floats, cost: Floats) -> Floats:
    """Return how much each choice matters: 1 on the cost-quality front, little far below it."""
    order = np.argsort(cost, kind="stable")
    gap = np.empty_like(quality)
    gap[order] = np.maximum.accumulate(quality[order]) - quality[order]
    return (np.exp(-gap / GAP) + 0.1).astype(np.float32)


def _mean_cost(cost: Floats) -> Floats:
    """Return the mean of each column, 0 where nothing is known."""
    known = ~np.isnan(cost)
    total = np.where(known, cost, 0.0).sum(axis=0, dtype=np.float64)
    return (total / np.maximum(known.sum(axis=0), 1)).astype(np.float32)


def fit_weights(table: Table, mean_quality: Floats, seed: int) -> Fitted:
    """Fit a table.

    Args:
        table: The outcomes.
        mean_quality: Static quality per choice (mean scores, shrunk to configured ones).
        seed: Same table and seed, same weights.
    """
    rng = np.random.default_rng(seed)
    grams, profile = table.features[:, :BUCKETS], table.features[:, BUCKETS:]
    centre, basis = _directions(grams, rng)
    projected = grams @ basis - centre @ basis
    span = np.sqrt(max(float((projected**2).sum(axis=1).mean()), 1e-9))
    basis, projected = basis / np.float32(span), projected / np.float32(span)

    spread = 1 / np.sqrt(profile.var(axis=0) + 0.02)
    shaped = (profile - profile.mean(axis=0)) * spread
    shape_scale = np.sqrt(BYTE_WEIGHT / max(float((shaped**2).sum(axis=1).mean()), 1e-9))
    spread = (spread * shape_scale).astype(np.float32)

    place = min(PLACE, basis.shape[1])
    centres = _prototypes(_unit(projected[:, :place]), rng)
    lit = light_all(_unit(projected[:, :place]) @ centres.T)
    lit_mean = lit.mean(axis=0)
    lit_power = max(float(((lit - lit_mean) ** 2).sum(axis=1).mean()), 1e-9)
    lit_scale = np.float32(np.sqrt(PROTOTYPE_WEIGHT / lit_power))

    design = _Design.of(
        np.hstack([projected, shaped * np.float32(shape_scale), (lit - lit_mean) * lit_scale])
    )
    mean_cost = _mean_cost(table.cost)
    matters = _relevance(mean_quality, np.where(mean_cost > 0, mean_cost, mean_cost.max()))
    quality = _factors(design, table.score - mean_quality, matters, QUALITY_FACTORS)
    share = table.cost / np.where(mean_cost > 0, mean_cost, np.nan)
    share = np.minimum(share, np.float32(COST_CLIP))
    cost = _factors(design, share - _mean_cost(share), matters, COST_FACTORS)

    factors = np.hstack([quality.coefficients, cost.coefficients])
    first, second = basis.shape[1], basis.shape[1] + profile.shape[1]
    lift = factors[second:] * lit_scale
    lean = np.vstack([basis @ factors[:first], factors[first:second] * spread[:, None]])
    bias = -(centre @ lean[:BUCKETS] + profile.mean(axis=0) @ lean[BUCKETS:] + lit_mean @ lift)
    rows = np.zeros((PLACE + factors.shape[1], table.features.shape[1]), np.float32)
    rows[:place, :BUCKETS] = basis[:, :place].T
    rows[PLACE:] = lean.T
    offset = np.zeros(len(rows), np.float32)
    offset[:place] = -(centre @ basis[:, :place])
    offset[PLACE:] = bias
    padded = np.zeros((len(centres), PLACE), np.float32)
    padded[:, :place] = centres
    weights = Weights(
        LinearMap.rounded(rows, offset),
        padded,
        lift.astype(np.float32),
        quality.loadings,
        cost.loadings,
        mean_quality.astype(np.float32),
        mean_cost,
        lit.sum(axis=0).astype(np.float32),
    )
    return Fitted(weights, mean_quality + quality.left_out, mean_cost * (1 + cost.left_out))
