"""The stream that a caller iterates."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from asyncroute._course import Course
from asyncroute._errors import RouterStateError
from asyncroute._results import ExecutionResult, RoutingDecision
from asyncroute._stream_try import StreamTry

if TYPE_CHECKING:
    from asyncroute._values import Chunk

__all__ = ("OpenStream", "Stream")


@final
@dataclass(slots=True)
class OpenStream:
    """A stream that has brought its first content."""

    course: Course
    attempt: StreamTry
    decision: RoutingDecision


@final
class Stream:
    """An answer as it comes. Made by `LLMRouter.stream`; an async context manager and iterator.

    ::

        async with router.stream("Tell me a story") as stream:
            async for chunk in stream:
                print(chunk.text, end="")
        print(stream.result().actual_cost)

    Entering it tries, falls back and hedges until the first content: from then on the answer is
    one model's. Leaving it early closes the provider's stream and bills what came. It may be left
    by another task than the one that iterates it, which then meets a `StreamInterruptedError`.

    One that is dropped without being left is ended in the background, with a `ResourceWarning`.
    """

    __slots__ = ("_close", "_open", "_opened", "_result")

    def __init__(
        self,
        open_stream: Callable[[], Awaitable[OpenStream]],
        close_stream: Callable[[OpenStream], ExecutionResult],
    ) -> None:
        self._open = open_stream
        self._close = close_stream
        self._opened: OpenStream | None = None
        self._result: ExecutionResult | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise RouterStateError("a stream is entered once")
        self._opened = await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opened = self._opened
        if opened is None or self._result is not None:
            return
        try:
            await opened.attempt.leave()
        finally:
            if self._result is None:  # two tasks may leave it at once
                self._result = self._close(opened)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Chunk]:
        """Return the next chunk, when awaited.

        Raises:
            StreamInterruptedError: The stream broke, a limit passed, or another task left it; it
                has the text so far.
            RouterStateError: Outside of the block, or another task waits for a chunk already.
            asyncio.CancelledError: The consumer was cancelled; leaving the block bills what came.
        """
        opened = self._opened or self._entered()
        return opened.attempt.next_chunk()  # no coroutine of its own: one a chunk is enough

    @property
    def decision(self) -> RoutingDecision:
        """How the model was chosen first; a fallback may have answered."""
        return self._entered().decision

    @property
    def model_id(self) -> str:
        """The model that answers."""
        return self._entered().attempt.endpoint.config.model_id

    @property
    def text(self) -> str:
        """The text so far."""
        return self._entered().attempt.text

    def result(self) -> ExecutionResult:
        """Return what became of the stream, once its block has been left.

        It is a success only if the stream came to its end; else `response` is the text so far.

        Raises:
            RouterStateError: The block has not been left yet.
        """
        if self._result is None:
            raise RouterStateError("the result is known when the stream's block has been left")
        return self._result

    def _entered(self) -> OpenStream:
        if self._opened is None:
            raise RouterStateError("use the stream inside of its `async with`")
        return self._opened

    def __del__(self) -> None:
        opened = self._opened
        if opened is None or self._result is not None:
            return
        with suppress(RuntimeError):  # the loop is closed, and everything on it
            # The collector may run in any thread.
            opened.course.runtime.loop.call_soon_threadsafe(_leave_later, opened, self._close)
        warnings.warn(f"{self!r} was dropped without being left", ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        opened = self._opened
        return f"<Stream {opened.attempt!r}>" if opened else "<Stream, not entered>"


def _leave_later(opened: OpenStream, close: Callable[[OpenStream], ExecutionResult]) -> None:
    """Leave a stream that nobody has any more, in a task of the supervisor."""

    async def leave() -> None:
        try:
            await opened.attempt.leave()
        finally:
            close(opened)

    try:
        opened.course.runtime.supervisor.spawn(leave(), name="asyncroute dropped stream")
    except RouterStateError:  # the router has been closed, and has settled it then
        close(opened)
