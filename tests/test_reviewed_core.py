"""What a look at the fast way of the core found: each a behaviour that was once otherwise."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from asyncroute import (
    Call,
    Candidate,
    Completion,
    ConfigurationError,
    FallbackStrategy,
    HealthSettings,
    LLMRouter,
    QueryRequest,
    Ranking,
    Usage,
)
from support import (
    Scripted,
    answers,
    fails,
    in_turn,
    model,
    models,
    now,
    router_of,
)


def of(router: LLMRouter, model_id: str = "a") -> dict[str, Any]:
    """What the statistics say of one model."""
    return router.get_statistics()["model_stats"][model_id]


class Ponders:
    """Ranks as configured, after some seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self.seconds = seconds

    async def select(self, request: QueryRequest, candidates: Sequence[Candidate], /) -> Ranking:
        await asyncio.sleep(self.seconds)
        return Ranking.in_order(candidates)


# The time at which the first attempt starts


async def test_the_time_a_selector_takes_is_no_time_of_the_model() -> None:
    async with router_of(Scripted(default=answers(after=1.0)), "a") as router:
        result = await router.execute("q", strategy=Ponders(5.0))
        assert result.attempts[0].duration == pytest.approx(1.0)
        assert result.actual_latency_ms == pytest.approx(6000.0)
        assert of(router)["avg_latency_ms"] == pytest.approx(1000.0)


async def test_a_model_that_came_back_while_a_selector_pondered_is_asked() -> None:
    play = Scripted({"a": in_turn(fails("rate_limited", retry_after=3.0), answers())})
    async with router_of(play, "ab") as router:
        await router.execute("q")
        play.calls.clear()

        class Both(Ponders):
            async def select(
                self, request: QueryRequest, candidates: Sequence[Candidate], /
            ) -> Ranking:
                await asyncio.sleep(5.0)
                return Ranking.in_order(candidates)

        assert (await router.execute("q", strategy=Both(), exclude=["b"])).success
        assert play.calls == ["a"]
        assert now() == pytest.approx(5.2, abs=0.3)


async def test_a_model_switched_off_while_a_selector_pondered_is_not_called() -> None:
    play = Scripted()
    async with router_of(play, "ab") as router:
        asked = asyncio.create_task(router.execute("q", strategy=Ponders(5.0)))
        await asyncio.sleep(1.0)
        router.update_model_availability("a", False)
        assert (await asked).model_id == "b"
    assert play.calls == ["b"]


async def test_a_model_switched_off_while_a_request_waits_for_it_is_not_called() -> None:
    play = Scripted({"a": in_turn(fails("rate_limited", retry_after=10.0), answers())})
    strategy = FallbackStrategy(max_retries=0)
    async with router_of(play, "a", fallback=strategy) as router:
        assert not (await router.execute("q")).success
        asked = asyncio.create_task(router.execute("q"))
        await asyncio.sleep(5.0)
        router.update_model_availability("a", False)
        assert not (await asked).success
    assert play.calls == ["a"]


# How long an attempt may take


async def test_an_attempt_that_no_chain_follows_may_take_all_the_time_there_is() -> None:
    play = Scripted(default=answers(after=8.0))
    chains: dict[str, tuple[str, ...]] = {"a": ()}
    strategy = FallbackStrategy(chains=chains, max_retries=0)
    async with router_of(play, "ab", fallback=strategy) as router:
        assert (await router.execute("q", timeout=10.0)).success
    assert play.calls == ["a"]


async def test_the_only_one_of_many_that_is_not_too_dear_may_take_all_the_time_there_is() -> None:
    play = Scripted(default=answers(after=8.0))
    dear = models([f"m{i}" for i in range(40)], cost_per_1k_tokens=100.0)
    async with LLMRouter([model("a"), *dear], {"*": play}, seed=1) as router:
        assert (await router.execute("q", max_cost=0.1, timeout=10.0)).success
    assert play.calls == ["a"]


# Who follows


async def test_a_model_over_a_limit_does_not_follow_though_it_is_set_aside() -> None:
    play = Scripted(
        {"a": fails(after=3.0), "b": in_turn(fails("rate_limited", retry_after=1.0), answers())}
    )
    given = [model("a"), model("b", avg_latency_ms=5000.0)]
    strategy = FallbackStrategy(max_retries=0)
    async with router_of(play, given, fallback=strategy) as router:
        await router.execute("q", models=["b"])
        play.calls.clear()
        result = await router.execute("q", max_latency_ms=2000.0)
        assert not result.success
    assert play.calls == ["a"]


# Health


async def test_a_model_that_recovers_in_panic_comes_back_slowly() -> None:
    settings = HealthSettings(consecutive_failures=1, base_ejection=4.0, slow_start=1000.0)
    play = Scripted({"a": in_turn(fails(), answers(after=10.0)), "b": fails()})
    strategy = FallbackStrategy(max_retries=0)
    async with router_of(play, "ab", fallback=strategy, health=settings) as router:
        await router.execute("q")  # ejects a: b can serve
        asked = asyncio.create_task(router.execute("q", models=["a"]))  # nobody else can: panic
        await asyncio.sleep(6.0)
        await router.route("q")  # a could be called as a probe now, but is not
        assert (await asked).success
        first = [(await router.route("q")).selected_model.model_id for _ in range(100)]
    assert 2 <= first.count("a") <= 25  # a tenth of its share


# What a provider reports


NONSENSE: dict[str, tuple[Any, Any]] = {
    "huge tokens": (Usage(10**400, 1), None),
    "tokens that are no number, with a bill": (Usage(math.nan, 1), 0.01),  # type: ignore[arg-type]
    "endless tokens, with a bill": (Usage(1, math.inf), 0.01),  # type: ignore[arg-type]
    "negative cached tokens": (Usage(1, 1, cached_tokens=-(10**6)), None),
    "huge bill": (Usage(1, 1), 10**400),
    "bill in words": (Usage(1, 1), "0.01"),
    "decimal bill": (Usage(1, 1), Decimal("0.01")),
    "foreign usage": (SimpleNamespace(input_tokens=1, output_tokens=1), None),
    "foreign usage with a bill": (SimpleNamespace(input_tokens=1, output_tokens=1), 0.01),
    "tokens in words, with a bill": (Usage("1", "1"), 0.01),  # type: ignore[arg-type]
    "broken tokens": (Usage(1.5, 1.5), None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("usage", "cost"), NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_nonsensical_report_is_no_reason_to_keep_anything(usage: Any, cost: Any) -> None:
    class Reports:
        cancels_promptly = True
        calls = 0

        async def complete(self, call: Call, /) -> Completion:
            self.calls += 1
            if self.calls > 1:
                return Completion("ok", Usage(1, 1))
            call.cost = cost
            return Completion("ok", usage)

    given = [model("a", max_concurrent_requests=1, tokens_per_minute=100_000)]
    async with router_of(Reports(), given) as router:
        assert (await router.execute("q")).success
        figures = of(router)
        assert figures["active_requests"] == 0
        assert math.isfinite(figures["total_cost"])
        assert isinstance(figures["total_input_tokens"], int)
        assert isinstance(figures["total_output_tokens"], int)
        assert (await router.execute("q", timeout=2.0)).success
        assert now() < 1.0


@pytest.mark.parametrize("hint", ["5", math.nan, -1, True, Decimal(5)])
async def test_a_nonsensical_retry_after_is_no_reason_to_keep_anything(hint: Any) -> None:
    play = Scripted({"a": in_turn(fails("rate_limited", retry_after=hint), answers())})
    given = [model("a", max_concurrent_requests=1)]
    async with router_of(play, given) as router:
        await router.execute("q")
        assert of(router)["active_requests"] == 0
        assert (await router.execute("q")).success


@pytest.mark.parametrize("observed", [False, True])
async def test_an_answer_that_is_none_is_told_the_same_whoever_observes(observed: bool) -> None:
    class Nothing:
        cancels_promptly = True

        async def complete(self, call: Call, /) -> Completion:
            return None  # type: ignore[return-value]

    class Watcher:
        def on_start(self, call: Call, /) -> None: ...

    observers = [Watcher()] if observed else []
    async with router_of(Nothing(), "a", observers=observers) as router:
        result = await router.execute("q")
    assert result.attempts[0].error_kind == "protocol"


# The cache


async def test_a_cascade_that_names_its_strategy_is_not_answered_by_one_that_does_not() -> None:
    play = Scripted()
    given = [model("dear", cost_per_1k_tokens=1.0), model("cheap", cost_per_1k_tokens=0.01)]

    def anything(completion: Completion) -> bool:
        return True

    async with router_of(play, given, cache=True) as router:
        how: dict[str, Any] = {"mode": "cascade", "accept": anything}
        first = await router.execute(QueryRequest(query="q"), **how)
        named = await router.execute(QueryRequest(query="q", strategy="balanced"), **how)
    assert (first.model_id, named.model_id) == ("cheap", "dear")


async def test_a_field_that_does_not_exist_is_an_error_whatever_is_cached() -> None:
    async with router_of(Scripted(), cache=True) as router:
        await router.execute("q")
        with pytest.raises(TypeError, match="max_tokes"):
            await router.execute("q", max_tokes=5)  # type: ignore[call-arg]


# Manners


async def test_a_width_that_is_no_whole_number_is_refused_and_spoils_no_other() -> None:
    async with router_of(Scripted()) as router:
        with pytest.raises(ConfigurationError, match="width"):
            await router.execute("q", mode="race", width=2.0)  # type: ignore[arg-type]
        assert (await router.execute("q", mode="race", width=2)).success


# Retries


async def test_a_retry_whose_caller_goes_meanwhile_is_not_counted_as_made() -> None:
    play = Scripted({"a": fails("unavailable")})
    strategy = FallbackStrategy(base_delay=8.0, max_delay=8.0)
    async with router_of(play, "a", fallback=strategy) as router:
        assert router._executor is not None
        retries = router._executor.runtime.retries
        before = retries.level
        asked = asyncio.create_task(router.execute("q"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert retries.level < before
        asked.cancel()
        await asyncio.wait([asked])
        assert retries.level == before
