"""ONNX Runtime with real models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import FailureKind, RequirementError, RuntimeFailureError
from ravenxterm_lab.runtimes import LoadedModel, LoadOptions
from ravenxterm_lab.runtimes.onnx import OnnxRuntime
from ravenxterm_lab.runtimes.onnx_engine import pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ravenxterm_lab.metadata import ModelMetadata


@pytest.fixture(scope="module")
def embedder(minilm: ModelMetadata) -> Iterator[LoadedModel]:
    with OnnxRuntime().load(minilm, LoadOptions(threads=1)) as model:
        yield model


@pytest.fixture(scope="module")
def detector(silero: ModelMetadata) -> Iterator[LoadedModel]:
    with OnnxRuntime().load(silero, LoadOptions(threads=1)) as model:
        yield model


@pytest.mark.models
def test_embeddings_are_unit_vectors_that_mean_something(embedder: LoadedModel) -> None:
    """Rows are float32 of length 1, and related texts are nearer than unrelated ones."""
    texts = ["A cat sat on the mat.", "A kitten rests on a rug.", "Interest rates rose again."]
    result = embedder.run("embedding", texts)
    rows = np.asarray(result.output)
    assert rows.shape == (3, 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    assert result.throughput == pytest.approx(3 / result.latency)


@pytest.mark.models
def test_embeddings_agree_with_a_plain_computation(
    embedder: LoadedModel, minilm: ModelMetadata
) -> None:
    """One text's row is what the model and its tokenizer give without our adapter."""
    import onnxruntime
    import tokenizers

    text = "The quick brown fox"
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm.companion("tokenizer.json")))
    tokenizer.no_padding()
    ids = np.array([tokenizer.encode(text).ids])
    session = onnxruntime.InferenceSession(str(minilm.path), providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    mean = session.run(None, feed)[0][0].mean(axis=0)
    result = embedder.run("embedding", text)
    np.testing.assert_allclose(np.asarray(result.output)[0], mean / np.linalg.norm(mean), atol=1e-4)
    assert result.tokens_in == ids.shape[1]


@pytest.mark.models
def test_long_texts_are_cut_and_counted(embedder: LoadedModel) -> None:
    """A text beyond 512 tokens is cut, and the details say how many were."""
    result = embedder.run("embedding", ["word " * 1000, "short"])
    assert result.details["truncated"] == 1
    assert result.tokens_in is not None
    assert 512 < result.tokens_in < 520


@pytest.mark.models
def test_many_texts_go_in_batches(embedder: LoadedModel) -> None:
    """Seventy texts are three batches of at most 32, in the order given."""
    texts = [f"text number {number}" for number in range(70)]
    result = embedder.run("embedding", texts)
    assert np.asarray(result.output).shape == (70, 384)
    assert result.details["batches"] == 3
    alone = np.asarray(embedder.run("embedding", texts[69]).output)[0]
    nearest = int(np.argmax(np.asarray(result.output) @ alone))
    assert nearest == 69


@pytest.mark.models
def test_an_empty_list_is_refused(embedder: LoadedModel) -> None:
    """There is nothing to embed in an empty list."""
    with pytest.raises(RequirementError, match="not empty"):
        embedder.run("embedding", [])


@pytest.mark.models
def test_a_timeout_stops_a_session(embedder: LoadedModel) -> None:
    """A long embedding is stopped inside the session, and the model is still there."""
    with pytest.raises(RuntimeFailureError) as caught:
        embedder.run("embedding", ["word " * 600] * 400, timeout=0.2)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert embedder.alive
    assert embedder.run("embedding", "again").tokens_in == 3


@pytest.mark.models
def test_named_arrays_pass_through_any_model(detector: LoadedModel) -> None:
    """Arrays go in by name, narrowed to the model's types, and come out by name."""
    feed = {"input": np.zeros((1, 576)), "state": np.zeros((2, 1, 128)), "sr": 16000}
    output = detector.run("voice_activity_detection", feed).output
    assert isinstance(output, dict)
    assert output["output"].shape == (1, 1)
    assert 0 <= float(output["output"][0, 0]) < 0.5
    assert output["stateN"].shape == (2, 1, 128)
    output["output"][0, 0] = 1  # the caller's own copy


@pytest.mark.models
@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"inpt": [1.0]}, "no input 'inpt'. Did you mean 'input'"),
        ({"input": [[0.0] * 576]}, "'sr' is missing"),
        ({"input": [0.0], "state": [0.0], "sr": 16000}, "rank"),
        ({"input": [["a"]], "state": [0.0], "sr": 16000}, "array of numbers"),
        ({"input": [[1j]], "state": [0.0], "sr": 16000}, "float32 is needed"),
        ({"input": [[1.0], [1.0, 2.0]]}, "no array"),
        ({}, "mapping"),
    ],
)
def test_wrong_arrays_are_refused(
    detector: LoadedModel, feed: dict[str, object], message: str
) -> None:
    """A wrong name, rank or type is the caller's error, and names the input."""
    with pytest.raises(RequirementError, match=message):
        detector.run("voice_activity_detection", feed)


@pytest.mark.models
@pytest.mark.parametrize("length", [0, 100, 1_000_000])
def test_a_truncated_file_is_corrupt(silero: ModelMetadata, tmp_path: Path, length: int) -> None:
    """A file that is not whole fails as CORRUPT."""
    path = tmp_path / "cut.onnx"
    path.write_bytes(silero.path.read_bytes()[:length])
    with pytest.raises(RuntimeFailureError, match="silero could not be loaded") as caught:
        OnnxRuntime().load(replace(silero, path=path))
    assert caught.value.kind is FailureKind.CORRUPT


@pytest.mark.models
def test_a_tokenizer_that_is_no_tokenizer_is_corrupt(minilm: ModelMetadata, tmp_path: Path) -> None:
    """A broken tokenizer.json fails the load, and the message names the file."""
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(RuntimeFailureError, match=r"tokenizer\.json") as caught:
        OnnxRuntime().load(replace(minilm, companions=(broken,)))
    assert caught.value.kind is FailureKind.CORRUPT


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_pooling_ignores_padding(texts: int, tokens: int, padding: int, seed: int) -> None:
    """Rows have length 1, and whatever stands in padded places changes nothing."""
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(texts, tokens + padding, 3)).astype(np.float32)
    mask = np.ones((texts, tokens + padding), dtype=np.int64)
    mask[:, tokens:] = 0
    rows = pool(hidden, mask)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-4)
    np.testing.assert_allclose(rows, pool(hidden[:, :tokens], mask[:, :tokens]), atol=1e-5)
