"""The selector in a router: what it chooses, what it learns, and what it costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncroute import (
    Call,
    Completion,
    ConfigurationError,
    ContentRefusedError,
    LLMRouter,
    ModelConfig,
    QueryRequest,
    RateLimitedError,
)
from asyncroute.learn import Outcome, PredictiveSelector, QualityPredictor, same_text

TOPICS = ("integrate the polynomial", "sue the plaintiff", "sort the python list")
SKILL = {"cheap": (0.2, 0.9, 0.2), "coder": (0.3, 0.2, 0.9), "grand": (0.9, 0.6, 0.6)}
COST = {"cheap": 1e-4, "coder": 2e-4, "grand": 5e-3}
MATH, LAW, CODE = TOPICS


def models(*names: str, **fields: object) -> list[ModelConfig]:
    return [
        ModelConfig.model_validate(
            {"model_id": name, "provider": "p", "quality_score": 0.5} | fields
        )
        for name in names or SKILL
    ]


def outcomes(count: int = 150) -> list[Outcome]:
    rng = random.Random(0)
    rows: list[Outcome] = []
    for number in range(count):
        topic = rng.randrange(3)
        for model, skills in SKILL.items():
            right = rng.random() < skills[topic]
            rows.append(Outcome(f"{TOPICS[topic]} {number}", model, float(right), COST[model]))
    return rows


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learn") / "weights"
    QualityPredictor.fit(outcomes()).save(path)
    return path


@pytest.fixture
def predictor(weights: Path) -> QualityPredictor:
    return QualityPredictor.load(weights)


class Scripted:
    """Says what the script has for a model; raises what is an error."""

    cancels_promptly = True

    def __init__(self, **script: str | Exception) -> None:
        self.script = script
        self.calls: list[str] = []

    async def complete(self, call: Call, /) -> Completion:
        self.calls.append(call.model.model_id)
        said = self.script.get(call.model.model_id, "yes")
        if isinstance(said, Exception):
            raise said
        return Completion(said)


def router_of(
    selector: PredictiveSelector, provider: Scripted | None = None, **fields: Any
) -> LLMRouter:
    given = fields.pop("models", None) or models()
    return LLMRouter(
        given, {"p": provider or Scripted()}, selectors={"learned": selector}, **fields
    )


async def chosen(router: LLMRouter, query: str, **fields: Any) -> str:
    decision = await router.route(query, strategy="learned", **fields)
    return decision.selected_model.model_id


@pytest.mark.smoke
async def test_each_query_goes_to_the_model_that_will_be_right(predictor: QualityPredictor) -> None:
    async with router_of(PredictiveSelector(predictor, knob=0.7)) as router:
        assert [await chosen(router, f"{topic} 999") for topic in TOPICS] == [
            "grand",
            "cheap",
            "coder",
        ]


async def test_the_knob_goes_from_cheap_to_good(predictor: QualityPredictor) -> None:
    for knob, wanted in ((0.0, "cheap"), (1.0, "grand")):
        router = router_of(PredictiveSelector(predictor, knob=knob))
        assert await chosen(router, f"{MATH} 999") == wanted


async def test_the_constraints_of_a_request_hold(predictor: QualityPredictor) -> None:
    router = router_of(PredictiveSelector(predictor, knob=1.0))
    assert await chosen(router, MATH, exclude=["grand"]) != "grand"
    assert await chosen(router, MATH, models=["cheap"]) == "cheap"


async def test_what_was_expected_is_in_the_decision(predictor: QualityPredictor) -> None:
    router = router_of(PredictiveSelector(predictor, knob=1.0))
    decision = await router.route(f"{MATH} 999", strategy="learned")
    assert set(decision.votes) == {"quality"}
    assert decision.votes["quality"]["grand"] == max(decision.votes["quality"].values())
    assert "vote of quality: " in decision.explain()
    assert decision.to_dict()["votes"]["quality"].keys() == SKILL.keys()
    assert 0 < decision.score <= 1


async def test_a_conversation_is_judged_by_what_the_user_said_last(
    predictor: QualityPredictor,
) -> None:
    router = router_of(PredictiveSelector(predictor, knob=0.7))
    conversation = [
        {"role": "user", "content": MATH},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": [{"type": "text", "text": f"{CODE} 7"}]},
    ]
    decision = await router.route(conversation, strategy="learned")
    assert decision.selected_model.model_id == "coder"


async def test_load_and_latency_break_near_ties(predictor: QualityPredictor) -> None:
    pair = models("slow", avg_latency_ms=30_000) + models("quick", avg_latency_ms=100)
    router = router_of(PredictiveSelector(predictor, knob=1.0), models=pair)
    assert await chosen(router, MATH) == "quick"


async def test_a_model_that_was_not_fitted_starts_from_its_configured_quality(
    predictor: QualityPredictor,
) -> None:
    given = models() + models("fresh", quality_score=0.99)
    router = router_of(PredictiveSelector(predictor, knob=1.0), models=given)
    assert await chosen(router, LAW) == "fresh"
    router.add_model(ModelConfig(model_id="better", provider="p", quality_score=1.0))
    assert await chosen(router, LAW) == "better"
    assert predictor.models == ("cheap", "coder", "grand", "fresh", "better")


async def test_ratings_change_what_comes_first(predictor: QualityPredictor) -> None:
    selector = PredictiveSelector(predictor, knob=0.3)
    async with router_of(selector) as router:
        for number in range(60):
            result = await router.execute(f"{CODE} {number}", strategy="learned")
            good = result.model_id == "grand"
            assert await router.feedback(result, 1.0 if good else 0.0)
        assert await chosen(router, f"{CODE} 999") == "grand"
        assert await chosen(router, f"{LAW} 999") == "cheap"


async def test_ratings_of_other_strategies_count_too(predictor: QualityPredictor) -> None:
    async with router_of(PredictiveSelector(predictor)) as router:
        result = await router.execute(CODE, strategy="round_robin")
        await router.feedback(result, 0.0)
    assert predictor.updates == 1


async def test_refusals_are_learned_and_passing_trouble_is_not(
    predictor: QualityPredictor,
) -> None:
    provider = Scripted(coder=ContentRefusedError("never"), cheap=RateLimitedError("later"))
    selector = PredictiveSelector(predictor, knob=0.7)
    before = predictor.predict(f"{CODE} 999")
    async with router_of(selector, provider) as router:
        for number in range(40):
            await router.execute(f"{CODE} {number}", strategy="learned")
            await router.execute(f"{LAW} {number}", strategy="learned")
        assert await chosen(router, f"{CODE} 999") == "grand"
    coder, cheap = predictor.columns["coder"], predictor.columns["cheap"]
    assert predictor.predict(f"{CODE} 999")[coder] < 0.85 * before[coder]
    assert predictor.predict(f"{CODE} 999")[cheap] == pytest.approx(before[cheap], abs=0.01)


async def test_answers_that_are_not_accepted_are_learned(predictor: QualityPredictor) -> None:
    selector = PredictiveSelector(predictor, knob=0.7)
    before = predictor.predict(f"{LAW} 999")[predictor.columns["cheap"]]
    async with router_of(selector, Scripted(cheap="no")) as router:
        for number in range(40):
            await router.execute(
                f"{LAW} {number}",
                strategy="learned",
                mode="cascade",
                accept=lambda completion: completion.text == "yes",
            )
    assert predictor.predict(f"{LAW} 999")[predictor.columns["cheap"]] < 0.6 * before


async def test_what_comes_from_the_cache_is_not_learned_twice(predictor: QualityPredictor) -> None:
    selector = PredictiveSelector(predictor, target_cost=1e-3)
    async with router_of(selector, cache=True) as router:
        await router.execute(CODE, strategy="learned")
        before = repr(selector)
        for _ in range(4):
            assert (await router.execute(CODE, strategy="learned")).cached
    assert predictor.updates == 1
    assert repr(selector) == before  # nor counted as a query that cost nothing


# Money


def priced() -> list[ModelConfig]:
    return [ModelConfig(model_id=name, provider="p", cost_per_1k_tokens=1e-6) for name in SKILL]


class Billing:
    """Bills what the fitted outcomes cost, and sometimes more."""

    cancels_promptly = True

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    async def complete(self, call: Call, /) -> Completion:
        call.cost = COST[call.model.model_id] * self.factor
        return Completion("yes")


@pytest.mark.parametrize("factor", [1.0, 1.5])
async def test_the_mean_cost_comes_to_the_target(
    predictor: QualityPredictor, factor: float
) -> None:
    selector = PredictiveSelector(predictor, target_cost=1.5e-3)
    router = LLMRouter(priced(), {"p": Billing(factor)}, selectors={"learned": selector})
    async with router:
        rng = random.Random(1)
        spent = 0.0
        for _ in range(600):
            query = f"{rng.choice(TOPICS)} {rng.randrange(1000)}"
            spent += (await router.execute(query, strategy="learned")).actual_cost
    assert 0.8 * 1.5e-3 < spent / 600 < 1.1 * 1.5e-3


async def test_spend_stays_within_the_budget_of_a_period(predictor: QualityPredictor) -> None:
    selector = PredictiveSelector(predictor, budget=0.5, period=600)
    router = LLMRouter(priced(), {"p": Billing()}, selectors={"learned": selector})
    rng = random.Random(1)
    async with router:
        for _ in range(2):
            spent = 0.0
            for _ in range(600):
                query = f"{rng.choice(TOPICS)} {rng.randrange(1000)}"
                spent += (await router.execute(query, strategy="learned")).actual_cost
                await asyncio.sleep(1)
            assert 0.3 < spent <= 0.51


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"knob": 0.5, "budget": 1.0}, "knob and budget do not go together"),
        ({"knob": 2.0}, "knob must be from 0 to 1, got 2.0"),
        ({"target_cost": 0.0}, "target_cost must be above 0"),
        ({"budget": 1.0, "period": -1.0}, "period must be above 0"),
        ({"explore": 1.5}, "explore must be from 0 to 1, got 1.5"),
        ({"scorer_timeout": float("nan")}, "scorer_timeout must be 0 or more"),
        ({"load_weight": -1}, "load_weight must be 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    predictor: QualityPredictor, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PredictiveSelector(predictor, **fields)


def test_a_budget_needs_costs() -> None:
    blank = QualityPredictor.fit([], quality={"a": 0.5})
    with pytest.raises(ConfigurationError, match="fitted to outcomes with costs"):
        PredictiveSelector(blank, target_cost=1.0)


# Exploration


async def test_nothing_is_explored_unless_asked_for(predictor: QualityPredictor) -> None:
    router = router_of(PredictiveSelector(predictor, knob=0.7))
    assert {await chosen(router, f"{CODE} 77") for _ in range(200)} == {"coder"}


async def test_exploration_tries_what_may_be_better_within_its_share(
    predictor: QualityPredictor,
) -> None:
    given = models() + models("fresh", quality_score=0.6)
    selector = PredictiveSelector(
        predictor, knob=1.0, explore=0.1, explore_cost=1.0, rng=random.Random(0)
    )
    router = router_of(selector, models=given)
    steady = router_of(PredictiveSelector(predictor, knob=1.0), models=given)
    queries = [f"{CODE} {number}" for number in range(300)]
    picks = [await chosen(router, query) for query in queries]
    best = [await chosen(steady, query) for query in queries]
    assert 10 < sum(pick != known for pick, known in zip(picks, best, strict=True)) <= 30
    assert picks.count("fresh") > 10


async def test_exploration_that_costs_too_much_does_not_happen(
    predictor: QualityPredictor,
) -> None:
    selector = PredictiveSelector(
        predictor, knob=0.6, explore=1.0, explore_cost=0.0, rng=random.Random(0)
    )
    router = router_of(selector, models=models("coder", "grand"))
    assert {await chosen(router, f"{CODE} {number}") for number in range(100)} == {"coder"}


# A scorer of the user's


async def test_a_scorer_takes_the_place_of_the_prediction(predictor: QualityPredictor) -> None:
    asked: list[tuple[str | None, tuple[str, ...]]] = []

    async def scorer(request: QueryRequest, names: Sequence[str]) -> Mapping[str, float]:
        asked.append((request.query, tuple(names)))
        await asyncio.sleep(0.1)
        return {"coder": 1.0, "stranger": 0.5}

    selector = PredictiveSelector(predictor, knob=1.0, scorer=scorer)
    router = router_of(selector)
    assert await chosen(router, MATH) == "coder"
    assert asked == [(MATH, ("cheap", "coder", "grand"))]
    assert selector.scorer_failures == 0


@pytest.mark.parametrize("fault", ["late", "raises", "wrong"])
async def test_a_scorer_that_fails_or_is_late_leaves_the_choice_to_the_prediction(
    predictor: QualityPredictor, fault: str
) -> None:
    async def scorer(request: QueryRequest, names: Sequence[str]) -> Mapping[str, float]:
        if fault == "late":
            await asyncio.sleep(60)
        if fault == "raises":
            raise RuntimeError("no model loaded")
        return {"coder": 7.0}

    selector = PredictiveSelector(predictor, knob=1.0, scorer=scorer)
    async with router_of(selector) as router:
        started = asyncio.get_running_loop().time()
        result = await router.execute(f"{MATH} 999", strategy="learned", timeout=0.2)
        took = asyncio.get_running_loop().time() - started
    assert result.model_id == "grand"
    assert selector.scorer_failures == 1
    assert took == pytest.approx(0.1 if fault == "late" else 0.0, abs=0.03)


# Cascades


@pytest.fixture(scope="module")
def cascading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, rows = random.Random(0), []
    for number in range(300):
        for model, skill, cost in (("a", 0.8, 1e-4), ("b", 0.8, 1.1e-4), ("c", 0.85, 3e-3)):
            right = rng.random() < skill
            answer = "right" if right else str(rng.random())
            rows.append(Outcome(f"question {number}", model, float(right), cost, answer))
    path = tmp_path_factory.mktemp("learn") / "cascades"
    QualityPredictor.fit(rows, cascades=1).save(path)
    return path


@pytest.fixture
def cascades(cascading: Path) -> QualityPredictor:
    predictor = QualityPredictor.load(cascading)
    assert predictor.choices[3:] == ((0, 1, 2),)
    return predictor


def cascade_router(predictor: QualityPredictor, provider: Scripted, **fields) -> LLMRouter:
    given = models("a", "b", "c", "d")
    selector = PredictiveSelector(predictor, knob=0.6, **fields)
    return router_of(selector, provider, models=given)


async def test_two_cheap_models_that_agree_are_believed(cascades: QualityPredictor) -> None:
    provider = Scripted(a="It is 7.", b="it is 7")
    async with cascade_router(cascades, provider, agree=same_text) as router:
        result = await router.execute("question 999", strategy="learned")
    assert sorted(provider.calls) == ["a", "b"]
    assert result.success
    assert result.response in ("It is 7.", "it is 7")


async def test_where_they_differ_the_last_one_has_the_last_word(cascades: QualityPredictor) -> None:
    provider = Scripted(a="7", b="8", c="9")
    async with cascade_router(cascades, provider, agree=same_text) as router:
        result = await router.execute("question 999", strategy="learned")
    assert provider.calls == ["a", "b", "c"]
    assert result.response == "9"


async def test_without_agree_one_model_is_asked(cascades: QualityPredictor) -> None:
    provider = Scripted()
    async with cascade_router(cascades, provider) as router:
        await router.execute("question 999", strategy="learned")
    assert len(provider.calls) == 1


async def test_a_cascade_keeps_to_the_request_s_limits(cascades: QualityPredictor) -> None:
    provider = Scripted()
    given = [
        ModelConfig(
            model_id=name,
            provider="p",
            quality_score=0.5,
            cost_per_1k_tokens=1.0,
            avg_latency_ms=1000,
        )
        for name in "abc"
    ]
    selector = PredictiveSelector(cascades, knob=0.6, agree=same_text)
    async with router_of(selector, provider, models=given) as router:
        rows: list[tuple[dict[str, Any], int]] = [
            ({}, 2),
            ({"max_latency_ms": 1500}, 1),
            ({"max_cost": 0.5}, 1),
            ({"exclude": ["b"]}, 1),
        ]
        for limits, calls in rows:
            provider.calls.clear()
            result = await router.execute("question 999", strategy="learned", **limits)
            assert (result.success, len(provider.calls)) == (True, calls), limits


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("agree", "agree must be a function or None, got 5"),
        ("scorer", "scorer must be a function or None, got 5"),
    ],
)
def test_what_is_no_function_is_refused(
    predictor: QualityPredictor, field: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PredictiveSelector(predictor, **{field: 5})  # type: ignore[arg-type]


def test_a_path_is_no_predictor(weights: Path) -> None:
    with pytest.raises(ConfigurationError, match="predictor must be a QualityPredictor"):
        PredictiveSelector(str(weights))  # type: ignore[arg-type]


async def test_a_scorer_that_returns_something_else_has_failed(
    predictor: QualityPredictor, caplog: pytest.LogCaptureFixture
) -> None:
    async def scorer(request: object, models: object) -> Any:
        return "small"

    selector = PredictiveSelector(predictor, scorer=scorer)
    async with router_of(selector) as router:
        assert (await router.execute("alpha", strategy="learned")).success
    assert selector.scorer_failures == 1
    assert "must return a mapping of scores by model id, got 'small'" in caplog.text
