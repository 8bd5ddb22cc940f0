"""ONNX Runtime inside a worker process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind, did_you_mean
from ravenxterm_lab.runtimes.engine import BadInputError, Engine, EngineError
from ravenxterm_lab.runtimes.failures import classify

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from ravenxterm_lab.runtimes.engine import Job

    Array = np.ndarray[Any, Any]

__all__ = ["OnnxEngine", "pool"]

#: Texts that go through the model together.
_BATCH = 32
_TOKEN_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint64)": "uint64",
    "tensor(uint32)": "uint32",
    "tensor(uint16)": "uint16",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def pool(hidden: Array, mask: Array) -> Array:
    """Average token vectors and scale each row to length 1, as sentence-transformers does.

    Parameters
    ----------
    hidden : numpy.ndarray
        Of shape ``(n, tokens, d)``; of shape ``(n, d)`` it is pooled already.
    mask : numpy.ndarray
        Of shape ``(n, tokens)``: 1 for a token, 0 for padding.

    Returns
    -------
    numpy.ndarray
        float32 of shape ``(n, d)``.
    """
    import numpy as np

    pooled: Any = hidden.astype(np.float32, copy=False)
    if pooled.ndim == 3:
        weights = mask[:, :, None].astype(np.float32)
        pooled = (pooled * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
    length = np.linalg.norm(pooled, axis=1, keepdims=True)
    unit: Array = (pooled / np.maximum(length, 1e-12)).astype(np.float32, copy=False)
    return unit


class OnnxEngine(Engine):
    """One ONNX model in an inference session on the CPU."""

    def prepare(self) -> None:
        """Import ``onnxruntime``, and ``tokenizers`` where it is installed."""
        import onnxruntime

        # On the systems where it would report home, it shall not.
        onnxruntime.disable_telemetry_events()
        onnxruntime.set_default_logger_severity(3)
        self._ort = onnxruntime
        # An arena that doubles takes address space that it never touches, which would count
        # against the worker's memory limit: MiniLM in batches of 32 × 256 tokens took 2327 MiB
        # of private mappings for 1459 MiB, and 1578 for 1487 this way, at the same speed.
        as_requested = onnxruntime.OrtArenaCfg(0, 1, -1, -1)
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0,
            onnxruntime.OrtMemType.DEFAULT,
        )  # fmt: skip
        onnxruntime.create_and_register_allocator(memory, as_requested)
        self._tokenizers: Any = None
        self._tokenizer: Any = None
        with contextlib.suppress(ImportError):
            import tokenizers

            self._tokenizers = tokenizers
        self._running: Any = None

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make the session, and the tokenizer if the model has one."""
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = request["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait would spin and take the cores from everybody else.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            self._session = self._ort.InferenceSession(
                request["path"], options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the bindings raise direct subclasses of Exception
            raise EngineError(_words(error), classify(_named(error))) from error
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = [item.name for item in self._session.get_outputs()]
        self._length = int(request["context_length"])
        path = request["companions"].get("tokenizer.json")
        if path is not None and self._tokenizers is not None:
            self._tokenizer = self._read_tokenizer(path)
        return {
            "context_length": self._length if self._tokenizer else 0,
            "inputs": {name: f"{i.type} {i.shape}" for name, i in self._inputs.items()},
            "outputs": self._outputs,
        }

    def _read_tokenizer(self, path: str) -> Any:
        try:
            tokenizer = self._tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the bindings raise Exception itself
            raise EngineError(
                f"the tokenizer {path} cannot be read: {error}", FailureKind.CORRUPT
            ) from error
        padding = tokenizer.padding or {}
        # What the file says about lengths is for somebody else's batches.
        tokenizer.enable_padding(
            pad_id=padding.get("pad_id", 0),
            pad_token=padding.get("pad_token", "[PAD]"),
            pad_type_id=padding.get("pad_type_id", 0),
            direction=padding.get("direction", "right").lower(),
        )
        tokenizer.enable_truncation(max_length=self._length)
        return tokenizer

    def run(self, job: Job) -> tuple[dict[str, Any], dict[str, Array]]:
        """Embed texts, or pass named arrays through the model."""
        self._running = self._ort.RunOptions()
        try:
            if "texts" in job.request:
                return self._embed(job)
            feed = {name: self._fit(name, array) for name, array in job.arrays.items()}
            if absent := self._inputs.keys() - feed.keys():
                raise BadInputError(
                    f"the input {sorted(absent)[0]!r} is missing; the model takes "
                    f"{self._signature()}."
                )
            return {}, dict(zip(self._outputs, self._call(job, feed), strict=True))
        finally:
            self._running = None

    def cancel(self) -> None:
        """Make the session give up the run in progress."""
        running = self._running
        if running is not None:
            running.terminate = True

    def _call(self, job: Job, feed: dict[str, Array]) -> list[Array]:
        if job.cancelled:
            raise EngineError("the run was cancelled")
        try:
            results: list[Array] = self._session.run(None, feed, self._running)
        except Exception as error:  # the bindings raise direct subclasses of Exception
            if type(error).__name__ == "InvalidArgument":
                raise BadInputError(f"{_words(error)} (it takes {self._signature()}).") from error
            raise EngineError(_words(error), classify(_named(error))) from error
        return results

    def _fit(self, name: str, array: Array) -> Array:
        import numpy as np

        if name not in self._inputs:
            raise BadInputError(
                f"the model has no input {name!r}.{did_you_mean(name, self._inputs)}"
            )
        wanted = np.dtype(_DTYPES.get(self._inputs[name].type, array.dtype))
        if array.dtype == wanted:
            return array
        # Lists of Python numbers arrive as 64 bits wide: narrow within a kind, never across.
        whole = array.dtype.kind in "iu" and wanted.kind in "iuf"
        if not (whole or np.can_cast(array.dtype, wanted, "same_kind")):
            raise BadInputError(f"the input {name!r} is {array.dtype}, and {wanted} is needed.")
        fitted = array.astype(wanted)
        if array.dtype.kind in "iu" and not np.array_equal(fitted, array):
            raise BadInputError(f"the input {name!r} has values that {wanted} cannot hold.")
        return fitted

    def _signature(self) -> str:
        return ", ".join(f"{name}: {i.type} {i.shape}" for name, i in self._inputs.items())

    def _embed(self, job: Job) -> tuple[dict[str, Any], dict[str, Array]]:
        import numpy as np

        unknown = self._inputs.keys() - _TOKEN_INPUTS
        if unknown or "input_ids" not in self._inputs:
            raise EngineError(
                f"it does not take the inputs of a text encoder, but {self._signature()}",
                FailureKind.UNSUPPORTED,
            )
        if self._tokenizer is None:
            raise EngineError("its tokenizer could not be loaded", FailureKind.MISSING_RUNTIME)
        texts: list[str] = job.request["texts"]
        rows, tokens, truncated = [], 0, 0
        for start in range(0, len(texts), _BATCH):
            encoded = self._tokenizer.encode_batch(texts[start : start + _BATCH])
            mask = np.array([item.attention_mask for item in encoded], dtype=np.int64)
            ids = np.array([item.ids for item in encoded], dtype=np.int64)
            made = {
                "input_ids": ids,
                "attention_mask": mask,
                "token_type_ids": np.array([item.type_ids for item in encoded], dtype=np.int64),
                "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
            }
            results = self._call(job, {name: self._fit(name, made[name]) for name in self._inputs})
            rows.append(pool(self._vectors(results), mask))
            tokens += int(mask.sum())
            truncated += sum(bool(item.overflowing) for item in encoded)
        counters = {"truncated": truncated, "batches": len(rows)}
        return {"tokens_in": tokens, "counters": counters}, {"embedding": np.concatenate(rows)}

    def _vectors(self, results: list[Array]) -> Array:
        named = dict(zip(self._outputs, results, strict=True))
        if "sentence_embedding" in named:
            pooled: Array = named["sentence_embedding"]
            return pooled
        for array in results:
            if array.ndim in (2, 3) and array.dtype.kind == "f":
                return array
        raise EngineError("none of its outputs is a vector for each text", FailureKind.UNSUPPORTED)


def _words(error: Exception) -> str:
    # Such as "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from … failed: …".
    return str(error).rpartition(" : ")[2].strip() or type(error).__name__


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
