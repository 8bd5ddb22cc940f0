"""A stand-in for ``pynvml`` that fails in each way that NVML fails, for your own tests."""

# ruff: noqa: N802 - the methods carry NVML's own names
from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

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
    memory_clock : int
        MHz.
    bus_width : int
        Bits.
    compute_capability : tuple of int
        Major and minor version.
    mig_instances : tuple of (int, int), or None
        Total and used bytes of each instance; None for a card without MIG.
    failures : dict of str to int
        For a function's name, the NVML error code (``pynvml.NVML_ERROR_…``) it fails with.
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
    memory_clock: int = 9751
    bus_width: int = 384
    compute_capability: tuple[int, int] = (8, 6)
    mig_instances: tuple[tuple[int, int], ...] | None = None
    failures: dict[str, int] = field(default_factory=dict)
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
    failures : dict of str to int, optional
        For functions that concern no single card, the error code they fail with.

    Attributes
    ----------
    sessions : int
        ``nvmlInit`` calls that no ``nvmlShutdown`` has answered yet.

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
        failures: dict[str, int] | None = None,
    ) -> None:
        import pynvml

        self.NVMLError = pynvml.NVMLError
        self.gpus = list(gpus)
        self.driver_version = driver_version
        self.failures = dict(failures or {})
        self.sessions = 0

    def _fail(self, code: int) -> None:
        raise self.NVMLError(code)

    def _system(self, function: str) -> None:
        if function in self.failures:
            self._fail(self.failures[function])
        if function != "nvmlInit" and not self.sessions:
            self._fail(1)  # NVML_ERROR_UNINITIALIZED

    def _card(self, function: str, handle: Any) -> FakeGpu:
        self._system(function)
        gpu: FakeGpu = handle[0]
        if gpu.lost_after is not None:
            if gpu.lost_after <= 0:
                self._fail(15)  # NVML_ERROR_GPU_IS_LOST
            gpu.lost_after -= 1
        if function in gpu.failures:
            self._fail(gpu.failures[function])
        return gpu

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
        handle = (self.gpus[index], None)
        self._card("nvmlDeviceGetHandleByIndex", handle)
        return handle

    def nvmlDeviceGetName(self, handle: Any) -> str | bytes:
        """Return the card's name."""
        return self._card("nvmlDeviceGetName", handle).name

    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes:
        """Return the card's UUID."""
        return self._card("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        """Return total, free and used bytes of a card or of a MIG instance."""
        gpu = self._card("nvmlDeviceGetMemoryInfo", handle)
        instance = handle[1]
        if instance is None:
            total, used = gpu.total_memory, gpu.used_memory
        else:
            total, used = (gpu.mig_instances or ())[instance]
        return SimpleNamespace(total=total, free=total - used, used=used)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        """Return the load of the GPU and of its memory interface, in percent."""
        load = self._card("nvmlDeviceGetUtilizationRates", handle).utilization
        return SimpleNamespace(gpu=load, memory=load // 2)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        """Return degrees Celsius; only sensor 0 (the GPU itself) exists."""
        gpu = self._card("nvmlDeviceGetTemperature", handle)
        if sensor != 0:
            self._fail(2)
        return gpu.temperature

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        """Return the power drawn, in milliwatts."""
        return round(self._card("nvmlDeviceGetPowerUsage", handle).power * 1000)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        """Return the power limit in force, in milliwatts."""
        return round(self._card("nvmlDeviceGetEnforcedPowerLimit", handle).power_limit * 1000)

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, clock: int) -> int:
        """Return the highest clock in MHz; only clock 2 (the memory's) exists."""
        gpu = self._card("nvmlDeviceGetMaxClockInfo", handle)
        if clock != 2:
            self._fail(2)
        return gpu.memory_clock

    def nvmlDeviceGetMemoryBusWidth(self, handle: Any) -> int:
        """Return the width of the memory bus in bits."""
        return self._card("nvmlDeviceGetMemoryBusWidth", handle).bus_width

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any) -> tuple[int, int]:
        """Return the major and minor compute capability."""
        return self._card("nvmlDeviceGetCudaComputeCapability", handle).compute_capability

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        """Return the current and pending MIG mode; a card without MIG is NOT_SUPPORTED."""
        gpu = self._card("nvmlDeviceGetMigMode", handle)
        if gpu.mig_instances is None:
            self._fail(3)
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        """Return how many instances a card can hold."""
        gpu = self._card("nvmlDeviceGetMaxMigDeviceCount", handle)
        return 0 if gpu.mig_instances is None else 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any:
        """Return the handle of an instance; NOT_FOUND where there is none."""
        gpu = self._card("nvmlDeviceGetMigDeviceHandleByIndex", handle)
        if index >= len(gpu.mig_instances or ()):
            self._fail(6)
        return (gpu, index)
