"""The share of each device, held against a budget of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.estimation.parts import MIB, Parts, Share
from ravenxterm_lab.estimation.verdict import Verdict, judge
from ravenxterm_lab.metadata import HardwareType

if TYPE_CHECKING:
    from ravenxterm_lab.hardware import GpuDevice

__all__ = ["GPU_RESERVE", "DeviceMemory", "device_memory"]

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

    Memory that both share is counted once: what such GPUs hold is taken off the CPU's budget.

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
    left = None if budget_bytes is None else budget_bytes - shared
    cpu = parts.shares[0]
    found = [
        _one(
            "CPU",
            HardwareType.CPU,
            cpu,
            budget_bytes,
            _judged(
                parts,
                cpu.total if measured_bytes is None else measured_bytes,
                left,
                paged=parts.mapped,
            ),
        )
    ]
    for share, device in zip(parts.shares[1:], devices, strict=False):
        budget = _gpu_budget(device, budget_bytes, parts.shares[0].total + shared - share.total)
        name = device.name or f"{device.hardware.value} {device.index}"
        verdict = _judged(parts, share.total, budget, paged=0) if share.total else Verdict.FITS
        found.append(_one(name, device.hardware, share, budget, verdict))
    return tuple(found)


def _gpu_budget(device: GpuDevice, budget_bytes: int | None, others: int) -> int | None:
    if device.unified_memory:
        return None if budget_bytes is None else budget_bytes - others
    free = device.available_memory if device.available_memory is not None else device.total_memory
    return None if free is None else max(free - GPU_RESERVE, 0)


def _one(
    name: str, hardware: HardwareType, share: Share, budget: int | None, verdict: Verdict
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
    )


def _judged(parts: Parts, need: int, budget: int | None, *, paged: int) -> Verdict:
    """Judge one share; across a wide interval only what holds for both ends is said."""
    if not parts.wide:
        return judge(need, budget, pageable_bytes=paged)
    whole = sum(share.total for share in parts.shares) or 1
    verdict = judge(need + need * parts.above // whole, budget)
    lowest = need - need * parts.below // whole
    if verdict is Verdict.CANNOT and budget is not None and lowest <= budget:
        return Verdict.UNKNOWN
    return verdict
