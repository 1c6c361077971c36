"""What a conversation with its settings and tools is as a request of ours, for `RoutedModel`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    TextContent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.settings import ToolOrOutput

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestParameters
    from pydantic_ai.tools import ToolDefinition

    from asyncroute._inputs import Message, RequestFields

__all__ = ("request_fields", "written")

_PARAMS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "logit_bias": "logit_bias",
    "stop_sequences": "stop",
    "service_tier": "service_tier",
}


def request_fields(
    usual: RequestFields, wishes: Mapping[str, Any], parameters: ModelRequestParameters
) -> RequestFields:
    """Add to the usual fields what a request's settings, tools and output format come to.

    Raises:
        UserError: A setting cannot be passed on.
    """
    params = {name: wishes[key] for key, name in _PARAMS.items() if key in wishes}
    params |= _tools(wishes, parameters)
    answer_format = _answer_format(parameters)
    if answer_format is not None:
        params["response_format"] = answer_format
    params |= wishes.get("extra_body") or {}
    fields = usual.copy()
    fields["params"] = {**(fields.get("params") or {}), **params}
    if "max_tokens" in wishes:
        fields["max_tokens"] = wishes["max_tokens"]
    if wishes.get("timeout") is not None:
        fields["timeout"] = _seconds(wishes["timeout"])
    return fields


def _seconds(timeout: object) -> float:
    if isinstance(timeout, (int, float)):
        return float(timeout)
    raise UserError(f"timeout is a number of seconds here, for the whole request; got {timeout!r}")


def _tools(wishes: Mapping[str, Any], parameters: ModelRequestParameters) -> dict[str, Any]:
    """Say which tools there are and whether one has to be called."""
    offered, choice = _choice(wishes.get("tool_choice"), parameters)
    if not offered:
        return {}
    params: dict[str, Any] = {"tools": [_tool(tool) for tool in offered]}
    if choice != "auto":
        params["tool_choice"] = choice
    if "parallel_tool_calls" in wishes:
        params["parallel_tool_calls"] = wishes["parallel_tool_calls"]
    return params


def _choice(wanted: Any, parameters: ModelRequestParameters) -> tuple[list[ToolDefinition], str]:
    functions, outputs = parameters.declared_function_tools, parameters.output_tools
    default = "auto" if parameters.allow_text_output else "required"
    if wanted is None or wanted == "auto":
        return [*functions, *outputs], default
    if wanted == "required":  # pydantic-ai's word for a call that is not the answer
        return functions, "required"
    if isinstance(wanted, ToolOrOutput):
        named = _named(functions, wanted.function_tools)
    elif wanted == "none" or not wanted:
        named = []
    else:
        chosen = _named([*functions, *outputs], wanted)
        if not chosen:
            raise UserError(f"tool_choice names none of the tools: {wanted!r}")
        return chosen, "required"
    if named or outputs:
        return [*named, *outputs], default
    return functions, "none"  # still described: the conversation may have calls of them


def _named(tools: Iterable[ToolDefinition], names: Iterable[str]) -> list[ToolDefinition]:
    kept = set(names)
    return [tool for tool in tools if tool.name in kept]


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": tool.parameters_json_schema,
    }
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _answer_format(parameters: ModelRequestParameters) -> dict[str, Any] | None:
    if parameters.output_mode == "prompted":
        return {"type": "json_object"}
    wanted = parameters.output_object
    if parameters.output_mode != "native" or wanted is None:
        return None
    schema: dict[str, Any] = {"name": wanted.name or "final_result", "schema": wanted.json_schema}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}


# ---------------------------------------------------------------- the conversation


def written(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> list[Message]:
    """Write a conversation as chat APIs take it, with one system message at its head.

    Raises:
        UserError: It has what cannot be passed on.
    """
    chat: list[Message] = []
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                chat.extend(_asked(part))
            continue
        answer = _answered(message)
        if answer is not None:
            chat.append(answer)
    lead: list[str] = []
    while chat and chat[0]["role"] == "system":
        lead.append(chat.pop(0)["content"])
    lead += _instructions(messages, parameters)
    # Some servers take one system message only, and the model is not known yet.
    return [{"role": "system", "content": "\n\n".join(lead)}, *chat] if lead else chat


def _instructions(
    messages: Sequence[ModelMessage], parameters: ModelRequestParameters
) -> list[str]:
    if parameters.instruction_parts is not None:
        return [part.content for part in parameters.instruction_parts]
    requests = (message for message in reversed(messages) if isinstance(message, ModelRequest))
    latest = next(requests, None)
    return [latest.instructions] if latest is not None and latest.instructions else []


def _asked(part: ModelRequestPart) -> Iterator[Message]:
    if isinstance(part, SystemPromptPart):
        yield {"role": "system", "content": part.content}
    elif isinstance(part, UserPromptPart):
        yield {"role": "user", "content": _content(part.content)}
    elif isinstance(part, ToolReturnPart):
        text, files = part.model_response_str_and_user_content()
        yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": text}
        if files:
            yield {"role": "user", "content": _content(files)}
    else:
        raise UserError(
            f"a {part.part_kind!r} part cannot be sent as it is; agents prepare it by"
            " Model.prepare_messages, and so must who calls the model directly"
        )


def _content(content: str | Sequence[UserContent]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [block for item in content for block in _block(item)]


def _block(item: UserContent) -> Iterator[dict[str, Any]]:
    if isinstance(item, (str, TextContent)):
        yield {"type": "text", "text": item if isinstance(item, str) else item.content}
    elif isinstance(item, ImageUrl):
        yield {"type": "image_url", "image_url": {"url": item.url}}
    elif isinstance(item, BinaryContent) and item.is_image:
        encoded = base64.b64encode(item.data).decode()
        url = f"data:{item.media_type};base64,{encoded}"
        yield {"type": "image_url", "image_url": {"url": url}}
    elif isinstance(item, BinaryContent) and item.is_audio:
        encoded = base64.b64encode(item.data).decode()
        yield {"type": "input_audio", "input_audio": {"data": encoded, "format": item.format}}
    elif getattr(item, "kind", None) != "cache-point":  # where to cache is each vendor's own
        raise UserError(f"RoutedModel takes text, images and audio, not {type(item).__name__}")


def _answered(response: ModelResponse) -> Message | None:
    texts = [part.content for part in response.parts if isinstance(part, TextPart)]
    calls = [
        {
            "id": part.tool_call_id,
            "type": "function",
            "function": {"name": part.tool_name, "arguments": part.args_as_json_str()},
        }
        for part in response.parts
        if isinstance(part, ToolCallPart)
    ]
    if not texts and not calls:
        return None
    message: Message = {"role": "assistant", "content": "\n\n".join(texts) if texts else None}
    if calls:
        message["tool_calls"] = calls
    return message
