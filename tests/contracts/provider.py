"""What every provider has to keep, whatever it speaks to.

A provider's tests subclass `ProviderContract` (or `StreamingProviderContract`) and give a fixture
`stage`: the provider, and what makes the world behind it behave.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import pytest

from asyncroute._errors import ProviderError, StreamInterruptedError
from asyncroute._inputs import ModelConfig, QueryRequest
from asyncroute._protocols import Call, StreamingProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from asyncroute._values import Chunk

# Long enough for a local server to have the request, short enough for a test.
A_WHILE = 0.05


class Stage(Protocol):
    """A provider, and the world behind it."""

    provider: Any

    secret: str | None
    """A text that must appear nowhere."""

    silence: float
    """Seconds that a call which hangs stays silent; much more than `A_WHILE`."""

    def fail(self) -> None:
        """Make the next call fail at the provider's side."""

    def recover(self) -> None:
        """Make calls succeed again."""

    def hang(self) -> None:
        """Make the next call stay silent; a stream may say something before."""

    def interrupt(self) -> None:
        """Make the next stream break after some of its text."""

    def open(self) -> int:
        """Count the calls or connections that are not at rest."""
        ...


def a_call(query: str = "Why is the sky blue?", **model: Any) -> Call:
    return Call(ModelConfig(model_id="gpt-4o", **model), QueryRequest(query=query))


@asynccontextmanager
async def running(work: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[asyncio.Task]:
    """Run work beside the block, until it is in the middle of it."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        await asyncio.sleep(A_WHILE)
        assert not task.done()
        yield task


async def what_came(
    provider: StreamingProvider, call: Call
) -> tuple[list[Chunk], ProviderError | None]:
    """Read a stream to its end: its chunks, and the error that ended it."""
    received: list[Chunk] = []
    try:
        async with aclosing(provider.stream(call)) as chunks:
            async for chunk in chunks:
                received.append(chunk)  # noqa: PERF401 — what came before an error counts
    except ProviderError as error:
        return received, error
    return received, None


def now() -> float:
    return asyncio.get_running_loop().time()


async def cancelled_at_once(task: asyncio.Task[Any], stage: Stage) -> None:
    started = now()
    task.cancel("the caller left")
    await asyncio.wait([task])
    assert task.cancelled()
    assert now() - started < stage.silence / 2


async def no_task_follows(before: set[asyncio.Task[Any]]) -> None:
    """Check that nothing is closed by tasks of the loop's own, as dropped generators are."""
    gc.collect()
    for _ in range(3):
        assert asyncio.all_tasks() <= before
        await asyncio.sleep(0)


class ProviderContract:
    """Of `complete`."""

    async def test_promises_to_end_when_cancelled(self, stage: Stage) -> None:
        assert type(stage.provider).cancels_promptly is True

    async def test_answers_with_text_usage_and_the_reason_of_its_end(self, stage: Stage) -> None:
        call = a_call()
        completion = await stage.provider.complete(call)
        assert completion.text
        assert completion.finish_reason == "stop"
        assert completion.usage is not None
        assert completion.usage.input_tokens > 0
        assert completion.usage.output_tokens > 0
        assert not completion.usage.estimated
        assert call.usage == completion.usage
        assert stage.open() == 0

    async def test_answers_many_calls_at_once(self, stage: Stage) -> None:
        calls = [a_call(f"question {i}") for i in range(20)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stage.provider.complete(call)) for call in calls]
        assert all(task.result().text for task in tasks)
        assert [call.usage for call in calls] == [task.result().usage for task in tasks]
        assert stage.open() == 0

    async def test_a_failure_is_a_provider_error_that_names_the_model(self, stage: Stage) -> None:
        stage.fail()
        with pytest.raises(ProviderError) as caught:
            await stage.provider.complete(a_call())
        assert caught.value.kind == "unavailable"
        assert caught.value.model_id == "gpt-4o"
        assert caught.value.status == 500
        assert stage.open() == 0

    async def test_the_call_after_a_failure_is_none_the_worse(self, stage: Stage) -> None:
        stage.fail()
        with pytest.raises(ProviderError):
            await stage.provider.complete(a_call())
        stage.recover()
        assert (await stage.provider.complete(a_call())).text
        assert stage.open() == 0

    async def test_a_cancelled_call_ends_at_once_and_leaves_no_call_open(
        self, stage: Stage
    ) -> None:
        stage.hang()
        async with running(lambda: stage.provider.complete(a_call())) as task:
            assert stage.open() == 1
            await cancelled_at_once(task, stage)
        assert stage.open() == 0

    async def test_a_call_in_a_cancelled_scope_ends_at_once(self, stage: Stage) -> None:
        stage.hang()
        started = now()
        with anyio.move_on_after(A_WHILE) as scope:
            await stage.provider.complete(a_call())
        assert scope.cancelled_caught
        assert now() - started < stage.silence / 2
        assert stage.open() == 0

    async def test_its_repr_tells_no_secret(self, stage: Stage) -> None:
        shown = repr(stage.provider)
        assert type(stage.provider).__name__ in shown
        assert stage.secret is None or stage.secret not in shown


class StreamingProviderContract(ProviderContract):
    """Of `complete` and `stream`."""

    async def test_is_a_streaming_provider(self, stage: Stage) -> None:
        assert isinstance(stage.provider, StreamingProvider)

    async def test_streams_text_and_ends_with_the_reason_and_the_usage(self, stage: Stage) -> None:
        call = a_call()
        (*pieces, last), error = await what_came(stage.provider, call)
        assert error is None
        assert len(pieces) > 1
        assert "".join(chunk.text for chunk in pieces)
        assert all(chunk.has_content for chunk in pieces)
        assert {chunk.finish_reason for chunk in pieces} == {None}
        assert last.finish_reason == "stop"
        assert last.usage is not None
        assert last.usage.output_tokens > 0
        assert call.usage == last.usage
        assert stage.open() == 0

    async def test_a_stream_says_what_the_whole_answer_says(self, stage: Stage) -> None:
        whole = await stage.provider.complete(a_call())
        chunks, _ = await what_came(stage.provider, a_call())
        assert "".join(chunk.text for chunk in chunks) == whole.text

    async def test_a_stream_left_early_is_closed_by_the_one_who_leaves(self, stage: Stage) -> None:
        stage.hang()
        tasks = asyncio.all_tasks()
        async with aclosing(stage.provider.stream(a_call())) as chunks:
            async for _ in chunks:
                assert stage.open() == 1
                break
        assert stage.open() == 0
        await no_task_follows(tasks)

    async def test_a_reader_cancelled_between_chunks_closes_its_stream(self, stage: Stage) -> None:
        stage.hang()
        tasks = asyncio.all_tasks()

        async def read_slowly() -> None:
            async with aclosing(stage.provider.stream(a_call())) as chunks:
                async for _ in chunks:
                    await asyncio.sleep(stage.silence)

        async with running(read_slowly) as task:
            assert stage.open() == 1
            await cancelled_at_once(task, stage)
        assert stage.open() == 0
        await no_task_follows(tasks)

    async def test_a_stream_not_yet_begun_can_be_closed(self, stage: Stage) -> None:
        await stage.provider.stream(a_call()).aclose()
        assert stage.open() == 0

    async def test_a_cancelled_stream_ends_at_once_and_leaves_nothing_open(
        self, stage: Stage
    ) -> None:
        stage.hang()
        async with running(lambda: what_came(stage.provider, a_call())) as task:
            assert stage.open() == 1
            await cancelled_at_once(task, stage)
        assert stage.open() == 0

    async def test_a_broken_stream_is_interrupted_with_the_text_so_far(self, stage: Stage) -> None:
        stage.interrupt()
        received, error = await what_came(stage.provider, a_call())
        assert received
        assert isinstance(error, StreamInterruptedError)
        assert error.text == "".join(chunk.text for chunk in received)
        assert error.model_id == "gpt-4o"
        assert not any(chunk.finish_reason for chunk in received)
        assert stage.open() == 0

    async def test_a_stream_that_fails_gives_nothing_and_the_error(self, stage: Stage) -> None:
        stage.fail()
        chunks = stage.provider.stream(a_call())
        with pytest.raises(ProviderError) as caught:
            await anext(chunks)
        assert caught.value.kind == "unavailable"
        assert caught.value.model_id == "gpt-4o"
        assert stage.open() == 0
