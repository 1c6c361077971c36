"""A progress bar, where there is a terminal to show it on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ("Progress", "progress_bar")

Progress: TypeAlias = Callable[[float, str], object]
"""Told the share that is done, and what is done next."""


@contextmanager
def progress_bar() -> Generator[Progress]:
    """Show progress on a terminal's standard error, where rich is installed."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    try:
        from rich.console import Console
        from rich.progress import Progress as Bar
    except ImportError:
        yield _nothing
        return
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share, stage: bar.update(task, completed=share, description=stage)


def _nothing(share: float, stage: str) -> None:
    del share, stage
