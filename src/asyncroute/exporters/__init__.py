"""Exporters: observers that tell logs, traces and metrics what a router does.

Each is imported when it is first asked for; `OpenTelemetryObserver` needs the extra `opentelemetry`
and `PrometheusObserver` the extra `prometheus`::

    from asyncroute.exporters import LoggingObserver, PrometheusObserver

    router = LLMRouter(models, providers, observers=[LoggingObserver(), PrometheusObserver()])

An observer is any object with `on_start`, `on_attempt` or `on_result`: yours need not come from
here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncroute.exporters.logging import LoggingObserver
    from asyncroute.exporters.opentelemetry import OpenTelemetryObserver
    from asyncroute.exporters.prometheus import PrometheusObserver

__all__ = ("LoggingObserver", "OpenTelemetryObserver", "PrometheusObserver")

# Public name: the module it lives in.
_HOMES = {
    "LoggingObserver": "logging",
    "OpenTelemetryObserver": "opentelemetry",
    "PrometheusObserver": "prometheus",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
