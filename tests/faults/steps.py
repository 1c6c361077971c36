"""What models do in random schedules. Each call owes something from its start on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import strategies as st

from asyncroute import Call, Completion, Usage
from faults.rig import (
    block_loop,
    cleans_up,
    raises_on_cancellation,
    renames_cancellation,
    stubborn,
    swallows_cancellation,
    turns,
    works,
)
from support import KINDS, Step

LONGEST = 40.0
"""Seconds after which even the most stubborn call of a schedule has ended, a stream's three."""

seconds = st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1, 0.1, 0.2, 0.5, 1.0, 2.0])


def bills(step: Callable[[Call], Awaitable[Any]]) -> Step:
    """Let a call owe something from its start on, so that no cost is an estimate."""

    async def billed(call: Call) -> Completion:
        call.usage = Usage(10, 0)
        return await step(call)

    return billed


def failing(kind: str, after: float, retry_after: float | None) -> Step:
    async def step(call: Call) -> Completion:
        await asyncio.sleep(after)
        raise KINDS[kind]("scripted", retry_after=retry_after)

    return bills(step)


class Blocking:
    """Blocks the loop for some seconds, and answers."""

    def __init__(self, for_seconds: float) -> None:
        self.for_seconds = for_seconds

    async def __call__(self, call: Call) -> Completion:
        call.usage = Usage(10, 0)
        block_loop(self.for_seconds)
        await asyncio.sleep(0.01)
        return Completion("blocked", Usage(10, 1))


@bills
async def cancels_itself(call: Call) -> Completion:
    raise asyncio.CancelledError


@bills
async def answers_nonsense(call: Call) -> Any:
    await asyncio.sleep(0.01)
    return 42


@bills
async def has_a_bug(call: Call) -> Completion:
    raise ExceptionGroup("a group of its own", [ValueError("bug"), KeyError("bug")])


prompt = st.one_of(
    seconds.map(works),
    seconds.map(works),
    st.builds(
        failing,
        st.sampled_from(sorted(KINDS)),
        seconds,
        st.sampled_from([None, None, 0.05, 0.5, -1.0, float("nan")]),
    ),
    st.integers(0, 3).map(turns),
    st.sampled_from(
        [
            works(3600.0),
            bills(renames_cancellation()),
            bills(raises_on_cancellation(ValueError("while cleaning up"))),
            bills(swallows_cancellation()),
            cancels_itself,
            answers_nonsense,
            has_a_bug,
        ]
    ),
)
dawdling = st.one_of(
    prompt,
    st.sampled_from([cleans_up(0.03), cleans_up(0.5)]).map(bills),
    st.sampled_from([0.1, 2.0, 10.0]).map(stubborn),
)
with_blocks = st.one_of(prompt, st.sampled_from([0.05, 0.3, 1.0]).map(Blocking))
