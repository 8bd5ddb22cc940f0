"""A history of another machine, recorded by the project, to look at before there is one here.

Its rows lie as Parquet beside ``machine.json``, which says what they were recorded on and with
(see `data/README.md`). They are restored into a temporary store whose clock stands at their end,
so that "the last 30 days" are always those before the recording ended.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ravenxterm_lab.discovery import Skipped, Source
from ravenxterm_lab.discovery.assemble import build_model
from ravenxterm_lab.discovery.facts_json import decode
from ravenxterm_lab.exceptions import ConfigurationError, RequirementError, StoreError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models.manager import ModelManager
from ravenxterm_lab.models.messages import MessageLog
from ravenxterm_lab.models.registry import ModelRegistry
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.store import Store
from ravenxterm_lab.tables import Card, Table
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.estimate import Estimate, Estimates
    from ravenxterm_lab.models.history import PerformanceHistory
    from ravenxterm_lab.selection import Recommendations
    from ravenxterm_lab.store import ExecutionId

__all__ = ["FACTS_OF_MACHINE", "MACHINE", "SampleManager", "sample_directory"]

#: The file beside the Parquet that says what it was recorded on, and with.
MACHINE = "machine.json"
#: Fields of the hardware profile that it holds.
FACTS_OF_MACHINE = (
    "cpu_architecture", "cpu_name", "cpu_cores", "cpu_threads", "instruction_sets",
    "total_memory", "available_memory", "memory_limit_source", "swap_total", "swap_free",
    "memory_bandwidth", "matrix_speed", "matrix_blas", "notes",
)  # fmt: skip

_READ_ONLY = (
    "This is the sample history, which is only looked at: ModelManager() is the manager of this "
    "machine."
)
_CATALOGUE = "SELECT c.name, c.path, s.facts FROM catalogue c JOIN scanned s USING (path)"
_BY_TASK = """
SELECT task, count(DISTINCT model), count(*), count(*) FILTER (NOT success),
    median(latency) FILTER (success)
FROM executions GROUP BY task ORDER BY task
"""


def sample_directory() -> Path:
    """Return the directory of the sample history that comes with this package.

    Raises
    ------
    ConfigurationError
        If this installation has none.
    """
    checkout = Path(__file__).resolve().parents[2] / "data" / "sample"
    packaged = Path(str(resources.files("ravenxterm_lab"))) / "_sample"
    for directory in (checkout, packaged):
        if (directory / MACHINE).is_file():
            return directory
    raise ConfigurationError(
        "This installation of ravenxterm_lab holds no sample history; reinstall."
    )


class SampleManager(ModelManager):
    """A manager over the sample history; everything that it shows says so.

    Views, SQL, rankings, replays and estimates work as on a history of one's own, for the models
    and the machine of the recording. Nothing can be run or recorded. Get one with
    ``ModelManager.sample()``.

    Parameters
    ----------
    directory : Path, optional
        Of the Parquet and ``machine.json``; by default what comes with this package.

    Raises
    ------
    ConfigurationError
        If there is none.
    StoreError
        If it cannot be read.

    Examples
    --------
    >>> from ravenxterm_lab import ModelManager
    >>> sample = ModelManager.sample()
    >>> sample.sql("SELECT count(*) > 200 FROM executions").fetchall()
    [(True,)]
    """

    def __init__(self, directory: Path | None = None) -> None:
        bench = _SampleBench(sample_directory() if directory is None else directory)
        super().__init__((), workbench=bench, preferences=UserPreferences.get_defaults(), seed=0)
        self._about = bench.about
        self.registry = _SampleRegistry(bench, self._preferences)
        self.messages.add("info", "sample", self._origin())

    def _origin(self) -> str:
        machine = self._about["machine"]
        cores = format_number(machine["cpu_cores"], "core")
        where = f"{machine['cpu_name'] or machine['cpu_architecture']}, {cores}"
        return (
            f"Sample history: recorded by the project on {self._about['begin'][:10]} "
            f"({where}, {format_bytes(machine['total_memory'])}). It is not your own, and nothing "
            "can be added to it; ModelManager() is yours."
        )

    def get_model_recommendations(
        self, task_type: str, requirements: Any = None, top_k: int | None = None
    ) -> Recommendations:
        """Rank the sample's models as on the machine of the recording, from its evidence."""
        ranked = super().get_model_recommendations(task_type, requirements, top_k)
        ranked.origin = self._bench.origin
        return ranked

    def get_model_performance_history(self, name: str | ModelMetadata) -> PerformanceHistory:
        """Return what the sample holds of a model."""
        history = super().get_model_performance_history(name)
        return replace(history, origin=self._bench.origin)

    def estimate(self, model: ModelMetadata | str, **options: Any) -> Estimate:
        """Say what a model takes on the machine of the recording, or on another one."""
        found = super().estimate(model, **options)
        return replace(found, here=False) if found.here else found

    def estimates(self, **options: Any) -> Estimates:
        """Say what every model takes on the machine of the recording, or on another one."""
        found = super().estimates(**options)
        found.here = False
        return found

    def run(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the models are not here."""
        raise RequirementError(_READ_ONLY)

    optimize_model_selection = benchmark = track = load = unload = run
    record_execution_metrics = feedback = import_quality = run
    monitor = get_resource_usage = get_system_status = cleanup_resources = run

    def _card(self) -> Card:
        rows = [
            [
                (task or "other").replace("_", " "),
                *(f"{count:,}" for count in counts),
                format_seconds(latency),
            ]
            for task, *counts, latency in self.sql(_BY_TASK).fetchall()
        ]
        header = ["task", "models", "executions", "not successful", "median latency"]
        table = Table(header, rows, [False, True, True, True, True])
        return Card("RavenXTerm Lab: the sample history", self._origin(), [table])

    def __repr__(self) -> str:
        return f"<SampleManager: {self._origin()}>"


class _SampleStore(Store):
    """A store that takes what `restore` brings and nothing else."""

    def record(self, table: str, **fields: Any) -> ExecutionId:  # noqa: ARG002 - as its base
        raise StoreError(_READ_ONLY)

    def record_execution(self, **_: Any) -> ExecutionId:
        raise StoreError(_READ_ONLY)


class _SampleBench(Workbench):
    """The tools of the sample: its store, its machine, its moment."""

    origin: ClassVar[str] = " of the sample history"

    def __init__(self, directory: Path) -> None:
        self.about = _read_about(directory)
        home = Path(tempfile.mkdtemp(prefix="ravenxterm-sample-"))
        super().__init__(home, hardware=_machine(self.about["machine"]))
        end = datetime.fromisoformat(self.about["end"])
        nanoseconds = int(end.replace(tzinfo=UTC).timestamp() * 1e9)
        self._end = end
        self.store = _SampleStore(self.paths.store, clock=lambda: nanoseconds, ingest=False)
        # What happens here is kept here: it is no part of the sample.
        self.messages = MessageLog()
        weakref.finalize(self, _remove, self.store.close, home)
        self.store.restore(directory)

    def now(self) -> str:
        """Return the end of the recording."""
        return self._end.isoformat(sep=" ")


def _remove(close: Callable[[], None], home: Path) -> None:
    close()
    shutil.rmtree(home, ignore_errors=True)


def _read_about(directory: Path) -> dict[str, Any]:
    path = directory / MACHINE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {
            "machine": {name: about["machine"][name] for name in FACTS_OF_MACHINE},
            "companions": dict(about["companions"]),
            **{name: str(about[name]) for name in ("begin", "end")},
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} does not say what the sample history was recorded on "
            f"({type(error).__name__}: {error}); reinstall ravenxterm_lab."
        ) from error


class _RecordedProfile(HardwareProfile):
    """A machine that is not this one: its free memory is that of the recording."""

    __slots__ = ()

    def refreshed(self, *, nvml: Any = None) -> HardwareProfile:  # noqa: ARG002 - as its base
        return self


def _machine(facts: Mapping[str, Any]) -> HardwareProfile:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
    }
    return _RecordedProfile(**values)


class _SampleSource(Source):
    """The models of the sample, from the facts that the recording scan read."""

    name = "sample"

    def __init__(self, bench: _SampleBench) -> None:
        self._bench = bench

    def roots(self) -> tuple[Path, ...]:
        return ()

    def discover(self, *_: Any) -> Iterator[ModelMetadata | Skipped]:
        for name, place, document in self._bench.store.sql(_CATALOGUE).fetchall():
            path = Path(place)
            try:
                found = decode(document)
            except (ValueError, TypeError):
                found = "its facts were recorded by another version of this package"
            if not isinstance(found, tuple):
                yield Skipped(path, found or "no model", self.name)
                continue
            facts, mark, problems = found
            beside = self._bench.about["companions"].get(name, ())
            yield build_model(
                facts,
                name=name,
                paths=(path,),
                mark=mark,
                source=self.name,
                companions=tuple(path.parent / companion for companion in beside),
                problems=problems,
            )


class _SampleRegistry(ModelRegistry):
    """The models of the sample; their files are not here."""

    def __init__(self, bench: _SampleBench, preferences: UserPreferences) -> None:
        super().__init__((), preferences=preferences, workbench=bench)
        self._sources = [_SampleSource(bench)]

    def space(self, *_: Any, **__: Any) -> NoReturn:
        raise RequirementError(_READ_ONLY)

    trash = space

    def _card(self) -> Card:
        card = super()._card()
        return replace(
            card,
            title=card.title + self._bench.origin,
            note=f"{card.note} of the recording; their files are not on this machine",
        )
