"""What comes back: the specification's dictionaries, a readable table, and no secret anywhere."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import fields
from math import inf
from typing import Any

import pytest
from pydantic import TypeAdapter

from asyncroute import (
    AsyncRouteError,
    Attempt,
    Chunk,
    Completion,
    CostOptimizedSelector,
    ExecutionResult,
    LLMRouter,
    ModelConfig,
    QualityOptimizedSelector,
    QueryRequest,
    RouterEnsemble,
    RoutingDecision,
    Usage,
)
from support import Scripted, fails, models, router_of

jsonable_encoder = pytest.importorskip("fastapi.encoders").jsonable_encoder

SECRET = "sk-not-for-your-eyes-0123456789"


async def a_decision(**fields: Any) -> RoutingDecision:
    router = LLMRouter(models("abc", params={"api_key": SECRET}, quality_score=0.7))
    return await router.route("hello", params={"api_key": SECRET}, **fields)


async def a_result(**script: Any) -> ExecutionResult:
    configs = models("abc", params={"api_key": SECRET})
    async with router_of(Scripted(script), configs) as router:
        return await router.execute("hello", params={"api_key": SECRET})


# Values


def test_usage_adds_up_and_bills_cached_tokens_at_their_price() -> None:
    usage = Usage(100, 10, cached_tokens=60)
    model = ModelConfig(
        model_id="a", input_cost_per_1k=10, output_cost_per_1k=20, cached_input_cost_per_1k=1
    )
    assert usage.total_tokens == 110
    assert usage.cost(model) == pytest.approx(40 * 0.01 + 60 * 0.001 + 10 * 0.02)


def test_usage_bills_what_has_a_price_of_its_own_at_that_price() -> None:
    usage = Usage(100, 10, 60, cache_write_tokens=20, audio_input_tokens=5, audio_output_tokens=4)
    model = ModelConfig(model_id="a", input_cost_per_1k=10, output_cost_per_1k=20)
    assert usage.cost(model) == pytest.approx(100 * 0.01 + 10 * 0.02)
    prices: dict[str, Any] = {
        "cached_input_cost_per_1k": 1,
        "cache_write_cost_per_1k": 12,
        "audio_input_cost_per_1k": 40,
        "audio_output_cost_per_1k": 80,
    }
    own = ModelConfig(model_id="a", input_cost_per_1k=10, output_cost_per_1k=20, **prices)
    received = 15 * 0.01 + 60 * 0.001 + 20 * 0.012 + 5 * 0.04
    assert usage.cost(own) == pytest.approx(received + 6 * 0.02 + 4 * 0.08)


@pytest.mark.parametrize(
    ("chunk", "has_content"),
    [
        (Chunk("x"), True),
        (Chunk(reasoning="hm"), True),
        (Chunk(tool_call={"index": 0}), True),
        (Chunk(), False),
        (Chunk(finish_reason="stop", usage=Usage(1, 1)), False),
    ],
)
def test_a_chunk_has_content_where_it_carries_a_piece_of_the_answer(
    chunk: Chunk, has_content: bool
) -> None:
    assert chunk.has_content is has_content


def test_a_completion_needs_only_its_text() -> None:
    assert Completion("hi") == Completion("hi", None, None, (), None)


# Results


def test_the_specifications_result_is_built_as_written() -> None:
    result = ExecutionResult(
        success=True,
        model_id="gpt-4",
        actual_latency_ms=812.5,
        actual_cost=0.01,
        tokens_used=42,
        response="hi",
    )
    assert result.unwrap() == "hi"
    assert (result.error, result.attempts, result.cached, result.simulated) == (
        None,
        (),
        False,
        False,
    )


def test_the_fields_of_a_result_are_those_of_the_design() -> None:
    assert " ".join(field.name for field in fields(ExecutionResult)) == (
        "success model_id actual_latency_ms actual_cost tokens_used response error error_kind usage"
        " finish_reason tool_calls attempts decision cached simulated request_id"
    )
    assert " ".join(field.name for field in fields(Attempt)) == (
        "model_id role outcome started_after queued duration usage cost cost_is_estimated error"
        " error_kind"
    )


def test_unwrapping_a_failure_raises_what_was_behind_it() -> None:
    result = ExecutionResult(False, "a", 1.0, 0.0, 0, None, error="it broke")
    with pytest.raises(AsyncRouteError, match="it broke"):
        result.unwrap()
    result.fail_with(KeyError("behind it"))
    with pytest.raises(KeyError, match="behind it"):
        result.unwrap()


async def test_the_dictionary_of_a_result_is_the_specifications() -> None:
    result = await a_result(a=fails())
    shaped = result.to_dict()
    assert shaped["model_used"] == shaped["model_id"] == "b"
    assert (shaped["success"], shaped["response"], shaped["error"]) == (True, "b", None)
    assert shaped["usage"]["output_tokens"] == 5
    assert [attempt["outcome"] for attempt in shaped["attempts"]] == ["failed", "won"]
    assert shaped["decision"]["selected_model"]["model_id"] == "a"
    assert json.loads(json.dumps(shaped)) == json.loads(json.dumps(shaped, default=str))


# Decisions


def test_the_fields_of_a_decision_are_those_of_the_design() -> None:
    assert " ".join(field.name for field in fields(RoutingDecision)) == (
        "request strategy selected_model fallback_models expected_cost expected_latency_ms score"
        " rejected relaxed cached"
    )


async def test_the_dictionary_of_a_decision_is_the_specifications() -> None:
    decision = await a_decision(exclude=["c"])
    shaped = decision.to_dict()
    assert shaped["selected_model"]["name"] == decision.selected_model.model_id
    assert shaped["expected_cost"] == decision.expected_cost > 0
    assert shaped["expected_latency_ms"] == decision.expected_latency_ms > 0
    assert len(shaped["fallback_models"]) == 1
    assert shaped["rejected"] == {"c": "is excluded by the request"}
    assert {each["model_id"] for each in shaped["candidates"]} == {"a", "b"}
    json.dumps(shaped)


async def test_candidates_are_as_they_were_when_deciding() -> None:
    router = LLMRouter(models("ab", avg_latency_ms=100))
    decision = await router.route("hello", strategy="quality_optimized")
    router.update_model("a", avg_latency_ms=9000, cost_per_1k_tokens=9, quality_score=1)
    assert [view.expected_latency for view in decision.candidates] == [0.1, 0.1]
    assert {view.expected_cost for view in decision.candidates} == {decision.expected_cost}
    assert [view.score for view in decision.candidates] == [0.5, 0.5]


async def test_a_decision_built_by_hand_has_no_candidates() -> None:
    model = ModelConfig(model_id="a")
    decision = RoutingDecision(QueryRequest(query="x"), "mine", model, (), 0.0, 1.0, 1.0, {})
    assert decision.candidates == ()
    assert decision.votes == {}
    assert "mine chose a" in decision.explain()


async def test_explaining_shows_candidates_votes_what_was_relaxed_and_why_others_are_out() -> None:
    ensemble = RouterEnsemble([(CostOptimizedSelector(), 1), (QualityOptimizedSelector(), 1)])
    router = LLMRouter(models("abc"), on_no_candidates="relax")
    decision = await router.route(
        "hello", strategy=ensemble, exclude=["c"], required_quality=0.9, max_latency_ms=1
    )
    text = decision.explain()
    assert text.startswith("RouterEnsemble chose ")
    for said in ("expected cost", "vote of CostOptimized: ", "vote of QualityOptimized: "):
        assert said in text
    assert "relaxed to find any model: max_latency_ms, required_quality" in text
    assert "- c: is excluded by the request" in text


async def test_explaining_keeps_to_80_columns() -> None:
    long = ["m" * 120, "n" * 120, "a-model-of-some-vendor/" + "x" * 90]
    router = LLMRouter(models([*long, "o"], cost_per_1k_tokens=12345.0, avg_latency_ms=10**7))
    ensemble = RouterEnsemble([(CostOptimizedSelector(), 1)])
    decision = await router.route("hello", strategy=ensemble, models=long)
    text = decision.explain()
    assert max(map(len, text.splitlines())) <= 80
    assert "o: is not among the models asked for" in text


# Serialising


@pytest.mark.parametrize("model", ["a", "b"])
async def test_pydantic_and_fastapi_serialise_results_as_they_are(model: str) -> None:
    result = await a_result(**{} if model == "a" else {"a": fails()})
    shaped = json.loads(TypeAdapter(ExecutionResult).dump_json(result))
    assert shaped["model_id"] == model
    assert shaped["decision"]["selected_model"]["model_id"] == "a"
    encoded = jsonable_encoder(result)
    assert encoded["attempts"] == shaped["attempts"]
    assert encoded["decision"]["request"]["query"] == "hello"
    json.dumps(encoded)


async def test_pydantic_and_fastapi_serialise_decisions_as_they_are() -> None:
    decision = await a_decision(exclude=["c"])
    shaped = json.loads(TypeAdapter(RoutingDecision).dump_json(decision))
    assert shaped == jsonable_encoder(decision)
    assert list(shaped) == [field.name for field in fields(RoutingDecision)]
    assert shaped["rejected"] == {"c": "is excluded by the request"}


async def test_a_decision_without_a_deadline_serialises_too() -> None:
    decision = await a_decision(timeout=inf)
    json.dumps(jsonable_encoder(decision), allow_nan=False)


async def test_no_secret_is_in_a_result_or_in_anything_made_of_it() -> None:
    for result in (await a_result(), await a_result(a=fails(), b=fails(), c=fails("bad_request"))):
        decision = result.decision
        assert decision is not None
        for shown in (
            repr(result),
            repr(decision),
            decision.explain(),
            json.dumps(result.to_dict()),
            json.dumps(decision.to_dict()),
            json.dumps(jsonable_encoder(result)),
            TypeAdapter(ExecutionResult).dump_json(result).decode(),
            TypeAdapter(RoutingDecision).dump_json(decision).decode(),
            str(result.exception),
            repr(result.exception),
        ):
            assert SECRET not in shown
            assert "api_key" not in shown


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
async def test_a_result_is_copied_and_pickled_by_value(copied: Any) -> None:
    async with router_of(Scripted(), "abc") as router:
        result = await router.execute("hello", strategy="quality_optimized")
        held = copied(result)
    assert held == result
    assert result.decision is not None
    assert held.decision.candidates == result.decision.candidates
    assert held.decision.fallback_models == result.decision.fallback_models
    assert held.decision.explain() == result.decision.explain()
    assert b"asyncroute._endpoint" not in pickle.dumps(result)


def test_a_result_that_somebody_made_keeps_its_decision_as_it_is() -> None:
    made: Any = {"chosen": "a"}
    result = ExecutionResult(True, "a", 1.0, 0.0, 1, "hi", decision=made)
    assert result.decision is made
    assert "chosen" in repr(result)
