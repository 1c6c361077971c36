"""The best of very many endpoints, found without looking at all of them. Exact.

Endpoints of similar prices and lengths of answers lie on one shelf, by the scores of their states.
What the cost of a request adds is for nobody on a shelf more than it would be for one that had the
least of everything on it. So a request looks at each shelf once, and then from the top of the best
ones until no other can reach what was found: branch and bound. Requests of all sizes use the same
shelves. At worst it takes as long as the best shelf is.

Equals take turns by their weights: stride scheduling (Waldspurger and Weihl, 1995).
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from math import frexp, inf
from operator import itemgetter
from typing import TypeAlias, final, overload

from asyncroute._endpoint import Eligible, Endpoint, View
from asyncroute._protocols import Ranking

__all__ = ("Index", "IndexedRanking", "Part", "scores_of", "strides_of")

Part: TypeAlias = tuple[float, float, float, float, float, View]
"""What a score needs of an endpoint: the state's score; over the cost scale and success rate the
price of a token in, the usual number of tokens out and the price of a token out. Its load and its
`View` say of which state that is."""

_Entry: TypeAlias = tuple[float, float, float, float, int]
"""On a shelf, the best last: the state's score, the price of a token in negated (0 where the cost
does not count), the load negated, when it is due negated, the place."""

_Kind: TypeAlias = tuple[int, int, int]
"""What those on a shelf share: the binary exponents of a token's price in, of a quarter of the
usual tokens out, and of a token's price out."""

_ANY: _Kind = (0, 0, 0)
"""Where the cost does not count."""

_MOST_EQUAL = 4
"""Equally good endpoints that are looked at: of those with the same state and prices the least
loaded come first, and of those who is due. Others are equal by accident."""

_LEAST_SHARE = 1e-6
"""Of the largest weight: a smaller one counts as this."""


@final
class _Shelf:
    """Endpoints of similar prices.

    Attributes:
        entries: In ascending order.
        price_in: No price of a token in is lower.
        usual: No usual number of tokens out is lower.
        price_out: No price of a token out is lower.
    """

    __slots__ = ("entries", "price_in", "price_out", "usual")

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.price_in = self.usual = self.price_out = inf

    def hold(self, entry: _Entry, part: Part) -> None:
        """Lay an entry in its place."""
        insort(self.entries, entry)
        _, price_in, usual, price_out, _, _ = part
        self.price_in = min(self.price_in, price_in)
        self.usual = min(self.usual, usual)
        self.price_out = min(self.price_out, price_out)

    def drop(self, entry: _Entry) -> None:
        """Take an entry away. The bounds stay: they are bounds all the same."""
        del self.entries[bisect_left(self.entries, entry)]


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
        "_due",
        "_eligible",
        "_entries",
        "_part_of",
        "_parts",
        "_read",
        "_shelves",
        "_strides",
        "_times",
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
        self._strides = strides_of(eligible.endpoints)
        self._due = [rng.random() * stride for stride in self._strides]
        self._times: dict[_Kind, float] = {}  # the turns of each shelf go on by themselves
        self._read = eligible.journal.end
        self._parts = [part_of(endpoint) for endpoint in eligible]
        self._entries: list[tuple[_Kind, _Entry]] = []
        self._shelves: dict[_Kind, _Shelf] = {}
        for place, part in enumerate(self._parts):
            self._entries.append(self._laid(place, part))

    def best(self, tokens_in: int, longest: float, away: Collection[Endpoint]) -> tuple[int, float]:
        """Find the best endpoint: its place, and its score. Among equals its turn is taken."""
        self._catch_up()
        weight = self._weight
        shelves = [
            (shelf.entries[-1][0] + weight / (1.0 + tokens_in * shelf.price_in + rest), rest, shelf)
            for shelf in self._shelves.values()
            for rest in ((shelf.usual if shelf.usual < longest else longest) * shelf.price_out,)
        ]
        shelves.sort(key=itemgetter(0), reverse=True)
        equals: list[int] = []
        highest = -1.0
        for bound, rest, shelf in shelves:
            if bound < highest:
                break
            sizes = (tokens_in, longest, rest)
            equals, highest = self._best_on(shelf, sizes, away, equals, highest)
        return (equals[0] if len(equals) == 1 else self._turn_of(equals)), highest

    def scores(self, tokens_in: int, longest: float) -> list[float]:
        """Score all endpoints, as they were when the best was last looked for."""
        return scores_of(self._parts, self._weight, tokens_in, longest)

    def _turn_of(self, equals: Sequence[int]) -> int:
        """Choose the least loaded of equals, of those the one that is due first."""
        parts, due = self._parts, self._due
        place = min(equals, key=lambda each: (parts[each][4], due[each]))
        # One that was not asked for long has a turn at once, and no more to make up for.
        kind = self._entries[place][0]
        first = min(due[each] for each in equals)
        self._times[kind] = now = max(self._times.get(kind, 0.0), first)
        due[place] = max(now, due[place]) + self._strides[place]
        self._lay(place, parts[place])
        return place

    def _best_on(
        self,
        shelf: _Shelf,
        sizes: tuple[int, float, float],
        away: Collection[Endpoint],
        equals: list[int],
        highest: float,
    ) -> tuple[list[int], float]:
        tokens_in, longest, rest = sizes
        entries, weight = shelf.entries, self._weight
        endpoints, parts = self._eligible.endpoints, self._parts
        cheapest = weight / (1.0 + tokens_in * shelf.price_in + rest)
        i = len(entries)
        while i:
            i -= 1
            state, price_in, _, _, place = entries[i]
            if state + cheapest < highest:
                break
            bound = state + weight / (1.0 - tokens_in * price_in + rest)
            if bound < highest or (bound == highest and len(equals) >= _MOST_EQUAL):
                i = bisect_left(entries, (state,), 0, i)  # nor can those of the same state
                continue
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
        return equals, highest

    def _catch_up(self) -> None:
        journal, places, parts = self._eligible.journal, self._eligible.places, self._parts
        changed = journal.since(self._read, len(parts))
        self._read = journal.end
        for endpoint in self._eligible.endpoints if changed is None else changed:
            place = places.get(endpoint)
            if place is None:
                continue
            before = parts[place]
            if before[5] is not endpoint.view or before[4] != endpoint.load:
                parts[place] = part = self._part_of(endpoint)
                self._lay(place, part)

    def _lay(self, place: int, part: Part) -> None:
        """Take an endpoint from its shelf, and lay it where it belongs now."""
        kind, entry = self._entries[place]
        shelf = self._shelves[kind]
        shelf.drop(entry)
        if not shelf.entries:
            del self._shelves[kind]
        self._entries[place] = self._laid(place, part)

    def _laid(self, place: int, part: Part) -> tuple[_Kind, _Entry]:
        state, price_in, _, _, load, _ = part
        if self._weight:
            kind = _kind_of(part)
        else:
            kind, price_in = _ANY, 0.0
        entry = (state, -price_in, -load, -self._due[place], place)
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = _Shelf()
        shelf.hold(entry, part)
        return kind, entry


def scores_of(parts: Sequence[Part], weight: float, tokens_in: int, longest: float) -> list[float]:
    """Score all for a request of so many tokens in, and at most so many out."""
    return [
        state
        + weight
        / (1.0 + tokens_in * price_in + (usual if usual < longest else longest) * price_out)
        for state, price_in, usual, price_out, _, _ in parts
    ]


def strides_of(endpoints: Sequence[Endpoint]) -> list[float]:
    """Return how long it is from one turn of an endpoint to its next: one over its weight."""
    weights = [endpoint.config.weight for endpoint in endpoints]
    least = _LEAST_SHARE * max(weights)
    return [1.0 / max(weight, least) for weight in weights]


def _kind_of(part: Part) -> _Kind:
    _, price_in, usual, price_out, _, _ = part
    if not price_out:
        usual = 0.0  # then it makes no difference
    return frexp(price_in)[1], frexp(usual)[1] // 2, frexp(price_out)[1]


@final
class IndexedRanking(Ranking):
    """The ranking of a large set: the best one is known, the others are scored when asked for.

    They are scored as they are then, since keeping all of them would cost more than the decision.
    Those that are away have scores too, but no rank.

    Args:
        candidates: The set.
        best: The place of the best one.
        score: Its score.
        all_scores: Gives the scores of all.
        away: Endpoints that are not to be ranked.
    """

    __slots__ = ("_all_scores", "_away", "_best", "_endpoints", "_score", "_scores")

    def __init__(
        self,
        candidates: Sequence[Endpoint],
        best: int,
        score: float,
        all_scores: Callable[[], list[float]],
        away: Collection[Endpoint],
    ) -> None:
        self.candidates = self._endpoints = candidates
        self.plan = self.votes = None
        self.captured = _Views(candidates)
        self._best = best
        self._score = score
        self._all_scores = all_scores
        self._away = away
        self._scores: list[float] | None = None

    @property
    def scores(self) -> Sequence[float]:
        """The candidates' scores."""
        if self._scores is None:
            self._scores = self._all_scores()
            self._scores[self._best] = self._score
        return self._scores

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
