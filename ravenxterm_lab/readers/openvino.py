"""OpenVINO IR: the graph's outline from its ``.xml``; of the ``.bin`` only the size is looked at.

The layout is that of IR versions 10 and 11: ``net`` holds ``layers``, ``edges`` and ``rt_info``;
a ``Const`` layer says where in the ``.bin`` its tensor lies. Bodies of loops and conditions hold
layers of their own, whose constants lie in the same file.
Source: https://docs.openvino.ai/2025/documentation/openvino-ir-format.html
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader, TensorSignature
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.extents import external_problems
from ravenxterm_lab.readers.signatures import (
    NOT_WEIGHTS,
    dominant_type,
    first_ones,
    output_width,
    tasks_of_graph,
)
from ravenxterm_lab.readers.text import clean
from ravenxterm_lab.readers.xml_stream import stream_elements
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["OpenVinoReader"]

#: element_type to a name and the bits of one element; strings have no fixed size.
_TYPES: dict[str, tuple[str, int]] = {
    "f64": ("F64", 64),
    "f32": ("F32", 32),
    "f16": ("F16", 16),
    "bf16": ("BF16", 16),
    "f8e4m3": ("F8_E4M3", 8),
    "f8e5m2": ("F8_E5M2", 8),
    "f8e8m0": ("F8_E8M0", 8),
    "f4e2m1": ("F4", 4),
    "nf4": ("NF4", 4),
    "i64": ("I64", 64),
    "i32": ("I32", 32),
    "i16": ("I16", 16),
    "i8": ("I8", 8),
    "i4": ("I4", 4),
    "u64": ("U64", 64),
    "u32": ("U32", 32),
    "u16": ("U16", 16),
    "u8": ("U8", 8),
    "u6": ("U6", 6),
    "u4": ("U4", 4),
    "u3": ("U3", 3),
    "u2": ("U2", 2),
    "u1": ("U1", 1),
    "boolean": ("BOOL", 8),
    "string": ("STRING", 0),
}
#: Types that are packed in groups of three bytes: elements of one group.
_GROUPS = {"U3": 8, "U6": 4}
_TOKENIZERS = frozenset(
    {
        "BPETokenizer", "SentencepieceDetokenizer", "SentencepieceStreamDetokenizer",
        "SentencepieceTokenizer", "TrieTokenizer", "UnigramTokenizer", "VocabDecoder",
        "VocabEncoder", "WordpieceTokenizer",
    }
)  # fmt: skip
_NUMBER = re.compile(r"\d{1,19}")
#: Bytes of memory, at most, of a layer, a constant or an edge without its texts, and of a number.
_PART_BYTES, _NUMBER_BYTES = 448, 48


@dataclass(slots=True)
class _Layer:
    number: str = ""
    kind: str = ""
    name: str = ""
    dtype: str = ""
    outputs: str = ""
    dims: list[int | None] = field(default_factory=list)
    dim: str = ""


@dataclass(slots=True)
class _Found:
    """What the stream of elements has told so far."""

    path: list[str] = field(default_factory=list)
    layers: list[_Layer] = field(default_factory=list)
    version: str = ""
    name: str = ""
    layer_count: int = 0
    parameters: list[_Layer] = field(default_factory=list)
    results: list[_Layer] = field(default_factory=list)
    port: str = ""
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    sources: dict[str, tuple[str, str]] = field(default_factory=dict)
    extents: dict[tuple[int, int], str] = field(default_factory=dict)
    by_type: dict[str, int] = field(default_factory=dict)
    elements: int = 0
    tokenizer: bool = False
    made_by: str = ""
    problems: list[str] = field(default_factory=list)


class OpenVinoReader(Reader):
    """Reads the outline of an OpenVINO IR."""

    model_type: ClassVar[ModelType] = ModelType.OPENVINO
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)

    def sniff(self, path: Path, head: bytes) -> bool:
        """Say whether it is named ``.xml`` and its first element is ``net``."""
        return path.suffix.lower() == ".xml" and bool(
            re.match(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>\s*)?<net[\s>]", head)
        )

    def parse(self, window: FileWindow) -> FileFacts:
        """Stream the graph once, sum up its constants and compare them with the ``.bin``."""
        if not self.sniff(window.path.with_suffix(".xml"), window.head(256)):
            raise window.fail(self.not_this_format(window, "an OpenVINO IR"))
        found = _Found()
        walk = _Walk(window, found)
        stream_elements(window, walk.begin, walk.end, walk.text)
        if not found.layer_count:
            raise window.fail("holds no OpenVINO graph.")
        weights = window.path.with_suffix(".bin").name
        external = (weights,) if found.extents else ()
        problems = (
            *found.problems[:8],
            *external_problems(window.path.parent, dict.fromkeys(external, found.extents)),
        )
        inputs = tuple(_signature(layer, layer.outputs) for layer in found.parameters)
        outputs = tuple(_signature(layer, _result_name(found, layer)) for layer in found.results)
        tasks = () if found.tokenizer else tasks_of_graph(inputs, outputs)
        notes = [
            f"OpenVINO IR version {found.version}, {format_number(found.layer_count, 'layer')}"
        ]
        notes.extend([f"made by {found.made_by}"] if found.made_by else [])
        inputs, outputs = first_ones(inputs, outputs, notes)
        return FileFacts(
            model_type=ModelType.OPENVINO,
            size_bytes=window.size,
            kind="vocabulary" if found.tokenizer else "model" if inputs or outputs else "other",
            name=found.name or None,
            parameter_count=found.elements,
            active_parameter_count=found.elements,
            quantization=dominant_type(found.by_type),
            embedding_length=output_width(outputs) if "embedding" in tasks else None,
            task_types=tasks,
            tensor_bytes=found.by_type,
            external=external,
            inputs=inputs,
            outputs=outputs,
            problems=problems,
            notes=tuple(notes),
        )


class _Walk:
    """Takes the elements as they come; ``path`` holds the names of those that are open."""

    __slots__ = ("found", "window")

    def __init__(self, window: FileWindow, found: _Found) -> None:
        self.window = window
        self.found = found

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        found = self.found
        found.path.append(name)
        if len(found.path) == 1:
            self._net(attributes)
        elif name == "layer":
            found.layer_count += 1
            found.layers.append(
                _Layer(
                    attributes.get("id", "")[:80],
                    attributes.get("type", "")[:80],
                    attributes.get("name", "")[: limits.TEXT],
                    outputs=attributes.get("output_names", "")[: limits.TEXT],
                )
            )
            found.tokenizer |= found.layers[-1].kind in _TOKENIZERS
        elif name == "data" and found.layers and found.path[-2] == "layer":
            self._data(found.layers[-1], attributes)
        elif name == "port" and found.layers and found.path[-2] in ("input", "output"):
            self._port(found.layers[-1], attributes)
        elif name == "edge" and found.path == ["net", "edges", "edge"]:
            layer, port, to = (
                attributes.get(key, "")[:80] for key in ("from-layer", "from-port", "to-layer")
            )
            if to not in found.sources:
                self._keep(layer, port, to)
            found.sources[to] = (layer, port)
        elif found.path[:2] == ["net", "rt_info"] and name in ("Runtime_version", "MO_version"):
            found.made_by = found.made_by or clean(attributes.get("value"), 80)

    def end(self, name: str) -> None:
        found = self.found
        found.path.pop()
        if not found.layers:
            return
        if name == "dim" and found.layers[-1].kind == "Result":
            found.layers[-1].dims.extend(_dimensions(found.layers[-1].dim))
            found.layers[-1].dim = ""
            if len(found.layers[-1].dims) > limits.DIMENSIONS:
                raise self.window.fail(f"{shown(found.layers[-1].name)} has too many dimensions.")
        if name != "layer":
            return
        layer = found.layers.pop()
        # Only the outer graph's inputs and outputs are the model's own.
        if found.path == ["net", "layers"] and layer.kind in ("Parameter", "Result"):
            kept = found.parameters if layer.kind == "Parameter" else found.results
            # The names are counted twice: printable ones are made of them.
            names = (layer.name, layer.outputs)
            self._keep(*names, *names, layer.number, layer.kind, layer.dtype)
            self.window.keep(_NUMBER_BYTES * len(layer.dims))
            kept.append(layer)

    def text(self, piece: str) -> None:
        found = self.found
        if found.path and found.path[-1] == "dim" and found.layers:
            layer = found.layers[-1]
            if layer.kind == "Result":
                layer.dim = (layer.dim + piece)[:80]

    def _keep(self, *texts: str) -> None:
        self.window.keep(_PART_BYTES + sum(map(sys.getsizeof, texts)))

    def _net(self, attributes: dict[str, str]) -> None:
        version = attributes.get("version", "")
        if version not in ("10", "11"):
            raise self.window.fail(
                f"is OpenVINO IR version {shown(version, 20)}; versions 10 and 11 are known. "
                "Convert the model anew."
            )
        self.found.version = version
        self.found.name = clean(attributes.get("name"))

    def _port(self, layer: _Layer, attributes: dict[str, str]) -> None:
        found = self.found
        names = attributes.get("names", "").partition(",")[0][: limits.TEXT]
        if layer.kind == "Parameter":
            layer.outputs = layer.outputs or names
        if names and len(found.path) == 5:
            key = (layer.number, attributes.get("id", "")[:80])
            if key not in found.names:
                self._keep(*key, names)
                found.names[key] = names
        if layer.kind == "Result" and not layer.dtype:
            stated = attributes.get("precision", "").lower()
            layer.dtype = {"fp32": "f32", "fp16": "f16", "fp64": "f64"}.get(stated, stated)

    def _data(self, layer: _Layer, attributes: dict[str, str]) -> None:
        if layer.kind == "Parameter":
            layer.dtype = attributes.get("element_type", "")[:80]
            layer.dims = _dimensions(attributes.get("shape", ""))
        elif layer.kind == "Const":
            self._constant(layer, attributes)

    def _constant(self, layer: _Layer, attributes: dict[str, str]) -> None:
        found, window = self.found, self.window
        offset = _NUMBER.fullmatch(attributes.get("offset", ""))
        length = _NUMBER.fullmatch(attributes.get("size", ""))
        dims = _dimensions(attributes.get("shape", ""))
        if offset is None or length is None or None in dims:
            raise window.fail(
                f"constant {shown(layer.name)} has no offset, size or shape that can be read."
            )
        place = (int(offset[0]), int(length[0]))
        count = math.prod(size for size in dims if size is not None)
        name, bits = _TYPES.get(attributes.get("element_type", ""), ("unknown", 0))
        group = _GROUPS.get(name, 1)
        size = -(-count // group) * 3 if group > 1 else -(-count * bits // 8)
        if bits and size != place[1] and len(found.problems) < 8:
            found.problems.append(
                f"constant {shown(layer.name)} has {place[1]} bytes where its shape and type "
                f"need {size}"
            )
        # Equal constants are written once and named by several layers.
        if place in found.extents or not place[1]:
            return
        self._keep(layer.name)
        found.extents[place] = layer.name
        found.by_type[name] = found.by_type.get(name, 0) + place[1]
        found.elements += 0 if name in NOT_WEIGHTS else count
        if found.elements > limits.ELEMENTS:
            raise window.fail(f"constant {shown(layer.name)} claims too many elements.")


def _dimensions(text: str) -> list[int | None]:
    """Read ``"1,?,8"``; a dimension that is not one number is None."""
    if not text.strip():
        return []
    parts = text.split(",", limits.DIMENSIONS)
    return [int(part) if _NUMBER.fullmatch(part.strip()) else None for part in parts]


def _result_name(found: _Found, layer: _Layer) -> str:
    return layer.outputs.partition(",")[0] or found.names.get(
        found.sources.get(layer.number, ("", "")), ""
    )


def _signature(layer: _Layer, name: str) -> TensorSignature:
    dtype = _TYPES.get(layer.dtype, ("unknown", 0))[0]
    return TensorSignature(clean(name) or clean(layer.name), dtype, tuple(layer.dims))
