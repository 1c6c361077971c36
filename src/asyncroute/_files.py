"""JSON and YAML files: read with the line of a mistake, written all or nothing."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from asyncroute._errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

__all__ = ("parse_json", "read_structure", "read_text", "write_structure")

_YAML_SUFFIXES = frozenset((".yaml", ".yml"))


def read_text(path: Path) -> str:
    """Read a text file.

    Raises:
        ConfigurationError: It is not UTF-8.
        OSError: It cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}") from None


def read_structure(path: Path) -> object:
    """Read a JSON (`.json`) or YAML file (`.yaml`, `.yml`).

    Raises:
        ConfigurationError: Another suffix; a mistake, with its line; PyYAML is missing.
        OSError: It cannot be read.
    """
    if _is_yaml(path):
        return _parse_yaml(read_text(path), str(path))
    return parse_json(read_text(path), str(path))


def write_structure(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON or YAML file, so that no reader ever sees half of it.

    Raises:
        ConfigurationError: Another suffix; a value no such file can hold; PyYAML is missing.
        OSError: It cannot be written; the old file is as it was.
    """
    is_yaml = _is_yaml(path)
    _require_plain(data, "")
    if is_yaml:
        text = _yaml(path).safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    else:
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    _replace(path, text)


def parse_json(text: str, source: str, *, first_line: int = 1) -> Any:
    """Parse JSON; a key that stands twice is a mistake.

    Args:
        text: The text.
        source: Where it comes from, for the error.
        first_line: The number of its first line there.

    Raises:
        ConfigurationError: A mistake, with source, line and column.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        problem = f"{source}, line {line}, column {error.colno}: {error.msg}"
    except _DuplicateKeyError as error:
        problem = f"{source}: the key {error} stands twice in one object"
    except RecursionError:
        problem = f"{source}: nested too deeply"
    raise ConfigurationError(problem)


class _DuplicateKeyError(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(repr(counts.most_common(1)[0][0]))
    return found


def _is_yaml(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix not in _YAML_SUFFIXES and suffix != ".json":
        raise ConfigurationError(
            f"{path}: cannot tell the format by the suffix {suffix!r}; use .json, .yaml or .yml"
        )
    return suffix != ".json"


def _yaml(path: Path | str) -> ModuleType:
    try:
        import yaml  # lazily: few need it
    except ImportError:
        message = f"{path}: YAML needs PyYAML: pip install 'asyncroute[cli]'"
        raise ConfigurationError(message) from None
    return yaml


def _parse_yaml(text: str, source: str) -> object:
    yaml = _yaml(source)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    raise ConfigurationError(f"{source}{place}: {problem}")


def _require_plain(value: object, key: str) -> None:
    """Refuse what JSON and YAML cannot hold alike, naming where it is."""
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[object, object]", value).items():
            _require_plain(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(cast("Sequence[object]", value)):
            _require_plain(item, f"{key}[{i}]")
    elif value is not None and not isinstance(value, (str, int, float)):
        kind = type(value).__name__
        raise ConfigurationError(f"{key} cannot be written to a file: it is a {kind}")


def _replace(path: Path, text: str) -> None:
    path = path.resolve()  # a link stays one
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with new.open("x", encoding="utf-8", newline="\n") as file:
            if path.exists():
                new.chmod(path.stat().st_mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
