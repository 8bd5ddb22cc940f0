"""Interrupting a streaming cell in a real Jupyter kernel: the prompt is back, the model stays."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

jupyter_client = pytest.importorskip("jupyter_client", reason="needs the lab extra")

pytestmark = pytest.mark.models

PROMPTS = 200
SETUP = """
import json
from ravenxterm_lab import ModelManager
manager = ModelManager({models!r}, seed=0)
wanted = {{"quantizations": ["Q4_1"]}}
def reliability():
    ranked = manager.get_model_recommendations("text_generation", wanted)
    return [item.reliability for item in ranked]
first = manager.run("text_generation", "Tell me a story.", wanted, parameters={{"max_tokens": 16}})
print(json.dumps({{"latency": first.result.latency, "reliability": reliability()}}))
"""
STREAM = """
manager.run(
    "text_generation", ["Tell me a long story."] * {prompts}, wanted,
    parameters={{"max_tokens": 128}}, on_token=lambda text: print(text, end="", flush=True),
)
print("NOT INTERRUPTED")
"""
NEXT = """
judged = reliability()
rows = manager.sql("SELECT success, extra->>'failure' FROM executions ORDER BY ts").fetchall()
after = manager.run("text_generation", "Hello.", wanted, parameters={"max_tokens": 4})
print(json.dumps({"reliability": judged, "rows": rows, "cold": after.cold,
                  "tokens": after.result.tokens_out}))
"""


class Kernel:
    """A real kernel over sockets in a private directory."""

    def __init__(self, scratch: Path) -> None:
        environment = {
            **os.environ,
            "RAVENXTERM_HOME": str(scratch / "home"),
            "IPYTHONDIR": str(scratch / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        }
        self.manager = jupyter_client.KernelManager(
            kernel_name="python3", transport="ipc", ip=str(scratch / "kernel")
        )
        self.manager.start_kernel(env=environment, cwd=str(scratch))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def messages(self, code: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run a cell and yield what it sends, until the kernel is idle again."""
        cell = self.client.execute(code)
        while True:
            message = self.client.get_iopub_msg(timeout=120)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return
            yield kind, content

    def answer(self, code: str) -> Any:
        """Run a cell that prints JSON, and return it; any error fails."""
        said = ""
        for kind, content in self.messages(code):
            assert kind != "error", "\n".join(content["traceback"])
            if kind == "stream":
                assert content["name"] == "stdout", content["text"]
                said += content["text"]
        return json.loads(said)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory whose name is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="rvik"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


# jupyter_client leaves its event loops and sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_cell_returns_and_its_model_stays(scratch: Path, real_models: Path) -> None:
    """KeyboardInterrupt is shown, the next cell runs the resident model, and nobody is blamed."""
    with contextlib.ExitStack() as stack:
        kernel = Kernel(scratch)
        stack.callback(kernel.close)
        before = kernel.answer(SETUP.format(models=str(real_models)))
        texts, sent, shown, error = 0, 0.0, 0.0, {}
        for kind, content in kernel.messages(STREAM.format(prompts=PROMPTS)):
            if kind == "stream":
                assert "NOT INTERRUPTED" not in content["text"]
                texts += 1
                if texts == 5:
                    sent = time.monotonic()
                    kernel.manager.interrupt_kernel()
            elif kind == "error":
                shown, error = time.monotonic(), content
        took, whole = shown - sent, before["latency"] * PROMPTS
        print(f"\nKeyboardInterrupt shown {took:.2f} s after the interrupt of about {whole:.0f} s")
        assert error.get("ename") == "KeyboardInterrupt"
        assert took < whole / 4
        after = kernel.answer(NEXT)
        assert after["rows"] == [[True, None], [False, "interrupted"]]
        assert after["reliability"] == before["reliability"]
        assert (after["cold"], after["tokens"]) == (False, 4)
    del kernel
    gc.collect()
