"""`raven-lab bench`, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def raven(home: Path, demo_directory: Path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ravenxterm_lab.cli", "bench", *words,
             "--models-dir", str(demo_directory / "all-minilm-l6-v2-int8")],
            capture_output=True, text=True, check=False,
            env={**os.environ, "RAVENXTERM_HOME": str(home)},
        )  # fmt: skip

    return run


@pytest.mark.models
def test_a_benchmark_prints_its_numbers(raven) -> None:
    """With --json all of them, without it the card; a mistake is one line and status 1."""
    done = raven("embedding", "-i", "a cat", "-i", "a dog", "--repeats", "2", "--quality", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (model,) = told["models"]
    assert model["latency_n"] == 4
    assert model["quality_n"] == 20
    assert model["quality"] > 0.5
    assert len(told["runs"]) == 2 * 3 + 20
    shown = raven("embedding", "-i", "a cat", "--repeats", "1")
    assert "all-minilm-l6-v2-int8" in shown.stdout
    wrong = raven("embedding", "-m", "nobody")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("raven-lab: No model is called 'nobody'")
