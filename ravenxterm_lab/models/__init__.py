"""The seed document's API: registry, selector, manager, and the types that they speak in."""

from __future__ import annotations

from ravenxterm_lab.estimation import Calibration
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models.benchmark_report import BenchmarkReport
from ravenxterm_lab.models.estimate import Estimate, Estimates
from ravenxterm_lab.models.fallback import FallbackPlan
from ravenxterm_lab.models.history import PerformanceHistory
from ravenxterm_lab.models.importing import ImportedQuality
from ravenxterm_lab.models.manager import ModelManager
from ravenxterm_lab.models.progress import Progress
from ravenxterm_lab.models.registry import ModelRegistry, ScanReport
from ravenxterm_lab.models.run_report import RunReport
from ravenxterm_lab.models.selector import AdaptiveModelSelector
from ravenxterm_lab.models.space import SpaceReport
from ravenxterm_lab.models.status import ResourceUsage, SystemStatus
from ravenxterm_lab.models.trash_report import TrashReport
from ravenxterm_lab.models.warming import LoadedReport
from ravenxterm_lab.models.workbench import Workbench
from ravenxterm_lab.preferences import AccuracyPreference, PerformancePreference, UserPreferences
from ravenxterm_lab.selection import Recommendation, Recommendations

__all__ = [
    "AccuracyPreference",
    "AdaptiveModelSelector",
    "BenchmarkReport",
    "Calibration",
    "Estimate",
    "Estimates",
    "FallbackPlan",
    "HardwareProfile",
    "HardwareType",
    "ImportedQuality",
    "LoadedReport",
    "ModelManager",
    "ModelMetadata",
    "ModelRegistry",
    "ModelType",
    "PerformanceHistory",
    "PerformancePreference",
    "Progress",
    "Recommendation",
    "Recommendations",
    "ResourceUsage",
    "RunReport",
    "ScanReport",
    "SpaceReport",
    "SystemStatus",
    "TrashReport",
    "UserPreferences",
    "Workbench",
]
