"""Managers: one on small hand-made files with a scripted runtime, one on real models."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.runtimes.fake import FakeRuntime

GIB = 2**30


class StillMachine(HardwareProfile):
    """A profile that stays as it was made, so that the machine's load changes no ranking."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


@pytest.fixture(scope="session")
def still_machine() -> HardwareProfile:
    """A machine whose memory and bandwidth are the same for every test."""
    return StillMachine(
        cpu_architecture="x86_64",
        cpu_name="made up",
        cpu_cores=8,
        cpu_threads=16,
        instruction_sets=("avx2",),
        total_memory=16 * GIB,
        available_memory=12 * GIB,
        memory_bandwidth=40e9,
    )


@pytest.fixture(scope="session")
def writers() -> ModuleType:
    """The writers of small real model files, as the tests of the readers use them."""
    name = "ravenxterm_tests_model_files"
    if name not in sys.modules:
        path = Path(__file__).parent.parent / "readers" / "model_files.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def make_manager(
    tmp_path: Path, home: Path, writers: ModuleType, still_machine: HardwareProfile
) -> Iterator[Callable[..., ModelManager]]:
    """Return a maker of managers on GGUF files of the given names and numbers of layers."""
    made: list[ModelManager] = []

    def make(models: dict[str, int], runtime: FakeRuntime | None = None) -> ModelManager:
        directory = tmp_path / "models"
        directory.mkdir(exist_ok=True)
        for seed, (name, layers) in enumerate(models.items()):
            writers.gguf_file(directory / f"{name}.gguf", layers=layers, seed=seed)
        bench = Workbench(home, hardware=still_machine, runtimes=[runtime or FakeRuntime("fake")])
        made.append(ModelManager(directory, workbench=bench, seed=0))
        return made[-1]

    yield make
    for manager in made:
        manager.pool.close()
        manager.store.close()


@pytest.fixture
def manager(make_manager: Callable[..., ModelManager]) -> ModelManager:
    """A manager on a small and a large model."""
    return make_manager({"small": 2, "large": 40})


@pytest.fixture
def real_manager(demo_directory: Path, tmp_path: Path, home: Path) -> Iterator[ModelManager]:
    """A manager on one real model for each task whose input can be typed."""
    directory = tmp_path / "models"
    for folder in ("smollm2-135m-instruct", "all-minilm-l6-v2-int8", "lid-176"):
        shutil.copytree(
            demo_directory / folder,
            directory / folder,
            copy_function=lambda source, target: Path(target).symlink_to(source),
        )
    hardware = HardwareProfile.detect(measure_bandwidth=False)
    manager = ModelManager(directory, workbench=Workbench(home, hardware=hardware), seed=0)
    yield manager
    manager.pool.close()
    manager.store.close()
