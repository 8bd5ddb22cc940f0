"""History, success and distributions: every peak, exact counts, percentiles as good as told."""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import numpy as np
import polars as pl
import pytest

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.models import ModelManager
from ravenxterm_lab.plots import View, distributions, history, success
from ravenxterm_lab.plots.history_figure import draw
from ravenxterm_lab.plots.metrics import METRICS
from ravenxterm_lab.plots.success import _interval
from ravenxterm_lab.plots.window import Window
from ravenxterm_lab.quality import Interval
from ravenxterm_lab.store.rollups import GAMMA

YEAR = {"start": "2025-01-01", "end": "2026-01-01"}
IN_YEAR = "ts >= '2025-01-01' AND ts <= '2026-01-01'"


def points(view: View, what: str = "run") -> pl.DataFrame:
    return view.data().filter((pl.col("what") == what) & pl.col("ts").is_not_null())


def whole(view: View, what: str) -> pl.DataFrame:
    return view.data().filter((pl.col("what") == what) & pl.col("ts").is_null())


def test_few_executions_are_drawn_one_by_one(busy: ModelManager) -> None:
    """One series a model, failures in a strip of their own, never as a value of 0."""
    view = history(busy, metric="latency")
    assert sorted(points(view)["value"]) == pytest.approx([0.1, 0.2, 0.3, 0.5, 0.6])
    named = {trace.name: trace for trace in view.figure.data}
    assert len(named["model-0 (n = 3)"].x) == 3
    assert len(named["model-1 (n = 2)"].x) == 2
    failed = named["failed (n = 1)"]
    assert failed.yaxis == "y2"
    assert "(s)" in view.figure.layout.yaxis.title.text
    assert view.summary.startswith("6 executions of 2 models in the last 30 days, 5 successful")


def test_history_can_be_narrowed(busy: ModelManager) -> None:
    """A model or a task restricts the rows; nothing left says so; an unknown metric suggests."""
    only = history(busy, model="model-1").data()["series"].unique().to_list()
    assert only == ["model-1"]
    none = history(busy, task="embedding")
    assert none.data().is_empty()
    assert "No executions of embedding in the last 30 days: choose" in none.summary
    with pytest.raises(RequirementError, match="throughput"):
        history(busy, metric="throughputt")


def test_not_measured_is_never_drawn_as_zero(manager: ModelManager) -> None:
    """A run without the metric leaves no point, and the sentence says so."""
    manager.record_execution_metrics("m", {"latency": 1.0})
    view = history(manager, metric="peak_memory")
    drawn = [trace for trace in view.figure.data if trace.yaxis != "y2"]
    assert sum(len(trace.x) for trace in drawn) == 0
    assert "peak memory was not measured" in view.summary
    assert view.rows is not None
    assert "not measured" in view.rows.cells[0]


def test_a_run_that_was_stopped_is_no_failure(manager: ModelManager) -> None:
    """What the person stopped is told apart in the history, and counts in no success."""
    manager.record_execution_metrics("m", {"latency": 1.0})
    manager.record_execution_metrics(
        "m", {"success": False, "error": "stopped", "failure": "interrupted"}
    )
    view = history(manager, metric="latency")
    assert whole(view, "stopped")["runs"].to_list() == [1]
    assert whole(view, "failed").is_empty()
    assert success(manager).summary.startswith("Of 1 execution in the last 30 days, 100.0%")
    assert "1 more was stopped by you" in success(manager).summary


def test_no_peak_is_lost(year: ModelManager) -> None:
    """Of every series and column the first, last, least and greatest execution are drawn."""
    view = history(year, metric="latency", points=800, **YEAR)
    asked = view.parameters
    raw = year.sql(f"SELECT ts, model, latency FROM executions WHERE success AND {IN_YEAR}").pl()
    named = set(points(view)["series"].drop_nulls())
    assert len(named) == 7
    series = pl.when(pl.col("model").is_in(list(named))).then("model")
    column = (pl.col("ts").dt.epoch("us") - asked["first"]) // asked["width"]
    grouped = raw.with_columns(series.alias("series"), column.alias("column")).sort("ts")
    value = pl.col("latency")
    kept = grouped.group_by("series", "column").agg(
        first=value.first(), last=value.last(), least=value.min(), greatest=value.max()
    )
    expected = kept.unpivot(index=["series", "column"], value_name="value").select(
        "series", "column", "value"
    )
    drawn = points(view).select("series", column.alias("column"), "value")
    assert set(drawn.rows()) == set(expected.rows())
    assert len(drawn) < len(raw) / 5
    assert whole(view, "greatest")["value"].max() == raw["latency"].max()


def test_the_counts_are_exact(year: ModelManager) -> None:
    """Thinned or not, the executions in the window are counted one by one."""
    counted = year.sql(
        f"SELECT count(*) FILTER (success), count(*) FILTER (NOT success) FROM executions "
        f"WHERE {IN_YEAR}"
    ).fetchall()[0]
    view = history(year, metric="latency", points=800, **YEAR)
    assert (whole(view, "run")["runs"].sum(), whole(view, "failed")["runs"].sum()) == counted
    rates = success(year, **YEAR).data()
    assert (rates["succeeded"].sum(), rates["runs"].sum()) == (counted[0], sum(counted))


def quantile(year: ModelManager, metric: str, share: float) -> dict[str, float]:
    rows = year.sql(
        f"SELECT model, quantile_disc({metric}, {share}) FROM executions "
        f"WHERE success AND {IN_YEAR} GROUP BY model"
    ).fetchall()
    return dict(rows)


@pytest.mark.parametrize(("metric", "tail"), [("latency", 0.95), ("throughput", 0.05)])
def test_percentiles_of_days_come_from_histograms(
    year: ModelManager, metric: str, tail: float
) -> None:
    """From a day a value on the store's histograms answer, within the width of a bucket."""
    view = history(year, metric=metric, **YEAR)
    assert view.sql is not None
    assert "execution_histograms" in view.sql
    for what, share in (("p50", 0.5), ("tail", tail)):
        exact = quantile(year, metric, share)
        told = whole(view, what).drop_nulls("series")
        assert len(told) == 7
        for name, value in told["series", "value"].iter_rows():
            assert value == pytest.approx(exact[name], rel=GAMMA - 1)


def test_percentiles_of_other_metrics_are_exact(year: ModelManager) -> None:
    """Where there is no histogram, the executions themselves are asked."""
    view = history(year, metric="time_to_first_token", **YEAR)
    exact = dict(
        year.sql(
            f"SELECT model, quantile_cont(time_to_first_token, 0.95) FROM executions "
            f"WHERE success AND {IN_YEAR} GROUP BY model"
        ).fetchall()
    )
    for name, value in whole(view, "tail").drop_nulls("series")["series", "value"].iter_rows():
        assert value == pytest.approx(exact[name])


@pytest.mark.parametrize("metric", ["time_to_first_token", "peak_memory"])
def test_percentiles_of_very_many_executions_are_counted(
    year: ModelManager, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted by bucket, so that each is within the width of one, and no run is lost."""
    exactly = history(year, metric=metric, **YEAR)
    monkeypatch.setattr(import_module("ravenxterm_lab.plots.history"), "_MOST_EXACT", 1000)
    counted = history(year, metric=metric, **YEAR)
    assert exactly.sql != counted.sql
    for what, share in (("p50", 0.5), ("tail", 0.95)):
        exact = quantile(year, metric, share)
        told = whole(counted, what).drop_nulls("series")
        assert len(told) == 7
        for name, value in told["series", "value"].iter_rows():
            assert value == pytest.approx(exact[name], rel=GAMMA - 1)
        ours, theirs = (
            points(view, what).sort("series", "ts")["runs"].to_list() for view in (counted, exactly)
        )
        assert ours == theirs
        assert sum(ours) > 1000


def test_no_median_stands_before_the_first_execution(manager: ModelManager) -> None:
    """A value of a line stands among the executions that it sums up, however few hold an hour."""
    for index in range(30):
        manager.record_execution_metrics("m", {"latency": 1.0 + index / 100})
    view = history(manager, metric="latency")
    ran, lines = points(view)["ts"], points(view, "p50")
    assert len(lines) >= 1
    assert lines["ts"].is_between(ran.min(), ran.max()).all()
    (drawn,) = [trace for trace in view.figure.data if trace.meta == "m p50"]
    assert len(drawn.x) >= 1


def test_lines_need_enough_executions(busy: ModelManager) -> None:
    """A percentile of fewer than ten executions is not drawn."""
    lines = [trace for trace in history(busy).figure.data if "p50" in trace.meta]
    assert lines
    assert all(len(line.x) == 0 for line in lines)


@pytest.mark.parametrize("metric", ["latency", "peak_memory"])
def test_distributions_have_the_quantiles(year: ModelManager, metric: str) -> None:
    """Quantiles by model lie within a bucket of the exact ones, and shapes count every run."""
    view = distributions(year, metric=metric, **YEAR)
    frame = view.data().drop_nulls("series")
    for what, share in (("p5", 0.05), ("p50", 0.5), ("p99", 0.99)):
        exact = quantile(year, metric, share)
        told = frame.filter(pl.col("what") == what)
        for name, value in told["series", "value"].iter_rows():
            assert value == pytest.approx(exact[name], rel=GAMMA - 1)
    runs = year.sql(f"SELECT count({metric}) FROM executions WHERE success AND {IN_YEAR}")
    shape = view.data().filter(pl.col("what") == "shape")
    assert shape["runs"].sum() == runs.fetchall()[0][0]


def test_success_carries_its_interval(busy: ModelManager) -> None:
    """Wilson's interval of five in six is told, not the bare share."""
    assert "83.3% succeeded (95% interval 43.6% to 97.0%)" in success(busy).summary


def test_zooming_the_live_figure_asks_again(year: ModelManager) -> None:
    """Within an hour every execution is there; set back, the year is shown again."""
    live = history(year, metric="latency", points=800, **YEAR).live()
    drawn = sum(len(trace.x) for trace in live.data if trace.meta.endswith("points"))
    live.layout.xaxis.range = ("2025-06-02 10:00", "2025-06-02 12:30:00.1234")
    count = year.sql(
        "SELECT count(*) FROM executions "
        "WHERE ts BETWEEN '2025-06-02 10:00' AND '2025-06-02 12:30:00.1234'"
    ).fetchall()[0][0]
    shown = sum(
        len(trace.x)
        for trace in live.data
        if trace.meta.endswith("points") or trace.meta in {"failed", "stopped"}
    )
    assert shown == count > 0
    assert f"n = {count:,} execution" in live.layout.title.subtitle.text
    live.layout.xaxis.range = None
    again = sum(len(trace.x) for trace in live.data if trace.meta.endswith("points"))
    assert again == drawn
    assert "n = 30,000" in live.layout.title.subtitle.text
    live.close()


def test_a_throughput_is_of_tokens_or_of_items(busy: ModelManager) -> None:
    """The axis says what is counted, where that is the same for all; else it says both."""
    assert history(busy).figure.layout.title.text == "Throughput (tokens/s)"
    assert "tok/s" in history(busy).summary
    busy.record_execution_metrics("m", {"throughput": 55.0}, task_type="embedding")
    both = history(busy)
    assert both.figure.layout.title.text == "Throughput (tokens/s or items/s)"
    assert both.figure.layout.yaxis.title.text == "tokens/s or items/s"
    assert "to 55/s by model" in both.summary
    for task, title in (("text_generation", "tokens/s"), ("embedding", "items/s")):
        figure = distributions(busy, metric="throughput", task=task).figure
        assert figure.layout.xaxis.title.text == f"throughput ({title})"
    assert history(busy, metric="peak_memory").summary.count("memory") == 1
    # What counts other things is not called better.
    mixed = distributions(busy, metric="throughput").summary
    assert "11/s to 55/s by model, of tokens or of items, which do not compare" in mixed


def test_an_interval_is_told_finely_enough() -> None:
    """The ends of a narrow interval are not rounded to one another."""
    for ends in ((0.972_21, 0.972_47), (0.4, 0.9)):
        low, high = _interval(Interval(0.5, *ends, 0.95, 1))
        assert low != high
    assert _interval(Interval(1.0, 1.0, 1.0, 0.95, 1)) == ("100.000%", "100.000%")


def test_medians_lie_on_all_envelopes(year: ModelManager) -> None:
    """Where executions are thinned, no envelope is drawn over the median of another model."""
    drawn = [trace.meta for trace in history(year, points=800, **YEAR).figure.data]
    envelopes = [place for place, meta in enumerate(drawn) if meta.endswith("points")]
    medians = [place for place, meta in enumerate(drawn) if meta.endswith("p50")]
    assert len(envelopes) == len(medians) == 8
    assert max(envelopes) < min(medians)


def test_whole_days_are_told_without_a_time(year: ModelManager) -> None:
    """A window from midnight to midnight is told by its dates."""
    assert "from 2025-01-01 to 2026-01-01," in history(year, **YEAR).summary


def drawn_line(hours: list[float], what: str) -> Any:
    """Return the line of a made-up series with a value at each hour of a window of thinned ones."""
    times = [datetime(2026, 1, 1) + timedelta(hours=hour) for hour in hours]  # noqa: DTZ001 - UTC
    rows = [
        {"series": "m", "what": what, "ts": ts, "value": 1.0 + hour, "runs": 100, "text": None}
        for ts, hour in zip(times, hours, strict=True)
    ]
    window = Window(times[0], times[-1], "last 60 days")
    runs = {"run": 100 * len(hours), "failed": 0, "stopped": 0}
    figure = draw(pl.DataFrame(rows), METRICS["latency"], window, runs, thinned=True)
    meta = "m points" if what == "run" else f"m {what}"
    (line,) = (trace for trace in figure.data if trace.meta == meta)
    return line


def test_a_median_is_not_drawn_where_nothing_was_run() -> None:
    """Between two spells of executions with a month between them the line of the median breaks."""
    line = drawn_line([24.0 * day for day in [*range(1, 9), *range(40, 48)]], "p50")
    assert np.flatnonzero(np.isnan(line.y)).tolist() == [8]
    assert list(line.customdata) == [100] * 8 + [0] + [100] * 8


def test_an_envelope_breaks_where_nothing_was_run() -> None:
    """Four points a column stand unevenly; only a month without any breaks what they span."""
    rng = np.random.default_rng(0)
    hours = [
        hour + part
        for hour in [*range(200), *range(1000, 1200)]
        for part in sorted([0.0, *rng.uniform(0, 0.98, 2), 0.98])
    ]
    assert np.flatnonzero(np.isnan(drawn_line(hours, "run").y)).tolist() == [800]


def test_success_of_many_is_told_apart(year: ModelManager, busy: ModelManager) -> None:
    """Where hardly anything fails the axis begins above 0; where much may fail, at 0."""
    assert success(year, **YEAR).figure.layout.yaxis.range[0] > 30
    assert success(busy).figure.layout.yaxis.range[0] < 10
    # What lies within a moment has bars, and no band.
    assert success(busy).figure.layout.title.subtitle.text.endswith("<br>bars: 95% interval")
    lowest = float(min(min(trace.y) for trace in success(year, **YEAR).figure.data))
    least, greatest = success(year, **YEAR).figure.layout.yaxis.range
    assert least < lowest < greatest


def test_success_stands_in_the_middle_of_what_it_counts(
    busy: ModelManager, year: ModelManager
) -> None:
    """No point lies before the first execution or after the last, whole as the periods may be."""
    for manager, window in ((busy, {}), (year, YEAR)):
        frame = success(manager, **window).data()
        first, last = manager.sql("SELECT min(ts), max(ts) FROM executions").fetchall()[0]
        # The hourly counts know an hour's begin alone.
        begin = first if manager is busy else first.replace(minute=0, second=0, microsecond=0)
        assert begin <= frame["ts"].min() <= frame["ts"].max() <= last
