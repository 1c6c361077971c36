"""Streams: commit with the first content, end cleanly or with an error, bill what came."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import asyncroute
from asyncroute import (
    AllAttemptsFailedError,
    Call,
    Chunk,
    Completion,
    ConfigurationError,
    DeadlineExceededError,
    LLMRouter,
    ModelConfig,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
    Usage,
)

MODELS = [
    ModelConfig(model_id=model, provider="p", cost_per_1k_tokens=0.01 * n, avg_latency_ms=100.0 * n)
    for n, model in enumerate("abc", start=1)
]
BILLED = Usage(10, 3)


class Streams:
    """Streams `chunks` chunks, `gap` seconds apart; what breaks where is told by model."""

    def __init__(
        self,
        *,
        inline: bool,
        chunks: int = 3,
        gap: float = 0.1,
        gaps: Mapping[str, float] | None = None,
        breaks: Mapping[str, int] | None = None,
        finishes: bool = True,
        usage: Usage | None = BILLED,
    ) -> None:
        self.cancels_promptly = inline
        self.chunks, self.gap, self.gaps = chunks, gap, dict(gaps or {})
        self.breaks, self.finishes, self.usage = dict(breaks or {}), finishes, usage
        self.calls: list[str] = []
        self.closed_in: list[asyncio.Task[Any] | None] = []
        self.opened_in: list[asyncio.Task[Any] | None] = []
        self.produced: Counter[str] = Counter()
        self.is_open = 0

    async def complete(self, call: Call, /) -> Completion:
        raise AssertionError("asked to stream")

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        model = call.model.model_id
        self.calls.append(model)
        self.opened_in.append(asyncio.current_task())
        self.is_open += 1
        try:
            for i in range(self.chunks):
                await asyncio.sleep(self.gaps.get(model, self.gap))
                if self.breaks.get(model) == i:
                    raise UnavailableError("broke")
                self.produced[model] += 1
                yield Chunk(f"{model}{i} ")
            if self.finishes:
                yield Chunk(finish_reason="stop", usage=self.usage)
        finally:
            self.is_open -= 1
            self.closed_in.append(asyncio.current_task())


@pytest.fixture(params=[True, False], ids=["inline", "supervised"])
def inline(request: pytest.FixtureRequest) -> bool:
    return request.param


def router_of(provider: object, **options: Any) -> LLMRouter:
    return LLMRouter(MODELS, {"p": provider}, seed=1, **options)  # type: ignore[dict-item]


async def read(router: LLMRouter, **options: Any) -> tuple[str, Any, Exception | None]:
    """Read a stream to its end; return its text, its result and what it raised."""
    stream = router.stream("hello", strategy="cost_optimized", **options)
    text = ""
    try:
        async with stream:
            async for chunk in stream:
                text += chunk.text
    except Exception as error:
        return text, stream.result(), error
    return text, stream.result(), None


def assert_at_rest(router: LLMRouter, provider: Streams) -> None:
    assert provider.is_open == 0
    for model in router.get_statistics()["model_stats"].values():
        assert (model["active_requests"], model["queued_requests"], model["load"]) == (0, 0, 0)


@pytest.mark.smoke
async def test_a_stream_brings_every_chunk_and_its_bill(inline: bool) -> None:
    provider = Streams(inline=inline)
    async with router_of(provider) as router:
        text, result, error = await read(router)
        assert_at_rest(router, provider)
    assert (text, error) == ("a0 a1 a2 ", None)
    assert (result.success, result.response, result.finish_reason) == (True, text, "stop")
    assert result.usage == BILLED
    assert result.actual_cost == pytest.approx(0.00013)
    assert [a.outcome for a in result.attempts] == ["won"]


async def test_what_fails_before_the_first_content_falls_back_unseen(inline: bool) -> None:
    provider = Streams(inline=inline, breaks={"a": 0})
    async with router_of(provider) as router:
        text, result, error = await read(router)
        assert_at_rest(router, provider)
    assert (text, error) == ("b0 b1 b2 ", None)
    assert [a.outcome for a in result.attempts] == ["failed", "won"]


async def test_what_breaks_after_it_is_an_error_with_the_text_so_far(inline: bool) -> None:
    provider = Streams(inline=inline, breaks={"a": 2})
    async with router_of(provider) as router:
        text, result, error = await read(router)
        assert_at_rest(router, provider)
    assert text == "a0 a1 "
    assert isinstance(error, StreamInterruptedError)
    assert error.text == text
    assert (result.success, result.response, result.error_kind) == (
        False,
        text,
        "stream_interrupted",
    )
    assert provider.calls == ["a"]  # no fallback, no second paid call


async def test_an_end_without_finish_reason_is_never_clean(inline: bool) -> None:
    provider = Streams(inline=inline, finishes=False)
    async with router_of(provider, cache=True) as router:
        _, result, error = await read(router)
    assert isinstance(error, StreamInterruptedError)
    assert result.success is False


async def test_leaving_early_closes_the_source_in_its_own_task_and_bills(inline: bool) -> None:
    provider = Streams(inline=inline, usage=None)
    async with router_of(provider) as router:
        stream = router.stream("hello", strategy="cost_optimized")
        async with stream:
            async for _ in stream:
                break
        assert_at_rest(router, provider)
        spent = router.get_statistics()["total_cost"]
    result = stream.result()
    assert provider.opened_in == provider.closed_in
    assert (result.success, result.response) == (False, "a0 ")
    assert result.usage is not None
    assert result.usage.estimated
    assert result.actual_cost == pytest.approx(spent)
    assert spent > 0


async def test_a_gap_between_chunks_is_limited(inline: bool) -> None:
    provider = Streams(inline=inline, gap=3.0)
    async with router_of(provider) as router:
        text, _, error = await read(router, gap_timeout=2.0)
        assert text == "a0 "
        assert_at_rest(router, provider)
    assert "no chunk within 2 s" in str(error)


async def test_the_whole_stream_is_limited(inline: bool) -> None:
    provider = Streams(inline=inline, chunks=100, gap=1.0)
    async with router_of(provider) as router:
        text, _, error = await read(router, total_timeout=5.0)
        assert_at_rest(router, provider)
    assert "not complete within 5 s" in str(error)
    assert len(text.split()) == 6


async def test_time_that_the_consumer_takes_counts_for_no_gap(inline: bool) -> None:
    provider = Streams(inline=inline)
    async with (
        router_of(provider) as router,
        router.stream("x", strategy="cost_optimized", gap_timeout=1.0) as stream,
    ):
        texts = []
        async for chunk in stream:
            texts.append(chunk.text)
            await asyncio.sleep(10)
    assert len(texts) == 4


async def test_a_consumer_silent_past_the_total_loses_the_slot(inline: bool) -> None:
    provider = Streams(inline=inline, chunks=100)
    async with router_of(provider) as router:
        with suppress(StreamInterruptedError):
            async with router.stream("x", strategy="cost_optimized", total_timeout=5.0) as stream:
                await anext(stream)
                await asyncio.sleep(6)
                assert router.get_statistics()["model_stats"]["a"]["load"] == 0
                while True:
                    await anext(stream)
        assert_at_rest(router, provider)


async def test_a_slow_consumer_holds_a_supervised_producer_back() -> None:
    provider = Streams(inline=False, chunks=1000, gap=0.0)
    async with (
        router_of(provider) as router,
        router.stream("x", strategy="cost_optimized") as stream,
    ):
        await anext(stream)
        await asyncio.sleep(1)
        assert provider.produced["a"] <= 17  # 16 ahead, and one that was taken
        assert len([chunk async for chunk in stream]) == 1000


async def test_a_hedge_wins_where_the_first_token_is_slow(inline: bool) -> None:
    provider = Streams(inline=inline, gaps={"a": 10.0})
    async with router_of(provider) as router:
        text, result, error = await read(router, mode="hedged", hedge_after=0.5)
        assert_at_rest(router, provider)
    assert (text, error) == ("b0 b1 b2 ", None)
    assert [(a.role, a.outcome) for a in result.attempts] == [
        ("first", "superseded"),
        ("hedge", "won"),
    ]


@pytest.mark.smoke
async def test_of_a_race_only_the_winner_is_read_on(inline: bool) -> None:
    provider = Streams(inline=inline)
    async with router_of(provider) as router:
        text, result, _ = await read(router, mode="race")
        assert_at_rest(router, provider)
    assert text == "a0 a1 a2 "
    assert Counter(a.outcome for a in result.attempts) == {"won": 1, "superseded": 1}


async def test_the_timeout_ends_with_the_first_content(inline: bool) -> None:
    provider = Streams(inline=inline, chunks=5, gap=1.0)
    async with router_of(provider) as router:
        text, _, error = await read(router, timeout=2.5)
    assert (len(text.split()), error) == (5, None)


async def test_entering_raises_where_no_content_came_in_time(inline: bool) -> None:
    provider = Streams(inline=inline, gap=100.0)
    async with router_of(provider) as router:
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(DeadlineExceededError):
            async with router.stream("x", timeout=3.0):
                raise AssertionError("there is nothing to read")
        assert loop.time() - started <= 3.1
        assert_at_rest(router, provider)


@pytest.mark.smoke
async def test_a_cancelled_consumer_leaves_nothing_open(inline: bool) -> None:
    provider = Streams(inline=inline)

    async def consume(router: LLMRouter) -> None:
        async with router.stream("x", strategy="cost_optimized") as stream:
            async for _ in stream:
                pass

    async with router_of(provider) as router:
        task = asyncio.get_running_loop().create_task(consume(router))
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_at_rest(router, provider)
        assert router.get_statistics()["total_cost"] > 0
        assert provider.calls == ["a"]


async def test_an_error_of_the_consumer_comes_out_plain(inline: bool) -> None:
    provider = Streams(inline=inline)
    async with router_of(provider) as router:
        with pytest.raises(KeyError, match="mine"):
            async with router.stream("x") as stream:
                await anext(stream)
                raise KeyError("mine")
        assert_at_rest(router, provider)


async def test_a_router_that_closes_ends_its_streams(inline: bool) -> None:
    provider = Streams(inline=inline, chunks=10_000, gap=1.0)
    outcome: list[BaseException] = []

    async def consume(router: LLMRouter) -> None:
        try:
            async with router.stream("x", strategy="cost_optimized", gap_timeout=5) as stream:
                async for _ in stream:
                    pass
        except StreamInterruptedError as error:
            outcome.append(error)

    async with router_of(provider, drain_timeout=2.0) as router:
        task = asyncio.get_running_loop().create_task(consume(router))
        await asyncio.sleep(1.5)
    await task
    assert len(outcome) == 1
    assert_at_rest(router, provider)


async def test_a_provider_that_cannot_stream_answers_in_one_chunk() -> None:
    class Whole:
        async def complete(self, call: Call, /) -> Completion:
            return Completion("all at once", Usage(5, 4))

    async with router_of(Whole()) as router:
        text, result, error = await read(router)
    assert (text, error, result.success) == ("all at once", None, True)
    assert result.usage == Usage(5, 4)


async def test_first_tokens_and_pace_enter_the_metrics(inline: bool) -> None:
    async with router_of(Streams(inline=inline, gap=0.25)) as router:
        await read(router)
        stats = router.get_statistics()["model_stats"]["a"]
    assert stats["p50_first_token_ms"] == pytest.approx(250)
    assert stats["output_tokens_per_second"] == pytest.approx(2 / 0.5)


async def test_for_streams_latency_is_the_time_to_the_first_token() -> None:
    provider = Streams(inline=True, gaps={"a": 3.0, "b": 0.01, "c": 3.0}, chunks=2)
    async with router_of(provider) as router:
        for model in "abc":
            for _ in range(6):
                await read(router, models=[model])
        stream = router.stream("x", strategy="latency_optimized")
        async with stream:
            assert stream.model_id == "b"


async def test_a_stream_is_used_inside_its_block_and_read_after_it() -> None:
    async with router_of(Streams(inline=True)) as router:
        stream = router.stream("x")
        with pytest.raises(RouterStateError, match="inside"):
            await anext(stream)
        async with stream:
            with pytest.raises(RouterStateError, match="left"):
                stream.result()
        with pytest.raises(RouterStateError, match="once"):
            await stream.__aenter__()


async def test_a_hundred_streams_cancelled_at_once_leave_nothing(inline: bool) -> None:
    provider = Streams(inline=inline, chunks=100)
    models = [MODELS[0].model_copy(update={"max_concurrent_requests": 100})]

    async def consume(router: LLMRouter) -> None:
        async with router.stream("x") as stream:
            async for _ in stream:
                pass

    async with LLMRouter(models, {"p": provider}) as router:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(consume(router)) for _ in range(100)]
        await asyncio.sleep(1)
        assert provider.is_open == 100
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert_at_rest(router, provider)


class Chunks:
    """Streams just these chunks, 0.1 s apart, by model; what is no chunk is raised."""

    def __init__(self, *, inline: bool, **scripts: list[Any]) -> None:
        self.cancels_promptly = inline
        self.scripts = scripts
        self.calls: list[str] = []

    async def complete(self, call: Call, /) -> Completion:
        self.calls.append(call.model.model_id)
        return Completion("whole", BILLED)

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        self.calls.append(call.model.model_id)
        for chunk in self.scripts[call.model.model_id]:
            await asyncio.sleep(0.1)
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


END = Chunk(finish_reason="stop", usage=BILLED)


@pytest.mark.parametrize(
    "content",
    [Chunk("x"), Chunk(reasoning="hm"), Chunk(tool_call={"index": 0, "id": "c"}), END],
    ids=["text", "reasoning", "tool call", "end"],
)
async def test_content_commits_and_what_has_none_does_not(content: Chunk, inline: bool) -> None:
    broken = UnavailableError("broke")
    provider = Chunks(
        inline=inline,
        a=[Chunk(), Chunk(usage=Usage(10, 0)), broken],
        b=[Chunk(), content, broken],
        c=[END],
    )
    async with router_of(provider) as router:
        _, result, error = await read(router)
    assert provider.calls == ["a", "b"]
    assert isinstance(error, StreamInterruptedError)
    assert [a.outcome for a in result.attempts] == ["failed", "won"]


async def test_chunks_carry_reasoning_tool_calls_and_the_finish_reason(inline: bool) -> None:
    pieces: list[dict[str, Any]] = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 1, "function": {"arguments": "}"}},
    ]
    script = [
        Chunk(reasoning="hm "),
        Chunk("Let me see"),
        *(Chunk(tool_call=piece) for piece in pieces),
        Chunk(finish_reason="tool_calls", usage=BILLED),
    ]
    async with router_of(Chunks(inline=inline, a=script)) as router:
        stream = router.stream("x", strategy="cost_optimized")
        async with stream:
            assert [chunk async for chunk in stream] == script
    result = stream.result()
    assert (result.response, result.finish_reason) == ("Let me see", "tool_calls")
    assert result.tool_calls == (
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    )


async def test_tool_calls_that_are_not_numbered_are_told_apart_by_their_ids() -> None:
    pieces: list[dict[str, Any]] = [
        {"id": "c1", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "c2", "function": {"name": "g", "arguments": {"already": "read"}}},
        {"id": "c3", "type": "custom"},
    ]
    script = [*(Chunk(tool_call=piece) for piece in pieces), END]
    async with router_of(Chunks(inline=True, a=script)) as router:
        _, result, _ = await read(router)
    assert result.tool_calls == (
        {"id": "c1", "function": {"name": "f", "arguments": "{}"}},
        {"id": "c2", "function": {"name": "g", "arguments": {"already": "read"}}},
        {"id": "c3", "type": "custom"},
    )
    assert pieces[0] == {"id": "c1", "function": {"name": "f", "arguments": "{"}}  # the chunk's


async def test_usage_that_nobody_told_is_estimated_and_says_so(inline: bool) -> None:
    async with router_of(Streams(inline=inline, usage=None)) as router:
        text, result, error = await read(router)
        stats = router.get_statistics()["model_stats"]["a"]
    assert (error, result.success) == (None, True)
    assert result.usage.estimated
    assert 0 < result.usage.output_tokens < len(text)
    assert result.attempts[0].cost_is_estimated
    assert stats["total_cost"] == pytest.approx(result.actual_cost)


async def test_usage_that_came_early_is_kept_when_the_stream_is_left(inline: bool) -> None:
    script = [Chunk("x", usage=Usage(10, 1)), Chunk("y", usage=Usage(10, 2)), *[Chunk("z")] * 50]
    async with router_of(Chunks(inline=inline, a=script)) as router:
        stream = router.stream("x", strategy="cost_optimized")
        async with stream:
            await anext(stream)
            await anext(stream)
    assert stream.result().usage == Usage(10, 2)
    assert not stream.result().attempts[0].cost_is_estimated


async def test_no_stream_is_cached_and_none_is_answered_from_the_cache(inline: bool) -> None:
    provider = Chunks(inline=inline, a=[Chunk("x"), END])
    async with router_of(provider, cache=True) as router:
        for _ in range(2):
            _, result, _ = await read(router)
            assert (result.success, result.cached) == (True, False)
        whole = await router.execute("hello", strategy="cost_optimized")
        assert (whole.response, whole.cached) == ("whole", False)
        text, _, _ = await read(router)
    assert text == "x"
    assert provider.calls == ["a"] * 4


async def test_the_first_token_has_a_limit_of_its_own(inline: bool) -> None:
    provider = Streams(inline=inline, gaps={"a": 10.0, "b": 1.5})
    async with router_of(provider, attempt_timeout=2.0) as router:
        loop = asyncio.get_running_loop()
        text, result, error = await read(router, gap_timeout=1.6, total_timeout=100.0)
        took = loop.time()
        assert_at_rest(router, provider)
    assert (text, error) == ("b0 b1 b2 ", None)
    assert [a.outcome for a in result.attempts] == ["timed_out", "won"]
    assert took == pytest.approx(2.0 + 4.5, abs=0.1)  # longer than the first token's limit


async def test_all_that_failed_before_any_content_is_told_on_entering(inline: bool) -> None:
    provider = Streams(inline=inline, breaks=dict.fromkeys("abc", 0))
    async with router_of(provider) as router:
        stream = router.stream("x", strategy="cost_optimized", timeout=5.0)
        with pytest.raises(AllAttemptsFailedError):
            await stream.__aenter__()
        assert_at_rest(router, provider)
        assert router.get_statistics()["total_requests"] == 1


async def test_an_inline_stream_is_iterated_by_its_consumer_and_only_others_handed_over(
    inline: bool,
) -> None:
    provider = Streams(inline=inline)
    async with router_of(provider) as router:
        await read(router)
        await read(router, mode="hedged", hedge_after=5.0)
        await read(router, mode="race")
    me = asyncio.current_task()
    assert [task is me for task in provider.opened_in] == [inline, inline, False, False]
    assert Counter(provider.opened_in) == Counter(provider.closed_in)


async def test_no_hedge_starts_once_there_is_content(inline: bool) -> None:
    provider = Streams(inline=inline, chunks=20)
    async with router_of(provider) as router:
        _, result, _ = await read(router, mode="hedged", hedge_after=0.5)
    assert provider.calls == ["a"]
    assert result.success


async def test_streams_that_were_superseded_keep_hedges_from_starting_ever_earlier(
    inline: bool,
) -> None:
    provider = Streams(inline=inline, chunks=1)
    async with router_of(provider) as router:
        for turn in range(30):
            provider.gaps["a"] = 60.0 if turn % 3 == 0 else 0.1
            await read(router, mode="hedged", hedge_after=2.0)
        stats = router.get_statistics()["model_stats"]["a"]
    assert provider.calls.count("b") == 10
    assert stats["p50_first_token_ms"] == pytest.approx(100)
    assert stats["p95_first_token_ms"] >= 1900


@pytest.mark.parametrize("name", ["gap_timeout", "total_timeout"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
async def test_limits_that_cannot_be_meant_are_refused(name: str, seconds: float) -> None:
    async with router_of(Streams(inline=True)) as router:
        with pytest.raises(ConfigurationError, match=f"{name} must be above 0 seconds, got"):
            router.stream("x", **{name: seconds})  # type: ignore[arg-type]


SCOPES = ("timeout", "fail_after", "move_on", "CancelScope", "TaskGroup", "task_group")


def test_no_async_generator_of_ours_holds_a_scope_or_a_group_across_a_yield() -> None:
    seen = 0
    for path in Path(asyncroute.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.AsyncFunctionDef) or not _yields(function):
                continue
            seen += 1
            for block in ast.walk(function):
                if isinstance(block, (ast.With, ast.AsyncWith)) and _yields(block):
                    held = " ".join(ast.unparse(item.context_expr) for item in block.items)
                    assert not any(scope in held for scope in SCOPES), f"{path}:{block.lineno}"
    assert seen > 3


def _yields(node: ast.AST) -> bool:
    return any(isinstance(inner, (ast.Yield, ast.YieldFrom)) for inner in ast.walk(node))
