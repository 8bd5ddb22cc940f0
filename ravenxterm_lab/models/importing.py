"""Quality that another harness measured, as executions that selection learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.models.recording import check_model
from ravenxterm_lab.quality import HarnessScore, read_harness_results
from ravenxterm_lab.requirements import normalize_task
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["ImportedQuality", "import_quality"]

#: In place of a machine's fingerprint: quality holds everywhere, and nothing ran here.
ELSEWHERE = "elsewhere"

_KNOWN_SQL = """
SELECT DISTINCT extra->>'imported' FROM executions
WHERE coalesce(fingerprint, model) = $key AND hardware = $elsewhere
"""


@dataclass(frozen=True, slots=True)
class ImportedQuality(Displayed):
    """What was taken from a file of results.

    Attributes
    ----------
    model, task : str
        Whose quality it is, on which of our tasks.
    recorded : tuple of HarnessScore
        Recorded now, one execution each.
    known : tuple of HarnessScore
        Recorded by an earlier import, and not again.
    notes : tuple of str
        What was left out, and why.
    """

    model: str
    task: str
    recorded: tuple[HarnessScore, ...]
    known: tuple[HarnessScore, ...]
    notes: tuple[str, ...]

    def _card(self) -> Card:
        rows = [
            [
                score.task,
                f"{score.metric}{f' ({score.filter})' if score.filter else ''}",
                f"{score.score:.3f}" + (f" ± {score.stderr:.3f}" if score.stderr else ""),
                str(score.samples or "unknown"),
                state,
            ]
            for scores, state in ((self.recorded, "recorded"), (self.known, "known already"))
            for score in scores
        ]
        tables = [Table(["harness task", "metric", "score", "questions", ""], rows)]
        if self.notes:
            tables.append(Table(["left out"], [[note] for note in self.notes]))
        note = (
            f"{format_number(len(self.recorded), 'score')} recorded as quality of {self.task}, "
            "each as one observation. A share of right answers is not comparable with a score "
            "on other questions: import the same harness tasks for every model."
        )
        return Card(f"Imported quality of {self.model}", note, tables)


def import_quality(
    bench: Workbench,
    registered: Mapping[str, ModelMetadata],
    path: str | os.PathLike[str],
    model: ModelMetadata | str,
    task_type: str,
) -> ImportedQuality:
    """Record the scores of a results file (see ``ModelManager.import_quality``)."""
    check_model(model)
    task = normalize_task(task_type)
    scores, notes = read_harness_results(path)
    known = registered.get(model) if isinstance(model, str) else model
    name = known.name if known else str(model)
    key = (known.fingerprint if known else None) or name
    try:
        rows = bench.store.sql(_KNOWN_SQL, {"key": key, "elsewhere": ELSEWHERE}).fetchall()
    except StoreError as error:
        bench.messages.add("warning", "store", f"Not known what was imported before: {error}")
        rows = []
    before = {row[0] for row in rows}
    fresh = tuple(score for score in scores if score.digest not in before)
    for score in fresh:
        bench.record_execution(
            model=name,
            fingerprint=known.fingerprint if known else None,
            task=task,
            hardware=ELSEWHERE,
            external=known is None,
            metrics=_metrics(score),
        )
    return ImportedQuality(
        name, task, fresh, tuple(score for score in scores if score.digest in before), notes
    )


def _metrics(score: HarnessScore) -> dict[str, Any]:
    told = {
        "quality": score.score,
        "success": True,
        "imported": score.digest,
        "harness": "lm-evaluation-harness",
        "harness_task": score.task,
        "metric": f"{score.metric},{score.filter}" if score.filter else score.metric,
        "quality_stderr": score.stderr,
        "questions": score.samples,
    }
    return {key: value for key, value in told.items() if value is not None}
