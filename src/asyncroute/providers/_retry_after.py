"""How long a server asks us to wait, in every form that servers use. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ("duration", "parse_retry_after")

_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
_DURATION = re.compile(
    "".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in ("h", "m", "s", "ms")), re.ASCII
)
_UNITS = (3600.0, 60.0, 1.0, 0.001)
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e12
_LIMITS = ("-requests", "-tokens", "")


def parse_retry_after(
    headers: Mapping[str, str], *, now: float | None = None, rate_limited: bool = False
) -> float | None:
    """Read how long a server asks us to wait.

    In this order: `retry-after-ms`; `retry-after` in seconds, as a duration (`1m30s`) or an HTTP
    date; and, if `rate_limited`, `x-ratelimit-reset[-requests|-tokens]` of the limits of which the
    matching `x-ratelimit-remaining` says that nothing is left, the longest of them.

    Args:
        headers: The response's headers, in any case.
        now: Unix time in seconds from which dates count; by default the response's own `Date`,
            which is right even where the clocks differ, or else this machine's time.
        rate_limited: Whether the answer was a 429: only then a limit's reset says anything.

    Returns:
        Seconds, not capped; None where nothing was asked, or nonsense: what is negative, infinite,
        past, or in no known form is ignored.
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(given.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    asked = given.get("retry-after", "")
    seconds = duration(asked)
    if seconds is not None:
        return seconds
    if now is None:
        now = _instant(given.get("date", "")) or datetime.now(UTC).timestamp()
    at = _instant(asked)
    if at is not None and at > now:
        return at - now
    return _longest_reset(given, now) if rate_limited else None


def _longest_reset(given: dict[str, str], now: float) -> float | None:
    waits = [
        wait
        for limit in _LIMITS
        if _number(given.get(f"x-ratelimit-remaining{limit}", "")) == 0
        and (wait := _reset(given.get(f"x-ratelimit-reset{limit}", ""), now)) is not None
    ]
    return max(waits, default=None)


def _reset(text: str, now: float) -> float | None:
    """Read a reset: a duration, or a Unix time in seconds or milliseconds."""
    value = duration(text)
    if value is None or value < _EPOCH_SECONDS:
        return value
    at = value / 1000 if value >= _EPOCH_MILLISECONDS else value
    return at - now if at > now else None


def duration(text: str) -> float | None:
    """Read seconds: a number, or `1h2m3.5s`; None for what is neither."""
    plain = _number(text)
    if plain is not None:
        return plain
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    parts = zip(match.groups(), _UNITS, strict=True)
    return _finite(sum(float(part) * unit for part, unit in parts if part is not None))


def _number(text: str) -> float | None:
    return _finite(float(text)) if _NUMBER.fullmatch(text) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _instant(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        # RFC 9110: dates are in GMT, also where the zone is missing.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
