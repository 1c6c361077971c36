"""The best of very many endpoints, found without looking at all of them. Exact.

Endpoints of similar prices and lengths of answers lie on one shelf, by the scores of their states.
What the cost of a request adds is for nobody on a shelf more than it would be for one that had the
least of everything on it. So a request looks at each shelf once, and then from the top of the best
ones until no other can reach what was found: branch and bound. Requests of all sizes use the same
shelves. At worst it takes as long as the best shelf is.

A place on a shelf is a bound, too: one that has become worse stays there until it is looked at. So
calls that come and go move hardly anything.

Equals take turns by their weights: stride scheduling (Waldspurger and Weihl, 1995), in which the
time is when the one was due whose turn it was last (start-time fair queueing, Goyal et al., 1996).
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Sequence
from math import frexp, inf
from typing import TypeAlias, final, overload

from asyncroute._endpoint import Eligible, Endpoint, View
from asyncroute._protocols import Ranking

__all__ = ("Index", "IndexedRanking", "Part", "Views", "scores_of", "strides_of")

Part: TypeAlias = tuple[float, float, float, float, float, View]
"""What a score needs of an endpoint: the state's score; over the cost scale and success rate the
price of a token in, the usual number of tokens out and the price of a token out. Its load and its
`View` say of which state that is."""

_Entry: TypeAlias = tuple[float, float, float, float, int]
"""On a shelf, the best last: the state's score, the price of a token in negated, the load negated,
when it is due negated, the place."""

_Kind: TypeAlias = tuple[int, int, int]
"""What those on a shelf share to within a factor of four: price of a token in, usual tokens out,
price of a token out. Narrower shelves would be more to look at than they save."""

_Found: TypeAlias = tuple[float, int, bool]
"""The highest score so far, whose it is, and whether others are as good."""

_NOTHING_FOUND: _Found = (-1.0, -1, False)

_LOOKED_INTO = -2.0
"""Instead of the bound of a shelf: lower than any score."""

_LEAST_SHARE = 1e-6
"""Of the largest weight: a smaller one counts as this."""


@final
class _Shelf:
    """Endpoints of similar prices.

    Attributes:
        kind: What they share.
        entries: In ascending order.
        top: The state's score of the last of them.
        price_in: No price of a token in is lower.
        usual: No usual number of tokens out is lower.
        price_out: No price of a token out is lower.
        time: When its endpoints are due is counted from here on.
    """

    __slots__ = ("entries", "kind", "price_in", "price_out", "time", "top", "usual")

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.entries: list[_Entry] = []
        self.top = self.time = 0.0
        self.price_in = self.usual = self.price_out = inf

    def hold(self, entry: _Entry) -> None:
        """Lay an entry in its place."""
        insort(self.entries, entry)
        self.top = self.entries[-1][0]

    def include(self, part: Part) -> None:
        """Keep the bounds at or below the prices of one more endpoint."""
        _, price_in, usual, price_out, _, _ = part
        if price_in < self.price_in:
            self.price_in = price_in
        if usual < self.usual:
            self.usual = usual
        if price_out < self.price_out:
            self.price_out = price_out

    def drop(self, entry: _Entry) -> None:
        """Take an entry away. The bounds stay: they are bounds all the same."""
        entries = self.entries
        if entries[-1] is entry:
            entries.pop()
        else:
            del entries[bisect_left(entries, entry)]
        if entries:
            self.top = entries[-1][0]

    def may_keep(self, entry: _Entry, part: Part) -> bool:
        """Whether an endpoint may stay where it lies: nothing has become better since."""
        return (
            part[0] <= entry[0]
            and -part[1] <= entry[1]
            and -part[4] <= entry[2]
            and part[2] >= self.usual
            and part[3] >= self.price_out
        )


@final
class Index:
    """The endpoints of one large eligible set, by their scores under one selector.

    Args:
        eligible: The set.
        weight: The share of the cost in the score.
        part_of: Gives what a score needs of an endpoint; no prices where the cost does not count.
        rng: Where equals are shuffled.

    Attributes:
        views: The endpoints' views.
    """

    __slots__ = (
        "_due",
        "_eligible",
        "_is_outdated",
        "_laid",
        "_part_of",
        "_parts",
        "_read",
        "_row",
        "_shelves",
        "_strides",
        "_weight",
        "views",
    )

    def __init__(
        self,
        eligible: Eligible,
        weight: float,
        part_of: Callable[[Endpoint], Part],
        rng: random.Random,
    ) -> None:
        endpoints = eligible.endpoints
        self.views = Views(endpoints)
        self._eligible = eligible
        self._weight = weight
        self._part_of = part_of
        self._strides = strides_of(endpoints)
        self._due = [rng.random() * stride for stride in self._strides]
        self._read = eligible.journal.end
        self._parts = [part_of(endpoint) for endpoint in endpoints]
        self._shelves: dict[_Kind, _Shelf] = {}
        self._row: list[_Shelf] = []
        self._laid = [self._put(place, 0.0) for place in range(len(endpoints))]
        self._is_outdated = bytearray(len(endpoints))

    def best(self, tokens_in: int, longest: float, away: Collection[Endpoint]) -> tuple[int, float]:
        """Find the best endpoint: its place, and its score. Among equals its turn is taken.

        Those that are away are passed over; one must not be.
        """
        if self._read != self._eligible.journal.end:
            self._catch_up()
        row, sizes = self._row, (tokens_in, longest)
        outdated: list[int] = []
        if len(row) == 1:
            found = self._best_on(row[0], sizes, away, _NOTHING_FOUND, outdated)
        else:
            found = _NOTHING_FOUND
            bounds = self._bounds(tokens_in, longest)
            while (bound := max(bounds)) >= found[0]:
                nearest = bounds.index(bound)
                bounds[nearest] = _LOOKED_INTO
                found = self._best_on(row[nearest], sizes, away, found, outdated)
        highest, place, is_tied = found
        if is_tied:
            self._take_turn(place)
        for each in outdated:
            self._lay(each)
        return place, highest

    def scores(self, tokens_in: int, longest: float) -> list[float]:
        """Score all endpoints, as they were when the best was last looked for."""
        return scores_of(self._parts, self._weight, tokens_in, longest)

    def _bounds(self, tokens_in: int, longest: float) -> list[float]:
        """For each shelf, what no score on it can be above."""
        weight = self._weight
        return [
            shelf.top
            + weight
            / (
                1.0
                + tokens_in * shelf.price_in
                + (shelf.usual if shelf.usual < longest else longest) * shelf.price_out
            )
            for shelf in self._row
        ]

    def _best_on(
        self,
        shelf: _Shelf,
        sizes: tuple[int, float],
        away: Collection[Endpoint],
        found: _Found,
        outdated: list[int],
    ) -> _Found:
        """Look for a better one on a shelf; note who lies too high there."""
        highest, best, is_tied = found
        tokens_in, longest = sizes
        entries, weight = shelf.entries, self._weight
        endpoints, parts, is_outdated = self.views.endpoints, self._parts, self._is_outdated
        usual = shelf.usual
        rest = (usual if usual < longest else longest) * shelf.price_out
        most = weight / (1.0 + tokens_in * shelf.price_in + rest)
        i = len(entries)
        while i:
            i -= 1
            state, price_in, load, due, place = entries[i]
            if state + most < highest:
                break
            bound = state + weight / (1.0 - tokens_in * price_in + rest)
            if bound < highest or (bound == highest and (load, due) <= self._precedence(best)):
                is_tied = is_tied or bound == highest
                if not weight:
                    break  # nor are any below, which lie in the order of their precedence
                if i and entries[i - 1][0] == state:  # they are no better
                    i = bisect_left(
                        entries, (state, price_in) if bound == highest else (state,), 0, i
                    )
                continue
            if away and endpoints[place] in away:
                continue
            if is_outdated[place]:
                outdated.append(place)
            state, price_in, usual, price_out, _, _ = parts[place]
            # As `SplitSelector.score`, whose calls would take twice as long.
            tokens_out = usual if usual < longest else longest
            score = state + weight / (1.0 + tokens_in * price_in + tokens_out * price_out)
            if score > highest:
                highest, best, is_tied = score, place, False
            elif score == highest:
                is_tied = True
                best = max(best, place, key=self._precedence)
        return highest, best, is_tied

    def _precedence(self, place: int) -> tuple[float, float]:
        """Among equals the least loaded comes first, of those the one that is due first."""
        return -self._parts[place][4], -self._due[place]

    def _take_turn(self, place: int) -> None:
        shelf, entry = self._laid[place]
        shelf.drop(entry)
        # One that was not asked for long has a turn at once, and no more to make up for.
        shelf.time = max(shelf.time, self._due[place])
        self._due[place] = due = shelf.time + self._strides[place]
        entry = (*entry[:3], -due, place)
        shelf.hold(entry)
        self._laid[place] = shelf, entry

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
                shelf, entry = self._laid[place]
                if shelf.may_keep(entry, part):  # until it is next looked at
                    self._is_outdated[place] = 1
                else:
                    self._lay(place)

    def _lay(self, place: int) -> None:
        """Take an endpoint from its shelf, and lay it where it belongs now."""
        before, laid = self._laid[place]
        before.drop(laid)
        self._laid[place] = shelf, _ = self._put(place, before.time)
        if not before.entries and shelf is not before:
            del self._shelves[before.kind]
            self._row.remove(before)
        self._is_outdated[place] = 0

    def _put(self, place: int, since: float) -> tuple[_Shelf, _Entry]:
        """Lay an endpoint where it belongs. When it is due was counted from then on."""
        part = self._parts[place]
        kind = _kind_of(part)
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = _Shelf(kind)
            self._row.append(shelf)
        state, price_in, _, _, load, _ = part
        self._due[place] += shelf.time - since
        entry = (state, -price_in, -load, -self._due[place], place)
        shelf.hold(entry)
        shelf.include(part)
        return shelf, entry


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
    return frexp(price_in)[1] // 2, frexp(usual)[1] // 2, frexp(price_out)[1] // 2


@final
class IndexedRanking(Ranking):
    """The ranking of a large set: the best one is known, the others are scored when asked for.

    They are scored as they are then, since keeping all of them would cost more than the decision.
    Those that are away have scores too, but no rank.

    Args:
        views: The views of the set.
        best: The place of the best one.
        score: Its score.
        all_scores: Gives the scores of all.
        away: Endpoints that are not to be ranked.
    """

    __slots__ = ("_all_scores", "_away", "_best", "_score", "_scores")

    def __init__(
        self,
        views: Views,
        best: int,
        score: float,
        all_scores: Callable[[], list[float]],
        away: Collection[Endpoint],
    ) -> None:
        self.candidates = views.endpoints
        self.plan = self.votes = None
        self.captured = views
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
        others = [i for i, e in enumerate(self.candidates) if i != best and e not in self._away]
        others.sort(key=scores.__getitem__, reverse=True)
        return [best, *others]

    def best(self) -> int:
        """The place of the best candidate."""
        return self._best

    def score_at(self, place: int) -> float:
        """The score at a place; that of the best is at hand."""
        return self._score if place == self._best else self.scores[place]


@final
class Views(Sequence[tuple[View]]):
    """The endpoints' views, looked up when asked for."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints

    @overload
    def __getitem__(self, index: int, /) -> tuple[View]: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[tuple[View]]: ...
    def __getitem__(self, index: int | slice, /) -> tuple[View] | Sequence[tuple[View]]:
        if isinstance(index, slice):
            return [(endpoint.view,) for endpoint in self.endpoints[index]]
        return (self.endpoints[index].view,)

    def __len__(self) -> int:
        return len(self.endpoints)
