"""Plants classic bugs in a copy of the core, one at a time, and runs the tests that should see it.

    uv run python benchmarks/mutants.py [--only WORD] [--markdown FILE]

A bug is killed if a test fails or hangs. Exits with 1 if one survives, with 2 if the source has
moved so that a bug's text is not there exactly once, or the tests fail without any bug.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FAULTS = "faults/test_fault_cancellation.py faults/test_fault_outcomes.py"

LIMIT = 120.0
"""Seconds after which the tests of one bug are taken to hang."""


class Mutant(NamedTuple):
    """A bug: the module it is in, what stands there, what it becomes, who should see it."""

    name: str
    module: str
    old: str
    new: str
    tests: str


MUTANTS = (
    # Slots, requests and tokens
    Mutant(
        "slot never given back",
        "_grant",
        "        slots.used -= 1\n",
        "",
        "test_admission.py",
    ),
    Mutant(
        "grant given back twice counts twice",
        "_grant",
        "        if not self.is_open:\n            return\n        self.is_open = False\n",
        "        self.is_open = False\n",
        "test_admission.py",
    ),
    Mutant(
        "grant of a caller cancelled in the same turn is lost",
        "_lane",
        "            waiter.future.result().cancel(now)\n",
        "            pass\n",
        "test_admission.py " + FAULTS,
    ),
    Mutant(
        "cancelled head of the queue does not pass the turn on",
        "_lane",
        "        if was_first:  # it may have kept others from what they need\n",
        "        if False:\n",
        "test_admission.py " + FAULTS,
    ),
    Mutant(
        "a slot that comes back wakes nobody",
        "_grant",
        "        if lane.pool:\n            hand_out(lane.pool, now)\n",
        "",
        "test_admission.py",
    ),
    Mutant(
        "expired waiters keep their place",
        "_lane",
        "            elif waiter.start_by < now:\n",
        "            elif False:\n",
        "test_admission.py",
    ),
    Mutant(
        "queue is served last in, first out",
        "_lane",
        "        order = (now - rank, next(self._rules.sequence))\n",
        "        order = (rank - now, -next(self._rules.sequence))\n",
        "test_admission.py",
    ),
    Mutant(
        "small requests overtake a big one that waits for tokens",
        "_lane",
        "        blocked.add(share)\n",
        "",
        "test_admission.py",
    ),
    Mutant(
        "a newcomer overtakes those who wait for a limit",
        "_lane",
        "        if share.waiting:\n            return None\n        bucket = share",
        "        bucket = share",
        "test_admission.py",
    ),
    Mutant(
        "queue without bound",
        "_lane",
        "        if waiting >= self._rules.queue_size:\n",
        "        if False:\n",
        "test_admission.py " + FAULTS,
    ),
    Mutant(
        "requests per minute are paced but not counted",
        "_limits",
        "            if len(starts) >= self.limit:\n                return False\n",
        "",
        "test_limits.py",
    ),
    Mutant(
        "one request too many per minute",
        "_limits",
        "            if len(starts) >= self.limit:\n",
        "            if len(starts) > self.limit:\n",
        "test_limits.py",
    ),
    Mutant(
        "tokens used beyond the reservation are forgotten",
        "_limits",
        "            self.take(actual - reserved, now)\n",
        "            pass\n",
        "test_limits.py",
    ),
    Mutant(
        "unused tokens are not refunded",
        "_limits",
        "            bucket.amount -= reserved - actual\n"
        "            self.level -= reserved - actual\n",
        "            pass\n",
        "test_limits.py",
    ),
    # Attempts and their settlement
    Mutant(
        "settled twice",
        "_attempt",
        "        if self.ended_at is not None:\n            return\n        runtime",
        "        runtime",
        "test_attempt.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "attempt cancelled before its first step is never settled",
        "_stagger",
        "on_end=attempt.settle,",
        "on_end=None,",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "cancelled calls cost nothing",
        "_attempt",
        "        return self.stopped_by is not None or isinstance(\n",
        "        return isinstance(\n",
        "test_attempt.py test_stagger.py test_router.py " + FAULTS,
    ),
    Mutant(
        "our own cancellation is not taken back",
        "_deadlines",
        "            return task.uncancel() > self._cancelling\n",
        "            return task.cancelling() > self._cancelling + 1\n",
        "test_attempt.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "the caller's cancellation, swallowed by a provider, is lost",
        "_attempt",
        "        if is_gone:\n            await deliver_again()\n",
        "",
        "test_attempt.py " + FAULTS,
    ),
    Mutant(
        "answer of the very turn of the deadline is thrown away",
        "_deadlines",
        "tick * TICK, self._let_answers_in, tick, 2, context=Context()",
        "tick * TICK, self._let_answers_in, tick, 0, context=Context()",
        "test_attempt.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "retry after the caller has gone",
        "_attempt",
        "            if is_gone and self.stopped_by is None:\n",
        "            is_gone = False\n            if is_gone and self.stopped_by is None:\n",
        "test_attempt.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "the caller's own time-out counts against the model",
        "_attempt",
        '        if self.stopped_by != "timed_out" or self._is_cut_by_deadline:\n'
        "            return True\n",
        "",
        "test_attempt.py " + FAULTS,
    ),
    Mutant(
        "cancellation counts against the model",
        "_attempt",
        "        if not isinstance(error, ProviderError) or self._says_nothing():\n"
        "            health.forget(permit)\n",
        "        if not isinstance(error, ProviderError) or self._says_nothing():\n"
        "            health.failed(permit, now, may_eject=True)\n",
        "test_attempt.py " + FAULTS,
    ),
    Mutant(
        "probe that ignores its cancellation keeps its place",
        "_stagger",
        "            attempt.give_permit_back(self._course.runtime.now())\n",
        "",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "unknown usage gives the reserved tokens back",
        "_attempt",
        "        if usage is None or usage.estimated:\n            return None\n",
        "        if usage is None or usage.estimated:\n            return 0\n",
        "faults/test_fault_cancellation.py test_attempt.py",
    ),
    Mutant(
        "what was never sent is spent",
        "_attempt",
        "        elif grant is not None:\n            grant.cancel(now)\n",
        "        elif grant is not None:\n            grant.release(now)\n",
        "faults/test_fault_outcomes.py test_attempt.py",
    ),
    Mutant(
        "an answer of no usage is free",
        "_attempt",
        "        if self.completion is None and not self._is_billed_unanswered():\n"
        "            return None\n",
        "        return None\n",
        "test_attempt.py",
    ),
    # Fallbacks, retries, deadlines
    Mutant(
        "attempt started after the deadline",
        "_course",
        "        if self.is_closed or now >= self.deadline:\n"
        "            return None\n"
        "        if self._planned",
        "        if self.is_closed:\n            return None\n        if self._planned",
        "test_router.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "one silent model eats the whole deadline",
        "_course",
        "        return now + half  # some model",
        "        return deadline  # some model",
        "test_router.py test_stagger.py test_fallback.py " + FAULTS,
    ),
    Mutant(
        "retries without a budget",
        "_course",
        "            if at < self.deadline and runtime.retries.withdraw():\n",
        "            if at < self.deadline:\n",
        "test_fallback.py " + FAULTS,
    ),
    Mutant(
        "fallbacks take from the budget of retries",
        "_course",
        "        candidate = self._next_candidate(now)\n        return None if candidate is None",
        "        candidate = self._next_candidate(now)\n"
        '        if role == "fallback" and not self.runtime.retries.withdraw():\n'
        "            return None\n"
        "        return None if candidate is None",
        "test_fallback.py test_router.py " + FAULTS,
    ),
    Mutant(
        "max_cost holds for each attempt alone",
        "_course",
        "        return committed + self._expected_cost(endpoint) <= limit\n",
        "        return self._expected_cost(endpoint) <= limit\n",
        "test_fallback.py test_router.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "bad request is tried elsewhere",
        "_fallback",
        "        return not error.retry_elsewhere\n",
        "        return False\n",
        "test_fallback.py " + FAULTS,
    ),
    Mutant(
        "Retry-After without a cap",
        "_fallback",
        "min(error.retry_after or 0.0, retry_after_cap))",
        "error.retry_after or 0.0)",
        "test_fallback.py",
    ),
    Mutant(
        "next call is sent though the caller's scope is cancelled",
        "_stagger",
        "            await checkpoint_if_cancelled()\n",
        "            pass\n",
        "faults/test_fault_cancellation.py faults/test_promises.py test_stagger.py",
    ),
    Mutant(
        "retry budget saves up without end",
        "_budget",
        "        self._level = min(self._cap, self._level + self.deposits * self._ratio)\n",
        "        self._level = self._level + self.deposits * self._ratio\n",
        "test_budget.py",
    ),
    Mutant(
        "each request adds a whole retry",
        "_budget",
        "        self._ratio = round(ratio * _CALL)\n",
        "        self._ratio = _CALL\n",
        "test_budget.py",
    ),
    # Hedges and races
    Mutant(
        "hedge beside an answer that is there",
        "_hedging",
        "            self.disarm()\n            return first\n",
        "            return first\n",
        "test_stagger.py faults/test_fault_neighbours.py faults/test_fault_cancellation.py",
    ),
    Mutant(
        "hedges of a caller who has gone run on",
        "_hedging",
        "                await self.stagger.abandon()\n",
        "                pass\n",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "hedges of a request that is over lead back to it",
        "_stagger",
        "            self._hedging.stagger = None  # no way back",
        "            pass  # no way back",
        "test_cost.py",
    ),
    Mutant(
        "hedge for a caller who is going",
        "_hedging",
        "        if not self._left or self.is_leaving or",
        "        if not self._left or",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "hedge for a caller to whom a cancellation is delivered again",
        "_hedging",
        "(self._alone is not None and self._alone.is_settled)",
        "False",
        "test_stagger.py",
    ),
    Mutant(
        "the delay of hedges stays what it was",
        "_endpoint",
        "        self._slow_after: float | None = None",
        '        self._slow_after = getattr(self, "_slow_after", None)',
        "test_stagger.py",
    ),
    Mutant(
        "hedges run in nobody's context",
        "_stagger",
        "context = None if self._hedging is None else self._hedging.context.copy()",
        "context = None",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "hedges without a budget",
        "_course",
        "        if not hedges.try_withdraw(cost, self.runtime.metrics.total_spend):\n",
        "        if False:\n",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "losers run on",
        "_stagger",
        "        for attempt in (*self._ended, *self._live):\n            attempt.stop(why)\n",
        "",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "the caller waits for losers as long as they like",
        "_stagger",
        "        grace = runtime.loop.call_later(runtime.loser_grace, self._let_go_all,",
        "        grace = runtime.loop.call_later(1e6, self._let_go_all,",
        "test_stagger.py " + FAULTS,
    ),
    Mutant(
        "superseded calls are dropped from the latencies",
        "_attempt",
        "            metrics.record_superseded(elapsed, cost, tokens_in, tokens_out)\n",
        "            metrics.record_cancelled(cost, tokens_in, tokens_out)\n",
        "test_attempt.py test_stagger.py",
    ),
    Mutant(
        "hedge goes to the same provider",
        "_course",
        "key=lambda e: e.config.provider in avoid)",
        "key=lambda e: e.config.provider not in avoid)",
        "test_stagger.py",
    ),
    Mutant(
        "hedges without a share of the spend",
        "_budget",
        "            if self._booked + cost > allowed:\n",
        "            if False:\n",
        "test_budget.py",
    ),
    Mutant(
        "caller who goes while losers end leaves the winner's stream open",
        "_stagger",
        "            if winner is not None:\n                await winner.leave()",
        "            if False:\n                await winner.leave()",
        "faults/test_fault_streams.py test_stream.py",
    ),
    # Health
    Mutant(
        "ejected after one failure too many",
        "_health",
        "        if self._consecutive >= self._settings.consecutive_failures:\n",
        "        if self._consecutive > self._settings.consecutive_failures:\n",
        "test_health.py",
    ),
    Mutant(
        "everybody is a probe",
        "_health",
        "        if self._probe is not None:\n            return inf\n",
        "",
        "test_health.py",
    ),
    Mutant(
        "forgotten probe keeps all others out",
        "_health",
        "        if permit is self._probe:\n            self._probe = None\n",
        "",
        "test_health.py",
    ),
    Mutant(
        "outcomes of an older epoch count",
        "_health",
        "        if permit.epoch != self._epoch:\n            return False\n",
        "",
        "test_health.py",
    ),
    Mutant(
        "shorter Retry-After shortens a longer one",
        "_health",
        "        if at > self._blocked_until:\n",
        "        if True:\n",
        "test_health.py",
    ),
    Mutant(
        "the last model is ejected",
        "_course",
        "            other is not endpoint and not other.health.is_ejected_hard(now)\n",
        "            other is not endpoint\n",
        "test_router.py " + FAULTS,
    ),
    Mutant(
        "Retry-After stays with one model of its quota group",
        "_endpoint",
        "        for peer in self.peers:\n            peer.health",
        "        for peer in (self,):\n            peer.health",
        "test_router.py " + FAULTS,
    ),
    Mutant(
        "panic while a probe is possible",
        "_course",
        "all(e.health.is_ejected_hard(now) for e in candidates):",
        "all(e.health.available_at(now) > now for e in candidates):",
        "test_router.py " + FAULTS,
    ),
    Mutant(
        "recovered model gets all its traffic at once",
        "_health",
        "        return max(self._settings.slow_start_floor, elapsed / self._slow_start)\n",
        "        return 1.0\n",
        "test_health.py",
    ),
    Mutant(
        "ejections do not grow",
        "_health",
        "min(2 * self._next_length,",
        "min(self._next_length,",
        "test_health.py",
    ),
    Mutant(
        "a success lifts a Retry-After",
        "_health",
        "        self._is_ejected = False\n"
        "        self._ejected_until = -inf\n"
        "        self._recovered_at = now\n",
        "        self._is_ejected = False\n"
        "        self._ejected_until = self._blocked_until = -inf\n"
        "        self._recovered_at = now\n",
        "test_health.py",
    ),
    # Money
    Mutant(
        "money reserved is never settled",
        "_attempt",
        "            runtime.budgets.settle(self._reservation, self.cost, now)\n",
        "            pass\n",
        "test_attempt.py test_budget.py " + FAULTS,
    ),
    Mutant(
        "reserved under one budget though another refuses",
        "_budget",
        "                if held is not None:\n                    self.settle(held, 0.0, now)\n",
        "",
        "test_budget.py",
    ),
    Mutant(
        "spent money never comes back",
        "_budget",
        "            self.left += old.booked\n",
        "            pass\n",
        "test_budget.py",
    ),
    Mutant(
        "all tenants share one account",
        "_budget",
        "            key = value if value is None or isinstance(value, str) else str(value)\n",
        "            key = None\n",
        "test_budget.py",
    ),
    # Sharing a run, and the cache
    Mutant(
        "errors are cached",
        "_executor",
        "                should_keep=is_worth_keeping,\n",
        "                should_keep=lambda _: True,\n",
        "test_cache.py test_single_flight.py test_router.py " + FAULTS,
    ),
    Mutant(
        "a caller who leaves takes the run along",
        "_single_flight",
        "            if flight.leave(waiter) and flight.task is not None:\n",
        "            flight.leave(waiter)\n            if flight.task is not None:\n",
        "test_single_flight.py",
    ),
    Mutant(
        "a new caller joins a dying run",
        "_single_flight",
        "                self._remove(key, flight)\n                flight.task.cancel()\n",
        "                flight.task.cancel()\n",
        "test_single_flight.py",
    ),
    Mutant(
        "the run goes on though all have left",
        "_single_flight",
        "                flight.task.cancel()\n",
        "                pass\n",
        "test_single_flight.py",
    ),
    Mutant(
        "one waiter's error is every waiter's object",
        "_single_flight",
        "        own = _copied(self._error)\n",
        "        own = self._error\n",
        "test_single_flight.py",
    ),
    Mutant(
        "the cache mixes tenants",
        "_caching",
        "        tenant,\n",
        "",
        "test_router.py",
    ),
    Mutant(
        "the cache mixes lengths of answers",
        "_caching",
        "            tokens,\n",
        "",
        "test_router.py",
    ),
    Mutant(
        "requests with tools are cached",
        "_caching",
        '    if params and "tools" in params:\n',
        "    if False:\n",
        "test_router.py",
    ),
    Mutant(
        "old entries are answered for ever",
        "_cache",
        " - entry.stored_at < self._ttl:\n",
        " - entry.stored_at < 1e9:\n",
        "test_cache.py",
    ),
    # Streams
    Mutant(
        "stream that breaks off ends as if complete",
        "_stream_try",
        "            if self._pieces.finish_reason is None:\n",
        "            if False:\n",
        "test_stream.py",
    ),
    Mutant(
        "stream left early is not closed at the provider",
        "_stream_try",
        "                    await source.aclose()\n",
        "                    pass\n",
        "test_stream.py",
    ),
    Mutant(
        "given-up stream of a provider that swallows it goes on for ever",
        "_stream_try",
        "                if self.is_cancelled:\n"
        "                    raise asyncio.CancelledError  # the provider swallowed it\n"
        "                handover",
        "                handover",
        "test_stream.py faults/test_fault_streams.py",
    ),
    Mutant(
        "consumer waits as long as a given-up stream cleans up",
        "_stream_try",
        "            self._handover.close()  # a provider",
        "            pass  # a provider",
        "test_stream.py faults/test_fault_streams.py",
    ),
    # What finds the best without looking at all
    Mutant(
        "changed model keeps its old place among many",
        "_selectors/_index",
        "                    self._lay(place)\n",
        "                    pass\n",
        "test_index.py",
    ),
    Mutant(
        "model set aside is found all the same",
        "_selectors/_index",
        "            if away and endpoints[place] in away:\n                continue\n",
        "",
        "test_index.py",
    ),
    Mutant(
        "the first shelf is taken for the best",
        "_selectors/_index",
        "            while (bound := max(bounds)) >= found[0]:\n",
        "            while found is _NOTHING_FOUND and (bound := max(bounds)) >= found[0]:\n",
        "test_index.py",
    ),
    Mutant(
        "those of one state are taken for equally dear",
        "_selectors/_index",
        "            if bound < highest or (bound == highest and (load",
        "            if best >= 0 or (bound == highest and (load",
        "test_index.py",
    ),
    Mutant(
        "turns of a busy one among many equals are made up for",
        "_selectors/_index",
        "        shelf.time = max(shelf.time, self._due[place])\n",
        "        shelf.time = self._due[place]\n",
        "test_index.py",
    ),
    Mutant(
        "weights do not count among many equals",
        "_selectors/_index",
        "= due = shelf.time + self._strides[place]\n",
        "= due = shelf.time + 1.0\n",
        "test_index.py",
    ),
    Mutant(
        "turns of all kinds of requests go on together",
        "_selectors/_index",
        "        kind = _kind_of(part)\n",
        "        kind = (0, 0, 0)\n",
        "test_index.py",
    ),
    Mutant(
        "one of many that moves to other prices keeps the turns it had",
        "_selectors/_index",
        "        self._due[place] += shelf.time - since\n",
        "",
        "test_index.py",
    ),
    Mutant(
        "a shelf's bounds do not follow",
        "_selectors/_index",
        "        if price_in < self.price_in:\n            self.price_in = price_in\n",
        "        self.price_in = price_in\n",
        "test_index.py",
    ),
    Mutant(
        "changed model keeps its old place among a few",
        "_selectors/_board",
        "            insort(states, (part[0], place))\n",
        "            insort(states, (state, place))\n",
        "test_selectors.py",
    ),
    Mutant(
        "a decision's trace changes with the models",
        "_selectors/_board",
        "self._parts = self._parts.copy()",
        "self._parts",
        "test_selectors.py",
    ),
    Mutant(
        "the best state is taken for the best score",
        "_selectors/_board",
        "            if state < limit:\n",
        "            if highest >= 0:\n",
        "test_selectors.py",
    ),
    Mutant(
        "who was set aside stays so",
        "_aside",
        "self._at <= now < self._until",
        "self._at <= now",
        "test_decide.py",
    ),
    Mutant(
        "who is set aside is known late",
        "_aside",
        "trouble == self._trouble and ",
        "",
        "test_decide.py test_health.py test_router.py",
    ),
    Mutant(
        "a probe that was not sent keeps others out for a while",
        "_attempt",
        "            if permit.is_probe:\n                endpoint.heed(now)  # another",
        "            if False:\n                endpoint.heed(now)  # another",
        "test_decide.py",
    ),
    Mutant(
        "the best of a few is one that is set aside",
        "_selectors/_board",
        "            if away and endpoints[place] in away:\n                continue\n",
        "",
        "test_decide.py test_selectors.py test_router.py",
    ),
    Mutant(
        "a known model never learns again",
        "_endpoint",
        "            for endpoint in self.unlearned:\n                endpoint.learn()\n",
        "",
        "test_selectors.py",
    ),
    Mutant(
        "turns of those set aside are made up for",
        "_selectors/_round_robin",
        "            self._due[each] = again = self._time + self._strides[each]\n",
        "            again = self._due[each]\n",
        "test_selectors.py",
    ),
    # A loop that was blocked
    Mutant(
        "a retry is asked for ever after its deadline",
        "_course",
        "now >= self.deadline:  # as `next_try`, or its caller asks for ever\n",
        "False:\n",
        "faults/test_fault_neighbours.py",
    ),
    Mutant(
        "a turn taken up after the deadline is sent",
        "_attempt",
        "now >= request.deadline:  # a blocked loop may have kept it from going on with its turn\n",
        "False:\n",
        "faults/test_fault_neighbours.py",
    ),
)


class Trial:
    """A copy of the source in which bugs are planted."""

    def __init__(self, folder: Path) -> None:
        self._package = folder / "asyncroute"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "src" / "asyncroute", self._package, ignore=ignored)
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(folder),  # comes before the installed package
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # all those installed load for seconds
        }

    def places(self, mutant: Mutant) -> int:
        """How often the text that the bug replaces is there."""
        return self._file(mutant).read_text().count(mutant.old)

    def killer(self, mutant: Mutant) -> str | None:
        """Plant a bug, run its tests, take it out again; the test that failed, if one did."""
        file = self._file(mutant)
        sound = file.read_text()
        file.write_text(sound.replace(mutant.old, mutant.new))
        try:
            return self.failure(mutant.tests.split(), limit=LIMIT)
        finally:
            file.write_text(sound)

    def failure(self, tests: Iterable[str], limit: float | None = None) -> str | None:
        """Run some test files; the first test that failed, if one did."""
        options = "-x -q --tb=no -p no:cacheprovider -p anyio -p pytest_timeout".split()
        files = [f"tests/{name}" for name in tests]
        command = [sys.executable, "-m", "pytest", *options, *files]
        try:
            ran = subprocess.run(
                command,
                cwd=ROOT,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "hangs"
        failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if failed:
            return failed[0].split()[1].rpartition("::")[2].partition("[")[0]
        if "Timeout" in ran.stdout + ran.stderr:
            return "hangs"
        if ran.returncode:
            raise RuntimeError(f"pytest ended by {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        return None

    def _file(self, mutant: Mutant) -> Path:
        return self._package / f"{mutant.module}.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="bugs whose name or module has this word")
    parser.add_argument("--markdown", type=Path, help="write the table for the documents")
    asked = parser.parse_args()
    chosen = [m for m in MUTANTS if asked.only in m.name or asked.only in m.module]
    rows = ["| module | bug | seen by |", "| --- | --- | --- |"]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder))
        moved = [mutant for mutant in MUTANTS if trial.places(mutant) != 1]
        for mutant in moved:
            count = trial.places(mutant)
            print(f"{mutant.module}.py has moved: {mutant.name!r} fits {count} times, not once")
        if moved:
            return 2
        without = trial.failure(sorted({name for m in chosen for name in m.tests.split()}))
        if without is not None:
            print(f"without any bug {without} fails")
            return 2
        for mutant in chosen:
            started = time.perf_counter()
            killer = trial.killer(mutant)
            survivors += killer is None
            print(
                f"{killer or 'SURVIVED':70.70} {mutant.module}: {mutant.name}",
                f"({time.perf_counter() - started:.0f} s)",
                flush=True,
            )
            test = "**nobody**" if killer is None else f"`{killer}`"
            rows.append(f"| `{mutant.module}` | {mutant.name} | {test} |")
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    if asked.markdown is not None:
        asked.markdown.write_text("\n".join([*rows, ""]))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
