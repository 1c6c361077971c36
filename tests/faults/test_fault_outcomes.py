"""Faults of providers, one by one: what the caller gets, and what must not have happened."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from asyncroute import (
    AllAttemptsFailedError,
    Call,
    Completion,
    FallbackStrategy,
    HealthSettings,
    LLMRouter,
    NoEligibleModelError,
    Usage,
)
from faults.rig import (
    GRACE,
    LOSER_GRACE,
    TICK,
    Ledger,
    assert_at_rest,
    assert_settled,
    block_loop,
    no_loop_errors,
    raises_on_cancellation,
    says_healthy,
    slots,
    stubborn,
    works,
)
from support import fails, in_turn, model, now, raises

BOTH = pytest.mark.parametrize("inline", [True, False], ids=["inline", "supervised"])


def router_over(ledger: Ledger, names: str = "abc", **options: Any) -> LLMRouter:
    """A router that tries the models of these names in their order."""
    models = [
        model(name, quality_score=0.9 - 0.1 * n, provider="p", avg_latency_ms=100.0)
        for n, name in enumerate(names)
    ]
    return LLMRouter(models, {"p": ledger}, seed=1, **options)


async def ask(router: LLMRouter, **options: Any) -> Any:
    return await router.execute("hello", strategy="quality_optimized", **options)


def health_of(router: LLMRouter, name: str) -> str:
    return router._registry[name].health.status(now())


# 1, 2, 3: failures


@BOTH
async def test_after_a_server_error_the_next_model_answers(inline: bool) -> None:
    ledger = Ledger({"a": fails("unavailable", status=500)}, inline)
    async with router_over(ledger) as router:
        result = await ask(router)
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert (result.response, ledger.calls) == ("b", ["a", "b"])


@BOTH
async def test_where_all_fail_one_plain_error_lists_them_in_order(inline: bool) -> None:
    ledger = Ledger(default=fails("unavailable"), cancels_promptly=inline)
    async with router_over(ledger, fallback=FallbackStrategy(max_retries=0)) as router:
        result = await ask(router)
        assert_at_rest(router)
    assert [attempt.model_id for attempt in result.attempts] == ["a", "b", "c"]
    with pytest.raises(AllAttemptsFailedError) as caught:
        result.unwrap()
    assert caught.value.__cause__ is not None
    assert "a failed" in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", ["bad_request", "context_too_long", "content_refused"])
async def test_a_fault_of_the_request_says_nothing_of_the_model(kind: str) -> None:
    ledger = Ledger(default=fails(kind))
    async with router_over(ledger) as router:
        before = router._executor.runtime.retries.level  # type: ignore[union-attr]
        for _ in range(20):
            await ask(router)
        assert ledger.calls == ["a"] * 20
        assert says_healthy(router, "a")
        assert router._executor.runtime.retries.level >= before  # type: ignore[union-attr]


# 7, 8, 9: queue and deadline


async def test_a_full_queue_moves_on_to_the_next_model_at_once() -> None:
    ledger = Ledger(default=works(10.0))
    async with router_over(ledger, "ab", queue_size=0) as router:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(ask(router)) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ledger.count == {"a": 10, "b": 10}
        await asyncio.wait(tasks)
        assert_at_rest(router)


@BOTH
async def test_one_deadline_holds_over_queue_and_all_attempts(inline: bool) -> None:
    ledger = Ledger(default=works(3600), cancels_promptly=inline)
    async with router_over(ledger) as router:
        started = now()
        result = await ask(router, timeout=6.0)
        assert 6.0 <= now() - started <= 6.0 + GRACE
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert result.error_kind == "deadline_exceeded"
    assert len(ledger.calls) == 3  # a silent model left time for the others


@BOTH
async def test_an_answer_in_the_turn_of_its_deadline_is_settled_once_and_kept(inline: bool) -> None:
    seconds = 50 * TICK  # the deadline is noticed exactly when the answer comes
    ledger = Ledger({"a": works(seconds, parts=1)}, inline)
    async with router_over(ledger, "a") as router:
        result = await ask(router, timeout=seconds - TICK / 2)
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert result.success
    assert [attempt.outcome for attempt in result.attempts] == ["won"]


# 10 to 17: hedges


@BOTH
async def test_a_hedge_that_wins_ends_and_settles_the_loser(inline: bool) -> None:
    ledger = Ledger({"a": works(100.0)}, inline)
    async with router_over(ledger) as router:
        result = await ask(router, mode="hedged", hedge_after=1.0)
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert result.response == "b"
    assert [attempt.outcome for attempt in result.attempts] == ["superseded", "won"]


@BOTH
async def test_an_answer_in_the_turn_of_the_hedge_is_kept_without_a_hedge(inline: bool) -> None:
    ledger = Ledger({"a": works(50 * TICK, parts=1)}, inline)
    async with router_over(ledger) as router:
        result = await ask(router, mode="hedged", hedge_after=50 * TICK - TICK / 2)
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert (result.response, ledger.calls) == ("a", ["a"])


@pytest.mark.parametrize("turns", range(8))
@BOTH
async def test_a_hedge_given_up_before_its_first_step_is_settled(inline: bool, turns: int) -> None:
    async def answers_beside_the_hedge(call: Call) -> Completion:
        await asyncio.sleep(1.0 + TICK - now())  # the hedge's delay of 1 s, on the timers' grid
        for _ in range(turns):
            await asyncio.sleep(0)
        return Completion("a", Usage(10, 5))

    ledger = Ledger({"a": answers_beside_the_hedge}, inline)
    async with router_over(ledger, "ab") as router:
        result = await ask(router, mode="hedged", hedge_after=1.0)
        await asyncio.sleep(1.0)
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert result.response == "a"


async def test_without_hedges_left_in_the_budget_none_is_fired() -> None:
    ledger = Ledger({"a": works(2.0)})
    async with router_over(ledger) as router:
        for _ in range(200):
            await ask(router, mode="hedged", hedge_after=1.0)
        assert_settled(router, ledger)
    assert ledger.count["b"] <= 10 + 200 * 0.05
    assert ledger.count["a"] == 200


@BOTH
async def test_a_loser_that_raises_while_cancelled_costs_nobody_the_answer(inline: bool) -> None:
    ledger = Ledger({"a": raises_on_cancellation(ValueError("cleaning up"))}, inline)
    async with router_over(ledger) as router:
        with no_loop_errors():
            result = await ask(router, mode="hedged", hedge_after=1.0)
        assert result.response == "b"
        assert says_healthy(router, "a")
        assert_at_rest(router)


async def test_a_loser_that_ignores_cancellation_delays_nobody_and_keeps_its_slot() -> None:
    ledger = Ledger({"a": stubborn(5.0)}, cancels_promptly=False)
    async with router_over(ledger) as router:
        started = now()
        result = await ask(router, mode="hedged", hedge_after=1.0)
        assert (result.response, slots(router)) == ("b", {"a": 1})
        assert now() - started <= 1.1 + TICK + LOSER_GRACE
        early = router.get_statistics()["model_stats"]["a"]["total_cost"]
        await asyncio.sleep(5.0)
        assert_at_rest(router)
        assert_settled(router, ledger)  # the late cost is booked
        assert early == 0


async def test_of_two_answers_in_one_turn_one_wins_and_both_are_paid_for() -> None:
    ledger = Ledger()
    async with router_over(ledger) as router:
        result = await ask(router, mode="race")
        assert_at_rest(router)
        assert_settled(router, ledger)
    assert sorted(attempt.outcome for attempt in result.attempts) == ["superseded", "won"]
    assert result.actual_cost == pytest.approx(sum(ledger.billed.values()))


@BOTH
async def test_while_a_hedge_runs_the_failure_of_the_first_waits_for_it(inline: bool) -> None:
    ledger = Ledger({"a": fails("unavailable", after=2.0), "b": works(3.0)}, inline)
    async with router_over(ledger, "ab") as router:
        result = await ask(router, mode="hedged", hedge_after=1.0)
        assert_at_rest(router)
    assert (result.response, ledger.calls) == ("b", ["a", "b"])


@BOTH
async def test_a_hedge_that_fails_for_good_is_not_the_end_of_the_first(inline: bool) -> None:
    ledger = Ledger({"a": works(3.0), "b": fails("bad_request")}, inline)
    async with router_over(ledger, "ab") as router:
        result = await ask(router, mode="hedged", hedge_after=1.0)
        assert_at_rest(router)
    assert (result.response, ledger.calls) == ("a", ["a", "b"])


# 20: what is no Exception


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_the_program_goes_through_and_frees_the_slot(error: BaseException) -> None:
    ledger = Ledger({"a": raises(error)})
    router = router_over(ledger, "a")

    async def main() -> None:
        async with router:
            await ask(router)

    with pytest.raises(type(error)):
        asyncio.run(main())
    assert slots(router) == {}


# 21, 22: Retry-After


async def test_after_a_retry_after_nothing_is_sent_until_then() -> None:
    ledger = Ledger({"a": in_turn(fails("rate_limited", retry_after=20.0), works())})
    async with router_over(ledger, "ab") as router:
        await ask(router)
        while now() < 19.9:
            await ask(router)
        assert ledger.count["a"] == 1
        await asyncio.sleep(20.1 - now())
        assert (await ask(router)).response == "a"


@pytest.mark.parametrize("retry_after", [-5.0, 0.0, float("nan"), None])
async def test_a_retry_after_that_is_none_blocks_nothing_for_ever(
    retry_after: float | None,
) -> None:
    ledger = Ledger({"a": in_turn(fails("rate_limited", retry_after=retry_after), works())})
    async with router_over(ledger, "ab") as router:
        assert (await ask(router)).response == "b"
        await asyncio.sleep(6.0)
        assert (await ask(router)).response == "a"


async def test_an_absurd_retry_after_is_capped() -> None:
    ledger = Ledger({"a": in_turn(fails("rate_limited", retry_after=1e9), works())})
    async with router_over(ledger, "ab") as router:
        await ask(router)
        await asyncio.sleep(61.0)
        assert (await ask(router)).response == "a"


async def test_all_blocked_by_retry_after_are_waited_for_where_the_deadline_allows() -> None:
    ledger = Ledger(default=in_turn(fails("rate_limited", retry_after=0.3), works()))
    async with router_over(ledger, "a", fallback=FallbackStrategy(max_retries=0)) as router:
        await ask(router)
        hopeless = await ask(router, timeout=0.1)
        assert hopeless.error_kind == "no_eligible_model"
        assert isinstance(hopeless.exception, NoEligibleModelError)
        assert hopeless.exception.retry_after == pytest.approx(0.3, abs=0.01)
        assert (await ask(router, timeout=2.0)).success
        assert now() == pytest.approx(0.4, abs=0.05)


async def test_a_quota_group_shares_its_retry_after() -> None:
    ledger = Ledger({"a": fails("rate_limited", retry_after=1.0)})
    models = [model(name, provider="p", quota_group="account") for name in "ab"]
    async with LLMRouter(models, {"p": ledger}, seed=1) as router:
        await router.execute("x", models=["a"], timeout=0.5)
        result = await router.execute("x", models=["b"], timeout=0.5)
        assert (result.error_kind, ledger.count["b"]) == ("no_eligible_model", 0)
        await asyncio.sleep(1.0)
        assert (await router.execute("x", models=["b"])).success


# 23 to 28: ejection and recovery

QUICK = HealthSettings(consecutive_failures=2, base_ejection=5.0)


async def eject(router: LLMRouter, times: int = 2) -> None:
    for _ in range(times):
        await ask(router)


async def test_of_many_callers_exactly_one_probes() -> None:
    ledger = Ledger({"a": in_turn(fails(), fails(), works(1.0))})
    async with router_over(ledger, "ab", health=QUICK) as router:
        await eject(router)
        assert health_of(router, "a") == "ejected"
        await asyncio.sleep(5.0)
        await asyncio.gather(*[ask(router) for _ in range(50)])
        assert ledger.count["a"] == 3
        assert_at_rest(router)


async def test_a_cancelled_probe_gives_its_place_to_the_next() -> None:
    ledger = Ledger({"a": in_turn(fails(), fails(), works(100.0), works())})
    async with router_over(ledger, "ab", health=QUICK) as router:
        await eject(router)
        await asyncio.sleep(5.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await ask(router)
        assert (await ask(router)).response == "a"
        assert_at_rest(router)


async def test_a_failure_from_before_the_ejection_says_nothing_after_the_recovery() -> None:
    slow = fails(after=20.0)
    ledger = Ledger({"a": in_turn(slow, fails(), fails(), works())})
    async with router_over(ledger, "ab", health=QUICK) as router:
        loop = asyncio.get_running_loop()
        old = loop.create_task(ask(router))
        await asyncio.sleep(0)
        await eject(router)
        await asyncio.sleep(6.0)
        await ask(router)
        assert health_of(router, "a") == "healthy"
        await old
        assert router._registry["a"].health.snapshot(now()).failures == 0


async def test_the_last_model_is_never_ejected_hard() -> None:
    ledger = Ledger(default=fails())
    async with router_over(ledger, "ab", health=QUICK) as router:
        for _ in range(20):
            await ask(router, timeout=5.0)
        ejected = [name for name in "ab" if health_of(router, name) != "healthy"]
        assert len(ejected) == 1


async def test_where_all_are_ejected_the_best_is_tried_but_not_while_one_can_be_probed() -> None:
    broken = in_turn(fails(), fails(), fails(after=3.0), fails())
    ledger = Ledger({"a": broken, "b": in_turn(works(), works(), fails(), fails(), works(0.5))})
    once = FallbackStrategy(max_retries=0)
    async with router_over(ledger, "ab", health=QUICK, fallback=once) as router:
        await eject(router)
        await asyncio.sleep(5.0)
        probe = asyncio.get_running_loop().create_task(ask(router))
        await asyncio.sleep(0.1)
        for _ in range(2):
            await ask(router, timeout=1.0)
        await probe
        assert [health_of(router, name) for name in "ab"] == ["ejected", "ejected"]
        sent = len(ledger.calls)
        await ask(router, timeout=1.0)
        assert ledger.calls[sent:] == ["a"]  # in panic
        b = router._registry["b"].health
        await asyncio.sleep(b.available_at(now()) - now())
        assert health_of(router, "a") == "ejected"
        sent = len(ledger.calls)
        results = await asyncio.gather(*[ask(router, timeout=0.4) for _ in range(5)])
        assert ledger.calls[sent:] == ["b"]  # the probe, and nobody beside it
        assert not any(result.success for result in results)
        assert_at_rest(router)


async def test_under_a_total_failure_extra_calls_stay_within_the_budget() -> None:
    ledger = Ledger(default=fails())
    async with router_over(ledger, "a") as router:
        for _ in range(100):
            await ask(router, timeout=inf)
    assert len(ledger.calls) <= 100 + 10 + 100 * 0.1


async def test_a_recovered_model_comes_back_slowly() -> None:
    ledger = Ledger({"a": in_turn(fails(), fails(), works(0.01))}, default=works(0.01))
    async with router_over(ledger, "ab", health=QUICK) as router:
        await eject(router)
        await asyncio.sleep(5.1)
        assert (await ask(router)).response == "a"  # the probe
        early = [(await ask(router)).response for _ in range(100)]
        assert early.count("a") < 40
        await asyncio.sleep(30.0)
        late = [(await ask(router)).response for _ in range(20)]
        assert late.count("a") == 20


async def test_a_healthy_backup_loses_nobody_to_a_primary_that_fails_often() -> None:
    outcomes = [fails() if n % 10 < 3 else works() for n in range(400)]
    ledger = Ledger({"a": in_turn(*outcomes)})
    async with router_over(ledger, "ab") as router:
        results = [await ask(router) for _ in range(300)]
    assert all(result.success for result in results)


# 33 to 35, 37, 38: limits


async def test_usage_above_what_was_reserved_is_a_debt_of_the_next_minute() -> None:
    config = model("a", provider="p", tokens_per_minute=1000)
    ledger = Ledger(default=works(usage=Usage(1000, 1500)))
    async with LLMRouter([config], {"p": ledger}) as router:
        await router.execute("x", max_tokens=100, timeout=inf)
        ledger.default = works(usage=Usage(10, 10))
        started = now()
        await router.execute("x", max_tokens=100, timeout=inf)
        assert now() - started >= 59.0
        assert_at_rest(router)


async def test_what_was_never_sent_leaves_the_limits_as_they_were() -> None:
    config = model("a", provider="p", tokens_per_minute=300, max_concurrent_requests=1)
    ledger = Ledger(default=works(1.0, usage=Usage(10, 10)))
    async with LLMRouter([config], {"p": ledger}) as router:
        loop = asyncio.get_running_loop()
        first = loop.create_task(router.execute("x", max_tokens=50))
        await asyncio.sleep(0.1)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await router.execute("x", max_tokens=50)
        await first
        assert (await router.execute("x", max_tokens=50, timeout=5.0)).success
        assert_at_rest(router)


async def test_a_big_request_is_served_in_its_turn_behind_small_ones() -> None:
    config = model("a", provider="p", tokens_per_minute=1000, max_concurrent_requests=5)
    ledger = Ledger(default=works(0.1, usage=Usage(10, 40)))
    order: list[str] = []

    async def send(router: LLMRouter, name: str, size: int) -> None:
        result = await router.execute(name, max_tokens=size, timeout=inf)
        assert result.success
        order.append(name)

    async with LLMRouter([config], {"p": ledger}) as router:
        async with asyncio.TaskGroup() as group:
            for n in range(5):
                group.create_task(send(router, f"before {n}", 190))
            await asyncio.sleep(0)
            group.create_task(send(router, "big", 250))
            await asyncio.sleep(0)
            for n in range(30):
                group.create_task(send(router, f"after {n}", 60))
        assert order.index("big") == 5
        assert_at_rest(router)


async def test_no_minute_has_more_requests_than_the_limit() -> None:
    config = model("a", provider="p", requests_per_minute=10)
    ledger = Ledger(default=works(0.1))
    async with LLMRouter([config], {"p": ledger}) as router:
        await asyncio.gather(*[router.execute(str(n), timeout=inf) for n in range(35)])
        sent = sorted(ledger.sent_at)
        assert all(later - first >= 60.0 for first, later in zip(sent, sent[10:], strict=False))
        assert_at_rest(router)


async def test_slots_shrunk_below_their_use_and_grown_again_lose_nobody() -> None:
    ledger = Ledger(default=works(1.0))
    async with router_over(ledger, "a") as router:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(ask(router)) for _ in range(30)]
        await asyncio.sleep(0.5)
        router.update_model("a", max_concurrent_requests=0)
        await asyncio.sleep(3.0)
        assert slots(router) == {}
        router.update_model("a", max_concurrent_requests=15)
        done, _ = await asyncio.wait(tasks)
        assert all(task.result().success for task in done)
        assert_at_rest(router)


async def test_who_is_queued_past_the_deadline_takes_no_slot() -> None:
    ledger = Ledger(default=works(10.0))
    async with router_over(ledger, "a") as router:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(ask(router)) for _ in range(10)]
        await asyncio.sleep(1.0)
        late = await ask(router, timeout=3.0)
        assert (late.success, len(ledger.calls)) == (False, 10)
        assert late.error_kind in {"overloaded", "deadline_exceeded"}
        await asyncio.wait(tasks)
        assert_at_rest(router)


# 40: a loop that was blocked


async def test_a_blocked_loop_fires_no_herd_of_hedges_and_ejects_nobody() -> None:
    ledger = Ledger(default=works(0.1, parts=1))
    async with router_over(ledger, "ab") as router:
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(ask(router, mode="hedged", hedge_after=0.2, timeout=0.25))
            for _ in range(10)
        ]
        await asyncio.sleep(0.05)
        block_loop(0.3)
        done, _ = await asyncio.wait(tasks)
        assert all(task.result().success for task in done)
        assert ledger.count["b"] == 0
        assert says_healthy(router, "a")
        assert_at_rest(router)


async def test_a_provider_s_own_error_while_the_caller_goes_sends_nothing_more() -> None:
    async def dies(call: Call) -> Completion:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ConnectionError("aborted") from None
        raise AssertionError

    ledger = Ledger({"a": dies})
    async with router_over(ledger) as router:
        task = asyncio.get_running_loop().create_task(ask(router))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ledger.calls == ["a"]
        assert says_healthy(router, "a")
        assert_at_rest(router)
