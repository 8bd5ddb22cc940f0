"""Every benchmark still runs, on sizes that say nothing about speed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
#: Arguments that make each quick, and what its output has to hold.
TINY = {
    "bench_classify.py": (["--help"], ["usage"]),
    "bench_eviction.py": (["--help"], ["usage"]),
    "bench_history.py": (
        ["--rows", "5000", "--repeat", "1"],
        ["model_stats", "the latest 20", "SQLite"],
    ),
    "bench_import.py": (["--help"], ["usage"]),
    "bench_ingest.py": (["--rows", "2000", "--rounds", "1"], ["ingest from the spool", "bulk"]),
    "bench_interaction.py": (["--help"], ["usage"]),
    "bench_matrices.py": (["--help"], ["usage"]),
    "bench_memory.py": (["--help"], ["usage"]),
    "bench_overhead.py": (["--help"], ["usage"]),
    "bench_readers.py": (["--help"], ["usage"]),
    "bench_record.py": (
        ["--events", "200", "--rounds", "1"],
        ["list.append", "record() + 2 extras", "MLflow"],
    ),
    "bench_scan.py": (
        ["--repositories", "3", "--models", "4", "--repeat", "1"],
        [
            "os.scandir and stat",
            "huggingface_hub.scan_cache_dir",
            "new process, from that",
            "4 models",
        ],
    ),
    "bench_monitor.py": (["--seconds", "0.5"], ["psutil", "monitor+store", "10 Hz"]),
    "bench_speed.py": (["--help"], ["usage"]),
    "bench_vad_quantization.py": (["--help"], ["usage"]),
    "bench_selection_speed.py": (
        ["--rows", "2000", "--candidates", "3", "--used", "2", "--repeat", "1"],
        [
            "decision over 30 models × 12 tasks",
            "again",
            "after an execution of another process",
            "recommendations / bare SELECT of hourly sums",
        ],
    ),
    "bench_views.py": (
        ["--rows", "5000", "--repeat", "1"],
        ["history of latency, a year", "all rows / history of latency"],
    ),
    "bench_drawn.py": (["--help"], ["usage"]),
    "bench_soak.py": (
        ["--rate", "500", "--seconds", "1", "--writers", "2", "--readers", "1", "--rows", "1000"],
        [
            "p50 loaded / p50 idle before",
            "p50 loaded / mean of idle",
            "0 lost, 0 twice, 0 errors",
            "whole",
        ],
    ),
}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("bench_*.py")))
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    """A benchmark measures something small and prints a line for each way."""
    arguments, expected = TINY[name]
    place = ["--directory", str(tmp_path)] if "--help" not in arguments else []
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / name, *arguments, *place],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent / "browser")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [text for text in expected if text not in done.stdout] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.models
def test_the_overhead_is_measured_on_a_real_model(demo_directory: Path, tmp_path: Path) -> None:
    """Every scene runs the real model in all three ways, and each writes the tokens asked for."""
    model = demo_directory / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    done = subprocess.run(
        [
            sys.executable, "-W", "error", FOLDER / "bench_overhead.py", "--rounds", "1",
            "--tokens", "3", "--executions", "100", "--models", "4", "--model", model,
            "--directory", tmp_path,
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent / "browser")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for scene in ("empty", "history", "models"):
        assert f"{scene}, 3 tokens asked for, 3 written, 1 rounds" in done.stdout
    assert done.stdout.count("manager over server") == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.models
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (
            "bench_classify.py",
            ["--model", "lid-176", "--sizes", "1", "3", "--rounds", "1"],
            ["1 texts  fasttext", "3 texts  worker", "3 texts  manager"],
        ),
        (
            "bench_vad_quantization.py",
            ["--models", "silero-vad-16k/silero_vad_16k.onnx"],
            ["silero_vad_16k QInt8 ", "silero_vad_16k QUInt8 reduce_range"],
        ),
    ],
)
def test_small_models_are_measured(
    demo_directory: Path, tmp_path: Path, name: str, arguments: list[str], expected: list[str]
) -> None:
    """What runs a real model of the demo prints a line for each way, and leaves nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / name, *arguments, "--directory", tmp_path],
        cwd=demo_directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [text for text in expected if text not in done.stdout] == []
    assert list(tmp_path.iterdir()) == []
