"""What is known of a model: facts read from its files, never guesses."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from ravenxterm_lab.units import format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["AttentionGeometry", "HardwareType", "ModelMetadata", "ModelType", "total_bytes"]


class ModelType(StrEnum):
    """What lies on disk."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    PYTORCH = "pytorch"
    OLLAMA = "ollama"
    TFLITE = "tflite"
    OPENVINO = "openvino"


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
    """

    heads_kv: tuple[int, ...]
    key_length: int
    value_length: int
    window: int | None = None
    windowed: tuple[bool, ...] = ()
    latent_rank: int | None = None
    rope_dimension: int | None = None
    recurrent_elements: int = 0

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.heads_kv)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
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
    embedding_length, vocabulary_size : int or None
        Width of the hidden state; number of tokens.
    companions : tuple of Path
        Files that belong to it: tokenizer, projector, adapter.
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
    embedding_length: int | None = None
    vocabulary_size: int | None = None
    companions: tuple[Path, ...] = ()
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
