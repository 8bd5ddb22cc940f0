"""A hardware profile as a card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ravenxterm_lab.tables import Card, Table
from ravenxterm_lab.units import NOT_MEASURED, format_bytes, format_flops, format_number

if TYPE_CHECKING:
    from ravenxterm_lab.hardware.devices import GpuDevice
    from ravenxterm_lab.hardware.profile import HardwareProfile
    from ravenxterm_lab.hardware.topology import CpuCache, NumaNode

__all__ = ["as_card"]

_NOT_AVAILABLE = "not available"
_MOST = 6


def as_card(profile: HardwareProfile) -> Card:
    """Return the profile as a card: the machine, each GPU, and what could not be read."""
    simulated = profile.source == "simulated"
    what = "what it has" if simulated else "what this process may use"
    tables = [Table(["machine", what], _rows(profile))]
    tables += [_gpu_table(gpu, simulated=simulated) for gpu in profile.gpu_devices]
    notes = _notes(profile)
    if notes:
        tables.append(Table(["notes"], [[note] for note in notes]))
    return Card("Simulated hardware" if simulated else "Hardware", "", tables)


def _rows(profile: HardwareProfile) -> list[tuple[str, str]]:
    free, total = format_bytes(profile.available_memory), format_bytes(profile.total_memory)
    memory = f"{free} free of {total} (limit: {profile.memory_limit_source})"
    cores = format_number(profile.cpu_cores, "core")
    threads = format_number(profile.cpu_threads, "thread")
    rows = [
        ("Processor", f"{profile.cpu_name or 'name not told'} ({profile.cpu_architecture})"),
        ("Cores", f"{cores}, {threads} usable"),
        ("Instructions", " ".join(profile.instruction_sets) or _NOT_AVAILABLE),
        ("Caches", ", ".join(_cache(cache) for cache in profile.caches) or _NOT_AVAILABLE),
        ("Matrix speed", _matrix(profile)),
        ("Memory", total if profile.source == "simulated" else memory),
        ("Bandwidth", _per_second(profile.memory_bandwidth)),
        ("Swap", _swap(profile)),
    ]
    if len(profile.numa_nodes) > 1:
        rows += [(f"NUMA node {node.node}", _numa(node)) for node in profile.numa_nodes]
    if not profile.gpu_devices:
        rows.append(("GPU", "none found"))
    for npu in profile.npu_devices:
        rows.append(("NPU", f"{npu.name} ({npu.path}, driver {npu.driver or 'not told'})"))
    return rows


def _cache(cache: CpuCache) -> str:
    size = format_bytes(cache.size_bytes)
    count = cache.instances or 1
    shared = cache.shared_by or 1
    return (
        f"{cache.name} {f'{count} × ' if count > 1 else ''}{size}"
        f"{f' for {shared} CPUs' if shared > 1 else ''}"
    )


def _matrix(profile: HardwareProfile) -> str:
    if profile.matrix_speed is None:
        return NOT_MEASURED
    return f"{format_flops(profile.matrix_speed)} in float32 ({profile.matrix_blas})"


def _per_second(bandwidth: float | None, otherwise: str = NOT_MEASURED) -> str:
    return otherwise if bandwidth is None else f"{format_bytes(bandwidth)}/s"


def _swap(profile: HardwareProfile) -> str:
    if not profile.swap_total:
        return "none"
    return f"{format_bytes(profile.swap_free)} free of {format_bytes(profile.swap_total)}"


def _numa(node: NumaNode) -> str:
    cpus = f"{len(node.cpus)} CPUs" if node.cpus else "no CPU"
    if node.total_memory is None:
        return f"memory {_NOT_AVAILABLE}, {cpus}"
    return f"{format_bytes(node.total_memory)}, {cpus}"


def _gpu_table(gpu: GpuDevice, *, simulated: bool) -> Table:
    rows = [
        ("Memory", _gpu_memory(gpu)),
        ("Bandwidth", f"at most {_per_second(gpu.memory_bandwidth)}" if gpu.memory_bandwidth
         else _NOT_AVAILABLE),
        ("Matrix speed", "not known" if gpu.matrix_speed is None
         else f"{format_flops(gpu.matrix_speed)} in float16, dense (data sheet)"),
        ("Kind", ", ".join(filter(None, [
            gpu.hardware.value,
            gpu.architecture,
            gpu.compute_capability and "compute {}.{}".format(*gpu.compute_capability),
            gpu.driver_version and f"driver {gpu.driver_version}",
        ]))),
        ("Memory bus", _NOT_AVAILABLE if gpu.bus_width is None else f"{gpu.bus_width} bits"),
    ]  # fmt: skip
    if not simulated:
        rows += _loads(gpu)
    if gpu.ecc:
        rows.append(("ECC", "on"))
    for item in gpu.mig_instances:
        memory = _free_of(item.available_memory, item.total_memory)
        rows.append((f"MIG instance {item.index}", f"{item.name or 'name not told'}: {memory}"))
    return Table([f"GPU {gpu.index}", gpu.name or "name not told"], rows)


def _loads(gpu: GpuDevice) -> list[tuple[str, str]]:
    return [
        ("Load", _NOT_AVAILABLE if gpu.utilization is None else f"{gpu.utilization:.0%} busy"),
        ("Power", _of(gpu.power, gpu.power_limit, "W")),
        ("Temperature", _NOT_AVAILABLE if gpu.temperature is None
         else f"{gpu.temperature:.0f} °C"),
        ("Core clock", _of(gpu.core_clock_now, gpu.core_clock, "MHz")),
        ("Memory clock", _of(gpu.memory_clock_now, gpu.memory_clock, "MHz")),
        ("PCIe", _pcie(gpu)),
        ("Processes", _processes(gpu)),
    ]  # fmt: skip


def _gpu_memory(gpu: GpuDevice) -> str:
    if gpu.unified_memory:
        return "shares the system's memory"
    return _free_of(gpu.available_memory, gpu.total_memory)


def _free_of(free: int | None, total: int | None) -> str:
    if total is None:
        return _NOT_AVAILABLE
    return (
        format_bytes(total)
        if free is None
        else f"{format_bytes(free)} free of {format_bytes(total)}"
    )


def _of(now: float | None, most: float | None, unit: str) -> str:
    if now is None:
        return _NOT_AVAILABLE if most is None else f"{_NOT_AVAILABLE}, at most {most:,.0f} {unit}"
    return f"{now:,.0f} {unit}" if most is None else f"{now:,.0f} of {most:,.0f} {unit}"


def _pcie(gpu: GpuDevice) -> str:
    def link(generation: int | None, width: int | None) -> str | None:
        if generation is None and width is None:
            return None
        return f"generation {generation or '?'} × {width or '?'}"

    now = link(gpu.pcie_generation, gpu.pcie_width)
    most = link(gpu.pcie_generation_max, gpu.pcie_width_max)
    if now is None or most is None or now == most:
        return now or most or _NOT_AVAILABLE
    return f"{now} now, at most {most}"


def _processes(gpu: GpuDevice) -> str:
    if gpu.processes is None:
        return _NOT_AVAILABLE
    shown = [
        f"{item.pid} (memory {_NOT_AVAILABLE})"
        if item.memory is None
        else f"{item.pid} holds {format_bytes(item.memory)}"
        for item in gpu.processes[:_MOST]
    ]
    more = len(gpu.processes) - len(shown)
    return "; ".join([*shown, *([f"{more} more"] if more else [])]) or "none"


def _notes(profile: HardwareProfile) -> list[str]:
    return [
        *profile.notes,
        *(f"GPU {gpu.index}: {note}" for gpu in profile.gpu_devices for note in gpu.notes),
    ]
