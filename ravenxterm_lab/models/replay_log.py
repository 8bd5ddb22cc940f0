"""Read past decisions from the store, with what was known of each candidate, to decide again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import SAFETY_FACTOR, Estimator
from ravenxterm_lab.exceptions import PreferenceError, RequirementError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.base import DEFAULT_CONTEXT
from ravenxterm_lab.selection import Arm, Engine, Machine, measurements_against, memory_against
from ravenxterm_lab.selection.reading import Mark, Run
from ravenxterm_lab.selection.replay import Execution, Judgement, PastDecision
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.selection import Decision
    from ravenxterm_lab.store import Store

__all__ = ["DECISIONS_SQL", "Log", "Setting", "read_events", "read_log"]

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

#: What a change of preferences or hardware may lift; the limits on measurements are held again.
_LIFTED = frozenset(
    {"max_memory_usage", "preferred_devices", "max_latency", "min_throughput", "min_quality"}
)
_ON_HARDWARE = frozenset({"available_memory", "memory", "required_hardware", "max_memory_bytes"})
_UNKNOWN_RATE = 10.0
_UNKNOWN_FIRST_TOKEN = 0.05


@dataclass(frozen=True, slots=True)
class Setting:
    """What decisions are to be made under.

    Attributes
    ----------
    here : HardwareProfile
        This machine.
    hardware : HardwareProfile or None
        Another machine to decide for.
    models : mapping of str to ModelMetadata
        Registered models, by name.
    preferences : callable
        Returns the preferences to decide under, given those that were in force.
    """

    here: HardwareProfile
    hardware: HardwareProfile | None
    models: Mapping[str, ModelMetadata]
    preferences: Callable[[UserPreferences], UserPreferences]


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


@dataclass(frozen=True, slots=True)
class _Candidate:
    selection: str
    model: str
    fingerprint: str | None
    feasible: bool
    reason: str | None
    constraint: str | None
    probability: float | None
    device: str | None
    settings: str | None
    memory_bytes: int | None
    memory_measured: bool | None
    decode_rate: float | None
    first_token: float | None
    load_seconds: float | None
    resident: bool | None


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
    candidates: dict[str, list[_Candidate]] = {}
    for values in store.rows(_CANDIDATES_SQL, asked):
        one = _Candidate(*values)
        candidates.setdefault(one.selection, []).append(one)
    reader = _Reader(setting, {row[0]: row for row in store.rows(_CATALOGUE_SQL, {})})
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


class _Reader:
    def __init__(self, setting: Setting, catalogue: Mapping[str, tuple[Any, ...]]) -> None:
        self._setting = setting
        self._catalogue = catalogue
        self._there = setting.hardware or setting.here
        # What was learned since would be a look ahead; what was known then is in the record.
        self._estimator = Estimator(self._there)
        self._by_print = {m.fingerprint: m for m in setting.models.values() if m.fingerprint}
        self._preferences: dict[str, UserPreferences] = {}
        self._estimated: dict[tuple[Any, ...], tuple[Arm | None, str]] = {}
        self._gone: set[str] = set()

    def notes(self) -> Iterator[str]:
        if self._gone:
            names = ", ".join(sorted(self._gone)[:3]) + (" …" if len(self._gone) > 3 else "")
            yield (
                f"{len(self._gone)} models that are registered no more ({names}) could not be "
                "estimated anew, so they are no candidates where that was needed"
            )

    def decision(self, row: tuple[Any, ...], candidates: list[_Candidate]) -> PastDecision | str:
        at, key, task, chosen, seed, requirements, preferences, hardware, machine, execution = row
        if machine is None:
            return "recorded by a version that kept no facts of the candidates"
        if self._setting.hardware is None and hardware != self._setting.here.fingerprint:
            return "made on other hardware (decide for it with hardware=…)"
        try:
            now = self._parsed(preferences)
            wanted = TaskRequirements.parse(json.loads(requirements or "{}"), task)
        except (PreferenceError, RequirementError) as error:
            return f"their preferences or requirements are not understood here ({error})"
        place = self._machine(json.loads(machine), now)
        arms: list[Arm] = []
        beside: list[Arm] = []
        rejected: dict[str, str] = {}
        for one in candidates:
            arm, reason = self._candidate(one, wanted, place)
            if reason:
                rejected[one.model] = reason
            if arm is not None:
                (beside if reason else arms).append(arm)
        limits = (wanted.max_latency, wanted.min_throughput, wanted.min_quality)
        return PastDecision(
            id=key,
            at=at,
            task=task,
            chosen=chosen,
            probability={c.model: c.probability for c in candidates if c.probability is not None},
            arms=tuple(arms),
            beside=tuple(beside),
            rejected=rejected,
            preferences=now,
            budget_bytes=place.budget,
            seed=seed,
            violates=partial(_violations, wanted, task, now)
            if any(limit is not None for limit in limits)
            else None,
            outcome=execution,
        )

    def _parsed(self, text: str) -> UserPreferences:
        if text not in self._preferences:
            self._preferences[text] = self._setting.preferences(UserPreferences(**json.loads(text)))
        return self._preferences[text]

    def _machine(self, told: dict[str, Any], now: UserPreferences) -> Machine:
        if self._setting.hardware is not None:
            there = self._setting.hardware
            present, total, free = there.devices, there.total_memory, there.available_memory
        else:
            present = tuple(HardwareType(name) for name in told["present"])
            total, free = told["total"], told["available"]
        preferred = tuple(now.preferred_devices)
        devices = tuple(device for device in preferred if device in present)
        if self._setting.hardware is not None and set(devices) <= {HardwareType.CPU}:
            # Who thinks of another machine wants to know what its GPU does, preferred or not.
            devices = present
        return Machine(
            devices=devices,
            total=total,
            available=free,
            budget=int(total * now.max_memory_usage),
            present=present,
            preferred=preferred,
        )

    def _model(self, one: _Candidate) -> ModelMetadata | None:
        return self._by_print.get(one.fingerprint or "") or self._setting.models.get(one.model)

    def _candidate(
        self, one: _Candidate, wanted: TaskRequirements, machine: Machine
    ) -> tuple[Arm | None, str]:
        """Return what is known of a candidate, and why it falls out, or an empty reason."""
        lifted = _LIFTED | (_ON_HARDWARE if self._setting.hardware else frozenset())
        model = self._model(one)
        if not one.feasible and one.constraint not in lifted:
            return self._recorded(one, model), one.reason or "rejected then"
        device = self._device(one, model, wanted, machine)
        if device is None:
            could = one.device or "another device"
            return self._recorded(one, model), f"it runs on {could}, which is not preferred"
        as_then = self._setting.hardware is None and device.value == one.device
        if as_then and one.decode_rate is not None and one.memory_bytes is not None:
            need = one.memory_bytes
            if not one.memory_measured:
                need = math.ceil(need * SAFETY_FACTOR)
            return self._recorded(one, model), _too_much(need, machine)
        if model is None:
            self._gone.add(one.model)
            return None, "registered no more, so that it cannot be estimated anew"
        return self._anew(one, model, wanted, machine, device)

    def _device(
        self,
        one: _Candidate,
        model: ModelMetadata | None,
        wanted: TaskRequirements,
        machine: Machine,
    ) -> HardwareType | None:
        allowed = [
            device
            for device in machine.devices
            if not wanted.required_hardware or device in wanted.required_hardware
        ]
        if self._setting.hardware is not None:
            return allowed[0] if allowed else None
        could = model.preferred_hardware if model else ()
        usable = [d for d in allowed if d in could or d.value == one.device]
        then = HardwareType(one.device) if one.device else None
        # It was placed there for a reason: the first of the devices that it fitted on.
        if then in usable:
            return then
        return usable[0] if usable else None

    def _recorded(self, one: _Candidate, model: ModelMetadata | None) -> Arm | None:
        model = model or self._catalogued(one)
        if model is None or one.memory_bytes is None or one.decode_rate is None:
            return None
        engine = None
        if model.runtimes and one.device and one.settings:
            engine = Engine.of(model.runtimes[0], one.device, one.settings)
        return Arm(
            model=model,
            memory_bytes=one.memory_bytes,
            decode_rate=one.decode_rate,
            first_token_seconds=one.first_token or 0.0,
            load_seconds=one.load_seconds or 0.0,
            resident=bool(one.resident),
            engine=engine,
        )

    def _catalogued(self, one: _Candidate) -> ModelMetadata | None:
        row = self._catalogue.get(one.fingerprint or "")
        if row is None:
            return None
        fingerprint, _, kind, path, size, parameters = row
        return ModelMetadata(
            one.model, ModelType(kind), Path(path or ""), size or 0,
            fingerprint=fingerprint, parameter_count=parameters,
        )  # fmt: skip

    def _anew(
        self,
        one: _Candidate,
        model: ModelMetadata,
        wanted: TaskRequirements,
        machine: Machine,
        device: HardwareType,
    ) -> tuple[Arm | None, str]:
        """Estimate a candidate from formulas alone, on this or on another machine."""
        context = wanted.min_context_length
        if context is not None and model.context_length:
            context = min(context, model.context_length)
        if context is not None and context <= DEFAULT_CONTEXT:
            context = None
        key = (model.name, device, context, machine.limit, wanted.max_memory_bytes)
        if key not in self._estimated:
            options = LoadOptions(device=device, context_length=context).resolved(model)
            if device is not HardwareType.CPU:
                found = self._estimator.best_offload(model, machine.limit, options)
                options = found or options
            memory = self._estimator.memory(model, options, budget_bytes=machine.limit)
            against = memory_against(memory, wanted, machine)
            reason = "; ".join(violation.reason for violation in against)
            speed = self._estimator.speed(model, options)
            arm = None
            if memory.total_bytes is not None:
                arm = Arm(
                    model=model,
                    memory_bytes=memory.total_bytes,
                    decode_rate=speed.decode_rate or _UNKNOWN_RATE,
                    first_token_seconds=speed.time_to_first_token or _UNKNOWN_FIRST_TOKEN,
                    load_seconds=speed.load_seconds,
                    engine=Engine.of(model.runtimes[0], device.value, options.settings)
                    if model.runtimes
                    else None,
                )
            self._estimated[key] = arm, reason
        arm, reason = self._estimated[key]
        if arm is not None and one.resident:
            arm = replace(arm, resident=True)
        return arm, reason


def _too_much(need: int, machine: Machine) -> str:
    if need > machine.budget:
        return f"it needs {format_bytes(need)}, the budget is {format_bytes(machine.budget)}"
    if need > machine.available:
        return f"it needs {format_bytes(need)}, only {format_bytes(machine.available)} were free"
    return ""


def _violations(
    wanted: TaskRequirements, task: str, preferences: UserPreferences, decision: Decision
) -> dict[str, str]:
    found = {}
    for index, arm in enumerate(decision.arms):
        against = measurements_against(
            wanted,
            latency=float(decision.latency[index]),
            rate=math.exp(decision.ln_speed.mean[index]),
            quality=decision.cells[index].quality_mean,
            unit="tok" if task == "text_generation" else "items",
            learns=preferences.enable_adaptive_selection,
        )
        if against:
            found[arm.model.name] = "; ".join(violation.reason for violation in against)
    return found
