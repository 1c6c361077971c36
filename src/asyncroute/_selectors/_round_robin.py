"""Round robin: weighted, and evenly spaced."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import cast, final

from asyncroute._endpoint import Eligible, Endpoint, Remaining
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Candidate, Ranking
from asyncroute._selectors._index import IndexedRanking

__all__ = ("RoundRobinSelector",)


@final
class RoundRobinSelector:
    """Each model in turn, in proportion to its weight, evenly spaced.

    Stride scheduling (Waldspurger and Weihl, 1995): each model is due at an instant of a time that
    only turns move. Who is due first goes first, and is due again after a stride of one over its
    weight. Who has been away is due at once, and no more than once: nothing is made up for.

    Turns are kept by model id, so models may come and go while calls run: nobody is skipped or
    goes twice for it. Models of weight 0 are left out.
    """

    never_suspends = True
    """So that no deadline need be set for it."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._time = 0.0

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by who is due; the turn advances."""
        if isinstance(candidates, Remaining):
            return self._select_of_many(candidates.eligible, candidates.left_out)
        if isinstance(candidates, Eligible) and candidates.is_large:
            return self._select_of_many(candidates, ())
        in_turn = [candidate for candidate in candidates if candidate.config.weight > 0]
        due = self._all_due(in_turn)
        in_turn.sort(key=lambda candidate: due[candidate.config.model_id])
        if in_turn:
            self._advance(in_turn[0])
        return Ranking.in_order(in_turn)

    def _all_due(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """When each is due. New ones take their places within the first stride as they stand."""
        due, count = self._due, len(candidates)
        if len(due) > 4 * count + 64:
            known = {candidate.config.model_id for candidate in candidates}
            self._due = due = {model: at for model, at in due.items() if model in known}
        for place, candidate in enumerate(candidates):
            config = candidate.config
            if config.model_id not in due:
                due[config.model_id] = self._time + place / count / config.weight
        return due

    def _advance(self, candidate: Candidate) -> float:
        """Take a model's turn; return when it is due again."""
        config = candidate.config
        self._time = time = max(self._time, self._due[config.model_id])
        self._due[config.model_id] = again = time + 1.0 / config.weight
        return again

    # Among many

    def _select_of_many(self, eligible: Eligible, away: Collection[Endpoint]) -> Ranking:
        endpoints, due = eligible.endpoints, self._due
        heap = cast("list[tuple[float, int]] | None", eligible.indexes.get(self))
        if heap is None:
            due = self._all_due(endpoints)
            heap = [(due[e.config.model_id], place) for place, e in enumerate(endpoints)]
            heapify(heap)
            eligible.keep_index(self, heap)
        passed_over: list[tuple[float, int]] = []
        while True:
            at, place = heap[0]
            endpoint = endpoints[place]
            due_at = due.get(endpoint.config.model_id, at)
            if at < due_at:  # it had a turn among others
                heapreplace(heap, (due_at, place))
            elif endpoint in away:
                passed_over.append(heappop(heap))
            else:
                break
        self._due[endpoint.config.model_id] = at
        heapreplace(heap, (self._advance(endpoint), place))
        for entry in passed_over:
            heappush(heap, entry)
        return IndexedRanking(endpoints, place, 1.0, self._nearness, away)

    def _nearness(self, endpoint: Endpoint) -> float:
        """Score one that is not due yet: the sooner it is, the higher."""
        due = self._due.get(endpoint.config.model_id, self._time)
        return 1.0 / (2.0 + max(0.0, due - self._time))
