"""A small soak; the large one is run by hand: `benchmarks/soak.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def test_after_calls_of_mixed_faults_nothing_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from soak import Soak

    soak = Soak(calls=600, callers=200)

    assert soak.off == []
    assert any(figure.name == "left: slots" for figure in soak.figures)
    seen = soak.seen
    assert seen.kinds.total() == 600
    assert seen.outcomes["answered"] > 300
    assert {"first", "fallback", "hedge", "race"} <= set(seen.roles)
