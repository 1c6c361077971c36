"""Who is set aside for a while in one eligible set."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from asyncroute._endpoint import Eligible, Endpoint

__all__ = ("Aside", "why_away")

_LOOK_AGAIN = 1.0
"""Seconds after which health is asked again in any case."""


class Away(NamedTuple):
    """Why no call may be sent to a model, and until which instant."""

    status: str
    until: float


@final
class Aside:
    """Those of an eligible set that health keeps calls away from, looked at once for many requests.

    Attributes:
        away: Those that may not be called, and why.
        ramping: Those that have recovered, and come back slowly.
        left: The set without those that are away; the whole set, if nobody is left.
        later: Those that are away and may be back by the time they are needed.
    """

    __slots__ = ("_at", "_trouble", "_until", "away", "later", "left", "ramping")

    def __init__(self, eligible: Eligible, now: float) -> None:
        troubled = eligible.journal.troubled
        away: dict[Endpoint, Away] = {}
        ramping: list[Endpoint] = []
        until = now + _LOOK_AGAIN
        for endpoint in tuple(troubled):
            if endpoint not in eligible.places:
                continue
            health = endpoint.health
            available_at = health.available_at(now)
            if available_at > now:
                away[endpoint] = Away(health.status(now).replace("_", " "), available_at)
                until = min(until, available_at)
            elif health.is_ramping(now):
                ramping.append(endpoint)
            else:
                troubled.discard(endpoint)  # it may be called again: as a probe, or freely
        self.away = away
        self.ramping = ramping
        is_anybody_left = len(away) < len(eligible.endpoints)
        self.left: Sequence[Endpoint] = (
            eligible.without(away) if away and is_anybody_left else eligible
        )
        self.later = (*away,) if is_anybody_left else ()
        self._at = now
        self._until = until
        self._trouble = eligible.journal.trouble

    def holds(self, trouble: int, now: float) -> bool:
        """Whether nothing has changed since."""
        return trouble == self._trouble and self._at <= now < self._until


def why_away(now: float, why: Away) -> str:
    """Say why no call may be sent, as it is at an instant."""
    return f"is {why.status}" + ("" if why.until == inf else f" for {why.until - now:.3g} s")
