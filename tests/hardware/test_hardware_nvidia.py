"""NVIDIA through the fake NVML: each call fails in each way, and nothing else is lost."""

from __future__ import annotations

import html
import importlib.util
import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.hardware import (
    FakeGpu,
    FakeNvml,
    GpuDevice,
    GpuProcess,
    HardwareProfile,
    MigInstance,
    RecordedNvml,
    gpu_bandwidth,
    read_nvidia,
)
from ravenxterm_lab.hardware.known_gpus import known_gpus
from ravenxterm_lab.hardware.nvidia import NvidiaSampler, sample_nvidia
from ravenxterm_lab.hardware.nvml import nvml_session
from ravenxterm_lab.metadata import HardwareType

GIB = 1024**3
RECORDED = json.loads(Path(__file__).with_name("recorded_devices.json").read_text("utf-8"))
CODES = sorted(
    value
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
)
NAMES = {
    value: name.removeprefix("NVML_ERROR_")
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}
#: For each function of a card, the fields that hang on it alone.
FIELDS = {
    "nvmlDeviceGetName": {"name"},
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlDeviceGetMemoryInfo": {"total_memory", "available_memory", "unified_memory"},
    "nvmlDeviceGetUtilizationRates": {"utilization"},
    "nvmlDeviceGetTemperature": {"temperature"},
    "nvmlDeviceGetPowerUsage": {"power"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit"},
    "nvmlDeviceGetMaxClockInfo": {"memory_clock", "memory_bandwidth", "core_clock"},
    "nvmlDeviceGetClockInfo": {"memory_clock_now", "core_clock_now"},
    "nvmlDeviceGetMemoryBusWidth": {"bus_width", "memory_bandwidth"},
    "nvmlDeviceGetCudaComputeCapability": {"compute_capability"},
    "nvmlDeviceGetArchitecture": {"architecture"},
    "nvmlDeviceGetCurrPcieLinkGeneration": {"pcie_generation"},
    "nvmlDeviceGetCurrPcieLinkWidth": {"pcie_width"},
    "nvmlDeviceGetMaxPcieLinkGeneration": {"pcie_generation_max"},
    "nvmlDeviceGetMaxPcieLinkWidth": {"pcie_width_max"},
    "nvmlDeviceGetEccMode": {"ecc"},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy"},
    "nvmlDeviceGetComputeRunningProcesses": {"processes"},
    "nvmlDeviceGetMigMode": {"mig"},
}
#: The same for a sample.
SAMPLED = {
    "nvmlDeviceGetUtilizationRates": "percent",
    "nvmlDeviceGetMemoryInfo": "memory_used",
    "nvmlDeviceGetPowerUsage": "power",
    "nvmlDeviceGetTemperature": "temperature",
    "nvmlDeviceGetClockInfo": "clock",
}
SYSTEM = {
    "nvmlInit",
    "nvmlShutdown",
    "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
}


def values(thing: object, without: set[str]) -> dict[str, object]:
    return {
        item.name: getattr(thing, item.name)
        for item in fields(thing)
        if item.name not in {*without, "notes"}
    }


def test_every_function_that_is_called_is_in_these_tables() -> None:
    """What the tests below let fail is all that the profile and the sampler ask."""
    profile, sampled = FakeNvml(FakeGpu()), FakeNvml(FakeGpu())
    read_nvidia(profile)
    sample_nvidia(sampled)
    assert set(profile.calls) == SYSTEM | set(FIELDS)
    assert set(sampled.calls) == SYSTEM - {"nvmlSystemGetDriverVersion"} | set(SAMPLED)


def test_a_healthy_card_tells_everything() -> None:
    """Every field is read, in the documented unit, and nothing is noted."""
    nvml = FakeNvml(FakeGpu(processes=((12, None), (77, GIB))))
    reading = read_nvidia(nvml)
    (device,) = reading.devices
    assert reading.notes == ()
    assert device == GpuDevice(
        index=0,
        name="NVIDIA Invented 24GB",
        uuid="GPU-00000000-0000-0000-0000-000000000000",
        hardware=HardwareType.CUDA,
        total_memory=24 * GIB,
        available_memory=22 * GIB,
        utilization=0.4,
        temperature=55.0,
        power=120.0,
        power_limit=350.0,
        energy=5000.0,
        core_clock=2100.0,
        core_clock_now=1410.0,
        memory_clock=9751.0,
        memory_clock_now=9501.0,
        bus_width=384,
        memory_bandwidth=9751e6 * 2 * 384 / 8,
        compute_capability=(8, 6),
        architecture="Ampere",
        pcie_generation=1,
        pcie_width=8,
        pcie_generation_max=4,
        pcie_width_max=16,
        ecc=False,
        mig=False,
        processes=(GpuProcess(77, GIB), GpuProcess(12, None)),
        unified_memory=False,
        driver_version="580.0",
    )
    assert nvml.sessions == 0


@pytest.mark.parametrize("code", CODES, ids=NAMES.get)
@pytest.mark.parametrize("function", FIELDS)
def test_one_failing_call_costs_its_own_field_only(function: str, code: int) -> None:
    """Whatever fails, and however, the other fields are those of a healthy card."""
    healthy = read_nvidia(FakeNvml(FakeGpu())).devices[0]
    nvml = FakeNvml(FakeGpu(failures={function: code}), FakeGpu(name="the other"))
    failing, other = read_nvidia(nvml).devices
    lost = FIELDS[function]
    assert values(failing, lost) == values(healthy, lost)
    assert replace(other, index=0, name=healthy.name) == healthy
    assert nvml.sessions == 0
    switch = function in {"nvmlDeviceGetMigMode", "nvmlDeviceGetEccMode"}
    if switch and code == pynvml.NVML_ERROR_NOT_SUPPORTED:
        # The documented answer of a card without MIG or ECC.
        assert failing == healthy
        return
    for field in lost - {"unified_memory", "memory_bandwidth"}:
        assert getattr(failing, field) is None
        assert any(field in note for note in failing.notes)
    if "memory_bandwidth" in lost:
        assert failing.memory_bandwidth is None
    (note,) = failing.notes
    reason = str(pynvml.NVMLError(code)).rstrip(".")
    assert reason in note
    memory_not_supported = (function, code) == ("nvmlDeviceGetMemoryInfo", 3)
    assert failing.unified_memory is memory_not_supported
    if not memory_not_supported:
        # A sentence on what to do follows the reason.
        assert re.search(rf"{re.escape(reason)}\)\. [A-Z].+\.$", note)


@pytest.mark.parametrize("code", CODES, ids=NAMES.get)
@pytest.mark.parametrize("function", sorted(set(FIELDS) | SYSTEM))
def test_the_card_shows_every_reason(function: str, code: int) -> None:
    """What a person sees holds each note, whichever function fails and however."""
    failures = {function: code}
    nvml = FakeNvml(FakeGpu(failures=failures), failures=failures if function in SYSTEM else None)
    profile = HardwareProfile.detect(nvml=nvml, measure_bandwidth=False)
    page = html.unescape(profile._repr_mimebundle_()["text/html"])
    for note in (*profile.notes, *(note for gpu in profile.gpu_devices for note in gpu.notes)):
        assert note in page
        assert note in str(profile)
    reason = str(pynvml.NVMLError(code)).rstrip(".")
    if function == "nvmlInit" and code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        reason = "No NVIDIA driver"
    silent = function == "nvmlShutdown" or (
        function in {"nvmlDeviceGetMigMode", "nvmlDeviceGetEccMode"} and code == 3
    )
    assert (reason in page) is not silent
    assert profile.total_memory > 0


@pytest.mark.parametrize("code", CODES, ids=NAMES.get)
@pytest.mark.parametrize("function", SAMPLED)
def test_one_failing_call_costs_its_own_part_of_a_sample(function: str, code: int) -> None:
    """The rest of the sample is that of a healthy card, and it heals when the card does."""
    (healthy,) = sample_nvidia(FakeNvml(FakeGpu()))
    card = FakeGpu(failures={function: code})
    nvml = FakeNvml(card)
    with nvml_session(nvml) as session:
        sampler = NvidiaSampler(session)
        (failing,) = sampler.sample()
        lost = SAMPLED[function]
        assert getattr(failing, lost) is None
        assert values(failing, {lost}) == values(healthy, {lost})
        (note,) = sampler.notes.values()
        assert str(pynvml.NVMLError(code)).rstrip(".") in note
        card.failures.clear()
        (later,) = sampler.sample()
        # What a card says that it cannot do is not asked again.
        never = code in {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}
        assert (later == failing) is never
        assert (later == healthy) is not never
        assert bool(sampler.notes) is never


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    "function",
    ["nvmlInit", "nvmlShutdown", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"],
)
def test_a_failing_system_call_never_raises(function: str, code: int) -> None:
    """Without a session there are no devices and one reason; without a version, all the rest."""
    reading = read_nvidia(FakeNvml(FakeGpu(), failures={function: code}))
    if function in {"nvmlInit", "nvmlDeviceGetCount"}:
        assert reading.devices == ()
        assert len(reading.notes) == 1
        assert sample_nvidia(FakeNvml(FakeGpu(), failures={function: code})) == ()
    else:
        assert reading.devices[0].total_memory == 24 * GIB
        assert (reading.devices[0].driver_version is None) == (function != "nvmlShutdown")


@pytest.mark.parametrize("code", CODES)
def test_a_card_without_a_handle_is_still_listed(code: int) -> None:
    """A card that cannot be opened keeps its place, and the next card is read."""
    nvml = FakeNvml(FakeGpu(failures={"nvmlDeviceGetHandleByIndex": code}), FakeGpu())
    broken, sound = read_nvidia(nvml).devices
    assert (broken.index, broken.name, broken.total_memory) == (0, None, None)
    assert "every field: not available" in broken.notes[0]
    assert (sound.index, sound.total_memory) == (1, 24 * GIB)
    assert [sample.percent for sample in sample_nvidia(nvml)] == [None, 40.0]


def test_a_missing_library_says_what_is_shown_instead() -> None:
    """The most common case, no driver, is told in one plain sentence."""
    nvml = FakeNvml(failures={"nvmlInit": pynvml.NVML_ERROR_LIBRARY_NOT_FOUND})
    assert read_nvidia(nvml).notes == (
        "No NVIDIA driver (NVML library not found); CPU and RAM shown.",
    )


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "modprobe nvidia"),
    ],
)
def test_a_broken_driver_comes_with_the_remedy(code: int, remedy: str) -> None:
    """The note on a failed start says what to do."""
    (note,) = read_nvidia(FakeNvml(failures={"nvmlInit": code})).notes
    assert remedy in note


def test_zero_cards() -> None:
    """A driver without a card is told, and is no error."""
    reading = read_nvidia(FakeNvml())
    assert reading.devices == ()
    assert reading.notes == ("The NVIDIA driver lists no GPU.",)


@pytest.mark.parametrize("calls", range(26))
def test_a_card_lost_in_mid_read_keeps_what_was_read(calls: int) -> None:
    """Fields read before the loss stay; those after it are None, with one note for all."""
    nvml = FakeNvml(FakeGpu(lost_after=calls), FakeGpu())
    lost, sound = read_nvidia(nvml).devices
    # One call for the handle, then one for each of these in this order.
    order = [
        "name", "uuid", "mig", "total_memory", "memory_clock", "bus_width", "compute_capability",
        "architecture", "utilization", "temperature", "power", "power_limit", "core_clock",
        "core_clock_now", "memory_clock_now", "pcie_generation", "pcie_width",
        "pcie_generation_max", "pcie_width_max", "processes", "energy", "ecc",
    ]  # fmt: skip
    told = [getattr(lost, name) is not None for name in order]
    read = max(0, calls - 1)
    assert told == [index < read for index in range(len(order))]
    assert {name: getattr(lost, name) for name in order[:read]} == {
        name: getattr(sound, name) for name in order[:read]
    }
    reasons = [note for note in lost.notes if "GPU is lost" in note]
    assert len(reasons) == (1 if read < len(order) else 0)
    assert sound.total_memory == 24 * GIB
    assert nvml.sessions == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"Tesla K80", "Tesla K80"),
        ("Grafikkarte \u00dc\u00df \u6771\u4eac", "Grafikkarte \u00dc\u00df \u6771\u4eac"),
        ("Grafikkarte \u00dc".encode(), "Grafikkarte \u00dc"),
        (b"half \xff a name", "half \ufffd a name"),
    ],
)
def test_names_of_any_kind(given: str | bytes, told: str) -> None:
    """Bytes, Unicode and broken UTF-8 all become text."""
    nvml = FakeNvml(FakeGpu(name=given), driver_version=b"470.82")
    device = read_nvidia(nvml).devices[0]
    assert (device.name, device.driver_version) == (told, "470.82")


def test_pynvml_failing_to_decode_costs_the_name_only() -> None:
    """A UnicodeDecodeError from the bindings is a missing field like any other."""

    class Undecodable(FakeNvml):
        def nvmlDeviceGetName(self, handle: object) -> str:  # noqa: N802 - NVML's name
            return b"\xff".decode("utf-8")

    device = read_nvidia(Undecodable(FakeGpu())).devices[0]
    assert device.name is None
    assert device.total_memory == 24 * GIB
    assert any(note.startswith("name: not available") for note in device.notes)


def test_old_bindings_lack_a_function() -> None:
    """A module without a function costs that field only."""
    fake = FakeNvml(FakeGpu())
    surface = {name: getattr(fake, name) for name in dir(fake) if name.startswith(("nvml", "NVML"))}
    del surface["nvmlDeviceGetMemoryBusWidth"]
    device = read_nvidia(SimpleNamespace(**surface)).devices[0]
    assert (device.bus_width, device.memory_clock) == (None, 9751.0)
    assert any("has no nvmlDeviceGetMemoryBusWidth" in note for note in device.notes)


@pytest.mark.parametrize(
    "function", sorted(set(FIELDS) - {"nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetClockInfo"})
)
@pytest.mark.parametrize(
    "answer",
    [0, -1, 2**32 - 1, 2**64 - 1, 1e300, math.nan, math.inf, None,
     b"\xff", "text", [], (), object(),
     SimpleNamespace(), SimpleNamespace(total=2**64 - 1, free=5, used=1, gpu=4_000_000_000),
     SimpleNamespace(total=None, free=None, used="x", gpu=None)],
    ids=repr,
)  # fmt: skip
def test_a_senseless_answer_costs_no_other_field(function: str, answer: object) -> None:
    """Nothing that a driver can say raises, and the rest is that of a healthy card."""
    healthy = read_nvidia(FakeNvml(FakeGpu())).devices[0]
    nvml = FakeNvml(FakeGpu(answers={function: answer}))
    odd = read_nvidia(nvml).devices[0]
    assert values(odd, FIELDS[function]) == values(healthy, FIELDS[function])
    sample_nvidia(nvml)
    str(HardwareProfile.detect(nvml=nvml, measure_bandwidth=False))


@pytest.mark.parametrize(
    ("function", "answer", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=255, memory=0), "utilization"),
        ("nvmlDeviceGetMaxClockInfo", {1: 2100, 2: 0}, "memory_clock"),
        ("nvmlDeviceGetMaxClockInfo", {1: 2**32 - 1, 2: 9751}, "core_clock"),
        ("nvmlDeviceGetClockInfo", {1: -1, 2: 9501}, "core_clock_now"),
        ("nvmlDeviceGetMemoryBusWidth", 0, "bus_width"),
        ("nvmlDeviceGetName", "", "name"),
        ("nvmlDeviceGetPowerUsage", 2**32 - 1, "power"),
        ("nvmlDeviceGetTemperature", 4_294_967_290, "temperature"),
        ("nvmlDeviceGetArchitecture", 99, "architecture"),
        ("nvmlDeviceGetArchitecture", 2**32 - 1, "architecture"),
        ("nvmlDeviceGetCurrPcieLinkWidth", 0, "pcie_width"),
        (
            "nvmlDeviceGetMemoryInfo",
            SimpleNamespace(total=2**64 - 1, free=1, used=1),
            "total_memory",
        ),
    ],
)
def test_a_senseless_answer_is_not_taken_for_a_fact(
    function: str, answer: object, field: str
) -> None:
    """Out-of-range loads, zero clocks, "not available" as a number: what was said is told."""
    device = read_nvidia(FakeNvml(FakeGpu(answers={function: answer}))).devices[0]
    assert getattr(device, field) is None
    assert any(field in note and "(NVML answered" in note for note in device.notes)


def test_a_process_whose_memory_is_not_told_is_still_listed() -> None:
    """All bits set stand for "not available", as on Windows and in some containers."""
    card = FakeGpu(processes=((1, 2**64 - 1), (2, GIB), (3, None)))
    device = read_nvidia(FakeNvml(card)).devices[0]
    assert device.processes == (GpuProcess(2, GIB), GpuProcess(1, None), GpuProcess(3, None))


@pytest.mark.parametrize(
    "failure", [OSError("no device"), ValueError("odd"), TypeError("odd"), AttributeError("odd")]
)
def test_bindings_that_stumble_cost_the_field(failure: Exception) -> None:
    """What nvidia-ml-py raises beside its own errors is a reason like any other."""
    card = FakeGpu(failures={"nvmlDeviceGetComputeRunningProcesses": failure})
    device = read_nvidia(FakeNvml(card)).devices[0]
    assert device.processes is None
    assert device.total_memory == 24 * GIB
    assert any(str(failure) in note for note in device.notes)


def test_mig_shows_what_one_process_can_use() -> None:
    """On a split card the memory is that of the largest instance, even without permission.

    In a container the whole card answers NO_PERMISSION (see ``mig_in_container`` in the record).
    """
    code = getattr(pynvml, f"NVML_ERROR_{RECORDED['mig_in_container']['nvmlDeviceGetMemoryInfo']}")

    class Container(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle: tuple[FakeGpu, int | None]) -> object:  # noqa: N802 - NVML's name
            if handle[1] is None:
                raise self.NVMLError(code)
            return super().nvmlDeviceGetMemoryInfo(handle)

    card = FakeGpu(
        total_memory=80 * GIB,
        mig_instances=((10 * GIB, GIB), (20 * GIB, 3 * GIB)),
        failures={"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED},
    )
    device = read_nvidia(Container(card)).devices[0]
    assert device.mig is True
    assert (device.total_memory, device.available_memory) == (20 * GIB, 17 * GIB)
    assert device.unified_memory is False
    assert device.utilization is None
    # An instance has its share of the bandwidth, which nothing tells.
    assert device.memory_bandwidth is None
    assert any(note.startswith("memory_bandwidth: not available") for note in device.notes)
    assert any("2 visible instances" in note for note in device.notes)
    assert [item.total_memory for item in device.mig_instances] == [10 * GIB, 20 * GIB]
    assert [item.available_memory for item in device.mig_instances] == [9 * GIB, 17 * GIB]


@pytest.mark.parametrize("code", CODES, ids=NAMES.get)
def test_a_mig_instance_without_a_name_keeps_its_memory(code: int) -> None:
    """The name of an instance fails by itself."""

    class Nameless(FakeNvml):
        def nvmlDeviceGetName(self, handle: tuple[FakeGpu, int | None]) -> object:  # noqa: N802 - NVML's name
            if handle[1] is not None:
                raise self.NVMLError(code)
            return super().nvmlDeviceGetName(handle)

    device = read_nvidia(Nameless(FakeGpu(mig_instances=((10 * GIB, GIB),)))).devices[0]
    assert device.name == "NVIDIA Invented 24GB"
    assert device.mig_instances == (MigInstance(0, None, 10 * GIB, 9 * GIB),)
    assert device.total_memory == 10 * GIB
    assert any(note.startswith("name of MIG instance 0") for note in device.notes)


def test_mig_without_an_instance_has_no_memory_to_use() -> None:
    """A split card without instances is told with the remedy."""
    device = read_nvidia(FakeNvml(FakeGpu(mig_instances=()))).devices[0]
    assert (device.mig, device.total_memory) == (True, None)
    assert any("no instance is visible" in note for note in device.notes)


@pytest.mark.parametrize("code", [code for code in CODES if code != pynvml.NVML_ERROR_NOT_FOUND])
@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetMaxMigDeviceCount",
        "nvmlDeviceGetMigDeviceHandleByIndex",
        "nvmlDeviceGetMemoryInfo",
    ],
)
def test_unreadable_mig_instances_are_never_replaced_by_the_whole_card(
    function: str, code: int
) -> None:
    """When the instances cannot be read the memory is not available, with the reason."""
    card = FakeGpu(mig_instances=((10 * GIB, 0),), failures={function: code})
    device = read_nvidia(FakeNvml(card)).devices[0]
    assert (device.mig, device.total_memory, device.unified_memory) == (True, None, False)
    assert any(note.startswith("memory of MIG instances: not available") for note in device.notes)
    assert device.power == 120.0


def test_gb10_as_recorded_shares_the_systems_memory() -> None:
    """The answers that a DGX Spark was seen to give make it a unified-memory device."""
    seen = RECORDED["unified"]
    card = FakeGpu(
        name=seen["name"],
        utilization=seen["utilization"],
        temperature=seen["temperature"],
        power=seen["power"],
        failures={"nvmlDeviceGetMemoryInfo": 3, "nvmlDeviceGetEnforcedPowerLimit": 3},
    )
    device = read_nvidia(FakeNvml(card, driver_version=seen["driver_version"])).devices[0]
    assert device.unified_memory is True
    assert (device.total_memory, device.available_memory) == (None, None)
    assert (device.power, device.temperature) == (pytest.approx(11.17), 35.0)
    assert device.power_limit is None
    assert any("counted once" in note for note in device.notes)
    (sample,) = sample_nvidia(FakeNvml(card))
    assert (sample.memory_used, sample.percent) == (None, 0.0)


@pytest.mark.parametrize("code", [code for code in CODES if code != 3])
def test_no_memory_and_an_unknown_mig_mode_is_not_taken_for_unified(code: int) -> None:
    """NOT_SUPPORTED means two things; when it cannot be told which, the memory is unknown."""
    card = FakeGpu(failures={"nvmlDeviceGetMemoryInfo": 3, "nvmlDeviceGetMigMode": code})
    device = read_nvidia(FakeNvml(card)).devices[0]
    assert (device.unified_memory, device.mig, device.total_memory) == (False, None, None)
    assert any(note.startswith("total_memory, available_memory") for note in device.notes)


def test_zero_bytes_of_memory_is_unified_too() -> None:
    """Some drivers answer success with a total of zero on such devices."""
    device = read_nvidia(FakeNvml(FakeGpu(total_memory=0, used_memory=0))).devices[0]
    assert device.unified_memory is True


@pytest.mark.parametrize("card", RECORDED["nvidia"], ids=lambda card: card["name"])
def test_the_bandwidth_formula_on_recorded_cards(card: dict[str, object]) -> None:
    """Clock and width as published give the published bandwidth; it is in bytes per second."""
    device = read_nvidia(
        FakeNvml(
            FakeGpu(
                name=card["name"],
                memory_clock=card["memory_clock"],
                bus_width=card["bus_width"],
                compute_capability=tuple(card["compute_capability"]),
            )
        )
    ).devices[0]
    # The RTX 5090's published figure is NVIDIA's 1,792 GB/s; its source gives clock and width.
    expected = card.get("published_bandwidth_gb_per_s", 1792)
    assert device.memory_bandwidth / 1e9 == pytest.approx(expected, rel=0.001)
    assert device.compute_capability == tuple(card["compute_capability"])


@given(st.none() | st.floats(1, 1e5), st.none() | st.integers(1, 10_000))
def test_bandwidth_needs_both_figures(clock: float | None, width: int | None) -> None:
    """Without the clock or the width there is no bandwidth; with both it is never negative."""
    bandwidth = gpu_bandwidth(clock, width)
    assert (bandwidth is None) == (clock is None or width is None)
    assert bandwidth is None or bandwidth > 0


def test_samples_follow_the_card() -> None:
    """A sample holds what is true at that moment, for each card."""
    card = FakeGpu()
    nvml = FakeNvml(card, FakeGpu(power=0.5))
    card.utilization, card.used_memory, card.temperature = 100, 3 * GIB, 80
    first, second = sample_nvidia(nvml)
    assert (first.gpu, first.percent, first.memory_used) == (0, 100.0, 3 * GIB)
    assert (first.power, first.temperature) == (120.0, 80.0)
    assert (second.gpu, second.power) == (1, 0.5)


def test_a_session_ends_when_its_block_raises() -> None:
    """The shutdown follows also after an error in the caller's block."""
    nvml = FakeNvml()

    def block() -> None:
        with nvml_session(nvml):
            assert nvml.sessions == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert nvml.sessions == 0


def test_a_failed_start_ends_no_session_of_another() -> None:
    """Where the start failed no shutdown follows, so that an outer session stays open."""
    nvml = FakeNvml(FakeGpu())
    with nvml_session(nvml):
        nvml.failures["nvmlInit"] = 999
        assert read_nvidia(nvml).devices == ()
        assert nvml.sessions == 1
    assert nvml.sessions == 0


def test_sessions_nest() -> None:
    """An outer session stays open while an inner one comes and goes."""
    nvml = FakeNvml(FakeGpu())
    with nvml_session(nvml):
        assert read_nvidia(nvml).devices
        assert nvml.sessions == 1
    assert nvml.sessions == 0


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a failing fake nor the real library writes to the terminal."""
    read_nvidia(FakeNvml(FakeGpu(failures=dict.fromkeys(FIELDS, 999))))
    read_nvidia()
    assert capfd.readouterr() == ("", "")


def test_the_real_library_is_survived() -> None:
    """On the machine at hand there are devices or a reason, never an exception."""
    reading = read_nvidia()
    assert reading.devices or reading.notes


def test_the_fake_has_what_pynvml_has() -> None:
    """Every method of the fake is a function of the real bindings."""
    methods = [name for name in dir(FakeNvml) if name.startswith("nvml")]
    assert len(methods) == 27
    for name in methods:
        assert callable(getattr(pynvml, name)), name


def test_the_fake_refuses_calls_outside_of_a_session() -> None:
    """As in NVML, a call before nvmlInit is an error."""
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        FakeNvml(FakeGpu()).nvmlDeviceGetCount()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        FakeNvml().nvmlShutdown()


def test_the_fake_refuses_a_card_that_does_not_exist() -> None:
    """An index out of range is INVALID_ARGUMENT."""
    nvml = FakeNvml(FakeGpu())
    nvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        nvml.nvmlDeviceGetHandleByIndex(1)


def recorder() -> ModuleType:
    """The script that records a real machine."""
    path = Path(__file__).with_name("record_nvml.py")
    specification = importlib.util.spec_from_file_location("record_nvml", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_recording_answers_as_the_machine_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors, bytes, structures, processes and MIG instances come back as they were."""
    nvml = FakeNvml(
        FakeGpu(name=b"a card", processes=((5, GIB), (6, None)), ecc=True),
        FakeGpu(
            mig_instances=((10 * GIB, GIB), (20 * GIB, 3 * GIB)),
            failures={"nvmlDeviceGetPowerUsage": 4, "nvmlDeviceGetTemperature": 15},
        ),
        FakeGpu(failures={"nvmlDeviceGetMemoryInfo": 3}),
    )
    script = recorder()
    monkeypatch.setattr(script, "pynvml", nvml)
    with nvml_session(nvml):
        reading = script.reading()
    path = tmp_path / "recording.json"
    path.write_text(json.dumps({"format": 1, "about": {}, "readings": {"idle": reading}}))
    recorded = FakeNvml.from_recording(path)
    assert read_nvidia(recorded) == read_nvidia(nvml)
    assert sample_nvidia(recorded) == sample_nvidia(nvml)
    assert recorded.sessions == 0
    with pytest.raises(ValueError, match="no reading 'busy', only idle"):
        FakeNvml.from_recording(path, "busy")
    path.write_text('{"format": 0}')
    with pytest.raises(ValueError, match="no recording of format 1"):
        FakeNvml.from_recording(path)


RECORDINGS = sorted(Path(__file__).parent.glob("recorded_nvml_*.json"))


@pytest.mark.skipif(not RECORDINGS, reason="no recording of a real machine lies beside this file")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_real_machine_is_read_as_its_data_sheet_says(path: Path) -> None:
    """Name, memory, bandwidth and generation of a recorded card, idle and under load."""
    idle = read_nvidia(FakeNvml.from_recording(path)).devices
    assert idle
    for device in idle:
        (known,) = [gpu for gpu in known_gpus() if gpu.driver_name == device.name]
        assert device.total_memory == pytest.approx(known.memory[0], rel=0.1)
        assert device.bus_width == known.bus_width
        assert device.memory_bandwidth == pytest.approx(known.bandwidth, rel=0.03)
        assert (device.architecture, device.compute_capability) == (
            known.architecture,
            known.compute_capability,
        )
    try:
        busy = FakeNvml.from_recording(path, "busy")
    except ValueError:
        pytest.skip("this recording has no reading under load")
    device, rested = read_nvidia(busy).devices[0], idle[0]
    assert device.utilization is not None
    assert device.utilization > 0.5
    assert device.power is not None
    assert rested.power is not None
    assert device.power > rested.power
    # One process took 1 GiB, and the counter of energy went up.
    assert device.available_memory is not None
    assert rested.available_memory is not None
    assert rested.available_memory - device.available_memory >= GIB
    assert device.energy is not None
    assert rested.energy is not None
    assert device.energy > rested.energy


@pytest.mark.skipif(not RECORDINGS, reason="no recording of a real machine lies beside this file")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_one_failing_call_on_a_real_machine_costs_its_own_field(path: Path) -> None:
    """Every function by every code, over the answers that a real card gave."""
    whole = read_nvidia(FakeNvml.from_recording(path)).devices[0]
    for function, lost in FIELDS.items():
        for code in CODES:
            nvml = RecordedNvml(path, failures={function: code})
            failing = read_nvidia(nvml).devices[0]
            assert values(failing, lost) == values(whole, lost), (function, NAMES[code])
            assert nvml.sessions == 0


@pytest.mark.skipif(not RECORDINGS, reason="no recording of a real machine lies beside this file")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_integral_of_power_is_what_the_counter_counted(path: Path) -> None:
    """On the real card, at rest and under load, over some seconds: to one per cent."""
    energies = FakeNvml.from_recording(path).about["energy"]
    assert energies
    for state, told in energies.items():
        assert told["integrated_joules"] == pytest.approx(told["counter_joules"], rel=0.01), state


def test_a_recording_names_no_device() -> None:
    """What identifies one card is masked, and its shape stays."""
    masked = recorder().masked
    assert masked("GPU-1a2b3c4d-aaaa-2222-3333-444455556666") == (
        "GPU-00000000-0000-0000-0000-000000000000"
    )
    assert masked("MIG-1a2b3c4d-aaaa-2222-3333-444455556666").endswith("-000000000000")
    assert masked("00000000:1A:00.0") == "00000000:00:00.0"
    assert masked("NVIDIA H100 80GB HBM3") == "NVIDIA H100 80GB HBM3"


def test_the_recorder_asks_what_we_ask() -> None:
    """Every function that the profile, the sampler and the energy meter call is recorded."""
    script = recorder()
    asked = {call[0] for call in script.CARD + script.SYSTEM}
    ours = set(FIELDS) | set(SAMPLED) | {"nvmlDeviceGetTotalEnergyConsumption"}
    assert ours | {"nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"} <= asked
