"""What a ranking says of itself: parts that add up, evidence, intervals, what would change it."""

from __future__ import annotations

import itertools
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.metadata import AttentionGeometry, HardwareType, ModelMetadata, ModelType
from ravenxterm_lab.models import AdaptiveModelSelector, Workbench
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.selection import CellEvidence, Evidence, Recommendations

GIB = 2**30
TASK = "text_generation"


class StillMachine(HardwareProfile):
    """A profile that stays as it was made."""

    def refreshed(self, **_: object) -> HardwareProfile:
        return self


MACHINE = StillMachine.simulate("16 GiB RAM, DDR4-3200")


def made(name: str, size: int = GIB) -> ModelMetadata:
    return ModelMetadata(
        name, ModelType.GGUF, Path(name), size, task_types=(TASK,), runtimes=("fake",),
        preferred_hardware=(HardwareType.CPU,), fingerprint=f"print-{name}", quantization="Q8_0",
        context_length=8192, embedding_length=1024, vocabulary_size=32_000,
        attention=AttentionGeometry((8,) * 16, 64, 64),
    )  # fmt: skip


def seen(n: int = 20, quality: float | None = None, rate: float = 40.0, failed: int = 0,
         work: float = 200.0) -> CellEvidence:  # fmt: skip
    return CellEvidence(
        runs=n + failed, succeeded=n, failed=failed,
        quality_n=n if quality is not None else 0, quality_mean=quality,
        speed_n=n, speed_mean=math.log(rate), work_n=n, work_mean=math.log(work),
        first_token_mean=0.2,
    )  # fmt: skip


class Knowing(AdaptiveModelSelector):
    """A selector whose history is given."""

    known = Evidence.none()

    def _evidence(self) -> Evidence:
        return self.known


@pytest.fixture
def rank(home: Path) -> Any:
    bench = Workbench(home, hardware=MACHINE, runtimes=[FakeRuntime("fake")])

    def rank(
        cells: dict[str, CellEvidence],
        *,
        top_k: int | None = None,
        explore: int | None = None,
        asked: dict[str, Any] | None = None,
        sizes: dict[str, int] | None = None,
        **preferences: Any,
    ) -> Recommendations:
        selector = Knowing(UserPreferences(**preferences), workbench=bench, seed=explore)
        selector.known = Evidence({(f"print-{name}", TASK): cell for name, cell in cells.items()})
        names = dict.fromkeys([*cells, "never"])
        models = [made(name, (sizes or {}).get(name, GIB)) for name in names]
        if explore is None:
            return selector.get_recommended_models(models, TASK, top_k, requirements=asked)
        return selector.select(models, TASK, asked, record=False).ranked

    return rank


TWO = {"good": seen(quality=0.9, rate=15.0), "fast": seen(quality=0.4, rate=150.0)}


@pytest.mark.parametrize(
    ("mode", "level"),
    list(itertools.product(("speed", "balanced", "memory"), ("low", "medium", "high"))),
)
def test_the_words_say_what_the_score_is_made_of(rank: Any, mode: str, level: str) -> None:
    """In each mode the figures of ``explain()`` are those of that mode, and make up the score."""
    for item in rank(TWO, performance_mode=mode, accuracy_preference=level,
                     model_weights={"fast": 1.5}):  # fmt: skip
        text = item.explain()
        assert sum(part.weight for part in item.parts) == pytest.approx(1)
        for part in item.parts:
            assert f"adds {part.contribution:.3f} of {part.weight:.3f}" in text
        total = sum(part.contribution for part in item.parts)
        assert item.score == pytest.approx(total * item.reliability * item.person_weight)
        assert f"score {item.score:.3f}" in text
        assert f"your weight {1.5 if item.model.name == 'fast' else 1:g}" in text


def test_parts_add_up_when_less_is_free_than_the_budget(home: Path) -> None:
    """The memory part is held against the budget, as in the score, not against what is free."""
    machine = replace(MACHINE, available_memory=3 * GIB)
    bench = Workbench(home, hardware=machine, runtimes=[FakeRuntime("fake")])
    ranked = AdaptiveModelSelector(workbench=bench).get_recommended_models([made("a")], TASK)
    item = ranked[0]
    total = sum(part.contribution for part in item.parts)
    assert item.score == pytest.approx(total * item.reliability)


def test_each_part_says_how_much_was_measured(rank: Any) -> None:
    """Measured parts carry their n; a model that never ran is marked as prior only."""
    ranked = {item.model.name: item for item in rank(TWO)}
    good, never = ranked["good"], ranked["never"]
    assert good.evidence == "20 runs here"
    assert good.part("quality").source == "measured, n = 20"
    assert good.part("latency").source == "measured, n = 20"
    assert good.part("latency").n == 20
    assert never.prior_only
    assert never.evidence == "prior only: never run here on this task"
    assert never.part("quality").source.startswith("prior: 0.5 for every model")
    assert never.part("latency").source.startswith("estimate: ")
    assert "length of the answer: prior" in never.part("latency").source
    assert never.part("memory").source.startswith("estimate: ")
    assert "not measured (prior" in never.explain()
    assert "20 runs here" in str(rank(TWO))
    assert "prior only" in rank(TWO)._repr_mimebundle_()["text/html"]


def test_runs_of_long_ago_are_not_said_to_be_none(rank: Any) -> None:
    """A speed that has faded to less than one run was measured all the same."""
    item = next(iter(rank({"good": replace(seen(20, 0.9), speed_n=0.3)})))
    assert item.part("latency").source == "measured, n < 1"


def test_what_was_only_judged_elsewhere_is_said_so(rank: Any) -> None:
    """Quality from another machine counts, and the evidence does not claim a run here."""
    cells = {"far": CellEvidence(quality_n=4, quality_mean=0.9)}
    item = next(item for item in rank(cells) if item.model.name == "far")
    assert item.evidence == "never run here on this task; judged elsewhere, n = 4"
    assert not item.prior_only


def test_intervals_hold_the_value_and_narrow_with_evidence(rank: Any) -> None:
    """90% intervals lie around their value, wider for a model that never ran."""
    ranked = {item.model.name: item for item in rank({"a": seen(3, 0.6), "b": seen(200, 0.6)})}
    widths = {}
    for name, item in ranked.items():
        for part in item.parts:
            assert part.low <= part.value <= part.high
        quality, latency = item.part("quality"), item.part("latency")
        widths[name] = (quality.high - quality.low, math.log(latency.high / latency.low))
        assert item.decode_low < item.decode_rate < item.decode_high
    for place in (0, 1):
        assert widths["never"][place] > widths["a"][place] > widths["b"][place]


def test_the_wait_before_the_first_token_has_no_part_in_the_spread(rank: Any) -> None:
    """An interval of the latency never begins below the seconds of load and first token."""
    item = next(item for item in rank({"a": seen(20, 0.5, rate=1000.0, work=2.0)})
                if item.model.name == "a")  # fmt: skip
    assert item.part("latency").low > 0.2


def test_p_best_adds_up_to_one_and_follows_the_evidence(rank: Any) -> None:
    """P(best) is a probability over the candidates; a model known to be better has nearly all."""
    ranked = rank({"good": seen(200, 0.95), "bad": seen(200, 0.05), "never": seen(200, 0.05)})
    assert sum(item.probability_best for item in ranked) == pytest.approx(1)
    assert ranked[0].model.name == "good"
    assert ranked[0].probability_best > 0.95


def test_the_part_that_lost_is_named_with_its_distance(rank: Any) -> None:
    """The distance is split among parts and multipliers, which add up to it."""
    ranked = rank(TWO | {"shaky": seen(20, 0.9, rate=15.0, failed=20)}, accuracy_preference="high")
    assert ranked[0].model.name == "good"
    for name, part in (("fast", "quality"), ("shaky", "reliability")):
        why = ranked.why_not(name)
        item = next(item for item in ranked if item.model.name == name)
        assert sum(why.gaps.values()) == pytest.approx(ranked[0].score - item.score)
        assert max(why.gaps, key=lambda key: why.gaps[key]) == part
        assert f"most of it is {part} ({why.gaps[part]:.3f})" in why.reason


def test_a_weight_that_lost_is_the_person_s_own(rank: Any) -> None:
    """Where the person's weight is what put another first, it is named, and it is the change."""
    cells = {"a": seen(50, 0.6), "b": seen(50, 0.6)}
    ranked = rank(cells, model_weights={"a": 3.0, "other": 7.0})
    why = ranked.why_not("b")
    assert "most of it is your weight" in why.reason
    assert "1 against 3" in why.reason
    assert why.change["model_weights"]["other"] == 7.0, "the other weights are kept"
    assert why.change["model_weights"]["a"] == 3.0
    assert rank(cells, **why.change)[0].model.name == "b"


def test_modes_are_offered_beside_a_weight(rank: Any) -> None:
    """Another mode or accuracy that puts the model first is named, and does."""
    why = rank(TWO, accuracy_preference="high").why_not("fast")
    assert why.alternatives
    for change in why.alternatives:
        assert "model_weights" not in change
        assert rank(TWO, **{"accuracy_preference": "high", **change})[0].model.name == "fast"
    assert "so does" in why.reason


def test_judged_runs_are_offered_with_the_least_quality_that_does(rank: Any) -> None:
    """So many more runs of at least that quality put it first; of a little less they do not."""
    cells = {"a": seen(10, 0.65), "b": seen(10, 0.55)}
    why = rank(cells).why_not("b")
    assert why.more_runs is not None
    runs, quality = why.more_runs
    assert f"a quality of {quality:g} or more in {runs} more judged run" in why.reason
    for judged, first in ((quality, "b"), (quality - 0.01, "a")):
        mean = (10 * 0.55 + runs * judged) / (10 + runs)
        more = replace(seen(10, mean), quality_n=10 + runs)
        assert rank({**cells, "b": more})[0].model.name == first


def test_what_no_weight_can_mend_says_so_by_offering_none(rank: Any) -> None:
    """A model that would need a weight above 100 gets another change, or none."""
    cells = {"a": seen(50, 0.9), "b": seen(50, 0.5)}
    why = rank(cells, model_weights={"a": 100.0, "b": 0.01}).why_not("b")
    assert "model_weights" not in why.change
    assert "your weight" in why.reason


def test_the_first_choice_says_by_how_much_it_leads(rank: Any) -> None:
    """Asked why the first is not first, it says what it leads by, and offers no change."""
    why = rank(TWO, accuracy_preference="high").why_not("good")
    assert why.reason.startswith("it is the first choice, 0.")
    assert "most of it is quality" in why.reason
    assert not why.change
    assert "the only one" in rank({}).why_not("never").reason


def test_an_exploring_order_is_not_explained_by_scores(rank: Any) -> None:
    """Where another goes first so that more is learned, the leader and the first say so."""
    cells = {"a": seen(2, 0.6), "b": seen(2, 0.59)}
    for seed in range(40):
        ranked = rank(cells, explore=seed)
        leader = max(ranked, key=lambda item: item.score)
        if leader is not ranked[0]:
            break
    else:
        pytest.fail("forty decisions explored nothing")
    assert "leads on what is known" in ranked.why_not(leader.model.name).reason
    assert not ranked.why_not(leader.model.name).change
    assert "so that more is learned" in ranked.why_not(ranked[0].model.name).reason


def test_a_ranking_that_was_cut_still_knows_the_rest(rank: Any) -> None:
    """``top_k`` and slices leave ``why_not`` for all candidates, and say how many there are."""
    ranked = rank(TWO, top_k=1)
    assert len(ranked) == 1
    assert "behind" in ranked.why_not("never").reason
    assert "3 feasible (1 shown)" in str(ranked)
    assert "first choice" in ranked[1:].why_not(ranked[0].model.name).reason


def test_a_pickled_ranking_still_explains(rank: Any) -> None:
    """A copy from another process has all figures, and a weight as the only change."""
    ranked = rank(TWO, accuracy_preference="high")
    copy = pickle.loads(pickle.dumps(ranked))
    assert str(copy) == str(ranked)
    assert copy.why_not("fast").change.keys() == {"model_weights"}


def test_a_rejected_one_s_change_is_tried_before_it_is_offered(rank: Any) -> None:
    """Where a faster model is asked for, the limit that is offered lets this one in."""
    asked = {"max_latency": 2.0, "min_throughput": 100.0, "min_quality": 0.95}
    why = rank(TWO, asked=asked).why_not("good")
    assert set(why.change) == {"max_latency", "min_throughput", "min_quality"}
    names = [item.model.name for item in rank(TWO, asked={**asked, **why.change})]
    assert "good" in names


def test_hostile_names_are_shown_as_text(rank: Any) -> None:
    """Names, reasons and changes reach the notebook escaped, in every card."""
    evil = "<img src=x onerror=alert(1)>"
    ranked = rank({evil: seen(), "b": seen(quality=0.9)}, accuracy_preference="high",
                  sizes={"b": GIB})  # fmt: skip
    for card in (ranked, ranked[0], ranked.why_not(evil), ranked.why_not("b")):
        assert "<img" not in card._repr_mimebundle_()["text/html"]
