"""Formats of several files become one entry each, in a plain directory."""

from __future__ import annotations

from ravenxterm_lab.discovery import DirectorySource, discover
from ravenxterm_lab.metadata import ModelType

TOKENIZER = '<net version="11"><layers><layer id="0" type="BPETokenizer"/></layers></net>'


def test_an_openvino_model_is_one_entry(files, tmp_path):
    """Graph and weights are one model, named after its folder; its tokenizer is attached."""
    folder = tmp_path / "qwen-ov"
    files.write_config(folder, files.LLAMA, card="---\nlicense: mit\n---\n")
    path = files.openvino_file(folder / "openvino_model.xml")
    tokenizer = folder / "openvino_tokenizer.xml"
    tokenizer.write_text(TOKENIZER)
    found = discover([DirectorySource(tmp_path)])
    (model,) = found.models.values()
    weights = path.with_suffix(".bin")
    assert (model.name, model.model_type, model.license) == ("qwen-ov", ModelType.OPENVINO, "mit")
    assert model.shards == (path, weights)
    assert model.size_bytes == path.stat().st_size + weights.stat().st_size
    assert tokenizer in model.companions
    assert (model.problems, found.skipped) == ((), [])


def test_missing_weights_are_said_once(files, tmp_path):
    """A graph without its weights is an entry with one problem, until they are there."""
    path = files.openvino_file(tmp_path / "net.xml")
    weights = path.with_suffix(".bin")
    content = weights.read_bytes()
    weights.unlink()
    (model,) = discover([DirectorySource(tmp_path)]).models.values()
    assert model.problems == ("missing external data: net.bin",)
    weights.write_bytes(content)
    (model,) = discover([DirectorySource(tmp_path)]).models.values()
    assert model.problems == ()


def test_a_tflite_model_and_a_pickle_of_joblib_are_entries(files, tmp_path):
    """Both formats are found by their first bytes, and an XML file of something else is not."""
    files.tflite_file(tmp_path / "small.tflite")
    files.joblib_file(tmp_path / "forest.joblib")
    (tmp_path / "pom.xml").write_text("<project/>")
    found = discover([DirectorySource(tmp_path)])
    assert {name: model.model_type for name, model in found.models.items()} == {
        "forest": ModelType.PYTORCH,
        "small": ModelType.TFLITE,
    }
    assert found.skipped == []


def test_a_fasttext_model_is_told_from_other_bin_files(files, tmp_path):
    """``model.bin`` is named after its folder; its labels tell the task, whatever a card says."""
    folder = tmp_path / "language"
    folder.mkdir()
    labels = ("__label__eng_Latn", "__label__deu_Latn", "__label__srp_Cyrl")
    files.fasttext_file(folder / "model.bin", labels=labels)
    (folder / "README.md").write_text("---\npipeline_tag: text-classification\n---\n")
    (tmp_path / "firmware.bin").write_bytes(b"\x7fELF" + bytes(60))
    found = discover([DirectorySource(tmp_path)])
    (model,) = found.models.values()
    assert (model.name, model.model_type) == ("language", ModelType.FASTTEXT)
    assert model.task_types == ("language_identification",)
    assert found.skipped == []
