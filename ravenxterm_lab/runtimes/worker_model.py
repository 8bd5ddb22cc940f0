"""A model that lives in a worker process: loading it there, and running it from here."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.runtimes.base import LoadedModel
from ravenxterm_lab.runtimes.engine import BAD_INPUT
from ravenxterm_lab.runtimes.failures import classify, describe_exit
from ravenxterm_lab.runtimes.inline import InlineWorker
from ravenxterm_lab.runtimes.inputs import check_timeout
from ravenxterm_lab.runtimes.process import limit_growth, usable_threads
from ravenxterm_lab.runtimes.reports import LoadReport, RunResult
from ravenxterm_lab.runtimes.worker import WorkerDiedError, WorkerProcess
from ravenxterm_lab.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes.base import LoadOptions, Runtime
    from ravenxterm_lab.runtimes.protocol import Frame
    from ravenxterm_lab.runtimes.reports import MemoryUse

__all__ = ["WorkerModel"]

_REPORTED_LINES = 60
#: How long an interrupted caller waits for the engine to stop, before it gets its prompt back.
_INTERRUPT_SECONDS = 0.5
#: How long the next run waits for an interrupted one to stop.
_DRAIN_SECONDS = 30.0


class _DeadlineError(Exception):
    """Our own deadline passed: told apart from a TimeoutError of the caller's on_token."""


class WorkerModel(LoadedModel):
    """A `LoadedModel` in a process of its own.

    Subclasses name the engine and translate inputs and results. The constructor loads.

    Parameters
    ----------
    runtime : Runtime
        Whose model this is.
    model : ModelMetadata
        What to load.
    options : LoadOptions
        How, with the context length resolved.

    Raises
    ------
    RuntimeFailureError
        If the engine cannot be started or cannot load the model; no process is left behind.
    """

    engine: str
    #: Text in the last line that the engine logs while it loads, where it logs in its own thread.
    log_end: str | None = None
    #: How long a timed-out run may take to stop, before its worker is killed and the model lost.
    stop_seconds = 5.0

    def __init__(self, runtime: Runtime, model: ModelMetadata, options: LoadOptions) -> None:
        self.model = model
        self.options = options
        self.runtime = runtime.name
        self._adapter = runtime
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._number = 0
        self._draining: int | None = None
        self._unloaded = False
        #: Whether the last request has its answer, so that there is nothing to cancel.
        self._settled = False
        started = time.perf_counter()
        self._threads = threads = options.threads or usable_threads()
        #: What it may take beyond what it held when that was last decided (bytes).
        self._allowed: int | None = None
        place = InlineWorker if options.in_process else WorkerProcess
        self._worker: WorkerProcess | InlineWorker = place(
            self.engine,
            {
                # Measured: with the default, waiting threads spin, and 38 tokens/s became 5
                # on two busy cores.
                "OMP_WAIT_POLICY": "PASSIVE",
                "OMP_NUM_THREADS": str(threads),
                "RAYON_NUM_THREADS": str(threads),
                "GGML_NO_BACKTRACE": "1",
                # ONNX Runtime reports to its maker since 1.29, and keeps a database for it in
                # the person's cache directory; this stops both (its pull request 27379).
                "ORT_DISABLE_TELEMETRY": "1",
            },
        )
        try:
            self._expect(0, "start")
            self._send(
                "load",
                path=str(model.path.absolute()),
                companions={path.name: str(path.absolute()) for path in model.companions},
                threads=threads,
                context_length=options.context_length,
                kv_type=options.kv_type,
                batch_size=options.batch_size,
                memory_limit=None if options.in_process else options.memory_limit,
            )
            reply = self._expect(self._number, "load")
        except BaseException:
            self._worker.kill()
            raise
        self._facts: dict[str, Any] = reply.header["facts"]
        self.report = self._make_report(reply.header["memory"], started)

    @abstractmethod
    def _translate(
        self, task: str, inputs: Any, parameters: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Check inputs and parameters, and return the request's JSON values and arrays."""

    @abstractmethod
    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        """Complete a result that has its latency and peak memory."""

    def _read_load_log(self, log: list[str]) -> dict[str, int]:
        """Learn what the engine logged about the load; return its buffers (bytes)."""
        del log
        return {}

    @property
    def alive(self) -> bool:
        """Whether it can still run."""
        return not self._unloaded and self._worker.alive

    @property
    def pid(self) -> int:
        """The process that holds it, for a monitor to look at."""
        return self._worker.pid

    def memory(self) -> MemoryUse:
        """Return what the worker process holds now."""
        return self._worker.memory()

    def limit_growth(self, extra: int) -> bool:
        """Limit the worker from outside, where the system can; see `LoadedModel.limit_growth`."""
        if self.options.in_process:
            return False
        enforced = limit_growth(self.pid, extra, self._threads)
        self._allowed = extra if enforced else None
        return enforced

    def log(self, lines: int = _REPORTED_LINES) -> str:
        """Return the last lines that the engine printed."""
        return "\n".join(self._worker.log(lines))

    def unload(self) -> int:
        """End the worker and return the bytes of resident memory that came back."""
        if self._unloaded:
            return 0
        self._unloaded = True
        # A run in progress will not be waited for: it fails, and says that it was unloaded.
        return self._worker.kill() if self._lock.locked() else self._worker.stop()

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
        values, arrays = self._translate(name, inputs, parameters)
        with self._turn(deadline):
            self._check_usable()
            self._drain()
            started = time.perf_counter()
            try:
                self._send("run", arrays, task=name, stream=on_token is not None, **values)
                reply = self._expect(self._number, "run", on_token, deadline)
            except _DeadlineError:
                raise self._timed_out(timeout, deadline) from None
            except BaseException:
                if self._settled:
                    raise
                # An interrupt, or an error in the caller's own on_token.
                self._cancel()
                # If it takes longer, the next run waits for it, or reports a death.
                with suppress(TimeoutError, WorkerDiedError):
                    self._await_pong(time.monotonic() + _INTERRUPT_SECONDS)
                raise
            latency = time.perf_counter() - started
        memory = reply.header["memory"]
        plain = RunResult("", latency, peak_memory=max(0, memory["peak"] - memory["idle"]))
        result = self._result(reply.header["values"], reply.arrays, plain)
        useful = self._useful_bytes(result)
        if useful and 0 < useful <= result.peak_memory:
            result = replace(result, memory_efficiency=useful / result.peak_memory)
        return result

    def _useful_bytes(self, result: RunResult) -> int | None:
        del result
        return sum(self.model.tensor_bytes.values()) or self.model.size_bytes or None

    @contextmanager
    def _turn(self, deadline: float | None) -> Iterator[None]:
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeFailureError(
                f"{self.model.name} is already running in this thread; on_token cannot start "
                "another run of the same model.",
                FailureKind.RUNTIME_ERROR,
            )
        wait = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._lock.acquire(timeout=wait):
            raise RuntimeFailureError(
                f"{self.model.name} was busy with another run until the timeout. Allow more time, "
                "or load it a second time.",
                FailureKind.TIMEOUT,
            )
        self._owner = me
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()

    def _send(self, op: str, arrays: Mapping[str, Any] | None = None, **values: Any) -> None:
        self._number += 1
        self._settled = False
        self._worker.send({"op": op, "id": self._number, **values}, arrays)

    def _expect(
        self,
        number: int,
        doing: str,
        on_token: Callable[[str], None] | None = None,
        deadline: float | None = None,
    ) -> Frame:
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise _DeadlineError
            try:
                frame = self._worker.receive(left)
            except TimeoutError:
                raise _DeadlineError from None
            except WorkerDiedError:
                self._settled = True
                raise self._died(doing) from None
            if frame.header.get("id") != number:
                continue  # left by a run that an interrupt ended between two of our lines
            if frame.op == "token":
                if on_token is not None:
                    on_token(frame.header["text"])
                continue
            self._settled = True
            if frame.op == "error":
                raise self._failure(frame, doing)
            return frame

    def _cancel(self) -> None:
        self._worker.send({"op": "cancel", "id": self._number})
        self._send("ping")
        self._draining = self._number

    def _await_pong(self, deadline: float) -> None:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if self._worker.receive(left).header.get("id") == self._draining:
                self._draining = None
                return

    def _drain(self) -> None:
        if self._draining is None:
            return
        try:
            self._await_pong(time.monotonic() + _DRAIN_SECONDS)
        except WorkerDiedError:
            raise self._died("run") from None
        except TimeoutError:
            self._worker.kill()
            raise RuntimeFailureError(
                f"{self.model.name} did not stop within {format_seconds(_DRAIN_SECONDS)} of its "
                "last run's interruption, so its worker was ended. Load it again.",
                FailureKind.TIMEOUT,
                self.log(),
            ) from None

    def _timed_out(self, timeout: float | None, deadline: float | None) -> RuntimeFailureError:
        self._cancel()
        try:
            self._await_pong((deadline or time.monotonic()) + self.stop_seconds)
            what = "The run was stopped and the model is still loaded"
        except WorkerDiedError:
            what = "Its worker ended"
        except TimeoutError:
            self._worker.kill()
            what = "It did not stop, so its worker was ended and the model must be loaded again"
        return RuntimeFailureError(
            f"{self.model.name} did not finish within {format_seconds(timeout)}. {what}. "
            "Allow more time, ask for fewer tokens, or take a smaller model.",
            FailureKind.TIMEOUT,
            self.log(),
        )

    def _check_usable(self) -> None:
        if self._unloaded:
            raise RuntimeFailureError(
                f"{self.model.name} was unloaded. Load it again to run it.",
                FailureKind.RUNTIME_ERROR,
            )
        if not self._worker.alive:
            raise self._died("run")

    def _died(self, doing: str) -> RuntimeFailureError:
        if self._unloaded:
            return RuntimeFailureError(
                f"{self.model.name} was unloaded while it ran.", FailureKind.RUNTIME_ERROR
            )
        log = self.log()
        kind, how = describe_exit(
            self._worker.returncode or 0, log, starved=self._worker.system_was_starved
        )
        self._worker.kill()
        remedy = (
            "Take a smaller model or context, or free memory"
            if kind is FailureKind.OUT_OF_MEMORY
            else "Load it again; this process was not harmed"
        )
        return RuntimeFailureError(
            f"{self.model.name}: the worker process of {self.runtime} {how} "
            f"during the {doing}. {remedy}.{self._limit(kind)}",
            kind,
            log,
        )

    def _failure(self, frame: Frame, doing: str) -> Exception:
        message, kind = str(frame.header["message"]), str(frame.header["kind"])
        if kind == BAD_INPUT:
            return RequirementError(f"{self.model.name}: {message}")
        if self.log_end is not None and doing == "load":
            self._worker.wait_for_log("exiting due to", 1.0)
        lines = self._worker.log(_REPORTED_LINES)
        return self._explain(message, FailureKind(kind), doing, lines)

    def _explain(
        self, message: str, kind: FailureKind, doing: str, log: list[str]
    ) -> RuntimeFailureError:
        if kind is FailureKind.RUNTIME_ERROR:
            kind = classify(message)
        verb = "loaded" if doing == "load" else "started" if doing == "start" else "run"
        return RuntimeFailureError(
            f"{self.model.name} could not be {verb} by {self.runtime}: "
            f"{message.rstrip('.')}. {_REMEDIES[kind]}{self._limit(kind)}",
            kind,
            "\n".join(log),
        )

    def _limit(self, kind: FailureKind) -> str:
        limit = self.options.memory_limit
        if kind is not FailureKind.OUT_OF_MEMORY:
            return ""
        if self._allowed is not None:
            return f" The budget left it {format_bytes(self._allowed)} more than it held."
        return "" if limit is None else f" The budget left it {format_bytes(limit)} of memory."

    def _make_report(self, memory: Mapping[str, int], started: float) -> LoadReport:
        if self.log_end is not None:
            self._worker.wait_for_log(self.log_end, 1.0)
        log = self._worker.log()
        version = self._adapter.version()
        return LoadReport(
            seconds=time.perf_counter() - started,
            memory_bytes=memory["anonymous"] + memory["file"] - memory["idle"],
            anonymous_bytes=memory["anonymous"] - memory["idle_anonymous"],
            file_bytes=memory["file"] - memory["idle_file"],
            buffers=self._read_load_log(log),
            context_length=int(self._facts.get("context_length") or 0),
            device=self.options.device,
            engine=f"{self._adapter.package} {version}" if version else self.runtime,
            log="\n".join(log[-_REPORTED_LINES:]),
        )


_REMEDIES = {
    FailureKind.OUT_OF_MEMORY: (
        "Take a smaller model, a shorter context or a quantised KV cache, or free memory."
    ),
    FailureKind.UNSUPPORTED: "Take another model, or update the runtime.",
    FailureKind.CORRUPT: "Fetch the file again; it is damaged or incomplete.",
    FailureKind.MISSING_RUNTIME: 'Install it with: pip install "ravenxterm-lab[runtimes]"',
    FailureKind.RUNTIME_ERROR: "The engine's own words are in the error's .log.",
    FailureKind.TIMEOUT: "Allow more time.",
}
