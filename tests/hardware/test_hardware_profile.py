"""The profile as a whole: the real machine, containers, invented cards, how it shows itself."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab import HardwareProfile
from ravenxterm_lab.hardware import FakeGpu, FakeNvml, GpuDevice, NpuDevice
from ravenxterm_lab.metadata import HardwareType

GIB = 1024**3
RECORDED = json.loads(Path(__file__).with_name("recorded_devices.json").read_text("utf-8"))


def detect(nvml: object | None = None, **options: object) -> HardwareProfile:
    options.setdefault("measure_bandwidth", False)
    return HardwareProfile.detect(nvml=nvml or FakeNvml(), **options)


def contained(root: Path, limit: int | str, used: int = 0, *, cpus: str = "max 100000") -> Path:
    """Lay out a 64 GiB machine with a version 2 control group around the process."""
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True, exist_ok=True)
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {32 * GIB // 1024} kB\nSwapTotal: 0 kB\n"
    )
    (root / "proc/self/cgroup").write_text("0::/\n")
    (root / "proc/self/mountinfo").write_text("1 1 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n")
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "cpu.max").write_text(f"{cpus}\n")
    return root


def test_the_real_machine(tmp_path: Path) -> None:
    """What is told of the machine at hand agrees with psutil and can be used."""
    profile = HardwareProfile.detect(cache_dir=tmp_path)
    machine = psutil.virtual_memory()
    assert profile.total_memory <= machine.total
    if profile.memory_limit_source == "machine":
        assert profile.total_memory == machine.total
    assert 0 < profile.available_memory <= profile.total_memory
    assert 1 <= profile.cpu_cores <= profile.cpu_threads <= (psutil.cpu_count() or 1)
    assert profile.memory_bandwidth is not None
    assert HardwareType.CPU in profile.devices
    assert [path.name for path in tmp_path.iterdir()] == [
        f"speed-{replace(profile, gpu_devices=(), npu_devices=()).fingerprint}.json"
    ]
    assert profile.matrix_speed is not None
    again = HardwareProfile.detect(cache_dir=tmp_path)
    # Load from others makes a machine look slower, so that what is remembered never falls.
    assert again.memory_bandwidth is not None
    assert again.memory_bandwidth >= profile.memory_bandwidth


def test_detecting_writes_nothing_without_a_cache(tmp_path: Path) -> None:
    """A fresh process with an empty home profiles the machine and leaves the home empty."""
    code = "from ravenxterm_lab import HardwareProfile; print(HardwareProfile.detect())"
    environment = {**os.environ, "HOME": str(tmp_path), "RAVENXTERM_HOME": str(tmp_path / "home")}
    answer = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert "Processor" in answer.stdout
    assert answer.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_importing_the_room_stays_light() -> None:
    """In a fresh interpreter neither the data frame libraries nor numpy nor pynvml are loaded."""
    code = (
        "import sys, ravenxterm_lab.hardware as h; h.HardwareProfile\n"
        "print(sorted({'pandas', 'polars', 'pyarrow', 'numpy', 'pynvml', 'plotly', 'IPython'}"
        " & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_a_container_limit_binds_and_is_named(tmp_path: Path) -> None:
    """Inside a 4 GiB group on a 64 GiB machine the profile is that of a 4 GiB machine."""
    profile = detect(root=contained(tmp_path, 4 * GIB, GIB))
    assert (profile.total_memory, profile.available_memory) == (4 * GIB, 3 * GIB)
    assert profile.memory_limit_source == "cgroup v2"
    assert any("4.0 GiB of the machine's 64.0 GiB" in note for note in profile.notes)
    assert profile.memory_for("cpu") == (4 * GIB, 3 * GIB)


def test_a_limit_above_the_machine_does_not_bind(tmp_path: Path) -> None:
    """A group that allows more than there is changes nothing."""
    profile = detect(root=contained(tmp_path, 128 * GIB, GIB))
    assert (profile.total_memory, profile.available_memory) == (64 * GIB, 32 * GIB)
    assert profile.memory_limit_source == "machine"


def test_a_cpu_quota_binds_and_is_named(tmp_path: Path) -> None:
    """Half a CPU is one thread."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a quota of one thread cannot bind on one CPU")
    profile = detect(root=contained(tmp_path, "max", cpus="50000 100000"))
    assert (profile.cpu_cores, profile.cpu_threads) == (1, 1)
    assert any("CPU quota allows the time of 0.5 CPU" in note for note in profile.notes)


def test_no_driver_is_a_note_and_nothing_else() -> None:
    """Without NVML the profile is complete for CPU and memory."""
    profile = detect(FakeNvml(failures={"nvmlInit": 12}))
    assert profile.devices == (HardwareType.CPU,)
    assert "No NVIDIA driver (NVML library not found); CPU and RAM shown." in profile.notes
    assert profile.memory_for(HardwareType.CUDA) == (0, 0)


def test_several_cards_are_summed() -> None:
    """Memory of one kind of device is the sum over its cards."""
    profile = detect(FakeNvml(FakeGpu(), FakeGpu(total_memory=8 * GIB, used_memory=GIB)))
    assert profile.devices == (HardwareType.CUDA, HardwareType.CPU)
    assert profile.memory_for("cuda") == (32 * GIB, 29 * GIB)
    assert not profile.shares_memory("cuda")
    assert profile.shares_memory("cpu")


def test_a_card_of_unknown_memory_makes_the_sum_unknown() -> None:
    """A sum over an unknown figure is not a figure."""
    broken = FakeGpu(failures={"nvmlDeviceGetMemoryInfo": 999})
    profile = detect(FakeNvml(FakeGpu(), broken))
    assert profile.memory_for("cuda") == (None, None)
    assert profile.devices == (HardwareType.CUDA, HardwareType.CPU)
    assert detect(FakeNvml(broken)).devices == (HardwareType.CPU,)


def test_unified_memory_is_the_systems(tmp_path: Path) -> None:
    """A GB10 answers with the system's memory, as recorded, and says that it shares it."""
    seen = RECORDED["unified"]
    root = contained(tmp_path, "max")
    (root / "proc/meminfo").write_text(
        f"MemTotal: {seen['mem_total_kb']} kB\nMemAvailable: {seen['mem_available_kb']} kB\n"
    )
    card = FakeGpu(name=seen["name"], failures={"nvmlDeviceGetMemoryInfo": 3})
    profile = detect(FakeNvml(card), root=root)
    expected = (seen["mem_total_kb"] * 1024, seen["mem_available_kb"] * 1024)
    assert profile.memory_for("cuda") == expected
    assert profile.memory_for("cpu") == expected
    assert profile.shares_memory("cuda")
    assert profile.devices == (HardwareType.CUDA, HardwareType.CPU)


def test_two_unified_gpus_count_the_system_once() -> None:
    """However many GPUs share it, the system's memory is there once."""
    card = {"nvmlDeviceGetMemoryInfo": 3}
    profile = detect(FakeNvml(FakeGpu(failures=card), FakeGpu(failures=card)))
    assert profile.memory_for("cuda") == profile.memory_for("cpu")


def test_an_unknown_device_is_an_error() -> None:
    """A device that does not exist as a kind is refused."""
    with pytest.raises(ValueError, match="abacus"):
        detect().memory_for("abacus")


def test_gpus_of_all_makers_get_distinct_indices(tmp_path: Path) -> None:
    """NVIDIA's cards come first, then those of sysfs, numbered on."""
    device = contained(tmp_path, "max") / "sys/class/drm/card0/device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1002\n")
    (device / "mem_info_vram_total").write_text(f"{16 * GIB}\n")
    profile = detect(FakeNvml(FakeGpu(), FakeGpu()), root=tmp_path)
    assert [(gpu.index, gpu.hardware.value) for gpu in profile.gpu_devices] == [
        (0, "cuda"),
        (1, "cuda"),
        (2, "rocm"),
    ]
    assert profile.devices == (HardwareType.CUDA, HardwareType.ROCM, HardwareType.CPU)
    assert profile.memory_for("rocm") == (16 * GIB, None)


def test_visible_devices_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES is told, since NVML does not heed it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert any("CUDA_VISIBLE_DEVICES='1'" in note for note in detect(FakeNvml(FakeGpu())).notes)
    assert not any("CUDA_VISIBLE" in note for note in detect().notes)


def test_the_fingerprint_is_stable_and_free_of_what_changes() -> None:
    """Loads, free memory, clocks and drivers leave it as it is."""
    card = FakeGpu()
    first = detect(FakeNvml(card)).fingerprint
    card.used_memory, card.utilization, card.temperature, card.power = 9 * GIB, 99, 88, 300.0
    later = detect(FakeNvml(card, driver_version="999"))
    assert later.fingerprint == first
    changed = replace(later, available_memory=1, memory_bandwidth=1.0, notes=("x",), swap_total=5)
    assert changed.fingerprint == first
    # A kernel update moves MemTotal by less than this.
    near = round(later.total_memory / 2**28) * 2**28
    assert (
        replace(later, total_memory=near + 2**20).fingerprint
        == replace(later, total_memory=near - 2**20).fingerprint
    )
    assert re.fullmatch("[0-9a-f]{16}", first)


@pytest.mark.parametrize(
    "change",
    [
        {"cpu_name": "another"},
        {"cpu_threads": 999},
        {"cpu_architecture": "another"},
        {"instruction_sets": ("sve",)},
        {"total_memory": 999 * GIB},
        {"gpu_devices": ()},
        {"npu_devices": (NpuDevice("n", "/dev/accel/accel0", "d"),)},
    ],
)
def test_the_fingerprint_follows_the_hardware(change: dict[str, object]) -> None:
    """Each durable fact changes it."""
    profile = detect(FakeNvml(FakeGpu()))
    assert replace(profile, **change).fingerprint != profile.fingerprint


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    """It does not hang on Python's hash seed."""
    code = (
        "from ravenxterm_lab import HardwareProfile\n"
        "print(HardwareProfile.detect(measure_bandwidth=False).fingerprint)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_refreshing_reads_memory_and_loads_again(tmp_path: Path) -> None:
    """A refreshed profile has the figures of now; the old one keeps its own."""
    root = contained(tmp_path, 8 * GIB, GIB)
    card = FakeGpu(used_memory=GIB)
    before = replace(detect(FakeNvml(card), root=root), memory_bandwidth=5.0)
    contained(tmp_path, 8 * GIB, 6 * GIB)
    card.used_memory = 20 * GIB
    after = before.refreshed(nvml=FakeNvml(card))
    assert (before.available_memory, after.available_memory) == (7 * GIB, 2 * GIB)
    assert before.memory_for("cuda")[1] == 23 * GIB
    assert after.memory_for("cuda")[1] == 4 * GIB
    assert after.memory_bandwidth == 5.0
    assert after.fingerprint == before.fingerprint
    assert after.notes == before.notes
    assert after.refreshed(nvml=FakeNvml(card)) == after


def test_refreshing_after_the_driver_failed_keeps_the_card_without_its_loads() -> None:
    """A driver that is gone costs the loads, and the reason is told."""
    before = detect(FakeNvml(FakeGpu()))
    after = before.refreshed(nvml=FakeNvml(failures={"nvmlInit": 18}))
    (gpu,) = after.gpu_devices
    assert (gpu.total_memory, gpu.available_memory, gpu.utilization) == (24 * GIB, None, None)
    assert any("reboot" in note for note in after.notes)
    assert after.fingerprint == before.fingerprint


def test_a_profile_is_frozen() -> None:
    """Facts cannot be changed by accident."""
    with pytest.raises(FrozenInstanceError):
        detect().total_memory = 1  # type: ignore[misc]


def test_text_names_units_and_notes() -> None:
    """The plain form shows sizes with units, what is not available, and every note."""
    card = FakeGpu(failures={"nvmlDeviceGetPowerUsage": 4})
    text = str(detect(FakeNvml(card)))
    assert "22.0 GiB free of 24.0 GiB" in text
    assert "not measured" in text
    assert "GPU 0: power: not available (NVML: Insufficient Permissions)." in text


def test_html_escapes_what_the_machine_says() -> None:
    """A GPU, CPU, NPU or note with markup in its name is shown, never run."""
    evil = "<script>alert('x')</script>&\""
    profile = replace(
        detect(FakeNvml(FakeGpu(name=evil))),
        cpu_name=evil,
        notes=(evil,),
        npu_devices=(NpuDevice(evil, evil, evil),),
    )
    bundle = profile._repr_mimebundle_()
    page = bundle["text/html"]
    assert "<script" not in page
    assert page.count(html.escape(evil)) == 6
    assert evil in bundle["text/plain"]


@settings(deadline=None)
@given(st.text(min_size=1))
def test_html_keeps_its_structure_whatever_the_name(name: str) -> None:
    """No name opens or closes a tag."""

    def tags(page: str) -> list[str]:
        return re.findall(r"<(/?\w+)", page)

    base = detect()
    gpu = GpuDevice(0, "plain", None, HardwareType.CUDA, notes=("plain",))
    plain = replace(base, gpu_devices=(gpu,))
    named = replace(base, gpu_devices=(replace(gpu, name=name, notes=(name,)),))
    assert tags(named._repr_mimebundle_()["text/html"]) == tags(
        plain._repr_mimebundle_()["text/html"]
    )


def test_html_takes_its_colours_from_jupyterlab() -> None:
    """No colour is fixed, so that the dark theme works."""
    page = detect(FakeNvml(FakeGpu()))._repr_mimebundle_()["text/html"]
    colours = re.findall(r"color:([^;\"]+)", page)
    assert colours
    assert all(colour.startswith("var(--jp-") for colour in colours)
    assert "http" not in page
