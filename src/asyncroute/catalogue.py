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
score. `ModelConfig.from_catalog` makes any other model of that list.
"""

from __future__ import annotations

from asyncroute._inputs import Capability, ModelConfig

__all__ = ("CATALOGUE_DATE", "DEFAULT_MODELS")

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
        cache_write_cost_per_1k=0.0025,
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
        cache_write_cost_per_1k=0.000125,
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
        cache_write_cost_per_1k=0.005,
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
        cache_write_cost_per_1k=0.0025,
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
