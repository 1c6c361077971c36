"""What each candidate offers for one query, and when several together offer more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from asyncroute._protocols import Agree, Candidate, Plan

if TYPE_CHECKING:
    from asyncroute._inputs import QueryRequest
    from asyncroute.learn._forecast import Forecast

__all__ = ("Offer", "best_cascade", "cascade_plan")


class Offer(NamedTuple):
    """What one candidate is expected to give and to take.

    Attributes:
        candidate: Who.
        column: Its place in the forecast.
        quality: Expected score, 0 to 1, failures included.
        cost: Expected cost, USD.
        handicap: Quality that its latency and its load take away.
    """

    candidate: Candidate
    column: int
    quality: float
    cost: float
    handicap: float

    def worth(self, unit: float) -> float:
        """Return quality less the price of cost, latency and load; `unit` is quality per dollar."""
        return self.quality - unit * self.cost - self.handicap


def best_cascade(
    request: QueryRequest,
    offers: Sequence[Offer],
    choices: Sequence[tuple[int, ...]],
    forecast: Forecast,
    unit: float,
    to_beat: float,
) -> list[Offer]:
    """Return the members of the cascade that is worth most, if more than `to_beat`; else none.

    Only of candidates, and only where the request's limits hold with all of them asked.
    """
    by_column = {offer.column: offer for offer in offers}
    best: list[Offer] = []
    for choice, quality, cost in zip(
        choices, forecast.quality.tolist(), forecast.cost.tolist(), strict=True
    ):
        if len(choice) == 1 or quality - unit * cost <= to_beat:
            continue
        members = [by_column[column] for column in choice if column in by_column]
        if len(members) < len(choice) or not _is_allowed(request, members):
            continue
        worth = quality - unit * cost - max(member.handicap for member in members[:2])
        if worth > to_beat:
            best, to_beat = members, worth
    return best


def _is_allowed(request: QueryRequest, members: Sequence[Offer]) -> bool:
    """Tell whether the limits of a request hold when every member is asked, the first two at once.

    Taken from the router's own estimates, as for single models.
    """
    if request.max_cost is not None:
        cost = sum(member.candidate.expected_cost(request) for member in members)
        if cost > request.max_cost:
            return False
    if request.max_latency_ms is not None:
        latencies = [member.candidate.expected_latency for member in members]
        if 1000 * (max(latencies[:2]) + sum(latencies[2:])) > request.max_latency_ms:
            return False
    return True


def cascade_plan(members: Sequence[Offer], others: Sequence[Offer], agree: Agree) -> Plan:
    """Return the plan of a cascade: two at once, then one by one, until two answers agree.

    The last one's answer is final, and so is that of whoever takes its place. Where the router
    allows fewer models than there are members, the last that was asked has the last word.
    """
    weights = {
        member.candidate.config.model_id: 1.0 + 1e-3 * place for place, member in enumerate(members)
    }
    weights |= {offer.candidate.config.model_id: 2.0 for offer in (members[-1], *others)}
    return Plan(stagger=0.0, width=len(members), quorum=2, agree=agree, weights=weights)
