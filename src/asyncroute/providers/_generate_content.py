"""Gemini's generateContent, asked in the words of chat completions and answered in them. Pure.

Requests and answers are dictionaries in the form of the SDK's models: names in snake case, bytes
as bytes when asked, as base64 when answered.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

from asyncroute._errors import (
    BadRequestError,
    ContentRefusedError,
    ProtocolError,
    StreamInterruptedError,
)
from asyncroute._values import Chunk, Completion, Usage
from asyncroute.providers._answer import Received, completion_of, tool_call, usage_of
from asyncroute.providers._json import count, decoded, first, object_of, objects_of, string_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from asyncroute._inputs import Message
    from asyncroute._protocols import Call
    from asyncroute.providers._http_errors import Redact

__all__ = ("Request", "StreamedContent", "read_content", "request_of")

Part = dict[str, Any]


class Request(NamedTuple):
    """What `generate_content` takes."""

    model: str
    contents: list[dict[str, Any]]
    config: dict[str, Any]


# ---------------------------------------------------------------- a request

# Names of the chat API, and what they are here.
_NAMES = {"n": "candidate_count", "logprobs": "response_logprobs", "top_logprobs": "logprobs"}


def request_of(call: Call) -> Request:
    """Write a request. What has no other name here passes through into the config.

    Raises:
        BadRequestError: The arguments of an earlier tool call, or the data of an image, are none.
    """
    params = call.params
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    limits = [n for n in (call.max_tokens, *(params.pop(name, None) for name in names)) if n]
    model = string_of(params.pop("model", None)) or call.model.model_id
    for name in ("stream", "stream_options"):
        params.pop(name, None)
    config = {_NAMES.get(name, name): value for name, value in params.items()}
    if limits:
        config["max_output_tokens"] = min(limits)
    system = [part for message in call.messages if _is_system(message) for part in _parts(message)]
    if system:
        config["system_instruction"] = {"parts": system}
    stop = config.pop("stop", None)
    if stop is not None:
        config["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    _translate_tools(config)
    _translate_format(config)
    return Request(model, _turns(call.messages), config)


def _is_system(message: Message) -> bool:
    return message["role"] in ("system", "developer")


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Give the turns of user and model: results of functions are the user's, and go together."""
    names: dict[object, object] = {}  # of functions called, by the id of their call
    turns: list[dict[str, Any]] = []
    for message in messages:
        parts = [] if _is_system(message) else list(_said(message, names))
        role = "model" if message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    return turns


def _said(message: Message, names: dict[object, object]) -> Iterator[Part]:
    if message["role"] == "tool":
        yield _result(message, names)
        return
    yield from _parts(message)
    for asked in objects_of(message.get("tool_calls")):
        names[asked.get("id")] = object_of(asked.get("function")).get("name")
        yield _function_call(asked)


def _function_call(asked: dict[str, Any]) -> Part:
    function = object_of(asked.get("function"))
    arguments: object = function.get("arguments") or "{}"
    given: object = decoded(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(given, dict):
        call_id = asked.get("id")
        raise BadRequestError(f"tool call {call_id!r}: its arguments are no JSON object")
    args = cast("dict[str, Any]", given)
    part: Part = {"function_call": {"name": function.get("name"), "args": args}}
    # Without it newer models refuse to go on from their own calls.
    google = object_of(object_of(asked.get("extra_content")).get("google"))
    if signature := string_of(google.get("thought_signature")):
        part["thought_signature"] = _bytes(signature)
    return part


def _result(message: Message, names: dict[object, object]) -> Part:
    said = "".join(string_of(part.get("text")) for part in _content(message.get("content")))
    found = decoded(said)
    response = cast("dict[str, Any]", found) if isinstance(found, dict) else {"result": said}
    name = message.get("name") or names.get(message.get("tool_call_id")) or "unknown"
    return {"function_response": {"name": name, "response": response}}


def _content(content: object) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else objects_of(content)


def _parts(message: Message) -> list[Part]:
    return [_part(part) for part in _content(message.get("content")) if part.get("text") != ""]


def _part(part: dict[str, Any]) -> Part:
    match part:
        case {"type": "text", "text": text}:
            return {"text": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return _media(url)
        case {"type": "image_url", "image_url": str(url)}:
            return _media(url)
        case {"type": "file", "file": {"file_data": str(url)}}:
            return _media(url)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
            return {"inline_data": {"mime_type": f"audio/{kind}", "data": _bytes(data)}}
        case _:
            return part


# An address must come with its type. Python's own table would be read from files.
_TYPES = {
    "gif": "image/gif",
    "heic": "image/heic",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "pdf": "application/pdf",
    "png": "image/png",
    "wav": "audio/wav",
    "webp": "image/webp",
}


def _media(url: str) -> Part:
    scheme, _, data = url.partition(";base64,")
    if data and scheme.startswith("data:"):
        return {"inline_data": {"mime_type": scheme.removeprefix("data:"), "data": _bytes(data)}}
    suffix = url.partition("?")[0].rpartition(".")[2].lower()
    return {"file_data": {"file_uri": url, "mime_type": _TYPES.get(suffix, "image/jpeg")}}


def _bytes(data: str) -> bytes:
    try:
        return b64decode(data.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raise BadRequestError("the data of an image, a file or a signature is no base64") from None


def _translate_tools(config: dict[str, Any]) -> None:
    tools = objects_of(config.pop("tools", None))
    declared = [_declaration(it) for it in tools if it.get("type") == "function"]
    others = [it for it in tools if it.get("type") != "function"]
    if tools:
        config["tools"] = [*([{"function_declarations": declared}] if declared else []), *others]
    match config.pop("tool_choice", None):
        case str(word):
            mode: dict[str, Any] = {"mode": "ANY" if word == "required" else word.upper()}
        case {"function": {"name": name}}:
            mode = {"mode": "ANY", "allowed_function_names": [name]}
        case _:
            mode = {}
    if mode:
        config["tool_config"] = {
            **object_of(config.get("tool_config")),
            "function_calling_config": mode,
        }
    if config.get("parallel_tool_calls") is True:
        del config["parallel_tool_calls"]  # it always may


def _declaration(tool: dict[str, Any]) -> dict[str, Any]:
    function = object_of(tool.get("function"))
    declared = {name: function[name] for name in ("name", "description") if name in function}
    if schema := object_of(function.get("parameters")):
        declared["parameters_json_schema"] = schema
    return declared


def _translate_format(config: dict[str, Any]) -> None:
    match config.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            config["response_mime_type"] = "application/json"
            config["response_json_schema"] = schema
        case {"type": "json_object"}:
            config["response_mime_type"] = "application/json"
        case {"type": "text"} | None:
            pass
        case _:
            return  # there is no such thing: the SDK says so
    config.pop("response_format", None)


# ---------------------------------------------------------------- what came

_REFUSALS = (
    "BLOCKLIST",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_SAFETY",
    "MODEL_ARMOR",
    "PROHIBITED_CONTENT",
    "RECITATION",
    "SAFETY",
    "SPII",
)
_FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(_REFUSALS, "content_filter"),
}


def _finish_reason(candidate: dict[str, Any], *, has_tool_calls: bool) -> str | None:
    word = string_of(candidate.get("finish_reason"))
    reason = _FINISH_REASONS.get(word, word.lower()) or None
    return "tool_calls" if reason == "stop" and has_tool_calls else reason


def _raise_if_blocked(payload: dict[str, Any]) -> None:
    reason = string_of(object_of(payload.get("prompt_feedback")).get("block_reason"))
    if reason:
        raise ContentRefusedError(f"the prompt was blocked: {reason}")


def _candidate(payload: dict[str, Any]) -> tuple[dict[str, Any], list[Part]]:
    candidate = object_of(first(payload.get("candidates")))
    return candidate, objects_of(object_of(candidate.get("content")).get("parts"))


def _usage(payload: dict[str, Any]) -> Usage | None:
    """Read the token counts: thoughts and results of tools are counted apart, and billed."""
    counts = object_of(payload.get("usage_metadata"))
    if (received := count(counts.get("prompt_token_count"))) is None:
        return None
    received += count(counts.get("tool_use_prompt_token_count")) or 0
    thought = count(counts.get("thoughts_token_count")) or 0
    generated = (count(counts.get("candidates_token_count")) or 0) + thought
    audio = _audio(counts, "prompt_tokens_details") - _audio(counts, "cache_tokens_details")
    return usage_of(
        received,
        generated,
        reasoning=thought,
        cached=count(counts.get("cached_content_token_count")),
        audio=max(audio, 0),
        spoken=_audio(counts, "candidates_tokens_details"),
    )


def _audio(counts: dict[str, Any], field: str) -> int:
    details = (it for it in objects_of(counts.get(field)) if it.get("modality") == "AUDIO")
    return sum(count(it.get("token_count")) or 0 for it in details)


def _call(part: Part, number: int) -> dict[str, Any] | None:
    """Give the tool call in a part. The API need not name it: then it is called by its number."""
    function = object_of(part.get("function_call"))
    if not function:
        return None
    call_id = string_of(function.get("id")) or f"call_{number}"
    arguments = json.dumps(object_of(function.get("args")), ensure_ascii=False)
    made = tool_call(call_id, string_of(function.get("name")), arguments)
    if signature := string_of(part.get("thought_signature")):
        made["extra_content"] = {"google": {"thought_signature": signature}}
    return made


def read_content(call: Call, payload: dict[str, Any], redact: Redact) -> Completion:
    """Read a whole answer, setting the call's usage before all else.

    Raises:
        ContentRefusedError: The prompt was blocked, or the answer is nothing but a refusal.
        ProtocolError: The answer makes no sense.
    """
    call.usage = _usage(payload) or call.usage
    _raise_if_blocked(payload)
    candidate, parts = _candidate(payload)
    text = "".join(string_of(part.get("text")) for part in parts if not part.get("thought"))
    calling = [part for part in parts if part.get("function_call")]
    tool_calls = tuple(made for i, part in enumerate(calling) if (made := _call(part, i)))
    reason = _finish_reason(candidate, has_tool_calls=bool(tool_calls))
    if reason is None:
        raise ProtocolError("answered with JSON without a finished candidate")
    if reason not in ("stop", "length", "content_filter") and not (text or tool_calls):
        raise ProtocolError(f"answered with nothing: {reason}")
    model = string_of(payload.get("model_version")) or None
    return completion_of(Completion(text, call.usage, reason, tool_calls, model), "", redact)


@final
class StreamedContent:
    """What has come of a streamed answer.

    Args:
        call: The call it answers, whose usage is set as soon as it comes.
        redact: Takes secrets out of what errors say.
    """

    __slots__ = ("_received", "_redact", "call")

    def __init__(self, call: Call, redact: Redact) -> None:
        self.call = call
        self._redact = redact
        self._received = Received()

    def take(self, payload: dict[str, Any]) -> Iterator[Chunk]:
        """Take in a piece of the answer and give the chunks it makes.

        Raises:
            ContentRefusedError: The prompt was blocked.
            StreamInterruptedError: The piece makes no sense.
        """
        received = self._received
        if not payload:
            raise self.interrupted("a chunk has neither content nor counts")
        self.call.usage = _usage(payload) or self.call.usage
        _raise_if_blocked(payload)
        candidate, parts = _candidate(payload)
        for part in parts:
            text = string_of(part.get("text"))
            if made := _call(part, received.tool_calls):
                index = received.tool_calls
                received.tool_calls += 1
                yield Chunk(tool_call={"index": index, **made})
            elif text:
                yield received.say("", text) if part.get("thought") else received.say(text)
        has_tool_calls = received.tool_calls > 0
        reason = _finish_reason(candidate, has_tool_calls=has_tool_calls)
        received.finish_reason = reason or received.finish_reason

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
