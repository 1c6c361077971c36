"""HTTP as all providers use it: whose a client is, reading, leaving off, and what can go wrong.

httpx2 is imported when first needed, and by then an SDK or the provider has brought it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Protocol, final

import anyio

from asyncroute._errors import (
    AttemptTimeoutError,
    BadRequestError,
    ProtocolError,
    ProviderError,
    RouterStateError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute.providers._http_errors import (
    Redact,
    error_from_payload,
    error_from_response,
    shortened,
)
from asyncroute.providers._json import decoded, object_of
from asyncroute.providers._sse import Event, EventParser

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Generator,
        Iterator,
    )

    import httpx2

    from asyncroute._protocols import Call
    from asyncroute._values import Chunk

__all__ = (
    "Kinds",
    "StreamedAnswer",
    "Wire",
    "abandon",
    "cause_of",
    "explanation",
    "media_type",
    "new_client",
    "read",
    "received",
    "refused",
    "remembering",
    "streamed",
    "timeouts",
    "transport_faults",
    "unused_client",
)

Kinds = tuple[tuple[type[Exception], type[ProviderError]], ...]
"""Exceptions and what becomes of them; the first that matches counts."""

_LONGEST_ERROR_BODY = 65_536

# After the terminal event a server only has to end the body: waiting for it keeps the connection.
_LINGER = 0.05


# ---------------------------------------------------------------- clients


def new_client(base_url: str | None) -> httpx2.AsyncClient:
    """Make a client without limits of its own on time and connections.

    How many connections there are is decided by the router's slots; idle ones are kept for bursts.

    Args:
        base_url: Where it will be used; None for somewhere safe.
    """
    import httpx2

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    # Loading the certificates that may be trusted takes 30 ms, and plain HTTP shows none.
    is_plain = (base_url or "").lower().startswith("http:")
    verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True
    return httpx2.AsyncClient(limits=limits, verify=verify, timeout=timeouts())


_received: ContextVar[list[httpx2.Response] | None] = ContextVar("_received", default=None)


def remembering(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Let a client of ours tell `received` of its responses."""
    client.event_hooks = {"response": [_remember]}
    return client


async def _remember(response: httpx2.Response) -> None:
    if (received := _received.get()) is not None:
        received.append(response)


@contextmanager
def received() -> Generator[list[httpx2.Response]]:
    """Give the responses that come within the block: an SDK may lose one and leave it open."""
    responses: list[httpx2.Response] = []
    token = _received.set(responses)
    try:
        yield responses
    finally:
        _received.reset(token)


def unused_client() -> httpx2.Client:
    """Make what an SDK would make for callers that are not asynchronous, at more cost.

    It trusts nobody, and is never connected.
    """
    import httpx2

    return httpx2.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@cache
def timeouts() -> httpx2.Timeout:
    """Ten seconds to connect, and no other: how long an answer may take the router says."""
    import httpx2

    return httpx2.Timeout(None, connect=10.0)


# ---------------------------------------------------------------- faults


@cache
def _transport_kinds() -> Kinds:
    import httpx2

    return (
        # Nobody there: that is no answer that was slow, but a host that cannot be reached.
        (httpx2.ConnectTimeout, UnavailableError),
        (httpx2.TimeoutException, AttemptTimeoutError),
        (httpx2.NetworkError, UnavailableError),
        (httpx2.ProxyError, UnavailableError),
        # Mostly a connection dropped before the answer or within it.
        (httpx2.RemoteProtocolError, UnavailableError),
        (httpx2.UnsupportedProtocol, UnavailableError),
        (httpx2.StreamError, UnavailableError),
        (TimeoutError, AttemptTimeoutError),
        (OSError, UnavailableError),
        (httpx2.HTTPError, ProtocolError),
        (httpx2.InvalidURL, ProtocolError),
        (httpx2.CookieConflict, ProtocolError),
    )


# What is left is mostly a value in the request that cannot be written.
_OTHER_KINDS: Kinds = (
    (json.JSONDecodeError, ProtocolError),
    (UnicodeDecodeError, ProtocolError),
    (ValueError, BadRequestError),
    (TypeError, BadRequestError),
    (RecursionError, BadRequestError),
)


def transport_faults() -> tuple[type[Exception], ...]:
    """Everything that sending or reading may raise."""
    return tuple(kind for kind, _ in _transport_kinds())


def _kind_of(error: BaseException | None, kinds: Kinds) -> type[ProviderError] | None:
    return next((made for kind, made in kinds if isinstance(error, kind)), None)


def cause_of(error: Exception) -> Exception | None:
    """What may be chained: what h11 says of a header it refuses quotes the header."""
    import httpx2

    link: BaseException | None = error
    while link is not None:
        if isinstance(link, httpx2.LocalProtocolError):
            return None
        link = link.__cause__
    return error


def _explains_nothing(_: Exception) -> None:
    return None


@final
class Wire:
    """A provider's line to its server: whose the client is, its loop, and what went wrong on it.

    Args:
        owner: The provider's name.
        server: What is shown of the server's address.
        redact: Takes secrets out of what errors say.
        own: The client, where the provider made it: `aclose` closes it. None for a user's.
        is_closed: Whether the client is closed.
        kinds: The exceptions of the SDK in between.
        explain: Makes the error of an exception that has the server's answer in it, else None.
    """

    __slots__ = (
        "_explain",
        "_is_closed",
        "_kinds",
        "_loop",
        "_own",
        "_owner",
        "_server",
        "redact",
    )

    def __init__(
        self,
        owner: str,
        server: str,
        redact: Redact,
        *,
        own: httpx2.AsyncClient | None,
        is_closed: Callable[[], bool],
        kinds: Kinds = (),
        explain: Callable[[Exception], ProviderError | None] = _explains_nothing,
    ) -> None:
        self.redact = redact
        self._owner = owner
        self._server = server
        self._own = own
        self._is_closed = is_closed
        self._kinds = kinds
        self._explain = explain
        self._loop: asyncio.AbstractEventLoop | None = None

    def claim(self) -> None:
        """Use the client, if this loop is the one it belongs to.

        Raises:
            RouterStateError: It belongs to another event loop, or is closed.
        """
        self._belongs_here()
        if self._is_closed():
            raise RouterStateError(f"{self!r} is closed")

    def _belongs_here(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RouterStateError(
                f"{self!r} belongs to another event loop; make one for each loop,"
                " for example by giving the router a factory instead of an object"
            )

    async def aclose(self) -> None:
        """Close the client, if it is not the user's.

        Raises:
            RouterStateError: It belongs to another event loop.
        """
        if self._own is not None and not self._own.is_closed:
            self._belongs_here()
            await self._own.aclose()

    def failure(self, error: Exception, call: Call) -> ProviderError:
        """Make the error of an exception, whoever raised it."""
        made = self._explain(error)
        if made is None:
            # An SDK wraps what its HTTP client raised, which says more.
            if _kind_of(error.__cause__, _transport_kinds()) and isinstance(
                error.__cause__, Exception
            ):
                error = error.__cause__
            kind = (
                _kind_of(error, _transport_kinds())
                or _kind_of(error, self._kinds)
                or _kind_of(error, _OTHER_KINDS)
                or UnavailableError
            )
            says = f"{self._server}: {type(error).__name__}: {error}".removesuffix(": ")
            made = kind(shortened(self.redact(says)))
        made.model_id = call.model.model_id
        return made

    def __repr__(self) -> str:
        return f"<{self._owner} {self._server}>"


def refused(response: httpx2.Response, redact: Redact, body: bytes | None = None) -> ProviderError:
    """Make the error of an answer whose status is no success.

    Args:
        response: The answer.
        redact: Takes secrets out of the server's message.
        body: What was read of it; by default all of it, where it was read.
    """
    if body is None:
        body = response.content if response.is_stream_consumed else b""
    return error_from_response(response.status_code, response.headers, body, redact=redact)


# ---------------------------------------------------------------- reading


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


# ---------------------------------------------------------------- streams


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
        raise answer.interrupted(str(wire.failure(error, call))) from cause_of(error)
