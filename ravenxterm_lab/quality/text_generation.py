"""Sixty short questions with answers that leave no room for opinion."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.quality.base import Item, QualityCheck, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TEXT_GENERATION", "exactly", "has_word", "last_number"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(answer: str, wanted: float) -> bool:
    """Say whether the last number of an answer is the wanted one.

    Examples
    --------
    >>> last_number("7 plus 5 is 12.", 12), last_number("It is 13.", 12), last_number("no", 1)
    (True, False, False)
    """
    found = _NUMBER.findall(answer)
    return bool(found) and float(found[-1].replace(",", "")) == wanted


def has_word(answer: str, *wanted: str, never: tuple[str, ...] = ()) -> bool:
    """Say whether an answer holds one of the wanted words whole, and none of the wrong ones.

    The wrong ones keep an answer that lists every possibility from being right.

    Examples
    --------
    >>> has_word("The capital is Paris.", "paris"), has_word("Parisian", "paris")
    (True, False)
    >>> has_word("yes or no", "yes", never=("no",))
    False
    """
    words = {word.casefold() for word in re.findall(r"[^\W_]+", answer)}
    return bool(words & set(wanted)) and not words & set(never)


def exactly(answer: str, wanted: str) -> bool:
    """Say whether an answer is the wanted text and nothing else, up to space around it.

    Examples
    --------
    >>> exactly(" BLUE ", "BLUE"), exactly("BLUE.", "BLUE")
    (True, False)
    """
    return answer.strip() == wanted


def _ask(question: str, right: Callable[[str], bool], run: Callable[[Any], Any]) -> Verdict:
    answer = str(run(question))
    return Verdict(float(right(answer)), answer.strip()[:120])


def _number(question: str, wanted: float) -> tuple[str, Callable[[str], bool]]:
    return question, lambda answer: last_number(answer, wanted)


def _word(
    question: str, *wanted: str, never: tuple[str, ...] = ()
) -> tuple[str, Callable[[str], bool]]:
    return question, lambda answer: has_word(answer, *wanted, never=never)


def _exact(question: str, wanted: str) -> tuple[str, Callable[[str], bool]]:
    return question, lambda answer: exactly(answer, wanted)


_TEXT = (
    "Mara Lindqvist, 34, runs a bakery in Uppsala. It sells 120 loaves a day and opens at 6:30. "
)
_QUESTIONS = {
    # Arithmetic: the answer is one number.
    "sum-small": _number("What is 7 + 5? Answer with the number only.", 12),
    "sum-two-digits": _number("What is 23 + 48? Answer with the number only.", 71),
    "difference": _number("What is 50 - 18? Answer with the number only.", 32),
    "product-small": _number("What is 6 times 7? Answer with the number only.", 42),
    "product-two-digits": _number("What is 12 times 11? Answer with the number only.", 132),
    "quotient": _number("What is 84 divided by 7? Answer with the number only.", 12),
    "half": _number("What is half of 90? Answer with the number only.", 45),
    "pens": _number(
        "Tom has 3 boxes with 4 pens in each. How many pens does he have? "
        "Answer with the number only.", 12),
    "change": _number(
        "A ticket costs 8 euros. I pay with 20 euros. How many euros do I get back? "
        "Answer with the number only.", 12),
    "next-in-series": _number("Which number comes next: 2, 4, 6, 8? Answer with the number only.",
                              10),
    # Facts that every encyclopedia states alike.
    "france": _word("What is the capital of France? Answer with one word.", "paris"),
    "japan": _word("What is the capital of Japan? Answer with one word.", "tokyo"),
    "italy": _word("What is the capital of Italy? Answer with one word.", "rome"),
    "egypt": _word("What is the capital of Egypt? Answer with one word.", "cairo"),
    "largest-planet": _word("Which planet of the solar system is the largest? One word.",
                            "jupiter"),
    "red-planet": _word("Which planet is called the red planet? One word.", "mars"),
    "water": _word("What is the chemical formula of water?", "h2o", "h₂o"),
    "gold": _word("What is the chemical symbol of gold? Answer with the symbol only.", "au"),
    "days": _number("How many days are in a week? Answer with the number only.", 7),
    "spider": _number("How many legs does a spider have? Answer with the number only.", 8),
    "hamlet": _word("Who wrote the play Hamlet? Answer with the surname only.", "shakespeare"),
    "freezing": _number(
        "At how many degrees Celsius does water freeze? Answer with the number only.", 0),
    "opposite": _word("What is the opposite of hot? One word.", "cold", never=("warm",)),
    "plural": _word("What is the plural of the word 'child'? One word.", "children"),
    "past-tense": _word("What is the past tense of the verb 'go'? One word.", "went"),
    "spanish": _word("What is the Spanish word for 'house'? One word.", "casa"),
    # Easy enough for models of a hundred million parameters.
    "germany": _word("What is the capital of Germany? Answer with one word.", "berlin"),
    "spain": _word("What is the capital of Spain? Answer with one word.", "madrid"),
    "england": _word("What is the capital of England? Answer with one word.", "london"),
    "russia": _word("What is the capital of Russia? Answer with one word.", "moscow"),
    "greece": _word("What is the capital of Greece? Answer with one word.", "athens"),
    "china": _word("What is the capital of China? Answer with one word.", "beijing", "peking"),
    "sky": _word("What colour is the sky on a clear day? One word.", "blue"),
    "grass": _word("What colour is fresh grass? One word.", "green"),
    "snow": _word("What colour is snow? One word.", "white"),
    "banana": _word("What colour is a ripe banana? One word.", "yellow"),
    "after-monday": _word("Which day comes after Monday?", "tuesday", never=("wednesday",)),
    "first-month": _word("What is the first month of the year? One word.", "january"),
    "opposite-up": _word("What is the opposite of up? One word.", "down"),
    "opposite-big": _word("What is the opposite of big? One word.", "small", "little", "tiny"),
    "meow": _word("Which animal says meow?", "cat", "cats", never=("dog", "dogs")),
    "bees": _word("What sweet food do bees make? One word.", "honey"),
    "star": _word("What is the name of the star at the centre of our solar system?", "sun"),
    "relativity": _word("Which physicist developed the theory of relativity?", "einstein"),
    "largest-ocean": _word("Which ocean is the largest on Earth?", "pacific"),
    "minute": _number("How many seconds are in a minute? Answer with the number only.", 60),
    # Extraction: the answer stands in the question.
    "who": _word(_TEXT + "What is her first name? One word.", "mara", never=("uppsala",)),
    "where": _word(_TEXT + "In which city is the bakery? One word.", "uppsala",
                   never=("lindqvist",)),
    "age": _number(_TEXT + "How old is she? Answer with the number only.", 34),
    "loaves": _number(_TEXT + "How many loaves does it sell a day? Answer with the number only.",
                      120),
    "colour": _word("The door is green and the roof is red. What colour is the roof? One word.",
                    "red", never=("green",)),
    "email": ("Copy only the e-mail address: 'Write to ana@example.org before Friday.'",
              lambda answer: "ana@example.org" in answer and "friday" not in answer.casefold()),
    "larger": _number("Which number is larger, 71 or 17? Answer with the number only.", 71),
    "odd-one-out": _word("Which one is not an animal: dog, table, cat? One word.", "table",
                         never=("dog", "cat")),
    # Format: exactly what was asked for, and nothing around it.
    "say-blue": _exact("Reply with exactly this word and nothing else: BLUE", "BLUE"),
    "yes-or-no": ("Is the sun hot? Answer yes or no, in one word.",
                  lambda answer: answer.strip().casefold().rstrip(".") == "yes"),
    "no": ("Is ice hotter than fire? Answer yes or no, in one word.",
           lambda answer: answer.strip().casefold().rstrip(".") == "no"),
    "upper": _exact("Write the word 'river' in capital letters. Reply with that word only.",
                    "RIVER"),
    "sort": ("Sort from small to large: 9, 2, 5. Reply with the numbers only, with commas.",
             lambda answer: re.sub(r"\s", "", answer).rstrip(".") == "2,5,9"),
    "json": ('Reply with this JSON only, without any other text: {"ok": true}',
             lambda answer: re.sub(r"\s", "", answer) == '{"ok":true}'),
}  # fmt: skip

TEXT_GENERATION = QualityCheck(
    task="text_generation",
    version=1,
    measures=(
        "Short questions in English with one right answer: arithmetic, facts, extraction, "
        "format. It tells a broken quantization from a sound one; it says nothing of long "
        "answers, other languages or reasoning."
    ),
    items=tuple(
        Item(name, partial(_ask, question, right)) for name, (question, right) in _QUESTIONS.items()
    ),
    samples=lambda: (
        "What is the capital of France?",
        "Explain in two sentences why the sky is blue.",
        "Summarise in one sentence: " + _TEXT + "Last year she opened a second shop by the river, "
        "where students buy cinnamon rolls in the afternoon and pensioners meet for coffee.",
    ),
    parameters={"max_tokens": 24, "temperature": 0.0},
    sample_parameters={"max_tokens": 64, "temperature": 0.0},
)
