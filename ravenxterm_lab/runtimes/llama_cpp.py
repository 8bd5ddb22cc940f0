"""llama.cpp: text generation with GGUF models, in a worker process."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.metadata import HardwareType, ModelType
from ravenxterm_lab.runtimes.adapter import PackagedRuntime
from ravenxterm_lab.runtimes.failures import classify, reason_in_log
from ravenxterm_lab.runtimes.inputs import as_text_request
from ravenxterm_lab.runtimes.worker_model import WorkerModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions
    from ravenxterm_lab.runtimes.inputs import TextRequest
    from ravenxterm_lab.runtimes.reports import RunResult

__all__ = ["LlamaCppRuntime"]

_MIB = 1024 * 1024
_BUFFER = re.compile(
    r"(?P<where>\S+)\s+(?P<what>model|KV|RS|compute|output) buffer size\s*=\s*(?P<mib>[\d.]+) MiB"
)
_NAMES = {"model": "weights", "KV": "kv", "RS": "kv", "compute": "compute", "output": "output"}


class LlamaCppRuntime(PackagedRuntime):
    """Runs GGUF models for ``text_generation`` through the ``xllamacpp`` package.

    The chat template of a model is applied by llama.cpp, in the worker.

    Examples
    --------
    >>> LlamaCppRuntime().name
    'llama_cpp'
    """

    name = "llama_cpp"
    package = "xllamacpp"
    model_types = frozenset({ModelType.GGUF})
    tasks = frozenset({"text_generation"})
    supports_batching = True
    overhead_bytes = 34 * 1024 * 1024

    def devices(self) -> tuple[HardwareType, ...]:
        """Return the CPU: this adapter does not offload layers."""
        return (HardwareType.CPU,)

    def _load(self, model: ModelMetadata, options: LoadOptions) -> LoadedModel:
        return _LlamaModel(self, model, options)


class _LlamaModel(WorkerModel):
    engine = "ravenxterm_lab.runtimes.llama_engine:LlamaEngine"
    log_end = "listening on"

    def _read_load_log(self, log: list[str]) -> dict[str, int]:
        buffers: dict[str, int] = {}
        for line in log:
            if match := _BUFFER.search(line):
                repacked = match["what"] == "model" and "REPACK" in match["where"]
                key = "repack" if repacked else _NAMES[match["what"]]
                buffers[key] = buffers.get(key, 0) + round(float(match["mib"]) * _MIB)
        return buffers

    def _explain(
        self, message: str, kind: FailureKind, doing: str, log: list[str]
    ) -> RuntimeFailureError:
        if doing == "load":
            message = reason_in_log(log) or message
            kind = classify(message)
        return super()._explain(message, kind, doing, log)

    def _translate(
        self, task: str, inputs: Any, parameters: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        del task
        request = as_text_request(inputs, parameters)
        sampling = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "min_p": 0.0,
            "seed": self.options.seed if request.seed is None else request.seed,
            "stop": list(request.stop),
        }
        prompts = [self._prompt(request, prompt) for prompt in request.prompts]
        return {"prompts": prompts, "sampling": sampling, "many": request.many}, {}

    def _prompt(
        self, request: TextRequest, prompt: str | tuple[dict[str, str], ...]
    ) -> str | list[dict[str, str]]:
        raw = not self._facts["chat_template"] if request.raw is None else request.raw
        if not raw:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            system = [{"role": "system", "content": request.system}] if request.system else []
            return [*system, *messages]
        if request.system or not isinstance(prompt, str):
            raise RequirementError(
                f"{self.model.name} has no chat template, so it takes plain text: no messages "
                "and no system text. raw=False lets llama.cpp use its default template."
            )
        return prompt

    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        del arrays
        counters = {key: float(value) for key, value in values["counters"].items()}
        written, milliseconds = counters.get("predicted_n", 0), counters.get("predicted_ms", 0)
        # The first token comes out of the prompt's pass, so one token alone has no speed.
        speed = 1000 * written / milliseconds if written > 1 and milliseconds > 0 else None
        outputs: list[str] = values["outputs"]
        return replace(
            result,
            output=outputs if values["many"] else outputs[0],
            time_to_first_token=values["time_to_first_token"],
            throughput=speed,
            tokens_in=_whole(counters.pop("tokens_in", None)),
            tokens_out=_whole(counters.pop("tokens_out", None)),
            finish_reason=values["finish_reason"],
            details=counters,
        )

    def _useful_bytes(self, result: RunResult) -> int | None:
        weights = super()._useful_bytes(result)
        if weights is None:
            return None
        tokens = (result.tokens_in or 0) + (result.tokens_out or 0)
        used = min(1.0, tokens / max(1, self.report.context_length))
        return weights + round(self.report.buffers.get("kv", 0) * used)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
