"""What users get wrong, and what they are told: the field, the value, and what was meant."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from asyncroute import (
    AllAttemptsFailedError,
    BalancedSelector,
    CacheManager,
    Call,
    ConfigurationError,
    CostOptimizedSelector,
    FallbackStrategy,
    HealthSettings,
    LLMRouter,
    LLMRoutingManager,
    ModelConfig,
    MoneyBudget,
    NoEligibleModelError,
    Plan,
    ProviderError,
    Ranking,
    RouterEnsemble,
    ScoredSelector,
)
from asyncroute.exporters import LoggingObserver
from asyncroute.providers import OpenAICompatibleProvider, SimulatedProvider, Simulation
from support import Scripted, model, models, router_of

URL = {"base_url": "http://localhost/v1"}
ONCE = FallbackStrategy(max_retries=0)


class Gives:
    """A provider that returns what it was made with."""

    cancels_promptly = True

    def __init__(self, given: Any) -> None:
        self.given = given

    async def complete(self, call: Call, /) -> Any:
        return self.given


@pytest.mark.parametrize("observers", [[], [LoggingObserver()]], ids=["", "observed"])
async def test_a_provider_that_forgot_its_return_failed(observers: list[Any]) -> None:
    given = {"providers": {"*": Gives(None)}, "observers": observers}
    async with LLMRouter(models("ab"), fallback=ONCE, **given) as router:
        result = await router.execute("Hello?")
    assert [attempt.outcome for attempt in result.attempts] == ["failed", "failed"]
    assert result.error_kind == "all_attempts_failed"
    assert "the provider returned a NoneType, not a Completion" in str(result.error)
    assert {attempt.error_kind for attempt in result.attempts} == {"protocol"}


async def test_what_is_streamed_whole_must_be_a_completion_too() -> None:
    async with LLMRouter(models("a"), {"*": Gives(None)}, fallback=ONCE) as router:
        with pytest.raises(AllAttemptsFailedError, match="returned a NoneType, not a Completion"):
            async with router.stream("Hello?"):
                pytest.fail("nothing was answered")


@pytest.mark.parametrize("junk", [None, "text", {"text": "text"}])
async def test_a_provider_that_yields_no_chunks_broke_its_protocol(junk: Any) -> None:
    class Yields(Gives):
        async def stream(self, call: Call, /) -> Any:
            yield self.given

    async with LLMRouter(models("a"), {"*": Yields(junk)}, fallback=ONCE) as router:
        expected = f"the provider yielded a {type(junk).__name__}, not a Chunk"
        with pytest.raises(AllAttemptsFailedError, match=expected) as caught:
            async with router.stream("Hello?"):
                pytest.fail("nothing was answered")
    assert [attempt.error_kind for attempt in caught.value.attempts] == ["protocol"]


class Told:
    def on_result(self, request: object, result: object, /) -> None: ...


class ToldLater:
    async def on_result(self, request: object, result: object, /) -> None: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": None}, "models must be a list of ModelConfig, got None"),
        ({"models": model()}, "models must be a list of ModelConfig, got a ModelConfig"),
        ({"models": {"model_id": "a"}}, "models must be a list of ModelConfig, got a dict"),
        ({"models": "a"}, "models must be a list of ModelConfig, got a str"),
        (
            {"providers": [Gives("")]},
            "providers must be a mapping of providers by name, got a l",
        ),
        ({"providers": Gives("")}, "providers must be a mapping of providers by name, got a Gives"),
        ({"selectors": [CostOptimizedSelector()]}, "selectors must be a mapping of selectors"),
        (
            {"selectors": {"x": CostOptimizedSelector}},
            r"selector 'x' must have select\(\), got <",
        ),
        ({"budgets": MoneyBudget(1)}, "budgets must be a list of MoneyBudget, got a MoneyBudget"),
        ({"budgets": [1.0]}, "budgets must be MoneyBudgets, got 1.0"),
        ({"observers": Told()}, "observers must be a list of observers, got a Told"),
        ({"observers": [Told]}, "observer Told is a class: give an object"),
        ({"observers": [ToldLater()]}, "on_result of observer .* is async: it must be a plain"),
        ({"fallback": ["a"]}, "fallback must be a FallbackStrategy, got a list"),
        ({"providers": {"*": Gives}}, "provider '\\*' is the class Gives, which cannot be entered"),
        ({"fallback": FallbackStrategy}, "must be a FallbackStrategy, got the class Fallback"),
        ({"cache": CacheManager}, "cache must be a CacheManager, got the class CacheManager"),
        ({"budgets": [MoneyBudget]}, "budgets must be MoneyBudgets, got <class"),
        ({"fair_by": 3}, "fair_by must be a key of metadata or None, not 3"),
        ({"fair_by": ""}, "fair_by must be a key of metadata or None, not ''"),
        ({"queue_size": 2.5}, r"queue_size must be a whole number, 0 or more, not 2\.5"),
        ({"queue_size": "9"}, "queue_size must be a whole number, 0 or more, not '9'"),
        ({"max_workers": 2.5}, r"max_workers must be a whole number, at least 1, not 2\.5"),
        ({"metrics_window": "9"}, "window must be a whole number, at least 1, got '9'"),
        ({"health": {"window": 1}}, "health must be a HealthSettings, got a dict"),
        ({"cache": 5}, "cache must be a CacheManager, got a int"),
        ({"timeout": "5"}, "timeout must be above 0 seconds, got '5'"),
        ({"drain_timeout": "5"}, "drain_timeout must be 0 or more seconds, got '5'"),
    ],
)
def test_what_a_router_cannot_be_made_with_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LLMRouter(**{"models": models(), **given})


@pytest.mark.parametrize("junk", [None, [], "a"])
async def test_a_selector_that_selects_no_ranking_is_named(junk: Any) -> None:
    class Selects:
        async def select(self, request: object, candidates: object, /) -> Any:
            return junk

    with pytest.raises(TypeError, match="Selects must select a Ranking, got"):
        await LLMRouter(models()).route("Hello?", strategy=Selects())


async def test_a_selector_is_an_object_and_no_class() -> None:
    with pytest.raises(ConfigurationError, match=r"must be a name or have select\(\), got <class"):
        await LLMRouter(models()).route("Hello?", strategy=CostOptimizedSelector)  # type: ignore[arg-type]


@pytest.mark.parametrize("junk", [None, "0.5"])
async def test_a_score_that_is_no_number_is_shown(junk: Any) -> None:
    class Scores(ScoredSelector):
        def score(self, request: object, candidate: object, /) -> Any:
            return junk

    with pytest.raises(ValueError, match=f"Scores scored a {junk!r}: a score must be a number"):
        await LLMRouter(models()).route("Hello?", strategy=Scores())


async def test_an_accept_that_is_no_function_is_refused_before_anything_is_paid() -> None:
    provider = Scripted()
    async with router_of(provider) as router:
        with pytest.raises(ConfigurationError, match="accept must be a function, got True"):
            await router.execute("Hello?", mode="cascade", accept=True)  # type: ignore[arg-type]
    assert provider.calls == []


@pytest.mark.parametrize("score", ["1", None])
async def test_a_rating_that_is_no_number_is_shown(score: Any) -> None:
    async with router_of(Scripted()) as router:
        result = await router.execute("Hello?")
        with pytest.raises(ValueError, match=f"score must be a number from 0 to 1, got {score!r}"):
            await router.feedback(result, score)


# Plans and rankings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stagger": -1.0}, "stagger must be 0 or more seconds, got -1.0"),
        ({"stagger": nan}, "stagger must be 0 or more seconds, got nan"),
        ({"stagger": "1"}, "stagger must be 0 or more seconds, got '1'"),
        ({"width": 0}, "width must be a whole number, 1 or more, got 0"),
        ({"width": 2.0}, r"width must be a whole number, 1 or more, got 2\.0"),
        ({"quorum": 0}, "quorum must be a whole number, 1 or more, or None, got 0"),
        ({"quorum": 1.5}, r"quorum must be a whole number, 1 or more, or None, got 1\.5"),
        ({"quorum": 4}, "quorum must be within reach: width 3 makes 3 at most, got 4"),
        (
            {"quorum": 5, "width": 2, "weights": {"a": 3, "b": 0.5}},
            "quorum must be within reach: width 2 makes 4 at most, got 5",
        ),
        ({"weights": {"a": -1}}, "weight of 'a' must be 0 or more, got -1"),
        ({"weights": {"a": nan}}, "weight of 'a' must be 0 or more, got nan"),
        ({"weights": [1, 2]}, "weights must be a mapping of numbers by model id, got a list"),
        ({"accept": True}, "accept must be a function or None, got True"),
        ({"agree": "same"}, "agree must be a function or None, got 'same'"),
    ],
)
def test_what_a_plan_cannot_mean_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Plan(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"stagger": 0},
        {"quorum": 3},
        {"quorum": 4, "width": 2, "weights": {"a": 3, "b": 0.5}},
        {"quorum": 9, "width": 1, "weights": {"a": inf}},
    ],
)
def test_a_plan_that_can_be_carried_out_is_taken(given: dict[str, Any]) -> None:
    Plan(**given)


def test_a_ranking_has_a_score_for_each_candidate() -> None:
    with pytest.raises(ValueError, match="needs a score for each candidate, got 1 scores for 0"):
        Ranking([], [1.0])


def test_the_plan_of_a_ranking_is_a_plan() -> None:
    with pytest.raises(TypeError, match=r"plan must be a Plan or None, got \{'width': 2\}"):
        Ranking([], [], plan={"width": 2})  # type: ignore[arg-type]


async def test_a_selector_that_ranks_what_it_was_not_given_is_named() -> None:
    class Selects:
        async def select(self, request: object, candidates: Any, /) -> Ranking:
            ids: Any = [candidate.config.model_id for candidate in candidates]
            return Ranking.in_order(ids)

    with pytest.raises(TypeError, match="Selects must rank the candidates it was given, got 'a'"):
        await LLMRouter(models("a")).route("Hello?", strategy=Selects())


async def test_a_stream_has_no_cascades_and_says_so() -> None:
    async with router_of(Scripted()) as router:
        with pytest.raises(ConfigurationError, match="a stream has no cascades: mode must be"):
            router.stream("Hello?", mode="cascade")


# Fallbacks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_models": "3"}, "max_models must be 1 or more, got '3'"),
        ({"max_models": 2.5}, r"max_models must be 1 or more, got 2\.5"),
        ({"max_retries": None}, "retries of max_retries must be 0 or more, got None"),
        ({"retries": 3}, "retries must be a mapping of numbers by kind of error, got a int"),
        ({"retries": {"unavailable": "3"}}, "retries of unavailable must be 0 or more, got '3'"),
        (
            {"retries": {"rate_limit": 3}},
            "no error of a provider is of the kind 'rate_limit'; known are: .*rate_limited",
        ),
        ({"base_delay": "1"}, "base_delay must be 0 or more seconds, got '1'"),
        ({"chains": [["a", "b"]]}, "chains must be a mapping of lists of model ids by model id"),
        ({"chains": {"a": None}}, r"chains\['a'\] must be a list of model ids, got None"),
        ({"chains": {"a": [1]}}, r"chains\['a'\] must name models by their ids, got 1"),
        ({"chains": {"a": ["*"]}}, r"chains\['a'\] must name models by their ids, got '\*'"),
    ],
)
def test_what_a_fallback_cannot_mean_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FallbackStrategy(**given)


def test_retries_know_errors_of_ones_own() -> None:
    class OutOfPaperError(ProviderError):
        retry_here = True

    strategy = FallbackStrategy(retries={OutOfPaperError.kind: 7})
    assert strategy.retries_after(OutOfPaperError()) == 7


def test_one_model_is_a_chain() -> None:
    strategy = FallbackStrategy(chains={"a": "small", "*": "a"})
    assert strategy.chain_after("a") == ("small",)
    assert strategy.named_models == {"a", "small"}


def test_a_chain_that_names_a_group_is_refused() -> None:
    chained = FallbackStrategy(chains={"a": ["fast"]})
    with pytest.raises(ConfigurationError, match=r"unknown models: fast \(a chain takes no groups"):
        LLMRouter([model("a"), model("b", group="fast")], fallback=chained)


# Settings


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (MoneyBudget, {"limit": "1"}, "limit must be a finite number of dollars.* not '1'"),
        (MoneyBudget, {"limit": Decimal(1)}, r"limit must be a finite number.*not Decimal\('1'\)"),
        (MoneyBudget, {"limit": 1, "window": "60"}, "window must be a finite number .*not '60'"),
        (MoneyBudget, {"limit": 1, "per": 3}, "per must be router, model, tenant or a metadata"),
        (MoneyBudget, {"limit": 1, "per": "model", "only": 3}, "only must be None or at least one"),
        (HealthSettings, {"window": "5"}, "window must be a number, not '5'"),
        (HealthSettings, {"slow_start": nan}, "slow_start must be a number, not nan"),
        (CacheManager, {"max_size": "5"}, "max_size must be a whole number, at least 1, got '5'"),
        (CacheManager, {"ttl": "5"}, "ttl must be above 0 seconds, got '5'"),
        (CostOptimizedSelector, {"rng": 42}, "rng must be a Random, got a int"),
        (BalancedSelector, {"cost": "1"}, "weight of cost must be 0 or more, got '1'"),
        (RouterEnsemble, {"voters": None}, "voters must be a list of pairs .* got None"),
        (RouterEnsemble, {"voters": [CostOptimizedSelector()]}, "voters must be pairs of a"),
        (RouterEnsemble, {"voters": [(BalancedSelector, 1)]}, r"must have select\(\), got <class"),
        (RouterEnsemble, {"voters": [(BalancedSelector(), "1")]}, "weight of Balanced.* got '1'"),
        (ModelConfig.from_catalog, {"name": None}, "name must be provider and model, .* got None"),
        (LLMRoutingManager, {"config": "a.json"}, "config must be a mapping or .* load_config rea"),
        (LLMRoutingManager, {"config": 3}, "config must be a mapping of settings by name, got a i"),
        (Simulation, {"latency": "1"}, "latency must be 0 or more, and finite; got '1'"),
        (Simulation, {"failure_rate": "1"}, "failure_rate must be a share from 0 to 1; got '1'"),
        (SimulatedProvider, {"models": ["a"]}, "models must be a mapping of Simulations by model"),
        (SimulatedProvider, {"models": {"a": {}}}, r"models\['a'\] must be a Simulation, got {}"),
        (OpenAICompatibleProvider, {"base_url": None}, "base_url must be a text, got None"),
        (OpenAICompatibleProvider, {**URL, "api_key": 3}, "api_key must be a text, got a int"),
        (OpenAICompatibleProvider, {**URL, "headers": ["x"]}, "headers must be a mapping of val"),
        (OpenAICompatibleProvider, {**URL, "headers": {"x": 3}}, "header 'x': its value must be a"),
        (LoggingObserver, {"logger": "app"}, "logger must be a logging.Logger, got 'app'"),
        (LoggingObserver, {"level": "INFO"}, "level must be a number, as logging.INFO, got 'INFO'"),
        (LLMRoutingManager, {"providers": [Scripted()]}, "providers must be a mapping of provid"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(
    make: Callable[..., object], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make(**given)


def test_infinity_stands_for_no_bound() -> None:
    assert LLMRouter(models(), queue_size=inf, cache=CacheManager(inf, inf))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gap_timeout", "total_timeout", "hedge_after"])
async def test_seconds_that_are_no_number_are_shown(name: str) -> None:
    given: dict[str, Any] = {name: "5"}
    if name == "hedge_after":
        given["mode"] = "hedged"
    async with router_of(Scripted()) as router:
        with pytest.raises(ConfigurationError, match=f"{name} must be .* seconds, got '5'"):
            router.stream("Hello?", **given)


async def test_a_factory_that_makes_nothing_to_enter_is_named() -> None:
    async def connected() -> Scripted:
        return Scripted()

    for factory, made in ((connected, "coroutine"), (lambda: None, "None")):
        router = LLMRouter(models(), {"x": factory})  # type: ignore[dict-item]
        with pytest.raises(ConfigurationError, match=f"'x' must return an async .* got .*{made}"):
            await router.__aenter__()


async def test_a_factory_that_opens_no_provider_is_named_and_closed() -> None:
    closed: list[bool] = []

    @asynccontextmanager
    async def connected() -> AsyncGenerator[Any]:
        try:
            yield "a client"
        finally:
            closed.append(True)

    with pytest.raises(ConfigurationError, match=r"'x' must have complete.* opened a str"):
        await LLMRouter(models(), {"x": connected}).__aenter__()
    assert closed == [True]


async def test_a_selector_that_forgot_its_parents_init_works() -> None:
    class Mine(ScoredSelector):
        def __init__(self, liked: str) -> None:
            self.liked = liked

        def score(self, request: object, candidate: Any, /) -> float:
            return 0.5

    assert await LLMRouter(models("ab")).route("Hello?", strategy=Mine("a"))


@pytest.mark.parametrize("junk", [None, {"request_id": "1"}])
async def test_a_rating_of_no_result_says_what_it_was_given(junk: Any) -> None:
    async with router_of(Scripted()) as router:
        with pytest.raises(TypeError, match=r"a result or its request_id, got (a dict|None)"):
            await router.feedback(junk, 1.0)


# Names of models


async def test_names_that_no_model_has_are_told() -> None:
    router = LLMRouter(models("ab"))
    decision = await router.route("Hello?", models=["a", "c"], exclude=["d"])
    assert decision.selected_model.model_id == "a"
    assert set(decision.rejected) == {"b", "c", "d"}
    assert "- d: is no model and no group of this router" in decision.explain()
    with pytest.raises(NoEligibleModelError, match="c is no model and no group of this router"):
        await router.route("Hello?", models=["c"])


async def test_groups_and_models_that_are_there_are_not_told_of() -> None:
    router = LLMRouter([model("a", group="g"), model("b")])
    decision = await router.route("Hello?", models=["g"], exclude=["b"])
    assert set(decision.rejected) == {"b"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_group_called_like_a_model_outside_of_it_is_refused(order: int) -> None:
    given = [model("a", group="b"), model("b")][::order]
    with pytest.raises(
        ConfigurationError, match="group 'b' of model 'a' is the model_id of another"
    ):
        LLMRouter(given)


def test_a_group_may_be_called_like_its_first_model() -> None:
    assert LLMRouter([model("a", group="a"), model("a-eu", group="a")])


@pytest.mark.parametrize("model_id", ["c", model("a")])
def test_a_model_that_is_not_there_is_named(model_id: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no model .*; known are: a, b"):
        LLMRouter(models("ab")).remove_model(model_id)


def test_a_selector_is_registered_under_a_text() -> None:
    with pytest.raises(ConfigurationError, match="name of a selector must be a text, got 3"):
        LLMRouter(models(), selectors={3: CostOptimizedSelector()})  # type: ignore[dict-item]


class Plain:
    def select(self, request: object, candidates: Any, /) -> Ranking:
        return Ranking.in_order(candidates)


class Narrow:
    async def select(self, request: object, /) -> None: ...


@pytest.mark.parametrize("selector", [Plain(), Narrow()], ids=["plain", "narrow"])
async def test_a_selector_that_cannot_be_awaited_is_told_what_to_write(selector: Any) -> None:
    expected = f"{type(selector).__name__} must have `async def select"
    with pytest.raises(TypeError, match=expected):
        await LLMRouter(models()).route("Hello?", strategy=selector)


async def test_what_a_selector_raises_is_not_taken_for_its_signature() -> None:
    class Selects:
        async def select(self, request: object, candidates: Any, /) -> Ranking:
            raise TypeError("my own")

    with pytest.raises(TypeError, match=r"^my own$"):
        await LLMRouter(models()).route("Hello?", strategy=Selects())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test_queries": "Hello?"}, "test_queries must be a list of texts .* got a str"),
        ({"test_queries": None}, "test_queries must be a list of texts .* got None"),
        ({"test_queries": [3]}, "test_queries must be texts or mappings .* got a int"),
        (
            {"test_queries": ["a"], "iterations": "3"},
            "got 1 queries, iterations='3'",
        ),
        (
            {"test_queries": ["a"], "iterations": 1.5},
            r"got 1 queries, iterations=1\.5",
        ),
    ],
)
async def test_what_cannot_be_benchmarked_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await LLMRoutingManager().benchmark_strategies(**given)


@pytest.mark.parametrize("score", [float("nan"), "0.5", None])
def test_a_score_that_cannot_be_compared_is_named(score: Any) -> None:
    candidates: Any = list(LLMRouter(models("ab"))._registry)
    with pytest.raises(ValueError, match=f"must be a number, got {score!r} for <Endpoint b"):
        Ranking(candidates, [0.5, score])


@pytest.mark.parametrize("given", [{"mode": ["hedged"]}, {"width": [2]}, {"width": {}}])
async def test_a_manner_of_the_wrong_kind_is_named(given: dict[str, Any]) -> None:
    async with LLMRouter(models(), {"*": SimulatedProvider()}) as router:
        with pytest.raises(ConfigurationError, match=f"{next(iter(given))} must be"):
            await router.execute("Hello?", **given)
