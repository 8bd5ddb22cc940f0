"""Energy: what GPUs and processor packages drew over a time, from their own counters.

Nothing is subtracted: it is the energy of the whole devices, with what they draw at rest and
for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.hardware.rapl import PackageEnergy, Rapl
from ravenxterm_lab.hardware.sampler import NvmlKeeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ravenxterm_lab.hardware.sampler import HardwareSample

__all__ = ["Energy", "EnergyMeter", "EnergyReading", "integrate_power"]


@dataclass(frozen=True, slots=True)
class Energy:
    """An amount of energy.

    Attributes
    ----------
    joules : float or None
        None when nothing that could be asked tells it.
    sources : tuple of str
        What was summed, such as ``("CPU packages (RAPL)", "GPU 0 (NVML counter)")``.
    """

    joules: float | None
    sources: tuple[str, ...] = ()

    def __add__(self, other: Energy) -> Energy:
        """Sum both, over what is known of them."""
        known = [part.joules for part in (self, other) if part.joules is not None]
        return Energy(sum(known) if known else None, (*self.sources, *other.sources))


@dataclass(frozen=True, slots=True)
class EnergyReading:
    """All counters at one moment."""

    packages: PackageEnergy | None
    gpus: dict[int, float]


class EnergyMeter:
    """Reads the energy counters of the machine.

    A reading took 3.2 ms on an H200, nearly all of it in the driver (``microseconds`` of
    ``nvmlDeviceGetTotalEnergyConsumption`` in ``tests/hardware/recorded_nvml_h200.json``).

    Parameters
    ----------
    nvml : object, optional
        Stands in for ``pynvml``, such as `FakeNvml`.
    root : Path
        Stands in for ``/``.
    """

    def __init__(self, nvml: Any = None, *, root: Path = Path("/")) -> None:
        self._nvml = NvmlKeeper(nvml)
        self._rapl = Rapl(root)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why an energy is not told, with the remedy, as of the last reading."""
        rapl = () if self._rapl.note is None else (self._rapl.note,)
        return (*rapl, *self._nvml.notes)

    def read(self) -> EnergyReading:
        """Read all counters now."""
        cards = self._nvml.cards()
        return EnergyReading(self._rapl.read(), {} if cards is None else cards.energy())

    def since(self, before: EnergyReading, *, gpus: bool = True) -> Energy:
        """Return the energy since a reading.

        Parameters
        ----------
        before : EnergyReading
            Of this meter.
        gpus : bool
            Whether that of the GPUs counts.
        """
        now = self.read()
        energy = Energy(None)
        if before.packages is not None and now.packages is not None:
            joules = self._rapl.between(before.packages, now.packages)
            if joules is not None:
                energy += Energy(joules, ("CPU packages (RAPL)",))
        for index, start in before.gpus.items() if gpus else ():
            end = now.gpus.get(index, -1.0)
            # A driver that was loaded again counts from 0.
            if end >= start:
                energy += Energy(end - start, (f"GPU {index} (NVML counter)",))
        return energy

    def close(self) -> None:
        """Let go of the driver; a later reading opens it again."""
        self._nvml.close()


def integrate_power(
    samples: Sequence[HardwareSample], start: int, end: int, *, longest_gap: float = 5.0
) -> Energy:
    """Integrate the power of all GPUs over a time, by the trapezoidal rule.

    Between two samples the power is taken to change evenly; before the first and after the
    last it is taken to stay.

    Parameters
    ----------
    samples : sequence of HardwareSample
        In the order of their times.
    start, end : int
        Nanoseconds since the epoch.
    longest_gap : float
        Seconds without a sample beyond which nothing is claimed: the machine may have slept.

    Returns
    -------
    Energy
        Without joules where no GPU told its power throughout.
    """
    energy = Energy(None)
    indices = sorted({gpu.gpu for sample in samples for gpu in sample.gpus})
    for index in indices:
        points = [
            (sample.ts, gpu.power)
            for sample in samples
            for gpu in sample.gpus
            if gpu.gpu == index and gpu.power is not None
        ]
        joules = _trapezoids(points, start, end, longest_gap * 1e9)
        if joules is not None:
            energy += Energy(joules, (f"GPU {index} (power, integrated)",))
    return energy


def _trapezoids(
    points: Sequence[tuple[int, float]], start: int, end: int, longest: float
) -> float | None:
    before = [point for point in points if point[0] <= start]
    inside = [point for point in points if start < point[0] < end]
    after = [point for point in points if point[0] >= end]
    near = [*before[-1:], *inside, *after[:1]]
    if not near or end <= start:
        return None
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(near)]
    if max([*gaps, near[0][0] - start, end - near[-1][0]]) > longest:
        # Nothing is known of what went on in there.
        return None

    def power(at: int) -> float:
        for (t0, p0), (t1, p1) in pairwise(near):
            if t0 <= at <= t1:
                return p0 if t1 == t0 else p0 + (p1 - p0) * (at - t0) / (t1 - t0)
        return near[0][1] if at < near[0][0] else near[-1][1]

    moments = sorted({start, *(ts for ts, _ in inside), end})
    return sum((power(t0) + power(t1)) / 2 * (t1 - t0) / 1e9 for t0, t1 in pairwise(moments))
