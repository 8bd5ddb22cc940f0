"""What fastText takes, against models that are written here and loaded by the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from fasttext_files import fasttext_file

from ravenxterm_lab.discovery import DirectorySource, discover
from ravenxterm_lab.estimation import Verdict, estimate_memory
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.fasttext import FastTextRuntime


def words(count: int, length: int) -> list[str]:
    return [f"{number:x}".ljust(length, "abcdefghijkl"[number % 12]) for number in range(count)]


#: Many words, long ones, none cut into n-grams, a wide dense matrix, and a pruned dictionary.
SHAPES = {
    "words": {"words": words(60_000, 8), "dim": 16, "bucket": 1000, "ngrams": (3, 6)},
    "long": {"words": words(40_000, 20), "dim": 16, "bucket": 1000, "ngrams": (2, 4)},
    "plain": {"words": words(60_000, 8), "dim": 16},
    "dense": {"words": words(10_000, 8), "dim": 100, "bucket": 80_000, "ngrams": (3, 6)},
    "pruned": {
        "words": words(2000, 8), "dim": 16, "bucket": 2_000_000, "ngrams": (2, 4), "width": 2,
        "pruned": [(7 * row, row) for row in range(80_000)],
    },
}  # fmt: skip


def found_in(directory: Path) -> ModelMetadata:
    (model,) = discover([DirectorySource(directory)]).models.values()
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_the_interval_holds_what_a_load_takes(tmp_path: Path, shape: str) -> None:
    """The measured peak lies in the interval; with n-grams it is within a fifth of the total."""
    fasttext_file(tmp_path / "m.ftz", **SHAPES[shape])
    model = found_in(tmp_path)
    estimate = estimate_memory(model)
    with FastTextRuntime().load(model, LoadOptions(threads=1)) as loaded:
        peak = loaded.run(model.task_types[0], "one two three").peak_memory
    assert estimate.engine == "fasttext"
    assert estimate.low_bytes <= peak <= estimate.high_bytes, estimate
    if shape != "plain":
        assert estimate.total_bytes == pytest.approx(peak, rel=0.2)


@pytest.mark.models
def test_the_published_model_is_within_its_interval(demo_directory: Path) -> None:
    """lid.176.ftz takes three times its file, and the estimate knows it before the first load."""
    model = found_in(demo_directory / "lid-176")
    estimate = estimate_memory(model)
    with FastTextRuntime().load(model, LoadOptions(threads=1)) as loaded:
        peak = loaded.run("language_identification", "Guten Morgen").peak_memory
    assert peak > 2 * model.size_bytes
    assert estimate.low_bytes <= peak <= estimate.high_bytes


def test_a_budget_decides() -> None:
    """Outside of its interval an estimate has a verdict, and never a cache or a context."""
    path = Path("m.bin")
    model = ModelMetadata(
        "m", "fasttext", path, 100 << 20, vocabulary_size=10_000, embedding_length=100,
        parameter_count=25_000_000, tensor_bytes={"F32": 100_000_000},
    )  # fmt: skip
    assert estimate_memory(model, budget_bytes=64 << 20).verdict is Verdict.CANNOT
    fits = estimate_memory(model, budget_bytes=1 << 30)
    assert fits.verdict is Verdict.FITS
    assert fits.kv_cache_bytes is None
    assert fits.context_length is None
