"""The modes of execution: which judge, which stagger, how many at once."""

from __future__ import annotations

from dataclasses import dataclass
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

__all__ = ("SEQUENTIAL", "Manner", "Mode", "hedging_of", "manner_of", "staggered")

Mode = Literal["sequential", "hedged", "race", "cascade"]

_HEDGE_QUANTILE = 0.95
_HEDGE_SAMPLES = 20
_UNOBSERVED = 3.0
"""Times the expected latency after which a hedge starts while too little has been observed."""


@final
@dataclass(frozen=True, slots=True)
class Manner:
    """How a caller wants a request executed.

    Raises:
        ConfigurationError: Values that cannot be meant, or do not go together.
    """

    mode: Mode | None = None
    width: int | None = None
    hedge_after: float | None = None
    accept: Accept | None = None

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

    @property
    def most(self) -> int | None:
        """How many models may be tried at all, if that is said.

        In a race or a hedged request the width is how many are asked at the same time.
        """
        return None if self.mode in ("race", "hedged") else self.width

    def at_once(self, plan: Plan | None) -> int:
        """How many attempts are started together."""
        if self.mode == "race":
            return self.width or 2
        if self.mode is None and plan is not None and plan.stagger == 0:
            return plan.quorum or plan.width
        return 1


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
    if mode == "hedged" and manner.width != 1:
        hedging = hedging_of(course, manner, first, streams=streams)
        return Stagger(course, FirstAnswer(), hedging=hedging)
    if mode == "race":
        return Stagger(course, FirstAnswer(), at_once=manner.at_once(None))
    if mode == "cascade":
        assert manner.accept is not None
        judge = Accepting(manner.accept, course.runtime.deadlines, course.deadline)
        return Stagger(course, judge)
    return Stagger(course, FirstAnswer())


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
    return Stagger(course, judge, at_once=manner.at_once(plan), hedging=hedging)


def hedging_of(
    course: Course, manner: Manner, first: Endpoint, *, streams: bool = False
) -> Hedging:
    """Arm the hedges of a hedged request."""
    delay = manner.hedge_after
    if delay is None:
        delay = hedge_delay(first, streams=streams)
    return Hedging(course, delay, 1 if manner.width is None else manner.width - 1)


def hedge_delay(endpoint: Endpoint, *, streams: bool) -> float:
    """Seconds after which a hedge is worth its cost: the model's p95, at least twice its median.

    For a stream, of its time to the first token. Before twenty samples three times the expected
    latency. Source: Dean and Barroso, The Tail at Scale (2013).
    """
    curve = endpoint.metrics.curve(streams=streams)
    if curve.size < _HEDGE_SAMPLES:
        return _UNOBSERVED * endpoint.expected_latency
    p95, median = curve[_HEDGE_QUANTILE], curve[0.5]
    assert p95 is not None
    assert median is not None
    return p95 if p95 > 2.0 * median else 2.0 * median
