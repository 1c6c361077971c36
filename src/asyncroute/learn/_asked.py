"""What a request asks: the one text that is looked at, and logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncroute._inputs import QueryRequest

__all__ = ("text_of",)


def text_of(request: QueryRequest) -> str:
    """Return the query, or the text of the last message of the user."""
    if request.query is not None:
        return request.query
    for message in reversed(request.messages or ()):
        if message.get("role") == "user":
            return _text_in(message.get("content"))
    return ""


def _text_in(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts: list[str] = []
    for part in content:  # pyright: ignore[reportUnknownVariableType]
        text: object = part.get("text") if isinstance(part, Mapping) else part  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if isinstance(text, str):
            parts.append(text)
    return "\n".join(parts)
