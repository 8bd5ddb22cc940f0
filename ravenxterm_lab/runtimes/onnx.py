"""ONNX Runtime: embeddings from text, and any other ONNX model from named arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab._imports import is_installed
from ravenxterm_lab.metadata import HardwareType, ModelType
from ravenxterm_lab.requirements import TASKS
from ravenxterm_lab.runtimes.adapter import PackagedRuntime
from ravenxterm_lab.runtimes.inputs import as_arrays, as_texts, no_parameters
from ravenxterm_lab.runtimes.worker_model import WorkerModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions
    from ravenxterm_lab.runtimes.reports import RunResult

__all__ = ["OnnxRuntime"]

#: Tokens of a text that an embedding reads: encoders are trained for 512.
_LONGEST_TEXT = 512


class OnnxRuntime(PackagedRuntime):
    """Runs ONNX models through the ``onnxruntime`` package.

    ``embedding`` takes a text or a list of texts and gives float32 of shape ``(n, d)``: the
    mean of the token vectors, each row of length 1. Every other task takes a mapping of the
    model's input names to arrays and gives a mapping of its output names to arrays.

    Examples
    --------
    >>> "embedding" in OnnxRuntime().tasks
    True
    """

    name = "onnx"
    package = "onnxruntime"
    model_types = frozenset({ModelType.ONNX})
    # A decoder needs a loop around the model, which a run through named arrays is not.
    tasks = frozenset(TASKS) - {"text_generation"}
    supports_batching = True
    overhead_bytes = 56 * 1024 * 1024

    def devices(self) -> tuple[HardwareType, ...]:
        """Return the CPU: this adapter uses the CPU execution provider."""
        return (HardwareType.CPU,)

    def gap(self, model: ModelMetadata) -> str | None:
        """Say why this runtime cannot run a model, and the remedy; None when it can."""
        gap = super().gap(model)
        if gap is None and "embedding" in model.task_types:
            if model.companion("tokenizer.json") is None:
                return (
                    "the tokenizer.json that an embedding model needs is missing beside "
                    f"{model.path.name}: put the one that belongs to the model there"
                )
            if not is_installed("tokenizers"):
                return 'tokenizers is not installed: pip install "ravenxterm-lab[runtimes]"'
        return gap

    def resolve(self, model: ModelMetadata, options: LoadOptions) -> LoadOptions:
        """Return the options with every automatic choice made: 512 tokens, where it has more."""
        if options.context_length is None:
            length = min(_LONGEST_TEXT, model.context_length or _LONGEST_TEXT)
            options = replace(options, context_length=length)
        return super().resolve(model, options)

    def _load(self, model: ModelMetadata, options: LoadOptions) -> LoadedModel:
        return _OnnxModel(self, model, options)


class _OnnxModel(WorkerModel):
    engine = "ravenxterm_lab.runtimes.onnx_engine:OnnxEngine"

    def _translate(
        self, task: str, inputs: Any, parameters: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        no_parameters(task, parameters)
        if task == "embedding":
            return {"texts": as_texts(task, inputs)[0]}, {}
        return {}, as_arrays(task, inputs)

    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        counters = {key: float(value) for key, value in (values.get("counters") or {}).items()}
        if "tokens_in" not in values:
            # One call is one item: only the model knows what its first dimension means.
            return replace(result, output=arrays, throughput=1 / result.latency)
        rows = arrays["embedding"]
        return replace(
            result,
            output=rows,
            throughput=len(rows) / result.latency,
            tokens_in=int(values["tokens_in"]),
            details=counters,
        )
