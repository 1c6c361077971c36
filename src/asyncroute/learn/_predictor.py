"""From the text of a query to the expected quality and cost of every choice, learning on the way.

The fitted part (see `_fit`) never changes; what is observed while serving is kept as a small table
of corrections per prototype and model, with decay. numpy is needed (extra `learn`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np

from asyncroute.learn._cascade import propose, replay
from asyncroute.learn._codec import read_file, write_file
from asyncroute.learn._corrections import Corrections
from asyncroute.learn._features import FEATURES, feature_matrix, features
from asyncroute.learn._fit import PLACE, Table, Weights, fit_weights, light
from asyncroute.learn._forecast import PRICES, PRIOR, Forecast, Point
from asyncroute.learn._outcomes import Grid, Outcome
from asyncroute.learn._storage import Saved, decode, encode

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("QualityPredictor",)

ROWS = 12_000
"""Queries used for the fit at most; more of them are sampled. Bounds memory to about 1 GB."""
KEPT = 0.75
"""Share of the possible gain the recommended price keeps; the rest is given up to save."""
HALF_LIFE = 7 * 86_400.0
_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST_COST = np.float32(0.1)
"""No query is predicted to cost less than this share of the choice's mean."""


@final
class QualityPredictor:
    """Predicts per query how good each model (and cascade of models) will be, and at what cost.

    Make one with `fit` or `load`. Models come first among the choices, in their order; cascades,
    tuples of more than one model, follow. Not thread-safe; every method is synchronous and short
    but `fit`.
    """

    __slots__ = (
        "_buffer",
        "_corrections",
        "_coverage",
        "_dense",
        "_fitted",
        "_loadings",
        "_members",
        "_weights",
        "choices",
        "curve",
        "half_life",
        "models",
        "reference",
    )

    def __init__(
        self,
        models: Sequence[str],
        cascades: Sequence[tuple[int, ...]],
        weights: Weights,
        curve: Sequence[Point] = (),
        coverage: Floats | None = None,
        half_life: float = HALF_LIFE,
    ) -> None:
        """Wrap fitted weights; use `fit` or `load` instead.

        Args:
            models: Names, in the order of the weights' first columns.
            cascades: Model indices of the weights' other columns.
            weights: What `fit_weights` returned.
            curve: See `Point`.
            coverage: Share of the fitted queries each model was measured on.
            half_life: Seconds after which an online observation counts half.

        """
        self.models: tuple[str, ...] = tuple(models)
        self.choices: tuple[tuple[int, ...], ...] = (
            *((model,) for model in range(len(models))),
            *cascades,
        )
        self.curve = tuple(curve)
        self.half_life = half_life
        self._weights = weights
        self._coverage = np.ones(len(models), np.float32) if coverage is None else coverage
        self._dense = weights.map.dense()
        self._buffer = np.empty(FEATURES, np.float32)
        best = int(weights.mean_quality[: len(models)].argmax())
        self.reference = max(float(weights.mean_cost[best]), 1e-12)
        self._index()
        self._corrections = Corrections(len(weights.centres), len(self.models))

    def _index(self) -> None:
        """Derive what depends on the list of choices."""
        weights = self._weights
        self._loadings = np.zeros(
            (weights.lift.shape[1], 2 * len(self.choices)), np.float32
        )  # both at once: one product gives quality and cost
        split = len(weights.quality)
        self._loadings[:split, : len(self.choices)] = weights.quality
        self._loadings[split:, len(self.choices) :] = weights.cost
        self._members = np.zeros((len(self.choices), len(self.models)), np.float32)
        for row, choice in zip(self._members, self.choices, strict=True):
            row[list(choice)] = 1 / len(choice)
        self._fitted = self._members @ self._coverage

    def __repr__(self) -> str:
        cascades = len(self.choices) - len(self.models)
        return (
            f"<QualityPredictor models={len(self.models)} cascades={cascades}"
            f" prototypes={len(self._weights.centres)} updates={self._corrections.updates}>"
        )

    @classmethod
    def fit(
        cls,
        outcomes: Iterable[Outcome],
        *,
        quality: Mapping[str, float] | None = None,
        cascades: int = 24,
        seed: int = 0,
        progress: Callable[[float, str], object] | None = None,
    ) -> QualityPredictor:
        """Fit outcomes; seconds for ten thousand queries.

        Args:
            outcomes: In any order, with any gaps.
            quality: Configured qualities, which count as `PRIOR` observations each; models named
                here come first, and may be without outcomes.
            cascades: How many cascades to offer at most; they need outcomes with answers.
            seed: Same outcomes and seed, same predictor.
            progress: Called with the share done and the name of the stage that begins.

        Raises:
            ValueError: Without a single score, or for an outcome out of range.

        """
        report = progress or _silent
        report(0.0, "reading outcomes")
        configured = dict(quality or {})
        grid = Grid.of(outcomes, tuple(configured))
        if not (~np.isnan(grid.score)).any():
            raise ValueError("fit needs at least one outcome with a score, got none")
        return cls.of_grid(grid, configured, cascades, seed, report)

    @classmethod
    def of_grid(
        cls,
        grid: Grid,
        quality: Mapping[str, float],
        cascades: int,
        seed: int,
        report: Callable[[float, str], object],
    ) -> QualityPredictor:
        """Fit a grid, see `fit`."""
        if len(grid) > ROWS:
            rng = np.random.default_rng(seed)
            grid = grid.take(np.sort(rng.choice(len(grid), ROWS, replace=False)))
        offered = propose(grid.score, grid.cost, grid.answers, cascades)
        report(0.1, "reading texts")
        texts = feature_matrix(grid.queries)
        report(0.3, "fitting")
        parts = [(grid.score, grid.cost)] + [
            tuple(column[:, None] for column in replay(c, grid.score, grid.cost, grid.answers))
            for c in offered
        ]
        score = np.hstack([part[0] for part in parts]).astype(np.float32)
        cost = _complete(np.hstack([part[1] for part in parts])).astype(np.float32)
        known = ~np.isnan(score)
        overall = float(score[known].mean())
        start = [quality.get(name, overall) for name in grid.models] + [overall] * len(offered)
        prior = np.array(start, np.float32)
        total = np.where(known, score, 0).sum(axis=0) + PRIOR * prior
        mean_quality = (total / (known.sum(axis=0) + PRIOR)).astype(np.float32)
        table = Table(texts, score, cost)
        weights, left_quality, left_cost = fit_weights(table, mean_quality, seed)
        report(0.95, "replaying")
        coverage = known[:, : len(grid.models)].mean(axis=0).astype(np.float32)
        made = cls(grid.models, offered, weights, coverage=coverage)
        made.curve = _curve(table, left_quality, left_cost, made.reference)
        report(1.0, "done")
        return made

    @property
    def static_quality(self) -> Floats:
        """Mean score of each choice over all fitted queries: the static table."""
        return self._weights.mean_quality

    @property
    def static_cost(self) -> Floats:
        """Mean cost of each choice over all fitted queries, USD."""
        return self._weights.mean_cost

    def predict(self, text: str) -> Floats:
        """Return the expected quality of each model, in the order of `models`."""
        return self.forecast(text).quality[: len(self.models)]

    def forecast(self, text: str) -> Forecast:
        """Return expected quality, cost and evidence for each choice."""
        weights, count = self._weights, len(self.choices)
        lit, factors = self._read(text)
        both = factors @ self._loadings
        quality = both[:count] + weights.mean_quality
        cost = both[count:]
        cost += _ONE
        np.maximum(cost, _LEAST_COST, out=cost)
        cost *= weights.mean_cost
        evidence = (lit @ weights.evidence) * self._fitted
        if self._corrections.updates:
            shift, seen = self._corrections.observed(lit)
            quality += self._members @ shift
            evidence += self._members @ seen
        np.minimum(np.maximum(quality, _ZERO, out=quality), _ONE, out=quality)
        return Forecast(quality, cost, evidence)

    def _read(self, text: str) -> tuple[Floats, Floats]:
        """Return which prototypes a text lights, and its factors."""
        weights = self._weights
        vector = self._dense @ features(text, self._buffer)
        vector += weights.map.bias
        place = vector[:PLACE]
        place /= max(math.sqrt(float(place @ place)), 1e-9)
        lit = light(weights.centres @ place)
        return lit, vector[PLACE:] + lit @ weights.lift

    def update(self, text: str, model: str, score: float, now: float) -> None:
        """Learn from one outcome while serving; what was seen before decays.

        Args:
            text: The query.
            model: Who answered it.
            score: 0 to 1.
            now: Seconds on any steady clock; going back is taken as no time passed.

        Raises:
            ValueError: For an unknown model, or a score outside [0, 1].

        """
        column = self._column(model)
        if not 0.0 <= score <= 1.0:
            msg = f"score must be from 0 to 1, got {score!r} for model {model!r}"
            raise ValueError(msg)
        lit, factors = self._read(text)
        expected = float(factors @ self._loadings[:, column])
        expected += float(self._weights.mean_quality[column])
        surprise = score - min(max(expected, 0.0), 1.0)
        self._corrections.add(lit, column, surprise, now, self.half_life)

    def _column(self, model: str) -> int:
        if model not in self.models:
            msg = f"model must be one of {', '.join(self.models)}, got {model!r}"
            raise ValueError(msg)
        return self.models.index(model)

    def add(self, model: str, quality: float, cost: float) -> None:
        """Add a model without outcomes.

        It starts from a configured quality, and finds hard what the others find hard: its loadings
        are their mean.

        Args:
            model: A new name.
            quality: Expected score, 0 to 1.
            cost: Expected cost of an average query, USD.

        Raises:
            ValueError: For a known name, or a quality or cost out of range.

        """
        if model in self.models:
            msg = f"model must be new, got {model!r}"
            raise ValueError(msg)
        if not (0.0 <= quality <= 1.0 and 0.0 <= cost < math.inf):
            msg = f"quality must be 0 to 1 and cost at least 0, got {quality!r} and {cost!r}"
            raise ValueError(msg)
        at, old = len(self.models), self._weights

        def widened(loadings: Floats) -> Floats:
            return np.insert(loadings, at, loadings[:, :at].mean(axis=1), axis=1)

        self._weights = Weights(
            old.map,
            old.centres,
            old.lift,
            widened(old.quality),
            widened(old.cost),
            np.insert(old.mean_quality, at, np.float32(quality)),
            np.insert(old.mean_cost, at, np.float32(cost)),
            old.evidence,
        )
        self.models = (*self.models, model)
        self.choices = (*self.choices[:at], (at,), *self.choices[at:])
        self._coverage = np.append(self._coverage, np.float32(0))
        self._corrections.widen()
        self._index()

    def recommended(self) -> Point:
        """Return the point of `curve` to start from.

        It is the cheapest one that keeps at least `KEPT` of what the best point gains over the best
        single model (and never falls below that model) in predictions of unseen queries.
        """
        static = float(self._weights.mean_quality[: len(self.models)].max())
        top = max(self.curve, key=lambda point: point.quality)
        wanted = min(static + KEPT * max(top.quality - static, 0.0), top.quality)
        return min((point for point in self.curve if point.quality >= wanted), key=lambda p: p.cost)

    def state(self) -> bytes:
        """Return what was learned online, for `restore`; a few tens of KB."""
        return self._corrections.packed(self.models)

    def restore(self, state: bytes, now: float) -> None:
        """Take over what `state` returned; models it does not know start without observations.

        Raises:
            WeightsError: When it is not such a state, or is of another number of prototypes; the
                predictor is then as before.

        """
        prototypes = len(self._weights.centres)
        self._corrections = Corrections.unpacked(state, prototypes, self.models, now)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted weights, under 300 KB, replacing the file at once or not at all.

        What was learned online is not in it, see `state`.

        Raises:
            OSError: When the file cannot be written.

        """
        saved = Saved(
            self.models,
            self.choices[len(self.models) :],
            self._weights,
            self.curve,
            self._coverage,
            self.half_life,
        )
        write_file(path, encode(saved))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QualityPredictor:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises:
            WeightsError: When the file is not such a file, is damaged, or of another version.
            OSError: When it cannot be read.

        """
        saved = decode(read_file(path))
        return cls(
            saved.models,
            saved.cascades,
            saved.weights,
            saved.curve,
            saved.coverage,
            saved.half_life,
        )


def _silent(share: float, stage: str) -> None:
    """Report nothing."""
    del share, stage


def _complete(cost: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return costs such that each column has a mean above zero, also where none is known."""
    known = cost[~np.isnan(cost)]
    usual = max(float(known.mean()), 1e-12) if known.size else 1e-6
    empty = ~(np.nan_to_num(cost) > 0).any(axis=0)
    return np.where(empty, usual, cost)


def _curve(table: Table, quality: Floats, cost: Floats, reference: float) -> tuple[Point, ...]:
    """Replay the fitted queries, each on predictions made without it, for all of `PRICES`."""
    usable = ~(np.isnan(table.score) | np.isnan(table.cost))
    rows = np.flatnonzero(usable.any(axis=1))
    points: list[Point] = []
    for price in PRICES:
        worth = np.where(usable, quality - cost * np.float32(price / reference), -np.inf)
        picked = worth.argmax(axis=1)[rows]
        spent, gained = table.cost[rows, picked].mean(), table.score[rows, picked].mean()
        points.append(Point(price, float(spent), float(gained)))
    return tuple(points)
