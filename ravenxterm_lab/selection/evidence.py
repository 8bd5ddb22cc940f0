"""What history says of each (model, task): sufficient statistics, as one engine runs the model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ravenxterm_lab.store import Store

__all__ = [
    "KV",
    "NO_MATTER",
    "OUTCOME_HALF_LIFE_DAYS",
    "SPEED_HALF_LIFE_DAYS",
    "CellEvidence",
    "Engine",
    "Evidence",
    "Qualities",
    "Speeds",
    "engine_settings",
    "kv_type",
]

#: Days after which a speed measurement counts half; machines and drivers change.
SPEED_HALF_LIFE_DAYS = 14.0
#: Days after which a success or a failure counts half: what was broken for a while is mended, and
#: nobody would run it again to say so.
OUTCOME_HALF_LIFE_DAYS = 2.0

#: Neither how much context there is room for nor the seed changes how fast a token is.
NO_MATTER = r"(^| )(ctx|seed)=[^ ]*"
#: On the type of the KV cache the quality depends.
KV = r"(?:^| )kv=([^ ]*)"


def engine_settings(settings: str | None) -> str | None:
    """Return what the speed depends on among the settings of an engine; None if not known.

    Examples
    --------
    >>> engine_settings("ctx=4096 kv=f16 device=cuda gpu_layers=20")
    'kv=f16 device=cuda gpu_layers=20'
    """
    return None if settings is None else re.sub(NO_MATTER, "", settings).strip(" ")


def kv_type(settings: str | None) -> str | None:
    """Return the type of the KV cache, on which the quality depends; None if not known.

    Examples
    --------
    >>> kv_type("ctx=4096 kv=q8_0")
    'q8_0'
    """
    found = None if settings is None else re.search(KV, settings)
    return (found.group(1) or None) if found else None


class Engine(NamedTuple):
    """How a model would run, as far as its speed and its quality depend on it.

    A measurement that does not say how it ran counts for every engine.

    Examples
    --------
    >>> Engine.of("llama_cpp", "cpu", "ctx=4096 kv=f16")
    Engine(runtime='llama_cpp', device='cpu', settings='kv=f16', kv='f16')

    Attributes
    ----------
    runtime, device : str
        Such as ``"llama_cpp"`` and ``"cpu"``.
    settings : str
        Without what does not matter (see `engine_settings`).
    kv : str or None
        Type of the KV cache.
    """

    runtime: str
    device: str
    settings: str
    kv: str | None

    @classmethod
    def of(cls, runtime: str, device: str, settings: str) -> Engine:
        """Return the engine that a text of settings describes.

        Parameters
        ----------
        runtime, device : str
            Such as ``"llama_cpp"`` and ``"cpu"``.
        settings : str
            As the store records them (see `LoadOptions.settings`).
        """
        return _engine(runtime, device, settings)


@lru_cache(maxsize=1024)
def _engine(runtime: str, device: str, settings: str) -> Engine:
    return Engine(runtime, device, engine_settings(settings) or "", kv_type(settings))


class Speeds(NamedTuple):
    """Speeds and times to the first token with one engine; None is "not recorded"."""

    runtime: str | None
    device: str | None
    settings: str | None
    n: float
    total: float
    first_n: int
    first_total: float

    def counts_for(self, engine: Engine) -> bool:
        """Say whether they tell how fast that engine is."""
        return (
            self.settings in (None, engine.settings)
            and self.runtime in (None, engine.runtime)
            and self.device in (None, engine.device)
        )


class Qualities(NamedTuple):
    """Qualities with one type of KV cache; None is "not recorded"."""

    kv: str | None
    n: float
    total: float

    def counts_for(self, engine: Engine) -> bool:
        """Say whether they tell how good the output of that engine is."""
        return self.kv in (None, engine.kv)


@dataclass(frozen=True, slots=True)
class CellEvidence:
    """Statistics of one model on one task.

    ``recent_*`` are runs and successes, a half-life of two days counted in; ``*_n`` are
    (weighted) counts, ``*_mean`` means; speed is ln tokens/s, work is ln output tokens (or items),
    seconds and bytes as everywhere.
    """

    runs: int = 0
    succeeded: int = 0
    failed: int = 0
    recent_runs: float | None = None
    recent_succeeded: float | None = None
    quality_n: float = 0.0
    quality_mean: float | None = None
    speed_n: float = 0.0
    speed_mean: float | None = None
    work_n: float = 0.0
    work_mean: float | None = None
    first_token_mean: float | None = None

    @property
    def outcomes(self) -> tuple[float, float]:
        """Successes and runs, weighed by their age where that is known."""
        if self.recent_runs is None or self.recent_succeeded is None:
            return float(self.succeeded), float(self.runs)
        return self.recent_succeeded, self.recent_runs

    def statistic(self, metric: str) -> tuple[float, float | None]:
        """Return count and mean of ``"quality"``, ``"speed"`` or ``"work"``."""
        return getattr(self, f"{metric}_n"), getattr(self, f"{metric}_mean")

    def measured(self, speeds: Sequence[Speeds], qualities: Sequence[Qualities]) -> CellEvidence:
        """Return it with these speeds and qualities in place of its own.

        Parameters
        ----------
        speeds, qualities : sequences of Speeds and of Qualities
            That count.
        """
        n = sum(one.n for one in speeds)
        first_n = sum(one.first_n for one in speeds)
        quality_n = sum(one.n for one in qualities)
        return replace(
            self,
            quality_n=quality_n,
            quality_mean=sum(one.total for one in qualities) / quality_n if quality_n else None,
            speed_n=n,
            speed_mean=sum(one.total for one in speeds) / n if n else None,
            first_token_mean=sum(one.first_total for one in speeds) / first_n if first_n else None,
        )


_NEVER_RUN = CellEvidence()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was measured.

    The model key is the fingerprint, or the name of a model that has none.

    Attributes
    ----------
    cells : mapping of (model key, task) to CellEvidence
        Executions, whatever ran them.
    parts : mapping of (model key, task) to (list of Speeds, list of Qualities)
        The same by engine, where there are several.
    """

    cells: Mapping[tuple[str, str], CellEvidence]
    parts: Mapping[tuple[str, str], tuple[Sequence[Speeds], Sequence[Qualities]]] = field(
        default_factory=dict, compare=False
    )
    _by_model: dict[str, list[CellEvidence]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_model: dict[str, list[CellEvidence]] = {}
        for (model, _), cell in self.cells.items():
            by_model.setdefault(model, []).append(cell)
        object.__setattr__(self, "_by_model", by_model)

    @classmethod
    def none(cls) -> Evidence:
        """Return the evidence of an empty history."""
        return cls({})

    @classmethod
    def from_store(cls, store: Store, *, hardware: str, now: str) -> Evidence:
        """Read the statistics from the store.

        Parameters
        ----------
        store : Store
            Where executions, feedback and changes are.
        hardware : str
            Fingerprint of this machine; rows of unknown hardware count as measured here.
        now : str
            The moment (ISO 8601, UTC) from which the half-life counts back.
        """
        from ravenxterm_lab.selection.ledger import Ledger
        from ravenxterm_lab.selection.reading import read_whole

        moment = datetime.fromisoformat(now)
        with store.snapshot() as reader:
            whole = read_whole(
                reader, hardware=hardware, now=moment, half_life_days=SPEED_HALF_LIFE_DAYS
            )
        return Ledger(whole, moment).evidence(moment)

    def under(self, engines: Mapping[str, Engine]) -> Evidence:
        """Return what counts for models that would run in a certain way.

        Speed and time to the first token belong to an engine with its settings: the same model
        on a GPU says little of the CPU, and what it says the estimator knows. Quality belongs
        to the model and the type of its KV cache, and how long its answers are, and whether
        they succeed, to the model.

        Parameters
        ----------
        engines : mapping of str to Engine
            By model key.
        """
        changed = {}
        for (key, task), (speeds, qualities) in self.parts.items():
            engine = engines.get(key)
            if engine is None:
                continue
            fitting = [one for one in speeds if one.counts_for(engine)]
            graded = [one for one in qualities if one.counts_for(engine)]
            if len(fitting) < len(speeds) or len(graded) < len(qualities):
                changed[key, task] = self.cells[key, task].measured(fitting, graded)
        return replace(self, cells={**self.cells, **changed}, parts={}) if changed else self

    def cell(self, key: str, task: str) -> CellEvidence:
        """Return the statistics of one cell; empty ones when it was never run.

        Parameters
        ----------
        key : str
            Fingerprint of the model, or its name without one.
        task : str
            Normalised task name.
        """
        return self.cells.get((key, task), _NEVER_RUN)

    def of_model(self, key: str) -> Iterator[CellEvidence]:
        """Yield the cells of one model, over all tasks."""
        return iter(self._by_model.get(key, ()))
