"""AMD and Intel GPUs through sysfs (``/sys/class/drm``), without a vendor's library.

Source of the files' meaning: the kernel's ``Documentation/gpu/amdgpu/driver-misc.rst`` and
``thermal.rst``.
"""

from __future__ import annotations

import re
from pathlib import Path

from ravenxterm_lab.hardware.devices import GpuDevice, GpuSample
from ravenxterm_lab.hardware.kfd import KfdNode
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.units import format_bytes

__all__ = ["read_sysfs_gpus", "sample_sysfs_gpu", "sysfs_gpus"]

_AMD = "0x1002"
_INTEL = "0x8086"
# Gigatransfers per second and lane, by generation, of the PCI Express base specifications.
_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}


def read_sysfs_gpus(root: Path = Path("/"), first_index: int = 0) -> tuple[GpuDevice, ...]:
    """Read the AMD and Intel GPUs that the kernel lists.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    first_index : int
        The index that the first of them gets.

    Returns
    -------
    tuple of GpuDevice
        In the kernel's order; empty where there is no ``/sys/class/drm``.
    """
    return tuple(
        _amd(root, device, index)
        if _text(device / "vendor") == _AMD
        else _intel(device, index, device.parent.name)
        for index, device in enumerate(sysfs_gpus(root), first_index)
    )


def _amd(root: Path, device: Path, index: int) -> GpuDevice:
    notes: list[str] = []
    total = _number(device / "mem_info_vram_total", "total_memory", notes)
    used = _number(device / "mem_info_vram_used", "available_memory", notes)
    busy = _number(device / "gpu_busy_percent", "utilization", notes)
    sensors = next(iter(sorted((device / "hwmon").glob("hwmon*"))), device / "hwmon")
    # Newer cards offer the instant draw (power1_input) instead of the average.
    power_file = next(
        (path for name in ("average", "input") if (path := sensors / f"power1_{name}").is_file()),
        sensors / "power1_average",
    )
    power = _number(power_file, "power", notes)
    limit = _number(sensors / "power1_cap", "power_limit", notes)
    temperature = _number(sensors / "temp1_input", "temperature", notes)
    core, core_now = _clocks(device / "pp_dpm_sclk", "core_clock", notes)
    memory, memory_now = _clocks(device / "pp_dpm_mclk", "memory_clock", notes)
    generation, width = _link(device, "current", notes)
    most_generation, most_width = _link(device, "max", notes)
    kfd = KfdNode.of_render_node(root, device)
    if kfd is None:
        notes.append(
            "bus_width, processes: not available (the compute driver, /sys/class/kfd, does not "
            "list this GPU). They need the amdgpu driver with KFD; in a container, access to it."
        )
    name = _text(device / "product_name") or None
    if name is None:
        name = f"AMD GPU {_text(device / 'device') or 'of unknown model'}"
        notes.append("name: the driver tells only the PCI id.")
    notes.append(
        "memory_bandwidth: amdgpu does not tell the kind of memory in sysfs, and clock and bus "
        "width alone do not give it (GDDR6 moves 16 bits a clock and wire, HBM2 two)."
    )
    notes.append("architecture, ecc: amdgpu does not tell them in sysfs.")
    mappable = _text(device / "mem_info_gtt_total")
    if total is not None and mappable.isdecimal() and int(mappable) > total:
        notes.append(
            f"It can also map {format_bytes(int(mappable))} of the system's memory (GTT), "
            "which is not counted as its own."
        )
    return GpuDevice(
        index=index,
        name=name,
        uuid=_text(device / "unique_id") or None,
        hardware=HardwareType.ROCM,
        total_memory=total,
        available_memory=None if total is None or used is None else max(0, total - used),
        utilization=None if busy is None else min(busy, 100) / 100,
        temperature=None if temperature is None else temperature / 1000,
        power=None if power is None else power / 1e6,
        power_limit=None if limit is None else limit / 1e6,
        core_clock=core,
        core_clock_now=core_now,
        memory_clock=memory,
        memory_clock_now=memory_now,
        bus_width=None if kfd is None else kfd.bus_width,
        pcie_generation=generation,
        pcie_width=width,
        pcie_generation_max=most_generation,
        pcie_width_max=most_width,
        processes=None if kfd is None else kfd.processes(root),
        driver_version=_text(root / "sys/module/amdgpu/version") or None,
        notes=tuple(notes),
    )


def sample_sysfs_gpu(device: Path, index: int) -> GpuSample | None:
    """Read the loads of one GPU, and nothing else of it.

    Parameters
    ----------
    device : Path
        Its directory in sysfs.
    index : int
        As ``GpuDevice.index``.

    Returns
    -------
    GpuSample or None
        None for a GPU that tells no loads (Intel's).
    """
    if _text(device / "vendor") != _AMD:
        return None
    silent: list[str] = []
    busy = _number(device / "gpu_busy_percent", "", silent)
    sensors = next(iter(sorted((device / "hwmon").glob("hwmon*"))), device / "hwmon")
    power = _number(sensors / "power1_average", "", silent)
    if power is None:
        power = _number(sensors / "power1_input", "", silent)
    temperature = _number(sensors / "temp1_input", "", silent)
    return GpuSample(
        gpu=index,
        percent=None if busy is None else float(min(busy, 100)),
        memory_used=_number(device / "mem_info_vram_used", "", silent),
        power=None if power is None else power / 1e6,
        temperature=None if temperature is None else temperature / 1000,
        clock=_clocks(device / "pp_dpm_sclk", "", silent)[1],
    )


def sysfs_gpus(root: Path = Path("/")) -> list[Path]:
    """Return the directories of the AMD and Intel GPUs, in the kernel's order.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    """
    directory = root / "sys/class/drm"
    cards = [path for path in directory.glob("card*") if re.fullmatch(r"card\d+", path.name)]
    return [
        card / "device"
        for card in sorted(cards, key=lambda path: int(path.name[4:]))
        if _text(card / "device/vendor") in {_AMD, _INTEL}
    ]


def _intel(device: Path, index: int, card: str) -> GpuDevice:
    return GpuDevice(
        index=index,
        name=f"Intel GPU {_text(device / 'device') or 'of unknown model'}",
        uuid=None,
        hardware=HardwareType.XPU,
        notes=(f"memory, load: not told in sysfs for Intel's {card}; no model is placed on it.",),
    )


def _clocks(path: Path, field: str, notes: list[str]) -> tuple[float | None, float | None]:
    """Return the highest and the present clock (MHz) of a ``pp_dpm_…`` file."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError as error:
        notes.append(f"{field}: not available ({path.name}: {error.strerror or error}).")
        return None, None
    # A line reads "1: 1249Mhz *"; the star marks the level in force.
    levels = re.findall(r"^\S+:\s*(\d+)\s*M[hH]z(\s*\*)?", text, re.MULTILINE)
    if not levels:
        notes.append(f"{field}: not available ({path.name} lists no clock).")
        return None, None
    now = next((float(clock) for clock, star in levels if star), None)
    return max(float(clock) for clock, _ in levels), now


def _link(device: Path, which: str, notes: list[str]) -> tuple[int | None, int | None]:
    """Return generation and lanes of a PCIe link, from its transfers per second."""
    speed = re.match(r"(\d+(?:\.\d+)?) GT/s", _text(device / f"{which}_link_speed"))
    width = _text(device / f"{which}_link_width")
    generation = None if speed is None else _GENERATIONS.get(float(speed[1]))
    lanes = int(width) if width.isdecimal() and int(width) else None
    if generation is None or lanes is None:
        notes.append(f"pcie ({which}): not available ({which}_link_speed or _width not told).")
    return generation, lanes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path, field: str, notes: list[str]) -> int | None:
    try:
        return int(path.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        notes.append(f"{field}: not available ({path.name}: {error.strerror or error}).")
    except ValueError:
        notes.append(f"{field}: not available ({path.name} holds no number).")
    return None
