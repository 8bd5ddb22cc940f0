"""What is taken for a copy is compared before it goes: nothing goes that is not one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from model_files import gguf_file
from trash_scenes import listing, ollama

from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelRegistry, Workbench
from ravenxterm_lab.readers import fingerprint
from ravenxterm_lab.trash import Comparison
from ravenxterm_lab.trash.holdings import take_stock


@pytest.fixture
def bench(home: Path) -> Iterator[Workbench]:
    """A workbench on a home of its own; nothing of it runs a model."""
    made = Workbench(home, hardware=HardwareProfile.detect(measure_bandwidth=False), runtimes=[])
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A decoder of 10 MiB, most of it weights that are not sampled."""
    shape = ((512, 512), gguf.GGMLQuantizationType.F32)
    tensors = {f"blk.{n}.ffn_up.weight": shape for n in range(10)}
    return gguf_file(tmp_path_factory.mktemp("made") / "a.gguf", tensors=tensors)


def differing(original: Path, target: Path) -> Path:
    """Write a file of the same size and fingerprint with one other byte among the weights."""
    raw = np.fromfile(original, np.uint8)
    mark = fingerprint([original])
    for tensor in gguf.GGUFReader(original).tensors:
        position = int(tensor.data_offset) + 5000
        raw[position] ^= 1
        raw.tofile(target)
        if fingerprint([target]) == mark:
            return target
        raw[position] ^= 1
    raise AssertionError("every place that was tried is sampled")


@pytest.fixture
def three(original, tmp_path) -> Path:
    """A model, a copy, a hard link to the copy, a link, and one that only looks the same."""
    root = tmp_path / "m"
    root.mkdir()
    for name in ("a", "b"):
        shutil.copy(original, root / f"{name}.gguf")
    os.link(root / "b.gguf", root / "c.gguf")
    (root / "d.gguf").symlink_to("a.gguf")
    differing(original, root / "e.gguf")
    return root


def there(root: Path) -> set[str]:
    return {path.stem for path in root.glob("*.gguf")}


def test_everywhere_leaves_what_differs(three, bench):
    """Copies, hard links and links go; the one that differs stays, named, with the way to go on."""
    before = listing(three)
    registry = ModelRegistry(three, workbench=bench)
    assert list(registry.available_models) == ["a"]
    planned = registry.trash("a", everywhere=True, dry_run=True)
    assert listing(three) == before
    (item,) = registry.trash("a", everywhere=True)
    assert there(three) == {"e"}
    assert item.files == planned.items[0].files
    (note,) = (note for note in item.notes if "differs" in note)
    assert note == (
        f"{three / 'e.gguf'} differs from {three / 'a.gguf'} in its bytes; left, trash it by its "
        "own path"
    )
    (alone,) = registry.trash(three / "e.gguf")
    assert (alone.path, there(three)) == (three / "e.gguf", set())
    for one in (alone, item):
        registry.restore(one.id)
    assert listing(three) == before


def test_the_copies_that_space_lists(three, bench):
    """All of them at once: those that are some go, under all of their names, the other is left."""
    registry = ModelRegistry(three, workbench=bench)
    report = registry.space()
    assert {copy.path.stem for copy in report.copies} == {"b", "e"}
    assert "Copies are told by header and samples" in str(report)
    done = registry.trash(report.copies)
    assert there(three) == {"a", "d", "e"}
    moved, left = done.items
    assert (moved.path.stem, left.path.stem) == ("b", "e")
    assert (left.state, left.files, left.bytes, left.id) == ("left", (), 0, None)
    assert "differs from" in left.notes[0]
    text = str(done)
    assert text.startswith("1 entry moved to the trash")
    assert "trash it by its own path" in text
    with pytest.raises(TrashError, match="is gone, or is the only place"):
        registry.trash(report.copies[0] if report.copies[0].path.stem == "b" else report.copies[1])


def test_one_place_says_only_of_true_copies_that_it_is_still_there(original, tmp_path, bench):
    """Of a place that differs it is said that it does, also when just one is asked for."""
    shutil.copy(original, tmp_path / "a.gguf")
    differing(original, tmp_path / "e.gguf")
    registry = ModelRegistry(tmp_path, workbench=bench)
    for name in ("a", tmp_path / "e.gguf"):
        (item,) = registry.trash(name, dry_run=True)
        assert not any("still at" in note for note in item.notes)
        assert any("differs from" in note for note in item.notes)


def test_a_change_after_the_dry_run_is_seen(original, tmp_path, bench):
    """Even where size and modification time are those of before: the time of change is not."""
    for name in ("a", "b"):
        shutil.copy(original, tmp_path / f"{name}.gguf")
    registry = ModelRegistry(tmp_path, workbench=bench)
    assert len(registry.trash("a", everywhere=True, dry_run=True).items[0].files) == 2
    times = (tmp_path / "b.gguf").stat()
    raw = differing(original, tmp_path / "x").read_bytes()
    (tmp_path / "x").unlink()
    with (tmp_path / "b.gguf").open("r+b") as file:
        file.write(raw)
    os.utime(tmp_path / "b.gguf", ns=(times.st_atime_ns, times.st_mtime_ns))
    registry.trash("a", everywhere=True)
    assert there(tmp_path) == {"b"}


def test_what_cannot_be_read_is_left(original, tmp_path, bench, monkeypatch):
    """An error of the disk is no proof of a copy."""
    for name in ("a", "b"):
        shutil.copy(original, tmp_path / f"{name}.gguf")
    registry = ModelRegistry(tmp_path, workbench=bench)
    assert len(registry.available_models) == 1
    opened = os.open

    def failing(path, *arguments, **options):
        if str(path).endswith("b.gguf"):
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)
    (item,) = registry.trash("a", everywhere=True)
    assert there(tmp_path) == {"b"}
    assert any("cannot be compared with" in n and "Input/output error" in n for n in item.notes)


def test_files_that_are_one_and_blobs_of_one_name_are_not_read(tmp_path, monkeypatch):
    """A hard link has the same bytes, and so has a blob of the same SHA-256 in another store."""
    first = ollama(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = type(first)({}, tmp_path / "two")
    stock = take_stock([first, second])
    model = stock.holdings[0].model
    assert model is not None
    kept, *others = stock.of(model)
    assert others
    assert {place.root for place in others} == {tmp_path / "two"}

    def unread(*_arguments):
        raise AssertionError("a file was read")

    monkeypatch.setattr("ravenxterm_lab.trash.comparing._read_both", unread)
    assert Comparison().copies(kept, others) == (others, ())
