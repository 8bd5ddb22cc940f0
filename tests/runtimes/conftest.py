"""The real models that the tests of this room load."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ravenxterm_lab import config
from ravenxterm_lab.metadata import ModelMetadata, ModelType


def _demo_file(*parts: str) -> Path:
    given = os.environ.get("RAVENXTERM_TEST_MODELS")
    root = Path(given) if given else config.paths().models / "demo"
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.fail(f"{path} is missing. Fetch the demo models with: raven-lab demo --fetch-only")
    return path


@pytest.fixture(scope="session")
def smollm2() -> ModelMetadata:
    path = _demo_file("smollm2-135m-instruct", "SmolLM2-135M-Instruct.Q4_1.gguf")
    return ModelMetadata(
        name="smollm2",
        model_type=ModelType.GGUF,
        path=path,
        size_bytes=path.stat().st_size,
        context_length=8192,
        task_types=("text_generation",),
        fingerprint="smollm2",
    )


@pytest.fixture(scope="session")
def minilm() -> ModelMetadata:
    path = _demo_file("all-minilm-l6-v2-int8", "model.onnx")
    return ModelMetadata(
        name="minilm",
        model_type=ModelType.ONNX,
        path=path,
        size_bytes=path.stat().st_size,
        context_length=512,
        task_types=("embedding",),
        companions=(_demo_file("all-minilm-l6-v2-int8", "tokenizer.json"),),
        fingerprint="minilm",
    )


@pytest.fixture(scope="session")
def silero() -> ModelMetadata:
    path = _demo_file("silero-vad", "silero_vad.onnx")
    return ModelMetadata(
        name="silero",
        model_type=ModelType.ONNX,
        path=path,
        size_bytes=path.stat().st_size,
        task_types=("voice_activity_detection",),
        fingerprint="silero",
    )
