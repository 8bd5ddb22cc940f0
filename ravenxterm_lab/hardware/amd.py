"""AMD and Intel GPUs through sysfs (``/sys/class/drm``), without a vendor's library.

Source of the files' meaning: the kernel's ``Documentation/gpu/amdgpu/driver-misc.rst`` and
``thermal.rst``.
"""

from __future__ import annotations

import re
from pathlib import Path

from ravenxterm_lab.hardware.devices import GpuDevice
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.units import format_bytes

__all__ = ["read_sysfs_gpus"]

_AMD = "0x1002"
_INTEL = "0x8086"


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
    found: list[GpuDevice] = []
    directory = root / "sys/class/drm"
    cards = [path for path in directory.glob("card*") if re.fullmatch(r"card\d+", path.name)]
    for card in sorted(cards, key=lambda path: int(path.name[4:])):
        device = card / "device"
        vendor = _text(device / "vendor")
        index = first_index + len(found)
        if vendor == _AMD:
            found.append(_amd(root, device, index))
        elif vendor == _INTEL:
            found.append(_intel(device, index, card.name))
    return tuple(found)


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
    name = _text(device / "product_name") or None
    if name is None:
        name = f"AMD GPU {_text(device / 'device') or 'of unknown model'}"
        notes.append("name: the driver tells only the PCI id.")
    notes.append("memory_clock, bus_width, memory_bandwidth: amdgpu does not tell them in sysfs.")
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
        driver_version=_text(root / "sys/module/amdgpu/version") or None,
        notes=tuple(notes),
    )


def _intel(device: Path, index: int, card: str) -> GpuDevice:
    return GpuDevice(
        index=index,
        name=f"Intel GPU {_text(device / 'device') or 'of unknown model'}",
        uuid=None,
        hardware=HardwareType.XPU,
        notes=(f"memory, load: not told in sysfs for Intel's {card}; no model is placed on it.",),
    )


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
