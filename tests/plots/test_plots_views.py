"""What holds for every view: honest when empty, told in words, and no way to upload."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

import pytest

from ravenxterm_lab import plots
from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.plots import View
from ravenxterm_lab.plots.theme import CONFIG, Figure

PLOTLY = "application/vnd.plotly.v1+json"


def of_ranking(draw: Callable[..., View], manager: ModelManager) -> View:
    return draw(manager.get_model_recommendations("ocr"))


OVER_TIME: dict[str, Callable[[ModelManager], View]] = {
    "history": plots.history,
    "success": plots.success,
    "distributions": plots.distributions,
    "predictions": plots.predictions,
    "decisions": plots.decisions,
    "hardware": plots.hardware,
}
ALL: dict[str, Callable[[ModelManager], View]] = {
    **OVER_TIME,
    "memory": plots.memory,
    "disk": plots.disk,
    "ranking": partial(of_ranking, plots.ranking),
    "frontier": partial(of_ranking, plots.frontier),
}


def test_every_view_is_among_these_tests() -> None:
    """What the room exports, but for the two classes, is tested here; the names are sorted."""
    assert list(plots.__all__) == sorted(plots.__all__)
    assert set(plots.__all__) == {*ALL, "Rows", "View"} | ({"replay"} & set(plots.__all__))


@pytest.mark.parametrize("name", ALL)
def test_no_view_offers_to_upload(busy: ModelManager, name: str) -> None:
    """What the notebook receives has plotly's cloud button and logo switched off."""
    view = ALL[name](busy)
    assert isinstance(view.figure, Figure)
    config = view._repr_mimebundle_()[PLOTLY]["config"]
    assert config["showSendToCloud"] is False
    assert config["displaylogo"] is False
    assert config["plotlyServerURL"] == ""
    live = view.live()
    assert live._config == CONFIG
    assert live._repr_mimebundle_()["text/plain"] == view.summary
    live.close()


@pytest.mark.parametrize("name", ALL)
def test_a_view_is_small_and_reads_as_text(busy: ModelManager, name: str) -> None:
    """A figure carries no copy of plotly's default template, and its plain text is the summary."""
    view = ALL[name](busy)
    bundle = view._repr_mimebundle_()
    assert len(json.dumps(bundle[PLOTLY])) < 8000
    assert bundle["text/plain"] == view.summary
    assert view.summary
    assert "\n" not in view.summary


@pytest.mark.parametrize("name", OVER_TIME)
def test_empty_views_say_what_to_run(manager: ModelManager, name: str) -> None:
    """Without rows each view is a figure that says why, and names the next step."""
    view = OVER_TIME[name](manager)
    assert "manager." in view.summary
    assert view.figure.layout.title.subtitle.text.replace("<br>", " ") == view.summary
    assert view.rows is None
    assert len(view.figure.data) == 0
    assert view.data().is_empty()


def test_empty_views_of_objects_say_what_to_do(manager: ModelManager) -> None:
    """No model on disk, none loaded, none feasible: each is said with what to do."""
    assert plots.disk(manager).summary.startswith("No models yet: put models into")
    assert plots.memory(manager).summary.startswith("No model is loaded: put models into")
    ranked = manager.get_model_recommendations("embedding")
    for view in (plots.ranking(ranked), plots.frontier(ranked)):
        assert "manager.scan()" in view.summary


@pytest.mark.parametrize("name", OVER_TIME)
def test_the_query_can_be_asked_again(busy: ModelManager, name: str) -> None:
    """The SQL and its parameters give the frame that was drawn, row for row."""
    busy._bench.monitoring.sample()
    view = OVER_TIME[name](busy)
    assert view.sql is not None
    again = busy.sql(view.sql, view.parameters).pl()
    assert again.equals(view.data())


@pytest.mark.parametrize("name", ["history", "success", "distributions"])
def test_every_figure_states_count_and_window(busy: ModelManager, name: str) -> None:
    """The subtitle has the number of executions and the window; axes name their units."""
    figure = ALL[name](busy).figure
    assert "n = " in figure.layout.title.subtitle.text
    assert "last 30 days" in figure.layout.title.subtitle.text
    titles = [figure.layout.xaxis.title.text or "", figure.layout.yaxis.title.text or ""]
    assert any(re.search(r"\(s\)|\(%\)|/s", title) for title in titles)


@pytest.mark.parametrize("name", ["history", "success", "distributions", "decisions", "hardware"])
def test_a_figure_comes_with_its_table(busy: ModelManager, name: str) -> None:
    """Beside a figure its rows are text, escaped, in a region that the keyboard reaches."""
    busy.record_execution_metrics("<img src=x>", {"latency": 1.0, "throughput": 1.0})
    busy._bench.record("selections", selection="s", task="ocr", chosen="<img src=x>", reason="<b>")
    busy._bench.monitoring.sample()
    view = ALL[name](busy)
    assert view.rows is not None
    assert all(len(row) == len(view.rows.header) for row in view.rows.cells)
    html = view._html()
    assert "<img" not in html
    assert 'tabindex="0" role="region"' in html
    assert "<img" not in json.dumps(view._repr_mimebundle_()[PLOTLY])


def test_a_view_at_the_end_of_a_cell_is_figure_and_table(
    busy: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two outputs: the figure, and below it its sentence and its table."""
    shown: list[dict[str, object]] = []
    monkeypatch.setattr("IPython.display.publish_display_data", shown.append)
    plots.history(busy)._ipython_display_()
    assert [next(iter(data)) for data in shown] == [PLOTLY, "text/html"]
    assert "6 executions" in str(shown[1]["text/html"])


def test_windows_are_checked(busy: ModelManager) -> None:
    """A window must begin before its end, be readable, and be given in one way."""
    for wrong in (
        {"start": "2026-01-02", "end": "2026-01-01"},
        {"start": "yesterday"},
        {"days": 3, "start": "2026-01-01"},
        {"days": 0},
    ):
        with pytest.raises(RequirementError):
            plots.history(busy, **wrong)


def test_a_zone_is_honoured(year: ModelManager) -> None:
    """Times with a zone are taken to UTC, in which the store keeps them."""
    utc = plots.history(year, start="2025-06-01T00:00", end="2025-06-02T00:00")
    zoned = plots.history(year, start="2025-06-01T02:00+02:00", end="2025-06-01T20:00-04:00")
    assert zoned.data().equals(utc.data())


def test_marks_of_several_sizes_do_not_fade() -> None:
    """Left to itself plotly draws them at 70%, which takes their contrast from the colours."""
    manager = ModelManager.sample()
    views = [draw(manager) for draw in OVER_TIME.values()]
    views.append(plots.frontier(manager.get_model_recommendations("text_generation")))
    marks = [
        trace.marker
        for view in views
        for trace in view.figure.data
        if trace.type == "scatter" and not isinstance(trace.marker.size, int | float | None)
    ]
    assert len(marks) > len(views)
    assert {mark.opacity for mark in marks} == {1}
    manager.close()
