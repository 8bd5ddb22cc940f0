"""Energy: RAPL's counters, NVML's counters, and the integral of power."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab import HardwareProfile
from ravenxterm_lab.hardware import (
    Energy,
    EnergyMeter,
    FakeGpu,
    FakeNvml,
    GpuSample,
    HardwareSample,
    Sampler,
    integrate_power,
)
from ravenxterm_lab.hardware.rapl import Rapl

SECOND = 10**9


def zone(root: Path, name: str, label: str, joules: float, most: float = 262143.32885) -> Path:
    directory = root / f"sys/class/powercap/{name}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "name").write_text(f"{label}\n")
    (directory / "max_energy_range_uj").write_text(f"{round(most * 1e6)}\n")
    (directory / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    return directory / "energy_uj"


def sample(seconds: float, *power: float | None) -> HardwareSample:
    gpus = tuple(GpuSample(index, power=watts) for index, watts in enumerate(power))
    return HardwareSample(round(seconds * SECOND), None, 0, 0, 0, gpus)


def joules(samples: list[HardwareSample], start: float, end: float, **options: float) -> object:
    return integrate_power(samples, round(start * SECOND), round(end * SECOND), **options).joules


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    """Two sockets count; cores, platform and the mmio copy are within or beside them."""
    zone(tmp_path, "intel-rapl:0", "package-0", 10)
    zone(tmp_path, "intel-rapl:1", "package-1", 20)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 99)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 10)
    rapl = Rapl(tmp_path)
    assert rapl.note is None
    before = rapl.read()
    zone(tmp_path, "intel-rapl:0", "package-0", 13)
    zone(tmp_path, "intel-rapl:1", "package-1", 24.5)
    after = rapl.read()
    assert before is not None
    assert after is not None
    assert before.joules == {"package-0": 10, "package-1": 20}
    assert rapl.between(before, after) == pytest.approx(7.5)


def test_a_counter_that_begins_again_is_understood(tmp_path: Path) -> None:
    """Once around its range; a package that cannot be read makes the sum unknown."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 99, most=100)
    rapl = Rapl(tmp_path)
    before = rapl.read()
    zone(tmp_path, "intel-rapl:0", "package-0", 4, most=100)
    after = rapl.read()
    assert before is not None
    assert after is not None
    assert rapl.between(before, after) == pytest.approx(5)
    file.write_text("")
    broken = rapl.read()
    assert broken is not None
    assert rapl.between(before, broken) is None


def test_no_counters_are_told_with_the_reason(tmp_path: Path) -> None:
    """In a virtual machine there are none."""
    rapl = Rapl(tmp_path)
    assert rapl.read() is None
    assert rapl.note is not None
    assert "virtual machines" in rapl.note
    profile = HardwareProfile.detect(root=tmp_path, nvml=FakeNvml(), measure_bandwidth=False)
    assert rapl.note in profile.notes


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
def test_counters_for_root_only_are_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remedy is a command."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    if os.geteuid() == 0:
        # Root may read everything, so that the refusal has to be made.
        plain = Path.read_bytes

        def refuse(path: Path) -> bytes:
            if path == file:
                raise PermissionError(13, "Permission denied", str(path))
            return plain(path)

        monkeypatch.setattr(Path, "read_bytes", refuse)
    else:
        file.chmod(0)
    rapl = Rapl(tmp_path)
    assert rapl.read() is None
    assert rapl.note is not None
    assert "sudo chmod a+r" in rapl.note


def test_the_power_of_the_processor_is_energy_by_time(tmp_path: Path) -> None:
    """From two samples; before the first there is none."""
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    sampler = Sampler(FakeNvml(), root=tmp_path)
    first = sampler._energy
    zone(tmp_path, "intel-rapl:0", "package-0", 130)
    power = sampler.take().cpu_power
    assert first is not None
    assert sampler._energy is not None
    assert power == pytest.approx(30 / (sampler._energy.seconds - first.seconds))
    assert Sampler(FakeNvml(), root=tmp_path / "none").take().cpu_power is None


def test_a_meter_sums_all_counters_and_names_them(tmp_path: Path) -> None:
    """GPUs are left out when they are not meant; a driver loaded again counts nothing."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    card, old, reloaded = FakeGpu(energy=100.0), FakeGpu(energy=None), FakeGpu(energy=50.0)
    nvml = FakeNvml(card, old, reloaded)
    meter = EnergyMeter(nvml, root=tmp_path)
    before = meter.read()
    zone(tmp_path, "intel-rapl:0", "package-0", 8)
    card.energy, reloaded.energy = 140.25, 1.0
    assert meter.since(before) == Energy(43.25, ("CPU packages (RAPL)", "GPU 0 (NVML counter)"))
    assert meter.since(before, gpus=False) == Energy(3.0, ("CPU packages (RAPL)",))
    assert any(note.startswith("GPU 1: energy: not available") for note in meter.notes)
    assert nvml.calls["nvmlInit"] == 1
    meter.close()
    assert nvml.sessions == 0


def test_constant_power_is_power_times_time() -> None:
    """Whatever part of the time is asked for."""
    samples = [sample(second, 100.0) for second in range(10)]
    assert joules(samples, 2, 7) == pytest.approx(500)
    assert joules(samples, 2.25, 2.75) == pytest.approx(50)
    assert joules(samples, -1, 11) == pytest.approx(1200)


def test_rising_power_follows_the_trapezoids() -> None:
    """0 W to 100 W in 10 s are 500 J; the third quarter of it has its own share."""
    samples = [sample(0, 0.0), sample(10, 100.0)]
    assert joules(samples, 0, 10, longest_gap=10) == pytest.approx(500)
    assert joules(samples, 5, 7.5, longest_gap=10) == pytest.approx((50 + 75) / 2 * 2.5)


def test_several_gpus_are_summed_over_those_that_tell() -> None:
    """A GPU without a power is left out, and the sources say which were summed."""
    samples = [sample(second, 100.0, None, 30.0) for second in range(4)]
    energy = integrate_power(samples, 0, 3 * SECOND)
    assert energy.joules == pytest.approx(390)
    assert energy.sources == ("GPU 0 (power, integrated)", "GPU 2 (power, integrated)")


def test_nothing_is_claimed_of_a_time_that_nobody_saw() -> None:
    """A gap, as while a machine sleeps, and a time far outside of the samples are unknown."""
    samples = [sample(0, 100.0), sample(1, 100.0), sample(60, 100.0), sample(61, 100.0)]
    assert joules(samples, 0.5, 60.5) is None
    assert joules(samples, 0.2, 0.9) == pytest.approx(70)
    assert joules(samples, 100, 110) is None
    assert joules(samples, 3, 2) is None
    assert joules([], 0, 1) is None


@given(
    st.lists(st.floats(0, 1000), min_size=2, max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_two_parts_make_the_whole(powers: list[float], one: float, two: float) -> None:
    """Energy adds up over time, and lies between the least and the largest power."""
    samples = [sample(float(index), watts) for index, watts in enumerate(powers)]
    end = len(powers) - 1.0
    first, second = sorted((one * end, two * end))
    parts = [joules(samples, a, b) for a, b in ((0.0, first), (first, second), (second, end))]
    known = [part for part in parts if isinstance(part, float)]
    whole = joules(samples, 0.0, end)
    assert isinstance(whole, float)
    assert math.fsum(known) == pytest.approx(whole, rel=1e-6, abs=1e-4)
    assert min(powers) * end - 1e-4 <= whole <= max(powers) * end + 1e-4
