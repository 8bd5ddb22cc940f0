"""Real processes that fail: each gives its kind, a message, the next best answer, a live kernel."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ravenxterm_lab.exceptions import FailureKind, NoSuitableModelError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, Runtime
from ravenxterm_lab.runtimes.budgets import RAM
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime
from ravenxterm_lab.runtimes.onnx import OnnxRuntime

pytestmark = pytest.mark.models
MIB = 2**20
TASK = "text_generation"
QUESTION = "What is the capital of France? Answer with one word."
SHORT = {"max_tokens": 8, "temperature": 0.0}
Q4_1 = {"quantizations": ["Q4_1"]}


@pytest.fixture
def pools() -> Iterator[list[ModelManager]]:
    """Managers to close at the end."""
    made: list[ModelManager] = []
    yield made
    for manager in made:
        manager.pool.close()
        manager.store.close()


def told(manager: ModelManager) -> str:
    return "\n".join(message.text for message in manager.messages)


def llama_workers() -> set[int]:
    """Return the processes that serve llama.cpp; other tests' models may still be in memory."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("LlamaEngine" in word for word in child.cmdline()):
                found.add(child.pid)
    return found


def test_a_worker_killed_in_mid_generation_is_replaced(manager: ModelManager) -> None:
    """After kill -9 at the first token, the same model answers from a new worker."""
    killed: set[int] = set()
    others = llama_workers()

    def kill_once(_: str) -> None:
        if not killed:
            killed.update(llama_workers() - others)
            (worker,) = killed
            os.kill(worker, signal.SIGKILL)

    run = manager.run(TASK, QUESTION, Q4_1, parameters=SHORT, on_token=kill_once)
    assert "Paris" in run.output
    first, second = run.attempts
    assert first.failure in {FailureKind.RUNTIME_ERROR, FailureKind.OUT_OF_MEMORY}
    assert second.failure is None
    assert run.cold
    assert "killed by SIGKILL" in told(manager)
    kept = manager.sql("SELECT success, extra->>'failure' FROM executions ORDER BY seq").fetchall()
    assert kept == [(False, str(first.failure)), (True, None)]
    assert not manager.run(TASK, QUESTION, Q4_1, parameters=SHORT).cold


class Tight(LlamaCppRuntime):
    """The real runtime, with less memory for its worker than the budget would leave it."""

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        assert options is not None
        return super().load(model, replace(options, memory_limit=40 * MIB))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_worker_out_of_its_memory_is_replaced_by_a_smaller_one(
    real_models: Path, home: Path, profile: HardwareProfile, pools: list[ModelManager]
) -> None:
    """The real engine meets the real limit at 4096 tokens, and answers with fewer."""
    bench = Workbench(home, hardware=profile, runtimes=[Tight()])
    made = ModelManager(real_models, workbench=bench, seed=0)
    pools.append(made)
    run = made.run(TASK, QUESTION, Q4_1, parameters=SHORT)
    assert "Paris" in run.output
    assert run.attempts[0].failure is FailureKind.OUT_OF_MEMORY
    assert run.attempts[0].step == "as asked"
    assert run.attempts[-1].step.startswith("context ")
    assert "The budget left it 40.0 MiB" in told(made)
    planned = [step.change for step in made.plan(TASK, QUESTION, Q4_1, parameters=SHORT)]
    tried = [attempt.step for attempt in run.attempts]
    assert tried == planned[: len(tried)]
    failed = made.sql("SELECT failure FROM loads WHERE NOT success").fetchall()
    assert set(failed) == {("out_of_memory",)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_run_beyond_the_budget_is_stopped_by_the_system(
    real_models: Path, home: Path, profile: HardwareProfile, pools: list[ModelManager]
) -> None:
    """A batch that would take far more than the budget fails, and a small one works after it."""
    made = ModelManager(
        real_models,
        workbench=Workbench(home, hardware=profile, runtimes=[OnnxRuntime()]),
    )
    pools.append(made)
    budget = 400 * MIB
    made.update_preferences(max_memory_usage=max(budget / profile.total_memory, 0.05))
    # A share cannot be below 5%: the pool is told the budget itself.
    made.pool._budget = lambda: {RAM: budget}
    with pytest.raises(NoSuitableModelError, match="out_of_memory"):
        made.run("embedding", ["one two three " * 300] * 32)
    assert made.run("embedding", "one two three").output.shape == (1, 384)
    assert sum(item.memory.total for item in made.pool.resident()) < budget * 1.05


def damaged(source: Path, target: Path) -> None:
    """Copy a GGUF file whose header reads well and whose tokenizer nobody knows."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        head = file.read(1 << 20)
        file.seek(head.index(b"tokenizer.ggml.model") + len(b"tokenizer.ggml.model") + 4 + 8)
        file.write(b"xxxx")


def test_a_damaged_file_is_tried_once_and_the_next_model_answers(
    manager: ModelManager, real_models: Path
) -> None:
    """No smaller setting of a damaged file is tried."""
    good = real_models / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    damaged(good, good.with_name("Broken.Q4_1.gguf"))
    manager.scan()
    manager.update_preferences(model_weights={"Broken.Q4_1": 50.0})
    run = manager.run(TASK, QUESTION, Q4_1, parameters=SHORT)
    assert "Paris" in run.output
    assert [item.model for item in run.attempts] == ["Broken.Q4_1", good.stem]
    assert run.attempts[0].failure in {FailureKind.CORRUPT, FailureKind.UNSUPPORTED}
    assert f"Trying {good.stem} (as asked) next." in told(manager)


def test_a_runtime_that_cannot_be_imported_gives_way_to_another(
    real_models: Path,
    home: Path,
    profile: HardwareProfile,
    pools: list[ModelManager],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real worker whose engine does not import is MISSING_RUNTIME, told with the remedy."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "xllamacpp.py").write_text("raise ImportError('libfoo.so is missing')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    other = FakeRuntime("other", model_types=[ModelType.ONNX], outputs=["Paris, they say"])
    runtimes: list[Runtime] = [LlamaCppRuntime(), other]
    made = ModelManager(
        real_models, workbench=Workbench(home, hardware=profile, runtimes=runtimes), seed=0
    )
    pools.append(made)
    with pytest.raises(NoSuitableModelError, match="libfoo") as caught:
        made.run(TASK, QUESTION, parameters=SHORT)
    generators = {name for name in made.registry.available_models if "SmolLM2" in name}
    rows = made.sql("SELECT model, extra->>'failure' FROM executions").fetchall()
    assert [failure for _, failure in rows] == ["missing_runtime"]
    skipped = generators - {rows[0][0]}
    assert skipped
    assert all("llama_cpp is missing" in caught.value.reasons[name] for name in skipped)
    assert 'pip install "ravenxterm-lab[runtimes]"' in told(made)
    # Other work of this process goes on.
    assert made.run("embedding", "hello").recommendation.model.runtimes == ("other",)


WORK = """
import json, sys
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
profile = HardwareProfile.detect(measure_bandwidth=False)
manager = ModelManager(sys.argv[1], workbench=Workbench(sys.argv[2], hardware=profile), seed=0)
runs = [
    manager.run("text_generation", sys.argv[3], {"quantizations": ["Q4_1"]},
                parameters={"max_tokens": 8, "temperature": 0.0})
    for _ in range(2)
]
print(json.dumps({
    "outputs": [run.output for run in runs], "cold": [run.cold for run in runs],
    "recorded": [run.execution is not None for run in runs],
    "messages": [message.text for message in manager.messages],
}))
"""


def test_a_full_disk_costs_the_record_and_not_the_answer(real_models: Path, tmp_path: Path) -> None:
    """With a home that is full, models load and answer, and a message says what is not kept."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root and unshare")
    home = tmp_path / "disk"
    home.mkdir()
    (tmp_path / "work.py").write_text(WORK)
    command = (
        f"mount -t tmpfs -o size=64k none {home} && "
        f"'{sys.executable}' {tmp_path / 'work.py'} {real_models} {home} '{QUESTION}'"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    if "mount" in done.stderr and done.returncode == 32:
        pytest.skip("mounting is not permitted here")
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert all("Paris" in text for text in out["outputs"])
    assert out["cold"] == [True, False]
    assert out["recorded"] == [False, False]
    assert any("No space left" in text for text in out["messages"])
