"""The owner of a router's tasks: what it promises for each of them, and how it lets go of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asyncroute._errors import RouterStateError
from asyncroute._supervisor import Supervisor


@asynccontextmanager
async def supervising(*, grace: float = 1.0) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    await supervisor.open()
    try:
        yield supervisor
    finally:
        await supervisor.close(grace=grace)


class Work:
    """Takes some seconds, and tells how far it got."""

    def __init__(self, seconds: float = 1.0, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.told: list[str] = []

    async def __call__(self) -> None:
        self.told.append("begun")
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        self.told.append("done")

    def on_end(self) -> None:
        self.told.append("ended")


async def test_its_end_is_told_once_and_it_is_counted_till_then() -> None:
    work = Work()
    async with supervising() as supervisor:
        task = supervisor.spawn(work(), name="work", on_end=work.on_end)
        assert len(supervisor) == 1
        await task
        assert len(supervisor) == 0
    assert work.told == ["begun", "done", "ended"]


async def test_the_end_is_told_of_a_task_that_was_cancelled_before_its_first_step() -> None:
    work = Work()
    async with supervising() as supervisor:
        task = supervisor.spawn(work(), name="work", on_end=work.on_end)
        task.cancel()
        await asyncio.wait((task,))
        assert len(supervisor) == 0
    assert task.cancelled()
    assert work.told == ["ended"]


@pytest.mark.parametrize("begins", [False, True])
async def test_closing_cancels_every_task_and_tells_its_end(begins: bool) -> None:
    work = Work()
    async with supervising() as supervisor:
        task = supervisor.spawn(work(), name="work", on_end=work.on_end)
        if begins:
            await asyncio.sleep(0.1)
    assert task.cancelled()
    assert work.told == (["begun", "ended"] if begins else ["ended"])


async def test_what_is_refused_is_told_to_have_ended() -> None:
    work = Work()
    async with supervising() as supervisor:
        pass
    with pytest.raises(RouterStateError):
        supervisor.spawn(work(), name="work", on_end=work.on_end)
    assert work.told == ["ended"]
    assert len(supervisor) == 0


async def test_an_error_is_logged_and_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    failing, other = Work(1.0, ValueError("no")), Work(2.0)
    with caplog.at_level(logging.ERROR, "asyncroute"):
        async with supervising() as supervisor:
            supervisor.spawn(failing(), name="failing")
            await supervisor.spawn(other(), name="other", on_end=other.on_end)
    assert other.told == ["begun", "done", "ended"]
    assert [record.message for record in caplog.records] == ["a supervised task failed"]


async def test_tasks_that_ignore_cancellation_are_named() -> None:
    async def stubborn() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(10)
        await asyncio.sleep(5)

    supervisor = Supervisor()
    await supervisor.open()
    task = supervisor.spawn(stubborn(), name="stubborn")
    supervisor.spawn(Work(9)(), name="docile")
    await asyncio.sleep(1)
    with pytest.warns(RuntimeWarning, match="ignore cancellation: stubborn$"):
        await supervisor.close(grace=1)
    await task


async def test_whoever_spawns_an_eager_task_knows_it_before_it_begins() -> None:
    work = Work(0)
    loop = asyncio.get_running_loop()

    def eager(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """As `asyncio.eager_task_factory` does, from Python 3.12 on."""
        coroutine.send(None)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    async with supervising() as supervisor:
        loop.set_task_factory(eager)
        try:
            task = supervisor.spawn(work(), name="work", on_end=work.on_end)
        finally:
            loop.set_task_factory(None)
        assert work.told == []
        await task
    assert work.told == ["begun", "done", "ended"]


async def test_a_task_factory_may_await_what_it_is_given() -> None:
    """As Sentry's and OpenTelemetry's instrumentations of asyncio do."""
    work, sibling = Work(0), Work(1)
    loop = asyncio.get_running_loop()

    def traced(loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        async def trace() -> Any:
            return await coroutine

        return asyncio.Task(trace(), loop=loop, **kwargs)

    async with supervising() as supervisor:
        running = supervisor.spawn(sibling(), name="sibling", on_end=sibling.on_end)
        loop.set_task_factory(traced)
        try:
            task = supervisor.spawn(work(), name="work", on_end=work.on_end)
        finally:
            loop.set_task_factory(None)
        await asyncio.wait([task])
        await running
    assert work.told == ["begun", "done", "ended"]
    assert sibling.told == ["begun", "done", "ended"]
