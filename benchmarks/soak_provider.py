"""A provider that fails in every way there is, and keeps a ledger of its own. For the soak."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable

from asyncroute import (
    BadRequestError,
    Call,
    Chunk,
    Completion,
    ContentRefusedError,
    ContextTooLongError,
    ModelConfig,
    ProviderOverloadedError,
    QueryRequest,
    RateLimitedError,
    UnavailableError,
    Usage,
)

LAST_WORD = "the end."
"""Ends every answer that is complete, and no other."""

ACTS = {
    "answer": 75.0,
    "answer without usage": 2.0,
    "slow answer": 3.0,
    "hang": 2.0,
    "break off": 2.0,  # a failure when most of the answer has been billed
    "nonsense": 0.5,
    "500": 3.0,
    "connection lost": 1.0,
    "gives up by itself": 1.0,
    "503": 0.5,
    "429": 0.02,  # each keeps everybody from the model, and its group, for seconds
    "429 with Retry-After": 0.2,
    "400": 1.0,
    "content refused": 0.5,
    "too long": 0.5,
}
"""What a provider does with a call, by weight."""

FAILURES: dict[str, Callable[[], Exception]] = {
    "connection lost": lambda: ConnectionError("reset by peer"),
    "gives up by itself": TimeoutError,
    "500": lambda: UnavailableError("internal error", status=500),
    "503": lambda: ProviderOverloadedError("overloaded", status=503),
    "429": lambda: RateLimitedError("slow down", status=429),
    "429 with Retry-After": lambda: RateLimitedError("slow down", status=429, retry_after=1.3),
    "400": lambda: BadRequestError("no such parameter", status=400),
    "content refused": lambda: ContentRefusedError("against the rules"),
    "too long": lambda: ContextTooLongError("too many tokens"),
}
"""What comes before anything was billed."""

LEAVES = {"obeys": 6.0, "answers all the same": 1.0, "raises": 2.0}
"""What a provider that cancels promptly does when it is cancelled, by weight."""

ROUGH_LEAVES = {**LEAVES, "goes on": 2.0, "cleans up for long": 2.0}
"""The same for one that does not."""


def picked(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


class SdkError(Exception):
    """What some SDK raises when it is cancelled."""


class Ledger:
    """What providers were sent and what they bill; limits are checked from their side.

    Attributes:
        sent: Calls, by model.
        did: What was done with them.
        open: Calls that are not over.
        billed: Dollars of calls whose usage was reported.
        unreported: Dollars of the others.
        over_slots: Calls above a model's slots.
        over_rate: Calls above an account's requests in some 60 s.
        too_late: Calls sent after their request was over.
    """

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.did: Counter[str] = Counter()
        self.open = self.over_slots = self.over_rate = self.too_late = 0
        self.billed = self.unreported = 0.0
        self._running: Counter[str] = Counter()
        self._starts: dict[str, deque[float]] = {}

    def begin(self, work: Work) -> None:
        model, metadata = work.call.model, work.call.request.metadata
        self.sent[model.model_id] += 1
        self.open += 1
        self.resume(work)
        self.too_late += "asked" in metadata and metadata["asked"].is_over
        limit = model.requests_per_minute
        if limit is not None:
            starts = self._starts.setdefault(model.quota_group or model.model_id, deque())
            starts.append(asyncio.get_running_loop().time())
            if len(starts) > limit:  # summed as the router does, for the last bit's sake
                self.over_rate += starts.popleft() + 60.0 > starts[-1]

    def rest(self, work: Work) -> None:
        """A stream that nobody reads just now: its slot may be somebody else's meanwhile."""
        self._running[work.call.model.model_id] -= work.is_running
        work.is_running = False

    def resume(self, work: Work) -> None:
        work.is_running, model = True, work.call.model
        self._running[model.model_id] += 1
        self.over_slots += self._running[model.model_id] > model.max_concurrent_requests

    def end(self, work: Work) -> None:
        self.rest(work)
        self.open -= 1
        dollars = work.usage.cost(work.call.model)
        if work.is_reported:
            self.billed += dollars
        else:
            self.unreported += dollars


class Work:
    """One call at the provider, part by part; bills as it goes, and reports it if it does that."""

    def __init__(self, chaos: Chaos, call: Call, act: str, parts: int, tokens: int) -> None:
        self.call = call
        self.is_running = False
        self.is_reported = act != "answer without usage"
        self.parts = range(1, parts + 1)
        self.usage = Usage()
        self._chaos = chaos
        self._act = act
        self._tokens = tokens
        rng = chaos.rng
        seconds = rng.uniform(10, 30) if act == "slow answer" else rng.lognormvariate(-0.4, 0.5)
        self._seconds = seconds / parts
        self._is_hurried = False

    async def begin(self) -> None:
        await self._pause(self._chaos.rng.uniform(0.02, 0.5))
        if self._act in FAILURES:
            raise FAILURES[self._act]()

    async def do(self, part: int) -> None:
        tokens_in = len(self.call.request.query or "") // 4
        self.usage = Usage(tokens_in, self._tokens * part // len(self.parts))
        if self.is_reported:
            self.call.usage = self.usage
        await self._pause(self._seconds)
        if self._act == "hang" and part == 2:
            await self._pause(1800.0)
        if self._act == "break off" and part == len(self.parts):
            raise ConnectionError("reset by peer")

    async def _pause(self, seconds: float) -> None:
        """Wait. One who is cancelled and stays does the rest of the work in no time."""
        if self._is_hurried:
            return
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            chaos = self._chaos
            leave = picked(chaos.rng, LEAVES if chaos.cancels_promptly else ROUGH_LEAVES)
            chaos.ledger.did[f"cancelled: {leave}"] += 1
            if leave == "raises":
                raise SdkError("the connection was aborted") from None
            if leave in ("goes on", "cleans up for long"):
                await sleep_whatever_happens(chaos.rng.uniform(0.1, 5.0))
            if leave not in ("answers all the same", "goes on"):
                raise
            self._is_hurried = True

    def answer(self) -> Completion:
        if self._act == "nonsense":
            return "an answer that is none"  # type: ignore[return-value] # as some would
        if self._act == "answer without usage":
            return Completion(LAST_WORD)
        self.is_reported = True
        return Completion(LAST_WORD, self.usage, "stop")

    def chunk(self, part: int) -> Chunk:
        if part < len(self.parts):
            return Chunk("a few words ")
        if self._act == "nonsense":
            return Chunk("and")  # ends without a reason
        usage = self.usage if self.is_reported else None
        return Chunk(LAST_WORD, finish_reason="stop", usage=usage)


class Chaos:
    """The provider. Now and then each of its models is down for a while."""

    def __init__(self, ledger: Ledger, rng: random.Random, *, promptly: bool) -> None:
        self.cancels_promptly = promptly
        self.ledger = ledger
        self.rng = rng

    async def complete(self, call: Call, /) -> Completion:
        return await self._carry_out(self._whole(call))

    async def ask(self, model: ModelConfig, request: QueryRequest) -> Completion:
        """For `execute_with_fallback`, where usage is only reported with the answer."""
        work = self._whole(Call(model, request))
        work.is_reported = False
        return await self._carry_out(work)

    def _whole(self, call: Call) -> Work:
        tokens = self.rng.randint(1, call.request.max_tokens or 400)
        return Work(self, call, self._act(call.model), 2, tokens)

    async def _carry_out(self, work: Work) -> Completion:
        self.ledger.begin(work)
        try:
            await work.begin()
            for part in work.parts:
                await work.do(part)
            return work.answer()
        finally:
            self.ledger.end(work)

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        # Some are more than a stream may be ahead of its consumer.
        parts = 40 if self.rng.random() < 0.1 else self.rng.randint(2, 8)
        work = Work(self, call, self._act(call.model), parts, 5 * parts)
        self.ledger.begin(work)
        try:
            await work.begin()
            for part in work.parts:
                await work.do(part)
                self.ledger.rest(work)
                yield work.chunk(part)
                self.ledger.resume(work)
        finally:
            self.ledger.end(work)

    def _act(self, model: ModelConfig) -> str:
        # Each model is down for 12 s of 5 minutes, one after another.
        since = asyncio.get_running_loop().time() + 37.0 * len(model.model_id)
        act = "500" if since % 300.0 < 12.0 else picked(self.rng, ACTS)
        self.ledger.did[act] += 1
        return act


async def sleep_whatever_happens(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        try:
            await asyncio.sleep(until - loop.time())
        except asyncio.CancelledError:
            continue
