"""Chunks on their way from the task that reads a stream to the one that consumes it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import final

from asyncroute._values import Chunk

__all__ = ("Handover",)

_ROOM = 16
"""Chunks that a producer is ahead of its consumer at most."""


@final
class Handover:
    """A short queue between two tasks. A third of what a memory stream costs.

    Args:
        loop: The loop of both.
        chunks: What is there already; shared, not copied.
    """

    __slots__ = ("_chunks", "_consumer", "_is_closed", "_loop", "_producer")

    def __init__(self, loop: asyncio.AbstractEventLoop, chunks: deque[Chunk]) -> None:
        self._loop = loop
        self._chunks = chunks
        self._consumer: asyncio.Future[None] | None = None
        self._producer: asyncio.Future[None] | None = None
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether the producer has to wait for `room`."""
        return len(self._chunks) >= _ROOM

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits in `take`."""
        return self._consumer is not None

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

    async def take(self) -> Chunk | None:
        """Return the next chunk, or None where nothing more comes."""
        while not self._chunks:
            if self._is_closed:
                return None
            self._consumer = self._loop.create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        if self._producer is not None:
            _wake(self._producer)
        return self._chunks.popleft()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
