"""Who will be right on a query, and at what cost: fitted once, corrected while serving."""

from __future__ import annotations

import os
from contextlib import nullcontext
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import numpy as np

from asyncroute.learn._cascade import propose, replay
from asyncroute.learn._codec import WeightsError
from asyncroute.learn._corrections import Corrections
from asyncroute.learn._features import SHAPE, feature_matrix, scan
from asyncroute.learn._fit import BENDS, PLACE, Table, Weights, blank, fit_weights
from asyncroute.learn._forecast import PRICES, PRIOR, Forecast, Point
from asyncroute.learn._outcomes import Grid, Outcome
from asyncroute.learn._progress import Progress, progress_bar
from asyncroute.learn._prototypes import Lit, light
from asyncroute.learn._storage import Saved, decode, encode, read_file, write_file

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from asyncroute._protocols import Agree

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("QualityPredictor", "Reading")

ROWS = 12_000
"""Queries used for the fit at most; more of them are sampled. Bounds memory to about 1 GB."""
KEPT = 0.98
"""Share of the possible gain the recommended price keeps; the rest is given up to save."""
HALF_LIFE = 7 * 86_400.0
"""Seconds after which an outcome observed while serving counts half."""
_ONE = np.float32(1)
_LEAST_COST = np.float32(0.1)
"""No query is predicted to cost less than this share of the choice's mean."""


class Reading(NamedTuple):
    """What was made of a text: the prototypes it lights, and its factors with their bends."""

    lit: Lit
    factors: Floats


@final
class QualityPredictor:
    """Predicts per query how good each model (and cascade of models) will be, and at what cost.

    Make one with `fit` or `load`. Models come first among the choices, in their order; cascades,
    tuples of more than one model, follow. Belongs to one thread; every method is synchronous, and
    all but `fit`, `save` and `load` are short.

    Attributes:
        models: Names of the models.
        columns: The index of each model.
        choices: Indices of the models of each choice.
        cascades: The choices of more than one model, which come last.
        curve: What each price would have led to with single models; the same with cascades in
            `curve_with_cascades`.
        reference: Cost of an average query on the model that is best on average, USD; 0 where no
            cost is known.
        half_life: Seconds after which an outcome observed while serving counts half.
    """

    __slots__ = (
        "_answered",
        "_at",
        "_bent",
        "_by_bucket",
        "_coverage",
        "_expected",
        "_least",
        "_loadings",
        "_members",
        "_most",
        "_ratings",
        "_slopes",
        "_weights",
        "cascades",
        "choices",
        "columns",
        "curve",
        "curve_with_cascades",
        "half_life",
        "models",
        "reference",
    )

    def __init__(self, saved: Saved) -> None:
        """Wrap what was fitted or saved; use `fit` or `load` instead."""
        self.models: tuple[str, ...] = saved.models
        self.curve = saved.curve
        self.curve_with_cascades = saved.curve_with_cascades
        self.half_life = saved.half_life
        self._weights = saved.weights
        self._coverage = saved.coverage
        self._by_bucket = saved.weights.map.by_bucket()
        # Per prototype: what it adds to factors, its region, and what is trusted there. One product
        # with the shares of those that are lit gives all three.
        weights = self._weights
        regions = np.eye(len(weights.trust), dtype=np.float32)[weights.region]
        self._at = np.hstack([weights.lift, regions, weights.trust[weights.region]])
        self._slopes = weights.slopes.reshape(len(weights.trust), -1)
        # The first two factors of quality and of cost, which bend.
        first, count = len(weights.quality) - BENDS, weights.lift.shape[1]
        self._bent = np.array([0, min(1, first - 1), first, min(first + 1, count - 1)])
        self._ratings = Corrections(*saved.ratings)
        self._answered = Corrections(*saved.answered)
        self._index(saved.cascades)

    def _index(self, cascades: Sequence[tuple[int, ...]]) -> None:
        """Derive what depends on the list of choices."""
        weights, models = self._weights, len(self.models)
        self.cascades = tuple(cascades)
        self.choices: tuple[tuple[int, ...], ...] = (*((m,) for m in range(models)), *cascades)
        self.columns = {name: column for column, name in enumerate(self.models)}
        best = int(weights.mean_quality[:models].argmax())
        self.reference = float(weights.mean_cost[best]) or float(weights.mean_cost.max())
        # Both at once: one product gives quality and cost, each within its bounds.
        count, factors = len(self.choices), weights.lift.shape[1]
        straight = len(weights.quality) - BENDS
        self._loadings = np.zeros((factors + 2 * BENDS, 2 * count), np.float32)
        quality, cost = self._loadings[:, :count], self._loadings[:, count:]
        quality[:straight], quality[factors:-BENDS] = np.split(weights.quality, [straight])
        cost[straight:factors], cost[-BENDS:] = np.split(weights.cost, [factors - straight])
        cost *= weights.mean_cost
        self._expected = np.concatenate([weights.mean_quality, weights.mean_cost])
        self._expected -= weights.middle @ self._loadings[factors:]
        self._least = np.concatenate([np.zeros(count, np.float32), weights.mean_cost * _LEAST_COST])
        self._most = np.repeat(np.array([1.0, inf], np.float32), count)
        self._members = np.zeros((models, count), np.float32)
        for column, choice in enumerate(self.choices):
            self._members[list(choice), column] = 1 / len(choice)

    def __repr__(self) -> str:
        return (
            f"<QualityPredictor models={len(self.models)} cascades={len(self.cascades)}"
            f" prototypes={len(self._weights.centres)} updates={self.updates}>"
        )

    # Fitting

    @classmethod
    def fit(
        cls,
        outcomes: Iterable[Outcome | tuple[str, str, float | None, float | None]],
        *,
        quality: Mapping[str, float] | None = None,
        cascades: int = 24,
        agree: Agree | None = None,
        half_life: float = HALF_LIFE,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> QualityPredictor:
        """Fit outcomes: seconds for ten thousand queries, in which nothing else runs.

        Args:
            outcomes: (query, model, score, cost) and, for cascades, the answer; in any order, with
                any gaps.
            quality: Configured qualities, which count as `PRIOR` observations each. Models named
                here come first, and need no outcomes.
            cascades: How many cascades to learn at most; they need outcomes with answers.
            agree: Whether two answers say the same; None for equality.
            half_life: Seconds after which an outcome observed while serving counts half.
            seed: Same outcomes and seed, same predictor.
            progress: Called with the share done and the name of the stage that begins; by default
                a bar on a terminal, where rich is installed.

        Raises:
            ValueError: Without a score and without a configured quality, or for an outcome or a
                quality out of range.
        """
        if not 0.0 < half_life < inf:
            raise ValueError(f"half_life must be above 0 seconds and finite, got {half_life!r}")
        configured = dict(quality or {})
        for name, value in configured.items():
            _check_quality(name, value)
        with nullcontext(progress) if progress is not None else progress_bar() as report:
            report(0.0, "reading outcomes")
            grid = Grid.of(outcomes, configured, agree)
            return cls.of_grid(grid, configured, cascades, seed, report, half_life)

    @classmethod
    def of_grid(
        cls,
        grid: Grid,
        quality: Mapping[str, float],
        cascades: int,
        seed: int,
        report: Progress,
        half_life: float = HALF_LIFE,
    ) -> QualityPredictor:
        """Fit a grid, see `fit`."""
        known = ~np.isnan(grid.score)
        if not known.any():
            return cls._unfitted(grid.models, quality, half_life)
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
        cost = np.hstack([part[1] for part in parts]).astype(np.float32)
        known = ~np.isnan(score)
        overall = float(score[known].mean())
        start = [quality.get(name, overall) for name in grid.models] + [overall] * len(offered)
        total = np.where(known, score, 0).sum(axis=0) + PRIOR * np.array(start, np.float32)
        mean_quality = (total / (known.sum(axis=0) + PRIOR)).astype(np.float32)
        table = Table(texts, score, cost)
        fitted = fit_weights(table, mean_quality, seed)
        report(0.95, "replaying")
        singles = len(grid.models)
        coverage = known[:, :singles].mean(axis=0).astype(np.float32)
        made = cls(Saved.fresh(grid.models, offered, fitted.weights, coverage, half_life))
        if made.reference:
            left_out = Forecast(fitted.quality, fitted.cost)
            made.curve = _curve(table, left_out, made.reference, singles)
            made.curve_with_cascades = _curve(table, left_out, made.reference, None)
        report(1.0, "done")
        return made

    @classmethod
    def _unfitted(
        cls, models: tuple[str, ...], quality: Mapping[str, float], half_life: float
    ) -> QualityPredictor:
        missing = [name for name in models if name not in quality]
        if missing or not models:
            raise ValueError(
                "fit needs an outcome with a score, or the quality of every model; got none"
                + (f" for {missing[0]!r}" if missing else "")
            )
        weights = blank(np.array([quality[name] for name in models], np.float32))
        coverage = np.zeros(len(models), np.float32)
        return cls(Saved.fresh(models, [], weights, coverage, half_life))

    # Predicting

    @property
    def static_quality(self) -> Floats:
        """Mean score of each choice over all fitted queries: the static table."""
        return self._weights.mean_quality

    @property
    def static_cost(self) -> Floats:
        """Mean cost of each choice over all fitted queries, USD; 0 where it is not known."""
        return self._weights.mean_cost

    @property
    def updates(self) -> int:
        """How many outcomes were taken in while serving."""
        return self._ratings.updates + self._answered.updates

    def predict(self, text: str) -> Floats:
        """Return the expected quality of each model, in the order of `models`."""
        return self.forecast(text).quality[: len(self.models)]

    def read(self, text: str) -> Reading:
        """Return what a forecast needs of a text."""
        weights = self._weights
        buckets, counts, shape = scan(text)
        mapped = counts @ self._by_bucket.take(buckets, axis=0).astype(np.float32)
        mapped *= weights.map.scale
        mapped += weights.map.bias
        place, straight = mapped[:PLACE], mapped[PLACE:]
        lit = light(weights.centres @ place)
        near, count = lit.shares @ self._at.take(lit.rows, axis=0), len(straight)
        straight += near[:count]
        straight += shape @ (near[count:-count] @ self._slopes).reshape(SHAPE, count)
        factors = np.empty(count + 2 * BENDS, np.float32)
        np.multiply(straight, near[-count:], out=factors[:count])
        easy, other, cheap, rest = factors.take(self._bent).tolist()
        factors[count:] = (
            *(easy * easy, easy * other, other * other),
            *(cheap * cheap, cheap * rest, rest * rest),
        )
        return Reading(lit, factors)

    def forecast(self, text: str | Reading) -> Forecast:
        """Return expected quality and cost for each choice.

        Args:
            text: The query, or what `read` made of it.
        """
        reading = self.read(text) if isinstance(text, str) else text
        count = len(self.choices)
        both = reading.factors @ self._loadings
        both += self._expected
        quality, cost = both[:count], both[count:]
        if self._ratings.updates:
            quality += self._ratings.observed(reading.lit)[0] @ self._members
        if self._answered.updates:
            quality *= _ONE + self._answered.observed(reading.lit)[0] @ self._members
        np.maximum(both, self._least, out=both)
        np.minimum(both, self._most, out=both)
        return Forecast(quality, cost)

    def drawn(self, reading: Reading, forecast: Forecast, rng: random.Random) -> Forecast:
        """Return a forecast with plausible instead of expected qualities (Thompson sampling).

        Choosing the best of a draw tries a choice as often as it may be the best one. The deviation
        is that of a Beta belief with this mean and as many observations as are like this query.
        """
        lit = reading.lit
        evidence = float(lit.shares @ self._weights.evidence[lit.rows]) * self._coverage
        evidence = (evidence + self._ratings.observed(lit)[1]) @ self._members
        quality = forecast.quality
        spread = np.sqrt(quality * (1 - quality) / (evidence + PRIOR + 1))
        noise = np.array([rng.gauss(0.0, 1.0) for _ in spread], np.float32)
        return Forecast(np.clip(quality + spread * noise, 0.0, 1.0), forecast.cost)

    def recommended(self, *, with_cascades: bool = False) -> Point:
        """Return the point of the curve to start from.

        It is the cheapest one that keeps at least `KEPT` of what the best point gains over the best
        single model (and never falls below that model) in predictions of unseen queries. Without
        any known cost it is the best quality.
        """
        curve = self.curve_with_cascades if with_cascades else self.curve
        static = float(self._weights.mean_quality[: len(self.models)].max())
        if not curve:
            return Point(0.0, 0.0, static)
        top = max(curve, key=lambda point: point.quality)
        wanted = min(static + KEPT * max(top.quality - static, 0.0), top.quality)
        return min((point for point in curve if point.quality >= wanted), key=lambda p: p.cost)

    # Learning while serving

    def update(self, text: str | Reading, model: str, score: float, now: float) -> None:
        """Learn from the rating of an answer; what was seen before decays.

        Args:
            text: The query, or what `read` made of it.
            model: Who answered it.
            score: 0 to 1.
            now: Seconds on any steady clock; going back is taken as no time passed.

        Raises:
            ValueError: For an unknown model, or a score outside [0, 1].
        """
        column = self._known(model)
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"score must be from 0 to 1, got {score!r} for model {model!r}")
        reading = self.read(text) if isinstance(text, str) else text
        expected = float(reading.factors @ self._loadings[:, column])
        expected += float(self._expected[column])
        surprise = score - min(max(expected, 0.0), 1.0)
        self._ratings.add(reading.lit, column, surprise, now, self.half_life)

    def update_answered(
        self, text: str | Reading, model: str, is_answered: bool, now: float
    ) -> None:
        """Learn whether a model had an answer at all: not a refusal, not one to be turned down.

        The share of queries like this one that it answers multiplies its expected quality.

        Raises:
            ValueError: For an unknown model.
        """
        column = self._known(model)
        reading = self.read(text) if isinstance(text, str) else text
        self._answered.add(reading.lit, column, float(is_answered) - 1.0, now, self.half_life)

    def _known(self, model: str) -> int:
        column = self.columns.get(model)
        if column is None:
            raise ValueError(f"model must be one of {', '.join(self.models)}, got {model!r}")
        return column

    def add(self, model: str, quality: float, cost: float = 0.0) -> None:
        """Add a model without outcomes.

        It starts from a configured quality, and finds hard what the others find hard: its loadings
        are their mean.

        Args:
            model: A new name.
            quality: Expected score, 0 to 1.
            cost: Expected cost of an average query, USD; 0 where it is not known.

        Raises:
            ValueError: For a known name, or a quality or cost out of range.
        """
        if model in self.models:
            raise ValueError(f"model must be new, got {model!r}")
        _check_quality(model, quality)
        if not 0.0 <= cost < inf:
            raise ValueError(f"cost must be at least 0 and finite, got {cost!r}")
        at, old = len(self.models), self._weights

        def widened(loadings: Floats) -> Floats:
            return np.insert(loadings, at, loadings[:, :at].mean(axis=1), axis=1)

        self._weights = Weights(
            old.map,
            old.centres,
            old.region,
            old.lift,
            old.slopes,
            old.trust,
            widened(old.quality),
            widened(old.cost),
            old.middle,
            np.insert(old.mean_quality, at, np.float32(quality)),
            np.insert(old.mean_cost, at, np.float32(cost)),
            old.evidence,
        )
        self.models = (*self.models, model)
        self._coverage = np.append(self._coverage, np.float32(0))
        self._ratings = self._ratings.widened()
        self._answered = self._answered.widened()
        self._index(self.cascades)

    # Files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and what was learned while serving, under 300 KB.

        The file is replaced at once or not at all.

        Raises:
            OSError: When the file cannot be written.
        """
        saved = Saved(
            self.models,
            self.cascades,
            self._weights,
            self.curve,
            self.curve_with_cascades,
            self._coverage,
            self.half_life,
            (self._ratings.counts, self._ratings.sums),
            (self._answered.counts, self._answered.sums),
        )
        write_file(path, encode(saved))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QualityPredictor:
        """Read what `save` wrote. Nothing in the file is executed.

        No time passes between the two for what was learned while serving: clocks of two processes
        have nothing in common.

        Raises:
            WeightsError: When the file is not such a file, is damaged, or of another version.
            OSError: When it cannot be read.
        """
        data = read_file(path)
        try:
            return cls(decode(data))
        except WeightsError as error:
            raise WeightsError(f"{os.fspath(path)}: {error}") from None


def _check_quality(model: str, quality: float) -> None:
    if not 0.0 <= quality <= 1.0:
        raise ValueError(f"quality must be 0 to 1, got {quality!r} for {model!r}")


def _curve(
    table: Table, left_out: Forecast, reference: float, columns: int | None
) -> tuple[Point, ...]:
    """Replay the fitted queries, each on predictions made without it, for all of `PRICES`."""
    score, cost = table.score[:, :columns], table.cost[:, :columns]
    usable = ~(np.isnan(score) | np.isnan(cost))
    rows = np.flatnonzero(usable.any(axis=1))
    points: list[Point] = []
    for price in PRICES if len(rows) else ():
        worth = left_out.quality - left_out.cost * np.float32(price / reference)
        picked = np.where(usable, worth[:, :columns], -np.inf).argmax(axis=1)[rows]
        points.append(
            Point(price, float(cost[rows, picked].mean()), float(score[rows, picked].mean()))
        )
    return tuple(points)
