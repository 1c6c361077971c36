"""The stream that a caller iterates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

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
    one model's. Leaving it early closes the provider's stream and bills what came.
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
            self._result = self._close(opened)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """Return the next chunk.

        Raises:
            StreamInterruptedError: The stream broke, or a limit passed; it has the text so far.
            asyncio.CancelledError: The consumer was cancelled; leaving the block bills what came.
        """
        return await self._entered().attempt.next_chunk()

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

    def __repr__(self) -> str:
        opened = self._opened
        return f"<Stream {opened.attempt!r}>" if opened else "<Stream, not entered>"
