"""The monitor that records, and the energy of runs, with invented GPUs where it needs them."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import HardwareError
from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareProfile
from ravenxterm_lab.metadata import HardwareType
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.monitoring import Monitoring

RAPL = "sys/class/powercap/intel-rapl:0"


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so; a machine that is busy may take its time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


@pytest.fixture
def bench(home: Path, profile: HardwareProfile) -> Iterator[Workbench]:
    """A workbench with a home of its own and nothing in it."""
    made = Workbench(home, hardware=profile, runtimes=())
    yield made
    made.store.close()


@pytest.fixture
def empty(bench: Workbench, tmp_path: Path) -> ModelManager:
    """A manager without a model."""
    (tmp_path / "none").mkdir()
    return ModelManager(tmp_path / "none", workbench=bench)


def test_a_monitor_records_every_sample_until_it_is_stopped(empty: ModelManager) -> None:
    """What is in the store are the samples, with the fingerprint of the hardware."""
    with empty.monitor(0.1) as monitor:
        wait_for(lambda: len(monitor.samples) >= 3)
        assert monitor.recording
        assert empty.monitor(0.1) is monitor
    assert not monitor.recording
    rows = empty.sql(
        "SELECT hardware, process_memory, process_anonymous, process_file, memory_used "
        "FROM hardware_samples ORDER BY ts, gpu"
    ).fetchall()
    fingerprint = empty.registry.hardware_profile.fingerprint
    assert rows == [
        (
            fingerprint,
            row["process_memory"],
            row["process_anonymous"],
            row["process_file"],
            row["memory_used"],
        )
        for row in monitor.samples.rows()
    ]


def test_another_interval_is_another_monitor(empty: ModelManager) -> None:
    """The one before is stopped; an interval that is not allowed changes nothing."""
    first = empty.monitor(0.5)
    with pytest.raises(HardwareError, match="allowed are"):
        empty.monitor(0.01)
    assert first.running
    with empty.monitor(0.2) as second:
        assert second is not first
        assert (first.running, second.running) == (False, True)
        # The turn to record went over with it.
        wait_for(lambda: second.recording)


def test_a_monitor_ends_with_its_owner(empty: ModelManager) -> None:
    """The manager does not keep it: what is not held in a variable samples no more."""
    monitor = empty.monitor(0.2)
    reference = weakref.ref(monitor)
    assert monitor.running
    del monitor
    gc.collect()
    wait_for(lambda: reference() is None)
    assert empty._bench.monitoring.running is None


def test_one_process_of_a_machine_records(empty: ModelManager, home: Path) -> None:
    """A second one samples and says that it does not record, and takes over when the first ends."""
    code = (
        "import sys, time\n"
        "from ravenxterm_lab.hardware import HardwareProfile\n"
        "from ravenxterm_lab.models import Workbench\n"
        "bench = Workbench(sys.argv[1], hardware=HardwareProfile.detect(measure_bandwidth=False))\n"
        "with bench.monitoring.start(0.1) as monitor:\n"
        "    while not monitor.samples: time.sleep(0.01)\n"
        "    print(monitor.recording, flush=True)\n"
        "    input()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    with other:
        assert other.stdout.readline() == "True\n"
        with empty.monitor(0.1) as monitor:
            wait_for(lambda: len(monitor.samples) >= 3)
            assert not monitor.recording
            assert "Another process records" in monitor.notes[0]
            sessions = "SELECT count(DISTINCT session) FROM hardware_samples"
            assert empty.sql(sessions).fetchall() == [(1,)]
            other.communicate("\n")
            wait_for(lambda: monitor.recording)
            assert not any("Another process records" in note for note in monitor.notes)
    assert empty.sql(sessions).fetchall() == [(2,)]
    assert other.returncode == 0


def test_a_store_that_cannot_be_written_is_a_message(bench: Workbench) -> None:
    """The monitor goes on, and the person is told once."""
    bench.paths.home.mkdir(parents=True, exist_ok=True)
    bench.paths.store.write_text("a file in its place")
    with bench.monitoring.start(0.1) as monitor:
        wait_for(lambda: len(monitor.samples) >= 3)
    assert any("Not recorded" in str(message) for message in bench.messages)


def open_locks(home: Path) -> int:
    """Descriptors of this process on the monitor's lock; 0 where the system does not list them."""
    found = 0
    for link in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # a file of another thread, closed meanwhile
            found += link.readlink() == home / "monitor.lock"
    return found


def counters(root: Path, joules: float) -> None:
    zone = root / RAPL
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    (zone / "energy_uj").write_text(f"{round(joules * 1e6)}\n")


def test_the_energy_of_a_run_on_a_gpu_is_what_its_counter_went_up(bench: Workbench) -> None:
    """Two readings; a run on the processor does not count the GPU's."""
    card, other = FakeGpu(energy=1000.0), FakeGpu(energy=7.0)
    monitoring = Monitoring(bench, nvml=FakeNvml(card, other))
    gpu, cpu = monitoring.energy(HardwareType.CUDA), monitoring.energy(HardwareType.CPU)
    card.energy, other.energy = 1050.5, 8.0
    assert gpu.metrics()["energy"] == pytest.approx(51.5)
    assert "GPU 0 (NVML counter), GPU 1 (NVML counter)" in gpu.metrics()["energy_source"]
    assert not any("GPU" in source for source in cpu.so_far().sources)


def test_without_a_source_there_is_no_number(bench: Workbench) -> None:
    """No counter, no monitor: no metric, rather than a zero."""
    monitoring = Monitoring(bench, nvml=FakeNvml(FakeGpu(energy=None)))
    run = monitoring.energy(HardwareType.CUDA)
    if "energy" in run.metrics():
        pytest.skip("this machine has RAPL counters that may be read")
    assert run.metrics() == {}
    assert any("GPU 0: energy: not available" in note for note in monitoring.meter.notes)


def test_a_card_without_a_counter_is_integrated_while_a_monitor_runs(bench: Workbench) -> None:
    """Power × time, from the samples of the monitor and one more at the end."""
    monitoring = Monitoring(bench, nvml=FakeNvml(FakeGpu(energy=None, power=200.0)))
    with monitoring.start(0.1) as monitor:
        wait_for(lambda: len(monitor.samples) >= 2)
        begun = time.time()
        run = monitoring.energy(HardwareType.CUDA)
        time.sleep(0.4)
        energy = run.so_far()
        seconds = time.time() - begun
    assert energy.sources[-1] == "GPU 0 (power, integrated)"
    assert energy.joules is not None
    assert 200 * 0.4 <= energy.joules <= 200 * seconds * 1.01 or len(energy.sources) > 1


@pytest.mark.models
def test_a_run_with_energy_counters_records_its_joules(
    manager: ModelManager, tmp_path: Path
) -> None:
    """The counter of the processor goes up meanwhile: the metric, in row and card."""
    from ravenxterm_lab.hardware import EnergyMeter

    counters(tmp_path, 500.0)
    manager._bench.monitoring.meter = EnergyMeter(FakeNvml(), root=tmp_path)

    def more(_: str) -> None:
        counters(tmp_path, 512.5)

    run = manager.run(
        "text_generation",
        "What is the capital of France?",
        parameters={"max_tokens": 4, "temperature": 0.0},
        on_token=more,
    )
    assert run.energy == pytest.approx(12.5)
    assert "12.5 J" in str(run)
    rows = manager.sql("SELECT energy, extra->>'energy_source' FROM executions").fetchall()
    assert rows == [(pytest.approx(12.5), "CPU packages (RAPL)")]


def test_this_module_leaves_no_lock_behind(bench: Workbench) -> None:
    """A stopped monitor lets go of the file, also when it is started again."""
    monitor = bench.monitoring.start(0.1)
    wait_for(lambda: monitor.recording)
    for _ in range(3):
        monitor.stop()
        monitor.start()
        wait_for(lambda: monitor.recording)
    listed = Path("/proc/self/fd").is_dir()
    assert open_locks(bench.paths.home) == (1 if listed else 0)
    monitor.stop()
    assert open_locks(bench.paths.home) == 0
