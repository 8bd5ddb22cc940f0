"""The real models that the tests of this room load."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravenxterm_lab.metadata import ModelMetadata, ModelType


@pytest.fixture(scope="session")
def smollm2(demo_directory: Path) -> ModelMetadata:
    path = demo_directory / "smollm2-135m-instruct" / "SmolLM2-135M-Instruct.Q4_1.gguf"
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
def minilm(demo_directory: Path) -> ModelMetadata:
    path = demo_directory / "all-minilm-l6-v2-int8" / "model.onnx"
    return ModelMetadata(
        name="minilm",
        model_type=ModelType.ONNX,
        path=path,
        size_bytes=path.stat().st_size,
        context_length=512,
        task_types=("embedding",),
        companions=(demo_directory / "all-minilm-l6-v2-int8" / "tokenizer.json",),
        fingerprint="minilm",
    )


@pytest.fixture(scope="session")
def silero(demo_directory: Path) -> ModelMetadata:
    path = demo_directory / "silero-vad" / "silero_vad.onnx"
    return ModelMetadata(
        name="silero",
        model_type=ModelType.ONNX,
        path=path,
        size_bytes=path.stat().st_size,
        task_types=("voice_activity_detection",),
        fingerprint="silero",
    )


@pytest.fixture(scope="session")
def lid176(demo_directory: Path) -> ModelMetadata:
    path = demo_directory / "lid-176" / "lid.176.ftz"
    return ModelMetadata(
        name="lid.176",
        model_type=ModelType.FASTTEXT,
        path=path,
        size_bytes=path.stat().st_size,
        task_types=("language_identification",),
        fingerprint="lid176",
    )
