"""A runtime without an engine, for tests of code that uses runtimes.

It is public, so that people can test their own code with it. The product never uses it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.requirements import TASKS
from ravenxterm_lab.runtimes.base import LoadedModel, LoadOptions, Runtime
from ravenxterm_lab.runtimes.inputs import (
    as_arrays,
    as_text_request,
    as_texts,
    check_timeout,
    no_parameters,
)
from ravenxterm_lab.runtimes.reports import LoadReport, MemoryUse, RunResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["FakeModel", "FakeRuntime"]

_WIDTH = 8


@dataclass(slots=True)
class _Script:
    outputs: deque[Any] = field(default_factory=deque)
    run_failures: deque[FailureKind | None] = field(default_factory=deque)
    load_failures: dict[str, FailureKind] = field(default_factory=dict)
    latency: float = 0.5
    throughput: float = 40.0


class FakeRuntime(Runtime):
    """A runtime that answers from a script; nothing is loaded, and nothing sleeps.

    Parameters
    ----------
    name : str
        Its name.
    model_types : iterable of ModelType, optional
        Formats that it takes; all of them by default.
    tasks : iterable of str, optional
        Tasks that it takes; all of them by default.
    outputs : iterable, optional
        Answers to the next runs, in order; afterwards, and by default, it makes them up from
        the input, always the same ones.
    latency, throughput : float
        What every run reports (s; tokens/s).
    load_seconds : float
        What every load reports (s).
    memory_bytes : callable, optional
        Bytes that a model holds when loaded; its ``size_bytes`` by default.
    load_failures : mapping of str to FailureKind, optional
        Models, by name, whose load fails.
    run_failures : iterable of FailureKind or None, optional
        For the next runs, in order, how each fails; None is a success.

    Attributes
    ----------
    loads : list of str
        Names of the models that were loaded, in order.
    unloads : list of str
        Names of the models that were unloaded, in order.

    Examples
    --------
    >>> from pathlib import Path
    >>> runtime = FakeRuntime(outputs=["forty-two"])
    >>> model = ModelMetadata("m", ModelType.GGUF, Path("m.gguf"), 1000)
    >>> with runtime.load(model) as loaded:
    ...     loaded.run("text_generation", "6 × 7?").output
    'forty-two'
    """

    supports_batching = True

    def __init__(
        self,
        name: str = "fake",
        *,
        model_types: Iterable[ModelType] = tuple(ModelType),
        tasks: Iterable[str] = tuple(TASKS),
        outputs: Iterable[Any] = (),
        latency: float = 0.5,
        throughput: float = 40.0,
        load_seconds: float = 0.25,
        memory_bytes: Callable[[ModelMetadata], int] | None = None,
        load_failures: Mapping[str, FailureKind] | None = None,
        run_failures: Iterable[FailureKind | None] = (),
    ) -> None:
        self.name = name
        self.model_types = frozenset(model_types)
        self.tasks = frozenset(tasks)
        self.load_seconds = load_seconds
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self._memory_bytes = memory_bytes or (lambda model: model.size_bytes)
        self._script = _Script(
            deque(outputs), deque(run_failures), dict(load_failures or {}), latency, throughput
        )

    def devices(self) -> tuple[HardwareType, ...]:
        """Return every kind of device."""
        return tuple(HardwareType)

    def version(self) -> str | None:
        """Return a version."""
        return "0"

    def gap(self, model: ModelMetadata) -> str | None:
        """Say why it does not take a model; None when it does."""
        if model.model_type not in self.model_types:
            return f"no runtime installed for {model.model_type.name}; get the model in another"
        if model.problems:
            return f"the model is damaged: {'; '.join(model.problems)}"
        if not self.tasks_of(model):
            return f"{self.name} does not run {', '.join(model.task_types)}"
        return None

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        """Make a `FakeModel`, or fail as the script says."""
        gap = self.gap(model)
        if gap is not None:
            kind = FailureKind.CORRUPT if model.problems else FailureKind.UNSUPPORTED
            raise RuntimeFailureError(f"{model.name} cannot be loaded by {self.name}: {gap}.", kind)
        scripted = self._script.load_failures.get(model.name)
        if scripted is not None:
            raise RuntimeFailureError(
                f"{model.name} could not be loaded by {self.name}: the script says so.", scripted
            )
        chosen = self.resolve(model, options or LoadOptions())
        held = self._memory_bytes(model)
        report = LoadReport(
            seconds=self.load_seconds,
            memory_bytes=held,
            anonymous_bytes=held,
            file_bytes=0,
            buffers={"weights": held},
            context_length=chosen.context_length or 0,
            device=chosen.device,
            engine=f"{self.name} 0",
        )
        self.loads.append(model.name)
        return FakeModel(self, model, chosen, report, self._script)


class FakeModel(LoadedModel):
    """What `FakeRuntime` loads."""

    def __init__(
        self,
        runtime: FakeRuntime,
        model: ModelMetadata,
        options: LoadOptions,
        report: LoadReport,
        script: _Script,
    ) -> None:
        self.model = model
        self.options = options
        self.report = report
        self.runtime = runtime.name
        self._adapter = runtime
        self._script = script
        self._lock = threading.Lock()
        self._alive = True

    @property
    def alive(self) -> bool:
        """Whether it was not unloaded and has not crashed."""
        return self._alive

    def memory(self) -> MemoryUse:
        """Return what it pretends to hold."""
        return MemoryUse(self.report.memory_bytes if self._alive else 0, 0)

    def unload(self) -> int:
        """Pretend to free it."""
        with self._lock:
            held = self.memory().total
            if self._alive:
                self._adapter.unloads.append(self.model.name)
            self._alive = False
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
        """Answer from the script; see `LoadedModel.run`."""
        name = self._adapter.check_task(self.model, task)
        if timeout is not None:
            check_timeout(timeout)
        answer = _answer(name, inputs, parameters)
        with self._lock:
            if not self._alive:
                raise RuntimeFailureError(
                    f"{self.model.name} was unloaded. Load it again to run it.",
                    FailureKind.RUNTIME_ERROR,
                )
            self._fail(timeout)
            if self._script.outputs:
                answer = self._script.outputs.popleft()
        if on_token is not None and isinstance(answer, str):
            for piece in answer.split(" "):
                on_token(f"{piece} ")
        return self._result(name, inputs, answer)

    def _fail(self, timeout: float | None) -> None:
        kind = self._script.run_failures.popleft() if self._script.run_failures else None
        if kind is None and timeout is not None and timeout < self._script.latency:
            kind = FailureKind.TIMEOUT
        if kind is not None:
            # As a worker does: an engine that crashed or ran out of memory is gone.
            self._alive = kind not in {FailureKind.OUT_OF_MEMORY, FailureKind.RUNTIME_ERROR}
            raise RuntimeFailureError(f"{self.model.name} failed: the script says so.", kind)

    def _result(self, task: str, inputs: Any, answer: Any) -> RunResult:
        result = RunResult(
            answer,
            self._script.latency,
            throughput=self._script.throughput,
            peak_memory=self.report.memory_bytes,
        )
        if task == "embedding":
            texts = [inputs] if isinstance(inputs, str) else inputs
            return replace(result, tokens_in=sum(len(text.split()) for text in texts))
        if task != "text_generation":
            return result
        return replace(
            result,
            time_to_first_token=self._script.latency / 10,
            tokens_in=len(str(inputs).split()),
            tokens_out=len(str(answer).split()),
            finish_reason="stop",
        )


def _answer(task: str, inputs: Any, parameters: Mapping[str, Any] | None) -> Any:
    if task == "text_generation":
        return _text(inputs, parameters)
    no_parameters(task, parameters)
    return _vectors(task, inputs) if task == "embedding" else as_arrays(task, inputs)


def _text(inputs: Any, parameters: Mapping[str, Any] | None) -> str | list[str]:
    request = as_text_request(inputs, parameters)
    last = [
        prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in request.prompts
    ]
    answers = [f"an answer to: {text}" for text in last]
    return answers if request.many else answers[0]


def _vectors(task: str, inputs: Any) -> Any:
    import numpy as np

    texts, _ = as_texts(task, inputs)
    digests = [hashlib.sha256(text.encode()).digest()[:_WIDTH] for text in texts]
    raw = np.array([list(digest) for digest in digests], dtype=np.float32) + 1
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)
