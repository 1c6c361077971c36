"""Reading JSON that may be anything: each function gives what fits, or what is empty."""

from __future__ import annotations

import json
from typing import Any, cast

__all__ = ("count", "decoded", "first", "object_of", "objects_of", "string_of")


def decoded(data: bytes | str) -> object:
    """Decode JSON; None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def object_of(value: object) -> dict[str, Any]:
    """Give an object, or an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def objects_of(value: object) -> list[dict[str, Any]]:
    """Give the objects in a list that are not empty."""
    items = cast("list[object]", value) if isinstance(value, (list, tuple)) else ()
    return [found for item in items if (found := object_of(item))]


def first(value: object) -> object:
    """Give the first of a list, or None."""
    return cast("list[object]", value)[0] if isinstance(value, list) and value else None


def string_of(value: object) -> str:
    """Give a string, or an empty one."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Give a number of tokens, or None."""
    return value if isinstance(value, int) and value >= 0 else None
