"""The sentences of the language check, and their grader."""

from __future__ import annotations

import pytest

from ravenxterm_lab.quality import CHECKS
from ravenxterm_lab.quality.language import _LANGUAGES, is_language

CHECK = CHECKS["language_identification"]


def says(label: str, probability: float = 0.9):
    return lambda text: [{"label": label, "probability": probability}]


def test_every_sentence_belongs_to_one_language() -> None:
    """Sixty-two different sentences, and no code that two languages share."""
    texts = [text for _, _, *both in _LANGUAGES for text in both]
    assert len(texts) == len(set(texts)) == len(CHECK.items) == 62
    codes = [code for _, codes, _, _ in _LANGUAGES for code in codes.split()]
    assert len(codes) == len(set(codes))
    assert all(len(short) < len(long) for _, _, long, short in _LANGUAGES)


def test_a_perfect_model_is_right_whichever_codes_it_was_trained_with() -> None:
    """ISO 639-1, ISO 639-3 with a script, and regions: all mean the language."""
    for place in (0, 1):
        answers = {
            text: codes.split()[place] + ("_Latn" if place else "")
            for _, codes, *both in _LANGUAGES
            for text in both
        }

        def run(text: str, known: dict[str, str] = answers) -> list[dict[str, object]]:
            return [{"label": known[text], "probability": 1.0}]

        assert sum(item.grade(run).score for item in CHECK.items) == 62


@pytest.mark.parametrize("label", ["en", "__label__eng", "en-GB"])
def test_a_model_that_always_says_the_same_is_found_out(label: str) -> None:
    """Two of sixty-two are what a constant answer gets, as the check's text says."""
    right = [item.name for item in CHECK.items if item.grade(says(label)).score]
    assert right == ["english", "english-short"]
    assert "0.03" in CHECK.measures


@pytest.mark.parametrize("label", ["", "e", "english", "enm", "xx"])
def test_what_is_no_code_is_never_right(label: str) -> None:
    """Names of languages, codes of others and nothing at all are wrong."""
    assert not any(is_language(label, codes) for _, codes, _, _ in _LANGUAGES)


def test_no_label_is_wrong_and_says_so() -> None:
    """A model that gives nothing gets no point, and the answer tells why."""
    verdict = CHECK.items[0].grade(lambda text: [])
    assert (verdict.score, verdict.answer) == (0.0, "no label")
    assert CHECK.item("english").grade(says("en", 0.751)).answer == "en (75%)"


def test_samples_are_one_text_many_and_a_long_one() -> None:
    """Speed is measured on what a person would send."""
    one, many, long = CHECK.samples()
    assert isinstance(one, str)
    assert len(many) == 31
    assert len(long) > 400
