"""Whether what is given is of the kinds that are taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from numbers import Integral, Real
from typing import cast

from pydantic import BaseModel

from asyncroute._errors import ConfigurationError

__all__ = (
    "check_kind",
    "check_mapping",
    "check_several",
    "is_count",
    "is_number",
    "is_whole",
    "shown",
)


_ONE: tuple[type, ...] = (str, bytes, Mapping, BaseModel)
"""What may be iterable by itself, and is one."""


def check_several(name: str, given: object, of: str) -> None:
    """Refuse what is not several things: also one of them, which might be iterable by itself.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(given, _ONE) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{name} must be a list of {of}, got {shown(given)}")


def check_mapping(name: str, given: object, of: str, *, by: str = "name") -> None:
    """Refuse what is neither None nor a mapping.

    Raises:
        ConfigurationError: It is neither.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigurationError(f"{name} must be a mapping of {of} by {by}, got {shown(given)}")


def check_kind(name: str, given: object, kind: type) -> None:
    """Refuse what is neither None nor of a kind.

    Raises:
        ConfigurationError: It is neither.
    """
    if given is not None and not isinstance(given, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, got {shown(given)}")


def is_number(given: object) -> bool:
    """Whether it is a real number, numpy's included, and not NaN."""
    return isinstance(given, (float, int, Real)) and given == given


def is_whole(given: object) -> bool:
    """Whether it is a whole number, and not one that only happens to have no fraction."""
    return isinstance(given, (int, Integral))


def is_count(given: object, least: int) -> bool:
    """Whether it is a whole number from *least* on, or infinity where there is to be no bound."""
    return (is_whole(given) or given == inf) and cast("float", given) >= least


def shown(given: object) -> str:
    """Say what somebody gave, without its repr: providers and models may hold secrets."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return "None" if given is None else f"a {type(given).__name__}"
