"""The modes of execution: which judge, which stagger, how many at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Literal, final

from asyncroute._arguments import is_number
from asyncroute._errors import ConfigurationError
from asyncroute._hedging import Hedging
from asyncroute._judge import Accepting, FirstAnswer, Quorum
from asyncroute._protocols import Accept
from asyncroute._stagger import Stagger

if TYPE_CHECKING:
    from asyncroute._course import Course
    from asyncroute._endpoint import Endpoint
    from asyncroute._protocols import Plan

__all__ = ("SEQUENTIAL", "Manner", "Mode", "hedge_delay", "manner_of", "staggered")

Mode = Literal["sequential", "hedged", "race", "cascade"]


@final
@dataclass(frozen=True, slots=True)
class Manner:
    """How a caller wants a request executed.

    Attributes:
        most: How many models may be tried at all, if that is said. In a race or a hedged request
            the width is how many are asked at the same time.
        at_once: How many attempts are started together, where no plan says otherwise.
        hedges: How many may be started beside an attempt that is slow.

    Raises:
        ConfigurationError: Values that cannot be meant, or do not go together.
    """

    mode: Mode | None = None
    width: int | None = None
    hedge_after: float | None = None
    accept: Accept | None = None
    # What follows is derived, once: a manner is made once for many requests.
    most: int | None = field(init=False, repr=False, compare=False)
    at_once: int = field(init=False, repr=False, compare=False)
    hedges: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in (None, "sequential", "hedged", "race", "cascade"):
            raise ConfigurationError(
                f"mode must be sequential, hedged, race or cascade, got {self.mode!r}"
            )
        width = self.width
        if width is not None and not (isinstance(width, int) and width >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"width must be a whole number, 1 or more, got {width!r}")
        hedge_after = self.hedge_after
        if hedge_after is not None and not (is_number(hedge_after) and hedge_after >= 0):
            raise ConfigurationError(
                f"hedge_after must be 0 or more seconds, got {self.hedge_after!r}"
            )
        if self.hedge_after is not None and self.mode != "hedged":
            raise ConfigurationError(f"hedge_after goes with mode 'hedged', not {self.mode!r}")
        if self.mode == "cascade" and self.accept is None:
            raise ConfigurationError("mode 'cascade' needs accept=, which says what is good enough")
        if self.accept is not None and not callable(self.accept):
            raise ConfigurationError(f"accept must be a function, got {self.accept!r}")
        if self.accept is not None and self.mode != "cascade":
            raise ConfigurationError(f"accept goes with mode 'cascade', not {self.mode!r}")

        is_limit = self.mode not in ("race", "hedged")
        object.__setattr__(self, "most", width if is_limit else None)
        object.__setattr__(self, "at_once", (width or 2) if self.mode == "race" else 1)
        object.__setattr__(self, "hedges", (width or 2) - 1 if self.mode == "hedged" else 0)

    def at_once_by(self, plan: Plan) -> int:
        """How many attempts are started together, where the selector made a plan."""
        if self.mode is None and plan.stagger == 0:
            return plan.quorum or plan.width
        return self.at_once


SEQUENTIAL = Manner()

_plain_manner = lru_cache(maxsize=128, typed=True)(Manner)  # 2.0 is not found where 2 was kept


def manner_of(
    mode: Mode | None, width: int | None, hedge_after: float | None, accept: Accept | None
) -> Manner:
    """Make a `Manner`, or find one made before: checking its values takes as long as deciding."""
    if accept is None:
        try:
            return _plain_manner(mode, width, hedge_after)
        except TypeError:  # a list, say: told of below, by its name
            pass
    return Manner(mode, width, hedge_after, accept)


def staggered(
    course: Course, manner: Manner, plan: Plan | None, first: Endpoint, *, streams: bool = False
) -> Stagger:
    """Put together what carries a request out in this manner."""
    mode = manner.mode
    if mode is None and plan is not None:
        return _planned(course, manner, plan)
    if manner.hedges:
        delay = hedge_delay(manner, first, streams=streams)
        return Stagger(course, FirstAnswer(), hedging=Hedging(course, delay, manner.hedges))
    if mode == "cascade":
        assert manner.accept is not None
        judge = Accepting(manner.accept, course.runtime.deadlines, course.deadline)
        return Stagger(course, judge)
    return Stagger(course, FirstAnswer(), at_once=manner.at_once)


def _planned(course: Course, manner: Manner, plan: Plan) -> Stagger:
    """What the selector wished for."""
    if plan.quorum is not None:
        judge = Quorum(plan.quorum, plan.agree, plan.weights)
    elif plan.accept is not None:
        judge = Accepting(plan.accept, course.runtime.deadlines, course.deadline)
    else:
        judge = FirstAnswer()
    hedging = None
    if 0 < plan.stagger < inf:
        hedging = Hedging(course, plan.stagger, max(plan.width - 1, 1))
    return Stagger(course, judge, at_once=manner.at_once_by(plan), hedging=hedging)


def hedge_delay(manner: Manner, endpoint: Endpoint, *, streams: bool = False) -> float:
    """Seconds after which a hedge is started: as the caller said, else when the model is slow."""
    delay = manner.hedge_after
    return endpoint.slow_after(streams=streams) if delay is None else delay
