"""Selectors that give each candidate a score: the public one, and the one behind the built-ins."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import partial
from math import inf
from typing import final

from asyncroute._arguments import check_kind
from asyncroute._endpoint import Eligible, Endpoint, Remaining
from asyncroute._estimate import input_tokens
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Candidate, Ranking
from asyncroute._selectors._board import Board, BoardRanking
from asyncroute._selectors._index import Index, IndexedRanking, Part

__all__ = ("ScoredSelector", "SplitSelector", "cost_score", "ranked")

_NOBODY: Collection[Endpoint] = ()

COST_SCALE = 0.01
"""Dollars a request that score 0.5 for cost."""


def cost_score(cost: float) -> float:
    """Score a cost in dollars on an absolute scale: 1 for nothing, 0.5 for a cent."""
    return COST_SCALE / (COST_SCALE + cost)


def ranked(candidates: Sequence[Candidate], scores: Sequence[float], rng: random.Random) -> Ranking:
    """Rank by score; among equal best ones the least loaded comes first, then one by lot.

    So a burst over equal models spreads, and no place in the configuration is preferred.
    """
    best = max(scores)
    if scores.count(best) == 1:
        return Ranking(candidates, scores)
    first = drawn(candidates, [i for i, score in enumerate(scores) if score == best], rng)
    order = [first, *(i for i in range(len(scores)) if i != first)]
    return Ranking([candidates[i] for i in order], [scores[i] for i in order])


def drawn(candidates: Sequence[Candidate], equal: Sequence[int], rng: random.Random) -> int:
    """Choose a place among equally good ones: the least loaded, else by lot and weight."""
    loads = [candidates[i].load for i in equal]
    least = min(loads)
    lots = [i for i, load in zip(equal, loads, strict=True) if load == least]
    weights = [candidates[i].config.weight for i in lots]
    if weights.count(weights[0]) == len(weights):  # a tenth of the time of `choices`
        return lots[int(rng.random() * len(lots))]
    return rng.choices(lots, weights)[0]


class ScoredSelector(ABC):
    """A selector that scores each candidate by itself. Subclass it and write `score`.

    Args:
        rng: Where ties are decided; of its own by default.
    """

    _rng = random.Random()  # of those whose own `__init__` forgot this one

    def __init__(self, *, rng: random.Random | None = None) -> None:
        check_kind("rng", rng, random.Random)
        self._rng = rng or random.Random()

    @abstractmethod
    def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
        """Score one candidate for this request, from 0 to 1; more is better.

        Called anew for every candidate of every request, so keep it short. It must not suspend.
        """

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by score; equals by load, then by lot. A single candidate is not scored.

        Raises:
            ValueError: A score is not a number from 0 to 1.
        """
        if len(candidates) == 1:
            return Ranking(candidates, (1.0,))
        scores = [self.score(request, candidate) for candidate in candidates]
        for candidate, score in zip(candidates, scores, strict=True):
            if not isinstance(score, (int, float)) or not 0 <= score <= 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ValueError(
                    f"{type(self).__name__} scored {candidate.config.model_id} {score!r}:"
                    " a score must be a number from 0 to 1"
                )
        return ranked(candidates, scores, self._rng)


class SplitSelector(ScoredSelector):
    """A selector whose score is a part of the model's state plus a weighted score of the cost.

    Both are on absolute scales, so that the part of the state can be kept from request to request:
    until something about the endpoint changes.
    """

    never_suspends = True
    """So that no deadline need be set for it."""

    cost_weight: float = 0.0
    """The share of the cost in the score."""

    @abstractmethod
    def state_score(self, candidate: Candidate, /) -> float:
        """Score what does not depend on the request, from 0 to 1 - `cost_weight`."""

    @final
    def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
        """Score the state, and the expected cost over the success rate.

        Over the success rate, because what fails is paid for again elsewhere.
        """
        score = self.state_score(candidate)
        if self.cost_weight:
            cost = candidate.expected_cost(request) / candidate.success_rate
            score += self.cost_weight * cost_score(cost)
        return score

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by score; equals by load, then by lot, or among many by turns."""
        if type(candidates) is Eligible:
            eligible, away = candidates, _NOBODY
        elif type(candidates) is Remaining:
            eligible, away = candidates.eligible, candidates.left_out
            if len(candidates) == 1:
                return Ranking((candidates[0],), (1.0,))
        else:
            return await super().select(request, candidates)
        if eligible.is_large:
            return self._select_of_many(request, eligible, away)
        endpoints = eligible.endpoints
        if len(endpoints) == 1:
            return Ranking(endpoints, (1.0,))
        board = eligible.indexes.get(self)
        if board is None:
            board = Board(eligible, self.cost_weight, self._part)
            eligible.keep_index(self, board)
        n, m = input_tokens(request), request.max_tokens or inf
        parts, place, score, equals = board.best(n, m, away)
        if equals:
            place = drawn(endpoints, [place, *equals], self._rng)
        return BoardRanking(request, endpoints, parts, place, score, self.cost_weight, away)

    def _select_of_many(
        self, request: QueryRequest, eligible: Eligible, away: Collection[Endpoint]
    ) -> Ranking:
        index = eligible.indexes.get(self)
        if index is None:
            index = Index(eligible, self.cost_weight, self._part, self._rng)
            eligible.keep_index(self, index)
        n, m = input_tokens(request), request.max_tokens or inf
        place, score = index.best(n, m, away)
        return IndexedRanking(index.views, place, score, partial(index.scores, n, m), away)

    def _part(self, endpoint: Endpoint) -> Part:
        if not self.cost_weight:
            return (self.state_score(endpoint), 0.0, 0.0, 0.0, endpoint.load, endpoint.view)
        scale = 1.0 / (COST_SCALE * endpoint.success_rate)
        return (
            self.state_score(endpoint),
            endpoint.input_price * scale,
            endpoint.usual_output,
            endpoint.output_price * scale,
            endpoint.load,
            endpoint.view,
        )
