"""The router: what users hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, final

from anyio import CancelScope, CapacityLimiter

from asyncroute._admission import LoadBalancer
from asyncroute._arguments import check_kind, check_mapping, check_several, is_number, shown
from asyncroute._budget import Budgets, HedgeBudget, MoneyBudget, RetryBudget
from asyncroute._cache import CacheManager
from asyncroute._caching import result_key
from asyncroute._deadlines import Deadlines
from asyncroute._decide import Decider
from asyncroute._errors import ConfigurationError, RouterStateError
from asyncroute._executor import Counters, Executor
from asyncroute._fallback import FallbackStrategy
from asyncroute._feedback import Feedback
from asyncroute._function import ExecutionFn, FunctionProvider
from asyncroute._health import HealthSettings
from asyncroute._inputs import Message, ModelConfig, QueryRequest, RequestFields
from asyncroute._metrics import PerformanceMetrics
from asyncroute._modes import SEQUENTIAL, Manner, Mode, manner_of
from asyncroute._observers import Observers
from asyncroute._protocols import Accept, ModelSelector, Observer, OnFeedback, Provider, is_selector
from asyncroute._registry import Registry
from asyncroute._requests import in_order, request_from
from asyncroute._results import ExecutionResult, RoutingDecision, decided
from asyncroute._runtime import Runtime
from asyncroute._selectors import (
    BalancedSelector,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    QualityOptimizedSelector,
    RoundRobinSelector,
)
from asyncroute._served import Served
from asyncroute._statistics import statistics
from asyncroute._stream import Stream
from asyncroute._stream_try import GAP_TIMEOUT, TOTAL_TIMEOUT, StreamTry
from asyncroute._supervisor import Supervisor

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = ("LLMRouter", "ProviderFactory")

ProviderFactory = Callable[[], AbstractAsyncContextManager[Provider]]
"""Makes a provider that the router enters and leaves."""

_LET_GO_AFTER = 5.0
"""Seconds that tasks have to end after they were cancelled at the router's end."""


@final
class LLMRouter:
    """Routes each query to the best of its models, and carries the call through.

    ::

        async with LLMRouter(models=[...], providers={"openai": provider}) as router:
            result = await router.execute("Why is the sky blue?", max_cost=0.01)

    A router belongs to the event loop in which it was entered, and is entered once. It keeps no
    state outside of itself.

    Args:
        models: The models: `ModelConfig` or mappings of its fields. At least one.
        providers: By the name that models give as `provider`, or `"*"` for every other name: an
            object with `complete(call)`, which stays yours, or a function without arguments that
            returns an async context manager for one, which the router enters and leaves. `route`
            and `execute_with_fallback` need none.
        selectors: More strategies, by name.
        fallback: What comes next after which error.
        cache: Keeps results: a `CacheManager`, or True for one with its defaults.
        budgets: Of money.
        observers: Told of starts, attempts and results.
        health: When models are set aside, and for how long.
        on_no_candidates: `fail`, or `relax`: drop max_latency_ms, required_quality, capability and
            max_cost, in this order, until a model is found; the decision says so.
        strict_capabilities: Whether `general` models serve no other capability.
        timeout: Seconds for a request that does not say; inf for none.
        attempt_timeout: Seconds for each attempt, instead of a share of what is left.
        max_workers: Calls in flight over all models.
        queue_size: Requests that may wait for one model.
        fair_by: The key of `metadata` by which waiting requests take turns.
        adaptive_concurrency: Whether overload answers lower a model's slots for a while.
        metrics_window: Samples kept per model.
        loser_grace: Seconds that a caller waits at most for an attempt that ignores being given up.
        drain_timeout: Seconds that calls in flight have to end when the router is left.
        seed: For reproducible jitter and lots.

    Raises:
        ConfigurationError: Something configured cannot be meant; it names field and value.
        ValidationError: A model given as a mapping is bad.
    """

    def __init__(  # noqa: PLR0913 - a user's choices, each with a default that is safe
        self,
        models: Iterable[ModelConfig | Mapping[str, Any]],
        providers: Mapping[str, Provider | ProviderFactory] | None = None,
        *,
        selectors: Mapping[str, ModelSelector] | None = None,
        fallback: FallbackStrategy | None = None,
        cache: CacheManager[ExecutionResult] | bool = False,
        budgets: Iterable[MoneyBudget] = (),
        observers: Iterable[Observer] = (),
        health: HealthSettings | None = None,
        on_no_candidates: Literal["fail", "relax"] = "fail",
        strict_capabilities: bool = False,
        timeout: float = 60.0,
        attempt_timeout: float | None = None,
        max_workers: int | None = None,
        queue_size: int = 1000,
        fair_by: str | None = None,
        adaptive_concurrency: bool = False,
        metrics_window: int = 1000,
        loser_grace: float = 0.05,
        drain_timeout: float = 10.0,
        seed: int | None = None,
    ) -> None:
        _check_kinds(models, providers, selectors, budgets, observers, fallback, health)
        _check_seconds(timeout, attempt_timeout, loser_grace, drain_timeout)
        _check_choice(on_no_candidates)
        self._rng = rng = random.Random(seed)
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout
        self._loser_grace = loser_grace
        self._drain_timeout = drain_timeout
        self._fair_by = fair_by
        self._health = health or HealthSettings()
        self._metrics = PerformanceMetrics(metrics_window)
        self._balancer = LoadBalancer(
            max_workers=max_workers,
            queue_size=queue_size,
            fair_by=fair_by,
            adaptive=adaptive_concurrency,
        )
        self._registry = Registry(self._balancer, self._metrics, self._health, rng)
        self._registry.add(*models)
        if not len(self._registry):
            raise ConfigurationError("models must not be empty; got []")
        self._fallback = fallback or FallbackStrategy()
        _check_chains(self._fallback, self._registry)
        self._providers = dict(providers or {})
        for name, provider in self._providers.items():
            _check_provider(name, provider)
        self._decider = Decider(
            self._registry,
            is_strict=strict_capabilities,
            on_no_candidates=on_no_candidates,
            rng=rng,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: Executor | None = None
        self._selectors: dict[str, ModelSelector] = {
            "cost_optimized": CostOptimizedSelector(rng=rng),
            "latency_optimized": LatencyOptimizedSelector(rng=rng),
            "quality_optimized": QualityOptimizedSelector(rng=rng),
            "balanced": BalancedSelector(rng=rng),
            "round_robin": RoundRobinSelector(),
            "least_loaded": LeastLoadedSelector(rng=rng),
        }
        # For streams, latency is the time to the first token.
        self._stream_selectors: tuple[tuple[ModelSelector, ModelSelector], ...] = (
            (self._selectors["latency_optimized"], LatencyOptimizedSelector(rng=rng, streams=True)),
            (self._selectors["balanced"], BalancedSelector(rng=rng, streams=True)),
        )
        self._cache = _cache_of(cache)
        self._budgets = Budgets(budgets)
        self._observers = Observers(observers)
        self._feedback = Feedback(self._observers)
        if self._observers.learn:
            self._observers.add(self._feedback)
        for name, selector in (selectors or {}).items():
            self.register_selector(name, selector)
        self._counters = Counters()
        self._stack = AsyncExitStack()
        self._state: Literal["new", "open", "closed"] = "new"
        self._thread = 0
        self._threads: CapacityLimiter | None = None

    # Lifecycle

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RouterStateError(f"a router is entered once, and this one is {self._state}")
        QueryRequest.model_rebuild()  # now, not while the first request waits
        self._loop = loop = asyncio.get_running_loop()
        self._thread = get_ident()
        supervisor = Supervisor()
        await supervisor.open()
        try:
            self._registry.serve_with(await self._open_providers())
        except BaseException:
            try:
                await supervisor.close(grace=_LET_GO_AFTER)
            finally:
                await self._stack.aclose()
            raise
        self._threads = CapacityLimiter(1)
        for cache in (self._cache, self._decider.cache):
            if cache is not None:
                cache.bind(loop.time)
        runtime = Runtime(
            loop=loop,
            now=loop.time,
            deadlines=Deadlines(loop),
            supervisor=supervisor,
            fallback=self._fallback,
            budgets=self._budgets or None,
            retries=RetryBudget(),
            hedges=HedgeBudget(),
            observers=self._observers or None,
            metrics=self._metrics,
            rng=self._rng,
            attempt_timeout=self._attempt_timeout,
            loser_grace=self._loser_grace,
            retry_after_cap=self._health.retry_after_cap,
        )
        self._executor = Executor(
            runtime, self._decider, self._counters, timeout=self._timeout, fair_by=self._fair_by
        )
        self._state = "open"
        return self

    async def _open_providers(self) -> dict[str, Provider]:
        opened: dict[str, Provider] = {}
        for name, given in self._providers.items():
            if _is_provider(given):
                opened[name] = given
            else:
                entered: object = await self._stack.enter_async_context(_made(name, given))
                if not _is_provider(entered):
                    raise ConfigurationError(
                        f"provider {name!r} must have complete(call), its factory opened"
                        f" {shown(entered)}"
                    )
                opened[name] = entered
        return opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Admit nothing more; let calls in flight end, cancel those that do not end in time."""
        executor = self._executor
        if executor is None:
            return
        self._state = "closed"
        try:
            is_cancelled = kind is not None and not issubclass(kind, Exception)
            await executor.drain(0.0 if is_cancelled else self._drain_timeout)
        finally:
            self._balancer.close(_closed)
            executor.abort()
            # Shielded: nothing may be left open because the scope around the router was cancelled.
            with CancelScope(shield=True):
                try:
                    await executor.drain(_LET_GO_AFTER)
                finally:
                    try:
                        await executor.runtime.supervisor.close(grace=_LET_GO_AFTER)
                    finally:
                        executor.runtime.deadlines.close()
                        await self._stack.aclose()

    def _open(self) -> Executor:
        executor = self._executor
        if executor is None or self._state != "open":
            raise RouterStateError(
                "use the router inside of its `async with`"
                if self._state == "new"
                else "the router is closed"
            )
        # Cheaper than asking for the running loop, which makes a system call on CPython 3.11.
        if get_ident() != self._thread or not executor.runtime.loop.is_running():
            raise RouterStateError("the router belongs to another event loop; make one for each")
        return executor

    # Routing and executing

    async def route(
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        strategy: str | ModelSelector | None = None,
        **fields: Unpack[RequestFields],
    ) -> RoutingDecision:
        """Choose a model without calling it. Reserves nothing; works outside `async with` too.

        Args:
            query: The text, a conversation, or a ready request.
            strategy: A strategy's name or a selector, for a text or a conversation.
            **fields: The fields of `QueryRequest`, beside a text or a conversation.

        Returns:
            The model that comes first, those that follow, and why.

        Raises:
            NoEligibleModelError: No model may serve the request; it has a reason for each.
            ConfigurationError: The strategy is unknown.
            TypeError: Fields beside a ready request, or one that there is not.
            ValidationError: A field's value is bad.
        """
        request = request_from(query, strategy, in_order(fields))
        name, selector = self._strategy(request, strategy)
        executor = self._executor
        now = asyncio.get_running_loop().time() if executor is None else executor.runtime.now()
        choice = await self._decider.decide(request, name, selector, now)
        return decided(choice)

    async def execute(  # noqa: PLR0913 - a user's choices
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        strategy: str | ModelSelector | None = None,
        mode: Mode | None = None,
        width: int | None = None,
        hedge_after: float | None = None,
        accept: Accept | None = None,
        capability: str | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        max_latency_ms: float | None = None,
        required_quality: float | None = None,
        models: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        timeout: float | None = None,
        priority: int | None = None,
        params: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ExecutionResult:
        """Answer a query by the best model, with fallbacks.

        Args:
            query: The text, a conversation, or a ready request.
            strategy: A strategy's name, or a selector.
            mode: `sequential` (a fallback after a failure), `hedged` (a second model if the first
                is slow), `race` (several at once, the first answer wins) or `cascade` (cheapest
                first unless a strategy is given, until an answer is accepted). By default what
                the selector plans, else `sequential`.
            width: How many models at most; in a race, how many at once (2).
            hedge_after: Seconds until the hedge; by default the model's observed p95.
            accept: For a cascade: whether an answer is good enough. A plain or coroutine function.
                Where none is, the last answer comes back with `success=True`, and its attempt's
                outcome says `not_accepted`.
            capability: What the model must be good for. This and what follows are the fields of
                `QueryRequest`, beside a text or a conversation; None says nothing.
            max_tokens: The longest answer wanted, in tokens.
            max_cost: Dollars that all attempts together may be expected to cost.
            max_latency_ms: Expected milliseconds of the answer at most.
            required_quality: Least quality score, 0 to 1.
            models: Ids or groups to choose among.
            exclude: Ids or groups not to be used.
            timeout: Seconds for everything; `math.inf` for no limit.
            priority: Higher goes first where requests queue.
            params: Passed to the provider.
            metadata: The caller's own; `tenant` in it keeps caches and budgets apart.

        Returns:
            A result for every outcome of the outside world: look at `success`, or `unwrap()` it.

        Raises:
            ConfigurationError: The strategy or the mode is unknown, or a provider is missing.
            RouterStateError: Outside of `async with`, in another loop, or closed meanwhile.
            TypeError: Fields beside a ready request, or one that there is not.
            ValidationError: A field's value is bad.
            asyncio.CancelledError: The caller was cancelled: so were its attempts. What they cost
                is booked.
        """
        executor = self._open()
        manner = SEQUENTIAL
        if mode is not None or width is not None or hedge_after is not None or accept is not None:
            manner = manner_of(mode, width, hedge_after, accept)
            if mode == "cascade" and strategy is None and not _names_strategy(query):
                strategy = "cost_optimized"
        # Written out for speed: a keyword for `**fields` is compared with every parameter's name.
        said = (
            capability,
            max_tokens,
            max_cost,
            max_latency_ms,
            required_quality,
            models,
            exclude,
            timeout,
            priority,
            params,
            metadata,
        )
        key = recalled = None
        if self._cache is not None:
            key = result_key(query, strategy, None if manner is SEQUENTIAL else manner, said)
            try:
                recalled = None if key is None else executor.recall(self._cache, key)
            except TypeError:
                key = None  # it cannot be compared, and so not be found again
            if recalled is not None and executor.runtime.observers is None:
                return recalled
        request = request_from(query, strategy, said)
        del said  # an eighth of a KiB for as long as the call takes
        if recalled is not None:
            executor.tell(request, recalled)
            return recalled
        name, selector = self._strategy(request, strategy)
        if self._cache is None or key is None:
            return await executor.carry(request, name, selector, manner)
        return await executor.carry_shared(self._cache, key, request, name, selector, manner)

    async def execute_all(
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        width: int = 3,
        strategy: str | ModelSelector | None = None,
        **fields: Unpack[RequestFields],
    ) -> list[ExecutionResult]:
        """Ask several models at once and wait for all of them.

        Args:
            query: The text, a conversation, or a ready request.
            width: How many models.
            strategy: A strategy's name, or a selector.
            **fields: The fields of `QueryRequest`, beside a text or a conversation.

        Returns:
            A result for each model asked, best ranked first, failures included; a single failure
            where none could be asked.

        Raises:
            As `execute`.
        """
        executor = self._open()
        Manner("race", width)  # refuses a width that cannot be meant
        request = request_from(query, strategy, in_order(fields))
        name, selector = self._strategy(request, strategy)
        return await executor.carry_all(request, name, selector, width)

    async def execute_with_fallback(
        self,
        request: QueryRequest,
        execution_fn: ExecutionFn,
        *,
        mode: Mode | None = None,
        width: int | None = None,
        hedge_after: float | None = None,
        accept: Accept | None = None,
    ) -> ExecutionResult:
        """Execute a request by your own call of a model, with everything else as in `execute`.

        Args:
            request: The request.
            execution_fn: Called with a model and the request; a coroutine function, or a plain one,
                which runs in a worker thread. Returns an `ExecutionResult`, a `Completion` or a
                text; what it raises is a failed attempt. It runs supervised: if it ignores its
                cancellation, the caller does not wait for it.
            mode: As for `execute`.
            width: As for `execute`.
            hedge_after: As for `execute`.
            accept: As for `execute`.

        Returns:
            As `execute`. Never cached.

        Raises:
            As `execute`.
        """
        executor = self._open()
        assert self._threads is not None
        if not isinstance(request, QueryRequest):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"request must be a QueryRequest, not {type(request).__name__}")
        if not callable(execution_fn):
            raise TypeError(f"execution_fn must be callable, got {execution_fn!r}")
        manner = Manner(mode, width, hedge_after, accept)
        strategy = None
        if mode == "cascade" and not _names_strategy(request):
            strategy = "cost_optimized"
        name, selector = self._strategy(request, strategy)
        slots = sum(endpoint.config.max_concurrent_requests for endpoint in self._registry)
        self._threads.total_tokens = max(slots, 1)  # models come and go
        served = Served(FunctionProvider(execution_fn, self._threads))
        return await executor.carry(request, name, selector, manner, served=served)

    async def feedback(self, result: ExecutionResult | str, score: float) -> bool:
        """Rate an answer, for the observers and registered selectors that learn from it.

        Takes effect at once, and never waits. An answer can be rated once, and late: while it is
        among the last 4096 of this router. Without anybody who learns, none is remembered.

        Args:
            result: The result, or its `request_id`.
            score: From 0 (useless) to 1 (right).

        Returns:
            Whether the answer was found; a rating that comes too late is no error.

        Raises:
            TypeError: The result is neither.
            ValueError: The score is not a number from 0 to 1.
            RouterStateError: Called in another thread than the loop's.
        """
        self._check_thread()
        if not isinstance(result, (str, ExecutionResult)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"result must be a result or its request_id, got {shown(result)}")
        return self._feedback.rate(result if isinstance(result, str) else result.request_id, score)

    def stream(
        self,
        query: QueryRequest | str | Sequence[Message],
        *,
        strategy: str | ModelSelector | None = None,
        mode: Mode | None = None,
        width: int | None = None,
        hedge_after: float | None = None,
        gap_timeout: float = GAP_TIMEOUT,
        total_timeout: float = TOTAL_TIMEOUT,
        **fields: Unpack[RequestFields],
    ) -> Stream:
        """Answer a query in chunks: `async with router.stream(...) as stream`.

        Fallbacks, hedges and races go on until the first chunk with content, which commits. The
        request's `timeout` ends there too. Streams are not cached.

        Args:
            query: The text, a conversation, or a ready request.
            strategy: A strategy's name, or a selector. Latency means the time to the first token.
            mode: As for `execute`, without cascades.
            width: As for `execute`.
            hedge_after: Seconds until the hedge; by default the model's p95 to the first token.
            gap_timeout: Seconds between two chunks, while we wait for the provider.
            total_timeout: Seconds from the first content to the end. A consumer that is silent for
                longer loses the stream.
            **fields: The fields of `QueryRequest`, beside a text or a conversation.

        Returns:
            The stream, to be entered.

        Raises:
            As `execute`. Entering it raises what kept every model from answering:
            `NoEligibleModelError`, `OverloadedError`, `BudgetExceededError`,
            `AllAttemptsFailedError` or `DeadlineExceededError`. Iterating it raises
            `StreamInterruptedError` with the text so far.
        """
        executor = self._open()
        if mode == "cascade":
            raise ConfigurationError(
                "a stream has no cascades: mode must be sequential, hedged or race, got 'cascade'"
            )
        request = request_from(query, strategy, in_order(fields))
        manner = Manner(mode, width, hedge_after)
        for name, seconds in (("gap_timeout", gap_timeout), ("total_timeout", total_timeout)):
            if not (is_number(seconds) and seconds > 0):
                raise ConfigurationError(f"{name} must be above 0 seconds, got {seconds!r}")
        name, selector = self._strategy(request, strategy)
        for whole, streamed in self._stream_selectors:
            if selector is whole:  # by identity: a user's selector need not have a hash
                selector = streamed
                break
        make_try = partial(StreamTry, gap_timeout=gap_timeout, total_timeout=total_timeout)
        return Stream(
            partial(executor.open_stream, request, name, selector, manner, make_try),
            executor.close_stream,
        )

    # Strategies and models

    @property
    def strategies(self) -> tuple[str, ...]:
        """The names of the strategies known here."""
        return tuple(self._selectors)

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """The models as configured now."""
        return tuple(endpoint.config for endpoint in self._registry)

    def register_selector(self, name: str, selector: ModelSelector) -> None:
        """Make a selector known under a name, for requests to ask for.

        Raises:
            ConfigurationError: It has no `select`, or the name is empty.
        """
        self._check_thread()
        if not (isinstance(name, str) and name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"name of a selector must be a text, got {name!r}")
        if not is_selector(selector):
            raise ConfigurationError(f"selector {name!r} must have select(), got {selector!r}")
        self._selectors[name] = selector
        if isinstance(selector, OnFeedback):
            self._observers.add(selector)
            self._observers.add(self._feedback)  # answers are remembered only where somebody learns
            if self._executor is not None:
                self._executor.runtime.observers = self._observers

    def add_model(self, model: ModelConfig | Mapping[str, Any]) -> None:
        """Add a model, live.

        Raises:
            ConfigurationError: There is one of this id, or its quota group has other limits.
            RouterStateError: Called from another thread than the loop's.
        """
        self._check_thread()
        self._registry.add(model)

    def update_model(self, model_id: str, **changes: Any) -> None:
        """Change fields of a model, live; what runs and waits is kept.

        Raises:
            ConfigurationError: There is no such model.
            ValidationError: A value is bad, or a field unknown.
            RouterStateError: Called from another thread than the loop's.
        """
        self._check_thread()
        self._registry.update(model_id, changes)
        self._forget_results()

    def update_model_availability(self, model_id: str, is_available: bool) -> None:
        """Switch a model on or off, live; calls in flight finish.

        Raises:
            ConfigurationError: There is no such model.
            RouterStateError: Called from another thread than the loop's.
        """
        self.update_model(model_id, is_available=is_available)

    def remove_model(self, model_id: str) -> None:
        """Remove a model, live; calls in flight finish, those that wait go elsewhere.

        Raises:
            ConfigurationError: There is no such model.
            RouterStateError: Called from another thread than the loop's.
        """
        self._check_thread()
        self._registry.remove(model_id)
        self._forget_results()

    def _forget_results(self) -> None:
        # What a model answered before it was changed may not be what it would answer now.
        if self._cache is not None:
            self._cache.clear()

    def get_statistics(self) -> dict[str, Any]:
        """Return what requests and models came to, as plain values. Callable from any thread."""
        return statistics(
            self._registry, self._metrics, self._counters, self._decider.cache, self._cache
        )

    def _check_thread(self) -> None:
        if self._loop is None:
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not self._loop and self._loop.is_running():
            raise RouterStateError(
                "models belong to the router's event loop; from other threads use"
                " asyncroute.blocking"
            )

    def _strategy(
        self, request: QueryRequest, strategy: str | ModelSelector | None
    ) -> tuple[str, ModelSelector]:
        if strategy is None:
            strategy = request.strategy
        if not isinstance(strategy, str):
            if not is_selector(strategy):
                raise ConfigurationError(
                    f"strategy must be a name or have select(), got {strategy!r}"
                )
            return type(strategy).__name__, strategy
        selector = self._selectors.get(strategy)
        if selector is None:
            known = ", ".join(self._selectors)
            raise ConfigurationError(f"unknown strategy {strategy!r}; known are: {known}")
        return strategy, selector

    def __repr__(self) -> str:
        return f"<LLMRouter {self._state}: {len(self._registry)} models>"


def _check_kinds(
    models: object,
    providers: object,
    selectors: object,
    budgets: object,
    observers: object,
    fallback: object,
    health: object,
) -> None:
    check_several("models", models, "ModelConfig")
    check_mapping("providers", providers, "providers")
    check_mapping("selectors", selectors, "selectors")
    check_several("budgets", budgets, "MoneyBudget")
    check_several("observers", observers, "observers")
    check_kind("fallback", fallback, FallbackStrategy)
    check_kind("health", health, HealthSettings)


def _check_chains(fallback: FallbackStrategy, registry: Registry) -> None:
    unknown = sorted(name for name in fallback.named_models if name not in registry)
    if unknown:
        groups = " (a chain takes no groups)" if {*unknown} & {*registry.names()} else ""
        raise ConfigurationError(
            f"fallback chains name unknown models: {', '.join(unknown)}{groups}"
        )


def _check_choice(on_no_candidates: str) -> None:
    if on_no_candidates not in ("fail", "relax"):
        raise ConfigurationError(
            f"on_no_candidates must be 'fail' or 'relax', got {on_no_candidates!r}"
        )


def _check_seconds(
    timeout: float, attempt_timeout: float | None, loser_grace: float, drain_timeout: float
) -> None:
    for name, seconds in (("timeout", timeout), ("attempt_timeout", attempt_timeout)):
        if seconds is not None and not (is_number(seconds) and seconds > 0):
            raise ConfigurationError(f"{name} must be above 0 seconds, got {seconds!r}")
    for name, seconds in (("loser_grace", loser_grace), ("drain_timeout", drain_timeout)):
        if not (is_number(seconds) and seconds >= 0):
            raise ConfigurationError(f"{name} must be 0 or more seconds, got {seconds!r}")


def _cache_of(cache: CacheManager[ExecutionResult] | bool) -> CacheManager[ExecutionResult] | None:
    if isinstance(cache, bool):
        return CacheManager() if cache else None
    check_kind("cache", cache, CacheManager)
    return cache


def _names_strategy(query: object) -> bool:
    return isinstance(query, QueryRequest) and "strategy" in query.model_fields_set


def _check_provider(name: object, given: object) -> None:
    if isinstance(given, type) and not hasattr(given, "__aenter__"):
        raise ConfigurationError(
            f"provider {name!r} is the class {given.__name__}, which cannot be entered:"
            " give an object"
        )
    if not _is_provider(given) and not callable(given):
        raise ConfigurationError(
            f"provider {name!r} must have complete(call) or be a factory, got {given!r}"
        )


def _made(name: str, factory: ProviderFactory) -> AbstractAsyncContextManager[Provider]:
    made: object = factory()
    if isinstance(made, AbstractAsyncContextManager):  # pyright: ignore[reportUnnecessaryIsInstance]
        return made
    if isinstance(made, Coroutine):
        made.close()
    raise ConfigurationError(
        f"the factory of provider {name!r} must return an async context manager, got {shown(made)}"
    )


def _is_provider(given: object) -> TypeIs[Provider]:
    # A class has `complete` too, as a function: it is a factory.
    return not isinstance(given, type) and callable(getattr(given, "complete", None))


def _closed() -> RouterStateError:
    return RouterStateError("the router was closed while the request was queued")
