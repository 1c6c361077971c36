"""What a provider allows per minute, counted exactly: requests, tokens, and both of one account.

Pure: every function is told the time (seconds on the loop's clock), none waits. The waiting is done
by a lane, in one queue for slot, requests and tokens together.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from typing import Final, final

from aiolimiter import AsyncLimiter

from asyncroute._errors import ConfigurationError

__all__ = ("Bucket", "Quota", "QuotaLimits", "RequestWindow", "TokenWindow")

WINDOW: Final = 60.0
"""Seconds over which providers count."""

BUCKET: Final = 1.0
"""Seconds of starts that `TokenWindow` counts together."""

_SLACK: Final = 1e-3
"""Requests by which the pace may be overdrawn: rounding must not make an instant too early."""


@final
class RequestWindow(AsyncLimiter):
    """At most *limit* starts in any 60 seconds, exactly, and not all of them at once.

    The last *limit* start times are kept, so the bound is no estimate. The leaky bucket that it is
    paces the starts, because providers also enforce inside the minute: it is asked rather than
    awaited, on a clock that is handed in.

    Args:
        limit: Requests per minute, at least 1.
        burst: Requests that may start at once when nothing has started for a while; then `limit`
            per minute. By default the larger of 10 and a sixth of the limit; never above the limit.

    Raises:
        ConfigurationError: A figure below 1.
    """

    __slots__ = ("_starts", "limit")

    def __init__(self, limit: int, burst: int | None = None) -> None:
        super().__init__(1.0, WINDOW)
        self._starts: deque[float] = deque()
        self.reconfigure(limit, burst)

    def reconfigure(self, limit: int, burst: int | None = None) -> None:
        """Change the figures; what has started in the last 60 s still counts."""
        _require_positive("requests_per_minute", limit)
        _require_positive("burst", burst)
        self.limit = limit
        self.max_rate = float(min(max(10.0, limit / 6) if burst is None else burst, limit))
        self.time_period = WINDOW * self.max_rate / limit
        self._rate_per_sec = limit / WINDOW
        self._level = min(self._level, self.max_rate)  # a new limit is no reason for a new burst

    def _level_at(self, now: float) -> float:
        return max(self._level - (now - self._last_check) * self._rate_per_sec, 0.0)

    def free_at(self, now: float, ahead: int = 0) -> float:
        """When a request may start that has *ahead* others before it: *now* if at once."""
        windows, ahead_in_window = divmod(ahead, self.limit)
        blocking = len(self._starts) + ahead_in_window - self.limit
        at = self._starts[blocking] + WINDOW if blocking >= 0 else now
        excess = self._level_at(now) + ahead + 1 - self.max_rate
        paced_at = now if excess <= _SLACK else now + excess / self._rate_per_sec
        return max(at + windows * WINDOW, paced_at)

    def try_take(self, now: float) -> bool:
        """Start one request if it may start now."""
        starts = self._starts
        if starts:
            if now < starts[-1]:  # kept sorted: `give_back` searches by halves
                now = starts[-1]
            while starts and starts[0] + WINDOW <= now:
                starts.popleft()
            if len(starts) >= self.limit:
                return False
        level = self._level - (now - self._last_check) * self._rate_per_sec
        level = level + 1.0 if level > 0.0 else 1.0
        if level - self.max_rate > _SLACK:  # the same sum as in `free_at`, so that they agree
            return False
        self._level = level
        self._last_check = now
        starts.append(now)
        return True

    def give_back(self, started_at: float, now: float) -> None:
        """Undo a start that was never sent."""
        position = bisect_left(self._starts, started_at)
        if position < len(self._starts) and self._starts[position] == started_at:
            del self._starts[position]
            self._level = max(self._level_at(now) - 1, 0.0)
            self._last_check = now

    def __repr__(self) -> str:
        return f"<RequestWindow {self.limit} per minute, {len(self._starts)} remembered>"


@final
class Bucket:
    """The tokens of one second of starts; what `TokenWindow.take` gives and `settle` wants back."""

    __slots__ = ("amount", "is_live", "last_at", "opened_at")

    def __init__(self, now: float, *, is_live: bool = True) -> None:
        self.opened_at = now
        self.last_at = now
        self.amount = 0
        self.is_live = is_live


@final
class TokenWindow:
    """At most *limit* tokens reserved in any 60 seconds.

    Reservations are counted in buckets of one second, each of which ends 60 s after the last
    reservation in it. So at most 61 of them are kept, and a reservation counts up to one second too
    long, never too short; what was reserved in one go is free again exactly 60 s later.

    Args:
        limit: Tokens per minute, at least 1.

    Raises:
        ConfigurationError: A limit below 1.

    Attributes:
        level: Tokens reserved, as far as `fits` or `take` has looked.
    """

    __slots__ = ("_buckets", "_newest", "_stale_at", "level", "limit")

    def __init__(self, limit: int) -> None:
        self._buckets: deque[Bucket] = deque()
        self._newest = Bucket(-math.inf, is_live=False)
        self._stale_at = math.inf  # before it, nothing leaves the window
        self.level = 0
        self.reconfigure(limit)

    def reconfigure(self, limit: int) -> None:
        """Change the limit; what was reserved in the last 60 s still counts."""
        _require_positive("tokens_per_minute", limit)
        self.limit = limit

    def forget(self) -> None:
        """Stop counting: what is settled later changes nothing any more."""
        self._expire(math.inf)

    def _expire(self, now: float) -> None:
        buckets = self._buckets
        while buckets and buckets[0].last_at + WINDOW <= now:
            bucket = buckets.popleft()
            bucket.is_live = False
            self.level -= bucket.amount
        self._stale_at = buckets[0].last_at + WINDOW if buckets else math.inf

    def free_at(self, amount: int, now: float) -> float:
        """When *amount* tokens may be reserved: *now* if at once, infinity if never."""
        if amount > self.limit:
            return math.inf
        self._expire(now)
        excess = self.level + amount - self.limit
        at = now
        for bucket in self._buckets:
            if excess <= 0:
                break
            excess -= bucket.amount
            at = bucket.last_at + WINDOW
        return at

    def fits(self, amount: int, now: float) -> bool:
        """Whether *amount* tokens may be reserved now."""
        if now >= self._stale_at:
            self._expire(now)
        return self.level + amount <= self.limit

    def take(self, amount: int, now: float) -> Bucket:
        """Reserve *amount* tokens, also above the limit: whether they fit was asked before.

        Returns:
            What `settle` needs to know when the true usage is known.
        """
        if now >= self._stale_at:
            self._expire(now)
        bucket = self._newest
        if not bucket.is_live or now - bucket.opened_at >= BUCKET:
            bucket = self._newest = Bucket(now)
            if not self._buckets:
                self._stale_at = now + WINDOW
            self._buckets.append(bucket)
        if now > bucket.last_at:
            bucket.last_at = now
        bucket.amount += amount
        self.level += amount
        return bucket

    def settle(self, bucket: Bucket, reserved: int, actual: int, now: float) -> None:
        """Replace a reservation by the truth.

        What was not used is free at once. What was used beyond the reservation is debt: it counts
        from *now*, when it became known, and may put the level above the limit.
        """
        if actual > reserved:
            self.take(actual - reserved, now)
        elif bucket.is_live:
            bucket.amount -= reserved - actual
            self.level -= reserved - actual

    def __repr__(self) -> str:
        return f"<TokenWindow {self.level}/{self.limit} per minute>"


@final
@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """What one account may send: each figure may be None, for no limit.

    Args:
        requests_per_minute: Requests started in any 60 s.
        tokens_per_minute: Tokens, in and out together, reserved in any 60 s.
        burst: Requests that may start at once (see `RequestWindow`).

    Raises:
        ConfigurationError: A figure below 1.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        _require_positive("requests_per_minute", self.requests_per_minute)
        _require_positive("tokens_per_minute", self.tokens_per_minute)
        _require_positive("burst", self.burst)


@final
class Quota:
    """The requests and tokens of one account, taken together or not at all.

    Args:
        limits: The figures; changing them later keeps the history of a limit that stays one.
    """

    __slots__ = ("_requests", "_tokens", "_unmetered", "limits")

    def __init__(self, limits: QuotaLimits) -> None:
        self._requests: RequestWindow | None = None
        self._tokens: TokenWindow | None = None
        self._unmetered = Bucket(-math.inf, is_live=False)
        self.reconfigure(limits)

    def reconfigure(self, limits: QuotaLimits) -> None:
        """Change the figures; the last minute still counts, for a limit there was."""
        self.limits = limits
        rpm, tpm = limits.requests_per_minute, limits.tokens_per_minute
        if rpm is None:
            self._requests = None
        elif self._requests is None:
            self._requests = RequestWindow(rpm, limits.burst)
        else:
            self._requests.reconfigure(rpm, limits.burst)
        if tpm is None:
            if self._tokens is not None:
                self._tokens.forget()
            self._tokens = None
        elif self._tokens is None:
            self._tokens = TokenWindow(tpm)
        else:
            self._tokens.reconfigure(tpm)

    def allows(self, tokens: int) -> bool:
        """Whether a request of *tokens* tokens can ever start."""
        return self._tokens is None or tokens <= self._tokens.limit

    def free_at(self, tokens: int, now: float) -> float:
        """When one request of *tokens* tokens may start: *now* if at once, infinity if never."""
        at = now if self._requests is None else self._requests.free_at(now)
        return at if self._tokens is None else max(at, self._tokens.free_at(tokens, now))

    def predict(self, ahead: int, tokens: int, now: float) -> float:
        """About when a request starts that has *ahead* others before it.

        Args:
            ahead: Requests that start before.
            tokens: What they and this one reserve together.
            now: The time.
        """
        at = now if self._requests is None else self._requests.free_at(now, ahead)
        if self._tokens is None:
            return at
        windows, rest = divmod(max(tokens, 1) - 1, self._tokens.limit)
        return max(at, self._tokens.free_at(rest + 1, now) + windows * WINDOW)

    def try_take(self, tokens: int, now: float) -> Bucket | None:
        """Start one request of *tokens* tokens if both limits allow it now.

        Returns:
            What `settle` and `give_back` want; None, with nothing taken, if it may not start now.
        """
        window, requests = self._tokens, self._requests
        if window is not None and not window.fits(tokens, now):
            return None
        if requests is not None and not requests.try_take(now):
            return None
        return self._unmetered if window is None else window.take(tokens, now)

    def settle(self, bucket: Bucket, reserved: int, actual: int, now: float) -> None:
        """Replace *reserved* tokens by the *actual* ones: a refund or a debt, from now on."""
        if self._tokens is not None:
            self._tokens.settle(bucket, reserved, actual, now)

    def give_back(self, started_at: float, bucket: Bucket, reserved: int, now: float) -> None:
        """Undo a start that was never sent: the request and all its tokens."""
        if self._requests is not None:
            self._requests.give_back(started_at, now)
        self.settle(bucket, reserved, 0, now)

    def __repr__(self) -> str:
        return f"<Quota {self._requests!r}, {self._tokens!r}>"


def _require_positive(field: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigurationError(f"{field} must be at least 1, not {value!r}")
