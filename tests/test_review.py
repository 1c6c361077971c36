"""What a second look at the core found: each a behaviour that was once otherwise."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from asyncroute import (
    Call,
    Candidate,
    Chunk,
    Completion,
    ExecutionResult,
    FallbackStrategy,
    HealthSettings,
    LLMRouter,
    ModelConfig,
    QueryRequest,
    Ranking,
    RouterStateError,
    StreamInterruptedError,
    Usage,
)
from support import (
    InOrder,
    Scripted,
    answers,
    fails,
    hangs,
    in_turn,
    model,
    models,
    now,
    roles,
    router_of,
)


def of(router: LLMRouter, model_id: str = "a") -> dict[str, Any]:
    """What the statistics say of one model."""
    return router.get_statistics()["model_stats"][model_id]


def assert_at_rest(router: LLMRouter) -> None:
    for model_id, figures in router.get_statistics()["model_stats"].items():
        assert (model_id, figures["active_requests"], figures["queued_requests"]) == (
            model_id,
            0,
            0,
        )


class Scenes:
    """Streams by one async generator function for each model."""

    def __init__(self, *, promptly: bool, **scenes: Any) -> None:
        self.cancels_promptly = promptly
        self.scenes = scenes
        self.calls: list[str] = []
        self.open = 0

    async def complete(self, call: Call, /) -> Completion:
        raise AssertionError("asked to stream")

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        self.calls.append(call.model.model_id)
        self.open += 1
        scene = self.scenes[call.model.model_id](call)
        try:
            async for chunk in scene:
                yield chunk
        finally:
            await scene.aclose()
            self.open -= 1


async def swallowing(seconds: float) -> None:
    """Wait, whoever gives up meanwhile."""
    until = now() + seconds
    while now() < until:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(until - now())


def chunks(count: int = 3, *, first: float = 0.1, gap: float = 0.1, **last: Any) -> Any:
    async def scene(_: Call) -> AsyncGenerator[Chunk]:
        await asyncio.sleep(first)
        for i in range(count):
            yield Chunk(f"{i} ")
            await asyncio.sleep(gap)
        yield Chunk(finish_reason="stop", **{"usage": Usage(10, 3), **last})

    return scene


# Outcomes and figures


async def test_a_failure_among_all_answers_is_not_told_as_won() -> None:
    provider = Scripted({"b": fails()})
    async with router_of(provider) as router:
        results = await router.execute_all("hello")
    assert [roles(each) for each in results] == [
        [("a", "race", "won")],
        [("b", "race", "failed")],
        [("c", "race", "won")],
    ]


@pytest.mark.parametrize("promptly", [True, False])
async def test_the_pace_of_a_stream_is_recorded_once(
    promptly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncroute._metrics import ModelMetrics

    paces: list[float] = []
    monkeypatch.setattr(ModelMetrics, "record_output_rate", lambda _, pace: paces.append(pace))
    async with router_of(Scenes(promptly=promptly, a=chunks())) as router:
        async with router.stream("hello") as stream:
            async for _ in stream:
                pass
    assert paces == [pytest.approx(0.15)]


@pytest.mark.parametrize("promptly", [True, False])
async def test_the_time_a_consumer_takes_is_not_the_models_latency(promptly: bool) -> None:
    async with router_of(Scenes(promptly=promptly, a=chunks(30))) as router:
        async with router.stream("hello", total_timeout=1e6) as stream:
            async for _ in stream:
                await asyncio.sleep(100)
        assert of(router)["avg_latency_ms"] < 4000


@pytest.mark.parametrize("promptly", [True, False])
async def test_reasoning_that_came_is_billed_where_nobody_said_what_was_used(
    promptly: bool,
) -> None:
    async def thinks(_: Call) -> AsyncGenerator[Chunk]:
        yield Chunk(reasoning="x" * 4000)
        await asyncio.sleep(1000)
        yield Chunk("never")

    async with router_of(Scenes(promptly=promptly, a=thinks)) as router:
        async with router.stream("hello") as stream:
            await anext(stream)
        usage = stream.result().usage
    assert usage is not None
    assert usage.estimated
    assert usage.output_tokens == 1000


@pytest.mark.parametrize("promptly", [True, False])
@pytest.mark.parametrize(
    "completion",
    [
        Completion("x", {"prompt_tokens": 3}),  # type: ignore[arg-type]
        Completion("x", Usage(None, None)),  # type: ignore[arg-type]
        Completion(None),  # type: ignore[arg-type]
    ],
    ids=["a-dict", "without-figures", "no-text"],
)
async def test_an_answer_that_cannot_be_billed_gives_everything_back(
    completion: Completion, promptly: bool
) -> None:
    async def odd(_: Call) -> Completion:
        return completion

    provider = Scripted({"a": odd}, promptly=promptly)
    with suppress(Exception):
        async with router_of(provider, "ab", drain_timeout=0.1) as router:
            async with asyncio.timeout(5):
                result = await router.execute("hello")
            assert result.success
            assert_at_rest(router)
            return
    pytest.fail("the caller got no answer")


# Streams that were given up


async def test_a_stream_that_swallows_its_limit_and_speaks_after_all_is_closed() -> None:
    async def late(_: Call) -> AsyncGenerator[Chunk]:
        await swallowing(3.0)
        for i in range(100):
            yield Chunk(f"{i} ")

    provider = Scenes(promptly=False, a=late, b=chunks())
    async with router_of(provider, "ab", attempt_timeout=1.0) as router:
        async with router.stream("hello") as stream:
            text = "".join([chunk.text async for chunk in stream])
        assert text == "0 1 2 "
        await asyncio.sleep(10)
        assert provider.open == 0
        assert_at_rest(router)


@pytest.mark.parametrize("promptly", [True, False])
async def test_a_stream_that_swallows_its_limit_does_not_commit(promptly: bool) -> None:
    async def late(_: Call) -> AsyncGenerator[Chunk]:
        await swallowing(1.03)
        yield Chunk("late")
        await asyncio.sleep(1e6)

    provider = Scenes(promptly=promptly, a=late, b=chunks())
    async with router_of(provider, "ab", attempt_timeout=1.0) as router:
        async with router.stream("hello") as stream:
            text = "".join([chunk.text async for chunk in stream])
        assert text == "0 1 2 "
        assert roles(stream.result()) == [("a", "first", "timed_out"), ("b", "fallback", "won")]
        assert provider.open == 0
        assert_at_rest(router)


@pytest.mark.parametrize("promptly", [True, False])
async def test_a_stream_that_swallows_a_limit_between_chunks_ends_at_its_next(
    promptly: bool,
) -> None:
    async def stubborn(_: Call) -> AsyncGenerator[Chunk]:
        for i in range(100):
            yield Chunk(f"{i} ")
            await swallowing(3.0)
        yield Chunk(finish_reason="stop")

    provider = Scenes(promptly=promptly, a=stubborn)
    async with router_of(provider, "a") as router:
        with pytest.raises(StreamInterruptedError, match="no chunk within 1 s"):
            async with router.stream("hello", gap_timeout=1.0) as stream:
                async for _ in stream:
                    pass
        assert now() < 4
        await asyncio.sleep(4)
        assert provider.open == 0
        assert_at_rest(router)


async def test_a_consumer_who_leaves_a_stream_that_swallows_it_frees_its_slot_in_the_end() -> None:
    async def stubborn(_: Call) -> AsyncGenerator[Chunk]:
        for i in range(100):
            yield Chunk(f"{i} ")
            await swallowing(1.0)

    provider = Scenes(promptly=False, a=stubborn)
    async with router_of(provider, "a") as router:
        async with router.stream("hello") as stream:
            await anext(stream)
        await asyncio.sleep(300)
        assert provider.open == 0
        assert_at_rest(router)


@pytest.mark.parametrize("promptly", [True, False])
async def test_a_stream_that_ends_in_spite_of_a_limit_is_no_success_with_an_error(
    promptly: bool,
) -> None:
    async def late(_: Call) -> AsyncGenerator[Chunk]:
        yield Chunk("all", finish_reason="stop")
        await swallowing(1.5)

    async with router_of(Scenes(promptly=promptly, a=late), "a") as router:
        stream = router.stream("hello", gap_timeout=1.0)
        with suppress(StreamInterruptedError):
            async with stream:
                async for _ in stream:
                    pass
        result = stream.result()
    assert result.success == (result.error is None) == (result.exception is None)


@pytest.mark.parametrize("promptly", [True, False])
async def test_a_consumer_too_slow_for_its_stream_says_nothing_of_the_model(promptly: bool) -> None:
    health = HealthSettings(consecutive_failures=1)
    provider = Scenes(promptly=promptly, a=chunks(100, gap=0.0), b=chunks())
    async with router_of(provider, "ab", health=health) as router:
        with pytest.raises(StreamInterruptedError):
            async with router.stream("hello", total_timeout=10.0) as stream:
                await asyncio.sleep(100)
                async for _ in stream:
                    pass
        assert of(router)["health"] == "healthy"
        assert of(router)["errors"] == {}


@pytest.mark.parametrize("promptly", [True, False])
@pytest.mark.parametrize("timeout", [60.0, 1.0])
async def test_a_model_that_falls_silent_within_a_stream_has_failed(
    promptly: bool, timeout: float
) -> None:
    provider = Scenes(promptly=promptly, a=chunks(gap=1e6), b=chunks())
    async with router_of(provider, "ab") as router:
        for _ in range(5):
            with pytest.raises(StreamInterruptedError):
                async with router.stream("hello", timeout=timeout) as stream:
                    async for _ in stream:
                        pass
        assert "5 failures" in of(router)["health"]


@pytest.mark.parametrize("promptly", [True, False])
async def test_a_gap_shorter_than_the_model_usually_takes_says_nothing_of_it(
    promptly: bool,
) -> None:
    health = HealthSettings(consecutive_failures=1)
    provider = Scenes(promptly=promptly, a=chunks(gap=1e6), b=chunks())
    async with router_of(provider, "ab", health=health) as router:
        with pytest.raises(StreamInterruptedError):
            async with router.stream("hello", gap_timeout=0.5) as stream:
                async for _ in stream:
                    pass
        assert of(router)["health"] == "healthy"


# Cancelled at every await


async def test_a_caller_who_leaves_while_losers_go_leaves_no_stream_open() -> None:
    async def clings(_: Call) -> AsyncGenerator[Chunk]:
        await swallowing(10.04)
        yield Chunk("never")

    provider = Scenes(promptly=False, a=clings, b=chunks(first=1.0, gap=1000.0))
    async with router_of(provider, "ab") as router:
        stream = router.stream("hello", mode="hedged", hedge_after=9.0)
        entering = asyncio.create_task(stream.__aenter__())
        await asyncio.sleep(10.025)  # the hedge has committed, the first is waited for
        assert not entering.done()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await asyncio.sleep(1)
        assert provider.open == 0
        assert_at_rest(router)


async def test_a_caller_who_leaves_while_a_second_winner_is_closed_leaves_no_third_running() -> (
    None
):
    async def slow_to_go(_: Call) -> AsyncGenerator[Chunk]:
        await asyncio.sleep(1.0)
        try:
            yield Chunk("x")
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.03)

    provider = Scenes(promptly=False, a=slow_to_go, b=slow_to_go, c=chunks(first=100.0))
    async with router_of(provider) as router:
        entering = asyncio.create_task(router.stream("hello", mode="race", width=3).__aenter__())
        await asyncio.sleep(1.01)
        assert not entering.done()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await asyncio.sleep(1)
        assert provider.open == 0
        assert_at_rest(router)


@pytest.mark.parametrize("promptly", [True, False])
async def test_a_limit_that_falls_into_a_providers_own_time_out_still_holds(promptly: bool) -> None:
    async def patient(call: Call) -> Completion:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.9):
                try:
                    await asyncio.sleep(1e6)
                finally:
                    await asyncio.sleep(0.2)
        await asyncio.sleep(1e6)
        raise AssertionError

    async with router_of(Scripted({"a": patient}, promptly=promptly), "a") as router:
        result = await router.execute("hello", timeout=1.0)
        assert result.error_kind == "deadline_exceeded"
        assert now() < 1.3
        assert_at_rest(router)


async def test_a_loser_within_its_own_time_out_is_cancelled_all_the_same() -> None:
    async def patient(call: Call) -> Completion:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.9):
                try:
                    await asyncio.sleep(1e6)
                finally:
                    await asyncio.sleep(0.2)
        await asyncio.sleep(1e6)
        raise AssertionError

    provider = Scripted({"a": patient, "b": answers(after=1.0)}, promptly=False)
    async with router_of(provider, "ab") as router:
        assert (await router.execute("hello", mode="race")).model_id == "b"
        await asyncio.sleep(1)
        assert provider.in_flight == 0
        assert_at_rest(router)


async def test_nothing_starts_for_a_caller_who_leaves_as_a_hedge_fails() -> None:
    async def slow_to_go(_: Call) -> Completion:
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(0.5)
        raise AssertionError

    provider = Scripted({"a": slow_to_go, "b": fails(after=0.7)})
    async with router_of(provider) as router:
        asking = asyncio.create_task(router.execute("hello", mode="hedged", hedge_after=1.0))
        await asyncio.sleep(1.5)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert provider.calls == ["a", "b"]


@pytest.mark.parametrize("turns", [1, 2])
async def test_a_caller_who_leaves_while_a_router_opens_leaves_no_task(turns: int) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    entering = asyncio.create_task(router_of(Scripted()).__aenter__())
    for _ in range(turns):
        await asyncio.sleep(0)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    del entering
    await asyncio.sleep(0.1)
    gc.collect()
    assert told == []


async def test_providers_are_left_where_a_scope_is_cancelled_while_another_opens() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def good() -> AsyncGenerator[Scripted]:
        try:
            yield Scripted()
        finally:
            left.append("good")

    @asynccontextmanager
    async def stuck() -> AsyncGenerator[Scripted]:
        await asyncio.sleep(1e6)
        yield Scripted()

    with anyio.move_on_after(1):
        async with LLMRouter(models("a"), {"good": good, "stuck": stuck}):
            raise AssertionError
    assert left == ["good"]


async def test_a_router_left_in_a_cancelled_scope_leaves_no_task_and_leaves_its_providers() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def good() -> AsyncGenerator[Scripted]:
        try:
            yield Scripted(default=hangs(), promptly=False)
        finally:
            left.append("good")

    asking = None
    with anyio.move_on_after(1):
        async with LLMRouter(models("a"), {"*": good}) as router:
            asking = asyncio.create_task(router.execute("hello"))
            await asyncio.sleep(1e6)
    assert asking is not None
    with pytest.raises(RouterStateError):
        await asking
    assert left == ["good"]


async def test_who_leaves_a_router_and_is_cancelled_again_meanwhile_leaves_no_task() -> None:
    router = router_of(Scenes(promptly=True, a=chunks()), drain_timeout=1.0)
    await router.__aenter__()
    stream = router.stream("hello")
    await stream.__aenter__()
    leaving = asyncio.create_task(router.__aexit__(None, None, None))
    await asyncio.sleep(0.5)
    leaving.cancel()
    await asyncio.sleep(0.5)  # it waits for the stream's consumer
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await stream.__aexit__(None, None, None)


# Pauses


PAUSES = FallbackStrategy(retries={"rate_limited": 0})


async def test_a_hedge_that_answers_during_a_pause_is_not_kept_waiting() -> None:
    script = {
        "a": fails("unavailable", retry_after=10.0),
        "b": in_turn(fails("rate_limited", retry_after=3.0), answers()),
    }
    async with router_of(Scripted(script), "ab", fallback=PAUSES) as router:
        await router.execute("hello", models=("b",))
        result = await router.execute("hello", mode="hedged", hedge_after=5.0)
    assert roles(result) == [("a", "first", "failed"), ("b", "hedge", "won")]
    assert result.actual_latency_ms == pytest.approx(5100, abs=30)


async def test_a_hedge_that_fails_during_a_pause_does_not_shorten_it() -> None:
    script = {
        "a": in_turn(fails("unavailable", retry_after=10.0), answers()),
        "b": in_turn(fails("rate_limited", retry_after=3.0), fails("context_too_long")),
    }
    provider = Scripted(script)
    async with router_of(provider, "ab", fallback=PAUSES) as router:
        await router.execute("hello", models=("b",))
        result = await router.execute("hello", mode="hedged", hedge_after=5.0)
    assert provider.calls == ["b", "a", "b", "a"]
    assert provider.called_at[-1] == 10.0
    assert roles(result)[-1] == ("a", "retry", "won")


async def test_a_request_that_pauses_ends_when_its_router_closes() -> None:
    provider = Scripted(default=fails("rate_limited", retry_after=50.0))
    async with router_of(provider, "a", drain_timeout=1.0) as router:
        asking = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(1)
    assert now() < 3
    with pytest.raises(RouterStateError):
        await asking
    assert now() < 3


async def test_all_models_are_asked_after_a_pause_too() -> None:
    provider = Scripted(default=in_turn(*[fails("rate_limited", retry_after=5.0)] * 3, answers()))
    fallback = FallbackStrategy(max_retries=0)
    async with router_of(provider, fallback=fallback) as router:
        first = await router.execute_all("hello")
        assert [each.success for each in first] == [False] * 3
        second = await router.execute_all("hello")
        assert [each.success for each in second] == [True] * 3


# Models that change


async def test_a_model_switched_off_meanwhile_is_no_fallback() -> None:
    provider = Scripted({"a": fails(after=1.0)})
    async with router_of(provider) as router:
        asking = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(0.5)
        router.update_model_availability("b", False)
        assert (await asking).model_id == "c"
    assert provider.calls == ["a", "c"]


async def test_a_model_switched_off_meanwhile_is_not_asked_again() -> None:
    provider = Scripted({"a": fails(after=1.0)})
    async with router_of(provider, "a") as router:
        asking = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(0.5)
        router.update_model_availability("a", False)
        assert not (await asking).success
    assert provider.calls == ["a"]


async def test_a_removed_model_that_fails_troubles_nobody() -> None:
    provider = Scripted({"a": fails("rate_limited", after=1.0, retry_after=30.0)})
    async with router_of(provider) as router:
        asking = asyncio.create_task(router.execute("hello"))
        await asyncio.sleep(0.5)
        router.remove_model("a")
        await asking
        assert not router._registry.journal.troubled


async def test_what_a_selector_left_out_is_no_fallback_while_all_are_set_aside() -> None:
    class OnlyFirst:
        async def select(
            self, request: QueryRequest, candidates: Sequence[Candidate], /
        ) -> Ranking:
            return Ranking.in_order(candidates[:1])

    provider = Scripted(default=in_turn(*[fails("rate_limited", retry_after=5.0)] * 2, fails()))
    fallback = FallbackStrategy(max_retries=0)
    async with router_of(provider, "ab", fallback=fallback) as router:
        await router.execute("hello")
        assert provider.calls == ["a", "b"]
        await router.execute("hello", strategy=OnlyFirst())
    assert provider.calls == ["a", "b", "a"]


async def test_the_last_of_a_chain_has_all_the_time_that_is_left() -> None:
    provider = Scripted({"a": fails(), "b": answers(after=15.0)})
    fallback = FallbackStrategy(chains={"a": ["b"]})
    async with router_of(provider, fallback=fallback) as router:
        result = await router.execute("hello", timeout=20)
    assert roles(result) == [("a", "first", "failed"), ("b", "fallback", "won")]


async def test_a_retry_after_that_nobody_knows_is_none() -> None:
    health = HealthSettings(consecutive_failures=1, base_ejection=1.0)
    provider = Scripted({"a": in_turn(fails(after=2.0), answers(after=5.0))})
    two_a_minute = [model("a", requests_per_minute=2), model("b")]
    async with router_of(provider, two_a_minute, health=health, timeout=200) as router:
        asking = [asyncio.create_task(router.execute("hello")) for _ in range(2)]
        await asyncio.sleep(1)
        asking.append(asyncio.create_task(router.execute("hello", models=("a",))))
        await asyncio.sleep(10)  # ejected at 2, and the next is a probe, behind in the queue
        asking.append(asyncio.create_task(router.execute("hello", models=("a",))))
        waited = (await asyncio.gather(*asking))[2]
    assert waited.error_kind == "overloaded"
    assert getattr(waited.exception, "retry_after", 0) is None


# Functions


async def test_a_function_that_failed_is_billed_what_it_says_it_cost() -> None:
    async def fn(model: ModelConfig, request: QueryRequest) -> ExecutionResult:
        return ExecutionResult(False, model.model_id, 1.0, 0.25, 0, None, "no")

    fallback = FallbackStrategy(max_retries=0)
    async with router_of(None, "a", fallback=fallback) as router:
        result = await router.execute_with_fallback(QueryRequest(query="hello"), fn)
        assert result.actual_cost == 0.25
        assert router.get_statistics()["total_cost"] == pytest.approx(0.25)


@pytest.mark.real_time
async def test_a_thread_that_ends_after_it_was_let_go_disturbs_nobody() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    running, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def fn(model: ModelConfig, request: QueryRequest) -> str:
        loop.call_soon_threadsafe(running.set)
        go.wait()
        return "late"

    async with router_of(None, "a", loser_grace=0.0, drain_timeout=0.0) as router:
        request = QueryRequest(query="hello")
        asking = asyncio.create_task(router.execute_with_fallback(request, fn))
        await running.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    go.set()
    for _ in range(3):
        await anyio.to_thread.run_sync(lambda: None)
    assert told == []


@pytest.mark.real_time
async def test_threads_grow_with_the_models_slots() -> None:
    together = threading.Barrier(2, timeout=5)

    def fn(model: ModelConfig, request: QueryRequest) -> str:
        together.wait()
        return "met"

    async with router_of(None, [model("a", max_concurrent_requests=1)]) as router:
        router.update_model("a", max_concurrent_requests=2)
        request = QueryRequest(query="hello")
        results = await asyncio.gather(
            *[router.execute_with_fallback(request, fn) for _ in range(2)]
        )
    assert [each.response for each in results] == ["met", "met"]


# Seams


@dataclass
class Unhashable(InOrder):
    """A dataclass compares by value, so it has no hash."""


async def test_a_selector_without_a_hash_chooses_for_streams_too() -> None:
    async with router_of(Scenes(promptly=True, a=chunks())) as router:
        async with router.stream("hello", strategy=Unhashable()) as stream:
            assert stream.model_id == "a"


class Told:
    def __init__(self) -> None:
        self.held = 0
        self.attempts: list[str] = []

    def on_start(self, call: Call, /) -> AbstractContextManager[object]:
        self.held += 1
        return self._holding()

    @contextmanager
    def _holding(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            self.held -= 1

    def on_attempt(self, request: QueryRequest, attempt: Any, /) -> None:
        self.attempts.append(attempt.outcome)


async def test_what_observers_hold_ends_where_a_stream_cannot_be_opened() -> None:
    class Closed:
        cancels_promptly = True

        async def complete(self, call: Call, /) -> Completion:
            raise AssertionError

        def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            raise ConnectionError("no")

    told = Told()
    fallback = FallbackStrategy(max_retries=0)
    async with router_of(Closed(), "a", observers=[told], fallback=fallback) as router:
        with suppress(Exception):
            async with router.stream("hello"):
                pass
    assert told.held == 0
    assert told.attempts == ["failed"]


def unwilling(_: Completion) -> bool:
    raise ZeroDivisionError


def too_slow(_: Completion) -> bool:
    raise TimeoutError("the predicate's own")


async def test_attempts_are_told_where_a_predicate_raises() -> None:
    told = Told()
    async with router_of(Scripted(), observers=[told]) as router:
        with pytest.raises(ZeroDivisionError):
            await router.execute("hello", mode="cascade", accept=unwilling, strategy="balanced")
    assert len(told.attempts) == 1


@pytest.mark.parametrize("cache", [False, True])
async def test_a_predicates_own_time_out_is_not_the_requests(cache: bool) -> None:
    async with router_of(Scripted(), cache=cache) as router:
        with pytest.raises(TimeoutError, match="the predicate's own"):
            await router.execute("hello", mode="cascade", accept=too_slow, strategy="balanced")
