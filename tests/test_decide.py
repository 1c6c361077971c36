"""Deciding: who is eligible and why others are not, what is relaxed, and what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncroute import (
    BalancedSelector,
    ConfigurationError,
    CostOptimizedSelector,
    LLMRouter,
    NoEligibleModelError,
    QueryRequest,
    Ranking,
    RoundRobinSelector,
    RoutingDecision,
)
from support import InOrder, Scripted, answers, fails, model, models, now, router_of, together


def router_over(*configs: Any, **settings: Any) -> LLMRouter:
    return LLMRouter(configs, selectors={"balanced": InOrder()}, **settings)


def ids(decision: RoutingDecision) -> list[str]:
    return [decision.selected_model.model_id, *(m.model_id for m in decision.fallback_models)]


async def refusals(router: LLMRouter, query: str = "hello", **fields: Any) -> dict[str, str]:
    with pytest.raises(NoEligibleModelError) as caught:
        await router.route(query, **fields)
    for model_id, reason in caught.value.reasons.items():
        assert f"{model_id} {reason}" in str(caught.value)
    return dict(caught.value.reasons)


# Filters: each takes primaries and fallbacks, and says why

IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
TOOLS = {"tools": [{"type": "function"}]}


@pytest.mark.parametrize(
    ("config", "fields", "reason"),
    [
        ({"is_available": False}, {}, "switched off (is_available is False)"),
        ({"weight": 0}, {}, "has weight 0"),
        ({}, {"models": ["good"]}, "is not among the models asked for: good"),
        ({}, {"exclude": ["bad"]}, "is excluded by the request"),
        ({"group": "g"}, {"exclude": "g"}, "is excluded by the request"),
        (
            {"capabilities": ["translation"]},
            {"capability": "analysis"},
            "lacks capability 'analysis'; has translation",
        ),
        (
            {"max_tokens": 100},
            {"max_tokens": 100},
            "has a window of 100 tokens, too small for the request",
        ),
        ({"supports": []}, {"params": TOOLS}, "does not support tools"),
        (
            {"supports": ["tools"]},
            {"params": {"response_format": {"type": "json_schema"}}},
            "does not support json_schema",
        ),
        (
            {"quality_score": 0.4},
            {"required_quality": 0.5},
            "has quality 0.4, below what is required",
        ),
        (
            {"cost_per_1k_tokens": 1},
            {"max_cost": 0.1},
            "is expected to cost $0.262, above max_cost $0.1",
        ),
        (
            {"avg_latency_ms": 3000},
            {"max_latency_ms": 2000},
            "is expected to take 3000 ms, above max_latency_ms 2000",
        ),
        ({"tokens_per_minute": 50}, {}, "has tokens_per_minute 50, 262 are needed"),
    ],
)
async def test_who_may_not_serve_is_neither_first_nor_a_fallback_and_says_why(
    config: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    router = router_over(
        model("bad", **config), model("good", capabilities=["general", "analysis"])
    )
    decision = await router.route("hello", **fields)
    assert ids(decision) == ["good"]
    assert decision.rejected == {"bad": reason}
    router = router_over(model("bad", **config))
    if "models" not in fields:
        assert await refusals(router, **fields) == {"bad": reason}


async def test_an_image_needs_a_model_that_sees() -> None:
    router = router_over(model("blind", supports=["tools"]), model("seeing", supports=["images"]))
    decision = await router.route([IMAGE])
    assert ids(decision) == ["seeing"]
    assert decision.rejected == {"blind": "does not support images"}


@pytest.mark.parametrize("kind", ["text", None])
async def test_plain_text_asks_for_no_json_schema(kind: str | None) -> None:
    router = router_over(model(supports=[]))
    params = {"response_format": {"type": kind} if kind else None}
    assert ids(await router.route("hello", params=params)) == ["a"]


async def test_a_long_query_leaves_small_windows_out_as_fallbacks_too() -> None:
    router = router_over(model("small", max_tokens=8_000), *models("bc", max_tokens=32_000))
    decision = await router.route("x" * 40_000)
    assert ids(decision) == ["b", "c"]
    assert decision.rejected["small"].startswith("has a window of 8000 tokens")


async def test_models_are_asked_for_by_id_or_group() -> None:
    router = router_over(model("a", group="g"), model("b", group="g"), model("c"), model("d"))
    assert ids(await router.route("hi", models=["g"])) == ["a", "b"]
    assert ids(await router.route("hi", models=["d", "g"], exclude=["b"])) == ["a", "d"]
    assert ids(await router.route("hi", exclude=["g"])) == ["c", "d"]


async def test_an_unknown_id_is_named() -> None:
    reasons = await refusals(router_over(*models("ab")), models=["gpt-9"])
    not_asked = dict.fromkeys("ab", "is not among the models asked for: gpt-9")
    assert reasons == {**not_asked, "gpt-9": "is no model and no group of this router"}


async def test_every_model_has_its_reason() -> None:
    router = router_over(
        model("off", is_available=False), model("dear", cost_per_1k_tokens=9), model("bad")
    )
    reasons = await refusals(router, max_cost=0.01, exclude=["bad"])
    assert reasons.keys() == {"off", "dear", "bad"}


async def test_general_models_serve_any_capability_unless_the_router_is_strict() -> None:
    configs = (model("general"), model("coder", capabilities=["code_generation"]))
    fields: dict[str, Any] = {"capability": "code_generation"}
    assert ids(await router_over(*configs).route("hi", **fields)) == ["general", "coder"]
    strict = router_over(*configs, strict_capabilities=True)
    assert ids(await strict.route("hi", **fields)) == ["coder"]
    assert ids(await strict.route("hi")) == ["general", "coder"]


async def test_a_bound_is_met_by_what_is_exactly_there() -> None:
    router = router_over(model(quality_score=0.5, avg_latency_ms=500, cost_per_1k_tokens=1))
    first = await router.route("hello", required_quality=0.5, max_latency_ms=500)
    assert ids(await router.route("hello", max_cost=first.expected_cost)) == ["a"]


async def test_expected_latency_and_cost_scale_with_the_answer() -> None:
    router = router_over(model(avg_latency_ms=1000, cost_per_1k_tokens=1))
    usual, short = await router.route("hello"), await router.route("hello", max_tokens=64)
    assert usual.expected_latency_ms == 1000
    assert short.expected_latency_ms == pytest.approx(1000 * (0.1 + 0.9 * 0.25))
    assert short.expected_cost == pytest.approx(usual.expected_cost - 0.192)
    assert ids(await router.route("hello", max_tokens=64, max_latency_ms=400)) == ["a"]


async def test_an_unknown_strategy_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="unknown strategy 'fastest'; known are: cost_opt"):
        await router_over(*models("ab")).route("hi", strategy="fastest")


# Relaxing


async def test_constraints_are_dropped_in_order_until_a_model_is_found() -> None:
    router = router_over(
        model(quality_score=0.5, capabilities=["x"], cost_per_1k_tokens=1, avg_latency_ms=5000),
        on_no_candidates="relax",
    )
    soft = {
        "max_latency_ms": 10,
        "required_quality": 0.9,
        "capability": "analysis",
        "max_cost": 0.001,
    }
    for dropped in range(1, 5):
        fields = dict(list(soft.items())[:dropped])
        decision = await router.route("hello", **fields)
        assert decision.relaxed == tuple(fields)
        assert decision.request == QueryRequest(query="hello", **fields)


async def test_no_more_is_dropped_than_has_to_be() -> None:
    router = router_over(model(avg_latency_ms=5000), on_no_candidates="relax")
    decision = await router.route("hello", max_latency_ms=10, required_quality=0.1, max_cost=5)
    assert decision.relaxed == ("max_latency_ms",)


async def test_what_can_be_met_is_not_relaxed() -> None:
    router = router_over(*models("ab"), on_no_candidates="relax")
    assert (await router.route("hello", max_cost=5)).relaxed == ()


@pytest.mark.parametrize(
    "fields", [{"exclude": ["a"]}, {"models": ["b"]}, {"max_tokens": 10**6}, {"params": TOOLS}]
)
async def test_hard_constraints_are_never_relaxed(fields: dict[str, Any]) -> None:
    router = router_over(model(supports=[]), on_no_candidates="relax")
    await refusals(router, max_cost=0.0, **fields)


async def test_a_relaxed_constraint_does_not_stop_the_call() -> None:
    provider = Scripted()
    async with router_of(provider, "a", on_no_candidates="relax") as router:
        result = await router.execute("hello", max_cost=0.0)
    assert result.success
    assert result.decision is not None
    assert result.decision.relaxed == ("max_cost",)


# What is kept


async def test_similar_queries_share_the_eligible_set() -> None:
    router = router_over(*models("ab"))
    assert not (await router.route("hello")).cached
    assert (await router.route("quite another one")).cached
    assert not (await router.route("hello", capability="analysis")).cached
    assert (await router.route("hello", required_quality=0.2)).cached  # all have that
    assert (await router.route("hello", max_cost=1, max_latency_ms=5000)).cached
    assert router.get_statistics()["decision_cache"]["hits"] == 3


async def test_a_kept_set_does_not_hide_a_constraint_of_the_next_query() -> None:
    router = router_over(model("a", cost_per_1k_tokens=9), model("b"))
    assert ids(await router.route("hello")) == ["a", "b"]
    assert ids(await router.route("hello", max_cost=0.01)) == ["b"]
    assert ids(await router.route("hello")) == ["a", "b"]


async def test_a_longer_query_is_another_kind_where_a_window_is_too_small() -> None:
    router = router_over(model("small", max_tokens=100), model("large", max_tokens=10_000))
    assert ids(await router.route("hello")) == ["small", "large"]
    assert ids(await router.route("x" * 4000)) == ["large"]


async def test_a_kept_reason_tells_nothing_of_another_query() -> None:
    router = router_over(model("small", max_tokens=100), model("large", max_tokens=10_000))
    await router.route("x" * 4000)
    again = await router.route("x" * 8000)
    assert again.cached
    assert "1005" not in again.rejected["small"]


@pytest.mark.parametrize(
    "change",
    [
        lambda router: router.update_model_availability("a", False),
        lambda router: router.update_model("a", weight=0),
        lambda router: router.update_model("a", capabilities=["x"]),
        lambda router: router.remove_model("a"),
    ],
)
async def test_a_change_of_the_models_is_seen_at_once(change: Any) -> None:
    router = router_over(*models("ab", capabilities=["y"]))
    assert ids(await router.route("hi", capability="y")) == ["a", "b"]
    change(router)
    decision = await router.route("hi", capability="y")
    assert not decision.cached
    assert ids(decision) == ["b"]


async def test_a_new_model_is_seen_at_once() -> None:
    router = router_over(*models("a"))
    await router.route("hello")
    router.add_model(model("b"))
    assert ids(await router.route("hello")) == ["a", "b"]


async def test_a_kept_decision_does_not_herd_a_burst() -> None:
    provider = Scripted()
    async with LLMRouter(models("abcd"), {"default": provider}) as router:
        await router.route("warm")
        await together(40, lambda i: router.execute(f"{i}"))
    assert all(8 <= provider.count[each] <= 12 for each in "abcd")


async def test_why_a_model_is_left_out_is_told_as_it_was_when_deciding() -> None:
    router = router_over(model("a", cost_per_1k_tokens=1), model("b", avg_latency_ms=9000))
    decision = await router.route("hello", max_cost=0.1, max_tokens=100)
    slow = await router.route("hello", max_latency_ms=5000)
    router.update_model("a", cost_per_1k_tokens=2)
    router.update_model("b", avg_latency_ms=10)
    assert decision.rejected == {"a": "is expected to cost $0.106, above max_cost $0.1"}
    assert slow.rejected == {"b": "is expected to take 9000 ms, above max_latency_ms 5000"}


async def test_requests_whose_qualities_the_same_models_have_are_of_one_kind() -> None:
    qualities = {"a": 0.4, "b": 0.6, "c": 0.8}
    router = router_over(*(model(name, quality_score=q) for name, q in qualities.items()))
    for quality, found, is_known in (
        (0.5, ["b", "c"], False),
        (0.55, ["b", "c"], True),
        (0.6, ["b", "c"], True),
        (0.61, ["c"], False),
        (0.4, ["a", "b", "c"], False),
        (None, ["a", "b", "c"], True),
    ):
        decision = await router.route("hello", required_quality=quality)
        assert (ids(decision), decision.cached) == (found, is_known)


def test_fewer_sets_are_kept_of_many_models() -> None:
    sizes = [
        LLMRouter(models(map(str, range(count)))).get_statistics()["decision_cache"]["max_size"]
        for count in (3, 1000)
    ]
    assert sizes == [1000, 100]


async def test_routing_reserves_nothing() -> None:
    router = LLMRouter(models("ab"))
    for _ in range(20):
        await router.route("hello", strategy="least_loaded")
    loads = [stats["load"] for stats in router.get_statistics()["model_stats"].values()]
    assert loads == [0, 0]


# Health


async def test_a_model_set_aside_is_no_candidate_but_is_when_all_are() -> None:
    provider = Scripted({"a": fails("rate_limited", retry_after=3.0)})
    async with router_of(provider, "ab") as router:
        await router.execute("hello")
        decision = await router.route("hello")
        assert ids(decision) == ["b"]
        assert decision.rejected["a"] == "is rate limited for 2.9 s"
        assert ids(await router.route("hello", models=["a"])) == ["a"]
        await asyncio.sleep(3.1)
        assert ids(await router.route("hello")) == ["a", "b"]


@pytest.mark.parametrize("strategy", ["balanced", "cost_optimized", "latency_optimized"])
async def test_the_best_of_a_few_is_not_chosen_while_it_is_set_aside(strategy: str) -> None:
    configs = [model(each, avg_latency_ms=100.0 * n) for n, each in enumerate("abc", 1)]
    configs = [
        each.model_copy(update={"input_cost_per_1k": each.avg_latency_ms}) for each in configs
    ]
    async with LLMRouter(configs, {"*": Scripted()}, seed=1) as router:
        assert ids(await router.route("hello", strategy=strategy)) == ["a", "b", "c"]
        router._registry["a"].block(now() + 1.0, now())
        for _ in range(3):  # the others' scores are at hand by then, or not
            assert ids(await router.route("hello", strategy=strategy)) == ["b", "c"]
        await asyncio.sleep(1.1)
        assert ids(await router.route("hello", strategy=strategy)) == ["a", "b", "c"]


async def test_who_is_set_aside_is_known_at_once_and_until_it_ends() -> None:
    async with router_of(Scripted(), "abc") as router:
        a, b = router._registry["a"], router._registry["b"]
        assert ids(await router.route("hello")) == ["a", "b", "c"]
        a.block(now() + 0.5, now())
        assert ids(await router.route("hello")) == ["b", "c"]
        b.block(now() + 2.0, now())
        decision = await router.route("hello")
        assert ids(decision) == ["c"]
        await asyncio.sleep(0.4)
        assert decision.rejected == {
            "a": "is rate limited for 0.5 s",
            "b": "is rate limited for 2 s",
        }
        assert (await router.route("hello")).rejected["a"] == "is rate limited for 0.1 s"
        await asyncio.sleep(0.1)
        assert ids(await router.route("hello")) == ["a", "c"]
        await asyncio.sleep(1.5)
        assert ids(await router.route("hello")) == ["a", "b", "c"]


async def test_a_probe_that_never_was_sent_gives_way_to_the_next_at_once() -> None:
    configs = models("ab", max_concurrent_requests=1)
    async with router_of(Scripted({"a": answers(after=60.0)}), configs) as router:
        a = router._registry["a"]
        busy = asyncio.create_task(router.execute("hello", timeout=100))
        await asyncio.sleep(1)
        a.health.eject(a.health.pass_anyway(), now(), may_eject=True)
        a.heed(now())
        await asyncio.sleep(10)
        probing = asyncio.create_task(router.execute("hello", models=["a"], timeout=200))
        await asyncio.sleep(1)
        assert a.lane.queued == 1
        assert ids(await router.route("hello")) == ["b"]
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        assert ids(await router.route("hello")) == ["a", "b"]
        busy.cancel()


async def test_with_all_set_aside_the_best_comes_first_all_the_same() -> None:
    async with router_of(Scripted(), "ab") as router:
        for endpoint in router._registry:
            endpoint.block(now() + 5, now())
        decision = await router.route("hello")
        assert ids(decision) == ["a", "b"]
        assert set(decision.rejected) == {"a", "b"}


async def test_a_recovered_model_comes_first_only_now_and_then() -> None:
    script = {"a": fails("authentication")}
    provider = Scripted(script)
    async with router_of(provider, "ab") as router:
        router.update_model("b", provider="other")
        router.update_model("b", provider="default")
        await router.execute("hello", models=["a"])
        a = router._registry["a"]
        a.health.eject(a.health.pass_anyway(), 0.0, may_eject=True)
        a.heed(0.0)
        provider.script.clear()
        await asyncio.sleep(6)
        await router.execute("hello", models=["a"])  # the probe
        first = [(await router.route(f"{i}")).selected_model.model_id for i in range(100)]
        assert 2 <= first.count("a") <= 25
        await asyncio.sleep(31)
        assert ids(await router.route("hello")) == ["a", "b"]


async def test_a_decision_keeps_the_scores_of_a_selector_that_uses_its_lists_again() -> None:
    class Reuses:
        def __init__(self) -> None:
            self.ranked: list[Any] = []
            self.scores: list[float] = []

        async def select(self, request: object, candidates: Any, /) -> Ranking:
            self.ranked[:] = candidates
            self.scores[:] = [0.9, 0.2, 0.1]
            return Ranking(self.ranked, self.scores)

    selector = Reuses()
    decision = await LLMRouter(models("abc")).route("hello", strategy=selector)
    selector.scores[:] = [0.1, 0.5, 0.6]
    selector.ranked.reverse()
    assert (decision.selected_model.model_id, decision.score) == ("a", 0.9)
    assert ids(decision) == ["a", "b", "c"]


@pytest.mark.parametrize("count", [3, 40])
@pytest.mark.parametrize("inner", [BalancedSelector, CostOptimizedSelector, RoundRobinSelector])
async def test_a_selector_made_of_another_gets_nobody_who_was_ruled_out(
    inner: Any, count: int
) -> None:
    class Adjusts:
        def __init__(self) -> None:
            self.inner = inner()

        async def select(self, request: QueryRequest, candidates: Any, /) -> Ranking:
            found = await self.inner.select(request, candidates)
            assert len(found) == len(found.scores) == len(candidates)
            return Ranking(found.candidates, [score / 2 for score in found.scores])

    configs = [model(f"m{i}") for i in range(count)] + [
        model("dear", cost_per_1k_tokens=1, quality_score=1)
    ]
    async with LLMRouter(configs, {"*": Scripted()}) as router:
        router._registry["m0"].block(now() + 5, now())
        for _ in range(2 * count):
            decision = await router.route("hello", strategy=Adjusts(), max_cost=0.01)
            named = ids(decision)
            assert set(decision.rejected) == {"m0", "dear"}
            assert not {"m0", "dear"} & set(named)
            assert len(named) == count - 1


async def test_whom_a_selector_remembers_though_ruled_out_is_dropped() -> None:
    class Remembers:
        def __init__(self) -> None:
            self.known: Any = None

        async def select(self, request: QueryRequest, candidates: Any, /) -> Ranking:
            self.known = self.known or list(candidates)
            return Ranking(self.known, [0.1, 0.2, 0.9])

    router = LLMRouter([*models("ab"), model("c", cost_per_1k_tokens=1)])
    selector = Remembers()
    assert ids(await router.route("hello", strategy=selector)) == ["c", "b", "a"]
    assert ids(await router.route("hello", strategy=selector, max_cost=0.01)) == ["b", "a"]


async def test_a_conversation_changed_in_place_is_counted_anew() -> None:
    request = QueryRequest(messages=({"role": "user", "content": "hello"},))
    router = LLMRouter(models("a"))
    before = (await router.route(request)).expected_cost
    request.chat[0]["content"] = "x" * 4000
    assert (await router.route(request)).expected_cost > before


async def test_the_one_that_is_left_has_the_score_of_an_only_one() -> None:
    router = LLMRouter([model("a"), model("b", cost_per_1k_tokens=1)])
    decision = await router.route("hello", max_cost=0.01)
    assert (decision.selected_model.model_id, decision.score) == ("a", 1.0)
