"""A request as a caller says it: a text or a conversation, with fields as keywords."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from asyncroute._inputs import Message, QueryRequest, RequestFields

__all__ = ("NOTHING_SAID", "Said", "in_order", "request_from", "said_by")

Said = tuple[Any, ...]
"""The values of `RequestFields` in their order; None for what was not said."""

_NAMES = tuple(RequestFields.__annotations__)

NOTHING_SAID: Said = (None,) * len(_NAMES)

said_by = attrgetter(*_NAMES)
"""What a ready request says; defaults stand for what was not said."""


def in_order(fields: RequestFields) -> Said:
    """Put fields into their order.

    Raises:
        TypeError: There is no such field.
    """
    if not fields:
        return NOTHING_SAID
    unknown = sorted(fields.keys() - _NAMES)
    if unknown:
        raise TypeError(f"a request has no {', '.join(unknown)}; it has {', '.join(_NAMES)}")
    return tuple([fields.get(name) for name in _NAMES])


def request_from(
    query: QueryRequest | str | Sequence[Message], strategy: object, said: Said
) -> QueryRequest:
    """Make a request, or take the one that is ready.

    Args:
        query: The text, a conversation, or a ready request.
        strategy: Made a field if it is a name, for a text or a conversation.
        said: The fields beside a text or a conversation.

    Raises:
        TypeError: Fields beside a ready request.
        ValidationError: A field's value is bad.
    """
    # Whether it is a text first: a class of pydantic's takes long to ask what is no instance of it.
    if not isinstance(query, str) and isinstance(query, QueryRequest):
        if said != NOTHING_SAID:
            named = ", ".join(_given(said))
            raise TypeError(f"{named}: put it into the QueryRequest, or give a text instead")
        return query
    given = _given(said)
    given["query" if isinstance(query, str) else "messages"] = query
    if isinstance(strategy, str):
        given["strategy"] = strategy
    # What `QueryRequest(**given)` comes to, for three quarters of the time.
    return QueryRequest.__pydantic_validator__.validate_python(given)


def _given(said: Said) -> dict[str, Any]:
    return {_NAMES[i]: value for i, value in enumerate(said) if value is not None}
