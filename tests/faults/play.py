"""A schedule of everything that may go wrong, played on one router, and what must hold throughout.

It says what each model does at each of its calls, and who asks when, how, for how long, and when
they leave. Durations come from a small grid, so that many things happen at one instant.
"""

from __future__ import annotations

import asyncio
import warnings
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from asyncroute import (
    AsyncRouteError,
    Attempt,
    Call,
    Completion,
    HealthSettings,
    LLMRouter,
    ModelConfig,
    MoneyBudget,
    QueryRequest,
    RouterStateError,
)
from faults.callers import GAP, SHARED, TOTAL, Asking, Caller
from faults.rig import (
    CHUNKS,
    GRACE,
    LOSER_GRACE,
    Entry,
    Ledger,
    assert_at_rest,
    every_turn,
    no_loop_errors,
)
from faults.steps import LONGEST, Blocking
from support import InOrder, Step, model, now

EPSILON = 1e-9
DRAIN = 0.2
SAVED_UP = 10
"""Retries and hedges that a router may make at its start."""
MODELS_A_REQUEST = 3
RESERVED = 256
"""Tokens reserved for a call, at least, before a model has answered often enough."""
ENOUGH = 20
MOST_TIMERS = 200
MOST_TURNS = 5000
"""Turns of the loop at one instant: more, and somebody waits without waiting."""


@dataclass(frozen=True)
class Setting:
    """What a router is made of, and when it closes."""

    slots: tuple[int, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    is_one_account: bool
    money: MoneyBudget | None
    max_workers: int | None
    queue_size: int
    fair_by: str | None
    adaptive: bool
    cache: bool
    closes_after: float | None


settings_of_routers = st.builds(
    Setting,
    slots=st.lists(st.sampled_from([1, 2, 3, 10]), min_size=1, max_size=4).map(tuple),
    requests_per_minute=st.sampled_from([None, None, None, 3, 12]),
    tokens_per_minute=st.sampled_from([None, None, None, 600, 3000]),
    is_one_account=st.booleans(),
    money=st.sampled_from(
        [
            *[None] * 6,
            MoneyBudget(0.002),
            MoneyBudget(0.001, per="tenant"),
            MoneyBudget(0.001, per="model"),
        ]
    ),
    max_workers=st.sampled_from([None, None, None, 1, 2]),
    queue_size=st.sampled_from([0, 2, 1000, 1000, 1000]),
    fair_by=st.sampled_from([None, "tenant"]),
    adaptive=st.booleans(),
    cache=st.booleans(),
    closes_after=st.sampled_from([*[None] * 6, 0.1, 0.5]),
)


class Play:
    """One schedule, played on one router."""

    def __init__(
        self,
        setting: Setting,
        scripts: list[list[Step]],
        inline: list[bool],
        askings: list[Asking],
    ) -> None:
        self.setting = setting
        self.callers = [Caller(number, asking) for number, asking in enumerate(askings)]
        self.blocked = 0.0
        self.closed_at: float | None = None
        self.roles: Counter[str] = Counter()
        self.turned_at, self.turns = 0.0, 0
        self.ledgers = {
            name: Ledger({name: self.in_a_circle(script)}, cancels_promptly=is_inline)
            for name, _, script, is_inline in zip(
                "abcd", setting.slots, scripts, inline, strict=False
            )
        }
        self.router = self.made()

    def made(self) -> LLMRouter:
        setting = self.setting
        return LLMRouter(
            [
                model(
                    name,
                    provider=name,
                    cost_per_1k_tokens=0.001 * price,
                    max_concurrent_requests=slots,
                    requests_per_minute=setting.requests_per_minute,
                    tokens_per_minute=setting.tokens_per_minute,
                    quota_group="account" if setting.is_one_account else None,
                    avg_latency_ms=200,
                )
                for price, (name, slots) in enumerate(
                    zip(self.ledgers, setting.slots, strict=True), 1
                )
            ],
            dict(self.ledgers),
            selectors={"balanced": InOrder()},
            observers=[self],
            seed=1,
            budgets=[] if setting.money is None else [setting.money],
            health=HealthSettings(consecutive_failures=2, base_ejection=0.5),
            max_workers=setting.max_workers,
            queue_size=setting.queue_size,
            fair_by=setting.fair_by,
            adaptive_concurrency=setting.adaptive,
            cache=setting.cache,
            drain_timeout=DRAIN,
        )

    def in_a_circle(self, script: list[Step]) -> Step:
        steps = 0

        async def step(call: Call) -> Completion:
            nonlocal steps
            does = script[steps % len(script)]
            steps += 1
            if isinstance(does, Blocking):
                self.blocked += does.for_seconds
            return await does(call)

        return step

    async def call_model(self, model: ModelConfig, request: QueryRequest) -> Completion:
        """Call a model by a function of the user's."""
        return await self.ledgers[model.model_id].ask(model, request)

    def on_attempt(self, _: QueryRequest, attempt: Attempt) -> None:
        self.roles[attempt.role] += 1

    async def run(self) -> None:
        with every_turn(lambda _: self.look()), no_loop_errors(), warnings_of_the_let_go():
            async with self.router:
                tasks = [
                    asyncio.create_task(caller.ask(self.router, self.call_model))
                    for caller in self.callers
                ]
                await asyncio.wait(tasks, timeout=self.setting.closes_after)
                if not all(task.done() for task in tasks):
                    self.closed_at = now()
            await asyncio.gather(*tasks)
            await asyncio.sleep(LONGEST)
        for caller in self.callers:
            self.check(caller)
        self.check_calls()
        self.check_limits()
        self.check_rest()

    # While it goes on

    def look(self) -> None:
        loop: Any = asyncio.get_running_loop()
        self.turns = self.turns + 1 if now() == self.turned_at else 0
        self.turned_at = now()
        assert self.turns < MOST_TURNS, "the loop turns and turns, and no time passes"
        is_idle = not loop._ready  # whatever happened at this instant has been taken up
        workers = self.router._balancer._workers
        if workers is not None:
            assert workers.used <= workers.limit
        for endpoint in self.router._registry:
            lane, slots = endpoint.lane, endpoint.config.max_concurrent_requests
            running = self.ledgers[endpoint.config.model_id].running
            working = sum(entry.is_read for entry in running)
            assert working <= lane.in_flight <= slots, "a call runs without a slot"
            assert lane.in_flight + lane.queued <= endpoint.assigned
            if is_idle:
                assert lane.in_flight <= len(running), "a slot is held for no call"
            if lane.queued and lane.capacity.limit and self.is_bound_by_slots_only:
                assert lane.in_flight >= lane.capacity.limit, "a slot is free, somebody waits"
        assert len(loop._scheduled) < MOST_TIMERS + 10 * len(self.callers)

    @property
    def is_bound_by_slots_only(self) -> bool:
        setting = self.setting
        is_metered = setting.requests_per_minute or setting.tokens_per_minute
        return not is_metered and setting.max_workers is None

    # When it is over

    def check(self, caller: Caller) -> None:
        error, asking = caller.error, caller.asking
        if isinstance(error, asyncio.CancelledError):
            assert caller.left_at is not None, "cancelled, though nobody left"
        elif isinstance(error, RouterStateError):
            assert self.closed_at is not None, "closed, though nobody closed it"
        elif asking.way == "stream":
            assert error is None or isinstance(error, AsyncRouteError)
        else:
            assert error is None, error
        assert caller.ended_at <= self.latest_end(caller) + self.blocked + EPSILON, "it ended late"
        assert caller.slowest_chunk <= GAP + GRACE + self.blocked + EPSILON, "no chunk, no error"
        for result in caller.results:
            assert result.success == (result.error is None)
            assert result.success <= (result.response is not None)
            assert not isinstance(result.exception, BaseExceptionGroup)
            outcomes = [attempt.outcome for attempt in result.attempts]
            assert outcomes.count("won") <= 1
            is_answered = "won" in outcomes or "not_accepted" in outcomes
            assert is_answered or result.cached or not result.success
            if asking.way == "stream" and result.success:
                assert result.response == "word " * CHUNKS, "a part passes for the whole"

    def latest_end(self, caller: Caller) -> float:
        """The latest instant at which a request may end, whatever its providers do."""
        asking = caller.asking
        latest = caller.came_at + asking.timeout + GRACE
        # What has come of a stream may be read at leisure: it holds nothing any more.
        reading = 0.0 if caller.opened_at is None else CHUNKS * asking.pause
        if caller.opened_at is not None:
            latest = caller.opened_at + TOTAL + GRACE + reading
        if caller.left_at is not None:
            latest = min(latest, caller.left_at + LOSER_GRACE)
        if self.closed_at is not None and caller.came_at < self.closed_at:
            latest = min(latest, self.closed_at + DRAIN + LOSER_GRACE + reading)
        return latest

    @property
    def entries(self) -> list[Entry]:
        return [entry for ledger in self.ledgers.values() for entry in ledger.entries]

    def check_calls(self) -> None:
        for entry in self.entries:
            served = self.served_by(entry)
            deadline = max(caller.came_at + caller.asking.timeout for caller in served)
            assert entry.sent_at < deadline + EPSILON, "sent after the deadline"
            last = max(served, key=lambda caller: caller.ended_at)
            if last.left_at is not None:
                assert entry.sent_at <= last.left_at + self.blocked, "sent for nobody"
            assert entry.sent_at <= last.ended_at + self.blocked, "sent for nobody"
            if self.closed_at is not None:
                assert entry.sent_at <= self.closed_at + DRAIN + self.blocked, "sent when closed"
        requests = len(self.callers)
        most = sum(max(MODELS_A_REQUEST, caller.asking.width) for caller in self.callers)
        extra = SAVED_UP + requests / 10
        assert len(self.entries) <= most + extra, "more than models and budget allow"
        assert self.roles["retry"] + self.roles["hedge"] <= extra
        assert self.roles["hedge"] <= SAVED_UP + 0.05 * requests

    def served_by(self, entry: Entry) -> list[Caller]:
        """The callers for whom this call may have been made: all that share its run."""
        caller = self.callers[entry.call.request.metadata["number"]]
        query = caller.asking.query
        if query is None or not self.setting.cache or caller.asking.way not in SHARED:
            return [caller]
        return [
            other
            for other in self.callers
            if other.asking.query == query and other.asking.way in SHARED
        ]

    def check_limits(self) -> None:
        accounts = [ledger.entries for ledger in self.ledgers.values()]
        if self.setting.is_one_account:
            accounts = [sorted(self.entries, key=lambda entry: entry.sent_at)]
        for entries in accounts:
            self.check_requests_per_minute([entry.sent_at for entry in entries])
            self.check_tokens_per_minute(entries)
        money = self.setting.money
        if money is not None:
            spent: defaultdict[str, float] = defaultdict(float)
            for entry in self.entries:
                tenant = entry.call.request.metadata["tenant"]
                whose = {"model": entry.model_id, "tenant": tenant}.get(money.per, "router")
                spent[whose] += entry.billed
            assert max(spent.values(), default=0.0) <= money.limit

    def check_requests_per_minute(self, sent_at: list[float]) -> None:
        limit = self.setting.requests_per_minute
        for number, at in enumerate(sent_at):
            in_window = bisect_left(sent_at, at + 60 - EPSILON) - number
            assert limit is None or in_window <= limit

    def check_tokens_per_minute(self, entries: list[Entry]) -> None:
        limit = self.setting.tokens_per_minute
        if limit is None:
            return
        for entry in entries[:ENOUGH]:
            beside = sum(
                other.sent_at <= entry.sent_at < (other.ended_at or 0.0) for other in entries
            )
            assert beside * RESERVED <= limit

    def check_rest(self) -> None:
        assert_at_rest(self.router)
        figures = self.router.get_statistics()
        for name, ledger in self.ledgers.items():
            assert_settled(figures["model_stats"][name], ledger)
        assert figures["total_requests"] >= sum(len(caller.results) > 0 for caller in self.callers)
        loop: Any = asyncio.get_running_loop()
        assert [timer for timer in loop._scheduled if not timer.cancelled()] == []


def assert_settled(figures: dict[str, Any], ledger: Ledger) -> None:
    assert ledger.running == []
    assert figures["total_requests"] == len(ledger.entries)
    told = sum(entry.billed for entry in ledger.entries if entry.is_told)
    assert abs(figures["total_cost"] - figures["estimated_cost"] - told) < 1e-11
    answered = sum(entry.end == "answered" for entry in ledger.entries)
    assert figures["successes"] == answered


@contextmanager
def warnings_of_the_let_go() -> Generator[None]:
    """Take no notice of the warning that names those that ignore the end of their router."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the router let go", RuntimeWarning)
        yield
