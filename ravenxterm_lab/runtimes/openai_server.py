"""A server on this machine that speaks OpenAI's protocol: llama.cpp, LM Studio, vLLM, others."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes.loopback import (
    SILENCE_SECONDS,
    AnswerError,
    Endpoint,
    UnreachableError,
)
from ravenxterm_lab.runtimes.served import ServerRuntime
from ravenxterm_lab.runtimes.served_model import Counters, ServedModel, identity_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ravenxterm_lab.runtimes.base import LoadOptions
    from ravenxterm_lab.runtimes.inputs import TextRequest

__all__ = ["OpenAIServer"]


class OpenAIServer(ServerRuntime):
    """Runs what an OpenAI-compatible server holds; off unless ``RAVENXTERM_SERVERS`` says so.

    The protocol does not tell what a model is for: each is taken to generate text.

    Examples
    --------
    >>> OpenAIServer([]).served()
    ((), ())
    """

    name = "openai_server"
    protocol = "openai"
    #: Of llama.cpp, LM Studio and vLLM.
    usual_ports = (8080, 1234, 8000)
    model_types = frozenset({ModelType.GGUF})
    tasks = frozenset({"text_generation", "embedding"})

    def _list(self, endpoint: Endpoint) -> list[ModelMetadata]:
        listed = endpoint.ask("/v1/models")
        entries = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(entries, list):
            raise AnswerError("it lists no models as OpenAI's protocol does")
        return [
            self._read(endpoint, entry)
            for entry in entries
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    def _read(self, endpoint: Endpoint, entry: dict[str, Any]) -> ModelMetadata:
        # Only llama.cpp tells more than the name.
        told = entry.get("meta")
        meta: dict[str, Any] = told if isinstance(told, dict) else {}
        return self.metadata(
            endpoint,
            entry["id"],
            f"{endpoint.port}:{entry['id']}",
            model_type=ModelType.GGUF,
            size_bytes=_whole(meta.get("size")) or 0,
            task_types=("text_generation",),
            parameter_count=_whole(meta.get("n_params")),
            context_length=_whole(meta.get("n_ctx_train")),
            embedding_length=_whole(meta.get("n_embd")),
            vocabulary_size=_whole(meta.get("n_vocab")),
        )

    def _connect(
        self, endpoint: Endpoint, model: ModelMetadata, options: LoadOptions
    ) -> ServedModel:
        started = time.perf_counter()
        if all(listed.name != model.name for listed in self._list(endpoint)):
            raise AnswerError(f"{identity_of(model)} is not among its models", 404)
        return _OpenAIModel(self, endpoint, model, options, time.perf_counter() - started)


class _OpenAIModel(ServedModel):
    def _generate(
        self, request: TextRequest, prompt: Any, counters: Counters, deadline: float | None
    ) -> Generator[str]:
        body: dict[str, Any] = {
            "model": identity_of(self.model),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": self.options.seed if request.seed is None else request.seed,
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.raw:
            path, body["prompt"] = "/v1/completions", prompt
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            system = [{"role": "system", "content": request.system}] if request.system else []
            path, body["messages"] = "/v1/chat/completions", [*system, *messages]
        for line in self.endpoint.lines(path, body, deadline=deadline):
            # Server-sent events: comments and other fields are not for us.
            name, _, value = line.strip().partition(b":")
            value = value.strip()
            if name == b"error":
                raise AnswerError(value.decode("utf-8", "replace"))
            if name != b"data":
                continue
            if value == b"[DONE]":
                return
            yield from _take(_event(value), counters)
        if counters.finish_reason is None:
            raise UnreachableError("its stream ended in the middle of the answer")

    def _embed(self, texts: list[str], counters: Counters, deadline: float | None) -> Any:
        seconds = SILENCE_SECONDS if deadline is None else deadline - time.monotonic()
        body = {"model": identity_of(self.model), "input": texts, "encoding_format": "float"}
        told = self.endpoint.ask("/v1/embeddings", body, seconds=max(seconds, 1e-3))
        rows = told.get("data") if isinstance(told, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise AnswerError("the answer holds no vectors")
        _read_usage(told, counters)
        return [row.get("embedding") for row in sorted(rows, key=lambda r: r.get("index", 0))]


def _event(value: bytes) -> dict[str, Any]:
    try:
        told = json.loads(value)
    except ValueError:
        raise AnswerError("an event of its stream is no JSON") from None
    if not isinstance(told, dict):
        raise AnswerError("an event of its stream is no JSON object")
    if "error" in told:
        error = told["error"]
        message = error.get("message") if isinstance(error, dict) else error
        code = error.get("code") if isinstance(error, dict) else None
        raise AnswerError(str(message), code if isinstance(code, int) else 0)
    return told


def _take(told: dict[str, Any], counters: Counters) -> Generator[str]:
    choices = told.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        piece = (delta.get("content") if isinstance(delta, dict) else None) or choice.get("text")
        if isinstance(piece, str) and piece:
            yield piece
        counters.finish_reason = choice.get("finish_reason") or counters.finish_reason
    _read_usage(told, counters)
    timings = told.get("timings")
    if isinstance(timings, dict):
        # llama.cpp's own addition to the protocol.
        for key in ("cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms"):
            if isinstance(timings.get(key), (int, float)):
                counters.details[key] = float(timings[key])
        milliseconds = counters.details.get("predicted_ms", 0)
        counters.decode_seconds = milliseconds / 1000 or None


def _read_usage(told: Mapping[str, Any], counters: Counters) -> None:
    usage = told.get("usage")
    if isinstance(usage, dict):
        counters.tokens_in = _whole(usage.get("prompt_tokens"))
        written = _whole(usage.get("completion_tokens"))
        counters.tokens_out = counters.tokens_out if written is None else written


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
