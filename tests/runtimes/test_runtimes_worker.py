"""Worker processes: crashes, interrupts, silence, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions, RunResult, usable_threads
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.process import oom_kills
from ravenxterm_lab.runtimes.worker import WorkerProcess
from ravenxterm_lab.runtimes.worker_model import WorkerModel

if TYPE_CHECKING:
    from collections.abc import Callable

ENGINE = """
import os, sys, time
from ravenxterm_lab.runtimes.engine import Engine

class TestEngine(Engine):
    def prepare(self):
        print("chatter on sys.stdout", flush=True)
        os.write(1, b"chatter on descriptor 1\\n")

    def load(self, request):
        if "refuse" in request["path"]:
            raise MemoryError
        return {}

    def run(self, job):
        action = job.request["action"]
        print("working on", action, file=sys.stderr, flush=True)
        if action == "abort":
            os.abort()
        if action == "raise":
            raise ZeroDivisionError("by design")
        while action == "loop" and not job.cancelled:
            time.sleep(0.01)
        while action == "hang":
            time.sleep(0.01)
        return {"cwd": os.getcwd(), "stdin": sys.stdin.read()}, job.arrays
"""


class _Model(WorkerModel):
    engine = "engine_for_tests:TestEngine"
    stop_seconds = 0.1

    def _translate(
        self, task: str, inputs: Any, parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"action": inputs}, {}

    def _result(
        self, values: dict[str, Any], arrays: dict[str, Any], result: RunResult
    ) -> RunResult:
        self.values = values
        return result


def killed() -> FailureKind:
    """Return what a kill -9 is taken for: a lack of memory only where nothing tells better."""
    return FailureKind.OUT_OF_MEMORY if oom_kills() is None else FailureKind.RUNTIME_ERROR


def eventually(happened: Callable[[], bool]) -> bool:
    """Wait, far longer than a busy machine needs, for something that must happen."""
    deadline = time.monotonic() + 30
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], _Model]:
    (tmp_path / "engine_for_tests.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)

    def load(name: str = "m") -> _Model:
        model = ModelMetadata(name, ModelType.GGUF, tmp_path / name, 1)
        return _Model(FakeRuntime(), model, LoadOptions())

    return load


def test_chatter_cannot_disturb_the_protocol(load: Callable[..., _Model]) -> None:
    """What an engine prints, on either stream, ends in the log and nowhere else."""
    with load() as model:
        model.run("ocr", "work")
        assert eventually(lambda: "working on work" in model.log())
        assert "chatter on sys.stdout" in model.log()
        assert "chatter on descriptor 1" in model.log()
        assert model.values["stdin"] == ""
        # Out of reach of an interrupt that Jupyter sends to its kernel's process group.
        assert os.getpgid(model.pid) != os.getpgrp()
        # In a directory of its own, so that a stray module there cannot be imported.
        assert model.values["cwd"] != str(Path.cwd())


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_crash_is_a_failure_and_not_ours(load: Callable[..., _Model]) -> None:
    """A worker that aborts gives RUNTIME_ERROR with the signal, and leaves nothing behind."""
    model = load()
    directory = model._worker.directory
    with pytest.raises(RuntimeFailureError, match="crashed with SIGABRT") as caught:
        model.run("ocr", "abort")
    assert caught.value.kind is FailureKind.RUNTIME_ERROR
    assert "working on abort" in caught.value.log
    assert not model.alive
    assert not psutil.pid_exists(model.pid)
    assert not Path(directory).exists()
    with pytest.raises(RuntimeFailureError, match="SIGABRT"):
        model.run("ocr", "work")
    assert model.unload() == 0


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_death_while_idle_leaves_no_zombie(load: Callable[..., _Model]) -> None:
    """A worker killed while nobody looks is reaped, and the next run says what happened."""
    model = load()
    os.kill(model.pid, signal.SIGKILL)
    assert eventually(lambda: not psutil.pid_exists(model.pid))
    assert not model.alive
    with pytest.raises(RuntimeFailureError, match="killed by SIGKILL") as caught:
        model.run("ocr", "work")
    assert caught.value.kind is killed()


def test_an_exception_in_the_engine_is_told(load: Callable[..., _Model]) -> None:
    """A Python exception keeps the worker, and its words are in the message."""
    with load() as model:
        with pytest.raises(RuntimeFailureError, match="ZeroDivisionError: by design"):
            model.run("ocr", "raise")
        assert model.alive
        model.run("ocr", "work")


def test_running_out_of_memory_is_classified(load: Callable[..., _Model]) -> None:
    """A MemoryError in the engine is OUT_OF_MEMORY."""
    with pytest.raises(RuntimeFailureError, match="Take a smaller model") as caught:
        load("refuse")
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY


def test_a_run_that_will_not_stop_costs_the_worker(load: Callable[..., _Model]) -> None:
    """A timeout ends the worker if the engine does not listen, and the message says so."""
    model = load()
    with pytest.raises(RuntimeFailureError, match="must be loaded again") as caught:
        model.run("ocr", "hang", timeout=0.1)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert not model.alive
    assert not psutil.pid_exists(model.pid)


def test_runs_take_turns(load: Callable[..., _Model]) -> None:
    """While one thread runs, another waits, and gives up at its own timeout."""
    with load() as model:
        failures: list[RuntimeFailureError] = []

        def first() -> None:
            try:
                model.run("ocr", "loop")
            except RuntimeFailureError as error:
                failures.append(error)

        thread = threading.Thread(target=first)
        thread.start()
        assert eventually(model._lock.locked)
        with pytest.raises(RuntimeFailureError, match="was busy") as caught:
            model.run("ocr", "work", timeout=0.1)
        assert caught.value.kind is FailureKind.TIMEOUT
        model.unload()
        thread.join(30)
        assert [str(error) for error in failures] == ["m was unloaded while it ran."]


def test_a_dropped_model_ends_its_worker(load: Callable[..., _Model]) -> None:
    """Losing the last reference to a model ends its process and removes its directory."""
    import gc

    model = load()
    pid, directory = model.pid, Path(model._worker.directory)
    assert directory.stat().st_mode & 0o077 == 0
    del model
    gc.collect()
    assert eventually(lambda: not psutil.pid_exists(pid))
    assert not directory.exists()


def test_an_engine_that_cannot_be_imported_is_missing(tmp_path: Path) -> None:
    """An engine whose package is not there is MISSING_RUNTIME."""

    class Lost(_Model):
        engine = "a_package_that_nobody_has:Engine"

    model = ModelMetadata("m", ModelType.GGUF, tmp_path / "m", 1)
    with pytest.raises(RuntimeFailureError, match="a_package_that_nobody_has") as caught:
        Lost(FakeRuntime(), model, LoadOptions())
    assert caught.value.kind is FailureKind.MISSING_RUNTIME


def test_no_temporary_directory_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot have its directory says what to do."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    with pytest.raises(RuntimeFailureError, match="TMPDIR"):
        WorkerProcess("any:Engine")


def test_threads_stay_within_the_affinity() -> None:
    """At least one thread, and never more than this process may use."""
    assert 1 <= usable_threads() <= len(os.sched_getaffinity(0))


# With a real engine ---------------------------------------------------------------------------

SCRIPT_HEAD = """
import json, os, sys, time
from pathlib import Path
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
model = ModelMetadata("smollm2", ModelType.GGUF, Path(sys.argv[1]), 1)
options = LoadOptions(context_length=512, threads=1)
"""


def start(script: str, model: ModelMetadata, tmp_path: Path) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT_HEAD + script)
    return subprocess.Popen(
        [sys.executable, str(path), str(model.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )


@pytest.mark.models
@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGKILL, killed(), "killed by SIGKILL"),
        (signal.SIGSEGV, FailureKind.RUNTIME_ERROR, "crashed with SIGSEGV"),
    ],
)
def test_a_worker_killed_in_mid_generation(
    smollm2: ModelMetadata, number: int, kind: FailureKind, words: str
) -> None:
    """The failure is classified, no zombie is left, and the model can be loaded again."""
    runtime, options = LlamaCppRuntime(), LoadOptions(context_length=512, threads=1)
    model = runtime.load(smollm2, options)
    pid = model.pid  # type: ignore[attr-defined]
    with pytest.raises(RuntimeFailureError, match=words) as caught:
        model.run(
            "text_generation", ["Tell me a story."] * 50, on_token=lambda _: os.kill(pid, number)
        )
    assert caught.value.kind is kind
    assert not model.alive
    assert not psutil.pid_exists(pid)
    with runtime.load(smollm2, options) as again:
        assert again.run("text_generation", "Hi", parameters={"max_tokens": 1}).tokens_out == 1


@pytest.mark.models
def test_an_interrupt_stops_the_generation_and_keeps_the_model(
    smollm2: ModelMetadata, tmp_path: Path
) -> None:
    """A real SIGINT raises KeyboardInterrupt in run(), and the same worker answers next."""
    script = """
loaded = LlamaCppRuntime().load(model, options)
def first(text, seen=[]):
    if not seen:
        seen.append(1)
        print("started", flush=True)
try:
    loaded.run("text_generation", ["Tell me a long story."] * 500, on_token=first)
    print("not interrupted")
except KeyboardInterrupt:
    answer = loaded.run("text_generation", "Hi", parameters={"max_tokens": 3})
    print(json.dumps({"alive": loaded.alive, "tokens": answer.tokens_out}))
loaded.unload()
"""
    with start(script, smollm2, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        # As Jupyter and a terminal do it: to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert json.loads(rest) == {"alive": True, "tokens": 3}
    assert errors == ""


@pytest.mark.models
def test_a_worker_ends_with_its_parent(smollm2: ModelMetadata, tmp_path: Path) -> None:
    """After kill -9 of the parent, the worker ends and its directory is gone."""
    script = """
loaded = LlamaCppRuntime().load(model, options)
print(loaded.pid, flush=True)
time.sleep(600)
"""
    with start(script, smollm2, tmp_path) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        directory = Path(worker.cwd())
        process.kill()
        process.communicate()
    assert eventually(lambda: not worker.is_running() or worker.status() == "zombie")
    assert eventually(lambda: not directory.exists())


@pytest.mark.models
def test_nothing_is_printed_and_nothing_left(smollm2: ModelMetadata, tmp_path: Path) -> None:
    """Load, run, a failed load and an exit without unload print nothing and leave no file."""
    script = """
from dataclasses import replace
Path("broken.gguf").write_bytes(b"GGUF" + bytes(100))
try:
    LlamaCppRuntime().load(replace(model, path=Path("broken.gguf")))
except Exception as error:
    assert error.kind == "corrupt", error
loaded = LlamaCppRuntime().load(model, options)
loaded.run("text_generation", "Hi", parameters={"max_tokens": 3})
Path("pid").write_text(str(loaded.pid))
"""
    with start(script, smollm2, tmp_path) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"script.py", "broken.gguf", "pid"}


@pytest.mark.models
def test_memory_comes_back(smollm2: ModelMetadata) -> None:
    """Loading does not grow this process, and after the unload the worker is gone."""
    me = psutil.Process()
    before = me.memory_info().rss
    loaded = LlamaCppRuntime().load(smollm2, LoadOptions(context_length=2048, threads=1))
    pid = loaded.pid  # type: ignore[attr-defined]
    held = psutil.Process(pid).memory_info().rss
    assert held > smollm2.size_bytes
    assert loaded.unload() == pytest.approx(held, rel=0.1)
    assert not psutil.pid_exists(pid)
    assert me.memory_info().rss - before < 16 * 1024 * 1024


def test_importing_the_room_imports_no_engine() -> None:
    """The room and its adapters load neither an engine nor NumPy nor pandas."""
    code = (
        "import sys; from ravenxterm_lab.runtimes import installed_runtimes; installed_runtimes();"
        "print(sorted({'numpy','pandas','polars','pyarrow','xllamacpp','onnxruntime',"
        "'tokenizers','IPython'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.sub(r"\s", "", done.stdout) == "[]"
