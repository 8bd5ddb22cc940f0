"""Control groups: real directory trees under tmp_path, laid out as the kernel lays them out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.hardware.cgroup import read_cgroup
from ravenxterm_lab.hardware.memory import read_memory

MIB = 1024**2
GIB = 1024**3


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def v2(
    root: Path, group: str = "/", *, mount: str = "/sys/fs/cgroup", mount_root: str = "/"
) -> Path:
    write(root / "proc/self/cgroup", f"0::{group}")
    write(
        root / "proc/self/mountinfo",
        "23 1 0:5 / /proc rw - proc proc rw\n"
        f"31 23 0:26 {mount_root} {mount} rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate",
    )
    base = root / mount.replace("\\040", " ").lstrip("/")
    base.mkdir(parents=True, exist_ok=True)
    return base


def v1(root: Path, group: str = "/", *, mount_root: str = "/") -> Path:
    write(root / "proc/self/cgroup", f"4:memory:{group}\n2:cpu,cpuacct:{group}\n1:name=systemd:/")
    write(
        root / "proc/self/mountinfo",
        f"35 31 0:32 {mount_root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        f"36 31 0:33 {mount_root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
    )
    base = root / "sys/fs/cgroup"
    for name in ("memory", "cpu,cpuacct"):
        (base / name).mkdir(parents=True)
    return base


def meminfo(root: Path, total: int, available: int) -> None:
    write(
        root / "proc/meminfo",
        f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n"
        "SwapTotal: 2048 kB",
    )


@pytest.mark.parametrize("level", ["", "a", "a/b", "a/b/c"])
def test_a_v2_limit_on_any_ancestor_binds(tmp_path: Path, level: str) -> None:
    """A memory.max on the group itself or on any ancestor is found."""
    base = v2(tmp_path, "/a/b/c")
    for name in ("", "a", "a/b", "a/b/c"):
        write(base / name / "memory.max", "max")
    write(base / level / "memory.max", 512 * MIB)
    write(base / level / "memory.current", 200 * MIB)
    write(base / level / "memory.stat", f"anon 1\ninactive_file {50 * MIB}\nactive_file 7")
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert (limit.limit, limit.available) == (512 * MIB, 362 * MIB)
    assert limit.version == "cgroup v2"
    assert limit.path == base / level


def test_the_tightest_v2_limit_and_the_least_headroom_count_apart(tmp_path: Path) -> None:
    """A full parent leaves less than the group's own, smaller limit would."""
    base = v2(tmp_path, "/a/b")
    write(base / "a/memory.max", 1000 * MIB)
    write(base / "a/memory.current", 950 * MIB)
    write(base / "a/b/memory.max", 400 * MIB)
    write(base / "a/b/memory.current", 100 * MIB)
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert (limit.limit, limit.available) == (400 * MIB, 50 * MIB)


def test_memory_high_binds_like_a_limit(tmp_path: Path) -> None:
    """memory.high below memory.max is the limit, since the kernel throttles above it."""
    base = v2(tmp_path)
    write(base / "memory.max", 800 * MIB)
    write(base / "memory.high", 600 * MIB)
    write(base / "memory.current", 100 * MIB)
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert (limit.limit, limit.available) == (600 * MIB, 500 * MIB)


def test_an_empty_quota_file_is_no_quota(tmp_path: Path) -> None:
    """An empty cpu.max limits nothing."""
    write(v2(tmp_path) / "cpu.max", "")
    assert read_cgroup(tmp_path).cpu is None


def test_max_everywhere_is_no_limit(tmp_path: Path) -> None:
    """Files that all say "max" limit nothing."""
    base = v2(tmp_path)
    for name in ("memory.max", "memory.high"):
        write(base / name, "max")
    write(base / "cpu.max", "max 100000")
    reading = read_cgroup(tmp_path)
    assert reading.memory is None
    assert reading.cpu is None
    assert reading.notes == ()


def test_no_control_groups_at_all(tmp_path: Path) -> None:
    """An empty root, as on macOS, gives no limits and no notes."""
    assert read_cgroup(tmp_path) == read_cgroup(tmp_path / "absent")
    assert read_cgroup(tmp_path).memory is None
    assert read_cgroup(tmp_path).notes == ()


@pytest.mark.parametrize("sentinel", [9223372036854771712, 9223372036854710272, 2**63 - 1])
def test_the_huge_v1_number_is_no_limit(tmp_path: Path, sentinel: int) -> None:
    """LONG_MAX rounded to a page, for 4 KiB and 64 KiB pages, means unlimited."""
    base = v1(tmp_path)
    write(base / "memory/memory.limit_in_bytes", sentinel)
    assert read_cgroup(tmp_path).memory is None


def test_a_v1_limit_is_read_with_what_is_reclaimable(tmp_path: Path) -> None:
    """Version 1 subtracts total_inactive_file from the usage."""
    base = v1(tmp_path, "/docker/abc")
    group = base / "memory/docker/abc"
    write(group / "memory.limit_in_bytes", 300 * MIB)
    write(group / "memory.usage_in_bytes", 250 * MIB)
    write(group / "memory.stat", f"inactive_file 1\ntotal_inactive_file {150 * MIB}")
    write(base / "cpu,cpuacct/docker/abc/cpu.cfs_quota_us", 150000)
    write(base / "cpu,cpuacct/docker/abc/cpu.cfs_period_us", 100000)
    reading = read_cgroup(tmp_path)
    assert reading.memory is not None
    assert reading.memory.available == 200 * MIB
    assert reading.memory.version == "cgroup v1"
    assert reading.cpu is not None
    assert reading.cpu.cpus == 1.5


def test_a_container_sees_its_group_at_the_mount_point(tmp_path: Path) -> None:
    """Without a cgroup namespace the mount's root is the container's group."""
    base = v1(tmp_path, "/docker/abc", mount_root="/docker/abc")
    write(base / "memory/memory.limit_in_bytes", 300 * MIB)
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert limit.path == base / "memory"
    assert limit.available is None


def test_a_host_path_that_does_not_exist_inside_falls_back_to_what_does(tmp_path: Path) -> None:
    """A group path from outside is cut down to the ancestors that are visible."""
    base = v2(tmp_path, "/kubepods/pod1/ctr")
    write(base / "memory.max", 100 * MIB)
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert limit.path == base


@pytest.mark.parametrize("group", ["/../other", "/..", "/a/../../b"])
def test_a_group_outside_of_the_namespace_stays_inside_of_the_mount(
    tmp_path: Path, group: str
) -> None:
    """A path with ".." never leads out of the mounted hierarchy."""
    base = v2(tmp_path, group)
    write(tmp_path / "sys/fs/other/memory.max", 1)
    write(tmp_path / "sys/fs/memory.max", 1)
    write(base / "memory.max", 100 * MIB)
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert limit.limit == 100 * MIB


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    """The octal escapes of mountinfo are undone."""
    base = v2(tmp_path, mount="/sys/fs/my\\040groups")
    write(base / "memory.max", 100 * MIB)
    assert read_cgroup(tmp_path).memory is not None


def test_a_hybrid_system_takes_the_limit_wherever_it_is(tmp_path: Path) -> None:
    """With version 2 mounted beside version 1, the controller's own hierarchy is read."""
    base = v1(tmp_path, "/job")
    with (tmp_path / "proc/self/cgroup").open("a") as file:
        file.write("0::/job\n")
    with (tmp_path / "proc/self/mountinfo").open("a") as file:
        file.write("41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    (base / "unified/job").mkdir(parents=True)
    write(base / "memory/job/memory.limit_in_bytes", 64 * MIB)
    limit = read_cgroup(tmp_path).memory
    assert limit is not None
    assert (limit.limit, limit.version) == (64 * MIB, "cgroup v1")


@pytest.mark.parametrize(
    ("text", "cpus"), [("200000 100000", 2.0), ("50000 100000", 0.5), ("300000", 3.0)]
)
def test_cpu_max(tmp_path: Path, text: str, cpus: float) -> None:
    """A version 2 quota is quota over period; the period may be left out."""
    base = v2(tmp_path, "/a")
    write(base / "cpu.max", "max 100000")
    write(base / "a/cpu.max", text)
    quota = read_cgroup(tmp_path).cpu
    assert quota is not None
    assert quota.cpus == cpus


@pytest.mark.parametrize("text", ["many", "-7", "0 100000", "100000 0", "1e5 100000"])
def test_a_malformed_quota_is_left_out_with_a_note(tmp_path: Path, text: str) -> None:
    """Nonsense in cpu.max binds nothing and is told."""
    base = v2(tmp_path)
    write(base / "cpu.max", text)
    reading = read_cgroup(tmp_path)
    assert reading.cpu is None
    assert any("CPU quota" in note for note in reading.notes)


@pytest.mark.parametrize("text", ["", "lots", "12.5", "-3", "\u0663"])
def test_a_malformed_limit_is_left_out_with_a_note(tmp_path: Path, text: str) -> None:
    """Nonsense in memory.max binds nothing and is told."""
    base = v2(tmp_path)
    write(base / "memory.max", text)
    reading = read_cgroup(tmp_path)
    assert reading.memory is None
    assert any("memory.max" in note for note in reading.notes)


def test_a_limit_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A directory in the file's place stands for any read error that even root meets."""
    base = v2(tmp_path)
    (base / "memory.max").mkdir()
    reading = read_cgroup(tmp_path)
    assert reading.memory is None
    assert any("memory.max cannot be read" in note for note in reading.notes)


def test_an_unknown_usage_is_told_and_the_limit_still_binds(tmp_path: Path) -> None:
    """Without memory.current the limit counts and the headroom is not invented."""
    base = v2(tmp_path)
    write(base / "memory.max", 100 * MIB)
    meminfo(tmp_path, 8 * GIB, 50 * MIB)
    memory = read_memory(tmp_path)
    assert (memory.total, memory.available) == (100 * MIB, 50 * MIB)
    assert any("memory.current" in note for note in memory.notes)


def test_a_limit_of_exactly_the_machine_is_the_machines(tmp_path: Path) -> None:
    """A group that allows all there is does not bind."""
    write(v2(tmp_path) / "memory.max", 8 * GIB)
    meminfo(tmp_path, 8 * GIB, GIB)
    assert read_memory(tmp_path).limit_source == "machine"


def test_available_memory_never_exceeds_the_total(tmp_path: Path) -> None:
    """Some containers show a MemAvailable above their MemTotal."""
    meminfo(tmp_path, GIB, 2 * GIB)
    memory = read_memory(tmp_path)
    assert (memory.total, memory.available) == (GIB, GIB)


sizes = st.integers(0, 2**45).map(lambda value: value // 4096 * 4096)


@settings(deadline=None)
@given(
    limits=st.lists(st.one_of(st.none(), sizes), min_size=1, max_size=4),
    usages=st.lists(sizes, min_size=4, max_size=4),
    inactive=st.lists(sizes, min_size=4, max_size=4),
    total=sizes.filter(lambda value: value >= 4096),
    free=st.floats(0, 1),
)
def test_memory_is_the_least_of_all_limits(
    limits: list[int | None],
    usages: list[int],
    inactive: list[int],
    total: int,
    free: float,
) -> None:
    """Total is the least limit; available never exceeds any level's headroom."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        group = "/" + "/".join("abc"[: len(limits) - 1])
        base = v2(root, group)
        machine_available = int(total * free) // 1024 * 1024
        meminfo(root, total, machine_available)
        headroom = [machine_available]
        level = base
        for position, limit in enumerate(limits):
            if position:
                level /= "abc"[position - 1]
            write(level / "memory.max", "max" if limit is None else limit)
            write(level / "memory.current", usages[position])
            write(level / "memory.stat", f"inactive_file {inactive[position]}")
            if limit is not None:
                used = max(0, usages[position] - inactive[position])
                headroom.append(max(0, limit - used))
        memory = read_memory(root)
        given_limits = [limit for limit in limits if limit is not None]
        assert memory.total == min([total, *given_limits])
        assert memory.available == min([*headroom, memory.total])
        bound = any(limit < total for limit in given_limits)
        assert memory.limit_source == ("cgroup v2" if bound else "machine")
        assert memory.swap_total == 2048 * 1024


@settings(deadline=None)
@given(cgroup=st.text(max_size=200), mounts=st.text(max_size=300))
def test_any_text_in_proc_is_survived(cgroup: str, mounts: str) -> None:
    """No content of /proc/self/cgroup or mountinfo raises."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        v2(root)
        (root / "proc/self/cgroup").write_text(cgroup, encoding="utf-8")
        (root / "proc/self/mountinfo").write_text(
            mounts + "\n31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", encoding="utf-8"
        )
        write(root / "sys/fs/cgroup/memory.max", 100 * MIB)
        limit = read_cgroup(root).memory
        assert limit is None or limit.limit == 100 * MIB


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="needs Linux")
def test_this_process_lies_in_a_group_that_exists() -> None:
    """The real machine is read without a note about malformed files."""
    reading = read_cgroup()
    assert not any("not a number" in note for note in reading.notes)
    if reading.memory is not None:
        assert reading.memory.limit > 0
        assert reading.memory.path.is_dir()


def swap_of(root: Path, total: int, free: int) -> None:
    write(
        root / "proc/meminfo",
        f"MemTotal: 8388608 kB\nMemAvailable: 8388608 kB\n"
        f"SwapTotal: {total // 1024} kB\nSwapFree: {free // 1024} kB",
    )


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("max", 0, (4 * GIB, 3 * GIB)),
        (8 * GIB, 0, (4 * GIB, 3 * GIB)),
        (GIB, GIB // 4, (GIB, GIB - GIB // 4)),
        (GIB, "cannot be read", (GIB, GIB)),
        (0, 0, (0, 0)),
    ],
)
def test_the_swap_of_a_v2_group(
    tmp_path: Path, limit: object, used: object, expected: tuple[int, int]
) -> None:
    """A container often has no swap, or less, than its machine; that it is so is told."""
    base = v2(tmp_path)
    swap_of(tmp_path, 4 * GIB, 3 * GIB)
    write(base / "memory.swap.max", limit)
    write(base / "memory.swap.current", used)
    memory = read_memory(tmp_path)
    assert (memory.swap_total, memory.swap_free) == expected
    told = [note for note in memory.notes if "swap" in note and "the machine has 4.0 GiB" in note]
    assert len(told) == (1 if expected[0] < 4 * GIB else 0)
    if expected[0] == 0:
        assert "allows this process no swap" in told[0]


def test_the_swap_of_a_v1_group(tmp_path: Path) -> None:
    """Version 1 limits memory and swap together: the difference is what may be swapped."""
    base = v1(tmp_path) / "memory"
    swap_of(tmp_path, 4 * GIB, 4 * GIB)
    write(base / "memory.limit_in_bytes", 2 * GIB)
    write(base / "memory.memsw.limit_in_bytes", 3 * GIB)
    write(base / "memory.usage_in_bytes", GIB)
    write(base / "memory.stat", f"total_inactive_file 0\ntotal_swap {GIB // 2}")
    memory = read_memory(tmp_path)
    assert (memory.total, memory.swap_total, memory.swap_free) == (2 * GIB, GIB, GIB // 2)
    write(base / "memory.memsw.limit_in_bytes", 9223372036854771712)
    assert read_memory(tmp_path).swap_total == 4 * GIB
