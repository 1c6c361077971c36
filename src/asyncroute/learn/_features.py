"""From a text to numbers: hashed grams and words, a few counts of its shape, one linear map.

Only the first and the last 384 bytes are read, so the cost of a decision does not grow with the
prompt. Nothing here depends on a tokenizer, a language or a download.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "BUCKETS",
    "FEATURES",
    "SHAPE",
    "LinearMap",
    "Scan",
    "feature_matrix",
    "features",
    "scan",
    "window",
)

EDGE = 384
"""Bytes read at either end of a text."""
BITS = 12
BUCKETS = 1 << BITS
"""Buckets that 3-grams and words are hashed into."""

_CLASSES = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    " \t",
    "\n\r",
    ".?!",
    ",;:",
    "()[]{}",
    "+-*/=<>^",
    "$%",
    "'\"`",
    "_\\|~&#@",
)
"""Classes of bytes whose shares tell the shape of a text; all others are one more."""
_KINDS = len(_CLASSES) + 1
_WORD, _NUMBER = 1, 2
_TALLIES = 9
SHAPE = 2 * _KINDS + _TALLIES + 1
"""Numbers that tell the shape of a text: see `scan`."""
FEATURES = BUCKETS + SHAPE
"""Length of a feature vector."""


def _class_of(code: int) -> int:
    found = (number for number, members in enumerate(_CLASSES) if chr(code) in members)
    return next(found, _KINDS - 1)


def _run_of(code: int) -> int:
    """Return what a run of such bytes is; 0 is neither a word nor a number."""
    if chr(code) in "0123456789":
        return _NUMBER
    return _WORD if code >= 128 or chr(code).isalnum() else 0


_CLASS_OF = bytes(map(_class_of, range(256)))
_RUN_OF = bytes(map(_run_of, range(256)))
_LONG_WORD, _NUMBER_BEGINS = bytes([_WORD] * 8), bytes([0, _NUMBER])
# Case is folded, and all digits are zeros: how a number is written says more than which it is.
_FOLDED = bytes(ord("0") if _RUN_OF[code] == _NUMBER else code for code in range(256)).lower()

# A gram or a word is an integer of its (first eight) bytes, hashed by multiplication: of a product
# modulo 2**64 the high bits depend on all, and the low ones on few. The constant is odd and well
# spread (golden ratio); a gram's is shifted so that the bytes after its three drop out. They are
# part of the format of saved weights: another constant is another feature.
_GRAM, _STEM = 3, 8
_MIX = 0x9E3779B97F4A7C15
_MIX_WORD, _MIX_GRAM = np.uint64(_MIX), np.uint64((_MIX << 64 - 8 * _GRAM) % (1 << 64))
_SHIFT = np.uint64(64 - BITS)
_MASKS = np.array([(1 << 8 * min(size, _STEM)) - 1 for size in range(2 * EDGE + 1)], np.uint64)
_LINES = 16
"""Lines that are looked at for the longest and the shortest one."""
_SHARE = 5.0
"""What all bytes of one class would count, so that shares and logarithms are of a size."""
# By how often a bucket occurs: what each occurrence adds, so that all together add the root.
_ROOTS = (1 / np.sqrt(np.arange(3 * EDGE).clip(1))).astype(np.float32)


def window(text: str) -> bytes:
    """Return the bytes of `text` that are looked at: all of a short one, both ends of a long one.

    Characters are cut before they are encoded, so that a megabyte is not encoded for 768 bytes.
    """
    if len(text) > 2 * EDGE:
        head = text[:EDGE].encode("utf-8", "replace")
        tail = text[-EDGE:].encode("utf-8", "replace")
        return head[:EDGE] + tail[-EDGE:]
    data = text.encode("utf-8", "replace")
    return data if len(data) <= 2 * EDGE else data[:EDGE] + data[-EDGE:]


class Scan(NamedTuple):
    """What one look at a text gives.

    Attributes:
        buckets: The bucket of each 3-gram and of each word, as they occur.
        weights: What each adds to its bucket.
        shape: Numbers that tell the shape.
    """

    buckets: NDArray[np.int64]
    weights: NDArray[np.float32]
    shape: NDArray[np.float32]


def scan(text: str) -> Scan:
    """Look at a text.

    What it is about: each 3-gram of bytes and each word (the first eight bytes of a run of letters,
    or of digits) is hashed into a bucket, case folded, digits read as zeros. A bucket has the
    square root of how often it occurs, and all of them are a vector of length one.

    Its shape: `log(1 + count)` of each class of bytes, of words, of eight letters in a row, of
    numbers, of three and of four digits in a row, of points within numbers, of the bytes of the
    longest and of the shortest of the first lines, and of characters; each class's share of the
    bytes; and a one. Among texts about one thing it tells hard from easy.
    """
    data = window(text).ljust(_GRAM, b"\0")
    size = len(data)
    padded = b"\0" + data + bytes(_STEM)
    folded = padded.translate(_FOLDED)
    kinds = padded.translate(_RUN_OF)
    runs = np.frombuffer(kinds, np.uint8)
    edges = (runs[1:] != runs[:-1]).nonzero()[0]
    words = runs[edges[1:]].nonzero()[0]
    lengths = (edges[1:] - edges[:-1])[words]

    grams = size - _GRAM + 1
    # At each byte the eight that begin there, as one integer.
    eights = np.ndarray((size,), "<u8", folded, 1, (1,))
    hashed = np.empty(grams + len(words), np.uint64)
    np.multiply(eights[:grams], _MIX_GRAM, out=hashed[:grams])
    stems = eights[edges[words]]
    stems &= _MASKS[lengths]
    np.multiply(stems, _MIX_WORD, out=hashed[grams:])
    hashed >>= _SHIFT
    buckets = hashed.view(np.int64)
    weights = _ROOTS.take(np.bincount(buckets, minlength=BUCKETS).take(buckets))
    weights *= 1 / math.sqrt(len(buckets))  # the root of all counts is the length

    classes = np.frombuffer(data.translate(_CLASS_OF), np.uint8)
    counts: list[int] = np.bincount(classes, minlength=_KINDS).tolist()
    lines = list(map(len, data.split(b"\n", _LINES)[:_LINES]))
    tallies = (
        *counts,
        len(words),
        kinds.count(_LONG_WORD),
        kinds.count(_NUMBER_BEGINS),
        folded.count(b"000"),
        folded.count(b"0000"),
        folded.count(b"0.0"),
        max(lines),
        min(lines),
        len(text),
    )
    share = _SHARE / size
    shape = [*map(math.log1p, tallies), *(share * count for count in counts), 1.0]
    return Scan(buckets, weights, np.array(shape, np.float32))


def features(text: str, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the feature vector of `text`: a place for each bucket, then its shape; see `scan`.

    Args:
        text: Any text, also an empty one.
        out: Where to write, `FEATURES` float32 long; a new array without it.

    Returns:
        The vector (`out` if given).
    """
    if out is None:
        out = np.empty(FEATURES, np.float32)
    buckets, weights, shape = scan(text)
    out[:BUCKETS] = np.bincount(buckets, weights, BUCKETS)
    out[BUCKETS:] = shape
    return out


def feature_matrix(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the feature vectors of `texts` as rows (17 KB each)."""
    matrix = np.empty((len(texts), FEATURES), np.float32)
    for row, text in zip(matrix, texts, strict=True):
        features(text, row)
    return matrix


@final
@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """A linear map of hashed counts with 8-bit weights, about 131 KB for 32 dimensions.

    Attributes:
        codes: Weights as integers in -127..127, one row per dimension.
        scale: What one unit of a code is worth, per dimension.
        bias: What is added, per dimension.

    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def rounded(cls, weights: NDArray[np.floating], bias: NDArray[np.floating]) -> LinearMap:
        """Return the map whose 8-bit weights are nearest to `weights` (one row per dimension)."""
        scale = np.maximum(np.abs(weights).max(axis=1), 1e-12) / 127.0
        codes = np.rint(weights / scale[:, None]).astype(np.int8)
        return cls(codes, scale.astype(np.float32), bias.astype(np.float32))

    def by_bucket(self) -> NDArray[np.int8]:
        """Return the codes with a row for each bucket, of which a text needs few."""
        return np.ascontiguousarray(self.codes.T)
