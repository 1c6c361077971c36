"""OpenAI's Responses API, asked in the words of chat completions and answered in them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from asyncroute._errors import ProtocolError, StreamInterruptedError
from asyncroute._values import Chunk, Completion, Usage
from asyncroute.providers._answer import Received, completion_of, json_object, tool_call, usage_of
from asyncroute.providers._http_errors import Redact, error_from_payload
from asyncroute.providers._json import count, decoded, object_of, objects_of, string_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from asyncroute._inputs import Message
    from asyncroute._protocols import Call
    from asyncroute.providers._sse import Event

__all__ = ("StreamedResponse", "read_response", "response_body")


# ---------------------------------------------------------------- a request


def response_body(call: Call, *, streamed: bool = False) -> dict[str, Any]:
    """Write a request. What has no other name here passes through; nothing is stored by default."""
    params = call.params
    wanted = [params.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
    limits = [n for n in (*wanted, params.get("max_output_tokens"), call.max_tokens) if n]
    body: dict[str, Any] = {"model": call.model.model_id, "store": False, **params}
    body["input"] = [item for message in call.messages for item in _items(message)]
    if limits:
        body["max_output_tokens"] = min(limits)
    if "tools" in body:
        body["tools"] = [_flat(tool, "function") for tool in body["tools"]]
    if "tool_choice" in body:
        body["tool_choice"] = _flat(body["tool_choice"], "function")
    if (effort := body.pop("reasoning_effort", None)) is not None:
        body["reasoning"] = {"effort": effort, **object_of(body.get("reasoning"))}
    if (wanted_format := body.pop("response_format", None)) is not None:
        text = object_of(body.get("text"))
        body["text"] = {**text, "format": _flat(wanted_format, "json_schema")}
    body.pop("stream", None)
    body.pop("stream_options", None)
    if streamed:
        body["stream"] = True
    return body


def _flat(value: object, inner: str) -> object:
    """Lift what chat completions nest: `{"type": t, t: {…}}` becomes `{"type": t, …}`."""
    outer = object_of(value)
    nested = object_of(outer.get(inner))
    if not nested:
        return value
    return {**{name: it for name, it in outer.items() if name != inner}, **nested}


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """Give the input items of one chat message."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        output = _parts(content, role)
        yield {
            "type": "function_call_output",
            "call_id": message.get("tool_call_id"),
            "output": output,
        }
        return
    if content:
        yield {"role": role, "content": _parts(content, role)}
    for asked in objects_of(message.get("tool_calls")):
        function = object_of(asked.get("function"))
        yield {
            "type": "function_call",
            "call_id": asked.get("id"),
            "name": function.get("name"),
            "arguments": function.get("arguments"),
        }


def _parts(content: object, role: str) -> object:
    return content if isinstance(content, str) else [_part(it, role) for it in objects_of(content)]


def _part(part: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    match part:
        case {"type": "text", "text": text}:
            return {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "image_url": url, **more}
        case {"type": "image_url", "image_url": url}:
            return {"type": "input_image", "image_url": url}
        case {"type": "file", "file": {**file}}:
            return {"type": "input_file", **file}
        case _:
            return part


# ---------------------------------------------------------------- a whole answer


def read_response(call: Call, media_type: str, data: bytes, redact: Redact) -> Completion:
    """Read the body of a whole answer, setting the call's usage before all else.

    Raises:
        ProviderError: The answer is an error, by kind.
        ContentRefusedError: The answer is nothing but a refusal.
        ProtocolError: The answer makes no sense.
    """
    payload = json_object(media_type, data)
    call.usage = _usage(payload) or call.usage
    if payload.get("error"):
        raise error_from_payload(payload, redact=redact)
    items = objects_of(payload.get("output"))
    finish_reason = _finish_reason(payload, has_tool_calls=any(map(_is_call, items)))
    if finish_reason is None:
        status = string_of(payload.get("status")) or "none"
        raise ProtocolError(f"answered with a response of status {status} ({len(data)} bytes)")
    parts = [part for item in items for part in objects_of(item.get("content"))]
    text = _joined(parts, "output_text", "text")
    tool_calls = tuple(
        tool_call(string_of(it.get("call_id")), string_of(it.get("name")), _arguments(it))
        for it in items
        if _is_call(it)
    )
    model = string_of(payload.get("model")) or None
    completion = Completion(text, call.usage, finish_reason, tool_calls, model)
    return completion_of(completion, _joined(parts, "refusal", "refusal"), redact)


def _is_call(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "function_call"


def _arguments(item: Mapping[str, Any]) -> str:
    return string_of(item.get("arguments"))


def _joined(parts: list[dict[str, Any]], kind: str, field: str) -> str:
    return "".join(string_of(part.get(field)) for part in parts if part.get("type") == kind)


def _finish_reason(payload: dict[str, Any], *, has_tool_calls: bool) -> str | None:
    """Give the reason in the words of chat completions; None for an answer that is not over."""
    match payload.get("status"):
        case "completed":
            return "tool_calls" if has_tool_calls else "stop"
        case "incomplete":
            reason = string_of(object_of(payload.get("incomplete_details")).get("reason"))
            return "length" if reason == "max_output_tokens" else reason or "length"
        case _:
            return None


def _usage(payload: dict[str, Any]) -> Usage | None:
    counts = object_of(payload.get("usage"))
    received, generated = count(counts.get("input_tokens")), count(counts.get("output_tokens"))
    if received is None or generated is None:
        return None
    of_input = object_of(counts.get("input_tokens_details"))
    of_output = object_of(counts.get("output_tokens_details"))
    return usage_of(
        received,
        generated,
        reasoning=count(of_output.get("reasoning_tokens")),
        cached=count(of_input.get("cached_tokens")),
        written=count(of_input.get("cache_write_tokens")),
    )


# ---------------------------------------------------------------- a streamed answer


@final
class StreamedResponse:
    """What has come of a streamed answer, and whether that is all of it.

    Args:
        call: The call it answers, whose usage is set at the end.
        redact: Takes secrets out of what errors say.
    """

    __slots__ = ("_calls", "_received", "_redact", "call", "is_done")

    def __init__(self, call: Call, redact: Redact) -> None:
        self.call = call
        self.is_done = False
        self._redact = redact
        self._received = Received()
        self._calls: dict[object, int] = {}  # place in the output: number of the tool call

    def take(self, event: Event) -> Iterator[Chunk]:
        """Take in an event and give the chunks it makes.

        Raises:
            ProviderError: The event is an error, by kind.
            StreamInterruptedError: The event makes no sense.
        """
        if self.is_done or event.data.strip() == "[DONE]":
            return
        payload = object_of(decoded(event.data))
        if not payload:
            raise self.interrupted(f"a chunk of {len(event.data)} characters is no JSON object")
        delta = string_of(payload.get("delta"))
        received = self._received
        match payload.get("type"):
            case "response.output_text.delta":
                yield received.say(delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield received.say("", delta)
            case "response.refusal.delta":
                received.refuse(delta)
            case "response.output_item.added":
                yield from self._begin(payload)
            case "response.function_call_arguments.delta":
                index = self._calls.get(payload.get("output_index"), 0)
                yield received.go_on_with_tool_call(index, delta)
            case "response.completed" | "response.incomplete" | "response.failed":
                self._close(object_of(payload.get("response")))
            case _ if "error" in (event.name, payload.get("type")) or payload.get("error"):
                raise error_from_payload(payload, redact=self._redact)
            case _:
                pass

    def _begin(self, payload: dict[str, Any]) -> Iterator[Chunk]:
        item = object_of(payload.get("item"))
        if _is_call(item):
            self._calls[payload.get("output_index")] = self._received.tool_calls
            call_id, name = string_of(item.get("call_id")), string_of(item.get("name"))
            yield self._received.begin_tool_call(call_id, name, _arguments(item))

    def _close(self, response: dict[str, Any]) -> None:
        self.call.usage = _usage(response) or self.call.usage
        has_tool_calls = self._received.tool_calls > 0
        self._received.finish_reason = _finish_reason(response, has_tool_calls=has_tool_calls)
        if self._received.finish_reason is None:
            raise error_from_payload(response, redact=self._redact)
        self.is_done = True

    def end(self) -> Chunk:
        """Give the last chunk.

        Raises:
            StreamInterruptedError: There was no end.
            ContentRefusedError: There was nothing else.
        """
        return self._received.last_chunk(self.call, self._redact)

    def interrupted(self, why: str) -> StreamInterruptedError:
        """Make the error of a stream that broke here."""
        return self._received.interrupted(why)
