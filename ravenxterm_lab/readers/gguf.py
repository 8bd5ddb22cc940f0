"""GGUF (versions 2 and 3, both byte orders): a bounded walk over the header.

The specification is ggml's ``docs/gguf.md``. Long arrays (a vocabulary, its merges) are walked
over without keeping an item; the walk is what makes this reader fast.
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader, active_parameters
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.gguf_attention import ENCODERS, ArchitectureKeys, attention_geometry
from ravenxterm_lab.readers.gguf_layout import LayoutTally, network_shape
from ravenxterm_lab.readers.gguf_types import TENSOR_TYPES, quantization_of
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["GGUFReader"]

_MAGIC = b"GGUF"
# GGUF value types: struct code by type id; 8 is a string, 9 an array.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
#: Made once: making them takes as long as reading a small header. By byte order and type id.
_FORMS = {
    order: {key: struct.Struct(order + code) for key, code in _SCALARS.items()} for order in "<>"
}
_U32, _U64 = 4, 10
#: Bytes of memory, at most, of a key's place with a number; of a number in a tuple; and of a
#: tensor without its name. `sys.getsizeof` of their parts, rounded up.
_KEY_BYTES, _ITEM_BYTES, _TENSOR_BYTES = 256, 48, 448
_NOT_A_DECODER = frozenset({"wavtokenizer-dec"})
_IMAGE_GENERATORS = frozenset(
    {"aura", "flux", "hidream", "lumina2", "qwen_image", "sd1", "sd3", "sdxl"}
)


@dataclass(frozen=True, slots=True)
class _Counted:
    """An array that was walked over: only its length is known."""

    count: int


@dataclass(slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(slots=True)
class _Tally:
    """Sums over the tensors."""

    elements: int = 0
    experts: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    layout: LayoutTally = field(default_factory=LayoutTally)


class _Cursor:
    """Reads forward through a header whose every length is checked first."""

    __slots__ = ("_scalars", "_u32", "_u64", "items", "nested", "pos", "window")

    def __init__(self, window: FileWindow, order: str) -> None:
        self.window = window
        self.pos = 4
        self.items = 0
        self.nested = 0
        self._scalars = _FORMS[order]
        self._u32 = self._scalars[_U32]
        self._u64 = self._scalars[_U64]

    def left(self) -> int:
        return self.window.size - self.pos

    def take(self, form: struct.Struct) -> Any:
        window, size = self.window, form.size
        index = self.pos - window.base
        # Asked here too: most numbers lie in the window, and a header has thousands of them.
        if index < 0 or index + size > len(window.data):
            index = window.at(self.pos, size)
        self.pos += size
        return form.unpack_from(window.data, index)[0]

    def u32(self) -> int:
        value: int = self.take(self._u32)
        return value

    def u64(self) -> int:
        value: int = self.take(self._u64)
        return value

    def count(self, what: str, cap: int, smallest: int) -> int:
        """Read a count and refuse one that the rest of the file could not hold."""
        value = self.u64()
        if value > cap:
            raise self.window.fail(f"claims {value} {what}; at most {cap} are accepted.")
        if value * smallest > self.left():
            raise self.window.fail(
                f"truncated or hostile: claims {value} {what}, but {self.left()} bytes are left."
            )
        return value

    def string(self, what: str, cap: int) -> str:
        length = self.count(f"bytes of {what}", cap, 1)
        raw = self.window.read(self.pos, length)
        self.pos += length
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise self.window.fail(f"{what} is not UTF-8: {shown(raw)}.") from error
        self.window.keep(sys.getsizeof(text))
        return text

    def text(self) -> str | _Counted:
        length = self.count("bytes of a string", limits.GGUF_HEADER_BYTES, 1)
        if length > limits.GGUF_KEEP_STRING:
            self.pos += length
            return _Counted(length)
        raw = self.window.read(self.pos, length)
        self.pos += length
        text = raw.decode("utf-8", "replace")
        self.window.keep(sys.getsizeof(text))
        return text

    def value(self, kind: int, depth: int = 0) -> object:
        form = self._scalars.get(kind)
        if form is not None:
            return self.take(form)
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(depth + 1)
        raise self.window.fail(f"has a value of the unknown type {kind}.")

    def array(self, depth: int) -> object:
        if depth > limits.GGUF_ARRAY_DEPTH:
            raise self.window.fail("nests arrays too deeply.")
        kind = self.u32()
        form = self._scalars.get(kind)
        smallest = form.size if form else 8 if kind == _STRING else 12
        if form is None and kind not in (_STRING, _ARRAY):
            raise self.window.fail(f"has an array of the unknown type {kind}.")
        count = self.count("array items", limits.GGUF_ARRAY_ITEMS, smallest)
        self.items += count
        if self.items > limits.GGUF_ARRAY_ITEMS:
            raise self.window.fail(f"has more than {limits.GGUF_ARRAY_ITEMS} array items.")
        if form is not None:
            start, length = self.pos, count * form.size
            self.pos += length
            if count > limits.GGUF_KEEP_ITEMS or depth > 1:
                return _Counted(count)
            self.window.keep(count * _ITEM_BYTES)
            raw = self.window.read(start, length)
            return tuple(item for (item,) in form.iter_unpack(raw))
        if kind == _STRING:
            self.skip_strings(count)
        else:
            self.nested += count
            if self.nested > limits.GGUF_NESTED_ARRAYS:
                raise self.window.fail(
                    f"has more than {limits.GGUF_NESTED_ARRAYS} arrays within arrays."
                )
            for _ in range(count):
                self.array(depth + 1)
        return _Counted(count)

    def skip_strings(self, count: int) -> None:
        window, unpack = self.window, self._u64.unpack_from
        while count:
            index = window.at(self.pos, 8)
            data = window.data
            # A hot loop: the window's end is met as an exception, not asked for at each string.
            try:
                for done in range(count):  # noqa: B007 - read after the loop broke off
                    index += unpack(data, index)[0] + 8
            except (struct.error, OverflowError, IndexError):
                count -= done
            else:
                count = 0
            self.pos = window.base + index
            if self.pos > window.size:
                raise window.fail("truncated: a string in an array ends after the file.")


class GGUFReader(Reader):
    """Reads GGUF headers."""

    model_type: ClassVar[ModelType] = ModelType.GGUF
    suffixes: ClassVar[tuple[str, ...]] = (".gguf",)
    chunk: ClassVar[int] = 1 << 20

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002 - the magic alone decides
        """Say whether the magic is GGUF's."""
        return head.startswith(_MAGIC)

    def parse(self, window: FileWindow) -> FileFacts:
        """Read version, keys and tensor infos, and check the extent of the tensor data."""
        if window.head(4) != _MAGIC:
            raise window.fail(self.not_this_format(window, "GGUF"))
        cursor = _open(window)
        tensor_count = cursor.count("tensors", limits.GGUF_TENSORS, 24)
        key_count = cursor.count("keys", limits.GGUF_KEYS, 13)
        values: dict[str, object] = {}
        for _ in range(key_count):
            window.keep(_KEY_BYTES)
            key = cursor.string("a key", limits.GGUF_KEY_BYTES)
            if key in values:
                raise window.fail(f"states the key {shown(key)} twice.")
            values[key] = cursor.value(cursor.u32())
            if cursor.pos > limits.GGUF_HEADER_BYTES:
                raise window.fail(f"has a header above {limits.GGUF_HEADER_BYTES} bytes.")
        tensors = [_tensor(cursor) for _ in range(tensor_count)]
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise window.fail("names two tensors alike.")
        tally = _check_extents(window, tensors, values, cursor.pos)
        return _facts(window, values, tally, bool(tensors))


def _open(window: FileWindow) -> _Cursor:
    raw = window.read(4, 4)
    # The version is a small number: read in the wrong order its low half is zero.
    order = "<" if int.from_bytes(raw, "little") & 0xFFFF else ">"
    cursor = _Cursor(window, order)
    version = cursor.u32()
    if version == 1:
        raise window.fail("is GGUF version 1, which llama.cpp no longer reads. Convert it anew.")
    if version not in (2, 3):
        raise window.fail(f"is GGUF version {version}; versions 2 and 3 are known.")
    return cursor


def _tensor(cursor: _Cursor) -> _Tensor:
    cursor.window.keep(_TENSOR_BYTES)
    name = cursor.string("a tensor's name", limits.GGUF_TENSOR_NAME_BYTES)
    dimensions = cursor.u32()
    if dimensions > 4:
        raise cursor.window.fail(f"tensor {shown(name)} has {dimensions} dimensions; ggml has 4.")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    return _Tensor(name, shape, cursor.u32(), cursor.u64())


def _check_extents(
    window: FileWindow, tensors: list[_Tensor], values: dict[str, object], header_end: int
) -> _Tally:
    alignment = values.get("general.alignment", 32)
    if (
        not isinstance(alignment, int)
        or isinstance(alignment, bool)
        or not 0 < alignment <= 1 << 30
        or alignment & (alignment - 1)
    ):
        raise window.fail(f"has an alignment of {shown(alignment)}; a power of two is needed.")
    start = -(-header_end // alignment) * alignment
    tally = _Tally()
    end = 0
    previous = ""
    for tensor in sorted(tensors, key=lambda one: one.offset):
        elements = math.prod(tensor.shape)
        if elements > limits.ELEMENTS or tally.elements + elements > limits.ELEMENTS:
            raise window.fail(f"tensor {shown(tensor.name)} claims {elements} elements.")
        if tensor.offset < end:
            raise window.fail(f"tensors {shown(previous)} and {shown(tensor.name)} overlap.")
        tally.elements += elements
        if "_exps." in tensor.name:
            tally.experts += elements
        known = TENSOR_TYPES.get(tensor.type_id)
        if known is None:
            tally.unknown.add(tensor.type_id)
            tally.layout.skip()
            continue
        name, block, block_bytes = known
        row = tensor.shape[0] if tensor.shape else 1
        if row % block:
            raise window.fail(
                f"tensor {shown(tensor.name)} has rows of {row} elements, which blocks of "
                f"{block} ({name}) do not divide."
            )
        length = elements // block * block_bytes
        end = tensor.offset + length
        previous = tensor.name
        if start + end > window.size:
            raise window.fail(
                f"truncated: tensor {shown(tensor.name)} ends at byte {start + end}, but the "
                f"file has {window.size} bytes. Download it again."
            )
        tally.by_type[name] = tally.by_type.get(name, 0) + length
        tally.layout.add(tensor.name, tensor.shape, name, length)
        if len(tensor.shape) > 1 and tensor.name.startswith("blk."):
            tally.layers[name] = tally.layers.get(name, 0) + length
    return tally


def _facts(
    window: FileWindow, values: dict[str, object], tally: _Tally, has_tensors: bool
) -> FileFacts:
    architecture = clean(values.get("general.architecture")) or None
    keys = ArchitectureKeys(architecture or "", values)
    split = _split(values)
    kind = _kind(values, architecture, has_tensors or split is not None)
    attention, notes = attention_geometry(keys) if kind == "model" else (None, ())
    file_type = values.get("general.file_type")
    experts = _experts(keys)
    quantization, disagreement = quantization_of(file_type, tally.layers, tally.by_type)
    notes += (disagreement,) if disagreement else ()
    notes += tuple(
        f"holds tensors of type {kind_id}, which this version does not know; their extent was "
        "not checked"
        for kind_id in sorted(tally.unknown)[: limits.UNKNOWN_TYPES]
    )
    tokens = values.get("tokenizer.ggml.tokens")
    vocabulary = keys.integer("vocab_size")
    if isinstance(tokens, _Counted):
        vocabulary = tokens.count
    return FileFacts(
        model_type=ModelType.GGUF,
        size_bytes=window.size,
        kind=kind,
        name=clean(values.get("general.name")) or None,
        architecture=architecture,
        parameter_count=tally.elements if has_tensors else None,
        active_parameter_count=(
            active_parameters(tally.elements, tally.experts, experts) if has_tensors else None
        ),
        expert_parameter_count=tally.experts,
        experts=experts,
        file_type=file_type if isinstance(file_type, int) else None,
        quantization=quantization,
        context_length=keys.integer("context_length", 2**40),
        attention=attention,
        weight_layout=tally.layout.layout(experts),
        network=network_shape(keys, tally.layout),
        embedding_length=keys.integer("embedding_length"),
        vocabulary_size=vocabulary,
        task_types=_tasks(keys, values, attention is not None) if kind == "model" else (),
        license=clean(values.get("general.license")) or None,
        tensor_bytes=tally.by_type,
        split=split,
        notes=notes,
    )


def _experts(keys: ArchitectureKeys) -> tuple[int, int] | None:
    count, used = keys.integer("expert_count"), keys.integer("expert_used_count")
    return (count, used) if count and used and used <= count else None


def _split(values: dict[str, object]) -> tuple[int, int] | None:
    index, count = values.get("split.no"), values.get("split.count")
    if isinstance(index, int) and isinstance(count, int) and count > 1 and 0 <= index < count:
        return int(index), int(count)
    return None


def _kind(values: dict[str, object], architecture: str | None, has_weights: bool) -> str:
    stated = values.get("general.type")
    if architecture == "clip" or stated in ("mmproj", "projector"):
        return "projector"
    if stated == "adapter":
        return "adapter"
    if stated == "imatrix":
        return "other"
    if not has_weights:
        return "vocabulary" if "tokenizer.ggml.tokens" in values else "other"
    return "model"


def _tasks(keys: ArchitectureKeys, values: dict[str, object], has_cache: bool) -> tuple[str, ...]:
    architecture = keys.architecture
    pooling = keys.integer("pooling_type")
    if pooling == 4:  # LLAMA_POOLING_TYPE_RANK
        return ("reranking",)
    if architecture in ENCODERS or pooling in (1, 2, 3):
        return ("embedding",)
    if architecture == "t5":
        return ("translation", "summarization")
    if architecture in _IMAGE_GENERATORS:
        return ("text_to_image",)
    if architecture in _NOT_A_DECODER or not (has_cache or "tokenizer.ggml.model" in values):
        return ()
    return ("text_generation",)
