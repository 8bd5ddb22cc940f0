"""Measure the quantization ladder on this machine, for `test_models_ladder.py` to replay.

Run by hand: ``python tests/models/record_ladder.py MODEL.Q4_1.gguf tests/models/ladder_runs.json``.
It makes the variants beside a copy of the model, runs ``manager.benchmark(quality=True)`` over all
of them, and writes every run that worked, with what the files say of themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

VARIANTS = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_0")
#: Of each run, what selection looks at.
KEPT = ("latency", "throughput", "time_to_first_token", "tokens_in", "tokens_out", "quality")


def ladder(source: Path, directory: Path) -> None:
    """Put a link to the model and its variants into a directory."""
    from ravenxterm_lab.demo import build_ladder

    link = directory / source.name
    link.symlink_to(source)
    build_ladder(link, VARIANTS, progress=False)


def record(source: Path) -> dict[str, Any]:
    """Return facts and runs of each variant, by its quantization."""
    from ravenxterm_lab.models import ModelManager

    place = Path(tempfile.mkdtemp())
    try:
        (place / "models").mkdir()
        ladder(source, place / "models")
        manager = ModelManager(place / "models", home=place / "home")
        report = manager.benchmark("text_generation", repeats=3, quality=True, progress=False)
        print(report, file=sys.stderr)
        models = manager.registry.available_models
        results = {result.model: result for result in report.results}
        found = {}
        for name, model in models.items():
            runs = [run for run in report.runs if run.model == name and run.success]
            loads = [run.load_seconds for run in runs if run.cold and run.load_seconds]
            assert model.attention is not None
            found[str(model.quantization)] = {
                "size_bytes": model.size_bytes,
                "parameter_count": model.parameter_count,
                "context_length": model.context_length,
                "embedding_length": model.embedding_length,
                "vocabulary_size": model.vocabulary_size,
                "heads_kv": list(model.attention.heads_kv),
                "key_length": model.attention.key_length,
                "value_length": model.attention.value_length,
                "peak_memory": results[name].peak_memory,
                "load_seconds": sorted(loads)[len(loads) // 2],
                "answers": [
                    {"question": run.cell.rpartition(":")[2], **_of(run)}
                    for run in runs
                    if run.phase == "quality"
                ],
                "warm": [_of(run) for run in runs if run.phase == "warm"],
            }
        manager.close()
        load = [round(one, 2) for one in os.getloadavg()]
        return {"load_average_after": load, "cpus": os.cpu_count(), "models": found}
    finally:
        shutil.rmtree(place)


def _of(run: Any) -> dict[str, Any]:
    values = {name: getattr(run, name) for name in KEPT}
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in values.items()
        if value is not None
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(
        json.dumps(record(Path(sys.argv[1]).resolve()), indent=1) + "\n", encoding="utf-8"
    )
