"""Several attempts of one request: chains, hedges, races, cascades, votes, and their losers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio import CancelScope

from asyncroute import (
    Attempt,
    Call,
    Chunk,
    Completion,
    ConfigurationError,
    FallbackStrategy,
    LLMRouter,
    Plan,
    Provider,
    QueryRequest,
    Ranking,
    UnavailableError,
    Usage,
)
from asyncroute._hedging import Hedging
from asyncroute._judge import same_answer
from support import (
    InOrder,
    Scripted,
    Step,
    answers,
    fails,
    hangs,
    ignores_cancellation,
    model,
    models,
    now,
    roles,
    router_of,
    together,
)

PROMPTLY = pytest.mark.parametrize("promptly", [True, False], ids=("inline", "supervised"))
user: ContextVar[str] = ContextVar("user", default="nobody")


def free(provider: Provider, ids: str = "abc", **settings: Any) -> LLMRouter:
    """Models that cost nothing, so that no share of the spend bounds hedges."""
    return router_of(provider, models(ids, cost_per_1k_tokens=0), **settings)


def is_at_rest(router: LLMRouter) -> bool:
    return all((e.assigned, e.lane.in_flight) == (0, 0) for e in router._registry)


class Streaming:
    """Streams a word after a while."""

    cancels_promptly = True

    async def complete(self, call: Call, /) -> Completion:
        return Completion("hello", Usage(1, 1))

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        await asyncio.sleep(0.1)
        yield Chunk("hello")
        yield Chunk("", finish_reason="stop", usage=Usage(1, 1))


class Planning:
    """Ranks models as configured, and has a plan."""

    def __init__(self, **plan: Any) -> None:
        self.plan = Plan(**plan)

    async def select(self, request: Any, candidates: Any, /) -> Ranking:
        return Ranking.in_order(candidates, plan=self.plan)


# Hedges


@PROMPTLY
async def test_a_hedge_starts_only_if_the_first_is_slow(promptly: bool) -> None:
    provider = Scripted({"a": answers(after=1.0)}, promptly=promptly)
    async with free(provider) as router:
        result = await router.execute("hello", mode="hedged", hedge_after=2)
    assert roles(result) == [("a", "first", "won")]
    assert provider.calls == ["a"]


@PROMPTLY
async def test_a_hedge_that_answers_first_wins_and_the_first_is_cancelled(promptly: bool) -> None:
    provider = Scripted({"a": hangs(Usage(10, 0))}, promptly=promptly)
    async with router_of(provider, models("ab", cost_per_1k_tokens=1)) as router:
        result = await router.execute("hello", mode="hedged", hedge_after=2)
        assert provider.in_flight == 0
        assert is_at_rest(router)
        stats = router.get_statistics()
    assert roles(result) == [("a", "first", "superseded"), ("b", "hedge", "won")]
    assert result.attempts[1].started_after == pytest.approx(2, abs=0.03)
    assert result.actual_latency_ms == pytest.approx(2100, abs=30)
    assert result.actual_cost == pytest.approx(provider.total)
    assert stats["total_cost"] == pytest.approx(provider.total)
    assert stats["model_stats"]["a"]["superseded"] == 1
    assert stats["model_stats"]["a"]["success_rate"] == 1.0


@PROMPTLY
async def test_a_first_that_answers_after_all_wins_over_its_hedge(promptly: bool) -> None:
    provider = Scripted({"a": answers(after=3), "b": hangs()}, promptly=promptly)
    async with free(provider) as router:
        result = await router.execute("hello", mode="hedged", hedge_after=2)
        assert is_at_rest(router)
    assert roles(result) == [("a", "first", "won"), ("b", "hedge", "superseded")]
    assert now() == pytest.approx(3)


@PROMPTLY
async def test_no_hedge_starts_at_the_deadline(promptly: bool) -> None:
    provider = Scripted(default=hangs(), promptly=promptly)
    async with free(provider, attempt_timeout=10) as router:
        await router.execute("hello", mode="hedged", hedge_after=1, timeout=1)
    assert provider.calls == ["a"]


async def test_a_hedge_goes_to_another_provider_first() -> None:
    provider = Scripted({"a": hangs()})
    ids = [model("a", provider="p"), model("b", provider="p"), model("c", provider="q")]
    async with router_of(provider, ids) as router:
        await router.execute("hello", mode="hedged", hedge_after=1)
    assert provider.calls == ["a", "c"]


async def test_a_failure_before_the_delay_starts_the_next_at_once() -> None:
    provider = Scripted({"a": fails(after=0.5)})
    async with free(provider) as router:
        result = await router.execute("hello", mode="hedged", hedge_after=2)
    assert roles(result) == [("a", "first", "failed"), ("b", "fallback", "won")]
    assert result.actual_latency_ms == pytest.approx(600)


@PROMPTLY
async def test_a_failed_hedge_starts_the_next_model_at_once(promptly: bool) -> None:
    provider = Scripted({"a": hangs(), "b": fails()}, promptly=promptly)
    async with free(provider) as router:
        result = await router.execute("hello", mode="hedged", hedge_after=1)
    assert result.response == "c"
    assert result.actual_latency_ms == pytest.approx(1100, abs=50)


async def test_two_that_fail_in_one_turn_are_followed_by_two_at_once() -> None:
    async def fails_later(call: Call) -> Completion:
        await asyncio.sleep(2.5 - now())
        raise UnavailableError("down")

    script = {"a": fails(after=1.5), "b": fails_later, "c": fails_later, "e": hangs()}
    provider = Scripted(script)
    async with free(provider, "abcde", fallback=FallbackStrategy(max_models=5)) as router:
        async with asyncio.timeout(10):
            result = await router.execute("hello", mode="hedged", hedge_after=1)
    assert provider.calls == list("abcde")
    assert result.response == "d"
    assert now() == pytest.approx(2.6)


async def test_unobserved_a_hedge_waits_for_three_times_the_configured_latency() -> None:
    provider = Scripted({"a": hangs()})
    ids = [model("a", avg_latency_ms=500), model("b")]
    async with router_of(provider, ids) as router:
        result = await router.execute("hello", mode="hedged")
    assert result.attempts[1].started_after == pytest.approx(1.5, abs=0.03)


async def test_observed_a_hedge_waits_for_the_95th_percentile_or_twice_the_median() -> None:
    provider = Scripted({"a": answers(after=1)})
    async with free(provider) as router:
        for _ in range(30):
            await router.execute("hello")
        provider.script["a"] = hangs()
        result = await router.execute("hello", mode="hedged")
    assert result.attempts[1].started_after == pytest.approx(2, abs=0.03)


async def test_a_hedge_waits_for_a_percentile_that_follows_what_is_observed() -> None:
    provider = Scripted({"a": answers(after=1)})
    ids = [model("a", avg_latency_ms=5000, cost_per_1k_tokens=0), model("b", cost_per_1k_tokens=0)]
    async with router_of(provider, ids) as router:
        for _ in range(30):
            await router.execute("hello", mode="hedged")
        provider.script["a"] = answers(after=3)
        for _ in range(10):
            await router.execute("hello", mode="hedged", hedge_after=100)
        provider.script["a"] = hangs()
        result = await router.execute("hello", mode="hedged")
    assert result.attempts[1].started_after == pytest.approx(3, abs=0.03)


async def test_hedges_are_bounded_by_a_budget() -> None:
    provider = Scripted({"a": answers(after=5)})
    async with free(provider) as router:
        for _ in range(60):
            await router.execute("hello", mode="hedged", hedge_after=1, width=2)
    hedges = provider.count["b"] + provider.count["c"]
    assert 10 <= hedges <= 10 + 60 * 0.05 + 1


async def test_a_wider_hedge_starts_one_after_each_delay() -> None:
    provider = Scripted(default=hangs())
    async with free(provider, "abcd") as router:
        result = await router.execute("hello", mode="hedged", hedge_after=1, width=3, timeout=10)
        assert [attempt.started_after for attempt in result.attempts[:3]] == [
            0,
            pytest.approx(1, abs=0.05),
            pytest.approx(2, abs=0.05),
        ]


async def test_a_hedge_whose_provider_is_missing_harms_nobody_else() -> None:
    provider = Scripted(default=hangs())
    ids = [model("a"), model("b", provider="missing")]
    async with LLMRouter(ids, {"default": provider}, selectors={"balanced": InOrder()}) as router:
        hedged = asyncio.create_task(
            router.execute("hello", mode="hedged", hedge_after=1.0, timeout=3)
        )
        others = [
            asyncio.create_task(router.execute(f"{i}", models=["a"], timeout=1.0)) for i in range(5)
        ]
        done, _ = await asyncio.wait([hedged, *others], timeout=10)
        assert done == {hedged, *others}
        assert {each.result().error_kind for each in others} == {"deadline_exceeded"}
        assert now() < 3.5
        if hedged.exception() is not None:
            assert isinstance(hedged.exception(), ConfigurationError)


async def test_a_caller_who_leaves_takes_first_and_hedge_along() -> None:
    provider = Scripted(default=hangs(Usage(10, 1)))
    async with free(provider) as router:
        call = asyncio.create_task(router.execute("hello", mode="hedged", hedge_after=1))
        await asyncio.sleep(2)
        assert provider.in_flight == 2
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert provider.in_flight == 0
        assert is_at_rest(router)
        await asyncio.sleep(100)
    assert provider.calls == ["a", "b"]


async def test_no_hedge_starts_while_a_swallowed_cancellation_is_delivered_again() -> None:
    loop = asyncio.get_running_loop()

    async def swallows(call: Call) -> Completion:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            # Due in the turn in which the caller's scope cancels once more.
            for bucket in router._open().runtime.deadlines._buckets.values():
                for entry in bucket:
                    if isinstance(entry, Hedging):
                        due.append(entry)
                        loop.call_soon(entry.expire)
            raise UnavailableError("disturbed") from None
        raise AssertionError("it is cancelled")

    due: list[Hedging] = []
    told: list[str] = []

    class Listening:
        def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
            told.append(attempt.role)

    provider = Scripted({"a": swallows})
    async with free(provider, observers=[Listening()]) as router:
        with anyio.move_on_after(1):
            await router.execute("hello", mode="hedged", hedge_after=3)
        assert now() == 1
        assert len(due) == 1
        assert is_at_rest(router)
        await asyncio.sleep(100)
    assert told == ["first"]
    assert provider.calls == ["a"]


# Races


async def test_in_a_race_the_first_answer_wins_and_losers_are_gone_before_it_returns() -> None:
    provider = Scripted({"a": hangs(Usage(10, 2)), "b": answers(after=1), "c": hangs()})
    async with router_of(provider, models("abc", cost_per_1k_tokens=1)) as router:
        before = asyncio.all_tasks()
        result = await router.execute("hello", mode="race", width=3)
        assert asyncio.all_tasks() == before
        assert provider.in_flight == 0
        assert is_at_rest(router)
        cost = router.get_statistics()["total_cost"]
    assert roles(result) == [
        ("a", "race", "superseded"),
        ("b", "race", "won"),
        ("c", "race", "superseded"),
    ]
    assert [attempt.started_after for attempt in result.attempts] == [0, 0, 0]
    assert cost >= provider.total > 0


@pytest.mark.smoke
async def test_a_race_is_of_two_unless_told() -> None:
    provider = Scripted()
    async with free(provider) as router:
        await router.execute("hello", mode="race")
    assert provider.calls == ["a", "b"]


async def test_a_racer_that_fails_is_replaced_at_once() -> None:
    provider = Scripted({"a": fails(after=1), "b": hangs()})
    async with free(provider) as router:
        result = await router.execute("hello", mode="race")
    assert result.response == "c"
    assert result.actual_latency_ms == pytest.approx(1100)


async def test_a_race_that_all_lose_tells_the_first_error() -> None:
    provider = Scripted(default=fails("quota_exhausted", after=1))
    async with free(provider, "ab") as router:
        result = await router.execute("hello", mode="race")
    assert (result.success, result.error_kind) == (False, "all_attempts_failed")
    assert [attempt.outcome for attempt in result.attempts] == ["failed", "failed"]


async def test_a_caller_who_leaves_a_race_leaves_no_child() -> None:
    provider = Scripted(default=hangs(), promptly=False)
    async with free(provider) as router:
        call = asyncio.create_task(router.execute("hello", mode="race", width=3))
        await asyncio.sleep(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert provider.in_flight == 0
        assert is_at_rest(router)


async def test_a_caller_who_leaves_at_once_starts_no_call() -> None:
    provider = Scripted(default=hangs(), promptly=False)
    async with free(provider) as router:
        call = asyncio.create_task(router.execute("hello", mode="race", width=3))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert is_at_rest(router)
        await asyncio.sleep(1)
    assert provider.in_flight == 0


async def test_a_loser_that_ignores_cancellation_is_waited_for_no_longer_than_the_grace() -> None:
    provider = Scripted({"a": ignores_cancellation(100), "b": answers(after=1)}, promptly=False)
    async with router_of(provider, models("ab", cost_per_1k_tokens=1)) as router:
        result = await router.execute("hello", mode="race")
        assert now() == pytest.approx(1.05)
        assert result.actual_cost == pytest.approx(0.015)
        assert router._registry["a"].lane.in_flight == 1
        await asyncio.sleep(200)
        assert is_at_rest(router)
        assert router.get_statistics()["total_cost"] == pytest.approx(provider.total)
    assert provider.total == pytest.approx(0.03)


async def test_two_answers_in_one_turn_are_one_winner_and_both_are_paid() -> None:
    provider = Scripted(default=answers(after=1))
    async with router_of(provider, models("ab", cost_per_1k_tokens=1)) as router:
        result = await router.execute("hello", mode="race")
        assert router.get_statistics()["total_cost"] == pytest.approx(provider.total)
    assert sorted(outcome for _, _, outcome in roles(result)) == ["superseded", "won"]
    assert provider.total == pytest.approx(0.03)


# Cascades


def is_from(*names: str) -> Any:
    return lambda completion: completion.text in names


@pytest.mark.smoke
async def test_a_cascade_goes_up_until_an_answer_is_accepted() -> None:
    provider = Scripted()
    async with free(provider) as router:
        result = await router.execute(
            "hello", strategy="balanced", mode="cascade", accept=is_from("b")
        )
        stats = router.get_statistics()
    assert result.response == "b"
    assert roles(result) == [("a", "first", "not_accepted"), ("b", "fallback", "won")]
    assert stats["model_stats"]["a"]["success_rate"] == 1.0
    assert stats["model_stats"]["a"]["errors"] == {}
    assert provider.calls == ["a", "b"]


async def test_a_cascade_starts_with_the_cheapest_unless_told() -> None:
    prices = {"a": 3.0, "b": 1.0, "c": 2.0}
    ids = [model(name, cost_per_1k_tokens=price) for name, price in prices.items()]
    for query in ("text", [{"role": "user", "content": "chat"}]):
        provider = Scripted()
        async with LLMRouter(ids, {"*": provider}) as router:
            await router.execute(query, mode="cascade", accept=is_from("a"))
        assert provider.calls == ["b", "c", "a"]


@PROMPTLY
async def test_a_predicate_may_be_a_coroutine_function_and_holds_no_slot(promptly: bool) -> None:
    provider = Scripted(promptly=promptly)
    async with free(provider) as router:

        async def accept(completion: Completion) -> bool:
            await asyncio.sleep(5)
            assert is_at_rest(router)
            return completion.text == "b"

        result = await router.execute("hello", strategy="balanced", mode="cascade", accept=accept)
    assert result.response == "b"
    assert [attempt.duration for attempt in result.attempts] == [pytest.approx(0.1)] * 2
    assert result.actual_latency_ms == pytest.approx(10_200)


async def test_if_none_is_accepted_the_last_answer_is_returned_and_says_so() -> None:
    provider = Scripted({"c": fails("bad_request")})
    async with free(provider) as router:
        result = await router.execute(
            "hello", strategy="balanced", mode="cascade", accept=is_from("x")
        )
    assert (result.success, result.response, result.model_id) == (True, "b", "b")
    assert [outcome for _, _, outcome in roles(result)] == [
        "not_accepted",
        "not_accepted",
        "failed",
    ]


async def test_if_time_runs_out_while_judging_the_last_answer_is_returned() -> None:
    async def ponder(completion: Completion) -> bool:
        await asyncio.sleep(100)
        return True

    provider = Scripted()
    async with free(provider) as router:
        result = await router.execute("hello", mode="cascade", accept=ponder, timeout=3)
        assert now() == pytest.approx(3, abs=0.05)
    assert (result.success, len(provider.calls)) == (True, 1)
    assert [outcome for _, _, outcome in roles(result)] == ["not_accepted"]


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
async def test_a_predicate_that_raises_is_its_authors_mistake(error: type[Exception]) -> None:
    async def broken(completion: Completion) -> bool:
        raise error("in the predicate")

    provider = Scripted()
    async with free(provider) as router:
        with pytest.raises(error, match="in the predicate"):
            await router.execute("hello", mode="cascade", accept=broken)
        assert is_at_rest(router)
    assert len(provider.calls) == 1


async def test_a_cascade_of_width_one_asks_one_model() -> None:
    provider = Scripted()
    async with free(provider) as router:
        await router.execute("hello", mode="cascade", accept=is_from("x"), width=1)
    assert len(provider.calls) == 1


async def test_a_failure_in_a_cascade_goes_on_too() -> None:
    provider = Scripted({"a": fails()})
    async with free(provider) as router:
        result = await router.execute(
            "hello", strategy="balanced", mode="cascade", accept=is_from("b")
        )
    assert roles(result) == [("a", "first", "failed"), ("b", "fallback", "won")]


# What a selector plans


async def test_a_selector_may_plan_a_race() -> None:
    provider = Scripted({"a": hangs()})
    async with free(provider) as router:
        result = await router.execute("hello", strategy=Planning(stagger=0, width=2))
    assert roles(result) == [("a", "race", "superseded"), ("b", "race", "won")]


async def test_a_selector_may_plan_a_hedge() -> None:
    provider = Scripted({"a": hangs()})
    async with free(provider) as router:
        result = await router.execute("hello", strategy=Planning(stagger=1.5, width=2))
    assert roles(result) == [("a", "first", "superseded"), ("b", "hedge", "won")]
    assert result.attempts[1].started_after == pytest.approx(1.5, abs=0.03)


async def test_a_selector_may_plan_a_cascade() -> None:
    async with free(Scripted()) as router:
        result = await router.execute("hello", strategy=Planning(accept=is_from("b")))
    assert roles(result) == [("a", "first", "not_accepted"), ("b", "fallback", "won")]


async def test_a_selector_may_plan_a_vote() -> None:
    script: dict[str, Step] = {
        "a": answers("Paris.", after=1),
        "b": answers("London", after=2),
        "c": answers(" paris", after=3),
    }
    async with free(Scripted(script)) as router:
        result = await router.execute("hello", strategy=Planning(stagger=0, width=3, quorum=2))
    assert result.success
    assert result.response in ("Paris.", " paris")
    assert sorted(each.outcome for each in result.attempts) == ["superseded", "superseded", "won"]


async def test_a_vote_asks_one_more_where_its_quorum_cannot_be_had() -> None:
    script = {"a": answers("yes"), "b": answers("no"), "c": answers("yes")}
    provider = Scripted(script)
    async with free(provider) as router:
        result = await router.execute("hello", strategy=Planning(stagger=0, width=2, quorum=2))
    assert result.response == "yes"
    assert provider.calls == ["a", "b", "c"]


async def test_a_vote_asks_one_more_as_soon_as_its_quorum_cannot_be_had() -> None:
    script = {"a": answers("x", after=1), "b": answers("y", after=2), "c": answers("x", after=9)}
    provider = Scripted(script, default=answers("x"))
    async with free(provider, "abcd", fallback=FallbackStrategy(max_models=4)) as router:
        result = await router.execute("hello", strategy=Planning(stagger=0, width=4, quorum=3))
    assert result.response == "x"
    assert provider.called_at == [0, 0, 0, 2]


async def test_a_weight_of_the_quorum_makes_an_answer_final() -> None:
    script = {"a": answers("x"), "b": answers("y"), "c": answers("z")}
    provider, plan = Scripted(script), Planning(stagger=0, width=2, quorum=2, weights={"c": 2})
    async with free(provider, "abcd", fallback=FallbackStrategy(max_models=4)) as router:
        result = await router.execute("hello", strategy=plan)
    assert (result.success, result.response) == (True, "z")
    assert provider.calls == ["a", "b", "c"]


async def test_a_heavy_vote_that_is_not_needed_is_not_asked_for() -> None:
    script = {"a": answers("x", after=1), "b": answers("x", after=2), "c": answers("z")}
    provider, plan = Scripted(script), Planning(stagger=0, width=2, quorum=2, weights={"c": 2})
    async with free(provider) as router:
        result = await router.execute("hello", strategy=plan)
    assert (result.success, result.response) == (True, "x")
    assert provider.calls == ["a", "b"]


async def test_where_no_quorum_is_reached_the_heaviest_camp_answers() -> None:
    script = {"a": answers("x"), "b": answers("x"), "c": answers("y")}
    plan = Planning(stagger=0, width=3, quorum=3, weights={"c": 2.5})
    async with free(Scripted(script)) as router:
        result = await router.execute("hello", strategy=plan)
    assert (result.success, result.response) == (True, "y")


async def test_a_vote_without_a_quorum_returns_an_answer_of_the_largest_camp() -> None:
    script = {"a": answers("x"), "b": answers("y"), "c": answers("y")}
    async with free(Scripted(script)) as router:
        result = await router.execute("hello", strategy=Planning(stagger=0, width=3, quorum=3))
    assert (result.success, result.response) == (True, "y")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris", " paris. ", True),
        ("Paris", "London", False),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ("42", "42.0", True),
        ("42", "43", False),
        ("a  b\nc", "A B C!", True),
        ('{"a": 1}', "not json", False),
    ],
)
def test_which_answers_say_the_same(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same


async def test_what_the_caller_asks_for_goes_above_the_plan() -> None:
    provider = Scripted()
    async with free(provider) as router:
        await router.execute("hello", strategy=Planning(stagger=0, width=3), mode="sequential")
    assert provider.calls == ["a"]


# Contexts


async def test_the_callers_context_is_seen_in_every_mode() -> None:
    seen: list[str] = []

    async def step(call: Call) -> Completion:
        seen.append(user.get())
        await asyncio.sleep(1 if call.model.model_id == "b" else 10)
        return Completion("hi")

    async with free(Scripted(default=step, promptly=False), cache=True) as router:
        user.set("opened elsewhere")

        async def ask(name: str, **manner: Any) -> None:
            user.set(name)
            await router.execute(name, **manner)

        await asyncio.create_task(ask("plain", models=["b"]))
        await asyncio.create_task(ask("hedged", mode="hedged", hedge_after=1))
        await asyncio.create_task(ask("raced", mode="race", width=2))
    assert seen == ["plain", "hedged", "hedged", "raced", "raced"]


async def test_a_shared_run_sees_the_context_of_its_first_caller() -> None:
    seen: list[str] = []

    async def step(call: Call) -> Completion:
        seen.append(user.get())
        await asyncio.sleep(1)
        return Completion("hi")

    async def ask(name: str) -> None:
        user.set(name)
        await router.execute("the same")

    async with free(Scripted(default=step), cache=True) as router:
        await asyncio.gather(ask("first"), ask("second"))
    assert seen == ["first"]


# Many


@PROMPTLY
async def test_a_storm_of_every_mode_settles_everything(promptly: bool) -> None:
    script = {"a": fails("protocol", after=0.2), "b": answers(after=0.7), "c": hangs(Usage(5, 5))}
    provider = Scripted(script, promptly=promptly)
    manners: list[dict[str, Any]] = [
        {},
        {"mode": "hedged", "hedge_after": 0.1},
        {"mode": "race", "width": 3},
        {"mode": "cascade", "accept": is_from("b")},
        {"models": ["c"], "timeout": 0.4},
    ]
    fallback = FallbackStrategy(max_retries=1)
    async with router_of(provider, "abcd", fallback=fallback) as router:

        async def ask(i: int) -> Any:
            manner: dict[str, Any] = {"timeout": 5, **manners[i % 5]}
            return await router.execute(f"{i}", **manner)

        results = await together(200, ask)
        assert is_at_rest(router)
        stats = router.get_statistics()
    assert provider.in_flight == 0
    assert stats["total_requests"] == len(results) == 200
    calls = sum(each["total_requests"] for each in stats["model_stats"].values())
    assert calls == len(provider.calls)
    confirmed = stats["total_cost"] - stats["estimated_cost"]
    assert confirmed == pytest.approx(provider.total)


async def test_a_hedge_that_is_never_to_come_costs_nothing_and_keeps_nothing() -> None:
    async with free(Scripted({"a": fails(), "b": fails(), "c": fails()})) as router:
        for hedge_after in (1e308, float("inf")):
            result = await router.execute("hello", mode="hedged", hedge_after=hedge_after)
            assert [attempt.role for attempt in result.attempts][:2] == ["first", "fallback"]
        assert is_at_rest(router)


async def test_a_hedged_request_of_one_model_has_no_hedge() -> None:
    provider = Scripted({"a": answers(after=1.0)})
    async with free(provider) as router:
        result = await router.execute("hello", mode="hedged", width=1, hedge_after=0.1)
    assert roles(result) == [("a", "first", "won")]
    assert provider.calls == ["a"]


async def test_a_hedged_stream_leaves_nothing_for_the_cyclic_collector() -> None:
    async with free(Streaming()) as router:

        async def read() -> None:
            async with router.stream("hello", mode="hedged", hedge_after=0.01) as stream:
                assert [chunk.text async for chunk in stream] == ["hello", ""]

        await read()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await read()
            await asyncio.sleep(0)
            assert gc.collect() == 0
        finally:
            gc.enable()


async def test_a_race_within_a_scope_that_is_over_starts_one_at_most() -> None:
    provider = Scripted(default=hangs())
    async with router_of(provider, "abcde") as router:
        with CancelScope() as scope:
            scope.cancel()
            await router.execute("q", mode="race", width=5)
    assert len(provider.calls) <= 1


async def test_a_hedged_stream_knows_of_first_tokens_of_streams_that_still_flow() -> None:
    class Long(Scripted):
        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            await asyncio.sleep(5 if call.request.query == "slow" else 0.1)
            yield Chunk("a")
            await asyncio.sleep(25)
            yield Chunk("", finish_reason="stop", usage=Usage(1, 1))

    settings = {"avg_latency_ms": 3000, "cost_per_1k_tokens": 0, "max_concurrent_requests": 100}
    async with router_of(Long(), models("ab", **settings)) as router:

        async def ask(query: str) -> list[tuple[str, str, str]]:
            async with router.stream(query, mode="hedged", timeout=60) as stream:
                async for _ in stream:
                    pass
            return roles(stream.result())

        flowing = [asyncio.create_task(ask("quick"))]
        await asyncio.sleep(0.05)
        flowing += [asyncio.create_task(ask("quick")) for _ in range(40)]
        await asyncio.sleep(1)
        assert ("b", "hedge", "superseded") in await ask("slow")
        await asyncio.gather(*flowing)
