"""Predictions, decisions, and the frontier of a ranking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.plots import decisions, frontier, predictions, ranking
from ravenxterm_lab.plots.frontier import _beats
from ravenxterm_lab.plots.frontier_names import _short, place_names
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import Recommendations


@pytest.fixture
def told(manager: ModelManager) -> ModelManager:
    """Four predictions of throughput, of two tiers, three of them within their intervals."""
    for tier, predicted, actual in (
        ("measured", 10.0, 11.0),
        ("measured", 20.0, 19.0),
        ("roofline", 10.0, 30.0),
        ("roofline", 40.0, 44.0),
    ):
        manager._bench.record(
            "predictions", quantity="throughput", model="m", tier=tier, predicted=predicted,
            low=predicted * 0.8, high=predicted * 1.25, actual=actual, level=0.9,
        )  # fmt: skip
    manager._bench.record("predictions", quantity="throughput", predicted=5.0, tier="measured")
    return manager


def test_predictions_are_held_against_outcomes(told: ModelManager) -> None:
    """A series a tier on two equal axes, with error and coverage; without an outcome, none."""
    view = predictions(told)
    counts = {trace.name: len(trace.x) for trace in view.figure.data[1:]}
    assert counts == {"measured (n = 2)": 2, "roofline (n = 2)": 2}
    assert view.figure.layout.xaxis.range == view.figure.layout.yaxis.range
    assert "Half of 4 predictions of throughput" in view.summary
    assert "75% came within their interval, which was made to hold 90%" in view.summary
    assert view.figure.layout.xaxis.title.text == "predicted (tokens/s or items/s)"
    assert view.rows is not None
    assert [row[0] for row in view.rows.cells] == ["measured", "roofline", "all"]
    # |ln(11 / 10)| and |ln(44 / 40)| lie in the middle of the four: 10 %.
    assert view.rows.cells[-1][2] == "10.0%"


def test_predictions_that_fall_on_one_pixel_are_one_mark(manager: ModelManager) -> None:
    """A thousand equal predictions are drawn once, and counted."""
    for _ in range(1000):
        manager._bench.record(
            "predictions", quantity="load_seconds", model="m", tier="t", predicted=1.0, actual=1.1
        )
    view = predictions(manager, quantity="load_seconds")
    (marks,) = view.figure.data[1:]
    assert len(marks.x) == 1
    assert marks.name == "t (n = 1,000)"
    assert "intervals were not told" in view.summary


def test_marks_of_many_predictions_count_them(manager: ModelManager) -> None:
    """Where more of them lie a mark is larger; a rare tier lies on top as small marks."""
    for number in range(1200):
        manager._bench.record(
            "predictions", quantity="throughput", model="m",
            tier="rare" if number < 12 else "often",
            predicted=10.0 if number % 4 else 50.0, actual=20.0,
        )  # fmt: skip
    often, rare = predictions(manager).figure.data[1:]
    assert often.name == "often (n = 1,188)"
    assert len(often.x) == len(rare.x) == 2
    small, large = sorted(often.marker.size)
    assert large / small == pytest.approx(3**0.5, rel=0.05)
    assert max(rare.marker.size) <= small


def test_a_throughput_says_what_its_task_counts(busy: ModelManager) -> None:
    """Where every execution counts tokens, so do the axes of the predictions."""
    busy._bench.record(
        "predictions", quantity="throughput", model="m", tier="measured", predicted=10.0,
        actual=11.0, task="text_generation",
    )  # fmt: skip
    assert predictions(busy).figure.layout.yaxis.title.text == "measured (tokens/s)"


def test_an_unknown_quantity_suggests(manager: ModelManager) -> None:
    """Quantities that are not predicted are an error that names the nearest."""
    with pytest.raises(RequirementError, match="peak_memory"):
        predictions(manager, quantity="peak_memoryy")


def test_decisions_tell_their_reasons(manager: ModelManager) -> None:
    """A row a chosen model, a series a task, and the recorded reason on hover."""
    for task, chosen, reason in (
        ("text_generation", "a", "a is <fast> " * 20),
        ("text_generation", "a", "second"),
        ("embedding", "b", "only one"),
        ("embedding", None, "nothing fits"),
    ):
        manager._bench.record(
            "selections", selection="s", task=task, chosen=chosen, reason=reason, probability=0.75,
            policy="thompson",
        )  # fmt: skip
    view = decisions(manager)
    named = {trace.name: trace for trace in view.figure.data}
    assert set(named) == {"embedding (n = 2)", "text generation (n = 2)"}
    first = named["text generation (n = 2)"].text[0]
    assert "a is &lt;fast&gt; a is" in first
    assert "<br>" in first
    assert "chosen with probability 75% by thompson" in first
    assert list(named["embedding (n = 2)"].y) == ["b", "none was feasible"]
    assert view.summary == "4 decisions in the last 30 days; a was chosen in 2 of them (50%)."
    assert len(decisions(manager, task="embedding").data()) == 2


def test_many_decisions_are_counted_by_column(manager: ModelManager) -> None:
    """Two thousand decisions are counted in full, in marks whose area tells how many."""
    for number in range(2000):
        manager._bench.record(
            "selections", selection="s", task=f"t{number % 2}", reason=str(number),
            chosen="b" if number % 10 == 0 else "a",
        )  # fmt: skip
    view = decisions(manager)
    frame = view.data()
    assert frame["decisions"].sum() == 2000
    assert len(frame) <= 2 * 61
    assert frame["reason"][-1] == "1999"
    (marks,) = view.figure.data
    assert marks.name == "all tasks (n = 2,000)"
    most = frame["decisions"].max()
    assert f"at most {most:,}" in view.figure.layout.title.subtitle.text
    assert max(marks.marker.size) > 2 * min(marks.marker.size)
    (one,) = decisions(manager, task="t0").figure.data
    assert one.name == "t0 (n = 1,000)"


@pytest.fixture
def ranked(tmp_path: Path, home: Path, files: ModuleType) -> ModelManager:
    """A manager on three models of different size."""
    directory = tmp_path / "models"
    directory.mkdir()
    for seed, layers in enumerate((2, 8, 40)):
        files.gguf_file(directory / f"layers-{layers}.gguf", layers=layers, seed=seed)
    profile = HardwareProfile.detect(measure_bandwidth=False)
    profile = replace(profile, memory_bandwidth=20e9)
    bench = Workbench(home, hardware=profile, runtimes=[FakeRuntime("fake")])
    return ModelManager(directory, workbench=bench, seed=0)


def test_the_frontier_marks_what_nothing_beats(ranked: ModelManager) -> None:
    """The preferred point is a star; a quality that was not measured is hollow and said so."""
    ranking_ = ranked.get_model_recommendations("text_generation")
    view = frontier(ranking_)
    frame = view.data()
    assert frame["model"][0] == ranking_[0].model.name
    front = frame["on_front"].sum()
    assert front > 0
    verb = "is" if front == 1 else "are"
    assert view.summary.endswith(f"{front} of 3 feasible candidates {verb} on the front.")
    star = next(trace for trace in view.figure.data if trace.name.startswith("preferred"))
    assert list(star.marker.symbol) == ["star-open"]
    assert "quality not measured (prior" in view.summary
    assert "tok/s" in view.figure.layout.xaxis.title.text
    fastest = max(ranking_, key=lambda item: item.decode_rate).model.name
    assert frame.filter(frame["model"] == fastest)["on_front"].item()
    assert view.sql is None


def test_beating_needs_all_three() -> None:
    """Faster and better, but larger, beats nothing; what takes unknown memory is no smaller."""
    small = {"speed": 10.0, "quality": 0.5, "memory": 100}
    large = {"speed": 20.0, "quality": 0.6, "memory": 200}
    assert not _beats(large, small)
    assert _beats({**large, "memory": 100}, small)
    assert not _beats({**large, "memory": None}, small)
    assert not _beats(small, small)


def test_names_of_the_frontier_do_not_lie_on_each_other() -> None:
    """Every name has a place of its own beside its mark, the better ranked first; or none."""
    near = [
        {"rank": rank, "model": f"model-{rank}-instruct", "speed": 30.0 + rank / 10,
         "quality": 0.5, "memory": 2**28, "speed_low": 28.0, "speed_high": 34.0,
         "quality_low": 0.4, "quality_high": 0.6}
        for rank in range(1, 9)
    ]  # fmt: skip
    placed = place_names(near, 10.0, 100.0, 2**28)
    assert 1 in placed
    names = {rank: text for rank, (text, _) in placed.items() if not text.startswith("#")}
    assert 0 < len(names) < len(near)
    assert len({position for _, position in placed.values()}) == len(placed)
    apart = [{**row, "quality": row["rank"] / 10} for row in near]
    assert len(place_names(apart, 10.0, 100.0, 2**28)) == len(near)
    assert placed[1][0] == "model-1-instruct"


def test_no_bar_strikes_through_a_name_that_has_another_place() -> None:
    """With bars as long as both axes, a name stands in a corner beside them."""
    alone = {
        "rank": 1, "model": "model", "speed": 30.0, "quality": 0.5, "memory": 2**28,
        "speed_low": 10.0, "speed_high": 100.0, "quality_low": 0.0, "quality_high": 1.0,
    }  # fmt: skip
    ((text, position),) = place_names([alone], 10.0, 100.0, 2**28).values()
    assert (text, position) == ("model", "top right")


def test_no_name_is_read_as_that_of_another_mark() -> None:
    """Where the places free of bars are nearer to a neighbour, a name keeps to its own mark."""
    bars = {"speed_low": 10.0, "speed_high": 100.0, "quality_low": 0.0, "quality_high": 1.0}
    row = [
        {"rank": rank, "model": f"{rank}-model", "speed": speed, "quality": 0.5,
         "memory": 2**28, **bars}
        for rank, speed in ((1, 30.6), (2, 20.0), (3, 46.8))
    ]  # fmt: skip
    places = {rank: place for rank, (_, place) in place_names(row, 10.0, 100.0, 2**28).items()}
    assert places == {1: "top center", 2: "top left", 3: "top right"}


def test_a_family_of_models_is_told_by_what_differs() -> None:
    """Names that begin alike are cut at a mark between words; others are told in full."""
    names = ["SmolLM2-135M-Instruct.Q4_0", "SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m.Q4_K_M"]
    assert _short(names) == ["…Q4_0", "…Q4_1", "gemma-3-270m.Q4_K_M"]
    assert _short(["alone"]) == ["alone"]
    assert _short(["the-same-model", "the-same-model"]) == ["the-same-model"] * 2


def test_a_mark_without_room_for_its_name_has_its_rank(ranked: ModelManager) -> None:
    """Where names would lie on each other, the rank stands for one, and the title says so."""
    found = ranked.get_model_recommendations("text_generation")
    first = found[0]
    crowd = Recommendations(
        # A little faster each: room for a rank above or below, but not for a name.
        [replace(first, rank=n, decode_rate=first.decode_rate * 1.2**n) for n in range(1, 16)],
        found.rejected,
        found.task,
    )
    figure = frontier(crowd).figure
    told = [text for trace in figure.data for text in trace.text or ()]
    assert len(told) == 15
    ranks = [text for text in told if text.startswith("#")]
    assert ranks
    assert len(set(ranks)) == len(ranks)
    assert set(ranks) <= {f"#{n}" for n in range(1, 13)}
    assert "#: rank, as in the table" in figure.layout.title.subtitle.text


def test_the_ranking_is_told_as_a_table(ranked: ModelManager) -> None:
    """Every part of every score stands in the table beside the bars."""
    view = ranking(ranked.get_model_recommendations("text_generation"))
    assert view.rows is not None
    assert len(view.rows.cells) == 3
    assert "n = 3 feasible candidates" in view.figure.layout.title.subtitle.text
