"""A nest of async generators that breaks is ended in its own task, the innermost first."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator

import pytest

from asyncroute.providers._generators import Generators

pytestmark = pytest.mark.smoke


class Nest:
    """Two generators, one within the other, as an SDK has them."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, asyncio.Task[None] | None]] = []

    async def inner(self) -> AsyncGenerator[str]:
        try:
            for piece in ("a", "broken", "b"):
                await asyncio.sleep(0.001)
                yield piece
        finally:
            self.ends.append(("inner", asyncio.current_task()))

    async def outer(self) -> AsyncGenerator[str]:
        try:
            async for piece in self.inner():
                if piece == "broken":
                    raise ValueError(piece)
                yield piece
        finally:
            self.ends.append(("outer", asyncio.current_task()))


async def test_what_a_broken_generator_drops_is_closed_here_and_by_no_task() -> None:
    nest, generators = Nest(), Generators()
    tasks = asyncio.all_tasks()
    source = nest.outer()
    assert await generators.watching(lambda: anext(source)) == "a"
    with pytest.raises(ValueError, match="broken"):
        await generators.watching(lambda: anext(source))
    await generators.aclose()
    me = asyncio.current_task()
    assert nest.ends == [("outer", me), ("inner", me)]
    gc.collect()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks


async def test_a_nest_that_is_left_is_closed_from_within() -> None:
    nest, generators = Nest(), Generators()
    source = nest.outer()
    await generators.watching(lambda: anext(source))
    await generators.aclose()
    me = asyncio.current_task()
    assert nest.ends == [("inner", me), ("outer", me)]
    with pytest.raises(StopAsyncIteration):
        await anext(source)


async def test_a_cancelled_step_ends_the_nest_in_its_task() -> None:
    nest, generators = Nest(), Generators()
    source = nest.outer()
    task = asyncio.create_task(generators.watching(lambda: anext(source)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert nest.ends == [("inner", task), ("outer", task)]
    await generators.aclose()


async def test_the_generators_of_other_tasks_are_theirs() -> None:
    mine, theirs, generators = Nest(), Nest(), Generators()
    hooks = sys.get_asyncgen_hooks()
    source, other = mine.outer(), theirs.outer()

    async def elsewhere() -> str:
        return await anext(other)

    task = asyncio.create_task(elsewhere())
    await generators.watching(lambda: anext(source))
    assert await task == "a"
    await generators.aclose()
    assert len(mine.ends) == 2
    assert theirs.ends == []
    assert sys.get_asyncgen_hooks() == hooks
    await other.aclose()
    await asyncio.sleep(0.01)


async def test_one_that_raises_at_its_end_keeps_no_other_open() -> None:
    async def raising() -> AsyncGenerator[str]:
        try:
            yield "a"
        finally:
            raise RuntimeError("at the end")

    nest, generators = Nest(), Generators()
    source, bad = nest.outer(), raising()
    await generators.watching(lambda: anext(source))
    await generators.watching(lambda: anext(bad))
    await generators.aclose()
    assert len(nest.ends) == 2
