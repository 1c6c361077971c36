"""Round robin: smooth and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Candidate, Ranking

__all__ = ("RoundRobinSelector",)


@final
class RoundRobinSelector:
    """Each model in turn, in proportion to its weight, evenly spaced.

    Smooth weighted round robin, as nginx does it: each turn adds every candidate's weight to its
    credit, the one with most credit goes first and pays the sum of the weights. Turns are kept by
    model id, so models may come and go while calls run: nobody is skipped or goes twice for it.
    Models of weight 0 are left out.
    """

    never_suspends = True
    """So that no deadline need be set for it."""

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        """Rank by credit; the turn advances."""
        in_turn = [candidate for candidate in candidates if candidate.config.weight > 0]
        credit = self._credit
        total = 0.0
        for candidate in in_turn:
            config = candidate.config
            total += config.weight
            credit[config.model_id] = credit.get(config.model_id, 0.0) + config.weight
        in_turn.sort(key=lambda candidate: credit[candidate.config.model_id], reverse=True)
        if in_turn:
            credit[in_turn[0].config.model_id] -= total
        if len(credit) > 4 * len(in_turn) + 64:
            self._forget_all_but(in_turn)
        return Ranking.in_order(in_turn)

    def _forget_all_but(self, candidates: Sequence[Candidate]) -> None:
        known = {candidate.config.model_id for candidate in candidates}
        self._credit = {model: c for model, c in self._credit.items() if model in known}
