"""Quality against cost, as a picture. Needs matplotlib."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from asyncroute.learn._figures import hull

if TYPE_CHECKING:
    from asyncroute.learn._evaluate import Report

__all__ = ("check_format", "plot")

_MARKS = {"cheapest": "v", "best single": "o", "random": "x", "oracle": "*"}


def plot(report: Report, path: str | os.PathLike[str]) -> None:
    """Draw quality against cost of a report's first split, with the reference lines.

    Args:
        report: From `evaluate`.
        path: File to write; its ending says the format.

    Raises:
        ImportError: Without matplotlib.
        ValueError: For an ending that is no format.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    replay = report.replays[0]
    canvas: Any = Figure(figsize=(7, 4.5), layout="constrained")  # its stubs are partly untyped
    axes = canvas.subplots()
    axes.plot(*_drawn(replay.curve(replay.models)), label="router, single models")
    if replay.models < len(replay.predictor.choices):
        axes.plot(*_drawn(replay.curve()), label="router, with cascades")
    chosen_cost, chosen = replay.chosen()
    axes.plot(chosen_cost.mean(), chosen.mean(), "D", label="router, as recommended")
    for line in replay.lines():
        if len(line.cost) > 1:
            corners = hull(line.cost, line.score)
            axes.plot(line.cost[corners], line.score[corners], "--", color="gray", label=line.name)
        else:
            axes.plot(line.cost, line.score, _MARKS[line.name], label=line.name, linestyle="none")
            if line.name == "best single":
                axes.axhline(line.score[0], color="lightgray", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    # At 1, 2 and 5: what matplotlib writes between powers of ten runs into each other.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("mean cost per query (USD)")
    axes.set_ylabel("mean score")
    axes.set_title(f"{report.name}, first split")
    axes.legend(fontsize="small")
    canvas.savefig(path, dpi=150)


def check_format(path: str | os.PathLike[str]) -> None:
    """Refuse a file name whose ending is no format, before the work of making the report.

    Raises:
        ImportError: Without matplotlib.
        ValueError: It is none.
    """
    from matplotlib.figure import Figure

    formats = sorted(Figure().canvas.get_supported_filetypes())
    ending = PurePath(path).suffix.removeprefix(".").lower()
    if ending and ending not in formats:
        raise ValueError(f"plot: {os.fspath(path)!r} must end in one of {', '.join(formats)}")


def _drawn(line: Any) -> tuple[Any, Any]:
    order = np.argsort(line.cost, kind="stable")
    return line.cost[order], line.score[order]
