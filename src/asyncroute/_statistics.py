"""The statistics of a router, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncroute._cache import CacheManager
    from asyncroute._endpoint import Endpoint
    from asyncroute._executor import Counters
    from asyncroute._metrics import PerformanceMetrics
    from asyncroute._registry import Registry

__all__ = ("statistics",)


def statistics(
    registry: Registry,
    metrics: PerformanceMetrics,
    counters: Counters,
    decisions: CacheManager[Any],
    results: CacheManager[Any] | None,
) -> dict[str, Any]:
    """Return what requests and models came to.

    `total_requests` and its parts count requests; under `model_stats` each model's
    `total_requests` counts calls, so that a request that fell back shows at two models.
    """
    requests = counters.requests
    return {
        "total_requests": requests,
        "successful_requests": counters.succeeded,
        "failed_requests": counters.failed,
        "cached_requests": counters.cached,
        "success_rate": counters.succeeded / requests if requests else 1.0,
        "total_cost": metrics.total_spend,
        "estimated_cost": metrics.estimated_spend,
        "decision_cache": decisions.snapshot().to_dict(),
        "cache": None if results is None else results.snapshot().to_dict(),
        "model_stats": {
            endpoint.model_id: _model_statistics(endpoint) for endpoint in tuple(registry)
        },
    }


def _model_statistics(endpoint: Endpoint) -> dict[str, Any]:
    config = endpoint.config
    active, queued = endpoint.in_flight, endpoint.queued
    return {
        "name": config.name,
        "provider": config.provider,
        "is_available": config.is_available,
        "health": repr(endpoint.health).removeprefix("<Health ").removesuffix(">"),
        "load": endpoint.load,
        **endpoint.metrics.snapshot(active=active, queued=queued).to_dict(),
    }
