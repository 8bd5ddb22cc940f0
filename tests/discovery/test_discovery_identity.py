"""What is one model and what are two, where only a part of the weights differs."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from ravenxterm_lab.discovery import DirectorySource, discover
from ravenxterm_lab.readers import fingerprint

MIB = 1 << 20


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    """A decoder of 20 MiB whose header alone is larger than what is hashed at the start."""
    size = {"ffn_up": (256, 1024), "attn_q": (56, 1024), "attn_v": (8, 1024)}
    return files.gguf_file(
        tmp_path_factory.mktemp("base") / "base.gguf",
        layers=32,
        tokens=6000,
        tensors={
            f"blk.{layer}.{name}.weight": (shape, files.Q.F16)
            for layer in range(32)
            for name, shape in size.items()
        },
    )


@pytest.mark.parametrize("name", ["attn_q", "ffn_up"])
def test_a_fine_tune_that_changes_some_tensors_of_each_layer_is_another_model(base, tmp_path, name):
    """Same size, same header, same start and end: the weights between tell them apart."""
    raw = np.fromfile(base, np.uint8)
    assert raw.size > 17 * MIB
    for tensor in gguf.GGUFReader(base).tensors:
        if name in tensor.name:
            offset, size = int(tensor.data_offset), int(tensor.n_bytes)
            raw[offset : offset + size] ^= 1
    (tmp_path / "base.gguf").symlink_to(base)
    raw.tofile(tmp_path / "tuned.gguf")
    found = discover([DirectorySource(tmp_path)])
    assert sorted(found.models) == ["base", "tuned"]
    assert len({model.size_bytes for model in found.models.values()}) == 1


def test_one_changed_stretch_of_a_large_file_is_seen_wherever_it_lies(base, tmp_path):
    """A thirty-second of the file, as one layer is, always holds a sample."""
    raw = np.fromfile(base, np.uint8)
    length = raw.size // 32
    marks = {fingerprint([base])}
    for start in range(0, raw.size - length, length * 3 // 2):
        changed = raw.copy()
        changed[start : start + length] ^= 1
        changed.tofile(tmp_path / "other.gguf")
        marks.add(fingerprint([tmp_path / "other.gguf"]))
    assert len(marks) == 1 + len(range(0, raw.size - length, length * 3 // 2))


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_every_file_of_a_copied_set_is_listed(files, tmp_path, kind):
    """Of a sharded copy all shards are other paths of the one model."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in (1, 2, 3):
            path = tmp_path / folder / f"model-{number:05d}-of-00003.{kind}"
            if kind == "gguf":
                files.gguf_file(
                    path, seed=number, general={"split.no": number - 1, "split.count": 3}
                )
            else:
                files.safetensors_file(path, seed=number, prefix=f"{number}.")
    (model,) = discover([DirectorySource(tmp_path)]).models.values()
    assert model.shards == tuple(sorted((tmp_path / "a").iterdir()))
    assert model.duplicates == tuple(sorted((tmp_path / "b").iterdir()))
    assert model.size_bytes == sum(path.stat().st_size for path in model.shards)
