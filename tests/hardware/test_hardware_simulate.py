"""Simulated machines, and the table of GPUs that they are made from."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab import HardwareProfile
from ravenxterm_lab.exceptions import HardwareError
from ravenxterm_lab.hardware import FakeGpu, FakeNvml, GpuDevice
from ravenxterm_lab.hardware.known_gpus import known_gpus, name_words, with_data_sheet
from ravenxterm_lab.metadata import HardwareType

GIB = 1024**3
TABLE = Path(__file__).parents[2] / "ravenxterm_lab/hardware/known_gpus.csv"
ROWS = list(csv.DictReader(TABLE.read_text("utf-8").splitlines()))
RECORDED = json.loads(Path(__file__).with_name("recorded_devices.json").read_text("utf-8"))


def test_the_table_is_large_enough_and_says_where_it_is_from() -> None:
    """Every row has its source, and no two describe the same GPU."""
    gpus = known_gpus()
    assert len(gpus) == len(ROWS) >= 60
    assert {gpu.hardware.value for gpu in gpus} == {"cuda", "rocm", "metal", "xpu"}
    assert all(len(gpu.source) > 12 for gpu in gpus)
    keys = [(gpu.name, size) for gpu in gpus for size in gpu.memory]
    assert len(keys) == len(set(keys))
    text = str(HardwareProfile.known_gpus())
    assert all(gpu.name in text for gpu in gpus)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['name']} {row['memory_gib']}")
def test_the_bandwidth_follows_from_bus_and_data_rate(row: dict[str, str]) -> None:
    """Width × rate / 8 is the bandwidth of the data sheet, which rounds by 2.5% at most."""
    derived = int(row["bus_width"]) * float(row["data_rate_gbps"]) / 8
    exact = row["memory_type"].startswith("GDDR")
    assert float(row["bandwidth_gb_s"]) == pytest.approx(derived, rel=2e-3 if exact else 0.025)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row["cores"]],
    ids=lambda row: f"{row['name']} {row['memory_gib']}",
)
def test_the_speed_follows_from_cores_and_clock(row: dict[str, str]) -> None:
    """Cores × boost clock × operations per core and clock; the factor is the generation's."""
    factor = int(row["flops_per_core_and_clock"])
    derived = int(row["cores"]) * int(row["boost_mhz"]) * factor / 1e6
    assert float(row["fp16_tflops"]) == pytest.approx(derived, rel=0.01)
    factors = {
        (other["architecture"], other["kind"]): set[str]() for other in ROWS if other["cores"]
    }
    for other in ROWS:
        if other["cores"]:
            factors[other["architecture"], other["kind"]].add(other["flops_per_core_and_clock"])
    # GeForce cards accumulate in FP32 at half the rate of professional ones.
    assert len(factors[row["architecture"], row["kind"]]) <= 2


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("GeForce RTX 3090", 71),
        ("GeForce RTX 4090", 165.2),
        ("GeForce RTX 5090", 209.5),
        ("RTX A6000", 154.8),
        ("L4", 121),
        ("T4", 65),
        ("Radeon RX 7900 XTX", 122.8),
    ],
)
def test_the_speed_is_that_of_the_makers_table(name: str, tflops: float) -> None:
    """Figures printed by the makers (whitepapers, data sheets) to one per cent."""
    (gpu,) = [item for item in known_gpus() if item.name == name]
    assert gpu.matrix_speed == pytest.approx(tflops * 1e12, rel=0.01)


@pytest.mark.parametrize("card", RECORDED["nvidia"], ids=lambda card: card["name"])
def test_the_table_agrees_with_what_real_cards_told(card: dict[str, object]) -> None:
    """Clock and bus as published from real cards give the bandwidth of the table."""
    (gpu,) = [item for item in known_gpus() if item.driver_name == card["name"]]
    assert gpu.bus_width == card["bus_width"]
    assert gpu.compute_capability == tuple(card["compute_capability"])
    told = float(str(card["memory_clock"])) * 1e6 * 2 * gpu.bus_width / 8
    assert gpu.bandwidth == pytest.approx(told, rel=0.001)
    if "total_memory" in card:
        assert card["total_memory"] == pytest.approx(gpu.memory[0], rel=0.05)


def test_a_card_and_its_memory() -> None:
    """The example of the documentation, field by field."""
    machine = HardwareProfile.simulate("RTX 4090 24GB, 64 GiB RAM")
    assert machine.source == "simulated"
    assert (machine.total_memory, machine.available_memory) == (64 * GIB, 64 * GIB)
    (gpu,) = machine.gpu_devices
    assert (gpu.name, gpu.hardware) == ("NVIDIA GeForce RTX 4090", HardwareType.CUDA)
    assert (gpu.total_memory, gpu.memory_bandwidth) == (24 * GIB, 1008e9)
    assert (gpu.compute_capability, gpu.bus_width) == ((8, 9), 384)
    assert machine.devices == (HardwareType.CUDA, HardwareType.CPU)
    assert machine.memory_for("cuda") == (24 * GIB, 24 * GIB)
    assert machine.memory_bandwidth is None
    assert any(note.startswith("memory_bandwidth: not told") for note in machine.notes)
    assert any("Simulated: nothing was measured" in note for note in machine.notes)


@pytest.mark.parametrize(
    ("description", "gpus", "ram", "bandwidth", "cores"),
    [
        ("2x RTX 3090, 128 GiB RAM", ["NVIDIA GeForce RTX 3090"] * 2, 128, None, 8),
        ("2 × rtx3090 24 GB; 128GB", ["NVIDIA GeForce RTX 3090"] * 2, 128, None, 8),
        (
            "RTX 5090, RTX 4060 Ti 16GB + 96 GB of memory",
            ["NVIDIA GeForce RTX 5090", "NVIDIA GeForce RTX 4060 Ti"],
            96,
            None,
            8,
        ),
        ("64 GB RAM, 16 cores, DDR5-5600", [], 64, 89.6e9, 16),
        ("512 GiB, DDR5-4800 12 channels, 96 cores", [], 512, 460.8e9, 96),
        ("8x H100 SXM, 2 TiB RAM", ["NVIDIA H100 80GB HBM3"] * 8, 2048, None, 8),
        ("AMD Radeon RX 7900 XTX and 32 GB RAM", ["AMD Radeon RX 7900 XTX"], 32, None, 8),
        ("GeForce RTX 4070 Super 12GB VRAM, 9GB", ["NVIDIA GeForce RTX 4070 SUPER"], 9, None, 8),
        ("MI300X, 512 GB RAM", ["AMD Instinct MI300X"], 512, None, 8),
    ],
)  # fmt: skip
def test_descriptions(
    description: str, gpus: list[str], ram: int, bandwidth: float | None, cores: int
) -> None:
    """Counts, sizes, separators, spellings, memory and cores as people write them."""
    machine = HardwareProfile.simulate(description)
    assert [gpu.name for gpu in machine.gpu_devices] == gpus
    assert [gpu.index for gpu in machine.gpu_devices] == list(range(len(gpus)))
    assert machine.total_memory == ram * GIB
    assert machine.memory_bandwidth == pytest.approx(bandwidth)
    assert (machine.cpu_cores, machine.cpu_threads) == (cores, cores)


@pytest.mark.parametrize(
    ("description", "kind", "memory", "bandwidth", "architecture"),
    [
        ("M2 Max 64GB", "metal", 64, 400e9, "arm64"),
        ("Apple M2 Max, 64 GB unified memory", "metal", 64, 400e9, "arm64"),
        ("M3 Max 36GB", "metal", 36, 300e9, "arm64"),
        ("M3 Max 48GB", "metal", 48, 400e9, "arm64"),
        ("GB10", "cuda", 128, 273e9, "aarch64"),
        ("Ryzen AI Max+ 395 128GB", "rocm", 128, 256e9, "x86_64"),
    ],
)
def test_chips_with_a_gpu_share_their_memory(
    description: str, kind: str, memory: int, bandwidth: float, architecture: str
) -> None:
    """Unified memory is there once, at the bandwidth of the chip, for processor and GPU."""
    machine = HardwareProfile.simulate(description)
    assert machine.shares_memory(kind)
    assert machine.memory_for(kind) == machine.memory_for("cpu") == (memory * GIB, memory * GIB)
    assert machine.memory_bandwidth == machine.gpu_devices[0].memory_bandwidth == bandwidth
    assert machine.cpu_architecture == architecture
    assert ("neon" in machine.instruction_sets) == (architecture != "x86_64")


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("", "Which machine"),
        ("RTX 4080 Ti, 64GB", "Did you mean GeForce RTX 4080 or"),
        ("RTX 4900, 64GB", "GeForce RTX 4090"),
        ("RTX 4090 Laptop, 64GB", "No GPU, and no other part, is known as 'RTX 4090 Laptop'"),
        ("quantum computer, 64GB", "known as 'quantum computer'"),
        ("RTX 4060 Ti, 64GB", "say which of GeForce RTX 4060 Ti 8GB, GeForce RTX 4060 Ti 16GB"),
        ("A100 80GB, 64GB", "A100 PCIe 80GB, A100 SXM4 80GB"),
        ("RTX 4090 48GB, 64GB", "there is GeForce RTX 4090 24GB"),
        ("RTX 4090", "does not say how much memory"),
        ("M2 Max", "sold with 32.0 GiB or 64.0 GiB or 96.0 GiB"),
        ("M2 Max 48GB", "M2 Max 32 or 64 or 96GB"),
        ("M2 Max, 48GB RAM", "sold with 32.0 GiB or 64.0 GiB or 96.0 GiB, not 48.0 GiB"),
        ("2x M2 Max 64GB", "simulate it alone"),
        ("M2 Max 64GB, RTX 4090", "simulate it alone"),
        ("64GB RAM, 32GB RAM", "memory was given already"),
        ("M2 Max 64GB, 64GB RAM", "memory was given already"),
        ("16 cores, 8 cores, 64GB", "number of cores was given already"),
        ("0x RTX 4090, 64GB", "1 to 64 GPUs"),
        ("65x RTX 4090, 64GB", "1 to 64 GPUs"),
        ("0 cores, 64GB", "1 to 1024 cores"),
        ("0 GB RAM", "memory from 1 GiB"),
        ("99999999 TB RAM", "memory from 1 GiB"),
    ],
)
def test_what_cannot_be_simulated_says_why(description: str, says: str) -> None:
    """Each message names the part, what is allowed, and how to write it."""
    with pytest.raises(HardwareError) as caught:
        HardwareProfile.simulate(description)
    assert says in str(caught.value)


@pytest.mark.parametrize("gpu", known_gpus().gpus, ids=lambda gpu: gpu.label)
def test_every_gpu_of_the_table_can_be_simulated(gpu: object) -> None:
    """Name and one of its sizes find it, and no other."""
    label = f"{gpu.name} {gpu.memory[-1] // GIB}GB"  # type: ignore[attr-defined]
    ram = "" if gpu.unified else ", 64 GiB RAM"  # type: ignore[attr-defined]
    (device,) = HardwareProfile.simulate(label + ram).gpu_devices
    assert device.memory_bandwidth == gpu.bandwidth  # type: ignore[attr-defined]
    assert device.bus_width == gpu.bus_width  # type: ignore[attr-defined]


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_machine_or_an_error(text: str) -> None:
    """Nothing else is raised."""
    try:
        machine = HardwareProfile.simulate(text)
    except HardwareError:
        return
    assert machine.total_memory > 0


def test_a_simulated_machine_is_never_taken_for_this_one() -> None:
    """It is not read again, has a fingerprint of its own, and says what it is."""
    machine = HardwareProfile.simulate("RTX 4090, 64 GiB RAM")
    assert machine.refreshed(nvml=FakeNvml(FakeGpu())) is machine
    assert machine.fingerprint != replace(machine, source="detected").fingerprint
    again = HardwareProfile.simulate("rtx 4090 24 GB, 64GB")
    assert again.fingerprint == machine.fingerprint
    text = str(machine)
    assert text.startswith("Simulated hardware")
    assert "Temperature" not in text
    assert "938.8 GiB/s" in text
    assert "165 TFLOP/s in float16, dense (data sheet)" in text


def test_a_detected_card_gets_the_speed_of_its_data_sheet() -> None:
    """By exactly the driver's name: a laptop's card of nearly the same name gets none."""
    cards = [
        FakeGpu(name="NVIDIA GeForce RTX 4090", total_memory=24564 * 1024**2),
        FakeGpu(name="NVIDIA GeForce RTX 4090 Laptop GPU", total_memory=16 * GIB),
        FakeGpu(name="NVIDIA GeForce RTX 4090", total_memory=48 * GIB),
        FakeGpu(name="NVIDIA A100-SXM4-80GB", total_memory=80 * GIB, mig_instances=((GIB, 0),)),
        FakeGpu(name="NVIDIA H100 80GB HBM3", total_memory=81559 * 1024**2),
    ]
    profile = HardwareProfile.detect(nvml=FakeNvml(*cards), measure_bandwidth=False)
    speeds = [gpu.matrix_speed for gpu in profile.gpu_devices]
    assert speeds == [165.2e12, None, None, None, 989e12]
    # What the driver tells of the bandwidth counts for more than the data sheet.
    assert profile.gpu_devices[0].memory_bandwidth == 9751e6 * 2 * 384 / 8


def test_a_bandwidth_that_the_driver_keeps_to_itself_comes_from_the_data_sheet() -> None:
    """With the source in a note; variants that differ in it are not guessed between."""
    gpu = GpuDevice(0, "AMD Instinct MI210", None, HardwareType.ROCM, total_memory=64 * GIB)
    known = with_data_sheet(gpu)
    assert known.memory_bandwidth == 1638.4e9
    assert any(note.startswith("memory_bandwidth: from the data sheet") for note in known.notes)
    apple = GpuDevice(0, "Apple M2 Max GPU", None, HardwareType.METAL, unified_memory=True)
    assert with_data_sheet(apple).memory_bandwidth == 400e9
    unclear = replace(apple, name="Apple M3 Max GPU")
    assert with_data_sheet(unclear) == unclear
    nameless = replace(apple, name=None)
    assert with_data_sheet(nameless) == nameless


def test_words_that_people_leave_out() -> None:
    """Makers and families do not tell GPUs apart; what is left does."""
    keys = {name_words(gpu.name) for gpu in known_gpus()}
    names = {gpu.name for gpu in known_gpus()}
    assert len(keys) == len(names)
