"""What the control groups of this process allow: memory and CPU time, version 1 and 2.

A limit may sit on any ancestor, so every directory from the process's own group up to the
mount point is read; the tightest counts. Used memory is what cannot be reclaimed: usage minus
``inactive_file``, as the kubelet and ``docker stats`` count it.

Sources: the kernel's ``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1/memory.rst``;
``proc_pid_mountinfo(5)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CgroupReading",
    "CpuQuota",
    "MemoryLimit",
    "level_memory",
    "limited_levels",
    "read_cgroup",
]

# Version 1 writes "no limit" as LONG_MAX rounded down to a page (4 KiB and 64 KiB pages differ).
_NO_LIMIT_V1 = 1 << 62


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The tightest memory limit over a process.

    Attributes
    ----------
    limit : int
        Bytes.
    available : int or None
        Bytes left below the limits, over all levels; None when the usage cannot be read.
    version : str
        ``"cgroup v1"`` or ``"cgroup v2"``.
    path : Path
        The group that sets ``limit``.
    """

    limit: int
    available: int | None
    version: str
    path: Path


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The tightest limit on CPU time.

    Attributes
    ----------
    cpus : float
        CPU seconds per second.
    version : str
        ``"cgroup v1"`` or ``"cgroup v2"``.
    path : Path
        The group that sets it.
    """

    cpus: float
    version: str
    path: Path


@dataclass(frozen=True, slots=True)
class CgroupReading:
    """The limits (None where there is none) and what could not be read."""

    memory: MemoryLimit | None
    cpu: CpuQuota | None
    notes: tuple[str, ...]
    swap: MemoryLimit | None = None


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    version: str
    levels: tuple[Path, ...]


def read_cgroup(root: Path = Path("/")) -> CgroupReading:
    """Read the limits that bind this process.

    Parameters
    ----------
    root : Path
        Stands in for ``/``, with ``proc/self/cgroup``, ``proc/self/mountinfo`` and the
        mounted hierarchies below it.

    Returns
    -------
    CgroupReading
        Without limits where there are no control groups, such as on macOS.
    """
    notes: list[str] = []
    memory_groups = _hierarchies(root, "memory", notes)
    memory = [
        limit
        for hierarchy in memory_groups
        if (limit := _tightest(hierarchy, _level_memory, notes))
    ]
    swap = [
        limit for hierarchy in memory_groups if (limit := _tightest(hierarchy, _level_swap, notes))
    ]
    cpu = [
        quota
        for hierarchy in _hierarchies(root, "cpu", notes)
        for level in hierarchy.levels
        if (quota := _cpu_quota(level, hierarchy.version, notes))
    ]
    return CgroupReading(
        memory=min(memory, key=lambda item: item.limit, default=None),
        cpu=min(cpu, key=lambda item: item.cpus, default=None),
        notes=tuple(dict.fromkeys(notes)),
        swap=min(swap, key=lambda item: item.limit, default=None),
    )


def limited_levels(root: Path = Path("/")) -> tuple[tuple[str, Path], ...]:
    """Return version and directory of each group that limits the memory of this process.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.
    """
    notes: list[str] = []
    return tuple(
        (hierarchy.version, level)
        for hierarchy in _hierarchies(root, "memory", notes)
        for level in hierarchy.levels
        if _level_memory(level, hierarchy.version, notes)[0] is not None
    )


def level_memory(level: Path, version: str) -> tuple[int | None, int | None]:
    """Return limit and use (bytes) of one group, each None where it cannot be read.

    Parameters
    ----------
    level : Path
        Directory of the group.
    version : str
        ``"cgroup v1"`` or ``"cgroup v2"``.
    """
    return _level_memory(level, version, [])


def _hierarchies(root: Path, controller: str, notes: list[str]) -> list[_Hierarchy]:
    groups = _own_groups(root, notes)
    found: dict[str, _Hierarchy] = {}
    for mount_root, mount_point, kind, options in _mounts(root, notes):
        if kind == "cgroup2":
            version, group = "cgroup v2", groups.get("")
        elif kind == "cgroup" and controller in options:
            version, group = "cgroup v1", groups.get(controller)
        else:
            continue
        if version in found:
            continue
        base = root / mount_point.lstrip("/")
        if base.is_dir():
            found[version] = _Hierarchy(version, _levels(base, mount_root, group or "/"))
    return list(found.values())


def _levels(base: Path, mount_root: str, group: str) -> tuple[Path, ...]:
    path, start = PurePosixPath(group), PurePosixPath(mount_root)
    inside = path.relative_to(start) if path.is_relative_to(start) else PurePosixPath()
    if ".." in inside.parts:
        # The process was moved out of its cgroup namespace: only the mount itself is visible.
        inside = PurePosixPath()
    levels = [base / inside, *(base / parent for parent in inside.parents)]
    # A container without a namespace may see the host's path, which does not exist inside.
    return tuple(dict.fromkeys(level for level in levels if level.is_dir()))


def _own_groups(root: Path, notes: list[str]) -> dict[str, str]:
    groups = {}
    for line in (_read(root / "proc/self/cgroup", notes) or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                groups[controller] = parts[2]
    return groups


def _mounts(root: Path, notes: list[str]) -> list[tuple[str, str, str, list[str]]]:
    mounts = []
    for line in (_read(root / "proc/self/mountinfo", notes) or "").splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if separator and len(left) >= 5 and right and right[0] in {"cgroup", "cgroup2"}:
            options = right[2].split(",") if len(right) > 2 else []
            mounts.append((_unescape(left[3]), _unescape(left[4]), right[0], options))
    return mounts


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _tightest(
    hierarchy: _Hierarchy,
    read: Callable[[Path, str, list[str]], tuple[int | None, int | None]],
    notes: list[str],
) -> MemoryLimit | None:
    tightest: tuple[int, Path] | None = None
    available: list[int] = []
    for level in hierarchy.levels:
        limit, used = read(level, hierarchy.version, notes)
        if limit is None:
            continue
        if tightest is None or limit < tightest[0]:
            tightest = limit, level
        if used is not None:
            available.append(max(0, limit - used))
    if tightest is None:
        return None
    return MemoryLimit(tightest[0], min(available, default=None), hierarchy.version, tightest[1])


def _level_memory(level: Path, version: str, notes: list[str]) -> tuple[int | None, int | None]:
    if version == "cgroup v2":
        # Above memory.high the kernel throttles and reclaims hard, so it binds like a limit.
        limits = [_number(level / name, notes) for name in ("memory.max", "memory.high")]
        usage_file, reclaimable = "memory.current", "inactive_file"
    else:
        limits = [_number(level / "memory.limit_in_bytes", notes)]
        usage_file, reclaimable = "memory.usage_in_bytes", "total_inactive_file"
    given = [limit for limit in limits if limit is not None]
    if not given:
        return None, None
    usage = _number(level / usage_file, notes)
    if usage is None:
        notes.append(f"{level} limits the memory, but its use ({usage_file}) cannot be read.")
        return min(given), None
    return min(given), max(0, usage - _statistic(level / "memory.stat", reclaimable, notes))


def _level_swap(level: Path, version: str, notes: list[str]) -> tuple[int | None, int | None]:
    if version == "cgroup v2":
        limit = _number(level / "memory.swap.max", notes)
        return limit, None if limit is None else _number(level / "memory.swap.current", notes)
    # Version 1 limits memory and swap together.
    both, memory = (
        _number(level / f"memory.{name}limit_in_bytes", notes) for name in ("memsw.", "")
    )
    if both is None or memory is None:
        return None, None
    used = _statistic(level / "memory.stat", "total_swap", notes)
    return max(0, both - memory), used


def _cpu_quota(level: Path, version: str, notes: list[str]) -> CpuQuota | None:
    if version == "cgroup v2":
        words = (_read(level / "cpu.max", notes) or "").split() or ["max"]
        quota, period = words[0], words[1] if len(words) > 1 else "100000"
    else:
        quota = (_read(level / "cpu.cfs_quota_us", notes) or "-1").strip()
        period = (_read(level / "cpu.cfs_period_us", notes) or "100000").strip()
    if quota in {"max", "-1"}:
        return None
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        notes.append(f"The CPU quota of {level} reads {quota!r}/{period!r} and was left out.")
        return None
    return CpuQuota(int(quota) / int(period), version, level)


def _number(path: Path, notes: list[str]) -> int | None:
    text = _read(path, notes)
    if text is None or (word := text.strip()) in {"max", "-1"}:
        return None
    if not (word.isascii() and word.isdecimal()):
        notes.append(f"{path} reads {word[:40]!r}, which is not a number, and was left out.")
        return None
    value = int(word)
    return None if value >= _NO_LIMIT_V1 else value


def _statistic(path: Path, name: str, notes: list[str]) -> int:
    for line in (_read(path, notes) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdecimal():
            return int(value)
    return 0


def _read(path: Path, notes: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        notes.append(f"{path} cannot be read ({error.strerror or error}); it was left out.")
        return None
