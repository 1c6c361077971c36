"""Models configured from the bundled list of genai-prices: what is taken, and what is said."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from genai_prices import data_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider, Tier, TieredPrices

from asyncroute import ConfigurationError, ModelConfig
from asyncroute.catalogue import DEFAULT_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator


def listed(name: str, prices: ModelPrice | None, window: int | None = 1000) -> ModelInfo:
    match = ClauseEquals(equals=name)
    return ModelInfo(
        id=name, match=match, name=name.title(), context_window=window, prices=prices or []
    )


@pytest.fixture
def a_list_of_our_own() -> Iterator[None]:
    def tiered(base: str, more: str) -> TieredPrices:
        return TieredPrices(base=Decimal(base), tiers=[Tier(start=200, price=Decimal(more))])

    plain = ModelPrice(
        input_mtok=Decimal(3),
        output_mtok=Decimal(9),
        cache_read_mtok=Decimal(1),
        cache_write_mtok=Decimal(4),
        input_audio_mtok=Decimal(30),
        output_audio_mtok=Decimal(60),
    )
    models = [
        listed("plain", plain),
        listed("cliff", ModelPrice(input_mtok=tiered("2", "4"), output_mtok=tiered("8", "9"))),
        listed("boundless", plain, None),
        listed("embedding", ModelPrice(input_mtok=Decimal("0.1"))),
        listed("by-the-hour", ModelPrice(audio_hours=Decimal(1))),
        listed("gratis", None),
    ]
    vendor = Provider(id="vendor", name="Vendor", api_pattern="nowhere", models=models)
    snapshot = data_snapshot.DataSnapshot(providers=[vendor], from_auto_update=False)
    data_snapshot.set_custom_snapshot(snapshot)
    yield
    data_snapshot.set_custom_snapshot(None)


@pytest.mark.usefixtures("a_list_of_our_own")
def test_prices_window_and_provider_are_taken() -> None:
    config = ModelConfig.from_catalog("vendor:plain")
    assert (config.model_id, config.name, config.provider) == ("plain", "Plain", "vendor")
    assert config.max_tokens == 1000
    assert config.input_cost_per_1k == 0.003
    assert config.output_cost_per_1k == 0.009
    assert config.cached_input_cost_per_1k == 0.001
    assert config.cache_write_cost_per_1k == 0.004
    assert config.audio_input_cost_per_1k == 0.03
    assert config.audio_output_cost_per_1k == 0.06
    assert config.cost_per_1k_tokens == 0.006


@pytest.mark.usefixtures("a_list_of_our_own")
def test_what_is_given_stands_above_the_list() -> None:
    config = ModelConfig.from_catalog("vendor:plain", quality_score=0.9, output_cost_per_1k=0.0)
    assert (config.quality_score, config.output_cost_per_1k) == (0.9, 0.0)
    assert config.input_cost_per_1k == 0.003
    with pytest.raises(ValueError, match="quality_score"):
        ModelConfig.from_catalog("vendor:plain", quality_score=2)


@pytest.mark.usefixtures("a_list_of_our_own")
def test_the_window_ends_where_a_higher_price_begins() -> None:
    config = ModelConfig.from_catalog("vendor:cliff")
    assert (config.max_tokens, config.input_cost_per_1k, config.output_cost_per_1k) == (
        200,
        0.002,
        0.008,
    )
    assert config.cached_input_price == config.input_price
    assert ModelConfig.from_catalog("vendor:cliff", max_tokens=900).max_tokens == 900


@pytest.mark.usefixtures("a_list_of_our_own")
def test_what_has_no_output_has_no_price_for_it() -> None:
    assert ModelConfig.from_catalog("vendor:embedding").output_cost_per_1k == 0.0


@pytest.mark.usefixtures("a_list_of_our_own")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vendor:plane", "near it are vendor:plain"),
        ("vender:plain", "near it are vendor:plain"),
        ("something:else", "nothing in it comes near"),
        ("unknown", "not in the price list"),
        ("vendor:boundless", "give max_tokens"),
        ("vendor:by-the-hour", "no price for tokens"),
        ("vendor:gratis", "no prices"),
        ("", "''"),
        (":", "':'"),
    ],
)
def test_what_is_missing_is_said(name: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ModelConfig.from_catalog(name)


@pytest.mark.usefixtures("a_list_of_our_own")
def test_a_window_that_is_given_need_not_be_known() -> None:
    assert ModelConfig.from_catalog("vendor:boundless", max_tokens=5).max_tokens == 5


REAL = [it for it in DEFAULT_MODELS if it.provider != "meta"]


@pytest.mark.parametrize("known", REAL, ids=lambda it: it.model_id)
def test_real_models_are_listed(known: ModelConfig) -> None:
    config = ModelConfig.from_catalog(f"{known.provider}:{known.model_id}")
    assert (config.model_id, config.provider) == (known.model_id, known.provider)
    assert config.input_price > 0
    assert config.output_price > 0
    assert config.cached_input_price <= config.input_price


def test_a_name_that_tells_its_provider_is_enough() -> None:
    assert ModelConfig.from_catalog("gpt-4o") == ModelConfig.from_catalog("openai:gpt-4o")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=15
    )


def test_the_list_is_loaded_when_it_is_asked_and_a_missing_one_is_named() -> None:
    ran = run("""
import sys
from asyncroute import ModelConfig
assert "genai_prices" not in sys.modules, "imported too early"
sys.modules["genai_prices"] = None
try:
    ModelConfig.from_catalog("openai:gpt-4o")
except ValueError as error:
    print(error)
""")
    assert "asyncroute[prices]" in ran.stdout


def test_nothing_is_downloaded() -> None:
    events: Any = run("""
import sys
events = []
sys.addaudithook(lambda event, _: events.append(event))
from asyncroute import ModelConfig
ModelConfig.from_catalog("openai:gpt-4o")
print(*{it for it in events if it.startswith(("socket.", "urllib."))})
""")
    assert events.stdout.strip() == ""
