"""How many calls one model takes at once, how many run, and for how long each holds its slot."""

from __future__ import annotations

import asyncio
import math
from typing import Final, final

from anyio import CapacityLimiter

from asyncroute._errors import ConfigurationError

__all__ = ("SMOOTHING", "AdaptiveLimit", "Slots")

SMOOTHING: Final = 0.1
"""Weight of the newest observed duration."""

_ASSUMED_DURATION: Final = 1.0
"""Seconds between two cuts before a duration was observed."""


@final
class AdaptiveLimit:
    """How many calls a provider really takes at once, by AIMD.

    Additive increase, multiplicative decrease, on overload answers only: limits that follow latency
    strangle healthy language models, whose latencies are heavy-tailed as answers differ in length.

    Args:
        ceiling: The configured slots; the limit starts there and never passes it.
    """

    __slots__ = ("_cut_at", "_successes", "ceiling", "limit")

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = ceiling
        self._successes = 0
        self._cut_at = -math.inf

    def set_ceiling(self, ceiling: int) -> None:
        """Follow the configured slots: a limit that was never cut grows with them."""
        grown = ceiling if self.limit == self.ceiling else max(self.limit, 1)
        self.ceiling = ceiling
        self.limit = min(grown, ceiling)

    def on_overload(self, now: float, duration: float) -> None:
        """Cut the limit to 0.7 of itself, at least 1.

        At most once per *duration* seconds of a call: all calls of one wave tell the same.
        """
        if now - self._cut_at >= duration:
            self._cut_at = now
            self._successes = 0
            self.limit = min(self.limit, max(1, int(self.limit * 0.7)))

    def on_success(self, in_flight: int) -> None:
        """Count towards one more slot per `limit` successes, with half of the limit in use."""
        if self.limit < self.ceiling and in_flight * 2 >= self.limit:
            self._successes += 1
            if self._successes >= self.limit:
                self._successes = 0
                self.limit += 1

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self.limit} of {self.ceiling}>"


@final
class Slots:
    """A model's slots, on anyio's `CapacityLimiter`.

    Args:
        configured: Calls in flight at most; with 0 nothing runs.
        adaptive: Whether overload answers lower the limit for a while (see `AdaptiveLimit`).
        duration: Seconds a call is taken to hold its slot until one was observed; 0 for unknown.

    Attributes:
        limit: How many calls may run now.
        used: How many do: own integers, as reading the limiter costs more, its WouldBlock most.
        duration: Seconds a slot is held, smoothed.
        limiter: What slots are taken from; None, before the first one is (see `open`).
        is_adaptive: Whether `on_success` and `on_overload` do anything.

    Raises:
        ConfigurationError: A negative figure.
    """

    __slots__ = ("_adaptive", "configured", "duration", "is_adaptive", "limit", "limiter", "used")

    def __init__(self, configured: int, *, adaptive: bool = False, duration: float = 0.0) -> None:
        if not duration >= 0:
            raise ConfigurationError(f"expected_duration must not be negative, but is {duration!r}")
        self.configured = self.limit = _require_slots(configured)
        self.duration = duration
        self.used = 0
        self._adaptive = AdaptiveLimit(configured) if adaptive else None
        self.is_adaptive = adaptive
        self.limiter: CapacityLimiter | None = None

    def open(self) -> CapacityLimiter:
        """Make the limiter, if there is none yet.

        Raises:
            RuntimeError: Called outside of any task. There anyio cannot tell which loop runs (in a
                timer's callback either, where sniffio is installed) and makes an adapter that is
                slower and may fail later.
        """
        if self.limiter is None:
            if asyncio.current_task() is None:
                raise RuntimeError("slots must be taken inside a task the first time")
            self.limiter = CapacityLimiter(self.limit)
        return self.limiter

    def wait(self, ahead: int) -> float:
        """Predict the seconds until one that has *ahead* others before it has a slot."""
        if not self.limit:
            return math.inf
        return max(ahead + 1 + self.used - self.limit, 0) * self.duration / self.limit

    def resize(self, configured: int) -> None:
        """Change the slots; below what is used, that takes effect as slots come back."""
        self.configured = _require_slots(configured)
        if self._adaptive is None:
            self._apply(configured)
        else:
            self._adaptive.set_ceiling(configured)
            self._apply(self._adaptive.limit)

    def on_success(self) -> None:
        """Tell that a call went well; its own slot counts, given back or not yet."""
        if self._adaptive is not None:
            self._adaptive.on_success(self.used + 1)
            self._apply(self._adaptive.limit)

    def on_overload(self, now: float) -> None:
        """Tell that the provider refused a call because it had too many."""
        if self._adaptive is not None:
            self._adaptive.on_overload(now, self.duration or _ASSUMED_DURATION)
            self._apply(self._adaptive.limit)

    def _apply(self, limit: int) -> None:
        if limit != self.limit:
            self.limit = limit
            if self.limiter is not None:
                self.limiter.total_tokens = limit

    def __repr__(self) -> str:
        return f"<Slots {self.used}/{self.limit}>"


def _require_slots(value: int) -> int:
    if value < 0:
        raise ConfigurationError(f"slots must not be negative, but is {value!r}")
    return value
