"""What happens to files while they are scanned, and what one scan may take."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ravenxterm_lab.discovery import DirectorySource, ScanCache, discover
from ravenxterm_lab.discovery.budget import Budget
from ravenxterm_lab.discovery.facts_json import _FIELDS, decode, encode
from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.metadata import AttentionGeometry, ModelType, NetworkShape, WeightLayout
from ravenxterm_lab.readers import READERS, FileFacts, TensorSignature, limits
from ravenxterm_lab.readers.binary import FileWindow

#: (path, action) of the test that runs: the action happens right before the path is opened.
_ARMED = []


def _hook(event, arguments):
    if event == "open" and _ARMED and str(arguments[0]) == _ARMED[0][0]:
        _, action = _ARMED.pop()
        action()


sys.addaudithook(_hook)


@pytest.fixture
def before_opening():
    """Let something happen right before a file is opened, once."""
    yield lambda path, action: _ARMED.append((str(path), action))
    _ARMED.clear()


def by_another_process(code, *arguments):
    """Do it in a process of its own, to the end."""
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


def scan(root, cache=None):
    return discover([DirectorySource(root)], ScanCache() if cache is None else cache)


class TestMeanwhile:
    @pytest.mark.parametrize(
        ("code", "word"),
        [
            ("import sys; open(sys.argv[1], 'ab').write(b'more')", "changed"),
            ("import os, sys; os.truncate(sys.argv[1], 100)", ""),
            ("import os, sys; os.truncate(sys.argv[1], 0)", "empty"),
            ("import os, sys; os.replace(sys.argv[2], sys.argv[1])", "changed"),
            ("import os, sys; os.unlink(sys.argv[1])", "cannot be opened"),
            ("import os, sys; os.unlink(sys.argv[1]); os.mkfifo(sys.argv[1])", "FIFO"),
            ("import os, sys; os.unlink(sys.argv[1]); os.mkdir(sys.argv[1])", "directory"),
            ("import os, sys; os.unlink(sys.argv[1]); os.symlink('/dev/zero', sys.argv[1])",
             "device"),
        ],
        ids=["grows", "shrinks", "emptied", "replaced", "removed", "fifo", "directory", "device"],
    )  # fmt: skip
    def test_a_file_that_changes_before_it_is_opened(
        self, files, tmp_path, before_opening, code, word
    ):
        """It is skipped with the reason, the others are found, and the next scan is right."""
        root = tmp_path / "models"
        root.mkdir()
        files.gguf_file(root / "a.gguf", seed=1)
        path = files.gguf_file(root / "b.gguf", seed=2)
        files.gguf_file(root / "c.gguf", seed=3)
        other = files.gguf_file(tmp_path / "new", seed=4)
        before_opening(path, lambda: by_another_process(code, path, other))
        cache = ScanCache()
        found = scan(root, cache)
        assert set(found.models) == {"a", "c"}
        (skipped,) = found.skipped
        assert skipped.path == path
        assert word in skipped.reason
        again, anew = scan(root, cache), scan(root)
        assert {"a", "c"} <= set(again.models)
        assert (again.models, again.skipped) == (anew.models, anew.skipped)

    def test_a_shard_that_changes_after_it_was_read(self, files, tmp_path, before_opening):
        """A set of which one file was replaced while another one was read is not taken."""
        first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
        for number, path in enumerate((first, second)):
            files.gguf_file(path, seed=number, general={"split.count": None})
        code = "import sys; open(sys.argv[1], 'r+b').write(b'GGUX')"
        before_opening(second, lambda: by_another_process(code, first))
        found = scan(tmp_path)
        assert found.models == {}
        assert "changed while it was read" in found.skipped[0].reason

    def test_a_directory_that_goes_is_skipped(self, files, tmp_path, before_opening):
        """What was listed and is not there any more ends no scan."""
        path = files.gguf_file(_made(tmp_path / "a") / "a.gguf")
        files.gguf_file(_made(tmp_path / "b") / "b.gguf", seed=2)
        code = "import shutil, sys; shutil.rmtree(sys.argv[1])"
        before_opening(path, lambda: by_another_process(code, tmp_path / "b"))
        found = scan(tmp_path)
        assert set(found.models) == {"a"}
        assert [item.path.name for item in found.skipped] == ["b"]

    def test_a_download_that_goes_on_is_read_when_it_is_finished(self, files, tmp_path):
        """A thread writes a model piece by piece: each scan says what there is."""
        whole = files.gguf_file(tmp_path / "made", seed=1).read_bytes()
        (tmp_path / "made").unlink()
        target = tmp_path / "big.gguf"
        go, done = threading.Semaphore(0), threading.Semaphore(0)

        def download():
            with target.open("wb", buffering=0) as file:
                for start in range(0, len(whole), 3000):
                    go.acquire()
                    file.write(whole[start : start + 3000])
                    done.release()

        writer = threading.Thread(target=download)
        writer.start()
        cache = ScanCache()
        for start in range(0, len(whole), 3000):
            go.release()
            done.acquire()
            found = scan(tmp_path, cache)
            ready = start + 3000 >= len(whole)
            assert set(found.models) == ({"big"} if ready else set())
            assert bool(found.skipped) is not ready
        writer.join()


class TestBudget:
    def test_entries_over_the_budget_are_named(self, files, tmp_path):
        """The scan ends with a reason, keeps what it found, and forgets nothing."""
        for number in range(6):
            files.gguf_file(_made(tmp_path / f"d{number}") / f"m{number}.gguf", seed=number)
        cache = ScanCache()
        assert len(scan(tmp_path, cache).models) == 6
        cache.budget = Budget(entries=9)
        found = scan(tmp_path, cache)
        assert 0 < len(found.models) < 6
        assert any("more than 9 entries" in item.reason for item in found.skipped)
        cache.budget = Budget()
        assert scan(tmp_path, cache).read == 0

    def test_a_scan_that_takes_too_long_ends(self, files, tmp_path):
        """Time is looked at between directories."""
        files.gguf_file(tmp_path / "small.gguf")
        found = scan(tmp_path, ScanCache(Budget(seconds=-1)))
        assert found.models == {}
        assert "Scan again" in found.skipped[0].reason

    def test_a_file_that_is_read_over_and_over_is_given_up(self, files, tmp_path):
        """The bytes of one file are counted, however often they are read."""
        path = files.gguf_file(tmp_path / "small.gguf")
        with FileWindow(path, 16) as window:
            window.left = 100
            window.read(0, 60)
            with pytest.raises(ModelFileError, match="not read any further"):
                window.read(1, 60)

    def test_a_file_on_a_slow_disk_is_looked_at_again(self, files, tmp_path, monkeypatch):
        """A file over its time is skipped with the reason, and not remembered as bad."""
        files.gguf_file(tmp_path / "small.gguf")
        cache = ScanCache()
        with monkeypatch.context() as patch:
            patch.setattr(limits, "FILE_SECONDS", -1.0)
            found = scan(tmp_path, cache)
        assert "to read" in found.skipped[0].reason
        assert set(scan(tmp_path, cache).models) == {"small"}

    def test_a_huge_directory_ends_within_the_budget(self, tmp_path):
        """A hundred thousand names cost no look at any of them."""
        for number in range(20_000):
            os.close(os.open(tmp_path / f"n{number}.txt", os.O_CREAT | os.O_WRONLY))
        cache = ScanCache(Budget(entries=15_000))
        found = scan(tmp_path, cache)
        assert "entries" in found.skipped[0].reason
        assert scan(tmp_path).skipped == []

    def test_depth_is_bounded(self, files, tmp_path):
        """A directory 3,000 levels deep is scanned down to a depth, and said to be."""
        files.gguf_file(tmp_path / "top.gguf")
        here = os.open(tmp_path, os.O_RDONLY)
        for _ in range(3000):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
        try:
            found = scan(tmp_path)
            assert set(found.models) == {"top"}
            assert any("levels deep" in item.reason for item in found.skipped)
        finally:
            subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)

    def test_special_files_are_never_opened(self, files, tmp_path):
        """A device, a socket and a FIFO under a model's name are said to be what they are."""
        files.gguf_file(tmp_path / "a.gguf")
        os.mkfifo(tmp_path / "fifo.gguf")
        (tmp_path / "zero.gguf").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(tmp_path / "socket.gguf"))
            opened = []
            watched = str(tmp_path)

            def watch(event, arguments):
                if event == "open" and watched and str(arguments[0]).startswith(watched):
                    opened.append(Path(arguments[0]).name)

            sys.addaudithook(watch)
            found = scan(tmp_path)
            watched = ""
        assert set(opened) == {"a.gguf"}
        assert len(found.skipped) == 3
        assert all("was not opened" in item.reason for item in found.skipped)


class TestFactsAsJson:
    def test_every_field_is_written(self):
        """A field that a reader may set is not lost between two processes."""
        assert _FIELDS.keys() == FileFacts.__dataclass_fields__.keys()

    def test_what_was_read_comes_back(self, files, tmp_path):
        """Models of every format are the same from what an earlier process remembers."""
        for kind, (name, write) in (files.WRITERS | files.VARIANTS).items():
            write(_made(tmp_path / kind) / name)
        first = ScanCache()
        found = scan(tmp_path, first)
        rows = [(one.path, one.signature, json.dumps(one.facts)) for one in first.news()]
        assert {model.model_type for model in found.models.values()} == {
            reader.model_type for reader in READERS
        }
        second = ScanCache()
        second.remember(rows)
        again = scan(tmp_path, second)
        assert (again.models, again.skipped, again.read) == (found.models, found.skipped, 0)
        assert list(second.news()) == []

    def test_all_of_it_comes_back(self):
        """Every field survives, also those that few formats have."""
        geometry = AttentionGeometry((2, 0), 8, 8, 512, (True, False), 4, 2, 100)
        layout = WeightLayout(9, (5, 6), 8, 7, "F16", 4, "Q6_K", 3, (2, 2), (8, 2), {"Q4_0": 11})
        shape = NetworkShape(2, 16, 17, 18, False, True, 19, 20, 21, 22, 23, 24, True)
        facts = FileFacts(
            ModelType.ONNX, 10, "adapter", "n", "llama", 5, 4, 2, (8, 2), 7, "Q4_0", 2048,
            geometry, layout, shape, 64, 32, ("embedding",), "mit", {"F32": 40}, (0, 2),
            ("x.onnx_data",),
            (TensorSignature("in", "F32", (None, "batch", 3)),), (TensorSignature("out", "I64"),),
            ("os.system",), ("bad",), ("odd",),
        )  # fmt: skip
        assert decode(encode((facts, "a" * 32, ()))) == (facts, "a" * 32, ())
        assert decode(encode("no model")) == "no model"
        assert decode(encode(None)) is None


def test_a_rescan_notices_a_file_beside_a_model(files, tmp_path):
    """A tokenizer that comes or goes changes the model's entry, without reading the model."""
    files.safetensors_file(tmp_path / "model.safetensors")
    cache = ScanCache()
    (model,) = scan(tmp_path, cache).models.values()
    assert model.companions == ()
    (tmp_path / "tokenizer.json").write_text("{}")
    found = scan(tmp_path, cache)
    (model,) = found.models.values()
    assert [path.name for path in model.companions] == ["tokenizer.json"]
    assert found.read == 0
    (tmp_path / "tokenizer.json").unlink()
    (model,) = scan(tmp_path, cache).models.values()
    assert model.companions == ()


def test_a_rescan_notices_the_description_above(files, tmp_path):
    """An ONNX file one level below its repository follows the configuration there."""
    files.onnx_file(_made(tmp_path / "repo" / "onnx") / "model.onnx")
    (tmp_path / "repo" / "README.md").write_text("---\nlicense: mit\n---\n")
    cache = ScanCache()
    (model,) = scan(tmp_path, cache).models.values()
    assert model.license == "mit"
    (tmp_path / "repo" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (model,) = scan(tmp_path, cache).models.values()
    assert model.license == "apache-2.0"


def test_the_same_inode_is_read_once(files, tmp_path):
    """Hard links, and links of several revisions, cost one reading."""
    path = files.gguf_file(_made(tmp_path / "a") / "x.gguf")
    os.link(path, _made(tmp_path / "b") / "y.gguf")
    opened = []
    watched = str(tmp_path)

    def watch(event, arguments):
        if event == "open" and watched and str(arguments[0]).startswith(watched):
            opened.append(arguments[0])

    sys.addaudithook(watch)
    found = scan(tmp_path)
    watched = ""
    assert len(opened) == 1
    (model,) = found.models.values()
    assert len(model.duplicates) == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_it_was(files, tmp_path, enabled):
    """A scan that ends, or is interrupted, leaves the collector on or off as it found it."""
    files.gguf_file(tmp_path / "a.gguf")
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()

    def interrupt(_path):
        raise KeyboardInterrupt

    try:
        scan(tmp_path)
        assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, 0)
        with pytest.raises(KeyboardInterrupt):
            discover([DirectorySource(tmp_path)], progress=interrupt)
        assert (gc.isenabled(), gc.get_freeze_count()) == (enabled, 0)
    finally:
        (gc.enable if before else gc.disable)()


def _made(path):
    path.mkdir(parents=True, exist_ok=True)
    return path
