"""fastText (``.bin`` and ``.ftz``): arguments, dictionary and the sizes of the two matrices.

The layout is that of facebookresearch/fastText, ``src/fasttext.cc`` (``signModel``,
``saveModel``), ``args.cc``, ``dictionary.cc``, ``densematrix.cc``, ``quantmatrix.cc`` and
``productquantizer.cc``, as little-endian machines write it; product quantization is that of
A. Joulin et al., "FastText.zip: compressing text classification models" (arXiv 1612.03651).
The library itself trusts every number in a file: what would make it read beyond an array is
refused here.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader
from ravenxterm_lab.readers.fasttext_labels import LabelTally
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["FastTextReader"]

_MAGIC = 793_712_314
_VERSIONS = (11, 12)
_HEAD = struct.Struct("<2i")
#: dim ws epoch minCount neg wordNgrams loss model bucket minn maxn lrUpdateRate t
_ARGS = struct.Struct("<12id")
#: size nwords nlabels ntokens pruneidx_size
_DICTIONARY = struct.Struct("<3i2q")
#: After a word and its zero: how often it occurred (8 bytes), and whether it is a label (1).
_COUNT, _ENTRY = 8, 9
_STEP = 1 << 16
#: The library builds its tree of labels from their counts, and takes this for "not yet built".
_MOST_COUNTED = 10**15
# So many words at once: ten times as fast as one by one, and vectors have two million words. A
# match is never tried again another way, so that what does not match costs one look.
_MANY = 64
_WORDS = re.compile(rb"(?:[^\0]++\0.{8}\0){%d}+" % _MANY, re.DOTALL)
_LOSSES = {1: "hierarchical softmax", 2: "negative sampling", 3: "softmax", 4: "one-vs-all"}
_MODELS = {1: "CBOW word vectors", 2: "skip-gram word vectors", 3: "supervised"}
_SUPERVISED = 3
_CENTROIDS = 256


@dataclass(frozen=True, slots=True)
class _Args:
    """The arguments that the sizes of everything else follow from."""

    dim: int
    word_ngrams: int
    loss: int
    model: int
    bucket: int
    longest_ngram: int


@dataclass(frozen=True, slots=True)
class _Words:
    """The dictionary: how many words and labels, and what hashes were kept when it was pruned."""

    words: int
    labels: int
    kept_hashes: int
    tally: LabelTally


@dataclass(frozen=True, slots=True)
class _Matrix:
    rows: int
    columns: int
    kind: str
    size_bytes: int

    @property
    def elements(self) -> int:
        return self.rows * self.columns


class FastTextReader(Reader):
    """Reads the outline of a fastText model; words are counted and not kept."""

    model_type: ClassVar[ModelType] = ModelType.FASTTEXT
    suffixes: ClassVar[tuple[str, ...]] = (".ftz", ".bin")

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002 - the magic decides
        """Say whether the file starts with fastText's magic number."""
        return head[:4] == _MAGIC.to_bytes(4, "little")

    def parse(self, window: FileWindow) -> FileFacts:
        """Read the arguments, pass over the dictionary, and check the matrices against both."""
        if not self.sniff(window.path, window.head(4)):
            raise window.fail(self.not_this_format(window, "a fastText model"))
        walk = _Walk(window)
        version = walk.take(_HEAD)[1]
        if version not in _VERSIONS:
            raise window.fail(f"is of version {version} of fastText's format; 11 and 12 are known.")
        args = _arguments(walk)
        words = _dictionary(walk)
        if args.bucket < 1 and (args.longest_ngram > 0 or args.word_ngrams > 1):
            raise window.fail("uses n-grams, but has no buckets to hash them into.")
        quantized = walk.flag()
        if words.kept_hashes >= 0 and not quantized:
            raise window.fail("has a pruned dictionary and a matrix that is not quantized.")
        first = _quantized(walk) if quantized else _dense(walk)
        second = _quantized(walk) if walk.flag() and quantized else _dense(walk)
        _check_shapes(walk, args, words, first, second)
        supervised = args.model == _SUPERVISED
        notes = [f"fastText {version}, {_MODELS[args.model]}, {_LOSSES[args.loss]}"]
        notes.extend([words.tally.describe()] if supervised else [])
        if walk.at < window.size:
            notes.append(f"{format_bytes(window.size - walk.at)} follow the model and are ignored")
        tensor_bytes = {first.kind: first.size_bytes}
        tensor_bytes[second.kind] = tensor_bytes.get(second.kind, 0) + second.size_bytes
        return FileFacts(
            model_type=ModelType.FASTTEXT,
            size_bytes=window.size,
            parameter_count=first.elements + second.elements,
            # A word looks up a row or a few; a text is held against the whole output.
            active_parameter_count=args.dim + (second.elements if supervised else 0),
            quantization=first.kind,
            embedding_length=args.dim,
            vocabulary_size=words.words,
            task_types=(words.tally.task if supervised else "embedding",),
            tensor_bytes=tensor_bytes,
            notes=tuple(notes),
        )


class _Walk:
    """A place in the file that only moves forward."""

    __slots__ = ("at", "window")

    def __init__(self, window: FileWindow) -> None:
        self.window = window
        self.at = 0

    def take(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack(self.window.read(self.at, form.size))
        self.at += form.size
        return values

    def flag(self) -> bool:
        value = self.window.read(self.at, 1)[0]
        if value > 1:
            raise self.window.fail(f"has {value} where a yes or a no must be.")
        self.at += 1
        return value == 1

    def skip(self, count: int, what: str) -> None:
        """Pass over bytes that are not needed; they must be there."""
        left = self.window.size - self.at
        if not 0 <= count <= left:
            raise self.window.fail(
                f"truncated: {what} needs {count} bytes, and {left} are left of "
                f"{self.window.size}. Download it again."
            )
        self.at += count


def _arguments(walk: _Walk) -> _Args:
    (dim, _, _, _, _, ngrams, loss, model, bucket, _, longest, _, _) = walk.take(_ARGS)
    fail = walk.window.fail
    if not 0 < dim <= limits.FASTTEXT_DIMENSION:
        raise fail(f"claims vectors of {dim} elements; 1–{limits.FASTTEXT_DIMENSION} are read.")
    if loss not in _LOSSES or model not in _MODELS:
        raise fail(f"names loss {loss} and model {model}, which fastText does not have.")
    return _Args(dim, ngrams, loss, model, bucket, longest)


def _dictionary(walk: _Walk) -> _Words:
    size, words, labels, _, kept = walk.take(_DICTIONARY)
    window = walk.window
    wrong = min(words, labels) < 0 or words + labels != size or size < 1
    if wrong or size > limits.FASTTEXT_ENTRIES:
        raise window.fail(f"claims {words} words and {labels} labels, {size} in all.")
    if kept < -1 or kept > limits.FASTTEXT_ENTRIES:
        raise window.fail(f"claims a pruned dictionary of {kept} hashes.")
    tally = LabelTally()
    done = occurred = 0
    while done < size:
        data = window.read(walk.at, min(_STEP, window.size - walk.at))
        begin, last = 0, len(data) - _ENTRY
        while done + _MANY <= words and (found := _WORDS.match(data, begin)):
            begin, done = found.end(), done + _MANY
        while done < size:
            end = data.find(b"\0", begin)
            if end < 0 or end >= last:
                break
            # Words come first: the library finds a label by its distance from the last word.
            if end == begin or data[end + _ENTRY] != (done >= words):
                raise window.fail(f"entry {done} of its dictionary is not as it must be.")
            if done >= words:
                tally.add(data[begin:end])
                count = int.from_bytes(data[end + 1 : end + 1 + _COUNT], "little", signed=True)
                occurred += count
                if count < 0 or occurred >= _MOST_COUNTED:
                    raise window.fail(f"claims that its labels occurred {occurred} times.")
            begin, done = end + 1 + _ENTRY, done + 1
        if not begin:
            raise window.fail(
                f"truncated, or damaged: entry {done} of its dictionary does not end within "
                f"{len(data)} bytes. Download it again."
            )
        walk.at += begin
    if kept > 0:
        _check_hashes(walk, kept)
    return _Words(words, labels, kept, tally)


def _check_hashes(walk: _Walk, kept: int) -> None:
    """Pass over pairs of a hash and its row; every row must be one of those that were kept."""
    end = walk.at + 8 * kept
    start = walk.at
    walk.skip(8 * kept, "its pruned dictionary")
    for at in range(start, end, _STEP):
        pairs = array("i", walk.window.read(at, min(_STEP, end - at)))
        if sys.byteorder == "big":
            pairs.byteswap()
        rows = pairs[1::2]
        if min(rows) < 0 or max(rows) >= kept:
            raise walk.window.fail(f"its pruned dictionary names a row beyond its {kept}.")


def _dense(walk: _Walk) -> _Matrix:
    rows, columns = walk.take(struct.Struct("<2q"))
    size = _elements(walk, rows, columns) * 4
    walk.skip(size, f"a matrix of {rows} × {columns}")
    return _Matrix(rows, columns, "F32", size)


def _quantized(walk: _Walk) -> _Matrix:
    start = walk.at
    norms = walk.flag()
    rows, columns, codes = walk.take(struct.Struct("<2qi"))
    _elements(walk, rows, columns)
    walk.skip(codes, "a quantized matrix")
    parts = _quantizer(walk, columns)
    if codes != rows * parts:
        raise walk.window.fail(f"has {codes} codes for {rows} rows of {parts}.")
    if norms:
        walk.skip(rows, "the norms of a quantized matrix")
        _quantizer(walk, 1)
    return _Matrix(rows, columns, "PQ", walk.at - start)


def _quantizer(walk: _Walk, columns: int) -> int:
    """Pass over the centroids of one product quantizer; return the codes of one row."""
    dim, parts, width, last = walk.take(struct.Struct("<4i"))
    right = dim == columns and 0 < width <= dim and parts == -(-dim // width)
    if not right or last != (dim % width or width):
        raise walk.window.fail(
            f"cuts rows of {dim} elements into {parts} parts of {width}, the last of {last}, "
            f"for a matrix of {columns} columns."
        )
    walk.skip(4 * _CENTROIDS * dim, "the centroids of a quantized matrix")
    return parts


def _elements(walk: _Walk, rows: int, columns: int) -> int:
    if rows < 0 or not 0 < columns <= limits.FASTTEXT_DIMENSION or rows > limits.ELEMENTS:
        raise walk.window.fail(f"claims a matrix of {rows} × {columns}.")
    return rows * columns


def _check_shapes(walk: _Walk, args: _Args, words: _Words, first: _Matrix, second: _Matrix) -> None:
    """Refuse matrices that the dictionary points beyond."""
    hashed = max(args.bucket, 0) if words.kept_hashes < 0 else words.kept_hashes
    inputs = (words.words + hashed, args.dim)
    outputs = (words.labels if args.model == _SUPERVISED else words.words, args.dim)
    for name, matrix, wanted in (("input", first, inputs), ("output", second, outputs)):
        if (matrix.rows, matrix.columns) != wanted:
            raise walk.window.fail(
                f"its {name} matrix is {matrix.rows} × {matrix.columns}, but dictionary and "
                f"arguments need {wanted[0]} × {wanted[1]}."
            )
