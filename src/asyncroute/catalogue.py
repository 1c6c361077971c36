"""The models a manager knows without a configuration: eight real ones of five vendors.

As of 2026-11-23. Ids, context windows and prices are those of the vendors' public price lists:

- OpenAI: developers.openai.com/api/docs/pricing
- Anthropic: platform.claude.com/docs/en/about-claude/pricing
- Google: ai.google.dev/gemini-api/docs/pricing
- Mistral: docs.mistral.ai/inference/pricing
- Meta: dev.meta.ai/docs/pricing-rate-limits

They were read through the data of genai-prices 0.2.3, which cites these pages. Prices change: for
money that matters configure your own models. Where a vendor charges more for long prompts, the
window here ends where the higher price begins (OpenAI: 272,000 tokens); an introductory discount
(Google, until 2026-12-31) is not counted.

`cost_per_1k_tokens` is the mean of both prices. Latencies and quality scores are no vendor's
figures but rough starting values of this project: milliseconds of an answer of 256 tokens, and a
rank from 0 to 1. A router replaces the latency by what it observes; `update_model` changes the
score.
"""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from asyncroute._errors import ConfigurationError
from asyncroute._inputs import Capability, ModelConfig

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

__all__ = ("CATALOGUE_DATE", "DEFAULT_MODELS", "listed", "model")

CATALOGUE_DATE = "2026-11-23"
"""The day whose prices `DEFAULT_MODELS` has."""

# None names `general`: that would let it serve every capability.
_SMALL = (
    Capability.SIMPLE_QA.value,
    Capability.SUMMARIZATION.value,
    Capability.TRANSLATION.value,
)
_MEDIUM = (
    *_SMALL,
    Capability.ANALYSIS.value,
    Capability.CODE_GENERATION.value,
    Capability.CREATIVE_WRITING.value,
)
_LARGE = (*_MEDIUM, Capability.COMPLEX_REASONING.value)

DEFAULT_MODELS: tuple[ModelConfig, ...] = (
    ModelConfig(
        model_id="gpt-6.1-sol",
        name="GPT-6.1 Sol",
        provider="openai",
        cost_per_1k_tokens=0.006,
        input_cost_per_1k=0.002,
        output_cost_per_1k=0.010,
        cached_input_cost_per_1k=0.0001,
        max_tokens=272_000,
        avg_latency_ms=2600,
        capabilities=_LARGE,
        quality_score=0.94,
    ),
    ModelConfig(
        model_id="gpt-6-luna",
        name="GPT-6 Luna",
        provider="openai",
        cost_per_1k_tokens=0.0003,
        input_cost_per_1k=0.0001,
        output_cost_per_1k=0.0005,
        cached_input_cost_per_1k=0.00001,
        max_tokens=272_000,
        avg_latency_ms=650,
        capabilities=_SMALL,
        quality_score=0.76,
    ),
    ModelConfig(
        model_id="claude-opus-5-5",
        name="Claude Opus 5.5",
        provider="anthropic",
        cost_per_1k_tokens=0.012,
        input_cost_per_1k=0.004,
        output_cost_per_1k=0.020,
        cached_input_cost_per_1k=0.0002,
        max_tokens=1_000_000,
        avg_latency_ms=3200,
        capabilities=_LARGE,
        quality_score=0.97,
    ),
    ModelConfig(
        model_id="claude-sonnet-5-5",
        name="Claude Sonnet 5.5",
        provider="anthropic",
        cost_per_1k_tokens=0.006,
        input_cost_per_1k=0.002,
        output_cost_per_1k=0.010,
        cached_input_cost_per_1k=0.0001,
        max_tokens=1_000_000,
        avg_latency_ms=1900,
        capabilities=_LARGE,
        quality_score=0.93,
    ),
    ModelConfig(
        model_id="gemini-3.8-flash",
        name="Gemini 3.8 Flash",
        provider="google",
        cost_per_1k_tokens=0.0045,
        input_cost_per_1k=0.0015,
        output_cost_per_1k=0.0075,
        cached_input_cost_per_1k=0.00015,
        max_tokens=1_000_000,
        avg_latency_ms=850,
        capabilities=_LARGE,
        quality_score=0.88,
    ),
    ModelConfig(
        model_id="mistral-large-4",
        name="Mistral Large 4",
        provider="mistral",
        cost_per_1k_tokens=0.0014,
        input_cost_per_1k=0.0007,
        output_cost_per_1k=0.0021,
        cached_input_cost_per_1k=0.00007,
        max_tokens=1_048_576,
        avg_latency_ms=1600,
        capabilities=_MEDIUM,
        quality_score=0.84,
    ),
    ModelConfig(
        model_id="mistral-small-2603",
        name="Mistral Small 4",
        provider="mistral",
        cost_per_1k_tokens=0.000375,
        input_cost_per_1k=0.00015,
        output_cost_per_1k=0.0006,
        cached_input_cost_per_1k=0.000015,
        max_tokens=262_144,
        avg_latency_ms=600,
        capabilities=_SMALL,
        quality_score=0.72,
    ),
    ModelConfig(
        model_id="muse-spark-1.3",
        name="Muse Spark 1.3",
        provider="meta",
        cost_per_1k_tokens=0.00275,
        input_cost_per_1k=0.00125,
        output_cost_per_1k=0.00425,
        cached_input_cost_per_1k=0.00015,
        max_tokens=1_048_576,
        avg_latency_ms=1400,
        capabilities=_LARGE,
        quality_score=0.87,
    ),
)
"""Two of OpenAI, two of Anthropic, one of Google, two of Mistral, one of Meta."""


# ---------------------------------------------------------------- the price list


def model(name: str, **overrides: Any) -> ModelConfig:
    """Configure a model with its prices and context window from the list of genai-prices.

    The list comes with that package (extra `prices`), and is as old as it: nothing is downloaded.

    Args:
        name: Provider and model, `openai:gpt-4o`: the provider as the list names it, the model as
            the provider does. The model alone where its name tells the provider.
        overrides: Fields of the `ModelConfig`, which stand above what the list says.

    Raises:
        ConfigurationError: genai-prices is not installed, or the list does not know the model, its
            price for tokens, or its window (then give `max_tokens`). Says what comes near.
        pydantic.ValidationError: An override is wrong.
    """
    return ModelConfig(**{**listed(name, window="max_tokens" not in overrides), **overrides})


def listed(name: str, *, window: bool = True) -> dict[str, Any]:
    """Give what the list knows of a model, as fields of a `ModelConfig`.

    Where long prompts cost more, the window ends where the higher price begins.

    Args:
        name: See `model`.
        window: Whether its context window must be known.

    Raises:
        ConfigurationError: See `model`.
    """
    provider, model_id, info = _find(name)
    if not info.prices:
        raise ConfigurationError(f"{name!r}: the price list has no prices for it")
    prices = info.get_prices(datetime.now(UTC))
    received, generated = _per_1k(prices.input_mtok), _per_1k(prices.output_mtok)
    if received is None:
        raise ConfigurationError(f"{name!r}: the price list has no price for tokens of it")
    fields: dict[str, Any] = {
        "model_id": model_id,
        "name": info.name or model_id,
        "provider": provider.id,
        "cost_per_1k_tokens": (received + (generated or 0.0)) / 2,
        "input_cost_per_1k": received,
        "output_cost_per_1k": generated or 0.0,
        "cached_input_cost_per_1k": _per_1k(prices.cache_read_mtok),
    }
    bounds = [bound for bound in (info.context_window, _tier_start(prices)) if bound]
    if bounds:
        fields["max_tokens"] = min(bounds)
    elif window:
        raise ConfigurationError(f"{name!r}: the price list has no window for it: give max_tokens")
    return fields


def _find(name: str) -> tuple[Provider, str, ModelInfo]:
    try:
        from genai_prices.data_snapshot import find_provider_by_id, get_snapshot
    except ModuleNotFoundError as error:
        says = f"the price list needs {error.name}: pip install 'asyncroute[prices]'"
        raise ConfigurationError(says) from error
    snapshot = get_snapshot()
    before, colon, after = name.partition(":")
    provider = find_provider_by_id(snapshot.providers, before) if colon else None
    model_id = name if provider is None else after
    try:
        found, info = snapshot.find_provider_model(model_id, provider, None, None)
    except LookupError:
        known = snapshot.providers if provider is None else [provider]
        names = [f"{each.id}:{it.id}" for each in known for it in each.models]
        raise ConfigurationError(
            f"{name!r} is not in the price list; {_near(name, names)}"
        ) from None
    return provider or found, model_id, info


def _near(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=5, cutoff=0.6)
    return f"near it are {', '.join(near)}" if near else "nothing in it comes near"


def _per_1k(price: Decimal | TieredPrices | None) -> float | None:
    """Dollars for 1,000 tokens, of a price for a million; of several, the first."""
    base = cast("Decimal | None", getattr(price, "base", price))
    return None if base is None else float(base) / 1000


def _tier_start(prices: ModelPrice) -> int | None:
    """Tokens of input from which on another price counts."""
    tiered = (prices.input_mtok, prices.output_mtok)
    starts = [tier.start for price in tiered for tier in getattr(price, "tiers", ())]
    return min(starts, default=None)


# For `ModelConfig.from_catalog`, which lives below and cannot import this.
ModelConfig.price_list = listed
