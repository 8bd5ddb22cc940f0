"""The smallest change that makes a rejected candidate feasible: a limit, a device, a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.requirements import TaskRequirements
from ravenxterm_lab.selection.constraints import (
    Machine,
    Violation,
    facts_against,
    usable_devices,
)
from ravenxterm_lab.selection.limits import memory_against

if TYPE_CHECKING:
    from ravenxterm_lab.estimation import MemoryEstimate
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Assessment", "Place", "Relaxation", "assess", "relax", "relaxed"]

_PREFERENCES = frozenset({"max_memory_usage", "preferred_devices"})

#: Says what a load takes on a device, under requirements (their context counts) and a machine,
#: and what else speaks against it there, such as loads that failed.
Place = Callable[
    [TaskRequirements, Machine, HardwareType], tuple["MemoryEstimate", "tuple[Violation, ...]"]
]


@dataclass(frozen=True, slots=True)
class Assessment:
    """What facts say of one candidate.

    Attributes
    ----------
    device : HardwareType
        Where it would be loaded: the first usable one on which it fits, else the first.
    memory : MemoryEstimate
        What that takes (bytes).
    violations : tuple of Violation
        Constraints that it breaks there; empty when it is feasible.
    """

    device: HardwareType
    memory: MemoryEstimate
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A change, and what follows from it.

    Attributes
    ----------
    change : mapping
        Requirements and preferences by name.
    wanted, machine
        As they are once it is made.
    assessment : Assessment
        Of the candidate then: feasible, as far as facts go.
    """

    change: Mapping[str, Any]
    wanted: TaskRequirements
    machine: Machine
    assessment: Assessment


def assess(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine, place: Place
) -> Assessment:
    """Hold a candidate against every constraint that needs no measurement.

    Parameters
    ----------
    model : ModelMetadata
        The candidate.
    wanted : TaskRequirements
        What is asked.
    machine : Machine
        Devices and memory (bytes).
    place : callable
        What a load takes.
    """
    facts = facts_against(model, wanted, machine)
    devices = usable_devices(model, wanted, machine) or _possible(model, machine)[:1]
    first: Assessment | None = None
    for device in devices or [HardwareType.CPU]:
        memory, others = place(wanted, machine, device)
        if facts and facts[0].constraint in {"problems", "task_type", "runtime"}:
            return Assessment(device, memory, tuple(facts))
        against = memory_against(memory, wanted, machine)
        found = Assessment(device, memory, (*facts, *others, *against))
        if not against and not others:
            return found
        first = first or found
    assert first is not None
    return first


def relax(
    model: ModelMetadata,
    wanted: TaskRequirements,
    machine: Machine,
    place: Place,
    least_context: int,
) -> Relaxation | None:
    """Return the smallest change that lifts every violation; None when none does.

    Fewest changes come first, then the smallest share of the memory. Another device is
    considered beside the one that was chosen; a shorter context only where nothing else helps.

    Parameters
    ----------
    model, wanted, machine, place
        As for `assess`.
    least_context : int
        Tokens that are loaded anyhow: a requirement below that changes nothing.
    """
    base: dict[str, Any] = {}
    for one in facts_against(model, wanted, machine):
        if one.constraint in {"preferred_devices", "required_hardware"}:
            continue
        if not one.change:
            return None
        base.update(one.change)
    moves = _Moves(model, wanted, machine, place, base)
    for candidates in (moves.at_context(), moves.with_less(least_context)):
        for change in sorted(candidates, key=_cost):
            then, there = relaxed(wanted, machine, change)
            after = assess(model, then, there, place)
            if not after.violations:
                return Relaxation(change, then, there, after)
    return None


def relaxed(
    wanted: TaskRequirements, machine: Machine, change: Mapping[str, Any]
) -> tuple[TaskRequirements, Machine]:
    """Return requirements and machine as they are once a change is made.

    Parameters
    ----------
    wanted, machine
        Before.
    change : mapping
        Requirements and preferences by name.
    """
    asked = {key: value for key, value in change.items() if key not in _PREFERENCES}
    then = TaskRequirements.parse({**wanted.as_dict(), **asked}) if asked else wanted
    return then, machine.under(change)


def _possible(model: ModelMetadata, machine: Machine) -> list[HardwareType]:
    """Return the devices here that a model could run on, the preferred ones first."""
    here = dict.fromkeys((*machine.devices, *machine.present))
    return [device for device in here if device in model.preferred_hardware]


def _cost(change: Mapping[str, Any]) -> tuple[int, float]:
    return len(change), change.get("max_memory_usage", 0.0)


@dataclass(frozen=True, slots=True)
class _Moves:
    model: ModelMetadata
    wanted: TaskRequirements
    machine: Machine
    place: Place
    base: Mapping[str, Any]

    def at_context(self) -> Iterator[dict[str, Any]]:
        """Yield the change that each device needs with the context that is asked for."""
        for device in _possible(self.model, self.machine):
            change = self._change(device, None)
            if change is not None:
                yield change

    def with_less(self, least: int) -> Iterator[dict[str, Any]]:
        """Yield the change that each device needs with the longest context that it can hold."""
        asked = self.wanted.min_context_length or 0
        most = min(asked, self.model.context_length or asked)
        if most <= least:
            return
        for device in _possible(self.model, self.machine):
            for spare in (False, True):
                context = self._longest(device, least, most, spare=spare)
                if context is not None:
                    change = self._change(device, context)
                    if change is not None:
                        yield change

    def _longest(self, device: HardwareType, least: int, most: int, *, spare: bool) -> int | None:
        """Return the longest context that needs no more memory, or with ``spare`` a share of it."""

        def possible(context: int) -> bool:
            memory = self._memory(device, context)
            return all(one.change for one in memory) if spare else not memory

        if not possible(least):
            return None
        fits, fails = least, most
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if possible(middle):
                fits = middle
            else:
                fails = middle
        return fits

    def _memory(self, device: HardwareType, context: int | None) -> list[Violation]:
        change = (
            dict(self.base) if context is None else {**self.base, "min_context_length": context}
        )
        then, there = relaxed(self.wanted, self.machine, change)
        memory, others = self.place(then, there, device)
        return [*others, *memory_against(memory, then, there)]

    def _change(self, device: HardwareType, context: int | None) -> dict[str, Any] | None:
        change = dict(self.base)
        if device not in self.machine.devices:
            preferred = self.machine.preferred or self.machine.devices
            change["preferred_devices"] = [*(one.value for one in preferred), device.value]
        required = self.wanted.required_hardware
        if required and device not in required:
            change["required_hardware"] = [*(one.value for one in required), device.value]
        if context is not None:
            change["min_context_length"] = context
        for one in self._memory(device, context):
            if not one.change:
                return None
            change.update(one.change)
        return change
