"""A model that a server on this machine holds, and what its answers are turned into."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.failures import classify
from ravenxterm_lab.runtimes.inputs import as_text_request, as_texts, check_timeout, no_parameters
from ravenxterm_lab.runtimes.loopback import AnswerError, Endpoint, TooSlowError, UnreachableError
from ravenxterm_lab.runtimes.reports import LoadReport, MemoryUse, RunResult

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.inputs import TextRequest
    from ravenxterm_lab.runtimes.served import ServerRuntime

__all__ = ["LOAD_SECONDS", "Counters", "ServedModel", "failure", "identity_of"]

#: How long a server may take to bring a model into memory (s).
LOAD_SECONDS = 600.0


@dataclass(slots=True)
class Counters:
    """What an answer tells about itself, as it comes.

    Attributes
    ----------
    tokens_in, tokens_out : int or None
        As the server counted them.
    decode_seconds : float or None
        What it took to write ``tokens_out`` (s), where the server says so.
    finish_reason : str or None
        ``"stop"`` or ``"length"``.
    details : dict
        Further counters.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    decode_seconds: float | None = None
    finish_reason: str | None = None
    details: dict[str, float] = field(default_factory=dict)


def identity_of(model: ModelMetadata) -> str:
    """Return what the server calls a model."""
    return model.name.rpartition("@")[0]


class ServedModel(LoadedModel):
    """A model in a server. ``unload`` asks the server to let go of it only if we had it loaded.

    Parameters
    ----------
    runtime : ServerRuntime
        Whose model it is.
    endpoint : Endpoint
        The server.
    model, options
        As loaded.
    seconds : float
        What the load took.
    held_bytes : int
        What the server says it holds for the model; 0 where it does not say.
    """

    def __init__(
        self,
        runtime: ServerRuntime,
        endpoint: Endpoint,
        model: ModelMetadata,
        options: LoadOptions,
        seconds: float,
        held_bytes: int = 0,
    ) -> None:
        self.model = model
        self.options = options
        self.runtime = runtime.name
        self.endpoint = endpoint
        self.report = LoadReport(
            seconds=seconds,
            memory_bytes=held_bytes,
            anonymous_bytes=held_bytes,
            file_bytes=0,
            context_length=options.context_length or 0,
            device=options.device,
            engine=f"{runtime.protocol} server at {endpoint.url}",
        )
        self._adapter = runtime
        self._lock = threading.Lock()
        self._alive = True
        self._unloaded = False

    @abstractmethod
    def _generate(
        self, request: TextRequest, prompt: Any, counters: Counters, deadline: float | None
    ) -> Generator[str]:
        """Yield the pieces of one answer, and fill in the counters."""

    @abstractmethod
    def _embed(self, texts: list[str], counters: Counters, deadline: float | None) -> Any:
        """Return one vector for each text."""

    def _release(self) -> None:
        """Ask the server to let go of the model."""

    @property
    def alive(self) -> bool:
        """Whether it was not unloaded, and the server answered the last time."""
        return self._alive and not self._unloaded

    def memory(self) -> MemoryUse:
        """Return what the server said that it holds, when it was loaded."""
        return MemoryUse(0 if self._unloaded else self.report.memory_bytes, 0)

    def unload(self) -> int:
        """Let go of it; return the bytes that the server had said it holds."""
        held = self.memory().total
        if self._unloaded:
            return 0
        self._unloaded = True
        if self._alive:
            self._release()
        return held

    def run(
        self,
        task: str,
        inputs: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        on_token: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> RunResult:
        """Run one task; see `LoadedModel.run`."""
        deadline = None if timeout is None else time.monotonic() + check_timeout(timeout)
        name = self._adapter.check_task(self.model, task)
        if name == "embedding":
            no_parameters(name, parameters)
            texts, _ = as_texts(name, inputs)
        else:
            request = as_text_request(inputs, parameters)
        if self._unloaded:
            raise RuntimeFailureError(
                f"{self.model.name} was unloaded. Load it again to run it.",
                FailureKind.RUNTIME_ERROR,
            )
        wait = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._lock.acquire(timeout=wait):
            raise RuntimeFailureError(
                f"{self.model.name} was busy with another run until the timeout. Allow more time.",
                FailureKind.TIMEOUT,
            )
        try:
            if name == "embedding":
                return self._run_embedding(texts, deadline)
            return self._run_text(request, on_token, deadline)
        except UnreachableError as error:
            self._alive = False
            raise failure(self.model, error, "run") from error
        except (TooSlowError, AnswerError) as error:
            raise failure(self.model, error, "run") from error
        finally:
            self._lock.release()

    def _run_text(
        self,
        request: TextRequest,
        on_token: Callable[[str], None] | None,
        deadline: float | None,
    ) -> RunResult:
        started = time.perf_counter()
        first = last = None
        outputs: list[str] = []
        all_counters: list[Counters] = []
        for prompt in request.prompts:
            counters = Counters()
            pieces: list[str] = []
            # Closed however it ends: the server stops to generate when the connection goes.
            with closing(self._generate(request, prompt, counters, deadline)) as answer:
                for piece in answer:
                    last = time.perf_counter()
                    first = first or last
                    pieces.append(piece)
                    if on_token is not None and piece:
                        on_token(piece)
            outputs.append("".join(pieces))
            all_counters.append(counters)
        latency = time.perf_counter() - started
        result = _add_counters(RunResult("", latency), all_counters)
        speed = result.throughput
        if speed is None and first is not None and last is not None and last > first:
            # The first token came at `first`; those after it took until `last`.
            speed = max(0, (result.tokens_out or 0) - len(outputs)) / (last - first) or None
        return replace(
            result,
            output=outputs if request.many else outputs[0],
            time_to_first_token=None if first is None else first - started,
            throughput=speed,
        )

    def _run_embedding(self, texts: list[str], deadline: float | None) -> RunResult:
        import numpy as np

        started = time.perf_counter()
        counters = Counters()
        try:
            rows = np.asarray(self._embed(texts, counters, deadline), dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise AnswerError(f"the answer holds no vectors ({error})") from None
        latency = time.perf_counter() - started
        if rows.ndim != 2 or len(rows) != len(texts) or not np.isfinite(rows).all():
            raise AnswerError(f"{len(texts)} vectors were asked for, got shape {rows.shape}")
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        result = _add_counters(RunResult(rows, latency), [counters])
        return replace(result, output=rows, throughput=len(rows) / latency)


def _add_counters(result: RunResult, every: list[Counters]) -> RunResult:
    def total(name: str) -> Any:
        values = [getattr(counters, name) for counters in every]
        return None if any(value is None for value in values) else sum(values)

    written, seconds = total("tokens_out"), total("decode_seconds")
    details: dict[str, float] = {}
    for counters in every:
        for key, value in counters.details.items():
            details[key] = details.get(key, 0.0) + value
    return replace(
        result,
        tokens_in=total("tokens_in"),
        tokens_out=written,
        throughput=written / seconds if written and seconds else None,
        finish_reason=every[-1].finish_reason,
        details=details,
    )


def failure(model: ModelMetadata, error: Exception, doing: str) -> Exception:
    """Return the classified failure, or a `RequirementError` for input that is at fault."""
    verb = "loaded" if doing == "load" else "run"
    text = f"{model.name} could not be {verb} by its server: {str(error).rstrip('.')}."
    if isinstance(error, TooSlowError):
        return RuntimeFailureError(
            f"{text} Allow more time, or ask for fewer tokens.", FailureKind.TIMEOUT
        )
    if isinstance(error, UnreachableError):
        kind = FailureKind.MISSING_RUNTIME if doing == "load" else FailureKind.RUNTIME_ERROR
        return RuntimeFailureError(f"{text} Start the server, or look at its log.", kind)
    status = error.status if isinstance(error, AnswerError) else 0
    kind = classify(str(error))
    if status in {400, 413, 422} and doing == "run" and kind is FailureKind.RUNTIME_ERROR:
        return RequirementError(f"{model.name}: {error}")
    if status in {401, 403}:
        text += " It asks for a key, which Endpoint(port, key=…) gives."
        kind = FailureKind.UNSUPPORTED
    elif status == 404:
        text += " The server does not have it any more: scan again."
        kind = FailureKind.UNSUPPORTED
    return RuntimeFailureError(text, kind)
