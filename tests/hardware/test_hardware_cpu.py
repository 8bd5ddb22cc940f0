"""The processor: the real one against what the system says, others from trees under tmp_path."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.hardware.cgroup import CpuQuota
from ravenxterm_lab.hardware.cpu import (
    INSTRUCTION_SETS,
    normalize_instruction_sets,
    read_cpu,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def machine(root: Path, threads: int, per_core: int, *, cache: str = "1024K") -> None:
    """Lay out sysfs for cores with ``per_core`` threads that share one cache in pairs of cores."""
    for cpu in range(threads):
        first = cpu // per_core * per_core
        base = root / f"sys/devices/system/cpu/cpu{cpu}"
        (base / "topology").mkdir(parents=True)
        (base / "topology/core_cpus_list").write_text(f"{first}-{first + per_core - 1}\n")
        for level, shared in ((1, f"{cpu}"), (3, f"{cpu // (2 * per_core)}")):
            index = base / f"cache/index{level}"
            index.mkdir(parents=True)
            (index / "level").write_text(f"{level}\n")
            (index / "size").write_text("32K\n" if level == 1 else f"{cache}\n")
            (index / "shared_cpu_list").write_text(f"{shared}\n")


@linux
def test_the_real_processor() -> None:
    """Name, threads and instruction sets agree with /proc/cpuinfo and the affinity."""
    cpu = read_cpu()
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    allowed = os.sched_getaffinity(0)
    assert cpu.architecture == platform.machine().lower()
    assert cpu.threads == len(allowed)
    assert 1 <= cpu.cores <= cpu.threads
    physical = psutil.cpu_count(logical=False)
    if physical is not None and len(allowed) == psutil.cpu_count():
        assert cpu.cores == physical
    if "model name" in text:
        assert f": {cpu.name}\n" in text
    words = set(text.split())
    for name in ("avx", "avx2", "fma", "avx512f", "sse4_2"):
        assert (name in cpu.instruction_sets) == (name in words)


@linux
def test_the_affinity_of_a_real_process_binds() -> None:
    """A child confined to one CPU is told to have one thread, with a note that says so."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs to take one away")
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ravenxterm_lab.hardware.cpu import read_cpu\n"
        "cpu = read_cpu(); print(cpu.threads, cpu.cores, *cpu.notes)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert answer.startswith("1 1 CPU affinity allows 1 of the ")


@pytest.mark.parametrize(
    ("affinity", "cores", "threads"),
    [(range(8), 4, 8), ([0, 1], 1, 2), ([0, 2, 4], 3, 3), ([5], 1, 1)],
)
def test_cores_are_counted_among_the_allowed_threads(
    tmp_path: Path, affinity: list[int], cores: int, threads: int
) -> None:
    """Two threads of one core are one core."""
    machine(tmp_path, 8, 2)
    cpu = read_cpu(tmp_path, affinity=affinity)
    assert (cpu.cores, cpu.threads) == (cores, threads)


def test_the_last_level_cache_counts_each_instance_once(tmp_path: Path) -> None:
    """Eight threads over two shared caches have twice one cache; a confined process has one."""
    machine(tmp_path, 8, 2, cache="2M")
    assert read_cpu(tmp_path, affinity=range(8)).last_level_cache == 4 * 1024**2
    assert read_cpu(tmp_path, affinity=[0, 1]).last_level_cache == 2 * 1024**2
    assert read_cpu(tmp_path / "absent", affinity=[0]).last_level_cache is None


@pytest.mark.parametrize(
    ("quota", "threads", "bound"),
    [
        (0.2, 1, True),
        (1.0, 1, True),
        (1.5, 2, True),
        (4.0, 4, True),
        (8.0, 8, False),
        (99.0, 8, False),
    ],
)
def test_a_quota_is_rounded_up_to_whole_threads(
    tmp_path: Path, quota: float, threads: int, bound: bool
) -> None:
    """A quota below the affinity binds, at least one thread stays, and a note says so."""
    machine(tmp_path, 8, 1)
    cpu = read_cpu(tmp_path, CpuQuota(quota, "cgroup v2", tmp_path), affinity=range(8))
    assert cpu.threads == threads
    assert cpu.cores <= threads
    assert any("CPU quota" in note for note in cpu.notes) == bound


def test_unlike_cores_offer_what_all_of_them_have(tmp_path: Path) -> None:
    """Only instruction sets that every listed CPU has are told."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor : 0\nmodel name : Big\nflags : avx avx2 avx512f\n\n"
        "processor : 1\nmodel name : Little\nflags : avx avx2\n"
    )
    cpu = read_cpu(tmp_path, affinity=[0, 1])
    assert cpu.instruction_sets == ("avx", "avx2")
    assert cpu.name == "Big"


def test_an_arm_board_is_named_by_its_device_tree(tmp_path: Path) -> None:
    """Arm kernels list features and no model name; the board's name stands in."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve\nCPU part\t: 0xd40\n"
    )
    model = tmp_path / "sys/firmware/devicetree/base/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"Example Board Rev 2\0")
    cpu = read_cpu(tmp_path, affinity=[0])
    assert cpu.name == "Example Board Rev 2"
    assert cpu.instruction_sets == ("neon", "asimd", "dotprod", "i8mm", "sve")


def test_a_missing_cpuinfo_is_told(tmp_path: Path) -> None:
    """Without /proc/cpuinfo the notes say what is missing, and the counts are still there."""
    cpu = read_cpu(tmp_path, affinity=[0, 1, 2])
    assert cpu.instruction_sets == ()
    assert cpu.name is None
    assert cpu.threads == 3
    assert any("cpuinfo" in note for note in cpu.notes)
    assert any("name of the processor" in note for note in cpu.notes)


def test_spellings_of_macos() -> None:
    """Apple's and Intel's spellings in sysctl mean the same sets."""
    intel = ["FPU", "SSE4.2", "AVX1.0", "FMA", "F16C", "BMI2", "AVX2", "AVX512F"]
    assert normalize_instruction_sets(intel) == (
        "sse4_2", "avx", "avx2", "fma", "f16c", "bmi2", "avx512f",
    )  # fmt: skip
    apple = ["AdvSIMD", "FEAT_DotProd", "FEAT_I8MM"]
    assert normalize_instruction_sets(apple) == ("neon", "asimd", "dotprod", "i8mm")


@given(st.lists(st.text() | st.sampled_from(INSTRUCTION_SETS)))
def test_normalising_is_stable(flags: list[str]) -> None:
    """The outcome holds known names only, and normalising it again changes nothing."""
    once = normalize_instruction_sets(flags)
    assert set(once) <= set(INSTRUCTION_SETS)
    assert normalize_instruction_sets(once) == once
    assert normalize_instruction_sets(reversed(flags)) == once
