from __future__ import annotations

import pytest

from asyncroute.learn._exploration import ExplorationCap


def test_exploration_stays_within_both_shares() -> None:
    cap, explored = ExplorationCap(0.1, 0.05), 0
    for _ in range(5000):
        explored += cap.try_spend(1.0, 1.0)
    assert 0.8 * 0.05 * 5000 <= explored <= 0.06 * 5000


def test_what_saves_is_capped_by_its_share_of_the_queries_alone() -> None:
    cap = ExplorationCap(0.1, 0.0)
    assert 450 <= sum(cap.try_spend(1.0, -0.5) for _ in range(5000)) <= 500


def test_nothing_is_explored_with_a_share_of_zero() -> None:
    cap = ExplorationCap(0.0, 1.0)
    cap.count(100.0)
    assert not cap.try_spend(1.0, 0.0)


def test_a_share_is_checked() -> None:
    with pytest.raises(ValueError, match="explore_cost must be from 0 to 1, got 2"):
        ExplorationCap(0.1, 2.0)
