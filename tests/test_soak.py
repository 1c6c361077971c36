"""A small soak; the large one is run by hand: `benchmarks/soak.py`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", [1, 2])
def test_after_two_thousand_calls_of_mixed_faults_nothing_is_left_over(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from soak import soak

    report = soak(calls=2000, callers=300, seed=seed)

    assert report.off == []
    seen = report.seen
    assert seen.outcomes["answered"] > 1000
    assert min(seen.kinds.values()) > 20
    assert min(seen.roles[role] for role in ("first", "fallback", "retry", "hedge", "race")) > 10
