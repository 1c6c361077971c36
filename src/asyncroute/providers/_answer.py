"""What an answer comes to, whichever API gave it: refusals, tool calls, the state of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from asyncroute._errors import ContentRefusedError, ProtocolError, StreamInterruptedError
from asyncroute._values import Chunk, Completion, Usage
from asyncroute.providers._json import decoded, object_of

if TYPE_CHECKING:
    from asyncroute._protocols import Call
    from asyncroute.providers._http_errors import Redact

__all__ = ("Received", "completion_of", "json_object", "tool_call", "usage_of")


def json_object(media_type: str, data: bytes) -> dict[str, Any]:
    """Read the body of a whole answer; what is no JSON object gives an empty one.

    Raises:
        ProtocolError: It says itself that it is something else than JSON.
    """
    if "json" not in media_type and media_type not in ("", "text/plain"):
        raise ProtocolError(f"answered with {media_type}, not with JSON")
    return object_of(decoded(data))


def usage_of(
    received: int,
    generated: int,
    *,
    reasoning: int | None = None,
    cached: int | None = None,
    written: int | None = None,
    audio: int | None = None,
    spoken: int | None = None,
) -> Usage:
    """Make the usage of what a server counted, and be sure that no token is counted twice.

    Args:
        received: Tokens of input.
        generated: Tokens of output, reasoning included.
        reasoning: Those of reasoning; None, here and below, where the server does not say.
        cached: Those of input that were read from its cache.
        written: Those of input that were written to its cache.
        audio: Those of input that are audio.
        spoken: Those of output that are audio.
    """
    left = received
    cached = min(cached or 0, left)
    left -= cached
    written = min(written or 0, left)
    left -= written
    return Usage(
        received,
        generated,
        cached,
        reasoning or 0,
        cache_write_tokens=written,
        audio_input_tokens=min(audio or 0, left),
        audio_output_tokens=min(spoken or 0, generated),
    )


def tool_call(
    call_id: str, name: str, arguments: str, *, index: int | None = None
) -> dict[str, Any]:
    """Make a tool call, or with an index the first piece of a streamed one, as chat APIs do."""
    function = {"name": name, "arguments": arguments}
    made: dict[str, Any] = {"id": call_id, "type": "function", "function": function}
    return made if index is None else {"index": index, **made}


def completion_of(completion: Completion, refusal: str, redact: Redact) -> Completion:
    """Let an answer pass that says something.

    Raises:
        ContentRefusedError: There is nothing but a refusal.
    """
    if not (completion.text or completion.tool_calls):
        _raise_if_refused(completion.finish_reason, refusal, redact)
    return completion


def _raise_if_refused(finish_reason: str | None, refusal: str, redact: Redact) -> None:
    if refusal or finish_reason == "content_filter":
        said = redact(refusal)[:300] or "the provider's filter left nothing of the answer"
        raise ContentRefusedError(said)


@final
class Received:
    """What has come of a streamed answer.

    Attributes:
        finish_reason: Why it ended, as soon as that is known.
        tool_calls: How many tool calls it has begun.
    """

    __slots__ = ("_refusal", "_size", "_text", "finish_reason", "tool_calls")

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.tool_calls = 0
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._size = 0

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def estimated_tokens(self) -> int:
        """The tokens so far, roughly: what is shown of them, four characters each."""
        return (self._size + 3) // 4

    def say(self, text: str, reasoning: str = "") -> Chunk:
        """Take in a piece of text or reasoning."""
        self._text.append(text)
        self._size += len(text) + len(reasoning)
        return Chunk(text, reasoning)

    def refuse(self, refusal: str) -> None:
        """Take in a piece of a refusal."""
        self._refusal.append(refusal)

    def begin_tool_call(self, call_id: str, name: str, arguments: str = "") -> Chunk:
        """Take in the first piece of the next tool call, or all of it."""
        index = self.tool_calls
        self.tool_calls += 1
        self._size += len(name) + len(arguments)
        return Chunk(tool_call=tool_call(call_id, name, arguments, index=index))

    def go_on_with_tool_call(self, index: int, arguments: str) -> Chunk:
        """Take in a further piece of a tool call's arguments."""
        self._size += len(arguments)
        return Chunk(tool_call={"index": index, "function": {"arguments": arguments}})

    def last_chunk(self, call: Call, redact: Redact) -> Chunk:
        """Give the last chunk.

        Raises:
            StreamInterruptedError: There was no finish reason.
            ContentRefusedError: There was nothing but a refusal.
        """
        if self.finish_reason is None:
            raise self.interrupted("the stream ended without a finish reason")
        if not (self.tool_calls or any(self._text)):
            _raise_if_refused(self.finish_reason, "".join(self._refusal), redact)
        return Chunk(finish_reason=self.finish_reason, usage=call.usage)

    def interrupted(self, why: str) -> StreamInterruptedError:
        """Make the error of a stream that broke here."""
        return StreamInterruptedError(why, text=self.text)
