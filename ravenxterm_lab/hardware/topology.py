"""Caches of the processor and NUMA nodes of the machine, as the kernel lists them.

Sources of the files' meaning: the kernel's ``Documentation/ABI/testing/sysfs-devices-system-cpu``
(``cache/index*``) and ``Documentation/ABI/stable/sysfs-devices-node``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "CpuCache",
    "NumaNode",
    "last_level_bytes",
    "parse_cpu_list",
    "read_caches",
    "read_macos_caches",
    "read_numa",
]

_LETTERS = {"data": "d", "instruction": "i"}
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True, order=True)
class CpuCache:
    """One kind of cache among the CPUs that this process may use.

    Attributes
    ----------
    level : int
        1 is nearest to the core.
    kind : str
        ``"data"``, ``"instruction"`` or ``"unified"``.
    size_bytes : int
        Of one instance.
    instances : int or None
        How many of them serve these CPUs; None when the system does not tell.
    shared_by : int or None
        Logical CPUs that one instance serves, of the whole machine.
    """

    level: int
    kind: str
    size_bytes: int
    instances: int | None
    shared_by: int | None

    @property
    def name(self) -> str:
        """As it is usually called, such as ``"L1d"`` or ``"L3"``."""
        return f"L{self.level}{_LETTERS.get(self.kind, '')}"


@dataclass(frozen=True, slots=True)
class NumaNode:
    """Memory and the CPUs next to it.

    Attributes
    ----------
    node : int
        The kernel's number.
    total_memory, free_memory : int or None
        Bytes; free means unused, without what could be reclaimed. None when not told.
    cpus : tuple of int
        Logical CPUs of the node; empty for memory without a processor.
    """

    node: int
    total_memory: int | None
    free_memory: int | None
    cpus: tuple[int, ...]


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read the kernel's form of a list of CPUs.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse_cpu_list("0-2,8")
    (0, 1, 2, 8)
    """
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)


def read_caches(root: Path, allowed: Iterable[int]) -> tuple[tuple[CpuCache, ...], tuple[str, ...]]:
    """Read the caches that serve some CPUs.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    allowed : iterable of int
        Logical CPUs.

    Returns
    -------
    tuple of CpuCache, tuple of str
        From the core outwards; unlike cores (big and little) give a row for each size. The
        notes say what the kernel does not tell.
    """
    instances: dict[tuple[int, str, str], tuple[int, int | None]] = {}
    for cpu in allowed:
        for cache in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
            level, size = _text(cache / "level"), _size(_text(cache / "size"))
            if not level.isdecimal() or size is None:
                continue
            kind = _text(cache / "type").lower() or "unified"
            listed = _text(cache / "shared_cpu_list") or str(cpu)
            try:
                sharing = len(parse_cpu_list(listed)) or None
            except ValueError:
                sharing = None
            instances[int(level), kind, listed] = size, sharing
    kinds: dict[tuple[int, str, int, int | None], int] = {}
    for (number, kind, _), (size, sharing) in instances.items():
        key = (number, kind, size, sharing)
        kinds[key] = kinds.get(key, 0) + 1
    found = [
        CpuCache(number, kind, size, count, sharing)
        for (number, kind, size, sharing), count in kinds.items()
    ]
    found.sort(key=lambda cache: (cache.level, cache.kind, -cache.size_bytes, cache.shared_by or 0))
    if found:
        return tuple(found), ()
    directory = root / "sys/devices/system/cpu"
    return (), (f"Caches: not available ({directory} lists none, as in some containers).",)


def read_macos_caches(sysctl: Callable[[str], str | None]) -> tuple[CpuCache, ...]:
    """Read the caches that macOS tells, which are those of its fastest cores.

    Parameters
    ----------
    sysctl : callable
        Answers a name such as ``"hw.l1dcachesize"`` with its value, or with None.
    """
    found = []
    for level, kind, name in (
        (1, "data", "l1dcachesize"),
        (1, "instruction", "l1icachesize"),
        (2, "unified", "l2cachesize"),
        (3, "unified", "l3cachesize"),
    ):
        # perflevel0 are the fastest cores of Apple silicon; Intel Macs have no such levels.
        answer = sysctl(f"hw.perflevel0.{name}") or sysctl(f"hw.{name}") or ""
        if answer.isdecimal() and int(answer) > 0:
            found.append(CpuCache(level, kind, int(answer), None, None))
    return tuple(found)


def last_level_bytes(caches: Iterable[CpuCache]) -> int | None:
    """Return the bytes of all instances of the outermost level, or None without caches.

    Examples
    --------
    >>> last_level_bytes([CpuCache(1, "data", 32768, 4, 1), CpuCache(3, "unified", 2**21, 2, 2)])
    4194304
    """
    known = [cache for cache in caches if cache.kind != "instruction"]
    if not known:
        return None
    last = max(cache.level for cache in known)
    return sum(cache.size_bytes * (cache.instances or 1) for cache in known if cache.level == last)


def read_numa(root: Path = Path("/")) -> tuple[tuple[NumaNode, ...], tuple[str, ...]]:
    """Read the NUMA nodes.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.

    Returns
    -------
    tuple of NumaNode, tuple of str
        By number; empty where the kernel was built without NUMA or is not Linux. The notes
        point out what matters to an engine.
    """
    nodes, notes = [], []
    directory = root / "sys/devices/system/node"
    names = [path for path in directory.glob("node*") if path.name[4:].isdecimal()]
    for path in sorted(names, key=lambda path: int(path.name[4:])):
        memory = _node_memory(path / "meminfo")
        try:
            cpus = parse_cpu_list(_text(path / "cpulist"))
        except ValueError:
            cpus = ()
            notes.append(f"{path.name}: its list of CPUs cannot be read and was left out.")
        nodes.append(
            NumaNode(int(path.name[4:]), memory.get("MemTotal"), memory.get("MemFree"), cpus)
        )
    if len([node for node in nodes if node.cpus and node.total_memory]) > 1:
        sizes = ", ".join(format_bytes(node.total_memory) for node in nodes)
        notes.append(
            f"The memory lies on {len(nodes)} NUMA nodes ({sizes}): a model that is larger than "
            "one of them is read across nodes, which is slower. llama.cpp has --numa for it."
        )
    return tuple(nodes), tuple(notes)


def _node_memory(path: Path) -> dict[str, int]:
    values = {}
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 4 and words[0] == "Node" and words[3].isdecimal():
            values[words[2].rstrip(":")] = int(words[3]) * 1024
    return values


def _size(text: str) -> int | None:
    unit = _UNITS.get(text[-1:], 1)
    number = text.removesuffix(text[-1:]) if unit > 1 else text
    return int(number) * unit if number.isdecimal() and int(number) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
