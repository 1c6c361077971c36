"""What the examples run on: models of an OpenAI-compatible server, or played ones.

`LLM_BASE_URL` and `LLM_MODELS` (names, separated by commas) choose a server, for example
`http://localhost:11434/v1` and `qwen3:8b,llama3.2`; `LLM_API_KEY` is its key, if it wants one.
Without a URL a simulated provider answers: no key, no network.
"""

from __future__ import annotations

import os
from typing import Any

from asyncroute import ModelConfig
from asyncroute.providers import OpenAICompatibleProvider, SimulatedProvider, Simulation


def models() -> list[ModelConfig]:
    """Make the models that `LLM_MODELS` names, the dearest and best last."""
    names = [name.strip() for name in os.environ.get("LLM_MODELS", "small,large").split(",")]
    return [
        ModelConfig(
            model_id=name,
            provider="llm",
            cost_per_1k_tokens=0.001 * 5**i,  # set what yours cost
            avg_latency_ms=200 * (i + 1),
            quality_score=min(0.6 + 0.2 * i, 1.0),
        )
        for i, name in enumerate(filter(None, names))
    ]


def providers() -> dict[str, Any]:
    """Make the provider for them."""
    url = os.environ.get("LLM_BASE_URL")
    if not url:
        return {"llm": SimulatedProvider(default=Simulation(latency=0.05), seed=1)}
    key = "LLM_API_KEY" if os.environ.get("LLM_API_KEY") else None
    # A function: the router makes the provider when it is entered, and closes it when it is left.
    return {"llm": lambda: OpenAICompatibleProvider(url, api_key_env=key)}
