"""A router as the model of a pydantic-ai agent."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Unpack, cast, final

from asyncroute._errors import (
    AllAttemptsFailedError,
    AsyncRouteError,
    AttemptTimeoutError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ContextTooLongError,
    DeadlineExceededError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    ProviderOverloadedError,
    QuotaExhaustedError,
    RateLimitedError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute._stream import Stream

try:
    from pydantic_ai.exceptions import (
        ModelAPIError,
        ModelAuthenticationError,
        ModelConnectionError,
        ModelContextWindowExceededError,
        ModelHTTPError,
        ModelOverloadedError,
        ModelQuotaExceededError,
        ModelRateLimitError,
        ModelRequestRejectedError,
        ModelServerError,
        ModelTimeoutError,
        UserError,
    )
    from pydantic_ai.exceptions import ModelNotFoundError as UnknownModelError
    from pydantic_ai.messages import (
        BinaryContent,
        FinishReason,
        ImageUrl,
        ModelMessage,
        ModelRequest,
        ModelRequestPart,
        ModelResponse,
        ModelResponsePart,
        ModelResponseStreamEvent,
        SystemPromptPart,
        TextContent,
        TextPart,
        ToolCallPart,
        ToolReturnPart,
        UserContent,
        UserPromptPart,
    )
    from pydantic_ai.models import (
        Model,
        ModelRequestParameters,
        StreamedResponse,
        check_allow_model_requests,
    )
    from pydantic_ai.profiles import ModelProfile, ModelProfileSpec
    from pydantic_ai.settings import ModelSettings, ToolOrOutput
    from pydantic_ai.usage import RequestUsage
except ImportError as error:
    raise ConfigurationError(
        f"RoutedModel needs pydantic-ai ({error}): pip install 'asyncroute[pydantic-ai]'"
    ) from error

if TYPE_CHECKING:
    from pydantic_ai.tools import RunContext, ToolDefinition

    from asyncroute._inputs import Message, RequestFields
    from asyncroute._modes import Mode
    from asyncroute._protocols import ModelSelector
    from asyncroute._results import ExecutionResult
    from asyncroute._router import LLMRouter
    from asyncroute._values import Chunk, Usage

__all__ = ("RoutedModel",)

_SYSTEM = "asyncroute"


@final
class RoutedModel(Model[Any]):
    """A router as a pydantic-ai model: each request of an agent goes to the best of its models.

    ::

        async with LLMRouter(models, providers) as router:
            agent = Agent(RoutedModel(router, strategy="balanced", max_cost=0.01))
            print((await agent.run("Why is the sky blue?")).output)

    Tools, structured output (by tools, natively or prompted), images and streams pass through.
    Responses name the model that answered, and carry its tokens and, in `usage.cost` and
    `provider_details`, what the request cost, all attempts together. Thoughts of earlier turns are
    not sent again: the next turn may be another model's. Cancelling the run cancels the calls.

    Errors are pydantic-ai's (`ModelRateLimitError`, `ModelTimeoutError`, `ModelAPIError`, …) with
    asyncroute's as `__cause__`, so that its `FallbackModel` understands them. Mistakes in the
    configuration stay a `ConfigurationError` or `RouterStateError`.

    Args:
        router: The router, entered in the loop in which the agent runs. It stays yours.
        strategy: A strategy's name, or a selector.
        mode: As for `LLMRouter.execute`, without cascades.
        settings: pydantic-ai's settings for every request. `max_tokens` and `timeout` (seconds for
            the whole request) become the request's own, the others parameters of the call.
        profile: What the models can do, if not the usual.
        **fields: Fields of `QueryRequest` for every request.
    """

    unsupported_settings = frozenset({"extra_headers", "max_retries"})

    def __init__(
        self,
        router: LLMRouter,
        *,
        strategy: str | ModelSelector | None = None,
        mode: Mode | None = None,
        settings: ModelSettings | None = None,
        profile: ModelProfileSpec | None = None,
        **fields: Unpack[RequestFields],
    ) -> None:
        super().__init__(settings=settings, profile=profile or _PROFILE)
        self._router = router
        self._strategy = strategy
        self._mode: Mode | None = mode
        self._fields = fields

    @property
    def model_name(self) -> str:
        """The router's name; a response has that of the model that answered."""
        return "router"

    @property
    def system(self) -> str:
        """Who provides it, as traces show it."""
        return _SYSTEM

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Answer a conversation by the best model. Called by agents.

        Raises:
            ModelAPIError: No model answered; its cause says more.
        """
        check_allow_model_requests()
        chat, fields, _ = self._ask(messages, model_settings, model_request_parameters)
        result = await self._router.execute(
            chat, strategy=self._strategy, mode=self._mode, **fields
        )
        try:
            text = result.unwrap()
        except AsyncRouteError as error:
            raise _told(error) from error
        parts: list[ModelResponsePart] = [TextPart(text)] if text else []
        parts += [_call_part(call) for call in result.tool_calls]
        return ModelResponse(
            parts,
            usage=_usage(result.usage, result.actual_cost),
            model_name=result.model_id,
            provider_name=_SYSTEM,
            provider_details=_details(result),
            provider_response_id=result.request_id,
            finish_reason=_FINISH_REASONS.get(result.finish_reason or "stop", "stop"),
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Answer a conversation in pieces. Called by agents. Leaving it closes the stream.

        Raises:
            ModelAPIError: No model answered, or the stream broke; its cause says more.
        """
        check_allow_model_requests()
        chat, fields, prepared = self._ask(messages, model_settings, model_request_parameters)
        stream = self._router.stream(chat, strategy=self._strategy, mode=self._mode, **fields)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(stream)
            except AsyncRouteError as error:
                raise _told(error) from error
            yield _Streamed(prepared, stream)

    def _ask(
        self,
        messages: Sequence[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> tuple[list[Message], RequestFields, ModelRequestParameters]:
        prepared, parameters = self.prepare_request(settings, parameters)
        wishes = cast("dict[str, Any]", prepared or {})
        params = {name: wishes[key] for key, name in _PARAMS.items() if key in wishes}
        params |= _tools(wishes, parameters)
        answer_format = _answer_format(parameters)
        if answer_format is not None:
            params["response_format"] = answer_format
        params |= wishes.get("extra_body") or {}
        fields = self._fields.copy()
        fields["params"] = {**(fields.get("params") or {}), **params}
        if "max_tokens" in wishes:
            fields["max_tokens"] = wishes["max_tokens"]
        if wishes.get("timeout") is not None:
            fields["timeout"] = _seconds(wishes["timeout"])
        return _chat(messages, parameters), fields, parameters


# No schemas are rewritten and nothing is taken for granted that only some vendors' models do.
_PROFILE = ModelProfile(
    supports_tools=True, supports_json_schema_output=True, supports_json_object_output=True
)

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

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
    "error": "error",
}


def _seconds(timeout: object) -> float:
    if isinstance(timeout, (int, float)):
        return float(timeout)
    raise UserError(f"timeout is a number of seconds here, for the whole request; got {timeout!r}")


# ---------------------------------------------------------------- tools and formats


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


def _chat(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> list[Message]:
    """Write a conversation as chat APIs take it, with one system message at its head."""
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


# ---------------------------------------------------------------- the answer


def _call_part(call: Mapping[str, Any]) -> ToolCallPart:
    function = call["function"]
    part = ToolCallPart(function["name"], function.get("arguments") or None)
    if call.get("id"):
        part.tool_call_id = call["id"]
    return part


def _usage(usage: Usage | None, cost: float | None) -> RequestUsage:
    if usage is None:
        return RequestUsage(unmeasured_requests=1)
    return RequestUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        unmeasured_requests=int(usage.estimated),
        cost=None if cost is None else Decimal(str(cost)),
    )


def _details(result: ExecutionResult) -> dict[str, Any]:
    """Give what only a router can tell."""
    return {
        "cost": result.actual_cost,
        "attempts": [(each.model_id, each.role, each.outcome) for each in result.attempts],
        "cached": result.cached,
        "simulated": result.simulated,
    }


@final
@dataclass
class _Streamed(StreamedResponse):
    """A routed stream in pydantic-ai's events."""

    stream: Stream
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _calls: int = 0

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        try:
            async for chunk in self.stream:
                for event in self._events(chunk):
                    yield event
        except AsyncRouteError as error:
            raise _told(error, in_stream=True) from error
        await self.close_stream()
        result = self.stream.result()
        self.provider_response_id = result.request_id
        self.provider_details = _details(result)
        self._usage = _usage(result.usage, result.actual_cost)

    def _events(self, chunk: Chunk) -> Iterator[ModelResponseStreamEvent]:
        parts = self._parts_manager
        if chunk.reasoning:
            yield from parts.handle_thinking_delta(
                vendor_part_id="reasoning", content=chunk.reasoning
            )
        if chunk.text:
            yield from parts.handle_text_delta(vendor_part_id="text", content=chunk.text)
        if chunk.tool_call is not None and (event := self._piece(chunk.tool_call)) is not None:
            yield event
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage, None)
        if chunk.finish_reason:
            self.finish_reason = _FINISH_REASONS.get(chunk.finish_reason, "stop")

    def _piece(self, piece: Mapping[str, Any]) -> ModelResponseStreamEvent | None:
        function: Mapping[str, Any] = piece.get("function") or {}
        self._calls += bool(piece.get("id") or function.get("name"))
        return self._parts_manager.handle_tool_call_delta(
            # Not every server numbers its calls.
            vendor_part_id=("call", piece.get("index", self._calls)),
            tool_name=function.get("name") or None,
            args=function.get("arguments") or None,
            tool_call_id=piece.get("id") or None,
        )

    def get_stream_cancel_errors(self) -> tuple[type[BaseException], ...]:
        """Tell which errors of a stream `cancel()` brings about."""
        return (StreamInterruptedError,)

    async def close_stream(self) -> None:
        """Close the provider's stream, now."""
        await self.stream.__aexit__(None, None, None)

    @property
    def model_name(self) -> str:
        """The model that answers."""
        return self.stream.model_id

    @property
    def provider_name(self) -> str:
        """Who provides it."""
        return _SYSTEM

    @property
    def provider_url(self) -> None:
        """Nothing: a router has several."""
        return

    @property
    def timestamp(self) -> datetime:
        """When the stream was opened."""
        return self._began


# ---------------------------------------------------------------- errors

_CATEGORIES: tuple[tuple[type[AsyncRouteError], type[ModelAPIError]], ...] = (
    (RateLimitedError, ModelRateLimitError),
    (ProviderOverloadedError, ModelOverloadedError),
    (OverloadedError, ModelOverloadedError),
    (QuotaExhaustedError, ModelQuotaExceededError),
    (BudgetExceededError, ModelQuotaExceededError),
    (AuthenticationError, ModelAuthenticationError),
    (ModelNotFoundError, UnknownModelError),
    (ContextTooLongError, ModelContextWindowExceededError),
    (BadRequestError, ModelRequestRejectedError),
    (AttemptTimeoutError, ModelTimeoutError),
    (DeadlineExceededError, ModelTimeoutError),
    (StreamInterruptedError, ModelConnectionError),
    (UnavailableError, ModelServerError),
)


def _told(error: AsyncRouteError, *, in_stream: bool = False) -> Exception:
    """Say it in pydantic-ai's words; a mistake in the configuration stays what it is."""
    if isinstance(error, (ConfigurationError, RouterStateError)):
        return error
    # Of several attempts the first one says best what is wrong.
    about = error.__cause__ if isinstance(error, AllAttemptsFailedError) else error
    about = about if isinstance(about, AsyncRouteError) else error
    category = next((ours for kind, ours in _CATEGORIES if isinstance(about, kind)), ModelAPIError)
    model = about.model_id if isinstance(about, ProviderError) else None
    status = about.status if isinstance(about, ProviderError) else None
    retry_after: float | None = getattr(error, "retry_after", None)
    if status is None or status < 400:
        return category(model or _SYSTEM, str(error), retry_after=retry_after, in_stream=in_stream)
    return ModelHTTPError.for_category(
        cast("Any", None if category is ModelAPIError else category),
        status_code=status,
        model_name=model or _SYSTEM,
        body=str(error),
        retry_after=retry_after,
        in_stream=in_stream,
    )
