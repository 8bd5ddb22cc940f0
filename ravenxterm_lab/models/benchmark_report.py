"""What a benchmark found: each model's medians with intervals, and every run behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.models.benchmark_visit import COLD, QUALITY, WARM, Outcome
from ravenxterm_lab.quality import Interval, median_interval, wilson
from ravenxterm_lab.store.schema import INTERRUPTED
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import (
    NOT_MEASURED,
    format_bytes,
    format_number,
    format_rate,
    format_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    import polars as pl

__all__ = ["BenchmarkReport", "BenchmarkRun", "ModelResult"]


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One execution of a benchmark, as the store holds it.

    Attributes
    ----------
    model, hardware, cell, phase : str
        What ran where; phase is ``"cold"``, ``"warm"`` or ``"quality"``.
    cold : bool
        Whether the model had just been loaded for it.
    success : bool
        Whether it worked; ``failure`` and ``error`` say why not.
    latency, throughput, time_to_first_token, tokens_in, tokens_out, peak_memory, energy
        As in the table ``executions`` (s, 1/s, s, bytes, J); None where nothing told.
    load_seconds : float or None
        What the load before a cold run took (s).
    quality : float or None
        Score of a quality item (0–1).
    prompt_cached : float or None
        Tokens of the prompt that the engine had not to read, because it still had them.
    load_failed : bool
        Whether it was the load that failed.
    not_applicable : bool
        Whether the check cannot be put to this model.
    """

    model: str
    hardware: str | None
    cell: str
    phase: str
    cold: bool | None
    success: bool
    failure: str | None
    error: str | None
    latency: float | None = None
    throughput: float | None = None
    time_to_first_token: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    peak_memory: int | None = None
    load_seconds: float | None = None
    quality: float | None = None
    prompt_cached: float | None = None
    energy: float | None = None
    load_failed: bool = False
    not_applicable: bool = False

    @classmethod
    def of(cls, model: str, outcome: Outcome) -> BenchmarkRun:
        """Return an outcome as it will be read back from the store."""
        known: dict[str, Any] = {name: outcome.metrics.get(name) for name in cls.__slots__}
        known.update(
            model=model,
            hardware=outcome.hardware,
            cell=outcome.cell.key,
            phase=outcome.cell.phase,
            cold=bool(known["cold"]),
            success=bool(outcome.metrics.get("success", True)),
            load_failed=outcome.load_failed,
            not_applicable=bool(known["not_applicable"]),
        )
        return cls(**known)

    @property
    def counts(self) -> bool:
        """Whether the cell is done: one that the person stopped is not."""
        return self.failure != INTERRUPTED or self.not_applicable


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model on one machine. Intervals hold 90 % where there are 5 values or more.

    Attributes
    ----------
    model, hardware : str
        Which, where.
    latency, throughput, time_to_first_token : Interval or None
        Medians over warm runs (s; tokens or items/s; s).
    cold_latency, load_seconds : Interval or None
        Medians over the first runs after a load, and over these loads (s).
    peak_memory : int or None
        The most that was seen (bytes).
    energy : Interval or None
        Median over warm runs (J).
    success : Interval or None
        Share of runs that worked, with its score interval.
    quality : Interval or None
        Mean score, with its score interval; an item that failed counts 0.
    failures : dict of str to int
        Runs by kind of failure.
    note : str
        What to know about these numbers.
    """

    model: str
    hardware: str | None
    latency: Interval | None
    throughput: Interval | None
    time_to_first_token: Interval | None
    cold_latency: Interval | None
    load_seconds: Interval | None
    peak_memory: int | None
    energy: Interval | None
    success: Interval | None
    quality: Interval | None
    failures: dict[str, int]
    note: str


@dataclass(frozen=True, slots=True)
class BenchmarkReport(Displayed):
    """The result of ``ModelManager.benchmark``.

    Attributes
    ----------
    id : str
        It stands in ``extra`` of each of its executions, as ``benchmark``.
    task : str
        Normalised name.
    runs : tuple of BenchmarkRun
        Every execution, failures too, in the order in which they ended.
    left_out : dict of str to str
        Models that were not run, and why.
    repeats, inputs : int
        Rounds, and inputs of each.
    resumed : int
        How many of the runs were made before an interruption.
    check : str or None
        What the quality says, and what not; None without a check.
    """

    id: str
    task: str
    runs: tuple[BenchmarkRun, ...]
    left_out: dict[str, str]
    repeats: int
    inputs: int
    resumed: int = 0
    check: str | None = None

    @property
    def results(self) -> tuple[ModelResult, ...]:
        """Each model's numbers; best quality first, then the shortest warm latency."""
        groups: dict[tuple[str, str | None], list[BenchmarkRun]] = {}
        for run in self.runs:
            groups.setdefault((run.model, run.hardware), []).append(run)
        found = [_result(*key, runs) for key, runs in groups.items()]
        found.sort(
            key=lambda item: (
                -(item.quality.value if item.quality else 0.0),
                item.latency.value if item.latency else float("inf"),
                item.model,
            )
        )
        return tuple(found)

    def __len__(self) -> int:
        return len(self.runs)

    def pl(self, *, runs: bool = False) -> pl.DataFrame:
        """Return a polars frame: one row a model, or one a run.

        Parameters
        ----------
        runs : bool
            Every execution instead of each model's numbers.
        """
        import polars as pl

        rows = [asdict(run) for run in self.runs] if runs else [_flat(r) for r in self.results]
        return pl.DataFrame(rows, infer_schema_length=None)

    def df(self, *, runs: bool = False) -> pd.DataFrame:
        """Return a pandas frame: one row a model, or one a run (see ``pl``)."""
        import pandas as pd

        rows = [asdict(run) for run in self.runs] if runs else [_flat(r) for r in self.results]
        return pd.DataFrame(rows)

    def _card(self) -> Card:
        results = self.results
        machines = len({item.hardware for item in results}) > 1
        unit = "tok" if self.task == "text_generation" else "items"
        columns: list[tuple[str, Callable[[ModelResult], str]]] = [("model", lambda r: r.model)]
        if machines:
            columns.append(("machine", lambda r: (r.hardware or "unknown")[:12]))
        columns += [
            ("latency", lambda r: _shown(r.latency, format_seconds)),
            ("throughput", lambda r: _shown(r.throughput, lambda v: format_rate(v, unit))),
            ("first token", lambda r: _shown(r.time_to_first_token, format_seconds)),
            ("first run", lambda r: _shown(r.cold_latency, format_seconds)),
            ("load", lambda r: _shown(r.load_seconds, format_seconds)),
            ("peak memory", lambda r: format_bytes(r.peak_memory)),
            ("success", lambda r: f"{r.success.value:.0%} of {r.success.n}" if r.success else "–"),
        ]
        if self.check is not None:
            columns.append(("quality", lambda r: _score(r.quality)))
        never = {"first token", "quality"}
        rows = [[read(item) for _, read in columns] for item in results]
        kept = [
            index for index, (name, _) in enumerate(columns)
            if name not in never or any(row[index] != NOT_MEASURED for row in rows)
        ]  # fmt: skip
        tables = [Table([columns[i][0] for i in kept], [[row[i] for i in kept] for row in rows])]
        failed = [
            [item.model, kind, str(count), _first_error(self.runs, item.model, kind)]
            for item in results for kind, count in item.failures.items()
        ]  # fmt: skip
        if failed:
            tables.append(Table(["failed", "kind", "runs", "what happened first"], failed))
        noted = [[item.model, item.note] for item in results if item.note]
        if noted:
            tables.append(Table(["model", "note"], noted))
        if self.left_out:
            tables.append(Table(["left out", "why"], [list(i) for i in self.left_out.items()]))
        resumed = f", {self.resumed} of them before an interruption" if self.resumed else ""
        runs, rounds = format_number(len(self.runs), "run"), format_number(self.repeats, "round")
        note = (
            f"{runs}{resumed}: {rounds} of {format_number(self.inputs, 'input')}; medians of warm "
            "runs, in brackets their 90% interval (below 5 values: the extremes). "
            f"First run and load are after a fresh load. {self.check or ''}"
        ).rstrip()
        return Card(f"Benchmark of {self.task} · {self.id}", note, tables)


def _result(model: str, hardware: str | None, runs: list[BenchmarkRun]) -> ModelResult:
    warm = [run for run in runs if run.phase == WARM and run.success and not run.cold]
    cold = [run for run in runs if run.phase == COLD and run.success and run.cold]

    def middle(chosen: list[BenchmarkRun], name: str) -> Interval | None:
        return median_interval([v for run in chosen if (v := getattr(run, name)) is not None])

    judged = [run for run in runs if run.phase == QUALITY and not run.not_applicable]
    tried = [run for run in runs if not run.not_applicable]
    failures: dict[str, int] = {}
    for run in tried:
        if not run.success:
            kind = run.failure or "unknown"
            failures[kind] = failures.get(kind, 0) + 1
    notes = []
    again = sum((run.prompt_cached or 0) > 0.5 * (run.tokens_in or 1) for run in warm)
    if again:
        notes.append(
            f"in {again} of {format_number(len(warm), 'warm run')} the engine had read most of "
            "the prompt before (the same one, or one that begins alike), so the first token came "
            "sooner than that of a new prompt"
        )
    if skipped := next((run.error for run in runs if run.not_applicable), None):
        notes.append(skipped)
    peaks = [run.peak_memory for run in runs if run.peak_memory]
    return ModelResult(
        model=model,
        hardware=hardware,
        latency=middle(warm, "latency"),
        throughput=middle(warm, "throughput"),
        time_to_first_token=middle(warm, "time_to_first_token"),
        cold_latency=middle(cold, "latency"),
        load_seconds=middle(cold, "load_seconds"),
        peak_memory=max(peaks, default=None),
        energy=middle(warm, "energy"),
        success=wilson(sum(run.success for run in tried), len(tried)),
        quality=wilson(sum(run.quality or 0.0 for run in judged), len(judged)),
        failures=failures,
        note="; ".join(notes),
    )


def _flat(result: ModelResult) -> dict[str, Any]:
    row: dict[str, Any] = {"model": result.model, "hardware": result.hardware}
    for name in (
        "latency", "throughput", "time_to_first_token", "cold_latency", "load_seconds",
        "energy", "success", "quality",
    ):  # fmt: skip
        interval: Interval | None = getattr(result, name)
        row[name] = interval.value if interval else None
        row[f"{name}_low"] = interval.low if interval else None
        row[f"{name}_high"] = interval.high if interval else None
        row[f"{name}_n"] = interval.n if interval else 0
    row["peak_memory"] = result.peak_memory
    row["failed"] = sum(result.failures.values())
    return row


def _shown(interval: Interval | None, text: Callable[[float], str]) -> str:
    if interval is None:
        return NOT_MEASURED
    if interval.n == 1:
        return text(interval.value)
    return f"{text(interval.value)} ({text(interval.low)} – {text(interval.high)})"


def _score(interval: Interval | None) -> str:
    if interval is None:
        return NOT_MEASURED
    return f"{interval.value:.2f} ({interval.low:.2f} – {interval.high:.2f}), n = {interval.n}"


def _first_error(runs: tuple[BenchmarkRun, ...], model: str, kind: str) -> str:
    return next(
        (r.error or "" for r in runs if r.model == model and (r.failure or "unknown") == kind), ""
    )
