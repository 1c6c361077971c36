"""A cache of limited size and age whose misses share one run."""

from __future__ import annotations

import asyncio
import contextlib
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asyncroute._cache import CacheManager
from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from asyncroute._single_flight import Flight


class Clock:
    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cache_of(clock: Clock, *keys: str, max_size: int = 3, ttl: float = 10.0) -> CacheManager[str]:
    cache: CacheManager[str] = CacheManager(max_size, ttl, clock=clock)
    for key in keys:
        cache.put(key, key.upper())
    return cache


# Size


def test_what_was_put_is_found(clock: Clock) -> None:
    cache = cache_of(clock, "a")
    assert cache.get("a") == "A"
    assert cache.get("b") is None


def test_the_entry_used_longest_ago_makes_room(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b", "c")
    cache.get("a")
    cache.put("d", "D")
    assert [key for key in "abcd" if key in cache] == ["a", "c", "d"]
    assert len(cache) == 3
    assert cache.snapshot().evictions == 1


def test_putting_again_is_a_use_and_evicts_nothing(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b", "c")
    cache.put("a", "new")
    assert cache.snapshot().evictions == 0
    cache.put("d", "D")
    assert "b" not in cache
    assert cache.get("a") == "new"


def test_asking_whether_a_key_is_there_is_no_use_of_it(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b", "c")
    assert "a" in cache
    cache.put("d", "D")
    assert "a" not in cache
    assert (cache.snapshot().hits, cache.snapshot().misses) == (0, 0)


# Age


@pytest.mark.parametrize(("age", "found"), [(0.0, "A"), (9.999, "A"), (10.0, None), (11.0, None)])
def test_an_entry_lives_for_less_than_its_time(clock: Clock, age: float, found: str | None) -> None:
    cache = cache_of(clock, "a")
    clock.at = age
    assert ("a" in cache) is (found is not None)
    assert cache.get("a") == found


def test_a_hit_does_not_prolong_a_life(clock: Clock) -> None:
    cache = cache_of(clock, "a")
    clock.at = 9
    assert cache.get("a") == "A"
    clock.at = 10
    assert cache.get("a") is None


def test_putting_again_begins_a_new_life(clock: Clock) -> None:
    cache = cache_of(clock, "a")
    clock.at = 9
    cache.put("a", "new")
    clock.at = 18
    assert cache.get("a") == "new"


def test_an_expired_entry_is_dropped_when_met(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b")
    clock.at = 10
    assert cache.get("a") is None
    assert len(cache) == 1
    stats = cache.snapshot()
    assert (stats.expirations, stats.misses, stats.hits) == (1, 1, 0)


def test_an_expired_entry_that_makes_room_counts_as_no_eviction(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b", "c")
    clock.at = 10
    cache.put("d", "D")
    assert len(cache) == 3
    stats = cache.snapshot()
    assert (stats.expirations, stats.evictions) == (1, 0)


def test_a_clock_that_jumps_ahead_expires_everything(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b")
    clock.at = 1e12
    assert cache.get("a") is None
    assert "b" not in cache


def test_a_clock_that_jumps_back_gives_no_entry_a_longer_life(clock: Clock) -> None:
    clock.at = 1000
    cache = cache_of(clock, "a")
    clock.at = 999
    assert "a" not in cache
    assert cache.get("a") is None
    assert len(cache) == 0


def test_entries_may_live_for_ever(clock: Clock) -> None:
    cache = cache_of(clock, "a", ttl=inf)
    clock.at = 1e300
    assert cache.get("a") == "A"


async def test_the_clock_is_the_running_loops_by_default() -> None:
    cache: CacheManager[str] = CacheManager(ttl=10)
    cache.put("a", "A")
    await asyncio.sleep(9.5)
    assert cache.get("a") == "A"
    await asyncio.sleep(0.5)
    assert cache.get("a") is None


def test_entries_keep_their_age_when_another_clock_is_bound(clock: Clock) -> None:
    clock.at = 500
    cache = cache_of(clock, "a")
    clock.at = 504
    other = Clock(at=3)
    cache.bind(other)
    other.at = 8.5
    assert cache.get("a") == "A"
    other.at = 9
    assert cache.get("a") is None


def test_an_empty_cache_can_be_bound_outside_a_loop(clock: Clock) -> None:
    cache: CacheManager[str] = CacheManager(ttl=10)
    cache.bind(clock)
    cache.put("a", "A")
    assert cache.get("a") == "A"


# Odds and ends


def test_what_is_discarded_or_cleared_is_gone(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b", "c")
    cache.discard("a")
    cache.discard("unknown")
    assert "a" not in cache
    cache.clear()
    assert len(cache) == 0


@pytest.mark.parametrize("max_size", [0, -1, nan])
def test_a_size_below_one_is_refused(max_size: int) -> None:
    with pytest.raises(ConfigurationError, match=f"a whole number, at least 1, got {max_size}"):
        CacheManager(max_size)


@pytest.mark.parametrize("ttl", [0, -1.0, nan, -inf])
def test_a_time_to_live_of_nothing_is_refused(ttl: float) -> None:
    with pytest.raises(ConfigurationError, match=f"ttl must be above 0 seconds, got {ttl}"):
        CacheManager(ttl=ttl)


def test_snapshot_and_repr_tell_how_it_went(clock: Clock) -> None:
    cache = cache_of(clock, "a", "b")
    assert cache.snapshot().hit_rate == 0.0
    for key in "aab?":
        cache.get(key)
    assert repr(cache) == "<CacheManager 2 of 3, ttl 10 s, 3 hits, 1 misses>"
    assert cache.snapshot().to_dict() == {
        "size": 2,
        "max_size": 3,
        "ttl": 10.0,
        "hits": 3,
        "misses": 1,
        "evictions": 0,
        "expirations": 0,
        "running": 0,
        "hit_rate": 0.75,
    }


class Model(RuleBasedStateMachine):
    """The cache against a list of (key, value, stored at), the one used longest ago first."""

    keys = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache: CacheManager[int] = CacheManager(3, 10.0, clock=self.clock)
        self.entries: list[tuple[int, int, float]] = []
        self.asked = 0

    def live(self) -> list[tuple[int, int, float]]:
        return [entry for entry in self.entries if self.clock.at - entry[2] < 10.0]

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 9.5, 10.0]))
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule(key=keys, value=st.integers(0, 99))
    def put(self, key: int, value: int) -> None:
        others = [entry for entry in self.entries if entry[0] != key]
        self.entries = [*others[-2:], (key, value, self.clock.at)]
        self.cache.put(key, value)

    @rule(key=keys)
    def get(self, key: int) -> None:
        self.asked += 1
        found = [entry for entry in self.live() if entry[0] == key]
        self.entries = [entry for entry in self.entries if entry[0] != key] + found
        assert self.cache.get(key) == (found[0][1] if found else None)

    @rule(key=keys)
    def discard(self, key: int) -> None:
        self.entries = [entry for entry in self.entries if entry[0] != key]
        self.cache.discard(key)

    @rule()
    def clear(self) -> None:
        self.entries = []
        self.cache.clear()

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.cache) == len(self.entries) <= 3
        live = {entry[0] for entry in self.live()}
        assert {key for key in range(6) if key in self.cache} == live
        stats = self.cache.snapshot()
        assert stats.hits + stats.misses == self.asked


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgainstANaiveModel = Model.TestCase


# Runs


class Tasks(list[asyncio.Task[None]]):
    def spawn(self, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.append(asyncio.get_running_loop().create_task(run))
        return self[-1]


class Upstream:
    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    async def __call__(self, flight: Flight[str]) -> str:
        self.calls += 1
        answer = f"answer {self.calls}"
        await asyncio.sleep(1)
        if self.error:
            raise self.error
        return answer


@pytest.fixture
def tasks() -> Tasks:
    return Tasks()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


async def test_a_hundred_misses_make_one_run_whose_value_is_kept(
    tasks: Tasks, upstream: Upstream
) -> None:
    cache: CacheManager[str] = CacheManager()

    async def ask() -> str:
        return cache.get("a") or await cache.run("a", upstream, deadline=9, spawn=tasks.spawn)

    assert await asyncio.gather(*[ask() for _ in range(100)]) == ["answer 1"] * 100
    assert await ask() == "answer 1"
    assert upstream.calls == 1
    stats = cache.snapshot()
    assert (stats.misses, stats.hits, stats.running) == (100, 1, 0)


async def test_errors_are_shared_but_never_kept(tasks: Tasks, upstream: Upstream) -> None:
    cache: CacheManager[str] = CacheManager()
    upstream.error = ValueError("no")
    runs = [cache.run("a", upstream, deadline=9, spawn=tasks.spawn) for _ in range(3)]
    outcomes = await asyncio.gather(*runs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3
    assert upstream.calls == 1
    assert "a" not in cache
    upstream.error = None
    assert await cache.run("a", upstream, deadline=9, spawn=tasks.spawn) == "answer 2"
    assert cache.get("a") == "answer 2"


async def test_a_value_not_worth_keeping_is_shared_only(tasks: Tasks, upstream: Upstream) -> None:
    cache: CacheManager[str] = CacheManager()
    runs = [
        cache.run("a", upstream, deadline=9, spawn=tasks.spawn, should_keep="2".__contains__)
        for _ in range(3)
    ]
    assert await asyncio.gather(*runs) == ["answer 1"] * 3
    assert "a" not in cache


async def test_the_value_is_as_old_as_its_arrival(tasks: Tasks, upstream: Upstream) -> None:
    cache: CacheManager[str] = CacheManager(ttl=10)
    await cache.run("a", upstream, deadline=9, spawn=tasks.spawn)
    await asyncio.sleep(9.5)
    assert "a" in cache
    await asyncio.sleep(0.5)
    assert "a" not in cache


@pytest.mark.parametrize("everything", [True, False])
async def test_what_a_run_brings_after_its_key_was_discarded_is_not_kept(
    tasks: Tasks, upstream: Upstream, everything: bool
) -> None:
    cache: CacheManager[str] = CacheManager()
    loop = asyncio.get_running_loop()
    before = loop.create_task(cache.run("a", upstream, deadline=9, spawn=tasks.spawn))
    await asyncio.sleep(0.5)
    assert cache.snapshot().running == 1
    if everything:
        cache.clear()
    else:
        cache.discard("a")
    assert cache.snapshot().running == 0
    assert await before == "answer 1"
    assert "a" not in cache
    assert await cache.run("a", upstream, deadline=9, spawn=tasks.spawn) == "answer 2"
    assert cache.get("a") == "answer 2"


async def test_an_abandoned_run_that_answers_all_the_same_is_not_kept(tasks: Tasks) -> None:
    cache: CacheManager[str] = CacheManager()

    async def stubborn(flight: Flight[str]) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "late"

    with pytest.raises(TimeoutError):
        await cache.run("a", stubborn, deadline=1, spawn=tasks.spawn)
    await tasks[0]
    assert "a" not in cache


async def test_the_last_waiter_to_leave_takes_the_run_along(
    tasks: Tasks, upstream: Upstream
) -> None:
    cache: CacheManager[str] = CacheManager()
    loop = asyncio.get_running_loop()
    callers = [
        loop.create_task(cache.run("a", upstream, deadline=9, spawn=tasks.spawn)) for _ in range(2)
    ]
    await asyncio.sleep(0.5)
    for caller in callers:
        caller.cancel()
    await asyncio.wait([*callers, *tasks])
    assert tasks[0].cancelled()
    assert "a" not in cache
    assert cache.snapshot().running == 0
