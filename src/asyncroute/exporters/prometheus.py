"""Prometheus: counters and histograms of requests and attempts, and the live state of routers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, final
from weakref import WeakValueDictionary

from asyncroute._errors import ConfigurationError

try:
    from prometheus_client import REGISTRY, Counter, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "PrometheusObserver needs prometheus_client: pip install 'asyncroute[prometheus]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from prometheus_client import CollectorRegistry

    from asyncroute._inputs import QueryRequest
    from asyncroute._protocols import Call
    from asyncroute._results import ExecutionResult
    from asyncroute._router import LLMRouter
    from asyncroute._values import Attempt

__all__ = ("PrometheusObserver",)

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
_WAITS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)

# What the provider took says something of the model only where it was not given up by us.
_TIMED = frozenset({"won", "not_accepted", "failed", "timed_out"})

_STATUSES = ("healthy", "blocked", "ejected", "probing")


@final
class PrometheusObserver:
    """Counts and times requests and attempts.

    =========================================== ================================
    metric                                      labels
    =========================================== ================================
    `asyncroute_requests_total`                 `strategy`, `outcome`
    `asyncroute_request_duration_seconds`       `strategy`, `outcome`
    `asyncroute_attempts_total`                 `model`, `role`, `outcome`, `error`
    `asyncroute_attempt_duration_seconds`       `model`, `outcome`
    `asyncroute_attempt_queued_seconds`         `model`
    `asyncroute_first_token_seconds`            `model` (streams only)
    `asyncroute_tokens_total`                   `model`, `type` (`input`, `output`)
    `asyncroute_cost_usd_total`                 `model`, `estimated`
    =========================================== ================================

    A request's `outcome` is `success`, `cached` or the kind of its error; an attempt's is that of
    `Attempt`, and `error` the kind of its error or empty. Tokens and dollars are those of attempts
    as they stood when their request was decided. No label holds what a caller writes freely.

    `watch(router)` adds the live state of a router's models.

    One observer may serve several routers; a registry takes one observer.

    Args:
        registry: Where to register; by default prometheus_client's own.

    Raises:
        ValueError: The registry has metrics of these names.
    """

    __slots__ = (
        "_attempt_seconds",
        "_attempts",
        "_cost",
        "_first_tokens",
        "_queued_seconds",
        "_request_seconds",
        "_requests",
        "_routers",
        "_tokens",
    )

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or REGISTRY
        self._requests = Counter(
            "asyncroute_requests",
            "Requests that were decided, by how they ended.",
            ("strategy", "outcome"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "asyncroute_request_duration_seconds",
            "Seconds from the start of a request to its end.",
            ("strategy", "outcome"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._attempts = Counter(
            "asyncroute_attempts",
            "Tries at a model, by how they ended.",
            ("model", "role", "outcome", "error"),
            registry=registry,
        )
        self._attempt_seconds = Histogram(
            "asyncroute_attempt_duration_seconds",
            "Seconds a provider took to answer or to fail.",
            ("model", "outcome"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._queued_seconds = Histogram(
            "asyncroute_attempt_queued_seconds",
            "Seconds an attempt waited for its model.",
            ("model",),
            buckets=_WAITS,
            registry=registry,
        )
        self._first_tokens = Histogram(
            "asyncroute_first_token_seconds",
            "Seconds from the call of a streaming provider to its first content.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "asyncroute_tokens",
            "Tokens used, those of failed and superseded attempts included.",
            ("model", "type"),
            registry=registry,
        )
        self._cost = Counter(
            "asyncroute_cost_usd",
            "Dollars spent, by whether they rest on estimated tokens.",
            ("model", "estimated"),
            registry=registry,
        )
        self._routers = _Routers()
        registry.register(self._routers)

    def watch(self, router: LLMRouter, *, name: str = "default") -> None:
        """Export the live state of a router's models, read when metrics are collected.

        The gauges are `asyncroute_in_flight`, `asyncroute_queued`, `asyncroute_load`,
        `asyncroute_success_ratio`, `asyncroute_available` (1 or 0) and `asyncroute_health`, which
        is 1 for the model's `status`: `healthy`, `blocked` (a Retry-After), `ejected`, `probing`.
        Their labels are `router` and `model`. Nothing keeps the router alive.

        Args:
            router: The router.
            name: Tells the routers of one observer apart.

        Raises:
            ConfigurationError: Another router has this name.
        """
        self._routers.add(name, router)

    def on_start(self, call: Call, /) -> AbstractContextManager[object]:
        """Return a context that times the first token of a stream."""
        return self._first_token(call)

    @contextmanager
    def _first_token(self, call: Call) -> Generator[None]:
        try:
            yield
        finally:
            if call.first_content_after is not None:
                seconds = self._first_tokens.labels(call.model.model_id)
                seconds.observe(call.first_content_after)

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
        """Count an attempt, its tokens and its cost."""
        model, outcome = attempt.model_id, attempt.outcome
        self._attempts.labels(model, attempt.role, outcome, attempt.error_kind or "").inc()
        self._queued_seconds.labels(model).observe(attempt.queued)
        if outcome in _TIMED:
            self._attempt_seconds.labels(model, outcome).observe(attempt.duration)
        if attempt.usage is not None:
            self._tokens.labels(model, "input").inc(attempt.usage.input_tokens)
            self._tokens.labels(model, "output").inc(attempt.usage.output_tokens)
        if attempt.cost:
            is_estimated = "true" if attempt.cost_is_estimated else "false"
            self._cost.labels(model, is_estimated).inc(attempt.cost)

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        """Count and time a request."""
        decision = result.decision
        strategy = request.strategy if decision is None else decision.strategy
        outcome = result.error_kind or ("cached" if result.cached else "success")
        self._requests.labels(strategy, outcome).inc()
        self._request_seconds.labels(strategy, outcome).observe(result.actual_latency_ms / 1000)

    def __repr__(self) -> str:
        return f"<PrometheusObserver watching {len(self._routers)} routers>"


class _Gauge(NamedTuple):
    name: str
    says: str
    key: str
    """In `model_stats` of a router's statistics."""


_GAUGES = (
    _Gauge(
        "asyncroute_in_flight", "Requests that hold a slot or were just sent.", "active_requests"
    ),
    _Gauge("asyncroute_queued", "Requests that wait for a slot.", "queued_requests"),
    _Gauge("asyncroute_load", "In flight and queued, over the number of slots.", "load"),
    _Gauge("asyncroute_success_ratio", "Share of recent calls that succeeded.", "success_rate"),
    _Gauge("asyncroute_available", "Whether the model is switched on.", "is_available"),
)


@final
class _Routers(Collector):
    """Reads the statistics of routers when a registry is collected, in whichever thread that is."""

    def __init__(self) -> None:
        self._by_name: WeakValueDictionary[str, LLMRouter] = WeakValueDictionary()

    def add(self, name: str, router: LLMRouter) -> None:
        if self._by_name.get(name, router) is not router:
            raise ConfigurationError(f"name {name!r} is another router's")
        self._by_name[name] = router

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without samples: what registering compares names with."""
        yield from _families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families with a sample for each model."""
        families = _families()
        for name, router in tuple(self._by_name.items()):
            for model_id, stats in router.get_statistics()["model_stats"].items():
                _sample(families, (name, model_id), stats)
        yield from families.values()

    def __len__(self) -> int:
        return len(self._by_name)


def _families() -> dict[str, GaugeMetricFamily]:
    families = {
        gauge.key: GaugeMetricFamily(gauge.name, gauge.says, labels=("router", "model"))
        for gauge in _GAUGES
    }
    families["health"] = GaugeMetricFamily(
        "asyncroute_health",
        "1 for what the model's health is, 0 for what it is not.",
        labels=("router", "model", "status"),
    )
    return families


def _sample(
    families: dict[str, GaugeMetricFamily], labels: tuple[str, str], stats: dict[str, Any]
) -> None:
    for gauge in _GAUGES:
        families[gauge.key].add_metric(labels, float(stats[gauge.key]))
    status = _status(stats["health"])
    for each in _STATUSES:
        families["health"].add_metric((*labels, each), float(each == status))


def _status(health: str) -> str:
    """The status in the text that a router's statistics give: `ejected for 5.0 s after …`."""
    if ", blocked" in health:
        return "blocked"
    return health.partition(" ")[0]
