"""What is known of a model: facts read from its files, never guesses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_count, format_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "AttentionGeometry",
    "HardwareType",
    "ModelMetadata",
    "ModelType",
    "NetworkShape",
    "WeightLayout",
    "total_bytes",
]


class ModelType(StrEnum):
    """What lies on disk."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    PYTORCH = "pytorch"
    OLLAMA = "ollama"
    TFLITE = "tflite"
    OPENVINO = "openvino"
    FASTTEXT = "fasttext"


class HardwareType(StrEnum):
    """A kind of device that a model can run on."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"
    METAL = "metal"
    XPU = "xpu"
    NPU = "npu"


@dataclass(frozen=True, slots=True)
class AttentionGeometry:
    """What the size of the KV cache follows from, layer by layer.

    Attributes
    ----------
    heads_kv : tuple of int
        KV heads of each layer; 0 for a layer without a KV cache (a recurrent one).
    key_length, value_length : int
        Elements of one head's key and value.
    window : int or None
        Tokens that a sliding-window layer looks back on.
    windowed : tuple of bool
        For each layer, whether it uses the window; empty when none does.
    latent_rank, rope_dimension : int or None
        Set for multi-head latent attention (MLA), which caches one latent per token and no V.
    recurrent_elements : int
        f32 elements of recurrent state per sequence, over all recurrent layers.
    indexer_elements : int
        Further key elements of each token, over all layers (sparse attention's indexer).
    """

    heads_kv: tuple[int, ...]
    key_length: int
    value_length: int
    window: int | None = None
    windowed: tuple[bool, ...] = ()
    latent_rank: int | None = None
    rope_dimension: int | None = None
    recurrent_elements: int = 0
    indexer_elements: int = 0

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.heads_kv)


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """What a network computes for one token, beside its cache: widths in elements.

    Attributes
    ----------
    heads : int
        Query heads of the layer that has most.
    query_elements, value_elements : int
        The queries of one token, and what its attention yields, over all heads.
    feed_forward : int
        Inner width of the widest dense feed-forward part; 0 without one.
    gated : bool
        Whether a gate of the same width is multiplied into it.
    fused_projection : bool
        Whether one matrix makes query, key and value.
    fused_gate : bool
        Whether one matrix makes gate and what it is multiplied into.
    expert_feed_forward, shared_feed_forward : int
        Inner width of one routed expert, and of the shared ones together.
    recurrent_inner, recurrent_channels : int
        Inner width of a recurrent layer, and the channels of its convolution.
    recurrent_kernel, recurrent_heads : int
        Width of that convolution, and the time steps that are computed for each token.
    """

    heads: int
    query_elements: int
    value_elements: int
    feed_forward: int
    gated: bool = True
    fused_projection: bool = False
    expert_feed_forward: int = 0
    shared_feed_forward: int = 0
    recurrent_inner: int = 0
    recurrent_channels: int = 0
    recurrent_kernel: int = 0
    recurrent_heads: int = 0
    fused_gate: bool = False


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where the bytes of the weights are. All sizes in bytes.

    Attributes
    ----------
    input_bytes : int
        The input layer: token and position embeddings, of which one token reads one row each.
    embedding_bytes, embedding_type : int, str or None
        The token embedding alone (part of ``input_bytes``), and its tensor type.
    layer_bytes : tuple of int
        Each layer (block).
    output_bytes : int
        The output head where it is a tensor of its own, the final norm, and whatever else
        belongs to no layer.
    head_bytes, head_type : int, str or None
        The output head alone (part of ``output_bytes``), and its tensor type; 0 and None where
        the token embedding is used in its place.
    other_bytes : int
        Tensors that the text model does not use (a vision tower in the same file).
    expert_bytes : tuple of int
        Routed experts of each layer (part of ``layer_bytes``); empty where there are none.
    experts : tuple of int or None
        Routed experts of a layer, and how many of them one token meets.
    matrix_bytes : mapping of str to int
        Bytes by tensor type of those matrices of the layers whose rows can be interleaved.
    """

    input_bytes: int
    layer_bytes: tuple[int, ...]
    output_bytes: int
    embedding_bytes: int = 0
    embedding_type: str | None = None
    head_bytes: int = 0
    head_type: str | None = None
    other_bytes: int = 0
    expert_bytes: tuple[int, ...] = ()
    experts: tuple[int, int] | None = None
    matrix_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def tied(self) -> bool:
        """Whether the token embedding also serves as the output head."""
        return not self.head_bytes and bool(self.embedding_bytes)

    @property
    def total_bytes(self) -> int:
        """All tensors together."""
        return self.input_bytes + sum(self.layer_bytes) + self.output_bytes + self.other_bytes


@dataclass(frozen=True, slots=True)
class ModelMetadata(Displayed):
    """One model on this machine. Sizes are in bytes, lengths in tokens.

    Attributes
    ----------
    name : str
        Unique in its registry.
    model_type : ModelType
        The format on disk.
    path : Path
        The file, the first shard, or the directory.
    size_bytes : int
        All shards together.
    minimum_ram : int or None
        What the estimator says the smallest useful load takes; None when it cannot say.
    preferred_hardware : tuple of HardwareType
        Devices that its runtime can use here, best first.
    supports_batching : bool
        Whether the runtime that would run it batches.
    quantization : str or None
        From the tensors' own types, such as ``"Q4_1"``, never from the file name.
    architecture : str or None
        Such as ``"llama"`` or ``"bert"``.
    parameter_count, active_parameter_count : int or None
        Sum of the tensors' elements; ``active`` is per token (smaller for mixtures of experts).
    context_length : int or None
        The longest context that the model was trained for.
    task_types : tuple of str
        Such as ``("text_generation",)``.
    license : str or None
        As the file or its model card states it.
    source : str
        The store it was found in, such as ``"directory"`` or ``"huggingface"``.
    fingerprint : str
        Stable over a move or rename, so that history follows the model.
    shards : tuple of Path
        Every file that holds weights, in order.
    runtimes : tuple of str
        Installed runtimes that can run it.
    runtime_gap : str or None
        Why no runtime can run it, and the remedy; None when one can.
    tensor_bytes : mapping of str to int
        Bytes of tensor data by tensor type.
    attention : AttentionGeometry or None
        For models with a KV cache.
    weight_layout : WeightLayout or None
        Where the bytes of the weights are, if the format tells.
    network : NetworkShape or None
        What it computes for one token, if the format tells.
    embedding_length, vocabulary_size : int or None
        Width of the hidden state; number of tokens.
    companions : tuple of Path
        Files that belong to it: tokenizer, projector, adapter.
    projector_bytes : int
        The largest multimodal projector among them, which is loaded with it.
    duplicates : tuple of Path
        Every other path to the same bytes: all files of all other places. ``size_bytes`` counts
        them once; copies among them take as much again, hard and symbolic links nothing.
    problems : tuple of str
        What is wrong with it, such as a missing shard; a model with problems is never chosen.
    notes : tuple of str
        Worth knowing, without being wrong.
    """

    name: str
    model_type: ModelType
    path: Path
    size_bytes: int
    minimum_ram: int | None = None
    preferred_hardware: tuple[HardwareType, ...] = ()
    supports_batching: bool = False
    quantization: str | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    active_parameter_count: int | None = None
    context_length: int | None = None
    task_types: tuple[str, ...] = ()
    license: str | None = None
    source: str = "directory"
    fingerprint: str = ""
    shards: tuple[Path, ...] = ()
    runtimes: tuple[str, ...] = ()
    runtime_gap: str | None = None
    tensor_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    attention: AttentionGeometry | None = None
    weight_layout: WeightLayout | None = None
    network: NetworkShape | None = None
    embedding_length: int | None = None
    vocabulary_size: int | None = None
    companions: tuple[Path, ...] = ()
    projector_bytes: int = 0
    duplicates: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def companion(self, name: str) -> Path | None:
        """Return the companion file of that name (such as ``"tokenizer.json"``), if any."""
        return next((path for path in self.companions if path.name == name), None)

    def describe(self) -> str:
        """Return one line: name, format, quantization, parameters, size."""
        parts = [self.model_type.value, self.quantization, self.architecture]
        if self.parameter_count:
            parts.append(f"{format_count(self.parameter_count)} parameters")
        parts.append(format_bytes(self.size_bytes))
        return f"{self.name}: {', '.join(part for part in parts if part)}"

    def _card(self) -> Card:
        parameters = format_count(self.parameter_count) if self.parameter_count else ""
        if parameters and self.active_parameter_count not in (None, self.parameter_count):
            parameters += f", {format_count(self.active_parameter_count or 0)} of them for a token"
        size = format_bytes(self.size_bytes)
        if len(self.shards) > 1:
            size += f" in {format_number(len(self.shards), 'file')}"
        context = f"{self.context_length:,} tokens" if self.context_length else ""
        facts = {
            "format": self.model_type.value,
            "architecture": self.architecture,
            "quantization": self.quantization,
            "parameters": parameters,
            "context": context,
            "tasks": ", ".join(task.replace("_", " ") for task in self.task_types),
            "on disk": size,
            "least memory": None if self.minimum_ram is None else format_bytes(self.minimum_ram),
            "runs with": ", ".join(self.runtimes) or self.runtime_gap,
            "license": self.license,
            "found in": self.source,
            "path": str(self.path),
        }
        rows = [[name, value or "not told"] for name, value in facts.items()]
        rows += [["copy", str(path)] for path in self.duplicates]
        tables = [Table(["fact", "of its files"], rows)]
        for name, said in (("problems", self.problems), ("notes", self.notes)):
            if said:
                tables.append(Table([name], [[text] for text in said]))
        return Card(self.name, tables=tables)


def total_bytes(models: Iterable[ModelMetadata]) -> int:
    """Return the bytes of several models; files that two of them share count once.

    Parameters
    ----------
    models : iterable of ModelMetadata
        Such as two tags of one Ollama blob, one of which adds an adapter. Other places of a
        model (``duplicates``) are not counted.

    Examples
    --------
    >>> from pathlib import Path
    >>> one = ModelMetadata("a", ModelType.GGUF, Path("a"), 10, shards=(Path("a"),))
    >>> total_bytes([one, one, ModelMetadata("b", ModelType.GGUF, Path("b"), 5)])
    15
    """
    return sum({one.shards or (one.path,): one.size_bytes for one in models}.values())
