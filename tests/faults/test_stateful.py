"""Random schedules: whatever providers and callers do, what a router holds and owes adds up.

By default a few hundred, the same ones each time. For more, and other ones each time::

    ASYNCROUTE_SCHEDULES=5000 uv run pytest tests/faults/test_stateful.py
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from asyncroute.testing import run_virtual
from faults.callers import Asking, askings
from faults.play import Play, Setting, settings_of_routers
from faults.steps import dawdling, prompt, with_blocks
from support import Step

BY_HAND = int(os.environ.get("ASYNCROUTE_SCHEDULES", "0"))

# To find the smallest schedule that fails takes a while.
pytestmark = pytest.mark.timeout(0 if BY_HAND else 60)

bounded = settings(
    max_examples=BY_HAND or 60,
    derandomize=not BY_HAND,
    database=None,
    deadline=None,
    phases=set(Phase) - {Phase.explain, Phase.target},
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

several = st.lists(askings, min_size=1, max_size=12)
# A crowd that wants one thing at once uses up what a router may retry and hedge.
everybody = st.one_of(several, several, several, askings.map(lambda asking: [asking] * 30))


def scripts(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[list[list[Step]]]:
    """What each of four models does at its calls, in turn."""
    return st.lists(st.lists(steps, min_size=1, max_size=5), min_size=4, max_size=4)


def play(setting: Setting, does: list[list[Step]], who: list[Asking], inline: list[bool]) -> None:
    run_virtual(lambda: Play(setting, does, inline, who).run())


some_inline = st.lists(st.booleans(), min_size=4, max_size=4)


@bounded
@given(settings_of_routers, scripts(prompt), everybody)
def test_in_the_callers_task(setting: Setting, does: list[list[Step]], who: list[Asking]) -> None:
    play(setting, does, who, [True] * 4)


@bounded
@given(settings_of_routers, scripts(dawdling), everybody)
def test_supervised(setting: Setting, does: list[list[Step]], who: list[Asking]) -> None:
    play(setting, does, who, [False] * 4)


@bounded
@given(settings_of_routers, scripts(prompt), everybody, some_inline)
def test_mixed(
    setting: Setting, does: list[list[Step]], who: list[Asking], inline: list[bool]
) -> None:
    play(setting, does, who, inline)


@bounded
@given(settings_of_routers, scripts(with_blocks), everybody, some_inline)
def test_on_a_loop_that_is_blocked_now_and_then(
    setting: Setting, does: list[list[Step]], who: list[Asking], inline: list[bool]
) -> None:
    play(setting, does, who, inline)
