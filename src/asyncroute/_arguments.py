"""Whether what a router is made with is of the kinds that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from asyncroute._errors import ConfigurationError

__all__ = ("check_kind", "check_mapping", "check_several")


_ONE: tuple[type, ...] = (str, bytes, Mapping, BaseModel)
"""What may be iterable by itself, and is one."""


def check_several(name: str, given: object, of: str) -> None:
    """Refuse what is not several things: also one of them, which might be iterable by itself.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(given, _ONE) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{name} must be a list of {of}, got {_shown(given)}")


def check_mapping(name: str, given: object, of: str) -> None:
    """Refuse what is neither None nor a mapping by name.

    Raises:
        ConfigurationError: It is neither.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(f"{name} must be a mapping of {of} by name, got {_shown(given)}")


def check_kind(name: str, given: object, kind: type) -> None:
    """Refuse what is neither None nor of a kind.

    Raises:
        ConfigurationError: It is neither.
    """
    if given is not None and not isinstance(given, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, got {_shown(given)}")


def _shown(given: object) -> str:
    # Not its repr: providers and models may hold secrets.
    return "None" if given is None else f"a {type(given).__name__}"
