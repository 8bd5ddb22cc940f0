"""One behaviour suite over every source, each in its own store's real layout."""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

import model_files
import pytest
import stores
from stores import LAYERS, STORES

from ravenxterm_lab.discovery import DirectorySource, ScanCache, Skipped, discover
from ravenxterm_lab.metadata import ModelMetadata


@pytest.fixture(scope="module")
def acme(tmp_path_factory):
    """Install the distribution that brings a source along, for one module of tests."""
    site = tmp_path_factory.mktemp("site")
    stores.plugin(site)
    site.chmod(0o755)  # also for the user who may not read everything
    with stores.importable(site):
        yield


@pytest.fixture(params=STORES)
def store(request, acme):
    return STORES[request.param]


def found_in(store, home):
    """Return the models and what was skipped, by name of the file."""
    found = list(store.make(home).discover())
    models = [one for one in found if isinstance(one, ModelMetadata)]
    skipped = [one for one in found if isinstance(one, Skipped)]
    assert len(models) + len(skipped) == len(found)
    assert all(one.reason.isprintable() and one.reason for one in skipped)
    assert all(one.source for one in skipped)
    return models, skipped


def reason_of(skipped, path):
    """Return the reason that one path, its target or its directory was skipped for."""
    near = {path, path.resolve() if not path.is_symlink() else path}
    return next(one.reason for one in skipped if one.path in near)


class TestWhatIsFound:
    def test_an_absent_store_is_empty_and_silent(self, store, tmp_path):
        """A store that this person does not have is neither created nor complained of."""
        assert found_in(store, tmp_path) == ([], [])
        assert list(tmp_path.iterdir()) == []

    def test_a_model_is_found_once_with_its_facts(self, store, files, tmp_path):
        """Name, facts, size, path, source and fingerprint are there, and nothing is skipped."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        (model,), skipped = found_in(store, tmp_path)
        assert skipped == []
        assert model.name == store.model
        assert model.source == (store.label or store.name)
        assert (model.path, model.shards) == (path, (path,))
        assert model.size_bytes == path.stat().st_size
        assert (model.architecture, model.quantization) == ("llama", "Q4_0")
        assert (model.context_length, model.vocabulary_size) == (2048, 16)
        assert model.task_types == ("text_generation",)
        assert model.attention.heads_kv == (2,) * LAYERS
        assert len(model.fingerprint) == 32
        assert (model.problems, model.duplicates) == ((), ())
        assert any(path.is_relative_to(root) for root in store.make(tmp_path).roots())

    def test_the_fingerprint_is_that_of_the_bytes(self, store, files, tmp_path):
        """In whichever store a model lies, its fingerprint is that of a plain copy."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        (tmp_path / "plain").mkdir()
        shutil.copyfile(path, tmp_path / "plain" / "x.gguf")
        (plain,) = DirectorySource(tmp_path / "plain").discover()
        (model,), _ = found_in(store, tmp_path)
        assert model.fingerprint == plain.fingerprint

    def test_equal_names_are_told_apart_by_labels(self, store, files, tmp_path):
        """A store's labels are printable, and what they tell apart has unique names."""
        source = store.make(tmp_path)
        store.lay(files, tmp_path / store.place, layers=LAYERS)
        store.plant(
            tmp_path / store.place, "small.gguf",
            lambda path: files.gguf_file(path, layers=LAYERS, seed=9),
        )  # fmt: skip
        found = discover([source])
        assert len(found.models) == 2
        assert all(name == model.name for name, model in found.models.items())
        for model in found.models.values():
            assert all(label.isprintable() and label for label in source.labels(model))

    def test_nothing_in_the_store_is_written(self, store, files, tmp_path):
        """A scan leaves every file and directory as it was."""
        store.lay(files, tmp_path / store.place, layers=LAYERS)

        def state():
            return {
                path: (path.lstat().st_mtime_ns, path.lstat().st_size, path.lstat().st_mode)
                for path in tmp_path.rglob("*")
            }

        before = state()
        found_in(store, tmp_path)
        assert state() == before

    def test_a_rescan_reads_nothing(self, store, files, tmp_path):
        """With the cache of the first scan the second reads no file and finds the same."""
        store.lay(files, tmp_path / store.place, layers=LAYERS)
        source, cache = store.make(tmp_path), ScanCache()
        first = discover([source], cache)
        second = discover([source], cache)
        assert (first.read, second.read) == (1, 0)
        assert first.models == second.models

    def test_progress_is_told_the_file(self, store, files, tmp_path):
        """The callable hears of the file before it is read."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        heard = []
        list(store.make(tmp_path).discover(heard.append))
        assert heard == [path]

    def test_a_removed_model_is_gone(self, store, files, tmp_path):
        """What was deleted between two scans is not found by the second."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        source, cache = store.make(tmp_path), ScanCache()
        assert len(discover([source], cache).models) == 1
        path.unlink()
        assert discover([source], cache).models == {}


def _socket(path):
    # The address of a socket is shorter than most temporary directories.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name[:90])
    finally:
        os.chdir(before)


HOSTILE = {
    "a FIFO": (os.mkfifo, "regular"),
    "a socket": (_socket, "regular"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "regular"),
    "a broken link": (lambda path: path.symlink_to(path.parent / "nowhere"), "exist|No such"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "link|Too many"),
    "an empty file": (lambda path: path.write_bytes(b""), "empty|truncated|short"),
    "garbage": (lambda path: path.write_bytes(b"\xff\xfe" * 50_000), "not|known"),
    "a page": (lambda path: path.write_bytes(b"<html>" + b"x" * 99_000), "HTML|known"),
    "zeros": (lambda path: path.write_bytes(bytes(100_000)), "zeros|known"),
}


class TestWhatIsHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_what_is_no_model_is_skipped_with_the_reason(self, store, files, tmp_path, kind):
        """It is never opened where that has effects, never raised, and hides nothing else."""
        write, expected = HOSTILE[kind]
        store.lay(files, tmp_path / store.place, layers=LAYERS)
        store.plant(tmp_path / store.place, "odd.gguf", write)
        models, skipped = found_in(store, tmp_path)
        assert [model.name for model in models] == [store.model]
        assert len(skipped) == 1
        assert re.search(expected, skipped[0].reason), skipped[0].reason

    def test_a_truncated_model_is_skipped_with_the_reason(self, store, files, tmp_path):
        """A file that was cut short is named, and nothing is raised."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        path.write_bytes(path.read_bytes()[:-200])
        models, skipped = found_in(store, tmp_path)
        assert models == []
        assert [one.path for one in skipped] == [path]
        assert "truncated" in skipped[0].reason

    @pytest.mark.parametrize(
        "name", [b"new\nline.gguf", b"\xff\xfe.gguf", b"<b>&.gguf", b"\x1b[2J.gguf"]
    )
    def test_a_name_that_is_not_text_is_no_trouble(self, store, files, tmp_path, name):
        """It is found under a printable name, or skipped with a printable reason."""
        place = tmp_path / store.place
        store.plant(place, os.fsdecode(name), lambda path: files.gguf_file(path, layers=LAYERS))
        models, skipped = found_in(store, tmp_path)
        assert len(models) + len(skipped) == 1
        assert all(model.name.isprintable() and model.name.encode() for model in models)
        found = discover([store.make(tmp_path)])
        assert all(one.isprintable() for one in found.models)

    def test_a_file_that_goes_while_it_is_looked_at(self, store, files, tmp_path):
        """It is skipped with the reason, not raised, and the next scan does not know it."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        source, cache = store.make(tmp_path), ScanCache()
        found = discover([source], cache, progress=lambda _: path.unlink())
        assert found.models == {}
        assert len(found.skipped) == 1
        assert discover([source], cache).models == {}

    def test_a_store_that_goes_while_it_is_looked_at(self, store, files, tmp_path):
        """A whole tree that is removed during the scan ends it without an exception."""
        store.lay(files, tmp_path / store.place, layers=LAYERS)
        store.plant(
            tmp_path / store.place, "zz.gguf",
            lambda path: files.gguf_file(path, layers=LAYERS, seed=4),
        )  # fmt: skip
        place = tmp_path / store.place
        found = discover(
            [store.make(tmp_path)], progress=lambda _: shutil.rmtree(place, ignore_errors=True)
        )
        assert found.models == {}

    def test_a_file_that_grows_while_it_is_looked_at(self, store, files, tmp_path):
        """A model that is still being written is said to be so, and is not chosen."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)

        def grow(_):
            with path.open("ab") as stream:
                stream.write(b"x" * 4096)

        found = discover([store.make(tmp_path)], progress=grow)
        assert all(model.problems for model in found.models.values())
        assert len(found.models) + len(found.skipped) >= 1

    def test_an_unreadable_file_is_skipped(self, store, files, tmp_path):
        """A file without permission has that for its reason; the others are found."""
        store.lay(files, tmp_path / store.place, layers=LAYERS)
        odd = store.plant(
            tmp_path / store.place, "odd.gguf",
            lambda path: files.gguf_file(path, layers=LAYERS, seed=3),
        )  # fmt: skip
        odd.chmod(0)
        with stores.nobody(tmp_path):
            models, skipped = found_in(store, tmp_path)
        assert [model.name for model in models] == [store.model]
        assert ["ermission" in one.reason for one in skipped] == [True]

    def test_an_unreadable_store_is_said(self, store, files, tmp_path):
        """A store that may not be listed is not taken for an empty one."""
        place = tmp_path / store.place
        store.lay(files, place, layers=LAYERS)
        closed = place / "manifests" if store.name == "ollama" else place
        closed.chmod(0)
        try:
            with stores.nobody(tmp_path):
                models, skipped = found_in(store, tmp_path)
        finally:
            closed.chmod(0o755)
        assert models == []
        assert skipped
        assert all("ermission" in one.reason for one in skipped)

    def test_a_file_where_the_store_should_be(self, store, tmp_path):
        """What is no directory is no store; it is neither read as one nor raised."""
        place = tmp_path / store.place
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"not a store")
        models, _ = found_in(store, tmp_path)
        assert models == []

    def test_links_in_a_circle_end(self, store, files, tmp_path):
        """A store that links to itself and to what contains it is looked into once."""
        place = tmp_path / store.place
        path = store.lay(files, place, layers=LAYERS)
        for folder in {place, path.parent}:
            (folder / "again").symlink_to(place)
            (folder / "up").symlink_to(tmp_path)
            (folder / "self").symlink_to(folder / "self")
        found = discover([store.make(tmp_path)])
        assert len(found.models) == 1


# Ollama's layers of weights are GGUF files.
PLANTED = [
    (name, kind) for name in STORES for kind in model_files.WRITERS
    if name != "ollama" or kind == "gguf"
]  # fmt: skip


class TestFormats:
    @pytest.mark.parametrize(("store", "kind"), PLANTED, indirect=["store"])
    def test_every_format_is_found_in_every_store(self, store, files, tmp_path, kind):
        """What a reader knows is found wherever it lies, with the same facts as in a directory."""
        name, write = files.WRITERS[kind]
        store.plant(tmp_path / store.place, name, write)
        (tmp_path / "plain").mkdir()
        write(tmp_path / "plain" / name)
        (plain,) = DirectorySource(tmp_path / "plain").discover()
        (model,), skipped = found_in(store, tmp_path)
        assert skipped == []
        assert model.model_type.value == kind
        assert (model.size_bytes, model.parameter_count) == (
            plain.size_bytes, plain.parameter_count,
        )  # fmt: skip
        assert (model.fingerprint, model.quantization) == (plain.fingerprint, plain.quantization)
        assert (model.task_types, model.architecture) == (plain.task_types, plain.architecture)


class TestIdentity:
    @pytest.mark.parametrize("kind", ["copy", "hard link", "symlink"])
    def test_the_same_bytes_in_a_directory_are_one_entry(self, store, files, tmp_path, kind):
        """A copy or a link of a store's model elsewhere is another place of it, counted once."""
        path = store.lay(files, tmp_path / store.place, layers=LAYERS)
        other = tmp_path / "elsewhere" / "mine.gguf"
        other.parent.mkdir()
        if kind == "copy":
            shutil.copyfile(path, other)
        elif kind == "hard link":
            other.hardlink_to(path.resolve())
        else:
            other.symlink_to(path)
        found = discover([store.make(tmp_path), DirectorySource(other.parent)])
        (model,) = found.models.values()
        assert model.path == path
        assert model.duplicates == (other,)
        assert model.size_bytes == other.stat().st_size

    def test_other_weights_under_the_same_header_are_two(self, store, files, tmp_path):
        """A fine-tune of the same size and shapes is a model of its own."""
        store.lay(files, tmp_path / store.place, layers=LAYERS)
        (tmp_path / "elsewhere").mkdir()
        files.gguf_file(tmp_path / "elsewhere" / "tuned.gguf", layers=LAYERS, seed=1)
        found = discover([store.make(tmp_path), DirectorySource(tmp_path / "elsewhere")])
        assert len(found.models) == 2
        assert len({model.size_bytes for model in found.models.values()}) == 1


def test_one_model_in_every_store_is_one_entry(acme, files, tmp_path):
    """Nine places, two of them the same directory: one entry, with every other path listed."""
    paths = {}
    for name, store in STORES.items():
        home = tmp_path / name.replace(" ", "-")
        paths[name] = store.lay(files, home / store.place, layers=LAYERS)
    found = discover(
        [store.make(tmp_path / name.replace(" ", "-")) for name, store in STORES.items()]
    )
    assert found.skipped == []
    (model,) = found.models.values()
    assert model.path == paths["directory"]
    assert model.duplicates == tuple(path for path in paths.values() if path != model.path)
    assert model.size_bytes == model.path.stat().st_size
