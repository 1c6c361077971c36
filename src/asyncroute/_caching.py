"""What a result is cached under, and what a hit looks like."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from asyncroute._inputs import QueryRequest
from asyncroute._results import ExecutionResult

__all__ = ("is_worth_keeping", "result_key", "shared_copy")

TENANT = "tenant"
"""The key of `metadata` that keeps callers' caches apart."""


def result_key(request: QueryRequest, strategy: Hashable) -> Hashable | None:
    """Return what the answer to a request is cached under: everything that shapes it.

    None for a request that must not be cached: one with tools acts on the world, and one whose
    parameters cannot be compared cannot be found again.
    """
    params = request.params
    if params and "tools" in params:
        return None
    try:
        key = (
            request.query if request.messages is None else (_canonical(request.messages),),
            request.capability,
            strategy,
            request.max_tokens,
            request.max_cost,
            request.max_latency_ms,
            request.required_quality,
            request.models,
            request.exclude,
            _canonical(params) if params else None,
            request.metadata.get(TENANT) if request.metadata else None,
        )
        hash(key)  # a tenant or a selector that cannot be compared
    except (TypeError, ValueError):
        return None
    return key


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def shared_copy(result: ExecutionResult, request_id: str, latency: float) -> ExecutionResult:
    """Return a result as somebody gets it who did not pay for it: a hit, or a run that was joined.

    A failure is shared with those who waited for the same run; it is never cached.
    """
    copy = ExecutionResult(
        result.success,
        result.model_id,
        latency * 1000,
        0.0,
        result.tokens_used,
        result.response,
        result.error,
        result.error_kind,
        result.usage,
        result.finish_reason,
        result.tool_calls,
        (),
        result.decision,
        result.success,
        result.simulated,
        request_id,
    )
    if result.exception is not None:
        copy.fail_with(result.exception)
    return copy


def is_worth_keeping(result: ExecutionResult) -> bool:
    """Whether a result is an answer that was accepted."""
    return result.success and any(attempt.outcome == "won" for attempt in result.attempts)
