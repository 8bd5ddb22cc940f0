"""The parent's side of a worker process: start it, talk to it, see it die, tidy up.

Three daemon threads move bytes, so that an interrupt in the caller's thread can never cut
a frame in two: one writes, one reads, one collects what the engine prints. None of them
holds the `WorkerProcess`, so dropping it ends the process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.runtimes.engine import DIRECTORY_VARIABLE
from ravenxterm_lab.runtimes.process import oom_kills, process_memory
from ravenxterm_lab.runtimes.protocol import ProtocolError, read_frame, write_frame
from ravenxterm_lab.runtimes.reports import MemoryUse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from ravenxterm_lab.runtimes.protocol import Frame

__all__ = ["WorkerDiedError", "WorkerProcess"]

# The child imports exactly what this process would, wherever the notebook was started.
_BOOT = (
    "import sys; name = sys.argv[1]; sys.path[:] = sys.argv[2:]; "
    "from ravenxterm_lab.runtimes.engine import main; main(name)"
)
_LOG_LINES = 2000
_EXIT_SECONDS = 3.0
_LOOK_SECONDS = 1.0


class WorkerDiedError(Exception):
    """The process has ended, and no frame will come from it any more."""


class _Log:
    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)
        self.changed = threading.Condition()

    def add(self, line: str) -> None:
        with self.changed:
            self.lines.append(line)
            self.changed.notify_all()


def _collect(stream: BinaryIO, log: _Log) -> None:
    with stream:
        for line in stream:
            log.add(line.decode("utf-8", errors="replace").rstrip())


def _write(stream: BinaryIO, outgoing: queue.SimpleQueue[Any]) -> None:
    try:
        while (item := outgoing.get()) is not None:
            write_frame(stream, *item)
    except OSError:
        pass  # the worker is gone; the reader notices and tells
    finally:
        with contextlib.suppress(OSError):
            stream.close()


def _read(
    process: subprocess.Popen[bytes],
    stream: BinaryIO,
    incoming: queue.SimpleQueue[Frame | None],
    outgoing: queue.SimpleQueue[Any],
) -> None:
    try:
        with stream:
            while (frame := read_frame(stream)) is not None:
                incoming.put(frame)
    except ProtocolError:
        process.kill()
    # Waiting here means that no zombie is left, even if nobody ever asks again.
    process.wait()
    outgoing.put(None)
    incoming.put(None)


def _end(
    process: subprocess.Popen[bytes], outgoing: queue.SimpleQueue[Any], place: str, owner: int
) -> None:
    if os.getpid() != owner:
        return  # a forked child ends: the worker and its directory are its parent's
    outgoing.put(None)
    process.kill()
    process.wait()
    shutil.rmtree(place, ignore_errors=True)


class WorkerProcess:
    """A fresh interpreter that serves one engine.

    Only the thread that holds the model's run lock may ``send`` and ``receive``; the other
    methods are safe from any thread.

    Parameters
    ----------
    engine : str
        The engine to serve, as ``"package.module:ClassName"``.
    environment : mapping of str to str, optional
        Added to this process's environment.

    Attributes
    ----------
    pid : int
        The process.
    directory : str
        Its private working directory (mode 0700), removed at the end.

    Raises
    ------
    RuntimeFailureError
        If the process or its directory cannot be made.
    """

    def __init__(self, engine: str, environment: Mapping[str, str] | None = None) -> None:
        try:
            self.directory = tempfile.mkdtemp(prefix="ravenxterm-")
        except OSError as error:
            raise RuntimeFailureError(
                f"A worker process needs a temporary directory, and none could be made: {error}. "
                "Point TMPDIR to a directory that can be written.",
                FailureKind.RUNTIME_ERROR,
            ) from error
        self._oom_kills = oom_kills()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LLAMA_", "GGML_"))}
        search = [str(Path(entry).absolute()) for entry in sys.path if entry]
        # Last, for a checkout that was found through the current directory.
        search.append(str(Path(__file__).resolve().parents[2]))
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, engine, *search],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self.directory,
                env={**inherited, **(environment or {}), DIRECTORY_VARIABLE: self.directory},
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise RuntimeFailureError(
                f"A worker process could not be started: {error}. Free some memory or raise the "
                "limit of processes.",
                FailureKind.OUT_OF_MEMORY
                if isinstance(error, BlockingIOError)
                else FailureKind.RUNTIME_ERROR,
            ) from error
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.pid = process.pid
        self._process = process
        self._log = _Log()
        self._incoming: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._finalizer = weakref.finalize(
            self, _end, process, self._outgoing, self.directory, os.getpid()
        )
        self._threads = [
            threading.Thread(target=target, args=args, name=f"worker-{self.pid}", daemon=True)
            for target, args in (
                (_read, (process, process.stdout, self._incoming, self._outgoing)),
                (_write, (process.stdin, self._outgoing)),
                (_collect, (process.stderr, self._log)),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def system_was_starved(self) -> bool:
        """Whether the kernel killed for want of memory since the start, or does not tell."""
        return self._oom_kills is None or oom_kills() != self._oom_kills

    def send(self, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
        """Queue one frame; returns at once, and is silent if the process has died."""
        self._outgoing.put((header, arrays))

    def receive(self, timeout: float | None = None) -> Frame:
        """Return the next frame.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.

        Raises
        ------
        TimeoutError
            If none came in that time.
        WorkerDiedError
            If the process has ended.
        """
        deadline = None if timeout is None else time.monotonic() + max(0.0, timeout)
        gone = False
        while True:
            left = _LOOK_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                frame = self._incoming.get(timeout=min(left, _LOOK_SECONDS))
            except queue.Empty:
                if left < _LOOK_SECONDS:
                    raise TimeoutError from None
                if not gone:
                    # Asked before a further wait: what a dead process wrote last still arrives
                    # during it. The end of its output does not, where a child of its own holds
                    # the pipe open.
                    gone = self._process.poll() is not None
                    continue
                frame = None
            if frame is None:
                self._incoming.put(None)
                # What it printed last says why it died.
                self._threads[2].join(1.0)
                raise WorkerDiedError
            return frame

    def log(self, lines: int | None = None) -> list[str]:
        """Return the last lines that the process printed; all that are kept, by default."""
        with self._log.changed:
            kept = list(self._log.lines)
        return kept if lines is None else kept[-lines:]

    def wait_for_log(self, text: str, timeout: float) -> bool:
        """Wait until a line with this text was printed: engines log in a thread of their own."""
        deadline = time.monotonic() + timeout
        with self._log.changed:
            while not any(text in line for line in self._log.lines):
                left = deadline - time.monotonic()
                if left <= 0 or not self._log.changed.wait(left):
                    return any(text in line for line in self._log.lines)
        return True

    def memory(self) -> MemoryUse:
        """Return the resident memory of the process (bytes); zero when it has ended."""
        return process_memory(self.pid) if self.alive else MemoryUse(0, 0)

    def kill(self) -> int:
        """End the process at once and return the resident bytes that came back."""
        held = self.memory().total
        self._finalizer()
        self._join()
        return self._back(held)

    def stop(self) -> int:
        """Ask the process to end, kill it if it does not, and return the bytes that came back."""
        held = self.memory().total
        self.send({"op": "exit", "id": 0})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        # Kills it if it still runs.
        self._finalizer()
        self._join()
        return self._back(held)

    def _back(self, held: int) -> int:
        # Looked at, not taken for granted: a process in the kernel's hands may linger.
        return max(0, held - process_memory(self.pid).total)

    def _join(self) -> None:
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)
