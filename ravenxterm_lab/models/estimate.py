"""An estimate as a person reads it: item by item, device by device, and what would make it fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.estimation import Verdict
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import (
    NOT_MEASURED,
    format_bytes,
    format_rate,
    format_rates,
    format_seconds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from ravenxterm_lab.estimation import Forecast, MemoryForecast, SpeedEstimate
    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.runtimes import LoadOptions

__all__ = ["Estimate", "Estimates"]

_ITEMS = (
    ("weights", "weights_bytes"),
    ("repacked copy", "repack_bytes"),
    ("KV cache", "kv_cache_bytes"),
    ("compute buffers", "compute_bytes"),
    ("engine", "overhead_bytes"),
    ("together", "total_bytes"),
)
_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Estimate(Displayed):
    """What one model takes on one machine, and how fast it is there.

    Attributes
    ----------
    model : ModelMetadata
        The model.
    hardware : HardwareProfile
        The machine.
    here : bool
        Whether it is this one.
    options : LoadOptions
        How it would be loaded.
    memory : MemoryForecast
        Bytes by item and device, with verdict, interval and evidence.
    speed, speed_full : SpeedEstimate
        With the prompt alone in the context, and with the context full.
    largest_context : int or None
        Tokens with which it fits, at most; None when it does not fit at all or has no context.
    remedies : tuple of str
        What was tried and would make it fit, and what is lacking; empty when it fits.
    """

    model: ModelMetadata
    hardware: HardwareProfile
    here: bool
    options: LoadOptions
    memory: MemoryForecast
    speed: SpeedEstimate
    speed_full: SpeedEstimate
    largest_context: int | None
    remedies: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values: bytes, seconds, tokens/s."""
        memory, speed = self.memory, self.speed
        return {
            "model": self.model.name,
            "engine": memory.engine,
            "device": self.options.device.value,
            "gpu_layers": self.options.gpu_layers,
            "context_length": memory.context_length,
            "verdict": memory.verdict.value,
            "memory": {
                **{name: getattr(memory, name) for _, name in _ITEMS},
                "low_bytes": memory.low_bytes,
                "high_bytes": memory.high_bytes,
                "budget_bytes": memory.budget_bytes,
                "tier": memory.tier,
                "source": memory.source,
            },
            "devices": [
                {
                    "name": one.name,
                    "verdict": one.verdict.value,
                    "budget_bytes": one.budget_bytes,
                    **{name: getattr(one, name) for _, name in _ITEMS},
                }
                for one in memory.devices
            ],
            **{
                name: None
                if forecast is None or forecast.tier == "none"
                else {
                    "value": forecast.value, "low": forecast.low, "high": forecast.high,
                    "level": forecast.level, "tier": forecast.tier, "runs": forecast.runs,
                }
                for name, forecast in (
                    ("load_seconds", speed.load),
                    ("time_to_first_token", speed.first_token),
                    ("decode_rate", speed.decode),
                    ("decode_rate_full_context", self.speed_full.decode),
                )
            },
            "largest_context": self.largest_context,
            "remedies": list(self.remedies),
            "missing": [*memory.missing, *([speed.missing] if speed.missing else [])],
        }  # fmt: skip

    def _card(self) -> Card:
        context = self.memory.context_length
        length = f" at {context:,} tokens" if context else ""
        where = "this machine" if self.here else _machine(self.hardware)
        device = "" if self.options.device is HardwareType.CPU else f", {self._split()}"
        tables = [self._memory_table(), self._speed_table()]
        if self.remedies:
            tables.append(Table(["what would help"], [[text] for text in self.remedies]))
        elif self.largest_context and self.largest_context != context:
            longest = f"{self.largest_context:,} tokens"
            tables.append(Table(["largest context that fits"], [[longest]]))
        note = self.memory.describe()
        if self.here and self.model.runtime_gap:
            note += f"; cannot run here: {self.model.runtime_gap}"
        return Card(f"{self.model.name}{length} on {where}{device}", note, tables)

    def _split(self) -> str:
        layers = self.options.gpu_layers
        where = self.options.device.value
        return f"{layers} layers on {where}" if layers else f"all layers on {where}"

    def _memory_table(self) -> Table:
        memory = self.memory
        devices = memory.devices if len(memory.devices) > 1 else ()
        rows = []
        for label, name in _ITEMS[:-1]:
            amount = getattr(memory, name)
            if amount:
                each = [_bytes(getattr(one, name)) for one in devices]
                rows.append([label, *each, format_bytes(amount), ""])
        each = [format_bytes(one.total_bytes) for one in devices]
        interval = ""
        if memory.low_bytes is not None and memory.high_bytes is not None:
            low, high = format_bytes(memory.low_bytes), format_bytes(memory.high_bytes)
            interval = f"{low} to {high} ({memory.level:.0%}); {memory.tier}: {memory.source}"
        rows.append(["together", *each, _bytes(memory.total_bytes), interval])
        budgets = [_bytes(one.budget_bytes) for one in devices]
        rows.append(["budget", *budgets, "" if devices else _bytes(memory.budget_bytes), ""])
        verdicts = [one.verdict.value for one in devices]
        rows.append(["verdict", *verdicts, memory.verdict.value, ", ".join(memory.missing)])
        header = ["memory", *(one.name for one in devices), "all", "interval and source"]
        numeric = [False, *[True] * len(devices), True, False]
        return Table(header, rows, numeric)

    def _speed_table(self) -> Table:
        unit = "tok" if self.model.attention is not None else "items"
        rows = [_forecast("load", self.speed.load, format_seconds)]
        if self.speed.first_token is not None:
            label = f"first token, prompt of {self.speed.prompt_tokens:,}"
            rows.append(_forecast(label, self.speed.first_token, format_seconds))
        generates = self.model.attention is not None
        for speed in (self.speed, self.speed_full)[: 1 + generates]:
            label = f"decoding, {speed.context_length:,} tokens in use" if generates else "speed"
            rows.append(_forecast(label, speed.decode, lambda rate: format_rate(rate, unit)))
        if self.speed.missing:
            rows.append(["", "", self.speed.missing])
        return Table(["speed", "value and interval", "source"], rows)


class Estimates(Displayed):
    """What every registered model takes on one machine, and how fast it is there.

    Iterating yields model, options, memory and speed of each.

    Parameters
    ----------
    rows : tuple
        Model, load options, memory and speed.
    hardware : HardwareProfile
        The machine.
    here : bool
        Whether it is this one.
    hint : str
        What to do where there is no model.
    """

    def __init__(
        self,
        rows: tuple[tuple[ModelMetadata, LoadOptions, MemoryForecast, SpeedEstimate], ...],
        hardware: HardwareProfile,
        here: bool,
        hint: str = "",
    ) -> None:
        self._rows = rows
        self._hint = hint
        self.hardware = hardware
        self.here = here

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(
        self,
    ) -> Iterator[tuple[ModelMetadata, LoadOptions, MemoryForecast, SpeedEstimate]]:
        return iter(self._rows)

    def pl(self) -> pl.DataFrame:
        """Return a polars frame with a row for each model; bytes, tokens/s, seconds."""
        import polars as pl

        return pl.DataFrame(
            [
                {
                    "model": model.name,
                    "verdict": memory.verdict.value,
                    "context_length": memory.context_length,
                    "device": options.device.value,
                    "gpu_layers": options.gpu_layers,
                    "total_bytes": memory.total_bytes,
                    "low_bytes": memory.low_bytes,
                    "high_bytes": memory.high_bytes,
                    "memory_tier": memory.tier,
                    "decode_rate": speed.decode_rate,
                    "decode_low": speed.low,
                    "decode_high": speed.high,
                    "speed_tier": speed.tier,
                    "time_to_first_token": speed.time_to_first_token,
                    "load_seconds": speed.load_seconds,
                }
                for model, options, memory, speed in self._rows
            ],
            infer_schema_length=None,
        )

    def _card(self) -> Card:
        where = "this machine" if self.here else _machine(self.hardware)
        title = f"Estimates for {where}"
        if not self._rows:
            return Card(title, self._hint)
        rows = [
            [
                model.name,
                memory.verdict.value,
                _bytes(memory.total_bytes),
                "" if memory.context_length is None else f"{memory.context_length:,}",
                format_rate(speed.decode_rate, "tok" if model.attention else "items"),
                "" if speed.low is None else format_rates(speed.low, speed.high),
                format_seconds(speed.load_seconds),
                f"{memory.tier}, {speed.tier}",
            ]
            for model, _, memory, speed in self._rows[:_SHOWN]
        ]
        count = len(self._rows)
        fit = sum(memory.verdict is Verdict.FITS for _, _, memory, _ in self._rows)
        shown = f"; the first {_SHOWN} shown" if count > _SHOWN else ""
        levels = sorted({f"{speed.decode.level:.0%}" for _, _, _, speed in self._rows})
        interval = f"interval ({' or '.join(levels)})"
        header = ["model", "verdict", "memory", "context", "speed", interval, "load"]
        numeric = [False, False, True, True, True, True, True, False]
        note = f"{fit} of {count} fit{shown}"
        return Card(title, note, [Table([*header, "evidence (memory, speed)"], rows, numeric)])

    def __repr__(self) -> str:
        return f"<Estimates: {len(self._rows)} models>"


def _bytes(amount: int | None) -> str:
    return "unknown" if amount is None else format_bytes(amount)


def _forecast(label: str, forecast: Forecast, form: object) -> list[str]:
    assert callable(form)
    if forecast.tier == "none":
        return [label, NOT_MEASURED, ""]
    interval = f"{form(forecast.low)} to {form(forecast.high)} ({forecast.level:.0%})"
    return [label, f"{form(forecast.value)}: {interval}", f"{forecast.tier}: {forecast.source}"]


def _machine(hardware: HardwareProfile) -> str:
    names: dict[str, int] = {}
    for gpu in hardware.gpu_devices:
        names[gpu.name or "GPU"] = names.get(gpu.name or "GPU", 0) + 1
    parts = [f"{count} × {name}" if count > 1 else name for name, count in names.items()]
    return ", ".join([*parts, f"{format_bytes(hardware.total_memory)} RAM"])
