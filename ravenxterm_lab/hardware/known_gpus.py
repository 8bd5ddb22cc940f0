"""GPUs and chips whose data sheets are known, from ``known_gpus.csv``.

Each row of the file names its source, the maker's document. Where the bandwidth follows from
bus width × data rate, and the speed from cores × clock × operations per core and clock, a test
recomputes it. Speeds are FP16 with FP32 accumulation, dense, at the boost clock, on the fastest
units that the maker gives a figure for; makers that give none leave it empty.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_flops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ravenxterm_lab.hardware.devices import GpuDevice

__all__ = ["KnownGpu", "KnownGpus", "known_gpus", "name_words", "with_data_sheet"]

_GIB = 1024**3
# Words that people leave out, or put in.
_NOISE = frozenset({"nvidia", "amd", "intel", "apple", "geforce", "radeon", "instinct", "tesla"})
#: Bytes by which a driver's figure may differ from the size that the card is sold with.
_SLACK = 0.1


@dataclass(frozen=True, slots=True)
class KnownGpu:
    """One GPU, or chip with a GPU, as its maker describes it.

    Attributes
    ----------
    name : str
        The maker's name, without the maker.
    hardware : HardwareType
        ``CUDA``, ``ROCM``, ``XPU`` or ``METAL``.
    memory : tuple of int
        Bytes; for a chip with unified memory the sizes that it is sold with.
    memory_type : str
        Such as ``"GDDR6X"``.
    bus_width : int
        Bits.
    data_rate : float
        Bits per second and wire of the bus.
    bandwidth : float
        Bytes per second.
    matrix_speed : float or None
        Dense FP16 operations per second.
    compute_capability : tuple of int or None
        Of NVIDIA's.
    architecture : str
        The maker's name for the generation.
    driver_name : str
        As the driver names it; empty where that is not known.
    unified : bool
        It uses the system's memory.
    cpu_cores : int or None
        Of the same chip.
    source : str
        The maker's document.
    """

    name: str
    hardware: HardwareType
    memory: tuple[int, ...]
    memory_type: str
    bus_width: int
    data_rate: float
    bandwidth: float
    matrix_speed: float | None
    compute_capability: tuple[int, int] | None
    architecture: str
    driver_name: str
    unified: bool
    cpu_cores: int | None
    source: str

    @property
    def label(self) -> str:
        """Name and memory, as `HardwareProfile.simulate` takes them."""
        sizes = " or ".join(f"{size // _GIB}" for size in self.memory)
        return f"{self.name} {sizes}GB"


@dataclass(frozen=True, slots=True)
class KnownGpus(Displayed):
    """What `HardwareProfile.simulate` knows, as a table.

    Attributes
    ----------
    gpus : tuple of KnownGpu
        In the order of the file.
    """

    gpus: tuple[KnownGpu, ...]

    def __iter__(self) -> Iterator[KnownGpu]:
        return iter(self.gpus)

    def __len__(self) -> int:
        return len(self.gpus)

    def _card(self) -> Card:
        rows = [
            (
                gpu.label,
                gpu.hardware.value,
                f"{gpu.memory_type}, {'unified, ' if gpu.unified else ''}{gpu.bus_width} bits",
                f"{format_bytes(gpu.bandwidth)}/s",
                "not told" if gpu.matrix_speed is None else format_flops(gpu.matrix_speed),
                gpu.source,
            )
            for gpu in self.gpus
        ]
        header = ["GPU", "kind", "memory", "bandwidth", "FP16, dense", "source"]
        table = Table(header, rows, [False, False, False, True, True, False])
        return Card("GPUs that can be simulated", f"{len(rows)} of them", [table])


@lru_cache(maxsize=1)
def known_gpus() -> KnownGpus:
    """Return the GPUs and chips of the table."""
    file = resources.files("ravenxterm_lab.hardware") / "known_gpus.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    return KnownGpus(tuple(_row(row) for row in csv.DictReader(lines)))


def _row(row: dict[str, str]) -> KnownGpu:
    major, _, minor = row["compute_capability"].partition(".")
    speed, cores = row["fp16_tflops"], row["cpu_cores"]
    return KnownGpu(
        name=row["name"],
        hardware=HardwareType(row["kind"]),
        memory=tuple(int(size) * _GIB for size in row["memory_gib"].split()),
        memory_type=row["memory_type"],
        bus_width=int(row["bus_width"]),
        data_rate=float(row["data_rate_gbps"]) * 1e9,
        bandwidth=float(row["bandwidth_gb_s"]) * 1e9,
        matrix_speed=float(speed) * 1e12 if speed else None,
        compute_capability=(int(major), int(minor)) if major else None,
        architecture=row["architecture"],
        driver_name=row["driver_name"],
        unified=row["unified"] == "yes",
        cpu_cores=int(cores) if cores else None,
        source=row["source"],
    )


def name_words(name: str) -> tuple[str, ...]:
    """Return the words of a name that tell GPUs apart, in lower case.

    Examples
    --------
    >>> name_words("NVIDIA GeForce RTX 4070 Ti SUPER")
    ('rtx', '4070', 'ti', 'super')
    """
    words = re.findall(r"[a-z0-9+]+", name.lower())
    return tuple(word for word in words if word not in _NOISE)


def with_data_sheet(gpu: GpuDevice) -> GpuDevice:
    """Add what only the data sheet of a detected GPU tells: its matrix speed.

    Its bandwidth is taken from there too where the driver does not tell it. A GPU is looked up
    by exactly the name that its driver gives it; one of another name, such as a laptop's, is
    left as it is.

    Parameters
    ----------
    gpu : GpuDevice
        As it was read.
    """
    name = (gpu.name or "").removesuffix(" GPU") if gpu.unified_memory else gpu.name or ""
    found = [item for item in known_gpus() if name and _is_it(item, name, gpu)]
    if not found or gpu.mig:
        # The data sheet speaks of the whole card, and a process gets one part of it.
        return gpu
    speeds = {item.matrix_speed for item in found}
    bandwidths = {item.bandwidth for item in found}
    notes = list(gpu.notes)
    speed, bandwidth = gpu.matrix_speed, gpu.memory_bandwidth
    if len(speeds) == 1 and None not in speeds:
        speed = found[0].matrix_speed
    if bandwidth is None and len(bandwidths) == 1:
        bandwidth = found[0].bandwidth
        notes.append(f"memory_bandwidth: from the data sheet ({found[0].source}).")
    return replace(gpu, matrix_speed=speed, memory_bandwidth=bandwidth, notes=tuple(notes))


def _is_it(known: KnownGpu, name: str, gpu: GpuDevice) -> bool:
    if known.hardware is not gpu.hardware:
        return False
    if known.hardware is HardwareType.METAL:
        # macOS gives the chip's name; variants of a chip differ by cores, which it does not tell.
        chip = re.sub(r" \d+-core$", "", known.name)
        return name == f"Apple {chip}"
    if name != known.driver_name:
        return False
    total = gpu.total_memory
    return known.unified or total is None or abs(total / known.memory[0] - 1) <= _SLACK
