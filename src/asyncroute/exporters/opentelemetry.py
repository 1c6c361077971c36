"""OpenTelemetry: a span for each call of a provider and each request, and the metrics of calls.

Names follow the semantic conventions for generative AI, which are still in development and live in
a repository of their own (open-telemetry/semantic-conventions-genai). They are spelled out here:
the `opentelemetry-semantic-conventions` package marks its copies as moved.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast, final

from asyncroute._errors import as_provider_error

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as error:
    raise ImportError(
        "OpenTelemetryObserver needs opentelemetry-api: pip install 'asyncroute[opentelemetry]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Tracer, TracerProvider

    from asyncroute._inputs import QueryRequest
    from asyncroute._protocols import Call
    from asyncroute._results import ExecutionResult
    from asyncroute._values import Attempt, Usage

__all__ = ("OpenTelemetryObserver",)

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_STOP_SEQUENCES = "gen_ai.request.stop_sequences"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"
ERROR_TYPE = "error.type"

OPERATION_DURATION = "gen_ai.client.operation.duration"
TIME_TO_FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKEN_USAGE = "gen_ai.client.token.usage"

# The conventions give the boundaries of durations and tokens.
_DURATIONS = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
)
_TOKENS = tuple(4**power for power in range(14))

_CHAT = "chat"

# What a user may call a provider in `providers`: the name the conventions prescribe for it.
_WELL_KNOWN = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",
    "mistral": "mistral_ai",
    "moonshot": "moonshot_ai",
    "vertex": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}

# Numbers among the parameters of a call that have an attribute of their own.
_PARAMETERS = ("frequency_penalty", "presence_penalty", "seed", "temperature", "top_k", "top_p")

_CALL = context.create_key("asyncroute-call")


@final
class OpenTelemetryObserver:
    """Traces and measures through the OpenTelemetry API; without an SDK all of it does nothing.

    Spans:

    - `chat {model}`, of kind client, for every call of a provider. It is the current span while the
      provider is waited for, so that the spans of HTTP clients nest in it.
    - `asyncroute.request` for every request, cached and refused ones too, in the caller's current
      span; a sibling of the calls, of which it says how many there were and what they cost.

    Metrics: `gen_ai.client.operation.duration` for calls,
    `gen_ai.client.operation.time_to_first_chunk` for streams (to the first one with content; their
    spans have it as well), and `gen_ai.client.token.usage` for attempts as they stood when their
    request was decided; only tokens a provider has told are counted, no estimates.

    `error.type` is the kind of error as in `error_kind`, or `cancelled` where a call was given up,
    which is no error of the span. Texts of errors, queries and answers are never recorded.

    Args:
        tracer_provider: Instead of the global one.
        meter_provider: Instead of the global one.
    """

    __slots__ = ("_durations", "_first_chunks", "_names", "_tokens", "_tracer")

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("asyncroute", tracer_provider=tracer_provider)
        meter = metrics.get_meter("asyncroute", meter_provider=meter_provider)
        self._durations = meter.create_histogram(
            OPERATION_DURATION,
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._first_chunks = meter.create_histogram(
            TIME_TO_FIRST_CHUNK,
            unit="s",
            description="Time from the call to the first chunk with content.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._tokens = meter.create_histogram(
            TOKEN_USAGE,
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        # Provider names by model: attempts do not say whose model they tried.
        self._names: dict[str, str] = {}

    def on_start(self, call: Call, /) -> _CallSpan:
        """Return a context that is the call's span."""
        model = call.model
        name = _WELL_KNOWN.get(model.provider, model.provider)
        self._names[model.model_id] = name
        attributes = _attributes(name, model.model_id)
        return _CallSpan(self._tracer, self._durations, self._first_chunks, call, attributes)

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
        """Record the tokens of an attempt."""
        usage = attempt.usage
        if usage is None or usage.estimated:
            return
        name = self._names.get(attempt.model_id, "unknown")
        attributes = _attributes(name, attempt.model_id)
        self._tokens.record(usage.input_tokens, {**attributes, TOKEN_TYPE: "input"})
        self._tokens.record(usage.output_tokens, {**attributes, TOKEN_TYPE: "output"})

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        """Record a request as a span that ends now."""
        decision = result.decision
        took = int(result.actual_latency_ms * 1e6)
        # A span's instants are those of the wall clock, which is the SDK's too.
        ended_at = time.time_ns()
        span = self._tracer.start_span(
            "asyncroute.request",
            start_time=ended_at - took,
            attributes={
                "asyncroute.request.id": result.request_id,
                "asyncroute.request.strategy": (
                    request.strategy if decision is None else decision.strategy
                ),
                "asyncroute.request.capability": request.capability,
            },
        )
        if span.is_recording():
            span.set_attributes(_figures(result))
            if not result.success:
                span.set_status(Status(StatusCode.ERROR))
        span.end(ended_at)

    def __repr__(self) -> str:
        return f"<OpenTelemetryObserver of {len(self._names)} models>"


@final
class _CallSpan:
    """The span of one call, current from entering to leaving.

    Streams that are iterated in their consumer's task may overlap there and end in any order, or in
    another task. So leaving does not reset the context to a token, which would bring spans back
    that have ended: it takes away this call's span, and what has ended beneath it, if it is on top.
    """

    __slots__ = (
        "_attributes",
        "_call",
        "_durations",
        "_first_chunks",
        "_outer",
        "_span",
        "_started_at",
        "_tracer",
        "has_ended",
    )

    def __init__(
        self,
        tracer: Tracer,
        durations: Histogram,
        first_chunks: Histogram,
        call: Call,
        attributes: dict[str, Any],
    ) -> None:
        self._tracer = tracer
        self._durations = durations
        self._first_chunks = first_chunks
        self._call = call
        self._attributes = attributes
        self.has_ended = False

    def __enter__(self) -> None:
        self._outer = context.get_current()
        self._span = span = self._tracer.start_span(
            f"{_CHAT} {self._call.model.model_id}",
            kind=SpanKind.CLIENT,
            attributes=self._attributes,
        )
        if span.is_recording():
            span.set_attributes(_parameters(self._call))
        context.attach(trace.set_span_in_context(span, context.set_value(_CALL, self)))
        self._started_at = asyncio.get_running_loop().time()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = asyncio.get_running_loop().time() - self._started_at
        span, usage, first = self._span, self._call.usage, self._call.first_content_after
        self.has_ended = True
        if self.is_on_top(context.get_current()):
            context.attach(self._below())
        if error is not None:
            self._attributes[ERROR_TYPE] = error_type = _error_type(error, self._call)
            span.set_attribute(ERROR_TYPE, error_type)
            if error_type != "cancelled":
                span.set_status(Status(StatusCode.ERROR))
        if usage is not None:
            span.set_attributes(_usage(usage))
        if first is not None:
            span.set_attributes({REQUEST_STREAM: True, RESPONSE_TIME_TO_FIRST_CHUNK: first})
            self._first_chunks.record(first, self._attributes)
        span.end()
        self._durations.record(seconds, self._attributes)

    def is_on_top(self, where: Context) -> bool:
        """Whether its span is the current one there."""
        return trace.get_current_span(where) is self._span

    def _below(self) -> Context:
        """What was current before it, without other calls' spans that have ended since."""
        outer = self._outer
        while isinstance(call := context.get_value(_CALL, outer), _CallSpan):
            if not (call.has_ended and call.is_on_top(outer)):
                break
            outer = call.outer
        return outer

    @property
    def outer(self) -> Context:
        """What was current before it."""
        return self._outer


def _attributes(provider: str, model_id: str) -> dict[str, Any]:
    return {OPERATION_NAME: _CHAT, PROVIDER_NAME: provider, REQUEST_MODEL: model_id}


def _parameters(call: Call) -> dict[str, Any]:
    """What was asked for, as far as the conventions know it: never prompts, nothing unknown."""
    params = call.params
    attributes: dict[str, Any] = {
        f"gen_ai.request.{name}": params[name]
        for name in _PARAMETERS
        if isinstance(params.get(name), (int, float))
    }
    if call.max_tokens is not None:
        attributes[REQUEST_MAX_TOKENS] = call.max_tokens
    stop = params.get("stop")
    if isinstance(stop, str):
        attributes[REQUEST_STOP_SEQUENCES] = [stop]
    elif isinstance(stop, (list, tuple)):
        attributes[REQUEST_STOP_SEQUENCES] = [
            each for each in cast("list[object]", stop) if isinstance(each, str)
        ]
    return attributes


def _usage(usage: Usage) -> dict[str, Any]:
    attributes = {
        USAGE_INPUT_TOKENS: usage.input_tokens,
        USAGE_OUTPUT_TOKENS: usage.output_tokens,
    }
    if usage.cached_tokens:
        attributes[USAGE_CACHE_READ_INPUT_TOKENS] = usage.cached_tokens
    if usage.reasoning_tokens:
        attributes[USAGE_REASONING_OUTPUT_TOKENS] = usage.reasoning_tokens
    return attributes


def _figures(result: ExecutionResult) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "asyncroute.request.attempts": len(result.attempts),
        "asyncroute.request.cost": result.actual_cost,
        "asyncroute.request.cached": result.cached,
        "asyncroute.request.simulated": result.simulated,
    }
    if result.model_id is not None:
        attributes["asyncroute.request.model"] = result.model_id
    if result.finish_reason is not None:
        attributes[RESPONSE_FINISH_REASONS] = [result.finish_reason]
    if result.usage is not None:
        attributes.update(_usage(result.usage))
    if result.error_kind is not None:
        attributes[ERROR_TYPE] = result.error_kind
    return attributes


def _error_type(error: BaseException, call: Call) -> str:
    if isinstance(error, Exception):
        return as_provider_error(error, call.model.model_id).kind
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
