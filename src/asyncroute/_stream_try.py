"""One attempt whose answer comes in chunks: it commits with the first content, and goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, final

from asyncroute._attempt import SURELY_SLOW, Request, Stop, Try
from asyncroute._deadlines import TICK, deliver_again
from asyncroute._errors import AsyncRouteError, StreamInterruptedError, as_provider_error
from asyncroute._estimate import text_tokens
from asyncroute._protocols import Call, Provider, StreamingProvider
from asyncroute._values import Chunk, Completion, Role, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncroute._endpoint import Endpoint
    from asyncroute._health import Permit

__all__ = ("GAP_TIMEOUT", "TOTAL_TIMEOUT", "StreamTry")

GAP_TIMEOUT = 30.0
"""Seconds between two chunks."""

TOTAL_TIMEOUT = 600.0
"""Seconds from the first content chunk to the last."""

_BUFFER = 16
"""Chunks that a supervised stream is ahead of its consumer at most."""


@final
class StreamTry(Try):
    """One try at one model, streamed.

    Up to the first chunk with content it is an attempt like any other, under the attempt's limit.
    That chunk commits it: no other attempt may win any more. From there on the limits are those
    between chunks and in all.

    Inline, the consumer iterates the provider's stream in its own task, and nobody else touches
    it. Supervised, the attempt's task iterates and closes it, and hands chunks over.

    Attributes:
        text: The text so far.
        first_content_at: When it committed.
        gap_timeout: Seconds between two chunks.
        total_timeout: Seconds from the first content to the end.
    """

    __slots__ = (
        "_consumer",
        "_consumer_time",
        "_finish_reason",
        "_head",
        "_held",
        "_idle_since",
        "_is_exhausted",
        "_producer",
        "_reasoning",
        "_source",
        "_texts",
        "_tool_calls",
        "_waiting_since",
        "first_content_at",
        "gap_timeout",
        "total_timeout",
    )

    def __init__(  # noqa: PLR0913 - as `Try`, and the limits
        self,
        request: Request,
        endpoint: Endpoint,
        provider: Provider,
        permit: Permit,
        call: Call,
        role: Role,
        now: float,
        *,
        gap_timeout: float = GAP_TIMEOUT,
        total_timeout: float = TOTAL_TIMEOUT,
    ) -> None:
        super().__init__(request, endpoint, provider, permit, call, role, now)
        self.gap_timeout = gap_timeout
        self.total_timeout = total_timeout
        self.first_content_at: float | None = None
        self._source: AsyncGenerator[Chunk] | None = None
        self._head: deque[Chunk] = deque()
        self._texts: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[dict[str, object]] = []
        self._finish_reason: str | None = None
        self._is_exhausted = False
        self._waiting_since: float | None = None
        self._idle_since = now
        self._consumer_time = 0.0
        self._consumer: asyncio.Future[None] | None = None
        self._producer: asyncio.Future[None] | None = None
        self._held: Sequence[AbstractContextManager[object]] = ()

    async def _ask(self) -> None:
        """Open the stream and read it up to the first content; supervised, to its end."""
        observers = self._request.runtime.observers
        if observers is not None:
            self._held = observers.started(self.call)
        try:
            self._source = _opened(self._provider, self.call)
            while not (self._head and _commits(self._head[-1])):
                self._head.append(await self._read())
        except BaseException as error:
            await self._close_source(error)
            raise
        finally:
            self._disarm()
        self._commit()
        if self.task is not None:
            await self._pump()

    def _commit(self) -> None:
        now = self._request.runtime.now()
        assert self.sent_at is not None
        self.first_content_at = self._idle_since = now
        self.call.first_content_after = now - self.sent_at
        self.endpoint.metrics.record_first_token(now - self.sent_at)
        self._request.has_committed(self)
        self._watch(now)

    @property
    def has_answer(self) -> bool:
        """Whether it has committed, or was answered to the end."""
        return self.first_content_at is not None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def _goes_on(self) -> bool:
        return self.has_answer and self.task is None

    async def _read(self) -> Chunk:
        """Read one chunk from the provider.

        Raises:
            StopAsyncIteration: The stream has ended, after a finish reason.
            StreamInterruptedError: It has ended without one, or broke.
            asyncio.CancelledError: It was cancelled, also where the provider swallowed that:
                nobody reads on.
        """
        assert self._source is not None
        try:
            chunk = await anext(self._source)
        except StopAsyncIteration:
            if self._finish_reason is None:
                raise self._broken("the stream ended without a finish reason") from None
            raise
        if chunk.text:
            self._texts.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        if chunk.tool_call is not None:
            self._tool_calls.append(chunk.tool_call)
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        if chunk.usage is not None:
            self.call.usage = chunk.usage
        if self.is_cancelled:
            raise asyncio.CancelledError  # the provider swallowed it: given up at its next chunk
        return chunk

    def _broken(self, why: str) -> StreamInterruptedError:
        return StreamInterruptedError(why, text=self.text, model_id=self.endpoint.config.model_id)

    def _failed(self, error: BaseException) -> None:
        if not self.has_answer:  # else it has been concluded
            super()._failed(error)

    # What the consumer calls

    async def next_chunk(self) -> Chunk:
        """Return the next chunk.

        Raises:
            StopAsyncIteration: The answer is complete.
            StreamInterruptedError: It broke, or a limit passed; with the text so far.
            asyncio.CancelledError: The consumer was cancelled; leave the stream to settle it.
        """
        if self._head:
            chunk = self._head.popleft()
            if self._producer is not None and not self._producer.done():
                self._producer.set_result(None)
            return chunk
        if self.task is not None:
            return await self._handed_over()
        if self.is_settled:
            raise self._end()
        return await self._read_inline()

    async def _read_inline(self) -> Chunk:
        self.begin(self._request.runtime.loop)
        self._waiting_since = now = self._request.runtime.now()
        self._consumer_time += now - self._idle_since
        chunk: Chunk | None = None
        failure: BaseException | None = None
        is_gone = True
        try:
            try:
                chunk = await self._read()
            except (Exception, asyncio.CancelledError) as error:
                failure = error
            is_gone = self.end()
            self._waiting_since = None
            self._idle_since = self._request.runtime.now()
            if chunk is None or is_gone:
                await self._ended_inline(failure, is_gone)
        finally:
            del failure  # the error's traceback leads to this frame: no way back from here
        assert chunk is not None
        return chunk

    async def _ended_inline(self, failure: BaseException | None, is_gone: bool) -> None:
        """Settle an inline stream that ended while it was read; raise what the consumer gets."""
        if is_gone:
            self.stopped_by = self.stopped_by or "cancelled"
        elif failure is not None:
            self._conclude(failure)
        try:
            await self._close_source(failure)
        finally:
            self.settle()
        if is_gone:
            await deliver_again()
        raise self._end() from None

    def _conclude(self, failure: BaseException) -> None:
        """Take up how the stream ended: completely, or by which error."""
        if self.stopped_by is not None:
            return  # what a stream brings after it was given up, nobody gets
        if isinstance(failure, StopAsyncIteration):
            self._is_exhausted = True
            self.completion = Completion(
                self.text, self.call.usage, self._finish_reason, tuple(self._tool_calls)
            )
        else:
            error = as_provider_error(failure, self.endpoint.config.model_id)
            if not isinstance(error, StreamInterruptedError):
                interrupted = self._broken(f"the stream broke: {error}")
                interrupted.__cause__ = error
                error = interrupted
            error.text = self.text
            self.error = error

    def _end(self) -> BaseException:
        """What a consumer gets who asks for one chunk more."""
        if self._is_exhausted:
            return StopAsyncIteration()
        return self.error or self._broken("the stream was given up")

    async def leave(self, why: Stop = "cancelled") -> None:
        """Close the provider's stream in its own task and bill what came."""
        if self.task is None:
            if not self.is_settled:
                self.stopped_by = self.stopped_by or why
            try:
                await self._close_source(asyncio.CancelledError())
            finally:
                self.settle()
        elif not self.is_settled:
            self.stop(why)
            await asyncio.wait((self.task,), timeout=self._request.runtime.loser_grace)

    async def _close_source(self, error: BaseException | None) -> None:
        source, self._source = self._source, None
        held, self._held = self._held, ()
        try:
            if source is not None:
                with suppress(Exception):  # how a provider fails to close says nothing any more
                    await source.aclose()
        finally:
            if held and (observers := self._request.runtime.observers) is not None:
                cause = None if isinstance(error, StopAsyncIteration) else error
                observers.ended(held, cause)

    # Handing over between tasks

    async def _pump(self) -> None:
        """Read the stream to its end, no further ahead of the consumer than the buffer."""
        failure: BaseException = StopAsyncIteration()
        try:
            while True:
                while len(self._head) >= _BUFFER:
                    self._producer = self._request.runtime.loop.create_future()
                    self._idle_since = self._request.runtime.now()
                    await self._producer
                    self._consumer_time += self._request.runtime.now() - self._idle_since
                self._waiting_since = self._request.runtime.now()
                chunk = await self._read()
                self._waiting_since = None
                self._head.append(chunk)
                self._wake_consumer()
        except BaseException as error:
            failure = error
            if not isinstance(error, StopAsyncIteration):
                raise
        finally:
            self._waiting_since = None
            self._conclude(failure)
            await self._close_source(failure)
            del failure

    async def _handed_over(self) -> Chunk:
        while not self._head:
            if self.is_settled or self.stopped_by is not None:
                raise self._end()
            self._consumer = self._request.runtime.loop.create_future()
            await self._consumer
        return self._head.popleft()

    def _wake_consumer(self) -> None:
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    # Limits

    def _watch(self, now: float) -> None:
        """Look again when the gap or the total may have passed: one timer, not one per chunk."""
        assert self.first_content_at is not None
        at = min(now + self.gap_timeout, self.first_content_at + self.total_timeout)
        self._bucket = self._request.runtime.deadlines.arm(self, at)

    def expire(self) -> None:
        """A limit may have passed. For `Deadlines`."""
        if self.first_content_at is None:
            super().expire()
            return
        now = self._request.runtime.now()
        total_at = self.first_content_at + self.total_timeout
        waiting = self._waiting_since
        gap_at = inf if waiting is None else waiting + self.gap_timeout
        if now < min(total_at, gap_at):
            self._watch(now if waiting is None else waiting)
            return
        limit = self.total_timeout if total_at <= now else self.gap_timeout
        what = "not complete" if total_at <= now else "no chunk"
        # While the consumer is at work elsewhere, it is not the model that takes its time.
        why: Stop = "cancelled" if waiting is None else "timed_out"
        if not self._give_up(self._broken(f"{what} within {limit:g} s"), why):
            self._bucket = self._request.runtime.deadlines.arm(self, now)

    def stop(self, why: Stop) -> None:
        """Give the attempt up; one that has committed loses its slot also while nobody reads."""
        if self.first_content_at is None:
            super().stop(why)
        elif why == "timed_out":
            return  # the limit up to the first content, which has come since
        elif not self._give_up(self._broken("the stream was given up"), why):
            loop = self._request.runtime.loop
            loop.call_later(TICK, self.stop, why, context=Context())

    def _give_up(self, error: AsyncRouteError, why: Stop) -> bool:
        """End a stream that has committed. False while somebody else cancels: try again."""
        if self.is_settled or self.stopped_by is not None:
            return True
        is_read = self.task is not None or self._waiting_since is not None
        if is_read and not self.interrupt():
            return False
        self.stopped_by = why
        self.error = error
        if is_read:
            self._wake_consumer()  # a provider that ignores it holds nobody but itself
        else:
            # The consumer is at work elsewhere: its slot is given to others now, and the
            # provider's stream is closed in the consumer's task when it comes back.
            self.settle()
        return True

    # Settling

    def settle(self) -> None:
        """See `Try.settle`; also wakes the consumer of a supervised stream."""
        if self.is_settled:
            return
        super().settle()
        self._disarm()
        if self.first_content_at is not None:
            self._record_pace()
            self._wake_consumer()

    def _record_pace(self) -> None:
        assert self.first_content_at is not None
        assert self.ended_at is not None
        if self.completion is not None and self.usage is not None and self.usage.output_tokens > 1:
            flowing = self.ended_at - self.first_content_at - self._consumer_time
            self.endpoint.metrics.record_output_rate(flowing / (self.usage.output_tokens - 1))

    def _tokens_received(self) -> int:
        return text_tokens(self.text) + text_tokens("".join(self._reasoning))

    def _tell_metrics(self, elapsed: float) -> None:
        super()._tell_metrics(elapsed - self._consumer_time)

    def _says_nothing(self) -> bool:
        if self.first_content_at is None or self.stopped_by != "timed_out":
            return super()._says_nothing()
        limit = min(self.gap_timeout, self.total_timeout)
        return limit < SURELY_SLOW * self.endpoint.expected_latency


def _commits(chunk: Chunk) -> bool:
    return chunk.has_content or chunk.finish_reason is not None


def _opened(provider: Provider, call: Call) -> AsyncGenerator[Chunk]:
    if isinstance(provider, StreamingProvider):
        return provider.stream(call)
    return _whole(provider, call)


async def _whole(provider: Provider, call: Call) -> AsyncGenerator[Chunk]:
    """The answer of a provider that cannot stream, as one chunk."""
    completion = await provider.complete(call)
    usage: Usage | None = completion.usage or call.usage
    for tool_call in completion.tool_calls:
        yield Chunk(tool_call=tool_call)
    yield Chunk(completion.text, finish_reason=completion.finish_reason or "stop", usage=usage)
