"""Anthropic's Messages API, asked in the words of chat completions and answered in them. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast, final

from asyncroute._errors import BadRequestError, ProtocolError, StreamInterruptedError
from asyncroute._values import Chunk, Completion, Usage
from asyncroute.providers._answer import Received, completion_of, json_object, tool_call, usage_of
from asyncroute.providers._http_errors import Redact, error_from_payload
from asyncroute.providers._json import count, decoded, object_of, objects_of, string_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from asyncroute._inputs import Message
    from asyncroute._protocols import Call
    from asyncroute.providers._sse import Event

__all__ = ("StreamedMessage", "messages_body", "read_message")

Block = dict[str, Any]


# ---------------------------------------------------------------- a request


def messages_body(call: Call, *, default_limit: int, streamed: bool = False) -> dict[str, Any]:
    """Write a request. What has no other name here passes through.

    Args:
        call: The call.
        default_limit: The longest answer where neither the request nor the model has a limit:
            the API insists on one.
        streamed: Whether the answer shall be streamed.

    Raises:
        BadRequestError: The arguments of an earlier tool call are no JSON object.
    """
    params = call.params
    asked = [params.pop(name, None) for name in ("max_completion_tokens", "max_tokens")]
    limits = [limit for limit in (*asked, call.max_tokens) if limit is not None]
    body: dict[str, Any] = {
        "model": call.model.model_id,
        **params,
        "max_tokens": min(limits, default=min(default_limit, call.model.max_tokens)),
    }
    system = [block for it in call.messages if _is_system(it) for block in _blocks(it)]
    if system:
        body["system"] = system
    body["messages"] = _turns(call.messages)
    _translate_tools(body)
    _translate_format(body)
    stop = body.pop("stop", None)
    if stop is not None:
        body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if (user := body.pop("user", None)) is not None:
        body["metadata"] = {"user_id": user, **object_of(body.get("metadata"))}
    body.pop("stream", None)
    body.pop("stream_options", None)
    if streamed:
        body["stream"] = True
    return body


def _is_system(message: Message) -> bool:
    return message["role"] in ("system", "developer")


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Give the turns of user and assistant: results of tools are the user's, and go together."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        blocks = [] if _is_system(message) else list(_blocks(message))
        role = "user" if message["role"] == "tool" else message["role"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:  # an empty turn the API refuses
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> Iterator[Block]:
    """Give the content blocks of one chat message."""
    content = list(_content(message.get("content")))
    if message["role"] == "tool":
        yield {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id"),
            "content": content,
        }
        return
    yield from content
    for asked in objects_of(message.get("tool_calls")):
        function = object_of(asked.get("function"))
        yield {
            "type": "tool_use",
            "id": asked.get("id"),
            "name": function.get("name"),
            "input": _input(asked.get("id"), function.get("arguments")),
        }


def _content(content: object) -> Iterator[Block]:
    """Give the blocks of a content: a text or parts. Empty texts the API refuses."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in objects_of(content):
        if part.get("type") != "text" or part.get("text"):
            yield _block(part)


def _block(part: Block) -> Block:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}, **more}:
            return {"type": "image", "source": _source(url), **more}
        case {"type": "image_url", "image_url": str(url), **more}:
            return {"type": "image", "source": _source(url), **more}
        case {"type": "file", "file": {"file_data": str(url)}, **more}:
            return {"type": "document", "source": _source(url), **more}
        case _:
            return part


def _source(url: str) -> dict[str, str]:
    scheme, _, data = url.partition(";base64,")
    if data and scheme.startswith("data:"):
        return {"type": "base64", "media_type": scheme.removeprefix("data:"), "data": data}
    return {"type": "url", "url": url}


def _input(call_id: object, arguments: object) -> dict[str, Any]:
    if not arguments:
        return {}
    given: object = decoded(arguments) if isinstance(arguments, str) else arguments
    if isinstance(given, dict):
        return cast("dict[str, Any]", given)
    raise BadRequestError(f"tool call {call_id!r}: its arguments are no JSON object")


def _translate_tools(body: dict[str, Any]) -> None:
    if "tools" in body:
        body["tools"] = [_tool(tool) for tool in body["tools"]]
    choice = _tool_choice(body.pop("tool_choice", None))
    if not body.pop("parallel_tool_calls", True):
        choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
    if choice:
        body["tool_choice"] = choice


_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    match tool:
        case {"type": "function", "function": {**function}, **more}:
            schema = object_of(function.pop("parameters", None))
            return {**function, "input_schema": schema or _NO_PARAMETERS, **more}
        case _:
            return tool


def _tool_choice(choice: object) -> dict[str, Any]:
    match choice:
        case "required":
            return {"type": "any"}
        case str(word):
            return {"type": word}
        case {"type": "function"}:
            return {
                "type": "tool",
                "name": object_of(object_of(choice).get("function")).get("name"),
            }
        case _:
            return object_of(choice)


def _translate_format(body: dict[str, Any]) -> None:
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            wanted = {"type": "json_schema", "schema": schema}
            body["output_config"] = {**object_of(body.get("output_config")), "format": wanted}
        case {"type": "text"} | None:
            pass
        case _:
            return  # there is no such thing: the API says so
    body.pop("response_format", None)


# ---------------------------------------------------------------- a whole answer

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def _finish_reason(stop_reason: object) -> str | None:
    word = string_of(stop_reason)
    return _FINISH_REASONS.get(word, word) or None


def read_message(call: Call, media_type: str, data: bytes, redact: Redact) -> Completion:
    """Read the body of a whole answer, setting the call's usage before all else.

    Raises:
        ProviderError: The answer is an error, by kind.
        ContentRefusedError: The answer is nothing but a refusal.
        ProtocolError: The answer makes no sense.
    """
    payload = json_object(media_type, data)
    call.usage = _usage(payload.get("usage")) or call.usage
    if payload.get("error"):
        raise error_from_payload(payload, redact=redact)
    finish_reason = _finish_reason(payload.get("stop_reason"))
    if finish_reason is None or not isinstance(payload.get("content"), list):
        raise ProtocolError(f"answered with JSON that is no message ({len(data)} bytes)")
    blocks = objects_of(payload.get("content"))
    text = "".join(string_of(it.get("text")) for it in blocks if it.get("type") == "text")
    tool_calls = tuple(
        tool_call(string_of(it.get("id")), string_of(it.get("name")), _written(it.get("input")))
        for it in blocks
        if it.get("type") == "tool_use"
    )
    model = string_of(payload.get("model")) or None
    completion = Completion(text, call.usage, finish_reason, tool_calls, model)
    return completion_of(completion, "", redact)


def _written(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False)


def _usage(usage: object, before: Usage | None = None) -> Usage | None:
    """Read the token counts; what is left out is as it was before.

    The API counts what it read from its cache, and wrote to it, apart from other input.
    """
    counts = object_of(usage)
    received, generated = count(counts.get("input_tokens")), count(counts.get("output_tokens"))
    if received is None and generated is None:
        return before
    reasoned = count(object_of(counts.get("output_tokens_details")).get("thinking_tokens")) or 0
    if received is None:
        known = before or Usage()
        return replace(known, output_tokens=generated or 0, reasoning_tokens=reasoned)
    cached = count(counts.get("cache_read_input_tokens")) or 0
    written = count(counts.get("cache_creation_input_tokens")) or 0
    return usage_of(
        received + cached + written,
        generated or 0,
        reasoning=reasoned,
        cached=cached,
        written=written,
    )


# ---------------------------------------------------------------- a streamed answer


@final
class StreamedMessage:
    """What has come of a streamed answer, and whether that is all of it.

    The call's usage is set with the first event, which tells the input, and until the last one,
    which tells the output, it holds an estimate of what has come: so a call that is cancelled is
    billed with what it cost.

    Args:
        call: The call it answers.
        redact: Takes secrets out of what errors say.
    """

    __slots__ = ("_known", "_received", "_redact", "call", "is_done")

    def __init__(self, call: Call, redact: Redact) -> None:
        self.call = call
        self.is_done = False
        self._known: Usage | None = None
        self._redact = redact
        self._received = Received()

    def take(self, event: Event) -> Iterator[Chunk]:
        """Take in an event and give the chunks it makes.

        Raises:
            ProviderError: The event is an error, by kind.
            StreamInterruptedError: The event makes no sense.
        """
        if self.is_done:
            return
        payload = object_of(decoded(event.data))
        if event.name == "error" or payload.get("error"):
            raise error_from_payload(payload or event.data, redact=self._redact)
        if not payload:
            raise self.interrupted(f"a chunk of {len(event.data)} characters is no JSON object")
        match payload.get("type"):
            case "content_block_start":
                yield from self._begin(object_of(payload.get("content_block")))
            case "content_block_delta":
                yield from self._go_on(object_of(payload.get("delta")))
            case "message_start":
                self._count(object_of(payload.get("message")).get("usage"))
            case "message_delta":
                stop_reason = object_of(payload.get("delta")).get("stop_reason")
                self._received.finish_reason = _finish_reason(stop_reason)
                self._count(payload.get("usage"))
            case "message_stop":
                self.is_done = True
            case _:
                pass  # pings, ends of blocks, and what is new

    def _begin(self, block: Block) -> Iterator[Chunk]:
        if block.get("type") == "tool_use":
            call_id, name = string_of(block.get("id")), string_of(block.get("name"))
            yield self._received.begin_tool_call(call_id, name)
        elif text := string_of(block.get("text")):
            yield self._received.say(text)

    def _go_on(self, delta: Block) -> Iterator[Chunk]:
        received = self._received
        text, reasoning = string_of(delta.get("text")), string_of(delta.get("thinking"))
        arguments = string_of(delta.get("partial_json"))
        if text or reasoning:
            yield received.say(text, reasoning)
        elif arguments and received.tool_calls:
            yield received.go_on_with_tool_call(received.tool_calls - 1, arguments)
        self._estimate()

    def _count(self, usage: object) -> None:
        self._known = self.call.usage = _usage(usage, self._known)
        if self._received.finish_reason is None:
            self._estimate()

    def _estimate(self) -> None:
        if (known := self._known) is not None:
            so_far = max(known.output_tokens, self._received.estimated_tokens)
            self.call.usage = replace(known, output_tokens=so_far, estimated=True)

    def end(self) -> Chunk:
        """Give the last chunk.

        Raises:
            StreamInterruptedError: There was no end.
            ContentRefusedError: There was nothing else.
        """
        if self._received.finish_reason and not self.is_done:
            raise self.interrupted("the stream ended without message_stop")
        return self._received.last_chunk(self.call, self._redact)

    def interrupted(self, why: str) -> StreamInterruptedError:
        """Make the error of a stream that broke here."""
        return self._received.interrupted(why)
