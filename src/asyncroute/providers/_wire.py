"""A provider's line to its server: whose the client is, its loop, and what can go wrong on it.

httpx2 is imported when first needed, and by then an SDK or the provider has brought it.
"""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import TYPE_CHECKING, final

from asyncroute._errors import (
    AttemptTimeoutError,
    BadRequestError,
    ProtocolError,
    ProviderError,
    RouterStateError,
    UnavailableError,
)
from asyncroute.providers._http_errors import Redact, error_from_response, shortened

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

    from asyncroute._protocols import Call

__all__ = ("Kinds", "Wire", "refused", "transport_faults")

Kinds = tuple[tuple[type[Exception], type[ProviderError]], ...]
"""Exceptions and what becomes of them; the first that matches counts."""


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

    def cause(self, error: Exception) -> Exception | None:
        """Give what may be chained, and so be printed: the exception, if no secret is in it.

        An SDK's quotes what the server said, and what h11 says of a header quotes the header.
        """
        import httpx2

        link: BaseException | None = error
        while link is not None:
            said = str(link)
            if isinstance(link, httpx2.LocalProtocolError) or self.redact(said) != said:
                return None
            link = link.__cause__ or link.__context__
        return error

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
