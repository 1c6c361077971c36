"""What routing costs beside the call, as multiples of a hand-written minimum, in one run.

    uv run python benchmarks/overhead.py [--loop uvloop] [--rounds 25] [--json FILE]

CPU time; medians of the ratios of interleaved rounds. Believe them to about 15 %.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from email import message_from_string
from functools import partial
from pathlib import Path
from statistics import median

from floor import Minimum, MinimumWithCache, MinimumWithFallback, best_of
from measure import PROMPT, Case, calls_per_second, interleaved, ratio, ratio_beyond, run, surplus
from report import Report, Row
from subject import (
    AN_HOUR,
    FIELDS,
    NEVER_EJECTED,
    REQUEST,
    FailsFirst,
    FailsOnce,
    Instant,
    Silent,
    Sleeps,
    router_of,
)

GATES = {
    "execute, ready request": (2.0, 1.7),
    "execute, text and keywords": (2.7, 2.3),
    "execute, cached, by text": (0.4, 0.17),
    "execute, cached, by messages": (0.5, 0.25),
    "route": (0.7, 0.5),
    "execute, first fails, fallback answers": (4.5, 3.8),
    "race of two, both settled": (12.0, 8.0),
    "execute, supervised provider": (4.0, 3.0),
}
"""At most, and hoped for, in multiples of the minimum."""

EXTRAS = {"hedge armed": (0.4, 0.15), "one observer": (0.3, 0.1)}
"""The same beyond a ready request without."""

BUSY = ("execute, ready request", "route")
"""What is measured once more as in an application, see `after_other_work`."""

CALLERS, CALLS = 1000, 10
MESSAGES = [
    {"role": "system", "content": "You answer in plain words."},
    {"role": "user", "content": PROMPT},
]


HEAD = "".join(f"X-Header-{n}: some value; of=header; number={n}\n" for n in range(8))
"""What an application parses between two calls of a router, or something of the kind."""


def after_other_work(cases: dict[str, Case]) -> dict[str, Case]:
    """Each case after some work of another kind, by its name; and that work alone, as "nothing".

    In a loop of its own a short function is known to the processor by heart: its branches, and all
    it touches. Between two calls of a router an application does something else.
    """

    async def nothing() -> None: ...

    def preceded(case: Case) -> Case:
        async def both() -> None:
            message_from_string(HEAD)
            await case()

        return both

    return {f"{name}, after other work": preceded(case) for name, case in cases.items()} | {
        NOTHING: preceded(nothing)
    }


NOTHING = "other work"


def minima() -> dict[str, Case]:
    """The minimum, which is 1, and what else is done by hand."""

    async def answer(model: str, prompt: str) -> str:
        return "ok"

    calls = 0

    async def fails_first(model: str, prompt: str) -> str:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ConnectionError("down")
        return "ok"

    minimum = Minimum(8, answer)
    falling_back = MinimumWithFallback(8, fails_first)
    caching = MinimumWithCache(8, answer)

    async def decide() -> None:
        best_of(minimum.models, 4000, 20.0, 0.0)

    return {
        "minimum": lambda: minimum.execute(PROMPT),
        "minimum, decision alone": decide,
        "minimum, fallback": lambda: falling_back.execute(PROMPT),
        "minimum, cached": lambda: caching.execute(PROMPT),
    }


@asynccontextmanager
async def ours() -> AsyncIterator[dict[str, Case]]:
    """The rows of the table, each tried once to see that it does what it says."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        router = await enter(router_of(Instant()))
        observed = await enter(router_of(Instant(), observers=[Silent()]))
        caching = await enter(router_of(Instant(), cache=True))
        supervised = await enter(router_of(Instant(promptly=False)))
        failing = await enter(router_of(FailsFirst(), health=NEVER_EJECTED))
        without_one = await enter(router_of(FailsOnce(), health=AN_HOUR))
        limited = REQUEST.model_copy(update={"max_cost": 0.0005})

        hit = partial(caching.execute, PROMPT, **FIELDS)
        hit_by_messages = partial(caching.execute, MESSAGES, **FIELDS)
        fall_back = partial(failing.execute, REQUEST)
        race = partial(router.execute, REQUEST, mode="race", width=2)
        for fill in (hit, hit_by_messages):
            await fill()
            assert (await fill()).cached
        for case in (fall_back, race):
            assert len((await case()).attempts) == 2
        await without_one.execute(REQUEST)
        assert len((await without_one.route(REQUEST)).candidates) == 7
        assert len((await router.route(limited)).candidates) == 4
        yield {
            "execute, ready request": lambda: router.execute(REQUEST),
            "execute, text and keywords": lambda: router.execute(PROMPT, **FIELDS),
            "hedge armed": lambda: router.execute(REQUEST, mode="hedged"),
            "one observer": lambda: observed.execute(REQUEST),
            "execute, cached, by text": lambda: caching.execute(PROMPT, **FIELDS),
            "execute, cached, by messages": lambda: caching.execute(MESSAGES, **FIELDS),
            "route": lambda: router.route(REQUEST),
            "route, one of eight set aside": lambda: without_one.route(REQUEST),
            "route, a limit rules out four": lambda: router.route(limited),
            "execute, first fails, fallback answers": fall_back,
            "race of two, both settled": race,
            "execute, supervised provider": lambda: supervised.execute(REQUEST),
        }
        # Had a model been set aside or a budget run dry, something else would have been measured.
        assert len((await fall_back()).attempts) == 2
        assert [each.role for each in (await router.execute(REQUEST)).attempts] == ["first"]


async def throughput(rounds: int) -> tuple[float, float]:
    """Our calls per second and the minimum's, by many callers whose provider takes 10 ms."""

    async def answer(model: str, prompt: str) -> str:
        await asyncio.sleep(0.01)
        return "ok"

    minimum = Minimum(8, answer)
    our, least = list[float](), list[float]()
    async with router_of(Sleeps()) as router:
        for _ in range(rounds):
            least.append(await calls_per_second(lambda: minimum.execute(PROMPT), CALLERS, CALLS))
            our.append(await calls_per_second(lambda: router.execute(REQUEST), CALLERS, CALLS))
    return median(our), median(least)


async def measure(rounds: int) -> list[Row]:
    async with ours() as cases:
        least = minima()
        preceded = after_other_work({name: (least | cases)[name] for name in ("minimum", *BUSY)})
        times = await interleaved(least | cases | preceded, rounds)
    our_rate, least_rate = await throughput(max(3, rounds // 5))
    plain = "execute, ready request"
    rows: list[Row] = []
    for name in cases:
        if name in EXTRAS:
            extra = surplus(times, name, plain)
            rows.append(Row(f"execute, {name}", extra, *EXTRAS[name], unit="+ x"))
        else:
            gate, aim = GATES.get(name, (None, None))
            rows.append(Row(name, ratio(times, name), gate, aim))
    for name in BUSY:
        to = "minimum, after other work"
        busy = ratio_beyond(times, f"{name}, after other work", to, NOTHING)
        rows.append(Row(f"{name}, both after other work", busy))
    share, kept = "1,000 callers, share of the minimum's calls/s", our_rate / least_rate
    rows.append(Row(share, kept, 0.6, 0.7, unit="", at_least=True))
    rows.append(Row("1,000 callers", our_rate, unit="calls/s"))
    rows.append(Row("minimum, 1,000 callers", least_rate, unit="calls/s"))
    rows += [Row(name, ratio(times, name)) for name in minima() if name != "minimum"]
    rows += [
        Row(f"CPU of one call, {name}", median(times[name]), unit="µs")
        for name in ("minimum", plain)
    ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = run(lambda: measure(asked.rounds), asked.loop)
    Report("Overhead", tuple(rows), loop=asked.loop).tell(asked.json)


if __name__ == "__main__":
    main()
