"""What a process holds and may use: resident memory, and threads."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ravenxterm_lab.runtimes.reports import MemoryUse

__all__ = [
    "limit_growth",
    "limit_memory",
    "oom_kills",
    "peak_bytes",
    "process_memory",
    "usable_threads",
]

#: Address space that is taken and never touched, such as the stacks of threads. Loading and
#: running the demo models with two threads, private mappings grew by up to 116 MiB more than
#: resident private memory did (``VmData`` and ``RssAnon``).
_UNTOUCHED = 128 * 1024 * 1024
_UNTOUCHED_PER_THREAD = 16 * 1024 * 1024


def process_memory(pid: int) -> MemoryUse:
    """Return the resident memory of a process; zero when it has ended.

    Parameters
    ----------
    pid : int
        The process.

    Returns
    -------
    MemoryUse
        From ``/proc/<pid>/status`` (``RssAnon``; ``RssFile`` and ``RssShmem``) on Linux,
        where they are told apart; elsewhere `psutil`'s resident size, all of it as anonymous.
    """
    fields = _status(pid)
    if fields is not None:
        return MemoryUse(
            fields.get("RssAnon", 0), fields.get("RssFile", 0) + fields.get("RssShmem", 0)
        )
    import psutil

    try:
        return MemoryUse(int(psutil.Process(pid).memory_info().rss), 0)
    except psutil.Error:
        return MemoryUse(0, 0)


def peak_bytes() -> int:
    """Return the most resident memory that this very process has held so far (bytes)."""
    fields = _status(os.getpid())
    if fields and "VmHWM" in fields:
        return fields["VmHWM"]
    import resource

    # macOS counts bytes here, every other system kibibytes.
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def limit_memory(extra: int, threads: int) -> bool:
    """Let this very process take only so much more private memory.

    Mapped weights do not count: the limit is ``RLIMIT_DATA``, which since Linux 4.7 covers
    private writable mappings (setrlimit(2)), and the system can drop pages of a file anyway. An
    allocation beyond it fails, as it would on a machine that has no more.

    Parameters
    ----------
    extra : int
        Beyond what is held now (bytes). It counts address space, so that room for what is never
        touched is added: the limit is exact to about 130 MiB and 16 MiB for each thread.
    threads : int
        That will compute.

    Returns
    -------
    bool
        Whether the system enforces it: only Linux does.
    """
    held = (_status(os.getpid()) or {}).get("VmData")
    if held is None or sys.platform != "linux":
        return False
    import resource

    wanted = held + extra + _UNTOUCHED + threads * _UNTOUCHED_PER_THREAD
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    return True


def limit_growth(pid: int, extra: int, threads: int) -> bool:
    """Let a process that runs take only so much more private memory than it has now.

    What it has mapped already stays allowed, touched or not; beyond that it is `limit_memory`,
    with prlimit(2) from outside.

    Parameters
    ----------
    pid : int
        The process, one of ours.
    extra : int
        Beyond what is mapped now (bytes), and 16 MiB of address space for each thread.
    threads : int
        That compute.

    Returns
    -------
    bool
        Whether the system enforces it; not where it cannot, or the process has ended.
    """
    mapped = (_status(pid) or {}).get("VmData")
    if mapped is None or sys.platform != "linux":
        return False
    import resource

    wanted = mapped + extra + threads * _UNTOUCHED_PER_THREAD
    try:
        _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
        if most != resource.RLIM_INFINITY:
            wanted = min(wanted, most)
        resource.prlimit(pid, resource.RLIMIT_DATA, (wanted, most))
    except (OSError, ValueError):
        return False
    return True


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed so far for want of memory.

    Returns
    -------
    int or None
        ``oom_kill`` of ``/proc/vmstat``; None where there is none.
    """
    try:
        text = Path("/proc/vmstat").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None


def usable_threads() -> int:
    """Return how many threads this process can keep busy.

    Returns
    -------
    int
        The smallest of the cores in its affinity mask, the machine's physical cores, and
        the CPU quota of its control group; at least 1.
    """
    import psutil

    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    # Without a control group, or where its quota reads "max", nothing narrows it further.
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def _status(pid: int) -> dict[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[name] = int(value[:-3]) * 1024
    return fields
