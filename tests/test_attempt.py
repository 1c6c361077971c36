"""One attempt: what it takes, what it gives back and books on every way out, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import pytest

from asyncroute import (
    Attempt,
    Call,
    Completion,
    ExecutionResult,
    FallbackStrategy,
    LLMRouter,
    MoneyBudget,
    QueryRequest,
    Usage,
)
from support import (
    Scripted,
    answers,
    fails,
    hangs,
    ignores_cancellation,
    model,
    models,
    now,
    raises,
    roles,
    router_of,
)

PROMPTLY = pytest.mark.parametrize("promptly", [True, False], ids=("inline", "supervised"))
ONCE = FallbackStrategy(max_retries=0)


def stats_of(router: LLMRouter, model_id: str = "a") -> dict[str, Any]:
    return router.get_statistics()["model_stats"][model_id]


def is_at_rest(router: LLMRouter) -> bool:
    """Whether nothing is held: no slot, no count of assigned, nobody queued."""
    return all((e.assigned, e.lane.in_flight, e.lane.queued) == (0, 0, 0) for e in router._registry)


# Where it runs


@PROMPTLY
async def test_only_a_prompt_provider_runs_in_the_callers_task(promptly: bool) -> None:
    tasks: list[Any] = []

    async def step(call: Call) -> Completion:
        tasks.append(asyncio.current_task())
        return Completion("hi", Usage(1, 1))

    async with router_of(Scripted(default=step, promptly=promptly)) as router:
        await router.execute("hello")
    assert (tasks == [asyncio.current_task()]) is promptly


async def test_an_inline_answer_makes_no_task() -> None:
    async with router_of(Scripted()) as router:
        before = asyncio.all_tasks()
        call = router.execute("hello")
        started = asyncio.get_running_loop().create_task(call)
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() - before == {started}
        await started


# The call


async def test_a_call_carries_what_a_provider_needs() -> None:
    calls: list[Call] = []

    async def step(call: Call) -> Completion:
        calls.append(call)
        return Completion("hi")

    config = model(params={"temperature": 0, "top_p": 1}, max_output_tokens=50)
    async with router_of(Scripted(default=step), [config]) as router:
        await router.execute("hello", timeout=8, max_tokens=70, params={"temperature": 1})
    (call,) = calls
    assert call.messages == ({"role": "user", "content": "hello"},)
    assert call.params == {"temperature": 1, "top_p": 1}
    assert (call.max_tokens, call.deadline, repr(call)) == (50, 8.0, "<Call of a>")


# Limits


async def test_a_silent_model_leaves_time_for_the_next() -> None:
    provider = Scripted({"a": hangs()})
    async with router_of(provider, "ab") as router:
        result = await router.execute("hello", timeout=10)
    assert result.response == "b"
    assert roles(result) == [("a", "first", "timed_out"), ("b", "fallback", "won")]
    assert result.attempts[0].duration == pytest.approx(5, abs=0.05)


async def test_a_slow_but_healthy_call_is_not_cut_at_half() -> None:
    provider = Scripted({"a": answers(after=7.9)})
    ids = [model("a", avg_latency_ms=4000), model("b", avg_latency_ms=2000)]
    async with router_of(provider, ids) as router:
        result = await router.execute("hello", timeout=10)
    assert result.response == "a"


async def test_the_next_candidate_keeps_its_expected_latency() -> None:
    ids = [model("a", avg_latency_ms=9000), model("b", avg_latency_ms=2000)]
    async with router_of(Scripted({"a": hangs()}), ids) as router:
        result = await router.execute("hello", timeout=10)
    assert result.response == "b"
    assert result.attempts[0].duration == pytest.approx(8, abs=0.05)


async def test_where_the_next_does_not_fit_the_time_is_halved() -> None:
    ids = [model("a", avg_latency_ms=9000), model("b", avg_latency_ms=20_000)]
    async with router_of(Scripted({"a": hangs()}), ids) as router:
        result = await router.execute("hello", timeout=10)
    assert result.attempts[0].duration == pytest.approx(5, abs=0.05)


async def test_the_last_attempt_has_all_the_time_that_is_left() -> None:
    async with router_of(Scripted({"a": answers(after=9.9)}), "a") as router:
        assert (await router.execute("hello", timeout=10)).success


async def test_an_attempt_timeout_of_the_routers_overrides() -> None:
    async with router_of(Scripted({"a": hangs()}), "ab", attempt_timeout=1.5) as router:
        result = await router.execute("hello", timeout=inf)
    assert result.attempts[0].duration == pytest.approx(1.5, abs=0.05)
    assert result.attempts[0].error == "no answer within 1.5 s"


async def test_a_deadline_fires_late_by_a_tick_at_most_and_never_early() -> None:
    async with router_of(Scripted(default=hangs()), "a", fallback=ONCE) as router:
        for timeout in (0.3, 1.234, 7.0):
            start = now()
            await router.execute("hello", timeout=timeout)
            assert timeout <= now() - start <= timeout + 0.025


@pytest.mark.parametrize("after", [1.0, 51 * 0.02], ids=("deadline", "its timer"))
async def test_an_answer_in_the_same_turn_as_the_deadline_counts(after: float) -> None:
    async with router_of(Scripted(default=answers(after=after)), "a") as router:
        assert (await router.execute("hello", timeout=1.0)).success


@PROMPTLY
async def test_an_attempt_that_ignores_cancellation_keeps_its_slot_and_nothing_else(
    promptly: bool,
) -> None:
    provider = Scripted({"a": ignores_cancellation(100)}, promptly=False)
    async with router_of(provider, "ab", attempt_timeout=1.0) as router:
        result = await router.execute("hello")
        assert result.response == "b"
        assert now() == pytest.approx(1 + 0.05 + 0.1, abs=0.05)
        assert router._registry["a"].lane.in_flight == 1
        await asyncio.sleep(150)
        assert is_at_rest(router)
        assert router.get_statistics()["total_cost"] == pytest.approx(provider.total)


async def test_an_answer_that_came_in_spite_of_the_time_out_is_an_answer() -> None:
    async def step(call: Call) -> Completion:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return Completion("just in time", Usage(10, 5))
        raise AssertionError

    provider = Scripted(default=step)
    async with router_of(provider, "a") as router:
        result = await router.execute("hello", timeout=2)
        stats = stats_of(router)
    assert (result.success, result.response) == (True, "just in time")
    assert (result.attempts[0].outcome, result.attempts[0].error) == ("won", None)
    assert (stats["successes"], stats["failures"]) == (1, 0)


# Ways out: nothing stays held, everything is booked once

WAYS_OUT = {
    "answers": answers(),
    "fails": fails(),
    "raises": raises(ValueError("bug")),
    "times out": hangs(Usage(10, 0)),
    "cancels itself": raises(asyncio.CancelledError()),
}


@PROMPTLY
@pytest.mark.parametrize("way", WAYS_OUT)
async def test_every_way_out_gives_everything_back_and_books_once(way: str, promptly: bool) -> None:
    provider = Scripted(default=WAYS_OUT[way], promptly=promptly)
    limits = {"requests_per_minute": 60, "tokens_per_minute": 100_000}
    async with router_of(provider, [model("a", **limits)], fallback=ONCE) as router:
        result = await router.execute("hello", timeout=3)
        assert is_at_rest(router)
        stats = stats_of(router)
    assert result.success is (way == "answers")
    assert stats["total_requests"] == len(result.attempts) == len(provider.calls) == 1
    assert stats["total_cost"] == pytest.approx(provider.total)


@PROMPTLY
@pytest.mark.parametrize("after", [0.0, 0.05, 0.1, 0.5])
async def test_a_caller_who_leaves_leaves_nothing(after: float, promptly: bool) -> None:
    provider = Scripted({"a": fails(after=0.1), "b": hangs(Usage(10, 5))}, promptly=promptly)
    async with router_of(provider) as router:
        call = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(after)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert is_at_rest(router)
        called = len(provider.calls)
        await asyncio.sleep(10)
        stats = router.get_statistics()
    confirmed = stats["total_cost"] - stats["estimated_cost"]
    assert confirmed == pytest.approx(provider.total)
    assert len(provider.calls) == called
    assert provider.in_flight == 0


@PROMPTLY
async def test_a_cancellation_that_the_provider_swallows_is_delivered_again(promptly: bool) -> None:
    async def step(call: Call) -> Completion:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None
        raise AssertionError

    provider = Scripted(default=step, promptly=promptly)
    async with router_of(provider) as router:
        call = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert is_at_rest(router)
    assert provider.calls == ["a"]


async def test_a_caller_who_leaves_the_queue_leaves_no_slot_behind() -> None:
    provider = Scripted(default=answers(after=5))
    async with router_of(provider, [model("a", max_concurrent_requests=1)]) as router:
        first = asyncio.create_task(router.execute("1"))
        await asyncio.sleep(1)
        second = asyncio.create_task(router.execute("2"))
        await asyncio.sleep(1)
        second.cancel()
        assert (await first).success
        assert is_at_rest(router)
        assert (await router.execute("3")).attempts[0].queued == 0


async def test_an_own_timeout_around_execute_works() -> None:
    async with router_of(Scripted(default=hangs())) as router:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await router.execute("hello")
        assert is_at_rest(router)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


# Health


async def test_a_callers_own_short_time_says_nothing_of_the_model() -> None:
    provider = Scripted({"a": hangs()})
    async with router_of(provider, "ab") as router:
        for _ in range(20):
            result = await router.execute("hello", models=["a"], timeout=0.1)
            assert not result.success
        assert (
            stats_of(router)["health"].startswith("ok") or "healthy" in stats_of(router)["health"]
        )
        assert (await router.route("hello")).selected_model.model_id == "a"


async def test_a_callers_deadline_says_nothing_of_the_model_however_long_it_was() -> None:
    provider = Scripted({"a": hangs()})
    async with router_of(provider, "a") as router:
        result = await router.execute("hello", timeout=30.0)  # far more than it ever takes
        assert result.error_kind == "deadline_exceeded"
        endpoint = router._registry["a"]
        assert endpoint.expected_latency * 3 < 30.0
        assert endpoint.health.snapshot(now()).failures == 0


@pytest.mark.parametrize("kind", ["bad_request", "content_refused", "context_too_long"])
async def test_a_bad_request_says_nothing_of_the_model(kind: str) -> None:
    provider = Scripted({"a": fails(kind)})
    async with router_of(provider, "ab") as router:
        for _ in range(20):
            await router.execute("hello")
        assert router._registry["a"].health.snapshot(now()).failures == 0
        assert (await router.route("hello")).selected_model.model_id == "a"


async def test_failures_in_a_row_set_a_model_aside_and_one_probe_brings_it_back() -> None:
    provider = Scripted({"a": fails()})
    async with router_of(provider, "ab") as router:
        for _ in range(8):
            assert (await router.execute("hello")).response == "b"
        assert provider.count["a"] == 5
        provider.script["a"] = answers(after=2)
        await asyncio.sleep(6)
        provider.calls.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(router.execute("hello"))
    assert provider.count["a"] == 1


async def test_a_rate_limited_model_is_left_at_once() -> None:
    provider = Scripted({"a": fails("rate_limited", retry_after=2.0)})
    async with router_of(provider, "ab") as router:
        assert (await router.execute("hello")).response == "b"
        await router.execute("hello")
    assert provider.calls == ["a", "b", "b"]


async def test_the_only_model_is_not_set_aside_by_failures() -> None:
    provider = Scripted(default=fails())
    async with router_of(provider, "a", fallback=ONCE) as router:
        for _ in range(30):
            await router.execute("hello")
    assert len(provider.calls) == 30


async def test_when_all_are_blocked_a_call_waits_if_its_deadline_allows() -> None:
    provider = Scripted({"a": fails("rate_limited", retry_after=0.3)})
    async with router_of(provider, "a", fallback=ONCE) as router:
        await router.execute("hello")
        provider.script.clear()
        hasty = await router.execute("hello", timeout=0.1)
        assert (hasty.error_kind, now()) == ("no_eligible_model", 0.0)
        assert getattr(hasty.exception, "retry_after", None) == pytest.approx(0.3)
        patient = await router.execute("hello", timeout=2)
    assert patient.success
    assert provider.called_at[1] == pytest.approx(0.3, abs=0.01)


# Costs


async def test_a_cost_nobody_told_is_estimated_and_says_so() -> None:
    provider = Scripted(default=answers("x" * 400, usage=None))
    async with router_of(provider, [model("a", cost_per_1k_tokens=1)]) as router:
        result = await router.execute("x" * 40)
        stats = router.get_statistics()
    (attempt,) = result.attempts
    assert attempt.usage == Usage(14, 100, estimated=True)
    assert attempt.cost_is_estimated
    assert result.actual_cost == pytest.approx(0.114)
    assert stats["estimated_cost"] == stats["total_cost"] == pytest.approx(0.114)


async def test_a_cost_told_is_no_estimate() -> None:
    async with router_of(Scripted(), "a") as router:
        (attempt,) = (await router.execute("hello")).attempts
        assert router.get_statistics()["estimated_cost"] == 0
    assert not attempt.cost_is_estimated


async def test_a_providers_own_price_counts_above_the_configured_one() -> None:
    async def step(call: Call) -> Completion:
        call.cost = 0.5
        return Completion("hi")

    async with router_of(Scripted(default=step), "a") as router:
        result = await router.execute("hello")
    assert (result.actual_cost, result.attempts[0].cost_is_estimated) == (0.5, False)


@pytest.mark.parametrize(
    ("step", "cost"),
    [
        (hangs(), 0.006),  # the input alone: nobody saw an answer
        (hangs(Usage(100, 20)), 0.12),
        (fails("protocol"), 0.006),
        (fails("unavailable"), 0.0),
        (fails("rate_limited"), 0.0),
    ],
)
async def test_what_an_unanswered_call_costs(step: Any, cost: float) -> None:
    provider = Scripted(default=step)
    async with router_of(provider, models("a", cost_per_1k_tokens=1), fallback=ONCE) as router:
        result = await router.execute("hello", timeout=2)
        stats = stats_of(router)
    assert [result.actual_cost, stats["total_cost"]] == pytest.approx([cost, cost])
    assert result.attempts[0].cost_is_estimated is (cost == 0.006)


async def test_what_is_shed_costs_nothing_and_is_no_call() -> None:
    ids = [model("a", max_concurrent_requests=0), model("b")]
    async with router_of(Scripted(), ids, queue_size=1) as router:
        result = await router.execute("hello", timeout=0.9)
        stats = stats_of(router)
    assert roles(result) == [("a", "first", "shed"), ("b", "fallback", "won")]
    assert (result.attempts[0].cost, result.attempts[0].usage) == (0.0, None)
    assert (stats["total_requests"], stats["total_cost"]) == (0, 0)


async def test_unused_tokens_are_given_back_and_a_refused_call_takes_none() -> None:
    provider = Scripted(default=answers(after=1, usage=Usage(6, 24)))
    async with router_of(provider, [model("a", tokens_per_minute=300)]) as router:
        results = await asyncio.gather(
            *(router.execute("hello", max_tokens=94, timeout=100) for _ in range(5))
        )
        assert provider.most == 3
        assert all(result.success for result in results)
        assert now() < 5


async def test_money_reserved_and_not_spent_may_be_spent_by_others() -> None:
    provider = Scripted()  # 15 tokens an answer, of which 262 are expected
    ids = models("a", cost_per_1k_tokens=1)
    async with router_of(provider, ids, budgets=[MoneyBudget(0.3)]) as router:
        results = [await router.execute("hello") for _ in range(5)]
    assert [result.error_kind for result in results] == [None] * 3 + ["budget_exceeded"] * 2
    assert len(provider.calls) == 3


async def test_a_call_queued_at_a_model_that_is_set_aside_goes_elsewhere_and_takes_nothing() -> (
    None
):
    provider = Scripted({"a": fails("rate_limited", after=1, retry_after=5.0)})
    ids = [model("a", max_concurrent_requests=1, requests_per_minute=2), model("b")]
    async with router_of(provider, ids) as router:
        first, second = await asyncio.gather(router.execute("1"), router.execute("2"))
        assert (first.response, second.response) == ("b", "b")
        assert roles(second) == [("a", "first", "shed"), ("b", "fallback", "won")]
        await asyncio.sleep(6)
        provider.script.clear()
        third = await router.execute("3")
    assert (third.response, third.attempts[0].queued) == ("a", 0)


# Who is told


class Watching:
    """Observes everything."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.seen: list[str] = []
        self.breaks = breaks

    def _see(self, what: str) -> None:
        self.seen.append(what)
        if self.breaks:
            raise RuntimeError("an observer's bug")

    def on_start(self, call: Call, /) -> Any:
        self._see(f"start {call.model.model_id}")
        return self._held()

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            yield
            self._see("end")
        except BaseException as error:
            self._see(f"end {type(error).__name__}")

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
        self._see(f"attempt {attempt.model_id} {attempt.outcome}")

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        self._see(f"result {result.success}")


async def test_observers_are_told_of_starts_attempts_and_results() -> None:
    watching = Watching()
    async with router_of(Scripted({"a": fails()}), observers=[watching]) as router:
        await router.execute("hello")
    assert watching.seen == [
        "start a",
        "end UnavailableError",
        "start b",
        "end",
        "attempt a failed",
        "attempt b won",
        "result True",
    ]


async def test_observers_are_told_of_cached_refused_and_shed_results_too() -> None:
    watching = Watching()
    async with router_of(Scripted(), "a", observers=[watching], cache=True) as router:
        await router.execute("hello")
        watching.seen.clear()
        await router.execute("hello")
        await router.execute("hello", models=["x"])
    assert watching.seen == ["result True", "result False"]


async def test_observers_are_told_of_attempts_whose_caller_has_gone() -> None:
    watching = Watching()
    async with router_of(Scripted(default=hangs()), observers=[watching]) as router:
        call = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert watching.seen == ["start a", "end CancelledError", "attempt a cancelled"]


@PROMPTLY
async def test_an_observer_that_raises_is_counted_and_logged_and_never_felt(
    promptly: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Watching(breaks=True), Watching()
    provider = Scripted(promptly=promptly)
    async with router_of(provider, observers=[broken, sound]) as router:
        result = await router.execute("hello")
        assert is_at_rest(router)
        assert router._observers.failures == len(broken.seen) == len(caplog.records)
    assert result.success
    assert sound.seen == ["start a", "end", "attempt a won", "result True"]


async def test_an_observer_cannot_swallow_an_error() -> None:
    class Swallowing:
        def on_start(self, call: Call, /) -> Any:
            return self

        def __enter__(self) -> None:
            return

        def __exit__(self, *_: object) -> bool:
            return True

    async with router_of(Scripted({"a": fails()}), observers=[Swallowing()]) as router:
        result = await router.execute("hello")
    assert roles(result) == [("a", "first", "failed"), ("b", "fallback", "won")]


async def test_an_observer_implements_what_it_needs() -> None:
    class Counting:
        count = 0

        def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
            self.count += 1

    counting = Counting()
    async with router_of(Scripted(), observers=[counting]) as router:
        await router.execute("hello")
        await router.execute_all("hello", width=2)
    assert counting.count == 3
