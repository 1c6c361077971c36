"""Five of the six strategies: each a formula over a model's live state."""

from __future__ import annotations

import random
from math import inf
from typing import final

from asyncroute._arguments import is_number
from asyncroute._errors import ConfigurationError
from asyncroute._protocols import Candidate
from asyncroute._selectors._scored import SplitSelector

__all__ = (
    "BalancedSelector",
    "CostOptimizedSelector",
    "LatencyOptimizedSelector",
    "LeastLoadedSelector",
    "QualityOptimizedSelector",
)

LATENCY_SCALE = 2.0
"""Seconds that score 0.5 for latency."""


def latency_score(candidate: Candidate, *, streams: bool = False) -> float:
    """Score latency on an absolute scale: 1 for none, 0.5 for two seconds.

    For streams it is the time to the first token.

    What counts is the expected latency times `1 + load`, since the more requests a model has, the
    longer the next one waits. A model of which too little is known scores next to nothing while it
    has its few requests to learn from in flight: a new model must not draw a stampede.
    """
    latency = candidate.expected_latency
    if streams:
        latency = getattr(candidate, "expected_first_token", latency)
    score = LATENCY_SCALE / (LATENCY_SCALE + latency * (1.0 + candidate.load))
    # Scaled, not zero: while all models are new, the one configured as fast still comes first.
    return 0.01 * score if getattr(candidate, "is_learning", False) else score


def load_score(candidate: Candidate) -> float:
    """Score load: 1 for an idle model, 0.5 where all slots are taken."""
    return 1.0 / (1.0 + candidate.load)


@final
class CostOptimizedSelector(SplitSelector):
    """The cheapest first: `s / (s + cost / success rate)`, with `s` a cent.

    The cost is what this request is expected to cost, tokens in and out at their prices; it is
    divided by the smoothed success rate, since a failed call is paid for again elsewhere.
    """

    cost_weight = 1.0

    def state_score(self, candidate: Candidate, /) -> float:
        """Nothing: cost alone decides."""
        return 0.0


@final
class LatencyOptimizedSelector(SplitSelector):
    """The fastest first: `s / (s + latency * (1 + load))`, with `s` two seconds.

    The latency is a moving average of successful calls, so that fast failures never look fast,
    blended with the configured one while samples are few.

    Args:
        streams: Whether the time to the first token is what counts.
        rng: Where ties are decided; of its own by default.
    """

    def __init__(self, *, streams: bool = False, rng: random.Random | None = None) -> None:
        super().__init__(rng=rng)
        self._streams = streams

    def state_score(self, candidate: Candidate, /) -> float:
        """Score the latency under load."""
        return latency_score(candidate, streams=self._streams)


@final
class QualityOptimizedSelector(SplitSelector):
    """The best first: the configured quality score."""

    def state_score(self, candidate: Candidate, /) -> float:
        """Return the quality score."""
        return candidate.config.quality_score


@final
class LeastLoadedSelector(SplitSelector):
    """The least busy first: `1 / (1 + load)`, load being requests over slots.

    A request counts from the moment it was sent to a model, so that a burst spreads; equals are
    chosen by lot, or among more than 32 by turns.
    """

    def state_score(self, candidate: Candidate, /) -> float:
        """Score the load."""
        return load_score(candidate)


@final
class BalancedSelector(SplitSelector):
    """A weighted mean of the scores for cost, latency, quality and load.

    Args:
        cost: Weight of the cost score.
        latency: Weight of the latency score.
        quality: Weight of the quality score.
        load: Weight of the load score.
        streams: Whether latency is the time to the first token.
        rng: Where ties are decided; of its own by default.

    Weights are normalised to sum 1.

    Raises:
        ConfigurationError: A weight is negative or not finite, or all are 0.
    """

    def __init__(
        self,
        *,
        cost: float = 0.3,
        latency: float = 0.2,
        quality: float = 0.4,
        load: float = 0.1,
        streams: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__(rng=rng)
        weights = {"cost": cost, "latency": latency, "quality": quality, "load": load}
        for name, weight in weights.items():
            if not (is_number(weight) and 0 <= weight < inf):
                raise ConfigurationError(f"weight of {name} must be 0 or more, got {weight!r}")
        total = sum(weights.values())
        if not total:
            raise ConfigurationError(f"at least one weight must be above 0, got {weights}")
        total *= 1.0 + 1e-12  # so that rounding never takes a sum of shares above 1
        self.cost_weight = cost / total
        self._latency = latency / total
        self._quality = quality / total
        self._load = load / total
        self._streams = streams

    def state_score(self, candidate: Candidate, /) -> float:
        """Score latency, quality and load."""
        return (
            self._latency * latency_score(candidate, streams=self._streams)
            + self._quality * candidate.config.quality_score
            + self._load * load_score(candidate)
        )
