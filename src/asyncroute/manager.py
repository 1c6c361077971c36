"""The high-level face: dictionaries in and out, configuration files, benchmarks, simulation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack, final

import anyio.to_thread
from anyio import CapacityLimiter

from asyncroute._arguments import check_mapping, check_several, is_whole, shown
from asyncroute._assembly import (
    SIMULATED,
    Providers,
    as_written,
    opening,
    replace_models,
    router_from,
    simulating,
)
from asyncroute._benchmark import compare, progress_bar, strategies_of
from asyncroute._errors import ConfigurationError
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute.catalogue import DEFAULT_MODELS
from asyncroute.config import RouterConfig, load_config, resolve_model, save_config
from asyncroute.providers import SimulatedProvider

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from asyncroute._inputs import Message
    from asyncroute._protocols import Accept, ModelSelector
    from asyncroute._router import LLMRouter

__all__ = ("ExecutionFields", "LLMRoutingManager", "RoutingFields")

logger = logging.getLogger(__name__)


class RoutingFields(TypedDict, total=False):
    """What a query may ask for besides capability and strategy; see `QueryRequest`."""

    max_tokens: int | None
    max_cost: float | None
    max_latency_ms: float | None
    required_quality: float | None
    models: Sequence[str] | None
    exclude: Sequence[str]
    timeout: float | None
    priority: int
    params: dict[str, Any] | None
    metadata: dict[str, Any] | None


class ExecutionFields(RoutingFields, total=False):
    """The same, and how several models are tried; see `LLMRouter.execute`."""

    mode: Literal["sequential", "hedged", "race", "cascade"] | None
    width: int | None
    hedge_after: float | None
    accept: Accept | None


@final
class LLMRoutingManager:
    """Routes and executes queries as a configuration says; gives dictionaries back.

    `async with manager` opens what executing needs; `route_query`, `get_statistics`,
    `benchmark_strategies`, `export_config` and `import_config` work without it, too.

    Args:
        config: The keys are those of `RouterConfig`; without `models` the catalogue's eight.
        providers: What calls the models, by the models' `provider`: besides and before those the
            configuration describes.
        seed: Where chance comes from: ties, jitter, simulated answers. None for a different one
            each time.

    A manager without any provider, neither given nor configured, simulates: its `mock_execution`
    is True by default. Everywhere else it is False. Simulated queries have a router of their own,
    with its own metrics, health, budgets and cache; it follows the models of `router`, and its
    results say `simulated`.

    In `params` of a model and in provider settings, `${NAME}` stands for an environment variable.
    It is looked up on entering.

    Raises:
        ConfigurationError: The configuration is wrong; names key and value.
    """

    __slots__ = (
        "_config",
        "_followed",
        "_given",
        "_is_mock",
        "_resolved",
        "_router",
        "_seed",
        "_simulated",
        "_simulated_providers",
        "_source",
        "_stack",
    )

    def __init__(
        self,
        config: Mapping[str, Any] | RouterConfig | None = None,
        *,
        providers: Providers | None = None,
        seed: int | None = None,
    ) -> None:
        if isinstance(config, (str, PathLike)):
            raise ConfigurationError(
                f"config must be a mapping or a RouterConfig, got {shown(config)}:"
                " load_config reads a file"
            )
        if not isinstance(config, RouterConfig):
            check_mapping("config", config, "settings")
            config = RouterConfig.from_mapping({"models": DEFAULT_MODELS, **(config or {})})
        check_mapping("providers", providers, "providers")
        self._given = dict(providers or {})
        self._seed = seed
        self._stack: AsyncExitStack | None = None
        self._configure(config, "the configuration")

    def _configure(self, config: RouterConfig, source: str) -> None:
        """Begin anew with this configuration."""
        router = self._router_for(config, source)
        players = simulating(config.models, SimulatedProvider(seed=self._seed or 0))
        self._simulated = router_from(config, players, self._seed)
        self._simulated_providers = frozenset(players)
        self._router = router
        self._config = config
        self._source = source
        self._is_mock = not (self._given or config.providers)
        self._resolved: dict[str, ModelConfig] = {}
        self._followed = router.models

    @property
    def router(self) -> LLMRouter:
        """The router for what is not simulated: for `execute_with_fallback`, streams and more.

        It is opened and closed with the manager. Importing a configuration before that makes
        another one.
        """
        return self._router

    @property
    def config(self) -> RouterConfig:
        """The configuration with the models as they are now, references unresolved."""
        configured = {model.model_id: model for model in self._config.models}
        models = tuple(
            as_written(live, configured.get(live.model_id), self._resolved.get(live.model_id))
            for live in self._router.models
        )
        return self._config.model_copy(update={"models": models})

    async def __aenter__(self) -> Self:
        """Open the routers and the configured providers.

        Raises:
            ConfigurationError: An environment variable is missing; names variable, key and file.
            RouterStateError: The manager is open, or was.
        """
        self._resolve_params()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._router)
            await stack.enter_async_context(self._simulated)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let calls in flight finish, as the router does when it is left."""
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.__aexit__(kind, error, traceback)

    async def route_query(
        self,
        query: str | Sequence[Message],
        capability: str = "general",
        strategy: str | ModelSelector = "balanced",
        **fields: Unpack[RoutingFields],
    ) -> dict[str, Any]:
        """Choose a model for a query, without asking it.

        Args:
            query: A text, or messages.
            capability: What the model must be good for.
            strategy: The name of a strategy, or a selector.
            **fields: Constraints and the other fields of a `QueryRequest`.

        Returns:
            The decision as `RoutingDecision.to_dict` gives it: `selected_model`,
            `expected_cost` (dollars), `expected_latency_ms`, `fallback_models` and more.

        Raises:
            NoEligibleModelError: No model may serve it; a reason for each.
            ConfigurationError: No such strategy.
            ValidationError: A field has a bad value (pydantic's).
        """
        router = self._router_if(self._is_mock)
        decision = await router.route(query, capability=capability, strategy=strategy, **fields)
        return decision.to_dict()

    async def execute_query(
        self,
        query: str | Sequence[Message],
        capability: str = "general",
        strategy: str | ModelSelector | None = None,
        mock_execution: bool | None = None,
        **fields: Unpack[ExecutionFields],
    ) -> dict[str, Any]:
        """Answer a query, with fallbacks. Needs `async with`.

        Args:
            query: A text, or messages.
            capability: What the model must be good for.
            strategy: The name of a strategy, or a selector. None means `balanced`, and in a
                cascade `cost_optimized`.
            mock_execution: Whether the answer is simulated. None means: only in a manager without
                providers.
            **fields: Constraints and the other fields of a `QueryRequest`; `mode`, `width`,
                `hedge_after` and `accept` of `LLMRouter.execute`.

        Returns:
            The result as `ExecutionResult.to_dict` gives it, whatever happened outside: `success`,
            `model_used`, `response`, `error` and more. Cancelling cancels the query.

        Raises:
            ConfigurationError: No such strategy, or no provider for the model.
            RouterStateError: The manager is not open.
            ValidationError: A field has a bad value (pydantic's).
        """
        router = self._router_if(self._is_mock if mock_execution is None else mock_execution)
        result = await router.execute(query, capability=capability, strategy=strategy, **fields)
        return result.to_dict()

    async def get_statistics(self, *, mock_execution: bool | None = None) -> dict[str, Any]:
        """Return the figures of all models: `model_stats` by id, and the totals.

        Args:
            mock_execution: Whether those of simulated queries; None for the same as in
                `execute_query`. `simulated` in the dictionary says which they are.
        """
        is_mock = self._is_mock if mock_execution is None else mock_execution
        return {**self._router_if(is_mock).get_statistics(), "simulated": is_mock}

    async def benchmark_strategies(
        self, test_queries: Iterable[Mapping[str, Any] | str], iterations: int = 100
    ) -> dict[str, dict[str, Any]]:
        """Compare the strategies on these queries, simulated and in virtual time.

        Every strategy has a fresh router with the models as they are now. It runs in a worker
        thread, with a progress bar on a terminal where rich is installed. Cancelling does not wait
        for the thread, which ends at its next query.

        Args:
            test_queries: Texts, or dictionaries with the fields of a `QueryRequest`.
            iterations: How often all queries are executed with each strategy.

        Returns:
            By strategy what `StrategyReport` describes: `avg_cost` (dollars), `avg_latency` and
            `p95_latency` (milliseconds), `success_rate`, `models_used` and more.

        Raises:
            ConfigurationError: No queries, or less than one iteration.
            ValidationError: A query has a bad value (pydantic's).
        """
        check_several("test_queries", test_queries, "texts or mappings of a request's fields")
        requests = [_request(query) for query in test_queries]
        if not requests or not (is_whole(iterations) and iterations >= 1):
            raise ConfigurationError(
                "a benchmark needs at least one query and one iteration; "
                f"got {len(requests)} queries, iterations={iterations!r}"
            )
        config = self.config
        is_wanted = True
        total = len(requests) * iterations * len(strategies_of(config))
        with progress_bar("Benchmarking strategies", total) as advance:

            def go_on() -> bool:
                advance()
                return is_wanted

            def run() -> dict[str, dict[str, Any]]:
                reports = compare(config, requests, iterations, seed=self._seed or 0, go_on=go_on)
                return {strategy: report.to_dict() for strategy, report in reports.items()}

            try:
                return await anyio.to_thread.run_sync(
                    run, abandon_on_cancel=True, limiter=CapacityLimiter(1)
                )
            finally:
                is_wanted = False

    async def export_config(self, filepath: str | os.PathLike[str]) -> dict[str, str]:
        """Write the configuration to a JSON or YAML file, with the models as they are now.

        References to environment variables are written as they were. A plain secret is replaced by
        a reference, and a warning is logged.

        Returns:
            The variables that must hold those secrets: by name, where each one stood.

        Raises:
            ConfigurationError: Another suffix than `.json`, `.yaml`, `.yml`; a value no file holds.
            OSError: The file cannot be written; an old one is as it was.
        """
        variables = await anyio.to_thread.run_sync(save_config, self.config, filepath)
        if variables:
            places = ", ".join(f"{name} ({place})" for name, place in variables.items())
            logger.warning("secrets were left out of %s; to be set: %s", filepath, places)
        return variables

    async def import_config(self, filepath: str | os.PathLike[str]) -> tuple[str, ...]:
        """Take over the configuration of a JSON or YAML file: all of it, or nothing.

        In an open manager models are added, changed and removed; calls in flight finish as they
        began. Other settings are those of the routers and providers that are open: they take effect
        in a new manager, and a warning is logged.

        Returns:
            The settings that differ from those in effect.

        Raises:
            ConfigurationError: The file is bad, or an environment variable is missing.
            OSError: The file cannot be read.
        """
        config = await anyio.to_thread.run_sync(load_config, filepath)
        if self._stack is None:
            self._configure(config, str(filepath))
            return ()
        return self._adopt(config, str(filepath))

    def _adopt(self, config: RouterConfig, source: str) -> tuple[str, ...]:
        resolved = [resolve_model(model, source=source) for model in config.models]
        # A router that is never opened finds what is wrong with them before anything is changed.
        self._router_for(config.model_copy(update={"models": tuple(resolved)}), source)
        replace_models(self._router, resolved)
        waiting = tuple(
            field
            for field in RouterConfig.model_fields
            if field != "models" and getattr(config, field) != getattr(self._config, field)
        )
        if waiting:
            logger.warning("not in effect before a new manager: %s", ", ".join(waiting))
        self._config = config
        self._source = source
        self._resolved = {model.model_id: model for model in resolved}
        return waiting

    def _router_if(self, is_mock: bool) -> LLMRouter:
        if not is_mock:
            return self._router
        models = self._router.models
        if models != self._followed:
            # A router learns its providers on entering: those of models added since go by another
            # name.
            played = self._simulated_providers
            simulated = [
                model
                if model.provider in played
                else model.model_copy(update={"provider": SIMULATED})
                for model in models
            ]
            replace_models(self._simulated, simulated)
            self._followed = models
        return self._simulated

    def _router_for(self, config: RouterConfig, source: str) -> LLMRouter:
        configured = {
            name: opening(name, settings, source) for name, settings in config.providers.items()
        }
        try:
            return router_from(config, {**configured, **self._given}, self._seed)
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error}") from error

    def _resolve_params(self) -> None:
        """Put the environment's values into the routers' models, where a reference still stands."""
        live = {model.model_id: model for model in self._router.models}
        for written in self._config.models:
            model = resolve_model(written, source=self._source)
            self._resolved[written.model_id] = model
            current = live.get(written.model_id)
            if model is not written and current is not None and current.params == written.params:
                self._router.update_model(written.model_id, params=model.params)

    def __repr__(self) -> str:
        state = "closed" if self._stack is None else "open"
        kind = "simulating" if self._is_mock else "executing"
        return f"<LLMRoutingManager {state}, {kind}, {len(self._router.models)} models>"


def _request(query: Mapping[str, Any] | str) -> QueryRequest:
    if isinstance(query, str):
        return QueryRequest(query=query)
    if not isinstance(query, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f"test_queries must be texts or mappings of a request's fields, got {shown(query)}"
        )
    return QueryRequest(**query)
