"""Budgets for each device of a machine: what NVML tells, what is predicted, what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.estimation import estimate_memory
from ravenxterm_lab.estimation.devices import GPU_RESERVE
from ravenxterm_lab.exceptions import FailureKind, RuntimeFailureError
from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import ModelManager, Workbench, budgeting
from ravenxterm_lab.models.budgeting import bytes_on_gpus, device_budgets, device_bytes
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.fake import FakeModel, FakeRuntime

GIB = 2**30


@pytest.fixture(autouse=True)
def always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask the made-up driver each time: a test changes what it tells."""
    monkeypatch.setattr(budgeting, "_FRESH_SECONDS", -1.0)


ON_GPU = LoadOptions(device=HardwareType.CUDA, context_length=2048)


def made(name: str = "m", size: int = 6 * GIB) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), size, task_types=("text_generation",),
        runtimes=("fake",), fingerprint=f"of {name}", quantization="Q8_0", architecture="llama",
        parameter_count=size, context_length=8192, embedding_length=1024,
        vocabulary_size=32_000, attention=AttentionGeometry((8,) * 16, 64, 64),
        tensor_bytes={"Q8_0": size},
    )  # fmt: skip


class Carded(HardwareProfile):
    """A machine with invented cards, which are asked again at each look."""

    nvml: FakeNvml

    def refreshed(self, **_: Any) -> HardwareProfile:
        return super().refreshed(nvml=self.nvml)


class Process(FakeModel):
    """A fake in a process of a number, which holds what the test's card says."""

    number = 4242

    @property
    def pid(self) -> int:
        return self.number


class Runtime(FakeRuntime):
    """Loads a model into a made-up process, and lets the test know."""

    loaded: Callable[[ModelMetadata, int], None] = staticmethod(lambda model, pid: None)

    def load(self, model: ModelMetadata, options: LoadOptions | None = None) -> LoadedModel:
        plain = super().load(model, options)
        assert isinstance(plain, FakeModel)
        process = Process(self, model, plain.options, plain.report, self._script)
        process.number = 4241 + len(self.loads)
        self.loaded(model, process.number)
        return process


def bench_of(home: Path, *cards: FakeGpu) -> tuple[Workbench, FakeNvml]:
    nvml = FakeNvml(*cards)
    found = HardwareProfile.detect(measure_bandwidth=False, nvml=nvml)
    values = {name: getattr(found, name) for name in found.__dataclass_fields__}
    machine = Carded(**values)
    object.__setattr__(machine, "nvml", nvml)
    return Workbench(home, hardware=machine, runtimes=[Runtime(memory_bytes=lambda m: 0)]), nvml


def close(bench: Workbench) -> None:
    bench.pool.close()
    bench.store.close()


def test_each_gpu_has_a_budget_of_its_own(home: Path) -> None:
    """It is the share of its memory, and no more than is free there with what is ours."""
    bench, nvml = bench_of(
        home,
        FakeGpu(total_memory=24 * GIB, used_memory=2 * GIB),
        FakeGpu(total_memory=10 * GIB, used_memory=8 * GIB),
    )
    share = bench.preferences.max_memory_usage
    budgets = device_budgets(bench)
    assert list(budgets) == ["RAM", "GPU 0", "GPU 1"]
    assert budgets["GPU 0"] == int(24 * GIB * share)
    assert budgets["GPU 1"] == 2 * GIB
    assert 0 < budgets["RAM"] == bench.load_budget() <= bench.hardware.total_memory
    nvml.gpus[1].used_memory = 3 * GIB
    assert device_budgets(bench)["GPU 1"] == 7 * GIB
    close(bench)


def test_memory_that_a_gpu_shares_is_counted_once(home: Path) -> None:
    """A GPU without memory of its own has no budget, and what lies there is host memory."""
    bench, _ = bench_of(home, FakeGpu(failures={"nvmlDeviceGetMemoryInfo": 3}))
    assert bench.hardware.gpu_devices[0].unified_memory
    assert list(device_budgets(bench)) == ["RAM"]
    forecast = bench.estimator.memory(made(), ON_GPU)
    assert len(forecast.devices) == 2
    assert forecast.devices[1].total_bytes > 6 * GIB
    assert device_bytes(bench.hardware, forecast, ON_GPU) == {"RAM": forecast.total_bytes}
    close(bench)


def test_a_load_is_predicted_device_by_device(home: Path) -> None:
    """Shares of both cards, the driver's own on each; together with the host they are the whole."""
    bench, _ = bench_of(home, *[FakeGpu(total_memory=24 * GIB) for _ in range(2)])
    memory = bench.estimator.memory(made(), ON_GPU)
    found = device_bytes(bench.hardware, memory, ON_GPU)
    assert found is not None
    assert list(found) == ["RAM", "GPU 0", "GPU 1"]
    assert sum(found.values()) - 2 * GPU_RESERVE == memory.total_bytes
    assert found["GPU 0"] == memory.devices[1].total_bytes + GPU_RESERVE
    assert found["RAM"] == memory.devices[0].total_bytes
    on_cpu = replace(ON_GPU, device=HardwareType.CPU)
    alone = bench.estimator.memory(made(), on_cpu)
    assert device_bytes(bench.hardware, alone, on_cpu) == {"RAM": alone.total_bytes}
    unknown = estimate_memory(replace(made(), attention=None, tensor_bytes={}))
    assert unknown.total_bytes is None
    assert device_bytes(bench.hardware, unknown, on_cpu) is None
    close(bench)


def test_a_full_card_makes_room_and_what_it_really_holds_is_reported(home: Path) -> None:
    """Two models of 6 GiB on a card of 12: the idle one goes; usage shows what NVML tells."""
    bench, nvml = bench_of(home, FakeGpu(total_memory=12 * GIB, used_memory=GIB))
    card, runtime = nvml.gpus[0], bench.runtimes[0]
    assert isinstance(runtime, Runtime)
    bench.preferences = bench.preferences.updated(max_memory_usage=0.9)

    def put(model: ModelMetadata, pid: int) -> None:
        card.processes, card.used_memory = ((pid, 7 * GIB), (1, GIB)), 8 * GIB

    runtime.loaded = put  # type: ignore[method-assign]
    manager = ModelManager([], workbench=bench)
    bench.preferences = bench.preferences.updated(max_memory_usage=0.9)
    with manager.pool.acquire(runtime, made("first"), ON_GPU):
        host, gpu = manager.get_resource_usage().devices
        assert (host.device, gpu.device, gpu.name) == ("RAM", "GPU 0", "NVIDIA Invented 24GB")
        assert gpu.total_bytes == 12 * GIB
        assert gpu.budget_bytes == int(12 * GIB * 0.9)
        assert gpu.held_bytes == 7 * GIB
        assert gpu.headroom_bytes == gpu.budget_bytes - 7 * GIB
        assert bytes_on_gpus(bench) == {4242: {"GPU 0": 7 * GIB}, 1: {"GPU 0": GIB}}
        with (
            pytest.raises(RuntimeFailureError, match="on GPU 0, and the budget") as caught,
            manager.pool.acquire(runtime, made("second"), ON_GPU),
        ):
            pass
        assert caught.value.kind is FailureKind.OUT_OF_MEMORY
        assert "first" in str(caught.value)
        text = manager.get_resource_usage()._repr_mimebundle_()["text/html"]
        assert "GPU 0 (NVIDIA Invented 24GB)" in text
        assert "7.0 GiB" in text
    with manager.pool.acquire(runtime, made("second"), ON_GPU):
        assert runtime.unloads == ["first"]
    # A driver that keeps it to itself, as in some containers: what was reserved counts.
    card.processes = ((4243, None),)
    reserved = device_bytes(bench.hardware, bench.estimator.memory(made(), ON_GPU), ON_GPU)
    assert reserved is not None
    assert manager.get_resource_usage().devices[1].held_bytes == reserved["GPU 0"]
    close(bench)


def test_a_machine_without_gpus_shows_one_device(home: Path) -> None:
    """The figures of host memory are the same as ever, and no table of devices is drawn."""
    bench, _ = bench_of(home)
    usage = ModelManager([], workbench=bench).get_resource_usage()
    (host,) = usage.devices
    assert host.held_bytes == usage.memory_used_by_models == 0
    assert host.budget_bytes == usage.memory_budget
    assert host.headroom_bytes == usage.memory_headroom
    assert "models hold</th>" not in usage._repr_mimebundle_()["text/html"]
    close(bench)


def test_one_load_asks_the_driver_few_times(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading serves for all questions of one moment."""
    bench, nvml = bench_of(home, FakeGpu())
    monkeypatch.setattr(budgeting, "_FRESH_SECONDS", 3600.0)
    device_budgets(bench)
    asked = nvml.calls["nvmlDeviceGetComputeRunningProcesses"]
    for _ in range(5):
        bytes_on_gpus(bench)
    assert nvml.calls["nvmlDeviceGetComputeRunningProcesses"] == asked
    monkeypatch.setattr(budgeting, "_FRESH_SECONDS", -1.0)
    bytes_on_gpus(bench)
    assert nvml.calls["nvmlDeviceGetComputeRunningProcesses"] == asked + 1
    close(bench)
