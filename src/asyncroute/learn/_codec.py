"""A safe, versioned, checked format for arrays and a JSON header: an npz archive without pickle."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ("Arrays", "Header", "WeightsError", "pack", "read_file", "unpack", "write_file")

VERSION = 3
"""Raised whenever the same numbers would mean something else."""
MOST = 16 * 2**20
"""Bytes an archive may unpack to; ours are under 1 MiB, a crafted one could be endless."""


@final
class WeightsError(ValueError):
    """Saved weights that cannot be used; the message says why."""


@final
class Header:
    """A decoded header, read field by field with checks."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of distinct strings."""
        found = self._list(name)
        if not all(isinstance(item, str) for item in found) or len(set(found)) != len(found):
            raise WeightsError(f"{name} must be distinct strings, got {found!r}")
        return tuple(cast("list[str]", found))

    def number(self, name: str) -> float:
        """Return a finite number above or equal to zero."""
        return _number(name, self._fields.get(name))

    def rows(self, name: str) -> list[tuple[float, ...]]:
        """Return a list of lists of numbers."""
        rows = self._list(name)
        if not all(isinstance(row, list) for row in rows):
            raise WeightsError(f"{name} must be a list of lists, got {rows!r}")
        return [tuple(_number(name, cell) for cell in cast("list[object]", row)) for row in rows]

    def _list(self, name: str) -> list[object]:
        found = self._fields.get(name)
        if not isinstance(found, list):
            raise WeightsError(f"{name} must be a list, got {found!r}")
        return cast("list[object]", found)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e300:
        raise WeightsError(f"{name} must hold finite numbers of at least 0, got {value!r}")
    return float(value)


@final
class Arrays(Mapping[str, "NDArray[Any]"]):
    """Decoded arrays by name; all of them finite."""

    __slots__ = ("_arrays",)

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Any:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise `WeightsError` unless an array has this shape."""
        if self._arrays[name].shape != shape:
            got = self._arrays[name].shape
            raise WeightsError(f"array {name} must have shape {shape}, got {got}")


def pack(header: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an archive; the same input gives the same bytes."""
    fields = {"format": "asyncroute", "version": VERSION, **header}
    whole = {"header": np.frombuffer(json.dumps(fields).encode(), np.uint8), **arrays}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in whole.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def unpack(data: bytes, kind: str, names: Sequence[str]) -> tuple[Header, Arrays]:
    """Read an archive.

    Args:
        data: The archive.
        kind: What its header must say it is.
        names: Arrays it must hold.

    Raises:
        WeightsError: When anything about it is not as `pack` makes it. Damage is found by the
            archive's own checksums.

    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _limit(archive)
            raw = {name: _array(archive.read(f"{name}.npy")) for name in ("header", *names)}
        fields: object = json.loads(raw.pop("header").tobytes())
    except WeightsError:
        raise
    except Exception as error:  # zipfile, numpy and json between them raise almost anything
        raise WeightsError(f"not readable as {kind}: {error}") from error
    if not isinstance(fields, dict):
        raise WeightsError("header must be an object")
    known = cast("dict[str, object]", fields)
    if known.get("format") != "asyncroute" or known.get("kind") != kind:
        raise WeightsError(f"kind must be {kind!r}, got {known.get('kind')!r}")
    if known.get("version") != VERSION:
        raise WeightsError(f"version must be {VERSION}, got {known.get('version')!r}")
    for name, array in raw.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise WeightsError(f"array {name} must hold finite numbers")
    return Header(known), Arrays(raw)


def _limit(archive: zipfile.ZipFile) -> None:
    if sum(part.file_size for part in archive.infolist()) > MOST:
        raise WeightsError(f"archive unpacks to more than {MOST} bytes")


def _array(data: bytes) -> NDArray[Any]:
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file.

    Raises:
        WeightsError: When it is larger than weights can be.
        OSError: When it cannot be read.

    """
    source = Path(path)
    if source.stat().st_size > MOST:
        raise WeightsError(f"{source} is larger than {MOST} bytes")
    return source.read_bytes()


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, nothing between."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
