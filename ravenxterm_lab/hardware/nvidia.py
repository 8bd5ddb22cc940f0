"""NVIDIA GPUs through NVML: every field is read on its own, and a missing one says why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ravenxterm_lab.hardware.devices import GpuDevice, GpuSample
from ravenxterm_lab.hardware.nvml import (
    LIBRARY_NOT_FOUND,
    NOT_FOUND,
    NOT_SUPPORTED,
    Failure,
    Nvml,
    nvml_session,
)
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NvidiaReading", "gpu_bandwidth", "read_nvidia", "sample_nvidia"]

Value = TypeVar("Value")

_TEMPERATURE_GPU = 0  # NVML_TEMPERATURE_GPU in nvml.h
_CLOCK_MEMORY = 2  # NVML_CLOCK_MEM in nvml.h


@dataclass(frozen=True, slots=True)
class NvidiaReading:
    """The GPUs that NVML lists, and notes on what concerns all of them."""

    devices: tuple[GpuDevice, ...]
    notes: tuple[str, ...]


def gpu_bandwidth(memory_clock: float | None, bus_width: int | None) -> float | None:
    """Return the upper bound of a GPU's memory bandwidth (bytes/s).

    Parameters
    ----------
    memory_clock : float or None
        MHz, as NVML reports it.
    bus_width : int or None
        Bits.

    Examples
    --------
    >>> round(gpu_bandwidth(10501, 384) / 1e9)  # an RTX 4090: 1,008 GB/s
    1008
    """
    if memory_clock is None or bus_width is None:
        return None
    return memory_clock * 1e6 * 2 * bus_width / 8


def read_nvidia(nvml: Any = None) -> NvidiaReading:
    """Read all NVIDIA GPUs.

    Parameters
    ----------
    nvml : object, optional
        Anything with ``pynvml``'s functions, such as `FakeNvml`.

    Returns
    -------
    NvidiaReading
        Without devices, and with the reason, where NVML cannot be used.
    """
    with nvml_session(nvml) as session:
        if session.failure is not None:
            return NvidiaReading((), (_no_driver(session.failure),))
        driver, driver_failure = session.ask("nvmlSystemGetDriverVersion")
        count, failure = session.ask("nvmlDeviceGetCount")
        if failure is not None:
            return NvidiaReading((), (failure.explain("NVIDIA GPUs"),))
        if not count:
            return NvidiaReading((), ("The NVIDIA driver lists no GPU.",))
        notes = () if driver_failure is None else (driver_failure.explain("NVIDIA driver version"),)
        devices = tuple(
            _Card(session, index).read(None if driver is None else _text(driver))
            for index in range(count)
        )
        return NvidiaReading(devices, notes)


def sample_nvidia(nvml: Any = None) -> tuple[GpuSample, ...]:
    """Read the loads of all NVIDIA GPUs; nothing where NVML cannot be used.

    Initialising NVML costs most of it. A caller that samples often holds an `nvml_session`
    open, which makes it nearly free (NVML counts its users).

    Parameters
    ----------
    nvml : object, optional
        Anything with ``pynvml``'s functions.
    """
    with nvml_session(nvml) as session:
        if session.failure is not None:
            return ()
        count, _ = session.ask("nvmlDeviceGetCount")
        return tuple(_Card(session, index).sample() for index in range(count or 0))


def _no_driver(failure: Failure) -> str:
    if failure.code == LIBRARY_NOT_FOUND:
        return "No NVIDIA driver (NVML library not found); CPU and RAM shown."
    return failure.explain("NVIDIA GPUs")


class _Card:
    """Reads one card and collects the reasons of what it does not tell."""

    def __init__(self, session: Nvml, index: int) -> None:
        self._session = session
        self._index = index
        self._handle: Any = None
        self._failures: dict[Failure, list[str]] = {}
        self._notes: list[str] = []

    def read(self, driver: str | None) -> GpuDevice:
        self._handle, failure = self._session.ask("nvmlDeviceGetHandleByIndex", self._index)
        if failure is not None:
            self._failures[failure] = ["every field"]
            return GpuDevice(
                self._index,
                None,
                None,
                HardwareType.CUDA,
                driver_version=driver,
                notes=self._all_notes(),
            )
        name = self._field("name", _text, "nvmlDeviceGetName")
        uuid = self._field("uuid", _text, "nvmlDeviceGetUUID")
        mig = self._mig()
        total, available, unified = self._memory(mig)
        clock = self._field("memory_clock", _positive, "nvmlDeviceGetMaxClockInfo", _CLOCK_MEMORY)
        width = self._field("bus_width", _positive, "nvmlDeviceGetMemoryBusWidth")
        return GpuDevice(
            index=self._index,
            name=name,
            uuid=uuid,
            hardware=HardwareType.CUDA,
            total_memory=total,
            available_memory=available,
            utilization=self._field("utilization", _share, "nvmlDeviceGetUtilizationRates"),
            temperature=self._field(
                "temperature", float, "nvmlDeviceGetTemperature", _TEMPERATURE_GPU
            ),
            power=self._field("power", _watts, "nvmlDeviceGetPowerUsage"),
            power_limit=self._field("power_limit", _watts, "nvmlDeviceGetEnforcedPowerLimit"),
            memory_clock=None if clock is None else float(clock),
            bus_width=width,
            memory_bandwidth=gpu_bandwidth(clock, width),
            compute_capability=self._field(
                "compute_capability", _pair, "nvmlDeviceGetCudaComputeCapability"
            ),
            mig=mig,
            unified_memory=unified,
            driver_version=driver,
            notes=self._all_notes(),
        )

    def sample(self) -> GpuSample:
        self._handle, failure = self._session.ask("nvmlDeviceGetHandleByIndex", self._index)
        if failure is not None:
            return GpuSample(self._index)
        share = self._field("utilization", _share, "nvmlDeviceGetUtilizationRates")
        return GpuSample(
            gpu=self._index,
            percent=None if share is None else share * 100,
            memory_used=self._field("memory_used", _used, "nvmlDeviceGetMemoryInfo"),
            power=self._field("power", _watts, "nvmlDeviceGetPowerUsage"),
            temperature=self._field(
                "temperature", float, "nvmlDeviceGetTemperature", _TEMPERATURE_GPU
            ),
        )

    def _field(
        self, field: str, convert: Callable[[Any], Value], function: str, *arguments: Any
    ) -> Value | None:
        answer, failure = self._session.ask(function, self._handle, *arguments)
        if failure is not None:
            self._failures.setdefault(failure, []).append(field)
            return None
        try:
            return convert(answer)
        except (ValueError, TypeError, AttributeError):
            self._notes.append(f"{field}: not available (NVML answered {answer!r}).")
            return None

    def _mig(self) -> bool | None:
        answer, failure = self._session.ask("nvmlDeviceGetMigMode", self._handle)
        if failure is None:
            return bool(answer[0])
        if failure.code == NOT_SUPPORTED:
            # NVML's documented answer for a card that cannot be split.
            return False
        self._failures.setdefault(failure, []).append("mig")
        return None

    def _memory(self, mig: bool | None) -> tuple[int | None, int | None, bool]:
        if mig:
            return *self._largest_instance(), False
        answer, failure = self._session.ask("nvmlDeviceGetMemoryInfo", self._handle)
        total = 0 if answer is None else int(answer.total)
        if failure is None and total > 0:
            return total, max(0, min(int(answer.free), total)), False
        unified = failure is None or failure.code == NOT_SUPPORTED
        if unified and mig is False:
            self._notes.append(
                "total_memory, available_memory: the GPU reports no memory of its own "
                f"({failure.reason if failure else 'NVML: 0 bytes'}), as GB10 and Jetson do; "
                "it shares the system's memory, which is counted once."
            )
            return None, None, True
        failure = failure or Failure(None, "NVML: 0 bytes")
        self._failures.setdefault(failure, []).extend(["total_memory", "available_memory"])
        return None, None, False

    def _largest_instance(self) -> tuple[int | None, int | None]:
        # A CUDA program sees one instance only, so the whole card's memory would mislead; in a
        # container the whole card answers NO_PERMISSION anyway.
        count, failure = self._session.ask("nvmlDeviceGetMaxMigDeviceCount", self._handle)
        found: list[tuple[int, int]] = []
        for index in range(count or 0):
            handle, failure = self._session.ask(
                "nvmlDeviceGetMigDeviceHandleByIndex", self._handle, index
            )
            if failure is not None:
                if failure.code == NOT_FOUND:
                    failure = None
                    continue
                break
            answer, failure = self._session.ask("nvmlDeviceGetMemoryInfo", handle)
            if failure is not None:
                break
            found.append((int(answer.total), int(answer.free)))
        if failure is not None:
            self._failures.setdefault(failure, []).append("memory of MIG instances")
        if not found:
            if failure is None:
                self._notes.append(
                    "total_memory, available_memory: not available (MIG is on and no instance "
                    "is visible). Create one with nvidia-smi mig, or switch MIG off."
                )
            return None, None
        total, free = max(found)
        self._notes.append(
            f"MIG is on with {len(found)} visible instance(s); the memory shown is that of the "
            f"largest ({format_bytes(total)}), the most that one process can use."
        )
        return total, max(0, min(free, total))

    def _all_notes(self) -> tuple[str, ...]:
        explained = [
            failure.explain(", ".join(fields)) for failure, fields in self._failures.items()
        ]
        return (*self._notes, *explained)


def _text(answer: Any) -> str:
    # Older bindings answer with bytes.
    text = answer.decode("utf-8", errors="replace") if isinstance(answer, bytes) else str(answer)
    if not text:
        raise ValueError("empty")
    return text


def _positive(answer: Any) -> int:
    value = int(answer)
    if value <= 0:
        raise ValueError("0 stands for unknown")
    return value


def _share(answer: Any) -> float:
    percent = int(answer.gpu)
    if not 0 <= percent <= 100:
        raise ValueError("out of range")
    return percent / 100


def _used(answer: Any) -> int:
    if int(answer.total) <= 0:
        raise ValueError("no memory of its own")
    return int(answer.used)


def _watts(answer: Any) -> float:
    return float(answer) / 1000


def _pair(answer: Any) -> tuple[int, int]:
    major, minor = answer
    return int(major), int(minor)
