"""OpenAI's chat completions, which many servers speak: what is sent and what comes back. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, final

from asyncroute._errors import ProtocolError, StreamInterruptedError
from asyncroute._values import Chunk, Completion, Usage
from asyncroute.providers._answer import Received, completion_of, json_object, usage_of
from asyncroute.providers._http_errors import Redact, error_from_payload
from asyncroute.providers._json import (
    count,
    decoded,
    first,
    object_of,
    objects_of,
    string_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncroute._protocols import Call
    from asyncroute.providers._sse import Event

__all__ = ("StreamedChat", "body_of", "completion_in", "read_completion")


# ---------------------------------------------------------------- a request


def body_of(
    call: Call,
    *,
    limit_field: str = "max_tokens",
    streamed: bool = False,
    asks_usage: bool = False,
) -> dict[str, Any]:
    """Write a request.

    Args:
        call: The call.
        limit_field: Where the longest answer goes, unless the call's parameters have one.
        streamed: Whether the answer shall be streamed.
        asks_usage: Whether a stream shall end with token counts.
    """
    params = call.params
    body: dict[str, Any] = {"model": call.model.model_id, **params, "messages": call.messages}
    known = ("max_completion_tokens", "max_tokens")
    field = next((field for field in known if field in params), limit_field)
    limits = [limit for limit in (call.max_tokens, params.get(field)) if limit is not None]
    if limits:
        body[field] = min(limits)
    body.pop("stream", None)
    options = body.pop("stream_options", None)
    if streamed:
        body["stream"] = True
        if asks_usage:
            body["stream_options"] = {"include_usage": True, **object_of(options)}
        elif options is not None:
            body["stream_options"] = options
    return body


# ---------------------------------------------------------------- a whole answer


def read_completion(call: Call, media_type: str, data: bytes, redact: Redact) -> Completion:
    """Read the body of a whole answer. See `completion_in`."""
    payload = json_object(media_type, data)
    if not payload:
        raise ProtocolError(f"answered with a body that is no JSON object ({len(data)} bytes)")
    return completion_in(call, payload, redact)


def completion_in(call: Call, payload: dict[str, Any], redact: Redact) -> Completion:
    """Read a whole answer, setting the call's usage before anything else can go wrong.

    Raises:
        ProviderError: The answer is an error, by kind.
        ContentRefusedError: The answer is nothing but a refusal.
        ProtocolError: The answer makes no sense.
    """
    choice = object_of(first(payload.get("choices")))
    call.usage = _usage(payload, choice) or call.usage
    if fault := payload.get("error") or choice.get("error"):
        raise error_from_payload({"error": fault}, redact=redact)
    message = object_of(choice.get("message"))
    if not message:
        raise ProtocolError("answered with JSON without choices")
    text, _ = _content(message.get("content"))
    finish_reason = string_of(choice.get("finish_reason")) or None
    tool_calls = tuple(objects_of(message.get("tool_calls")))
    model = string_of(payload.get("model")) or None
    completion = Completion(text, call.usage, finish_reason, tool_calls, model)
    return completion_of(completion, string_of(message.get("refusal")), redact)


def _usage(payload: dict[str, Any], choice: dict[str, Any]) -> Usage | None:
    """Read the token counts: OpenAI's, DeepSeek's, Groq's in streams, Moonshot's in streams."""
    counts = (
        object_of(payload.get("usage"))
        or object_of(object_of(payload.get("x_groq")).get("usage"))
        or object_of(choice.get("usage"))
    )
    received = count(counts.get("prompt_tokens"))
    generated = count(counts.get("completion_tokens"))
    if received is None and generated is None:
        return None
    of_input = object_of(counts.get("prompt_tokens_details"))
    of_output = object_of(counts.get("completion_tokens_details"))
    cached = count(of_input.get("cached_tokens"))
    if cached is None:
        cached = count(counts.get("prompt_cache_hit_tokens"))
    return usage_of(
        received or 0,
        generated or 0,
        reasoning=count(of_output.get("reasoning_tokens")),
        cached=cached,
        written=count(of_input.get("cache_write_tokens")),
        audio=count(of_input.get("audio_tokens")),
        spoken=count(of_output.get("audio_tokens")),
    )


def _content(content: object) -> tuple[str, str]:
    """Read text and reasoning of a content: a string, None, or parts (Mistral)."""
    if not isinstance(content, list):
        return string_of(content), ""
    parts = objects_of(cast("list[object]", content))
    thoughts = [part for whole in parts for part in objects_of(whole.get("thinking"))]
    return _joined(parts), _joined(thoughts)


def _joined(parts: list[dict[str, Any]]) -> str:
    return "".join(string_of(part.get("text")) for part in parts)


# ---------------------------------------------------------------- a streamed answer


@final
class StreamedChat:
    """What has come of a streamed answer, and whether that is all of it.

    Args:
        call: The call it answers, whose usage is set as soon as it comes.
        redact: Takes secrets out of what errors say.
        done_marker: Whether it must end with `[DONE]`.
    """

    __slots__ = ("_done_marker", "_received", "_redact", "call", "is_done")

    def __init__(self, call: Call, redact: Redact, *, done_marker: bool = True) -> None:
        self.call = call
        self.is_done = False
        self._redact = redact
        self._done_marker = done_marker
        self._received = Received()

    def take(self, event: Event) -> Iterator[Chunk]:
        """Take in an event and give the chunks it makes.

        Raises:
            ProviderError: The event is an error, by kind.
            StreamInterruptedError: The event makes no sense.
        """
        if self.is_done:
            return
        if event.data.strip() == "[DONE]":
            self.is_done = True
            return
        payload = object_of(decoded(event.data))
        choice = self._choice(payload)
        fault = payload.get("error") or choice.get("error")
        if fault or event.name == "error":
            said = {"error": fault} if fault else payload or event.data
            raise error_from_payload(said, redact=self._redact)
        if not payload:
            raise self.interrupted(f"a chunk of {len(event.data)} characters is no JSON object")
        self.call.usage = _usage(payload, choice) or self.call.usage
        received = self._received
        received.finish_reason = string_of(choice.get("finish_reason")) or received.finish_reason
        yield from self._chunks(object_of(choice.get("delta")))

    def _choice(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Find the first of several answers, if the event is about that one."""
        choices = objects_of(payload.get("choices"))
        return next((choice for choice in choices if not choice.get("index")), object_of(None))

    def _chunks(self, delta: dict[str, Any]) -> Iterator[Chunk]:
        text, thoughts = _content(delta.get("content"))
        reasoning = (
            string_of(delta.get("reasoning_content"))
            or string_of(delta.get("reasoning"))
            or thoughts
        )
        self._received.refuse(string_of(delta.get("refusal")))
        if text or reasoning:
            yield self._received.say(text, reasoning)
        for tool_call in objects_of(delta.get("tool_calls")):
            self._received.tool_calls += 1
            yield Chunk(tool_call=tool_call)

    def end(self) -> Chunk:
        """Give the last chunk.

        Raises:
            StreamInterruptedError: There was no end.
            ContentRefusedError: There was nothing else.
        """
        if self._received.finish_reason and self._done_marker and not self.is_done:
            raise self.interrupted("the stream ended without [DONE]")
        return self._received.last_chunk(self.call, self._redact)

    def interrupted(self, why: str) -> StreamInterruptedError:
        """Make the error of a stream that broke here."""
        return self._received.interrupted(why)
