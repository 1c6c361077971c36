"""A router as the model of an agent of the OpenAI Agents SDK."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Unpack, cast, final

from asyncroute._errors import AsyncRouteError, ConfigurationError

try:
    from agents.exceptions import UserError
    from agents.items import ModelResponse
    from agents.models.chatcmpl_converter import Converter
    from agents.models.chatcmpl_stream_handler import ChatCmplStreamHandler
    from agents.models.fake_id import FAKE_RESPONSES_ID
    from agents.models.interface import Model, ModelTracing
    from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest
    from agents.tracing import GenerationSpanData, Span, generation_span
    from agents.usage import Usage as AgentsUsage
    from openai import Omit
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessage
    from openai.types.completion_usage import CompletionUsage
    from openai.types.responses import Response
    from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
except ImportError as error:
    raise ConfigurationError(
        f"AgentsModel needs openai-agents ({error}): pip install 'asyncroute[openai-agents]'"
    ) from error

if TYPE_CHECKING:
    from agents import (
        AgentOutputSchemaBase,
        Handoff,
        ModelSettings,
        Tool,
        TResponseInputItem,
    )
    from agents.items import TResponseStreamEvent
    from openai import AsyncStream
    from openai.types.responses.response_prompt_param import ResponsePromptParam

    from asyncroute._inputs import Message, RequestFields
    from asyncroute._modes import Mode
    from asyncroute._protocols import ModelSelector
    from asyncroute._results import ExecutionResult
    from asyncroute._router import LLMRouter
    from asyncroute._stream import Stream
    from asyncroute._values import Chunk, Usage

__all__ = ("AgentsModel",)


@final
class AgentsModel(Model):
    """A router as a model of the OpenAI Agents SDK: each turn goes to the best of its models.

    ::

        async with LLMRouter(models, providers) as router:
            agent = Agent(name="Helper", model=AgentsModel(router, strategy="balanced"))
            print((await Runner.run(agent, "Why is the sky blue?")).final_output)

    Tools, handoffs, output types and streams pass through, in the words of chat completions. What
    has none there raises the SDK's `UserError`: conversations kept by OpenAI's servers, reusable
    prompts, tools that OpenAI runs, and settings such as `truncation` or `extra_headers`. Errors
    are asyncroute's own; where one says when to come back, the SDK's retries are told. Cancelling
    the run, or a timeout in its settings, cancels the calls.

    The SDK counts tokens but no dollars: those are in the router's statistics, and an observer
    knows a response by its `request_id`.

    Args:
        router: The router, entered in the loop in which the agent runs. It stays yours.
        strategy: A strategy's name, or a selector.
        mode: As for `LLMRouter.execute`, without cascades.
        **fields: Fields of `QueryRequest` for every request.
    """

    def __init__(
        self,
        router: LLMRouter,
        *,
        strategy: str | ModelSelector | None = None,
        mode: Mode | None = None,
        **fields: Unpack[RequestFields],
    ) -> None:
        self._router = router
        self._strategy = strategy
        self._mode: Mode | None = mode
        self._fields = fields

    async def get_response(  # noqa: PLR0913 - the SDK's
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> ModelResponse:
        """Answer a turn by the best model. Called by the SDK.

        Raises:
            AsyncRouteError: No model answered.
        """
        _refuse(previous_response_id, conversation_id, prompt)
        chat = _chat(system_instructions, input)
        fields = self._with(_params(model_settings, tools, output_schema, handoffs), model_settings)
        with _span(model_settings, chat, tracing) as span:
            result = await self._router.execute(
                chat, strategy=self._strategy, mode=self._mode, **fields
            )
            message = _message(result.unwrap(), result)
            span.span_data.usage = _spent(result.usage)
            if tracing.include_data():
                span.span_data.output = [message.model_dump()]
        return ModelResponse(
            Converter.message_to_output_items(message),
            usage=_usage(result.usage),
            response_id=None,
            request_id=result.request_id,
        )

    async def stream_response(  # noqa: PLR0913 - the SDK's
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff[Any, Any]],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """Answer a turn in events. Called by the SDK. Closing it closes the provider's stream.

        Raises:
            AsyncRouteError: No model answered, or the stream broke.
        """
        _refuse(previous_response_id, conversation_id, prompt)
        chat = _chat(system_instructions, input)
        fields = self._with(_params(model_settings, tools, output_schema, handoffs), model_settings)
        stream = self._router.stream(chat, strategy=self._strategy, mode=self._mode, **fields)
        with _span(model_settings, chat, tracing) as span:
            async with stream, aclosing(_chunks(stream)) as chunks:
                handled = ChatCmplStreamHandler.handle_stream(
                    _begun(stream.model_id, model_settings),
                    cast("AsyncStream[ChatCompletionChunk]", chunks),
                )
                async for event in handled:
                    if event.type == "response.completed":
                        said = event.response.usage
                        span.span_data.usage = None if said is None else said.model_dump()
                        if tracing.include_data():
                            span.span_data.output = [event.response.model_dump()]
                    yield event

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """Tell when a request that failed may be tried again, where that is known."""
        if not isinstance(request.error, AsyncRouteError):
            return None
        retry_after: float | None = getattr(request.error, "retry_after", None)
        if retry_after is None:
            return None
        return ModelRetryAdvice(retry_after=retry_after, reason=str(request.error))

    def _with(self, params: dict[str, Any], settings: ModelSettings) -> RequestFields:
        fields = self._fields.copy()
        fields["params"] = {**(fields.get("params") or {}), **params}
        if settings.max_tokens is not None:
            fields["max_tokens"] = settings.max_tokens
        return fields

    def __repr__(self) -> str:
        return f"<AgentsModel over {self._router!r}>"


# ---------------------------------------------------------------- the request


def _refuse(response: str | None, conversation: str | None, prompt: object) -> None:
    given = {"previous_response_id": response, "conversation_id": conversation, "prompt": prompt}
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise UserError(
            f"{', '.join(named)}: kept by OpenAI's servers, while a router may ask any model;"
            " give the whole conversation instead, for example by a session"
        )


def _refuse_settings(settings: ModelSettings) -> None:
    named = [name for name in _UNROUTED if getattr(settings, name, None)]  # not all are in each SDK
    if named:
        raise UserError(
            f"{', '.join(named)}: settings of OpenAI's own that a router cannot pass on; parameters"
            " that your models' API takes go into extra_body"
        )


_UNROUTED = (
    "truncation",
    "prompt_cache_retention",
    "prompt_cache_options",
    "response_include",
    "top_logprobs",
    "extra_query",
    "extra_headers",
    "context_management",
)


def _chat(system: str | None, given: str | list[TResponseInputItem]) -> list[Message]:
    chat = cast("list[Message]", Converter.items_to_messages(given))
    return [{"role": "system", "content": system}, *chat] if system else chat


def _params(
    settings: ModelSettings,
    tools: list[Tool],
    output_schema: AgentOutputSchemaBase | None,
    handoffs: list[Handoff[Any, Any]],
) -> dict[str, Any]:
    _refuse_settings(settings)
    params: dict[str, Any] = {
        name: value for name in _PARAMS if (value := getattr(settings, name)) is not None
    }
    if settings.reasoning is not None and settings.reasoning.effort is not None:
        params["reasoning_effort"] = settings.reasoning.effort
    offered = [
        *(Converter.tool_to_openai(tool) for tool in tools),
        *(Converter.convert_handoff_tool(handoff) for handoff in handoffs),
    ]
    if offered:
        params["tools"] = offered
        if settings.parallel_tool_calls is not None:
            params["parallel_tool_calls"] = settings.parallel_tool_calls
        choice = Converter.convert_tool_choice(settings.tool_choice)
        if not isinstance(choice, Omit):
            params["tool_choice"] = choice
    answer_format = Converter.convert_response_format(output_schema)
    if not isinstance(answer_format, Omit):
        params["response_format"] = answer_format
    extra = cast("Mapping[str, Any]", settings.extra_body or {})
    return {**params, **extra, **(settings.extra_args or {})}


_PARAMS = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "verbosity",
    "store",
    "metadata",
)


# ---------------------------------------------------------------- the answer


def _message(text: str, result: ExecutionResult) -> ChatCompletionMessage:
    said: dict[str, Any] = {"role": "assistant", "content": text or None}
    if result.tool_calls:
        said["tool_calls"] = [{"type": "function", **call} for call in result.tool_calls]
    return ChatCompletionMessage.model_validate(said)


def _usage(usage: Usage | None) -> AgentsUsage:
    if usage is None:
        return AgentsUsage(requests=1)
    return AgentsUsage(
        requests=1,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        input_tokens_details=InputTokensDetails.model_validate(
            {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0}
        ),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
    )


def _spent(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def _begun(model_id: str, settings: ModelSettings) -> Response:
    """Make the response that a stream's events fill."""
    return Response(
        id=FAKE_RESPONSES_ID,
        created_at=time.time(),  # noqa: TID251 - a date, for the SDK's users
        model=model_id,
        object="response",
        output=[],
        tool_choice="auto",
        tools=[],
        top_p=settings.top_p,
        temperature=settings.temperature,
        parallel_tool_calls=bool(settings.parallel_tool_calls),
    )


async def _chunks(stream: Stream) -> AsyncGenerator[ChatCompletionChunk]:
    """Write a stream's chunks as chat completions do."""
    calls = -1
    async for chunk in stream:
        delta: dict[str, Any] = {"role": "assistant"}
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        piece = chunk.tool_call
        if piece is not None:
            function: Mapping[str, Any] = piece.get("function") or {}
            calls += bool(piece.get("id") or function.get("name"))
            # Not every server numbers its calls.
            delta["tool_calls"] = [{"type": "function", "index": calls, **piece}]
        yield ChatCompletionChunk.model_validate(
            {
                "id": FAKE_RESPONSES_ID,
                "created": 0,
                "model": stream.model_id,
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": _finish(chunk)}],
                "usage": None if chunk.usage is None else _billed(chunk.usage),
            }
        )


def _finish(chunk: Chunk) -> str | None:
    reason = chunk.finish_reason
    return reason if reason is None or reason in _FINISH_REASONS else "stop"


_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")


def _billed(usage: Usage) -> CompletionUsage:
    return CompletionUsage.model_validate(
        {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
    )


def _span(
    settings: ModelSettings, chat: list[Message], tracing: ModelTracing
) -> Span[GenerationSpanData]:
    return generation_span(
        model="asyncroute",
        input=chat if tracing.include_data() else None,
        model_config=settings.to_traceable_dict(),
        disabled=tracing.is_disabled(),
    )
