"""Whether two answers say the same: for votes, cascades, and the outcomes they are learned from."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

__all__ = ("same_json", "same_number", "same_text")

_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_FENCE = re.compile(r"^```[a-zA-Z]*\n(.*)\n```$", re.DOTALL)


def same_text(one: str, other: str) -> bool:
    """Tell whether two answers are the same up to case, width, space and closing punctuation."""
    return _normal(one) == _normal(other)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .!?\"'`*")


def same_number(one: str, other: str) -> bool:
    """Tell whether the last numbers of two answers are equal to one part in a billion.

    The last number is where a worked answer usually ends. Answers without one never agree.
    """
    first, second = _last_number(one), _last_number(other)
    if first is None or second is None:
        return False
    return abs(first - second) <= 1e-9 * max(abs(first), abs(second))


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def same_json(one: str, other: str) -> bool:
    """Tell whether two answers hold equal JSON values, fenced or not; never when one is invalid."""
    first, second = _parsed(one), _parsed(other)
    return first is not None and first == second


def _parsed(text: str) -> str | None:
    """Return the JSON value in `text` in one canonical spelling (`1` and `true` stay distinct)."""
    bare = text.strip()
    fenced = _FENCE.match(bare)
    try:
        value: Any = json.loads(fenced.group(1) if fenced else bare)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value, sort_keys=True)
