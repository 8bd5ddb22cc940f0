"""FIT and SPEED: what a model will take on this machine, and how fast it will be.

The one estimator: the registry, the selector, the loader and the views call it.
"""

from __future__ import annotations

from ravenxterm_lab.estimation.calibration import Calibration, CalibrationRow, read_calibration
from ravenxterm_lab.estimation.devices import DeviceMemory
from ravenxterm_lab.estimation.estimator import Estimator, MemoryForecast
from ravenxterm_lab.estimation.forecast import Forecast, SpeedEstimate
from ravenxterm_lab.estimation.history import History
from ravenxterm_lab.estimation.kv import kv_cache_bytes
from ravenxterm_lab.estimation.memory import MemoryEstimate, estimate_memory
from ravenxterm_lab.estimation.page_cache import cached_share
from ravenxterm_lab.estimation.recall import HistoryReader, basis_of
from ravenxterm_lab.estimation.search import Offload, best_offload, largest_context
from ravenxterm_lab.estimation.speed import estimate_speed, model_key
from ravenxterm_lab.estimation.verdict import SAFETY_FACTOR, Verdict, judge
from ravenxterm_lab.estimation.weights import active_bytes

__all__ = [
    "SAFETY_FACTOR",
    "Calibration",
    "CalibrationRow",
    "DeviceMemory",
    "Estimator",
    "Forecast",
    "History",
    "HistoryReader",
    "MemoryEstimate",
    "MemoryForecast",
    "Offload",
    "SpeedEstimate",
    "Verdict",
    "active_bytes",
    "basis_of",
    "best_offload",
    "cached_share",
    "estimate_memory",
    "estimate_speed",
    "judge",
    "kv_cache_bytes",
    "largest_context",
    "model_key",
    "read_calibration",
]
