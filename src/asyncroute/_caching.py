"""What a result is cached under, and what a hit looks like."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from asyncroute._inputs import Message, QueryRequest
from asyncroute._results import ExecutionResult

__all__ = ("is_worth_keeping", "recalled", "result_key", "shared_copy")

TENANT = "tenant"
"""The key of `metadata` that keeps callers' caches apart."""

_UNSAID: dict[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in QueryRequest.model_fields.items()
    if name not in ("query", "messages")
}
"""What a field counts as that was not given."""

_plain = itemgetter(
    "strategy", "capability", "max_tokens", "max_cost", "max_latency_ms", "required_quality"
)
_composed = itemgetter("params", "metadata", "models", "exclude")


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
        parameters cannot be compared cannot be found again. A key may turn out to have no hash
        (with a tenant or a selector that has none): then the same holds.
    """
    if isinstance(query, QueryRequest):
        if fields:
            return None  # a mistake, which whoever makes the request will tell of
        fields = query.__dict__
        query = query.messages or query.query or ""
    else:
        fields = {**_UNSAID, **fields}
        if len(fields) > len(_UNSAID):
            return None  # as above: one that there is not
    composed = _composed(fields)
    try:
        return (
            query if isinstance(query, str) else tuple(_conversation_key(query)),
            how,
            _plain(fields),
            _composed_key(*composed) if any(composed) else None,
        )
    except (AttributeError, TypeError, ValueError):
        return None


def _composed_key(
    params: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    models: str | Iterable[str] | None,
    exclude: str | Iterable[str] | None,
) -> Hashable:
    if params and "tools" in params:
        raise ValueError("a request with tools acts on the world")
    tenant = metadata.get(TENANT) if metadata else None
    if not params and tenant is None and not models and not exclude:
        return None
    return (
        _canonical(params) if params else None,
        tenant,
        _names(models) if models else None,
        _names(exclude) if exclude else None,
    )


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Several names, or one, as a `QueryRequest` would have them."""
    return (given,) if isinstance(given, str) else tuple(given)


def _conversation_key(messages: Sequence[Message]) -> list[Hashable]:
    return [
        # A role beside a text: nearly all are like this.
        (message.get("role"), content)
        if type(content := message.get("content")) is str and len(message) == 2
        else _canonical(message)
        for message in messages
    ]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def recalled(result: ExecutionResult, request_id: str) -> ExecutionResult:
    """Return a kept result as somebody gets it who did not pay for it."""
    try:
        fields = result.recalled
    except AttributeError:  # for the first time
        fields = result.recalled = _shared(result, 0.0)
    return ExecutionResult(*fields, request_id)  # pyright: ignore[reportCallIssue] - all of them


def shared_copy(result: ExecutionResult, request_id: str, latency: float) -> ExecutionResult:
    """Return the result of a run that was joined, as those get it who did not pay for it.

    A failure is shared with those who waited for the same run; it is never cached.
    """
    copy = ExecutionResult(*_shared(result, latency), request_id)  # pyright: ignore[reportCallIssue]
    if not result.success and result.exception is not None:
        copy.fail_with(result.exception)
    return copy


def _shared(result: ExecutionResult, latency: float) -> tuple[Any, ...]:
    """All fields but the request's id."""
    return (
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
    )


def is_worth_keeping(result: ExecutionResult) -> bool:
    """Whether a result is an answer that was accepted."""
    return result.success and any(attempt.outcome == "won" for attempt in result.attempts)
