"""What each command does; parsing is next door."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ravenxterm_lab.models import ModelManager

__all__ = [
    "demo",
    "estimate",
    "lab",
    "manager_of",
    "models",
    "notebook",
    "print_json",
    "run",
    "scan",
    "select",
    "sql",
    "status",
]


def manager_of(options: argparse.Namespace) -> ModelManager:
    """Return the manager that the options ask for."""
    from ravenxterm_lab.models import ModelManager

    return ModelManager(getattr(options, "models_dir", None), home=options.home)


def print_json(value: Any) -> None:
    """Print a value as JSON, what JSON does not know as text."""
    json.dump(value, sys.stdout, indent=2, default=str)
    print()


def _requirements(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs: JSON where it is JSON, lists at commas, else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise RequirementError(f"--require {pair!r} must read KEY=VALUE.")
        try:
            found[key] = json.loads(text)
        except json.JSONDecodeError:
            found[key] = text.split(",") if "," in text else text
        if isinstance(found[key], float) and found[key].is_integer():
            found[key] = int(found[key])
    return found


def scan(options: argparse.Namespace) -> None:
    """Scan, and print the report."""
    report = manager_of(options).scan(progress=sys.stderr.isatty())
    if options.json:
        print_json({
            "added": report.added, "changed": report.changed, "removed": report.removed,
            "moved": dict(report.moved_from), "read": report.read,
            "skipped": [{"path": str(s.path), "reason": s.reason} for s in report.skipped],
            "roots": [str(root) for root in report.roots], "models": report.models,
            "bytes": report.bytes, "seconds": report.seconds,
        })  # fmt: skip
    else:
        print(report)


def models(options: argparse.Namespace) -> None:
    """Print the models."""
    registry = manager_of(options).registry
    if options.json:
        print_json([
            {
                "name": model.name, "model_type": model.model_type.value, "path": str(model.path),
                "size_bytes": model.size_bytes, "minimum_ram": model.minimum_ram,
                "quantization": model.quantization, "architecture": model.architecture,
                "parameter_count": model.parameter_count, "context_length": model.context_length,
                "task_types": model.task_types, "license": model.license, "source": model.source,
                "fingerprint": model.fingerprint, "runtimes": model.runtimes,
                "runtime_gap": model.runtime_gap, "problems": model.problems,
            }
            for model in registry.available_models.values()
        ])  # fmt: skip
    else:
        print(registry)


def select(options: argparse.Namespace) -> int:
    """Print a ranking; 1 when nothing is feasible."""
    ranked = manager_of(options).get_model_recommendations(
        options.task, _requirements(options.require), options.top_k
    )
    if options.json:
        print_json({
            "task": ranked.task,
            "recommendations": [
                {
                    "model": item.model.name, "score": item.score, "rank": item.rank,
                    "fits": item.memory.verdict.value, "memory_bytes": item.memory.total_bytes,
                    "decode_rate": item.decode_rate, "runs": item.runs,
                    "probability_best": item.probability_best,
                    "parts": {part.name: part.contribution for part in item.parts},
                }
                for item in ranked
            ],
            "rejected": [
                {
                    "model": item.model.name, "constraint": item.constraint,
                    "reason": item.reason, "change": dict(item.change),
                }
                for item in ranked.rejected
            ],
        })  # fmt: skip
    else:
        print(ranked)
    return 0 if ranked else 1


def run(options: argparse.Namespace) -> None:
    """Run a task, and print the answer with its counters."""
    text = sys.stdin.read() if options.input == "-" else options.input
    parameters = {"max_tokens": options.max_tokens} if options.task == "text_generation" else None
    report = manager_of(options).run(
        options.task, text, _requirements(options.require), parameters=parameters
    )
    if options.json:
        output = report.output
        print_json({
            "model": report.model.name, "task": report.task, "execution": str(report.execution),
            "output": output.tolist() if hasattr(output, "tolist") else output,
            **report.result.metrics(), "load_seconds": report.load_seconds,
            "attempts": [
                {
                    "model": a.model, "step": a.step, "settings": a.settings,
                    "seconds": a.seconds, "failure": a.failure, "message": a.message,
                }
                for a in report.attempts
            ],
        })  # fmt: skip
    else:
        print(report)


def estimate(options: argparse.Namespace) -> None:
    """Print what a model, or every model, takes and how fast it is."""
    manager = manager_of(options)
    if options.name is None:
        every = manager.estimates(hardware=options.hardware, context_length=options.context)
        if options.json:
            print_json(every.pl().to_dicts())
        else:
            print(every)
        return
    found = manager.estimate(
        options.name, hardware=options.hardware, context_length=options.context
    )
    if options.json:
        print_json(found.as_dict())
    else:
        print(found)


def sql(options: argparse.Namespace) -> None:
    """Print the result of a query."""
    result = manager_of(options).sql(options.query)
    if options.json:
        print_json([dict(zip(result.columns, row, strict=True)) for row in result.fetchall()])
    else:
        print(result)


def status(options: argparse.Namespace) -> None:
    """Print the state of everything."""
    status = manager_of(options).get_system_status()
    if options.json:
        profile, resources = status.hardware, status.resources
        print_json({
            "models": status.models, "models_bytes": status.models_bytes,
            "runtimes": status.runtimes, "home": str(status.home),
            "cpu_cores": profile.cpu_cores, "total_memory": profile.total_memory,
            "available_memory": profile.available_memory,
            "gpus": [gpu.name for gpu in profile.gpu_devices], "notes": profile.notes,
            "memory_budget": resources.memory_budget, "headroom": resources.memory_headroom,
            "devices": [asdict(device) for device in resources.devices],
            "rows": dict(status.store.rows), "messages": [str(m) for m in status.messages],
        })  # fmt: skip
    else:
        print(status)
        for note in status.hardware.notes:
            print(f"note: {note}")


def demo(options: argparse.Namespace) -> None:
    """Fetch the demo models, run them, print where the result is."""
    from ravenxterm_lab.cli.demo import fetch_models, run_demo

    directory = fetch_models(options.home, yes=options.yes, gemma=options.with_gemma)
    if options.fetch_only:
        if options.json:
            print_json({"models": str(directory)})
        else:
            print(f"The demo models are in {directory}")
        return
    shown = run_demo(options.home, quiet=options.json)
    if options.json:
        print_json(shown)
    else:
        print("\nExecuted notebook, its HTML, and the DuckDB file:")
        for key in ("notebook", "html", "duckdb"):
            print(shown[key])


def lab(options: argparse.Namespace) -> int:
    """Start JupyterLab and wait for it."""
    import os
    import subprocess

    from ravenxterm_lab._imports import require
    from ravenxterm_lab.config import HOME_VARIABLE, paths
    from ravenxterm_lab.publishing import copy_notebooks

    require("jupyterlab", "to open the notebooks")
    place = paths(options.home)
    copy_notebooks(place.notebooks)
    command = [sys.executable, "-m", "jupyterlab", str(place.notebooks), *options.extra]
    return subprocess.call(command, env={**os.environ, HOME_VARIABLE: str(place.home)})


def notebook(options: argparse.Namespace) -> None:
    """Execute a notebook, and print where the result is."""
    import os

    from ravenxterm_lab.config import HOME_VARIABLE, paths
    from ravenxterm_lab.publishing import execute_notebook, notebooks_directory

    place = paths(options.home)
    # The kernel inherits the environment, so that it works on the same home.
    os.environ[HOME_VARIABLE] = str(place.home)
    source = Path(options.notebook)
    if not source.is_file():
        source = notebooks_directory() / f"{source.stem}.ipynb"
    target = Path(options.out) if options.out else place.notebooks / "executed"
    published = execute_notebook(source, target, progress=sys.stderr.isatty())
    if options.json:
        print_json({"notebook": str(published.notebook), "html": str(published.html)})
    else:
        print(published.notebook)
        print(published.html)
