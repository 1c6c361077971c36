"""What the fault tests stand on: providers that misbehave, their ledger, and what must be left."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

import pytest

from asyncroute import Call, Chunk, Completion, LLMRouter, ModelConfig, QueryRequest, Usage
from support import Step, fails, now

TICK = 0.02
"""Seconds that a deadline may be noticed late."""

LOSER_GRACE = 0.05
"""Seconds that a caller waits at most for an attempt that ignores being given up."""

GRACE = TICK + LOSER_GRACE
"""Seconds by which a request may end after its deadline, whatever its providers do."""

# Providers by what they do. Their usage grows as they work, so that what is owed is always known.


def works(seconds: float = 0.1, usage: Usage | None = None, parts: int = 5) -> Step:
    """Answer after some seconds; say at once what the input costs, and the output as it comes."""
    owed = usage or Usage(10, 5)

    async def step(call: Call) -> Completion:
        call.usage = Usage(owed.input_tokens, 0)
        for part in range(1, parts + 1):
            await asyncio.sleep(seconds / parts)
            call.usage = Usage(owed.input_tokens, owed.output_tokens * part // parts)
        return Completion(call.model.model_id, owed)

    return step


def turns(count: int) -> Step:
    """Answer after so many turns of the loop, at no time at all."""

    async def step(call: Call) -> Completion:
        call.usage = Usage(10, 5)
        for _ in range(count):
            await asyncio.sleep(0)
        return Completion(call.model.model_id, Usage(10, 5))

    return step


def refuses(after: float) -> Step:
    """Fail after some seconds, and bill nothing, also when cancelled before."""
    failing = fails(after=after)

    async def step(call: Call) -> Completion:
        call.usage = Usage()
        return await failing(call)

    return step


def when_cancelled(then: Callable[[Call], Any], *, seconds: float = 3600.0) -> Step:
    """Answer after some seconds, or do something of one's own when cancelled."""

    async def step(call: Call) -> Completion:
        try:
            return await works(seconds)(call)
        except asyncio.CancelledError:
            answer = then(call)
            if asyncio.iscoroutine(answer):
                answer = await answer
            assert isinstance(answer, Completion)
            return answer

    return step


class SdkError(Exception):
    """What some SDK makes of a cancellation."""


def renames_cancellation(*, seconds: float = 3600.0) -> Step:
    """Turn a cancellation into an error of its own."""

    def then(call: Call) -> Completion:
        raise SdkError("request aborted") from None

    return when_cancelled(then, seconds=seconds)


def raises_on_cancellation(error: Exception, *, seconds: float = 3600.0) -> Step:
    """Fail while cleaning up."""

    def then(call: Call) -> Completion:
        raise error

    return when_cancelled(then, seconds=seconds)


def swallows_cancellation(*, seconds: float = 3600.0) -> Step:
    """Return an answer at once when cancelled."""
    return when_cancelled(lambda call: Completion("late", Usage(10, 1)), seconds=seconds)


def cleans_up(for_seconds: float, *, seconds: float = 3600.0) -> Step:
    """Take some seconds to end when cancelled, and be cancelled then."""

    async def then(call: Call) -> Completion:
        await sleep_whatever_happens(for_seconds)
        raise asyncio.CancelledError

    return when_cancelled(then, seconds=seconds)


def stubborn(seconds: float) -> Step:
    """Work on for some seconds, whoever cancels how often."""

    async def step(call: Call) -> Completion:
        call.usage = Usage(10, 0)
        await sleep_whatever_happens(seconds)
        call.usage = Usage(10, 5)
        return Completion(call.model.model_id, Usage(10, 5))

    return step


async def sleep_whatever_happens(seconds: float) -> None:
    until = now() + seconds
    while now() < until:
        try:
            await asyncio.sleep(until - now())
        except asyncio.CancelledError:
            continue


def block_loop(seconds: float) -> None:
    """Let time pass with nobody else getting a turn, as code that blocks does."""
    loop: Any = asyncio.get_running_loop()
    loop._move_to(loop.time() + seconds)


# Their ledger

CHUNKS = 3
"""Chunks of a complete stream."""


@dataclass
class Entry:
    """One call, as the provider's operator sees it.

    Attributes:
        is_told: Whether the router knows what it is billed for: all but a function's lost calls.
        is_read: Whether the provider is at work; a stream rests while nobody reads it.
    """

    call: Call
    sent_at: float
    ended_at: float | None = None
    usage: Usage | None = None
    end: Literal["answered", "failed", "cancelled"] | None = None
    is_told: bool = True
    is_read: bool = True

    @property
    def model_id(self) -> str:
        return self.call.model.model_id

    @property
    def billed(self) -> float:
        return 0.0 if self.usage is None else self.usage.cost(self.call.model)


@dataclass
class Ledger:
    """A provider that plays each model by its script, and keeps an account of every call.

    Attributes:
        script: What each model does; a model without one works for 100 ms.
        cancels_promptly: Whether it may run in the caller's task.
        entries: Every call, in the order of their starts.
    """

    script: Mapping[str, Step] = field(default_factory=dict[str, Step])
    cancels_promptly: bool = True
    default: Step = field(default_factory=works)
    entries: list[Entry] = field(default_factory=list[Entry])

    async def complete(self, call: Call, /) -> Completion:
        with self._entered(call) as entry:
            return await self._answer(entry)

    async def ask(self, model: ModelConfig, request: QueryRequest) -> Completion:
        """Answer as a function of the user's, which has no call to report usage through."""
        with self._entered(Call(model, request, inf)) as entry:
            entry.is_told = False
            completion = await self._answer(entry)
            entry.is_told = entry.end == "answered"
            return completion

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Take each chunk from one step of the script; one of nonsense breaks the stream off."""
        with self._entered(call) as entry:
            for number in range(1, CHUNKS + 1):
                completion = await self._step(entry)
                if not isinstance(completion, Completion):
                    return
                entry.is_read = False
                yield Chunk("word ", finish_reason="stop" if number == CHUNKS else None)
                entry.is_read = True
            entry.end = "answered"

    @contextmanager
    def _entered(self, call: Call) -> Generator[Entry]:
        entry = Entry(call, now())
        self.entries.append(entry)
        try:
            yield entry
        except asyncio.CancelledError:
            entry.end = "cancelled"
            raise
        finally:
            entry.end = entry.end or "failed"
            entry.usage = entry.usage or call.usage
            entry.ended_at = now()

    async def _answer(self, entry: Entry) -> Completion:
        completion = await self._step(entry)
        if isinstance(completion, Completion):  # else a script of nonsense
            entry.usage, entry.end = completion.usage, "answered"
        return completion

    async def _step(self, entry: Entry) -> Completion:
        return await self.script.get(entry.model_id, self.default)(entry.call)

    @property
    def calls(self) -> list[str]:
        return [entry.model_id for entry in self.entries]

    @property
    def count(self) -> Counter[str]:
        return Counter(self.calls)

    @property
    def sent_at(self) -> list[float]:
        return [entry.sent_at for entry in self.entries]

    @property
    def running(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.ended_at is None]

    @property
    def billed(self) -> dict[str, float]:
        """Dollars by model, ended calls only."""
        bills: defaultdict[str, float] = defaultdict(float)
        for entry in self.entries:
            bills[entry.model_id] += entry.billed
        return bills


# What must be left


def assert_at_rest(router: LLMRouter) -> None:
    """Check that nothing is held, waited for, reserved, running or armed any more."""
    executor = router._executor
    assert executor is not None
    runtime = executor.runtime
    left = {
        "requests": len(executor._courses),
        "tasks": len(runtime.supervisor),
        "armed": sum(map(len, runtime.deadlines._buckets.values())),
        "reserved money": sum(s.open for s in router._budgets.snapshot(runtime.now())),
        "shared runs": router._cache.snapshot().running if router._cache else 0,
    }
    workers = router._balancer._workers
    if workers is not None:
        left["workers"], left["waiting for a worker"] = workers.used, len(workers.waiting)
    for endpoint in router._registry:
        lane, name = endpoint.lane, endpoint.config.model_id
        limiter = lane.capacity.limiter
        left[f"{name}: assigned"] = endpoint.assigned
        left[f"{name}: slots"] = lane.in_flight
        left[f"{name}: limiter"] = 0 if limiter is None else limiter.borrowed_tokens
        left[f"{name}: queued"] = lane.queued
        left[f"{name}: probes"] = int(endpoint.health._probe is not None)
        if lane.share is not None:
            left[f"{name}: waiting for limits"] = len(lane.share.waiting)
            left[f"{name}: timers for limits"] = int(lane.share._timer is not None)
    assert {what: count for what, count in left.items() if count} == {}


def assert_settled(router: LLMRouter, ledger: Ledger, *, to_the_cent: bool = True) -> None:
    """Check that every call sent was accounted once, and that the bill is the provider's own."""
    assert ledger.running == []
    figures = router.get_statistics()["model_stats"]
    assert {name: of["total_requests"] for name, of in figures.items()} == {
        name: ledger.count[name] for name in figures
    }
    if to_the_cent:
        assert {name: of["total_cost"] for name, of in figures.items()} == pytest.approx(
            {name: ledger.billed.get(name, 0.0) for name in figures}, abs=1e-11
        )


def slots(router: LLMRouter) -> dict[str, int]:
    """How many slots of each model are taken; models without any are left out."""
    taken = {e.config.model_id: e.lane.in_flight for e in router._registry}
    return {name: count for name, count in taken.items() if count}


def says_healthy(router: LLMRouter, model_id: str) -> bool:
    """Whether nothing was counted against a model's health."""
    seen = router._registry[model_id].health.snapshot(now())
    return (seen.status, seen.failures, seen.ejections) == ("healthy", 0, 0)


@contextmanager
def every_turn(look: Callable[[int], object]) -> Generator[None]:
    """Do something after every turn of the loop, told which one it was.

    What it raises leaves the loop. Turns that only move the clock count too, so that whoever acts
    once, at every number of turns there is, acts at every await there is.
    """
    loop: Any = asyncio.get_running_loop()
    run_once, turn = loop._run_once, 0

    def looked() -> None:
        nonlocal turn
        run_once()
        turn += 1
        look(turn)

    loop._run_once = looked
    try:
        yield
    finally:
        loop._run_once = run_once


@contextmanager
def after_turns(count: int, act: Callable[[], object]) -> Generator[None]:
    """Do something once, between two turns of the loop, when `count` turns have passed."""
    with every_turn(lambda turn: act() if turn == count else None):
        yield


@contextmanager
def no_loop_errors() -> Generator[None]:
    """Check that nothing raised in a callback of the loop, where it would only be logged."""
    loop = asyncio.get_running_loop()
    seen: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    try:
        yield
    finally:
        loop.set_exception_handler(before)
    assert seen == []
