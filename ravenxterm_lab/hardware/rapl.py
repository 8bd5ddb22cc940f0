"""Energy of the processor packages, from the counters that RAPL offers in sysfs.

Intel and AMD processors count the energy of each package; the kernel offers it below
``/sys/class/powercap`` (``Documentation/power/powercap/powercap.rst``), since Linux 5.10 to
root only, since power tells secrets (CVE-2020-8694). Virtual machines have no such counters.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PackageEnergy", "Rapl"]

_REMEDY = (
    "Let it be read, until the next boot, with: "
    "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
)


@dataclass(frozen=True, slots=True)
class PackageEnergy:
    """The counters at one moment.

    Attributes
    ----------
    seconds : float
        By a clock that never jumps.
    joules : dict of str to float
        For each package what its counter shows; it starts again at 0 from time to time.
    """

    seconds: float
    joules: dict[str, float]


class Rapl:
    """Reads the energy counters of all packages.

    Parameters
    ----------
    root : Path
        Stands in for ``/``.

    Attributes
    ----------
    note : str or None
        Why there is no energy of the processor, with the remedy; None when there is.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._zones: dict[str, Path] = {}
        self._wraps: dict[str, float] = {}
        self.note: str | None = None
        directory = root / "sys/class/powercap"
        denied = False
        # Zones such as intel-rapl:0:0 (cores, memory) lie within those of the packages, and
        # intel-rapl-mmio repeats them.
        for zone in sorted(directory.glob("intel-rapl:*")):
            name = _text(zone / "name")
            if not re.fullmatch(r"intel-rapl:\d+", zone.name) or not name.startswith("package"):
                continue
            try:
                (zone / "energy_uj").read_bytes()
            except PermissionError:
                denied = True
                continue
            except OSError:
                continue
            most = _text(zone / "max_energy_range_uj")
            self._zones[name] = zone / "energy_uj"
            self._wraps[name] = int(most) / 1e6 if most.isdecimal() else 0.0
        if denied:
            self.note = f"CPU energy: not available (only root may read RAPL's counters). {_REMEDY}"
        elif not self._zones:
            self.note = (
                f"CPU energy: not available ({directory} has no RAPL counters, as in virtual "
                "machines, in most containers and on Arm)."
            )

    def read(self) -> PackageEnergy | None:
        """Return the counters of now, or None where there is none."""
        if not self._zones:
            return None
        joules = {}
        for name, path in self._zones.items():
            text = _text(path)
            if text.isdecimal():
                joules[name] = int(text) / 1e6
        return PackageEnergy(time.monotonic(), joules)

    def between(self, before: PackageEnergy, after: PackageEnergy) -> float | None:
        """Return the joules that all packages took between two readings.

        Parameters
        ----------
        before, after : PackageEnergy
            In this order; a counter that began again once in between is understood.

        Returns
        -------
        float or None
            None when a package could not be read both times.
        """
        if not before.joules or before.joules.keys() != after.joules.keys():
            return None
        total = 0.0
        for name, start in before.joules.items():
            used = after.joules[name] - start
            if used < 0:
                used += self._wraps[name]
            if used < 0:
                return None
            total += used
        return total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
