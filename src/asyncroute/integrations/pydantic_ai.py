"""A router as the model of a pydantic-ai agent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Unpack, final

from asyncroute._errors import ConfigurationError, StreamInterruptedError
from asyncroute._stream import Stream

try:
    from pydantic_ai.messages import (
        FinishReason,
        ModelMessage,
        ModelResponse,
        ModelResponsePart,
        ModelResponseStreamEvent,
        TextPart,
        ToolCallPart,
    )
    from pydantic_ai.models import (
        Model,
        ModelRequestParameters,
        StreamedResponse,
        check_allow_model_requests,
    )
    from pydantic_ai.profiles import ModelProfile, ModelProfileSpec
    from pydantic_ai.usage import RequestUsage

    from asyncroute.integrations._pydantic_ai_errors import SYSTEM, translated
    from asyncroute.integrations._pydantic_ai_request import request_fields, written
except ImportError as error:
    raise ConfigurationError(
        f"RoutedModel needs pydantic-ai ({error}): pip install 'asyncroute[pydantic-ai]'"
    ) from error

if TYPE_CHECKING:
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import RunContext

    from asyncroute._inputs import Message, RequestFields
    from asyncroute._modes import Mode
    from asyncroute._protocols import ModelSelector
    from asyncroute._results import ExecutionResult
    from asyncroute._router import LLMRouter
    from asyncroute._values import Chunk, Usage

__all__ = ("RoutedModel",)


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
            the whole request) become the request's own, the others parameters of the call; but
            those in `unsupported_settings` are ignored, as pydantic-ai has it. What one vendor
            alone knows goes into `extra_body`.
        profile: What the models can do, if not the usual.
        **fields: Fields of `QueryRequest` for every request.
    """

    unsupported_settings = frozenset(
        {"cache", "citations", "extra_headers", "max_retries", "thinking"}
    )

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
        return SYSTEM

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
        with translated():
            text = result.unwrap()
        parts: list[ModelResponsePart] = [TextPart(text)] if text else []
        parts += [_call_part(call) for call in result.tool_calls]
        return ModelResponse(
            parts,
            usage=_usage(result.usage, result.actual_cost),
            model_name=result.model_id,
            provider_name=SYSTEM,
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
            with translated():
                await stack.enter_async_context(stream)
            yield _Streamed(prepared, stream)

    def _ask(
        self,
        messages: Sequence[ModelMessage],
        settings: ModelSettings | None,
        parameters: ModelRequestParameters,
    ) -> tuple[list[Message], RequestFields, ModelRequestParameters]:
        settings, parameters = self.prepare_request(settings, parameters)
        fields = request_fields(self._fields, settings or {}, parameters)
        return written(messages, parameters), fields, parameters


# No schemas are rewritten and nothing is taken for granted that only some vendors' models do.
_PROFILE = ModelProfile(
    supports_tools=True, supports_json_schema_output=True, supports_json_object_output=True
)

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
    "error": "error",
}


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
        with translated(in_stream=True):
            async for chunk in self.stream:
                for event in self._events(chunk):
                    yield event
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
        return SYSTEM

    @property
    def provider_url(self) -> None:
        """Nothing: a router has several."""
        return

    @property
    def timestamp(self) -> datetime:
        """When the stream was opened."""
        return self._began
