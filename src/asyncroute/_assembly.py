"""A router made from a configuration, and its models changed while it runs."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from asyncroute._cache import CacheManager
from asyncroute._inputs import ModelConfig
from asyncroute._protocols import Provider
from asyncroute._router import LLMRouter
from asyncroute._secrets import escape
from asyncroute._selectors import (
    BalancedSelector,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    QualityOptimizedSelector,
    RouterEnsemble,
)
from asyncroute.config import ProviderSettings, RouterConfig, resolve_provider

if TYPE_CHECKING:
    from asyncroute._results import ExecutionResult
    from asyncroute.providers import OpenAICompatibleProvider, SimulatedProvider

__all__ = (
    "SIMULATED",
    "ProviderFactory",
    "Providers",
    "as_written",
    "opening",
    "replace_models",
    "router_from",
    "simulating",
)

SIMULATED = "simulated"
"""The provider's name of a model that came to a simulated router later."""

ProviderFactory = Callable[[], AbstractAsyncContextManager[Provider]]
Providers = Mapping[str, Provider | ProviderFactory]


def router_from(config: RouterConfig, providers: Providers, seed: int | None) -> LLMRouter:
    """Make a router as the configuration says, not opened yet.

    Raises:
        ConfigurationError: The models do not fit together.
    """
    cache: CacheManager[ExecutionResult] | bool = False
    if config.enable_caching:
        cache = CacheManager(config.cache_size, config.cache_ttl)
    return LLMRouter(
        config.models,
        providers,
        selectors={"ensemble": _ensemble(seed)} if config.enable_ensemble else None,
        cache=cache,
        budgets=[budget.to_budget() for budget in config.budgets],
        on_no_candidates=config.on_no_candidates,
        strict_capabilities=config.strict_capabilities,
        timeout=config.timeout,
        attempt_timeout=config.attempt_timeout,
        max_workers=config.max_workers,
        queue_size=config.queue_size,
        fair_by=config.fair_by,
        adaptive_concurrency=config.adaptive_concurrency,
        metrics_window=config.metrics_window,
        drain_timeout=config.drain_timeout,
        seed=seed,
    )


def simulating(models: Iterable[ModelConfig], provider: SimulatedProvider) -> Providers:
    """Return the providers of a router in which this one plays all models."""
    return dict.fromkeys((SIMULATED, *(model.provider for model in models)), provider)


def opening(name: str, settings: ProviderSettings, source: str) -> ProviderFactory:
    """Return a factory of the configured provider, which looks up the environment when it opens."""

    def make() -> OpenAICompatibleProvider:
        from asyncroute.providers import OpenAICompatibleProvider  # needs the extra `http`

        resolved = resolve_provider(name, settings, source=source)
        return OpenAICompatibleProvider(
            resolved.base_url,
            resolved.api_key,
            headers=resolved.headers,
            stream_usage=resolved.stream_usage,
            done_marker=resolved.done_marker,
        )

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Provider]:
        # In a thread: loading certificates would block the loop.
        async with await anyio.to_thread.run_sync(make) as provider:
            yield provider

    return opened


def replace_models(router: LLMRouter, models: Sequence[ModelConfig]) -> None:
    """Make these the router's models, or leave it as it was."""
    before = router.models
    try:
        _change_models(router, models)
    except Exception:
        _change_models(router, before)
        raise


def _change_models(router: LLMRouter, models: Sequence[ModelConfig]) -> None:
    wanted = {model.model_id: model for model in models}
    # Members of a quota group have equal figures at every step: so first those go who do not stay
    # in theirs, then the others change, and last of all come the new ones.
    for old in router.models:
        if old.model_id not in wanted:
            router.remove_model(old.model_id)
    moving = {
        old.model_id
        for old in router.models
        if old.quota_group not in (None, wanted[old.model_id].quota_group)
    }
    for model_id in moving:
        router.update_model(model_id, quota_group=None)
    for old in sorted(router.models, key=lambda model: model.quota_group is None):
        new = wanted[old.model_id]
        changes = {
            field: getattr(new, field)
            for field in ModelConfig.model_fields
            if getattr(new, field) != getattr(old, field)
        }
        if changes:
            router.update_model(old.model_id, **changes)
    known = {model.model_id for model in router.models}
    for model in models:
        if model.model_id not in known:
            router.add_model(model)


def as_written(
    live: ModelConfig, written: ModelConfig | None, resolved: ModelConfig | None
) -> ModelConfig:
    """Return a live model with references in place of the values they were resolved to."""
    if written is not None and live.params == written.params:
        return live
    params: dict[str, Any] = escape(live.params)
    if written is not None and resolved is not None:
        for key, value in live.params.items():
            if key in written.params and resolved.params[key] == value:
                params[key] = written.params[key]
    return live.model_copy(update={"params": params})


def _ensemble(seed: int | None) -> RouterEnsemble:
    """Make the strategy `ensemble`: cost, latency, quality and balance with equal weights."""
    rng = random.Random(seed)
    voters = (
        CostOptimizedSelector(rng=rng),
        LatencyOptimizedSelector(rng=rng),
        QualityOptimizedSelector(rng=rng),
        BalancedSelector(rng=rng),
    )
    return RouterEnsemble([(voter, 1.0) for voter in voters], rng=rng)
