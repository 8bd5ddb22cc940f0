"""llama.cpp inside a worker process, through ``xllamacpp``.

Its server listens on a UNIX socket in the worker's private directory, because it must
listen somewhere: no TCP port is opened, and nothing connects to the socket.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind
from ravenxterm_lab.runtimes.engine import BadInputError, Engine, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.runtimes.engine import Job

__all__ = ["LlamaEngine"]

#: At this level llama.cpp logs the sizes of its buffers, and no prompt.
_VERBOSITY = 4
_MIB = 1024 * 1024
_TEMPLATE_KEY = len(b"tokenizer.chat_template").to_bytes(8, "little") + b"tokenizer.chat_template"
#: Vocabularies may stand before it (some 10 MiB for 262,144 tokens); weights come after it.
_MOST_METADATA = 32 * _MIB
_BAD_REQUESTS = {"exceed_context_size_error", "invalid_request_error"}


class LlamaEngine(Engine):
    """One GGUF model in an embedded llama.cpp server."""

    def prepare(self) -> None:
        """Import ``xllamacpp``."""
        import xllamacpp

        self._xllamacpp = xllamacpp

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the model; the cause of a failure stands only in the log."""
        params = self._xllamacpp.CommonParams()
        params.model.path = request["path"]
        params.n_ctx = request["context_length"]
        params.n_batch = params.n_ubatch = request["batch_size"]
        kv_type = getattr(self._xllamacpp.ggml_type, f"GGML_TYPE_{request['kv_type'].upper()}")
        params.cache_type_k = params.cache_type_v = kv_type
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = request["threads"]
        params.n_gpu_layers = 0
        params.n_parallel = 1
        params.warmup = False
        # The default keeps up to 8 GiB of old prompts.
        params.cache_ram_mib = 0
        params.n_ctx_checkpoints = 0
        params.fit_params = False
        quiet = request.get("quiet", False)
        params.verbosity = -1 if quiet else _VERBOSITY
        params.hostnames = [str(Path(request.get("directory", "")) / "engine.sock")]
        params.api_keys = [secrets.token_hex(16)]
        params.n_threads_http = 1
        params.ui = params.endpoint_slots = False
        try:
            self._server = self._xllamacpp.Server(params)
        except RuntimeError as error:
            raise EngineError(str(error)) from error
        return {
            "context_length": request["context_length"],
            "chat_template": _has_template(request["path"]),
        }

    def run(self, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
        """Generate for each prompt, one after the other."""
        outputs, runs = [], []
        for prompt in job.request["prompts"]:
            generation = _Generation(job)
            generation.work(self._server, prompt)
            outputs.append("".join(generation.pieces))
            runs.append(generation)
            if job.cancelled:
                break
        totals: dict[str, float] = {}
        for generation in runs:
            for key, value in generation.counters.items():
                totals[key] = totals.get(key, 0) + value
        return {
            "outputs": outputs,
            "many": job.request["many"],
            "finish_reason": runs[-1].finish_reason,
            "counters": totals,
        }, {}


def _has_template(path: str) -> bool:
    """Look for the key among the metadata: its length (u64, little-endian), then its name."""
    before = b""
    with Path(path).open("rb") as file:
        # Read, not mapped: a second mapping would count in the peak of this process.
        while file.tell() < _MOST_METADATA and (read := file.read(_MIB)):
            if _TEMPLATE_KEY in before[-len(_TEMPLATE_KEY) :] + read:
                return True
            before = read
    return False


class _Generation:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.pieces: list[str] = []
        self.finish_reason: str | None = None
        self.counters: dict[str, float] = {}
        self.error: EngineError | None = None

    def work(self, server: Any, prompt: str | list[dict[str, str]]) -> None:
        request = {
            **self.job.request["sampling"],
            "stream": True,
            "stream_options": {"include_usage": True},
            # Without it a long prompt could not be interrupted before its last token was read.
            "return_progress": True,
        }
        try:
            if isinstance(prompt, str):
                server.handle_completions({**request, "prompt": prompt}, self.take)
            else:
                server.handle_chat_completions({**request, "messages": prompt}, self.take)
        except ValueError as error:
            # The chat template refused the messages, such as two user turns in a row.
            raise BadInputError(f"{error}. Change the messages.") from error
        if self.error is not None:
            raise self.error

    def take(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; true ends the generation."""
        try:
            self.read(chunk)
        except (EngineError, KeyError, TypeError, AttributeError, OSError) as error:
            # What is raised here would vanish in the C++ caller.
            self.error = error if isinstance(error, EngineError) else EngineError(repr(error))
        return self.error is not None or self.job.cancelled

    def read(self, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise _from_server(chunk["error"])
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or ""
            if text or delta.get("reasoning_content"):
                self.job.emit(text)
                self.pieces.append(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if usage := chunk.get("usage"):
            self.counters["tokens_in"] = usage["prompt_tokens"]
            self.counters["tokens_out"] = usage["completion_tokens"]
        for key in ("cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms"):
            if key in (chunk.get("timings") or {}):
                self.counters[key] = chunk["timings"][key]


def _from_server(error: dict[str, Any]) -> EngineError:
    message = str(error.get("message"))
    if error.get("type") == "exceed_context_size_error":
        return BadInputError(
            f"{message}. Shorten the input, or load the model with a larger context_length."
        )
    if error.get("type") in _BAD_REQUESTS:
        return BadInputError(message)
    return EngineError(message, FailureKind.RUNTIME_ERROR)
