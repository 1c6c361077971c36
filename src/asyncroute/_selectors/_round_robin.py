"""Round robin: weighted, and evenly spaced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import final

from asyncroute._endpoint import Eligible, Endpoint, Remaining
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Candidate, Ranking
from asyncroute._selectors._index import IndexedRanking, Views, strides_of

__all__ = ("RoundRobinSelector",)

_MOST_REMEMBERED = 4096
"""Models whose turns are remembered."""


@final
class RoundRobinSelector:
    """Each model in turn, in proportion to its weight, evenly spaced.

    Smooth weighted round robin, as nginx does it: each turn adds every candidate's weight to its
    credit, the one with most credit goes first and pays the sum of the weights. Turns are kept by
    model id, so models may come and go while calls run: nobody is skipped or goes twice for it.
    Models of weight 0 are left out.

    Among more than 32 models that would take long. There, each kind of request has turns of its
    own, by stride scheduling (Waldspurger and Weihl, 1995): the one that is due first goes first,
    and is due again after a stride of one over its weight.
    """

    never_suspends = True
    """So that no deadline need be set for it."""

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}
        self._turns_among_many = 0

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by whose turn it is; the turn advances."""
        if type(candidates) is Remaining and candidates.eligible.is_large:
            return self._select_of_many(candidates.eligible, candidates.left_out)
        if type(candidates) is Eligible and candidates.is_large:
            return self._select_of_many(candidates, ())
        in_turn = [candidate for candidate in candidates if candidate.config.weight > 0]
        if len(self._credit) > _MOST_REMEMBERED:
            self._forget_all_but(in_turn)
        credit = self._credit
        total = 0.0
        for candidate in in_turn:
            config = candidate.config
            total += config.weight
            credit[config.model_id] = credit.get(config.model_id, 0.0) + config.weight
        in_turn.sort(key=lambda candidate: credit[candidate.config.model_id], reverse=True)
        if in_turn:
            credit[in_turn[0].config.model_id] -= total
        return Ranking.in_order(in_turn)

    def _forget_all_but(self, candidates: Sequence[Candidate]) -> None:
        known = {candidate.config.model_id for candidate in candidates}
        self._credit = {model: c for model, c in self._credit.items() if model in known}

    def _select_of_many(self, eligible: Eligible, away: Collection[Endpoint]) -> Ranking:
        turns = eligible.indexes.get(self)
        if turns is None:
            # Kinds of requests begin at different models, or all would begin with the first.
            turns = _Turns(eligible.endpoints, self._turns_among_many)
            eligible.keep_index(self, turns)
        self._turns_among_many += 1
        place = turns.take(away)
        return IndexedRanking(turns.views, place, 1.0, turns.scores, away)


@final
class _Turns:
    """Turns of many endpoints.

    Args:
        endpoints: The endpoints.
        start: Which of them is the first, counted round.
    """

    __slots__ = ("_due", "_endpoints", "_heap", "_strides", "_time", "views")

    def __init__(self, endpoints: Sequence[Endpoint], start: int) -> None:
        count = len(endpoints)
        self.views = Views(endpoints)
        self._endpoints = endpoints
        self._strides = strides_of(endpoints)
        self._time = 0.0
        self._due = [
            (place - start) % count / count * stride for place, stride in enumerate(self._strides)
        ]
        self._heap = [(due, place) for place, due in enumerate(self._due)]
        heapify(self._heap)

    def take(self, away: Collection[Endpoint]) -> int:
        """Take the turn of the one that is due first; return its place.

        The turns of those that are away pass, and are not made up for. One must not be away.
        """
        heap, passed = self._heap, list[int]()
        while away and self._endpoints[heap[0][1]] in away:
            passed.append(heappop(heap)[1])
        self._time, place = heap[0]
        self._due[place] = again = self._time + self._strides[place]
        heapreplace(heap, (again, place))
        for each in passed:
            self._due[each] = again = self._time + self._strides[each]
            heappush(heap, (again, each))
        return place

    def scores(self) -> list[float]:
        """Score all endpoints, from 0 to 1: the sooner one is due, the higher."""
        return [1.0 / (2.0 + due - self._time) for due in self._due]
