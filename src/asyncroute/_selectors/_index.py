"""The best of very many endpoints, found without looking at all of them. Exact.

Endpoints of similar prices and lengths of answers lie on one shelf, by the scores of their states.
What the cost of a request adds is for nobody on a shelf more than for the cheapest that could lie
there. So a request looks at each shelf once, and then from the top of the best ones until no other
can reach what was found: branch and bound. Requests of all sizes use the same shelves.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from math import frexp, ldexp
from typing import TypeAlias, final, overload

from asyncroute._endpoint import Eligible, Endpoint, View
from asyncroute._protocols import Ranking

__all__ = ("Index", "IndexedRanking", "Part")

Part: TypeAlias = tuple[float, float, float, float, float, View]
"""What a score needs of an endpoint: the state's score; over the cost scale and success rate the
price of a token in, the usual number of tokens out and the price of a token out. Its load and its
`View` say of which state that is."""

_Entry: TypeAlias = tuple[float, float, int]
"""On a shelf: the state's score, a lot, the place."""

_Least: TypeAlias = tuple[float, float, float]
"""Of all on a shelf, a lower bound of: the price of a token in, the usual tokens out, the price of
a token out, as in a `Part`."""

_MOST_EQUAL = 4
"""Equally good endpoints among which the least loaded is looked for."""

_NO_PRICE = -24
"""The binary exponent of a price that is as good as none."""


@final
class Index:
    """The endpoints of one large eligible set, by their scores under one selector.

    Args:
        eligible: The set.
        weight: The share of the cost in the score.
        part_of: Gives what a score needs of an endpoint.
        rng: Where equals are shuffled.
    """

    __slots__ = (
        "_eligible",
        "_entries",
        "_leasts",
        "_part_of",
        "_parts",
        "_read",
        "_rng",
        "_shelves",
        "_turn",
        "_weight",
    )

    def __init__(
        self,
        eligible: Eligible,
        weight: float,
        part_of: Callable[[Endpoint], Part],
        rng: random.Random,
    ) -> None:
        self._eligible = eligible
        self._weight = weight
        self._part_of = part_of
        self._rng = rng
        self._turn = 0
        self._read = eligible.journal.end
        self._parts = [part_of(endpoint) for endpoint in eligible]
        self._entries: list[_Entry] = [
            (part[0], self._lot(), place) for place, part in enumerate(self._parts)
        ]
        # Each shelf in ascending order: what is best comes last.
        self._leasts = [self._least(part) for part in self._parts]
        self._shelves: dict[_Least, list[_Entry]] = {}
        for least, entry in zip(self._leasts, self._entries, strict=True):
            self._shelves.setdefault(least, []).append(entry)
        for shelf in self._shelves.values():
            shelf.sort()

    def best(
        self, tokens_in: int, longest: float, away: Collection[Endpoint]
    ) -> tuple[list[int], float]:
        """Find the places of the best endpoints, equals of each other, and their score."""
        self._catch_up()
        weight, endpoints, parts = self._weight, self._eligible.endpoints, self._parts
        shelves = [
            (shelf[-1][0] + cheapest, cheapest, shelf)
            for (price_in, usual, price_out), shelf in self._shelves.items()
            for cheapest in (
                weight
                / (
                    1.0 + tokens_in * price_in + (usual if usual < longest else longest) * price_out
                ),
            )
        ]
        shelves.sort(reverse=True)
        equals: list[int] = []
        highest = -1.0
        for bound, cheapest, shelf in shelves:
            if bound < highest:
                break
            for state, _, place in reversed(shelf):
                bound = state + cheapest
                if bound < highest or (bound == highest and len(equals) >= _MOST_EQUAL):
                    break
                if away and endpoints[place] in away:
                    continue
                _, price_in, usual, price_out, _, _ = parts[place]
                # As `SplitSelector.score`, whose calls would take twice as long.
                tokens_out = usual if usual < longest else longest
                score = state + weight / (1.0 + tokens_in * price_in + tokens_out * price_out)
                if score > highest:
                    highest, equals = score, [place]
                elif score == highest:
                    equals.append(place)
        if len(equals) > 1:
            self._lay(equals[0], parts[equals[0]][0])  # next time it is the turn of another
        return equals, highest

    def _lot(self) -> float:
        """Where an endpoint comes among its equals: behind those that wait, for about a round."""
        self._turn += 1
        return -(self._turn + self._rng.random() * len(self._parts))

    def _least(self, part: Part) -> _Least:
        """The shelf of an endpoint, by what all on it have at least."""
        if not self._weight:
            return (0.0, 0.0, 0.0)
        _, price_in, usual, price_out, _, _ = part
        return (_power(price_in, 1), _power(usual, 2), _power(price_out, 1))

    def _catch_up(self) -> None:
        journal, places = self._eligible.journal, self._eligible.places
        changed = journal.since(self._read)
        self._read = journal.end
        for endpoint in self._eligible if changed is None else changed:
            place = places.get(endpoint)
            if place is None:
                continue
            before = self._parts[place]
            if before[5] is endpoint.view and before[4] == endpoint.load:
                continue
            self._parts[place] = part = self._part_of(endpoint)
            if part[1:4] != before[1:4]:
                self._lay(place, part[0], self._least(part))
            elif part[0] != before[0]:
                self._lay(place, part[0])

    def _lay(self, place: int, state: float, least: _Least | None = None) -> None:
        """Lay an endpoint elsewhere: on its shelf, or on the one given."""
        before, entry = self._leasts[place], self._entries[place]
        shelf = self._shelves[before]
        del shelf[bisect_left(shelf, entry)]
        if least is not None and least != before:
            if not shelf:
                del self._shelves[before]
            self._leasts[place] = least
            shelf = self._shelves.setdefault(least, [])
        self._entries[place] = entry = (state, self._lot(), place)
        insort(shelf, entry)


def _power(figure: float, digits: int) -> float:
    """The greatest power of two, or of four for two digits, that a figure is not below."""
    exponent = frexp(figure)[1] - 1
    exponent -= exponent % digits
    return ldexp(1.0, exponent) if figure and exponent > _NO_PRICE else 0.0


@final
class IndexedRanking(Ranking):
    """The ranking of a large set: the best one is known, the others are scored when asked for.

    They are scored as they are then, since keeping all of them would cost more than the decision.

    Args:
        candidates: The set.
        best: The place of the best one.
        score: Its score.
        score_of: Scores an endpoint for the request.
        away: Endpoints that are not to be ranked.
    """

    __slots__ = ("_all_scores", "_away", "_best", "_endpoints", "_score", "_score_of")

    def __init__(
        self,
        candidates: Sequence[Endpoint],
        best: int,
        score: float,
        score_of: Callable[[Endpoint], float],
        away: Collection[Endpoint],
    ) -> None:
        self.candidates = self._endpoints = candidates
        self.plan = self.votes = None
        self.captured = _Views(candidates)
        self._best = best
        self._score = score
        self._score_of = score_of
        self._away = away
        self._all_scores: list[float] | None = None

    @property
    def scores(self) -> Sequence[float]:
        """The candidates' scores, 0 for those away."""
        if self._all_scores is None:
            self._all_scores = [
                0.0 if endpoint in self._away else self._score_of(endpoint)
                for endpoint in self._endpoints
            ]
            self._all_scores[self._best] = self._score
        return self._all_scores

    def order(self) -> Sequence[int]:
        """The candidates' places, the best one first."""
        scores, best = self.scores, self._best
        others = [i for i, e in enumerate(self._endpoints) if i != best and e not in self._away]
        others.sort(key=scores.__getitem__, reverse=True)
        return [best, *others]

    def best(self) -> int:
        """The place of the best candidate."""
        return self._best

    def score_at(self, place: int) -> float:
        """The score at a place; that of the best is at hand."""
        return self._score if place == self._best else self.scores[place]


class _Views(Sequence[tuple[View]]):
    """The endpoints' views, looked up when asked for."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints

    @overload
    def __getitem__(self, index: int, /) -> tuple[View]: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[tuple[View]]: ...
    def __getitem__(self, index: int | slice, /) -> tuple[View] | Sequence[tuple[View]]:
        if isinstance(index, slice):
            return [(endpoint.view,) for endpoint in self._endpoints[index]]
        return (self._endpoints[index].view,)

    def __len__(self) -> int:
        return len(self._endpoints)
