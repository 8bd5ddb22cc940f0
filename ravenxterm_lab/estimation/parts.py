"""What every formula of an engine is given, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    from ravenxterm_lab.hardware import GpuDevice
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["MIB", "Parts", "Same", "Settings", "Share", "context_of", "free_memory"]

MIB = 1024**2

_Thing = TypeVar("_Thing")


class Same(Generic[_Thing]):
    """An object as a key: a model's mappings have no hash, and to compare them takes too long.

    Parameters
    ----------
    value : object
        Equal to itself alone; nobody changes it.
    """

    __slots__ = ("value",)

    def __init__(self, value: _Thing) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model would be loaded."""

    context_length: int | None = None
    batch_size: int = 512
    kv_type: str | tuple[str, str] = "f16"
    gpu_layers: int | None = None
    devices: tuple[GpuDevice, ...] = ()
    sequences: int = 1
    unified: bool = False
    flash_attention: bool | None = None
    instruction_sets: Collection[str] = ()


@dataclass(slots=True)
class Share:
    """What one device holds, in bytes."""

    weights: int = 0
    repack: int = 0
    kv: int = 0
    compute: int = 0
    overhead: int = 0

    @property
    def total(self) -> int:
        """The sum of the items."""
        return self.weights + self.repack + self.kv + self.compute + self.overhead


@dataclass(slots=True)
class Parts:
    """What an engine takes: the CPU's share first, then each GPU's.

    ``below`` and ``above`` are bytes on either side of the total; ``wide`` says that only an
    interval that lies on one side of the budget decides; ``mapped`` is file-backed.
    """

    source: str
    shares: list[Share] = field(default_factory=lambda: [Share()])
    context_length: int | None = None
    below: int = 0
    above: int = 0
    mapped: int = 0
    wide: bool = False
    has_cache: bool = False
    missing: tuple[str, ...] = ()


def context_of(model: ModelMetadata, settings: Settings) -> int:
    """Return the tokens of context, by default what a runtime would load."""
    return settings.context_length or min(model.context_length or 4096, 4096)


def free_memory(devices: tuple[GpuDevice, ...]) -> list[int]:
    """Return the free memory of each GPU (bytes), 0 where it is not known."""
    return [device.available_memory or device.total_memory or 0 for device in devices]
