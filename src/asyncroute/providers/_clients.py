"""HTTP clients as our providers make them: without limits that the router has already.

httpx2 is imported when first needed, and by then an SDK or the provider has brought it.
"""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

__all__ = ("new_client", "timeouts", "unused_client")


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
