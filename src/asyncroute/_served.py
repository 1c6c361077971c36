"""A provider as the router knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from asyncroute._protocols import Provider

__all__ = ("Served",)


@final
class Served:
    """A provider with what it says of itself, read when it is taken in rather than for each call.

    Attributes:
        provider: The provider.
        cancels_promptly: Whether an attempt may run in the caller's task: `complete` ends at once
            when cancelled.
        is_simulated: Whether it only simulates.
    """

    __slots__ = ("cancels_promptly", "is_simulated", "provider")

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.cancels_promptly = getattr(provider, "cancels_promptly", False) is True
        self.is_simulated = getattr(provider, "is_simulated", False) is True

    def __repr__(self) -> str:
        return f"<Served {self.provider!r}>"
