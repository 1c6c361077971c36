"""What the tests of all providers share."""

from __future__ import annotations

import asyncio
import gc
import platform
import threading
from typing import TYPE_CHECKING

import httpcore2  # noqa: F401 — see below
import pytest
from served import Scripted, nothing_open

if TYPE_CHECKING:
    from collections.abc import Iterator


# Providers are made before a loop runs; fixtures make them within one. What the first client of a
# process finds out by reading files and starting programs is found out here.
platform.platform()
platform.processor()


@pytest.fixture(autouse=True, scope="module")
def _what_an_sdk_brings_is_not_collected() -> None:
    """Tests that count what is left collect garbage: walking an SDK takes them half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def told() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=lambda: asyncio.run(server.run()), daemon=True)
    thread.start()
    assert server.started.wait(5)
    yield server
    asyncio.run(nothing_open(server))
    server.stop()
    thread.join()
