"""A provider that calls nobody: latencies, faults and bills by seed, on the clock of the loop.

Everything about a call is drawn when it starts, from a generator keyed by seed, model and number
of the call to that model: what a call meets does not depend on what runs beside it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal, cast, final

from asyncroute._arguments import check_kind, check_mapping, is_number
from asyncroute._errors import (
    ConfigurationError,
    ContentRefusedError,
    ContextTooLongError,
    ProviderError,
    RateLimitedError,
    StreamInterruptedError,
    UnavailableError,
)
from asyncroute._estimate import input_tokens, text_tokens
from asyncroute._protocols import Call
from asyncroute._values import Chunk, Completion, Usage

__all__ = ("Billed", "SimulatedProvider", "Simulation")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """How a simulated model behaves. Rates are shares of calls, from 0 to 1.

    Attributes:
        latency: Median seconds of an answer; None for the model's `avg_latency_ms`.
        sigma: Spread of the latency: the standard deviation of its logarithm; 0 is exact.
        first_token: Share of the latency that passes before the first token.
        stall_rate: How many calls fall silent for a while: before the answer, or, streamed, before
            some chunk of it.
        stall: Seconds of silence: at least, at most.
        failure_rate: How many end in an `UnavailableError`, some way into their latency.
        refusal_rate: How many end in a `ContentRefusedError`, soon.
        rate_limit_rate: How many end in a `RateLimitedError`, soon.
        interruption_rate: How many break off half way: a `StreamInterruptedError` with the text so
            far or, not streamed, an `UnavailableError`. What was generated is billed; of the three
            above, nothing is.
        retry_after: Seconds that a `RateLimitedError` asks to wait.
        output_tokens: Tokens of an answer, or the least and the most; None for as many as `reply`
            has, or 40 to 200. The call's limit cuts it, with the finish reason `length`.
        reply: Makes the answer's text; None for a sentence about model, capability and query.

    Raises:
        ConfigurationError: A value that makes no sense.
    """

    latency: float | None = None
    sigma: float = 0.3
    first_token: float = 0.2
    stall_rate: float = 0.0
    stall: tuple[float, float] = (20.0, 30.0)
    failure_rate: float = 0.0
    refusal_rate: float = 0.0
    rate_limit_rate: float = 0.0
    interruption_rate: float = 0.0
    retry_after: float | None = None
    output_tokens: int | tuple[int, int] | None = None
    reply: Callable[[Call], str] | None = None

    def __post_init__(self) -> None:
        for field in ("latency", "sigma", "retry_after"):
            value: float | None = getattr(self, field)
            holds = value is None or (is_number(value) and 0 <= value < math.inf)
            _check(field, value, holds, "0 or more, and finite")
        for field in ("first_token", "stall_rate", *_FAULT_RATES):
            share: float = getattr(self, field)
            _check(field, share, is_number(share) and 0 <= share <= 1, "a share from 0 to 1")
        least, most = self.stall
        _check("stall", self.stall, 0 <= least <= most < math.inf, "(least, most) seconds")
        fewest, largest = _span(self.output_tokens)
        _check("output_tokens", self.output_tokens, 0 <= fewest <= largest, "0 or more, in order")
        total = math.fsum(getattr(self, field) for field in _FAULT_RATES)
        _check("+".join(_FAULT_RATES), total, total <= 1 + 1e-9, "at most 1 together")


_FAULT_RATES = ("failure_rate", "refusal_rate", "rate_limit_rate", "interruption_rate")


def _check(field: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ConfigurationError(f"Simulation: {field} must be {wanted}; got {value!r}")


def _span(tokens: int | tuple[int, int] | None) -> tuple[int, int]:
    if tokens is None:
        return _USUAL_OUTPUT
    return (tokens, tokens) if isinstance(tokens, int) else tokens


_USUAL_OUTPUT = (40, 200)


@final
@dataclass(frozen=True, slots=True)
class Billed:
    """What a simulated model has billed.

    Attributes:
        calls: Calls that were started.
        input_tokens: Tokens of input of the calls that have ended.
        output_tokens: The same of output.
        cost: Dollars of the calls that have ended, summed exactly and rounded once.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@final
class SimulatedProvider:
    """Plays models instead of calling them, on the loop's own clock: also a virtual one.

    Args:
        seed: What is drawn follows from it. The n-th call to a model meets the same as in any other
            run with this seed, whatever else is going on.
        default: How models behave that `models` does not name.
        models: Behaviour by model id.

    The ledger (`calls`, `cost`, `ledger`) says what a real provider would have billed, cancelled
    and interrupted calls included: a router's spend must come to the same. A call that is cancelled
    has cost its input and the output generated until then, which `Call.usage` says too.
    """

    __slots__ = ("_accounts", "_default", "_models", "_seed", "in_flight")

    cancels_promptly: ClassVar[bool] = True
    is_simulated: ClassVar[bool] = True

    in_flight: int
    """Calls and streams that run now."""

    def __init__(
        self,
        *,
        seed: int = 0,
        default: Simulation | None = None,
        models: Mapping[str, Simulation] | None = None,
    ) -> None:
        check_kind("default", default, Simulation)
        check_mapping("models", models, "Simulations", by="model id")
        for model_id, simulation in (models or {}).items():
            if not isinstance(simulation, Simulation):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigurationError(
                    f"models[{model_id!r}] must be a Simulation, got {simulation!r}"
                )
        self._seed = seed
        self._default = default or Simulation()
        self._models = dict(models or {})
        self._accounts: dict[str, _Account] = {}
        self.in_flight = 0

    @property
    def calls(self) -> int:
        """Calls that were started, of all models."""
        return sum(account.calls for account in self._accounts.values())

    @property
    def cost(self) -> float:
        """Dollars billed for all calls that have ended, summed exactly and rounded once."""
        return sum(account.cost for account in self._accounts.values()) / _SCALE

    @property
    def ledger(self) -> dict[str, Billed]:
        """What was billed, by model id, as it stands now."""
        return {model_id: account.billed for model_id, account in self._accounts.items()}

    async def complete(self, call: Call, /) -> Completion:
        """Answer after a while, or fail, as drawn. Cancelling ends it at once.

        Raises:
            ProviderError: As the model's `Simulation` says, or a `ContextTooLongError` where the
                prompt does not fit the model's window.
        """
        script = self._begin(call)
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            await asyncio.sleep(script.ends_after)
            call.usage = script.usage(script.output_by(script.ends_after))
            if script.error is not None:
                raise script.error
            return Completion(
                script.text, call.usage, script.finish_reason, model=call.model.model_id
            )
        except asyncio.CancelledError:
            call.usage = script.usage(script.output_by(clock() - started))
            raise
        finally:
            self._end(call)

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        """Answer word by word; the last chunk has the finish reason and the usage.

        Raises:
            ProviderError: As in `complete`; a `StreamInterruptedError` where it breaks off.
        """
        script = self._begin(call)
        started = asyncio.get_running_loop().time()
        try:
            if script.error is not None and script.fate != "breaks":
                await asyncio.sleep(script.ends_after)
                raise script.error
            pieces = script.pieces
            sent = len(pieces) if script.error is None else int(script.place * len(pieces))
            for i, piece in enumerate(pieces[:sent]):
                await _sleep_until(started + script.piece_after(i))
                call.usage = script.usage(script.output * (i + 1) // len(pieces))
                yield Chunk(piece)
            await _sleep_until(started + script.piece_after(sent))
            if script.error is not None:
                raise StreamInterruptedError(
                    str(script.error), text="".join(pieces[:sent]), model_id=call.model.model_id
                )
            call.usage = script.usage(script.output)
            yield Chunk(finish_reason=script.finish_reason, usage=call.usage)
        finally:
            self._end(call)

    def _begin(self, call: Call) -> _Script:
        model_id = call.model.model_id
        account = self._accounts.setdefault(model_id, _Account())
        account.calls += 1
        rng = Random(f"{self._seed}/{model_id}/{account.calls}")
        script = _Script(call, self._models.get(model_id, self._default), rng)
        call.usage = script.usage(0)
        self.in_flight += 1
        return script

    def _end(self, call: Call) -> None:
        self.in_flight -= 1
        self._accounts[call.model.model_id].book(call)

    def __repr__(self) -> str:
        state = f"seed={self._seed} calls={self.calls} in_flight={self.in_flight}"
        return f"<SimulatedProvider {state}>"


# A float is a whole number of 2**-1074: sums of such numbers are exact, whatever their order.
_SCALE_BITS = 1074
_SCALE = 1 << _SCALE_BITS


@final
class _Account:
    """What one model has billed."""

    __slots__ = ("calls", "cost", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost = 0

    def book(self, call: Call) -> None:
        usage = call.usage or Usage()
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        numerator, denominator = usage.cost(call.model).as_integer_ratio()
        self.cost += numerator << (_SCALE_BITS + 1 - denominator.bit_length())

    @property
    def billed(self) -> Billed:
        return Billed(self.calls, self.input_tokens, self.output_tokens, self.cost / _SCALE)


_Fate = Literal["answers", "fails", "refuses", "limits", "breaks", "overflows"]

# What a server turns away it turns away soon: after this share of an answer's latency.
_AT_THE_DOOR = 0.1


@final
class _Script:
    """What one call will meet, all of it drawn at its start."""

    __slots__ = (
        "_input",
        "_latency",
        "_silent",
        "_stall",
        "ends_after",
        "error",
        "fate",
        "finish_reason",
        "output",
        "pieces",
        "place",
        "text",
    )

    def __init__(self, call: Call, simulation: Simulation, rng: Random) -> None:
        # Always the same draws in the same order: changing one rate changes nothing else.
        fate, stalls, self.place = rng.random(), rng.random(), rng.random()
        spread, stall = rng.gauss(0.0, 1.0), rng.uniform(*simulation.stall)
        tokens = rng.randint(*_span(simulation.output_tokens))

        median = simulation.latency
        if median is None:
            median = call.model.avg_latency_ms / 1000
        self._latency = median * math.exp(simulation.sigma * spread)
        self._silent = self._latency * simulation.first_token
        self._stall = stall if stalls < simulation.stall_rate else 0.0
        self._input = input_tokens(call.request)
        room = call.model.max_tokens - self._input
        self.fate = "overflows" if room < 1 else _fate(fate, simulation)
        self._write(call, simulation, tokens, room)
        self.pieces: list[str] = re.findall(r"\S+\s*|\s+", self.text)
        self.ends_after = self._end()
        self.error = _error(self.fate, call, simulation)

    def _write(self, call: Call, simulation: Simulation, tokens: int, room: int) -> None:
        text = _sentence(call) if simulation.reply is None else simulation.reply(call)
        if simulation.reply is not None and simulation.output_tokens is None:
            tokens = text_tokens(text)
        limit = room if call.max_tokens is None else min(room, call.max_tokens)
        self.finish_reason = "stop" if tokens <= limit else "length"
        self.output = max(0, min(tokens, limit))
        self.text = text if tokens <= limit else text[: self.output * 4]

    def _end(self) -> float:
        if self.fate == "fails":
            return self._latency * self.place
        if self.fate in ("refuses", "limits", "overflows"):
            return self._latency * _AT_THE_DOOR
        share = self.place if self.fate == "breaks" else 1.0
        return self._silent + self._stall + share * (self._latency - self._silent)

    @property
    def is_billed(self) -> bool:
        return self.fate in ("answers", "breaks")

    def usage(self, output: int) -> Usage:
        return Usage(self._input, output) if self.is_billed else Usage()

    def output_by(self, elapsed: float) -> int:
        """Tokens that a call which is not streamed has generated after `elapsed` seconds."""
        if elapsed >= self.ends_after:
            return self.output if self.fate == "answers" else int(self.output * self.place)
        generating = elapsed - self._silent - self._stall
        span = self._latency - self._silent
        return int(self.output * min(1.0, generating / span)) if generating > 0 < span else 0

    def piece_after(self, i: int) -> float:
        """Seconds from the start to the i-th piece of a stream; past the last one, to its end."""
        n = len(self.pieces)
        stalled = self._stall if i >= int(self.place * n) else 0.0
        return self._silent + stalled + (self._latency - self._silent) * (i / n if n else 1.0)


def _fate(drawn: float, simulation: Simulation) -> _Fate:
    fates: tuple[tuple[_Fate, float], ...] = (
        ("fails", simulation.failure_rate),
        ("refuses", simulation.refusal_rate),
        ("limits", simulation.rate_limit_rate),
        ("breaks", simulation.interruption_rate),
    )
    for fate, rate in fates:
        if drawn < rate:
            return fate
        drawn -= rate
    return "answers"


def _error(fate: _Fate, call: Call, simulation: Simulation) -> ProviderError | None:
    model_id = call.model.model_id
    match fate:
        case "answers":
            return None
        case "fails":
            return UnavailableError("simulated failure", model_id=model_id, status=500)
        case "refuses":
            return ContentRefusedError("simulated refusal", model_id=model_id, status=400)
        case "limits":
            return RateLimitedError(
                "simulated rate limit",
                model_id=model_id,
                status=429,
                retry_after=simulation.retry_after,
            )
        case "breaks":
            return UnavailableError("simulated interruption", model_id=model_id)
        case "overflows":
            return ContextTooLongError(
                f"the prompt exceeds the {call.model.max_tokens} tokens of the context window",
                model_id=model_id,
                status=400,
            )


async def _sleep_until(at: float) -> None:
    # By the clock, not gap by gap: a model generates on while its reader is slow.
    await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))


def _sentence(call: Call) -> str:
    asked = " ".join(_asked(call).split())
    shown = asked if len(asked) <= 60 else f"{asked[:59]}…"
    return f"{call.model.name} ({call.request.capability}), simulated: an answer to “{shown}”."


def _asked(call: Call) -> str:
    """Find the text of the last message that has any."""
    for message in reversed(call.messages):
        content = message.get("content")
        parts = cast("list[object]", content if isinstance(content, list) else [content])
        text = " ".join(filter(None, map(_text, parts)))
        if text:
            return text
    return ""


def _text(part: object) -> str:
    text = cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else ""
