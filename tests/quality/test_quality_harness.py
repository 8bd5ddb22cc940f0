"""Results of lm-evaluation-harness: files of the shape that its versions write."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.quality import read_harness_results

# The shape that version 0.4 writes with --output_path; the numbers are made up.
RESULTS: dict[str, Any] = {
    "results": {
        "arc_easy": {
            "alias": "arc_easy", "acc,none": 0.61, "acc_stderr,none": 0.0100,
            "acc_norm,none": 0.55, "acc_norm_stderr,none": 0.0102,
        },
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.12, "exact_match_stderr,strict-match": 0.009,
            "exact_match,flexible-extract": 0.15, "exact_match_stderr,flexible-extract": 0.010,
        },
        "mmlu": {"alias": "mmlu", "acc,none": 0.27, "acc_stderr,none": 0.0037},
        "mmlu_stem": {"alias": " - stem", "acc,none": 0.25, "acc_stderr,none": "N/A"},
        "mmlu_anatomy": {"alias": "  - anatomy", "acc,none": 0.21, "acc_stderr,none": 0.035},
        "wikitext": {
            "alias": "wikitext", "word_perplexity,none": 31.2,
            "word_perplexity_stderr,none": "N/A", "bits_per_byte,none": 0.93,
        },
    },
    "groups": {"mmlu": {"alias": "mmlu", "acc,none": 0.27, "acc_stderr,none": 0.0037}},
    "group_subtasks": {
        "arc_easy": [], "gsm8k": [], "wikitext": [],
        "mmlu_stem": ["mmlu_anatomy"], "mmlu": ["mmlu_stem"],
    },
    "configs": {"arc_easy": {"task": "arc_easy", "num_fewshot": 0}},
    "versions": {"arc_easy": 1.0, "gsm8k": 3.0},
    "n-shot": {"arc_easy": 0, "gsm8k": 5},
    "higher_is_better": {"arc_easy": {"acc": True, "acc_norm": True}},
    "n-samples": {
        "arc_easy": {"original": 2376, "effective": 2376},
        "gsm8k": {"original": 1319, "effective": 200},
    },
    "config": {"model": "hf", "model_args": "pretrained=x/y", "limit": None},
    "git_hash": "0000000", "date": 1764000000.5, "model_name": "x/y",
}  # fmt: skip


def write(place: Path, document: Any) -> Path:
    file = place / "results_2026-01-01T00-00-00.000000.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def test_each_task_gives_one_score_and_a_group_stands_for_its_members(tmp_path: Path) -> None:
    """Normalised accuracy before the plain one, the strict filter before the lenient one."""
    scores, notes = read_harness_results(write(tmp_path, RESULTS))
    found = {s.task: (s.metric, s.filter, s.score, s.stderr, s.samples) for s in scores}
    assert found == {
        "arc_easy": ("acc_norm", "none", 0.55, 0.0102, 2376),
        "gsm8k": ("exact_match", "strict-match", 0.12, 0.009, 200),
        "mmlu": ("acc", "none", 0.27, 0.0037, None),
    }
    assert len(notes) == 1
    assert "wikitext" in notes[0]
    assert "word_perplexity" in notes[0]


def test_a_group_without_a_score_leaves_its_members(tmp_path: Path) -> None:
    """Where a group only sorts its members, each of them counts."""
    document = copy.deepcopy(RESULTS)
    document["results"]["mmlu"] = {"alias": "mmlu", " ": " "}
    del document["results"]["mmlu_stem"]
    scores, _ = read_harness_results(write(tmp_path, document))
    assert "mmlu_anatomy" in {score.task for score in scores}
    assert "mmlu" not in {score.task for score in scores}


def test_a_file_of_the_old_versions_is_read_too(tmp_path: Path) -> None:
    """Before 0.4 the metrics had no filter in their names."""
    document = {
        "results": {"hellaswag": {"acc": 0.4, "acc_stderr": 0.01, "acc_norm": 0.5}},
        "versions": {"hellaswag": 0},
        "config": {"model": "hf-causal"},
    }
    (score,), _ = read_harness_results(write(tmp_path, document))
    assert (score.metric, score.filter, score.score) == ("acc_norm", "", 0.5)


def test_a_score_has_the_same_mark_each_time_and_another_run_another(tmp_path: Path) -> None:
    """The digest tells a file that is read twice from a second evaluation."""
    first = [s.digest for s in read_harness_results(write(tmp_path, RESULTS))[0]]
    assert first == [s.digest for s in read_harness_results(write(tmp_path, RESULTS))[0]]
    later = {**RESULTS, "date": 1764000001.5}
    assert not set(first) & {s.digest for s in read_harness_results(write(tmp_path, later))[0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": {}}, "no 'results' by task"),
        ({"results": {"t": 3}}, r"results\['t'\] must be a mapping"),
        ({"results": {"t": {"acc,none": 61.0}}}, r"\['acc,none'\] must be a number from 0 to 1"),
        ({"results": {"t": {"acc,none": "high"}}}, "'high'"),
        ({"results": {"t": {"acc,none": True}}}, "True"),
        ({"results": {"t": {"acc,none": float("nan")}}}, "nan"),
        ({"results": {"t": {"word_perplexity,none": 9.0}}}, "no score that can be a quality"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """The message names file, task, metric and value."""
    with pytest.raises(RequirementError, match=message) as caught:
        read_harness_results(write(tmp_path, {**RESULTS, **change}))
    assert "results_2026" in str(caught.value)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    """Nothing there, a directory, text, a list and a deep nest are errors that say so."""
    with pytest.raises(RequirementError, match="There is no"):
        read_harness_results(tmp_path / "nothing.json")
    with pytest.raises(RequirementError, match="directory"):
        read_harness_results(tmp_path)
    other = tmp_path / "other.json"
    for text, message in (("hello", "JSON"), ("[1]", "no JSON object"), ("[" * 200_000, "JSON")):
        other.write_text(text, encoding="utf-8")
        with pytest.raises(RequirementError, match=message):
            read_harness_results(other)
