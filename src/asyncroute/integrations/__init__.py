"""A router as the model of an agent framework: of pydantic-ai, LangChain and the OpenAI Agents SDK.

Each is imported when it is first asked for, so that importing this package imports no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncroute.integrations.langchain import ChatAsyncRoute
    from asyncroute.integrations.openai_agents import AgentsModel
    from asyncroute.integrations.pydantic_ai import RoutedModel

__all__ = ("AgentsModel", "ChatAsyncRoute", "RoutedModel")

_HOMES = {
    "AgentsModel": "openai_agents",
    "ChatAsyncRoute": "langchain",
    "RoutedModel": "pydantic_ai",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
