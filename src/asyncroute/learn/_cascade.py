"""Cascades: two cheap answers that agree in place of one expensive answer.

A cascade is a tuple of models. The first two are asked at once; when their answers agree, that is
the answer. Otherwise the next is asked, until any two agree; with nobody left, the last one's
answer stands. A cascade of one model is that model alone, so that single models and cascades are
choices of one kind. All functions are pure.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = ("propose", "replay")


def replay(
    cascade: Sequence[int], score: Floats, cost: Floats, answers: Floats
) -> tuple[Floats, Floats]:
    """Return score and cost a cascade would have had on recorded outcomes.

    Args:
        cascade: Column indices of its models.
        score: One row per query, one column per model.
        cost: The same.
        answers: The same: equal numbers in a row are equal answers, nan agrees with nothing.

    Returns:
        Score and cost per row; nan where a model that was needed was not measured.

    """
    if len(cascade) == 1:
        return score[:, cascade[0]], cost[:, cascade[0]]
    open_ = np.ones(len(score), bool)
    gained = score[:, cascade[-1]].copy()
    spent = cost[:, cascade[0]].copy()
    for place, model in enumerate(cascade[1:], 1):
        spent += np.where(open_, cost[:, model], 0.0)
        same = (answers[:, [model]] == answers[:, list(cascade[:place])]).any(axis=1) & open_
        gained[same] = score[same, model]
        open_ &= ~same
    unknown = np.isnan(gained) | np.isnan(spent)
    gained[unknown] = np.nan
    spent[unknown] = np.nan
    return gained, spent


def propose(score: Floats, cost: Floats, answers: Floats, limit: int) -> list[tuple[int, ...]]:
    """Return the cascades of three or four models that did best on recorded outcomes.

    Best is nearest to (or above) the cost-quality front of all single models and cascades. Models
    far below the best one, and cascades at more than twice its cost, are not looked at; a pair is
    asked in order of cost, and who comes later is not cheaper.

    Args:
        score: One row per query, one column per model.
        cost: The same.
        answers: The same, see `replay`.
        limit: How many at most.

    """
    measured = ~(np.isnan(score) | np.isnan(cost)).any(axis=1) & ~np.isnan(answers).all(axis=1)
    if limit < 1 or measured.sum() < 30:
        return []
    score, cost, answers = score[measured], cost[measured], answers[measured]
    singles = [(model,) for model in range(score.shape[1])]
    everything = singles + _candidates(score.mean(axis=0), cost.mean(axis=0))
    means = np.array(
        [[part.mean() for part in replay(c, score, cost, answers)] for c in everything]
    )
    order = np.argsort(means[:, 1], kind="stable")
    front = np.maximum.accumulate(means[order, 0])
    gap = np.empty(len(order))
    gap[order] = front - means[order, 0]
    ceiling = 2 * means[means[: len(singles), 0].argmax(), 1]
    ranked = [int(i) for i in np.argsort(gap, kind="stable") if means[i, 1] < ceiling]
    return [everything[i] for i in ranked if i >= len(singles)][:limit]


def _candidates(quality: Floats, cost: Floats) -> list[tuple[int, ...]]:
    """Return all cascades worth replaying, from mean quality and cost per model."""
    best = int(quality.argmax())
    useful = [
        int(model)
        for model in np.argsort(cost, kind="stable")
        if cost[model] <= 1.6 * cost[best] and quality[model] >= quality[best] - 0.3
    ]
    found: list[tuple[int, ...]] = []
    for pair in itertools.combinations(useful, 2):
        if cost[list(pair)].sum() > cost[best]:
            continue
        later = [
            model
            for model in useful
            if cost[model] >= cost[pair[1]]
            and quality[model] > quality[best] - 0.1
            and model not in pair
        ]
        found += [(*pair, model) for model in later]
        found += [
            (*pair, third, last)
            for third, last in itertools.permutations(later, 2)
            if cost[last] >= cost[third] and quality[last] > quality[best] - 0.03
        ]
    return found
