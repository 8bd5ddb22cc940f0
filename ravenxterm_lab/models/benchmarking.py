"""A sweep over models, inputs and repeats: planned, randomised, resumable, recorded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ravenxterm_lab.exceptions import RequirementError, StoreError
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.models.benchmark_report import BenchmarkReport, BenchmarkRun
from ravenxterm_lab.models.benchmark_visit import (
    COLD,
    QUALITY,
    WARM,
    Cell,
    Outcome,
    Visit,
    lend,
    run_visit,
)
from ravenxterm_lab.models.run_report import no_suitable_model
from ravenxterm_lab.quality import QualityCheck, check_for
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.store.schema import INTERRUPTED
from ravenxterm_lab.units import format_number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor, Future

    from tqdm import tqdm

    from ravenxterm_lab.models.selector import AdaptiveModelSelector
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions

__all__ = ["choose_models", "run_benchmark"]

_LATEST_SQL = """
SELECT extra->>'benchmark' AS benchmark
FROM executions WHERE task = $task AND extra->>'plan' = $plan
GROUP BY 1 ORDER BY max(ts) DESC LIMIT 1
"""
_DONE_SQL = """
SELECT model, hardware, extra->>'cell', extra->>'phase', (extra->>'cold')::BOOLEAN, success,
       extra->>'failure', error, latency, throughput, time_to_first_token, tokens_in, tokens_out,
       peak_memory, num['load_seconds'], quality, num['prompt_cached'], energy,
       coalesce((extra->>'load_failed')::BOOLEAN, false),
       coalesce((extra->>'not_applicable')::BOOLEAN, false)
FROM executions WHERE task = $task AND extra->>'benchmark' = $benchmark ORDER BY ts, seq
"""


def choose_models(
    selector: AdaptiveModelSelector,
    registered: Mapping[str, ModelMetadata],
    task: str,
    models: Iterable[ModelMetadata | str] | ModelMetadata | str | None,
) -> tuple[list[tuple[ModelMetadata, LoadOptions]], dict[str, str]]:
    """Return the models that can do a task here with their options, and why others cannot.

    Raises
    ------
    NoSuitableModelError
        If none can.
    RequirementError
        If what was given is no model.
    """
    given = [models] if isinstance(models, (str, ModelMetadata)) else models
    wanted = list(registered.values()) if given is None else list(given)
    if not all(isinstance(model, ModelMetadata) for model in wanted):
        raise RequirementError(f"models must be names or ModelMetadata, got {models!r:.80}.")
    chosen = {model.name: model for model in wanted if isinstance(model, ModelMetadata)}
    ranked, options = selector.candidates(list(chosen.values()), TaskRequirements.parse(None, task))
    if not ranked:
        raise no_suitable_model(ranked, [])
    reasons = {item.model.name: str(item) for item in ranked.rejected}
    if given is None:
        # Among all that is registered, what is made for another task is not worth a line.
        reasons = {n: r for n, r in reasons.items() if task in chosen[n].task_types}
    return [(item.model, options[item.model.name]) for item in ranked], reasons


@dataclass(slots=True)
class _Plan:
    bench: Workbench
    task: str
    chosen: dict[str, tuple[ModelMetadata, LoadOptions]]
    inputs: tuple[Any, ...]
    repeats: int
    check: QualityCheck | None
    parameters: Mapping[str, Any] | None
    timeout: float | None
    seed: int

    def fingerprint(self) -> str:
        models = sorted(
            (model.fingerprint or model.name, model.runtimes[0], options.settings)
            for model, options in self.chosen.values()
        )
        check = (self.check.task, self.check.version) if self.check else None
        told = (
            self.task, models, self.repeats, check, self.seed, dict(self.parameters or {}),
            self.inputs, self.bench.hardware.fingerprint,
        )  # fmt: skip
        return _digest(told)

    def visits(self) -> list[tuple[str, list[Cell]]]:
        """Every model once in each round, in a random order, its inputs in another."""
        rng = random.Random(self.seed)  # noqa: S311 - an order, no secret
        found = []
        for number in range(self.repeats):
            names = sorted(self.chosen)
            rng.shuffle(names)
            for name in names:
                order = list(range(len(self.inputs)))
                rng.shuffle(order)
                # An engine that keeps the last prompt must not meet it again at once.
                cells = [Cell(f"{number}:{name}:cold", COLD, order[-1])]
                cells += [Cell(f"{number}:{name}:{index}", WARM, index) for index in order]
                if self.check is not None and not number:
                    # Easy ones first and hard ones last would look like a model that got worse.
                    items = list(self.check.items)
                    rng.shuffle(items)
                    cells += [
                        Cell(f"quality:{name}:{item.name}", QUALITY, item=item.name)
                        for item in items
                    ]
                found.append((name, cells))
        return found


def _digest(value: object) -> str:
    hasher = hashlib.sha256()

    def feed(part: object) -> None:
        hasher.update(f"<{type(part).__name__}>".encode())
        if isinstance(part, Mapping):
            for key in sorted(part, key=str):
                feed(key)
                feed(part[key])
        elif isinstance(part, (list, tuple)):
            for item in part:
                feed(item)
        elif hasattr(part, "tobytes"):
            hasher.update(f"{getattr(part, 'dtype', '')}{getattr(part, 'shape', '')}".encode())
            hasher.update(part.tobytes())
        else:
            hasher.update(repr(part).encode("utf-8", "surrogatepass"))
        hasher.update(b"</>")

    feed(value)
    return hasher.hexdigest()[:16]


class _Ledger:
    """What is done: read back from the store, and recorded as it happens."""

    def __init__(self, plan: _Plan, bar: tqdm[Any]) -> None:
        self.plan = plan
        self.bench = plan.bench
        self.bar = bar
        self.fingerprint = plan.fingerprint()
        self.cells = {cell.key for _, cells in plan.visits() for cell in cells}
        self.runs: list[BenchmarkRun] = []
        self.resumed = 0
        self.id = self._continue() or f"{self.fingerprint}-{uuid4().hex[:6]}"

    def _continue(self) -> str | None:
        """Return the id of an unfinished run of the same plan, with what it has done."""
        store, task = self.bench.store, self.plan.task
        try:
            latest = store.sql(_LATEST_SQL, {"plan": self.fingerprint, "task": task}).fetchall()
            if not latest:
                return None
            asked = {"benchmark": latest[0][0], "task": task}
            rows = store.sql(_DONE_SQL, asked).fetchall()
        except StoreError as error:
            self.bench.messages.add("warning", "store", f"Begun anew, not gone on with: {error}")
            return None
        self.runs = [run for row in rows if (run := BenchmarkRun(*row)).counts]
        if self.cells <= self.done():
            self.runs = []  # finished: the same call measures again
            return None
        self.resumed = len(self.runs)
        return str(latest[0][0])

    def done(self) -> set[str]:
        broken = self.broken()
        return {run.cell for run in self.runs} | {
            key for key in self.cells if key.split(":", 1)[1].rpartition(":")[0] in broken
        }

    def broken(self) -> set[str]:
        """Models that could not be loaded: the same load is not tried again."""
        return {run.model for run in self.runs if run.load_failed}

    def keep(self, name: str, outcome: Outcome) -> None:
        model, options = self.plan.chosen[name]
        metrics = {
            **outcome.metrics,
            "benchmark": self.id,
            "plan": self.fingerprint,
            "cell": outcome.cell.key,
            "phase": outcome.cell.phase,
            **({"load_failed": True} if outcome.load_failed else {}),
        }
        self.bench.record_execution(
            metrics=metrics,
            model=model.name,
            fingerprint=model.fingerprint,
            task=self.plan.task,
            device=options.device.value,
            runtime=model.runtimes[0],
            settings=options.settings,
            hardware=outcome.hardware,
        )
        run = BenchmarkRun.of(name, outcome)
        if outcome.metrics.get("failure") not in (None, INTERRUPTED):
            self.bench.messages.add("warning", name, f"In a benchmark: {run.error}")
        if run.counts:
            self.runs.append(run)
            self.bar.update()


def run_benchmark(
    bench: Workbench,
    task: str,
    chosen: Sequence[tuple[ModelMetadata, LoadOptions]],
    left_out: Mapping[str, str],
    *,
    inputs: Any,
    repeats: int,
    quality: bool,
    parameters: Mapping[str, Any] | None,
    executor: Executor | None,
    seed: int,
    timeout: float | None,
    progress: bool,
) -> BenchmarkReport:
    """Run a benchmark (see ``ModelManager.benchmark``)."""
    from tqdm.auto import tqdm

    if type(repeats) is not int or repeats < 1:
        raise RequirementError(f"repeats must be a whole number of 1 or more, got {repeats!r}.")
    check = check_for(task)
    if quality and check is None:
        raise RequirementError(f"There is no built-in quality check for {task}.")
    if inputs is not None:
        given = _as_inputs(inputs)
    elif check is not None:
        given = check.samples()
    else:
        raise RequirementError(f"benchmark needs inputs for {task}: there are no built-in ones.")
    if parameters is None and check is not None and check.sample_parameters:
        parameters = check.sample_parameters
    plan = _Plan(
        bench, task, {model.name: (model, options) for model, options in chosen},
        given, repeats, check if quality else None, parameters, timeout, seed,
    )  # fmt: skip
    with tqdm(desc=f"Benchmark {task}", unit="run", disable=not progress) as bar:
        ledger = _Ledger(plan, bar)
        bar.total = len(ledger.cells)
        bar.update(len(ledger.done()))
        try:
            _work(ledger, executor)
        except KeyboardInterrupt:
            done = f"{len(ledger.done())} of {format_number(len(ledger.cells), 'run')}"
            bench.messages.add(
                "info", "benchmark",
                f"Stopped after {done}, which are kept. Call benchmark with the same arguments "
                f"to go on (it is {ledger.id}).",
            )  # fmt: skip
            raise
    return BenchmarkReport(
        id=ledger.id,
        task=task,
        runs=tuple(ledger.runs),
        left_out=dict(left_out),
        repeats=repeats,
        inputs=len(plan.inputs),
        resumed=ledger.resumed,
        check=plan.check.measures if plan.check else None,
    )


def _as_inputs(inputs: Any) -> tuple[Any, ...]:
    single = isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Sequence)
    if not single and inputs and isinstance(inputs[0], Mapping) and "role" in inputs[0]:
        single = True  # the messages of one chat
    found = (inputs,) if single else tuple(inputs)
    if not found:
        raise RequirementError("inputs must hold at least one input, got an empty list.")
    return found


def _work(ledger: _Ledger, executor: Executor | None) -> None:
    plan, done = ledger.plan, ledger.done()
    token = uuid4().hex
    lend(token, plan.bench)
    visits = []
    for name, cells in plan.visits():
        left = [cell for cell in cells if cell.key not in done]
        if not left:
            continue
        if left[0].phase != COLD:
            # It was interrupted within the visit: it is loaded again, so the first run is cold.
            left.insert(0, cells[0])
        model, options = plan.chosen[name]
        visits.append(
            Visit(
                token,
                str(plan.bench.paths.home),
                model,
                model.runtimes[0],
                options,
                plan.task,
                tuple(left),
                plan.inputs,
                plan.parameters,
                plan.timeout,
            )
        )
    if executor is None:
        for visit in visits:
            if visit.model.name not in ledger.broken():
                run_visit(visit, partial(ledger.keep, visit.model.name))
    else:
        _spread(ledger, executor, visits)


def _spread(ledger: _Ledger, executor: Executor, visits: list[Visit]) -> None:
    futures: dict[Future[list[Outcome]], Visit] = {}
    try:
        for visit in visits:
            futures[executor.submit(run_visit, visit)] = visit
        for future in as_completed(futures):
            for outcome in future.result():
                ledger.keep(futures[future].model.name, outcome)
    finally:
        for future in futures:
            future.cancel()
