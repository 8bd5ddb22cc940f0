"""Read past decisions from the store, and all that was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ravenxterm_lab.models.replay_candidates import Candidate, Reader
from ravenxterm_lab.selection.observed import Mark, Run
from ravenxterm_lab.selection.replay import Judgement
from ravenxterm_lab.selection.replay_policies import Execution

if TYPE_CHECKING:
    from datetime import datetime

    from ravenxterm_lab.models.replay_candidates import Setting
    from ravenxterm_lab.selection.replay import PastDecision
    from ravenxterm_lab.store import Store

__all__ = ["DECISIONS_SQL", "Log", "read_events", "read_log"]

DECISIONS_SQL = """
SELECT
    s.ts, s.selection, s.task, s.chosen, s.seed, s.requirements, s.preferences, s.hardware,
    s.machine,
    (
        SELECT arg_min(e.session || ':' || e.seq, (e.ts, e.seq)) FROM executions e
        WHERE e.selection = s.selection AND e.model = s.chosen
    ) AS execution
FROM selections s
WHERE s.ts >= CAST($since AS TIMESTAMP) AND ($task IS NULL OR s.task = $task)
ORDER BY s.ts, s.session, s.seq
"""
_CANDIDATES_SQL = """
SELECT
    c.selection, c.model, c.fingerprint, c.feasible, c.reason, c.constraint_name, c.probability,
    c.device, c.settings, c.memory_bytes, c.memory_measured, c.decode_rate,
    c.time_to_first_token, c.load_seconds, c.resident
FROM candidates c SEMI JOIN selections s
    ON c.selection = s.selection AND s.ts >= CAST($since AS TIMESTAMP)
    AND ($task IS NULL OR s.task = $task)
ORDER BY c.ts, c.session, c.seq
"""
_CATALOGUE_SQL = """
SELECT fingerprint, name, model_type, path, size_bytes, parameter_count
FROM models QUALIFY row_number() OVER (PARTITION BY fingerprint ORDER BY ts DESC, seq DESC) = 1
"""
_EXECUTIONS_SQL = """
SELECT
    e.ts, e.session, e.seq, e.model, coalesce(e.fingerprint, e.model) AS key, e.fingerprint,
    e.task, e.runtime, e.device, e.settings, coalesce(e.hardware, $hardware) = $hardware,
    coalesce(e.extra->>'failure', '') = 'interrupted', e.success, e.throughput,
    coalesce(e.tokens_out, e.latency * e.throughput), e.time_to_first_token, e.quality,
    e.latency, coalesce(e.num['load_seconds'], 0)
FROM executions e SEMI JOIN candidates c
    ON coalesce(c.fingerprint, c.model) = coalesce(e.fingerprint, e.model)
WHERE e.task IS NOT NULL
ORDER BY e.ts, e.session, e.seq
"""
_FEEDBACK_SQL = "SELECT execution, ts, quality FROM feedback WHERE quality IS NOT NULL ORDER BY ts"


@dataclass(slots=True)
class Log:
    """Past decisions, and what of the record could not be used.

    Attributes
    ----------
    decisions : list of PastDecision
        In order of time.
    notes : list of str
        What was left out, and why.
    """

    decisions: list[PastDecision] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_events(store: Store, hardware: str) -> list[Execution | Judgement]:
    """Read everything that was measured of models that ever were candidates, in order of time.

    Parameters
    ----------
    store : Store
        Where executions and feedback are.
    hardware : str
        Fingerprint of the hardware that is decided for; unknown hardware counts as that.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    events: list[Execution | Judgement] = []
    for row in store.rows(_EXECUTIONS_SQL, {"hardware": hardware}):
        ts, session, seq, *run, latency, load = row
        events.append(Execution(Run(Mark(ts, session, seq), *run), latency, load))
    for execution, ts, quality in store.rows(_FEEDBACK_SQL, {}):
        events.append(Judgement(execution, ts, quality))
    events.sort(key=lambda event: event.at)
    return events


def read_log(store: Store, setting: Setting, since: datetime, task: str | None) -> Log:
    """Read the decisions since a moment, each with its candidates as they are under a setting.

    Parameters
    ----------
    store : Store
        Where they are.
    setting : Setting
        What to decide under.
    since : datetime
        UTC, without a zone.
    task : str or None
        Only these.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    asked = {"since": str(since), "task": task}
    rows = store.rows(DECISIONS_SQL, asked)
    candidates: dict[str, list[Candidate]] = {}
    for values in store.rows(_CANDIDATES_SQL, asked):
        one = Candidate(*values)
        candidates.setdefault(one.selection, []).append(one)
    reader = Reader(setting, {row[0]: row for row in store.rows(_CATALOGUE_SQL, {})})
    log = Log()
    left: dict[str, int] = {}
    for row in rows:
        made = reader.decision(row, candidates.get(row[1], []))
        if isinstance(made, str):
            left[made] = left.get(made, 0) + 1
        else:
            log.decisions.append(made)
    log.notes = [f"{count} left out: {why}" for why, count in left.items()]
    log.notes += reader.notes()
    return log
