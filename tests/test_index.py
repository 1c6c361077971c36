"""Choosing among very many models: exact, and spread among equals."""

from __future__ import annotations

import gc
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncroute import (
    BalancedSelector,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    LLMRouter,
    ModelConfig,
    QualityOptimizedSelector,
    QueryRequest,
)
from asyncroute._endpoint import Eligible, Endpoint
from asyncroute._registry import Registry
from asyncroute._selectors._index import Index, Part
from asyncroute._selectors._scored import SplitSelector
from support import Scripted, fails, model, router_of

MANY = 100
SPLIT = [
    BalancedSelector,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    QualityOptimizedSelector,
]


def many(seed: int, count: int = MANY) -> list[ModelConfig]:
    rng = random.Random(seed)
    alike = seed % 2  # prices within a factor of two: many on one shelf
    return [
        model(
            f"m{i}",
            cost_per_1k_tokens=(
                0.01 * (1 + rng.random())
                if alike
                else rng.choice([0.0, 0.001, 0.01, 0.1]) * rng.random()
            ),
            output_cost_per_1k=0.01 * (1 + rng.random()) if alike else 0.1 * rng.random(),
            quality_score=round(rng.random(), 1),
            avg_latency_ms=rng.uniform(50, 5000),
        )
        for i in range(count)
    ]


def registry_of(configs: list[ModelConfig]) -> Registry:
    return LLMRouter(configs, seed=1)._registry


def change(endpoint: Endpoint, event: str, rng: random.Random) -> None:
    if event == "assign":
        endpoint.assign()
    elif event == "unassign":
        if endpoint.assigned:
            endpoint.unassign(is_news=rng.random() < 0.5)
    elif event == "answered":
        endpoint.metrics.record_success(rng.random(), 0.0, 10, rng.randrange(1, 900))
        endpoint.learn()
    elif event == "failed":
        endpoint.metrics.record_failure("unavailable", 0.0, 0, 0)
        endpoint.learn()
    else:
        figure = "quality_score" if event == "changed" else "cost_per_1k_tokens"
        endpoint.configure(endpoint.config.model_copy(update={figure: rng.random() ** 4}))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    which=st.sampled_from(SPLIT),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["assign", "unassign", "answered", "failed", "changed", "priced"]),
            st.sampled_from([30, 2000]) | st.integers(1, 3000),
            st.sampled_from([None, 100]) | st.integers(1, 2000),
        ),
        min_size=1,
        max_size=30,
    ),
)
async def test_the_best_of_many_is_the_one_a_look_at_all_would_find(
    seed: int, which: type[SplitSelector], steps: list[tuple[str, int, int | None]]
) -> None:
    rng = random.Random(seed)
    registry = registry_of(many(seed))
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector = which()
    for event, length, max_tokens in steps:
        for endpoint in rng.sample(eligible.endpoints, 10):
            change(endpoint, event, rng)
        away = set(rng.sample(eligible.endpoints, 3))
        request = QueryRequest(query="x" * length, max_tokens=max_tokens)
        ranking = await selector.select(request, eligible.without(away))
        chosen = eligible.endpoints[ranking.best()]
        public = {e: selector.score(request, e) for e in eligible if e not in away}
        assert chosen not in away
        assert public[chosen] == pytest.approx(max(public.values()), abs=1e-12)
        assert ranking.score_at(ranking.best()) == pytest.approx(public[chosen], abs=1e-9)
        if not selector.cost_weight:  # else they need not be rounded alike
            equals = [each for each, score in public.items() if score == public[chosen]]
            assert chosen.load == min(each.load for each in equals)


def test_a_shelf_that_may_hold_the_best_is_not_taken_to_do_so() -> None:
    registry = registry_of([model(f"m{i}") for i in range(MANY)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    # State's score and price in: the first two promise the best of both on one shelf.
    promising, cheap, best = (0.5, 1.9e-3), (0.0, 1.0e-3), (0.53, 2.1e-3)
    known = {0: promising, 1: cheap, 2: best}

    def part_of(endpoint: Endpoint) -> Part:
        state, price_in = known.get(eligible.places[endpoint], (0.0, 1.0))
        return (state, price_in, 100.0, 1e-9, endpoint.load, endpoint.view)

    index = Index(eligible, 0.5, part_of, random.Random(1))
    assert index.best(1000, 100, ())[0] == 2


async def test_the_dearest_of_many_that_becomes_the_cheapest_is_found() -> None:
    configs = [model(f"m{i}", cost_per_1k_tokens=0.01) for i in range(MANY - 1)]
    registry = registry_of([*configs, model("dear", cost_per_1k_tokens=1.0)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector, request = CostOptimizedSelector(), QueryRequest(query="hello")
    place = eligible.places[registry["dear"]]
    assert (await selector.select(request, eligible)).best() != place
    cheap = registry["dear"].config.model_copy(update={"cost_per_1k_tokens": 1e-5})
    registry["dear"].configure(cheap)
    assert (await selector.select(request, eligible)).best() == place


async def test_the_others_are_ranked_when_somebody_asks() -> None:
    router = LLMRouter(many(3), seed=1)
    decision = await router.route("hello", strategy="quality_optimized")
    assert decision.candidates[0].model is decision.selected_model
    assert decision.candidates[0].score == decision.score
    qualities = [view.model.quality_score for view in decision.candidates]
    assert qualities == sorted(qualities, reverse=True)
    assert len(decision.fallback_models) == MANY - 1
    assert decision.selected_model not in decision.fallback_models


@pytest.mark.parametrize("which", [QualityOptimizedSelector, CostOptimizedSelector])
async def test_among_many_equals_the_idle_one_is_found(which: type[SplitSelector]) -> None:
    registry = registry_of([model(f"m{i}") for i in range(MANY)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector = which()
    await selector.select(QueryRequest(query="hello"), eligible)
    for endpoint in eligible:
        if endpoint.config.model_id != "m77":
            endpoint.assign()
    for _ in range(5):
        ranking = await selector.select(QueryRequest(query="hello"), eligible)
        assert ranking.candidates[ranking.best()].config.model_id == "m77"


async def test_a_removed_model_is_let_go_of() -> None:
    router = LLMRouter([model(f"m{i}") for i in range(MANY)])
    await router.route("hello")
    router._registry["m5"].learn()
    router.remove_model("m5")
    await router.route("hello")
    gc.collect()
    assert not any(
        isinstance(each, Endpoint) and each.config.model_id == "m5" for each in gc.get_objects()
    )


async def test_among_equals_many_calls_spread() -> None:
    router = LLMRouter([model(f"m{i}") for i in range(MANY)], seed=1)
    chosen = Counter([(await router.route("hello")).selected_model.model_id for _ in range(2000)])
    assert set(chosen.values()) == {20}
    assert len(chosen) == MANY


async def test_many_equals_take_turns_by_their_weights() -> None:
    heavy = [model(f"m{i}", weight=9.0 if i < 10 else 1.0) for i in range(MANY)]
    router = LLMRouter(heavy, seed=1)
    chosen = Counter([(await router.route("hello")).selected_model.model_id for _ in range(1800)])
    assert {chosen[f"m{i}"] for i in range(10)} == {90}
    assert {chosen[f"m{i}"] for i in range(10, MANY)} <= {9, 10, 11}


async def reached_by_a_burst(registry: Registry, selector: SplitSelector) -> int:
    """Send as many requests as there are models, none of which ends; count the models chosen."""
    eligible, chosen = Eligible(tuple(registry), {}, registry.journal), set[int]()
    for _ in range(MANY):
        ranking = await selector.select(QueryRequest(query="hello"), eligible)
        chosen.add(ranking.best())
        eligible[ranking.best()].assign()
    return len(chosen)


@pytest.mark.parametrize("which", [QualityOptimizedSelector, LeastLoadedSelector])
async def test_many_that_differ_in_what_does_not_count_are_equals(
    which: type[SplitSelector],
) -> None:
    configs = [model(f"m{i}", cost_per_1k_tokens=0.01 + i / 1e5) for i in range(MANY)]
    registry = registry_of(configs)
    for endpoint in registry:
        endpoint.metrics.record_failure("unavailable", 0.0, 0, 0)
        endpoint.learn()
    assert await reached_by_a_burst(registry, which()) == MANY


async def test_many_free_models_are_equals_however_long_their_answers() -> None:
    registry = registry_of(
        [model(f"m{i}", cost_per_1k_tokens=0, max_output_tokens=10 * (1 + i)) for i in range(MANY)]
    )
    assert await reached_by_a_burst(registry, CostOptimizedSelector()) == MANY


async def test_turns_of_one_kind_of_request_leave_those_of_another_alone() -> None:
    # Long requests go to those whose input is cheap, short ones to the others.
    configs = [
        model(
            f"{kind}{i}",
            cost_per_1k_tokens=price_in,
            output_cost_per_1k=price_out,
            weight=10.0 if kind == "in" and i < 10 else 1.0,
        )
        for kind, price_in, price_out in (("in", 0.001, 0.1), ("out", 0.1, 0.001))
        for i in range(20)
    ]
    router = LLMRouter(configs, seed=1)
    chosen: Counter[str] = Counter()
    for _ in range(1100):
        for query, longest in (("x" * 8_000, 1), ("x", 256)):
            decision = await router.route(query, max_tokens=longest, strategy="cost_optimized")
            chosen[decision.selected_model.model_id] += 1
    assert {chosen[f"in{i}"] for i in range(10)} == {100}
    assert {chosen[f"in{i}"] for i in range(10, 20)} == {10}
    assert {chosen[f"out{i}"] for i in range(20)} == {55}


async def test_one_of_many_equals_that_was_busy_long_has_no_turns_to_make_up_for() -> None:
    registry = registry_of([model(f"m{i}") for i in range(MANY)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector = QualityOptimizedSelector()

    async def chosen(times: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(times):
            ranking = await selector.select(QueryRequest(query="hello"), eligible)
            found[ranking.candidates[ranking.best()].config.model_id] += 1
        return found

    busy = eligible[5]
    busy.assign()
    assert (await chosen(10 * MANY))["m5"] == 0
    busy.unassign(is_news=True)
    assert (await chosen(MANY))["m5"] in (1, 2)


async def test_models_set_aside_are_passed_over_and_followed_by_the_best() -> None:
    configs = [model(f"m{i}", quality_score=1 - i / 1000) for i in range(MANY)]
    provider = Scripted()
    async with router_of(provider, configs) as router:
        first = router._registry["m0"]
        first.block(router._executor.runtime.now() + 30, router._executor.runtime.now())  # pyright: ignore[reportOptionalMemberAccess]
        result = await router.execute("hello", strategy="quality_optimized")
    assert result.response == "m1"
    assert result.decision is not None
    assert "rate limited" in result.decision.rejected["m0"]
    assert provider.calls == ["m1"]


async def test_the_next_of_many_follows_a_failure() -> None:
    configs = [model(f"m{i}", quality_score=1 - i / 1000) for i in range(MANY)]
    provider = Scripted({"m0": fails(), "m1": fails()})
    async with router_of(provider, configs) as router:
        result = await router.execute("hello", strategy="quality_optimized")
    assert provider.calls == ["m0", "m1", "m2"]
    assert result.response == "m2"


async def test_selectors_made_for_one_request_leave_few_indexes_behind() -> None:
    registry = registry_of(many(1))
    eligible = Eligible(tuple(registry), {}, registry.journal)
    for _ in range(50):
        await BalancedSelector().select(QueryRequest(query="hello"), eligible)
    assert len(eligible.indexes) <= 32


async def test_what_changed_long_ago_is_looked_at_anew() -> None:
    registry = registry_of([model(f"m{i}") for i in range(MANY)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector = LeastLoadedSelector()
    request = QueryRequest(query="hello")
    await selector.select(request, eligible)
    for _ in range(10_000):
        for endpoint in eligible.endpoints[:-1]:
            if endpoint.assigned < 3:
                endpoint.assign()
        eligible.endpoints[0].assign()
    ranking = await selector.select(request, eligible)
    assert ranking.best() == MANY - 1


async def test_one_that_becomes_the_best_of_many_is_found() -> None:
    registry = registry_of([model(f"m{i}", quality_score=0.5) for i in range(MANY)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector, request = QualityOptimizedSelector(), QueryRequest(query="hello")
    await selector.select(request, eligible)
    better = eligible.endpoints[70]
    better.configure(better.config.model_copy(update={"quality_score": 0.9}))
    ranking = await selector.select(request, eligible)
    assert eligible.endpoints[ranking.best()] is better


async def test_one_that_had_become_worse_and_lay_too_high_is_passed_by_the_better_one() -> None:
    registry = registry_of([model(f"m{i}", quality_score=0.9 - i / 1000) for i in range(MANY)])
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector, request = QualityOptimizedSelector(), QueryRequest(query="hello")
    assert (await selector.select(request, eligible)).best() == 0
    for endpoint, quality in ((eligible[0], 0.5), (eligible[1], 0.4), (eligible[0], 0.6)):
        endpoint.configure(endpoint.config.model_copy(update={"quality_score": quality}))
        ranking = await selector.select(request, eligible)
    assert ranking.best() == 2
    assert ranking.score_at(2) == eligible[2].config.quality_score


async def test_one_of_many_that_moves_to_other_prices_has_its_turns_there_at_once() -> None:
    prices = [0.001] * MANY + [1.0] * 40
    registry = registry_of(
        [model(f"m{i}", cost_per_1k_tokens=price) for i, price in enumerate(prices)]
    )
    eligible = Eligible(tuple(registry), {}, registry.journal)
    selector, request = CostOptimizedSelector(), QueryRequest(query="hello")
    for _ in range(20 * MANY):
        await selector.select(request, eligible)
    eligible[0].configure(eligible[0].config.model_copy(update={"cost_per_1k_tokens": 1.0}))
    dear = eligible.without(eligible[1:MANY])
    chosen = [(await selector.select(request, dear)).best() for _ in range(5 * len(dear))]
    assert 4 <= chosen.count(0) <= 6
