"""Neural processors that the kernel lists, and the GPU of Apple silicon."""

from __future__ import annotations

import re
from pathlib import Path

from ravenxterm_lab.hardware.devices import GpuDevice, NpuDevice
from ravenxterm_lab.metadata import HardwareType

__all__ = ["apple_gpu", "read_npus"]

#: Drivers of the kernel's ``drivers/accel`` directory and what they drive.
_DRIVERS = {
    "amdxdna": "AMD NPU (XDNA)",
    "ethosu": "Arm Ethos-U NPU",
    "habanalabs": "Intel Gaudi accelerator",
    "intel_vpu": "Intel NPU",
    "ivpu": "Intel NPU",
    "qaic": "Qualcomm Cloud AI accelerator",
    "rocket": "Rockchip NPU",
}


def read_npus(root: Path = Path("/")) -> tuple[tuple[NpuDevice, ...], tuple[str, ...]]:
    """Read the accelerators of the kernel's ``accel`` class.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.

    Returns
    -------
    tuple of NpuDevice, tuple of str
        The devices, and notes on what could not be told.
    """
    names = {
        path.name
        for directory in ("sys/class/accel", "dev/accel")
        for path in (root / directory).glob("accel*")
        if re.fullmatch(r"accel\d+", path.name)
    }
    devices, notes = [], []
    for name in sorted(names, key=lambda name: int(name[5:])):
        try:
            driver = (root / f"sys/class/accel/{name}/device/driver").readlink().name
        except OSError:
            driver = None
            notes.append(f"{name}: the kernel does not tell which driver runs it.")
        known = _DRIVERS.get(driver or "", "accelerator of unknown kind")
        devices.append(NpuDevice(known, f"/dev/accel/{name}", driver))
    return tuple(devices), tuple(notes)


def apple_gpu(system: str, machine: str, chip: str | None) -> GpuDevice | None:
    """Return the GPU of Apple silicon, which every such chip has; None elsewhere.

    Parameters
    ----------
    system, machine : str
        As `platform.system` and `platform.machine` tell them.
    chip : str or None
        The name of the chip.
    """
    if system != "Darwin" or machine.lower() != "arm64":
        return None
    return GpuDevice(
        index=0,
        name=f"{chip or 'Apple silicon'} GPU",
        uuid=None,
        hardware=HardwareType.METAL,
        unified_memory=True,
        notes=(
            "utilization, temperature, power: macOS tells them to administrators only.",
            "The Neural Engine has no public interface that tells its use, so it is not listed.",
        ),
    )
