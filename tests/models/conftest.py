"""Managers for the tests: one on hand-made files with fake runtimes, one on the real models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench


@pytest.fixture(scope="session")
def profile() -> HardwareProfile:
    """Profile this machine once, with a bandwidth that needs no measurement."""
    return HardwareProfile.detect(measure_bandwidth=False)


@pytest.fixture
def real_models(demo_directory: Path, tmp_path: Path) -> Path:
    """Return a directory with the smallest real text and embedding models."""
    directory = tmp_path / "models"
    for folder in ("smollm2-135m-instruct", "all-minilm-l6-v2-int8"):
        shutil.copytree(demo_directory / folder, directory / folder, copy_function=_link)
    return directory


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(source)


@pytest.fixture
def manager(real_models: Path, home: Path, profile: HardwareProfile) -> Iterator[ModelManager]:
    """Return a manager on the real models, with a home of its own."""
    made = ModelManager(real_models, workbench=Workbench(home, hardware=profile), seed=0)
    yield made
    made.pool.close()
    made.store.close()
