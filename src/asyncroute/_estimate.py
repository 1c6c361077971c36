"""How many tokens a request has before anybody has counted them."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import ref

from asyncroute._inputs import Message, QueryRequest

__all__ = ("DEFAULT_OUTPUT_TOKENS", "forget_count", "input_tokens", "text_tokens")

DEFAULT_OUTPUT_TOKENS = 256
"""Expected length of an answer while nothing is known."""

_PER_MESSAGE = 4
"""Chat templates wrap every message in a few tokens of their own."""

_PER_IMAGE = 800
"""Providers bill an image of ordinary size with some hundreds of tokens."""


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text: four characters each, or four bytes where it is not ASCII.

    Bytes, because scripts outside ASCII come to about a token a character.
    """
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return (size + 3) // 4


def input_tokens(request: QueryRequest) -> int:
    """Estimate the tokens of a request's query or messages."""
    query = request.query
    if query is not None:
        # As `text_tokens`, but for its call.
        size = len(query) if query.isascii() else len(query.encode(errors="replace"))
        return (size + 3) // 4 + _PER_MESSAGE
    counted, tokens = _latest[0]
    if counted is not None and counted() is request:
        return tokens
    tokens = sum(map(_message_tokens, request.messages or ()))
    _latest[0] = (ref(request), tokens)
    return tokens


def forget_count() -> None:
    """Have the next conversation counted anew, also if it is the same."""
    _latest[0] = _NONE


_NONE: tuple[None, int] = (None, 0)
_latest: list[tuple[ref[QueryRequest] | None, int]] = [_NONE]
"""The conversation counted last: a long one is asked for again and again, once by each candidate.

Weak, so that it keeps nobody's conversation; one tuple, so that other threads see all or nothing.
"""


def _message_tokens(message: Message) -> int:
    content = message.get("content")
    if isinstance(content, str):
        return text_tokens(content) + _PER_MESSAGE
    if isinstance(content, Iterable):
        return sum(map(_part_tokens, content)) + _PER_MESSAGE  # pyright: ignore[reportUnknownArgumentType]
    return _PER_MESSAGE


def _part_tokens(part: object) -> int:
    if isinstance(part, str):
        return text_tokens(part)
    if isinstance(part, dict):
        text = part.get("text")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return text_tokens(text) if isinstance(text, str) else _PER_IMAGE
    return 0
