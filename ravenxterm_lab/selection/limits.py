"""Limits in numbers: memory by the rule of the fit, and what was measured or predicted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import SAFETY_FACTOR, MemoryEstimate, Verdict
from ravenxterm_lab.selection.constraints import Machine, Violation
from ravenxterm_lab.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from ravenxterm_lab.requirements import TaskRequirements

__all__ = ["DIGITS", "measurements_against", "memory_against", "rounded_down", "rounded_up"]

#: Digits of a limit that is offered: enough to be close, few enough to be typed.
DIGITS = 4


def memory_against(
    memory: MemoryEstimate, wanted: TaskRequirements, machine: Machine
) -> list[Violation]:
    """Return the constraints that a load of this size breaks.

    The rule: predicted memory × `SAFETY_FACTOR` ≤ budget, unless a peak was measured; each GPU
    with memory of its own has its free memory for a budget.

    Parameters
    ----------
    memory : MemoryEstimate
        What loading it would take (bytes).
    wanted : TaskRequirements
        For ``max_memory_bytes``.
    machine : Machine
        Budget, and what is free (bytes).
    """
    total, needed = memory.total_bytes, memory.needed_bytes
    if total is None or needed is None:
        facts = ", ".join(memory.missing) or "a needed fact is missing"
        return [Violation("memory", f"whether it fits is unknown: {facts}")]
    how = "took" if memory.measured else "needs about"
    found = []
    asked = total if memory.measured else math.ceil(total * SAFETY_FACTOR)
    most = wanted.max_memory_bytes
    if most is not None and asked > most:
        reason = f"it {how} {format_bytes(asked)}, the limit is {format_bytes(most)}"
        found.append(Violation("max_memory_bytes", reason, {"max_memory_bytes": asked}))
    if not memory.measured and needed > asked:
        how = "needs up to"  # only an uncertain formula asks for more than the factor adds
    size = f"it {how} {format_bytes(needed)}"
    if memory.verdict is Verdict.PAGES:
        size = f"its weights would be paged from disk; {size}"
    if needed > machine.budget:
        reason = f"{size}, the budget is {format_bytes(machine.budget)}"
        if needed > machine.total:
            return [*found, Violation("max_memory_usage", f"{reason}: more than this machine has")]
        found.append(Violation("max_memory_usage", reason, _usage(needed, machine)))
    if needed > machine.available:
        free = f"only {format_bytes(machine.available)} are free"
        reason = free if needed > machine.budget else f"{size}, {free}"
        remedy = "close other programs, or unload models"
        found.append(Violation("available_memory", reason, {}, remedy))
    for one in memory.devices[1:]:
        if one.unified or not one.total_bytes:
            continue
        size = format_bytes(one.needed_bytes)
        if one.budget_bytes is None:
            found.append(Violation("memory", f"the free memory of {one.name} is not known"))
        elif one.needed_bytes > one.budget_bytes:
            free = format_bytes(one.budget_bytes)
            found.append(Violation("gpu_memory", f"{one.name} would hold {size}, it has {free}"))
    return found


def _usage(needed: int, machine: Machine) -> dict[str, Any]:
    """Return the smallest share of the memory that is a budget of so many bytes."""
    share = math.ceil(needed / machine.total * 1000) / 1000
    # The budget is cut to whole bytes, which may leave one too few.
    while int(machine.total * share) < needed:
        share = round(share + 0.001, 3)
    return {"max_memory_usage": share} if share <= 1 else {}


def measurements_against(
    wanted: TaskRequirements,
    *,
    latency: float,
    rate: float,
    quality: float | None,
    unit: str = "tok",
    learns: bool = True,
) -> list[Violation]:
    """Return the constraints that predicted or measured performance breaks.

    Parameters
    ----------
    wanted : TaskRequirements
        What is asked.
    latency : float
        Seconds of one execution, measured or predicted.
    rate : float
        Tokens (items) per second, measured or predicted.
    quality : float or None
        Measured quality; None when it never was.
    unit : str
        What the rate counts, for the words.
    learns : bool
        Whether history is read at all.
    """
    found = []
    if wanted.max_latency is not None and latency > wanted.max_latency:
        reason = (
            f"an execution takes about {format_seconds(latency)}, "
            f"at most {format_seconds(wanted.max_latency)} is asked for"
        )
        found.append(Violation("max_latency", reason, {"max_latency": rounded_up(latency)}))
    if wanted.min_throughput is not None and rate < wanted.min_throughput:
        reason = (
            f"it makes about {format_rate(rate, unit)}, "
            f"{format_rate(wanted.min_throughput, unit)} is asked for"
        )
        found.append(Violation("min_throughput", reason, {"min_throughput": rounded_down(rate)}))
    if wanted.min_quality is not None and (quality is None or quality < wanted.min_quality):
        if quality is not None:
            known = f"is {quality:.3f}"
        elif learns:
            known = "was never measured on this task"
        else:
            known = "is not looked at with enable_adaptive_selection=False"
        reason = f"its quality {known}, at least {wanted.min_quality} is asked for"
        change = {"min_quality": None if quality is None else rounded_down(quality)}
        found.append(Violation("min_quality", reason, change))
    return found


def rounded_up(value: float) -> float:
    """Return a number of four significant digits that is no smaller.

    Parameters
    ----------
    value : float
        Any number.
    """
    return -rounded_down(-value)


def rounded_down(value: float) -> float:
    """Return a number of four significant digits that is no larger.

    Parameters
    ----------
    value : float
        Any number.
    """
    if value == 0 or not math.isfinite(value):
        return value
    found = float(f"{value:.{DIGITS}g}")
    if found > value:
        step = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
        found = float(f"{found - step:.{DIGITS}g}")
    return found
