"""Filter first: facts that no score can outweigh, each with what would lift it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.requirements import TaskRequirements

__all__ = [
    "Machine",
    "Rejection",
    "Violation",
    "facts_against",
    "in_words",
    "usable_devices",
]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the filter needs to know of the hardware: devices, and memory in bytes.

    ``devices`` are the preferred ones that exist here, in the person's order; ``total`` is what
    this process may use at most, ``available`` what is free now (memory of idle models that
    could be evicted counted as free), ``budget`` the preferences' share. ``present`` are all
    devices that exist here, and ``preferred`` all that the person prefers, here or not.
    """

    devices: tuple[HardwareType, ...]
    total: int
    available: int
    budget: int
    present: tuple[HardwareType, ...] = ()
    preferred: tuple[HardwareType, ...] = ()

    @property
    def limit(self) -> int:
        """Bytes that a load may take now."""
        return min(self.budget, self.available)

    def under(self, change: Mapping[str, Any]) -> Machine:
        """Return what this machine is once preferences are changed.

        Parameters
        ----------
        change : mapping
            New preferences by name; what is none of ``max_memory_usage`` and
            ``preferred_devices`` changes nothing here.
        """
        made = self
        if "max_memory_usage" in change:
            made = replace(made, budget=int(self.total * change["max_memory_usage"]))
        if "preferred_devices" in change:
            preferred = tuple(HardwareType(one) for one in change["preferred_devices"])
            devices = tuple(one for one in preferred if one in self.present)
            made = replace(made, preferred=preferred, devices=devices)
        return made


@dataclass(frozen=True, slots=True)
class Violation:
    """One constraint that a candidate breaks.

    Attributes
    ----------
    constraint : str
        Its name, such as ``"max_size_bytes"`` or ``"runtime"``.
    reason : str
        In words, with the numbers.
    change : mapping
        The smallest change of requirements or preferences that lifts this one, where it can be
        lifted without another device or context; empty where it cannot.
    remedy : str
        What helps where no change does.
    """

    constraint: str
    reason: str
    change: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a candidate fell out.

    Attributes
    ----------
    model : ModelMetadata
        The candidate.
    constraint : str
        The binding constraint, such as ``"max_size_bytes"`` or ``"runtime"``: the first of those
        that it breaks.
    reason : str
        In words, with the numbers, for each constraint that it breaks.
    change : mapping
        The smallest change of requirements and preferences that makes it feasible, all of it
        needed; None as a value leaves the requirement out. Empty when no change does.
    remedy : str
        That change in words, or what helps besides.
    violations : tuple of Violation
        Every constraint that it breaks.
    """

    model: ModelMetadata
    constraint: str
    reason: str
    change: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    violations: tuple[Violation, ...] = ()

    @classmethod
    def of(
        cls, model: ModelMetadata, violations: Sequence[Violation], change: Mapping[str, Any]
    ) -> Rejection:
        """Return the rejection that follows from violations, at least one.

        Parameters
        ----------
        model : ModelMetadata
            The candidate.
        violations : sequence of Violation
            All that it breaks.
        change : mapping
            What lifts all of them together; empty when nothing does.
        """
        words = in_words(change)
        if not change:
            words = "; ".join(dict.fromkeys(one.remedy for one in violations if one.remedy))
        return cls(
            model,
            violations[0].constraint,
            "; ".join(one.reason for one in violations),
            dict(change),
            words,
            tuple(violations),
        )

    def __str__(self) -> str:
        return f"{self.reason}{f' → {self.remedy}' if self.remedy else ''}"


def in_words(change: Mapping[str, Any]) -> str:
    """Return a change of requirements and preferences as a person would say it.

    Parameters
    ----------
    change : mapping
        New values by name; None leaves a requirement out, a list has what is added at its end.
    """
    return " and ".join(_one_in_words(key, value) for key, value in change.items())


def _one_in_words(key: str, value: Any) -> str:
    if value is None:
        return f"leave {key} out"
    if isinstance(value, list):
        return f"add {value[-1]} to {key}"
    if isinstance(value, dict):
        return " and ".join(f"{key}[{name!r}] ≥ {one:g}" for name, one in value.items())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{key} = {value!r}"
    sign = "≤" if key.startswith("min_") else "≥"
    size = f" ({format_bytes(int(value))})" if key.endswith("_bytes") else ""
    return f"{key} {sign} {value}{size}"


def usable_devices(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> list[HardwareType]:
    """Return the devices on which a model may run under requirements and preferences, in order.

    Parameters
    ----------
    model, wanted, machine
        The candidate, what is asked, and the hardware.
    """
    return [
        device
        for device in machine.devices
        if device in model.preferred_hardware
        and (not wanted.required_hardware or device in wanted.required_hardware)
    ]


def facts_against(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> list[Violation]:
    """Return the constraints that facts about a model break, apart from its memory.

    What no requirement or preference can lift comes alone; nothing else matters beside it.

    Parameters
    ----------
    model : ModelMetadata
        The candidate.
    wanted : TaskRequirements
        What is asked.
    machine : Machine
        Devices and memory (bytes).
    """
    final = _unusable(model, wanted)
    if final is not None:
        return [final]
    checks = (_kind, _license, _size, _context, _device, _batching)
    return [one for check in checks for one in check(model, wanted, machine)]


def _unusable(model: ModelMetadata, wanted: TaskRequirements) -> Violation | None:
    if model.problems:
        return Violation("problems", f"it cannot be used: {'; '.join(model.problems)}")
    task = wanted.task_type
    if task and task not in model.task_types:
        if model.task_types:
            reason = f"not a {task.replace('_', ' ')} model ({', '.join(model.task_types)})"
        else:
            reason = f"nothing in its files says that it can do {task.replace('_', ' ')}"
        return Violation("task_type", reason)
    if not model.runtimes:
        return Violation("runtime", model.runtime_gap or "no installed runtime can run it")
    return None


def _kind(model: ModelMetadata, wanted: TaskRequirements, machine: Machine) -> Iterator[Violation]:
    del machine
    mine = model.model_type
    if wanted.model_types and mine not in wanted.model_types:
        allowed = [*(one.value for one in wanted.model_types), mine.value]
        yield Violation("model_types", f"its format is {mine.value}", {"model_types": allowed})
    yield from _unlisted("quantizations", wanted.quantizations, model.quantization, "not known")


def _license(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> Iterator[Violation]:
    del machine
    yield from _unlisted("license", wanted.license, model.license, "not stated in its files")


def _unlisted(
    key: str, allowed: tuple[str, ...] | None, mine: str | None, unknown: str
) -> Iterator[Violation]:
    # What a model does not say is on no list, not even on one that holds an empty text.
    if not allowed or (mine and mine.lower() in {name.lower() for name in allowed}):
        return
    change = {key: [*allowed, mine] if mine else None}
    yield Violation(key, f"its {key.removesuffix('s')} is {mine or unknown}", change)


def _size(model: ModelMetadata, wanted: TaskRequirements, machine: Machine) -> Iterator[Violation]:
    del machine
    most = wanted.max_size_bytes
    if most is not None and model.size_bytes > most:
        yield Violation(
            "max_size_bytes",
            f"it is {format_bytes(model.size_bytes)} on disk, the limit is {format_bytes(most)}",
            {"max_size_bytes": model.size_bytes},
        )


def _context(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> Iterator[Violation]:
    del machine
    least, length = wanted.min_context_length, model.context_length
    if least and (length is None or length < least):
        known = f"{length:,} tokens" if length else "not known"
        yield Violation(
            "min_context_length",
            f"its context is {known}, {least:,} are asked for",
            {"min_context_length": length or None},
        )


def _device(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> Iterator[Violation]:
    if usable_devices(model, wanted, machine):
        return
    preferred = [one for one in machine.devices if one in model.preferred_hardware]
    could = [one for one in machine.present if one in model.preferred_hardware]
    if not preferred:
        names = f", but {', '.join(could)}" if could else ""
        reason = f"its runtime can use none of the preferred devices here{names}"
        yield Violation("preferred_devices", reason)
    required = wanted.required_hardware or ()
    if required and not set(required) & set(preferred or could):
        here = ", ".join(preferred or could) or "no device"
        reason = f"{' or '.join(required)} is required; here it runs on {here}"
        yield Violation("required_hardware", reason)


def _batching(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> Iterator[Violation]:
    del machine
    if wanted.requires_batching and not model.supports_batching:
        yield Violation(
            "requires_batching", "its runtime does not batch", {"requires_batching": False}
        )
