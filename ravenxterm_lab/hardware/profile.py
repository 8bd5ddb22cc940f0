"""The machine as a model sees it: one frozen profile."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.hardware.amd import read_sysfs_gpus
from ravenxterm_lab.hardware.cgroup import read_cgroup
from ravenxterm_lab.hardware.cpu import read_cpu
from ravenxterm_lab.hardware.known_gpus import KnownGpus, known_gpus, with_data_sheet
from ravenxterm_lab.hardware.memory import read_memory
from ravenxterm_lab.hardware.npu import apple_gpu, read_npus
from ravenxterm_lab.hardware.nvidia import read_nvidia
from ravenxterm_lab.hardware.rapl import Rapl
from ravenxterm_lab.hardware.show import as_card
from ravenxterm_lab.hardware.simulate import simulated_facts
from ravenxterm_lab.hardware.speed import machine_speed
from ravenxterm_lab.hardware.topology import CpuCache, NumaNode, read_numa
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.tables import Displayed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.hardware.devices import GpuDevice, NpuDevice
    from ravenxterm_lab.tables import Card

__all__ = ["HardwareProfile"]

_QUARTER_GIB = 1 << 28


@dataclass(frozen=True, slots=True)
class HardwareProfile(Displayed):
    """What this process may use of the machine. Sizes are in bytes.

    Attributes
    ----------
    cpu_architecture : str
        Such as ``"x86_64"`` or ``"arm64"``.
    cpu_name : str or None
        The maker's name for the processor.
    cpu_cores, cpu_threads : int
        Physical cores and logical CPUs that this process may use, under its affinity and its
        control group's quota; ``notes`` say which limit binds.
    instruction_sets : tuple of str
        Those that inference engines care about, such as ``("avx2", "fma")``.
    total_memory, available_memory : int
        The smaller of the machine's and the container's limit (bytes).
    memory_limit_source : str
        What sets ``total_memory``: ``"machine"``, ``"cgroup v2"`` or ``"cgroup v1"``.
    swap_total, swap_free : int
        Bytes of swap that this process may use, and what of it is free.
    caches : tuple of CpuCache
        Those that serve the CPUs that may be used, from the core outwards.
    numa_nodes : tuple of NumaNode
        Memory and CPUs of each; empty where the system tells of none.
    memory_bandwidth : float or None
        Bytes per second, read and written together, measured (see `measure_bandwidth`).
    matrix_speed : float or None
        Float32 operations per second of the processor in a matrix product, measured (see
        `measure_matrix_speed`).
    matrix_blas : str or None
        What multiplied, and on how many CPUs.
    gpu_devices : tuple of GpuDevice
        All that the drivers list.
    npu_devices : tuple of NpuDevice
        All that the kernel lists.
    notes : tuple of str
        What could not be read, why, and the remedy.
    source : str
        ``"detected"`` or ``"simulated"``.
    root : Path
        The file system that was read; ``/`` except in tests.

    Examples
    --------
    >>> from ravenxterm_lab import HardwareProfile
    >>> profile = HardwareProfile.detect(measure_bandwidth=False)
    >>> 0 < profile.available_memory <= profile.total_memory
    True
    """

    cpu_architecture: str
    cpu_name: str | None
    cpu_cores: int
    cpu_threads: int
    instruction_sets: tuple[str, ...]
    total_memory: int
    available_memory: int
    memory_limit_source: str = "machine"
    swap_total: int = 0
    swap_free: int = 0
    caches: tuple[CpuCache, ...] = ()
    numa_nodes: tuple[NumaNode, ...] = ()
    memory_bandwidth: float | None = None
    matrix_speed: float | None = None
    matrix_blas: str | None = None
    gpu_devices: tuple[GpuDevice, ...] = ()
    npu_devices: tuple[NpuDevice, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = "detected"
    root: Path = field(default=Path("/"), repr=False, compare=False)

    @classmethod
    def detect(
        cls,
        *,
        cache_dir: Path | None = None,
        nvml: Any = None,
        measure_bandwidth: bool = True,
        root: Path = Path("/"),
    ) -> HardwareProfile:
        """Read the machine.

        Nothing is raised for what cannot be read; it is left out and told in ``notes``.

        Parameters
        ----------
        cache_dir : Path, optional
            Where the measured speeds are remembered; without it, for this process only.
        nvml : object, optional
            Stands in for ``pynvml``, such as `FakeNvml`.
        measure_bandwidth : bool
            Measure the memory's bandwidth and the processor's matrix speed if they are not
            remembered (under two seconds together).
        root : Path
            Stands in for ``/`` where files of ``/proc``, ``/sys`` and ``/dev`` are read.
        """
        cgroup = read_cgroup(root)
        cpu = read_cpu(root, cgroup.cpu)
        memory = read_memory(root, cgroup)
        nvidia = read_nvidia(nvml)
        rapl = Rapl(root)
        npus, npu_notes = read_npus(root)
        nodes, node_notes = read_numa(root)
        gpus = [*nvidia.devices, *read_sysfs_gpus(root, len(nvidia.devices))]
        apple = apple_gpu(platform.system(), platform.machine(), cpu.name)
        # No Mac with Apple silicon has an NVIDIA driver, so its absence says nothing there.
        nvidia_notes = nvidia.notes if apple is None else ()
        if apple is not None:
            gpus.append(apple)
        profile = cls(
            cpu_architecture=cpu.architecture,
            cpu_name=cpu.name,
            cpu_cores=cpu.cores,
            cpu_threads=cpu.threads,
            instruction_sets=cpu.instruction_sets,
            total_memory=memory.total,
            available_memory=memory.available,
            memory_limit_source=memory.limit_source,
            swap_total=memory.swap_total,
            swap_free=memory.swap_free,
            caches=cpu.caches,
            numa_nodes=nodes,
            gpu_devices=tuple(with_data_sheet(gpu) for gpu in gpus),
            npu_devices=npus,
            notes=(
                *cpu.notes,
                *memory.notes,
                *node_notes,
                *nvidia_notes,
                *_visibility(nvidia.devices),
                *(() if rapl.note is None else (rapl.note,)),
                *npu_notes,
            ),
            root=root,
        )
        if not measure_bandwidth:
            return profile
        speed, notes = machine_speed(
            # A GPU that comes or goes does not change the speed of the rest.
            replace(profile, gpu_devices=(), npu_devices=()).fingerprint,
            cpu.threads,
            cache_dir=cache_dir,
            last_level_cache=cpu.last_level_cache,
            available=memory.available,
        )
        bandwidth, matrix = speed.bandwidth, speed.matrix
        return replace(
            profile,
            memory_bandwidth=None if bandwidth is None else bandwidth.bytes_per_second,
            matrix_speed=None if matrix is None else matrix.flops_per_second,
            matrix_blas=None if matrix is None else f"{matrix.blas}, {matrix.cpus:.1f} CPUs busy",
            notes=(*profile.notes, *notes),
        )

    @classmethod
    def simulate(cls, description: str) -> HardwareProfile:
        """Return the profile of a machine that is not here, such as one to be bought.

        It can be used wherever a profile can; what was never measured is None.

        Parameters
        ----------
        description : str
            Parts between commas: GPUs or a chip of `known_gpus`, with a count before and the
            memory behind; the system's memory; cores; "DDR5-5600" with a number of channels
            (two when left out); a name after "CPU". GB are read as GiB, as memory is sold.

        Raises
        ------
        HardwareError
            (A ``ValueError``.) On a part that is not known; it suggests the nearest name.

        Examples
        --------
        >>> machine = HardwareProfile.simulate("2x RTX 3090, 128 GiB RAM, DDR4-3200")
        >>> total, _ = machine.memory_for("cuda")
        >>> total // 1024**3, machine.memory_bandwidth / 1e9
        (48, 51.2)
        """
        return cls(**simulated_facts(description))

    @staticmethod
    def known_gpus() -> KnownGpus:
        """Return the GPUs and chips that `simulate` knows, with the source of each."""
        return known_gpus()

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that stay the same while the hardware does.

        They follow from the processor, what this process may use of it, the memory (to the
        nearest 256 MiB, since a kernel update moves it by a little) and the devices; never
        from loads, clocks, driver versions or free memory.
        """
        facts: dict[str, Any] = {
            "cpu": [self.cpu_architecture, self.cpu_name, self.cpu_cores, self.cpu_threads],
            "instructions": list(self.instruction_sets),
            "memory": round(self.total_memory / _QUARTER_GIB),
            "gpus": [
                [gpu.hardware.value, gpu.name, gpu.uuid, gpu.total_memory, gpu.unified_memory]
                for gpu in self.gpu_devices
            ],
            "npus": [[npu.name, npu.driver] for npu in self.npu_devices],
        }
        if self.source != "detected":
            facts["source"] = self.source
        text = json.dumps(facts, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    @property
    def devices(self) -> tuple[HardwareType, ...]:
        """Kinds of device that a model can be placed on here, GPUs first, always with the CPU.

        A GPU counts when its memory is known or shared with the system.
        """
        kinds = [gpu.hardware for gpu in self.gpu_devices if gpu.unified_memory or gpu.total_memory]
        return (*dict.fromkeys(kinds), HardwareType.CPU)

    def memory_for(self, device: HardwareType | str) -> tuple[int | None, int | None]:
        """Return the total and the available memory of one kind of device (bytes).

        Several GPUs of a kind are summed, since engines split a model over them. Devices
        that share the system's memory answer with it, together once: never add it to the
        CPU's (see `shares_memory`).

        Parameters
        ----------
        device : HardwareType or str
            Such as ``"cuda"``.

        Returns
        -------
        tuple of int or None
            ``(0, 0)`` when there is no such device; None for a figure that is not available.
        """
        kind = HardwareType(device)
        if kind is HardwareType.CPU:
            return self.total_memory, self.available_memory
        gpus = [gpu for gpu in self.gpu_devices if gpu.hardware is kind]
        own = [gpu for gpu in gpus if not gpu.unified_memory]
        total = _sum([gpu.total_memory for gpu in own])
        available = _sum([gpu.available_memory for gpu in own])
        if len(own) == len(gpus):
            return total, available
        return (
            None if total is None else total + self.total_memory,
            None if available is None else available + self.available_memory,
        )

    def shares_memory(self, device: HardwareType | str) -> bool:
        """Say whether a kind of device uses the system's memory (always true of the CPU)."""
        kind = HardwareType(device)
        return kind is HardwareType.CPU or any(
            gpu.unified_memory for gpu in self.gpu_devices if gpu.hardware is kind
        )

    def refreshed(self, *, nvml: Any = None) -> HardwareProfile:
        """Return this profile with the memory, loads and temperatures of now.

        The processor and the measured speeds are not looked at again.

        Parameters
        ----------
        nvml : object, optional
            Stands in for ``pynvml``.

        Returns
        -------
        HardwareProfile
            A simulated one is returned as it is: there is no machine to look at.
        """
        if self.source == "simulated":
            return self
        memory = read_memory(self.root)
        notes = list(self.notes)
        gpus: list[GpuDevice] = []
        nvidia = [gpu for gpu in self.gpu_devices if gpu.hardware is HardwareType.CUDA]
        if nvidia:
            reading = read_nvidia(nvml)
            if len(reading.devices) == len(nvidia):
                gpus += (with_data_sheet(gpu) for gpu in reading.devices)
            else:
                gpus += [_stale(gpu) for gpu in nvidia]
                reason = " ".join(reading.notes) or f"NVML now lists {len(reading.devices)}."
                notes.append(f"The NVIDIA GPUs could not be read again. {reason}")
        rest = [gpu for gpu in self.gpu_devices if gpu.hardware is not HardwareType.CUDA]
        if rest:
            again = {gpu.index: gpu for gpu in read_sysfs_gpus(self.root, len(nvidia))}
            gpus += [with_data_sheet(again.get(gpu.index, gpu)) for gpu in rest]
        return replace(
            self,
            total_memory=memory.total,
            available_memory=memory.available,
            memory_limit_source=memory.limit_source,
            swap_total=memory.swap_total,
            swap_free=memory.swap_free,
            gpu_devices=tuple(gpus),
            notes=tuple(dict.fromkeys([*notes, *memory.notes])),
        )

    def _card(self) -> Card:
        return as_card(self)


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _stale(gpu: GpuDevice) -> GpuDevice:
    return replace(gpu, available_memory=None, utilization=None, temperature=None, power=None)


def _visibility(gpus: Sequence[GpuDevice]) -> tuple[str, ...]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not gpus:
        return ()
    note = (
        f"CUDA_VISIBLE_DEVICES={chosen!r} decides which of these {len(gpus)} GPUs a CUDA program "
        "sees; NVML lists them all."
    )
    return (note,)
