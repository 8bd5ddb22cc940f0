"""Filter first: facts that no score can outweigh, each with the smallest change that flips it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import SAFETY_FACTOR, MemoryEstimate, Verdict
from ravenxterm_lab.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.metadata import HardwareType, ModelMetadata
    from ravenxterm_lab.requirements import TaskRequirements

__all__ = ["Machine", "Rejection", "reject_by_facts", "reject_by_measurement"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the filter needs to know of the hardware: devices, and memory in bytes.

    ``devices`` are the preferred ones that exist here, in the person's order; ``total`` is what
    this process may use at most, ``available`` what is free now (memory of idle models that
    could be evicted counted as free), ``budget`` the preferences' share.
    """

    devices: tuple[HardwareType, ...]
    total: int
    available: int
    budget: int

    @property
    def limit(self) -> int:
        """Bytes that a load may take now."""
        return min(self.budget, self.available)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a candidate fell out.

    Attributes
    ----------
    model : ModelMetadata
        The candidate.
    constraint : str
        The binding constraint, such as ``"max_size_bytes"`` or ``"runtime"``.
    reason : str
        In words, with the numbers.
    change : mapping
        The smallest change of requirements or preferences that lifts this constraint; empty
        when none can.
    remedy : str
        That change in words.
    """

    model: ModelMetadata
    constraint: str
    reason: str
    change: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}{f' → {self.remedy}' if self.remedy else ''}"


def reject_by_facts(
    model: ModelMetadata,
    wanted: TaskRequirements,
    memory: MemoryEstimate,
    machine: Machine,
) -> Rejection | None:
    """Return why facts about the model rule it out, or None.

    The order matters: what cannot be changed comes before what a requirement could relax.

    Parameters
    ----------
    model : ModelMetadata
        The candidate.
    wanted : TaskRequirements
        What is asked.
    memory : MemoryEstimate
        What loading it would take (bytes).
    machine : Machine
        Devices and memory (bytes).
    """
    return (
        _reject_unusable(model, wanted)
        or _reject_by_kind(model, wanted)
        or _reject_by_size(model, wanted)
        or _reject_by_device(model, wanted, machine)
        or _reject_by_memory(model, wanted, memory, machine)
    )


def _reject_unusable(model: ModelMetadata, wanted: TaskRequirements) -> Rejection | None:
    if model.problems:
        return Rejection(model, "problems", f"it cannot be used: {'; '.join(model.problems)}")
    task = wanted.task_type
    if task and task not in model.task_types:
        if model.task_types:
            reason = f"not a {task.replace('_', ' ')} model ({', '.join(model.task_types)})"
        else:
            reason = f"nothing in its files says that it can do {task.replace('_', ' ')}"
        return Rejection(model, "task_type", reason)
    if not model.runtimes:
        return Rejection(model, "runtime", model.runtime_gap or "no installed runtime can run it")
    return None


def _reject_by_kind(model: ModelMetadata, wanted: TaskRequirements) -> Rejection | None:
    if wanted.model_types and model.model_type not in wanted.model_types:
        return Rejection(
            model,
            "model_types",
            f"its format is {model.model_type.value}",
            {"model_types": [*(t.value for t in wanted.model_types), model.model_type.value]},
            f"allow {model.model_type.value} in model_types",
        )
    return _reject_unlisted(
        model, "quantizations", wanted.quantizations, model.quantization, "not known"
    ) or _reject_unlisted(
        model, "license", wanted.license, model.license, "not stated in its files"
    )


def _reject_unlisted(
    model: ModelMetadata, key: str, allowed: tuple[str, ...] | None, mine: str | None, unknown: str
) -> Rejection | None:
    if not allowed or (mine or "").lower() in {name.lower() for name in allowed}:
        return None
    what = key.removesuffix("s")
    return Rejection(
        model,
        key,
        f"its {what} is {mine or unknown}",
        {key: [*allowed, mine]} if mine else {},
        f"allow {mine} in {key}" if mine else "",
    )


def _reject_by_size(model: ModelMetadata, wanted: TaskRequirements) -> Rejection | None:
    if wanted.max_size_bytes is not None and model.size_bytes > wanted.max_size_bytes:
        return Rejection(
            model,
            "max_size_bytes",
            f"it is {format_bytes(model.size_bytes)} on disk, "
            f"the limit is {format_bytes(wanted.max_size_bytes)}",
            {"max_size_bytes": model.size_bytes},
            f"max_size_bytes ≥ {model.size_bytes}",
        )
    if wanted.min_context_length is not None:
        length = model.context_length
        if length is None or length < wanted.min_context_length:
            return Rejection(
                model,
                "min_context_length",
                f"its context is {f'{length:,} tokens' if length else 'not known'}, "
                f"{wanted.min_context_length:,} are asked for",
                {"min_context_length": length} if length else {},
                f"min_context_length ≤ {length}" if length else "",
            )
    return None


def _reject_by_device(
    model: ModelMetadata, wanted: TaskRequirements, machine: Machine
) -> Rejection | None:
    usable = [device for device in machine.devices if device in model.preferred_hardware]
    if wanted.required_hardware:
        if not set(usable) & set(wanted.required_hardware):
            asked = " or ".join(d.value for d in wanted.required_hardware)
            here = ", ".join(d.value for d in usable) or "none of the preferred devices"
            return Rejection(
                model,
                "required_hardware",
                f"{asked} is required; here it runs on {here}",
                {"required_hardware": [d.value for d in usable]} if usable else {},
                f"required_hardware = {[d.value for d in usable]}" if usable else "",
            )
    elif not usable:
        could = [device.value for device in model.preferred_hardware]
        return Rejection(
            model,
            "preferred_devices",
            "its runtime can use none of the preferred devices here",
            {"preferred_devices": could} if could else {},
            f"preferred_devices = {could}" if could else "",
        )
    if wanted.requires_batching and not model.supports_batching:
        return Rejection(
            model,
            "requires_batching",
            "its runtime does not batch",
            {"requires_batching": False},
            "requires_batching = False",
        )
    return None


def _reject_by_memory(
    model: ModelMetadata, wanted: TaskRequirements, memory: MemoryEstimate, machine: Machine
) -> Rejection | None:
    need = memory.total_bytes
    if need is None or memory.verdict is Verdict.UNKNOWN:
        facts = ", ".join(memory.missing) or "the interval of the estimate spans the budget"
        return Rejection(model, "memory", f"whether it fits is unknown: {facts}")
    asked = math.ceil(need * (1.0 if memory.measured else SAFETY_FACTOR))
    how = "took" if memory.measured else "needs about"
    if wanted.max_memory_bytes is not None and asked > wanted.max_memory_bytes:
        return Rejection(
            model,
            "max_memory_bytes",
            f"it {how} {format_bytes(asked)}, the limit is {format_bytes(wanted.max_memory_bytes)}",
            {"max_memory_bytes": asked},
            f"max_memory_bytes ≥ {asked}",
        )
    pages = "its weights would be paged from disk; " if memory.verdict is Verdict.PAGES else ""
    if asked > machine.budget:
        share = math.ceil(asked / machine.total * 1000) / 1000 if machine.total else math.inf
        reason = (
            f"{pages}it {how} {format_bytes(asked)}, the budget is {format_bytes(machine.budget)}"
        )
        if share > 1:
            return Rejection(model, "max_memory_usage", f"{reason}: more than this machine has")
        return Rejection(
            model,
            "max_memory_usage",
            reason,
            {"max_memory_usage": share},
            f"max_memory_usage ≥ {share}",
        )
    if asked > machine.available:
        free = format_bytes(machine.available)
        return Rejection(
            model,
            "available_memory",
            f"{pages}it {how} {format_bytes(asked)}, only {free} are free",
            {},
            "close other programs, or unload models",
        )
    return None


def reject_by_measurement(
    model: ModelMetadata,
    wanted: TaskRequirements,
    *,
    latency: float,
    rate: float,
    quality: float | None,
) -> Rejection | None:
    """Return why its predicted or measured performance rules a model out, or None.

    Parameters
    ----------
    model, wanted
        The candidate and what is asked.
    latency : float
        Seconds of one execution, measured or predicted.
    rate : float
        Tokens (items) per second, measured or predicted.
    quality : float or None
        Measured quality; None when it never was.
    """
    if wanted.max_latency is not None and latency > wanted.max_latency:
        return Rejection(
            model,
            "max_latency",
            f"an execution takes about {format_seconds(latency)}, "
            f"at most {format_seconds(wanted.max_latency)} is asked for",
            {"max_latency": math.ceil(latency * 1000) / 1000},
            f"max_latency ≥ {math.ceil(latency * 1000) / 1000}",
        )
    if wanted.min_throughput is not None and rate < wanted.min_throughput:
        asked = format_rate(wanted.min_throughput)
        return Rejection(
            model,
            "min_throughput",
            f"it makes about {format_rate(rate)}, {asked} is asked for",
            {"min_throughput": math.floor(rate * 1000) / 1000},
            f"min_throughput ≤ {math.floor(rate * 1000) / 1000}",
        )
    if wanted.min_quality is not None and (quality is None or quality < wanted.min_quality):
        known = "was never measured on this task" if quality is None else f"is {quality:.3f}"
        change = {} if quality is None else {"min_quality": math.floor(quality * 1000) / 1000}
        return Rejection(
            model,
            "min_quality",
            f"its quality {known}, at least {wanted.min_quality} is asked for",
            change,
            f"min_quality ≤ {change['min_quality']}" if change else "record its quality first",
        )
    return None
