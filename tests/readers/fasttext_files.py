"""Small fastText models, written byte by byte: no library that writes them is needed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LABELS = ("__label__fr", "__label__en", "__label__de")
WORDS = ("</s>", "chat", "cat", "Katze", "maison", "house", "Haus")


def dense(matrix: np.ndarray) -> bytes:
    """Return a matrix of float32 as fastText saves it: rows, columns, elements."""
    return struct.pack("<2q", *matrix.shape) + matrix.astype("<f4").tobytes()


def quantizer(columns: int, width: int, generator: np.random.Generator) -> bytes:
    """Return a product quantizer: its four sizes, then 256 centroids of each part."""
    sizes = (columns, -(-columns // width), width, columns % width or width)
    centroids = generator.standard_normal(256 * columns).astype("<f4")
    return struct.pack("<4i", *sizes) + centroids.tobytes()


def quantized(
    rows: int, columns: int, width: int, generator: np.random.Generator, *, norms: bool
) -> bytes:
    """Return a matrix as codes of a product quantizer, with codes of the rows' norms or not."""
    codes = generator.integers(0, 256, rows * -(-columns // width), dtype=np.uint8).tobytes()
    out = struct.pack("<B2qi", norms, rows, columns, len(codes)) + codes
    out += quantizer(columns, width, generator)
    if norms:
        out += bytes(generator.integers(0, 256, rows, dtype=np.uint8)) + quantizer(1, 1, generator)
    return out


def fasttext_bytes(
    *,
    words: Sequence[str | bytes] = WORDS,
    labels: Sequence[str | bytes] = LABELS,
    dim: int = 4,
    loss: int = 3,
    model: int = 3,
    bucket: int = 0,
    ngrams: tuple[int, int] = (0, 0),
    word_ngrams: int = 1,
    version: int = 12,
    pruned: Sequence[tuple[int, int]] | None = None,
    width: int | None = None,
    matrices: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> bytes:
    """Return a whole model.

    ``width`` is that of the parts that a product quantizer cuts rows into; without it the
    matrices are dense, and can be given. ``pruned`` are pairs of a hash and its row.
    """
    generator = np.random.default_rng(seed)
    out = struct.pack("<2i", 793712314, version)
    out += struct.pack(
        "<12id", dim, 5, 5, 1, 5, word_ngrams, loss, model, bucket, *ngrams, 100, 1e-4
    )
    kept = -1 if pruned is None else len(pruned)
    out += struct.pack("<3i2q", len(words) + len(labels), len(words), len(labels), 1000, kept)
    for kind, entries in enumerate((words, labels)):
        for number, entry in enumerate(entries):
            raw = entry.encode() if isinstance(entry, str) else entry
            out += raw + b"\0" + struct.pack("<qB", 100 - number, kind)
    out += b"".join(struct.pack("<2i", *pair) for pair in pruned or ())
    rows = (
        len(words) + (bucket if pruned is None else kept),
        len(labels) if model == 3 else len(words),
    )
    if width is not None:
        first = quantized(rows[0], dim, width, generator, norms=True)
        second = quantized(rows[1], dim, width, generator, norms=False)
        return out + b"\1" + first + b"\1" + second
    if matrices is None:
        first, second = (dense(generator.standard_normal((count, dim))) for count in rows)
    else:
        first, second = map(dense, matrices)
    return out + b"\0" + first + b"\0" + second


def fasttext_file(path: Path, **options: object) -> Path:
    """Write a model; see ``fasttext_bytes``."""
    path.write_bytes(fasttext_bytes(**options))
    return path


def pruned_file(path: Path, *, seed: int = 0) -> Path:
    """Write a quantized model whose dictionary of n-grams was pruned, as ``.ftz`` files are."""
    pairs = [(5, 0), (17, 2), (3, 1)]
    return fasttext_file(path, bucket=100, ngrams=(2, 4), pruned=pairs, width=2, dim=5, seed=seed)
