"""The ten promises of the design, one after the other. Those of streams are in `test_stream`."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import subprocess
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from asyncroute import (
    Attempt,
    CacheManager,
    Call,
    Completion,
    ExecutionResult,
    LLMRouter,
    ModelConfig,
    MoneyBudget,
    QueryRequest,
    Usage,
)
from asyncroute.testing import run_virtual
from faults.rig import (
    GRACE,
    Ledger,
    assert_at_rest,
    assert_settled,
    cleans_up,
    every_turn,
    raises_on_cancellation,
    renames_cancellation,
    says_healthy,
    slots,
    stubborn,
    swallows_cancellation,
    works,
)
from support import Step, fails, model, now, router_of

ON_CANCELLATION: dict[str, Step] = {
    "obeys": works(3600),
    "renames it": renames_cancellation(),
    "raises": raises_on_cancellation(ValueError("while cleaning up")),
    "answers": swallows_cancellation(),
    "cleans up": cleans_up(0.02),
}

Ask = Callable[[LLMRouter, float], Coroutine[Any, Any, Any]]


async def _never_sure(completion: Completion) -> bool:
    await asyncio.sleep(3600)
    return True


WAYS: dict[str, Ask] = {
    "sequential": lambda r, t: r.execute("q", timeout=t),
    "hedged": lambda r, t: r.execute("q", timeout=t, mode="hedged", hedge_after=0.05),
    "race": lambda r, t: r.execute("q", timeout=t, mode="race", width=3),
    "cascade": lambda r, t: r.execute("q", timeout=t, mode="cascade", accept=_never_sure),
    "all": lambda r, t: r.execute_all("q", timeout=t, width=3),
}

BOTH = pytest.mark.parametrize("inline", [True, False], ids=["inline", "supervised"])


# 1. Every accepted request ends by its deadline plus a small grace.


@BOTH
@pytest.mark.parametrize("cache", [False, True], ids=["", "cached"])
@pytest.mark.parametrize("how", ON_CANCELLATION)
@pytest.mark.parametrize("way", WAYS)
async def test_a_request_ends_by_its_deadline(
    way: str, how: str, cache: bool, inline: bool
) -> None:
    ledger = Ledger(default=ON_CANCELLATION[how], cancels_promptly=inline)
    async with router_of(ledger, "abcd", cache=cache) as router:
        for timeout in (0.01, 0.5, 3.333):
            started_at = now()
            await WAYS[way](router, timeout)
            assert now() - started_at <= timeout + GRACE
        await asyncio.sleep(1)
        assert_at_rest(router)
        assert_settled(router, ledger)


@pytest.mark.parametrize("how", ON_CANCELLATION)
async def test_a_request_of_one_s_own_function_ends_by_its_deadline(how: str) -> None:
    async def function(config: ModelConfig, request: QueryRequest) -> Completion:
        return await ON_CANCELLATION[how](Call(config, request))

    async with router_of(None, "abc") as router:
        for timeout in (0.01, 0.5, 3.333):
            request, started_at = QueryRequest(query="q", timeout=timeout), now()
            await router.execute_with_fallback(request, function)
            assert now() - started_at <= timeout + GRACE
        await asyncio.sleep(1)
        assert_at_rest(router)


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_ends_by_its_deadline_even_if_no_call_ever_ends(way: str) -> None:
    ledger = Ledger(default=stubborn(60), cancels_promptly=False)
    one_slot = [model(name, max_concurrent_requests=1) for name in "abc"]
    async with router_of(ledger, one_slot) as router:
        for _ in range(3):  # the second and third wait in queues
            started_at = now()
            await WAYS[way](router, 1.0)
            assert now() - started_at <= 1.0 + GRACE
        await asyncio.sleep(61)
        assert_at_rest(router)


async def test_a_request_ends_by_its_deadline_in_a_queue_a_pause_or_a_selector() -> None:
    class Ponders:
        async def select(self, request: Any, candidates: Any, /) -> Any:
            await asyncio.sleep(3600)

    ledger = Ledger({"a": fails("rate_limited", retry_after=0.8), "b": works(3600)})
    limited = [model("a"), model("b", requests_per_minute=1)]
    async with router_of(ledger, limited, selectors={"ponders": Ponders()}) as router:
        waits: list[dict[str, Any]] = [{"models": ["a"]}, {"models": ["b"]}, {"models": ["b"]}]
        for fields in [*waits, {"strategy": "ponders"}]:
            started_at = now()
            result = await router.execute("q", timeout=1.0, **fields)
            assert not result.success
            assert now() - started_at <= 1.0 + GRACE
        assert_at_rest(router)


# 2. Every provider call started is accounted once, with its cost.


class Told:
    """An observer that keeps what it is told of."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.results: list[ExecutionResult] = []

    def on_attempt(self, request: QueryRequest, attempt: Attempt, /) -> None:
        self.attempts.append(attempt)

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        self.results.append(result)


@BOTH
async def test_what_was_sent_is_settled_once_and_to_the_cent(inline: bool) -> None:
    rng = random.Random(7)

    async def anything(call: Call) -> Completion:
        call.usage = Usage(rng.randrange(1, 50), 0)
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random())
            return await fails(rng.choice(["unavailable", "rate_limited", "bad_request"]))(call)
        owed = Usage(rng.randrange(1, 50), rng.randrange(1, 50))
        return await works(rng.expovariate(1), owed)(call)

    ledger, told = Ledger(default=anything, cancels_promptly=inline), Told()
    budget = MoneyBudget(1000.0)
    async with router_of(ledger, "abc", observers=[told], budgets=[budget]) as router:
        tasks: list[asyncio.Task[Any]] = []
        for _ in range(300):
            ask = WAYS[rng.choice(["sequential", "hedged", "race", "all"])]
            tasks.append(asyncio.create_task(ask(router, rng.uniform(0.2, 5))))
            await asyncio.sleep(rng.expovariate(20))
            if rng.random() < 0.3:
                rng.choice(tasks).cancel()
        await asyncio.wait(tasks)
        assert_at_rest(router)
        assert_settled(router, ledger)
        (account,) = router._budgets.snapshot(now())
        assert account.booked == pytest.approx(sum(ledger.billed.values()), abs=1e-9)
        results = [t.result() for t in tasks if not t.cancelled()]
        assert len(told.results) == sum(len(r) if isinstance(r, list) else 1 for r in results)
        sent = [a for a in told.attempts if a.outcome != "shed"]
        assert len(sent) >= len(ledger.entries)
        assert {entry.end for entry in ledger.entries} == {"answered", "failed", "cancelled"}


# 3. When a request ends, nothing of it is open but what ignores its cancellation.


@BOTH
@pytest.mark.parametrize("how", ON_CANCELLATION)
@pytest.mark.parametrize("way", WAYS)
async def test_when_a_request_ends_nothing_of_it_is_open(way: str, how: str, inline: bool) -> None:
    other = Ledger({"a": works(0.3)}, inline, default=ON_CANCELLATION[how])
    budgets = [MoneyBudget(10.0)]
    limits = {"tokens_per_minute": 10_000, "requests_per_minute": 100}
    ids = [model(name, **limits) for name in "abc"]
    async with router_of(other, ids, budgets=budgets, max_workers=5, cache=True) as router:
        await WAYS[way](router, 1.0)
        assert_at_rest(router)  # at once: not a turn later


async def test_what_ignores_cancellation_keeps_its_slot_and_holds_up_nothing_else() -> None:
    ledger = Ledger({"a": stubborn(30)}, cancels_promptly=False)
    ids = [model("a", max_concurrent_requests=2), model("b")]
    async with router_of(ledger, ids) as router:
        result = await router.execute("q", mode="hedged", hedge_after=0.1, timeout=5)
        assert result.model_id == "b"
        assert slots(router) == {"a": 1}
        assert router._registry["b"].assigned == 0
        second = await router.execute("q", models=["a"], timeout=1)  # the other slot
        assert second.error_kind == "deadline_exceeded"
        third = await router.execute("q", models=["a"], timeout=1)
        assert third.error_kind in ("overloaded", "deadline_exceeded")
        assert ledger.calls == ["a", "b", "a"]
        await asyncio.sleep(30)
        assert_at_rest(router)
        assert_settled(router, ledger)


# 4. After the caller has gone, no further paid call starts.


@BOTH
@pytest.mark.parametrize("how", [*ON_CANCELLATION, "fails"])
@pytest.mark.parametrize("way", ["sequential", "hedged", "race", "cascade", "all"])
async def test_after_the_caller_has_gone_no_call_starts(way: str, how: str, inline: bool) -> None:
    step = ON_CANCELLATION.get(how) or fails(after=0.1)
    for after in (0.0, 0.05, 0.1, 0.10000000001, 0.11, 0.5):
        ledger = Ledger(default=step, cancels_promptly=inline)
        async with router_of(ledger, "abcde") as router:
            task = asyncio.create_task(WAYS[way](router, 10.0))
            await asyncio.sleep(after)
            task.cancel()
            left_at = now()
            await asyncio.wait([task])
            sent = len(ledger.entries)
            await asyncio.sleep(20)
            assert len(ledger.entries) == sent
            assert all(entry.sent_at <= left_at for entry in ledger.entries)
            assert_at_rest(router)


# 5. No error and no time-out is cached.


@pytest.mark.parametrize(
    ("step", "timeout"),
    [
        (fails("bad_request"), 1.0),
        (fails("unavailable"), 1.0),
        (works(3600), 0.1),
        (swallows_cancellation(), 0.1),
    ],
    ids=["refused", "failed", "timed out", "cut short"],
)
async def test_nothing_but_an_answer_is_cached(step: Step, timeout: float) -> None:
    script = {"a": step}
    ledger = Ledger(script)
    cache = CacheManager[ExecutionResult]()
    async with router_of(ledger, "a", cache=cache) as router:
        first = await router.execute("q", timeout=timeout)
        assert cache.snapshot().size == int(first.success)
        if not first.success:
            ledger.script = {"a": works(0.1)}
            await asyncio.sleep(100)
            second = await router.execute("q")
            assert (second.success, second.cached) == (True, False)
        assert_at_rest(router)


async def test_an_answer_that_was_not_accepted_is_not_cached() -> None:
    ledger = Ledger()
    cache = CacheManager[ExecutionResult]()
    async with router_of(ledger, "ab", cache=cache) as router:
        result = await router.execute("q", mode="cascade", accept=lambda _: False)
        assert [each.outcome for each in result.attempts] == ["not_accepted"] * 2
        assert cache.snapshot().size == 0


# 6. No window exceeds a limit, nobody starves, no slot is free while somebody could use it.


@BOTH
async def test_no_window_has_more_than_the_limits_and_everybody_is_served(inline: bool) -> None:
    rng = random.Random(3)

    async def as_asked(call: Call) -> Completion:
        used = call.request.metadata["uses"]
        return await works(rng.uniform(0.1, 2), Usage(used // 2, used - used // 2))(call)

    ledger = Ledger({"a": as_asked}, inline)
    limited = model("a", requests_per_minute=30, tokens_per_minute=6000, max_concurrent_requests=4)
    async with router_of(ledger, [limited]) as router:
        tasks: list[asyncio.Task[ExecutionResult]] = []
        for _ in range(200):
            await asyncio.sleep(rng.expovariate(1))
            asked = rng.choice([10, 50, 400])
            tasks.append(
                asyncio.create_task(
                    router.execute(
                        "q",
                        max_tokens=asked,
                        timeout=math.inf,
                        metadata={"uses": rng.randrange(1, asked + 1)},
                    )
                )
            )
        await asyncio.wait(tasks)
        assert all(task.result().success for task in tasks)
        assert_at_rest(router)
        assert_settled(router, ledger)
    sent_at = ledger.sent_at
    used = [entry.call.request.metadata["uses"] for entry in ledger.entries]
    for first, at in enumerate(sent_at):
        last = bisect_left(sent_at, at + 60 - 1e-9)
        assert last - first <= 30
        assert sum(used[first:last]) <= 6000  # none used more than it had reserved


@BOTH
async def test_no_slot_is_free_while_somebody_waits_and_the_first_come_is_served_first(
    inline: bool,
) -> None:
    rng = random.Random(5)

    async def varied(call: Call) -> Completion:
        return await works(rng.choice([0.1, 0.1, 1.0]))(call)

    ledger = Ledger({"a": varied}, inline)
    async with router_of(ledger, [model("a", max_concurrent_requests=3)]) as router:
        lane = router._registry["a"].lane

        def look(_: int) -> None:
            assert len(ledger.running) <= lane.in_flight <= 3
            assert not lane.queued or lane.in_flight == 3

        with every_turn(look):
            tasks = [
                asyncio.create_task(router.execute(str(number), timeout=math.inf))
                for number in range(60)
            ]
            for task in rng.sample(tasks[3:], 20):
                await asyncio.sleep(rng.expovariate(20))
                task.cancel()
            await asyncio.wait(tasks)
        served = [int(entry.call.request.query or "") for entry in ledger.entries]
        assert served == sorted(served)
        assert set(served) >= {n for n, task in enumerate(tasks) if not task.cancelled()}
        assert_at_rest(router)


# 7. Routers share nothing.


def _run_one(number: int, figures: dict[int, Any]) -> None:
    async def scenario() -> None:
        ledger = Ledger({"a": fails(), "b": works(0.1 * number)})
        async with router_of(ledger, "ab", cache=True) as router:
            for text in range(20 * number):
                await router.execute(str(text))
            figures[number] = router.get_statistics(), now(), dict(ledger.count)

    run_virtual(scenario)


def test_routers_in_two_loops_do_not_meet() -> None:
    alone: dict[int, Any] = {}
    for number in (1, 2):
        _run_one(number, alone)
    together: dict[int, Any] = {}
    threads = [threading.Thread(target=_run_one, args=(n, together)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert alone[1] != alone[2]


def test_the_package_keeps_no_state_of_routers() -> None:
    def containers() -> dict[str, str]:
        return {
            f"{name}.{variable}": repr(value)
            for name, module in sys.modules.items()
            if name.partition(".")[0] == "asyncroute"
            for variable, value in vars(module).items()
            if not variable.startswith("__") and isinstance(value, (dict, list, set))
        }

    _run_one(1, {})
    before = containers()
    _run_one(2, {})
    assert containers() == before


async def test_routers_with_one_provider_keep_their_own_health_and_limits() -> None:
    ledger = Ledger({"a": fails("rate_limited", retry_after=30)})
    async with router_of(ledger, "ab") as one, router_of(ledger, "ab") as other:
        await one.execute("q")
        assert one._registry["a"].health.status(now()) == "rate_limited"
        assert says_healthy(other, "a")
        assert other.get_statistics()["total_requests"] == 0


# 8. What is the caller's own doing says nothing about a model's health.


@BOTH
async def test_a_caller_s_own_doing_says_nothing_about_health(inline: bool) -> None:
    async def by_wish(call: Call) -> Completion:
        kind = call.request.metadata.get("kind")
        return await (fails(kind) if kind else works(0.9))(call)

    ledger = Ledger(default=by_wish, cancels_promptly=inline)
    async with router_of(ledger, "ab") as router:
        for _ in range(30):
            await router.execute("q", timeout=0.1)
            task = asyncio.create_task(router.execute("q"))
            await asyncio.sleep(0.1)
            task.cancel()
            for kind in ("bad_request", "content_refused", "context_too_long"):
                await router.execute("q", metadata={"kind": kind})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(router.execute("q"), 0.05)
        assert says_healthy(router, "a")
        assert says_healthy(router, "b")
        assert_at_rest(router)


# 9. Importing does no network and imports no SDK.


def test_importing_does_no_network_and_imports_no_sdk() -> None:
    code = """
import sys
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "urllib.", "http.")):
        raise SystemExit(f"{event} while importing")
sys.addaudithook(hook)
from asyncroute import LLMRouter, ModelConfig
LLMRouter([ModelConfig(model_id="a")])
sdks = {"openai", "anthropic", "google.genai", "mistralai", "httpx", "httpx2", "opentelemetry",
        "prometheus_client", "fastapi", "typer", "rich", "yaml"}
found = sdks & set(sys.modules)
assert not found, found
"""
    # The loop's own socket pair and alike are none of importing: no loop is made here.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# 10. Secrets never appear.

SECRET = "sk-very-secret-0123456789"


class Leaky:
    """An observer that raises with what it was told in its error."""

    def on_result(self, request: QueryRequest, result: ExecutionResult, /) -> None:
        raise ValueError(f"cannot export {request!r} {result!r}")


async def test_secrets_appear_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ledger = Ledger({"a": fails(), "b": works(0.1)})
    secret = {"api_key": SECRET, "extra_headers": {"Authorization": f"Bearer {SECRET}"}}
    ids = [model(name, params=secret) for name in "ab"]
    async with router_of(ledger, ids, observers=[Leaky()], cache=True) as router:
        results = [await router.execute("q", params=secret) for _ in range(2)]
        results += [await router.execute("q", models=["a"], timeout=1, params=secret)]
        decision = await router.route("q", params=secret)
        call = ledger.entries[0].call
        assert call.params["api_key"] == SECRET  # the provider has it
        said: list[Any] = [router, call, decision, decision.explain(), decision.to_dict()]
        said += [json.dumps(decision.to_dict(), default=str), router.models, router._registry]
        said += [router.get_statistics(), decision.selected_model.model_dump_json()]
        for result in results:
            said += [result, result.to_dict(), result.error, result.exception]
            said += [result.attempts, repr(result.exception.__cause__ if result.exception else "")]
        assert SECRET not in repr(said)
        assert SECRET not in str(said)
    assert "cannot export" in caplog.text
    assert SECRET not in caplog.text


def test_secrets_do_not_appear_in_what_pydantic_says_of_mistakes() -> None:
    for wrong in (
        lambda: ModelConfig.model_validate({"params": {"api_key": SECRET}}),
        lambda: ModelConfig.model_validate({"model_id": "a", "params": SECRET}),
        lambda: QueryRequest(params={"api_key": SECRET}),
        lambda: QueryRequest(query="q", messages=[], params={"api_key": SECRET}),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            wrong()
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value)
