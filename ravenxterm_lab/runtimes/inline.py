"""An engine in this very process: what a worker is for, without the process.

It starts sooner and shares this process's libraries. In return nothing stands between an engine
and this process: a native crash ends both, no limit of memory can be set, what the engine prints
is not captured, and memory that it gives back may stay with the allocator.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import queue
import shutil
import tempfile
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import (
    ConfigurationError,
    FailureKind,
    RuntimeFailureError,
    did_you_mean,
)
from ravenxterm_lab.runtimes.engine import Service
from ravenxterm_lab.runtimes.process import process_memory
from ravenxterm_lab.runtimes.protocol import Frame
from ravenxterm_lab.runtimes.reports import MemoryUse
from ravenxterm_lab.runtimes.worker import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["IN_PROCESS_VARIABLE", "InlineWorker", "in_process"]

#: Names the runtimes whose models are loaded into this process, such as ``onnx,fasttext``.
IN_PROCESS_VARIABLE = "RAVENXTERM_IN_PROCESS"
#: How long a run may take to notice that its model is unloaded.
_STOP_SECONDS = 5.0


def in_process(name: str) -> bool:
    """Say whether ``RAVENXTERM_IN_PROCESS`` names a runtime.

    Parameters
    ----------
    name : str
        Of the runtime.

    Raises
    ------
    ConfigurationError
        If the variable names what is no runtime.
    """
    value = os.environ.get(IN_PROCESS_VARIABLE)
    return bool(value) and name in _named(value)


@functools.lru_cache(maxsize=8)
def _named(value: str) -> frozenset[str]:
    named = frozenset(part.strip() for part in value.split(",")) - {""}
    known = entry_points(group="ravenxterm_lab.runtimes").names
    strange = sorted(named - known)
    if strange:
        raise ConfigurationError(
            f"{IN_PROCESS_VARIABLE} names {strange[0]!r}; it takes {', '.join(sorted(known))}."
            f"{did_you_mean(strange[0], known)}"
        )
    return named


class _Service(Service):
    def peak(self, now: MemoryUse) -> int:
        # The most that this process ever held may be long ago, and of something else.
        return now.total


class InlineWorker:
    """Serves one engine in a thread of this process; the interface of `WorkerProcess`.

    Parameters
    ----------
    engine : str
        The engine to serve, as ``"package.module:ClassName"``.
    environment : mapping of str to str, optional
        Set in this process where it is not set yet.

    Attributes
    ----------
    pid : int
        This process.
    directory : str
        A private directory for the engine, removed at the end.

    Raises
    ------
    RuntimeFailureError
        If the directory cannot be made.
    """

    system_was_starved = False
    returncode = None

    def __init__(self, engine: str, environment: Mapping[str, str] | None = None) -> None:
        for name, value in (environment or {}).items():
            os.environ.setdefault(name, value)
        try:
            self.directory = tempfile.mkdtemp(prefix="ravenxterm-")
        except OSError as error:
            raise RuntimeFailureError(
                f"An engine needs a temporary directory, and none could be made: {error}. "
                "Point TMPDIR to a directory that can be written.",
                FailureKind.RUNTIME_ERROR,
            ) from error
        self.pid = os.getpid()
        self._held = MemoryUse(0, 0)
        self._answers: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._service: _Service | None = None
        self._ended = False
        self._thread = threading.Thread(
            target=self._serve, args=(engine,), name=f"engine-{engine.rpartition(':')[2]}",
            daemon=True,
        )  # fmt: skip
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()

    def _serve(self, name: str) -> None:
        module, _, kind = name.partition(":")
        try:
            engine = getattr(importlib.import_module(module), kind)()
            self._service = _Service(engine, self._answer)
            self._ready.set()
            self._service.serve()
        except (ImportError, AttributeError) as error:
            missing = FailureKind.MISSING_RUNTIME.value
            self._answer({"op": "error", "id": 0, "kind": missing, "message": str(error)})
        finally:
            self._ready.set()
            self._service = None
            self._ended = True
            self._answers.put(None)

    def _answer(self, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
        if header["op"] == "loaded":
            memory = header["memory"]
            self._held = MemoryUse(
                max(0, memory["anonymous"] - memory["idle_anonymous"]),
                max(0, memory["file"] - memory["idle_file"]),
            )
        self._answers.put(Frame(dict(header), arrays_cache=dict(arrays or {})))

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests."""
        return not self._ended

    def send(self, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
        """Queue one request; a cancellation is heeded at once."""
        service = self._service
        if service is None:
            return
        if header["op"] == "cancel":
            service.cancelled_up_to = int(header["id"])
            service.engine.cancel()
            return
        # As between processes: what the engine does to its input stays there.
        own = {name: array.copy() for name, array in (arrays or {}).items()}
        sent = {**header, "directory": self.directory, "quiet": True}
        service.work.put(Frame(sent, arrays_cache=own))

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the next answer.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.

        Raises
        ------
        TimeoutError
            If none came in that time.
        WorkerDiedError
            If the engine has ended.
        """
        try:
            frame = self._answers.get(timeout=None if timeout is None else max(0.0, timeout))
        except queue.Empty:
            raise TimeoutError from None
        if frame is None:
            self._answers.put(None)
            raise WorkerDiedError
        return frame

    def log(self, lines: int | None = None) -> list[str]:
        """Return nothing: what an engine prints in this process is not captured."""
        del lines
        return []

    def wait_for_log(self, text: str, timeout: float) -> bool:
        """Return at once: there is nothing to wait for."""
        del text, timeout
        return False

    def memory(self) -> MemoryUse:
        """Return what this process grew by in the load (bytes); zero when it has ended."""
        return self._held if self.alive else MemoryUse(0, 0)

    def kill(self) -> int:
        """End as `stop` does: a thread cannot be killed."""
        return self.stop()

    def stop(self) -> int:
        """End the engine, and return the bytes of this process that came back.

        A run in progress is cancelled. One that does not heed it within five seconds goes on
        in its thread, and its memory comes back when it ends.
        """
        before = process_memory(self.pid).total
        if (service := self._service) is not None:
            service.cancelled_up_to = 2**63
            with contextlib.suppress(Exception):
                service.engine.cancel()
            service.work.put(None)
            del service
        if self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)
        self._ended = True
        shutil.rmtree(self.directory, ignore_errors=True)
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            # glibc keeps freed memory until it is asked.
            ctypes.CDLL(None).malloc_trim(0)
        return max(0, before - process_memory(self.pid).total)
