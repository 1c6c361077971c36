"""What the candidates offer for one query, and when several together offer more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, NamedTuple, final

from asyncroute._protocols import Agree, Candidate, Plan

if TYPE_CHECKING:
    from asyncroute._inputs import QueryRequest
    from asyncroute.learn._forecast import Forecast

__all__ = ("Offers", "Weighting")

_LATENCY_SCALE = 2.0
"""Seconds that take half of a latency's weight."""


class Weighting(NamedTuple):
    """What latency and load take away from a candidate's quality.

    Attributes:
        latency: Quality that an endless latency takes; two seconds take half of it.
        load: Quality that a full model loses against an idle one.
    """

    latency: float
    load: float


@final
class Offers:
    """What each candidate is expected to give and to take: lists in the candidates' order.

    Attributes:
        candidates: Who.
        columns: Their places in the forecast.
        quality: Expected scores, 0 to 1, failures included.
        cost: Expected costs, USD: the fitted ones, the router's estimate where there is none.
        handicap: Quality that latency and load take away.
    """

    __slots__ = ("candidates", "columns", "cost", "handicap", "quality")

    def __init__(
        self,
        request: QueryRequest,
        candidates: Sequence[Candidate],
        columns: Sequence[int],
        forecast: Forecast,
        weighting: Weighting,
    ) -> None:
        quality, cost = forecast.quality.tolist(), forecast.cost.tolist()
        by_latency, by_load = weighting.latency, weighting.load
        self.candidates = candidates
        self.columns = columns
        self.quality = [
            quality[column] * candidate.success_rate
            for candidate, column in zip(candidates, columns, strict=True)
        ]
        self.cost = [
            cost[column] or candidate.expected_cost(request)
            for candidate, column in zip(candidates, columns, strict=True)
        ]
        self.handicap = [
            by_latency * (latency := candidate.expected_latency) / (_LATENCY_SCALE + latency)
            + by_load * (load if (load := candidate.load) < 1.0 else 1.0)
            for candidate in candidates
        ]

    def revalued(self, forecast: Forecast) -> Offers:
        """Return the same offers with the qualities of another forecast."""
        made = copy(self)
        quality = forecast.quality.tolist()
        made.quality = [
            quality[column] * candidate.success_rate
            for candidate, column in zip(self.candidates, self.columns, strict=True)
        ]
        return made

    def worths(self, unit: float) -> list[float]:
        """Return quality less the price of cost, latency and load; `unit` is quality per dollar."""
        parts = zip(self.quality, self.cost, self.handicap, strict=True)
        return [quality - unit * cost - handicap for quality, cost, handicap in parts]

    def best_cascade(
        self,
        request: QueryRequest,
        cascades: Sequence[tuple[int, ...]],
        forecast: Forecast,
        unit: float,
        to_beat: float,
    ) -> list[int]:
        """Return the members (places in the lists) of the cascade worth most, in their order.

        Only one of candidates, that is worth more than `to_beat`, and only where the request's
        limits hold with all of its members asked; else an empty list.
        """
        first = len(forecast.quality) - len(cascades)
        worths = forecast.quality[first:] - forecast.cost[first:] * unit
        of_choice: list[float] = worths.tolist()
        place_of: dict[int, int] = {}
        for index in sorted(range(len(of_choice)), key=of_choice.__getitem__, reverse=True):
            worth = of_choice[index]
            if worth <= to_beat:
                break
            place_of = place_of or {column: place for place, column in enumerate(self.columns)}
            cascade = cascades[index]
            if not all(column in place_of for column in cascade):
                continue
            members = [place_of[column] for column in cascade]
            handicap = max(self.handicap[place] for place in members[:2])
            if worth - handicap > to_beat and self._is_allowed(request, members):
                return members
        return []

    def _is_allowed(self, request: QueryRequest, members: Sequence[int]) -> bool:
        """Tell whether a request's limits hold when every member is asked, the first two at once.

        Taken from the router's own estimates, as for single models.
        """
        who = [self.candidates[place] for place in members]
        most, slowest = request.max_cost, request.max_latency_ms
        if most is not None and sum(each.expected_cost(request) for each in who) > most:
            return False
        if slowest is None:
            return True
        latencies = [each.expected_latency for each in who]
        return 1000 * (max(latencies[:2]) + sum(latencies[2:])) <= slowest

    def cascade(self, members: Sequence[int], agree: Agree) -> Plan:
        """Return the plan of a cascade: two at once, then one by one, until two answers agree.

        The last one's answer is final, and so is that of whoever takes its place. Where the router
        allows fewer models than there are members, the last that was asked has the last word.
        """
        weights = {who.config.model_id: 2.0 for who in self.candidates}
        for number, place in enumerate(members[:-1]):
            weights[self.candidates[place].config.model_id] = 1.0 + 1e-3 * number
        return Plan(stagger=0.0, width=len(members), quorum=2, agree=agree, weights=weights)
