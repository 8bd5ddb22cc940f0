"""The views: data first, honest when empty, and no way to upload."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.plots import View, hardware, history, ranking
from ravenxterm_lab.plots.theme import COLOURS, CONFIG, Figure


@pytest.fixture
def manager(tmp_path: Path, home: Path) -> ModelManager:
    profile = HardwareProfile.detect(measure_bandwidth=False)
    return ModelManager(tmp_path / "none", workbench=Workbench(home, hardware=profile))


@pytest.fixture
def busy(manager: ModelManager) -> ModelManager:
    for index in range(6):
        manager.record_execution_metrics(
            f"model-{index % 2}",
            {"latency": 0.1 * (index + 1), "throughput": 10.0 + index, "success": index != 3},
            task_type="text_generation",
        )
    return manager


def test_history_draws_every_execution_and_says_how_many(busy: ModelManager) -> None:
    """One series a model, failures marked apart, sample count and window in the subtitle."""
    view = history(busy, metric="latency")
    assert view.data().height == 6
    drawn = {trace.name: len(trace.x) for trace in view.figure.data}
    assert drawn == {"model-0 (n = 3)": 3, "model-1 (n = 2)": 2, "failed": 1}
    assert "n = 6" in view.figure.layout.title.subtitle.text
    assert "(s)" in view.figure.layout.yaxis.title.text
    assert view.summary.startswith("6 executions of 2 models")
    assert busy.sql(view.sql, {"days": 30, "model": None, "task": None}).rows == 6


def test_history_can_be_narrowed(busy: ModelManager) -> None:
    """A model or a task restricts the rows; an unknown metric suggests."""
    assert history(busy, model="model-1").data().height == 3
    assert history(busy, task="embedding").data().height == 0
    with pytest.raises(RequirementError, match="throughput"):
        history(busy, metric="throughputt")


def test_not_measured_is_never_drawn_as_zero(manager: ModelManager) -> None:
    """A run without the metric leaves no point."""
    manager.record_execution_metrics("m", {"latency": 1.0})
    view = history(manager, metric="peak_memory")
    assert [len(trace.x) for trace in view.figure.data] == [0]


def test_empty_views_say_what_to_run(manager: ModelManager) -> None:
    """Without rows each view is a figure that names the next step."""
    for view in (history(manager), hardware(manager)):
        assert "manager.run" in view.summary
        assert view.figure.layout.title.subtitle.text == view.summary
    assert "feasible" in ranking(manager.get_model_recommendations("embedding")).summary


def test_hardware_draws_the_samples(manager: ModelManager) -> None:
    """Samples in the store come out as load and memory, with units."""
    manager._bench.monitoring.sample()
    manager._bench.monitoring.sample()
    view = hardware(manager)
    assert view.data().height == 2
    assert view.figure.layout.yaxis.title.text == "load (%)"
    assert "GiB" in view.figure.layout.yaxis2.title.text
    assert view.figure.data[0].name == "CPU load"


def test_each_gpu_has_a_line_and_the_machine_has_one(manager: ModelManager) -> None:
    """A sample of two GPUs is two rows, one point of the machine's lines and one of each GPU's."""
    from ravenxterm_lab.hardware import FakeGpu, FakeNvml
    from ravenxterm_lab.models.monitoring import Monitoring

    nvml = FakeNvml(FakeGpu(utilization=70), FakeGpu(utilization=20))
    monitoring = Monitoring(manager._bench, nvml=nvml)
    for _ in range(3):
        monitoring.sample()
    view = hardware(manager)
    assert view.data().height == 6
    points = {trace.name: list(trace.y) for trace in view.figure.data}
    assert points["GPU 0 load"] == [70.0] * 3
    assert points["GPU 1 load"] == [20.0] * 3
    assert len(points["memory used"]) == len(points["CPU load"]) == 3
    assert view.summary.startswith("3 samples")


def views(manager: ModelManager) -> list[View]:
    return [history(manager), hardware(manager), ranking(manager.get_model_recommendations("ocr"))]


def test_no_view_offers_to_upload(busy: ModelManager) -> None:
    """What the notebook receives has plotly's cloud button and logo switched off."""
    for view in views(busy):
        content = view._repr_mimebundle_()["application/vnd.plotly.v1+json"]
        assert content["config"]["showSendToCloud"] is False
        assert content["config"]["displaylogo"] is False
        assert content["config"]["plotlyServerURL"] == ""
    assert CONFIG["showSendToCloud"] is False


def test_a_view_is_small_and_reads_as_text(busy: ModelManager) -> None:
    """A figure carries no copy of plotly's default template, and its plain text is the summary."""
    import json

    for view in views(busy):
        bundle = view._repr_mimebundle_()
        assert len(json.dumps(bundle["application/vnd.plotly.v1+json"])) < 5000
        assert bundle["text/plain"] == view.summary


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_every_colour_stands_out_on_light_and_on_dark(background: str) -> None:
    """WCAG 2.2, 1.4.11: graphics have a contrast of 3:1 against their background."""
    for colour in COLOURS:
        light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_every_figure_is_of_the_kind_that_cannot_upload(busy: ModelManager) -> None:
    """No view hands out a bare plotly figure, whose button would be on."""
    assert all(isinstance(view.figure, Figure) for view in views(busy))
