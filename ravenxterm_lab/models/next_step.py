"""What to do next where there is nothing yet: no models, or models that were never run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ravenxterm_lab.config import paths
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ravenxterm_lab.config import Paths
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["first_models", "first_run"]

#: Tasks whose input can be typed, with one to begin with.
_EXAMPLES = {
    "text_generation": '"Why is the sky blue?"',
    "embedding": '["a raven", "a crow"]',
    "language_identification": '["Where is my hat?"]',
}
_THEN = "in a notebook that is open, run manager.scan() after that"


def first_models(places: Paths, roots: Sequence[Path] | None) -> str:
    """Return how to come by a model, as what follows "No models yet: ".

    Parameters
    ----------
    places : Paths
        Where this package keeps things.
    roots : sequence of Path, optional
        The directories that a person gave; None where the well-known stores are looked into.
    """
    if roots is not None:
        where = ", ".join(str(root) for root in roots[:3]) or "a directory that you give"
        return (
            f"put models into {where}, or leave models_dir out to look into the well-known "
            f"stores; {_THEN}"
        )
    return (
        f"run `{_demo(places)}` in a terminal for a small real set, or put models into "
        f"{places.models}; {_THEN}"
    )


def first_run(models: Iterable[ModelMetadata]) -> str:
    """Return a line that runs one of the models, as what follows "No executions yet: ".

    Parameters
    ----------
    models : iterable of ModelMetadata
        At least one.
    """
    found = list(models)
    able = {task for model in found if model.runtimes for task in model.task_types}
    for task, inputs in _EXAMPLES.items():
        if task in able:
            return f'run manager.run("{task}", {inputs})'
    if able:
        return f'run manager.run("{min(able)}", inputs), with arrays by name as inputs'
    return (
        f"none of the {format_number(len(found), 'model')} can run here; `raven-lab models` says "
        "why of each"
    )


def _demo(places: Paths) -> str:
    """Return the command that fetches models into this home, wherever a terminal's own is."""
    from platformdirs import user_data_dir

    usual = paths(user_data_dir("ravenxterm", appauthor=False)).home
    other = "" if places.home == usual else f" --home {shlex.quote(str(places.home))}"
    return f"raven-lab demo{other}"
