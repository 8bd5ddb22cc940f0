"""The facts of one accelerator, as the profile shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import HardwareType

__all__ = ["GpuDevice", "GpuProcess", "GpuSample", "MigInstance", "NpuDevice"]


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU.

    Attributes
    ----------
    pid : int
        As the driver tells it; inside a container it may be the host's number.
    memory : int or None
        Bytes of the GPU's memory that it holds; None where the driver keeps it to itself.
    """

    pid: int
    memory: int | None


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One part of a card that is split by NVIDIA MIG.

    Attributes
    ----------
    index : int
        Place among the card's instances.
    name : str or None
        Such as ``"NVIDIA A100-SXM4-40GB MIG 1g.5gb"``.
    total_memory, available_memory : int or None
        Bytes.
    """

    index: int
    name: str | None
    total_memory: int | None
    available_memory: int | None


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One graphics processor. None means "not available"; ``notes`` says why.

    Attributes
    ----------
    index : int
        Position among the machine's GPUs: NVIDIA's first, in NVML's order, then the others.
    name, uuid : str or None
        As the driver tells them.
    hardware : HardwareType
        ``CUDA``, ``ROCM``, ``METAL`` or ``XPU``.
    total_memory, available_memory : int or None
        Bytes of the device's own memory that one process can use. On a card that is split
        by MIG, those of its largest instance. None with ``unified_memory``.
    utilization : float or None
        Share of the last sample period in which the GPU was busy (0–1).
    temperature : float or None
        Degrees Celsius.
    power, power_limit : float or None
        Watts, drawn and allowed.
    core_clock, core_clock_now : float or None
        The highest and the present clock of the processing units, MHz.
    energy : float or None
        Joules drawn since the driver was loaded; what a run takes is told by two readings.
    memory_clock, memory_clock_now : float or None
        The highest and the present clock of the memory, MHz.
    bus_width : int or None
        Bits of the memory interface.
    memory_bandwidth : float or None
        Bytes per second: ``memory clock × 2 × bus width / 8``. NVML reports the clock of a
        double-data-rate memory, hence the 2 (the same formula as in NVIDIA's ``nvbench`` and
        ``deviceQuery``, from the two figures of ``nvmlDeviceGetMaxClockInfo`` and
        ``nvmlDeviceGetMemoryBusWidth``). It is an upper bound: no program reaches all of it.
        None on a card that is split by MIG.
    matrix_speed : float or None
        Dense FP16 operations per second with the fastest units of the device, from its maker's
        data sheet (see `known_gpus`); never measured here.
    compute_capability : tuple of int or None
        Major and minor version (NVIDIA).
    architecture : str or None
        The maker's name for the generation, such as ``"Hopper"``.
    pcie_generation, pcie_width : int or None
        Of the link as it is now (it drops while the GPU rests), and its lanes.
    pcie_generation_max, pcie_width_max : int or None
        What GPU and slot allow together.
    ecc : bool or None
        Whether the memory is protected by ECC, which costs some of it on GDDR cards.
    mig : bool or None
        Whether the card is split into instances (NVIDIA MIG).
    mig_instances : tuple of MigInstance
        Those that this process can see.
    processes : tuple of GpuProcess or None
        What computes on it now.
    unified_memory : bool
        The GPU has no memory of its own and uses the system's, which must be counted once.
    driver_version : str or None
        Of the kernel driver.
    notes : tuple of str
        The fields that are not available, each with the reason.
    """

    index: int
    name: str | None
    uuid: str | None
    hardware: HardwareType
    total_memory: int | None = None
    available_memory: int | None = None
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    energy: float | None = None
    core_clock: float | None = None
    core_clock_now: float | None = None
    memory_clock: float | None = None
    memory_clock_now: float | None = None
    bus_width: int | None = None
    memory_bandwidth: float | None = None
    matrix_speed: float | None = None
    compute_capability: tuple[int, int] | None = None
    architecture: str | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_generation_max: int | None = None
    pcie_width_max: int | None = None
    ecc: bool | None = None
    mig: bool | None = None
    mig_instances: tuple[MigInstance, ...] = ()
    processes: tuple[GpuProcess, ...] | None = None
    unified_memory: bool = False
    driver_version: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NpuDevice:
    """One neural processor that the kernel lists.

    Attributes
    ----------
    name : str
        The kind that its kernel driver stands for.
    path : str
        The device file, such as ``"/dev/accel/accel0"``.
    driver : str or None
        The kernel driver; None when sysfs does not tell.
    """

    name: str
    path: str
    driver: str | None


@dataclass(frozen=True, slots=True)
class GpuSample:
    """The load of one GPU at one moment; None means "not available".

    Attributes
    ----------
    gpu : int
        As ``GpuDevice.index``.
    percent : float or None
        Busy share (0–100).
    memory_used : int or None
        Bytes of its own memory in use.
    power : float or None
        Watts.
    temperature : float or None
        Degrees Celsius.
    clock : float or None
        Of the processing units, MHz.
    """

    gpu: int
    percent: float | None = None
    memory_used: int | None = None
    power: float | None = None
    temperature: float | None = None
    clock: float | None = None
