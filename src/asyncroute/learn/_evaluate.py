"""Replay of recorded outcomes: what routing would have cost and gained, on queries held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from asyncroute.learn._cascade import replay
from asyncroute.learn._figures import Figure, Line, aiq, apgr, cost_share
from asyncroute.learn._forecast import choose
from asyncroute.learn._predictor import QualityPredictor

if TYPE_CHECKING:
    from asyncroute.learn._dataset import Dataset
    from asyncroute.learn._progress import Progress

Floats: TypeAlias = NDArray[np.floating]

__all__ = ("Replay", "Report", "TaskFigure", "evaluate")

SWEEP = (0.0, *(float(p) for p in np.geomspace(1e-4, 1e4, 161)), 1e9)


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
    """One split, predicted and replayed. Rows are held out queries, columns choices.

    Attributes:
        predictor: Fitted on the other queries.
        task: Kinds of the queries.
        quality: What was expected.
        expected_cost: The same, USD.
        score: What was measured; nan where it was not.
        cost: The same, USD.
        static: The model that was best on the queries fitted.
        micros: Microseconds each decision took.
    """

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
        known, test = data.grid.take(fit_on), data.grid.take(held_out)
        predictor = QualityPredictor.of_grid(known, {}, cascades, seed, lambda _share, _stage: None)
        price = predictor.recommended(with_cascades=True).price
        micros = np.empty(len(test))
        quality = np.empty((len(test), len(predictor.choices)), np.float32)
        cost = np.empty_like(quality)
        for row, text in enumerate(test.queries):
            begun = clock()
            forecast = predictor.forecast(predictor.read(text))
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
            int(_mean(known.score).argmax()),
            micros,
        )

    @property
    def models(self) -> int:
        """Number of single models, the first columns."""
        return len(self.predictor.models)

    def best(self) -> int:
        """Return the model with the highest mean score here."""
        return int(_mean(self.score[:, : self.models]).argmax())

    def single(self, model: int) -> tuple[float, float]:
        """Return mean cost and mean score of one model."""
        return float(_mean(self.cost[:, [model]])[0]), float(_mean(self.score[:, [model]])[0])

    def chosen(self) -> tuple[Floats, Floats]:
        """Return cost and score of each query at the recommended price."""
        return self.picked(self.predictor.recommended(with_cascades=True).price)

    def picked(self, price: float, columns: int | None = None) -> tuple[Floats, Floats]:
        """Return cost and score of each query at a price, optionally of the first columns only."""
        part = slice(columns)
        unit = price / self.predictor.reference
        return self._take(self.quality[:, part] - self.expected_cost[:, part] * unit)

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
        mean_score, mean_cost = _mean(score), _mean(cost)
        for name, at in (
            ("cheapest", int(np.nanargmin(_mean(cost, empty=np.nan)))),
            ("best single", self.best()),
        ):
            yield Line(name, mean_cost[[at]], mean_score[[at]])
        static = np.broadcast_to(self.predictor.static_quality[:width], score.shape)
        spend = self.predictor.static_cost[:width] / self.predictor.reference
        table = [[p.mean() for p in self._take(static - price * spend)] for price in SWEEP]
        yield Line("static table", *np.array(table).T)
        both = ~(np.isnan(score) | np.isnan(cost))
        yield Line("random", np.array([cost[both].mean()]), np.array([score[both].mean()]))
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


def _mean(cells: Floats, empty: float = 0.0) -> Floats:
    """Return the mean of each column over what was measured."""
    known = ~np.isnan(cells)
    count = known.sum(axis=0)
    total = np.where(known, cells, 0.0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), empty)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """An evaluation.

    Attributes:
        name: The data set.
        measured: Share of queries and models of which a score is known.
        figures: By name; what they are is in the documents.
        tasks: By task.
        replays: What is behind them, a split each.
    """

    name: str
    measured: float
    figures: Mapping[str, Figure]
    tasks: tuple[TaskFigure, ...]
    replays: tuple[Replay, ...]


def evaluate(
    data: Dataset,
    *,
    splits: int = 5,
    cascades: int = 24,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Evaluate routing on a data set.

    Args:
        data: The outcomes.
        splits: How often to split at random, 80 % to fit and 20 % held out.
        cascades: How many cascades to offer at most; 0 for single models only.
        seed: Of the splits and the fits.
        progress: Called with the share done and the name of the step that begins.

    Raises:
        ValueError: When there is too little in it to split, or not one cost.
    """
    both = ~(np.isnan(data.grid.score) | np.isnan(data.grid.cost))
    if len(np.unique(data.key[both.any(axis=1)])) < 10:
        raise ValueError(
            f"{data.name}: needs at least 10 queries with a score and a cost,"
            f" got {int(both.any(axis=1).sum())}"
        )
    replays: list[Replay] = []
    for number, (fit_on, held_out) in enumerate(data.splits(splits, seed=seed)):
        if progress is not None:
            progress(number / splits, f"split {number + 1} of {splits}")
        replays.append(Replay.of(data, fit_on, held_out, cascades, seed))
    rows = [dict(_figures(replay_)) for replay_ in replays]
    names = dict.fromkeys(name for row in rows for name in row)
    figures = {
        name: Figure(name, tuple(row[name] for row in rows if name in row and not isnan(row[name])))
        for name in names
    }
    return Report(
        data.name,
        float((~np.isnan(data.grid.score)).mean()),
        {name: figure for name, figure in figures.items() if figure.values},
        tuple(_by_task(replays)),
        tuple(replays),
    )


def _figures(replay_: Replay) -> Iterator[tuple[str, float]]:
    singles, best = replay_.models, replay_.best()
    cost, score = replay_.single(best)
    cheapest = float(np.nanmin(_mean(replay_.cost[:, :singles], empty=np.nan)))
    variants: list[tuple[str, int | None]] = [("", singles)]
    if singles < len(replay_.predictor.choices):
        variants.append((" with cascades", None))
    for suffix, columns in variants:
        line = replay_.curve(columns)
        yield f"cost share{suffix}", cost_share(line, cost, score)
        yield f"gain{suffix}", 100 * (float(line.score.max()) - score)
        yield f"AIQ{suffix}", aiq(line, cheapest, cost)
    chosen_cost, chosen = replay_.chosen()
    static_cost, static = replay_.single(replay_.static)
    yield "chosen", 100 * (float(chosen.mean()) - static)
    yield "chosen over best", 100 * (float(chosen.mean()) - score)
    yield "chosen cost share", float(chosen_cost.mean()) / static_cost
    if singles == 2:
        yield from _gaps(replay_)
    yield "p90 us", float(np.percentile(replay_.micros, 90))


def _gaps(replay_: Replay) -> Iterator[tuple[str, float]]:
    weak, strong = sorted(range(2), key=lambda model: replay_.single(model)[1])
    advantage = replay_.quality[:, strong] - replay_.quality[:, weak]
    both = ~np.isnan(replay_.score[:, :2]).any(axis=1)
    families = np.array([task.partition("/")[0] for task in replay_.task])
    for name in ("", *sorted(set(families.tolist()))):
        rows = both if not name else both & (families == name)
        value = apgr(advantage[rows], replay_.score[rows, weak], replay_.score[rows, strong])
        yield f"APGR {name}".strip(), value


def _by_task(replays: list[Replay]) -> Iterator[TaskFigure]:
    """Yield a figure per task, the splits' queries taken together."""
    for task in sorted({name for replay_ in replays for name in replay_.task.tolist()}):
        cells: list[Floats] = []
        for replay_ in replays:
            best = replay_.best()
            known = ~(np.isnan(replay_.score[:, best]) | np.isnan(replay_.cost[:, best]))
            rows = (replay_.task == task) & known
            cost, score = replay_.only(rows).chosen()
            cells.append(
                np.stack([score, cost, replay_.score[rows, best], replay_.cost[rows, best]])
            )
        joined = np.concatenate(cells, axis=1)
        if joined.shape[1]:
            yield TaskFigure(task, joined.shape[1], *joined.mean(axis=1).tolist())
