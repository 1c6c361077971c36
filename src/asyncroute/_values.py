"""What calls come to: usage, completions, chunks, attempts.

Slotted dataclasses, read-only by convention: a frozen one costs eight times as much to build, and
one of each is built for every request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

__all__ = ("Attempt", "Chunk", "Completion", "Outcome", "Role", "Usage")

Role = Literal["first", "retry", "fallback", "hedge", "race"]
Outcome = Literal["won", "failed", "not_accepted", "superseded", "cancelled", "timed_out", "shed"]


class Priced(Protocol):
    """What tokens cost, in dollars each: a `ModelConfig`."""

    @property
    def input_price(self) -> float:
        """One token of input."""
        ...

    @property
    def output_price(self) -> float:
        """One token of output."""
        ...

    @property
    def cached_input_price(self) -> float:
        """One input token read from the provider's prompt cache."""
        ...

    @property
    def cache_write_price(self) -> float:
        """One input token written to the provider's prompt cache."""
        ...

    @property
    def audio_input_price(self) -> float:
        """One input token of audio."""
        ...

    @property
    def audio_output_price(self) -> float:
        """One output token of audio."""
        ...


@final
@dataclass(slots=True)
class Usage:
    """Tokens as billed: all of input and output, and how many of them have prices of their own.

    Attributes:
        input_tokens: All tokens of input, cached ones included.
        output_tokens: All tokens of output, reasoning included.
        cached_tokens: Tokens of input that the provider read from its prompt cache.
        reasoning_tokens: Tokens of output spent on reasoning.
        estimated: True where the provider did not say and the figures are ours.
        cache_write_tokens: Tokens of input that it wrote to its prompt cache.
        audio_input_tokens: Tokens of input that are audio, and neither read from nor written to
            the cache.
        audio_output_tokens: Tokens of output that are audio.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def cost(self, model: Priced) -> float:
        """What these tokens cost at the prices of `model`, in dollars."""
        at_their_own = self.cached_tokens + self.cache_write_tokens + self.audio_input_tokens
        return (
            (self.input_tokens - at_their_own) * model.input_price
            + self.cached_tokens * model.cached_input_price
            + self.cache_write_tokens * model.cache_write_price
            + self.audio_input_tokens * model.audio_input_price
            + (self.output_tokens - self.audio_output_tokens) * model.output_price
            + self.audio_output_tokens * model.audio_output_price
        )


@final
@dataclass(slots=True)
class Completion:
    """What a provider returns.

    Attributes:
        text: The answer.
        usage: Tokens as billed; None where the provider did not say.
        finish_reason: Why it ended, in the provider's word (`stop`, `length`, `tool_calls`, …).
        tool_calls: Tool calls as the chat API gives them.
        model: The model as the provider names it.
    """

    text: str
    usage: Usage | None = None
    finish_reason: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    model: str | None = None


@final
@dataclass(slots=True)
class Chunk:
    """A piece of a streamed answer; each part may be empty.

    Attributes:
        text: Text of the answer.
        reasoning: Text of the model's reasoning, where the provider shows it.
        tool_call: A piece of a tool call, as the chat API gives it.
        finish_reason: Set on the last chunk of a complete answer.
        usage: Tokens so far, usually on the last chunk.
    """

    text: str = ""
    reasoning: str = ""
    tool_call: dict[str, Any] | None = None
    finish_reason: str | None = None
    usage: Usage | None = None

    @property
    def has_content(self) -> bool:
        """Whether it carries a piece of the answer: the first such chunk commits a stream."""
        return bool(self.text or self.reasoning or self.tool_call)


@final
@dataclass(slots=True)
class Attempt:
    """One try at one model, as it stood when the request was decided.

    Attributes:
        model_id: The model that was tried.
        role: `first`, `retry` (same model again), `fallback` (another after a failure), `hedge`
            (another after a delay) or `race` (all at once).
        outcome: `won`, `failed`, `not_accepted`, `superseded` (another answered first),
            `cancelled` (the caller left), `timed_out` or `shed` (never reached the provider).
        started_after: Seconds from the start of the request to the start of this attempt.
        queued: Seconds it waited for admission.
        duration: Seconds the provider took, up to the decision.
        usage: Tokens; None where the provider was not reached.
        cost: Dollars.
        cost_is_estimated: Whether the cost rests on estimated tokens.
        error: The error's text.
        error_kind: The error's kind.
    """

    model_id: str
    role: Role
    outcome: Outcome
    started_after: float
    queued: float
    duration: float
    usage: Usage | None = None
    cost: float = 0.0
    cost_is_estimated: bool = False
    error: str | None = None
    error_kind: str | None = None
