"""The async generators that an SDK makes, one within the other, ended in the task that made them.

Where the outermost of a nest raises, or is closed, those within are only dropped. The loop then
closes each in a task of its own, sometime later, and so the connection that the innermost holds.
Whoever knows them all can close them at once, the innermost first.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

__all__ = ("Generators",)

T = TypeVar("T")


async def _close(generator: AsyncGenerator[Any]) -> None:
    with suppress(Exception):
        await generator.aclose()


@final
class Generators:
    """The async generators that were begun by what was awaited under its eyes, oldest first."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: list[AsyncGenerator[Any]] = []

    async def watching(self, make: Callable[[], Awaitable[T]]) -> T:
        """Make and await, and remember the generators begun meanwhile: here, not in other tasks."""
        return await _Watched(make, self)

    async def aclose(self) -> None:
        """Close them all, the innermost first; what they raise at their end is nobody's.

        Cancelling does not stop it from closing the rest.
        """
        async with AsyncExitStack() as stack:
            while self._begun:
                stack.push_async_callback(_close, self._begun.pop(0))

    @contextmanager
    def noting(self) -> Generator[None]:
        """Remember those that the code within begins. It must not await."""
        before = sys.get_asyncgen_hooks().firstiter

        def begun(generator: AsyncGenerator[Any]) -> None:
            self._begun.append(generator)
            if before is not None:
                before(generator)

        sys.set_asyncgen_hooks(firstiter=begun)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(firstiter=before)


class _Watched:
    """Awaits step by step: the hooks are the thread's, and other tasks run between the steps."""

    __slots__ = ("_generators", "_make")

    def __init__(self, make: Callable[[], Awaitable[Any]], generators: Generators) -> None:
        self._make = make
        self._generators = generators

    def __await__(self) -> Generator[Any, Any, Any]:
        generators = self._generators
        try:
            with generators.noting():
                steps = self._make().__await__()
                awaited = next(steps)
            while True:
                try:
                    yield awaited
                except BaseException as error:  # a cancellation mostly
                    with generators.noting():
                        awaited = steps.throw(error)
                else:
                    with generators.noting():
                        awaited = next(steps)
        except StopIteration as end:
            return end.value
