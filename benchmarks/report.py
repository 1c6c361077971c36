"""What a benchmark tells: rows with their gates, as a table and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ("Report", "Row")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        name: What was measured.
        value: What it came to.
        gate: What it must keep to; None where the figure is told for its own sake.
        aim: What is hoped for.
        unit: Of all three. `x` is multiples of the minimum, `+ x` multiples beyond another row.
        at_least: Whether more is better.
    """

    name: str
    value: float
    gate: float | None = None
    aim: float | None = None
    unit: str = "x"
    at_least: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether it keeps to its gate; None where there is none."""
        if self.gate is None:
            return None
        return self.value >= self.gate if self.at_least else self.value <= self.gate

    @property
    def verdict(self) -> str:
        """`pass` or `fail`; empty where there is no gate."""
        return {None: "", True: "pass", False: "fail"}[self.passed]

    def shown(self, value: float | None) -> str:
        """A value of this row, to three digits, with its unit."""
        if value is None:
            return ""
        if self.unit == "+ x":
            return f"{value:+.2f} x"
        return f"{_digits(value)} {self.unit}".rstrip()


def _digits(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Report:
    """What one script measured in one process.

    Attributes:
        title: What it was about.
        rows: The figures.
        loop: Which kind of event loop.
        python: Which CPython.
    """

    title: str
    rows: tuple[Row, ...]
    loop: str = "asyncio"
    python: str = sys.version.split()[0]

    def tell(self, json_path: Path | None) -> None:
        """Print it as a table; write it as JSON where a path is given."""
        table = Table(title=f"{self.title} (CPython {self.python}, {self.loop})")
        table.add_column("")
        for column in ("ours", "gate", "aim", ""):
            table.add_column(column, justify="right")
        for row in self.rows:
            colour = {None: "", True: "green", False: "red"}[row.passed]
            verdict = f"[{colour}]{row.verdict}[/]" if colour else ""
            figures = (row.shown(row.value), row.shown(row.gate), row.shown(row.aim))
            table.add_row(row.name, *figures, verdict)
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        if json_path is not None:
            json_path.parent.mkdir(parents=True, exist_ok=True)
            json_path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, json_path: Path) -> Report:
        """Read what `tell` has written."""
        read: dict[str, Any] = json.loads(json_path.read_text(encoding="utf-8"))
        rows: Iterable[dict[str, Any]] = read.pop("rows")
        return cls(rows=tuple(Row(**row) for row in rows), **read)
