"""TFLite (LiteRT): the tensors and signatures of a FlatBuffer; weights are skipped over.

Field numbers and types are those of TensorFlow's ``schema.fbs`` (version 3c) and of
``metadata_schema.fbs``. Both are little-endian everywhere.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import FileFacts, Reader, TensorSignature
from ravenxterm_lab.readers.binary import shown
from ravenxterm_lab.readers.extents import extent_problems
from ravenxterm_lab.readers.flatbuffer import FlatBuffer
from ravenxterm_lab.readers.signatures import (
    dominant_type,
    first_ones,
    output_width,
    tasks_of_graph,
)
from ravenxterm_lab.readers.text import clean
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.readers.binary import FileWindow
    from ravenxterm_lab.readers.flatbuffer import Table

__all__ = ["TfliteReader"]

_IDENTIFIER, _METADATA_IDENTIFIER = b"TFL3", b"M001"
#: Bytes of memory, at most, of a graph, a tensor, an input or an extent without its text and shape.
_PART_BYTES = 448
_PROBLEMS = 8
#: TensorType to a name and the bits of one element; strings and resources have no fixed size.
_TYPES: dict[int, tuple[str, int]] = {
    0: ("F32", 32),
    1: ("F16", 16),
    2: ("I32", 32),
    3: ("U8", 8),
    4: ("I64", 64),
    5: ("STRING", 0),
    6: ("BOOL", 8),
    7: ("I16", 16),
    8: ("C64", 64),
    9: ("I8", 8),
    10: ("F64", 64),
    11: ("C128", 128),
    12: ("U64", 64),
    13: ("RESOURCE", 0),
    14: ("VARIANT", 0),
    15: ("U32", 32),
    16: ("U16", 16),
    17: ("I4", 4),
    18: ("BF16", 16),
    19: ("I2", 2),
    20: ("U4", 4),
}


@dataclass(slots=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    type_id: int
    buffer: int
    sparse: bool


@dataclass(slots=True)
class _Graph:
    """The first subgraph is the model; the others are bodies of its loops and conditions."""

    tensors: list[_Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(slots=True)
class _Tally:
    elements: int = 0
    by_type: dict[str, int] = field(default_factory=dict)
    extents: dict[tuple[int, int], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Card:
    name: str = ""
    description: str = ""
    license: str = ""


class TfliteReader(Reader):
    """Reads the outline of a TFLite model."""

    model_type: ClassVar[ModelType] = ModelType.TFLITE
    suffixes: ClassVar[tuple[str, ...]] = (".tflite",)
    # Tables and names lie scattered between the weights: small steps read less of those.
    chunk: ClassVar[int] = 1 << 12

    def sniff(self, path: Path, head: bytes) -> bool:  # noqa: ARG002 - the identifier decides
        """Say whether the file identifier is TFLite's."""
        return head[4:8] == _IDENTIFIER

    def parse(self, window: FileWindow) -> FileFacts:
        """Walk subgraphs, tensors and the buffers that they name."""
        if not self.sniff(window.path, window.head(8)):
            raise window.fail(self.not_this_format(window, "TFLite"))
        flat = FlatBuffer(window, 0, window.size)
        model = flat.root()
        version = model.unsigned(0)
        if version != 3:
            raise window.fail(f"is of version {version} of TFLite's schema; version 3 is known.")
        graphs = _graphs(model)
        if not graphs:
            raise window.fail("holds no TFLite graph.")
        buffers = model.vector(4, 4) or (0, 0)
        tally = _sum(flat, graphs, buffers)
        tally.problems.extend(extent_problems(tally.extents, window.size, window.path.name))
        inputs, outputs, key = _signature(model, graphs)
        card = _card(flat, model, buffers)
        notes = [f"TFLite schema {version}, {format_number(len(graphs), 'graph')}"]
        description = card.description or clean(model.text(3, limits.ONNX_STRING))
        notes.extend([description] if description else [])
        notes.extend([f"signature {key}"] if key else [])
        tasks = tasks_of_graph(inputs, outputs)
        inputs, outputs = first_ones(inputs, outputs, notes)
        return FileFacts(
            model_type=ModelType.TFLITE,
            size_bytes=window.size,
            kind="model" if inputs or outputs else "other",
            name=card.name or None,
            parameter_count=tally.elements,
            active_parameter_count=tally.elements,
            quantization=dominant_type(tally.by_type),
            embedding_length=output_width(outputs) if "embedding" in tasks else None,
            task_types=tasks,
            license=card.license or None,
            tensor_bytes=tally.by_type,
            inputs=inputs,
            outputs=outputs,
            problems=tuple(dict.fromkeys(tally.problems))[:_PROBLEMS],
            notes=tuple(notes),
        )


def _graphs(model: Table) -> list[_Graph]:
    graphs = []
    for graph in model.children(2):
        model.buffer.window.keep(_PART_BYTES)
        tensors = [_tensor(tensor) for tensor in graph.children(0)]
        sides = [graph.integers(side, limits.FLAT_TABLES) for side in (1, 2)]
        graphs.append(_Graph(tensors, *sides))
    return graphs


def _tensor(table: Table) -> _Tensor:
    table.buffer.window.keep(_PART_BYTES)
    return _Tensor(
        name=table.text(3, limits.ONNX_STRING),
        shape=table.integers(0, limits.DIMENSIONS),
        signature=table.integers(7, limits.DIMENSIONS),
        type_id=table.unsigned(1, 1),
        buffer=table.unsigned(2),
        sparse=table.at(6, 4) is not None,
    )


def _sum(flat: FlatBuffer, graphs: list[_Graph], buffers: tuple[int, int]) -> _Tally:
    """Count each buffer that holds data once, however many tensors name it."""
    tally = _Tally()
    # Buffers that no tensor names are looked at too: a truncated file shows in any of them.
    extents = [_extent(flat, buffers, number) for number in range(buffers[1])]
    seen: set[int] = set()
    for graph in graphs:
        for tensor in graph.tensors:
            if tensor.buffer >= len(extents) and tensor.buffer:
                raise flat.window.fail(f"names the buffer {tensor.buffer}, but has {len(extents)}.")
            extent = extents[tensor.buffer] if tensor.buffer else None
            if extent is not None and tensor.buffer not in seen:
                seen.add(tensor.buffer)
                _count(flat, tally, tensor, extent)
    return tally


def _extent(flat: FlatBuffer, buffers: tuple[int, int], number: int) -> tuple[int, int] | None:
    """Return the first byte and the length of a buffer's data; None if it has none."""
    start, count = buffers
    if number >= count:
        raise flat.window.fail(f"names the buffer {number}, but has {count}.")
    table = flat.table(flat.follow(start + 4 * number))
    # Above 2 GB the data lie behind the FlatBuffer, at an offset from the file's start.
    offset, size = table.unsigned(1, 8), table.unsigned(2, 8)
    flat.window.keep(_PART_BYTES)
    if offset > 1:
        return (offset, size) if size else None
    place = table.vector(0, 1)
    return place if place is not None and place[1] else None


def _count(flat: FlatBuffer, tally: _Tally, tensor: _Tensor, extent: tuple[int, int]) -> None:
    if any(size < 0 for size in tensor.shape):
        raise flat.window.fail(f"tensor {shown(tensor.name)} has the shape {shown(tensor.shape)}.")
    count = math.prod(tensor.shape)
    name, bits = _TYPES.get(tensor.type_id, ("unknown", 0))
    size = -(-count * bits // 8)
    if bits and not tensor.sparse and size != extent[1]:
        tally.problems.append(
            f"tensor {shown(tensor.name)} has {extent[1]} bytes where its shape and type need "
            f"{size}"
        )
        del tally.problems[_PROBLEMS:]
    # Not told apart by type as elsewhere: the biases of a quantized model are 32-bit integers.
    tally.elements += count if bits else 0
    if tally.elements > limits.ELEMENTS:
        raise flat.window.fail(f"tensor {shown(tensor.name)} claims too many elements.")
    if extent not in tally.extents:
        tally.extents[extent] = tensor.name
        tally.by_type[name] = tally.by_type.get(name, 0) + extent[1]


def _signature(
    model: Table, graphs: list[_Graph]
) -> tuple[tuple[TensorSignature, ...], tuple[TensorSignature, ...], str]:
    """Return inputs, outputs and key: of the first signature, else those of the first graph."""
    window = model.buffer.window
    for signature in model.children(7):
        number = signature.unsigned(4)
        if number >= len(graphs):
            raise window.fail(f"has a signature of graph {number}, but {len(graphs)} graphs.")
        sides = []
        for side in (0, 1):
            named = [(one.text(0, limits.ONNX_STRING), one.unsigned(1))
                     for one in signature.children(side)]  # fmt: skip
            sides.append(tuple(_one(window, graphs[number], index, name) for name, index in named))
        return sides[0], sides[1], clean(signature.text(2, limits.ONNX_STRING), 80)
    first = graphs[0]
    return (
        tuple(_one(window, first, index) for index in first.inputs),
        tuple(_one(window, first, index) for index in first.outputs),
        "",
    )


def _one(window: FileWindow, graph: _Graph, index: int, name: str | None = None) -> TensorSignature:
    if not 0 <= index < len(graph.tensors):
        raise window.fail(f"names the tensor {index}, but the graph has {len(graph.tensors)}.")
    tensor = graph.tensors[index]
    window.keep(_PART_BYTES + sys.getsizeof(tensor.name) + 8 * len(tensor.shape))
    shape = tensor.signature if len(tensor.signature) == len(tensor.shape) else tensor.shape
    return TensorSignature(
        clean(tensor.name if name is None else name),
        _TYPES.get(tensor.type_id, ("unknown", 0))[0],
        tuple(size if size >= 0 else None for size in shape),
    )


def _card(flat: FlatBuffer, model: Table, buffers: tuple[int, int]) -> _Card:
    """Read name, description and license from the model's own metadata, where it has some."""
    for entry in model.children(6):
        if entry.text(0, 64) != "TFLITE_METADATA":
            continue
        extent = _extent(flat, buffers, entry.unsigned(1))
        if extent is None or sum(extent) > flat.end:
            break
        inner = FlatBuffer(flat.window, extent[0], sum(extent))
        try:
            if flat.window.read(inner.within(extent[0] + 4, 4), 4) != _METADATA_IDENTIFIER:
                break
            root = inner.root()
            return _Card(*(clean(root.text(number, limits.ONNX_STRING)) for number in (0, 1, 5)))
        except ModelFileError:
            # Damaged metadata do not make the model itself unusable.
            break
    return _Card()
