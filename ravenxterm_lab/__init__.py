"""RavenXTerm Lab: find, size, choose, run and learn from the AI models on your own machine.

The main names are here; each is imported when it is first used, so that
``import ravenxterm_lab`` stays fast and loads none of pandas, polars, pyarrow,
plotly or ipywidgets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AccuracyPreference": "preferences",
    "AdaptiveModelSelector": "models",
    "HardwareProfile": "hardware",
    "HardwareType": "metadata",
    "ModelManager": "models",
    "ModelMetadata": "metadata",
    "ModelRegistry": "models",
    "ModelType": "metadata",
    "NoSuitableModelError": "exceptions",
    "PerformancePreference": "preferences",
    "RavenXTermError": "exceptions",
    "Recommendation": "models",
    "TaskRequirements": "requirements",
    "UserPreferences": "preferences",
}
_ROOMS = ("models", "plots", "widgets")

__all__ = [
    "AccuracyPreference",
    "AdaptiveModelSelector",
    "HardwareProfile",
    "HardwareType",
    "ModelManager",
    "ModelMetadata",
    "ModelRegistry",
    "ModelType",
    "NoSuitableModelError",
    "PerformancePreference",
    "RavenXTermError",
    "Recommendation",
    "TaskRequirements",
    "UserPreferences",
    "__version__",
    "load_ipython_extension",
]

if TYPE_CHECKING:
    from ravenxterm_lab.exceptions import NoSuitableModelError, RavenXTermError
    from ravenxterm_lab.hardware import HardwareProfile
    from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
    from ravenxterm_lab.models import (
        AdaptiveModelSelector,
        ModelManager,
        ModelRegistry,
        Recommendation,
    )
    from ravenxterm_lab.preferences import (
        AccuracyPreference,
        PerformancePreference,
        UserPreferences,
    )
    from ravenxterm_lab.requirements import TaskRequirements


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


def load_ipython_extension(ipython: Any) -> None:
    """Register the ``%raven`` and ``%%raven_sql`` magics (``%load_ext ravenxterm_lab``)."""
    from ravenxterm_lab import magics

    magics.register(ipython)
