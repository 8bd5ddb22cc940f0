"""What AMD's compute driver (KFD) tells in sysfs of a GPU: its memory's bus, who uses it.

Source of the files' meaning: the kernel's ``drivers/gpu/drm/amd/amdkfd/kfd_topology.c``
(``mem_banks/*/properties``) and ``kfd_process.c`` (``proc/<pid>/vram_<gpu_id>``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.hardware.devices import GpuProcess

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KfdNode"]


@dataclass(frozen=True, slots=True)
class KfdNode:
    """One GPU as the compute driver lists it.

    Attributes
    ----------
    gpu_id : str
        The driver's number for it.
    bus_width : int or None
        Bits of the memory interface.
    """

    gpu_id: str
    bus_width: int | None

    @classmethod
    def of_render_node(cls, root: Path, device: Path) -> KfdNode | None:
        """Find the node of a GPU by its render node.

        Parameters
        ----------
        root : Path
            Stands in for ``/``.
        device : Path
            The GPU's directory in sysfs.

        Returns
        -------
        KfdNode or None
            None where the compute driver does not list it.
        """
        minors = {path.name[7:] for path in (device / "drm").glob("renderD*")}
        for node in (root / "sys/class/kfd/kfd/topology/nodes").glob("*"):
            gpu_id = _text(node / "gpu_id")
            if gpu_id in {"", "0"} or _properties(node).get("drm_render_minor") not in minors:
                continue
            widths = [_properties(bank).get("width", "") for bank in (node / "mem_banks").glob("*")]
            known = [int(width) for width in widths if width.isdecimal() and int(width)]
            return cls(gpu_id, max(known, default=None))
        return None

    def processes(self, root: Path) -> tuple[GpuProcess, ...]:
        """Return the processes that hold its memory, the one with most first.

        Parameters
        ----------
        root : Path
            Stands in for ``/``.
        """
        found = []
        for process in (root / "sys/class/kfd/kfd/proc").glob("*"):
            held = _text(process / f"vram_{self.gpu_id}")
            if process.name.isdecimal() and held.isdecimal():
                found.append(GpuProcess(int(process.name), int(held)))
        return tuple(sorted(found, key=lambda item: (-(item.memory or 0), item.pid)))


def _properties(directory: Path) -> dict[str, str]:
    pairs = (line.split() for line in _text(directory / "properties").splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
