"""fastText with a real model, and with models whose answers can be computed by hand."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fasttext_files import LABELS, WORDS, fasttext_bytes, fasttext_file, pruned_file
from fuzz_readers import mutate

from ravenxterm_lab.exceptions import (
    FailureKind,
    ModelFileError,
    RequirementError,
    RuntimeFailureError,
)
from ravenxterm_lab.metadata import ModelMetadata, ModelType
from ravenxterm_lab.readers import read_facts
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions, discover_runtimes
from ravenxterm_lab.runtimes.fasttext import FastTextRuntime
from ravenxterm_lab.runtimes.fasttext_engine import as_line

if TYPE_CHECKING:
    from collections.abc import Iterator

TASK = "language_identification"
ONE = LoadOptions(threads=1)


@pytest.fixture(scope="module")
def identifier(lid176: ModelMetadata) -> Iterator[LoadedModel]:
    with FastTextRuntime().load(lid176, ONE) as model:
        yield model


def model_at(path: Path, task: str = TASK) -> ModelMetadata:
    size = path.stat().st_size
    return ModelMetadata(path.stem, ModelType.FASTTEXT, path, size, task_types=(task,))


def load_bytes(path: Path, raw: bytes, **options: Any) -> LoadedModel:
    path.write_bytes(raw)
    return FastTextRuntime().load(model_at(path), replace(ONE, **options))


def test_it_is_found_by_its_entry_point() -> None:
    """The runtime comes by the entry point of this package."""
    assert "fasttext" in {runtime.name for runtime in discover_runtimes()[0]}


@pytest.mark.models
@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Wo finde ich hier einen guten Bäcker?", "de"),
        ("Il pleut depuis ce matin sur la ville.", "fr"),
        ("El tren sale a las ocho de la mañana.", "es"),
        ("Сегодня на улице очень холодно.", "ru"),
        ("今日はとても寒いですね。", "ja"),
    ],
)
def test_a_language_is_its_code(identifier: LoadedModel, text: str, language: str) -> None:
    """One text gives a list of one label, without fastText's prefix, and its probability."""
    result = identifier.run(TASK, text)
    (found,) = result.output
    assert found["label"] == language
    assert 0.5 < found["probability"] <= 1
    assert result.throughput == pytest.approx(1 / result.latency)
    assert result.tokens_in is None


@pytest.mark.models
def test_the_likeliest_come_first(identifier: LoadedModel) -> None:
    """``top_k`` labels in falling order; as many as asked for are all that have a share."""
    ten = identifier.run(TASK, "Guten Morgen, bom dia", parameters={"top_k": 10}).output
    assert [len(ten), len({one["label"] for one in ten})] == [10, 10]
    shares = [one["probability"] for one in ten]
    assert shares == sorted(shares, reverse=True)
    every = identifier.run(TASK, "Guten Morgen, bom dia", parameters={"top_k": 10**12}).output
    assert 10 < len(every) <= 176
    assert sum(one["probability"] for one in every) == pytest.approx(1, abs=0.01)
    assert every[:10] == ten


@pytest.mark.models
def test_many_texts_are_answered_in_order(identifier: LoadedModel) -> None:
    """A list gives a list of lists, of one label each, whatever stands in it."""
    texts = ["Good morning, how are you?", "", "Bonjour à tous et à toutes", " \n\t"] * 50
    result = identifier.run(TASK, texts)
    first = [one[0]["label"] if one else None for one in result.output]
    assert first == ["en", None, "fr", None] * 50
    assert result.throughput == pytest.approx(200 / result.latency)
    alone = identifier.run(TASK, texts[:1]).output
    assert isinstance(alone[0], list)
    assert alone[0][0]["label"] == "en"


@pytest.mark.models
def test_a_text_is_judged_as_a_whole(identifier: LoadedModel) -> None:
    """What stands behind a line break, or behind fastText's end of a line, counts too."""
    german = "Die Sitzung beginnt um neun Uhr im großen Saal des alten Rathauses."
    one_line = identifier.run(TASK, f"Yes {german}").output
    assert identifier.run(TASK, f"Yes\n{german}").output == one_line
    assert identifier.run(TASK, f"Yes </s> {german}").output == one_line
    assert one_line[0]["label"] == "de"


@pytest.mark.models
def test_what_the_model_does_not_know_is_a_guess(identifier: LoadedModel) -> None:
    """Digits alone give a language, with a probability that says how little it means."""
    (found,) = identifier.run(TASK, "12345").output
    assert found["probability"] < 0.2


@pytest.mark.models
@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "2"])
def test_a_bad_top_k_is_refused(identifier: LoadedModel, top_k: Any) -> None:
    """It is a whole number of at least 1."""
    with pytest.raises(RequirementError, match="top_k must be a whole number of at least 1"):
        identifier.run(TASK, "x", parameters={"top_k": top_k})
    assert identifier.run(TASK, "x", parameters={"top_k": None}).latency > 0


@pytest.mark.models
def test_a_timeout_stops_between_two_texts(identifier: LoadedModel) -> None:
    """A long list is given up between two texts, and the model stays."""
    with pytest.raises(RuntimeFailureError) as caught:
        identifier.run(TASK, ["Guten Morgen, " * 60] * 20_000, timeout=0.5)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert identifier.alive
    assert identifier.run(TASK, "Guten Morgen, wie geht es?").output[0]["label"] == "de"


def test_probabilities_agree_with_a_plain_computation(tmp_path: Path) -> None:
    """The mean of the words' rows and of the line's end, times the output, through a softmax."""
    generator = np.random.default_rng(5)
    rows, output = generator.standard_normal((7, 4)), generator.standard_normal((3, 4))
    raw = fasttext_bytes(matrices=(rows, output))
    used = [WORDS.index(word) for word in ("maison", "chat", "chat", "</s>")]
    scores = output @ rows[used].mean(axis=0)
    wanted = np.exp(scores) / np.exp(scores).sum()
    with load_bytes(tmp_path / "a.ftz", raw) as model:
        found = model.run(TASK, "maison chat nobody chat", parameters={"top_k": 3}).output
    by_label = {one["label"]: one["probability"] for one in found}
    names = [label.removeprefix("__label__") for label in LABELS]
    np.testing.assert_allclose([by_label[name] for name in names], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", [fasttext_file, pruned_file])
def test_what_the_reader_takes_the_engine_takes(tmp_path: Path, write: Any) -> None:
    """Both readings of the format agree on dense and on quantized models."""
    path = write(tmp_path / "a.ftz")
    assert read_facts(path).task_types == (TASK,)
    with FastTextRuntime().load(model_at(path), ONE) as model:
        found = model.run(TASK, "chat", parameters={"top_k": 5}).output
    assert {one["label"] for one in found} == {"fr", "en", "de"}


def test_other_classifiers_keep_their_labels(tmp_path: Path) -> None:
    """A classifier of anything else runs as text classification, and not for languages."""
    path = fasttext_file(tmp_path / "a.bin", labels=("__label__spam", "ham"))
    assert read_facts(path).task_types == ("text_classification",)
    with FastTextRuntime().load(model_at(path, "text_classification"), ONE) as model:
        found = model.run("text-classification", "cat", parameters={"top_k": 2}).output
        assert {one["label"] for one in found} == {"spam", "ham"}
        with pytest.raises(RuntimeFailureError, match="cannot run the task"):
            model.run(TASK, "cat")


def test_word_vectors_have_a_gap(tmp_path: Path) -> None:
    """Vectors of words classify nothing, and the gap says what this runtime does."""
    path = fasttext_file(tmp_path / "a.bin", model=2, labels=(), loss=2)
    model = model_at(path, *read_facts(path).task_types)
    assert "does not run embedding" in str(FastTextRuntime().gap(model))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the gap gives the command that brings it."""
    monkeypatch.setattr("ravenxterm_lab.runtimes.adapter.is_installed", lambda name: False)
    model = ModelMetadata("m", ModelType.FASTTEXT, Path("m"), 1, task_types=(TASK,))
    gap = FastTextRuntime().gap(model)
    assert gap == 'fasttext is not installed: pip install "ravenxterm-lab[runtimes]"'


def test_the_version_names_its_package() -> None:
    """Several packages bring the module, and each counts for itself."""
    assert str(FastTextRuntime().version()).endswith("(fasttext-predict-v2)")


def test_a_file_of_another_kind_is_corrupt(tmp_path: Path) -> None:
    """The engine itself refuses what has another magic number."""
    with pytest.raises(RuntimeFailureError, match="could not be loaded by fasttext") as caught:
        load_bytes(tmp_path / "a.ftz", b"nonsense" * 100)
    assert caught.value.kind is FailureKind.CORRUPT


@pytest.mark.parametrize("rows", [2**20, 2**30])
def test_a_matrix_that_lies_harms_only_the_worker(tmp_path: Path, rows: int) -> None:
    """The engine trusts the file: what the reader would refuse fails there, classified."""
    raw = fasttext_bytes()
    second = raw.rindex(struct.pack("<2q", 3, 4))
    changed = raw[:second] + struct.pack("<2q", rows, 2**20) + raw[second + 16 :]
    with pytest.raises(RuntimeFailureError) as caught:
        load_bytes(tmp_path / "a.ftz", changed, memory_limit=64 << 20)
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY


_CHILD = """
import sys
from pathlib import Path
import fasttext
for path in sorted(Path(sys.argv[1]).glob("*.ftz"), key=lambda path: int(path.stem)):
    print(path.stem, flush=True)
    try:
        model = fasttext.load_model(str(path)).f
        for text in ("chat cat maison", "zzz \\u00e9\\u00e8 Haus", "", "a b c d e f g h"):
            model.predict(text + chr(10), 5, 0.0, "replace")
    except (ValueError, RuntimeError, MemoryError):
        pass
"""


def test_what_the_reader_accepts_never_crashes_the_engine(tmp_path: Path) -> None:
    """Of 3,000 mutated models those that pass the reader load and answer, or are refused."""
    draw = random.Random(7)
    ngrams = {"bucket": 100, "ngrams": (2, 4)}
    pruned = {**ngrams, "pruned": [(5, 0), (17, 2), (3, 1)], "width": 2, "dim": 5}
    seeds = [fasttext_bytes(loss=loss, bucket=5, ngrams=(1, 3)) for loss in (1, 2, 3, 4)]
    seeds += [fasttext_bytes(**pruned), fasttext_bytes(word_ngrams=3, bucket=9)]
    accepted = 0
    for _ in range(3000):
        path = tmp_path / f"{accepted}.ftz"
        path.write_bytes(mutate(draw.choice(seeds), draw))
        try:
            accepted += read_facts(path).task_types != ("embedding",)
        except ModelFileError:
            path.unlink()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, tmp_path], capture_output=True, text=True, check=False
    )
    loaded = done.stdout.split()
    assert done.returncode == 0, (loaded[-1:], done.stderr[-500:])
    assert len(loaded) >= accepted > 200


def test_lines() -> None:
    """Only what ends a line early is changed; ``</s>`` within a word is a word."""
    assert as_line("a\u00a0b  c") == "a\u00a0b  c\n"
    assert as_line("a\r\nb\x00c\n") == "a b c\n"
    assert as_line("x</s>y <b></s>") == "x</s>y <b></s>\n"
    assert as_line("</s> </s>") is None
    assert as_line("") is None
