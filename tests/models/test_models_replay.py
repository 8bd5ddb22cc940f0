"""manager.replay over a recorded month: one line, a row a decision, what both are worth."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from replay_month import END, GIB, MODELS, TRUTH, Month

from ravenxterm_lab.exceptions import HardwareError, PreferenceError, RequirementError
from ravenxterm_lab.models import ModelManager, ModelRegistry
from ravenxterm_lab.models.replay_report import Replay
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.selection.replay_policies import Moment


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Month]:
    """Return a month of 90 decisions; the tests of this module only read it."""
    with pytest.MonkeyPatch.context() as patch:
        made = Month(tmp_path_factory.mktemp("month"), patch)
        made.go_on(90, hours=7.5)
        yield made
        made.bench.store.close()


@pytest.fixture(scope="module")
def manager(month: Month) -> ModelManager:
    return month.manager


def test_with_nothing_changed_the_same_models_are_chosen(manager: ModelManager) -> None:
    """But for a few near ties, since ages count to the hour; and nothing is gained by it."""
    replay = manager.replay(progress=False)
    assert len(replay) == 90
    assert replay.changed <= 4, replay.moves()
    assert replay.gain is not None
    assert replay.gain.holds(0.0)
    assert abs(replay.gain.value) < 0.01


def test_other_preferences_in_one_line(manager: ModelManager) -> None:
    """In a hurry, faster models are chosen; the summary says by how much, the rows say why."""
    replay = manager.replay(preferences={"performance_mode": "speed"}, progress=False)
    assert replay.changed > 0
    quicker = [row for row in replay.rows if row.why.startswith("faster")]
    assert quicker
    for row in quicker:
        assert row.changed
        assert TRUTH[row.now or ""][2] > TRUTH[row.then or ""][2]
    latency = replay.comparison.means["latency"]
    assert latency[1].value < latency[0].value
    assert replay.gain is not None
    assert replay.gain.value > 0
    assert str(replay.changed) in replay.summary
    assert "latency" in replay.summary
    assert replay.setting == "performance_mode=speed"


def test_the_frame_has_a_row_a_decision(manager: ModelManager) -> None:
    """It agrees with the rows, with the record, and with the query that read it."""
    replay = manager.replay(preferences={"performance_mode": "speed"}, progress=False)
    frame = replay.data()
    assert frame.height == 90
    assert frame["changed"].sum() == replay.changed
    recorded = manager.sql(replay.sql, {"since": str(replay.since), "task": None}).pl()
    assert recorded["chosen"].to_list() == frame["then"].to_list()
    assert recorded["ts"].to_list() == frame["at"].to_list()
    assert recorded["execution"].null_count() == 0
    assert replay.df().shape == (90, len(frame.columns))
    moved = sum(count for _, _, count in replay.moves())
    assert moved == replay.changed


def test_it_shows_itself(manager: ModelManager) -> None:
    """As a card: what both are worth, which models change places, the latest changes and why."""
    replay = manager.replay(preferences={"performance_mode": "speed"}, progress=False)
    text = str(replay)
    assert "Replay · adaptive · performance_mode=speed" in text
    for word in ("utility", "quality", "latency", "memory", "mostly since", "95%"):
        assert word in text
    assert "<table" in replay._repr_mimebundle_()["text/html"]


def test_less_memory_drops_what_no_longer_fits(manager: ModelManager) -> None:
    """A tenth of the memory is 1.6 GiB: larger models fall out, and the reason says so."""
    replay = manager.replay(preferences={"max_memory_usage": 0.1}, progress=False)
    now = {row.now for row in replay.rows}
    assert now <= {"tiny", "small"}
    fallen = [row for row in replay.rows if row.then not in {"tiny", "small"}]
    for row in fallen:
        assert "falls out: it needs" in row.why
        assert "the budget is 1.6 GiB" in row.why


def test_more_memory_lets_in_what_did_not_fit(manager: ModelManager) -> None:
    """With memory enough the huge model is a candidate, estimated by formula."""
    wishes = UserPreferences(accuracy_preference="high", model_weights={"huge": 50.0})
    small = manager.replay(preferences=wishes, progress=False)
    assert "huge" not in {row.now for row in small.rows}
    large = manager.replay(
        preferences=wishes, hardware="RTX 4090 24GB, 256 GiB RAM, DDR5-5600", progress=False
    )
    assert {row.now for row in large.rows} == {"huge"}
    assert all(row.memory_now is not None and row.memory_now > 60 * GIB for row in large.rows)
    assert large.comparison.snips is None
    assert "Nothing was measured on that machine" in str(large)


def test_another_policy_and_a_function_of_ones_own(manager: ModelManager) -> None:
    """Each is named in the title, and what it was not allowed to choose it does not choose."""

    def smallest(moment: Moment) -> str:
        return min(moment.arms, key=lambda arm: arm.memory_bytes).model.name

    replay = manager.replay(policy=smallest, progress=False)
    assert replay.policy == "smallest"
    assert {row.now for row in replay.rows} == {"tiny"}
    for policy in ("static", "last-10", "thompson"):
        assert manager.replay(policy=policy, progress=False).policy == policy


def test_the_value_of_a_worse_policy_is_found(manager: ModelManager) -> None:
    """Always the smallest model, where quality counts most: both estimates see the loss."""
    careful = UserPreferences(accuracy_preference="high")
    replay = manager.replay(preferences=careful, policy=lambda _: "tiny", progress=False)
    assert replay.policy == "a function"
    assert replay.gain is not None
    assert replay.value is not None
    assert replay.comparison.snips is not None
    assert replay.gain.value < -0.1
    then = replay.value.value - replay.gain.value
    assert replay.comparison.snips.value < then - 0.1


@pytest.mark.parametrize(
    ("since", "begin"),
    [
        (date(2026, 10, 25), datetime(2026, 10, 25)),  # noqa: DTZ001 - as the store's timestamps
        ("2026-10-25", datetime(2026, 10, 25)),  # noqa: DTZ001
        ("2026-10-25T00:00+02:00", datetime(2026, 10, 24, 22)),  # noqa: DTZ001
        (timedelta(days=7), END - timedelta(days=7)),
        (7, END - timedelta(days=7)),
        (0.01, END - timedelta(days=0.01)),
        (END, END),
        (365, END - timedelta(days=365)),
    ],
)
def test_since_when(manager: ModelManager, since: object, begin: datetime) -> None:
    """A moment, or how far back; evidence from before counts all the same."""
    replay = manager.replay(since=since, progress=False)  # type: ignore[arg-type]
    recorded = manager.sql("SELECT count(*) FROM selections WHERE ts >= ?", [begin]).fetchall()
    assert (replay.since, len(replay)) == (begin, recorded[0][0])


def test_one_task_alone(manager: ModelManager) -> None:
    """Only its decisions are decided again; Hugging Face spellings are accepted."""
    replay = manager.replay(task="summarization", progress=False)
    assert {row.task for row in replay.rows} == {"summarization"}
    assert len(replay) < 90
    assert len(manager.replay(task="embedding", progress=False)) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"since": "yesterday"}, RequirementError, "2026-10-01"),
        ({"since": -3}, RequirementError, "since must be"),
        ({"since": True}, RequirementError, "since must be"),
        ({"task": "poetry"}, RequirementError, "Unknown task"),
        ({"policy": "adaptve"}, RequirementError, "adaptive"),
        ({"policy": lambda moment: "gpt"}, RequirementError, "no candidate"),
        ({"preferences": {"performance_mod": "speed"}}, PreferenceError, "performance_mode"),
        ({"preferences": {"performance_mode": "warp"}}, PreferenceError, "warp"),
        ({"preferences": "speed"}, PreferenceError, "mapping"),
        ({"hardware": "a toaster"}, HardwareError, "toaster"),
    ],
)
def test_bad_arguments_are_told(
    manager: ModelManager, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    """Each names what is wrong and what is allowed."""
    with pytest.raises(error, match=message):
        manager.replay(progress=False, **arguments)  # type: ignore[arg-type]


def test_without_a_history_it_says_what_records_one(tmp_path: Path) -> None:
    """An empty store is no error."""
    with pytest.MonkeyPatch.context() as patch:
        empty = Month(tmp_path, patch)
        replay = empty.manager.replay()
        assert len(replay) == replay.changed == 0
        assert replay.value is replay.gain is None
        assert "manager.run" in str(replay)
        assert replay.data().height == 0
        empty.bench.store.close()


def test_what_cannot_be_decided_again_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions without facts, of other hardware, of preferences of the future; models gone."""
    month = Month(tmp_path, monkeypatch, days=3.0)
    month.go_on(6, hours=1.0)
    record = month.bench.store.record
    record("selections", selection="old", task="text_generation", chosen="tiny",
           preferences=UserPreferences().model_dump(mode="json"))  # fmt: skip
    elsewhere = {
        "selection": "elsewhere", "task": "text_generation", "hardware": "another",
        "machine": {"devices": ["cpu"], "present": ["cpu"], "total": 1, "available": 1},
        "preferences": UserPreferences().model_dump(mode="json"),
    }  # fmt: skip
    record("selections", **elsewhere)
    record(
        "selections", **{**elsewhere, "selection": "odd", "preferences": {"mood": "fine"},
                         "hardware": month.bench.hardware.fingerprint},
    )  # fmt: skip
    replay = month.manager.replay(progress=False)
    assert len(replay) == 6
    text = "\n".join(replay.notes)
    assert "1 left out: recorded by a version that kept no facts" in text
    assert "1 left out: made on other hardware" in text
    assert "1 left out: their preferences or requirements are not understood" in text

    left = {name: model for name, model in MODELS.items() if name != "tiny"}
    monkeypatch.setattr(ModelRegistry, "candidates", property(lambda _: left))
    gone: Replay = month.manager.replay(hardware="RTX 4090 24GB, 64 GiB RAM", progress=False)
    assert "1 models that are registered no more (tiny)" in "\n".join(gone.notes)
    assert "tiny" not in {row.now for row in gone.rows}
    month.bench.store.close()


def test_limits_on_what_was_measured_hold_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision that asked for 30 tokens a second gets no slower model in a replay either."""
    month = Month(tmp_path, monkeypatch, days=3.0)
    month.go_on(10, hours=1.0)
    month.manager.selector.select(
        MODELS, "text_generation", {"min_throughput": 30.0}, explore=False
    )
    month.now += timedelta(hours=1)
    wishes = UserPreferences(accuracy_preference="high")
    replay = month.manager.replay(preferences=wishes, progress=False)
    assert TRUTH[replay.rows[-1].now or ""][2] >= 30
    month.bench.store.close()
