"""Reading what a server answers, whole or streamed, and leaving off early in the reader's task."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import anyio

from asyncroute._errors import ProtocolError, ProviderError, StreamInterruptedError
from asyncroute.providers._http_errors import error_from_payload
from asyncroute.providers._json import decoded, object_of
from asyncroute.providers._sse import Event, EventParser
from asyncroute.providers._wire import Wire, transport_faults

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

    import httpx2

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk

__all__ = ("StreamedAnswer", "explanation", "media_type", "read", "streamed")

_LONGEST_ERROR_BODY = 65_536

# After the terminal event a server only has to end the body: waiting for it keeps the connection.
_LINGER = 0.05


def media_type(response: httpx2.Response) -> str:
    """Tell what a response says it is, without parameters."""
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


async def explanation(response: httpx2.Response) -> bytes:
    """Read the body of an error; where it breaks off, the status still says something."""
    with suppress(*transport_faults()):
        return await read(response, at_most=_LONGEST_ERROR_BODY)
    return b""


async def read(response: httpx2.Response, *, at_most: int = sys.maxsize) -> bytes:
    """Read a response's body, or the beginning of it, and close the response."""
    data = bytearray()
    source = response.aiter_bytes()
    try:
        while len(data) < at_most and (block := await anext(source, None)) is not None:
            data += block
    finally:
        await _abandon(response, source)
    return bytes(data[:at_most])


async def _exhaust(source: AsyncIterator[object]) -> None:
    with suppress(Exception):
        async for _ in source:
            pass


async def abandon(source: AsyncIterator[object]) -> None:
    """End an iterator that may not have been read to its end, all of it in this task.

    It is a nest of generators. Closing the outer ones leaves the inner ones to the loop, which
    closes each in a task of its own, later. So it is read on under a cancelled scope: where it
    would wait for the server, all of them end.
    """
    with anyio.CancelScope() as scope:
        scope.cancel()
        await _exhaust(source)


async def _abandon(response: httpx2.Response, source: AsyncIterator[bytes]) -> None:
    await abandon(source)
    await response.aclose()


class StreamedAnswer(Protocol):
    """What has come of a streamed answer, and whether that is all of it."""

    @property
    def is_done(self) -> bool:
        """Whether its terminal event has come."""
        ...

    def take(self, event: Event) -> Iterator[Chunk]:
        """Take in an event and give the chunks it makes."""
        ...

    def end(self) -> Chunk:
        """Give the last chunk, or raise where there was no end."""
        ...

    def interrupted(self, why: str) -> StreamInterruptedError:
        """Make the error of a stream that broke here."""
        ...


async def _event_stream(response: httpx2.Response, wire: Wire) -> httpx2.Response:
    found = media_type(response)
    if found == "text/event-stream":
        return response
    # An error with status 200, or a server that does not stream.
    payload = object_of(decoded(await explanation(response)))
    if payload.get("error"):
        raise error_from_payload(payload, redact=wire.redact)
    raise ProtocolError(f"answered with {found or 'no type'}, not with an event stream")


async def streamed(
    wire: Wire,
    call: Call,
    answer: StreamedAnswer,
    send: Callable[[], Awaitable[httpx2.Response]],
) -> AsyncGenerator[Chunk]:
    """Send a request and give its answer in chunks.

    Closing the generator, or cancelling, closes the response, in the same task.

    Args:
        wire: The line it goes over.
        call: The call.
        answer: Reads the events.
        send: Sends the request and returns the successful response, unread.

    Raises:
        ProviderError: What went wrong, by kind; a `StreamInterruptedError` where a stream has
            begun and does not reach its end.
    """
    try:
        response = await _event_stream(await send(), wire)
        source = response.aiter_bytes()
        events = EventParser()
        try:
            is_open = True
            while is_open and not answer.is_done:
                block = await _next_block(source, wire, call, answer)
                is_open = block is not None
                for event in events.flush() if block is None else events.feed(block):
                    for chunk in answer.take(event):
                        yield chunk
            yield answer.end()
            with anyio.move_on_after(_LINGER):
                await _exhaust(source)
        finally:
            await _abandon(response, source)
    except ProviderError as error:
        error.model_id = call.model.model_id
        raise


async def _next_block(
    source: AsyncGenerator[bytes], wire: Wire, call: Call, answer: StreamedAnswer
) -> bytes | None:
    try:
        return await anext(source, None)
    except Exception as error:
        raise answer.interrupted(str(wire.failure(error, call))) from wire.cause(error)
