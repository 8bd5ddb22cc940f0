"""The quantized variants of the voice activity model: one is sound, one is ruined."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from ravenxterm_lab.demo import VAD_LADDER, build_vad_ladder
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, Workbench
from ravenxterm_lab.readers import read_facts

TASK = "voice_activity_detection"
NAME = "silero_vad_16k"


@pytest.fixture(scope="module")
def ladder(demo_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the float32 file and both variants."""
    directory = tmp_path_factory.mktemp("vad")
    source = directory / f"{NAME}.onnx"
    shutil.copyfile(demo_directory / "silero-vad-16k" / source.name, source)
    build_vad_ladder(source)
    return directory


@pytest.fixture
def manager(ladder: Path, home: Path) -> Iterator[ModelManager]:
    profile = HardwareProfile.detect(measure_bandwidth=False)
    made = ModelManager(ladder, workbench=Workbench(home, hardware=profile), seed=0)
    yield made
    made.pool.close()
    made.store.close()


@pytest.mark.models
def test_each_variant_is_a_smaller_model_of_the_same_signature(ladder: Path) -> None:
    """Both load as what the source is; the ruined one is the smallest of all."""
    source = read_facts(ladder / f"{NAME}.onnx")
    sizes = {}
    for variant in VAD_LADDER:
        facts = read_facts(ladder / f"{NAME}.{variant}.onnx")
        assert facts.task_types == source.task_types == (TASK,)
        assert facts.inputs == source.inputs
        # The recurrent layer stays as it was, and is most of the weights.
        assert facts.quantization == "F32"
        assert facts.tensor_bytes[{"int8": "I8", "uint8": "U8"}[variant]] > 170_000
        sizes[variant] = facts.size_bytes
    assert sizes["int8"] < sizes["uint8"] < 0.65 * source.size_bytes


@pytest.mark.models
def test_quality_tells_the_ruined_one(manager: ModelManager) -> None:
    """All of them load and answer; only the labels say that one of them never hears a voice."""
    report = manager.benchmark(TASK, repeats=1, quality=True, progress=False)
    found = {item.model: item for item in report.results}
    assert set(found) == {NAME, f"{NAME}.int8", f"{NAME}.uint8"}
    assert all(item.failures == {} for item in report.results)
    scores = {name: item.quality.value for name, item in found.items() if item.quality}
    assert scores[NAME] >= 12 / 14
    assert scores[f"{NAME}.uint8"] >= 12 / 14
    # Nine of the fourteen signals hold no voice, and silence is always right about those.
    assert scores[f"{NAME}.int8"] <= 10 / 14
    heard = {
        name: sum(
            run.quality or 0 for run in report.runs if run.model == name and "voice" in run.cell
        )
        for name in found
    }
    assert heard[f"{NAME}.int8"] <= 1
    assert min(heard[NAME], heard[f"{NAME}.uint8"]) >= 4


@pytest.mark.models
def test_one_weight_sets_the_scale_of_all(demo_directory: Path) -> None:
    """Why it is ruined: at 127 steps up to the largest weight, 97% of a layer become zero."""
    model = onnx.load(demo_directory / "silero-vad-16k" / f"{NAME}.onnx")
    (raw,) = [
        one for one in model.graph.initializer if one.name.endswith("encoder.3.reparam_conv.weight")
    ]
    weights = np.abs(onnx.numpy_helper.to_array(raw)).ravel()
    assert weights.max() == pytest.approx(54.9, abs=0.05)
    assert np.mean(np.round(weights / (weights.max() / 127)) == 0) == pytest.approx(0.97, abs=0.005)


@pytest.mark.models
def test_it_is_made_in_silence(
    demo_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What onnxruntime advises on the root logger does not reach a notebook; the rest does."""
    source = tmp_path / f"{NAME}.onnx"
    shutil.copyfile(demo_directory / "silero-vad-16k" / source.name, source)
    logging.getLogger().warning("mine")
    build_vad_ladder(source, ("int8",))
    logging.getLogger().warning("mine too")
    assert caplog.messages == ["mine", "mine too"]


@pytest.mark.models
def test_what_exists_is_kept_and_nothing_is_left_over(ladder: Path) -> None:
    """A second call makes nothing anew, and leaves no half file."""
    before = {path.name: path.stat().st_mtime_ns for path in ladder.iterdir()}
    assert len(before) == 3
    assert [path.name for path in build_vad_ladder(ladder / f"{NAME}.onnx", ("uint8",))] == [
        f"{NAME}.uint8.onnx"
    ]
    assert {path.name: path.stat().st_mtime_ns for path in ladder.iterdir()} == before


@pytest.mark.models
def test_the_other_file_has_nothing_to_quantize(demo_directory: Path, tmp_path: Path) -> None:
    """silero_vad.onnx keeps its weights as constants within branches: the sizes stay."""
    source = tmp_path / "silero_vad.onnx"
    shutil.copyfile(demo_directory / "silero-vad" / source.name, source)
    (made,) = build_vad_ladder(source, ("int8",))
    assert made.stat().st_size >= source.stat().st_size


def test_a_file_that_is_no_model_leaves_nothing(tmp_path: Path) -> None:
    """A failure keeps no half file, and an unknown variant makes none at all."""
    source = tmp_path / "x.onnx"
    source.write_bytes(b"nonsense" * 10)
    with pytest.raises(Exception, match=r"pars|decod|wire|truncated|invalid"):
        build_vad_ladder(source)
    with pytest.raises(KeyError):
        build_vad_ladder(source, ("int4",))
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
