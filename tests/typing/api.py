"""Never run: read by the type checkers, as users' code would be."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import assert_type

import asyncroute as ar


class ByWeight(ar.ScoredSelector):
    def score(self, request: ar.QueryRequest, candidate: ar.Candidate, /) -> float:
        return min(candidate.config.weight, 1.0)


class Alphabetical:
    async def select(
        self, request: ar.QueryRequest, candidates: Sequence[ar.Candidate], /
    ) -> ar.Ranking:
        return ar.Ranking.in_order(sorted(candidates, key=lambda c: c.config.model_id))


class Echo:
    cancels_promptly = True

    async def complete(self, call: ar.Call, /) -> ar.Completion:
        return ar.Completion(call.request.query or "", usage=ar.Usage(1, 1))


class EchoStream(Echo):
    async def stream(self, call: ar.Call, /) -> AsyncGenerator[ar.Chunk]:
        yield ar.Chunk("hello", finish_reason="stop")


class Watcher:
    def on_start(self, call: ar.Call, /) -> AbstractContextManager[object] | None:
        return None

    def on_attempt(self, request: ar.QueryRequest, attempt: ar.Attempt, /) -> None:
        print(attempt.outcome)


async def ask(model: ar.ModelConfig, request: ar.QueryRequest) -> ar.ExecutionResult:
    return ar.ExecutionResult(
        success=True,
        model_id=model.model_id,
        actual_latency_ms=1.0,
        actual_cost=0.0,
        tokens_used=2,
        response="hi",
    )


def ask_in_a_thread(model: ar.ModelConfig, request: ar.QueryRequest) -> str:
    return model.model_id


async def looks_right(completion: ar.Completion) -> bool:
    return bool(completion.text)


async def use_the_router() -> None:
    selector: ar.ModelSelector = Alphabetical()
    streaming: ar.StreamingProvider = EchoStream()
    async with ar.LLMRouter(
        [ar.ModelConfig(model_id="a"), {"model_id": "b"}],
        {"default": Echo(), "streaming": streaming},
        selectors={"weight": ByWeight()},
        observers=[Watcher()],
        budgets=[ar.MoneyBudget(10.0)],
        fallback=ar.FallbackStrategy(chains={"a": ["b"]}),
        cache=True,
    ) as router:
        assert_type(router, ar.LLMRouter)
        assert_type(await router.route("x", max_cost=0.1), ar.RoutingDecision)
        result = await router.execute("x", strategy=selector, timeout=3, metadata={"tenant": "t"})
        assert_type(result, ar.ExecutionResult)
        assert_type(result.unwrap(), str)
        await router.execute([{"role": "user", "content": "x"}], mode="cascade", accept=looks_right)
        await router.execute("x", mode="cascade", accept=lambda c: c.finish_reason == "stop")
        assert_type(await router.execute_all("x", width=2), list[ar.ExecutionResult])
        request = ar.QueryRequest(query="x", strategy="weight")
        await router.execute_with_fallback(request, ask, mode="hedged", hedge_after=0.5)
        await router.execute_with_fallback(request, ask_in_a_thread)
        async with router.stream("x") as stream:
            async for chunk in stream:
                assert_type(chunk, ar.Chunk)
        assert_type(stream.result(), ar.ExecutionResult)
        router.add_model({"model_id": "c"})
        router.update_model("c", quality_score=0.9)


def use_errors(error: ar.AsyncRouteError) -> str:
    if isinstance(error, ar.RateLimitedError):
        assert_type(error.retry_after, float | None)
    if isinstance(error, ar.AllAttemptsFailedError):
        assert_type(error.attempts, tuple[ar.Attempt, ...])
    return error.kind
