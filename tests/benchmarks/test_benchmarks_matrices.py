"""The benchmark of the solves runs, and prints a line for each way, idle and busy."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "bench_matrices.py"


def test_each_way_is_measured_idle_and_busy() -> None:
    """Two sizes, four ways, twice."""
    done = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, "--rows", "3", "60", "--repeat", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 16
    for cores in (0, os.cpu_count()):
        for way in ("numpy.linalg.inv", "solve_covariance", "draws @ matrix", "product"):
            assert f"{cores} busy cores,   60 rows, {way}" in done.stdout
