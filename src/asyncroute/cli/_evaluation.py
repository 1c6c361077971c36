"""Evaluations of routing that learns, as tables that fit into 80 columns."""

from __future__ import annotations

import os
from math import isfinite
from typing import TYPE_CHECKING

from asyncroute._errors import ConfigurationError
from asyncroute.cli._tables import plain_table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from asyncroute.learn import Report
    from asyncroute.learn._figures import Figure

__all__ = ("evaluate_outcomes",)

_SHARES = frozenset(("cost share", "cost share with cascades", "chosen cost share"))
_POINTS = frozenset(("gain", "gain with cascades", "chosen", "chosen over best"))


def evaluate_outcomes(  # noqa: PLR0913 - one parameter is one option
    console: Console,
    data: Path,
    *,
    by_task: bool,
    splits: int,
    cascades: int,
    plot: Path | None,
    save: Path | None,
    seed: int,
) -> None:
    """Fit, replay, and print what came of it; draw it and save the weights where asked to.

    Raises:
        ConfigurationError: The outcomes cannot be used; it names the line and the field.
        ImportError: The extra `learn` is not installed.
        OSError: A file cannot be read or written.
    """
    # The products of a decision are too small to share among threads: starting and joining them
    # costs more than it saves, many times more where others want the cores. Read once, by numpy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from asyncroute import learn
        from asyncroute.learn import _plot
        from asyncroute.learn._progress import progress_bar

        if plot is not None:
            _plot.check_format(plot)  # before the work, not after it
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except ImportError as error:
        raise ImportError(f"eval needs {error.name}: pip install 'asyncroute[learn]'") from None
    try:
        outcomes = learn.read_dataset(data)
        with progress_bar() as report_progress:
            report = learn.evaluate(
                outcomes, splits=splits, cascades=cascades, seed=seed, progress=report_progress
            )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    tables = [_lines_table(report), _figures_table(report)]
    for shown in (*tables, *([_tasks_table(report)] if by_task else ())):
        console.print(shown)
        console.print()
    for note in _notes(report):
        console.print(f"Note: {note}", style="yellow")
    if plot is not None:
        learn.plot(report, plot)
    if save is not None:
        with progress_bar() as report_progress:
            predictor = learn.QualityPredictor.of_grid(
                outcomes.grid, {}, cascades, seed, report_progress
            )
        predictor.save(save)


def _lines_table(report: Report) -> Table:
    """Show the first split's reference lines, and the router at its recommended price."""
    replay = report.replays[0]
    shown = plain_table(
        "held out queries of the first split", ">score", ">cost per query", ">share"
    )
    shown.title = f"{report.name}: {replay.models} models, {len(replay.task)} queries held out"
    best_cost, _ = replay.single(replay.best())
    chosen_cost, chosen = replay.chosen()
    rows = [("router, as recommended", float(chosen_cost.mean()), float(chosen.mean()))]
    for line in replay.lines():
        top = int(line.score.argmax())
        name = f"{line.name}: {replay.predictor.models[replay.best()]}"
        rows.append(
            (
                name if line.name == "best single" else line.name,
                float(line.cost[top]),
                float(line.score[top]),
            )
        )
    for name, cost, score in rows:
        shown.add_row(name, f"{score:.3f}", f"${cost:.6f}", f"{cost / best_cost:.0%}")
    return shown


def _figures_table(report: Report) -> Table:
    """Show the figures over all splits."""
    shown = plain_table("figure", ">mean", ">spread", ">median", ">from", ">to")
    shown.title = f"over {len(report.replays)} splits, 80 % to fit and 20 % held out"
    for name, figure in report.figures.items():
        values = (figure.mean, figure.spread, figure.median, *_ends(figure))
        shown.add_row(name, *(_written(name, value) for value in values))
    return shown


def _ends(figure: Figure) -> tuple[float, float]:
    return min(figure.values), max(figure.values)


def _written(name: str, value: float) -> str:
    if not isfinite(value):
        return "never" if value > 0 else "-"
    if name in _SHARES:
        return f"{value:.1%}"
    if name in _POINTS:
        return f"{value:+.2f}"
    return f"{value:.0f}" if name == "p90 us" else f"{value:.3f}"


def _tasks_table(report: Report) -> Table:
    """Show every task at the recommended price beside the best single model."""
    shown = plain_table("task", ">queries", ">score", ">best single", ">cost", ">best single")
    shown.title = "by task, all splits together"
    for task in report.tasks:
        shown.add_row(
            task.task or "(none)",
            str(task.queries),
            f"{task.score:.3f}",
            f"{task.best_score:.3f}",
            f"${task.cost:.6f}",
            f"${task.best_cost:.6f}",
        )
    return shown


def _notes(report: Report) -> Iterator[str]:
    """Say what keeps the figures from meaning much."""
    if report.measured < 0.5:
        yield (
            f"Only {report.measured:.0%} of all pairs of query and model have a score. A replay can"
            " only choose what was measured: ask all models a sample of the queries"
            " (router.execute_all), or these figures say little."
        )
    if len(report.replays[0].task) < 200:
        yield "Fewer than 200 queries were held out: differences of a few points are noise."
