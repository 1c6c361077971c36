"""Chunks on their way from the task that reads a stream to the one that consumes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from asyncroute._errors import RouterStateError
from asyncroute._values import Chunk

__all__ = ("Handover",)

_ROOM = 16
"""Chunks that a producer is ahead of its consumer at most; so few that a list is the best queue."""


@final
class Handover:
    """A short queue between two tasks. A third of what a memory stream costs.

    Args:
        loop: The loop of both.
        chunks: What is there already; shared, not copied.
    """

    __slots__ = ("_chunks", "_consumer", "_is_closed", "_loop", "_producer")

    def __init__(self, loop: asyncio.AbstractEventLoop, chunks: list[Chunk]) -> None:
        self._loop = loop
        self._chunks = chunks
        self._consumer: asyncio.Future[None] | None = None
        self._producer: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether the producer has to wait for `room`."""
        return len(self._chunks) >= _ROOM

    def put(self, chunk: Chunk) -> None:
        """Hand a chunk over."""
        self._chunks.append(chunk)
        if self._consumer is not None:
            _wake(self._consumer)

    def close(self) -> None:
        """Nothing more comes."""
        self._is_closed = True
        if self._consumer is not None:
            _wake(self._consumer)

    async def room(self) -> None:
        """Wait until the consumer has taken something."""
        while self.is_full:
            self._producer = self._loop.create_future()
            try:
                await self._producer
            finally:
                self._producer = None

    async def take(self, end: Callable[[], BaseException]) -> Chunk:
        """Return the next chunk, or raise what `end` returns where nothing more comes.

        Raises:
            RouterStateError: Another task waits for a chunk already.
        """
        if self._consumer is not None:
            raise RouterStateError("another task waits for a chunk of this stream already")
        while not self._chunks:
            if self._is_closed:
                raise end()
            self._consumer = self._loop.create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        if self._producer is not None:
            _wake(self._producer)
        return self._chunks.pop(0)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
