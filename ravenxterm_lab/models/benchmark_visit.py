"""One visit of a benchmark to one model: what is sent to an executor, and what comes back.

A visit loads a model, runs it cold once, then warm on each input, and answers the quality
items. It may run in another process or on another machine, so all of it pickles.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ravenxterm_lab.exceptions import RequirementError, RuntimeFailureError
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.quality import check_for
from ravenxterm_lab.store.schema import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, RunResult

__all__ = ["COLD", "QUALITY", "WARM", "Cell", "Outcome", "Visit", "lend", "run_visit"]

COLD, WARM, QUALITY = "cold", "warm", "quality"

#: Workbenches by token, so that a visit in a thread of this process uses the caller's own.
_LENT: WeakValueDictionary[str, Workbench] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Cell:
    """One execution of the plan.

    Attributes
    ----------
    key : str
        Unique within the plan.
    phase : str
        ``"cold"``, ``"warm"`` or ``"quality"``.
    index : int
        Which input, for the first two.
    item : str
        Which quality item, for the last.
    """

    key: str
    phase: str
    index: int = 0
    item: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell.

    Attributes
    ----------
    cell : Cell
        Which.
    metrics : dict
        As an execution is recorded.
    hardware : str
        Fingerprint of the machine that ran it.
    load_failed : bool
        Whether the model could not be loaded, so that its other cells were not tried.
    """

    cell: Cell
    metrics: dict[str, Any]
    hardware: str
    load_failed: bool = False


@dataclass(frozen=True, slots=True)
class Visit:
    """A model, and the cells to run on it after one load.

    Attributes
    ----------
    token, home : str
        The workbench to use: that of the caller in its own process, else that of the home.
    model, runtime, options
        What is loaded, by which runtime, and how.
    task : str
        Normalised name.
    cells : tuple of Cell
        In order; a cold one is first.
    inputs : tuple
        All inputs of the plan.
    parameters : mapping or None
        Of each run of an input.
    timeout : float or None
        Of each run (s).
    """

    token: str
    home: str
    model: ModelMetadata
    runtime: str
    options: LoadOptions
    task: str
    cells: tuple[Cell, ...]
    inputs: tuple[Any, ...]
    parameters: Mapping[str, Any] | None = None
    timeout: float | None = None


@dataclass(slots=True)
class _Runs:
    """Runs the model, and remembers the counters of an item that asks several times."""

    loaded: LoadedModel
    visit: Visit
    parameters: Mapping[str, Any] | None
    results: list[RunResult] = field(default_factory=list)

    def __call__(self, inputs: Any) -> Any:
        result = self.loaded.run(
            self.visit.task, inputs, parameters=self.parameters, timeout=self.visit.timeout
        )
        self.results.append(result)
        return result.output

    def metrics(self) -> dict[str, Any]:
        if not self.results:
            return {}
        if len(self.results) > 1:
            # An execution of the store is one call: that of an item is the mean one.
            mean = sum(result.latency for result in self.results) / len(self.results)
            peak = max(result.peak_memory for result in self.results)
            return {"latency": mean, "success": True, "peak_memory": peak or None}
        (result,) = self.results
        cached = result.details.get("cache_n")
        return {**result.metrics(), **({} if cached is None else {"prompt_cached": cached})}


def lend(token: str, bench: Workbench) -> None:
    """Let visits in this process use a workbench for as long as it lives."""
    _LENT[token] = bench


def run_visit(visit: Visit, tell: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Load a model and run its cells.

    Parameters
    ----------
    visit : Visit
        What to do.
    tell : callable, optional
        Told of each outcome at once, of an interrupted run too.

    Returns
    -------
    list of Outcome
        One for each cell; after a load that failed, one for the first.

    Raises
    ------
    RequirementError
        If the inputs or parameters suit no engine.
    """
    own = _LENT.get(visit.token)
    bench = own or Workbench.shared(visit.home)
    here = bench.hardware.fingerprint
    outcomes: list[Outcome] = []

    def keep(cell: Cell, metrics: dict[str, Any], *, load_failed: bool = False) -> None:
        outcomes.append(Outcome(cell, metrics, here, load_failed))
        if tell is not None:
            tell(outcomes[-1])

    # What another model left resident would make this one's load, or its memory, another.
    bench.pool.unload_idle()
    started = time.perf_counter()
    try:
        with bench.pool.acquire(bench.runtime(visit.runtime), visit.model, visit.options) as held:
            loaded, cold = held
            load = {"load_seconds": loaded.report.seconds if cold else 0.0}
            for number, cell in enumerate(visit.cells):
                first = cold and not number
                metrics = _run_cell(bench, loaded, visit, cell, keep)
                keep(cell, {**metrics, "cold": first, **(load if first else {})})
    except RuntimeFailureError as error:
        keep(visit.cells[0], _failure(error, started), load_failed=True)
    finally:
        if own is None:
            bench.pool.unload_idle()
    return outcomes


def _run_cell(
    bench: Workbench,
    loaded: LoadedModel,
    visit: Visit,
    cell: Cell,
    keep: Callable[[Cell, dict[str, Any]], None],
) -> dict[str, Any]:
    check = check_for(visit.task) if cell.phase == QUALITY else None
    runs = _Runs(loaded, visit, check.parameters or None if check else visit.parameters)
    energy = bench.monitoring.energy(visit.options.device)
    started = time.perf_counter()
    graded: dict[str, Any] = {}
    try:
        if check is None:
            runs(visit.inputs[cell.index])
        else:
            verdict = check.item(cell.item).grade(runs)
            graded = {"quality": verdict.score, "answer": verdict.answer}
    except RuntimeFailureError as error:
        return _failure(error, started)
    except (RequirementError, KeyError, ValueError, IndexError) as error:
        if check is None:
            raise
        # Such as a model with other inputs than the check knows: nothing against the model.
        return {
            "success": False,
            "error": f"the check does not apply: {error}",
            "failure": INTERRUPTED,
            "not_applicable": True,
        }
    except BaseException as error:
        stopped = f"stopped: {type(error).__name__}"
        keep(cell, {"success": False, "error": stopped, "failure": INTERRUPTED})
        raise
    return {**runs.metrics(), **energy.metrics(), **graded}


def _failure(error: RuntimeFailureError, started: float) -> dict[str, Any]:
    return {
        "success": False,
        "latency": time.perf_counter() - started,
        "error": str(error),
        "failure": error.kind.value,
    }
