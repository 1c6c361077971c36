"""From a text to a short vector: hashed byte n-grams, a byte profile, one linear map.

Only the first and the last 512 bytes are read, so the cost of a decision does not grow with the
prompt. Nothing here depends on a tokenizer, a language or a download.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("BUCKETS", "FEATURES", "LinearMap", "feature_matrix", "features", "window")

EDGE = 512
"""Bytes read at either end of a text."""
BITS = 12
BUCKETS = 1 << BITS
"""Buckets the 3- to 5-grams are hashed into."""
BYTES = 128
FEATURES = BUCKETS + BYTES + 1
"""Length of a feature vector: the buckets, a profile of the ASCII bytes, the length."""

# Odd 32-bit constants with well spread bits (golden ratio; murmur3's finalizer). They are part of
# the format of saved weights: another constant is another feature.
_STEP = np.uint32(0x9E3779B1)
_MIX = np.uint32(0x85EBCA6B)
_SALT = {n: np.uint32(n * 0x51ED27) for n in (3, 4, 5)}
_SHIFT = np.uint32(32 - BITS)

_ROOTS = np.sqrt(np.arange(6 * EDGE)).astype(np.float32)
_LOGARITHMS = np.log1p(np.arange(2 * EDGE + 1)).astype(np.float32)


def window(text: str) -> bytes:
    """Return the bytes of `text` that are looked at: all of a short one, both ends of a long one.

    Characters are cut before they are encoded, so that a megabyte is not encoded for 1 KiB.
    """
    if len(text) > 2 * EDGE:
        head = text[:EDGE].encode("utf-8", "replace")
        tail = text[-EDGE:].encode("utf-8", "replace")
        return head[:EDGE] + tail[-EDGE:]
    data = text.encode("utf-8", "replace")
    return data if len(data) <= 2 * EDGE else data[:EDGE] + data[-EDGE:]


def _buckets(data: bytes) -> NDArray[np.intp]:
    """Return the bucket of every 3-, 4- and 5-gram of `data`, by a rolling polynomial hash."""
    codes = np.frombuffer(data, np.uint8).astype(np.uint32)
    count = len(codes)
    grams = np.empty(3 * count - 9, np.uint32)
    rolling = codes[:-1] * _STEP
    rolling += codes[1:]
    end = 0
    for n in (3, 4, 5):
        begin, end = end, end + count - n + 1
        rolling = np.multiply(rolling[:-1], _STEP)
        rolling += codes[n - 1 :]
        np.add(rolling, _SALT[n], out=grams[begin:end])
    grams *= _MIX  # of a product the high bits depend on all, and the low ones on few
    return np.right_shift(grams, _SHIFT, dtype=np.intp)  # as bincount takes them


def features(text: str, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the feature vector of `text`.

    Three blocks: square roots of the n-gram counts, case folded, as a vector of length one;
    `log(1 + count)` of each ASCII byte; `log(1 + characters)`. The first says what the text is
    about, the others what shape it has (digits, punctuation, formulas, length), which tells hard
    from easy where the topic does not.

    Args:
        text: Any text, also an empty one.
        out: Where to write, `FEATURES` float32 long; a new array without it.

    Returns:
        The vector (`out` if given).
    """
    if out is None:
        out = np.empty(FEATURES, np.float32)
    data = window(text)
    grams = _buckets(data.lower().ljust(5, b"\0"))
    hashed, profile = out[:BUCKETS], out[BUCKETS:-1]
    # Roots and logarithms from tables: counts are small. The root of all counts is its length.
    roots = _ROOTS * np.float32(1.0 / math.sqrt(len(grams)))
    roots.take(np.bincount(grams, minlength=BUCKETS), out=hashed, mode="clip")
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=BYTES)
    _LOGARITHMS.take(counts[:BYTES], out=profile, mode="clip")
    out[-1] = math.log1p(len(text))
    return out


def feature_matrix(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the feature vectors of `texts` as rows (33 KB each)."""
    matrix = np.empty((len(texts), FEATURES), np.float32)
    for row, text in zip(matrix, texts, strict=True):
        features(text, row)
    return matrix


@final
@dataclass(frozen=True, slots=True, eq=False)
class LinearMap:
    """A linear map of feature vectors with 8-bit weights, about 266 KB for 32 dimensions.

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

    def dense(self) -> NDArray[np.float32]:
        """Return the weights as float32, contiguous: one matrix product is then a map."""
        return np.ascontiguousarray(self.codes * self.scale[:, None], dtype=np.float32)
