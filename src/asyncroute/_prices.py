"""What the list of genai-prices knows of a model, as fields of a `ModelConfig`.

The list comes with that package (extra `prices`), is loaded when it is first asked, and is as old
as the package: nothing is downloaded.
"""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    from decimal import Decimal

    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

__all__ = ("listed",)


def listed(name: str, *, window: bool = True) -> dict[str, Any]:
    """Give what the list knows of a model, as fields of a `ModelConfig`.

    Where long prompts cost more, the window ends where the higher price begins.

    Args:
        name: Provider and model, `openai:gpt-4o`: the provider as the list names it, the model as
            the provider does. The model alone where its name tells the provider.
        window: Whether its context window must be known.

    Raises:
        ConfigurationError: genai-prices is not installed, or the list does not know the model, its
            price for tokens, or its window. Says what comes near.
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
        "cache_write_cost_per_1k": _per_1k(prices.cache_write_mtok),
        "audio_input_cost_per_1k": _per_1k(prices.input_audio_mtok),
        "audio_output_cost_per_1k": _per_1k(prices.output_audio_mtok),
    }
    bounds = [bound for bound in (info.context_window, _tier_start(prices)) if bound]
    if bounds:
        fields["max_tokens"] = min(bounds)
    elif window:
        raise ConfigurationError(f"{name!r}: the price list has no window for it: give max_tokens")
    return fields


def _find(name: str) -> tuple[Provider, str, ModelInfo]:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"name must be provider and model, 'openai:gpt-4o', got {name!r}")
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
