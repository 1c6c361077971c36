"""Which loop a test runs on, and what every async test is checked for.

A plain `async def test_...` runs on a `VirtualClockLoop` of its own: waiting costs nothing and time
is exact. Marked `real_time` it runs on a real loop. `--loop uvloop` runs only what is marked
`smoke` or `real_time`, on uvloop.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from asyncroute.testing import VirtualClockLoop

# Before numpy is imported: its threads wait for each other where other processes are busy, too.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

Test = Callable[..., Awaitable[None]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("asyncroute")
    group.addoption(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="asyncio",
        help="the real loop; uvloop runs only the tests marked smoke or real_time",
    )
    group.addoption(
        "--live", action="store_true", help="run the tests that talk to real providers, too"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--live"):
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(pytest.mark.skip(reason="talks to a real provider: --live"))
    if config.getoption("--loop") == "uvloop":
        kept = [item for item in items if runs_on_uvloop(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def runs_on_uvloop(item: pytest.Item) -> bool:
    return bool(item.get_closest_marker("smoke") or item.get_closest_marker("real_time"))


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The loop of the requesting test; anyio's plugin makes one per test (and example)."""
    if request.config.getoption("--loop") == "uvloop":
        return "asyncio", {"use_uvloop": True}
    if request.node.get_closest_marker("real_time"):
        return "asyncio", {"loop_factory": asyncio.SelectorEventLoop}
    return "asyncio", {"loop_factory": VirtualClockLoop}


@pytest.fixture(autouse=True, scope="session")
def _nothing_blocks_the_loop() -> Iterator[None]:
    """Raises where our code, running on a loop, calls what blocks: time.sleep, file or socket I/O.

    The virtual loop itself is left out: it is on the stack of everything that runs on it.
    """
    with blockbuster_ctx("asyncroute", excluded_modules=["asyncroute.testing"]):
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Checks every async test, and every example of an async property, for tasks left behind."""
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test):
        pyfuncitem.obj = leaving_no_task(test)
    elif (given := getattr(test, "hypothesis", None)) and inspect.iscoroutinefunction(
        given.inner_test
    ):
        given.inner_test = leaving_no_task(given.inner_test)
    return (yield)


def leaving_no_task(test: Test) -> Test:
    """Fails *test* if tasks it started are pending at its end, though given two turns to finish."""

    @functools.wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> None:
        before = asyncio.all_tasks()
        await test(*args, **kwargs)
        for _ in range(2):
            await asyncio.sleep(0)
        left = sorted(map(repr, asyncio.all_tasks() - before))
        if left:
            pytest.fail("tasks left pending:\n" + "\n".join(left), pytrace=False)

    return checked
