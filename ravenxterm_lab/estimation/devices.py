"""The share of each device, held against a budget of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.parts import MIB, Parts, Share
from ravenxterm_lab.estimation.verdict import SAFETY_FACTOR, Verdict, judge
from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from ravenxterm_lab.hardware import GpuDevice

__all__ = ["GPU_RESERVE", "DeviceMemory", "device_memory", "needed_bytes"]

#: Of a GPU's free memory this is left for the driver's context, cuBLAS and ggml's pools (bytes).
#: On an H200 NVML gave 600 to 707 MiB a process beyond llama.cpp's buffers with flash attention,
#: and up to 1,215 MiB without (own runs, ``tests/estimation/h200_llama_cpp.json``). The need is
#: multiplied by `SAFETY_FACTOR` besides.
GPU_RESERVE = 704 * MIB


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What one device holds, in bytes, and whether that fits.

    Attributes
    ----------
    name : str
        ``"CPU"``, or the GPU's name.
    hardware : HardwareType
    weights_bytes, repack_bytes, kv_cache_bytes, compute_bytes, overhead_bytes : int
        As in `MemoryEstimate`.
    budget_bytes : int or None
        What it was held against: of a GPU its free memory less `GPU_RESERVE`.
    verdict : Verdict
    needed_bytes : int
        The smallest budget of its own with which it fits, the safety factor and the upper end of
        an uncertain formula included.
    unified : bool
        Whether it has no memory of its own and uses the CPU's.
    """

    name: str
    hardware: HardwareType
    weights_bytes: int = 0
    repack_bytes: int = 0
    kv_cache_bytes: int = 0
    compute_bytes: int = 0
    overhead_bytes: int = 0
    budget_bytes: int | None = None
    verdict: Verdict = Verdict.UNKNOWN
    needed_bytes: int = 0
    unified: bool = False

    @property
    def total_bytes(self) -> int:
        """The sum of the items."""
        return (
            self.weights_bytes
            + self.repack_bytes
            + self.kv_cache_bytes
            + self.compute_bytes
            + self.overhead_bytes
        )


def device_memory(
    parts: Parts,
    devices: tuple[GpuDevice, ...],
    budget_bytes: int | None,
    measured_bytes: int | None,
) -> tuple[DeviceMemory, ...]:
    """Hold each device's share against its budget; a GPU without memory of its own uses the CPU's.

    Memory that both share is counted once: such GPUs and the CPU are judged together.

    Parameters
    ----------
    parts : Parts
        What the engine takes.
    devices : tuple of GpuDevice
        The GPUs, in the order of their shares.
    budget_bytes : int or None
        For the CPU.
    measured_bytes : int or None
        Judged in place of the CPU's share.
    """
    shared = sum(
        share.total
        for share, device in zip(parts.shares[1:], devices, strict=False)
        if device.unified_memory
    )
    cpu = parts.shares[0]
    held = (cpu.total if measured_bytes is None else measured_bytes) + shared
    verdict = _judged(parts, held, budget_bytes, paged=parts.mapped)
    found = [
        _one("CPU", HardwareType.CPU, cpu, budget_bytes, verdict, needed_bytes(parts, cpu.total))
    ]
    for share, device in zip(parts.shares[1:], devices, strict=False):
        budget = _gpu_budget(device, budget_bytes, cpu.total + shared - share.total)
        name = device.name or f"{device.hardware.value} {device.index}"
        if not share.total:
            verdict = Verdict.FITS
        elif device.unified_memory:
            verdict = _judged(parts, cpu.total + shared, budget_bytes, paged=0)
        else:
            verdict = _judged(parts, share.total, budget, paged=0)
        needed = needed_bytes(parts, share.total)
        unified = device.unified_memory
        found.append(_one(name, device.hardware, share, budget, verdict, needed, unified=unified))
    return tuple(found)


def needed_bytes(parts: Parts, need: int) -> int:
    """Return the smallest budget with which a share fits: the inverse of the verdict (bytes).

    Parameters
    ----------
    parts : Parts
        What the engine takes.
    need : int
        The share that is judged.
    """
    return math.ceil(_upper(parts, need) * SAFETY_FACTOR)


def _gpu_budget(device: GpuDevice, budget_bytes: int | None, others: int) -> int | None:
    if device.unified_memory:
        return None if budget_bytes is None else budget_bytes - others
    free = device.available_memory if device.available_memory is not None else device.total_memory
    return None if free is None else max(free - GPU_RESERVE, 0)


def _one(
    name: str,
    hardware: HardwareType,
    share: Share,
    budget: int | None,
    verdict: Verdict,
    needed: int,
    *,
    unified: bool = False,
) -> DeviceMemory:
    return DeviceMemory(
        name=name,
        hardware=hardware,
        weights_bytes=share.weights,
        repack_bytes=share.repack,
        kv_cache_bytes=share.kv,
        compute_bytes=share.compute,
        overhead_bytes=share.overhead,
        budget_bytes=budget,
        verdict=verdict,
        needed_bytes=needed,
        unified=unified,
    )


def _judged(parts: Parts, need: int, budget: int | None, *, paged: int) -> Verdict:
    """Judge one share; across a wide interval only what holds for both ends is said."""
    if not parts.wide:
        return judge(need, budget, pageable_bytes=paged)
    verdict = judge(_upper(parts, need), budget)
    whole = sum(share.total for share in parts.shares) or 1
    lowest = need - need * parts.below // whole
    if verdict is Verdict.CANNOT and budget is not None and lowest <= budget:
        return Verdict.UNKNOWN
    return verdict


def _upper(parts: Parts, need: int) -> int:
    """Return what must fit: of a wide interval its upper end."""
    if not parts.wide:
        return need
    whole = sum(share.total for share in parts.shares) or 1
    return need + need * parts.above // whole
