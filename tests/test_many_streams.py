"""A small crowd of streams; the large one is run by hand: `benchmarks/streams.py`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asyncroute.testing import VirtualClockLoop


@pytest.mark.parametrize("promptly", [True, False], ids=["inline", "supervised"])
def test_two_hundred_streams_cancelled_at_once_leave_nothing_and_are_small(
    promptly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    from streams import crowd_in_process

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        crowd, bare = runner.run(crowd_in_process(200, promptly=promptly, seconds=1.0))

    assert crowd.left == {}
    assert crowd.streams == 200
    # The router's part of an open stream; 5 and 8 KiB when this was written.
    assert crowd.kib_each - bare < 20
