"""The best of very many endpoints, found without looking at all of them. Exact.

For each class of request sizes there is a heap of the best score that each endpoint can have for
any request of the class. The best of those is scored exactly, then the next, until no other can
reach what was found: branch and bound. A changed endpoint gets a new entry, and the old one is
passed over when it comes up.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import TypeAlias, final, overload

from asyncroute._endpoint import Eligible, Endpoint, View
from asyncroute._protocols import Ranking

__all__ = ("Index", "IndexedRanking", "Part", "part_score")

Part: TypeAlias = tuple[float, float, float, float, float, View]
"""What a score needs of an endpoint: the state's score; over the cost scale and success rate the
price of a token in, the usual number of tokens out and the price of a token out. Its load and its
`View` say of which state that is."""

_Entry: TypeAlias = tuple[float, float, int, int]
"""In a heap: the bound negated, a lot, the place, and the stamp that place had."""

_MOST_HEAPS = 8
"""Classes of sizes that are kept, those used last."""

_MOST_EQUAL = 4
"""Equally good endpoints among which the least loaded is looked for."""


def part_score(part: Part, weight: float, tokens_in: float, longest: float) -> float:
    """Score an endpoint for a request of so many tokens in, and at most so many out."""
    state, price_in, usual, price_out, _, _ = part
    tokens_out = usual if usual < longest else longest
    return state + weight / (1.0 + tokens_in * price_in + tokens_out * price_out)


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
        "_heaps",
        "_highest",
        "_part_of",
        "_parts",
        "_read",
        "_rng",
        "_stamps",
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
        self._highest = self._parts.copy()  # what the heaps' bounds are made of
        self._stamps = [0] * len(self._parts)
        self._heaps: OrderedDict[tuple[float, float], list[_Entry]] = OrderedDict()

    def best(
        self, tokens_in: int, longest: float, away: Collection[Endpoint]
    ) -> tuple[list[int], float]:
        """Find the places of the best endpoints, equals of each other, and their score."""
        self._catch_up()
        sizes = (_floor(tokens_in), _floor(longest)) if self._weight else (0.0, 0.0)
        heap = self._heap(sizes)
        endpoints, stamps, parts = self._eligible.endpoints, self._stamps, self._parts
        equals: list[int] = []
        highest = -1.0
        looked_at: list[_Entry] = []
        while heap:
            bound = -heap[0][0]
            if bound < highest or (bound == highest and len(equals) >= _MOST_EQUAL):
                break
            entry = heappop(heap)
            place = entry[2]
            if entry[3] != stamps[place]:
                continue  # it has changed since
            looked_at.append(entry)
            if endpoints[place] in away:
                continue
            score = part_score(parts[place], self._weight, tokens_in, longest)
            if score > highest:
                highest, equals = score, [place]
            elif score == highest:
                equals.append(place)
        for bound, _, place, stamp in looked_at:
            part = parts[place]
            if part is not self._highest[place]:  # the bound may be too high by now
                self._highest[place] = part
                bound = -part_score(part, self._weight, *sizes)
            heappush(heap, (bound, self._lot(), place, stamp))
        return equals, highest

    def _lot(self) -> float:
        """Where an endpoint comes among its equals: behind those that wait, for about a round."""
        self._turn += 1
        return self._turn + self._rng.random() * len(self._parts)

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
            highest = self._highest[place]
            # While it can only have become worse, what the heaps have is still a bound.
            if (
                part[0] > highest[0]
                or part[1] < highest[1]
                or part[2] < highest[2]
                or part[3] < highest[3]
            ):
                self._highest[place] = part
                self._stamps[place] += 1
                self._enter(place, part)

    def _enter(self, place: int, part: Part) -> None:
        stamp, lot = self._stamps[place], self._lot()
        for (tokens_in, longest), heap in self._heaps.items():
            bound = part_score(part, self._weight, tokens_in, longest)
            heappush(heap, (-bound, lot, place, stamp))

    def _heap(self, key: tuple[float, float]) -> list[_Entry]:
        heap = self._heaps.get(key)
        if heap is None or len(heap) > 2 * len(self._parts) + 64:
            heap = self._heaps[key] = [
                (-part_score(self._highest[place], self._weight, *key), self._lot(), place, stamp)
                for place, stamp in enumerate(self._stamps)
            ]
            heapify(heap)
            if len(self._heaps) > _MOST_HEAPS:
                self._heaps.popitem(last=False)
        self._heaps.move_to_end(key)
        return heap


def _floor(size: float) -> float:
    """The least size of a class: those that share the first two binary digits."""
    if size == inf:
        return inf
    whole = int(size)
    shift = max(whole.bit_length() - 2, 0)
    return whole >> shift << shift


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
