"""Adler-32 (RFC 1950, section 9) of many slots at once, by two matrix products.

The sums of the algorithm are linear in the bytes: ``a = 1 + Σ pᵢ`` and
``b = n + Σ (n - i) pᵢ``, both modulo 65,521, with ``i`` counted from 0.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["adler32"]

_MODULUS = 65_521
# Single precision is exact up to 2**24, which the sums of this many bytes stay below; it
# is converted and multiplied in half the time of double precision.
_EXACT_BYTES = 256
# So few that OpenBLAS keeps to one thread: its others would spin, at the cost of everybody.
_BLOCK = 2048
# Rows up to which a loop takes less time than the products.
_LOOP = 64


def _sums(data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each row of n bytes, ``Σ pᵢ`` and ``Σ (n - i) pᵢ``."""
    count, length = data.shape
    kind: Any = np.float32 if length <= _EXACT_BYTES else np.float64
    weights = np.ones((length, 2), dtype=kind)
    weights[:, 1] = np.arange(length, 0, -1)
    found = np.empty((count, 2), dtype=kind)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        np.matmul(data[block].astype(kind), weights, out=found[block])
    return found[:, 0].astype(np.int64), found[:, 1].astype(np.int64)


def adler32(
    data: NDArray[np.uint8], before: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """Return the checksum of each row.

    Parameters
    ----------
    data : array of uint8, shape (n, length)
        One message a row.
    before : array of uint32, shape (n,), optional
        Checksums of what goes before each row, as for the second argument of
        `zlib.adler32`.
    """
    count, length = data.shape
    if count <= _LOOP:
        raw = data.tobytes()
        starts = range(0, count * length, length) if length else [0] * count
        seeds = [1] * count if before is None else before.tolist()
        found = [
            zlib.adler32(raw[start : start + length], seed)
            for start, seed in zip(starts, seeds, strict=True)
        ]
        return np.array(found, dtype=np.uint32)
    plain, weighted = _sums(data)
    low, high = _halves(before, len(data))
    return _join(low + plain, high + data.shape[1] * low + weighted)


def _halves(
    before: NDArray[np.uint32] | None, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if before is None:
        return np.ones(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    return (before & 0xFFFF).astype(np.int64), (before >> 16).astype(np.int64)


def _join(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.uint32]:
    return ((high % _MODULUS) << 16 | low % _MODULUS).astype(np.uint32)
