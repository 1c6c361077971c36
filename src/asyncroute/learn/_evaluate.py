"""Replay of recorded outcomes: what routing would have cost and gained, on queries held out.

Figures, all on the held out part of a split:

- *Best single* is the model with the highest mean score there (chosen with hindsight, the harder
  reference); *static choice* the one with the highest mean score on the part fitted.
- *Curve*: mean cost and mean score at each price; only choices measured on a query are open to it.
- *Cost share*: the least cost on the curve at a mean score of at least the best single's, as a
  share of the best single's cost; infinite when the curve does not get there.
- *Gain*: highest mean score on the curve minus the best single's, in points (hundredths).
- *AIQ*: the non-decreasing concave hull of the curve (two points can be mixed at random), averaged
  over costs from the cheapest model's to the best single's.
- *APGR* (two models): calls go to the strong model in order of predicted advantage; the part of the
  gap between weak and strong recovered, averaged over shares of strong calls from 0 to 1.
- *Chosen*: score at the recommended price minus the static choice's, in points.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np

from asyncroute.learn._cascade import hull, replay
from asyncroute.learn._forecast import choose
from asyncroute.learn._predictor import QualityPredictor

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from asyncroute.learn._dataset import Dataset

    Floats: TypeAlias = NDArray[np.floating]

__all__ = (
    "Figure",
    "Line",
    "Replay",
    "Report",
    "TaskFigure",
    "aiq",
    "apgr",
    "cost_share",
    "evaluate",
    "plot",
)

SWEEP = (0.0, *(float(p) for p in np.geomspace(1e-4, 1e4, 161)), 1e9)


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all splits: mean, standard deviation, and each value."""

    name: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the splits."""
        return math.fsum(self.values) / len(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the splits (of the values themselves, not of their mean)."""
        if not math.isfinite(self.mean):
            return math.nan
        return math.sqrt(math.fsum((v - self.mean) ** 2 for v in self.values) / len(self.values))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A reference: mean costs (USD per query) and mean scores of one or more points."""

    name: str
    cost: Floats
    score: Floats


@final
@dataclass(frozen=True, slots=True)
class TaskFigure:
    """One task at the recommended price, all splits together, beside the best single model."""

    task: str
    queries: int
    score: float
    cost: float
    best_score: float
    best_cost: float


@final
@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """One split, predicted and replayed. Rows are held out queries, columns choices."""

    predictor: QualityPredictor
    task: NDArray[np.str_]
    quality: Floats
    expected_cost: Floats
    score: Floats
    cost: Floats
    static: int
    micros: Floats

    @classmethod
    def of(
        cls,
        data: Dataset,
        fit_on: NDArray[np.intp],
        held_out: NDArray[np.intp],
        cascades: int = 24,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Replay:
        """Fit on some rows of a data set, predict and replay the others."""
        known = data.grid.take(fit_on)
        predictor = QualityPredictor.of_grid(known, {}, cascades, seed, lambda _share, _stage: None)
        test = data.grid.take(held_out)
        price = predictor.recommended().price
        micros = np.empty(len(test))
        quality = np.empty((len(test), len(predictor.choices)), np.float32)
        cost = np.empty_like(quality)
        for row, text in enumerate(test.queries):
            begun = clock()
            forecast = predictor.forecast(text)
            choose(forecast, price, predictor.reference)
            micros[row] = (clock() - begun) * 1e6
            quality[row], cost[row] = forecast.quality, forecast.cost
        parts = [replay(c, test.score, test.cost, test.answers) for c in predictor.choices]
        return cls(
            predictor,
            data.task[held_out],
            quality,
            cost,
            np.stack([part[0] for part in parts], axis=1),
            np.stack([part[1] for part in parts], axis=1),
            int(np.nanmean(known.score, axis=0).argmax()),
            micros,
        )

    @property
    def models(self) -> int:
        """Number of single models, the first columns."""
        return len(self.predictor.models)

    def best(self) -> int:
        """Return the model with the highest mean score here."""
        return int(np.nanmean(self.score[:, : self.models], axis=0).argmax())

    def picked(self, price: float, columns: int | None = None) -> tuple[Floats, Floats]:
        """Return cost and score of each query at a price, optionally of the first columns only."""
        part = slice(columns)
        worth = self.quality[:, part] - self.expected_cost[:, part] * (
            price / self.predictor.reference
        )
        return self._take(worth)

    def _take(self, worth: Floats) -> tuple[Floats, Floats]:
        width = worth.shape[1]
        open_ = ~(np.isnan(self.score[:, :width]) | np.isnan(self.cost[:, :width]))
        column = np.where(open_, worth, -np.inf).argmax(axis=1)
        rows = np.flatnonzero(open_.any(axis=1))
        return self.cost[rows, column[rows]], self.score[rows, column[rows]]

    def curve(self, columns: int | None = None) -> Line:
        """Return the curve over all prices, with or without cascades (`columns=models`)."""
        points = [[part.mean() for part in self.picked(price, columns)] for price in SWEEP]
        cost, score = np.array(points).T
        return Line("router", cost, score)

    def lines(self) -> Iterator[Line]:
        """Yield the reference lines: cheapest, best single, static table, random, oracle."""
        width = self.models
        score, cost = self.score[:, :width], self.cost[:, :width]
        mean_score, mean_cost = np.nanmean(score, axis=0), np.nanmean(cost, axis=0)
        for name, at in (("cheapest", int(mean_cost.argmin())), ("best single", self.best())):
            yield Line(name, mean_cost[[at]], mean_score[[at]])
        static = np.broadcast_to(self.predictor.static_quality[:width], score.shape)
        spend = self.predictor.static_cost[:width] / self.predictor.reference
        table = np.array(
            [[p.mean() for p in self._take(static - price * spend)] for price in SWEEP]
        )
        yield Line("static table", table[:, 0], table[:, 1])
        yield Line("random", np.array([np.nanmean(cost)]), np.array([np.nanmean(score)]))
        top = np.nan_to_num(score, nan=-1.0)
        paid, gained = self._take(top - 1e-3 * np.nan_to_num(cost) / np.nanmax(cost))
        yield Line("oracle", np.array([paid.mean()]), np.array([gained.mean()]))

    def only(self, rows: NDArray[np.bool_]) -> Replay:
        """Return the replay of these rows."""
        return Replay(
            self.predictor,
            self.task[rows],
            self.quality[rows],
            self.expected_cost[rows],
            self.score[rows],
            self.cost[rows],
            self.static,
            self.micros[rows],
        )

    def single(self, model: int) -> tuple[float, float]:
        """Return mean cost and mean score of one model."""
        return float(np.nanmean(self.cost[:, model])), float(np.nanmean(self.score[:, model]))


def cost_share(line: Line, cost: float, score: float) -> float:
    """Return the least cost on a line at a score of at least `score`, as a share of `cost`."""
    reached = line.cost[line.score >= score - 1e-12]
    return float(reached.min() / cost) if len(reached) else math.inf


def aiq(line: Line, low: float, high: float) -> float:
    """Return the mean height of a line's hull over costs from `low` to `high`.

    Left of the hull's first point its score counts (nothing is given for costs not reached).
    """
    corners = hull(line.cost, line.score)
    grid = np.linspace(low, high, 1001)
    return float(np.interp(grid, line.cost[corners], line.score[corners]).mean())


def apgr(advantage: Floats, weak: Floats, strong: Floats) -> float:
    """Return the average performance gap recovered, 0.5 for a random order, nan without a gap.

    Equal advantages share their places, so that a constant prediction is a random order.
    """
    order = np.argsort(-advantage, kind="stable")
    ranked = advantage[order]
    gain = (strong - weak)[order].astype(np.float64)
    group = np.concatenate(([0], np.cumsum(np.diff(ranked) != 0)))
    gain = (np.bincount(group, weights=gain) / np.bincount(group))[group]
    total = gain.sum()
    if len(gain) == 0 or total == 0:
        return math.nan
    recovered = np.concatenate(([0.0], np.cumsum(gain))) / total
    return float((recovered[1:] + recovered[:-1]).mean() / 2)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """An evaluation: figures over the splits, tasks, and the replays behind them."""

    name: str
    figures: tuple[Figure, ...]
    tasks: tuple[TaskFigure, ...]
    replays: tuple[Replay, ...]

    def figure(self, name: str) -> Figure:
        """Return a figure by name.

        Raises:
            KeyError: When there is none.

        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)


def evaluate(
    data: Dataset,
    *,
    splits: int = 5,
    cascades: int = 24,
    seed: int = 0,
    progress: Callable[[float, str], object] | None = None,
) -> Report:
    """Evaluate routing on a data set.

    Args:
        data: The outcomes.
        splits: How often to split at random, 80 % to fit and 20 % held out.
        cascades: How many cascades to offer at most; 0 for single models only.
        seed: Of the splits and the fits.
        progress: Called with the share done and the name of the step that begins.

    Returns:
        Figures, by task too.

    """
    replays: list[Replay] = []
    for number, (fit_on, held_out) in enumerate(data.splits(splits, seed=seed)):
        if progress is not None:
            progress(number / splits, f"split {number + 1}")
        replays.append(Replay.of(data, fit_on, held_out, cascades, seed))
    rows = [_figures(replay_) for replay_ in replays]
    names = list(dict.fromkeys(name for row in rows for name, _ in row))
    figures = tuple(
        Figure(name, tuple(value for row in rows for other, value in row if other == name))
        for name in names
    )
    return Report(data.name, figures, tuple(_by_task(replays)), tuple(replays))


def _figures(replay_: Replay) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    singles, best = replay_.models, replay_.best()
    cost, score = replay_.single(best)
    cheapest = min(replay_.single(model)[0] for model in range(singles))
    variants: list[tuple[str, int | None]] = [("", singles)]
    if singles < len(replay_.predictor.choices):
        variants.append((" with cascades", None))
    for suffix, columns in variants:
        line = replay_.curve(columns)
        found.append((f"cost share{suffix}", cost_share(line, cost, score)))
        found.append((f"gain{suffix}", 100 * (float(line.score.max()) - score)))
        found.append((f"AIQ{suffix}", aiq(line, cheapest, cost)))
    chosen_cost, chosen = replay_.picked(replay_.predictor.recommended().price)
    static_cost, static = replay_.single(replay_.static)
    found.append(("chosen", 100 * (float(chosen.mean()) - static)))
    found.append(("chosen over best", 100 * (float(chosen.mean()) - score)))
    found.append(("chosen cost share", float(chosen_cost.mean()) / static_cost))
    if singles == 2:
        found += _gaps(replay_)
    found.append(("p90 us", float(np.percentile(replay_.micros, 90))))
    return found


def _gaps(replay_: Replay) -> list[tuple[str, float]]:
    weak, strong = sorted(range(2), key=lambda model: replay_.single(model)[1])
    advantage = replay_.quality[:, strong] - replay_.quality[:, weak]
    both = ~np.isnan(replay_.score[:, :2]).any(axis=1)
    families = np.array([task.partition("/")[0] for task in replay_.task])
    found: list[tuple[str, float]] = []
    for name in ("", *sorted(set(families.tolist()))):
        rows = both if not name else both & (families == name)
        value = apgr(advantage[rows], replay_.score[rows, weak], replay_.score[rows, strong])
        found.append((f"APGR {name}".strip(), value))
    return found


def _by_task(replays: list[Replay]) -> Iterator[TaskFigure]:
    """Yield a figure per task, the splits' queries taken together."""
    for task in sorted({name for replay_ in replays for name in replay_.task.tolist()}):
        cells: list[Floats] = []
        for replay_ in replays:
            best = replay_.best()
            known = ~np.isnan(replay_.score[:, : replay_.models]).any(axis=1)
            rows = (replay_.task == task) & known
            part = replay_.only(rows).picked(replay_.predictor.recommended().price)
            single = replay_.score[rows, best], replay_.cost[rows, best]
            cells.append(np.stack([part[1], part[0], *single]))
        joined = np.concatenate(cells, axis=1)
        if joined.shape[1]:
            means = joined.mean(axis=1).tolist()
            yield TaskFigure(task, joined.shape[1], *means)


def plot(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw quality against cost of a report's first split, with the reference lines.

    Args:
        report: From `evaluate`.
        path: File to write; its ending says the format.

    Raises:
        ImportError: Without matplotlib.

    """
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415 - only where it is drawn

    replay_ = report.replays[0]
    canvas: Any = Canvas(figsize=(7, 4.5), layout="constrained")  # its stubs are partly untyped
    axes = canvas.subplots()
    curves = [("router, single models", replay_.models), ("router, with cascades", None)]
    for label, columns in curves[: 2 if replay_.models < len(replay_.predictor.choices) else 1]:
        line = replay_.curve(columns)
        corners = np.argsort(line.cost, kind="stable")
        axes.plot(line.cost[corners], line.score[corners], label=label)
    for line in replay_.lines():
        if len(line.cost) > 1:
            corners = hull(line.cost, line.score)
            axes.plot(line.cost[corners], line.score[corners], "--", label=line.name)
        else:
            axes.plot(line.cost, line.score, "o", label=line.name)
    axes.set_xscale("log")
    axes.set_xlabel("mean cost per query (USD)")
    axes.set_ylabel("mean score")
    axes.set_title(report.name)
    axes.legend(fontsize="small")
    canvas.savefig(path)
