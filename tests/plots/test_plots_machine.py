"""Hardware, memory and disk: what was measured, in its unit, and what was not."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.models.monitoring import Monitoring
from ravenxterm_lab.plots import disk, hardware, memory
from ravenxterm_lab.plots.gaps import with_gaps
from ravenxterm_lab.runtimes.fake import FakeRuntime


def traces(view: object) -> dict[str, list[float]]:
    return {trace.name: list(trace.y) for trace in view.figure.data}  # type: ignore[attr-defined]


def test_hardware_draws_the_samples(manager: ModelManager) -> None:
    """Samples come out as load and memory, each in a band with its unit."""
    for _ in range(2):
        manager._bench.monitoring.sample()
    # Between two real samples of a moment there may be no load to tell.
    manager._bench.record("hardware_samples", cpu_percent=5.0, memory_used=2**30)
    view = hardware(manager)
    figure = view.figure
    assert figure.layout.yaxis.title.text == "load (%)"
    assert figure.layout.yaxis2.title.text == "memory (GiB)"
    assert len(traces(view)["memory used"]) == 3
    assert view.summary.startswith("3 samples in the last 24 hours")
    assert "n = 3 samples, 0 executions" in figure.layout.title.subtitle.text


def test_what_is_not_measured_has_no_line(manager: ModelManager) -> None:
    """Without RAPL and GPU there is no band of power, and the sentence and table say so."""
    manager._bench.record("hardware_samples", cpu_percent=5.0, memory_used=2**30)
    view = hardware(manager)
    assert view.summary.endswith("not measured: CPU power, GPU.")
    assert not any("power" in (trace.name or "") for trace in view.figure.data)
    assert view.rows is not None
    assert ["CPU power", "0", *["not measured"] * 4] in [list(row) for row in view.rows.cells]


def test_each_gpu_has_a_line_and_the_machine_has_one(manager: ModelManager) -> None:
    """A sample of two GPUs is two rows, one point of the machine's lines and one of each GPU's."""
    nvml = FakeNvml(FakeGpu(utilization=70), FakeGpu(utilization=20))
    monitoring = Monitoring(manager._bench, nvml=nvml)
    for _ in range(3):
        monitoring.sample()
    view = hardware(manager)
    drawn = traces(view)
    assert drawn["GPU 0 load"] == [70.0] * 3
    assert drawn["GPU 1 load"] == [20.0] * 3
    assert len(drawn["memory used"]) == 3
    assert {"GPU 0 power", "GPU 1 temperature"} <= set(drawn)
    bands = [view.figure.layout[f"yaxis{n}"].title.text for n in ("", 2, 3, 4)]
    assert bands == ["load (%)", "memory (GiB)", "power (W)", "temp. (°C)"]
    assert view.summary.startswith("3 samples")


def test_executions_stand_on_the_same_axis(busy: ModelManager) -> None:
    """Each execution is a bar from its begin to its end, in the row of its model."""
    busy._bench.monitoring.sample()
    view = hardware(busy)
    bars = [trace for trace in view.figure.data if trace.meta.startswith("run of")]
    assert [bar.meta for bar in bars] == ["run of model-0", "run of model-1"]
    spans = bars[0].x.reshape(-1, 3)
    assert sorted(spans[:, 1] - spans[:, 0]) == pytest.approx([100.0, 300.0, 500.0])  # ms
    assert np.isnan(spans[:, 2]).all()
    assert view.figure.layout.xaxis.anchor == bars[0].yaxis


def test_a_line_breaks_where_nothing_was_sampled() -> None:
    """A pause of minutes between samples of a second is not drawn as if it was measured."""
    times = np.array([0.0, 1000, 2000, 90_000, 91_000])
    x, y = with_gaps(times, np.arange(5, dtype=np.float32))
    assert np.flatnonzero(np.isnan(y)).tolist() == [3]
    assert x.tolist() == [0, 1000, 2000, 2001, 90_000, 91_000]


def test_a_long_record_is_thinned_without_losing_a_peak(manager: ModelManager) -> None:
    """Three thousand samples become a few hundred points, and the one spike is among them."""
    for index in range(3000):
        load = 99.5 if index == 1234 else 10.0 + index % 7
        manager._bench.record("hardware_samples", cpu_percent=load, memory_used=2**30)
    view = hardware(manager, points=480)
    loads = view.data().filter((pl.col("what") == "cpu_percent") & pl.col("ts").is_not_null())
    assert len(loads) < 300
    assert loads["value"].max() == 99.5
    assert "n = 3,000 samples" in view.figure.layout.title.subtitle.text


def test_means_are_drawn_upon_what_is_thinned(manager: ModelManager) -> None:
    """Of thinned lines the envelopes are faint, and the means in the legend; of few, neither."""
    for index in range(3000):
        manager._bench.record("hardware_samples", cpu_percent=20.0 + 40 * (index % 2))
    figure = hardware(manager, points=480).figure
    envelope, mean = figure.data
    assert (envelope.meta, mean.meta) == ("cpu_percent", "mean cpu_percent")
    assert envelope.opacity < 0.5
    assert not envelope.showlegend
    assert set(envelope.y) == {20.0, 60.0}
    assert mean.showlegend is not False
    assert np.nanmean(mean.y) == pytest.approx(40, abs=2)
    assert "lines: means" in figure.layout.title.subtitle.text
    few = hardware(manager, points=20_000).figure
    assert [(trace.meta, trace.opacity) for trace in few.data] == [("cpu_percent", 1.0)]


def test_the_legend_goes_from_the_machine_to_its_gpus(manager: ModelManager) -> None:
    """Lines are told in the order of their bands, the machine's own first."""
    monitoring = Monitoring(manager._bench, nvml=FakeNvml(FakeGpu(utilization=70)))
    for _ in range(3):
        monitoring.sample()
    names = [trace.name for trace in hardware(manager).figure.data]
    assert names.index("CPU load") < names.index("GPU 0 load") < names.index("memory used")
    assert names.index("memory used") < names.index("GPU 0 memory used")
    assert names[-1] == "GPU 0 temperature"


def test_the_window_of_the_hardware(manager: ModelManager) -> None:
    """Samples outside of the window are not drawn, and an empty one says so."""
    manager._bench.monitoring.sample()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    view = hardware(manager, start=tomorrow, end=tomorrow + timedelta(hours=1))
    assert view.summary.startswith("No hardware samples from")


@pytest.fixture
def stocked(tmp_path: Path, home: Path, files: ModuleType) -> ModelManager:
    """A manager on two small models, one of them twice, with a runtime that plays a script."""
    directory = tmp_path / "models"
    directory.mkdir()
    files.gguf_file(directory / "small.gguf", layers=2, seed=0)
    files.gguf_file(directory / "large.gguf", layers=8, seed=1)
    (directory / "again").mkdir()
    shutil.copy(directory / "small.gguf", directory / "again" / "small.gguf")
    profile = HardwareProfile.detect(measure_bandwidth=False)
    bench = Workbench(home, hardware=profile, runtimes=[FakeRuntime("fake")])
    return ModelManager(directory, workbench=bench, seed=0)


def test_disk_shows_each_file_once_and_copies_apart(stocked: ModelManager) -> None:
    """Tiles add up to the bytes of the report; a copy is a tile of its own kind."""
    view = disk(stocked)
    frame, space = view.data(), stocked.registry.space()
    assert frame["bytes"].sum() == space.bytes
    copies = frame.filter(pl.col("state") == "copy")
    assert copies["bytes"].sum() == space.duplicate_bytes > 0
    tiles = view.figure.data[0]
    assert tiles.values[0] == space.bytes
    assert "2 models take" in view.summary


def test_memory_shows_what_is_loaded_and_what_is_left(stocked: ModelManager) -> None:
    """The bars of the pool are what the models really hold, and the headroom beside them."""
    stocked.run("text_generation", "hello")
    view, usage = memory(stocked), stocked.get_resource_usage()
    held = view.data().filter(pl.col("kind").is_in(["own memory", "mapped"]))
    assert held["bytes"].sum() == usage.memory_used_by_models
    assert {"headroom", "free"} <= set(view.data()["name"])
    assert "GiB" in view.figure.layout.xaxis.title.text
    assert view.summary.startswith("1 loaded model holds")
    stocked.close()


def test_no_two_lines_look_the_same(manager: ModelManager) -> None:
    """With three GPUs, colour and dash tell every line of a band apart."""
    nvml = FakeNvml(*(FakeGpu(utilization=10 * number) for number in range(3)))
    monitoring = Monitoring(manager._bench, nvml=nvml)
    monitoring.sample()
    monitoring.sample()
    looks: dict[str, list[tuple[str, str]]] = {}
    for trace in hardware(manager).figure.data:
        looks.setdefault(trace.yaxis, []).append((trace.line.color, trace.line.dash))
    assert all(len(set(band)) == len(band) for band in looks.values())
    assert max(map(len, looks.values())) == 5


def test_a_tile_keeps_its_colour_under_its_pattern(stocked: ModelManager) -> None:
    """A pattern lies over the colour, on which the text was chosen to be readable."""
    marker = disk(stocked).figure.data[0].marker
    assert marker.pattern.fillmode == "overlay"
    assert "x" in marker.pattern.shape
