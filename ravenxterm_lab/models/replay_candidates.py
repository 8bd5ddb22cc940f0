"""What is known of a past decision's candidates, then and under another setting."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ravenxterm_lab.estimation import SAFETY_FACTOR, Estimator
from ravenxterm_lab.exceptions import PreferenceError, RequirementError
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.base import DEFAULT_CONTEXT
from ravenxterm_lab.selection import Arm, Engine, Machine, measurements_against, memory_against
from ravenxterm_lab.selection.replay import PastDecision
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.selection import Decision

__all__ = ["Candidate", "Reader", "Setting"]

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


class Candidate(NamedTuple):
    """One row of the table ``candidates``; the names are its columns'."""

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


class Reader:
    """Turns rows of the record into decisions that can be made again.

    Parameters
    ----------
    setting : Setting
        What to decide under.
    catalogue : mapping of str to tuple
        By fingerprint, what was recorded of models: fingerprint, name, type, path, size (bytes),
        parameters.
    """

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
        """Yield what to know about the candidates of all decisions read so far."""
        if self._gone:
            names = ", ".join(sorted(self._gone)[:3]) + (" …" if len(self._gone) > 3 else "")
            yield (
                f"{len(self._gone)} models that are registered no more ({names}) could not be "
                "estimated anew, so they are no candidates where that was needed"
            )

    def decision(self, row: Sequence[Any], candidates: Sequence[Candidate]) -> PastDecision | str:
        """Return a decision as it is to be made now, or why it cannot be made again.

        Parameters
        ----------
        row : sequence
            As `replay_log.DECISIONS_SQL` gives it.
        candidates : sequence of Candidate
            In the order of the record.
        """
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
        told = json.loads(machine)
        place, runs_per_load = self._machine(told, now), told.get("runs_per_load", 1.0)
        arms: list[Arm] = []
        beside: list[Arm] = []
        rejected: dict[str, str] = {}
        for one in candidates:
            arm, reason = self._candidate(one, wanted, place)
            if reason:
                rejected[one.model] = reason
            if arm is not None:
                arm = replace(arm, runs_per_load=runs_per_load)
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

    def _model(self, one: Candidate) -> ModelMetadata | None:
        return self._by_print.get(one.fingerprint or "") or self._setting.models.get(one.model)

    def _candidate(
        self, one: Candidate, wanted: TaskRequirements, machine: Machine
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
        one: Candidate,
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

    def _recorded(self, one: Candidate, model: ModelMetadata | None) -> Arm | None:
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

    def _catalogued(self, one: Candidate) -> ModelMetadata | None:
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
        one: Candidate,
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
