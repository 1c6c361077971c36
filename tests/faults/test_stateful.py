"""Random schedules: whatever providers and callers do, what a router holds and owes adds up."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncroute.testing import run_virtual
from faults.play import (
    Asking,
    Play,
    Setting,
    askings,
    dawdling,
    prompt,
    settings_of_routers,
    with_blocks,
)
from support import Step

pytestmark = pytest.mark.timeout(60)  # to find the smallest schedule that fails takes a while

bounded = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

everybody = st.lists(askings, min_size=1, max_size=12)


def scripts(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[list[list[Step]]]:
    """What each of four models does at its calls, in turn."""
    return st.lists(st.lists(steps, min_size=1, max_size=5), min_size=4, max_size=4)


@bounded
@given(settings_of_routers, scripts(prompt), everybody)
def test_in_the_callers_task(setting: Setting, does: list[list[Step]], who: list[Asking]) -> None:
    run_virtual(Play(setting, does, [True] * 4).run, who)


@bounded
@given(settings_of_routers, scripts(dawdling), everybody)
def test_supervised(setting: Setting, does: list[list[Step]], who: list[Asking]) -> None:
    run_virtual(Play(setting, does, [False] * 4).run, who)


@bounded
@given(settings_of_routers, scripts(prompt), everybody, st.lists(st.booleans(), min_size=4))
def test_mixed(
    setting: Setting, does: list[list[Step]], who: list[Asking], inline: list[bool]
) -> None:
    run_virtual(Play(setting, does, inline).run, who)


@bounded
@given(settings_of_routers, scripts(with_blocks), everybody, st.lists(st.booleans(), min_size=4))
def test_on_a_loop_that_is_blocked_now_and_then(
    setting: Setting, does: list[list[Step]], who: list[Asking], inline: list[bool]
) -> None:
    run_virtual(Play(setting, does, inline).run, who)
