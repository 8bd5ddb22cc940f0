"""The contract inside a worker process: an engine, and the loop that serves it.

This is the child's side. `WorkerProcess` starts ``main`` in a fresh interpreter, in an
empty private directory, with the name of an `Engine` class to serve.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import queue
import shutil
import threading
import time
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind
from ravenxterm_lab.runtimes.process import limit_memory, peak_bytes, process_memory
from ravenxterm_lab.runtimes.protocol import ProtocolError, read_frame, write_frame
from ravenxterm_lab.runtimes.reports import MemoryUse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO, Protocol

    import numpy as np

    from ravenxterm_lab.runtimes.protocol import Frame

    class Send(Protocol):
        """Passes an answer on."""

        def __call__(
            self, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None
        ) -> None: ...


__all__ = [
    "DIRECTORY_VARIABLE",
    "BadInputError",
    "Engine",
    "EngineError",
    "Job",
    "Service",
    "main",
]

#: The worker's own directory, which it removes itself if its parent can no longer do so.
DIRECTORY_VARIABLE = "RAVENXTERM_WORKER_DIRECTORY"
BAD_INPUT = "bad_input"


class EngineError(Exception):
    """An engine failed; ``kind`` says how."""

    def __init__(self, message: str, kind: str = FailureKind.RUNTIME_ERROR) -> None:
        super().__init__(message)
        self.kind = str(kind)


class BadInputError(EngineError):
    """The engine is well, and the input is not: a `RequirementError` for the caller."""

    def __init__(self, message: str) -> None:
        super().__init__(message, BAD_INPUT)


class Job:
    """One request, while the engine works on it.

    Attributes
    ----------
    request : dict
        The JSON part.
    arrays : dict of str to numpy.ndarray
        The arrays that came with it.
    """

    def __init__(self, frame: Frame, stopped: Callable[[int], bool], send: Send) -> None:
        self.request: dict[str, Any] = frame.header
        self.arrays = frame.arrays
        self.first_token: float | None = None
        self._started = time.perf_counter()
        self._id = int(frame.header["id"])
        self._stopped = stopped
        self._send = send

    @property
    def cancelled(self) -> bool:
        """Whether the caller no longer wants the answer."""
        return self._stopped(self._id)

    def emit(self, text: str) -> None:
        """Note the time of the first text, and pass the text on if the caller streams."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self._started
        if self.request.get("stream") and text:
            self._send({"op": "token", "id": self._id, "text": text})


class Engine(ABC):
    """What a worker process serves: one engine, holding one model.

    ``prepare``, ``load`` and ``run`` are called in the worker's main thread, ``cancel`` in
    another one while ``run`` works.
    """

    @abstractmethod
    def prepare(self) -> None:
        """Import what is needed; the memory held afterwards is the idle state."""

    @abstractmethod
    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the model of ``request["path"]`` and return facts as JSON values."""

    @abstractmethod
    def run(self, job: Job) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
        """Work on one request and return JSON values and arrays."""

    def cancel(self) -> None:  # noqa: B027 - most engines look at job.cancelled themselves
        """Wake up a run that cannot look at ``job.cancelled`` by itself."""


class Service:
    """The loop around an engine: one request after the other, in the thread that serves.

    Parameters
    ----------
    engine : Engine
        What works on the requests.
    send : callable
        Takes the header of an answer and, optionally, its arrays.

    Attributes
    ----------
    work : SimpleQueue of Frame or None
        The requests; None ends the loop.
    cancelled_up_to : int
        The last request whose answer nobody wants.
    idle : MemoryUse
        What the process held before a model was loaded.
    """

    def __init__(self, engine: Engine, send: Send) -> None:
        self.engine = engine
        self.send = send
        self.work: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self.cancelled_up_to = 0
        self.idle = MemoryUse(0, 0)

    def stopped(self, number: int) -> bool:
        """Whether nobody wants the answer to a request any more."""
        return number <= self.cancelled_up_to

    def memory(self) -> dict[str, int]:
        """Return what the process holds, held when idle, and held at most (bytes)."""
        now = process_memory(os.getpid())
        return {
            "anonymous": now.anonymous_bytes,
            "file": now.file_bytes,
            "idle": self.idle.total,
            "idle_anonymous": self.idle.anonymous_bytes,
            "idle_file": self.idle.file_bytes,
            "peak": self.peak(now),
        }

    def peak(self, now: MemoryUse) -> int:
        """Return the most that the process held (bytes)."""
        del now
        return peak_bytes()

    def serve(self) -> None:
        """Prepare the engine and work until the queue says None."""
        self.engine.prepare()
        self.idle = process_memory(os.getpid())
        self.send({"op": "ready", "id": 0, "memory": self.memory()})
        while (frame := self.work.get()) is not None:
            number = int(frame.header["id"])
            try:
                header, arrays = self.answer(frame)
            except EngineError as error:
                header, arrays = {"op": "error", "kind": error.kind, "message": str(error)}, {}
            except MemoryError:
                kind = FailureKind.OUT_OF_MEMORY.value
                header, arrays = {"op": "error", "kind": kind, "message": "out of memory"}, {}
            except Exception as error:  # noqa: BLE001 - the worker must answer, whatever an engine raises
                traceback.print_exc()
                message = f"{type(error).__name__}: {error}"
                kind = FailureKind.RUNTIME_ERROR.value
                header, arrays = {"op": "error", "kind": kind, "message": message}, {}
            self.send({**header, "id": number, "memory": self.memory()}, arrays)

    def answer(self, frame: Frame) -> tuple[dict[str, Any], dict[str, Any]]:
        """Work on one request; an `EngineError` is its answer too."""
        if frame.op == "load":
            if (limit := frame.header.get("memory_limit")) is not None:
                limit_memory(limit, frame.header["threads"])
            return {"op": "loaded", "facts": self.engine.load(frame.header)}, {}
        if frame.op == "run":
            job = Job(frame, self.stopped, self.send)
            values, arrays = self.engine.run(job)
            values.setdefault("time_to_first_token", job.first_token)
            return {"op": "result", "values": values, "cancelled": job.cancelled}, arrays
        return {"op": "pong"}, {}


def _listen(service: Service, inbox: BinaryIO) -> None:
    try:
        while (frame := read_frame(inbox)) is not None:
            if frame.op == "cancel":
                service.cancelled_up_to = int(frame.header["id"])
                service.engine.cancel()
            elif frame.op == "exit":
                os._exit(0)
            else:
                service.work.put(frame)
    except ProtocolError:
        pass  # the parent died while it wrote
    # The parent is gone: nobody else can tidy up, and nobody waits for an answer.
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def _make_expendable() -> None:
    # The kernel shall pick this process, not the notebook's, when memory runs out; and a
    # crash shall not write gigabytes of core dump.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(engine_name: str) -> None:
    """Serve one engine on the standard streams until the parent goes away.

    Parameters
    ----------
    engine_name : str
        As ``"package.module:ClassName"``.
    """
    # Engines print: keep the protocol's descriptors to ourselves and point 0 and 1 elsewhere.
    inbox = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    _make_expendable()
    module, _, name = engine_name.partition(":")
    try:
        engine: Engine = getattr(importlib.import_module(module), name)()
        service = Service(engine, functools.partial(write_frame, out))
        threading.Thread(
            target=_listen, args=(service, inbox), name="worker-inbox", daemon=True
        ).start()
        service.serve()
    except (ImportError, AttributeError) as error:
        kind = FailureKind.MISSING_RUNTIME.value
        write_frame(out, {"op": "error", "id": 0, "kind": kind, "message": str(error)})
        os._exit(3)
    except BrokenPipeError:
        os._exit(0)
