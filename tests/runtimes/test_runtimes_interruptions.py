"""Interrupts, forks and orphans at the worst moment: nothing hangs, no one else suffers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ENGINES = """
import os, time
from ravenxterm_lab.runtimes.engine import Engine

class Calm(Engine):
    def prepare(self): pass
    def load(self, request): return {}
    def run(self, job): return {}, {}

class Forking(Calm):
    def prepare(self):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    def run(self, job): os._exit(9)
"""
INTERRUPTED_POOL = """
import signal, threading
from pathlib import Path
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.runtimes import ModelPool
from ravenxterm_lab.runtimes.fake import FakeRuntime

inside, go = threading.Event(), threading.Event()
def budget():  # the pool asks for it while it holds its lock
    if threading.current_thread().name == "other":
        inside.set()
        go.wait()
    return {"RAM": 10**6}
class Runtime(FakeRuntime):
    def load(self, model, options=None):
        loaded = super().load(model, options)
        if model.name == "a" and len(self.loads) == 1:
            other.start()
            inside.wait()
            main = threading.main_thread().ident
            threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
            threading.Timer(1.0, go.set).start()
        return loaded
def made(name):
    return ModelMetadata(name, ModelType.GGUF, Path(name), 100, fingerprint=name)
pool, runtime = ModelPool(budget=budget, estimate=lambda model, options: {"RAM": 100}), Runtime()
def use_b():
    with pool.acquire(runtime, made("b")):
        pass
other = threading.Thread(target=use_b, name="other")
try:
    with pool.acquire(runtime, made("a")):
        print("not interrupted")
except KeyboardInterrupt:
    print("interrupted")
other.join()
with pool.acquire(runtime, made("a")):
    print(runtime.loads, runtime.unloads)
"""
FORKED = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Python warns of forking with threads, which is what is tested
from ravenxterm_lab.runtimes.worker import WorkerProcess
worker = WorkerProcess("engines:Calm")
worker.receive(30)
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(worker.alive, os.path.isdir(worker.directory))
worker.kill()
"""
ORPHANED = """
from ravenxterm_lab.runtimes.worker import WorkerDiedError, WorkerProcess
worker = WorkerProcess("engines:Forking")
worker.receive(30)
worker.send({"op": "run", "id": 1})
try:
    worker.receive()
except WorkerDiedError:
    print("noticed")
worker.kill()
"""


def run(script: str, tmp_path: Path) -> str:
    """Run a script beside the engines; a hang fails by the generous limit."""
    (tmp_path / "engines.py").write_text(ENGINES)
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_interrupt_just_after_a_load_leaves_no_entry_that_loads_for_ever(tmp_path: Path) -> None:
    """The model is unloaded, and the next use loads it anew instead of waiting without end."""
    assert run(INTERRUPTED_POOL, tmp_path).splitlines() == [
        "interrupted",
        "['a', 'b', 'a'] ['a']",
    ]


def test_the_end_of_a_forked_child_leaves_its_parent_s_worker_alone(tmp_path: Path) -> None:
    """Worker and working directory are still there afterwards."""
    assert run(FORKED, tmp_path) == "True True"


def test_a_death_is_noticed_though_a_grandchild_holds_the_pipe(tmp_path: Path) -> None:
    """Waiting without a limit ends when the worker has ended."""
    assert run(ORPHANED, tmp_path) == "noticed"
