"""Shared fixtures: a home of its own for every test, and the real demo models."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from ravenxterm_lab.config import paths
from ravenxterm_lab.demo import missing

# Tests use ONNX Runtime in this process as an oracle; its telemetry is on unless this says no.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
# Read before any test moves the home: this is where `raven-lab demo --fetch-only` puts them.
_DEMO = Path(os.environ.get("RAVENXTERM_TEST_MODELS") or paths().models / "demo")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a RAVENXTERM_HOME of its own; it does not exist yet."""
    directory = tmp_path / "home"
    monkeypatch.setenv("RAVENXTERM_HOME", str(directory))
    return directory


@pytest.fixture(scope="session")
def demo_directory() -> Path:
    """Return the directory of the real demo models; they must be there."""
    wanted = missing(_DEMO)
    if wanted:
        names = ", ".join(model.name for model in wanted)
        pytest.fail(f"{_DEMO} lacks {names}: run `raven-lab demo --yes --fetch-only`")
    return _DEMO


@pytest.fixture
def shared_data() -> Path:
    """Return the directory of measured data beside the checkout, where there is one."""
    directory = SHARED / "data"
    if not directory.is_dir():
        pytest.skip("the measured data is not beside this checkout")
    return directory


@pytest.fixture(scope="session")
def files() -> ModuleType:
    """Return the writers of small real model files."""
    import model_files

    return model_files
