"""One attempt whose answer comes in chunks: it commits with the first content, and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractContextManager, suppress
from contextvars import Context
from math import inf
from typing import TYPE_CHECKING, Any, final

from asyncroute._attempt import SURELY_SLOW, Request, Stop, Try, not_a_completion
from asyncroute._deadlines import TICK, deliver_again
from asyncroute._errors import RouterStateError, StreamInterruptedError, as_provider_error
from asyncroute._handover import Handover
from asyncroute._pieces import Pieces
from asyncroute._protocols import Call, Provider, StreamingProvider
from asyncroute._values import Chunk, Completion, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncroute._endpoint import Endpoint
    from asyncroute._health import Permit
    from asyncroute._served import Served

__all__ = ("GAP_TIMEOUT", "TOTAL_TIMEOUT", "StreamTry")

GAP_TIMEOUT = 30.0
"""Seconds between two chunks."""

TOTAL_TIMEOUT = 600.0
"""Seconds from the first content chunk to the last."""


@final
class StreamTry(Try):
    """One try at one model, streamed.

    Up to the first chunk with content it is an attempt like any other, under the attempt's limit.
    That chunk commits it: no other attempt may win any more. From there on the limits are those
    between chunks and in all.

    Inline, the consumer iterates the provider's stream in its own task, and closes it there; only
    one that nobody reads is closed by whoever leaves it. Supervised, the attempt's task iterates
    and closes it, and hands chunks over.

    Attributes:
        first_content_at: When it committed.
        gap_timeout: Seconds between two chunks.
        total_timeout: Seconds from the first content to the end.
    """

    __slots__ = (
        "_consumer_time",
        "_handover",
        "_head",
        "_held",
        "_idle_since",
        "_is_exhausted",
        "_pieces",
        "_settlement",
        "_source",
        "_waiting_since",
        "first_content_at",
        "gap_timeout",
        "total_timeout",
    )

    def __init__(  # noqa: PLR0913 - as `Try`, and the limits
        self,
        request: Request,
        endpoint: Endpoint,
        served: Served,
        permit: Permit,
        call: Call,
        role: Role,
        now: float,
        *,
        gap_timeout: float = GAP_TIMEOUT,
        total_timeout: float = TOTAL_TIMEOUT,
    ) -> None:
        super().__init__(request, endpoint, served, permit, call, role, now)
        self.gap_timeout = gap_timeout
        self.total_timeout = total_timeout
        self.first_content_at: float | None = None
        self._source: AsyncGenerator[Chunk] | None = None
        self._head: list[Chunk] = []
        self._handover: Handover | None = None
        self._pieces = Pieces(call)
        self._is_exhausted = False
        self._waiting_since: float | None = None
        self._idle_since = now
        self._consumer_time = 0.0
        self._settlement: asyncio.Future[None] | None = None
        self._held: Sequence[AbstractContextManager[object]] = ()

    @property
    def has_answer(self) -> bool:
        """Whether it has committed, or was answered to the end."""
        return self.first_content_at is not None

    @property
    def text(self) -> str:
        """The text so far."""
        return self._pieces.text

    @property
    def _goes_on(self) -> bool:
        return self.has_answer and self.task is None

    # Up to the first content

    async def _ask(self) -> None:
        """Open the stream and read it up to the first content; supervised, to its end."""
        observers = self._request.runtime.observers
        if observers is not None:
            self._held = observers.started(self.call)
        try:
            self._source = source = _opened(self.served.provider, self.call)
            await self._read_head(source)
        except BaseException as error:
            await self._close_source(error)
            raise
        finally:
            self._disarm()
        self._commit()
        if self.task is not None:
            await self._pump(source)

    def _take(self, completion: Completion | None) -> None:
        """Nothing: it has been taken, chunk by chunk."""

    async def _read_head(self, source: AsyncGenerator[Chunk]) -> None:
        async for chunk in source:
            self._pieces.add(chunk)
            if self.is_cancelled:
                raise asyncio.CancelledError  # the provider swallowed it
            self._head.append(chunk)
            if chunk.has_content or chunk.finish_reason is not None:
                return
        raise self._broken("the stream ended without a finish reason")

    def _commit(self) -> None:
        now = self._request.runtime.now()
        assert self.sent_at is not None
        self.first_content_at = self._idle_since = now
        self.call.first_content_after = now - self.sent_at
        self.endpoint.metrics.record_first_token(self.call.first_content_after)
        if self.task is not None:
            self._handover = Handover(self._request.runtime.loop, self._head)
        self._request.has_committed(self)
        self._watch(now)

    def _failed(self, error: BaseException) -> None:
        if not self.has_answer:  # else it has been concluded
            super()._failed(error)

    # What the consumer calls

    def next_chunk(self) -> Coroutine[Any, Any, Chunk]:
        """Return the next chunk, when awaited.

        Raises:
            StopAsyncIteration: The answer is complete.
            StreamInterruptedError: It broke, a limit passed, or it was left by another task; with
                the text so far.
            RouterStateError: Another task waits for a chunk already.
            asyncio.CancelledError: The consumer was cancelled; leave the stream to settle it.
        """
        handover = self._handover
        return self._read() if handover is None else handover.take(self._end)

    async def _read(self) -> Chunk:
        """Read a chunk inline; close and settle where there is none."""
        if self._head:
            return self._head.pop(0)
        source = self._source
        if source is None or self.is_settled:
            await self._close_source(None)  # lost meanwhile, to the limit in all
            raise self._end()
        if self._waiting_since is not None:
            raise RouterStateError("another task waits for a chunk of this stream already")
        runtime = self._request.runtime
        self.begin(runtime.loop)
        self._waiting_since = now = runtime.now()
        self._consumer_time += now - self._idle_since
        chunk: Chunk | None = None
        failure: BaseException | None = None
        is_gone = True
        try:
            chunk = await anext(source)
            self._pieces.add(chunk)
        except (Exception, asyncio.CancelledError) as error:
            failure = error
        finally:
            is_gone = self.end()
            self._waiting_since = None
            self._idle_since = runtime.now()
        # A provider may have swallowed that it was given up: what it brings then, nobody gets.
        if chunk is not None and failure is None and not is_gone and self.stopped_by is None:
            return chunk
        try:
            await self._ended_inline(failure, is_gone)
        finally:
            del failure  # the error's traceback leads to this frame: no way back from here
        raise self._end()

    async def _ended_inline(self, failure: BaseException | None, is_gone: bool) -> None:
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

    async def leave(self, why: Stop = "cancelled") -> None:
        """End the stream for everybody, close the provider's, and bill what came.

        Whoever waits for a chunk gets a `StreamInterruptedError`, after closing the provider's
        stream in its own task: that is waited for as long as a loser's grace. If the caller is
        cancelled meanwhile, the stream ends all the same.
        """
        is_idle = self.task is None and self._waiting_since is None
        if is_idle and self._source is not None:
            if not self.is_settled:
                self.stopped_by = self.stopped_by or why
            try:
                await self._close_source(asyncio.CancelledError())
            finally:
                self.settle()
        elif not self.is_settled:
            if not is_idle:  # else its reader is closing it
                self._give_up_soon("the stream was left before its end", why)
            if self._settlement is None:
                self._settlement = self._request.runtime.loop.create_future()
            ended = self.task or self._settlement
            await asyncio.wait((ended,), timeout=self._request.runtime.loser_grace)

    # How it ends

    def _conclude(self, failure: BaseException) -> None:
        """Take up how the stream ended: completely, or by which error."""
        if self.stopped_by is not None:
            return  # what a stream brings after it was given up, nobody gets
        if isinstance(failure, StopAsyncIteration):
            if self._pieces.finish_reason is None:
                self.error = self._broken("the stream ended without a finish reason")
                return
            self._is_exhausted = True
            self.completion = self._pieces.completion()
            return
        error = as_provider_error(failure, self.endpoint.model_id)
        if not isinstance(error, StreamInterruptedError):
            interrupted = self._broken(f"the stream broke: {error}")
            interrupted.__cause__ = error
            error = interrupted
        error.text = self.text
        self.error = error

    def _broken(self, why: str) -> StreamInterruptedError:
        return StreamInterruptedError(why, text=self.text, model_id=self.endpoint.model_id)

    def _end(self) -> BaseException:
        """What a consumer gets who asks for one chunk more."""
        if self._is_exhausted:
            return StopAsyncIteration()
        return self.error or self._broken("the stream was left before its end")

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

    async def _pump(self, source: AsyncGenerator[Chunk]) -> None:
        """Read the stream to its end, no further ahead of the consumer than there is room."""
        handover, now = self._handover, self._request.runtime.now
        assert handover is not None
        failure: BaseException = StopAsyncIteration()
        try:
            while True:
                if handover.is_full:
                    self._idle_since = now()
                    await handover.room()
                    self._consumer_time += now() - self._idle_since
                self._waiting_since = now()
                chunk = await anext(source)
                self._waiting_since = None
                self._pieces.add(chunk)
                if self.is_cancelled:
                    raise asyncio.CancelledError  # the provider swallowed it
                handover.put(chunk)
        except BaseException as error:
            failure = error
            if not isinstance(error, StopAsyncIteration):
                raise
        finally:
            self._waiting_since = None
            self._conclude(failure)
            await self._close_source(failure)
            del failure

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
        if not self._give_up(f"{what} within {limit:g} s", why):
            self._bucket = self._request.runtime.deadlines.arm(self, now)

    def stop(self, why: Stop) -> None:
        """Give the attempt up; one that has committed loses its slot also while nobody reads."""
        if self.first_content_at is None:
            super().stop(why)
        elif why != "timed_out":  # which is the limit up to the first content: it has come since
            self._give_up_soon("the stream was given up", why)

    def _give_up_soon(self, what: str, why: Stop) -> None:
        """Give up a stream that has committed, as soon as nobody else cancels its task."""
        if not self._give_up(what, why):
            loop = self._request.runtime.loop
            loop.call_later(TICK, self._give_up_soon, what, why, context=Context())

    def _give_up(self, what: str, why: Stop) -> bool:
        """End a stream that has committed. False while somebody else cancels: try again."""
        if self.is_settled or self.stopped_by is not None:
            return True
        is_read = self.task is not None or self._waiting_since is not None
        if is_read and not self.interrupt():
            return False
        self.stopped_by = why
        self.error = self._broken(what)
        if self._handover is not None:
            self._handover.close()  # a provider that ignores it holds nobody but itself
        elif not is_read:
            # The consumer is at work elsewhere: its slot is given to others now, and the
            # provider's stream is closed in the consumer's task when it comes back.
            self.settle()
        return True

    # Settling

    def settle(self) -> None:
        """See `Try.settle`; also tells those who wait for the stream's end."""
        if self.is_settled:
            return
        super().settle()
        self._disarm()
        if self.first_content_at is not None:
            self._record_pace()
        if self._handover is not None:
            self._handover.close()
        if self._settlement is not None and not self._settlement.done():
            self._settlement.set_result(None)

    def _record_pace(self) -> None:
        assert self.first_content_at is not None
        assert self.ended_at is not None
        if self.completion is not None and self.usage is not None and self.usage.output_tokens > 1:
            flowing = self.ended_at - self.first_content_at - self._consumer_time
            self.endpoint.metrics.record_output_rate(flowing / (self.usage.output_tokens - 1))

    def _tokens_received(self) -> int:
        return self._pieces.tokens

    def _tell_metrics(self, elapsed: float) -> None:
        super()._tell_metrics(elapsed - self._consumer_time)
        if self.stopped_by == "superseded" and self.first_content_at is None:
            # Dropped, it would leave only the fast ones, and hedges would start ever earlier.
            self.endpoint.metrics.record_no_first_token(elapsed)

    def _says_nothing(self) -> bool:
        if self.first_content_at is None or self.stopped_by != "timed_out":
            return super()._says_nothing()
        limit = min(self.gap_timeout, self.total_timeout)
        return limit < SURELY_SLOW * self.endpoint.expected_latency


def _opened(provider: Provider, call: Call) -> AsyncGenerator[Chunk]:
    if isinstance(provider, StreamingProvider):
        return provider.stream(call)
    return _whole(provider, call)


async def _whole(provider: Provider, call: Call) -> AsyncGenerator[Chunk]:
    """The answer of a provider that cannot stream, as one chunk."""
    completion = await provider.complete(call)
    if not isinstance(completion, Completion):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise not_a_completion(completion)
    for tool_call in completion.tool_calls:
        yield Chunk(tool_call=tool_call)
    usage = completion.usage or call.usage
    yield Chunk(completion.text, finish_reason=completion.finish_reason or "stop", usage=usage)
