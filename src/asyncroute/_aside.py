"""Who is set aside for a while in one eligible set, and how that is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple, final

if TYPE_CHECKING:
    from asyncroute._endpoint import Eligible, Endpoint

__all__ = ("Aside", "Reasons")

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


@final
class Reasons(Mapping[str, str]):
    """Why models are not eligible, by id: put into words when somebody reads it.

    Args:
        lasting: The reasons of those that are not eligible for this kind of request.
        away: Those that are set aside by health.
        now: When that was decided.
        others: The reasons of those that this request rules out, or that are held back.
    """

    __slots__ = ("_away", "_lasting", "_now", "_others", "_worded")

    def __init__(
        self,
        lasting: Mapping[str, str],
        away: Mapping[Endpoint, Away],
        now: float,
        others: Mapping[str, str],
    ) -> None:
        self._lasting = lasting
        self._away = away
        self._now = now
        self._others = others
        self._worded: dict[str, str] | None = None

    def _in_words(self) -> dict[str, str]:
        if self._worded is None:
            away = {
                endpoint.model_id: _said(why, self._now) for endpoint, why in self._away.items()
            }
            self._worded = {**self._lasting, **away, **self._others}
        return self._worded

    def __getitem__(self, model_id: str) -> str:
        return self._in_words()[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_words())

    def __len__(self) -> int:
        return len(self._in_words())


def _said(why: Away, now: float) -> str:
    return f"is {why.status}" + ("" if why.until == inf else f" for {why.until - now:.3g} s")
