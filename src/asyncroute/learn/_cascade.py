"""Cascades and votes: several cheap answers that agree in place of one expensive answer.

A cascade is a tuple of models. The first two are asked at once; when their answers agree, that is
the answer. Otherwise the next is asked, until any two agree; with nobody left, the last one's
answer stands. A cascade of one model is that model alone, so that single models and cascades are
choices of one kind. All functions are pure.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating]

__all__ = (
    "expected",
    "hull",
    "propose",
    "replay",
    "same_json",
    "same_number",
    "same_text",
    "vote",
)

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_FENCE = re.compile(r"^```[a-zA-Z]*\n(.*)\n```$", re.DOTALL)


def same_text(one: str, other: str) -> bool:
    """Tell whether two answers say the same up to case, width, space and closing punctuation."""
    return _normal(one) == _normal(other)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .!?\"'`*")


def same_number(one: str, other: str) -> bool:
    """Tell whether the last numbers of two answers are equal to one part in a billion.

    The last number is where a worked answer usually ends. Answers without one never agree.
    """
    first, second = _last_number(one), _last_number(other)
    if first is None or second is None:
        return False
    return abs(first - second) <= 1e-9 * max(abs(first), abs(second))


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def same_json(one: str, other: str) -> bool:
    """Tell whether two answers hold equal JSON values, fenced or not; never when one is invalid."""
    first, second = _parsed(one), _parsed(other)
    return first is not None and first == second


def _parsed(text: str) -> str | None:
    """Return the JSON value in `text` in one canonical spelling (`1` and `true` stay distinct)."""
    bare = text.strip()
    fenced = _FENCE.match(bare)
    try:
        value: Any = json.loads(fenced.group(1) if fenced else bare)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value, sort_keys=True)


def vote(
    answers: Sequence[str], weights: Sequence[float], agree: Callable[[str, str], bool] = same_text
) -> tuple[int, float]:
    """Return the winner of a weighted vote.

    Args:
        answers: One per voter.
        weights: What each vote counts; predicted qualities are good weights.
        agree: Tells whether two answers are the same.

    Returns:
        Index of the best supported answer (the first of its group) and its share of all weight.

    Raises:
        ValueError: When there are no answers, or not one weight for each.

    """
    if not answers or len(answers) != len(weights):
        msg = (
            f"votes need one weight per answer, got {len(answers)} answers, {len(weights)} weights"
        )
        raise ValueError(msg)
    support: dict[int, float] = {}
    for index, weight in enumerate(weights):
        place = next((i for i in support if agree(answers[i], answers[index])), index)
        support[place] = support.get(place, 0.0) + weight
    winner = max(support, key=lambda i: support[i])
    total = sum(weights)
    return winner, support[winner] / total if total > 0 else 0.0


def expected(
    cascade: Sequence[int], quality: Floats, cost: Floats, collusion: float = 0.2
) -> tuple[float, float]:
    """Return expected quality and cost of a cascade from predictions about its models.

    Models are taken to err independently of each other on this one query; what they have in common
    (its difficulty) is already in the predictions.

    Args:
        cascade: Indices of its models.
        quality: Predicted chance to be right, per model.
        cost: Predicted cost, per model.
        collusion: Chance that two wrong answers are the same one.

    Returns:
        Chance that the accepted answer is right, and mean cost in the unit of `cost`.

    """
    first = cascade[0]
    if len(cascade) == 1:
        return float(quality[first]), float(cost[first])
    # open_[right, wrong]: chance of being undecided with that many distinct right (0 or 1) and
    # wrong answers.
    open_ = {(1, 0): float(quality[first]), (0, 1): 1.0 - float(quality[first])}
    won, spent = 0.0, float(cost[first])
    for place, model in enumerate(cascade[1:], 1):
        spent += sum(open_.values()) * float(cost[model])
        chance, last = float(quality[model]), place == len(cascade) - 1
        after: dict[tuple[int, int], float] = {}
        for (right, wrong), mass in open_.items():
            if right or last:
                won += mass * chance
            else:
                after[1, wrong] = after.get((1, wrong), 0.0) + mass * chance
            apart = mass * (1.0 - chance) * (1.0 - collusion) ** wrong
            if not last:
                after[right, wrong + 1] = after.get((right, wrong + 1), 0.0) + apart
        open_ = after
    return won, spent


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


def hull(cost: Floats, quality: Floats) -> NDArray[np.intp]:
    """Return the indices of the points on the upper left, non-decreasing concave hull, by cost."""
    kept: list[int] = []
    for index in np.lexsort((-quality, cost)):
        if kept and quality[index] <= quality[kept[-1]]:
            continue
        while len(kept) > 1 and _below(kept[-2], kept[-1], int(index), cost, quality):
            kept.pop()
        kept.append(int(index))
    return np.array(kept, dtype=np.intp)


def _below(left: int, middle: int, right: int, cost: Floats, quality: Floats) -> bool:
    rise = (quality[middle] - quality[left]) * (cost[right] - cost[left])
    return bool(rise <= (quality[right] - quality[left]) * (cost[middle] - cost[left]))


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
