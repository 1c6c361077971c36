"""What every selector has to keep, whatever it prefers.

A selector's tests subclass `SelectorContract` and give a fixture `selector`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncroute import LLMRouter, ModelSelector
from support import Scripted, models, together


class SelectorContract:
    """Run through a router, as users meet it."""

    @pytest.fixture
    def selector(self) -> ModelSelector:
        raise NotImplementedError

    async def test_it_ranks_candidates_best_first_with_scores_from_0_to_1(
        self, selector: ModelSelector
    ) -> None:
        configs = [
            *models("ab", cost_per_1k_tokens=0.0, quality_score=1.0, avg_latency_ms=1e-3),
            *models("cd", cost_per_1k_tokens=1e6, quality_score=0.0, avg_latency_ms=1e9),
        ]
        decision = await LLMRouter(configs).route("hello", strategy=selector)
        scores = [view.score for view in decision.candidates]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert decision.score == scores[0]
        ranked = [decision.selected_model, *decision.fallback_models]
        assert [view.model for view in decision.candidates] == ranked

    async def test_it_returns_a_single_candidate(self, selector: ModelSelector) -> None:
        decision = await LLMRouter(models("a")).route("hello", strategy=selector)
        assert decision.selected_model.model_id == "a"
        assert 0 <= decision.score <= 1

    async def test_it_names_only_candidates(self, selector: ModelSelector) -> None:
        router = LLMRouter(models("abcd"))
        for _ in range(4):
            decision = await router.route("hello", strategy=selector, exclude=["a", "d"])
            named = [decision.selected_model, *decision.fallback_models]
            assert sorted(model.model_id for model in named) == ["b", "c"]

    async def test_it_does_not_suspend(self, selector: ModelSelector) -> None:
        router = LLMRouter(models("abcd"))
        turns: list[int] = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        await router.route("hello", strategy=selector)
        await router.route("hello", strategy=selector, exclude=["a"])
        assert turns == []

    async def test_a_burst_over_equal_idle_models_spreads(self, selector: ModelSelector) -> None:
        provider = Scripted()
        async with LLMRouter(
            models("ab", max_concurrent_requests=40), {"default": provider}
        ) as router:

            async def ask(i: int) -> Any:
                return await router.execute(f"{i:02}", strategy=selector)

            results = await together(40, ask)
        assert all(result.success for result in results)
        assert abs(provider.count["a"] - 20) <= 2

    async def test_it_serves_two_routers_at_once(self, selector: ModelSelector) -> None:
        one, other = LLMRouter(models("ab")), LLMRouter(models("xyz"))
        for _ in range(3):
            here = await one.route("hello", strategy=selector)
            there = await other.route("hello", strategy=selector)
            assert here.selected_model.model_id in "ab"
            assert there.selected_model.model_id in "xyz"
