"""Models of one size that differ only deep in the header are two, and stay two."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest

from ravenxterm_lab.discovery import DirectorySource, ScanCache, discover
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelRegistry, Workbench
from ravenxterm_lab.readers import fingerprint

EOS = "tokenizer.ggml.eos_token_id"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A decoder with the end-of-text token stated behind 6 MB of tokens."""
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("block_count", "context_length", "embedding_length", "attention.head_count"):
        writer.add_uint32(f"llama.{key}", 64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"{number:02000d}" for number in range(3000)])
    writer.add_eos_token_id(2)
    writer.add_tensor("token_embd.weight", np.zeros((256, 4096), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def edited(path: Path, value: int) -> Path:
    """Change the end-of-text token in place, as gguf's own script does."""
    reader = gguf.GGUFReader(path, "r+")
    field = reader.get_field(EOS)
    assert field is not None
    field.parts[field.data[0]][0] = value
    reader.data.flush()
    del reader, field
    return path


@pytest.fixture
def pair(base, tmp_path) -> Path:
    """The model, a copy, a hard link and a link; and an edited one with two places."""
    root = tmp_path / "m"
    root.mkdir()
    for name in ("a", "b", "x"):
        shutil.copy(base, root / f"{name}.gguf")
    os.link(root / "a.gguf", root / "c.gguf")
    (root / "d.gguf").symlink_to("b.gguf")
    for number, name in enumerate("abx"):
        os.utime(root / f"{name}.gguf", ns=(0, (number + 1) * 10**9))
    edited(root / "x.gguf", 7)
    os.utime(root / "x.gguf", ns=(0, 9 * 10**9))
    shutil.copy(root / "x.gguf", root / "y.gguf")
    assert fingerprint([root / "x.gguf"]) == fingerprint([base])
    return root


def marks(found) -> dict[str, str]:
    return {name: model.fingerprint for name, model in found.models.items()}


def places(found, name: str) -> set[str]:
    model = found.models[name]
    return {path.stem for path in (model.path, *model.duplicates)}


def test_what_differs_deep_in_the_header_is_another_model(base, pair):
    """Copies and links stay with theirs; the older one keeps the fingerprint it has alone."""
    found = discover([DirectorySource(pair)])
    assert (places(found, "a"), places(found, "x")) == ({"a", "b", "c", "d"}, {"x", "y"})
    assert found.models["a"].fingerprint == fingerprint([base]) != found.models["x"].fingerprint
    assert found.read == 6  # places, each once: headers read to their end count for none


def test_it_stays_so_when_the_other_is_gone(pair, tmp_path):
    """By one scan after another, and by what the store keeps for the next process."""
    cache = ScanCache()
    before = marks(discover([DirectorySource(pair)], cache))
    rows = [(row.path, row.signature, json.dumps(row.facts)) for row in cache.news()]
    assert marks(discover([DirectorySource(pair)], cache)) == before
    for name in "abcd":
        (pair / f"{name}.gguf").unlink()
    alone = {"x": before["x"]}
    for _ in range(2):
        assert marks(discover([DirectorySource(pair)], cache)) == alone
    other = ScanCache()
    other.remember(rows)
    found = discover([DirectorySource(pair)], other)
    assert (marks(found), found.read) == (alone, 0)
    # Edited back it is what the other was: nothing is left of the comparison.
    edited(pair / "x.gguf", 2)
    (pair / "y.gguf").unlink()
    assert marks(discover([DirectorySource(pair)], cache)) == {"x": before["a"]}


def test_a_header_is_read_once_and_only_for_a_pair(pair, monkeypatch):
    """Not for one model, nor for names of one file; and of a pair not by a second scan."""
    from ravenxterm_lab.discovery import apart

    read: list[str] = []
    digest = apart.header_digest
    monkeypatch.setattr(
        apart, "header_digest", lambda paths: read.append(paths[0].name) or digest(paths)
    )
    hidden = [pair / f"{name}.gguf" for name in "bdxy"]
    away = pair.parent / "away"
    away.mkdir()
    for path in hidden:
        path.rename(away / path.name)
    cache = ScanCache()
    assert len(discover([DirectorySource(pair)], cache).models) == 1
    assert read == []
    for path in hidden:
        (away / path.name).rename(path)
    for _ in range(2):
        assert len(discover([DirectorySource(pair)], cache).models) == 2
        assert sorted(read) == ["a.gguf", "b.gguf", "x.gguf", "y.gguf"]
    (pair / "new.gguf").symlink_to("x.gguf")
    assert places(discover([DirectorySource(pair)], cache), "new") == {"x", "y", "new"}
    assert len(read) == 4


def test_the_trash_takes_one_and_leaves_the_other(pair, home):
    """Of the two entries each goes with its own places, one after the other, and comes back."""
    bench = Workbench(home, hardware=HardwareProfile.detect(measure_bandwidth=False), runtimes=[])
    registry = ModelRegistry(pair, workbench=bench)
    report = registry.space()
    assert {one.model.name: one.places for one in report} == {"a": 4, "x": 2}
    before = {one.model.name: one.model.fingerprint for one in report}
    registry.trash("a", everywhere=True)
    assert {path.stem for path in pair.iterdir()} == {"x", "y"}
    registry.trash("x", everywhere=True)
    assert list(pair.iterdir()) == []
    for name in ("a", "x"):
        registry.restore(name)
    registry.scan()
    assert {name: one.fingerprint for name, one in registry.available_models.items()} == before
    bench.store.close()
