"""Plants classic bugs in a copy of the core, one at a time, and runs the tests against it.

    uv run python benchmarks/mutants.py [--only WORD] [--limit 120] [--markdown FILE]

A bug is killed if a test fails or the time limit passes. Exits with 1 if one survives that is not
known to change nothing, and with 2 if a bug's text is no longer found once in the source.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
FAULTS = "faults/test_fault_cancellation.py faults/test_fault_outcomes.py"


class Mutant(NamedTuple):
    """A bug: in which module, what the text is, what it becomes, and the tests to ask."""

    name: str
    module: str
    old: str
    new: str
    tests: str
    equivalent: str = ""
    """Why no test can tell, where none can."""


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
        "test_admission.py test_survivors.py",
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
        "test_admission.py test_survivors.py",
    ),
    Mutant(
        "queue without bound",
        "_lane",
        "        if waiting >= self._rules.queue_size:\n",
        "        if False:\n",
        "test_admission.py " + FAULTS,
    ),
    Mutant(
        "limit per minute counted in whole minutes only by the pace",
        "_limits",
        "        if len(starts) >= self.limit and starts[-self.limit] + WINDOW > now:\n"
        "            return False\n",
        "",
        "test_limits.py",
    ),
    Mutant(
        "one request too many per minute",
        "_limits",
        "        if len(starts) >= self.limit and",
        "        if len(starts) > self.limit and",
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
        "        if self.is_settled:\n            return\n        self.is_settled = True\n",
        "        self.is_settled = True\n",
        "test_attempt.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "attempt cancelled before its first step is never settled",
        "_stagger",
        "        attempt.task.add_done_callback(lambda _: attempt.settle())\n",
        "",
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
        "test_stagger.py test_survivors.py " + FAULTS,
    ),
    # Fallbacks, retries, deadlines
    Mutant(
        "attempt started after the deadline",
        "_course",
        "        if self.is_closed or now >= self.deadline:\n"
        "            return None\n        if self._planned",
        "        if self.is_closed:\n            return None\n        if self._planned",
        "test_router.py test_stagger.py " + FAULTS,
    ),
    Mutant(
        "one silent model eats the whole deadline",
        "_course",
        "        half = left / 2\n",
        "        return self.deadline\n        half = left / 2\n",
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
        '        if role != "retry":\n            self._models += 1\n',
        '        if role != "retry":\n'
        "            self._models += 1\n"
        '            if role == "fallback" and not self.runtime.retries.withdraw():\n'
        "                self._max_models = self._models\n",
        "test_fallback.py test_router.py test_survivors.py " + FAULTS,
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
    # Hedges and races
    Mutant(
        "hedge is started when the answer is there",
        "_stagger",
        "        if self._is_over or self._ended or self._is_leaving:\n",
        "        if self._is_over or self._is_leaving:\n",
        "test_stagger.py " + FAULTS,
        equivalent=(
            "whatever has ended has also woken the caller, who stops the stagger in the next turn;"
            " only a failure and the timer in one turn differ, and then one hedge starts a turn"
            " sooner than the fallback would"
        ),
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
        "test_attempt.py test_stagger.py test_survivors.py",
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
        "        if permit is self._probe:\n",
        "test_health.py",
    ),
    Mutant(
        "outcomes of an older epoch count",
        "_health",
        'it never lifts a Retry-After."""\n'
        "        if permit.epoch != self._epoch:\n            return\n",
        'it never lifts a Retry-After."""\n',
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
        "test_router.py test_survivors.py " + FAULTS,
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
        "test_router.py test_survivors.py " + FAULTS,
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
    # Sharing a run
    Mutant(
        "errors are cached",
        "_executor",
        "                    should_keep=is_worth_keeping,\n",
        "                    should_keep=lambda _: True,\n",
        "test_cache.py test_single_flight.py test_router.py " + FAULTS,
    ),
    # Streams
    Mutant(
        "stream that breaks off ends as if complete",
        "_stream_try",
        "            if self._finish_reason is None:\n",
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
        "        if self.is_cancelled:\n            raise asyncio.CancelledError",
        "        if False:\n            raise asyncio.CancelledError",
        "test_stream.py test_soak.py",
    ),
    Mutant(
        "consumer waits as long as a given-up stream cleans up",
        "_stream_try",
        "            self._wake_consumer()  # a provider",
        "            pass  # a provider",
        "test_stream.py test_survivors.py",
    ),
)


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    is_killed: bool
    how: str
    seconds: float


class Trial:
    """A copy of the source in which bugs are planted."""

    def __init__(self, folder: Path, limit: float) -> None:
        self._source = folder / "src"
        self._limit = limit
        shutil.copytree(
            ROOT / "src", self._source, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(self._source),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        }

    def is_planted(self, mutant: Mutant) -> bool:
        """Whether the bug's text is found, once."""
        return self._file(mutant).read_text().count(mutant.old) == 1

    def of(self, mutant: Mutant) -> Verdict:
        """Plant a bug, run its tests, and take it out again."""
        file = self._file(mutant)
        sound = file.read_text()
        file.write_text(sound.replace(mutant.old, mutant.new))
        started = time.perf_counter()
        try:
            is_killed, how = self.run(mutant.tests)
        finally:
            file.write_text(sound)
        return Verdict(mutant, is_killed, how, time.perf_counter() - started)

    def run(self, tests: str) -> tuple[bool, str]:
        """Run tests; whether one failed, and which."""
        files = [f"tests/{name}" for name in tests.split() if (ROOT / "tests" / name).exists()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
        try:
            ran = subprocess.run(
                [*command, "--timeout=20", *files],
                cwd=ROOT,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=self._limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True, "time limit"
        if ran.returncode not in (0, 1):
            raise RuntimeError(
                f"the tests ended by {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
            )
        failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return ran.returncode == 1, failed[0].split()[1].rpartition("::")[2] if failed else ""

    def _file(self, mutant: Mutant) -> Path:
        return self._source / "asyncroute" / f"{mutant.module}.py"


def told(verdict: Verdict) -> tuple[str, str, str, str]:
    mutant = verdict.mutant
    if verdict.is_killed:
        return mutant.module, mutant.name, "killed", verdict.how
    return (
        mutant.module,
        mutant.name,
        "SURVIVED" if not mutant.equivalent else "equivalent",
        (mutant.equivalent),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose name or module has this word")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for each")
    parser.add_argument("--markdown", type=Path, help="write the table for the documents")
    asked = parser.parse_args()
    console = Console()
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), asked.limit)
        stale = [mutant.name for mutant in MUTANTS if not trial.is_planted(mutant)]
        if stale:
            console.print(f"not found once in the source: {', '.join(stale)}")
            return 2
        chosen = [m for m in MUTANTS if asked.only in m.name or asked.only in m.module]
        is_red, how = trial.run(" ".join(dict.fromkeys(" ".join(m.tests for m in chosen).split())))
        if is_red:
            console.print(f"without any bug the tests fail: {how}")
            return 2
        for mutant in chosen:
            verdicts.append(trial.of(mutant))
            console.print(*told(verdicts[-1])[1:], f"{verdicts[-1].seconds:.0f} s", sep="  ")
    killed = sum(verdict.is_killed for verdict in verdicts)
    table = Table("module", "bug", "", "by", title=f"{killed} of {len(verdicts)} killed")
    for verdict in verdicts:
        table.add_row(*told(verdict))
    console.print(table)
    if asked.markdown is not None:
        rows = [f"| `{module}` | {name} | {end} |" for module, name, end, _ in map(told, verdicts)]
        asked.markdown.write_text("\n".join(["| module | bug | |", "| --- | --- | --- |", *rows]))
    survivors = [v for v in verdicts if not v.is_killed and not v.mutant.equivalent]
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
