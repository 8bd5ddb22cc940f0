"""Reading what the store knows for selection: sums over everything, and the latest runs.

The query adds up the hourly sums, since a history of 10 million executions is some hundred
thousand rows of these; of the hour in which a change began it counts the executions themselves.
An hour counts as a whole, with the age of its middle, so that a weight is off by at most half an
hour's decay: 0.11 %.
"""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.selection.evidence import KV, NO_MATTER, OUTCOME_HALF_LIFE_DAYS
from ravenxterm_lab.selection.observed import BEGIN, Mark, Noticed, Run, Sums, Whole
from ravenxterm_lab.store.schema import INTERRUPTED

if TYPE_CHECKING:
    import pyarrow as pa

    from ravenxterm_lab.store.reading import Reader

__all__ = ["MOST_RUNS", "read_whole", "runs_of"]

#: The latest executions that are looked at one by one; what is older counts in sums alone.
MOST_RUNS = 1000

# Latest judgement, and the executions that the person stopped, which are no evidence.
_RUN_COLUMNS = """
        e.ts, e.session, e.seq, e.model, coalesce(e.fingerprint, e.model) AS model_key,
        e.fingerprint, e.task, e.runtime, e.device, e.settings,
        coalesce(e.hardware, $hardware) = $hardware AS here,
        coalesce(e.extra->>'failure', '') = 'interrupted' AS interrupted,
        e.success, e.throughput, coalesce(e.tokens_out, e.latency * e.throughput) AS work,
        e.time_to_first_token, e.quality"""
_CHANGES_SQL = """
SELECT
    metric, coalesce(fingerprint, model), task, runtime, device, settings,
    since, first_execution, noticed, noticed_execution
FROM changes
WHERE metric = 'quality' OR hardware = $hardware
ORDER BY since
"""
_HOURS_SQL = """
SELECT hour, sum(runs)::BIGINT FROM execution_hours WHERE hour >= CAST($since AS TIMESTAMP)
GROUP BY hour ORDER BY hour DESC LIMIT $most
"""

# What half of goes every two days is less than 1e-18 of itself by then.
_FADED_DAYS = math.ceil(60 * OUTCOME_HALF_LIFE_DAYS)

# All hours are added up once, without a look at when something changed. Of what did, these sums
# are dropped, and the hours since are added up: of `execution_hours` itself, since DuckDB would
# write out all of `hours` rather than read it twice.
_WHOLE_SQL = f"""
WITH hours AS NOT MATERIALIZED (
    SELECT
        coalesce(fingerprint, model) AS model_key,
        coalesce(hardware, $hardware) = $hardware AS here,
        greatest(date_diff('second', hour, CAST($now AS TIMESTAMP)) - 1800, -1800) AS age,
        exp(age * (-ln(2) / ($half_life * 86400))) AS weight,
        CASE WHEN hour >= CAST($now AS TIMESTAMP) - INTERVAL {_FADED_DAYS} DAY
            THEN exp(age * (-ln(2) / ({OUTCOME_HALF_LIFE_DAYS} * 86400))) ELSE 0 END AS recent,
        *
    FROM execution_hours
    WHERE task IS NOT NULL
), totals AS MATERIALIZED (
    SELECT
        model_key, task, runtime, device, settings, here,
        sum(runs - interrupted) AS runs, sum(succeeded) AS succeeded,
        sum(recent * (runs - interrupted)) AS recent_runs,
        sum(recent * succeeded) AS recent_succeeded,
        sum(ln_work_count) AS work_n, sum(ln_work_sum) AS work,
        sum(ln_throughput_count) AS speed_n, sum(ln_throughput_sum) AS speed,
        sum(weight * ln_throughput_count) AS weighted_n,
        sum(weight * ln_throughput_sum) AS weighted,
        sum(time_to_first_token_count) AS first_n, sum(time_to_first_token_sum) AS first,
        sum(quality_count) AS quality_n, sum(quality_sum) AS quality
    FROM hours
    GROUP BY model_key, task, runtime, device, settings, here
), found AS (
    SELECT
        metric, coalesce(fingerprint, model) AS model_key, task, runtime, device, settings,
        max(struct_pack(
            since := make_timestamp(since::BIGINT),
            session := split_part(first_execution, ':', 1),
            seq := split_part(first_execution, ':', 2)::UBIGINT
        )) AS first
    FROM changes
    WHERE metric = 'quality' OR hardware = $hardware
    GROUP BY ALL
), kinds AS (
    SELECT
        settings,
        trim(regexp_replace(settings, '{NO_MATTER}', '', 'g')) AS engine,
        nullif(regexp_extract(settings, '{KV}', 1), '') AS kv
    FROM (SELECT DISTINCT settings FROM totals)
), bounds AS MATERIALIZED (
    SELECT
        f.metric, f.model_key, f.task, f.runtime, f.device, k.settings,
        f.first.since AS since, f.first.session AS session, f.first.seq AS seq
    FROM found f JOIN kinds k
        ON f.settings IS NOT DISTINCT FROM CASE f.metric WHEN 'speed' THEN k.engine ELSE k.kv END
), judged AS MATERIALIZED (
    FROM judgements WHERE task IS NOT NULL
), parts AS (
    SELECT t.* REPLACE (
        CASE WHEN s.since IS NULL THEN t.speed_n END AS speed_n,
        CASE WHEN s.since IS NULL THEN t.speed END AS speed,
        CASE WHEN s.since IS NULL THEN t.weighted_n END AS weighted_n,
        CASE WHEN s.since IS NULL THEN t.weighted END AS weighted,
        CASE WHEN s.since IS NULL THEN t.first_n END AS first_n,
        CASE WHEN s.since IS NULL THEN t.first END AS first,
        CASE WHEN q.since IS NULL THEN t.quality_n END AS quality_n,
        CASE WHEN q.since IS NULL THEN t.quality END AS quality
    )
    FROM totals t
    LEFT JOIN bounds s ON s.metric = 'speed' AND t.here
        AND s.model_key = t.model_key AND s.task = t.task
        AND s.runtime IS NOT DISTINCT FROM t.runtime AND s.device IS NOT DISTINCT FROM t.device
        AND s.settings IS NOT DISTINCT FROM t.settings
    LEFT JOIN bounds q ON q.metric = 'quality'
        AND q.model_key = t.model_key AND q.task = t.task
        AND q.settings IS NOT DISTINCT FROM t.settings
    UNION ALL BY NAME
    SELECT
        b.model_key, b.task, h.runtime, h.device, h.settings,
        coalesce(h.hardware, $hardware) = $hardware AS here,
        pow(2, -greatest(date_diff('second', h.hour, CAST($now AS TIMESTAMP)) - 1800, -1800)
            / ($half_life * 86400.0)) AS weight,
        CASE b.metric WHEN 'speed' THEN h.ln_throughput_count END AS speed_n,
        CASE b.metric WHEN 'speed' THEN h.ln_throughput_sum END AS speed,
        weight * speed_n AS weighted_n, weight * speed AS weighted,
        CASE b.metric WHEN 'speed' THEN h.time_to_first_token_count END AS first_n,
        CASE b.metric WHEN 'speed' THEN h.time_to_first_token_sum END AS first,
        CASE b.metric WHEN 'quality' THEN h.quality_count END AS quality_n,
        CASE b.metric WHEN 'quality' THEN h.quality_sum END AS quality
    FROM execution_hours h JOIN bounds b
        ON b.model_key = coalesce(h.fingerprint, h.model) AND b.task = h.task
        AND b.settings IS NOT DISTINCT FROM h.settings AND h.hour > b.since
        AND (b.metric = 'quality' OR coalesce(h.hardware, $hardware) = $hardware
            AND b.runtime IS NOT DISTINCT FROM h.runtime
            AND b.device IS NOT DISTINCT FROM h.device)
    WHERE h.hour > {{earliest}}
    UNION ALL BY NAME
    SELECT
        b.model_key, b.task, e.runtime, e.device, e.settings,
        coalesce(e.hardware, $hardware) = $hardware AS here,
        pow(2, -greatest(
            date_diff('second', date_trunc('hour', e.ts), CAST($now AS TIMESTAMP)) - 1800, -1800
        ) / ($half_life * 86400.0)) AS weight,
        CASE WHEN b.metric = 'speed' AND e.success AND e.throughput > 0 THEN 1 END AS speed_n,
        CASE WHEN b.metric = 'speed' AND e.success AND e.throughput > 0
            THEN ln(e.throughput) END AS speed,
        weight * speed_n AS weighted_n, weight * speed AS weighted,
        CASE WHEN b.metric = 'speed' AND e.success
            THEN (e.time_to_first_token IS NOT NULL)::INTEGER END AS first_n,
        CASE WHEN b.metric = 'speed' AND e.success THEN e.time_to_first_token END AS first,
        CASE WHEN b.metric = 'quality' THEN (e.quality IS NOT NULL)::INTEGER END AS quality_n,
        CASE WHEN b.metric = 'quality' THEN e.quality END AS quality
    FROM executions e JOIN bounds b
        ON b.model_key = coalesce(e.fingerprint, e.model) AND b.task = e.task
        AND b.settings IS NOT DISTINCT FROM e.settings
        AND date_trunc('hour', b.since) = date_trunc('hour', e.ts)
        AND (e.ts, e.session, e.seq) >= (b.since, b.session, b.seq)
        AND (b.metric = 'quality' OR coalesce(e.hardware, $hardware) = $hardware
            AND b.runtime IS NOT DISTINCT FROM e.runtime
            AND b.device IS NOT DISTINCT FROM e.device)
    WHERE ({{hours}}) AND coalesce(e.extra->>'failure', '') <> 'interrupted'
    UNION ALL BY NAME
    SELECT
        coalesce(j.fingerprint, j.model) AS model_key, j.task, j.settings,
        (j.measured IS NULL)::INTEGER AS quality_n,
        j.judged - coalesce(j.measured, 0) AS quality
    FROM judged j LEFT JOIN bounds q ON q.metric = 'quality'
        AND q.model_key = coalesce(j.fingerprint, j.model) AND q.task = j.task
        AND q.settings IS NOT DISTINCT FROM j.settings
    WHERE q.since IS NULL OR (j.executed, j.session, j.seq) >= (q.since, q.session, q.seq)
), sums AS (
    SELECT
        'sums' AS kind, model_key, task, runtime, device, settings,
        sum(runs)::BIGINT AS everywhere,
        sum(runs) FILTER (here)::BIGINT AS runs,
        sum(succeeded) FILTER (here)::BIGINT AS succeeded,
        sum(recent_runs) FILTER (here) AS recent_runs,
        sum(recent_succeeded) FILTER (here) AS recent_succeeded,
        sum(quality_n)::BIGINT AS quality_n, sum(quality) AS quality_sum,
        sum(speed_n) FILTER (here)::BIGINT AS speed_n, sum(speed) FILTER (here) AS speed_sum,
        sum(weighted_n) FILTER (here) AS weighted_n, sum(weighted) FILTER (here) AS weighted_sum,
        sum(work_n)::BIGINT AS work_n, sum(work) AS work_sum,
        sum(first_n) FILTER (here)::BIGINT AS first_n, sum(first) FILTER (here) AS first_sum
    FROM parts
    GROUP BY model_key, task, runtime, device, settings
), runs AS (
    SELECT 'run' AS kind, {_RUN_COLUMNS}
    FROM executions e
    WHERE e.ts >= {{latest}}
    ORDER BY e.ts DESC, e.session DESC, e.seq DESC
    LIMIT $most
)
FROM sums
UNION ALL BY NAME
SELECT r.* REPLACE (coalesce(j.judged, r.quality) AS quality)
FROM runs r LEFT JOIN judged j ON j.session = r.session AND j.seq = r.seq
"""  # noqa: S608 - our own names


def read_whole(reader: Reader, *, hardware: str, now: datetime, half_life_days: float) -> Whole:
    """Read everything.

    Parameters
    ----------
    reader : Reader
        Of the store where executions, feedback and changes are.
    hardware : str
        Fingerprint of this machine; rows of unknown hardware count as measured here.
    now : datetime
        From which the half-life counts back (UTC, without a zone).
    half_life_days : float
        After which a speed counts half.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    changes = [_noticed(*row) for row in reader.rows(_CHANGES_SQL, {"hardware": hardware})]
    since = _since(changes)
    sql = _WHOLE_SQL.format(
        earliest=f"TIMESTAMP '{min(since, default='infinity')}'",
        hours=_hours_of(since),
        latest=_latest(reader, now),
    )
    found = reader.rows(
        f"SELECT {_ALL} FROM ({sql})",  # noqa: S608 - our own names
        {
            "hardware": hardware,
            "now": str(now),
            "half_life": half_life_days,
            "most": MOST_RUNS,
        },
    )
    rows = [dict(zip(_COLUMNS, row, strict=True)) for row in found]
    runs = [_run(row) for row in rows if row["kind"] == "run"]
    return Whole(
        sums=[_sums(row) for row in rows if row["kind"] == "sums"],
        runs=sorted(runs, key=lambda run: run.mark),
        noticed=changes,
    )


def _since(changes: list[Noticed]) -> set[datetime]:
    """Return when the latest change of each speed and quality began."""
    return set({one[:6]: one.first.at for one in changes}.values())


def _hours_of(since: set[datetime]) -> str:
    """Return the condition for the hours of changes, by which row groups are passed."""
    hours = {at.replace(minute=0, second=0, microsecond=0) for at in since}
    ranges = [
        f"e.ts >= TIMESTAMP '{hour}' AND e.ts < TIMESTAMP '{hour + timedelta(hours=1)}'"
        for hour in sorted(hours)
    ]
    return " OR ".join(ranges) or "false"


def _latest(reader: Reader, now: datetime) -> str:
    """Return from when on the latest executions were recorded: to sort all takes long."""
    # A week is mostly enough, and is found without a look at the rest of the history.
    for days in (7, 365, None):
        since = "-infinity" if days is None else str(now - timedelta(days=days))
        found = 0
        for hour, runs in reader.rows(_HOURS_SQL, {"since": since, "most": MOST_RUNS}):
            found += runs
            if found >= MOST_RUNS:
                return f"TIMESTAMP '{hour}'"
    return "TIMESTAMP '-infinity'"


def runs_of(table: pa.Table, hardware: str) -> list[Run]:
    """Turn rows of the table ``executions`` into runs, in order.

    Parameters
    ----------
    table : pyarrow.Table
        As `Store.follow` gives them.
    hardware : str
        Fingerprint of this machine.
    """
    found = []
    for row in table.select(_FACTS).to_pylist():
        work = row["tokens_out"]
        if work is None and row["latency"] is not None and row["throughput"] is not None:
            work = row["latency"] * row["throughput"]
        # Nothing else is asked of what JSON holds, and few rows have any.
        extra = json.loads(row["extra"]) if row["extra"] else {}
        found.append(
            Run(
                Mark(row["ts"], row["session"], row["seq"]),
                row["model"], row["fingerprint"] or row["model"], row["fingerprint"],
                row["task"], row["runtime"], row["device"], row["settings"],
                row["hardware"] in (None, hardware), extra.get("failure") == INTERRUPTED,
                row["success"], row["throughput"], work, row["time_to_first_token"],
                row["quality"],
            )
        )  # fmt: skip
    return sorted(found, key=lambda run: run.mark)


_FACTS = [
    "ts", "session", "seq", "model", "fingerprint", "task", "runtime", "device", "settings",
    "hardware", "success", "latency", "throughput", "tokens_out", "time_to_first_token",
    "quality", "extra",
]  # fmt: skip
_SUM_COLUMNS = tuple(name for name in Sums._fields if name not in {"key"})
_RUN_NAMES = (
    "ts", "session", "seq", "model", "model_key", "fingerprint", "task", "runtime", "device",
    "settings", "here", "interrupted", "success", "throughput", "work", "time_to_first_token",
    "quality",
)  # fmt: skip
_COLUMNS = tuple(dict.fromkeys(("kind", *_RUN_NAMES, *_SUM_COLUMNS)))
_ALL = ", ".join(_COLUMNS)


def _run(row: dict[str, Any]) -> Run:
    return Run(
        Mark(row["ts"], row["session"], row["seq"]),
        row["model"], row["model_key"], row["fingerprint"], row["task"], row["runtime"],
        row["device"], row["settings"], row["here"], row["interrupted"], row["success"],
        row["throughput"], row["work"], row["time_to_first_token"], row["quality"],
    )  # fmt: skip


def _sums(row: dict[str, Any]) -> Sums:
    numbers = [row[name] or 0 for name in _SUM_COLUMNS[4:]]
    return Sums(
        row["model_key"], row["task"], row["runtime"], row["device"], row["settings"], *numbers
    )


def _noticed(
    metric: str,
    key: str,
    task: str,
    runtime: str | None,
    device: str | None,
    settings: str | None,
    since: int,
    first: str,
    noticed: int,
    last: str,
) -> Noticed:
    bounds = _mark(since, first), _mark(noticed, last)
    return Noticed(metric, key, task, runtime, device, settings, *bounds)


def _mark(microseconds: int, execution: str) -> Mark:
    session, _, seq = execution.rpartition(":")
    return Mark(BEGIN + timedelta(microseconds=microseconds), session, int(seq))
