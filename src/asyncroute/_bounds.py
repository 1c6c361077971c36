"""Which models break a limit of a request: on cost, on latency, on tokens per minute."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING

from asyncroute._endpoint import scaled_latency

if TYPE_CHECKING:
    from asyncroute._endpoint import Eligible, Endpoint, View
    from asyncroute._inputs import QueryRequest

__all__ = ("over_limits", "why_over_limit")

_NOBODY: Mapping[Endpoint, View] = {}


def over_limits(
    eligible: Eligible, request: QueryRequest, tokens_in: int
) -> Mapping[Endpoint, View]:
    """Return those that break a limit, each as it was seen.

    The extremes are looked at first: if the dearest and slowest would do, all do.
    """
    journal = eligible.journal
    fields = request.__dict__  # an attribute of a pydantic model takes three times as long
    max_cost: float = inf if fields["max_cost"] is None else fields["max_cost"]
    most_ms: float = inf if fields["max_latency_ms"] is None else fields["max_latency_ms"]
    asked: float = fields["max_tokens"] or inf
    longest = asked if asked < journal.longest_output else journal.longest_output
    is_cheap = tokens_in * eligible.dearest_input + longest * eligible.dearest_output <= max_cost
    is_fast = journal.slowest * 1000 <= most_ms
    is_short = tokens_in + longest <= eligible.tightest_limit
    if is_cheap and is_fast and is_short:
        return _NOBODY
    over: dict[Endpoint, View] = {}
    for endpoint in eligible.endpoints:
        config, latency, usual, price_in, price_out = view = endpoint.view
        tokens_out = usual if usual < asked else asked
        if (
            not (is_cheap or tokens_in * price_in + tokens_out * price_out <= max_cost)
            or not (
                is_fast
                or latency * 1000 <= most_ms
                or scaled_latency(latency, tokens_out, usual) * 1000 <= most_ms
            )
            or not (is_short or tokens_in + tokens_out <= (config.tokens_per_minute or inf))
        ):
            over[endpoint] = view
    return over


def why_over_limit(request: QueryRequest, tokens_in: int, view: View) -> str:
    """Say which limit a model breaks that was seen like this."""
    config, latency, usual, price_in, price_out = view
    tokens_out = min(usual, request.max_tokens or inf)
    cost = tokens_in * price_in + tokens_out * price_out
    if request.max_cost is not None and cost > request.max_cost:
        return f"is expected to cost ${cost:.6g}, above max_cost ${request.max_cost:.6g}"
    latency_ms = scaled_latency(latency, tokens_out, usual) * 1000
    if request.max_latency_ms is not None and latency_ms > request.max_latency_ms:
        return (
            f"is expected to take {latency_ms:.0f} ms,"
            f" above max_latency_ms {request.max_latency_ms:g}"
        )
    needed = f"{tokens_in + tokens_out:.0f} are needed"
    return f"has tokens_per_minute {config.tokens_per_minute}, {needed}"
