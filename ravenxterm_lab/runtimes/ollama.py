"""An Ollama server on this machine (its protocol: docs/api.md of the Ollama repository)."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes.loopback import (
    SILENCE_SECONDS,
    AnswerError,
    Endpoint,
    TooSlowError,
    UnreachableError,
)
from ravenxterm_lab.runtimes.served import ServerRuntime
from ravenxterm_lab.runtimes.served_model import LOAD_SECONDS, Counters, ServedModel, identity_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from ravenxterm_lab.runtimes.base import LoadOptions
    from ravenxterm_lab.runtimes.inputs import TextRequest

__all__ = ["OllamaServer"]

_TASKS = {"completion": "text_generation", "embedding": "embedding"}
_NANOSECONDS = 1e9


class OllamaServer(ServerRuntime):
    """Runs the models of an Ollama server; off unless ``RAVENXTERM_SERVERS`` names ``ollama``.

    Examples
    --------
    >>> OllamaServer([]).served()
    ((), ())
    """

    name = "ollama"
    protocol = "ollama"
    usual_ports = (11434,)
    model_types = frozenset({ModelType.OLLAMA})
    tasks = frozenset(_TASKS.values())

    def _list(self, endpoint: Endpoint) -> list[ModelMetadata]:
        listed = endpoint.ask("/api/tags")
        models = listed.get("models") if isinstance(listed, dict) else None
        if not isinstance(models, list):
            raise AnswerError("it lists no models as Ollama does")
        return [self._read(endpoint, entry) for entry in models if isinstance(entry, dict)]

    def _read(self, endpoint: Endpoint, entry: dict[str, Any]) -> ModelMetadata:
        identity = str(entry.get("model") or entry.get("name"))
        details = _mapping(entry.get("details"))
        shown: dict[str, Any] = {}
        with suppress(UnreachableError, TooSlowError, AnswerError):
            shown = _mapping(endpoint.ask("/api/show", {"model": identity}))
        facts = _mapping(shown.get("model_info"))
        architecture = facts.get("general.architecture") or details.get("family")
        able = [_TASKS[one] for one in shown.get("capabilities") or () if one in _TASKS]
        return self.metadata(
            endpoint,
            identity,
            str(entry.get("digest") or identity),
            model_type=ModelType.OLLAMA,
            size_bytes=_whole(entry.get("size")) or 0,
            # Servers before 0.6.4 tell no capabilities.
            task_types=tuple(able) or ("text_generation",),
            quantization=details.get("quantization_level"),
            architecture=architecture,
            parameter_count=_whole(facts.get("general.parameter_count")),
            context_length=_whole(facts.get(f"{architecture}.context_length")),
        )

    def _connect(
        self, endpoint: Endpoint, model: ModelMetadata, options: LoadOptions
    ) -> ServedModel:
        identity = identity_of(model)
        before = _held(endpoint, identity)
        started = time.perf_counter()
        if "text_generation" in model.task_types:
            # Without a prompt it only loads (docs/api.md, "Load a model").
            body = {"model": identity, "stream": False, "options": _engine_options(options)}
            endpoint.ask("/api/generate", body, seconds=LOAD_SECONDS)
        seconds = time.perf_counter() - started
        held = _held(endpoint, identity)
        return _OllamaModel(self, endpoint, model, options, seconds, held, ours=not before)


class _OllamaModel(ServedModel):
    def __init__(
        self,
        runtime: OllamaServer,
        endpoint: Endpoint,
        model: ModelMetadata,
        options: LoadOptions,
        seconds: float,
        held_bytes: int,
        *,
        ours: bool,
    ) -> None:
        super().__init__(runtime, endpoint, model, options, seconds, held_bytes)
        self._ours = ours

    def _release(self) -> None:
        if self._ours:
            with suppress(UnreachableError, TooSlowError, AnswerError):
                body = {"model": identity_of(self.model), "keep_alive": 0, "stream": False}
                self.endpoint.ask("/api/generate", body, seconds=10)

    def _generate(
        self, request: TextRequest, prompt: Any, counters: Counters, deadline: float | None
    ) -> Generator[str]:
        body: dict[str, Any] = {
            "model": identity_of(self.model),
            "stream": True,
            "options": {
                **_engine_options(self.options),
                "num_predict": request.max_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "top_k": request.top_k,
                "seed": self.options.seed if request.seed is None else request.seed,
                "stop": list(request.stop),
            },
        }
        if request.raw:
            path, body["prompt"], body["raw"] = "/api/generate", prompt, True
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            system = [{"role": "system", "content": request.system}] if request.system else []
            path, body["messages"] = "/api/chat", [*system, *messages]
        for line in self.endpoint.lines(path, body, deadline=deadline):
            if not line.strip():
                continue
            try:
                told = json.loads(line)
            except ValueError:
                raise AnswerError("a line of its stream is no JSON") from None
            if not isinstance(told, dict):
                raise AnswerError("a line of its stream is no JSON object")
            if "error" in told:
                raise AnswerError(str(told["error"]))
            piece = _mapping(told.get("message")).get("content") or told.get("response") or ""
            if piece:
                yield str(piece)
            if told.get("done"):
                _read_counters(told, counters)
                return
        raise UnreachableError("its stream ended in the middle of the answer")

    def _embed(self, texts: list[str], counters: Counters, deadline: float | None) -> Any:
        seconds = SILENCE_SECONDS if deadline is None else deadline - time.monotonic()
        body = {"model": identity_of(self.model), "input": texts}
        told = _mapping(self.endpoint.ask("/api/embed", body, seconds=max(seconds, 1e-3)))
        counters.tokens_in = _whole(told.get("prompt_eval_count"))
        return told.get("embeddings")


def _engine_options(options: LoadOptions) -> dict[str, int]:
    if options.gpu_layers:
        raise RequirementError("gpu_layers is the server's choice here. Leave it at 0.")
    chosen = {"num_ctx": options.context_length, "num_thread": options.threads}
    return {key: value for key, value in chosen.items() if value is not None}


def _read_counters(told: Mapping[str, Any], counters: Counters) -> None:
    counters.tokens_in = _whole(told.get("prompt_eval_count"))
    counters.tokens_out = _whole(told.get("eval_count"))
    counters.finish_reason = told.get("done_reason")
    duration = _whole(told.get("eval_duration"))
    counters.decode_seconds = duration / _NANOSECONDS if duration else None
    for key, name in (
        ("prompt_eval_duration", "prompt_ms"),
        ("eval_duration", "predicted_ms"),
        ("load_duration", "load_ms"),
    ):
        value = _whole(told.get(key))
        if value is not None:
            counters.details[name] = value / 1e6


def _held(endpoint: Endpoint, identity: str) -> int:
    """Bytes that the server holds for a model now; 0 when it does not, or does not say."""
    try:
        running = _mapping(endpoint.ask("/api/ps")).get("models")
    except (TooSlowError, AnswerError):
        return 0
    for entry in running if isinstance(running, list) else ():
        if isinstance(entry, dict) and identity in (entry.get("model"), entry.get("name")):
            return _whole(entry.get("size")) or 0
    return 0


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
