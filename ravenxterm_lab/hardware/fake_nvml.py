"""A stand-in for ``pynvml`` that fails in each way that NVML fails, for your own tests."""

# ruff: noqa: N802 - the methods carry NVML's own names
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.hardware.recorded_nvml import RecordedNvml

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FakeGpu", "FakeNvml"]


@dataclass(slots=True)
class FakeGpu:
    """One invented card.

    Attributes
    ----------
    name, uuid : str or bytes
        Bytes are what older bindings answer.
    total_memory, used_memory : int
        Bytes.
    utilization : int
        Percent (0–100).
    temperature : int
        Degrees Celsius.
    power, power_limit : float
        Watts.
    core_clock, core_clock_now, memory_clock, memory_clock_now : int
        MHz, the highest and the present ones.
    bus_width : int
        Bits.
    compute_capability : tuple of int
        Major and minor version.
    architecture : int
        As ``NVML_DEVICE_ARCH_…`` numbers it.
    pcie : tuple of int
        Generation and lanes of the link now, then the most of each.
    ecc : bool or None
        None for a card without it.
    processes : tuple of (int, int or None)
        Process ids and the bytes that each holds.
    energy : float or None
        Joules drawn so far; None for a card without the counter.
    mig_instances : tuple of (int, int), or None
        Total and used bytes of each instance; None for a card without MIG.
    failures : dict of str to int or Exception
        For a function's name, the NVML error code (``pynvml.NVML_ERROR_…``) it fails with, or
        what else it raises.
    answers : dict of str to object
        For a function's name, an answer to give instead, however odd.
    lost_after : int or None
        The card is lost after this many further calls.
    """

    name: str | bytes = "NVIDIA Invented 24GB"
    uuid: str | bytes = "GPU-00000000-0000-0000-0000-000000000000"
    total_memory: int = 24 * 1024**3
    used_memory: int = 2 * 1024**3
    utilization: int = 40
    temperature: int = 55
    power: float = 120.0
    power_limit: float = 350.0
    core_clock: int = 2100
    core_clock_now: int = 1410
    memory_clock: int = 9751
    memory_clock_now: int = 9501
    bus_width: int = 384
    compute_capability: tuple[int, int] = (8, 6)
    architecture: int = 7
    pcie: tuple[int, int, int, int] = (1, 8, 4, 16)
    ecc: bool | None = False
    processes: tuple[tuple[int, int | None], ...] = ()
    energy: float | None = 5000.0
    mig_instances: tuple[tuple[int, int], ...] | None = None
    failures: dict[str, int | Exception] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    lost_after: int | None = None


class FakeNvml:
    """The part of ``pynvml`` that this package uses, over invented cards.

    It raises ``pynvml``'s own error classes, refuses calls outside of ``nvmlInit`` and
    ``nvmlShutdown`` as NVML does, and never touches a real driver.

    Parameters
    ----------
    gpus : FakeGpu
        The cards; they may be changed between calls.
    driver_version : str or bytes
        What ``nvmlSystemGetDriverVersion`` answers.
    failures : dict of str to int or Exception, optional
        For functions that concern no single card, the error code they fail with.

    Attributes
    ----------
    sessions : int
        ``nvmlInit`` calls that no ``nvmlShutdown`` has answered yet.
    calls : collections.Counter
        How often each function was called.

    Examples
    --------
    A card that does not tell its power draw, as in a container without permission:

    >>> from ravenxterm_lab.hardware import FakeGpu, FakeNvml, read_nvidia
    >>> card = FakeGpu(failures={"nvmlDeviceGetPowerUsage": 4})  # NVML_ERROR_NO_PERMISSION
    >>> device = read_nvidia(FakeNvml(card)).devices[0]
    >>> device.power is None, device.temperature
    (True, 55.0)
    >>> device.notes[0].partition(". ")[0]
    'power: not available (NVML: Insufficient Permissions)'
    """

    def __init__(
        self,
        *gpus: FakeGpu,
        driver_version: str | bytes = "580.0",
        failures: dict[str, int | Exception] | None = None,
    ) -> None:
        import pynvml

        self.NVMLError = pynvml.NVMLError
        self.gpus = list(gpus)
        self.driver_version = driver_version
        self.failures = dict(failures or {})
        self.sessions = 0
        self.calls: Counter[str] = Counter()

    @staticmethod
    def from_recording(path: Path | str, state: str = "idle") -> RecordedNvml:
        """Return a stand-in that answers what a real machine answered.

        Parameters
        ----------
        path : path
            What ``tests/hardware/record_nvml.py`` wrote.
        state : str
            Which of its readings, such as ``"idle"`` or ``"busy"``.

        Raises
        ------
        ValueError
            If it holds no such reading, or was written in another format.
        """
        return RecordedNvml(path, state)

    def _fail(self, failure: int | Exception) -> None:
        raise failure if isinstance(failure, Exception) else self.NVMLError(failure)

    def _system(self, function: str) -> None:
        self.calls[function] += 1
        if function in self.failures:
            self._fail(self.failures[function])
        if function != "nvmlInit" and not self.sessions:
            self._fail(1)  # NVML_ERROR_UNINITIALIZED

    def _card(self, function: str, handle: Any) -> FakeGpu:
        self._system(function)
        return self._own(function, handle[0])

    def _own(self, function: str, gpu: FakeGpu) -> FakeGpu:
        if gpu.lost_after is not None:
            if gpu.lost_after <= 0:
                self._fail(15)  # NVML_ERROR_GPU_IS_LOST
            gpu.lost_after -= 1
        if function in gpu.failures:
            self._fail(gpu.failures[function])
        return gpu

    def _answer(self, function: str, handle: Any, answer: Any) -> Any:
        """Return the answer, or what the card was told to say instead."""
        return self._card(function, handle).answers.get(function, answer)

    def nvmlInit(self) -> None:
        """Begin a session."""
        self._system("nvmlInit")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        """End a session."""
        self._system("nvmlShutdown")
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str | bytes:
        """Return the driver's version."""
        self._system("nvmlSystemGetDriverVersion")
        return self.driver_version

    def nvmlDeviceGetCount(self) -> int:
        """Return the number of cards."""
        self._system("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        """Return the handle of a card."""
        self._system("nvmlDeviceGetHandleByIndex")
        if not 0 <= index < len(self.gpus):
            self._fail(2)  # NVML_ERROR_INVALID_ARGUMENT
        return self._own("nvmlDeviceGetHandleByIndex", self.gpus[index]), None

    def nvmlDeviceGetName(self, handle: Any) -> Any:
        """Return the name of a card or of a MIG instance."""
        name = handle[0].name
        if handle[1] is not None:
            name = f"{name} MIG {handle[1]}"
        return self._answer("nvmlDeviceGetName", handle, name)

    def nvmlDeviceGetUUID(self, handle: Any) -> Any:
        """Return the card's UUID."""
        return self._answer("nvmlDeviceGetUUID", handle, handle[0].uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        """Return total, free and used bytes of a card or of a MIG instance."""
        gpu, instance = handle
        total, used = gpu.total_memory, gpu.used_memory
        if instance is not None:
            total, used = gpu.mig_instances[instance]
        answer = SimpleNamespace(total=total, free=total - used, used=used)
        return self._answer("nvmlDeviceGetMemoryInfo", handle, answer)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        """Return the load of the GPU and of its memory interface, in percent."""
        load = handle[0].utilization
        answer = SimpleNamespace(gpu=load, memory=load // 2)
        return self._answer("nvmlDeviceGetUtilizationRates", handle, answer)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> Any:
        """Return degrees Celsius; only sensor 0 (the GPU itself) exists."""
        answer = self._answer("nvmlDeviceGetTemperature", handle, handle[0].temperature)
        return self._among({0: answer}, sensor)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> Any:
        """Return the power drawn, in milliwatts."""
        return self._answer("nvmlDeviceGetPowerUsage", handle, round(handle[0].power * 1000))

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> Any:
        """Return the power limit in force, in milliwatts."""
        limit = round(handle[0].power_limit * 1000)
        return self._answer("nvmlDeviceGetEnforcedPowerLimit", handle, limit)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> Any:
        """Return the energy drawn since the driver was loaded, in millijoules."""
        energy = handle[0].energy
        answer = self._answer(
            "nvmlDeviceGetTotalEnergyConsumption", handle, round((energy or 0) * 1000)
        )
        return self._fail(3) if energy is None else answer

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, clock: int) -> Any:
        """Return the highest clock in MHz, of kind 1 (the units) or 2 (the memory)."""
        gpu = self._card("nvmlDeviceGetMaxClockInfo", handle)
        given = gpu.answers.get("nvmlDeviceGetMaxClockInfo")
        return self._among(given or {1: gpu.core_clock, 2: gpu.memory_clock}, clock)

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> Any:
        """Return the present clock in MHz, of kind 1 (the units) or 2 (the memory)."""
        gpu = self._card("nvmlDeviceGetClockInfo", handle)
        given = gpu.answers.get("nvmlDeviceGetClockInfo")
        return self._among(given or {1: gpu.core_clock_now, 2: gpu.memory_clock_now}, clock)

    def nvmlDeviceGetMemoryBusWidth(self, handle: Any) -> Any:
        """Return the width of the memory bus in bits."""
        return self._answer("nvmlDeviceGetMemoryBusWidth", handle, handle[0].bus_width)

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> Any:
        """Return the major and minor compute capability."""
        capability = handle[0].compute_capability
        return self._answer("nvmlDeviceGetCudaComputeCapability", handle, capability)

    def nvmlDeviceGetArchitecture(self, handle: Any) -> Any:
        """Return the number of the card's generation."""
        return self._answer("nvmlDeviceGetArchitecture", handle, handle[0].architecture)

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle: Any) -> Any:
        """Return the generation of the PCIe link as it is now."""
        return self._answer("nvmlDeviceGetCurrPcieLinkGeneration", handle, handle[0].pcie[0])

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any) -> Any:
        """Return the lanes of the PCIe link as it is now."""
        return self._answer("nvmlDeviceGetCurrPcieLinkWidth", handle, handle[0].pcie[1])

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any) -> Any:
        """Return the highest PCIe generation of card and slot."""
        return self._answer("nvmlDeviceGetMaxPcieLinkGeneration", handle, handle[0].pcie[2])

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle: Any) -> Any:
        """Return the most PCIe lanes of card and slot."""
        return self._answer("nvmlDeviceGetMaxPcieLinkWidth", handle, handle[0].pcie[3])

    def nvmlDeviceGetEccMode(self, handle: Any) -> Any:
        """Return the present and the pending ECC mode; NOT_SUPPORTED without ECC."""
        ecc = handle[0].ecc
        answer = self._answer("nvmlDeviceGetEccMode", handle, [int(ecc or 0)] * 2)
        return self._fail(3) if ecc is None else answer

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> Any:
        """Return the processes that compute on the card."""
        processes = [
            SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, memory in handle[0].processes
        ]
        return self._answer("nvmlDeviceGetComputeRunningProcesses", handle, processes)

    def nvmlDeviceGetMigMode(self, handle: Any) -> Any:
        """Return the current and pending MIG mode; a card without MIG is NOT_SUPPORTED."""
        answer = self._answer("nvmlDeviceGetMigMode", handle, [1, 1])
        return self._fail(3) if handle[0].mig_instances is None else answer

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        """Return how many instances a card can hold."""
        gpu = self._card("nvmlDeviceGetMaxMigDeviceCount", handle)
        return 0 if gpu.mig_instances is None else 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:
        """Return the handle of an instance; NOT_FOUND where there is none."""
        gpu = self._card("nvmlDeviceGetMigDeviceHandleByIndex", handle)
        return (gpu, index) if index < len(gpu.mig_instances or ()) else self._fail(6)

    def _among(self, answers: dict[int, Any], kind: int) -> Any:
        return answers[kind] if kind in answers else self._fail(2)  # NVML_ERROR_INVALID_ARGUMENT
