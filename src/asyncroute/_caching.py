"""What a result is cached under, and what a hit looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from asyncroute._inputs import Message, QueryRequest
from asyncroute._protocols import ModelSelector
from asyncroute._requests import NOTHING_SAID, Said, said_by
from asyncroute._results import ExecutionResult

__all__ = ("is_worth_keeping", "recalled", "result_key", "shared_copy")

TENANT = "tenant"
"""The key of `metadata` that keeps callers' caches apart."""

_CAPABILITY: str = QueryRequest.model_fields["capability"].default
_STRATEGY: str = QueryRequest.model_fields["strategy"].default
"""What counts where none was named."""


def result_key(
    query: QueryRequest | str | Sequence[Message],
    strategy: str | ModelSelector | None,
    manner: Hashable,
    said: Said,
) -> Hashable | None:
    """Return what the answer to a query is cached under: everything that shapes it.

    It is found without making a request of a text and its fields, which would cost more than all
    the rest of a hit.

    Args:
        query: The request, the text or the conversation.
        strategy: The strategy, where one stands beside the query.
        manner: How the request is executed; None for the manner of most, since any other takes
            long to hash.
        said: The fields of a request, beside a text or a conversation.

    Returns:
        None for what must not be cached: a request with tools acts on the world, and one whose
        parameters cannot be compared cannot be found again. A key may turn out to have no hash
        (with a tenant or a selector that has none): then the same holds.
    """
    # A class of pydantic's takes long to ask what is no instance of it.
    if not isinstance(query, (str, list)) and isinstance(query, QueryRequest):
        if said != NOTHING_SAID:
            return None  # a mistake, which whoever makes the request will tell of
        said = said_by(query)
        if strategy is None:
            strategy = query.strategy
        query = query.messages or query.query or ""
    capability, tokens, cost, latency, quality, models, exclude, _, _, params, metadata = said
    try:
        return (
            query if isinstance(query, str) else _conversation_key(query),
            _STRATEGY if strategy is None else strategy,
            manner,
            _CAPABILITY if capability is None else capability,
            tokens,
            cost,
            latency,
            quality,
            _composed_key(params, metadata, models, exclude)
            if params or metadata or models or exclude
            else None,
        )
    except (AttributeError, LookupError, TypeError, ValueError):
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


def _conversation_key(messages: Sequence[Message]) -> tuple[Hashable, ...]:
    key: list[Hashable] = []
    for message in messages:
        content = message.get("content")
        if type(content) is str and len(message) == 2:
            key.append((message["role"], content))  # nearly all are like this
        else:
            key.append(_canonical(message))
    return tuple(key)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def recalled(result: ExecutionResult) -> Callable[[str], ExecutionResult]:
    """Return what makes a kept result, for a request's id, as somebody gets it who did not pay."""
    return partial(ExecutionResult, *_shared(result, 0.0))


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
