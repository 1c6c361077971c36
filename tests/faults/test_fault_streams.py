"""Streams whose consumer goes, is cancelled or forgets them: nothing stays open, nothing hangs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from asyncroute import (
    Call,
    Chunk,
    LLMRouter,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
    Usage,
)
from asyncroute._stream import Stream
from asyncroute.testing import VirtualClockLoop
from faults.rig import (
    GRACE,
    Entry,
    Ledger,
    after_turns,
    assert_at_rest,
    assert_settled,
    no_loop_errors,
    says_healthy,
    sleep_whatever_happens,
    slots,
)
from support import now, router_of

BOTH = pytest.mark.parametrize("inline", [True, False], ids=["inline", "supervised"])


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "falls back": {"models": ["bad", "a"]},
    "hedged": {"mode": "hedged", "hedge_after": 0.03},
    "race": {"mode": "race"},
}


@dataclass
class Streams(Ledger):
    """Streams chunks, `gap` seconds apart, and keeps an account. Models named `bad` fail at once.

    Attributes:
        chunks: How many chunks there are before the last.
        gap: Seconds before each.
        closing: Seconds that cleaning up takes.
        stubborn: Seconds that it ignores being given up, after its first chunk.
        silence: Seconds before the last chunk.
        read_in: The tasks that asked for a chunk.
        closed_in: The tasks that closed a stream which had more.
    """

    chunks: int = 5
    gap: float = 0.1
    closing: float = 0.0
    stubborn: float = 0.0
    silence: float = 0.0
    read_in: set[asyncio.Task[Any] | None] = field(default_factory=set[Any])
    closed_in: set[asyncio.Task[Any] | None] = field(default_factory=set[Any])

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        entry = Entry(call, now())
        self.entries.append(entry)
        self.read_in.add(asyncio.current_task())
        call.usage = Usage()
        is_complete = False
        try:
            if entry.model_id == "bad":
                await asyncio.sleep(0.01)
                raise UnavailableError("bad")
            call.usage = Usage(10, 0)
            for i in range(1, self.chunks + 1):
                if i > 1 and self.stubborn:
                    await sleep_whatever_happens(self.stubborn)
                await asyncio.sleep(self.gap)
                call.usage = Usage(10, i)
                yield Chunk(f"{i} ")
                self.read_in.add(asyncio.current_task())
            await asyncio.sleep(self.silence)
            yield Chunk(finish_reason="stop", usage=call.usage)
            is_complete = True
        finally:
            if not is_complete:
                self.closed_in.add(asyncio.current_task())
            try:
                await asyncio.sleep(self.closing)
            finally:
                entry.usage, entry.ended_at = call.usage, now()


def requests(router: LLMRouter) -> int:
    return router.get_statistics()["total_requests"]


def assert_over(router: LLMRouter, provider: Streams) -> None:
    """Check that one stream has been settled, counted and paid for, once."""
    assert_at_rest(router)
    assert_settled(router, provider)
    assert requests(router) == 1


async def until_the_end(stream: Stream) -> str:
    return "".join([chunk.text async for chunk in stream])


# Left by another task


@BOTH
async def test_leaving_ends_a_stream_for_the_task_that_waits_for_a_chunk(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline, gap=5.0)
    async with router_of(provider) as router:
        async with router.stream("q") as stream:
            reading = asyncio.create_task(until_the_end(stream))
            await asyncio.sleep(7.0)
        left_at = now()
        assert_over(router, provider)
        await asyncio.wait((reading,))
        assert now() == left_at == pytest.approx(12.0)
        assert says_healthy(router, "a")
    error = reading.exception()
    assert isinstance(error, StreamInterruptedError)
    assert "the stream was left before its end" in str(error)
    assert error.text == stream.result().response == "1 2 "
    assert reading.cancelling() == 0
    assert provider.closed_in == ({reading} if inline else provider.read_in)


@pytest.mark.smoke
@BOTH
@pytest.mark.parametrize("way", WAYS)
async def test_a_reader_is_ended_in_every_way_of_opening_on_every_loop(
    way: str, inline: bool
) -> None:
    provider = Streams(cancels_promptly=inline, gap=0.01, chunks=1, silence=3600.0)
    async with router_of(provider, ["a", "b", "bad"]) as router:
        async with router.stream("q", **WAYS[way]) as stream:
            await anext(stream)
            reading = asyncio.create_task(until_the_end(stream))
            await asyncio.sleep(0.01)
            assert not reading.done()
        await asyncio.wait((reading,))
        assert_at_rest(router)
        assert_settled(router, provider)
    assert isinstance(reading.exception(), StreamInterruptedError)


@BOTH
async def test_a_reader_s_own_scopes_do_not_feel_that_its_stream_was_left(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline, gap=5.0)
    seen: list[object] = []

    async def read(stream: Stream) -> None:
        with anyio.move_on_after(100) as scope:
            async with asyncio.timeout(100), asyncio.TaskGroup():
                with pytest.raises(StreamInterruptedError):
                    await until_the_end(stream)
                await asyncio.sleep(1)
        seen.append(scope.cancelled_caught)

    async with router_of(provider) as router:
        async with router.stream("q") as stream:
            reading = asyncio.create_task(read(stream))
            await asyncio.sleep(2)
        await reading
        assert_over(router, provider)
    assert seen == [False]


@BOTH
async def test_a_stream_left_while_its_reader_is_busy_ends_when_it_asks_again(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline, chunks=100)
    async with router_of(provider) as router:
        stream = await router.stream("q").__aenter__()
        asked_again = asyncio.Event()

        async def read() -> None:
            await anext(stream)
            await asked_again.wait()
            for _ in range(2):
                with pytest.raises(StreamInterruptedError, match="left"):
                    while True:
                        await anext(stream)

        reading = asyncio.create_task(read())
        await asyncio.sleep(1)
        await stream.__aexit__(None, None, None)
        assert_over(router, provider)
        asked_again.set()
        await reading
        assert_over(router, provider)
    assert stream.result().success is False


@BOTH
async def test_a_stream_left_by_two_tasks_at_once_is_settled_and_told_once(inline: bool) -> None:
    results: list[object] = []

    class Watch:
        def on_result(self, request: object, result: object, /) -> None:
            results.append(result)

    provider = Streams(cancels_promptly=inline, closing=0.01)
    async with router_of(provider, observers=[Watch()]) as router:
        stream = await router.stream("q").__aenter__()
        await asyncio.gather(*(stream.__aexit__(None, None, None) for _ in range(3)))
        assert_over(router, provider)
    assert results == [stream.result()]


async def test_a_stream_left_while_its_reader_closes_it_waits_for_that() -> None:
    provider = Streams(cancels_promptly=True, chunks=2, gap=1.0, closing=0.03)
    async with router_of(provider, "a") as router:
        stream = await router.stream("q").__aenter__()
        reading = asyncio.create_task(until_the_end(stream))
        await asyncio.sleep(0.5)
        reading.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not reading.done()
        await stream.__aexit__(None, None, None)
        assert now() == pytest.approx(1.53)
        assert_over(router, provider)
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_what_broke_a_stream_stays_its_error_though_it_is_left_while_it_closes() -> None:
    class Malformed(Streams):
        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            async with aclosing(super().stream(call)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    yield "no chunk"  # type: ignore[misc]

    provider = Malformed(cancels_promptly=True, closing=0.03)
    async with router_of(provider, "a") as router:
        stream = await router.stream("q").__aenter__()
        await anext(stream)
        reading = asyncio.create_task(until_the_end(stream))
        await asyncio.sleep(0.01)
        assert slots(router) == {"a": 1}
        await stream.__aexit__(None, None, None)
        assert now() == pytest.approx(0.13)
        assert_over(router, provider)
    assert "the stream broke" in str(reading.exception())
    assert "the stream broke" in str(stream.result().error)


@BOTH
async def test_leaving_within_a_provider_s_own_time_out_ends_the_reader_all_the_same(
    inline: bool,
) -> None:
    class Patient(Streams):
        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            async with aclosing(super().stream(call)) as chunks:
                yield await anext(chunks)
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.9):
                        try:
                            await asyncio.sleep(1e6)
                        finally:
                            await asyncio.sleep(0.2)
                await asyncio.sleep(1e6)

    provider = Patient(cancels_promptly=inline)
    async with router_of(provider, "a") as router:
        stream = await router.stream("q").__aenter__()
        await anext(stream)
        reading = asyncio.create_task(until_the_end(stream))
        await asyncio.sleep(1.0)
        await stream.__aexit__(None, None, None)
        assert now() <= 1.1 + GRACE
        await asyncio.sleep(0.2)
        assert isinstance(reading.exception(), StreamInterruptedError)
        assert_over(router, provider)


@BOTH
async def test_a_consumer_that_comes_back_too_late_closes_the_stream_by_asking(
    inline: bool,
) -> None:
    provider = Streams(cancels_promptly=inline, chunks=100)
    async with router_of(provider, "a") as router:
        async with router.stream("q", total_timeout=5.0) as stream:
            await anext(stream)
            await asyncio.sleep(10.0)
            assert slots(router) == {}
            with pytest.raises(StreamInterruptedError, match="not complete within 5 s"):
                await until_the_end(stream)
            assert provider.running == []
        assert provider.closed_in == provider.read_in
        assert_over(router, provider)


@BOTH
async def test_who_leaves_waits_no_longer_than_the_grace_for_a_stubborn_reader(
    inline: bool,
) -> None:
    provider = Streams(cancels_promptly=inline, stubborn=50.0)
    async with router_of(provider, "a") as router:
        stream = await router.stream("q").__aenter__()
        await anext(stream)
        reading = asyncio.create_task(until_the_end(stream))
        await asyncio.sleep(1.0)
        before = now()
        await stream.__aexit__(None, None, None)
        assert now() - before <= GRACE
        assert stream.result().success is False
        assert slots(router) == {"a": 1}  # what is not over is still paid for
        await asyncio.sleep(0)
        assert reading.done() is not inline  # it holds only who waits within it
        with pytest.raises(StreamInterruptedError):
            await reading
        await asyncio.sleep(50.0)
        assert_over(router, provider)


@BOTH
async def test_a_leaver_cancelled_while_it_waits_has_ended_the_stream(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline, gap=5.0, closing=0.03)
    async with router_of(provider, "a") as router:
        stream = await router.stream("q").__aenter__()
        reading = asyncio.create_task(until_the_end(stream))
        await asyncio.sleep(1.0)
        leaving = asyncio.create_task(stream.__aexit__(None, None, None))
        await asyncio.sleep(0.01)
        assert not leaving.done()
        leaving.cancel()
        await asyncio.wait((leaving, reading))
        assert leaving.cancelled()
        assert isinstance(reading.exception(), StreamInterruptedError)
        await asyncio.sleep(GRACE)
        assert_over(router, provider)


@BOTH
async def test_a_second_reader_is_refused_and_harms_nothing(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline)
    async with router_of(provider) as router:
        async with router.stream("q") as stream:
            await anext(stream)
            reading = asyncio.create_task(until_the_end(stream))
            await asyncio.sleep(0.01)
            with pytest.raises(RouterStateError, match="waits for a chunk of this stream already"):
                await anext(stream)
            assert await reading == "2 3 4 5 "
        assert stream.result().success
        assert_over(router, provider)


async def test_a_router_that_closes_ends_a_stream_that_another_task_reads() -> None:
    provider = Streams(cancels_promptly=True, gap=100.0)
    async with router_of(provider, drain_timeout=1.0) as router:
        stream = await router.stream("q", gap_timeout=1e3, timeout=1e3).__aenter__()

        async def read() -> None:
            async with stream:
                await until_the_end(stream)

        stream_read = asyncio.create_task(until_the_end(stream))
        leaving = asyncio.create_task(_leave_when_done(stream, stream_read))
        await asyncio.sleep(0.5)
    assert isinstance(stream_read.exception(), StreamInterruptedError)
    await leaving
    assert_over(router, provider)


async def _leave_when_done(stream: Stream, reading: asyncio.Task[str]) -> None:
    await asyncio.wait((reading,))
    await stream.__aexit__(None, None, None)


# Cancelled, or left, at every await there is


async def _reads_four(stream: Stream) -> str:
    """Read four chunks, with work of its own after each, and leave before the end."""
    text = ""
    async with stream:
        async for chunk in stream:
            await asyncio.sleep(0.01)
            text += chunk.text
            if len(text) == 8:
                break
    return text


def _in_a_scope(work: Awaitable[str]) -> tuple[asyncio.Task[str], Callable[[], object]]:
    scope = anyio.CancelScope()

    async def scoped() -> str:
        with scope:
            return await work
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0.1)  # nothing of it is left for a later await
        return ""

    return asyncio.create_task(scoped()), scope.cancel


@BOTH
@pytest.mark.parametrize("kind", ["native", "scope"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_consumer_that_is_cancelled_at_any_await_leaves_nothing(
    way: str, kind: str, inline: bool
) -> None:
    for count in range(1, 300):
        provider = Streams(cancels_promptly=inline)
        async with router_of(provider, ["a", "b", "bad"]) as router:
            work = _reads_four(router.stream("q", **WAYS[way]))
            task, go = _in_a_scope(work)
            if kind == "native":
                go = task.cancel
            with after_turns(count, go), no_loop_errors():
                await asyncio.wait((task,))
            assert_at_rest(router)
            assert_settled(router, provider)
            calls = len(provider.entries)
            await asyncio.sleep(10)
            assert len(provider.entries) == calls
            if not task.cancelled() and task.result():
                return
    raise AssertionError("the sweep never reached the end of a stream")


@BOTH
@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_that_another_task_leaves_at_any_await_ends_once(
    way: str, inline: bool
) -> None:
    was_left = False
    for count in range(1, 300):
        provider = Streams(cancels_promptly=inline)
        async with router_of(provider, ["a", "b", "bad"]) as router:
            stream = router.stream("q", **WAYS[way])
            reading = asyncio.create_task(_reads_four(stream))
            leaving: list[asyncio.Task[None]] = []

            def leave(stream: Stream = stream, leaving: list[asyncio.Task[None]] = leaving) -> None:
                loop = asyncio.get_running_loop()
                leaving.append(loop.create_task(stream.__aexit__(None, None, None)))

            with after_turns(count, leave), no_loop_errors():
                await asyncio.wait((reading,))
            await asyncio.gather(*leaving)
            await asyncio.sleep(GRACE)
            assert_at_rest(router)
            assert_settled(router, provider)
            assert requests(router) == 1
            error = reading.exception()
            assert error is None or isinstance(error, StreamInterruptedError)
            was_left = was_left or error is not None
            if not leaving:
                assert was_left
                return
    raise AssertionError("the sweep never reached the end of a stream")


@BOTH
async def test_cancelled_and_left_in_the_same_turn_is_cancelled(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline, gap=5.0)
    async with router_of(provider, "a") as router:
        for is_cancelled_first in (True, False):
            stream = await router.stream("q").__aenter__()
            reading = asyncio.create_task(until_the_end(stream))
            await asyncio.sleep(1.0)
            if is_cancelled_first:
                reading.cancel()
            leaving = asyncio.create_task(stream.__aexit__(None, None, None))
            if not is_cancelled_first:
                asyncio.get_running_loop().call_soon(reading.cancel)
            await asyncio.wait((reading, leaving))
            assert reading.cancelled()
            await asyncio.sleep(GRACE)
            assert_at_rest(router)
            assert_settled(router, provider)


@BOTH
async def test_a_consumer_cancelled_while_it_leaves_has_left(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline, closing=0.03)
    async with router_of(provider, "a") as router:
        consuming = asyncio.create_task(_reads_four(router.stream("q")))
        await asyncio.sleep(0.425)
        assert not provider.closed_in or not inline  # supervised, it ran ahead
        await asyncio.sleep(0.025 if inline else 0.0)
        assert provider.closed_in
        assert not consuming.done()
        consuming.cancel()
        await asyncio.wait((consuming,))
        assert consuming.cancelled()
        await asyncio.sleep(GRACE)
        assert_over(router, provider)


# Closed in any order, or forgotten


@BOTH
async def test_streams_may_be_left_in_any_order(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline)
    async with router_of(provider, "a") as router:
        first = await router.stream("q").__aenter__()
        second = await router.stream("q").__aenter__()
        await anext(first)
        await anext(second)
        await first.__aexit__(None, None, None)
        assert slots(router) == {"a": 1}
        assert await until_the_end(second) == "2 3 4 5 "
        await second.__aexit__(None, None, None)
        assert_at_rest(router)
        assert_settled(router, provider)
    assert (first.result().success, second.result().success) == (False, True)


@BOTH
async def test_a_generator_around_a_stream_may_be_closed_by_another_task(inline: bool) -> None:
    provider = Streams(cancels_promptly=inline)
    async with router_of(provider, "a") as router:

        async def texts() -> AsyncGenerator[str]:
            async with router.stream("q") as stream:
                async for chunk in stream:
                    yield chunk.text

        first, second = texts(), texts()
        async with aclosing(first):  # not the last one opened
            await anext(first)
            await anext(second)
        assert slots(router) == {"a": 1}
        await asyncio.create_task(second.aclose())
        assert_at_rest(router)
        assert_settled(router, provider)


@BOTH
@pytest.mark.parametrize("chunks", [0, 1, 2])
async def test_a_stream_that_is_dropped_is_ended_with_a_warning(inline: bool, chunks: int) -> None:
    provider = Streams(cancels_promptly=inline, chunks=100)
    async with router_of(provider, "a") as router:
        stream = await router.stream("q").__aenter__()
        for _ in range(chunks):
            await anext(stream)
        with pytest.warns(ResourceWarning, match="was dropped without being left"):
            del stream
        await asyncio.sleep(GRACE)
        assert_over(router, provider)
        closes_at = now()
    assert now() == closes_at  # nothing is left to wait for


async def test_a_stream_that_is_dropped_by_another_thread_is_ended() -> None:
    provider = Streams(cancels_promptly=True, chunks=100)
    async with router_of(provider, "a") as router:
        held = [await router.stream("q").__aenter__()]
        with pytest.warns(ResourceWarning):
            await asyncio.to_thread(held.clear)
        await asyncio.sleep(GRACE)
        assert_over(router, provider)


async def test_a_stream_that_outlives_its_router_is_no_trouble_when_dropped() -> None:
    provider = Streams(cancels_promptly=True, chunks=100)
    async with router_of(provider, "a", drain_timeout=1.0) as router:
        stream = await router.stream("q").__aenter__()
        await anext(stream)
    assert slots(router) == {}
    with pytest.warns(ResourceWarning):
        del stream
    with no_loop_errors():
        await asyncio.sleep(1)
    assert_over(router, provider)


# Malformed


@BOTH
@pytest.mark.parametrize(
    "chunk",
    [
        None,
        "text",
        Chunk(7),  # type: ignore[arg-type]
        Chunk(reasoning=b"x"),  # type: ignore[arg-type]
        Chunk(tool_call=["x"]),  # type: ignore[arg-type]
        Chunk(tool_call={"function": "f"}),
    ],
    ids=["none", "str", "number", "bytes", "list", "function"],
)
@pytest.mark.parametrize("at", [0, 1])
async def test_a_malformed_chunk_is_a_failure_or_an_interruption(
    chunk: Any, at: int, inline: bool
) -> None:
    class Malformed:
        cancels_promptly = inline

        async def complete(self, call: Call, /) -> Any:
            raise AssertionError

        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            await asyncio.sleep(0.1)
            if call.model.model_id == "a":
                for _ in range(at):
                    yield Chunk("fine ")
                yield chunk
            yield Chunk("b", finish_reason="stop")

    async with router_of(Malformed(), "ab") as router:
        stream = router.stream("q")
        if at:
            with pytest.raises(StreamInterruptedError) as caught:
                async with stream:
                    await until_the_end(stream)
            assert caught.value.text == "fine "
            assert stream.result().success is False
        else:
            async with stream:
                assert await until_the_end(stream) == "b"
        assert_at_rest(router)


# Eager tasks


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gap", [None, 0.0, 0.1])
@pytest.mark.parametrize("leaves_after", [None, 1, 3])
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "supervised"])
def test_streams_work_with_eager_tasks(
    way: str, gap: float | None, leaves_after: int | None, inline: bool
) -> None:
    class Eager(Streams):
        async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
            if gap is not None:
                async with aclosing(super().stream(call)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            self.entries.append(Entry(call, now(), now(), Usage(10, 5)))  # never waits
            if call.model.model_id == "bad":
                call.usage = self.entries[-1].usage = Usage()
                raise UnavailableError("bad")
            call.usage = Usage(10, 5)
            for i in range(1, 6):
                yield Chunk(f"{i} ")
            yield Chunk(finish_reason="stop")

    async def main() -> None:
        if sys.version_info >= (3, 12):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        provider = Eager(cancels_promptly=inline, gap=gap or 0.0)
        async with router_of(provider, ["a", "b", "bad"]) as router:
            stream = router.stream("q", **WAYS[way])
            read = 0
            async with asyncio.timeout(10), stream:
                async for _ in stream:
                    read += 1
                    if read == leaves_after:
                        break
            await asyncio.sleep(GRACE)
            assert_at_rest(router)
            assert_settled(router, provider)
            assert read == leaves_after or read == 6
            assert stream.result().success or leaves_after is not None

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())
