"""Record the sample history of ``data/sample``: real models, a home of its own, nothing made up.

    python tests/docs/record_sample.py --models DIR --out data/sample

``DIR`` holds the demo models (`raven-lab demo --with-gemma --fetch-only`). The recording takes
some minutes: a few sittings, each a process of its own, with a pause between them. In each,
questions with known answers are asked and judged, other tasks are run, and the load of the machine
is sampled once a second. Failures are real ones: a time limit that was too short, an answer that
was stopped, and a script that took an answer for JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ravenxterm_lab import ModelManager
from ravenxterm_lab.exceptions import NoSuitableModelError
from ravenxterm_lab.models.run_report import RunReport
from ravenxterm_lab.models.sample import FACTS_OF_MACHINE, MACHINE
from ravenxterm_lab.quality.checks import check_for
from ravenxterm_lab.store.schema import TABLES

#: Items of the other tasks' checks, as shares of a sitting's questions; one of voice activity
#: is dozens of runs.
OTHER_TASKS = {
    "embedding": 0.5,
    "language_identification": 0.5,
    "file_type": 0.4,
    "voice_activity_detection": 0.05,
}
PACKAGES = ("ravenxterm-lab", "xllamacpp", "onnxruntime", "fasttext-predict-v2", "duckdb")


def ask(manager: ModelManager, task: str, count: int, rng: random.Random, **wanted: Any) -> None:
    """Ask so many questions of a task's check, and judge each answer."""
    check = check_for(task)
    assert check is not None
    for item in rng.sample(check.items, min(count, len(check.items))):
        runs: list[RunReport] = []

        def run(inputs: Any, runs: list[RunReport] = runs) -> Any:
            parameters = dict(check.parameters) or None
            runs.append(manager.run(task, inputs, wanted or None, parameters=parameters))
            return runs[-1].output

        verdict = item.grade(run)
        for one in runs:
            manager.feedback(one, verdict.score, item.name)


def stop(_piece: str) -> None:
    """End an answer at its first piece, as a person does with Ctrl-C."""
    raise KeyboardInterrupt


def fail(manager: ModelManager, long_prompt: str) -> None:
    """Let happen what goes wrong in real life."""
    more = {"max_tokens": 256}
    try:
        manager.run("text_generation", long_prompt, parameters=more, timeout=0.3)
    except NoSuitableModelError as error:
        print(f"  too short a time limit: {str(error).splitlines()[0]}")
    try:
        manager.run("text_generation", long_prompt, parameters=more, on_token=stop)
    except KeyboardInterrupt:
        print("  stopped")
    answer = manager.run("text_generation", "List three birds as JSON.", parameters=more).output
    try:
        with manager.track("script that reads JSON", task_type="text_generation"):
            json.loads(answer)
    except json.JSONDecodeError as error:
        print(f"  a script failed: {error}")


def sit(number: int, home: Path, count: int) -> None:
    """Do one sitting in this process."""
    manager = ModelManager(home / "models", home=home, seed=number)
    rng = random.Random(number)
    texts = check_for("text_generation")
    assert texts is not None
    with manager.monitor(1.0):
        if number == 1:
            candidates = manager.get_model_recommendations("text_generation")
            for quantization in sorted({item.model.quantization or "" for item in candidates}):
                ask(manager, "text_generation", count // 2, rng, quantizations=[quantization])
        if number == 2:
            manager.update_preferences(performance_mode="speed")
        ask(manager, "text_generation", 2 * count, rng)
        for task, share in OTHER_TASKS.items():
            ask(manager, task, round(share * count), rng)
        prompts = texts.samples()
        for prompt in prompts:
            manager.run("text_generation", prompt, parameters=dict(texts.sample_parameters))
        if number == 2:
            fail(manager, prompts[-1])
            manager.update_preferences(performance_mode="balanced", accuracy_preference="high")
        ask(manager, "text_generation", count, rng)
        time.sleep(2.0)  # an idle machine belongs into the picture
    manager.cleanup_resources()
    manager.close()


def record(models: Path, out: Path, *, sittings: int, count: int, pause: float) -> None:
    """Record, export, and say on what."""
    home = Path(tempfile.mkdtemp(prefix="ravenxterm-record-"))
    (home / "models").mkdir()
    (home / "models" / "demo").symlink_to(models.resolve())
    begin, before = now(), os.getloadavg()
    for number in range(1, sittings + 1):
        print(f"sitting {number} of {sittings}, load {os.getloadavg()}", flush=True)
        command = [sys.executable, __file__, "--sitting", str(number), "--home", str(home)]
        subprocess.run([*command, "--count", str(count)], check=True)
        time.sleep(pause if number < sittings else 0.0)
    end, after = now(), os.getloadavg()
    manager = ModelManager(home / "models", home=home)
    export(manager, out)
    profile = manager.registry.hardware_profile
    about = {
        "begin": begin,
        "end": end,
        "machine": {name: getattr(profile, name) for name in FACTS_OF_MACHINE},
        "load_average": {"before": before, "after": after},
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "companions": {
            name: [path.name for path in model.companions]
            for name, model in manager.registry.available_models.items()
            if model.companions
        },
    }
    (out / MACHINE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    manager.close()
    shutil.rmtree(home)


def export(manager: ModelManager, out: Path) -> None:
    """Write every table that holds something as one Parquet file."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for table in TABLES:
        if manager.sql(f"SELECT 1 FROM {table} LIMIT 1").fetchall():
            print(manager.store.export(out / f"{table}.parquet", table=table))


def now() -> str:
    """Return the moment in UTC without its zone, as the store keeps times."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat(sep=" ")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="the directory of the demo models")
    parser.add_argument("--out", type=Path, help="where the Parquet goes; it is emptied before")
    parser.add_argument("--sittings", type=int, default=3)
    parser.add_argument("--count", type=int, default=20, help="questions (a measure of length)")
    parser.add_argument("--pause", type=float, default=45.0, help="seconds between sittings")
    parser.add_argument("--sitting", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sitting:
        sit(options.sitting, options.home, options.count)
    else:
        record(
            options.models, options.out,
            sittings=options.sittings, count=options.count, pause=options.pause,
        )  # fmt: skip


if __name__ == "__main__":
    main()
