"""A machine as a person describes it in a line: "2x RTX 3090, 128 GiB RAM, 16 cores"."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from ravenxterm_lab.exceptions import HardwareError
from ravenxterm_lab.hardware.devices import GpuDevice
from ravenxterm_lab.hardware.known_gpus import KnownGpu, known_gpus, name_words
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.units import format_bytes

__all__ = ["simulated_facts"]

_GIB = 1024**3
_ASSUMED_CORES = 8
_SIZE = r"(\d+(?:\.\d+)?)\s*(gib|gb|g|tib|tb|t)"
_RAM = re.compile(rf"{_SIZE}(?:\s*(?:of\s+)?(?:system\s+|unified\s+)?(?:ram|memory))?", re.I)
_CORES = re.compile(r"(\d+)\s*(?:cpu\s+)?cores?", re.I)
_DDR = re.compile(
    r"(?:lp)?ddr[3-6]x?[- ](\d{3,5})(?:\s*(?:mt/s|mhz))?(?:,?\s*(\d+)\s*channels?)?", re.I
)
_CPU = re.compile(r"cpu:?\s+(.+)", re.I)
_COUNT = re.compile(r"(\d+)\s*[x×*]\s*(.+)", re.I)
_TRAILING_SIZE = re.compile(rf"(.*?)[\s(]+{_SIZE}\)?(?:\s*vram)?", re.I)
_MOST_GPUS = 64
_HOW = (
    'Write for example "RTX 4090 24GB, 64 GiB RAM", "2x RTX 3090, 128 GiB RAM, 16 cores, '
    'DDR5-5600" or "M2 Max 64GB". HardwareProfile.known_gpus() lists the GPUs.'
)

_SIMULATED = (
    "Simulated: nothing was measured. All of the memory counts as free, so leave a few GiB for "
    "the system and its screen."
)


@dataclass(slots=True)
class _Parts:
    gpus: list[tuple[KnownGpu, int]] = field(default_factory=list)
    ram: int | None = None
    cores: int | None = None
    cpu: str | None = None
    rate: float | None = None
    notes: list[str] = field(default_factory=list)


def simulated_facts(description: str) -> dict[str, Any]:
    """Return the fields of a `HardwareProfile` for a machine that is described in a line.

    Parameters
    ----------
    description : str
        Parts between commas: GPUs of the table with a count before and a size behind, the
        system's memory, cores, "DDR5-5600" with a number of channels (two when left out), and
        a name for the processor after "CPU". GB are read as GiB, as memory is sold.

    Raises
    ------
    HardwareError
        On a part that cannot be understood; it suggests the nearest name.
    """
    if not description.strip():
        raise HardwareError(f"Which machine? Got {description!r}. {_HOW}")
    parts = _Parts()
    for text in re.split(r"[,;]|\s\+\s|\sand\s", description):
        if text.strip():
            _read(text.strip(), parts)
    unified = [gpu for gpu, _ in parts.gpus if gpu.unified]
    if unified:
        return _unified(parts, unified[0])
    if parts.ram is None:
        raise HardwareError(f"{description!r} does not say how much memory the machine has. {_HOW}")
    bandwidth = parts.rate
    if bandwidth is None:
        parts.notes.append(
            "memory_bandwidth: not told. Add the kind of memory, such as DDR5-5600, to have the "
            "speed on the processor estimated."
        )
    gpus = [
        _device(gpu, index, gpu.memory[0])
        for index, gpu in enumerate(gpu for gpu, count in parts.gpus for _ in range(count))
    ]
    return _facts(parts, parts.ram, bandwidth, gpus, parts.cores, "x86_64", ())


def _unified(parts: _Parts, chip: KnownGpu) -> dict[str, Any]:
    if len(parts.gpus) > 1 or parts.gpus[0][1] > 1:
        raise HardwareError(f"{chip.name} is a chip with its own GPU: simulate it alone. {_HOW}")
    sizes = chip.memory
    if parts.ram is not None and parts.ram not in sizes:
        raise HardwareError(
            f"{chip.name} is sold with {_listed(sizes)}, not {format_bytes(parts.ram)}."
        )
    if parts.ram is None and len(sizes) > 1:
        raise HardwareError(
            f"{chip.name} is sold with {_listed(sizes)} of memory: say which, as in "
            f'"{chip.name} {sizes[-1] // _GIB}GB".'
        )
    memory = sizes[0] if parts.ram is None else parts.ram
    apple = chip.hardware is HardwareType.METAL
    parts.cpu = parts.cpu or (f"Apple {chip.name}" if apple else chip.name)
    arm = apple or chip.hardware is HardwareType.CUDA
    architecture = {True: "arm64" if apple else "aarch64", False: "x86_64"}[arm]
    # Every Arm chip of the table is of ARMv8.2 or later with dot products.
    sets = ("neon", "asimd", "dotprod") if arm else ()
    parts.notes.append(f"memory_bandwidth: of the whole chip, from its data sheet ({chip.source}).")
    gpu = _device(chip, 0, None)
    return _facts(
        parts, memory, chip.bandwidth, [gpu], parts.cores or chip.cpu_cores, architecture, sets
    )


def _facts(
    parts: _Parts,
    memory: int,
    bandwidth: float | None,
    gpus: list[GpuDevice],
    cores: int | None,
    architecture: str,
    sets: tuple[str, ...],
) -> dict[str, Any]:
    notes = [_SIMULATED, *parts.notes]
    if cores is None:
        cores = _ASSUMED_CORES
        notes.append(f"cpu_cores: not told; {cores} are assumed. Add for example 16 cores.")
    if not sets:
        notes.append("instruction_sets: not told by a description; none is assumed.")
    return {
        "cpu_architecture": architecture,
        "cpu_name": parts.cpu,
        "cpu_cores": cores,
        "cpu_threads": cores,
        "instruction_sets": sets,
        "total_memory": memory,
        "available_memory": memory,
        "memory_limit_source": "description",
        "memory_bandwidth": bandwidth,
        "gpu_devices": tuple(gpus),
        "notes": tuple(notes),
        "source": "simulated",
    }


def _device(gpu: KnownGpu, index: int, memory: int | None) -> GpuDevice:
    return GpuDevice(
        index=index,
        name=gpu.driver_name or f"Apple {gpu.name} GPU",
        uuid=None,
        hardware=gpu.hardware,
        total_memory=memory,
        available_memory=memory,
        bus_width=gpu.bus_width,
        memory_bandwidth=gpu.bandwidth,
        matrix_speed=gpu.matrix_speed,
        compute_capability=gpu.compute_capability,
        architecture=gpu.architecture,
        unified_memory=gpu.unified,
        notes=(f"Simulated, from: {gpu.source}.",),
    )


def _read(text: str, parts: _Parts) -> None:
    if match := _RAM.fullmatch(text):
        _once(parts.ram, "memory", text)
        parts.ram = _bytes(match[1], match[2])
    elif match := _CORES.fullmatch(text):
        _once(parts.cores, "number of cores", text)
        parts.cores = int(match[1])
        if not 1 <= parts.cores <= 1024:
            raise HardwareError(f"{text!r}: allowed are 1 to 1024 cores.")
    elif match := _DDR.fullmatch(text):
        _once(parts.rate, "kind of memory", text)
        channels = int(match[2] or 2)
        # A channel is 64 bits wide (JESD79): 8 bytes for each of its million transfers.
        parts.rate = int(match[1]) * 1e6 * 8 * channels
        parts.notes.append(
            f"memory_bandwidth: {text} on {channels} channels, at most; a measurement gives less."
        )
    elif match := _CPU.fullmatch(text):
        _once(parts.cpu, "processor", text)
        parts.cpu = match[1].strip()
    else:
        count, name, size = 1, text, None
        if match := _COUNT.fullmatch(name):
            count, name = int(match[1]), match[2]
            if not 1 <= count <= _MOST_GPUS:
                raise HardwareError(f"{text!r}: allowed are 1 to {_MOST_GPUS} GPUs.")
        if match := _TRAILING_SIZE.fullmatch(name):
            name, size = match[1], _bytes(match[2], match[3])
        gpu = _find(name, size, text)
        if gpu.unified and size is not None:
            _once(parts.ram, "memory", text)
            parts.ram = size
        parts.gpus.append((gpu, count))


def _once(known: object, what: str, text: str) -> None:
    if known is not None:
        raise HardwareError(f"{text!r}: the {what} was given already. Say it once.")


def _bytes(number: str, unit: str) -> int:
    size = int(float(number) * _GIB * (1024 if unit.lower().startswith("t") else 1))
    if not 0 < size <= 1 << 50:
        raise HardwareError(f"{number} {unit}: allowed is memory from 1 GiB to 1024 TiB.")
    return size


def _find(name: str, size: int | None, text: str) -> KnownGpu:
    words, gpus = name_words(name), known_gpus()
    joined = "".join(words)
    named = [gpu for gpu in gpus if "".join(name_words(gpu.name)) == joined]
    if not named:
        # "A100 80GB" leaves out the socket, "M3 Max" the number of cores.
        named = [gpu for gpu in gpus if words and name_words(gpu.name)[: len(words)] == words]
    if not named:
        raise HardwareError(
            f"No GPU, and no other part, is known as {text!r}.{_nearest(joined)} {_HOW}"
        )
    fitting = [gpu for gpu in named if size is None or size in gpu.memory]
    if len(fitting) == 1:
        return fitting[0]
    choices = ", ".join(dict.fromkeys(gpu.label for gpu in fitting or named))
    if fitting:
        raise HardwareError(f"{text!r} may be one of several: say which of {choices}.")
    raise HardwareError(f"{text!r} is not made with that much memory: there is {choices}.")


def _nearest(joined: str) -> str:
    by_key = {"".join(name_words(gpu.name)): gpu.name for gpu in known_gpus()}
    close = difflib.get_close_matches(joined, by_key, n=12, cutoff=0.6)
    # Of those, a number that agrees says more than letters that do: 4080 Ti is near to 4080.
    close.sort(key=lambda key: -_agreeing(key, joined))
    return f" Did you mean {' or '.join(by_key[key] for key in close[:3])}?" if close else ""


def _agreeing(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _listed(sizes: tuple[int, ...]) -> str:
    return " or ".join(format_bytes(size) for size in sizes)
