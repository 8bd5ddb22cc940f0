"""A home that is read-only or full: messages, no lost work, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

WORK = """
import json, sys
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
profile = HardwareProfile.detect(measure_bandwidth=False)
manager = ModelManager(sys.argv[1], workbench=Workbench(sys.argv[2], hardware=profile))
models = len(manager.registry)
manager.update_preferences(performance_mode="speed")
recorded = manager.record_execution_metrics("m", {"latency": 1.0})
ranked = manager.get_model_recommendations("embedding")
print(json.dumps({
    "models": models, "recorded": recorded is not None, "rejected": len(ranked.rejected),
    "mode": manager.preferences.performance_mode, "messages": [m.text for m in manager.messages],
    "rows": manager.sql("FROM executions").rows,
}))
"""


def on_a_disk(options: str, tmp_path: Path) -> dict[str, object]:
    """Run the work with its home on a small file system of its own; return what it printed."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root and unshare")
    models = tmp_path / "models" / "tiny"
    models.mkdir(parents=True)
    save_file({"w": np.zeros((4, 4), np.float32)}, models / "model.safetensors")
    home = tmp_path / "disk"
    home.mkdir()
    script = tmp_path / "work.py"
    script.write_text(WORK)
    command = (
        f"mount -t tmpfs -o {options} none {home} && "
        f"'{sys.executable}' {script} {models.parent} {home}"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, check=False
    )
    if "mount" in done.stderr and done.returncode == 32:
        pytest.skip("mounting is not permitted here")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", "Read-only"), ("size=64k", "No space left")], ids=["ro", "full"]
)
def test_work_goes_on_and_the_reason_is_told(options: str, reason: str, tmp_path: Path) -> None:
    """Models are found and ranked, preferences hold, and the messages name place and remedy."""
    out = on_a_disk(options, tmp_path)
    assert (out["models"], out["rejected"]) == (1, 1)
    assert out["mode"] == "speed"
    assert out["recorded"] is False
    assert out["rows"] == 0
    told = [text for text in out["messages"] if reason in text]
    assert told
    assert any("disk" in text for text in told)


def test_an_unreadable_directory_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """Without the right to override permissions, a closed directory is named, the rest found."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to give up the override of permissions")
    models = tmp_path / "models"
    for name in ("open", "closed"):
        (models / name).mkdir(parents=True)
        save_file({"w": np.zeros((4, 4), np.float32)}, models / name / "model.safetensors")
    (models / "closed").chmod(0o000)
    script = (
        "import json, sys\n"
        "from ravenxterm_lab.config import paths\n"
        "from ravenxterm_lab.discovery import discover, sources_for\n"
        "found = discover(sources_for(sys.argv[1], paths()))\n"
        "print(json.dumps([list(found.models), [[str(s.path), s.reason] for s in found.skipped]]))"
    )
    drop = "--bounding-set=-dac_override,-dac_read_search"
    done = subprocess.run(
        ["setpriv", drop, sys.executable, "-c", script, str(models)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, skipped = json.loads(done.stdout)
    assert names == ["open"]
    assert any("closed" in path and "ermission" in reason for path, reason in skipped)
