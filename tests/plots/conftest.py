"""Managers to draw: an empty one, one with a few executions, and one with a made-up year."""

from __future__ import annotations

from pathlib import Path

import pytest
from history_loading import StoreLoading
from history_rows import chunks

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench

ROWS = 30_000
YEAR = {"start": "2025-01-01", "end": "2026-01-01"}


@pytest.fixture
def manager(tmp_path: Path, home: Path) -> ModelManager:
    """A manager without models and without a history."""
    profile = HardwareProfile.detect(measure_bandwidth=False)
    return ModelManager(tmp_path / "none", workbench=Workbench(home, hardware=profile))


@pytest.fixture
def busy(manager: ModelManager) -> ModelManager:
    """The same after six executions, one of which failed."""
    for index in range(6):
        manager.record_execution_metrics(
            f"model-{index % 2}",
            {"latency": 0.1 * (index + 1), "throughput": 10.0 + index, "success": index != 3},
            task_type="text_generation",
        )
    return manager


@pytest.fixture(scope="session")
def year_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store holds 30,000 executions of twenty models, over the year 2025."""
    home = tmp_path_factory.mktemp("year")
    loading = StoreLoading(home / "store")
    for chunk in chunks(ROWS, seed=1, size=10_000):
        loading.take(chunk)
    loading.finish()
    return home


@pytest.fixture
def year(year_home: Path, tmp_path: Path) -> ModelManager:
    """A manager on that store; it must only be read."""
    profile = HardwareProfile.detect(measure_bandwidth=False)
    return ModelManager(tmp_path / "none", workbench=Workbench(year_home, hardware=profile))
