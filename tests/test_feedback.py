"""Ratings of answers: whom they reach, how late they may come, and what they cost."""

from __future__ import annotations

import pytest

from asyncroute import (
    BadRequestError,
    Call,
    Completion,
    ConfigurationError,
    CostOptimizedSelector,
    ExecutionResult,
    LLMRouter,
    ModelConfig,
    QueryRequest,
)
from asyncroute._feedback import Feedback
from asyncroute._observers import Observers

MODELS = [ModelConfig(model_id="a", provider="p"), ModelConfig(model_id="b", provider="p")]


class Echo:
    cancels_promptly = True

    async def complete(self, call: Call, /) -> Completion:
        if call.request.query == "fail":
            raise BadRequestError("no")
        return Completion(f"{call.model.model_id} heard {call.request.query}")


class Learner:
    """A selector that learns, and an observer of results."""

    def __init__(self) -> None:
        self.rated: list[tuple[str, str, float]] = []
        self.results: list[str] = []
        self._first = CostOptimizedSelector()

    async def select(self, request, candidates, /):
        return await self._first.select(request, candidates)

    def on_feedback(self, request: QueryRequest, result: ExecutionResult, score: float, /) -> None:
        self.rated.append((str(request.query), str(result.response), score))

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        self.results.append(result.request_id)


class Broken(Learner):
    def on_feedback(self, request, result, score, /) -> None:
        raise RuntimeError("cannot learn")


def router_of(*observers, **selectors) -> LLMRouter:
    return LLMRouter(MODELS, {"p": Echo()}, observers=observers, selectors=selectors)


@pytest.mark.smoke
async def test_a_rating_reaches_the_selector_with_its_request_and_answer_once() -> None:
    learner = Learner()
    async with router_of(mine=learner) as router:
        result = await router.execute("hello", models=["b"])
        other = await router.execute("again", models=["a"])
        assert await router.feedback(result, 0.25)
        assert await router.feedback(other.request_id, 1)
        assert not await router.feedback(result, 1.0)
    assert learner.rated == [("hello", "b heard hello", 0.25), ("again", "a heard again", 1)]
    assert learner.results == [result.request_id, other.request_id]


async def test_observers_learn_too_and_one_that_raises_is_not_felt() -> None:
    before, learner = Broken(), Learner()
    async with router_of(before, learner) as router:
        result = await router.execute("hello")
        assert await router.feedback(result, 1.0)
    assert len(learner.rated) == 1


async def test_a_selector_registered_twice_or_also_as_an_observer_is_told_once() -> None:
    learner = Learner()
    async with router_of(learner, one=learner) as router:
        router.register_selector("two", learner)
        result = await router.execute("hello", strategy="two")
        await router.feedback(result, 1.0)
    assert (len(learner.rated), len(learner.results)) == (1, 1)


async def test_where_nobody_learns_nothing_is_remembered() -> None:
    async with router_of() as router:
        result = await router.execute("hello")
        assert not await router.feedback(result, 1.0)
        assert not router._observers
        assert repr(router._feedback) == "<Feedback: 0 answers to be rated>"


async def test_what_failed_and_what_is_unknown_cannot_be_rated() -> None:
    learner = Learner()
    async with router_of(mine=learner) as router:
        failed = await router.execute("fail")
        assert not failed.success
        assert not await router.feedback(failed, 0.0)
        assert not await router.feedback("never heard of", 0.0)
    assert learner.rated == []


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
async def test_a_score_out_of_range_is_refused_and_the_answer_can_still_be_rated(
    score: float,
) -> None:
    async with router_of(mine=Learner()) as router:
        result = await router.execute("hello")
        with pytest.raises(ValueError, match="score must be a number from 0 to 1, got"):
            await router.feedback(result, score)
        assert await router.feedback(result, 1.0)


def test_the_oldest_answers_are_forgotten() -> None:
    learner = Learner()
    memory, request = Feedback(Observers([learner]), most=2), QueryRequest(query="x")
    for number in range(5):
        memory.on_result(
            request, ExecutionResult(True, "a", 1.0, 0.0, 1, "x", request_id=str(number))
        )
    assert [memory.rate(str(number), 1.0) for number in range(5)] == [False] * 3 + [True] * 2
    assert len(learner.rated) == 2


async def test_an_answer_from_the_cache_is_rated_by_its_own_id() -> None:
    learner = Learner()
    router = LLMRouter(MODELS, {"p": Echo()}, cache=True, selectors={"mine": learner})
    async with router:
        first = await router.execute("hello")
        again = await router.execute("hello")
        assert again.cached
        assert await router.feedback(again, 0.5)
        assert await router.feedback(first, 0.75)
    assert [score for *_, score in learner.rated] == [0.5, 0.75]


def test_an_observer_with_none_of_the_methods_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"has none of on_start, .*, on_feedback"):
        router_of(object())
