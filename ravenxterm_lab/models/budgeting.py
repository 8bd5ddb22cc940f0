"""The pool's budget, device by device: host memory, and each GPU with memory of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ravenxterm_lab.estimation.devices import GPU_RESERVE
from ravenxterm_lab.runtimes.budgets import RAM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.estimation import MemoryEstimate
    from ravenxterm_lab.hardware import GpuDevice, HardwareProfile
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import LoadOptions, Resident

__all__ = ["DeviceUsage", "bytes_on_gpus", "device_budgets", "device_bytes", "device_usage"]

#: One load asks the drivers several times; a reading that is no older than this serves again.
_FRESH_SECONDS = 0.25
_readings: WeakKeyDictionary[Workbench, tuple[float, HardwareProfile]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """What loaded models hold on one device, and what is left for others; all in bytes.

    Attributes
    ----------
    device : str
        ``"RAM"``, or ``"GPU 0"`` by the number in the hardware profile.
    name : str
        The GPU's name; empty for host memory.
    total_bytes : int
        What this process may use at most.
    budget_bytes : int
        ``max_memory_usage`` of it.
    held_bytes : int
        By loaded models: measured, or reserved where a GPU's driver does not tell.
    headroom_bytes : int
        What another load may take now: the smaller of the budget's rest and free memory.
    """

    device: str
    name: str
    total_bytes: int
    budget_bytes: int
    held_bytes: int
    headroom_bytes: int


def device_budgets(bench: Workbench) -> dict[str, int]:
    """Return the bytes that all loaded models may hold together now, by device.

    Of each device ``max_memory_usage``, and no more than is free there with what the models
    hold already. A GPU that does not tell its memory has no budget; one that shares the
    system's memory is counted with it.
    """
    residents = bench.pool.resident()
    machine = bench.machine(bench.preferences)
    held = sum(item.memory.anonymous_bytes for item in residents)
    budgets = {RAM: min(machine.budget, machine.available + held)}
    for gpu in _gpus_now(bench):
        budgets[_key(gpu)] = _budget(bench, gpu, _held(residents, gpu))
    return budgets


def device_bytes(
    hardware: HardwareProfile, memory: MemoryEstimate, options: LoadOptions
) -> dict[str, int] | None:
    """Return what a load is predicted to take on each device; None when it cannot be said.

    Parameters
    ----------
    hardware : HardwareProfile
        The machine that the estimate is for.
    memory : MemoryEstimate
        Of this load.
    options : LoadOptions
        How it would be loaded. Each GPU in use takes `GPU_RESERVE` besides, once a process.
    """
    if memory.total_bytes is None:
        return None
    gpus = [gpu for gpu in hardware.gpu_devices if gpu.hardware is options.device]
    found = {RAM: memory.total_bytes}
    for gpu, share in zip(gpus, memory.devices[1:], strict=False):
        if share.total_bytes and not gpu.unified_memory:
            found[_key(gpu)] = share.total_bytes + GPU_RESERVE
            found[RAM] -= share.total_bytes
    found[RAM] = max(found[RAM], 0)
    return found


def bytes_on_gpus(bench: Workbench) -> dict[int, dict[str, int]]:
    """Return by process what it holds on each GPU, as far as the drivers tell (bytes)."""
    found: dict[int, dict[str, int]] = {}
    for gpu in _gpus_now(bench):
        for process in gpu.processes or ():
            if process.memory is not None:
                found.setdefault(process.pid, {})[_key(gpu)] = process.memory
    return found


def device_usage(bench: Workbench, residents: Sequence[Resident]) -> tuple[DeviceUsage, ...]:
    """Return what the loaded models hold and what is left: host memory, then each GPU.

    Parameters
    ----------
    bench : Workbench
        Whose hardware and preferences they are.
    residents : sequence of Resident
        What is loaded.
    """
    machine = bench.machine(bench.preferences)
    used = sum(item.memory.total for item in residents)
    headroom = max(min(machine.budget - used, machine.available), 0)
    found = [DeviceUsage(RAM, "", machine.total, machine.budget, used, headroom)]
    for gpu in _gpus_now(bench):
        held = _held(residents, gpu)
        budget = int((gpu.total_memory or 0) * bench.preferences.max_memory_usage)
        left = max(_budget(bench, gpu, held) - held, 0)
        total = gpu.total_memory or 0
        found.append(DeviceUsage(_key(gpu), gpu.name or "", total, budget, held, left))
    return tuple(found)


def _gpus_now(bench: Workbench) -> list[GpuDevice]:
    """Return the GPUs with memory of their own, as they are now."""
    if not _with_own_memory(bench.hardware):
        return []
    read, profile = _readings.get(bench, (float("-inf"), bench.hardware))
    if time.monotonic() - read > _FRESH_SECONDS:
        profile = bench.hardware.refreshed()
        _readings[bench] = time.monotonic(), profile
    return _with_own_memory(profile)


def _with_own_memory(hardware: HardwareProfile) -> list[GpuDevice]:
    return [gpu for gpu in hardware.gpu_devices if gpu.total_memory and not gpu.unified_memory]


def _key(gpu: GpuDevice) -> str:
    return f"GPU {gpu.index}"


def _held(residents: Sequence[Resident], gpu: GpuDevice) -> int:
    return sum(item.gpu_memory.get(_key(gpu), 0) for item in residents)


def _budget(bench: Workbench, gpu: GpuDevice, held: int) -> int:
    most = int((gpu.total_memory or 0) * bench.preferences.max_memory_usage)
    free = gpu.available_memory
    return most if free is None else min(most, free + held)
