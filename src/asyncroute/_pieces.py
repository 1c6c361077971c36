"""What came of a streamed answer so far, put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

from asyncroute._errors import ProtocolError
from asyncroute._estimate import text_tokens
from asyncroute._protocols import Call
from asyncroute._values import Chunk, Completion

__all__ = ("Pieces",)


@final
class Pieces:
    """Gathers the chunks of one answer, as each comes: nothing here is done twice for a chunk.

    Args:
        call: Told of the usage as soon as it comes.

    Attributes:
        finish_reason: Why the answer ended; None before its last chunk.
    """

    __slots__ = ("_call", "_reasoning", "_texts", "_tool_calls", "finish_reason")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[Mapping[str, Any]] = []
        self.finish_reason: str | None = None

    def add(self, chunk: Chunk) -> None:
        """Take up one more chunk.

        Raises:
            ProtocolError: A part of it is not what it should be.
        """
        if not isinstance(chunk, Chunk):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ProtocolError(f"the provider yielded a {type(chunk).__name__}, not a Chunk")
        if text := chunk.text:
            if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise _no_text(text)
            self._texts.append(text)
        if reasoning := chunk.reasoning:
            if not isinstance(reasoning, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise _no_text(reasoning)
            self._reasoning.append(reasoning)
        if chunk.tool_call is not None:
            _function_of(chunk.tool_call)
            self._tool_calls.append(chunk.tool_call)
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            self._call.usage = chunk.usage

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def tokens(self) -> int:
        """An estimate of the tokens that came, reasoning included."""
        return text_tokens(self.text) + text_tokens("".join(self._reasoning))

    def completion(self) -> Completion:
        """The answer as one that was not streamed would be."""
        tool_calls = tuple(_whole(self._tool_calls))
        return Completion(self.text, self._call.usage, self.finish_reason, tool_calls)


def _no_text(found: object) -> ProtocolError:
    return ProtocolError(f"a chunk's text must be a str, got a {type(found).__name__}")


def _function_of(piece: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(piece, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ProtocolError(f"a chunk's tool_call must be a mapping, got a {type(piece).__name__}")
    function: object = piece.get("function") or {}
    if not isinstance(function, Mapping):
        raise ProtocolError(f"a tool call's function must be a mapping, got {function!r:.80}")
    return cast("Mapping[str, Any]", function)


def _whole(pieces: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put the pieces of tool calls together: the first names the call, all bring arguments.

    Pieces of one call share an `index`; where a provider does not number them, an id or a name
    begins the next call.
    """
    calls: dict[str, dict[str, Any]] = {}
    current = ""
    for piece in pieces:
        brought = _function_of(piece)
        if piece.get("id") or brought.get("name"):
            current = str(piece.get("id") or len(calls))
        call = calls.setdefault(str(piece.get("index", current)), {})
        before: dict[str, Any] = call.get("function", {})
        call.update({key: part for key, part in piece.items() if part and key != "index"})
        if brought:
            function = {**before, **{key: part for key, part in brought.items() if part}}
            arguments = (before.get("arguments", ""), brought.get("arguments") or "")
            if all(isinstance(part, str) for part in arguments):
                function["arguments"] = "".join(arguments)
            call["function"] = function
        elif before:
            call["function"] = before
    return list(calls.values())
