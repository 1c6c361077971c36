"""The owner of every task that a router starts. The only module that creates tasks."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, final

from asyncroute._errors import RouterStateError

__all__ = ("Supervisor",)

_log = logging.getLogger("asyncroute")


@final
class Supervisor:
    """A task of its own that holds one `asyncio.TaskGroup`.

    So the body of the router's `async with` is inside no scope of ours: its own errors stay plain,
    and routers may close in any order, from any task of their loop.
    """

    __slots__ = ("_closing", "_group", "_holder", "_is_spawning", "_tasks")

    def __init__(self) -> None:
        self._group: asyncio.TaskGroup | None = None
        self._holder: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_spawning = False

    async def open(self) -> None:
        """Start the holder and wait until its group is open."""
        loop = asyncio.get_running_loop()
        self._closing = loop.create_future()
        opened = loop.create_future()
        self._holder = loop.create_task(
            self._hold(opened), name="asyncroute supervisor", context=Context()
        )
        try:
            await opened
        except BaseException:
            self._holder.cancel()
            raise

    async def _hold(self, opened: asyncio.Future[None]) -> None:
        assert self._closing is not None
        async with asyncio.TaskGroup() as group:
            self._group = group
            if not opened.done():
                opened.set_result(None)
            await self._closing

    def spawn(
        self,
        work: Coroutine[Any, Any, None],
        *,
        name: str,
        context: Context | None = None,
        on_end: Callable[[], object] | None = None,
    ) -> asyncio.Task[None]:
        """Run `work` in a task of the group.

        Args:
            work: What to run. An `Exception` that it lets out is logged, never felt by others.
            name: The task's name, for warnings and debuggers.
            context: The context to run in; a copy of the current one by default.
            on_end: Called when the work has ended, also if it was refused or never took a step.

        Raises:
            RouterStateError: The supervisor is not open.
        """
        if self._group is None or self._closing is None or self._closing.done():
            work.close()
            if on_end is not None:
                on_end()
            raise RouterStateError("the router is not open")
        self._is_spawning = True
        try:
            task = self._group.create_task(self._guarded(work), name=name, context=context)
        finally:
            self._is_spawning = False
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, work, on_end))
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        if self._is_spawning:
            # An eager task, begun within `spawn`: whoever spawns it has to know it first.
            await asyncio.sleep(0)
        try:
            await work
        except Exception:  # one failing child would make the group cancel all the others
            _log.exception("a supervised task failed")

    def _ended(
        self,
        work: Coroutine[Any, Any, None],
        on_end: Callable[[], object] | None,
        task: asyncio.Task[None],
    ) -> None:
        self._tasks.discard(task)
        work.close()  # a task cancelled before its first step has never awaited it
        if on_end is not None:
            on_end()

    async def close(self, *, grace: float) -> None:
        """Cancel every task once, wait `grace` seconds at most, then let go of those that stay.

        Those that ignored their cancellation are named in a `RuntimeWarning`. If the caller is
        cancelled meanwhile, everything has been cancelled already and is not waited for.
        """
        if self._closing is None or self._holder is None:
            return
        if not self._closing.done():
            self._closing.set_result(None)
        for task in tuple(self._tasks):
            task.cancel()
        holder, self._holder, self._group = self._holder, None, None
        await asyncio.wait((holder,), timeout=grace)
        if self._tasks:
            names = ", ".join(sorted(task.get_name() for task in self._tasks))
            warnings.warn(
                f"the router let go of tasks that ignore cancellation: {names}",
                RuntimeWarning,
                stacklevel=3,
            )

    def __len__(self) -> int:
        # One that has just ended is told to us a turn later.
        return sum(not task.done() for task in self._tasks)

    def __repr__(self) -> str:
        return f"<Supervisor: {len(self)} tasks>"
