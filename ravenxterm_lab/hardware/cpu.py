"""The processor: its name, the cores and threads that this process may use, its instructions."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ravenxterm_lab.hardware.topology import (
    CpuCache,
    last_level_bytes,
    read_caches,
    read_macos_caches,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ravenxterm_lab.hardware.cgroup import CpuQuota

__all__ = ["INSTRUCTION_SETS", "CpuFacts", "normalize_instruction_sets", "read_cpu"]

#: The instruction sets that decide which kernels an inference engine takes, in this order.
INSTRUCTION_SETS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "bmi2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "neon",
    "asimd",
    "dotprod",
    "i8mm",
    "sve",
)
# Linux and macOS spell some of them differently; AdvSIMD is what AArch64 calls NEON.
_ALIASES = {
    "sse4.2": ("sse4_2",),
    "avx1.0": ("avx",),
    "avx512vnni": ("avx512_vnni",),
    "avx512bf16": ("avx512_bf16",),
    "avxvnni": ("avx_vnni",),
    "asimd": ("asimd", "neon"),
    "advsimd": ("asimd", "neon"),
    "asimddp": ("dotprod",),
    "feat_dotprod": ("dotprod",),
    "feat_i8mm": ("i8mm",),
}
_SYSCTL = "/usr/sbin/sysctl"


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """What is known of the processor.

    Attributes
    ----------
    architecture : str
        Such as ``"x86_64"`` or ``"arm64"``.
    name : str or None
        The maker's name for it.
    cores, threads : int
        Physical cores and logical CPUs that this process may use.
    instruction_sets : tuple of str
        The subset of ``INSTRUCTION_SETS`` that every CPU here has.
    caches : tuple of CpuCache
        Those that serve the CPUs that may be used, from the core outwards.
    notes : tuple of str
        The limit that binds, and what could not be read.
    """

    architecture: str
    name: str | None
    cores: int
    threads: int
    instruction_sets: tuple[str, ...]
    caches: tuple[CpuCache, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def last_level_cache(self) -> int | None:
        """Bytes of the caches that lie before the memory, over the CPUs that may be used."""
        return last_level_bytes(self.caches)


def normalize_instruction_sets(flags: Iterable[str]) -> tuple[str, ...]:
    """Return the known instruction sets among a system's own names for them.

    Examples
    --------
    >>> normalize_instruction_sets(["FMA", "SSE4.2", "AVX1.0", "vmx"])
    ('sse4_2', 'avx', 'fma')
    >>> normalize_instruction_sets(["fp", "asimd", "asimddp"])
    ('neon', 'asimd', 'dotprod')
    """
    found: set[str] = set()
    for flag in flags:
        name = flag.strip().lower()
        found.update(_ALIASES.get(name, (name,)))
    return tuple(name for name in INSTRUCTION_SETS if name in found)


def read_cpu(
    root: Path = Path("/"),
    quota: CpuQuota | None = None,
    affinity: Iterable[int] | None = None,
) -> CpuFacts:
    """Read what is known of the processor.

    Parameters
    ----------
    root : Path
        Stands in for ``/``, with ``proc/cpuinfo`` and ``sys/devices/system/cpu`` below it.
    quota : CpuQuota, optional
        The control group's limit on CPU time.
    affinity : iterable of int, optional
        The logical CPUs that may be used; those of this process when left out.
    """
    notes: list[str] = []
    machine = psutil.cpu_count() or 1
    allowed = _affinity(machine) if affinity is None else frozenset(affinity)
    if len(allowed) < machine and affinity is None:
        notes.append(f"CPU affinity allows {len(allowed)} of the {machine} logical CPUs.")
    threads = len(allowed)
    if quota is not None and (rounded := max(1, math.ceil(quota.cpus))) < threads:
        notes.append(
            f"The {quota.version} CPU quota allows the time of {quota.cpus:g} CPU, "
            f"less than the {threads} logical CPUs ({quota.path})."
        )
        threads = rounded
    cores = _cores(root, allowed)
    if cores is None:
        cores = psutil.cpu_count(logical=False) or len(allowed)
    if platform.system() == "Darwin" and root == Path("/"):
        name, sets = _from_sysctl(notes)
        caches = read_macos_caches(_sysctl)
    else:
        name, sets = _from_cpuinfo(root, notes)
        caches, cache_notes = read_caches(root, sorted(allowed))
        notes += cache_notes
    return CpuFacts(
        architecture=platform.machine().lower() or "unknown",
        name=name,
        cores=max(1, min(cores, threads)),
        threads=threads,
        instruction_sets=sets,
        caches=caches,
        notes=tuple(notes),
    )


def _affinity(machine: int) -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(machine))


def _cores(root: Path, allowed: frozenset[int]) -> int | None:
    siblings = set()
    for cpu in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        # core_cpus_list is the newer name of thread_siblings_list (Linux 5.2).
        listed = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")
        if not listed:
            return None
        siblings.add(listed)
    return len(siblings) or None


def _from_cpuinfo(root: Path, notes: list[str]) -> tuple[str | None, tuple[str, ...]]:
    path = root / "proc/cpuinfo"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"Instruction sets: {path} cannot be read ({error.strerror or error}).")
        return _fallback_name(root, notes), ()
    names: list[str] = []
    flags: list[set[str]] = []
    for line in text.splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key in {"model name", "hardware"}:
            names.append(value.strip())
        elif key in {"flags", "features"}:
            flags.append(set(value.split()))
    if not flags:
        notes.append(f"Instruction sets: {path} lists none.")
    # Only what every CPU has may be used: a thread can be moved between unlike cores.
    common = set.intersection(*flags) if flags else set()
    name = next((name for name in names if name), None) or _fallback_name(root, notes)
    return name, normalize_instruction_sets(common)


def _fallback_name(root: Path, notes: list[str]) -> str | None:
    # Arm kernels leave the model name out of cpuinfo; boards tell theirs in the device tree.
    name = _text(root / "sys/firmware/devicetree/base/model").strip("\0")
    if not name and root == Path("/"):
        name = platform.processor()
    if not name or name == platform.machine():
        notes.append("The name of the processor is not told by the system.")
        return None
    return name


def _from_sysctl(notes: list[str]) -> tuple[str | None, tuple[str, ...]]:
    name = _sysctl("machdep.cpu.brand_string")
    flags = (_sysctl("machdep.cpu.features") or "").split()
    flags += (_sysctl("machdep.cpu.leaf7_features") or "").split()
    flags += [
        feature
        for feature in ("AdvSIMD", "arm.FEAT_DotProd", "arm.FEAT_I8MM")
        if _sysctl(f"hw.optional.{feature}") == "1"
    ]
    if name is None:
        notes.append(f"The name of the processor: {_SYSCTL} gives no answer.")
    return name, normalize_instruction_sets(flag.removeprefix("arm.") for flag in flags)


def _sysctl(key: str) -> str | None:
    try:
        answer = subprocess.run(
            [_SYSCTL, "-n", key], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
