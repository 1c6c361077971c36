"""What a result is cached under, and what a hit looks like."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from asyncroute._inputs import Message, QueryRequest, RequestFields
from asyncroute._results import ExecutionResult

__all__ = ("is_worth_keeping", "result_key", "shared_copy")

TENANT = "tenant"
"""The key of `metadata` that keeps callers' caches apart."""


def result_key(
    query: QueryRequest | str | Sequence[Message], how: Hashable, fields: Mapping[str, Any]
) -> Hashable | None:
    """Return what the answer to a query is cached under: everything that shapes it.

    It is found without making a request of a text and its fields, which would cost more than all
    the rest of a hit.

    Args:
        query: The request, the text or the conversation.
        how: The strategy and the manner.
        fields: The fields of a request, beside a text or a conversation.

    Returns:
        None for what must not be cached: a request with tools acts on the world, and one whose
        parameters cannot be compared cannot be found again.
    """
    if isinstance(query, QueryRequest):
        if fields:
            return None  # a mistake, which whoever makes the request will tell of
        fields = query.__dict__
        query = query.messages or query.query or ""
    elif not fields.keys() <= RequestFields.__optional_keys__:
        return None  # as above
    field = fields.get
    params, metadata = field("params"), field("metadata")
    models, exclude = field("models"), field("exclude")
    try:
        if params and "tools" in params:
            return None
        key = (
            query if isinstance(query, str) else tuple(map(_message_key, query)),
            how,
            field("strategy", "balanced"),
            field("capability", "general"),
            field("max_tokens"),
            field("max_cost"),
            field("max_latency_ms"),
            field("required_quality"),
            _names(models) if models else None,
            _names(exclude) if exclude else None,
            _canonical(params) if params else None,
            metadata.get(TENANT) if metadata else None,
        )
        hash(key)  # a tenant or a selector that cannot be compared
    except (AttributeError, TypeError, ValueError):
        return None
    return key


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Several names, or one, as a `QueryRequest` would have them."""
    return (given,) if isinstance(given, str) else tuple(given)


def _message_key(message: Message) -> Hashable:
    content = message.get("content")
    if len(message) == 2 and type(content) is str:  # a role beside it: nearly all are like this
        return message.get("role"), content
    return _canonical(message)


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
    if not result.success and result.exception is not None:
        copy.fail_with(result.exception)
    return copy


def is_worth_keeping(result: ExecutionResult) -> bool:
    """Whether a result is an answer that was accepted."""
    return result.success and any(attempt.outcome == "won" for attempt in result.attempts)
