"""Who comes first: each strategy's formula, and how bursts spread over equals."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncroute import (
    BalancedSelector,
    Candidate,
    ConfigurationError,
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    LeastLoadedSelector,
    LLMRouter,
    ModelConfig,
    ModelSelector,
    QualityOptimizedSelector,
    QueryRequest,
    Ranking,
    RoundRobinSelector,
    RouterEnsemble,
    ScoredSelector,
)
from asyncroute._endpoint import Eligible, Endpoint
from asyncroute._registry import Registry
from asyncroute._selectors._scored import SplitSelector
from contracts.selector import SelectorContract
from support import InOrder, Scripted, answers, model, models, together

SPLIT = (
    CostOptimizedSelector,
    LatencyOptimizedSelector,
    QualityOptimizedSelector,
    LeastLoadedSelector,
    BalancedSelector,
)
HELLO = QueryRequest(query="hello")


class Short(ScoredSelector):
    """A user's own."""

    def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
        return 1 / (1 + candidate.in_flight)


class TestCost(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return CostOptimizedSelector()


class TestLatency(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return LatencyOptimizedSelector()


class TestQuality(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return QualityOptimizedSelector()


class TestBalanced(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return BalancedSelector()


class TestLeastLoaded(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return LeastLoadedSelector()


class TestRoundRobin(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return RoundRobinSelector()


class TestEnsemble(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return RouterEnsemble([(CostOptimizedSelector(), 1), (LeastLoadedSelector(), 2)])


class TestUsersOwn(SelectorContract):
    @pytest.fixture
    def selector(self) -> ModelSelector:
        return Short()


# What the tests look at


def endpoints(*configs: ModelConfig) -> list[Endpoint]:
    return list(registry(*configs))


def registry(*configs: ModelConfig) -> Registry:
    return LLMRouter(configs, seed=1)._registry


def answered(endpoint: Endpoint, times: int, seconds: float, tokens_out: int = 100) -> None:
    for _ in range(times):
        endpoint.metrics.record_success(seconds, 0.0, 10, tokens_out)
    endpoint.learn()


def failed(endpoint: Endpoint, times: int) -> None:
    for _ in range(times):
        endpoint.metrics.record_failure("unavailable", 0.0, 0, 0)
    endpoint.learn()


async def order_of(selector: ModelSelector, *candidates: Endpoint, **request: Any) -> str:
    ranking = await selector.select(QueryRequest(query="hello", **request), candidates)
    return "".join(candidate.config.model_id for candidate, _ in ranking)


# Cost


def test_cost_is_scored_over_the_success_rate_on_a_scale_of_a_cent() -> None:
    (endpoint,) = endpoints(model(cost_per_1k_tokens=0.1))
    failed(endpoint, 5)
    cost = endpoint.expected_cost(HELLO) / endpoint.success_rate
    assert endpoint.success_rate == 0.5
    assert CostOptimizedSelector().score(HELLO, endpoint) == pytest.approx(0.01 / (0.01 + cost))


async def test_the_expected_tokens_decide_where_prices_cross_over() -> None:
    a, b = endpoints(
        model("a", input_cost_per_1k=0.001, output_cost_per_1k=0.03),
        model("b", input_cost_per_1k=0.02, output_cost_per_1k=0.002),
    )
    long_answer = await order_of(CostOptimizedSelector(), a, b, max_tokens=200)
    short_answer = await CostOptimizedSelector().select(
        QueryRequest(query="x" * 8000, max_tokens=1), [a, b]
    )
    assert long_answer == "ba"
    assert next(iter(short_answer))[0] is a


async def test_a_model_that_fails_half_the_time_costs_twice() -> None:
    cheap, dear = endpoints(
        model("a", cost_per_1k_tokens=0.01), model("b", cost_per_1k_tokens=0.015)
    )
    assert await order_of(CostOptimizedSelector(), cheap, dear) == "ab"
    failed(cheap, 5)
    assert await order_of(CostOptimizedSelector(), cheap, dear) == "ba"


def test_a_free_model_scores_one() -> None:
    (endpoint,) = endpoints(model(cost_per_1k_tokens=0))
    failed(endpoint, 50)
    assert CostOptimizedSelector().score(HELLO, endpoint) == 1.0


# Latency


def test_latency_is_scored_under_load_on_a_scale_of_two_seconds() -> None:
    (endpoint,) = endpoints(model(avg_latency_ms=500))
    selector = LatencyOptimizedSelector()
    assert selector.score(HELLO, endpoint) == pytest.approx(2 / 2.5)
    answered(endpoint, 5, 0.5)
    for _ in range(5):
        endpoint.assign()
    assert selector.score(HELLO, endpoint) == pytest.approx(2 / (2 + 0.5 * 1.5))


def test_observed_latency_outweighs_the_configured_one_by_and_by() -> None:
    (endpoint,) = endpoints(model(avg_latency_ms=1000))
    answered(endpoint, 5, 3.0)
    assert endpoint.expected_latency == pytest.approx(2.0)
    answered(endpoint, 990, 3.0)
    assert endpoint.expected_latency == pytest.approx(3.0, rel=0.01)


def test_fast_failures_never_look_fast() -> None:
    (endpoint,) = endpoints(model(avg_latency_ms=1000))
    before = endpoint.expected_latency
    failed(endpoint, 100)
    assert endpoint.expected_latency == before


async def test_a_newcomer_gets_a_few_requests_to_learn_from_and_no_stampede() -> None:
    slow = {"new": answers(after=5.0)}
    provider = Scripted(slow)
    async with LLMRouter(
        [model("old", avg_latency_ms=200), model("new", avg_latency_ms=1)], {"default": provider}
    ) as router:
        for _ in range(30):
            await router.execute("hello", models=["old"])
        provider.calls.clear()
        await together(20, lambda _: router.execute("hello", strategy="latency_optimized"))
        assert 1 <= provider.count["new"] <= 3


async def test_a_slow_newcomer_is_left_alone_while_a_fast_model_is_known() -> None:
    provider = Scripted()
    configs = [model("old", avg_latency_ms=100), model("new", avg_latency_ms=20_000)]
    async with LLMRouter(configs, {"default": provider}) as router:
        for _ in range(10):
            await router.execute("hello", models=["old"])
        provider.calls.clear()
        await together(20, lambda _: router.execute("hello", strategy="latency_optimized"))
        assert provider.count["new"] <= 3


async def test_without_any_sample_a_burst_prefers_the_model_configured_as_fast() -> None:
    provider = Scripted()
    configs = [model("fast", avg_latency_ms=100), model("slow", avg_latency_ms=20_000)]
    async with LLMRouter(configs, {"default": provider}) as router:
        await together(20, lambda _: router.execute("hello", strategy="latency_optimized"))
        assert provider.count["slow"] <= 3


# Quality, load, balance


async def test_quality_is_the_configured_score() -> None:
    a, b = endpoints(model("a", quality_score=0.2), model("b", quality_score=0.9))
    assert QualityOptimizedSelector().score(HELLO, b) == 0.9
    assert await order_of(QualityOptimizedSelector(), a, b) == "ba"


async def test_the_least_loaded_is_the_one_with_the_smallest_share_of_its_slots() -> None:
    few, many = endpoints(
        model("a", max_concurrent_requests=2), model("b", max_concurrent_requests=100)
    )
    few.assign()
    for _ in range(40):
        many.assign()
    assert LeastLoadedSelector().score(HELLO, few) == pytest.approx(1 / 1.5)
    assert await order_of(LeastLoadedSelector(), few, many) == "ba"


async def test_the_least_busy_of_several_always_comes_first() -> None:
    a, b, c = endpoints(*models("abc"))
    for endpoint, count in ((a, 10), (b, 1), (c, 50)):
        for _ in range(count):
            endpoint.assign()
    assert {await order_of(LeastLoadedSelector(), a, b, c) for _ in range(20)} == {"bac"}


async def test_an_ejected_model_is_not_the_least_busy_one() -> None:
    router = LLMRouter(models("ab"))
    a, b = router._registry
    b.assign()
    a.health.eject(a.health.pass_anyway(), 0.0, may_eject=True)
    a.heed(0.0)
    decision = await router.route("hello", strategy="least_loaded")
    assert decision.selected_model.model_id == "b"
    assert decision.rejected["a"].startswith("is ejected for ")


def test_balance_is_the_weighted_mean_of_four_scores() -> None:
    (endpoint,) = endpoints(model(avg_latency_ms=1000, quality_score=0.6))
    endpoint.assign()
    parts = [
        selector().score(HELLO, endpoint)
        for selector in (
            CostOptimizedSelector,
            LatencyOptimizedSelector,
            QualityOptimizedSelector,
            LeastLoadedSelector,
        )
    ]
    expected = sum(w * p for w, p in zip((1, 2, 3, 4), parts, strict=True)) / 10
    selector = BalancedSelector(cost=1, latency=2, quality=3, load=4)
    assert selector.score(HELLO, endpoint) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [-0.1, nan, inf])
def test_bad_weights_are_refused_by_name(weight: float) -> None:
    with pytest.raises(ConfigurationError, match=f"quality must be 0 or more, got {weight}"):
        BalancedSelector(quality=weight)


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one weight"):
        BalancedSelector(cost=0, latency=0, quality=0, load=0)


# Round robin


def turns(router: LLMRouter, count: int, **fields: Any) -> list[str]:
    async def take() -> list[str]:
        taken: list[str] = []
        for _ in range(count):
            decision = await router.route("hello", strategy="round_robin", **fields)
            taken.append(decision.selected_model.model_id)
        return taken

    return asyncio.run(take())


def test_each_model_has_its_turn() -> None:
    assert turns(LLMRouter(models("abc")), 7) == list("abcabca")


def test_turns_follow_weights_evenly_spaced() -> None:
    router = LLMRouter([model("a", weight=5), *models("bc")])
    assert "".join(turns(router, 7)) == "aabacaa"


def test_three_to_one_is_three_to_one() -> None:
    router = LLMRouter([model("a", weight=3), model("b"), model("z", weight=0)])
    assert Counter(turns(router, 4000)) == {"a": 3000, "b": 1000}


def test_each_of_very_many_has_its_turn() -> None:
    ids = [f"m{i}" for i in range(100)]
    taken = turns(LLMRouter([model(name) for name in ids]), 250)
    assert taken == (ids * 3)[:250]


def test_turns_of_very_many_follow_weights() -> None:
    router = LLMRouter([model("a", weight=50), *(model(f"m{i}") for i in range(50))])
    taken = turns(router, 200)
    assert taken.count("a") == 100
    assert max(Counter(taken[:100]).items(), key=lambda item: item[1]) == ("a", 50)
    assert all("a" in taken[i : i + 3] for i in range(198))


async def test_a_turn_of_next_to_no_weight_is_found_at_once_where_the_others_are_set_aside() -> (
    None
):
    router = registry(*(model(f"m{i}") for i in range(40)), model("last", weight=1e-9))
    eligible = Eligible(tuple(router), {}, router.journal)
    selector, last = RoundRobinSelector(), router["last"]
    others = eligible.without({endpoint for endpoint in router if endpoint is not last})
    for _ in range(3):
        ranking = await selector.select(HELLO, others)
        assert ranking.candidates[ranking.best()] is last
    ranking = await selector.select(HELLO, eligible)
    assert ranking.candidates[ranking.best()] is not last


async def test_one_of_very_many_that_is_set_aside_is_passed_over() -> None:
    async with LLMRouter([model(f"m{i}") for i in range(40)], {"default": Scripted()}) as router:
        endpoint, at = router._registry["m0"], asyncio.get_running_loop().time()
        endpoint.block(at + 30, at)
        decisions = [await router.route("hello", strategy="round_robin") for _ in range(60)]
        taken = [decision.selected_model.model_id for decision in decisions]
        assert "m0" not in taken
        await asyncio.sleep(31)
        taken = [
            (await router.execute("hello", strategy="round_robin")).model_id for _ in range(80)
        ]
        assert taken.count("m0") == 2  # its turns have passed, and are not made up for


async def test_very_many_are_ranked_by_who_is_due_next() -> None:
    router = LLMRouter([model(f"m{i}") for i in range(40)])
    decision = await router.route("hello", strategy="round_robin")
    ranked = [decision.selected_model, *decision.fallback_models]
    assert [each.model_id for each in ranked] == [f"m{i}" for i in range(40)]
    scores = [view.score for view in decision.candidates]
    assert scores == sorted(scores, reverse=True)


async def test_lots_among_equals_follow_weights_too() -> None:
    router = LLMRouter([model("a", weight=3), model("b"), model("z", weight=0)], seed=5)
    picks = Counter[str]()
    for _ in range(4000):
        picks[(await router.route("hello", strategy="least_loaded")).selected_model.model_id] += 1
    assert picks["z"] == 0
    assert abs(picks["a"] / 4000 - 0.75) <= 0.03


async def test_weight_zero_is_never_picked_not_even_as_fallback() -> None:
    router = LLMRouter([model("a"), model("z", weight=0, quality_score=1.0)])
    for strategy in router.strategies:
        decision = await router.route("hello", strategy=strategy)
        assert [decision.selected_model.model_id, *decision.fallback_models] == ["a"]
        assert decision.rejected == {"z": "has weight 0"}


async def test_turns_stay_fair_while_a_model_leaves_and_returns_under_calls() -> None:
    provider = Scripted()
    async with LLMRouter(models("abc"), {"default": provider}) as router:

        async def ask(i: int) -> Any:
            await asyncio.sleep(i * 0.01)
            return await router.execute("hello", strategy="round_robin")

        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(ask(i)) for i in range(60)]
            await asyncio.sleep(0.2)
            router.remove_model("b")
            await asyncio.sleep(0.2)
            router.add_model(model("b"))
        assert all(call.result().success for call in calls)
    assert len(provider.calls) == 60
    assert all(x != y for x, y in zip(provider.calls, provider.calls[1:], strict=False))
    assert abs(provider.count["a"] - provider.count["c"]) <= 1


def test_turns_of_models_long_gone_are_forgotten() -> None:
    selector = RoundRobinSelector()

    async def come_and_go() -> None:
        for i in range(200):
            await selector.select(HELLO, endpoints(*(model(f"m{i}-{j}") for j in range(30))))

    asyncio.run(come_and_go())
    assert len(selector._credit) <= 4096 + 30


def test_kinds_of_requests_in_turn_do_not_make_each_other_s_turns_forgotten() -> None:
    kinds = [f"kind{i}" for i in range(20)]
    router = LLMRouter(
        [model(f"{kind} {j}", capabilities=[kind]) for kind in kinds for j in range(10)],
        strict_capabilities=True,
    )
    taken = Counter[str]()
    for _ in range(10):
        for kind in kinds:
            taken.update(turns(router, 1, capability=kind))
    assert set(taken.values()) == {1}


@pytest.mark.parametrize("count", [2, 40])
def test_turns_of_one_kind_of_requests_leave_the_weights_of_another_alone(count: int) -> None:
    a = [model(f"a{i}", weight=3 - 2 * (i % 2), group="a") for i in range(count)]
    router = LLMRouter([*a, *(model(f"b{i}", group="b") for i in range(count))])
    taken = Counter[str]()
    for _ in range(2 * count):
        taken.update(turns(router, 1, models=["a"]))
        turns(router, 10, models=["b"])
    assert taken == {f"a{i}": 3 - 2 * (i % 2) for i in range(count)}


@pytest.mark.parametrize("count", [4, 40])
def test_a_weight_that_is_raised_counts_from_then_on(count: int) -> None:
    router = LLMRouter([model(f"m{i}") for i in range(count)] + [model("new", weight=0.01)])
    turns(router, 3 * count)
    router.update_model("new", weight=1.0)
    assert "new" in turns(router, 2 * count + 2)


@pytest.mark.parametrize("count", [2, 40])
def test_a_weight_next_to_nothing_harms_nobody(count: int) -> None:
    router = LLMRouter([model(f"m{i}") for i in range(count)] + [model("none", weight=5e-324)])
    assert turns(router, 2, models=["none"]) == ["none", "none"]
    assert set(Counter(turns(router, 10 * count)).values()) == {10}


# Ensemble


class Votes:
    """Gives these scores by model id, and leaves the others out."""

    def __init__(self, **scores: float) -> None:
        self.scores = scores

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        known = [c for c in candidates if c.config.model_id in self.scores]
        return Ranking(known, [self.scores[c.config.model_id] for c in known])


async def test_an_ensembles_score_is_the_weighted_mean_of_its_voters() -> None:
    ensemble = RouterEnsemble([(Votes(a=1.0, b=0.0), 1), (Votes(a=0.2, b=0.6), 3)])
    ranking = await ensemble.select(HELLO, endpoints(*models("ab")))
    scores = {candidate.config.model_id: score for candidate, score in ranking}
    assert scores == {"a": pytest.approx(0.4), "b": pytest.approx(0.45)}
    assert ranking.votes == {"Votes 1": {"a": 1.0, "b": 0.0}, "Votes 2": {"a": 0.2, "b": 0.6}}


async def test_a_voter_that_leaves_a_model_out_gives_it_nothing() -> None:
    ensemble = RouterEnsemble([(Votes(b=0.5), 1), (Votes(a=0.5, b=0.5), 1)])
    ranking = await ensemble.select(HELLO, endpoints(*models("ab")))
    assert [(c.config.model_id, score) for c, score in ranking] == [("b", 0.5), ("a", 0.25)]


async def test_votes_are_in_the_decision() -> None:
    ensemble = RouterEnsemble([(CostOptimizedSelector(), 1), (QualityOptimizedSelector(), 1)])
    decision = await LLMRouter(models("ab", quality_score=0.7)).route("hello", strategy=ensemble)
    assert decision.votes["QualityOptimized"] == {"a": 0.7, "b": 0.7}
    assert decision.to_dict()["votes"].keys() == {"CostOptimized", "QualityOptimized"}


@pytest.mark.parametrize("voters", [[], [(InOrder(), 0)]])
def test_an_ensemble_needs_a_voter_with_weight(voters: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least one weight"):
        RouterEnsemble(voters)


@pytest.mark.parametrize("weight", [-1, nan, inf])
def test_bad_weights_of_voters_are_refused(weight: float) -> None:
    with pytest.raises(ConfigurationError, match="weight of InOrder must be 0 or more"):
        RouterEnsemble([(InOrder(), weight)])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(any))
async def test_an_ensembles_scores_stay_within_0_and_1(weights: list[float]) -> None:
    ensemble = RouterEnsemble([(Votes(a=1.0, b=0.0), weight) for weight in weights])
    ranking = await ensemble.select(HELLO, endpoints(*models("ab")))
    assert all(0 <= score <= 1 for _, score in ranking)


# Scored selectors


async def test_a_single_candidate_is_returned_without_scoring() -> None:
    class Unable(ScoredSelector):
        def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
            raise AssertionError("scored")

    decision = await LLMRouter(models("a")).route("hello", strategy=Unable())
    assert (decision.selected_model.model_id, decision.score) == ("a", 1.0)


@pytest.mark.parametrize("score", [1.5, -0.1, nan])
async def test_a_score_outside_of_0_to_1_is_refused(score: float) -> None:
    class Wild(ScoredSelector):
        def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
            return score

    with pytest.raises(ValueError, match=f"Wild scored a {score}: a score must be"):
        await LLMRouter(models("ab")).route("hello", strategy=Wild())


def test_a_seed_makes_lots_reproducible() -> None:
    def lots(seed: int) -> list[str]:
        async def draw() -> list[str]:
            selector = QualityOptimizedSelector(rng=random.Random(seed))
            router = LLMRouter(models("abcd"))
            return [
                (await router.route("hi", strategy=selector)).selected_model.model_id
                for _ in range(12)
            ]

        return asyncio.run(draw())

    assert lots(3) == lots(3)
    assert set(lots(3)) > {"a"}


# The kept scores

CONFIGS = st.builds(
    dict,
    input_cost_per_1k=st.floats(0, 10),
    output_cost_per_1k=st.floats(0, 10),
    avg_latency_ms=st.floats(1, 1e5),
    quality_score=st.floats(0, 1),
    max_output_tokens=st.none() | st.integers(1, 4000),
    max_concurrent_requests=st.integers(0, 20),
)
EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["assign", "answered", "failed", "configure"])),
    max_size=40,
)


@given(
    configs=st.lists(CONFIGS, min_size=3, max_size=3),
    events=EVENTS,
    which=st.sampled_from(SPLIT),
    max_tokens=st.none() | st.integers(1, 5000),
    text=st.text(min_size=1).filter(str.strip),
)
async def test_kept_scores_are_those_of_the_public_formula(
    configs: list[dict[str, Any]],
    events: list[tuple[int, str]],
    which: type[SplitSelector],
    max_tokens: int | None,
    text: str,
) -> None:
    router = registry(*(model(name, **c) for name, c in zip("abc", configs, strict=True)))
    eligible = Eligible(tuple(router), {}, router.journal)
    selector = which()
    request = QueryRequest(query=text, max_tokens=max_tokens)
    for i, event in events:
        change(eligible[i], event)
        ranking = await selector.select(request, eligible)
        kept = {e.config.model_id: s for e, s in ranking}
        public = {e.config.model_id: selector.score(request, e) for e in eligible}
        assert ranking.score_at(ranking.best()) == pytest.approx(max(public.values()), abs=1e-9)
        assert kept == pytest.approx(public, abs=1e-9)
        assert all(0 <= score <= 1 for score in (*kept.values(), *public.values()))


def change(endpoint: Endpoint, event: str) -> None:
    if event == "assign":
        endpoint.assign()
    elif event == "answered":
        answered(endpoint, 7, 2.0, 30)
    elif event == "failed":
        failed(endpoint, 3)
    else:
        endpoint.configure(endpoint.config.model_copy(update={"quality_score": 0.25}))


@given(st.lists(st.floats(0, 1e3), min_size=4, max_size=4).filter(any))
def test_balance_stays_within_0_and_1_whatever_the_weights(weights: list[float]) -> None:
    selector = BalancedSelector(
        **dict(zip(("cost", "latency", "quality", "load"), weights, strict=True))
    )
    (best,) = endpoints(model(cost_per_1k_tokens=0, quality_score=1, avg_latency_ms=1e-9))
    assert 0 <= selector.score(HELLO, best) <= 1


async def test_what_changed_too_often_to_be_remembered_is_seen_all_the_same() -> None:
    router = registry(*models("ab"))
    eligible = Eligible(tuple(router), {}, router.journal)
    selector, (a, b) = LeastLoadedSelector(), router
    assert len(await selector.select(HELLO, eligible)) == 2
    a.assign()
    for _ in range(5000):
        b.learn()
    assert (await selector.select(HELLO, eligible)).best() == eligible.places[b]


def one_more(endpoint: Endpoint, *, seconds: float = 1.0, success: bool = True) -> None:
    endpoint.assign()
    if success:
        endpoint.metrics.record_success(seconds, 0.0, 10, 100)
    else:
        endpoint.metrics.record_failure("unavailable", 0.0, 0, 0)
    endpoint.unassign(is_news=not success)


def test_answers_of_a_well_known_model_are_taken_up_after_a_pause_and_failures_at_once() -> None:
    (endpoint,) = endpoints(model())
    journal = endpoint.journal
    for _ in range(20):
        before = endpoint.view
        one_more(endpoint)
        assert endpoint.view is not before  # too little is known: each answer is news
    one_more(endpoint)
    journal.take_up(0.0)
    known = endpoint.view
    one_more(endpoint)
    assert endpoint.load == 0
    journal.take_up(0.01)
    assert endpoint.view is known
    one_more(endpoint, success=False)
    assert endpoint.success_rate < 1
    known = endpoint.view
    one_more(endpoint)
    journal.take_up(0.04)
    assert endpoint.view is known
    journal.take_up(0.06)
    assert endpoint.view is not known
    known = endpoint.view
    one_more(endpoint)
    journal.take_up(-1e6)  # a clock that was set back
    assert endpoint.view is not known


async def test_what_a_wave_of_answers_says_is_known_to_the_next_decision() -> None:
    quick, slow = model("a", avg_latency_ms=100), model("b", avg_latency_ms=300)
    async with LLMRouter([quick, slow], {"default": Scripted()}) as router:
        a = router._registry["a"]
        for _ in range(30):
            one_more(a, seconds=0.1)
        for _ in range(50):
            a.assign()
        for _ in range(50):
            a.metrics.record_success(3.0, 0.0, 10, 100)
            a.unassign(is_news=False)
        await asyncio.sleep(1.0)
        result = await router.execute("hello", strategy="latency_optimized")
        assert result.model_id == "b"


async def test_a_decision_keeps_what_it_was_made_from() -> None:
    router = registry(*models("ab"))
    eligible = Eligible(tuple(router), {}, router.journal)
    selector = LeastLoadedSelector()
    before = await selector.select(HELLO, eligible)
    eligible[before.best()].assign()
    after = await selector.select(HELLO, eligible)
    assert after.best() != before.best()
    assert list(before.scores) == [1.0, 1.0]


@pytest.mark.parametrize("kind", [BalancedSelector, RoundRobinSelector])
@pytest.mark.parametrize("count", [2, 40])
async def test_selectors_made_for_one_request_leave_nothing_behind(
    kind: type[ModelSelector], count: int
) -> None:
    router = registry(*(model(f"m{i}") for i in range(count)))
    eligible = Eligible(tuple(router), {}, router.journal)
    for _ in range(100):
        await kind().select(HELLO, eligible)
    assert len(eligible.indexes) <= 32


# A user's own


async def test_a_selector_of_a_few_lines_is_passed_as_an_object() -> None:
    class Longest(ScoredSelector):
        def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
            return min(1.0, candidate.config.max_tokens / 1_000_000)

    router = LLMRouter([model("a", max_tokens=8_000), model("b", max_tokens=200_000)])
    decision = await router.route("hello", strategy=Longest())
    assert (decision.selected_model.model_id, decision.strategy) == ("b", "Longest")
    assert decision.score == 0.2


async def test_a_selector_is_registered_under_a_name() -> None:
    router = LLMRouter(models("ab"), selectors={"mine": InOrder()})
    router.register_selector("later", Votes(b=1.0))
    assert router.strategies[-2:] == ("mine", "later")
    assert (await router.route("hello", strategy="mine")).selected_model.model_id == "a"
    decision = await router.route(QueryRequest(query="hello", strategy="later"))
    assert (decision.selected_model.model_id, decision.fallback_models) == ("b", ())


@pytest.mark.parametrize(("name", "selector"), [("", InOrder()), ("x", object())])
def test_what_cannot_select_is_not_registered(name: str, selector: Any) -> None:
    router = LLMRouter(models("a"))
    with pytest.raises(ConfigurationError, match=r"must (have select|be a text)"):
        router.register_selector(name, selector)
    assert name not in router.strategies


async def test_what_cannot_select_is_refused_as_a_strategy() -> None:
    with pytest.raises((ConfigurationError, TypeError), match="42"):
        await LLMRouter(models("ab")).route("hello", strategy=42)  # pyright: ignore[reportArgumentType]


async def test_a_dear_query_and_a_cheap_one_do_not_share_their_scores() -> None:
    router = LLMRouter([model("a", cost_per_1k_tokens=0.001), model("b", cost_per_1k_tokens=0.1)])
    short = await router.route("hi", strategy="cost_optimized")
    long = await router.route("x" * 20_000, strategy="cost_optimized")
    assert long.cached
    assert long.expected_cost > 10 * short.expected_cost
    assert long.score < short.score


async def test_a_long_conversation_is_counted_once_however_many_candidates_ask() -> None:
    looks = 0

    class Counted(dict[str, str]):
        def get(self, key: str, default: object = None) -> Any:
            nonlocal looks
            looks += key == "content"
            return super().get(key, default)

    class ByCost(ScoredSelector):
        def score(self, request: QueryRequest, candidate: Candidate, /) -> float:
            return 1 / (1 + candidate.expected_cost(request))

    request, other = (
        QueryRequest(messages=tuple({"role": "user", "content": text} for text in texts))
        for texts in (("x" * 400, "x"), ("x" * 4000,))
    )
    fields: Any = request.__dict__
    fields["messages"] = tuple(map(Counted, request.chat))  # past validation, which copies
    router = LLMRouter(models("abcdefgh"), selectors={"by cost": ByCost()})
    cost = (await router.route(request, strategy="by cost")).expected_cost
    assert looks == 4  # at two messages: for images, and for tokens
    dear = (await router.route(other, strategy="by cost")).expected_cost
    assert dear > cost
    assert (await router.route(request, strategy="by cost")).expected_cost == cost
    assert looks == 8
