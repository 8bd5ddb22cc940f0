"""The view of a replay: every decision then and now, the gain added up, and no way to upload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from replay_month import Month

from ravenxterm_lab.models.replay_report import Replay
from ravenxterm_lab.plots import replay
from ravenxterm_lab.plots.theme import Figure


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    with pytest.MonkeyPatch.context() as patch:
        month = Month(tmp_path_factory.mktemp("month"), patch, days=6.0)
        month.go_on(30, hours=4.0)
        yield month.manager.replay(preferences={"performance_mode": "speed"}, progress=False)
        month.bench.store.close()


def test_every_decision_is_drawn_once_or_as_a_pair(result: Replay) -> None:
    """What stays the same is one point, what changes two; the gain ends at the sum."""
    view = replay(result)
    assert isinstance(view.figure, Figure)
    kept, then, now, gain = view.figure.data
    assert len(then.x) == len(now.x) == result.changed > 0
    assert len(kept.x) == len(result) - result.changed
    total = sum((row.utility_now or 0.0) - (row.utility_then or 0.0) for row in result.rows)
    assert gain.y[-1] == pytest.approx(total)
    moved = [row for row in result.rows if row.changed]
    assert list(now.y) == [row.now for row in moved]
    assert "faster" in "".join(now.text)


def test_title_subtitle_and_table_say_what_it_is(result: Replay) -> None:
    """The setting, how many decisions, the gain with its interval; the table adds up to all."""
    view = replay(result)
    assert "performance_mode=speed" in view.figure.layout.title.text
    assert f"n = {len(result)} decisions" in view.figure.layout.title.subtitle.text
    assert "95%" in view.figure.layout.title.subtitle.text
    assert view.summary == result.summary
    assert view.data().height == len(result)
    assert view.rows is not None
    for column in (1, 2):
        assert sum(int(row[column]) for row in view.rows.cells) == len(result)
    assert view.figure._repr_mimebundle_()["application/vnd.plotly.v1+json"]["config"] == {
        "showSendToCloud": False, "displaylogo": False, "plotlyServerURL": "",
    }  # fmt: skip


def test_an_empty_replay_is_a_figure_that_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing recorded, nothing drawn."""
    month = Month(tmp_path, monkeypatch)
    view = replay(month.manager.replay())
    assert "manager.run" in view.summary
    assert len(view.figure.data) == 0
    month.bench.store.close()
