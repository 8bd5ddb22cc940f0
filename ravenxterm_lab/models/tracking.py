"""A person's own code, measured: a block, or every call of a function."""

from __future__ import annotations

import functools
import inspect
import os
import threading
import time
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from ravenxterm_lab.exceptions import MetricError
from ravenxterm_lab.models.recording import check_model, record_metrics
from ravenxterm_lab.requirements import normalize_task
from ravenxterm_lab.runtimes.process import process_memory
from ravenxterm_lab.store.schema import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import TracebackType

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.registry import ModelRegistry
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.store import ExecutionId

__all__ = ["TrackedRun", "Tracking"]

F = TypeVar("F", bound="Callable[..., Any]")

#: Seconds between two looks at the memory of this process, which take some 20 µs each.
_LOOK_SECONDS = 0.02


class _Peak:
    """The most resident memory of this process while a block runs (bytes)."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._most = process_memory(os.getpid()).total
        self._thread = threading.Thread(target=self._watch, name="track-memory", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self._most = max(self._most, process_memory(os.getpid()).total)

    def end(self) -> int:
        self._over.set()
        return max(self._most, process_memory(os.getpid()).total)


@dataclass
class TrackedRun:
    """Measures a person's own code: ``with manager.track(model) as run``, or as a decorator.

    Set what only the code knows inside the block: ``run.metrics["tokens_out"] = 128``.
    An exception is recorded as a failure and raised again; an interrupt is recorded as one, and
    is not held against the model. ``peak_memory`` is the most resident memory of the whole
    process meanwhile, looked at every 20 ms.

    As a decorator it records every call of a function, of a coroutine function, or of a
    generator function, whose first piece sets ``time_to_first_token``.

    Attributes
    ----------
    metrics : dict
        Metrics to record with the latency (s), which is measured here.
    execution : ExecutionId or None
        The key of the recorded execution, once the block has ended.
    """

    _record: Callable[[dict[str, Any]], ExecutionId | None]
    _measure: Callable[[Any], Mapping[str, Any]] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    execution: ExecutionId | None = None
    _started: float = 0.0
    _peak: _Peak | None = None

    def __enter__(self) -> Self:
        self._peak = _Peak()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        latency = time.perf_counter() - self._started
        assert self._peak is not None
        measured = {"latency": latency, "peak_memory": self._peak.end(), "success": error is None}
        metrics = {**measured, **self.metrics}
        if error is not None:
            metrics.update(success=False, error=f"{type(error).__name__}: {error}")
            if not isinstance(error, Exception):
                # Ctrl-C, a cancelled task, a stream that nobody reads on: no evidence.
                metrics["failure"] = INTERRUPTED
        tokens = metrics.get("tokens_out")
        if "throughput" not in metrics and isinstance(tokens, Integral) and tokens and latency > 0:
            metrics["throughput"] = int(tokens) / latency
        try:
            self.execution = self._record(metrics)
        except MetricError:
            # The error of the block matters more than a bad metric beside it.
            if error is None:
                raise

    def __call__(self, function: F) -> F:
        """Return a function whose every call is measured and recorded.

        Parameters
        ----------
        function : callable
            Plain, ``async``, a generator, or an asynchronous generator.
        """
        if inspect.isasyncgenfunction(function):
            wrapper: Any = self._async_stream(function)
        elif inspect.isgeneratorfunction(function):
            wrapper = self._stream(function)
        elif inspect.iscoroutinefunction(function):
            wrapper = self._coroutine(function)
        else:
            wrapper = self._plain(function)
        return cast("F", functools.wraps(function)(wrapper))

    def _again(self) -> TrackedRun:
        """Return one like this for a call: calls may overlap."""
        return TrackedRun(self._record, self._measure, dict(self.metrics))

    def _take(self, result: Any) -> None:
        if self._measure is not None:
            self.metrics.update(self._measure(result))

    def _first(self) -> None:
        self.metrics.setdefault("time_to_first_token", time.perf_counter() - self._started)

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._again() as run:
                result = function(*args, **kwargs)
                run._take(result)
            return result

        return call

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with self._again() as run:
                result = await function(*args, **kwargs)
                run._take(result)
            return result

        return call

    def _stream(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with self._again() as run:
                pieces = []
                for piece in function(*args, **kwargs):
                    run._first()
                    pieces.append(piece)
                    yield piece
                run._take(pieces)

        return call

    def _async_stream(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with self._again() as run:
                pieces = []
                async for piece in function(*args, **kwargs):
                    run._first()
                    pieces.append(piece)
                    yield piece
                run._take(pieces)

        return call


class Tracking:
    """The part of `ModelManager` that measures a person's own code."""

    _bench: Workbench
    registry: ModelRegistry

    def track(
        self,
        model: ModelMetadata | str,
        *,
        task_type: str | None = None,
        measure: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> TrackedRun:
        """Measure your own code, and record it as an execution of ``model``.

        A block (``with manager.track(model) as run``), or every call of a function
        (``@manager.track(model)``), which may be ``async`` or a generator.

        Parameters
        ----------
        model : ModelMetadata or str
            A name that is not registered is marked as external.
        task_type : str, optional
            By default the first task of a registered model.
        measure : callable, optional
            Of a decorated function: makes metrics of what it returned, or of the list of
            what it yielded.

        Raises
        ------
        RequirementError
            On an unknown task or what is no model, before the block is run.

        Examples
        --------
        >>> import tempfile
        >>> from ravenxterm_lab import ModelManager
        >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
        >>> with manager.track("my-model", task_type="text_generation") as run:
        ...     run.metrics["tokens_out"] = 12
        >>> manager.sql("SELECT model, tokens_out FROM executions").fetchall()
        [('my-model', 12)]
        >>> @manager.track("my-model", measure=lambda text: {"tokens_out": len(text.split())})
        ... def answer(question):
        ...     return "as short as that"
        >>> answer("why?")
        'as short as that'
        """
        check_model(model)
        if task_type is not None:
            normalize_task(task_type)
        return TrackedRun(
            lambda metrics: self.record_execution_metrics(model, metrics, task_type=task_type),
            measure,
        )

    def record_execution_metrics(
        self,
        model: ModelMetadata | str,
        metrics: Mapping[str, Any],
        *,
        task_type: str | None = None,
    ) -> ExecutionId | None:
        """Record one execution that happened elsewhere.

        Parameters
        ----------
        model : ModelMetadata or str
            A name that is not registered is accepted and marked as external.
        metrics : mapping
            Known keys: ``latency`` (s), ``throughput`` (tokens/s or items/s),
            ``memory_efficiency`` (0–1), ``success`` (bool), ``time_to_first_token`` (s),
            ``tokens_in``, ``tokens_out``, ``peak_memory`` (bytes), ``energy`` (J),
            ``quality`` (0–1), ``error`` (str). Any other key is kept and can be queried.
        task_type : str, optional
            By default the only or first task of the model.

        Returns
        -------
        ExecutionId or None
            None, with a message, when the store cannot be written.

        Raises
        ------
        MetricError
            On a bad value; nothing is written.
        """
        return record_metrics(self._bench, self.registry.candidates, model, metrics, task_type)
