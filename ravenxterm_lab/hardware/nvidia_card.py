"""One NVIDIA card: every field is read on its own, and a missing one says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ravenxterm_lab.hardware.devices import GpuDevice, MigInstance
from ravenxterm_lab.hardware.nvml import NOT_FOUND, NOT_SUPPORTED, Failure
from ravenxterm_lab.hardware.nvml_answers import (
    UNUSABLE,
    as_architecture,
    as_clock,
    as_count,
    as_current,
    as_degrees,
    as_energy,
    as_memory,
    as_pair,
    as_processes,
    as_share,
    as_switch,
    as_text,
    as_watts,
)
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.units import format_bytes, format_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.hardware.nvml import Nvml

__all__ = ["gpu_bandwidth", "read_card"]

Value = TypeVar("Value")

# From nvml.h.
_TEMPERATURE_GPU = 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2


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


def read_card(session: Nvml, index: int, driver: str | None) -> GpuDevice:
    """Read one card.

    Parameters
    ----------
    session : Nvml
        An open session.
    index : int
        In NVML's order.
    driver : str or None
        Version of the driver, if it is known.

    Returns
    -------
    GpuDevice
        With None, and a note, for each field that is not told; a card that cannot be opened
        at all keeps its place.
    """
    handle, failure = session.ask("nvmlDeviceGetHandleByIndex", index)
    reader = _Reader(session, handle)
    if failure is not None:
        reader.lose("every field", failure)
        return GpuDevice(
            index,
            None,
            None,
            HardwareType.CUDA,
            driver_version=driver,
            notes=reader.notes(),
        )
    return reader.read(index, driver)


class _Reader:
    """Asks one card and collects the reasons of what it does not tell."""

    def __init__(self, session: Nvml, handle: Any) -> None:
        self._session = session
        self._handle = handle
        self._failures: dict[Failure, list[str]] = {}
        self._remarks: list[str] = []

    def read(self, index: int, driver: str | None) -> GpuDevice:
        ask = self._field
        # What a model is placed by comes first: a card may be lost in mid-read.
        name = ask("name", as_text, "nvmlDeviceGetName")
        uuid = ask("uuid", as_text, "nvmlDeviceGetUUID")
        mig = self._mig()
        total, available, unified, instances = self._memory(mig)
        memory_clock = ask("memory_clock", as_clock, "nvmlDeviceGetMaxClockInfo", _CLOCK_MEMORY)
        width = ask("bus_width", as_count, "nvmlDeviceGetMemoryBusWidth")
        bandwidth = gpu_bandwidth(memory_clock, width)
        if mig and bandwidth is not None:
            self._remarks.append(
                f"memory_bandwidth: not available (the {format_bytes(bandwidth)}/s of the card are "
                "split among its MIG instances, by shares that NVML does not tell)."
            )
            bandwidth = None
        return GpuDevice(
            index=index,
            name=name,
            uuid=uuid,
            hardware=HardwareType.CUDA,
            total_memory=total,
            available_memory=available,
            memory_clock=memory_clock,
            bus_width=width,
            memory_bandwidth=bandwidth,
            compute_capability=ask(
                "compute_capability", as_pair, "nvmlDeviceGetCudaComputeCapability"
            ),
            architecture=ask("architecture", as_architecture, "nvmlDeviceGetArchitecture"),
            utilization=ask("utilization", as_share, "nvmlDeviceGetUtilizationRates"),
            temperature=ask(
                "temperature", as_degrees, "nvmlDeviceGetTemperature", _TEMPERATURE_GPU
            ),
            power=ask("power", as_watts, "nvmlDeviceGetPowerUsage"),
            power_limit=ask("power_limit", as_watts, "nvmlDeviceGetEnforcedPowerLimit"),
            core_clock=ask("core_clock", as_clock, "nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
            core_clock_now=ask("core_clock_now", as_current, "nvmlDeviceGetClockInfo", _CLOCK_SM),
            memory_clock_now=ask(
                "memory_clock_now", as_current, "nvmlDeviceGetClockInfo", _CLOCK_MEMORY
            ),
            pcie_generation=ask("pcie_generation", as_count, "nvmlDeviceGetCurrPcieLinkGeneration"),
            pcie_width=ask("pcie_width", as_count, "nvmlDeviceGetCurrPcieLinkWidth"),
            pcie_generation_max=ask(
                "pcie_generation_max", as_count, "nvmlDeviceGetMaxPcieLinkGeneration"
            ),
            pcie_width_max=ask("pcie_width_max", as_count, "nvmlDeviceGetMaxPcieLinkWidth"),
            processes=ask("processes", as_processes, "nvmlDeviceGetComputeRunningProcesses"),
            energy=ask("energy", as_energy, "nvmlDeviceGetTotalEnergyConsumption"),
            ecc=self._switch("ecc", "nvmlDeviceGetEccMode"),
            mig=mig,
            mig_instances=instances,
            unified_memory=unified,
            driver_version=driver,
            notes=self.notes(),
        )

    def lose(self, field: str, failure: Failure) -> None:
        """Note that a field could not be had."""
        self._failures.setdefault(failure, []).append(field)

    def notes(self) -> tuple[str, ...]:
        """Return the remarks, and for each reason the fields that it cost."""
        explained = [
            failure.explain(", ".join(fields)) for failure, fields in self._failures.items()
        ]
        return (*self._remarks, *explained)

    def _field(
        self, field: str, convert: Callable[[Any], Value], function: str, *arguments: Any
    ) -> Value | None:
        return self._ask(self._handle, field, convert, function, *arguments)

    def _ask(
        self,
        handle: Any,
        field: str,
        convert: Callable[[Any], Value],
        function: str,
        *arguments: Any,
    ) -> Value | None:
        answer, failure = self._session.ask(function, handle, *arguments)
        if failure is not None:
            self.lose(field, failure)
            return None
        return self._converted(field, convert, answer)

    def _mig(self) -> bool | None:
        return self._switch("mig", "nvmlDeviceGetMigMode")

    def _switch(self, field: str, function: str) -> bool | None:
        # Both functions answer the present and the pending state.
        answer, failure = self._session.ask(function, self._handle)
        if failure is not None:
            if failure.code == NOT_SUPPORTED:
                # NVML's documented answer for a card that does not have it.
                return False
            self.lose(field, failure)
            return None
        return self._converted(field, as_switch, answer)

    def _converted(self, field: str, convert: Callable[[Any], Value], answer: Any) -> Value | None:
        try:
            return convert(answer)
        except UNUSABLE:
            self._remarks.append(f"{field}: not available (NVML answered {_short(answer)}).")
            return None

    def _memory(
        self, mig: bool | None
    ) -> tuple[int | None, int | None, bool, tuple[MigInstance, ...]]:
        if mig:
            return self._split_memory()
        answer, failure = self._session.ask("nvmlDeviceGetMemoryInfo", self._handle)
        fields = "total_memory, available_memory"
        if failure is None:
            try:
                total, free = as_memory(answer)
            except UNUSABLE:
                shown = _short(getattr(answer, "total", answer))
                self._remarks.append(f"{fields}: not available (NVML answered {shown}).")
                return None, None, False, ()
            if total > 0:
                return total, free, False, ()
            failure = Failure(None, "NVML: 0 bytes")
        if failure.code in {None, NOT_SUPPORTED} and mig is False:
            self._remarks.append(
                f"{fields}: the GPU reports no memory of its own ({failure.reason}), as GB10 and "
                "Jetson do; it shares the system's memory, which is counted once."
            )
            return None, None, True, ()
        self.lose(fields, failure)
        return None, None, False, ()

    def _split_memory(self) -> tuple[int | None, int | None, bool, tuple[MigInstance, ...]]:
        # A CUDA program sees one instance only, so the whole card's memory would mislead; in a
        # container the whole card answers NO_PERMISSION anyway.
        what = "memory of MIG instances"
        count, failure = self._session.ask("nvmlDeviceGetMaxMigDeviceCount", self._handle)
        found: list[MigInstance] = []
        for index in range(count or 0):
            handle, failure = self._session.ask(
                "nvmlDeviceGetMigDeviceHandleByIndex", self._handle, index
            )
            if failure is not None:
                if failure.code != NOT_FOUND:
                    break
                failure = None
                continue
            name = self._ask(handle, f"name of MIG instance {index}", as_text, "nvmlDeviceGetName")
            memory = self._ask(handle, what, as_memory, "nvmlDeviceGetMemoryInfo")
            found.append(MigInstance(index, name, *(memory or (None, None))))
        if failure is not None:
            self.lose(what, failure)
        known = [(item.total_memory, item.available_memory) for item in found if item.total_memory]
        if not known:
            if failure is None and not found:
                self._remarks.append(
                    "total_memory, available_memory: not available (MIG is on and no instance "
                    "is visible). Create one with nvidia-smi mig, or switch MIG off."
                )
            return None, None, False, tuple(found)
        total, free = max(known, key=lambda pair: (pair[0] or 0, pair[1] or 0))
        self._remarks.append(
            f"MIG is on with {format_number(len(found), 'visible instance')}; the memory shown is "
            f"that of the largest ({format_bytes(total)}), the most that one process can use."
        )
        return total, free, False, tuple(found)


def _short(answer: object) -> str:
    text = repr(answer)
    return text if len(text) <= 60 else f"{text[:59]}…"
