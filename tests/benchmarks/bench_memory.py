"""What a load really takes, beside what the estimator says, for variants of real models.

Run: ``python tests/benchmarks/bench_memory.py [--models DIR] [--json FILE]`` (about two minutes).
Each model is loaded at contexts of 512, 2048 and 8192 tokens by our own runtime, in a worker
process; measured is the resident memory above that of the idle worker, after eight tokens and
after a prompt of more than a batch. Two tables are printed: estimate and measurement, and the
engine's own overhead learned on one model and judged on all others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.config import paths
from ravenxterm_lab.demo import build_ladder
from ravenxterm_lab.discovery.assemble import build_model
from ravenxterm_lab.estimation import estimate_memory
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.readers import read_facts
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.llama_cpp import LlamaCppRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.metadata import ModelMetadata

MIB = 2**20
CONTEXTS = (512, 2048, 8192)
LADDER = ("Q4_0", "Q8_0", "F16")
SMOLLM2 = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m/gemma-3-270m.Q4_K_M.gguf"
# The allowed error: 3% or 32 MiB.
SHARE, MARGIN = 0.03, 32 * MIB


def models(demo: Path, scratch: Path) -> Iterator[ModelMetadata]:
    """Yield SmolLM2 in four quantizations, and Gemma 3 where it was fetched."""
    source = scratch / Path(SMOLLM2).name
    source.symlink_to(demo / SMOLLM2)
    files = [source, *build_ladder(source, LADDER, progress=False)]
    if (demo / GEMMA).is_file():
        files.append(demo / GEMMA)
    for path in files:
        facts = read_facts(path)
        assert facts is not None
        yield build_model(facts, name=path.stem, paths=(path,), mark="0" * 32, source="bench")


def measure(model: ModelMetadata, context: int) -> dict[str, Any]:
    """Load and run one model; return what it took and what was estimated, in bytes."""
    options = LoadOptions(context_length=context, threads=1)
    with LlamaCppRuntime().load(model, options) as loaded:
        idle = loaded.memory().total - loaded.report.memory_bytes
        loaded.run("text_generation", "Once upon a time",
                   parameters={"max_tokens": 8, "temperature": 0.0, "raw": True})  # fmt: skip
        short = loaded.memory().total - idle
        loaded.run("text_generation", "word " * min(context - 80, 600),
                   parameters={"max_tokens": 1, "temperature": 0.0, "raw": True})  # fmt: skip
        peak = loaded.memory().total - idle
        buffers = dict(loaded.report.buffers)
    estimate = estimate_memory(
        model,
        context_length=context,
        instruction_sets=HardwareProfile.detect().instruction_sets,
    )
    return {
        "model": model.name,
        "context": context,
        "vocabulary": model.vocabulary_size,
        "short": short,
        "peak": peak,
        "logged": sum(buffers.values()),
        "estimate": estimate.total_bytes,
        "overhead": estimate.overhead_bytes,
        "low": estimate.low_bytes,
        "high": estimate.high_bytes,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print estimate and measurement, and whether each lies within the allowed error."""
    print(f"{'model':34} {'ctx':>5} {'estimate':>9} {'8 tokens':>9} {'batch':>9} {'error':>7}")
    for row in rows:
        error = row["estimate"] / row["peak"] - 1
        fine = all(
            abs(row["estimate"] - row[key]) <= max(SHARE * row[key], MARGIN)
            for key in ("short", "peak")
        )
        inside = row["low"] <= row["short"] and row["peak"] <= row["high"]
        print(
            f"{row['model'][-34:]:34} {row['context']:5} "
            + " ".join(f"{row[key] / MIB:9.1f}" for key in ("estimate", "short", "peak"))
            + f" {error:+7.1%} {'' if fine else 'OUTSIDE THE ALLOWED ERROR'}"
            + f"{'' if inside else ' outside the interval'}"
        )


def judge_elsewhere(rows: list[dict[str, Any]]) -> None:
    """Learn the engine's overhead on one model, and print its errors on the others.

    Only the constant is learned: the bytes of one token of vocabulary are counted, not fitted,
    because a single model cannot tell the two apart.
    """
    per_token = 150
    names = list(dict.fromkeys(row["model"] for row in rows))
    print(f"\n{'learned on':34} {'constant':>9}   largest error on each other model (peak)")
    for name in names:
        constant = statistics.median(
            row["peak"] - row["logged"] - per_token * row["vocabulary"]
            for row in rows
            if row["model"] == name
        )
        errors = {}
        for other in names:
            if other != name:
                errors[other] = max(
                    (
                        (row["logged"] + constant + per_token * row["vocabulary"]) / row["peak"] - 1
                        for row in rows
                        if row["model"] == other
                    ),
                    key=abs,
                )
        print(
            f"{name[-34:]:34} {constant / MIB:5.1f} MiB   "
            + ", ".join(f"{other.split('.')[-1]} {error:+.1%}" for other, error in errors.items())
        )


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=paths().models / "demo")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in models(options.models, Path(scratch)):
            rows += [measure(model, context) for context in CONTEXTS]
    show(rows)
    judge_elsewhere(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
