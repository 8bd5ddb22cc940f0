"""ONNX: the graph's outline from its protocol buffer; weights are skipped over.

Field numbers are those of ``onnx.proto3``.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader, TensorSignature
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.extents import external_problems
from ravenxterm_lab.readers.protobuf import BYTES, VARINT, Walker
from ravenxterm_lab.readers.signatures import (
    NOT_WEIGHTS,
    dominant_type,
    first_ones,
    output_width,
    tasks_of_graph,
)
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.readers.binary import FileWindow

__all__ = ["OnnxReader", "safe_relative_name"]

# Tensors have up to 64 dimensions of 64 bits, so that a length may need more than 20 digits.
_NUMBER = re.compile(r"\d{1,40}")
#: Bytes of memory, at most, of a tensor or an input without its texts and numbers, and of a number.
_PART_BYTES, _NUMBER_BYTES = 640, 48
_PROBLEMS = 8

#: TensorProto.DataType to a name and the bits of one element; strings have no fixed size.
_TYPES: dict[int, tuple[str, int]] = {
    1: ("F32", 32),
    2: ("U8", 8),
    3: ("I8", 8),
    4: ("U16", 16),
    5: ("I16", 16),
    6: ("I32", 32),
    7: ("I64", 64),
    8: ("STRING", 0),
    9: ("BOOL", 8),
    10: ("F16", 16),
    11: ("F64", 64),
    12: ("U32", 32),
    13: ("U64", 64),
    14: ("C64", 64),
    15: ("C128", 128),
    16: ("BF16", 16),
    17: ("F8_E4M3", 8),
    18: ("F8_E4M3FNUZ", 8),
    19: ("F8_E5M2", 8),
    20: ("F8_E5M2FNUZ", 8),
    21: ("U4", 4),
    22: ("I4", 4),
    23: ("F4", 4),
    24: ("F8_E8M0", 8),
    25: ("U2", 2),
    26: ("I2", 2),
    27: ("F6_E2M3", 6),
    28: ("F6_E3M2", 6),
}


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    type_id: int = 0
    stored: int | None = None
    external: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Graph:
    """What the walk has gathered, over nested graphs too."""

    tensors: list[_Tensor] = field(default_factory=list)
    constants: list[_Tensor] = field(default_factory=list)
    inputs: list[TensorSignature] = field(default_factory=list)
    outputs: list[TensorSignature] = field(default_factory=list)
    name: str = ""
    nodes: int = 0
    packed: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Model:
    graph: _Graph = field(default_factory=_Graph)
    ir_version: int = 0
    producer: str = ""
    opsets: dict[str, int] = field(default_factory=dict)
    has_graph: bool = False


class OnnxReader(Reader):
    """Reads the outline of an ONNX graph."""

    model_type: ClassVar[ModelType] = ModelType.ONNX
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    def sniff(self, path: Path, head: bytes) -> bool:
        """Say whether it is named ``.onnx`` and starts as a ModelProto does.

        The format has no magic, so that the suffix is asked for as well.
        """
        return path.suffix.lower() == ".onnx" and head[:1] in (b"\x08", b"\x12", b"\x3a", b"\x42")

    def parse(self, window: FileWindow) -> FileFacts:
        """Walk the protocol buffer once and sum up its tensors."""
        if not self.sniff(window.path.with_suffix(".onnx"), window.head(16)):
            raise window.fail(self.not_this_format(window, "ONNX"))
        walk = Walker(window)
        model = _model(walk, window.size)
        if not model.has_graph:
            raise window.fail("holds no ONNX graph.")
        graph = model.graph
        elements, by_type, problems = _sum(window, graph)
        external = _external(window, graph)
        problems += external_problems(window.path.parent, external)
        quantization = _quantization(graph, by_type)
        opset = model.opsets.get("", model.opsets.get("ai.onnx", 0))
        notes = [f"ONNX opset {opset}, IR version {model.ir_version}"]
        if model.producer:
            notes.append(f"made by {model.producer}")
        others = sorted(shown(name, 40) for name in model.opsets if name not in ("", "ai.onnx"))
        if others:
            notes.append(f"needs operators of {', '.join(others[:8])}")
        named = {tensor.name for tensor in graph.tensors}
        inputs = tuple(_printable(one) for one in graph.inputs if one.name not in named)
        outputs = tuple(_printable(one) for one in graph.outputs)
        tasks = tasks_of_graph(inputs, outputs)
        inputs, outputs = first_ones(inputs, outputs, notes)
        return FileFacts(
            model_type=ModelType.ONNX,
            size_bytes=window.size,
            kind="model" if inputs or outputs else "other",
            name=clean(graph.name) or None,
            parameter_count=elements,
            active_parameter_count=elements,
            quantization=quantization,
            embedding_length=output_width(outputs) if "embedding" in tasks else None,
            task_types=tasks,
            tensor_bytes=by_type,
            external=tuple(external),
            inputs=inputs,
            outputs=outputs,
            problems=problems,
            notes=tuple(notes),
        )


def safe_relative_name(name: str) -> bool:
    """Say whether a file name stated in a model stays inside that model's directory.

    Examples
    --------
    >>> safe_relative_name("weights/model.onnx_data"), safe_relative_name("../../etc/passwd")
    (True, False)
    """
    if not name or len(name) > 1000 or not name.isprintable():
        return False
    if "\\" in name or name.startswith(("/", "~")):
        return False
    if re.match(r"^[A-Za-z]:", name):
        return False
    return ".." not in PurePosixPath(name).parts


def _model(walk: Walker, size: int) -> _Model:
    model = _Model()
    for number, wire, a, b in walk.fields(0, size):
        if number == 1 and wire == VARINT:
            model.ir_version = a
        elif wire != BYTES:
            continue
        elif number == 2:
            model.producer = clean(walk.text(a, b), 80)
        elif number == 7:
            model.has_graph = True
            _graph(walk, a, b, model.graph, 1)
        elif number == 8 and len(model.opsets) < 256:
            domain, version = "", 0
            for inner, inner_wire, c, d in walk.fields(a, b):
                if inner == 1 and inner_wire == BYTES:
                    domain = walk.text(c, d)
                elif inner == 2 and inner_wire == VARINT:
                    version = c
            model.opsets[domain] = version
    return model


def _graph(walk: Walker, start: int, end: int, found: _Graph, depth: int) -> None:
    if depth > limits.ONNX_DEPTH:
        raise walk.window.fail("nests graphs too deeply.")
    for number, wire, a, b in walk.fields(start, end):
        if wire != BYTES:
            continue
        if number == 1:
            _node(walk, a, b, found, depth)
        elif number == 2 and depth == 1:
            found.name = walk.text(a, b)
        elif number == 5:
            _keep_tensor(walk, found.tensors, _tensor(walk, a, b))
        elif number == 11 and depth == 1:
            _keep_signature(walk, found.inputs, _signature(walk, a, b))
        elif number == 12 and depth == 1:
            _keep_signature(walk, found.outputs, _signature(walk, a, b))


def _keep_tensor(walk: Walker, kept: list[_Tensor], one: _Tensor) -> None:
    texts = sum(sys.getsizeof(text) for pair in one.external.items() for text in pair)
    size = _PART_BYTES + texts + _NUMBER_BYTES * len(one.dims)
    walk.window.keep(size + sys.getsizeof(one.name))
    kept.append(one)


def _keep_signature(walk: Walker, kept: list[TensorSignature], one: TensorSignature) -> None:
    # Twice: a printable one is made of it.
    parts = sum(_NUMBER_BYTES + sys.getsizeof(size) for size in one.shape)
    walk.window.keep(_PART_BYTES + parts + 2 * sys.getsizeof(one.name))
    kept.append(one)


def _node(walk: Walker, start: int, end: int, found: _Graph, depth: int) -> None:
    found.nodes += 1
    operator = ""
    second, bits, position = "", 0, 0
    for number, wire, a, b in walk.fields(start, end):
        if wire != BYTES:
            continue
        if number == 1:
            position += 1
            second = walk.text(a, b) if position == 2 else second
        elif number == 4:
            operator = walk.text(a, b)
        elif number == 5:
            bits = _attribute(walk, a, b, found, depth) or bits
    if operator == "MatMulNBits" and second and 1 <= bits <= 8:
        walk.window.keep(_PART_BYTES + sys.getsizeof(second))
        found.packed[second] = bits


def _attribute(walk: Walker, start: int, end: int, found: _Graph, depth: int) -> int:
    """Walk one attribute for nested graphs and constants; return it if it is ``bits``."""
    name, value = "", 0
    for number, wire, a, b in walk.fields(start, end):
        if number == 1 and wire == BYTES:
            name = walk.text(a, b)
        elif number == 3 and wire == VARINT:
            value = a
        elif wire != BYTES:
            continue
        elif number in (5, 10):
            _keep_tensor(walk, found.constants, _tensor(walk, a, b))
        elif number in (6, 11):
            _graph(walk, a, b, found, depth + 1)
    return value if name == "bits" else 0


def _tensor(walk: Walker, start: int, end: int) -> _Tensor:
    tensor = _Tensor()
    for number, wire, a, b in walk.fields(start, end):
        if number == 1 and wire == VARINT:
            tensor.dims.append(a)
        elif number == 2 and wire == VARINT:
            tensor.type_id = a
        elif wire != BYTES:
            continue
        elif number == 1:
            tensor.dims.extend(walk.varints(a, b, limits.DIMENSIONS))
        elif number == 8:
            tensor.name = walk.text(a, b)
        elif number == 9:
            tensor.stored = b - a
        elif number == 13:
            key = value = ""
            for inner, inner_wire, c, d in walk.fields(a, b):
                if inner_wire == BYTES and inner == 1:
                    key = walk.text(c, d)
                elif inner_wire == BYTES and inner == 2:
                    value = walk.text(c, d)
            tensor.external[key] = value
        if len(tensor.dims) > limits.DIMENSIONS or len(tensor.external) > 16:
            raise walk.window.fail(f"tensor {shown(tensor.name)} has too many dimensions.")
    return tensor


def _signature(walk: Walker, start: int, end: int) -> TensorSignature:
    name, dtype = "", "unknown"
    shape: list[int | str | None] = []
    for number, wire, a, b in walk.fields(start, end):
        if number == 1 and wire == BYTES:
            name = walk.text(a, b)
        elif number == 2 and wire == BYTES:
            for kind, kind_wire, c, d in walk.fields(a, b):
                if kind == 1 and kind_wire == BYTES:
                    dtype, shape = _tensor_type(walk, c, d)
                elif kind_wire == BYTES:
                    dtype = {4: "sequence", 5: "map", 9: "optional"}.get(kind, dtype)
    return TensorSignature(name, dtype, tuple(shape))


def _tensor_type(walk: Walker, start: int, end: int) -> tuple[str, list[int | str | None]]:
    dtype = "unknown"
    shape: list[int | str | None] = []
    for number, wire, a, b in walk.fields(start, end):
        if number == 1 and wire == VARINT:
            dtype = _TYPES.get(a, ("unknown", 0))[0]
        elif number == 2 and wire == BYTES:
            for inner, inner_wire, c, d in walk.fields(a, b):
                if inner != 1 or inner_wire != BYTES or len(shape) >= limits.DIMENSIONS:
                    continue
                size: int | str | None = None
                for part, part_wire, e, f in walk.fields(c, d):
                    if part == 1 and part_wire == VARINT:
                        size = e
                    elif part == 2 and part_wire == BYTES:
                        size = clean(walk.text(e, f), 80)
                shape.append(size)
    return dtype, shape


def _printable(one: TensorSignature) -> TensorSignature:
    return replace(one, name=clean(one.name))


def _sum(window: FileWindow, graph: _Graph) -> tuple[int, dict[str, int], tuple[str, ...]]:
    """Count every initializer, and those constants that are weights rather than shapes."""
    elements = 0
    by_type: dict[str, int] = {}
    problems: list[str] = []
    weights = [
        one for one in graph.constants if _TYPES.get(one.type_id, ("I64", 0))[0] not in NOT_WEIGHTS
    ]
    for tensor in (*graph.tensors, *weights):
        count = math.prod(tensor.dims)
        name, bits = _TYPES.get(tensor.type_id, ("unknown", 0))
        size = -(-count * bits // 8)
        if tensor.stored not in (None, size) and bits and not tensor.external:
            problems.append(
                f"tensor {shown(tensor.name)} has {tensor.stored} bytes where its shape and type "
                f"need {size}"
            )
            del problems[_PROBLEMS:]
        # MatMulNBits stores several weights in one byte.
        count = count * 8 // graph.packed[tensor.name] if tensor.name in graph.packed else count
        elements += count
        if elements > limits.ELEMENTS:
            raise window.fail(f"tensor {shown(tensor.name)} claims too many elements.")
        by_type[name] = by_type.get(name, 0) + size
    return elements, by_type, tuple(problems)


def _external(window: FileWindow, graph: _Graph) -> dict[str, dict[tuple[int, int], str]]:
    """Return where in each external file which tensor lies."""
    files: dict[str, dict[tuple[int, int], str]] = {}
    for tensor in (*graph.tensors, *graph.constants):
        if not tensor.external:
            continue
        name = tensor.external.get("location", "")
        if not safe_relative_name(name):
            raise window.fail(
                f"keeps tensor {shown(tensor.name)} in the external file {shown(name)}, which "
                "is not inside its directory; nothing of it is read."
            )
        offset, length = tensor.external.get("offset", "0"), tensor.external.get("length")
        if length is None:
            bits = _TYPES.get(tensor.type_id, ("unknown", 0))[1]
            length = str(-(-math.prod(tensor.dims) * bits // 8))
        if not (_NUMBER.fullmatch(offset) and _NUMBER.fullmatch(length)):
            raise window.fail(
                f"keeps tensor {shown(tensor.name)} at {shown(offset)}, {shown(length)} bytes "
                "long; two numbers are needed."
            )
        files.setdefault(name, {})[int(offset), int(length)] = tensor.name
        if len(files) > limits.GGUF_KEEP_ITEMS:
            raise window.fail("names too many external files.")
    return files


def _quantization(graph: _Graph, by_type: dict[str, int]) -> str | None:
    weights = {name: size for name, size in by_type.items() if name not in NOT_WEIGHTS}
    dominant = max(weights, key=lambda name: weights[name], default=None)
    if dominant == "U8" and graph.packed:
        widths = list(graph.packed.values())
        return f"INT{max(set(widths), key=widths.count)}"
    return dominant_type(by_type)
