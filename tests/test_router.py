"""The router as users hold it: what it takes, what it returns, what it raises, and its life."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import pytest
from pydantic import ValidationError

from asyncroute import (
    CacheManager,
    Completion,
    ConfigurationError,
    ExecutionResult,
    FallbackStrategy,
    LLMRouter,
    ModelConfig,
    MoneyBudget,
    NoEligibleModelError,
    QueryRequest,
    Ranking,
    RouterStateError,
    UnavailableError,
    Usage,
)
from asyncroute._inputs import RequestFields
from support import (
    InOrder,
    Scripted,
    answers,
    fails,
    hangs,
    ignores_cancellation,
    in_turn,
    model,
    models,
    now,
    raises,
    roles,
    router_of,
    together,
)

HELLO = QueryRequest(query="hello")


# What execute takes


@pytest.mark.parametrize(
    "query",
    ["hello", [{"role": "user", "content": "hello"}], HELLO],
    ids=("text", "chat", "request"),
)
async def test_a_text_a_conversation_and_a_request_are_executed_alike(query: Any) -> None:
    provider = Scripted()
    async with router_of(provider) as router:
        result = await router.execute(query)
    assert (result.success, result.response, result.model_id) == (True, "a", "a")
    assert provider.requests[0].chat == ({"role": "user", "content": "hello"},)


async def test_the_fields_of_a_request_are_keywords() -> None:
    provider = Scripted()
    fields: dict[str, Any] = {
        "capability": "analysis",
        "max_tokens": 7,
        "max_cost": 1.0,
        "max_latency_ms": 5000.0,
        "required_quality": 0.1,
        "models": ("a", "b"),
        "exclude": ("b",),
        "timeout": 5.0,
        "priority": 3,
        "params": {"temperature": 0},
        "metadata": {"tenant": "t"},
    }
    async with router_of(provider) as router:
        await router.execute("hello", strategy="quality_optimized", **fields)
    assert provider.requests == [
        QueryRequest(query="hello", strategy="quality_optimized", **fields)
    ]


@pytest.mark.parametrize("method", ["execute", "execute_all", "route"])
async def test_fields_beside_a_request_are_a_type_error(method: str) -> None:
    async with router_of(Scripted()) as router:
        with pytest.raises(TypeError, match="max_cost, timeout: put it into the QueryRequest"):
            await getattr(router, method)(HELLO, timeout=2, max_cost=1, params=None)


@pytest.mark.parametrize("method", ["execute", "execute_all", "route", "stream"])
async def test_a_field_that_there_is_not_is_a_type_error(method: str) -> None:
    async with router_of(Scripted()) as router:
        for query in ("hello", HELLO):
            with pytest.raises(TypeError, match="max_price"):
                await getattr(router, method)(query, max_price=1)


@pytest.mark.parametrize("cache", [True, False])
async def test_none_says_nothing(cache: bool) -> None:
    nothing: dict[str, Any] = dict.fromkeys(RequestFields.__annotations__)
    provider = Scripted()
    async with router_of(provider, cache=cache) as router:
        for query in ("hello", QueryRequest(query="hello"), "hello"):
            result = await router.execute(query, **nothing)
            assert result.decision is not None
            assert result.decision.request == QueryRequest(query="hello")
            await router.route(query, **nothing)
    assert provider.calls == (["a"] if cache else ["a"] * 3)


async def test_a_mistake_is_told_though_the_same_without_it_is_cached() -> None:
    async with router_of(Scripted(), cache=True) as router:
        await router.execute("hello")
        mistakes: list[dict[str, Any]] = [{"capability": ""}, {"strategy": ""}, {"max_cost": -1}]
        for mistake in mistakes:
            with pytest.raises((ValidationError, ConfigurationError), match=next(iter(mistake))):
                await router.execute("hello", **mistake)
        with pytest.raises(ValidationError, match="message 0 has no role"):
            await router.execute([{"content": "hello", "name": "x"}])


@pytest.mark.parametrize(
    ("query", "fields", "said"),
    [
        ("hello", {"timeout": -1}, "timeout"),
        ("hello", {"required_quality": 2}, "required_quality"),
        ("", {}, "query=''"),
        ([], {}, r"messages=\(\)"),
        (7, {}, "7"),
    ],
)
async def test_bad_requests_raise_and_call_nobody(
    query: Any, fields: dict[str, Any], said: str
) -> None:
    provider = Scripted()
    async with router_of(provider) as router:
        with pytest.raises(ValidationError, match=said):
            await router.execute(query, **fields)
    assert provider.calls == []


async def test_an_unknown_strategy_raises_and_lists_the_known() -> None:
    async with router_of(Scripted(), selectors={"mine": InOrder()}) as router:
        with pytest.raises(ConfigurationError, match=r"'cheapest'; known are: cost_.*, mine"):
            await router.execute("hello", strategy="cheapest")
        with pytest.raises(ConfigurationError, match="'cheapest'"):
            await router.execute_with_fallback(
                QueryRequest(query="x", strategy="cheapest"), lambda *_: "x"
            )


async def test_a_selector_object_is_a_strategy_beside_a_request_too() -> None:
    class Last:
        async def select(self, request: Any, candidates: Any, /) -> Ranking:
            return Ranking.in_order(candidates[::-1])

    async with router_of(Scripted()) as router:
        result = await router.execute(HELLO, strategy=Last())
    assert (result.model_id, result.decision and result.decision.strategy) == ("c", "Last")


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ({"mode": "fastest"}, "mode must be .*, got 'fastest'"),
        ({"width": 0}, "width must be a whole number, 1 or more, got 0"),
        ({"mode": "hedged", "hedge_after": -1}, "hedge_after must be 0 or more seconds, got -1"),
        ({"mode": "hedged", "hedge_after": nan}, "hedge_after .*, got nan"),
        ({"hedge_after": 1}, "hedge_after goes with mode 'hedged', not None"),
        ({"mode": "cascade"}, "mode 'cascade' needs accept="),
        ({"mode": "race", "accept": bool}, "accept goes with mode 'cascade', not 'race'"),
    ],
)
async def test_manners_that_cannot_be_meant_are_refused(manner: dict[str, Any], said: str) -> None:
    provider = Scripted()
    async with router_of(provider) as router:
        with pytest.raises(ConfigurationError, match=said):
            await router.execute("hello", **manner)
        with pytest.raises(ConfigurationError, match=said):
            await router.execute_with_fallback(HELLO, lambda *_: "x", **manner)
    assert provider.calls == []


# What the router is made of


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"models": []}, "models must not be empty"),
        ({"models": models("aba")}, "model_id 'a' is given twice"),
        ({"timeout": 0}, "timeout must be above 0 seconds, got 0"),
        ({"timeout": nan}, "timeout must be above 0 seconds, got nan"),
        ({"attempt_timeout": -1}, "attempt_timeout must be above 0 seconds, got -1"),
        ({"on_no_candidates": "hope"}, "on_no_candidates must be 'fail' or 'relax', got 'hope'"),
        ({"providers": {"x": 3}}, "provider 'x' must have complete"),
        ({"selectors": {"x": 3}}, "selector 'x' must have select"),
        ({"observers": [object()]}, "has none of on_start"),
        ({"max_workers": 0}, "max_workers"),
        ({"queue_size": -1}, "queue_size"),
        ({"metrics_window": 0}, "window"),
        ({"loser_grace": -1.0}, "loser_grace"),
        ({"drain_timeout": nan}, "drain_timeout"),
    ],
)
def test_bad_settings_are_refused_by_name_and_value(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        LLMRouter(**{"models": models("a"), **settings})


def test_a_model_may_be_a_mapping() -> None:
    router = LLMRouter([{"model_id": "a", "quality_score": 0.9}])
    assert router.models == (ModelConfig(model_id="a", quality_score=0.9),)
    with pytest.raises(ValidationError, match="quality_score"):
        LLMRouter([{"model_id": "a", "quality_score": 9}])


def test_unequal_limits_of_one_quota_group_are_refused() -> None:
    configs = [
        model("a", quota_group="g", requests_per_minute=10),
        model("b", quota_group="g", requests_per_minute=20),
    ]
    with pytest.raises(ConfigurationError, match="g"):
        LLMRouter(configs)


async def test_a_missing_provider_is_named_with_its_model() -> None:
    async with LLMRouter([model("a", provider="openai")], {"other": Scripted()}) as router:
        assert (await router.route("hello")).selected_model.model_id == "a"
        with pytest.raises(ConfigurationError, match="model 'a' needs provider 'openai'"):
            await router.execute("hello")
        assert (await router.execute_with_fallback(HELLO, answer_ok)).success
        assert router.get_statistics()["model_stats"]["a"]["active_requests"] == 0


async def answer_ok(model: ModelConfig, request: QueryRequest) -> str:
    return "ok"


async def test_a_simulating_provider_marks_its_results() -> None:
    class Simulating(Scripted):
        is_simulated = True

    async with router_of(Simulating(), cache=True) as router:
        results = [await router.execute("hello") for _ in range(2)]
    assert [(each.simulated, each.cached) for each in results] == [(True, False), (True, True)]
    async with router_of(Scripted()) as router:
        assert not (await router.execute("hello")).simulated


async def test_a_provider_that_counts_as_false_is_one_all_the_same() -> None:
    class Queue(Scripted):
        def __len__(self) -> int:  # how much it has to do: nothing
            return 0

    async with LLMRouter(models("a"), {"default": Queue()}) as router:
        assert (await router.execute("hello")).success


# Providers' lives


class Life(Scripted):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def __aenter__(self) -> Life:
        self.seen.append("entered")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.seen.append("left")


async def test_a_factorys_provider_is_entered_and_left() -> None:
    life = Life()
    async with LLMRouter(models("a"), {"default": lambda: life}) as router:
        assert life.seen == ["entered"]
        assert (await router.execute("hello")).success
    assert life.seen == ["entered", "left"]


@pytest.mark.smoke
async def test_an_object_stays_its_users() -> None:
    life = Life()
    async with LLMRouter(models("a"), {"default": life}) as router:
        assert (await router.execute("hello")).success
    assert life.seen == []


async def test_a_class_and_a_context_manager_function_are_factories() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncIterator[Scripted]:
        yield Scripted()
        left.append("left")

    configs = [model("a", provider="one"), model("b", provider="two")]
    async with LLMRouter(configs, {"one": opened, "two": Life}) as router:
        for model_id in "ab":
            assert (await router.execute("hello", models=[model_id])).success
    assert left == ["left"]


async def test_providers_are_left_when_another_cannot_be_entered() -> None:
    life = Life()

    def broken() -> Any:
        raise OSError("no certificates")

    router = LLMRouter(models("a"), {"one": lambda: life, "two": broken})
    with pytest.raises(OSError, match="no certificates"):
        async with router:
            pytest.fail("entered")
    assert life.seen == ["entered", "left"]


async def test_the_bodys_own_error_stays_plain() -> None:
    with pytest.raises(KeyError):
        async with router_of(Scripted()):
            raise KeyError("mine")


# Lifecycle


async def test_outside_of_its_life_a_router_says_so() -> None:
    router = router_of(Scripted())
    with pytest.raises(RouterStateError, match="inside of its `async with`"):
        await router.execute("hello")
    async with router:
        with pytest.raises(RouterStateError, match="entered once"):
            await router.__aenter__()
        assert (await router.execute("hello")).success
    for call in (
        router.execute("hello"),
        router.execute_all("hello"),
        router.execute_with_fallback(HELLO, answer_ok),
    ):
        with pytest.raises(RouterStateError, match="closed"):
            await call
    assert (await router.route("hello")).selected_model.model_id == "a"
    assert router.get_statistics()["total_requests"] == 1
    with pytest.raises(RouterStateError, match="closed"):
        async with router:
            pytest.fail("entered")


@pytest.mark.real_time
async def test_a_router_belongs_to_one_loop_and_its_thread() -> None:
    raised: list[BaseException] = []

    def elsewhere() -> None:
        for call in (
            lambda: asyncio.run(router.execute("hello")),
            lambda: router.add_model(model("z")),
            lambda: router.remove_model("a"),
            lambda: router.update_model_availability("a", False),
        ):
            try:
                call()
            except BaseException as error:
                raised.append(error)
        assert router.get_statistics()["model_stats"]["a"]["is_available"]

    async with router_of(Scripted()) as router:
        await asyncio.to_thread(elsewhere)
    assert [type(error) for error in raised] == [RouterStateError] * 4


async def test_leaving_lets_calls_in_flight_end() -> None:
    async with router_of(Scripted(default=answers(after=5))) as router:
        call = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
    assert call.done()
    assert call.result().success
    assert now() == 5


async def test_leaving_cancels_what_does_not_end_in_time() -> None:
    provider = Scripted({"a": hangs()})
    async with router_of(provider, drain_timeout=2) as router:
        call = asyncio.create_task(router.execute("hello", timeout=1000))
        await asyncio.sleep(1)
    with pytest.raises(RouterStateError, match="closed"):
        await call
    assert (now(), provider.in_flight, provider.calls) == (3, 0, ["a"])


async def test_leaving_refuses_those_that_are_queued() -> None:
    provider = Scripted(default=hangs())
    async with router_of(
        provider, [model("a", max_concurrent_requests=1)], drain_timeout=1
    ) as router:
        calls = [asyncio.create_task(router.execute(f"{i}")) for i in range(3)]
        await asyncio.sleep(0.1)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RouterStateError] * 3
    assert provider.calls == ["a"]


async def test_leaving_warns_of_who_ignores_cancellation_and_lets_go() -> None:
    provider = Scripted(default=ignores_cancellation(100), promptly=False)

    async def leave_one_behind() -> asyncio.Task[ExecutionResult]:
        async with router_of(provider, "a", drain_timeout=1) as router:
            call = asyncio.create_task(router.execute("hello", timeout=1000))
            await asyncio.sleep(0)
        return call

    with pytest.warns(RuntimeWarning, match="ignore cancellation: asyncroute first a"):
        call = await leave_one_behind()
    assert now() < 8
    with pytest.raises(RouterStateError):
        await call
    await asyncio.sleep(200)
    assert provider.in_flight == 0


@pytest.mark.smoke
async def test_two_routers_do_not_meet() -> None:
    one, other = Scripted(default=fails()), Scripted()
    async with router_of(one, "a") as first, router_of(other, "a") as second:
        assert not (await first.execute("hello")).success
        assert (await second.execute("hello")).success
        assert second.get_statistics()["total_requests"] == 1
        assert second.get_statistics()["model_stats"]["a"]["errors"] == {}


# Models, live


async def test_models_are_added_changed_and_switched_off_live() -> None:
    provider = Scripted()
    async with router_of(provider, "a") as router:
        router.add_model({"model_id": "b", "quality_score": 0.9})
        result = await router.execute("hello", strategy="quality_optimized")
        assert result.model_id == "b"
        router.update_model("a", quality_score=1.0)
        assert (await router.execute("hello", strategy="quality_optimized")).model_id == "a"
        router.update_model_availability("a", False)
        assert (await router.execute("hello")).model_id == "b"
        router.update_model_availability("a", True)
        assert (await router.execute("hello", models=["a"])).model_id == "a"


async def test_calls_in_flight_of_a_removed_model_finish_and_those_queued_go_elsewhere() -> None:
    provider = Scripted({"a": answers(after=2)})
    async with router_of(provider, [model("a", max_concurrent_requests=1), model("b")]) as router:
        calls = [asyncio.create_task(router.execute(f"{i}")) for i in range(3)]
        await asyncio.sleep(1)
        router.remove_model("a")
        results = [await call for call in calls]
    assert [result.model_id for result in results] == ["a", "b", "b"]
    assert [model.model_id for model in router.models] == ["b"]


async def test_more_slots_admit_at_once() -> None:
    provider = Scripted(default=answers(after=10))
    async with router_of(provider, [model("a", max_concurrent_requests=1)]) as router:
        calls = asyncio.create_task(together(4, lambda i: router.execute(f"{i}")))
        await asyncio.sleep(1)
        assert provider.in_flight == 1
        router.update_model("a", max_concurrent_requests=4)
        await asyncio.sleep(0)
        assert provider.in_flight == 4
        assert all(result.success for result in await calls)


async def test_a_removed_model_may_come_back() -> None:
    async with router_of(Scripted(), "ab") as router:
        await router.execute("hello", models=["a"])
        router.remove_model("a")
        router.add_model(model("a"))
        assert (await router.execute("hello", models=["a"])).success
        stats = router.get_statistics()
    assert stats["model_stats"]["a"]["total_requests"] == 1
    assert stats["total_cost"] == pytest.approx(0.0003)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update_model("x", weight=1), "no model 'x'; known are: a, b"),
        (lambda r: r.remove_model("x"), "no model 'x'"),
        (lambda r: r.update_model_availability("x", True), "no model 'x'"),
        (lambda r: r.add_model(model("a")), "model_id 'a' is given twice"),
    ],
)
def test_mistaken_changes_are_refused_and_change_nothing(change: Any, said: str) -> None:
    router = LLMRouter(models("ab"))
    before = router.models
    with pytest.raises(ConfigurationError, match=said):
        change(router)
    assert router.models == before


def test_bad_values_of_a_change_are_refused_and_change_nothing() -> None:
    router = LLMRouter(models("ab"))
    before = router.models
    for changes in ({"quality_score": 7}, {"colour": "red"}):
        with pytest.raises(ValidationError, match=next(iter(changes))):
            router.update_model("a", **changes)
    assert router.models == before


# Results


async def test_a_result_tells_what_happened() -> None:
    provider = Scripted({"a": fails(after=0.5)})
    async with router_of(provider, models("ab", cost_per_1k_tokens=1)) as router:
        result = await router.execute("hello")
    assert result.actual_latency_ms == pytest.approx(600)
    assert result.actual_cost == pytest.approx(0.015)
    assert (result.tokens_used, result.usage) == (15, Usage(10, 5))
    failed, won = result.attempts
    assert (failed.model_id, failed.error_kind, failed.cost) == ("a", "unavailable", 0.0)
    assert (won.started_after, won.queued, won.duration) == (0.5, 0.0, pytest.approx(0.1))
    assert result.request_id


async def test_request_ids_differ() -> None:
    async with router_of(Scripted(), cache=True) as router:
        results = await together(20, lambda i: router.execute(f"{i % 3}"))
        results += [await router.execute("hello", models=["x"])]
    assert len({result.request_id for result in results}) == 21


async def test_no_eligible_model_is_a_result_with_its_reasons() -> None:
    async with router_of(Scripted()) as router:
        result = await router.execute("hello", models=["x"])
    assert (result.success, result.model_id, result.error_kind) == (
        False,
        None,
        "no_eligible_model",
    )
    assert isinstance(result.exception, NoEligibleModelError)
    assert result.exception.reasons.keys() == set("abcx")  # nobody is called x
    with pytest.raises(NoEligibleModelError):
        result.unwrap()


async def test_no_money_is_a_result() -> None:
    provider = Scripted()
    async with router_of(provider, budgets=[MoneyBudget(0.0)]) as router:
        result = await router.execute("hello")
    assert (result.error_kind, provider.calls) == ("budget_exceeded", [])
    assert {outcome for _, _, outcome in roles(result)} == {"shed"}
    assert result.model_id is None


async def test_no_room_is_a_result() -> None:
    provider = Scripted(default=answers(after=10))
    async with router_of(provider, [model("a", max_concurrent_requests=1)], queue_size=1) as router:
        results = await together(3, lambda i: router.execute(f"{i}"))
    assert [result.success for result in results] == [True, True, False]
    assert (results[2].error_kind, results[2].model_id) == ("overloaded", None)
    assert provider.calls == ["a", "a"]


async def test_the_routers_timeout_is_for_requests_that_do_not_say() -> None:
    async with router_of(Scripted(default=hangs()), "a", timeout=3) as router:
        result = await router.execute("hello")
        assert result.actual_latency_ms == pytest.approx(3000, abs=50)
        await router.execute("hello", timeout=8)
        assert now() == pytest.approx(11, abs=0.1)


async def test_without_a_timeout_a_call_takes_its_time() -> None:
    async with router_of(Scripted(default=answers(after=10**6)), "a") as router:
        assert (await router.execute("hello", timeout=inf)).success


async def test_max_cost_bounds_the_whole_request() -> None:
    spent = fails("protocol", after=0.1)
    provider = Scripted({"a": spent, "b": spent})
    async with router_of(provider, models("abc", cost_per_1k_tokens=1)) as router:
        expected = (await router.route("hello")).expected_cost
        result = await router.execute("hello", max_cost=expected)
    assert provider.calls == ["a"]
    assert result.actual_cost <= expected


async def test_a_selector_that_takes_too_long_starts_no_call_after_the_deadline() -> None:
    class Slow:
        async def select(self, request: Any, candidates: Any, /) -> Ranking:
            await asyncio.sleep(100)
            return Ranking.in_order(candidates)

    provider = Scripted()
    async with router_of(provider) as router:
        result = await router.execute("hello", strategy=Slow(), timeout=1)
    assert provider.calls == []
    assert result.error_kind == "deadline_exceeded"
    assert result.actual_latency_ms <= 1100


async def test_no_call_starts_after_the_deadline() -> None:
    provider = Scripted(default=hangs())
    async with router_of(provider, attempt_timeout=0.6) as router:
        result = await router.execute("hello", timeout=1)
    assert provider.calls == ["a", "b"]
    assert result.error_kind == "deadline_exceeded"
    assert result.actual_latency_ms <= 1030


async def test_cancelling_the_caller_cancels_the_call_and_starts_no_other() -> None:
    provider = Scripted({"a": hangs(Usage(10, 5))})
    async with router_of(provider) as router:
        call = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        stats = router.get_statistics()
    assert (provider.calls, provider.in_flight) == (["a"], 0)
    assert stats["total_cost"] == pytest.approx(provider.total)
    assert stats["model_stats"]["a"]["cancelled"] == 1
    assert stats["model_stats"]["a"]["success_rate"] == 1.0


# All at once


async def test_execute_all_returns_answers_in_rank_order() -> None:
    script = {"a": answers(after=3), "b": answers(after=1), "c": answers(after=2)}
    async with router_of(Scripted(script), "abcd") as router:
        results = await router.execute_all("hello")
        assert now() == 3
    assert [result.response for result in results] == ["a", "b", "c"]
    assert [result.actual_latency_ms for result in results] == [3000, 1000, 2000]
    assert {attempt.outcome for result in results for attempt in result.attempts} == {"won"}


async def test_execute_all_tells_failures_in_their_places_and_tries_nothing_twice() -> None:
    provider = Scripted({"a": fails(), "b": answers(after=1)})
    async with router_of(provider, "ab") as router:
        results = await router.execute_all("hello", width=2)
    assert [(result.model_id, result.success) for result in results] == [("a", False), ("b", True)]
    assert results[0].error_kind == "unavailable"
    assert provider.calls == ["a", "b"]


async def test_execute_all_asks_no_more_models_than_there_are() -> None:
    async with router_of(Scripted(), "ab") as router:
        assert len(await router.execute_all("hello", width=5)) == 2
        (refused,) = await router.execute_all("hello", models=["x"])
        assert refused.error_kind == "no_eligible_model"
        with pytest.raises(ConfigurationError, match="width"):
            await router.execute_all("hello", width=0)


async def test_execute_all_ends_at_the_deadline_with_what_there_is() -> None:
    async with router_of(Scripted({"a": hangs()}), "ab") as router:
        results = await router.execute_all("hello", timeout=2)
        assert now() == pytest.approx(2, abs=0.1)
    assert [result.success for result in results] == [False, True]


# Your own call


def returning(answer: Any) -> Any:
    async def execution_fn(model: ModelConfig, request: QueryRequest) -> Any:
        return answer

    return execution_fn


@pytest.mark.parametrize(
    ("answer", "tokens", "cost"),
    [
        ("hi", 7, None),
        (Completion("hi", Usage(100, 50)), 150, 1.5),
        (ExecutionResult(True, "a", 5.0, 0.25, 42, "hi"), 42, 0.25),
    ],
)
async def test_a_function_returns_a_text_a_completion_or_a_result(
    answer: Any, tokens: int, cost: float | None
) -> None:
    async with router_of(None, models("a", cost_per_1k_tokens=10)) as router:
        result = await router.execute_with_fallback(HELLO, returning(answer))
    assert (result.response, result.model_id, result.tokens_used) == ("hi", "a", tokens)
    assert cost is None or result.actual_cost == pytest.approx(cost)
    assert result.usage is not None
    assert result.usage.input_tokens == (100 if tokens == 150 else 6)
    assert result.attempts[0].cost_is_estimated is (answer == "hi")


@pytest.mark.parametrize("answer", [None, 3, {"text": "hi"}])
async def test_a_function_that_returns_something_else_has_failed(answer: Any) -> None:
    async with router_of(None, "a", fallback=FallbackStrategy(max_retries=0)) as router:
        result = await router.execute_with_fallback(HELLO, returning(answer))
    assert not result.success
    assert result.attempts[0].error_kind == "protocol"
    assert f"not {type(answer).__name__}" in str(result.error)


async def test_a_function_that_fails_falls_back() -> None:
    asked: list[str] = []

    async def execution_fn(model: ModelConfig, request: QueryRequest) -> Any:
        asked.append(model.model_id)
        if model.model_id == "a":
            raise ConnectionError("down")
        if model.model_id == "b":
            return ExecutionResult(False, "b", 1.0, 0.0, 0, None, error="empty answer")
        return "fine"

    async with router_of(None) as router:
        result = await router.execute_with_fallback(HELLO, execution_fn)
    assert (asked, result.response) == (["a", "b", "c"], "fine")
    assert [attempt.error for attempt in result.attempts] == [
        "ConnectionError: down",
        "empty answer",
        None,
    ]


@pytest.mark.real_time
async def test_a_plain_function_runs_in_a_thread() -> None:
    def execution_fn(model: ModelConfig, request: QueryRequest) -> str:
        return threading.current_thread().name

    async with router_of(None) as router:
        result = await router.execute_with_fallback(HELLO, execution_fn)
    assert result.success
    assert result.response != threading.main_thread().name


async def test_an_object_with_an_async_call_is_awaited() -> None:
    class Client:
        async def __call__(self, model: ModelConfig, request: QueryRequest) -> str:
            return f"{model.model_id}: {request.query}"

    async with router_of(None) as router:
        assert (await router.execute_with_fallback(HELLO, Client())).response == "a: hello"


async def test_a_function_that_ignores_cancellation_holds_nobody() -> None:
    async def execution_fn(model: ModelConfig, request: QueryRequest) -> str:
        for _ in range(100):
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue
        return "late"

    request = QueryRequest(query="hello", timeout=2)
    async with router_of(None, "a") as router:
        result = await router.execute_with_fallback(request, execution_fn)
        assert result.error_kind == "deadline_exceeded"
        assert now() == pytest.approx(2.05, abs=0.05)
        assert router.get_statistics()["model_stats"]["a"]["active_requests"] == 1
        await asyncio.sleep(200)
        assert router.get_statistics()["model_stats"]["a"]["active_requests"] == 0


async def test_functions_are_raced_hedged_and_cascaded_as_well() -> None:
    async def execution_fn(model: ModelConfig, request: QueryRequest) -> str:
        await asyncio.sleep({"a": 10, "b": 1, "c": 5}[model.model_id])
        return model.model_id

    async with router_of(None, models("abc", cost_per_1k_tokens=0)) as router:
        call = router.execute_with_fallback
        assert (await call(HELLO, execution_fn, mode="race", width=3)).response == "b"
        assert (await call(HELLO, execution_fn, mode="hedged", hedge_after=2)).response == "b"
        request = QueryRequest(query="hello", strategy="balanced")
        accepted = await call(request, execution_fn, mode="cascade", accept=lambda c: c.text == "c")
        assert [attempt.outcome for attempt in accepted.attempts] == [
            "not_accepted",
            "not_accepted",
            "won",
        ]


async def test_results_of_functions_are_never_cached() -> None:
    async with router_of(None, cache=True) as router:
        results = [await router.execute_with_fallback(HELLO, answer_ok) for _ in range(2)]
    assert [result.cached for result in results] == [False, False]


# The cache


async def test_a_hit_costs_nothing_and_calls_nobody() -> None:
    provider = Scripted()
    async with router_of(provider, cache=True) as router:
        first, second = [await router.execute("hello") for _ in range(2)]
    assert provider.calls == ["a"]
    assert (first.cached, second.cached) == (False, True)
    assert (second.response, second.actual_cost, second.actual_latency_ms) == ("a", 0.0, 0.0)
    assert second.attempts == ()


async def test_a_cache_is_off_unless_given() -> None:
    provider = Scripted()
    async with router_of(provider) as router:
        await router.execute("hello")
        await router.execute("hello")
    assert len(provider.calls) == 2


@pytest.mark.smoke
async def test_a_hundred_identical_misses_make_one_call() -> None:
    provider = Scripted()
    async with router_of(provider, cache=True) as router:
        results = await together(100, lambda _: router.execute("hello"))
        stats = router.get_statistics()
    assert provider.calls == ["a"]
    assert all(result.response == "a" for result in results)
    assert sum(result.actual_cost for result in results) == pytest.approx(provider.total)
    assert (stats["total_requests"], stats["cached_requests"]) == (100, 99)


async def test_a_leader_that_is_cancelled_does_not_hurt_the_others() -> None:
    provider = Scripted()
    async with router_of(provider, cache=True) as router:
        leader = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(router.execute("hello")) for _ in range(5)]
        await asyncio.sleep(0)
        leader.cancel()
        results = [await other for other in others]
    assert leader.cancelled()
    assert provider.calls == ["a"]
    assert all(result.success for result in results)


async def test_the_last_to_leave_cancels_the_shared_call() -> None:
    provider = Scripted(default=hangs())
    async with router_of(provider, cache=True) as router:
        calls = [asyncio.create_task(router.execute("hello")) for _ in range(3)]
        await asyncio.sleep(1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.1)
    assert provider.in_flight == 0
    assert provider.calls == ["a"]


async def test_errors_are_not_cached_but_shared_by_those_who_wait() -> None:
    provider = Scripted({"a": in_turn(fails("bad_request", after=1), answers())})
    async with router_of(provider, cache=True) as router:
        results = await together(5, lambda _: router.execute("hello"))
        assert {result.error_kind for result in results} == {"all_attempts_failed"}
        assert {result.cached for result in results} == {False}
        assert provider.calls == ["a"]
        assert (await router.execute("hello")).success
    assert provider.calls == ["a", "a"]


async def test_an_answer_that_was_not_accepted_is_not_cached() -> None:
    provider = Scripted()
    async with router_of(provider, "a", cache=True) as router:
        for _ in range(2):
            result = await router.execute("hello", mode="cascade", accept=never)
            assert (result.success, result.cached) == (True, False)
    assert provider.calls == ["a", "a"]


def never(completion: Completion) -> bool:
    return False


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"tenant": "other"}},
        {"params": {"temperature": 1}},
        {"capability": "analysis"},
        {"strategy": "quality_optimized"},
        {"max_tokens": 9},
        {"max_cost": 1.0},
        {"max_latency_ms": 9e9},
        {"required_quality": 0.0},
        {"models": ["a"]},
        {"exclude": ["c"]},
        {"mode": "race"},
    ],
)
async def test_what_shapes_an_answer_keeps_it_apart(fields: dict[str, Any]) -> None:
    async with router_of(Scripted(), cache=True) as router:
        await router.execute("hello", metadata={"tenant": "t", "user": 1})
        other = {"metadata": {"tenant": "t"}, **fields}  # differs in one thing only
        assert not (await router.execute("hello", **other)).cached
        same = await router.execute("hello", metadata={"tenant": "t", "user": 2}, timeout=5)
        assert same.cached


async def test_metadata_that_names_no_tenant_does_not_split_the_cache() -> None:
    async with router_of(Scripted(), cache=True) as router:
        await router.execute("hello")
        assert (await router.execute("hello", metadata={"trace": 1})).cached
        assert (await router.execute(QueryRequest(query="hello", metadata={"trace": 2}))).cached


async def test_a_text_and_the_request_made_of_it_share_an_answer() -> None:
    chat = [{"role": "user", "content": "hello"}]
    async with router_of(Scripted(), "ab", cache=True) as router:
        await router.execute("hello", models=["a"], max_cost=1.0)
        request = QueryRequest(query="hello", models="a", max_cost=1.0)  # pyright: ignore[reportArgumentType]
        assert (await router.execute(request)).cached
        assert (await router.execute("hello", models="a", max_cost=1.0)).cached
        await router.execute(chat)
        assert (await router.execute(QueryRequest(messages=(chat[0],)))).cached


async def test_a_strategy_named_beside_a_text_and_in_a_request_share_an_answer() -> None:
    async with router_of(Scripted(), cache=True) as router:
        await router.execute("hello", strategy="cost_optimized")
        named = QueryRequest(query="hello", strategy="cost_optimized")
        assert (await router.execute(named)).cached
        assert not (await router.execute("hello")).cached
        assert (await router.execute("hello", strategy="balanced")).cached
        assert (await router.execute(named, strategy="balanced")).cached


async def test_messages_are_told_apart_by_all_their_keys_in_any_order() -> None:
    plain = {"role": "user", "content": "hi"}
    others: list[dict[str, Any]] = [
        {**plain, "name": "x"},
        {**plain, "content": None},
        {**plain, "content": [{"type": "text", "text": "hi"}]},
        {**plain, "role": "assistant"},
        {"role": "user", "parts": "hi"},
    ]
    async with router_of(Scripted(), cache=True) as router:
        for message in (plain, *others):
            assert not (await router.execute([message])).cached
        for message in (plain, *others):
            assert (await router.execute([dict(reversed(message.items()))])).cached
            assert not (await router.execute([message, message])).cached


async def test_requests_that_differ_in_what_shapes_the_answer_share_none() -> None:
    async with router_of(Scripted(), "ab", cache=True) as router:
        await router.execute(QueryRequest(query="hello", models=("a", "b")))
        for other in (
            QueryRequest(query="hello", models=("a", "b"), strategy="cost_optimized"),
            QueryRequest(query="hello", models=("b", "a")),
        ):
            assert not (await router.execute(other)).cached
        with pytest.raises(ConfigurationError, match="nonsense"):
            await router.execute("hello", strategy="nonsense")


async def test_fields_beside_a_ready_request_are_refused_with_a_cache_too() -> None:
    request = QueryRequest(query="hello")
    async with router_of(Scripted(), cache=True) as router:
        await router.execute(request)
        with pytest.raises(TypeError, match="max_cost"):
            await router.execute(request, max_cost=1.0)


async def test_requests_with_tools_are_never_cached() -> None:
    provider = Scripted()
    async with router_of(provider, cache=True) as router:
        for _ in range(2):
            await router.execute("hello", params={"tools": [{"type": "function"}]})
    assert len(provider.calls) == 2


async def test_a_query_that_spells_a_conversation_is_not_that_conversation() -> None:
    chat = [{"content": "hi", "role": "user"}]
    async with router_of(Scripted(), cache=True) as router:
        await router.execute(chat)
        spelled = json.dumps(chat, sort_keys=True, separators=(",", ":"))
        assert not (await router.execute(spelled)).cached


async def test_what_cannot_be_a_key_is_not_cached() -> None:
    @dataclass
    class Unhashable:
        async def select(self, request: Any, candidates: Any, /) -> Ranking:
            return Ranking.in_order(candidates)

    async with router_of(Scripted(), cache=True) as router:
        assert (await router.execute("hello", strategy=Unhashable())).success
        assert (await router.execute("hello", metadata={"tenant": ["a", "b"]})).success


async def test_entries_expire() -> None:
    provider = Scripted()
    async with router_of(provider, cache=CacheManager(ttl=10)) as router:
        await router.execute("hello")
        await asyncio.sleep(11)
        assert not (await router.execute("hello")).cached


async def test_each_who_waits_for_a_shared_call_has_a_deadline_of_its_own() -> None:
    provider = Scripted(default=answers(after=5))
    async with router_of(provider, "a", cache=True) as router:
        hasty, patient = await asyncio.gather(
            router.execute("hello", timeout=2), router.execute("hello", timeout=20)
        )
    assert (hasty.error_kind, hasty.actual_latency_ms) == (
        "deadline_exceeded",
        pytest.approx(2000, abs=120),
    )
    assert patient.success
    assert provider.calls == ["a"]


async def test_a_time_out_tells_its_attempts_with_a_cache_too() -> None:
    for cache in (False, True):
        async with router_of(Scripted(default=hangs(Usage(10, 5))), "ab", cache=cache) as router:
            result = await router.execute("hello", timeout=2)
        assert result.error_kind == "deadline_exceeded"
        assert [attempt.outcome for attempt in result.attempts] == ["timed_out", "timed_out"]
        assert result.actual_cost > 0


async def test_a_missing_provider_raises_with_a_cache_too() -> None:
    async with LLMRouter(models("a"), cache=True) as router:
        with pytest.raises(ConfigurationError, match="needs provider"):
            await router.execute("hello")


# Many at once


async def test_a_thousand_gathered_calls_over_ten_slots_all_end_well() -> None:
    provider = Scripted(default=answers(after=0.5))
    async with router_of(provider, [model("a", max_concurrent_requests=10)]) as router:
        results = await together(1000, lambda i: router.execute(f"{i}"))
        assert now() == pytest.approx(50)
        assert router.get_statistics()["model_stats"]["a"]["active_requests"] == 0
    assert all(result.success for result in results)
    assert (len(provider.calls), provider.most) == (1000, 10)
    assert [request.query for request in provider.requests] == [str(i) for i in range(1000)]


async def test_max_workers_bounds_the_whole_router() -> None:
    provider = Scripted()
    async with LLMRouter(models("abc"), {"*": provider}, max_workers=4) as router:
        results = await together(60, lambda i: router.execute(f"{i}"))
    assert all(result.success for result in results)
    assert provider.most == 4


async def test_a_higher_priority_goes_first() -> None:
    provider = Scripted()
    async with router_of(provider, [model("a", max_concurrent_requests=1)]) as router:
        await together(4, lambda i: router.execute(f"{i}", priority=i))
    assert [request.query for request in provider.requests] == ["0", "3", "2", "1"]


async def test_ten_requests_a_minute_are_ten() -> None:
    provider = Scripted(default=answers(after=0))
    async with router_of(provider, [model("a", requests_per_minute=10)]) as router:
        results = await together(30, lambda i: router.execute(f"{i}", timeout=1000))
    assert all(result.success for result in results)
    at = provider.called_at
    assert all(at[i + 10] - at[i] >= 60 for i in range(20))


async def test_a_full_model_moves_requests_on_to_the_next() -> None:
    provider = Scripted(default=answers(after=1))
    ids = [model("a", max_concurrent_requests=1), model("b")]
    async with router_of(provider, ids, queue_size=1) as router:
        results = await together(4, lambda i: router.execute(f"{i}"))
    assert [result.model_id for result in results] == ["a", "a", "b", "b"]
    assert roles(results[3]) == [("a", "first", "shed"), ("b", "fallback", "won")]


# Statistics


async def test_statistics_count_requests_and_calls() -> None:
    provider = Scripted({"a": in_turn(fails(), answers(after=0.2))})
    async with router_of(provider, models("ab", cost_per_1k_tokens=1), cache=True) as router:
        for query in ("one", "two", "two"):
            await router.execute(query)
        await router.execute("three", models=["x"])
        stats = router.get_statistics()
    assert {key: stats[key] for key in list(stats)[:5]} == {
        "total_requests": 4,
        "successful_requests": 3,
        "failed_requests": 1,
        "cached_requests": 1,
        "success_rate": 0.75,
    }
    assert stats["total_cost"] == pytest.approx(provider.total)
    a, b = stats["model_stats"]["a"], stats["model_stats"]["b"]
    assert (a["total_requests"], a["success_rate"], a["errors"]) == (2, 0.5, {"unavailable": 1})
    assert (b["total_requests"], b["success_rate"], b["errors"]) == (1, 1.0, {})
    assert (a["avg_latency_ms"], a["avg_cost"], a["avg_tokens"]) == (
        pytest.approx(200),
        pytest.approx(0.015),
        15,
    )
    assert stats["cache"]["hits"] == 1
    json.dumps(stats)


async def test_statistics_show_who_is_active_and_queued() -> None:
    async with router_of(Scripted(), [model("a", max_concurrent_requests=2)]) as router:
        calls = asyncio.create_task(together(5, lambda i: router.execute(f"{i}")))
        await asyncio.sleep(0.05)
        stats = router.get_statistics()["model_stats"]["a"]
        assert (stats["active_requests"], stats["queued_requests"], stats["load"]) == (2, 3, 2.5)
        await calls
        stats = router.get_statistics()["model_stats"]["a"]
    assert (stats["active_requests"], stats["queued_requests"], stats["load"]) == (0, 0, 0)


def test_statistics_of_a_new_router_are_there() -> None:
    stats = LLMRouter(models("a")).get_statistics()
    assert (stats["total_requests"], stats["success_rate"], stats["cache"]) == (0, 1.0, None)
    assert stats["model_stats"]["a"]["avg_latency_ms"] == 0.0
    assert stats["model_stats"]["a"]["p95_latency_ms"] is None


async def test_a_bug_in_a_provider_is_a_failed_attempt() -> None:
    provider = Scripted({"a": raises(ZeroDivisionError("oops"))})
    async with router_of(provider) as router:
        result = await router.execute("hello")
    assert result.model_id == "b"
    assert result.attempts[0].error == "ZeroDivisionError: oops"
    assert result.attempts[0].error_kind == UnavailableError.kind


def test_reprs_tell_the_state() -> None:
    assert repr(LLMRouter(models("ab"))) == "<LLMRouter new: 2 models>"
