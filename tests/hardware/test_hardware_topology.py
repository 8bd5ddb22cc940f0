"""Caches and NUMA nodes: the real ones against another program, others from trees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab import HardwareProfile
from ravenxterm_lab.hardware import CpuCache, FakeNvml, NumaNode
from ravenxterm_lab.hardware.topology import (
    last_level_bytes,
    parse_cpu_list,
    read_caches,
    read_macos_caches,
    read_numa,
)

KIB, MIB, GIB = 1024, 1024**2, 1024**3


def cache(root: Path, cpu: int, index: int, **files: object) -> None:
    directory = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")


def hybrid(root: Path) -> None:
    """Two big cores with an L2 each, four small ones that share one, an L3 for all."""
    for cpu in range(6):
        big = cpu < 2
        cache(root, cpu, 0, level=1, type="Data", size="48K" if big else "32K", shared_cpu_list=cpu)
        cache(root, cpu, 1, level=1, type="Instruction", size="32K", shared_cpu_list=cpu)
        shared = cpu if big else "2-5"
        size = "2M" if big else "4096K"
        cache(root, cpu, 2, level=2, type="Unified", size=size, shared_cpu_list=shared)
        cache(root, cpu, 3, level=3, type="Unified", size="24M", shared_cpu_list="0-5")


def node(root: Path, number: int, cpus: str, total: int | None, free: int = 0) -> None:
    directory = root / f"sys/devices/system/node/node{number}"
    directory.mkdir(parents=True)
    (directory / "cpulist").write_text(f"{cpus}\n")
    if total is not None:
        (directory / "meminfo").write_text(
            f"Node {number} MemTotal:  {total // KIB} kB\n"
            f"Node {number} MemFree:  {free // KIB} kB\n"
            f"Node {number} HugePages_Total:     0\n"
        )


def test_unlike_cores_have_a_row_each(tmp_path: Path) -> None:
    """Big and little cores differ; each instance is counted once, with who shares it."""
    hybrid(tmp_path)
    caches, notes = read_caches(tmp_path, range(6))
    assert notes == ()
    assert caches == (
        CpuCache(1, "data", 48 * KIB, 2, 1),
        CpuCache(1, "data", 32 * KIB, 4, 1),
        CpuCache(1, "instruction", 32 * KIB, 6, 1),
        CpuCache(2, "unified", 4 * MIB, 1, 4),
        CpuCache(2, "unified", 2 * MIB, 2, 1),
        CpuCache(3, "unified", 24 * MIB, 1, 6),
    )
    assert [item.name for item in caches] == ["L1d", "L1d", "L1i", "L2", "L2", "L3"]
    assert last_level_bytes(caches) == 24 * MIB
    # Of a process that may use one small core only, the caches of the others are not.
    few, _ = read_caches(tmp_path, [3])
    assert [(item.name, item.instances) for item in few] == [
        ("L1d", 1), ("L1i", 1), ("L2", 1), ("L3", 1),
    ]  # fmt: skip


def test_a_machine_without_an_l3_has_a_last_level_all_the_same(tmp_path: Path) -> None:
    """The outermost level counts, over its instances, and never an instruction cache."""
    for cpu in range(2):
        cache(tmp_path, cpu, 0, level=2, type="Unified", size="512K", shared_cpu_list=cpu)
        cache(tmp_path, cpu, 1, level=3, type="Instruction", size="9M", shared_cpu_list=cpu)
    assert last_level_bytes(read_caches(tmp_path, range(2))[0]) == MIB
    assert last_level_bytes(()) is None


@pytest.mark.parametrize(
    "files",
    [
        {"level": 1, "type": "Data"},
        {"level": "x", "type": "Data", "size": "32K"},
        {"level": 1, "type": "Data", "size": "K"},
        {"level": 1, "type": "Data", "size": "0K"},
        {"level": 1, "type": "Data", "size": "-32K"},
        {"level": 1, "type": "Data", "size": ""},
    ],
)
def test_a_cache_of_unknown_size_is_left_out(tmp_path: Path, files: dict[str, object]) -> None:
    """What cannot be read is no fact, and that there is none is told."""
    cache(tmp_path, 0, 0, **files)
    caches, notes = read_caches(tmp_path, [0])
    assert caches == ()
    assert notes[0].startswith("Caches: not available")


def test_who_shares_a_cache_may_be_unknown(tmp_path: Path) -> None:
    """A list that cannot be read costs the count of those who share it."""
    cache(tmp_path, 0, 0, level=3, type="Unified", size="1M", shared_cpu_list="all of them")
    assert read_caches(tmp_path, [0])[0] == (CpuCache(3, "unified", MIB, 1, None),)


@pytest.mark.skipif(shutil.which("lscpu") is None, reason="compares with lscpu (util-linux)")
def test_the_real_caches_are_those_of_lscpu() -> None:
    """Sizes and instances agree with util-linux, where this process may use every CPU."""
    if len(os.sched_getaffinity(0)) != os.cpu_count():
        pytest.skip("lscpu lists the caches of all CPUs, this process may use some")
    answer = subprocess.run(
        ["lscpu", "-C", "-B", "-J"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        pytest.skip("this lscpu lists no caches")
    theirs = {
        row["name"]: (int(row["one-size"]), int(row["all-size"]))
        for row in json.loads(answer.stdout)["caches"]
    }
    ours = {
        item.name: (item.size_bytes, item.size_bytes * (item.instances or 0))
        for item in read_caches(Path("/"), sorted(os.sched_getaffinity(0)))[0]
    }
    assert ours == theirs


def test_macos_tells_the_fastest_cores() -> None:
    """Apple silicon answers by performance level, an Intel Mac as a whole."""
    apple = {
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.perflevel0.l1icachesize": "196608",
        "hw.perflevel0.l2cachesize": "16777216",
        "hw.l1dcachesize": "65536",
    }
    assert read_macos_caches(apple.get) == (
        CpuCache(1, "data", 128 * KIB, None, None),
        CpuCache(1, "instruction", 192 * KIB, None, None),
        CpuCache(2, "unified", 16 * MIB, None, None),
    )
    intel = {"hw.l3cachesize": "8388608", "hw.l1dcachesize": "0"}
    assert read_macos_caches(intel.get) == (CpuCache(3, "unified", 8 * MIB, None, None),)
    assert read_macos_caches(lambda _: None) == ()


def test_two_nodes_are_told_with_what_follows(tmp_path: Path) -> None:
    """Memory and CPUs of each node, in the kernel's order, and a note for large models."""
    node(tmp_path, 10, "", 64 * GIB, 60 * GIB)
    node(tmp_path, 0, "0-3,8-11", 128 * GIB, 100 * GIB)
    node(tmp_path, 1, "4-7,12-15", 128 * GIB, 90 * GIB)
    (tmp_path / "sys/devices/system/node/nodes_possible").mkdir()
    nodes, notes = read_numa(tmp_path)
    assert nodes == (
        NumaNode(0, 128 * GIB, 100 * GIB, (0, 1, 2, 3, 8, 9, 10, 11)),
        NumaNode(1, 128 * GIB, 90 * GIB, (4, 5, 6, 7, 12, 13, 14, 15)),
        NumaNode(10, 64 * GIB, 60 * GIB, ()),
    )
    assert "128.0 GiB, 128.0 GiB, 64.0 GiB" in notes[0]
    text = str(HardwareProfile.detect(root=tmp_path, nvml=FakeNvml(), measure_bandwidth=False))
    assert "NUMA node 1   128.0 GiB, 8 CPUs" in text
    assert "NUMA node 10  64.0 GiB, no CPU" in text


def test_one_node_is_nothing_to_note(tmp_path: Path) -> None:
    """Most machines have one; it is a fact and no row of the card."""
    node(tmp_path, 0, "0-1", None)
    assert read_numa(tmp_path) == ((NumaNode(0, None, None, (0, 1)),), ())
    assert read_numa(tmp_path / "absent") == ((), ())
    text = str(HardwareProfile.detect(root=tmp_path, nvml=FakeNvml(), measure_bandwidth=False))
    assert "NUMA" not in text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /sys")
def test_the_real_nodes_hold_the_cpus_that_are_online() -> None:
    """Together the nodes have every online CPU once."""
    nodes, _ = read_numa()
    if not nodes:
        pytest.skip("this kernel was built without NUMA")
    online = parse_cpu_list(Path("/sys/devices/system/cpu/online").read_text("ascii"))
    assert sorted(cpu for item in nodes for cpu in item.cpus) == sorted(online)


@given(st.lists(st.integers(0, 4000), unique=True))
def test_lists_of_cpus_can_be_read_back(cpus: list[int]) -> None:
    """The kernel's form, with runs written as ranges, gives the CPUs again."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][-1] == cpu - 1:
            parts[-1].append(cpu)
        else:
            parts.append([cpu])
    text = ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)
    assert parse_cpu_list(f"{text}\n") == tuple(sorted(cpus))
