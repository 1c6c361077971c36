"""What tests of the integrations share: a provider that plays the turns of a conversation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from asyncroute import Call, Chunk, Completion, LLMRouter, ModelConfig, QueryRequest, Usage

MODEL = ModelConfig(
    model_id="m", provider="p", input_cost_per_1k=0.01, output_cost_per_1k=0.02, max_tokens=100_000
)
BILLED = Usage(10, 5, cached_tokens=4, reasoning_tokens=2)
COST = 10 * 0.01 / 1000 + 5 * 0.02 / 1000

Turn = Sequence[Chunk] | Exception


def says(*pieces: str, finish: str | None = "stop", usage: Usage | None = BILLED) -> list[Chunk]:
    """Answer with a text in these pieces; without a finish reason the stream breaks."""
    end = [Chunk(finish_reason=finish, usage=usage)] if finish else []
    return [*map(Chunk, pieces), *end]


def calls(*wanted: tuple[str, dict[str, Any]], numbered: bool = True) -> list[Chunk]:
    """Call tools; each call comes in two pieces, or whole where calls are not numbered."""
    chunks: list[Chunk] = []
    for index, (name, arguments) in enumerate(wanted):
        written = json.dumps(arguments, separators=(",", ":"))
        first: dict[str, Any] = {"id": f"call_{index}", "type": "function"}
        if not numbered:
            chunks.append(Chunk(tool_call={**first, "function": _function(name, written)}))
            continue
        half = len(written) // 2
        first = {"index": index, **first, "function": _function(name, written[:half])}
        second = {"index": index, "function": {"arguments": written[half:]}}
        chunks += [Chunk(tool_call=first), Chunk(tool_call=second)]
    return [*chunks, Chunk(finish_reason="tool_calls", usage=BILLED)]


def _function(name: str, arguments: str) -> dict[str, str]:
    return {"name": name, "arguments": arguments}


class Turns:
    """Plays one turn after another, streamed or not; the last one again and again."""

    def __init__(self, *turns: Turn, gap: float = 0.1, inline: bool = True) -> None:
        self.turns = list(turns)
        self.gap = gap
        self.cancels_promptly = inline
        self.requests: list[QueryRequest] = []
        self.is_open = 0

    def _next(self, call: Call) -> Sequence[Chunk]:
        turn = self.turns[min(len(self.requests), len(self.turns) - 1)]
        self.requests.append(call.request)
        if isinstance(turn, Exception):
            raise turn
        return turn

    async def complete(self, call: Call, /) -> Completion:
        turn = self._next(call)
        self.is_open += 1
        try:
            await asyncio.sleep(self.gap * len(turn))
        finally:
            self.is_open -= 1
        whole: dict[int, dict[str, Any]] = {}
        for piece in (chunk.tool_call for chunk in turn if chunk.tool_call):
            found = whole.setdefault(
                piece.get("index", len(whole)),
                {"id": piece.get("id"), "type": "function", "function": _function("", "")},
            )
            for name, value in piece["function"].items():
                found["function"][name] += value
        last = turn[-1]
        text = "".join(chunk.text for chunk in turn)
        return Completion(text, last.usage, last.finish_reason, tuple(whole.values()))

    async def stream(self, call: Call, /) -> AsyncGenerator[Chunk]:
        self.is_open += 1
        try:
            for chunk in self._next(call):
                await asyncio.sleep(self.gap)
                yield chunk
        finally:
            self.is_open -= 1

    @property
    def chat(self) -> tuple[dict[str, Any], ...]:
        """The conversation asked last."""
        return self.requests[-1].chat

    @property
    def params(self) -> dict[str, Any]:
        """The parameters asked last."""
        return self.requests[-1].params


def router_of(provider: Turns, *more: ModelConfig, **settings: Any) -> LLMRouter:
    return LLMRouter([MODEL, *more], {"p": provider}, seed=1, **settings)


def assert_at_rest(router: LLMRouter, provider: Turns) -> None:
    assert provider.is_open == 0
    for model in router.get_statistics()["model_stats"].values():
        assert (model["active_requests"], model["queued_requests"]) == (0, 0)
