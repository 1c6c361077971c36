"""Fitting: from outcomes in a table to the weights a prediction needs. Linear algebra, no state.

The method, in seven steps (all closed form but the clustering):

1. Hashed counts are weighted: what few texts have says more. They are centred and projected on
   their strongest directions (truncated singular value decomposition, randomised; Halko,
   Martinsson and Tropp 2011).
2. The first 16 directions, made unit length, are the *place* of a text. Spherical k-means puts up
   to 256 prototypes there; a text lights up the nearest 8 with its cosine to the 6th power. The
   prototypes form up to 8 *regions*; of what a text lights, each has a share.
3. What is to be predicted, deviations of each model from its own mean, is rotated into factors
   (principal axes of the targets): the first is how hard the query is, the others are who is good
   at what.
4. Each factor gets one ridge regression on directions, lit prototypes and shape together, its
   penalty chosen by leave-one-out error (exact, from the leverages). The shape counts everywhere
   and once more in each region, since long is hard among sums and not among quotations.
5. Each factor is shrunk by its leave-one-out gain, one standard error to the safe side ("curds and
   whey", Breiman and Friedman 1997). A factor that does not generalise gets zero: with few data, or
   with texts that tell nothing, what is left is the static table.
6. Regions may differ in how much of a factor generalises. Each has its own gain, drawn to the
   common one as far as chance explains their difference (empirical Bayes).
7. What a model gains or loses with a factor need not be a straight line: two models differ most on
   what is neither easy nor hard. Squares and the product of the first two factors, the *bends*,
   explain what is left over, shrunk by how far that is chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from asyncroute.learn._features import BUCKETS, SHAPE, LinearMap
from asyncroute.learn._forecast import PRIOR
from asyncroute.learn._prototypes import light_all

Floats: TypeAlias = NDArray[np.floating]

__all__ = ("BENDS", "PLACE", "Fitted", "Table", "Weights", "blank", "fit_weights")

PLACE = 16
"""Dimensions of a text's place, in which prototypes are neighbours."""
QUALITY_FACTORS = 12
COST_FACTORS = 4
PROTOTYPES = 256
REGIONS = 8
GAP = 0.02
"""Quality below the cost-quality front at which a choice stops mattering for the fit."""
DIRECTIONS = 256
PENALTIES = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
PROTOTYPE_WEIGHT, SHAPE_WEIGHT, REGION_WEIGHT = 0.5, 0.3, 0.6
"""Mean squared lengths of blocks of inputs where that of the directions is 1."""
BENDS = 3
"""Products of the first two factors, see `_bends`."""
BEND_PENALTY = 100.0
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
        map: From hashed counts to place (first `PLACE` dimensions) and lean (one per factor).
        centres: Prototypes as rows, unit length.
        region: Number of each prototype's region.
        lift: What a lit prototype adds to each factor.
        slopes: What the shape adds to each factor: region, number of the shape, factor.
        trust: Share of each factor that is believed in a region: region, factor.
        quality: Loadings, from quality factors and their bends (rows) to choices.
        cost: Loadings, from cost factors and their bends to choices, as a share of the mean cost.
        middle: Means of the bends of quality and of cost, which are taken off.
        mean_quality: Static table: mean score per choice.
        mean_cost: Mean cost per choice, USD; 0 where it is not known.
        evidence: Fitted observations that lit each prototype.

    """

    map: LinearMap
    centres: Floats
    region: NDArray[np.intp]
    lift: Floats
    slopes: Floats
    trust: Floats
    quality: Floats
    cost: Floats
    middle: Floats
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
        LinearMap.rounded(zeros(PLACE + 2, BUCKETS), zeros(PLACE + 2)),
        zeros(1, PLACE),
        np.zeros(1, np.intp),
        zeros(1, 2),
        zeros(1, SHAPE, 2),
        zeros(1, 2),
        zeros(1 + BENDS, choices),
        zeros(1 + BENDS, choices),
        zeros(2 * BENDS),
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


def _rarity(counts: Floats) -> Floats:
    """Return how much each bucket tells: the root of the logarithm of how rare it is."""
    share = ((counts > 0).sum(axis=0) + 1) / (len(counts) + 1)
    return np.sqrt(np.log(1 / share + 0.1)).astype(np.float32)


def _unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _clusters(places: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return cluster centres of `places` (unit rows) by spherical k-means."""
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
class _Block:
    """Inputs that are centred, and scaled as one: `rows = (given - mean) * scale`."""

    rows: Floats
    mean: Floats
    scale: np.float32

    @classmethod
    def of(cls, given: Floats, weight: float) -> _Block:
        """Centre and scale inputs so that `weight` is their mean squared length."""
        mean = given.mean(axis=0)
        rows = given - mean
        power = max(float((rows**2).sum(axis=1).mean()), 1e-9)
        scale = np.float32(np.sqrt(weight / power))
        return cls((rows * scale).astype(np.float32), mean, scale)


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
    """Fitted factors: input coefficients (columns), trust by region, loadings (rows).

    The last rows of the loadings are those of the bends, whose means are `middle`. `left_out` are
    the predictions of the targets, each made without its row.
    """

    coefficients: Floats
    trust: Floats
    loadings: Floats
    middle: Floats
    left_out: Floats


def _factors(
    design: _Design, regions: Floats, targets: Floats, weight: Floats, keep: int
) -> _Factors:
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
    trust = _trust(regions, predictions * factors, predictions**2 * (measured @ (axes**2)))
    trust = np.clip(trust, 0.0, 1.0 / coverage).astype(np.float32)
    power = np.maximum((factors**2).sum(axis=0), 1e-9)
    loadings = (factors.T @ filled) / power[:, None]
    trusted = predictions * (regions @ trust)
    straight = trusted @ loadings
    bent = _bends(trusted)
    middle = bent.mean(axis=0)
    bent = bent - middle
    curved = _bend(bent, np.where(measured, targets - straight, 0.0), weight)
    return _Factors(
        coefficients, trust, np.vstack([loadings, curved]), middle, straight + bent @ curved
    )


def _bends(factors: Floats) -> Floats:
    """Return the squares and the product of the first two factors, which are columns."""
    first, second = factors[:, 0], factors[:, min(1, factors.shape[1] - 1)]
    return np.stack([first * first, first * second, second * second], axis=1)


def _bend(bent: Floats, rest: Floats, weight: Floats) -> Floats:
    """Return what bends (centred columns) explain of what is left over, a row per bend.

    Each row is shrunk by the share of its power over all columns (`weight` says how much each
    matters) that is chance, which is judged by the squared errors of the coefficients.
    """
    scale = np.maximum(bent.std(axis=0), 1e-9)
    bent = bent / scale
    inverse = np.linalg.inv(bent.T @ bent + BEND_PENALTY * np.eye(BENDS))
    solve = bent @ inverse
    found = solve.T @ rest
    left_out = (rest - bent @ found) / (1.0 - (solve * bent).sum(axis=1, keepdims=True))
    chance = (solve**2).T @ left_out**2
    chance = (chance @ weight) / np.maximum(found**2 @ weight, 1e-15)
    kept = np.clip(1.0 - chance, 0.0, 1.0) / scale
    return (found * kept[:, None]).astype(np.float32)


def _trust(regions: Floats, agreement: Floats, energy: Floats) -> Floats:
    """Return the best multiple of each prediction (columns) in each region (rows).

    Args:
        regions: Share of each query in each region.
        agreement: Products of prediction and truth, a row per query.
        energy: Squares of the predictions.
    """
    total = np.maximum(energy.sum(axis=0), 1e-9)
    common = agreement.sum(axis=0) / total
    doubt = np.sqrt((agreement**2).sum(axis=0)) / total * (1.0 + PRIOR / len(agreement))
    part = np.maximum(regions.T @ energy, 1e-9)
    own = (regions.T @ agreement) / part
    chance = ((regions**2).T @ agreement**2) / part**2 + 1e-12
    excess = ((own - common) ** 2 / chance - 1).sum(axis=0) / (1 / chance).sum(axis=0)
    excess = np.maximum(excess, 0.0)
    return common - doubt + excess / (excess + chance) * (own - common)


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


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Topics:
    """What the fitted texts are about: directions of their hashed counts, and what lies there.

    Attributes:
        rarity: Weight of each bucket.
        centre: Mean of the weighted counts.
        basis: From weighted counts to directions, which are columns.
        directions: The texts, mean squared length 1.
        centres: Prototypes, up to `PLACE` numbers each.
        region: Number of each prototype's region.
        lit: Share of each prototype in each text.
        regions: Share of each region in each text.
    """

    rarity: Floats
    centre: Floats
    basis: Floats
    directions: Floats
    centres: Floats
    region: NDArray[np.intp]
    lit: Floats
    regions: Floats

    @classmethod
    def of(cls, counts: Floats, rng: np.random.Generator) -> _Topics:
        """Find directions, prototypes and regions of hashed counts."""
        rarity = _rarity(counts)
        weighted = counts * rarity
        centre, basis = _directions(weighted, rng)
        directions = weighted @ basis - centre @ basis
        span = np.sqrt(max(float((directions**2).sum(axis=1).mean()), 1e-9))
        basis, directions = basis / np.float32(span), directions / np.float32(span)
        places = _unit(directions[:, :PLACE])
        centres = _clusters(places, min(PROTOTYPES, max(len(places) // 5, 1)), rng)
        coarse = _clusters(places, min(REGIONS, len(centres)), rng)
        region = (centres @ coarse.T).argmax(axis=1)
        lit = light_all(places @ centres.T)
        regions = lit @ np.eye(len(coarse), dtype=np.float32)[region]
        return cls(rarity, centre, basis, directions, centres, region, lit, regions)

    def map(self, lean: Floats, bias: Floats) -> LinearMap:
        """Return the map to place and factors, from the coefficients of directions."""
        place, factors = self.centres.shape[1], lean.shape[1]
        rows = np.zeros((PLACE + factors, BUCKETS), np.float32)
        offset = np.zeros(PLACE + factors, np.float32)
        rows[:place] = self.basis[:, :place].T
        rows[PLACE:] = (self.basis @ lean).T
        offset[:place] = -(self.centre @ self.basis[:, :place])
        offset[PLACE:] = bias - self.centre @ self.basis @ lean
        return LinearMap.rounded(rows * self.rarity, offset)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Shapes:
    """What shape the fitted texts have: everywhere, and within the regions.

    Attributes:
        spread: Scale of each number of a shape.
        middle: Means of the scaled numbers.
        here: The same within each region, from there.
        everywhere: Scaled numbers less their means, a row per text.
        within: The same less the means of the region, times its share, region by region.
    """

    spread: Floats
    middle: Floats
    here: Floats
    everywhere: Floats
    within: Floats

    @classmethod
    def of(cls, shape: Floats, regions: Floats) -> _Shapes:
        """Scale and centre the shapes of texts with these shares of regions."""
        spread = 1 / np.sqrt(shape.var(axis=0) + np.float32(0.02))
        middle = shape.mean(axis=0) * spread
        everywhere = shape * spread - middle
        here = (regions.T @ everywhere) / np.maximum(regions.sum(axis=0), 1e-9)[:, None]
        within = regions[:, :, None] * (everywhere[:, None, :] - here)
        return cls(spread, middle, here, everywhere, within.reshape(len(shape), -1))

    def slopes(self, everywhere: Floats, within: Floats) -> Floats:
        """Return what shapes as they are read add to factors in each region.

        The shares of regions sum to one, and the last number of a shape is a one: what is constant
        goes there.
        """
        own = within.reshape(*self.here.shape, -1)
        slopes = everywhere + own
        constant = self.middle @ slopes + np.einsum("rs,rsf->rf", self.here, own)
        slopes = slopes * self.spread[:, None]
        slopes[:, -1] -= constant
        return slopes.astype(np.float32)


def fit_weights(table: Table, mean_quality: Floats, seed: int) -> Fitted:
    """Fit a table.

    Args:
        table: The outcomes.
        mean_quality: Static quality per choice (mean scores, shrunk to configured ones).
        seed: Same table and seed, same weights.
    """
    rng = np.random.default_rng(seed)
    topics = _Topics.of(table.features[:, :BUCKETS], rng)
    shapes = _Shapes.of(table.features[:, BUCKETS:], topics.regions)
    blocks = (
        _Block.of(topics.directions, 1.0),
        _Block.of(topics.lit, PROTOTYPE_WEIGHT),
        _Block.of(shapes.everywhere, SHAPE_WEIGHT),
        _Block.of(shapes.within, REGION_WEIGHT),
    )
    design = _Design.of(np.hstack([block.rows for block in blocks]))

    mean_cost = _mean_cost(table.cost)
    matters = _relevance(mean_quality, np.where(mean_cost > 0, mean_cost, mean_cost.max()))
    targets = table.score - mean_quality
    quality = _factors(design, topics.regions, targets, matters, QUALITY_FACTORS)
    share = table.cost / np.where(mean_cost > 0, mean_cost, np.nan)
    share = np.minimum(share, np.float32(COST_CLIP))
    targets = share - _mean_cost(share)
    cost = _factors(design, topics.regions, targets, matters, COST_FACTORS)

    coefficients = np.hstack([quality.coefficients, cost.coefficients])
    ends = np.cumsum([block.rows.shape[1] for block in blocks])
    lean, lift, everywhere, within = (
        block.scale * part
        for block, part in zip(blocks, np.split(coefficients, ends[:-1]), strict=True)
    )
    means = np.concatenate([block.mean for block in blocks])
    bias = -means @ np.vstack([lean, lift, everywhere, within])
    padding = ((0, 0), (0, PLACE - topics.centres.shape[1]))
    weights = Weights(
        topics.map(lean, bias),
        np.pad(topics.centres, padding),
        topics.region,
        lift.astype(np.float32),
        shapes.slopes(everywhere, within),
        np.hstack([quality.trust, cost.trust]),
        quality.loadings,
        cost.loadings,
        np.concatenate([quality.middle, cost.middle]).astype(np.float32),
        mean_quality.astype(np.float32),
        mean_cost,
        topics.lit.sum(axis=0).astype(np.float32),
    )
    return Fitted(weights, mean_quality + quality.left_out, mean_cost * (1 + cost.left_out))
