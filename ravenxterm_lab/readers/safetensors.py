"""safetensors: an 8-byte length, a JSON header, then the tensors back to back.

The rules are those of the format's own library: offsets in order, without a hole or an overlap,
and the data ends where the file ends.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.json_stream import JsonStream
from ravenxterm_lab.readers.text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["SafetensorsReader"]

#: Bits of one element; 0-bit types do not exist.
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


_METADATA = "__metadata__"
#: Bytes of memory, at most, of a tensor's extent without its name.
_TENSOR_BYTES = 320


@dataclass(slots=True)
class _Tally:
    elements: int = 0
    experts: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    adapters: int = 0
    embedding: tuple[int, ...] = ()
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    form: object = None


class SafetensorsReader(Reader):
    """Reads safetensors headers."""

    model_type: ClassVar[ModelType] = ModelType.SAFETENSORS
    suffixes: ClassVar[tuple[str, ...]] = (".safetensors",)

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002 - the head alone decides
        """Say whether a plausible header length and an opening brace come first."""
        if len(head) < 9:
            return False
        length = int.from_bytes(head[:8], "little")
        return 2 <= length <= limits.SAFETENSORS_HEADER_BYTES and head[8:9] == b"{"

    def parse(self, window: FileWindow) -> FileFacts:
        """Read the header and check every tensor's extent."""
        head = window.head(9)
        if not self.sniff(window.path, head):
            length = int.from_bytes(head[:8], "little")
            if len(head) == 9 and head[8:9] == b"{":
                cap = limits.SAFETENSORS_HEADER_BYTES
                raise window.fail(f"claims a header of {length} bytes; 2 to {cap} are accepted.")
            raise window.fail(self.not_this_format(window, "safetensors"))
        length = int.from_bytes(head[:8], "little")
        if 8 + length > window.size:
            raise window.fail(
                f"truncated: claims a header of {length} bytes, but the file has {window.size}. "
                "Download it again."
            )
        tally = _walk(window, _members(window, length), window.size - 8 - length)
        dominant = max(tally.by_type, key=lambda name: tally.by_type[name], default=None)
        notes = tuple(
            f"holds tensors of type {shown(name)}, which this version does not know"
            for name in sorted(tally.unknown)
        )
        vocabulary, width = tally.embedding if len(tally.embedding) == 2 else (None, None)
        return FileFacts(
            model_type=ModelType.SAFETENSORS,
            size_bytes=window.size,
            kind=_kind(tally),
            parameter_count=tally.elements,
            active_parameter_count=tally.elements if not tally.experts else None,
            expert_parameter_count=tally.experts,
            quantization=dominant,
            embedding_length=width,
            vocabulary_size=vocabulary,
            tensor_bytes=tally.by_type,
            notes=notes + _format_note(tally.form),
        )


def _kind(tally: _Tally) -> str:
    if not tally.spans:
        return "other"
    return "adapter" if tally.adapters == len(tally.spans) else "model"


def _format_note(form: object) -> tuple[str, ...]:
    return () if form in (None, "pt") else (f"written for {shown(form)}",)


def _members(window: FileWindow, length: int) -> Iterator[tuple[str, object]]:
    """Yield the members of the header; of its metadata only what they call the format."""
    if length <= limits.JSON_WHOLE:
        for name, value in parse_json(window.read(8, length), window.path).items():
            yield name, _form(window, value) if name == _METADATA else value
        return
    header = JsonStream(window, 8, 8 + length)
    for name in header.members():
        yield name, _next_form(window, header) if name == _METADATA else header.value()
    header.finish()


def _walk(window: FileWindow, members: Iterator[tuple[str, object]], data_bytes: int) -> _Tally:
    tally = _Tally()
    described = False
    for name, value in members:
        if name in tally.spans or (described and name == _METADATA):
            raise window.fail(f"names {shown(name)} twice.")
        if name == _METADATA:
            described = True
            tally.form = value
            continue
        dtype, elements, shape, begin, end = _entry(window, name, value)
        bits = _BITS.get(dtype)
        if bits is None:
            if len(tally.unknown) < limits.UNKNOWN_TYPES:
                tally.unknown.add(dtype)
        elif elements * bits != (end - begin) * 8:
            raise window.fail(
                f"tensor {shown(name)} has {elements} elements of {dtype}, which do not take "
                f"{end - begin} bytes."
            )
        if end > data_bytes:
            raise window.fail(
                f"truncated: tensor {shown(name)} ends at byte {end} of the data, but the file "
                f"has {data_bytes}. Download it again."
            )
        tally.elements += elements
        if tally.elements > limits.ELEMENTS:
            raise window.fail("claims too many elements.")
        if ".experts." in name:
            tally.experts += elements
        tally.adapters += ".lora_A" in name or ".lora_B" in name
        label = dtype if bits is not None else "unknown"
        tally.by_type[label] = tally.by_type.get(label, 0) + end - begin
        if name.endswith(("embed_tokens.weight", "word_embeddings.weight", "wte.weight")):
            tally.embedding = shape
        window.keep(_TENSOR_BYTES + sys.getsizeof(name))
        tally.spans[name] = (begin, end)
    position = 0
    for name in sorted(tally.spans, key=tally.spans.__getitem__):
        begin, end = tally.spans[name]
        if begin != position:
            what = "overlaps another one" if begin < position else "leaves a hole before it"
            raise window.fail(f"tensor {shown(name)} {what} (offset {begin}).")
        position = end
    if position != data_bytes:
        raise window.fail(f"has {data_bytes - position} bytes after its last tensor.")
    return tally


def _form(window: FileWindow, metadata: object) -> object:
    """Return what the metadata, a map of texts or null, call the format."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise window.fail(f"has {_METADATA} that is not an object.")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise window.fail(f"states {shown(key)} in {_METADATA}, which is not a text.")
    return metadata.get("format")


def _next_form(window: FileWindow, header: JsonStream) -> object:
    """Do the same to metadata of any length, without keeping them."""
    if header.peek() != "{":
        return _form(window, header.value())
    form = None
    for key in header.members():
        if header.peek() != '"':
            raise window.fail(f"states {shown(key)} in {_METADATA}, which is not a text.")
        if key == "format":
            form = header.value()
        else:
            header.skip()
    return form


def _entry(
    window: FileWindow, name: str, entry: object
) -> tuple[str, int, tuple[int, ...], int, int]:
    if not isinstance(entry, dict):
        raise window.fail(f"tensor {shown(name)} is not described by an object.")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str):
        raise window.fail(f"tensor {shown(name)} has no dtype.")
    if not isinstance(shape, list) or len(shape) > limits.DIMENSIONS or not _sizes(shape):
        raise window.fail(f"tensor {shown(name)} has the shape {shown(shape)}.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not _sizes(offsets):
        raise window.fail(f"tensor {shown(name)} has the offsets {shown(offsets)}.")
    begin, end = offsets
    if begin > end:
        raise window.fail(f"tensor {shown(name)} ends before it begins.")
    return dtype, math.prod(shape), tuple(shape), begin, end


def _sizes(values: list[Any]) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)
