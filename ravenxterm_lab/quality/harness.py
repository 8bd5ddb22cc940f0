"""Results of EleutherAI's lm-evaluation-harness, read from its JSON.

The file that ``--output_path`` writes (``results_<time>.json``) holds ``"results"``: for each
task or group, metrics under ``"<metric>,<filter>"`` (before version 0.4: ``"<metric>"``), their
standard errors under ``"<metric>_stderr,<filter>"``; beside it ``"group_subtasks"`` and
``"n-samples"`` (``lm_eval/evaluator.py`` and ``lm_eval/evaluator_utils.py`` of its repository).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["HarnessScore", "read_harness_results"]

#: Shares of right answers, the most telling first; other metrics have no scale from 0 to 1, or
#: a smaller value is the better one.
_METRICS = (
    "exact_match", "acc_norm", "acc", "em", "f1", "pass@1", "pass_at_1",
    "prompt_level_strict_acc", "mc2", "mc1",
)  # fmt: skip
_FILTERS = ("strict-match", "none", "", "flexible-extract", "get-answer", "remove_whitespace")
_LARGEST_FILE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HarnessScore:
    """One task's score.

    Attributes
    ----------
    task : str
        The harness's name of it.
    metric, filter : str
        Which of its metrics, after which filter (empty in files of old versions).
    score : float
        0–1.
    stderr : float or None
        Standard error, where the file gives one.
    samples : int or None
        Questions that were asked, where the file says so.
    digest : str
        Of this score and its place, the same each time that the file is read.
    """

    task: str
    metric: str
    filter: str
    score: float
    stderr: float | None
    samples: int | None
    digest: str


def read_harness_results(
    path: str | os.PathLike[str],
) -> tuple[tuple[HarnessScore, ...], tuple[str, ...]]:
    """Read the scores of a results file.

    A group stands for its members. Of several metrics of a task one is taken: a share of right
    answers, in the order of ``exact_match``, ``acc_norm``, ``acc``, ``em``, ``f1``, ….

    Parameters
    ----------
    path : path
        A ``results_….json``.

    Returns
    -------
    tuple of scores and notes
        The notes say which tasks were left out, and why.

    Raises
    ------
    RequirementError
        If it cannot be read, is no such file, holds a score outside 0–1, or has no score.
    """
    place = Path(path)
    document = _load(place)
    results = document.get("results")
    if not isinstance(results, dict) or not results:
        raise RequirementError(
            f"{place} has no 'results' by task, so it is no results file of "
            "lm-evaluation-harness. Give the results_….json that --output_path wrote."
        )
    members = _members(document.get("group_subtasks"), results)
    scores: list[HarnessScore] = []
    notes: list[str] = []
    for task, metrics in results.items():
        if task in members:
            continue
        if not isinstance(metrics, dict):
            raise RequirementError(
                f"{place}: results[{task!r}] must be a mapping of metrics, got {metrics!r:.60}."
            )
        chosen = _choose(metrics)
        if chosen is None:
            offered = ", ".join(sorted(_names(metrics))) or "none"
            notes.append(f"{task}: no metric that is a share of right answers (it has {offered})")
            continue
        scores.append(_score(place, task, *chosen, metrics, document))
    if not scores:
        raise RequirementError(
            f"{place} has no score that can be a quality: {'; '.join(notes)}. "
            f"Wanted is one of {', '.join(_METRICS)}."
        )
    return tuple(scores), tuple(notes)


def _load(place: Path) -> dict[str, Any]:
    try:
        if place.is_dir():
            raise RequirementError(
                f"{place} is a directory. Give the results_….json in it (there may be several)."
            )
        if place.stat().st_size > _LARGEST_FILE:
            raise RequirementError(
                f"{place} is too large for a results file (over 64 MiB); the samples_….jsonl "
                "beside it are not needed."
            )
        document = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequirementError(f"There is no {place}.") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, RequirementError):
            raise
        raise RequirementError(f"{place} cannot be read as JSON: {error}.") from None
    if not isinstance(document, dict):
        raise RequirementError(f"{place} holds no JSON object.")
    return document


def _members(groups: Any, results: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for group, names in (groups or {}).items() if isinstance(groups, dict) else ():
        own = results.get(group)
        # A group without a score of its own only sorts its members.
        if isinstance(own, dict) and _choose(own) is not None and isinstance(names, list):
            found.update(name for name in names if name != group)
    return found


def _names(metrics: Mapping[str, Any]) -> set[str]:
    names = {key.partition(",")[0] for key in metrics} - {"alias", "name", "sample_len", " "}
    return {name for name in names if not name.endswith("_stderr")}


def _choose(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    for metric in _METRICS:
        keys = {key.partition(",")[2]: key for key in metrics if key.partition(",")[0] == metric}
        for name in (*(f for f in _FILTERS if f in keys), *sorted(keys)):
            if name in keys:
                return metric, name
    return None


def _score(
    place: Path,
    task: str,
    metric: str,
    name: str,
    metrics: Mapping[str, Any],
    document: Mapping[str, Any],
) -> HarnessScore:
    key = f"{metric},{name}" if f"{metric},{name}" in metrics else metric
    value = metrics[key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 1:
        raise RequirementError(
            f"{place}: results[{task!r}][{key!r}] must be a number from 0 to 1, got {value!r}."
        )
    deviation = metrics.get(f"{metric}_stderr,{name}", metrics.get(f"{metric}_stderr"))
    if not isinstance(deviation, (int, float)) or isinstance(deviation, bool):
        deviation = None  # the harness writes "N/A" for groups
    counts = document.get("n-samples")
    asked = counts.get(task) if isinstance(counts, dict) else None
    samples = asked.get("effective") if isinstance(asked, dict) else None
    date = document.get("date")
    told = json.dumps([task, key, value, date, document.get("model_name")], default=str)
    return HarnessScore(
        task=task,
        metric=metric,
        filter=name,
        score=float(value),
        stderr=None if deviation is None else float(deviation),
        samples=samples if isinstance(samples, int) else None,
        digest=hashlib.sha256(told.encode()).hexdigest()[:16],
    )
