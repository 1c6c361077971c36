"""Every benchmark of cost with one command, other libraries and the newest Python included.

    uv run python benchmarks/run.py [--quick] [--without-peers] [--only-show] [--write]

Takes some minutes. Prints our figures with their gates and aims, and the other libraries'; writes
JSON to `benchmarks/results/`, with the tables in Markdown and the plot. Exits with 1 if a gate is
missed. Gates are for CPython 3.11 on asyncio; others are told beside it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import peers
from environments import HERE, Unavailable, environment, newest_python
from report import Report, Row
from rich.console import Console
from rich.table import Table

ROOT = HERE.parent
RESULTS = HERE / "results"
PAGE = ROOT / "docs" / "performance.md"
PLOT = "overhead.png"
BEGIN, END = "<!-- figures: written by benchmarks/run.py --write -->\n", "<!-- end of figures -->\n"

SCRIPTS = {
    "overhead": ("--rounds", "9"),
    "streams": ("--rounds", "3", "--streams", "500", "--seconds", "2"),
    "scale": ("--decisions", "100"),
    "memory": ("--calls", "20000"),
    "import_time": ("--rounds", "3"),
}
"""What is gated, in this order, and how it is cut short."""

BESIDE = ("overhead", "import_time")
"""What is told for the newest Python, too."""


def run_all(*, is_quick: bool, with_peers: bool) -> None:
    """Run every script in a process of its own: what one imports or leaves is no other's cost."""
    for name, quick in SCRIPTS.items():
        if (HERE / f"{name}.py").exists():
            _run(sys.executable, name, RESULTS / f"{name}.json", *(quick if is_quick else ()))
    quick = SCRIPTS["overhead"] if is_quick else ()
    _run(sys.executable, "overhead", RESULTS / "overhead-uvloop.json", "--loop", "uvloop", *quick)
    try:
        newest = newest_python()
        name = Path(newest).parents[1].name
        python = environment(f"python-{name}", newest, [f"{ROOT}[cli]", "--editable", str(ROOT)])
        for script in BESIDE:
            arguments = SCRIPTS[script] if is_quick else ()
            _run(str(python), script, RESULTS / f"{script}-newest.json", *arguments)
    except Unavailable as reason:
        print(f"the newest Python is left out: {reason}")
    if with_peers:
        _run(sys.executable, "peers", RESULTS / "peers.json")


def _run(python: str, script: str, json_path: Path, *arguments: str) -> None:
    json_path.unlink(missing_ok=True)
    command = (python, str(HERE / f"{script}.py"), "--json", str(json_path), *arguments)
    subprocess.run(command, check=True)


def reports(suffix: str = "") -> Iterator[Report]:
    """Read what there is of our own results."""
    for name in SCRIPTS:
        path = RESULTS / f"{name}{suffix}.json"
        if path.exists():
            yield Report.read(path)


def values(suffix: str) -> tuple[str, dict[str, str]]:
    """What a column beside ours shows, by row, and its heading."""
    found: dict[str, str] = {}
    heading = ""
    for report in reports(suffix):
        heading = heading or f"{report.python}, {report.loop}"
        found |= {row.name: row.shown(row.value) for row in report.rows}
    return heading, found


Cells = tuple[str, ...]


def our_table(rows: Sequence[Row]) -> tuple[Cells, list[Cells]]:
    """The headings and the cells: ours, gate, aim, verdict, and the same on other loops."""
    beside = [(heading, found) for heading, found in map(values, ("-uvloop", "-newest")) if found]
    headings = ("", "ours", "gate", "aim", "", *(heading for heading, _ in beside))
    cells = [
        (
            row.name,
            row.shown(row.value),
            row.shown(row.gate),
            row.shown(row.aim),
            row.verdict,
            *(found.get(row.name, "") for _, found in beside),
        )
        for row in rows
    ]
    return headings, cells


def in_markdown(headings: Cells, cells: Sequence[Cells]) -> str:
    lines = [headings, ("---", *("---:" for _ in headings[1:])), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def in_terminal(title: str, headings: Cells, cells: Sequence[Cells]) -> Table:
    colours = {"pass": "[green]pass[/]", "fail": "[red]fail[/]"}
    table = Table(title=title)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for line in cells:
        table.add_row(*(colours.get(cell, cell) for cell in line))
    return table


def write(tables: str) -> None:
    """Put the tables and the plot where they are read."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")
    shutil.copy(RESULTS / PLOT, PAGE.parent / PLOT)


def draw(rows: Sequence[Row], measured: Sequence[peers.Peer], path: Path) -> None:
    """Draw what a call and a fallback cost, as multiples of the minimum."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    ours = {row.name: row.value for row in rows}
    drawn = [
        (
            "asyncroute",
            [ours["execute, ready request"]],
            ours["execute, first fails, fallback answers"],
        )
    ]
    drawn += [(peer.name, peer.execute, peer.fallback) for peer in measured if not peer.skipped]
    drawn.sort(key=lambda line: max(line[1]), reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.75 * len(drawn)), layout="constrained")
    height = 0.36
    for i, (name, execute, fallback) in enumerate(drawn):
        is_ours = name == "asyncroute"
        strong, light = ("#c2410c", "#fdba74") if is_ours else ("#475569", "#cbd5e1")
        for shift, most, colour, shown in (
            (height / 2, max(execute), strong, peers.spread(execute)),
            (-height / 2, fallback, light, peers.spread([fallback])),
        ):
            axes.barh(i + shift, most - 1, height, left=1, color=colour)
            axes.annotate(
                f"{shown}x",
                (most, i + shift),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:,.0f}x"))
    axes.set_xlim(1, 4 * max(max(*execute, fallback) for _, execute, fallback in drawn))
    axes.set_yticks(range(len(drawn)), [name for name, _, _ in drawn])
    axes.set_xlabel("CPU of one call, multiples of the hand-written minimum (1x); log scale")
    axes.set_title(
        "What routing costs: dark, the first model answers; light, it fails and a fallback answers",
        fontsize=10,
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--without-peers", action="store_true", help="keep their last figures")
    parser.add_argument("--only-show", action="store_true", help="measure nothing anew")
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/")
    asked = parser.parse_args()
    if not asked.only_show:
        run_all(is_quick=asked.quick, with_peers=not asked.without_peers)
    rows = [row for report in reports() for row in report.rows]
    python = next(reports()).python
    tables = {f"asyncroute, CPython {python}, asyncio": our_table(rows)}
    measured: list[peers.Peer] = []
    if (RESULTS / "peers.json").exists():
        measured = peers.read(RESULTS / "peers.json")
        tables["Other libraries, multiples of the minimum"] = (
            peers.HEADINGS,
            [peer.cells for peer in measured],
        )
    console = Console(width=None if sys.stdout.isatty() else 150)
    for title, (headings, cells) in tables.items():
        console.print(in_terminal(title, headings, cells))
    text = "\n".join(
        f"**{title}**\n\n{in_markdown(headings, cells)}"
        for title, (headings, cells) in tables.items()
    )
    (RESULTS / "tables.md").write_text(text, encoding="utf-8")
    draw(rows, measured, RESULTS / PLOT)
    if asked.write:
        write(text)
    missed = [row.name for row in rows if row.passed is False]
    shown = "every gate is kept" if not missed else f"{len(missed)} gates are missed"
    console.print(f"Written to {RESULTS.relative_to(ROOT)}; {shown}", soft_wrap=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
