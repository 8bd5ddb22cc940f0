"""AMD and Intel GPUs, NPUs and Apple silicon, from trees under tmp_path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.hardware import GpuProcess
from ravenxterm_lab.hardware.amd import read_sysfs_gpus
from ravenxterm_lab.hardware.npu import apple_gpu, read_npus
from ravenxterm_lab.metadata import HardwareType

RECORDED = json.loads(Path(__file__).with_name("recorded_devices.json").read_text("utf-8"))


def card(root: Path, number: int, files: dict[str, object]) -> Path:
    device = root / f"sys/class/drm/card{number}/device"
    for name, value in files.items():
        (device / name).parent.mkdir(parents=True, exist_ok=True)
        (device / name).write_text(f"{value}\n")
    return device


def amd(root: Path, number: int = 0, **changes: object) -> Path:
    (seen,) = RECORDED["amd"]
    files: dict[str, object] = {
        "vendor": "0x1002",
        "device": seen["device"],
        "mem_info_vram_total": seen["mem_info_vram_total"],
        "mem_info_vram_used": seen["mem_info_vram_used"],
        "gpu_busy_percent": seen["gpu_busy_percent"],
        "hwmon/hwmon3/power1_average": 41000000,
        "hwmon/hwmon3/power1_cap": 263000000,
        "hwmon/hwmon3/temp1_input": 47000,
        "unique_id": "0123456789abcdef",
        "pp_dpm_sclk": "0: 500Mhz \n1: 1900Mhz *\n2: 2482Mhz ",
        "pp_dpm_mclk": "0: 96Mhz *\n1: 456Mhz \n2: 1249Mhz ",
        "current_link_speed": "2.5 GT/s PCIe",
        "current_link_width": 8,
        "max_link_speed": "16.0 GT/s PCIe",
        "max_link_width": 16,
        "drm/renderD128/dev": "226:128",
    }
    return card(root, number, {**files, **changes})


def test_an_amd_card_as_recorded(tmp_path: Path) -> None:
    """The published VRAM figures of a Radeon RX 7900 XT come out in bytes."""
    amd(tmp_path)
    (gpu,) = read_sysfs_gpus(tmp_path, 2)
    (seen,) = RECORDED["amd"]
    assert gpu.index == 2
    assert gpu.hardware is HardwareType.ROCM
    assert gpu.name == "AMD GPU 0x744c"
    assert gpu.total_memory == seen["mem_info_vram_total"]
    assert gpu.available_memory == seen["mem_info_vram_total"] - seen["mem_info_vram_used"]
    assert gpu.utilization == 0.0
    assert (gpu.power, gpu.power_limit, gpu.temperature) == (41.0, 263.0, 47.0)
    assert gpu.memory_bandwidth is None
    assert any("memory_bandwidth" in note for note in gpu.notes)


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("mem_info_vram_total", "total_memory"),
        ("mem_info_vram_used", "available_memory"),
        ("gpu_busy_percent", "utilization"),
        ("hwmon/hwmon3/power1_average", "power"),
        ("hwmon/hwmon3/power1_cap", "power_limit"),
        ("hwmon/hwmon3/temp1_input", "temperature"),
        ("pp_dpm_sclk", "core_clock"),
        ("pp_dpm_mclk", "memory_clock"),
    ],
)
@pytest.mark.parametrize("how", ["absent", "nonsense", "unreadable"])
def test_each_file_can_be_missing_by_itself(
    tmp_path: Path, file: str, field: str, how: str
) -> None:
    """A file that is absent, senseless or unreadable costs its own field, with the reason."""
    amd(tmp_path / "whole")
    device = amd(tmp_path / "broken")
    if how == "nonsense":
        (device / file).write_text("N/A\n")
    else:
        (device / file).unlink()
    if how == "unreadable":
        (device / file).mkdir()
    (whole,) = read_sysfs_gpus(tmp_path / "whole")
    (broken,) = read_sysfs_gpus(tmp_path / "broken")
    assert getattr(broken, field) is None
    assert any(note.startswith(f"{field}: not available") for note in broken.notes)
    for other in (
        "total_memory", "utilization", "power", "power_limit", "temperature", "core_clock",
        "memory_clock", "pcie_generation", "pcie_width", "uuid",
    ):  # fmt: skip
        if other != field:
            assert getattr(broken, other) == getattr(whole, other)


def test_clocks_and_links_of_an_amd_card(tmp_path: Path) -> None:
    """The highest level and the one with the star; the link's generation from its transfers."""
    device = amd(tmp_path)
    (gpu,) = read_sysfs_gpus(tmp_path)
    assert (gpu.core_clock, gpu.core_clock_now) == (2482.0, 1900.0)
    assert (gpu.memory_clock, gpu.memory_clock_now) == (1249.0, 96.0)
    assert (gpu.pcie_generation, gpu.pcie_width) == (1, 8)
    assert (gpu.pcie_generation_max, gpu.pcie_width_max) == (4, 16)
    assert gpu.bus_width is None
    assert any(note.startswith("bus_width, processes: not available") for note in gpu.notes)
    (device / "current_link_speed").write_text("Unknown\n")
    (device / "pp_dpm_sclk").write_text("0: 500Mhz\n")
    (gpu,) = read_sysfs_gpus(tmp_path)
    assert (gpu.pcie_generation, gpu.pcie_width) == (None, 8)
    assert any(note.startswith("pcie (current): not available") for note in gpu.notes)
    assert (gpu.core_clock, gpu.core_clock_now) == (500.0, None)


def test_the_compute_driver_tells_the_bus_and_who_holds_memory(tmp_path: Path) -> None:
    """KFD's node is found by the render node; a CPU's node and another GPU's are passed over."""
    amd(tmp_path)
    kfd = tmp_path / "sys/class/kfd/kfd"
    for number, gpu_id, minor, width in (
        (0, 0, 0, 64),
        (1, 777, 129, 4096),
        (2, 4321, 128, 384),
    ):
        node = kfd / f"topology/nodes/{number}"
        (node / "mem_banks/0").mkdir(parents=True)
        (node / "gpu_id").write_text(f"{gpu_id}\n")
        (node / "properties").write_text(f"cpu_cores_count 0\ndrm_render_minor {minor}\n")
        (node / "mem_banks/0/properties").write_text(f"heap_type 1\nwidth {width}\n")
    for pid, held in ((100, 1 << 20), (200, 1 << 30), ("other", 5)):
        (kfd / f"proc/{pid}").mkdir(parents=True)
        (kfd / f"proc/{pid}/vram_4321").write_text(f"{held}\n")
        (kfd / f"proc/{pid}/vram_777").write_text("9\n")
    (gpu,) = read_sysfs_gpus(tmp_path)
    assert gpu.bus_width == 384
    assert gpu.processes == (GpuProcess(200, 1 << 30), GpuProcess(100, 1 << 20))
    assert not any(note.startswith("bus_width") for note in gpu.notes)


def test_newer_cards_tell_the_instant_power(tmp_path: Path) -> None:
    """Where power1_average is missing, power1_input is read."""
    device = amd(tmp_path, **{"hwmon/hwmon3/power1_input": 9000000})
    (device / "hwmon/hwmon3/power1_average").unlink()
    assert read_sysfs_gpus(tmp_path)[0].power == 9.0


def test_system_memory_that_can_be_mapped_is_told_and_not_counted(tmp_path: Path) -> None:
    """An APU's carve-out stays its memory; the larger GTT is a note."""
    amd(tmp_path, mem_info_vram_total=512 * 1024**2, mem_info_gtt_total=16 * 1024**3)
    (gpu,) = read_sysfs_gpus(tmp_path)
    assert gpu.total_memory == 512 * 1024**2
    assert any("16.0 GiB" in note for note in gpu.notes)


def test_cards_keep_the_kernels_order_and_others_are_skipped(tmp_path: Path) -> None:
    """Connectors, render nodes and NVIDIA cards are not listed; card10 follows card2."""
    amd(tmp_path, 10, product_name="ten")
    amd(tmp_path, 2, product_name="two")
    card(tmp_path, 3, {"vendor": "0x10de"})
    card(tmp_path, 4, {"vendor": "0x8086", "device": "0x56a0"})
    (tmp_path / "sys/class/drm/card2-DP-1/device").mkdir(parents=True)
    (tmp_path / "sys/class/drm/renderD128/device").mkdir(parents=True)
    gpus = read_sysfs_gpus(tmp_path)
    assert [(gpu.index, gpu.name) for gpu in gpus] == [
        (0, "two"),
        (1, "Intel GPU 0x56a0"),
        (2, "ten"),
    ]
    assert gpus[1].hardware is HardwareType.XPU
    assert gpus[1].total_memory is None
    assert gpus[1].notes


def test_a_machine_without_drm(tmp_path: Path) -> None:
    """No /sys/class/drm means no such GPUs."""
    assert read_sysfs_gpus(tmp_path) == ()
    assert read_npus(tmp_path) == ((), ())


@settings(deadline=None)
@given(total=st.integers(0, 2**45), used=st.integers(0, 2**45), busy=st.integers(0, 1000))
def test_figures_stay_in_their_range(
    tmp_path_factory: pytest.TempPathFactory, total: int, used: int, busy: int
) -> None:
    """Free memory is never negative and a load never exceeds one."""
    root = tmp_path_factory.mktemp("gpu")
    amd(root, mem_info_vram_total=total, mem_info_vram_used=used, gpu_busy_percent=busy)
    (gpu,) = read_sysfs_gpus(root)
    assert gpu.available_memory is not None
    assert 0 <= gpu.available_memory <= total
    assert gpu.utilization is not None
    assert 0 <= gpu.utilization <= 1


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("intel_vpu", "Intel NPU"),
        ("amdxdna", "AMD NPU (XDNA)"),
        ("novel", "accelerator of unknown kind"),
    ],
)
def test_npus_are_named_by_their_driver(tmp_path: Path, driver: str, name: str) -> None:
    """The driver's link names the device; an unknown driver is not guessed at."""
    device = tmp_path / "sys/class/accel/accel0/device"
    device.mkdir(parents=True)
    drivers = tmp_path / "sys/bus/pci/drivers" / driver
    drivers.mkdir(parents=True)
    (device / "driver").symlink_to(drivers)
    (npu,), notes = read_npus(tmp_path)
    assert (npu.name, npu.driver, npu.path) == (name, driver, "/dev/accel/accel0")
    assert notes == ()


def test_an_npu_without_sysfs_is_told(tmp_path: Path) -> None:
    """A device file alone, as in a container, is listed with what is not known."""
    (tmp_path / "dev/accel").mkdir(parents=True)
    (tmp_path / "dev/accel/accel1").write_text("")
    (npu,), notes = read_npus(tmp_path)
    assert (npu.path, npu.driver) == ("/dev/accel/accel1", None)
    assert "does not tell which driver" in notes[0]


def test_apple_silicon_has_a_gpu_that_shares_the_memory() -> None:
    """Only macOS on arm64 has one; what macOS keeps to itself is told."""
    gpu = apple_gpu("Darwin", "arm64", "Apple M3 Max")
    assert gpu is not None
    assert (gpu.name, gpu.hardware, gpu.unified_memory) == (
        "Apple M3 Max GPU",
        HardwareType.METAL,
        True,
    )
    assert any("Neural Engine" in note for note in gpu.notes)
    assert apple_gpu("Darwin", "x86_64", "Intel") is None
    assert apple_gpu("Linux", "arm64", None) is None
