"""What NVML's answers mean: each is turned into a fact, or refused with a ValueError.

Drivers answer nonsense as readily as errors: 0 for "unknown", all bits set for "not available"
(``NVML_VALUE_NOT_AVAILABLE`` in nvml.h is -1), bytes where newer bindings give text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.hardware.devices import GpuProcess

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ARCHITECTURES",
    "UNUSABLE",
    "as_architecture",
    "as_clock",
    "as_count",
    "as_current",
    "as_degrees",
    "as_energy",
    "as_memory",
    "as_pair",
    "as_processes",
    "as_share",
    "as_switch",
    "as_text",
    "as_used",
    "as_watts",
]

#: ``NVML_DEVICE_ARCH_…`` of nvml.h.
ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
}
#: What the functions below raise for an answer that means nothing.
UNUSABLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
_NOT_AVAILABLE = (2**32 - 1, 2**64 - 1)
# Far above what exists: no device draws 100 kW, clocks 100 GHz or holds a pebibyte.
_MOST_WATTS, _MOST_MHZ, _MOST_BYTES, _MOST_BITS = 1e5, 1e5, 2**50, 2**20
_COLDEST, _HOTTEST = -100, 300


def _number(answer: Any, low: float, high: float) -> int:
    value = int(answer)
    if value in _NOT_AVAILABLE or not low <= value <= high:
        raise ValueError("out of range")
    return value


def as_text(answer: Any) -> str:
    """Return text; older bindings answer with bytes."""
    text = answer.decode("utf-8", errors="replace") if isinstance(answer, bytes) else str(answer)
    if not text:
        raise ValueError("empty")
    return text


def as_count(answer: Any) -> int:
    """Return a number of bits or lanes, or a generation; 0 stands for unknown."""
    return _number(answer, 1, _MOST_BITS)


def as_clock(answer: Any) -> float:
    """Return MHz; 0 stands for unknown."""
    return float(_number(answer, 1, _MOST_MHZ))


def as_current(answer: Any) -> float:
    """Return MHz of a clock that may stand still."""
    return float(_number(answer, 0, _MOST_MHZ))


def as_degrees(answer: Any) -> float:
    """Return degrees Celsius."""
    return float(_number(answer, _COLDEST, _HOTTEST))


def as_watts(answer: Any) -> float:
    """Return watts from milliwatts."""
    return _number(answer, 0, _MOST_WATTS * 1000) / 1000


def as_energy(answer: Any) -> float:
    """Return joules since the driver was loaded, from millijoules."""
    return _number(answer, 0, 2**63) / 1000


def as_share(answer: Any) -> float:
    """Return the share of time that the GPU was busy (0–1)."""
    return _number(answer.gpu, 0, 100) / 100


def as_switch(answer: Any) -> bool:
    """Return whether something is on; the answer holds the present and the pending state."""
    return _number(answer[0], 0, 1) == 1


def as_memory(answer: Any) -> tuple[int, int]:
    """Return total and free bytes; a total of 0 is an answer (unified memory)."""
    total = _number(answer.total, 0, _MOST_BYTES)
    return total, max(0, min(int(answer.free), total))


def as_used(answer: Any) -> int:
    """Return the bytes in use of a memory that the GPU has for itself."""
    total = _number(answer.total, 1, _MOST_BYTES)
    return _number(answer.used, 0, total)


def as_pair(answer: Any) -> tuple[int, int]:
    """Return a version of two numbers."""
    major, minor = answer
    return _number(major, 0, 1000), _number(minor, 0, 1000)


def as_architecture(answer: Any) -> str:
    """Return the name of a generation; those newer than this list are not guessed."""
    name = ARCHITECTURES.get(int(answer))
    if name is None:
        raise ValueError("unknown generation")
    return name


def as_processes(answer: Iterable[Any]) -> tuple[GpuProcess, ...]:
    """Return the processes, the one that holds most first."""
    found = []
    for process in answer:
        memory = process.usedGpuMemory
        known = memory is not None and 0 <= int(memory) <= _MOST_BYTES
        found.append(GpuProcess(int(process.pid), int(memory) if known else None))
    return tuple(sorted(found, key=lambda item: (-(item.memory or 0), item.pid)))
