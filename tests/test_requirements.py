"""What a task asks of a model."""

from __future__ import annotations

import doctest
import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab import requirements
from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.metadata import HardwareType, ModelType
from ravenxterm_lab.requirements import TASKS, TaskRequirements, normalize_task

whole = st.integers(0, 2**62)
real = st.floats(0, 1e12)
names = st.lists(st.text(min_size=1), min_size=1, max_size=3)
anything = st.fixed_dictionaries(
    {},
    optional={
        "max_size_bytes": whole,
        "requires_batching": st.booleans(),
        "required_hardware": st.lists(st.sampled_from(HardwareType), min_size=1),
        "task_type": st.sampled_from(sorted(TASKS)),
        "min_context_length": whole,
        "max_memory_bytes": whole,
        "model_types": st.lists(st.sampled_from(ModelType), min_size=1),
        "quantizations": names,
        "max_latency": real,
        "min_throughput": real,
        "min_quality": st.floats(0, 1),
        "license": names,
    },
)


def test_the_examples_run() -> None:
    """Every docstring example gives what it says."""
    result = doctest.testmod(requirements)
    assert result.attempted >= 1
    assert result.failed == 0


@given(anything)
def test_what_is_parsed_can_be_written_and_parsed_again(given_: dict[str, object]) -> None:
    """Nothing is lost on the way to JSON values and back, and nothing is added."""
    parsed = TaskRequirements.parse(given_)
    assert set(parsed.as_dict()) == set(given_)
    assert TaskRequirements.parse(parsed.as_dict()) == parsed
    assert TaskRequirements.parse(parsed) == parsed


def test_nothing_asked_constrains_nothing() -> None:
    """None, an empty mapping and keys that are None are the same."""
    empty = TaskRequirements()
    assert TaskRequirements.parse(None) == TaskRequirements.parse({}) == empty
    assert TaskRequirements.parse({"max_latency": None}) == empty
    assert empty.as_dict() == {}


def test_every_key_of_the_contract_is_there() -> None:
    """The documented keys are the fields."""
    assert {item.name for item in fields(TaskRequirements)} == {
        "max_size_bytes", "requires_batching", "required_hardware", "task_type",
        "min_context_length", "max_memory_bytes", "model_types", "quantizations", "max_latency",
        "min_throughput", "min_quality", "license",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"max_size": 1}, "Did you mean 'max_size_bytes'"),
        ({1: 2}, "Unknown requirement 1"),
        ({"max_size_bytes": "5"}, "finite number"),
        ({"max_size_bytes": True}, "finite number"),
        ({"max_size_bytes": 1.5}, "whole number"),
        ({"max_size_bytes": -1}, "0 or more"),
        ({"max_size_bytes": 10**400}, "finite number"),
        ({"max_latency": math.nan}, "finite number"),
        ({"max_latency": math.inf}, "finite number"),
        ({"min_quality": 1.01}, "between 0 and 1"),
        ({"requires_batching": "yes"}, "True or False"),
        ({"requires_batching": 1}, "True or False"),
        ({"required_hardware": "cdua"}, "Did you mean 'cuda'"),
        ({"required_hardware": []}, "empty list"),
        ({"required_hardware": 5}, "must be a list"),
        ({"model_types": ["gguf", "onxn"]}, "Did you mean 'onnx'"),
        ({"quantizations": ["Q4", 4]}, "list of strings"),
        ({"task_type": "text_generaton"}, "Did you mean 'text_generation'"),
        ({"task_type": 5}, "must be a string"),
        ([1], "must be a mapping"),
        ("max_size_bytes", "must be a mapping"),
        (5, "must be a mapping"),
    ],
)
def test_bad_requirements_are_errors_that_help(bad: object, message: str) -> None:
    """A bad name or value is named with what would be accepted."""
    with pytest.raises(RequirementError, match=message):
        TaskRequirements.parse(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "number", [np.int64(7), np.uint8(7), np.float32(7), np.float64(7), Fraction(7), 7.0]
)
def test_numbers_of_any_kind_become_plain(number: object) -> None:
    """Numbers out of a data frame are taken, and kept as Python's own."""
    parsed = TaskRequirements.parse({"max_size_bytes": number, "max_latency": number})
    assert (parsed.max_size_bytes, parsed.max_latency) == (7, 7.0)
    assert type(parsed.max_size_bytes) is int
    assert type(parsed.max_latency) is float


def test_one_value_stands_for_a_list_of_one() -> None:
    """A single device or license need not be in a list, and case does not matter for names."""
    parsed = TaskRequirements.parse({"required_hardware": "CUDA", "license": "mit"})
    assert parsed.required_hardware == (HardwareType.CUDA,)
    assert parsed.license == ("mit",)


@pytest.mark.parametrize("spelling", ["text_generation", "text-generation", " Chat ", "CHAT"])
@pytest.mark.parametrize("other", ["text_generation", "text generation", "conversational"])
def test_two_spellings_of_one_task_agree(spelling: str, other: str) -> None:
    """The argument and the key may spell the same task differently."""
    parsed = TaskRequirements.parse({"task_type": spelling}, task_type=other)
    assert parsed.task_type == "text_generation"


def test_two_tasks_do_not_agree() -> None:
    """Different tasks in the argument and the key are an error that names both."""
    with pytest.raises(RequirementError, match=r"'embedding'.*'translation'"):
        TaskRequirements.parse({"task_type": "translation"}, task_type="embedding")


@pytest.mark.parametrize(("ours", "tag"), TASKS.items())
def test_both_names_of_a_task_are_known(ours: str, tag: str) -> None:
    """Our name stays, and the Hugging Face tag becomes ours."""
    assert normalize_task(ours) == ours
    assert normalize_task(normalize_task(ours)) == ours
    known = {"text-ranking": "reranking", "feature-extraction": "embedding", "image-to-text": "ocr"}
    assert normalize_task(tag) == known.get(tag, ours)
