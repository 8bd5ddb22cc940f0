"""What is going on now: the snapshots behind ``get_system_status`` and ``get_resource_usage``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravenxterm_lab.hardware import take_sample
from ravenxterm_lab.metadata import total_bytes
from ravenxterm_lab.models.budgeting import DeviceUsage, device_usage
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ravenxterm_lab.hardware import HardwareProfile, HardwareSample
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.messages import Message
    from ravenxterm_lab.models.workbench import Workbench
    from ravenxterm_lab.runtimes import Resident
    from ravenxterm_lab.store import StoreInfo

__all__ = ["ResourceUsage", "SystemStatus", "directory_bytes", "read_status", "read_usage"]


@dataclass(frozen=True, slots=True)
class ResourceUsage(Displayed):
    """Memory and load now, all in bytes unless said otherwise.

    Attributes
    ----------
    loaded : tuple of Resident
        Loaded models with the bytes that each really holds (anonymous and file-backed apart).
    memory_used_by_models : int
        Their sum.
    memory_budget : int
        ``max_memory_usage`` × what this process may really use.
    memory_headroom : int
        What another load may take now: the smaller of budget and free memory.
    cache_bytes : int
        Caches on disk below the home.
    store_bytes : int
        The DuckDB file and its spool.
    sample : HardwareSample
        CPU, RAM and GPU at this moment.
    devices : tuple of DeviceUsage
        Budget, use and headroom of host memory (the same as above), then of each GPU that has
        memory of its own.
    """

    loaded: tuple[Resident, ...]
    memory_used_by_models: int
    memory_budget: int
    memory_headroom: int
    cache_bytes: int
    store_bytes: int
    sample: HardwareSample
    devices: tuple[DeviceUsage, ...] = ()

    def _card(self) -> Card:
        rows = [
            [
                item.model.name,
                item.runtime,
                format_bytes(item.memory.anonymous_bytes),
                format_bytes(item.memory.file_bytes),
                "in use" if item.in_use else f"idle for {format_seconds(item.idle_seconds)}",
            ]
            for item in self.loaded
        ]
        note = (
            f"Models hold {format_bytes(self.memory_used_by_models)} of a budget of "
            f"{format_bytes(self.memory_budget)}; headroom {format_bytes(self.memory_headroom)}; "
            f"CPU {self.sample.cpu_percent:.0f}%, "
            f"RAM free {format_bytes(self.sample.memory_available)}; "
            f"store {format_bytes(self.store_bytes)}, caches {format_bytes(self.cache_bytes)}"
        )
        header = ["loaded model", "runtime", "own memory", "mapped from file", "state"]
        tables = [Table(header, rows)] if rows else []
        if len(self.devices) > 1:
            tables.append(self._device_table())
        return Card("Resources", note if rows else f"No model is loaded. {note}", tables)

    def _device_table(self) -> Table:
        rows = [
            [
                f"{one.device} ({one.name})" if one.name else one.device,
                format_bytes(one.held_bytes),
                format_bytes(one.budget_bytes),
                format_bytes(one.headroom_bytes),
            ]
            for one in self.devices
        ]
        header = ["device", "models hold", "budget", "headroom"]
        return Table(header, rows, [False, True, True, True])


@dataclass(frozen=True, slots=True)
class SystemStatus(Displayed):
    """The state of everything, at one moment.

    Attributes
    ----------
    models : int
        Registered models.
    models_bytes : int
        On disk (bytes).
    runtimes : mapping of str to str
        Installed runtimes and their versions.
    hardware : HardwareProfile
        With the memory that is free now.
    resources : ResourceUsage
        Loaded models, budget, caches, live load.
    store : StoreInfo
        Rows, bytes, pending rows.
    home : Path
        Where everything is written.
    messages : tuple of Message
        The last ten.
    next_step : str
        What to run where there are no models, or no executions.
    """

    models: int
    models_bytes: int
    runtimes: dict[str, str]
    hardware: HardwareProfile
    resources: ResourceUsage
    store: StoreInfo
    home: Path
    messages: tuple[Message, ...]
    next_step: str = ""

    def _card(self) -> Card:
        profile = self.hardware
        gpus = ", ".join(gpu.name or "unnamed GPU" for gpu in profile.gpu_devices)
        runtimes = ", ".join(f"{name} {version}" for name, version in self.runtimes.items())
        total = format_bytes(profile.total_memory)
        free = format_bytes(profile.available_memory)
        loaded = ", ".join(item.model.name for item in self.resources.loaded) or "none"
        rows = [
            ["models", f"{self.models}, {format_bytes(self.models_bytes)} on disk"],
            ["loaded", loaded],
            ["CPU", f"{profile.cpu_name or profile.cpu_architecture}, {profile.cpu_cores} cores"],
            ["memory", f"{free} of {total} free ({profile.memory_limit_source})"],
            ["GPU", gpus or "none found"],
            ["budget", format_bytes(self.resources.memory_budget)],
            ["runtimes", runtimes or 'none; pip install "ravenxterm-lab[runtimes]"'],
            ["history", f"{self.store.rows.get('executions', 0):,} executions"],
            ["home", str(self.home)],
        ]
        if self.next_step and not (self.models and self.store.rows.get("executions")):
            missing = "executions" if self.models else "models"
            rows.append(["next", f"No {missing} yet: {self.next_step}."])
        tables = [Table(["system", "now"], rows)]
        if self.messages:
            tables.append(Table(["messages"], [[str(message)] for message in self.messages]))
        return Card("RavenXTerm Lab", "", tables)


def read_usage(bench: Workbench) -> ResourceUsage:
    """Measure what the loaded models hold and what is left (bytes)."""
    loaded = bench.pool.resident()
    devices = device_usage(bench, loaded)
    host = devices[0]
    return ResourceUsage(
        loaded=loaded,
        memory_used_by_models=host.held_bytes,
        memory_budget=host.budget_bytes,
        memory_headroom=host.headroom_bytes,
        cache_bytes=directory_bytes(bench.paths.cache),
        store_bytes=directory_bytes(bench.paths.store),
        sample=take_sample(),
        devices=devices,
    )


def read_status(
    bench: Workbench,
    models: Mapping[str, ModelMetadata],
    resources: ResourceUsage,
    next_step: str = "",
) -> SystemStatus:
    """Gather the state of everything."""
    versions = {runtime.name: runtime.version() for runtime in bench.runtimes}
    return SystemStatus(
        models=len(models),
        models_bytes=total_bytes(models.values()),
        runtimes={name: version for name, version in versions.items() if version},
        hardware=bench.hardware.refreshed(),
        resources=resources,
        store=bench.store.info(),
        home=bench.paths.home,
        messages=tuple(bench.messages[-10:]),
        next_step=next_step,
    )


def directory_bytes(directory: Path) -> int:
    """Return the bytes that files below a directory take on disk (0 when it does not exist)."""
    total = 0
    for path in directory.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue  # another process removed it meanwhile
        total += status.st_blocks * 512
    return total
