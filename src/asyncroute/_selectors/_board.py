"""The best of a few endpoints, looked at from the top until no other can be better. Exact."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import final

from asyncroute._endpoint import Eligible, Endpoint
from asyncroute._estimate import input_tokens
from asyncroute._inputs import QueryRequest
from asyncroute._protocols import Ranking
from asyncroute._selectors._index import Part, scores_of

__all__ = ("Board", "BoardRanking")

_ROUNDING = 1e-12
"""So that what rounding takes from a bound leaves nobody out."""


@final
class Board:
    """The endpoints of one small eligible set, by the best score each can have under one selector.

    What a request's cost adds to the score of an endpoint's state is at most the cost's weight. So
    most of them need not be scored at all, and what did not change stays where it was.

    Args:
        eligible: The set.
        weight: The share of the cost in the score.
        part_of: Gives what a score needs of an endpoint.
    """

    __slots__ = ("_eligible", "_journal", "_part_of", "_parts", "_read", "_states", "_weight")

    def __init__(
        self, eligible: Eligible, weight: float, part_of: Callable[[Endpoint], Part]
    ) -> None:
        self._eligible = eligible
        self._journal = eligible.journal
        self._weight = weight
        self._part_of = part_of
        self._read = self._journal.end
        self._parts = [part_of(endpoint) for endpoint in eligible.endpoints]
        # The scores of their states with their places, in ascending order.
        self._states = sorted((part[0], place) for place, part in enumerate(self._parts))

    def best(
        self, tokens_in: int, longest: float, away: Collection[Endpoint]
    ) -> tuple[list[Part], int, float, list[int]]:
        """Find the best endpoint for a request of so many tokens in, and at most so many out.

        Those that are away are passed over; one must not be.

        Returns:
            What was scored of each, not to be changed; the place of the best, its score, and the
            places of others that are as good.
        """
        if self._read != self._journal.end:
            self._catch_up()
        parts, weight, endpoints = self._parts, self._weight, self._eligible.endpoints
        best, highest, limit = 0, -1.0, -1.0
        equals: list[int] = []
        for state, place in reversed(self._states):
            if state < limit:
                break
            if away and endpoints[place] in away:
                continue
            _, price_in, usual, price_out, _, _ = parts[place]
            # As `SplitSelector.score`, whose calls would take twice as long.
            tokens_out = usual if usual < longest else longest
            score = state + weight / (1.0 + tokens_in * price_in + tokens_out * price_out)
            if score > highest:
                best, highest, limit = place, score, score - weight - _ROUNDING
                equals.clear()
            elif score == highest:
                equals.append(place)
        return parts, best, highest, equals

    def _catch_up(self) -> None:
        journal, places, endpoints = self._journal, self._eligible.places, self._eligible.endpoints
        changed = journal.since(self._read, len(endpoints))
        self._read = journal.end
        for endpoint in endpoints if changed is None else changed:
            place = places.get(endpoint)
            if place is None:
                continue
            before = self._parts[place]
            # A request that came and went leaves the model as it was.
            if before[5] is not endpoint.view or before[4] != endpoint.load:
                self._enter(place, before[0], self._part_of(endpoint))

    def _enter(self, place: int, state: float, part: Part) -> None:
        parts = self._parts = self._parts.copy()  # decisions keep what they were made from
        parts[place] = part
        if part[0] != state:
            states = self._states
            del states[bisect_left(states, (state, place))]
            insort(states, (part[0], place))


@final
class BoardRanking(Ranking):
    """The ranking of a small set: the best one is known, the others are scored when asked for.

    They are scored from what was kept when deciding.

    Args:
        request: The request.
        candidates: The set.
        captured: What was kept of each.
        best: The place of the best one.
        score: Its score.
        weight: The share of the cost in the score.
        away: Endpoints that are not to be ranked.
    """

    __slots__ = (
        "_away",
        "_best",
        "_request",
        "_score",
        "_scores",
        "_weight",
    )

    def __init__(
        self,
        request: QueryRequest,
        candidates: Sequence[Endpoint],
        captured: Sequence[Part],
        best: int,
        score: float,
        weight: float,
        away: Collection[Endpoint],
    ) -> None:
        self.candidates = candidates
        self.captured = captured
        self.plan = self.votes = self._order = None
        self._scores: list[float] | None = None
        self._request = request
        self._best = best
        self._score = score
        self._weight = weight
        self._away = away

    @property
    def scores(self) -> Sequence[float]:
        """The candidates' scores."""
        if self._scores is None:
            n, m = input_tokens(self._request), self._request.max_tokens or inf
            assert self.captured is not None
            self._scores = scores_of(self.captured, self._weight, n, m)
        return self._scores

    def order(self) -> Sequence[int]:
        """The candidates' places, the best one first: of equals it was chosen by load and lot."""
        if self._order is None:
            scores, best = self.scores, self._best
            order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
            if order[0] != best:
                order.remove(best)
                order.insert(0, best)
            if self._away:
                order = [place for place in order if self.candidates[place] not in self._away]
            self._order = order
        return self._order

    def best(self) -> int:
        """The place of the best candidate."""
        return self._best

    def score_at(self, place: int) -> float:
        """The score at a place; that of the best is at hand."""
        return self._score if place == self._best else self.scores[place]
