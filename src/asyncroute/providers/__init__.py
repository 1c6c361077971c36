"""Providers: what calls the models.

A provider is any object with `async def complete(call)`; those here are for use as they are. Each
is imported when it is first asked for, so that importing this package imports no SDK and no HTTP
client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncroute.providers._simulated import Billed, SimulatedProvider, Simulation
    from asyncroute.providers.anthropic import AnthropicProvider
    from asyncroute.providers.google import GoogleProvider
    from asyncroute.providers.mistral import MistralProvider
    from asyncroute.providers.openai import OpenAIProvider
    from asyncroute.providers.openai_compatible import OpenAICompatibleProvider

__all__ = (
    "AnthropicProvider",
    "Billed",
    "GoogleProvider",
    "MistralProvider",
    "OpenAICompatibleProvider",
    "OpenAIProvider",
    "SimulatedProvider",
    "Simulation",
)

# Public name: the module it lives in, and the extra that installs what that module imports at once.
# Those with an SDK import it when one is made, and say themselves what is missing.
_HOMES = {
    "AnthropicProvider": ("anthropic", None),
    "Billed": ("_simulated", None),
    "GoogleProvider": ("google", None),
    "MistralProvider": ("mistral", None),
    "OpenAICompatibleProvider": ("openai_compatible", "http"),
    "OpenAIProvider": ("openai", None),
    "SimulatedProvider": ("_simulated", None),
    "Simulation": ("_simulated", None),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _HOMES[name]
    try:
        found: object = getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("asyncroute"):
            raise
        raise ImportError(
            f"{name} needs {error.name}: pip install 'asyncroute[{extra}]'", name=error.name
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
