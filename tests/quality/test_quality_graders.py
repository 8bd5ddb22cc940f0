"""The graders, the intervals and the signals of the quality checks."""

from __future__ import annotations

import itertools
import math
import random
import zipfile
from io import BytesIO
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.quality import CHECKS, check_for, median_interval, wilson
from ravenxterm_lab.quality import file_type as files
from ravenxterm_lab.quality.text_generation import exactly, has_word, last_number
from ravenxterm_lab.quality.voice_activity import voice_like


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("12", 12, True),
        ("7 + 5 = 12", 12, True),
        ("The answer is 12.", 12, True),
        ("12 is less than 13", 12, False),
        ("1,234", 1234, True),
        ("-3 degrees", 3, False),
        ("twelve", 12, False),
        ("", 0, False),
        ("It freezes at 0°C.", 0, True),
    ],
)
def test_the_last_number_is_the_answer(answer: str, wanted: float, right: bool) -> None:
    """Steps before the result do not matter, and another last number is wrong."""
    assert last_number(answer, wanted) is right


def test_a_word_must_be_whole_and_alone_among_the_alternatives() -> None:
    """An answer that lists every possibility, or only holds the letters, is wrong."""
    assert has_word("It is **Rome**.", "rome")
    assert not has_word("Romeo", "rome")
    assert not has_word("table, dog and cat", "table", never=("dog", "cat"))
    assert not exactly("BLUE is the word", "BLUE")


#: What a model that understands everything would answer, by item.
_PERFECT = {
    "sum-small": "12", "sum-two-digits": "71", "difference": "32", "product-small": "42",
    "product-two-digits": "132", "quotient": "12", "half": "45", "pens": "12", "change": "12",
    "next-in-series": "10", "france": "Paris", "japan": "Tokyo", "italy": "Rome",
    "egypt": "Cairo", "largest-planet": "Jupiter", "red-planet": "Mars", "water": "H2O",
    "gold": "Au", "days": "7", "spider": "8", "hamlet": "Shakespeare", "freezing": "0",
    "opposite": "Cold", "plural": "Children", "past-tense": "Went", "spanish": "Casa",
    "germany": "Berlin", "spain": "Madrid", "england": "London", "russia": "Moscow",
    "greece": "Athens", "china": "Beijing", "sky": "Blue", "grass": "Green", "snow": "White",
    "banana": "Yellow", "after-monday": "Tuesday", "first-month": "January",
    "opposite-up": "Down", "opposite-big": "Small", "meow": "The cat", "bees": "Honey",
    "star": "The Sun", "relativity": "Albert Einstein",
    "largest-ocean": "The Pacific Ocean",
    "minute": "60", "who": "Mara", "where": "Uppsala", "age": "34", "loaves": "120",
    "colour": "Red",
    "email": "ana@example.org", "larger": "71", "odd-one-out": "Table", "say-blue": "BLUE",
    "yes-or-no": "Yes.", "no": "No", "upper": "RIVER", "sort": "2, 5, 9",
    "json": '{"ok": true}',
}  # fmt: skip


def test_right_answers_score_and_those_of_other_items_do_not() -> None:
    """Each of the 60 items accepts its own answer, and of the others only the same one."""
    check = CHECKS["text_generation"]
    assert {item.name for item in check.items} == set(_PERFECT)
    assert len(check.items) == 60
    same = {
        frozenset(("pens", "change", "sum-small", "quotient")),
        frozenset(("sum-two-digits", "larger")),
    }
    for item, (name, answer) in itertools.product(check.items, _PERFECT.items()):
        score = item.grade(lambda _, text=answer: text).score
        twins = any({item.name, name} <= group for group in same)
        twins = twins or (item.name, name) == ("sky", "say-blue")  # capitals or not
        assert score == float(item.name == name or twins), (item.name, answer)


def test_copying_the_question_is_never_right() -> None:
    """A model that only repeats what it was asked scores nothing."""
    echoed = [item.name for item in CHECKS["text_generation"].items if item.grade(str).score]
    assert echoed == []


def test_an_embedding_that_counts_words_falls_for_the_lures() -> None:
    """A bag of words solves some of the plain triples and hardly any of the lures."""

    def bag(texts: list[str]) -> np.ndarray:
        words = sorted({word for text in texts for word in text.lower().strip(".?").split()})
        return np.array([[w in text.lower().strip(".?").split() for w in words] for text in texts])

    scores = {item.name: item.grade(bag).score for item in CHECKS["embedding"].items}
    lures = [score for name, score in scores.items() if name.startswith("lure-")]
    plain = [score for name, score in scores.items() if not name.startswith("lure-")]
    assert len(lures) == len(plain) == 10
    assert sum(plain) >= 4
    assert sum(lures) <= 2


def test_generated_files_are_of_their_kind() -> None:
    """The bytes open as what they claim to be, and are the same on every call."""
    with zipfile.ZipFile(BytesIO(files._zip(2))) as archive:
        assert archive.testzip() is None
    for make in files._KINDS.values():
        assert make(1) == make(1) != make(3)
    compile(files._python(1), "generated", "exec")


def test_a_constant_label_solves_no_pair_of_files() -> None:
    """A classifier that always says the same, or never the same twice, scores 0."""
    check = CHECKS["file_type"]
    constant = {"label": np.array([[0.1, 0.9]] * 3)}
    always_new = {"label": np.eye(3)}
    for answer in (constant, always_new):
        assert not any(item.grade(lambda _, a=answer: a).score for item in check.items)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_detector_that_never_changes_its_mind_is_found_out(probability: float) -> None:
    """Calling everything speech, or nothing, gets only one of the two groups right."""
    check = CHECKS["voice_activity_detection"]
    output = {"output": np.array([[probability]]), "stateN": np.zeros((2, 1, 128), np.float32)}
    right = {item.name for item in check.items if item.grade(lambda _: output).score}
    assert right == {i.name for i in check.items if i.name.startswith("voice") == (probability > 0)}


def test_the_synthetic_voice_has_its_pitch_and_formants() -> None:
    """The spectrum of an "a" has its maximum near the first formant, and harmonics of the pitch."""
    voice = voice_like("aaaa", 120.0, 7)
    assert voice.dtype == np.float32
    assert float(np.abs(voice).max()) <= 0.5
    spectrum = np.abs(np.fft.rfft(voice * np.hanning(len(voice))))
    hertz = np.fft.rfftfreq(len(voice), 1 / 16_000)
    assert 500 < hertz[spectrum.argmax()] < 1000
    quiet = spectrum[(hertz > 6000)].max()
    assert spectrum.max() > 30 * quiet


def test_the_interval_of_a_share_agrees_with_its_definition() -> None:
    """Its bounds are the shares at which the score test just rejects (Wilson 1927)."""
    z = 1.6448536269514722
    for successes, n in ((0, 5), (3, 7), (28, 30), (40, 40)):
        found = wilson(successes, n)
        assert found is not None
        for bound in {found.low, found.high} - {0.0, 1.0}:
            deviation = math.sqrt(bound * (1 - bound) / n)
            assert abs(successes / n - bound) == pytest.approx(z * deviation, rel=1e-9)
    assert wilson(0, 0) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_the_interval_of_a_median_holds_it(values: list[float]) -> None:
    """It encloses the median, promises what it can, and grows no wider than the values."""
    found = median_interval(values)
    assert found is not None
    assert min(values) <= found.low <= found.value == median(values) <= found.high <= max(values)
    assert found.level >= 0.9 or (found.low, found.high) == (min(values), max(values))


def test_the_interval_of_a_median_covers_as_often_as_it_says() -> None:
    """Over 2,000 seeded samples of 15 the true median lies within at least 90 % of the time."""
    rng = random.Random(3)
    held = 0
    for _ in range(2000):
        found = median_interval([rng.lognormvariate(0, 1) for _ in range(15)])
        assert found is not None
        held += found.low <= 1.0 <= found.high
    assert held / 2000 > 0.9


def test_a_task_without_a_check_has_none_and_an_unknown_one_is_refused() -> None:
    """The Hugging Face spelling is understood; a typing error is not taken for "no check"."""
    assert check_for("feature-extraction") is CHECKS["embedding"]
    assert check_for("ocr") is None
    with pytest.raises(RequirementError, match="embedding"):
        check_for("embeding")
