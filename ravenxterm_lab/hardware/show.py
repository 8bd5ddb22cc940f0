"""A hardware profile as a card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.tables import Card, Table
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from ravenxterm_lab.hardware.devices import GpuDevice
    from ravenxterm_lab.hardware.profile import HardwareProfile

__all__ = ["as_card"]

_NOT_AVAILABLE = "not available"


def as_card(profile: HardwareProfile) -> Card:
    """Return the profile as a card: a row for each part, and what could not be read below."""
    tables = [Table(["machine", "what this process may use"], _rows(profile))]
    notes = _notes(profile)
    if notes:
        tables.append(Table(["notes"], [[note] for note in notes]))
    return Card("Hardware", "", tables)


def _rows(profile: HardwareProfile) -> list[tuple[str, str]]:
    bandwidth = profile.memory_bandwidth
    free, total = format_bytes(profile.available_memory), format_bytes(profile.total_memory)
    rows = [
        ("Processor", f"{profile.cpu_name or 'name not told'} ({profile.cpu_architecture})"),
        (
            "Cores",
            f"{_many(profile.cpu_cores, 'core')}, {_many(profile.cpu_threads, 'thread')} usable",
        ),
        ("Instructions", " ".join(profile.instruction_sets) or _NOT_AVAILABLE),
        ("Memory", f"{free} free of {total} (limit: {profile.memory_limit_source})"),
        ("Swap", format_bytes(profile.swap_total) if profile.swap_total else "none"),
        (
            "Bandwidth",
            format_bytes(bandwidth) if bandwidth is None else f"{format_bytes(bandwidth)}/s",
        ),
    ]
    rows += [(f"GPU {gpu.index}", _gpu(gpu)) for gpu in profile.gpu_devices]
    if not profile.gpu_devices:
        rows.append(("GPU", "none found"))
    for npu in profile.npu_devices:
        rows.append(("NPU", f"{npu.name} ({npu.path}, driver {npu.driver or 'not told'})"))
    return rows


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _gpu(gpu: GpuDevice) -> str:
    if gpu.unified_memory:
        memory = "shares the system's memory"
    elif gpu.total_memory is None:
        memory = f"memory {_NOT_AVAILABLE}"
    else:
        free = gpu.available_memory
        memory = f"{format_bytes(gpu.total_memory)}"
        if free is not None:
            memory = f"{format_bytes(free)} free of {memory}"
    parts = [gpu.name or "name not told", gpu.hardware.value, memory]
    if gpu.memory_bandwidth is not None:
        parts.append(f"at most {format_bytes(gpu.memory_bandwidth)}/s")
    if gpu.utilization is not None:
        parts.append(f"{gpu.utilization:.0%} busy")
    if gpu.temperature is not None:
        parts.append(f"{gpu.temperature:.0f} °C")
    if gpu.power is not None:
        limit = "" if gpu.power_limit is None else f" of {gpu.power_limit:.0f}"
        parts.append(f"{gpu.power:.0f}{limit} W")
    return ", ".join(parts)


def _notes(profile: HardwareProfile) -> list[str]:
    return [
        *profile.notes,
        *(f"GPU {gpu.index}: {note}" for gpu in profile.gpu_devices for note in gpu.notes),
    ]
