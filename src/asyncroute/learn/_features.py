"""From a text to numbers: hashed grams and words, a few counts of its shape, one linear map.

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

__all__ = ("BUCKETS", "FEATURES", "SHAPE", "LinearMap", "feature_matrix", "features", "window")

EDGE = 512
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
_DIGITS = 2
_TALLIES = 6
SHAPE = 2 * _KINDS + _TALLIES + 1
"""Numbers that tell the shape of a text: see `features`."""
FEATURES = BUCKETS + SHAPE
"""Length of a feature vector."""

# Odd 32-bit constants with well spread bits (golden ratio; murmur3's finalizer). They are part of
# the format of saved weights: another constant is another feature.
_STEP = np.uint32(0x9E3779B1)
_MIX = np.uint32(0x85EBCA6B)
_SHIFT = np.uint32(32 - BITS)
_POWERS = np.array([pow(int(_STEP), n, 1 << 32) for n in range(2 * EDGE)], np.uint32)
_INVERSES = np.array([pow(int(_STEP), -n, 1 << 32) for n in range(2 * EDGE)], np.uint32)


def _class_of(code: int) -> int:
    found = (number for number, members in enumerate(_CLASSES) if chr(code) in members)
    return next(found, _KINDS - 1)


_CLASS_OF = bytes(_class_of(code) for code in range(256))
# By byte, whether it is part of a word, and of a number. All of a word's digits hash as a zero.
_IN_WORD = bytes(code >= 128 or chr(code).isalnum() for code in range(256))
_IN_NUMBER = bytes(chr(code) in "0123456789" for code in range(256))
_AS_ZERO = bytes(ord("0") if _IN_NUMBER[code] else code for code in range(256))
_ROOTS = np.sqrt(np.arange(3 * EDGE)).astype(np.float32)
_LOGARITHMS = np.log1p(np.arange(2 * EDGE + 1)).astype(np.float32)
_SHARE = 5.0
"""What all bytes of one class would count, so that shares and logarithms are of a size."""


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


def _spans(data: bytes, inside: bytes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where runs of bytes begin and end that a table of 256 says are inside."""
    marks = np.frombuffer(b"\0" + data.translate(inside) + b"\0", np.uint8)
    edges = (marks[1:] != marks[:-1]).nonzero()[0]
    return edges[::2], edges[1::2]


def _buckets(data: bytes, begins: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the bucket of every 3-gram and of every word, both by a polynomial hash."""
    codes = np.frombuffer(data, np.uint8).astype(np.uint32)
    count = len(codes)
    hashes = np.empty(count - 2 + len(begins), np.uint32)
    grams, words = hashes[: count - 2], hashes[count - 2 :]
    np.multiply(codes[:-2], _STEP, out=grams)
    grams += codes[1:-1]
    grams *= _STEP
    grams += codes[2:]
    # A word's own polynomial is what it adds to that of the text, divided by the power at which it
    # begins: division is multiplication by the inverse, modulo 2**32.
    totals = np.zeros(count + 1, np.uint32)
    folded = np.frombuffer(data.translate(_AS_ZERO), np.uint8)
    np.multiply(folded, _POWERS[:count]).cumsum(dtype=np.uint32, out=totals[1:])
    np.subtract(totals[ends], totals[begins], out=words)
    words *= _INVERSES[begins]
    hashes *= _MIX  # of a product the high bits depend on all, and the low ones on few
    return np.right_shift(hashes, _SHIFT, dtype=np.intp)  # as bincount takes them


def features(text: str, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the feature vector of `text`.

    Two blocks. Square roots of how often each 3-gram of bytes and each word (of letters and
    digits) occurs, case folded and hashed, as a vector of length one: what the text is about. Then
    its shape: `log(1 + count)` of each class of bytes, of words, of words of eight letters and
    more, of numbers, of numbers of three digits and more, of the digits of the longest, and of
    characters; each class's share of the bytes; and a one. Among texts about one thing the shape
    tells hard from easy.

    Args:
        text: Any text, also an empty one.
        out: Where to write, `FEATURES` float32 long; a new array without it.

    Returns:
        The vector (`out` if given).
    """
    if out is None:
        out = np.empty(FEATURES, np.float32)
    data = window(text).ljust(3, b"\0")
    begins, ends = _spans(data, _IN_WORD)
    hashed = _buckets(data.lower(), begins, ends)
    # Roots and logarithms from tables: counts are small. The root of all counts is its length.
    roots = _ROOTS * np.float32(1.0 / math.sqrt(len(hashed)))
    roots.take(np.bincount(hashed, minlength=BUCKETS), out=out[:BUCKETS], mode="clip")
    shape = out[BUCKETS:]
    counts = np.bincount(np.frombuffer(data.translate(_CLASS_OF), np.uint8), minlength=_KINDS)
    words, numbers = ends - begins, list[int]()
    if counts[_DIGITS]:
        begins, ends = _spans(data, _IN_NUMBER)
        numbers = (ends - begins).tolist()
    tallies = (
        len(words),
        int(np.count_nonzero(words >= 8)),
        len(numbers),
        sum(length >= 3 for length in numbers),
        max(numbers, default=0),
        len(text),
    )
    _LOGARITHMS.take(counts, out=shape[:_KINDS], mode="clip")
    shape[_KINDS : _KINDS + _TALLIES] = [math.log1p(tally) for tally in tallies]
    shape[_KINDS + _TALLIES : -1] = counts * (_SHARE / len(data))
    shape[-1] = 1.0
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

    def dense(self) -> NDArray[np.float32]:
        """Return the weights as float32, contiguous: one matrix product is then a map."""
        return np.ascontiguousarray(self.codes * self.scale[:, None], dtype=np.float32)
