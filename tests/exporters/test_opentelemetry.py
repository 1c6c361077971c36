"""Spans and metrics as a real SDK gets them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from asyncroute import (
    AttemptTimeoutError,
    Call,
    Chunk,
    Completion,
    LLMRouter,
    ModelConfig,
    QueryRequest,
    Usage,
)
from asyncroute.exporters import OpenTelemetryObserver
from support import Scripted, Step, answers, fails, hangs, model, router_of


class Telemetry:
    """A real SDK that keeps all it gets."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = tracers.get_tracer("test")
        self.observer = OpenTelemetryObserver(
            tracer_provider=tracers, meter_provider=MeterProvider([self._reader])
        )

    def spans(self, kind: SpanKind | None = None) -> list[ReadableSpan]:
        found = self._spans.get_finished_spans()
        return [each for each in found if kind is None or each.kind is kind]

    def calls(self) -> list[ReadableSpan]:
        return self.spans(SpanKind.CLIENT)

    def requests(self) -> list[ReadableSpan]:
        return [each for each in self.spans() if each.name == "asyncroute.request"]

    def points(self, name: str) -> list[HistogramDataPoint]:
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, HistogramDataPoint)
        ]

    def durations(self) -> dict[Any, float]:
        return {
            (each.attributes or {}).get("error.type"): each.sum
            for each in self.points("gen_ai.client.operation.duration")
        }

    def tokens(self) -> dict[tuple[Any, Any], float]:
        return {
            (attributes["gen_ai.request.model"], attributes["gen_ai.token.type"]): each.sum
            for each in self.points("gen_ai.client.token.usage")
            if (attributes := each.attributes or {})
        }

    def router(self, provider: Any, ids: Any = "abc", **settings: Any) -> LLMRouter:
        return router_of(provider, ids, observers=[self.observer], **settings)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def nesting(telemetry: Telemetry, usage: Usage | None = None) -> Step:
    """Answer under a span of the HTTP client's."""

    async def step(call: Call) -> Completion:
        with telemetry.tracer.start_as_current_span("POST"):
            await asyncio.sleep(0.1)
        call.usage = usage
        return Completion("hi", usage)

    return step


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_call_is_a_span_of_the_conventions(telemetry: Telemetry) -> None:
    provider = Scripted(default=nesting(telemetry, Usage(100, 20, 30, 15)))
    params = {"temperature": 0.5, "stop": ["END"], "seed": 7, "user": "secret", "top_p": None}
    async with telemetry.router(provider, [model("a", provider="default")]) as router:
        await router.execute("hello", max_tokens=50, params=params)
    (call,) = telemetry.calls()
    assert call.name == "chat a"
    assert call.status.status_code is StatusCode.UNSET
    assert attributes(call) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "default",
        "gen_ai.request.model": "a",
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 30,
        "gen_ai.usage.reasoning.output_tokens": 15,
    }


async def test_spans_of_the_http_client_nest_in_it(telemetry: Telemetry) -> None:
    for promptly in (True, False):  # in the caller's task, and supervised
        provider = Scripted(default=nesting(telemetry), promptly=promptly)
        async with telemetry.router(provider) as router:
            with telemetry.tracer.start_as_current_span("handler") as handler:
                await router.execute("hello")
                assert trace.get_current_span() is handler
    for index in (0, 1):
        http = [each for each in telemetry.spans() if each.name == "POST"][index]
        call, request = telemetry.calls()[index], telemetry.requests()[index]
        handler = [each for each in telemetry.spans() if each.name == "handler"][index]
        assert http.parent == call.context
        assert call.parent == request.parent == handler.context


async def test_the_providers_name_is_the_well_known_one(telemetry: Telemetry) -> None:
    async with LLMRouter(
        [model("a", provider="mistral")], {"*": Scripted()}, observers=[telemetry.observer]
    ) as router:
        await router.execute("hello")
    assert attributes(telemetry.calls()[0])["gen_ai.provider.name"] == "mistral_ai"
    (point,) = telemetry.points("gen_ai.client.operation.duration")
    assert (point.attributes or {})["gen_ai.provider.name"] == "mistral_ai"


async def test_a_failed_call_is_an_error_of_its_kind(telemetry: Telemetry) -> None:
    provider = Scripted({"a": fails("rate_limited", after=0.5, status=429)})
    async with telemetry.router(provider) as router:
        await router.execute("hello")
    failed, won = telemetry.calls()
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"] == "rate_limited"
    assert "error.type" not in attributes(won)
    assert telemetry.durations() == {
        "rate_limited": pytest.approx(0.5),
        None: pytest.approx(0.1),
    }


async def test_a_call_given_up_is_no_error(telemetry: Telemetry) -> None:
    provider = Scripted({"a": hangs()})
    async with telemetry.router(provider) as router:
        await router.execute("hello", mode="hedged", hedge_after=1)
    lost = next(each for each in telemetry.calls() if each.name == "chat a")
    assert attributes(lost)["error.type"] == "cancelled"
    assert lost.status.status_code is StatusCode.UNSET
    assert telemetry.durations()["cancelled"] == pytest.approx(1.1, abs=0.03)


async def test_errors_are_named_by_kind(telemetry: Telemetry) -> None:
    for error, kind in (
        (AttemptTimeoutError("too slow"), "attempt_timeout"),
        (ConnectionError("nobody there"), "unavailable"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ):
        held = telemetry.observer.on_start(Call(model(), QueryRequest(query="hello")))
        held.__enter__()
        held.__exit__(type(error), error, None)
        span = telemetry.calls()[-1]
        assert attributes(span)["error.type"] == kind
        assert span.status.status_code is StatusCode.ERROR


async def test_tokens_are_measured_as_billed(telemetry: Telemetry) -> None:
    provider = Scripted({"b": answers(usage=Usage(1000, 300)), "c": answers(usage=None)})
    async with telemetry.router(provider) as router:
        await router.execute("hello", models=["a"])
        await router.execute("hello", models=["b"])
        await router.execute("hello", models=["b"])
        await router.execute("hello", models=["c"])  # only an estimate: not measured
    assert telemetry.tokens() == {
        ("a", "input"): 10,
        ("a", "output"): 5,
        ("b", "input"): 2000,
        ("b", "output"): 600,
    }
    bounds = telemetry.points("gen_ai.client.token.usage")[0].explicit_bounds
    assert bounds[:4] == (1, 4, 16, 64)
    assert bounds[-1] == 67108864
    duration = telemetry.points("gen_ai.client.operation.duration")[0]
    assert (duration.explicit_bounds[0], duration.explicit_bounds[-1]) == (0.01, 81.92)


async def test_a_users_own_function_is_measured_too(telemetry: Telemetry) -> None:
    async def execute(config: ModelConfig, request: QueryRequest) -> Completion:
        return Completion("hi", Usage(7, 3))

    async with telemetry.router(Scripted(), "a") as router:
        await router.execute_with_fallback(QueryRequest(query="hello"), execute)
    assert telemetry.tokens() == {("a", "input"): 7, ("a", "output"): 3}


async def test_a_request_is_a_span_with_what_it_came_to(telemetry: Telemetry) -> None:
    provider = Scripted({"a": fails("unavailable", after=0.5)})
    async with telemetry.router(provider) as router:
        result = await router.execute("hello", capability="general")
    (request,) = telemetry.requests()
    assert request.kind is SpanKind.INTERNAL
    assert request.status.status_code is StatusCode.UNSET
    assert attributes(request) == {
        "asyncroute.request.id": result.request_id,
        "asyncroute.request.strategy": "balanced",
        "asyncroute.request.capability": "general",
        "asyncroute.request.attempts": 2,
        "asyncroute.request.cost": pytest.approx(0.00015),
        "asyncroute.request.cached": False,
        "asyncroute.request.simulated": False,
        "asyncroute.request.model": "b",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
    }
    assert (request.start_time, request.end_time) != (None, None)
    took = (request.end_time or 0) - (request.start_time or 0)
    assert took == pytest.approx(0.6e9, rel=1e-6)


async def test_refused_and_cached_requests_are_spans_too(telemetry: Telemetry) -> None:
    async with telemetry.router(Scripted(), cache=True) as router:
        await router.execute("hello", required_quality=1.0)
        await router.execute("hello")
        await router.execute("hello")
    refused, fresh, cached = telemetry.requests()
    assert refused.status.status_code is StatusCode.ERROR
    assert attributes(refused)["error.type"] == "no_eligible_model"
    assert not attributes(fresh)["asyncroute.request.cached"]
    assert attributes(cached)["asyncroute.request.cached"]
    assert len(telemetry.calls()) == 1


async def test_no_text_is_recorded(telemetry: Telemetry) -> None:
    provider = Scripted({"a": fails("bad_request")})
    async with telemetry.router(provider, "a") as router:
        await router.execute("the launch code", metadata={"tenant": "acme"})
    recorded = "".join(each.to_json() for each in telemetry.spans())
    assert "launch" not in recorded
    assert "acme" not in recorded
    assert "a failed" not in recorded
    assert all(not each.events for each in telemetry.spans())


class Streaming:
    cancels_promptly = True

    async def complete(self, call: Call, /) -> Completion:
        raise NotImplementedError

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        for text in ("one", "two"):
            await asyncio.sleep(0.5)
            yield Chunk(text)
        yield Chunk(finish_reason="stop", usage=Usage(3, 2))


async def test_a_stream_is_a_call_to_its_end(telemetry: Telemetry) -> None:
    async with telemetry.router(Streaming(), "a") as router:
        async with router.stream("hello") as stream:
            assert [chunk.text async for chunk in stream] == ["one", "two", ""]
    (call,) = telemetry.calls()
    assert attributes(call)["gen_ai.usage.output_tokens"] == 2
    assert attributes(call)["gen_ai.request.stream"] is True
    assert attributes(call)["gen_ai.response.time_to_first_chunk"] == 0.5
    (first,) = telemetry.points("gen_ai.client.operation.time_to_first_chunk")
    assert (first.count, first.sum) == (1, 0.5)
    assert telemetry.durations() == {None: pytest.approx(1.0)}
    assert telemetry.tokens() == {("a", "input"): 3, ("a", "output"): 2}
    assert attributes(telemetry.requests()[0])["gen_ai.response.finish_reasons"] == ("stop",)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
async def test_streams_that_overlap_leave_the_callers_span_current(
    telemetry: Telemetry, order: tuple[int, ...]
) -> None:
    async with telemetry.router(Streaming(), "a") as router:
        with telemetry.tracer.start_as_current_span("handler") as handler:
            stacks = [AsyncExitStack() for _ in order]
            for stack in stacks:
                await stack.enter_async_context(router.stream("hello"))
            for index in order:
                await stacks[index].aclose()
            assert trace.get_current_span() is handler
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert len(telemetry.calls()) == 3


async def test_a_stream_left_in_another_task_is_no_trouble(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    async with telemetry.router(Streaming(), "a") as router:
        stack = AsyncExitStack()
        async with asyncio.TaskGroup() as group:
            await group.create_task(stack.enter_async_context(router.stream("hello")))
        await stack.aclose()
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert len(telemetry.calls()) == 1
    assert caplog.records == []


async def test_a_span_of_the_callers_opened_since_stays_current(telemetry: Telemetry) -> None:
    async with telemetry.router(Streaming(), "a") as router:
        stack = AsyncExitStack()
        await stack.enter_async_context(router.stream("hello"))
        with telemetry.tracer.start_as_current_span("mine") as mine:
            await stack.aclose()
            assert trace.get_current_span() is mine


async def test_without_an_sdk_it_does_nothing() -> None:
    observer = OpenTelemetryObserver()
    async with router_of(Scripted(), observers=[observer]) as router:
        assert (await router.execute("hello")).success
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert repr(observer) == "<OpenTelemetryObserver of 1 models>"


MISSING = """
import sys

sys.modules[sys.argv[1]] = None
from asyncroute import exporters

for ask in (lambda: getattr(exporters, sys.argv[2]), lambda: __import__(sys.argv[3])):
    try:
        ask()
    except ImportError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("package", "observer", "extra"),
    [
        ("opentelemetry", "OpenTelemetryObserver", "opentelemetry"),
        ("prometheus_client", "PrometheusObserver", "prometheus"),
    ],
)
def test_a_missing_package_is_told_with_its_extra(package: str, observer: str, extra: str) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", MISSING),
            *(package, observer, f"asyncroute.exporters.{extra}"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=15,
    )
    first, second = ran.stdout.splitlines()
    assert first == second
    assert first.startswith(f"{observer} needs")
    assert first.endswith(f"pip install 'asyncroute[{extra}]'")
