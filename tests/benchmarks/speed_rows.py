"""Published and community runs as the estimator sees them: models, devices, measured speeds."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ravenxterm_lab.estimation.conformal import Calibrator, Group
from ravenxterm_lab.estimation.history import LAWS, RATES, History, Outcome
from ravenxterm_lab.estimation.recall import HistoryReader
from ravenxterm_lab.estimation.speed import estimate_speed
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.store import Store

#: Device and memory bandwidth (GB/s) of the makers' data sheets, by the name in the data. The
#: bandwidth of integrated graphics is that of the memory that the maker names for the chip.
COMMUNITY_DEVICES = {
    "RTX 3060 (12 GB)": (HardwareType.CUDA, 360),
    "RTX 4070 Ti (12 GB)": (HardwareType.CUDA, 504),
    "RTX 5080 (16 GB)": (HardwareType.CUDA, 960),
    "RTX 5090 (32 GB)": (HardwareType.CUDA, 1792),
    "NVIDIA RTX 5880 Ada Generation": (HardwareType.CUDA, 960),
    "NVIDIA GB10": (HardwareType.CUDA, 273),
    "T4 (16 GB)": (HardwareType.CUDA, 320),
    "H100 (80 GB)": (HardwareType.CUDA, 3350),
    "RX 7900 XT (20 GB)": (HardwareType.ROCM, 800),
    "AMD Radeon RX 7900 XT": (HardwareType.ROCM, 800),
    "Radeon 840M / 860M Graphics": (HardwareType.ROCM, 120),
    "Apple M1 Max": (HardwareType.METAL, 400),
    "Apple M1 Max (64 GB)": (HardwareType.METAL, 400),
    "Apple M4 Pro": (HardwareType.METAL, 273),
    "Apple M4 Pro (48 GB)": (HardwareType.METAL, 273),
    "Apple M4 Max (64 GB)": (HardwareType.METAL, 546),
    "Apple M5 Pro": (HardwareType.METAL, 307),
    "Intel Arc Graphics 130V/140V (integrated)": (HardwareType.XPU, 136.5),
    "Intel Alder Lake-P GT2 [Iris Xe Graphics] (integrated)": (HardwareType.XPU, 76.8),
}
#: Bits a weight by what the name of the quantization begins with, about as files have them.
_BITS = (
    (r"IQ1", 2.0), (r"IQ2|Q2_|AVQ2|2-bit", 2.7), (r"IQ3|Q3_", 3.6), (r"Q5_", 5.6), (r"Q6_", 6.6),
    (r"Q8_|8.?bit|INT8|FP8", 8.5), (r"F16|fp16", 16.0),
)  # fmt: skip
_USUAL_BITS = 4.85
_USUAL_BILLIONS = 8.0


def published_rows(shared_data: Path) -> list[dict[str, str]]:
    """Return the rows of `llama3_decode_speed.csv`."""
    with (shared_data / "llama3_decode_speed.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fitting_row(row: dict[str, str]) -> tuple[float, float, int, float]:
    """Return bytes a token, bytes/s, layers and seconds a token, as `fit_gpu` takes them.

    Llama 3 has 32 layers (8B) or 80 (70B).
    """
    return (
        float(row["file_bytes"]),
        float(row["memory_bandwidth_gb_s"]) * 1e9,
        80 if row["model"] == "70B" else 32,
        1 / float(row["decode_tokens_s"]),
    )


def community_model(row: dict[str, Any]) -> ModelMetadata:
    """Return what a row says of its model; the size follows from name and quantization.

    Some names say no size: such a model is taken for one of 8 billion parameters.
    """
    name, quantization = row["model"], row["quant"] or ""
    found = (bits for text in (quantization, name) for pattern, bits in _BITS
             if re.search(pattern, text, re.IGNORECASE))  # fmt: skip
    bits = next(found, _USUAL_BITS)
    sized = re.search(r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z])", name)
    if sized:
        total = float(sized[1]) * (1e9 if sized[2] in "bB" else 1e6)
    else:
        total = (row["params"] or _USUAL_BILLIONS) * 1e9
    mixture = re.search(r"(?<![A-Za-z\d])A(\d+(?:\.\d+)?)B", name)
    active = float(mixture[1]) * 1e9 if mixture else (row["active"] or 0) * 1e9
    return ModelMetadata(
        name,
        ModelType.GGUF,
        Path(name),
        int(total * bits / 8),
        parameter_count=int(total),
        active_parameter_count=int(active) if 0 < active < total else None,
        quantization=quantization,
        # Rows name no architecture; models of one size behave alike enough to be relatives.
        architecture="transformer",
        fingerprint=f"{name} {quantization}",
    )


@dataclass(frozen=True, slots=True)
class Replayed:
    """One run, predicted before it was seen (tokens/s, or seconds)."""

    hardware: str
    tier: str
    predicted: float
    low: float
    high: float
    actual: float

    @property
    def held(self) -> bool:
        return self.low <= self.actual <= self.high


def replay(rows: list[dict[str, Any]], level: float = 0.8) -> Iterator[Replayed]:
    """Predict each run with what was seen before it: speeds by machine, errors on all machines."""
    histories: dict[str, History] = {}
    errors = Calibrator()
    for row in rows:
        kind, bandwidth = COMMUNITY_DEVICES[row["hw"]]
        history = histories.setdefault(row["hw"], History())
        history.calibrator = errors
        forecast = estimate_speed(
            community_model(row),
            memory_bandwidth=bandwidth * 1e9,
            device=kind,
            engine=row["provider"],
            settings=f"ctx={row['ctx']} batch={row['batch']}",
            history=history,
            level=level,
        ).decode
        yield Replayed(
            row["hw"], forecast.tier, forecast.value, forecast.low, forecast.high, row["tps"]
        )
        history.add(
            Outcome(
                "throughput", forecast.tier, row["provider"], kind.value, forecast.subject,
                forecast.value, row["tps"], forecast.low, forecast.high, level, forecast.spread,
            )
        )  # fmt: skip


def replay_recorded(store: Store, hardware: str) -> Iterator[tuple[str, Replayed]]:
    """Predict what a store recorded again, each from what came before it; with its quantity."""
    reader = HistoryReader(store, now=lambda: datetime.now(UTC).replace(tzinfo=None).isoformat())
    history = History()
    for outcome in reader.read(hardware).outcomes:
        if outcome.quantity in LAWS and outcome.here:
            learned = history.learned(outcome.quantity, outcome.engine, outcome.device)
            found = learned.predict(outcome.subject)
            group = Group(outcome.quantity, found.tier, outcome.engine, outcome.device)
            low, high = history.calibrator.quantiles(group)
            centre = found.ln_seconds * (-1 if outcome.quantity in RATES else 1)
            again = Replayed(
                hardware, found.tier, math.exp(centre), math.exp(centre + low * found.spread),
                math.exp(centre + high * found.spread), outcome.actual,
            )  # fmt: skip
            yield outcome.quantity, again
            judged = replace(
                outcome, tier=found.tier, predicted=again.predicted, low=again.low,
                high=again.high, spread=found.spread, age_days=0.0,
            )  # fmt: skip
            history.add(judged)
        else:
            history.add(outcome)
