"""NVIDIA GPUs through NVML: the facts of all cards once, and their loads often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ravenxterm_lab.hardware.devices import GpuDevice, GpuSample
from ravenxterm_lab.hardware.nvidia_card import gpu_bandwidth, read_card
from ravenxterm_lab.hardware.nvml import (
    FUNCTION_NOT_FOUND,
    LIBRARY_NOT_FOUND,
    NOT_SUPPORTED,
    Failure,
    Nvml,
    nvml_session,
)
from ravenxterm_lab.hardware.nvml_answers import (
    UNUSABLE,
    as_current,
    as_degrees,
    as_energy,
    as_share,
    as_text,
    as_used,
    as_watts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NvidiaReading", "NvidiaSampler", "gpu_bandwidth", "read_nvidia", "sample_nvidia"]

Value = TypeVar("Value")

_TEMPERATURE_GPU, _CLOCK_SM = 0, 1  # from nvml.h
_NEVER = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})


@dataclass(frozen=True, slots=True)
class NvidiaReading:
    """The GPUs that NVML lists, and notes on what concerns all of them."""

    devices: tuple[GpuDevice, ...]
    notes: tuple[str, ...]


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
        version = as_text(driver) if driver else None
        devices = tuple(read_card(session, index, version) for index in range(count))
        return NvidiaReading(devices, notes)


def sample_nvidia(nvml: Any = None) -> tuple[GpuSample, ...]:
    """Read the loads of all NVIDIA GPUs; nothing where NVML cannot be used.

    Initialising NVML costs most of it: a caller that samples often keeps a session open and
    asks an `NvidiaSampler`.

    Parameters
    ----------
    nvml : object, optional
        Anything with ``pynvml``'s functions.
    """
    with nvml_session(nvml) as session:
        return () if session.failure is not None else NvidiaSampler(session).sample()


def _no_driver(failure: Failure) -> str:
    if failure.code == LIBRARY_NOT_FOUND:
        return "No NVIDIA driver (NVML library not found); CPU and RAM shown."
    return failure.explain("NVIDIA GPUs")


class NvidiaSampler:
    """Reads the loads of the cards again and again within one session.

    Handles are kept. What a card says that it cannot tell is not asked again; what failed
    otherwise is, with a fresh handle, since a driver can be reset under us.

    Parameters
    ----------
    session : Nvml
        An open session; it must outlive the sampler.

    Attributes
    ----------
    notes : dict of str to str
        For each thing that is not available, the latest reason with its remedy.
    """

    def __init__(self, session: Nvml) -> None:
        self.notes: dict[str, str] = {}
        self._session = session
        self._handles: dict[int, Any] = {}
        self._never: set[tuple[int, str]] = set()
        self._count: int | None = None

    def sample(self) -> tuple[GpuSample, ...]:
        """Return one sample for each card; a card that is lost keeps its place."""
        return tuple(
            GpuSample(index) if handle is None else self._sample(index, handle)
            for index, handle in self._cards()
        )

    def energy(self) -> dict[int, float]:
        """Return the joules that each card has drawn since the driver was loaded.

        Cards before Volta, and some vGPUs, have no such counter and are left out.
        """
        found = {}
        for index, handle in self._cards():
            if handle is not None:
                joules = self._ask(
                    index, handle, "energy", as_energy, "nvmlDeviceGetTotalEnergyConsumption"
                )
                if joules is not None:
                    found[index] = joules
        return found

    def _cards(self) -> list[tuple[int, Any]]:
        if not self._count:
            # None that are there now may come later, as an external GPU does.
            self._count, failure = self._session.ask("nvmlDeviceGetCount")
            if failure is not None:
                self.notes["NVIDIA GPUs"] = failure.explain("NVIDIA GPUs")
        cards = []
        for index in range(self._count or 0):
            if index not in self._handles:
                handle, failure = self._session.ask("nvmlDeviceGetHandleByIndex", index)
                what = f"GPU {index}: every load"
                if failure is not None:
                    self.notes[what] = failure.explain(what)
                    cards.append((index, None))
                    continue
                self.notes.pop(what, None)
                self._handles[index] = handle
            cards.append((index, self._handles[index]))
        return cards

    def _sample(self, index: int, handle: Any) -> GpuSample:
        share = self._ask(index, handle, "load", as_share, "nvmlDeviceGetUtilizationRates")
        return GpuSample(
            gpu=index,
            percent=None if share is None else share * 100,
            memory_used=self._ask(index, handle, "memory", as_used, "nvmlDeviceGetMemoryInfo"),
            power=self._ask(index, handle, "power", as_watts, "nvmlDeviceGetPowerUsage"),
            temperature=self._ask(
                index,
                handle,
                "temperature",
                as_degrees,
                "nvmlDeviceGetTemperature",
                _TEMPERATURE_GPU,
            ),
            clock=self._ask(
                index, handle, "clock", as_current, "nvmlDeviceGetClockInfo", _CLOCK_SM
            ),
        )

    def _ask(
        self,
        index: int,
        handle: Any,
        field: str,
        convert: Callable[[Any], Value],
        function: str,
        *arguments: Any,
    ) -> Value | None:
        if (index, function) in self._never:
            return None
        what = f"GPU {index}: {field}"
        answer, failure = self._session.ask(function, handle, *arguments)
        if failure is not None:
            self.notes[what] = failure.explain(what)
            if failure.code in _NEVER:
                self._never.add((index, function))
            else:
                self._handles.pop(index, None)
            return None
        try:
            value = convert(answer)
        except UNUSABLE:
            return None
        self.notes.pop(what, None)
        return value
