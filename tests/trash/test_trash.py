"""The trash: everything comes back, whatever happens; only what is nobody else's goes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from stores import nobody
from trash_scenes import (
    REVISIONS,
    SCENES,
    first,
    hub,
    listing,
    lm_studio,
    ollama,
    plain,
    trash_one,
    weights,
)

from ravenxterm_lab.discovery import DirectorySource, HuggingFaceSource, OllamaSource, discover
from ravenxterm_lab.discovery.walk import TRASH
from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.readers import limits
from ravenxterm_lab.trash.holdings import take_stock
from ravenxterm_lab.trash.moving import move_back
from ravenxterm_lab.trash.open_files import open_elsewhere
from ravenxterm_lab.trash.record import read_record
from ravenxterm_lab.trash.trash import Trash

SCRIPT = Path(__file__).with_name("trash_scenes.py")
READERS = Path(__file__).parents[1] / "readers"


@pytest.fixture(scope="module")
def scenes() -> Iterator[Callable[..., object]]:
    """Give a call that lets another process play a scene; one process plays them all.

    A process that is killed loses nothing that it wrote, so that the scenes may lie in memory:
    on a disk most of the time goes into waiting for it.
    """
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(READERS)},
        ) as process,
    ):  # fmt: skip

        def play(*arguments: str) -> object:
            assert process.stdin
            assert process.stdout
            place = tempfile.mkdtemp(dir=folder)
            process.stdin.write(json.dumps([place, *arguments]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield play
        assert process.stdin
        process.stdin.close()


def put(source, home, name="", **options):
    stock = take_stock([source])
    trash = Trash(home, stock.roots)
    return trash, trash.put(stock.plan(first(stock, name)), name="it", **options)


def everywhere(stock, name=""):
    model = next(one.model for one in stock.holdings if one.model and name in one.model.name)
    return stock.plan(stock.of(model))


def names(plan, root):
    return {str(item.path.relative_to(root)) for item in plan.items}


class TestWhatHappensInTheMiddle:
    @pytest.mark.parametrize("job", ["trash", "restore", "finish", "empty"])
    @pytest.mark.parametrize("scene", SCENES)
    def test_a_kill_before_any_change_loses_nothing(self, scenes, scene, job):
        """Killed before its n-th change of the disk, for every n: restore brings all back."""
        found = scenes(scene, job, "kill")
        assert found["wrong"] == []
        assert found["stops"] > 3

    @pytest.mark.parametrize("scene", SCENES)
    def test_an_error_of_any_call_is_undone(self, scenes, scene):
        """An input/output error at any call is a TrashError, and everything is in its place."""
        found = scenes(scene, "trash", "error")
        assert found["wrong"] == []
        assert found["stops"] > 3

    @pytest.mark.parametrize("scene", ["plain", "ollama"])
    def test_of_two_processes_one_gets_it(self, scenes, scene):
        """Two trash one model at once: one does, the other says that it is no longer there."""
        assert scenes("race", scene) == [[0, 1]] * 10

    def test_a_directory_that_is_gone_was_moved_by_another(self, tmp_path, home):
        """Who comes second, when even the directory went, is told so, and nothing of rights."""
        source = SCENES["plain"](tmp_path / "store")
        stock = take_stock([source])
        plan = stock.plan(first(stock))
        folder = plan.items[0].path.parent
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(TrashError, match="no longer what was looked at") as caught:
            Trash(home, stock.roots).put(plan, name="it")
        assert "writable" not in str(caught.value)
        assert Trash(home, stock.roots).entries() == []

    def test_a_file_that_was_replaced_is_not_moved(self, tmp_path, home):
        """Not the file that was looked at, by its inode: nothing moves."""
        source = plain(tmp_path / "m")
        stock = take_stock([source])
        plan = stock.plan(first(stock))
        path = plan.items[-1].path
        raw = path.read_bytes()
        path.rename(tmp_path / "old")
        path.write_bytes(raw)
        before = listing(tmp_path / "m")
        with pytest.raises(TrashError, match="no longer what was looked at"):
            Trash(home, stock.roots).put(plan, name="it")
        assert listing(tmp_path / "m") == before
        assert not (home / "trash").exists()


class TestRoundTrip:
    @pytest.mark.parametrize("scene", SCENES)
    def test_restore_brings_every_byte_back(self, tmp_path, home, scene):
        """Names, links, permissions, times and inodes are what they were."""
        root = tmp_path / "store"
        source = SCENES[scene](root)
        before = listing(root)
        models = set(discover([source]).models)
        trash, (entry,) = put(source, home)
        assert entry.state == "complete"
        assert set(entry.files) == {Path(p) for p in before if not Path(p).exists()} - {
            Path(p) for p, (_, inside) in before.items() if inside is None
        }
        if scene != "hub":  # where the other revision still holds the model
            assert len(discover([source]).models) == len(models) - 1
        assert [one.id for one in trash.entries()] == [entry.id]
        trash.restore(entry.id)
        assert listing(root) == before
        assert trash.entries() == []
        assert set(discover([source]).models) == models

    def test_names_that_are_no_text_come_back(self, tmp_path, home):
        """Line breaks, quotes and bytes that are not UTF-8 survive the record."""
        raw = os.fsencode(tmp_path) + b'/m/a\n"\xff<b>.safetensors'
        weights(tmp_path / "m" / "x.safetensors").rename(os.fsdecode(raw))
        before = listing(tmp_path / "m")
        trash, (entry,) = put(DirectorySource(tmp_path / "m"), home)
        assert not os.path.lexists(raw)
        trash.restore(entry.id)
        assert listing(tmp_path / "m") == before

    def test_directories_that_are_gone_are_made_again(self, tmp_path, home):
        """Even the store's own directory, with the permissions that those below it had."""
        root = tmp_path / "store"
        source = plain(root)
        before = listing(root)
        trash, (entry,) = put(source, home)
        assert list(root.iterdir()) == []
        root.rmdir()
        trash.restore(entry.id)
        assert listing(root) == before

    def test_what_is_there_again_is_not_overwritten(self, tmp_path, home):
        """A place that is taken is an error that says what to do; nothing is moved."""
        source = lm_studio(tmp_path)
        trash, (entry,) = put(source, home)
        entry.path.write_text("new")
        before = listing(tmp_path)
        with pytest.raises(TrashError, match=r"exists again.*Move what is there away"):
            trash.restore(entry.id)
        assert listing(tmp_path) == before
        entry.path.unlink()
        trash.restore(entry.id)
        assert entry.path.stat().st_size > 3

    def test_what_appears_in_the_last_moment_is_not_overwritten(self, tmp_path, home):
        """Not even what comes after the look at the places, while the files move back."""
        source = lm_studio(tmp_path)
        trash, (entry,) = put(source, home)
        entry.path.write_text("new")
        with pytest.raises(TrashError, match=rf"File exists.*restore '{entry.id}' goes on"):
            move_back(read_record(entry.directory))
        assert entry.path.read_text() == "new"
        entry.path.unlink()
        trash.restore(entry.id)
        assert entry.path.stat().st_size > 3

    def test_an_id_that_is_not_there(self, tmp_path, home):
        """An unknown id, or one that was restored, is an error."""
        trash, (entry,) = put(plain(tmp_path / "m"), home)
        trash.restore(entry.id)
        for one in (entry.id, "../../etc"):
            with pytest.raises(TrashError, match="Nothing in the trash has the id"):
                trash.restore(one)


class TestEmpty:
    def test_emptying_deletes_and_says_how_much(self, tmp_path, home):
        """The bytes of the files, counted as they go; links and hard links elsewhere are none."""
        root = tmp_path / "m"
        path = weights(root / "a.safetensors")
        (root / "b.safetensors").symlink_to(path.name)
        size = path.stat().st_size
        trash, (entry,) = put(DirectorySource(root), home)
        assert len(entry.files) == 2
        assert entry.bytes == size
        assert trash.empty() == size
        assert trash.entries() == []
        assert list((home / "trash").iterdir()) == []

    def test_a_hard_link_elsewhere_keeps_the_bytes(self, tmp_path, home):
        """Neither the plan nor the emptying counts what another name still holds."""
        path = weights(tmp_path / "m" / "a.safetensors")
        os.link(path, tmp_path / "elsewhere")
        source = DirectorySource(tmp_path / "m")
        plan = take_stock([source]).plan(first(take_stock([source])))
        assert plan.freed_bytes == 0
        assert any("hard link" in note for note in plan.notes)
        trash, (entry,) = put(source, home)
        assert entry.bytes == trash.empty() == 0

    def test_only_what_is_old_enough(self, tmp_path, home):
        """What was trashed later than so many days ago stays."""
        trash, (entry,) = put(plain(tmp_path / "m"), home)
        assert trash.empty(older_than_days=1) == 0
        assert [one.id for one in trash.entries()] == [entry.id]
        later = datetime(entry.time.year + 1, 1, 1)  # noqa: DTZ001 - without a zone, as in the record
        assert trash.empty(older_than_days=1, now=later) == entry.bytes > 0


class TestWhatOthersUse:
    def test_hub_blobs_that_another_revision_uses_stay(self, tmp_path, home):
        """A revision's links, refs and notes go, and of its blobs only its own."""
        source = hub(tmp_path)
        repository = tmp_path / "models--org--tiny"
        stock = take_stock([source])
        plan = stock.plan(first(stock))
        assert names(plan, repository) == {
            f"snapshots/{REVISIONS[0]}/model.safetensors",
            f"snapshots/{REVISIONS[0]}/config.json",
            f"snapshots/{REVISIONS[0]}/README.md",
            f".no_exist/{REVISIONS[0]}/adapter_config.json",
            "refs/main",
            "blobs/c0",
        }
        assert plan.freed_bytes == (repository / "blobs" / "c0").stat().st_size + 40
        assert any(note.startswith("keeps 1 blob") for note in plan.notes)
        whole = everywhere(stock)
        assert whole.freed_bytes > (repository / "blobs" / "w").stat().st_size
        Trash(home, stock.roots).put(whole, name="it")
        assert list(tmp_path.glob("models--*")) == []

    def test_the_hub_s_own_scan_is_content(self, tmp_path, home):
        """huggingface_hub finds the rest intact, and all of it after the restore."""
        from huggingface_hub import scan_cache_dir

        source = hub(tmp_path / "hub")
        before = scan_cache_dir(tmp_path / "hub")
        assert before.warnings == []
        trash, (entry,) = put(source, home)
        (repository,) = scan_cache_dir(tmp_path / "hub").repos
        assert scan_cache_dir(tmp_path / "hub").warnings == []
        assert {one.commit_hash for one in repository.revisions} == {REVISIONS[1]}
        trash.restore(entry.id)
        assert scan_cache_dir(tmp_path / "hub").size_on_disk == before.size_on_disk

    def test_one_model_of_a_revision_leaves_the_others(self, tmp_path):
        """Of a repository with several models, only this one's files go."""
        repository = tmp_path / "models--org--many"
        snapshot = repository / "snapshots" / REVISIONS[0]
        snapshot.mkdir(parents=True)
        for seed, name in enumerate(("a", "b")):
            weights(repository / "blobs" / name, seed)
            (snapshot / f"{name}.safetensors").symlink_to(f"../../blobs/{name}")
        for name in ("tokenizer.json", "README.md"):
            (repository / "blobs" / name).write_text("{}")
            (snapshot / name).symlink_to(f"../../blobs/{name}")
        stock = take_stock([HuggingFaceSource({}, tmp_path)])
        plan = stock.plan(first(stock, "a"))
        assert names(plan, repository) == {
            f"snapshots/{REVISIONS[0]}/a.safetensors", "blobs/a"
        }  # fmt: skip
        assert any("tokenizer.json stays" in note for note in plan.notes)

    def test_blobs_that_hub_repositories_share(self, tmp_path):
        """A payload in the hub's shared store goes with the last repository that links to it."""
        payload = weights(tmp_path / "blobs" / "ab" / ("ab" + "0" * 62))
        for owner in ("a", "b"):
            repository = tmp_path / f"models--{owner}--tiny"
            snapshot = repository / "snapshots" / REVISIONS[0]
            snapshot.mkdir(parents=True)
            (repository / "blobs").mkdir()
            target = os.path.relpath(payload, repository / "blobs")
            (repository / "blobs" / "w").symlink_to(target)
            (snapshot / "model.safetensors").symlink_to("../../blobs/w")
        stock = take_stock([HuggingFaceSource({}, tmp_path)])
        one, both = stock.plan(first(stock)), everywhere(stock)
        assert (len(one.items), one.freed_bytes) == (2, 0)
        assert both.freed_bytes == payload.stat().st_size
        assert payload in {item.path for item in both.items}
        assert stock.leftovers == []

    def test_ollama_blobs_that_another_tag_uses_stay(self, tmp_path):
        """The licence is both tags'; the orphaned blob is a leftover."""
        source = ollama(tmp_path)
        stock = take_stock([source])
        plan = stock.plan(first(stock, "1b"))
        license_blob = next(b for b in (tmp_path / "blobs").iterdir() if b.read_bytes() == b"MIT")
        moved = {item.path for item in plan.items}
        assert plan.items[0].path.name == "1b"
        assert len(moved) == 4
        assert license_blob not in moved
        assert [(one.kind, one.path.read_bytes()) for one in stock.leftovers] == [
            ("orphan", b"nobody's")
        ]

    def test_a_manifest_that_cannot_be_read_keeps_every_blob(self, tmp_path):
        """What it names is not known, so nothing but the manifest goes, and no blob is orphaned."""
        source = ollama(tmp_path)
        odd = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "odd" / "big"
        odd.parent.mkdir()
        with odd.open("wb") as file:
            file.truncate(limits.CONFIG_BYTES + 1)
        stock = take_stock([source])
        assert len(stock.plan(first(stock, "1b")).items) == 1
        assert stock.leftovers == []

    def test_companions_of_two_models_stay_with_the_last(self, tmp_path):
        """A tokenizer that both use goes when both go."""
        for seed, name in enumerate(("a", "b")):
            weights(tmp_path / f"{name}.safetensors", seed)
        (tmp_path / "tokenizer.json").write_text("{}")
        stock = take_stock([DirectorySource(tmp_path)])
        plan = stock.plan(first(stock, "a"))
        assert names(plan, tmp_path) == {"a.safetensors"}
        assert plan.notes == ("tokenizer.json stays: b uses it too",)
        rest = stock.without(plan.holdings)
        assert names(rest.plan(first(rest)), tmp_path) == {"b.safetensors", "tokenizer.json"}

    def test_all_shards_go_with_their_index(self, tmp_path):
        """What would be left behind of a sharded model goes too."""
        stock = take_stock([plain(tmp_path)])
        assert names(stock.plan(first(stock)), tmp_path / "deep" / "llama") == {
            "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
            "model.safetensors.index.json", "config.json", "tokenizer.json",
        }  # fmt: skip


class TestLinks:
    def test_a_link_goes_with_what_it_leads_to(self, tmp_path):
        """The real file is the model's first place, and no link is left that leads nowhere."""
        path = weights(tmp_path / "z.safetensors")
        (tmp_path / "a.safetensors").symlink_to(path)
        stock = take_stock([DirectorySource(tmp_path)])
        plan = stock.plan(first(stock))
        assert names(plan, tmp_path) == {"z.safetensors", "a.safetensors"}
        assert plan.freed_bytes == path.stat().st_size

    def test_a_link_by_itself_is_only_a_link(self, tmp_path, home):
        """What it leads to, outside the store, is not touched."""
        outside = weights(tmp_path / "outside" / "x.safetensors")
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "x.safetensors").symlink_to(outside)
        source = DirectorySource(tmp_path / "m")
        stock = take_stock([source])
        plan = stock.plan(first(stock))
        assert plan.freed_bytes == 0
        assert plan.notes == (f"only the link goes; {outside} stays",)
        trash, (entry,) = put(source, home)
        assert outside.exists()
        assert not (tmp_path / "m" / "x.safetensors").is_symlink()
        trash.restore(entry.id)
        assert (tmp_path / "m" / "x.safetensors").readlink() == outside

    def test_a_linked_directory_outside_the_store_is_refused(self, tmp_path, home):
        """Its files are somewhere else, and the message says where."""
        weights(tmp_path / "outside" / "x.safetensors")
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "there").symlink_to(tmp_path / "outside")
        before = listing(tmp_path)
        with pytest.raises(TrashError, match=r"outside every directory that was scanned"):
            put(DirectorySource(tmp_path / "m"), home)
        assert listing(tmp_path) == before

    def test_a_hub_blob_that_a_link_elsewhere_uses_stays(self, tmp_path, home):
        """A directory whose file is a link into the cache keeps the blob in use."""
        source = hub(tmp_path / "hub")
        blob = tmp_path / "hub" / "models--org--tiny" / "blobs" / "w"
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "mine.safetensors").symlink_to(blob)
        stock = take_stock([source, DirectorySource(tmp_path / "m")])
        revisions = [one for one in stock.holdings if one.revision is not None]
        assert blob not in {item.path for item in stock.plan(revisions).items}
        assert blob in {item.path for item in everywhere(stock).items}


class TestRefusals:
    def test_what_is_in_use(self, tmp_path, home):
        """The caller's reasons are the message; nothing moves, and no trash is made."""
        source = plain(tmp_path / "m")
        before = listing(tmp_path / "m")
        with pytest.raises(TrashError, match="it is in use: loaded; open"):
            put(source, home, in_use=lambda items: ["loaded", "open"])
        assert listing(tmp_path / "m") == before
        assert not home.exists()

    def test_an_installed_package(self, tmp_path, home):
        """A model that a Python package brought along goes with the package only."""
        site = tmp_path / "lib" / "python3.13" / "site-packages"
        weights(site / "pkg" / "x.safetensors")
        with pytest.raises(TrashError, match="installed Python package"):
            put(DirectorySource(tmp_path), home)

    def test_a_directory_that_is_not_writable(self, tmp_path, home):
        """It is named before anything is moved."""
        source = plain(tmp_path / "m")
        stock = take_stock([source])
        plan = stock.plan(first(stock))
        folder = plan.items[0].path.parent
        folder.chmod(0o555)
        with nobody(folder), pytest.raises(TrashError, match="is not writable for you"):
            Trash(home, stock.roots).put(plan, name="it")
        folder.chmod(0o750)
        assert all(item.path.exists() for item in plan.items)

    def test_a_trash_that_others_can_write_to_is_not_trusted(self, tmp_path, home):
        """A record that anybody could have written moves nothing; the next place is taken."""
        source = plain(tmp_path / "m")
        (home / "trash").mkdir(parents=True)
        (home / "trash").chmod(0o777)
        trash, (entry,) = put(source, home)
        assert entry.directory.parent == tmp_path / TRASH
        assert stat.S_IMODE(entry.directory.parent.stat().st_mode) == 0o700
        (home / "trash").chmod(0o700)
        assert [one.id for one in trash.entries()] == [entry.id]
        entry.directory.parent.chmod(0o777)
        assert trash.entries() == []

    def test_a_damaged_record_is_shown_and_left(self, tmp_path, home):
        """Its files stay, also when the trash is emptied."""
        trash, (entry,) = put(plain(tmp_path / "m"), home)
        record = entry.directory / "record.json"
        whole = record.read_text()
        for text in (whole[:-9], whole.replace(str(tmp_path), "..", 1), '{"version": 99}'):
            record.write_text(text)
            (shown,) = trash.entries()
            assert (shown.id, shown.state) == (entry.id, "damaged")
            with pytest.raises(TrashError):
                trash.restore(entry.id)
            assert trash.empty() == 0
        record.write_text(whole)
        trash.restore(entry.id)


class TestWhereItLies:
    def test_it_is_never_scanned(self, tmp_path):
        """Neither the trash below the home nor the one beside a store, even if asked to."""
        source = plain(tmp_path / "m")
        _, (inside,) = put(source, tmp_path / "m" / "home")
        plain(tmp_path / "m")
        (tmp_path / "blocked").write_text("a file")
        _, (beside,) = put(DirectorySource(tmp_path / "m"), tmp_path / "blocked" / "home")
        assert beside.directory.parent == tmp_path / TRASH
        for place in (tmp_path, tmp_path / "m", inside.directory, beside.directory):
            assert discover([DirectorySource(place)]).models == {}
        assert OllamaSource({}, tmp_path).labels  # the sources themselves are still there

    def on_file_systems(self, tmp_path, mount, work):
        if shutil.which("unshare") is None or os.geteuid() != 0:
            pytest.skip("mounting a file system needs root and unshare")
        (tmp_path / "work.py").write_text(
            "import sys\nfrom pathlib import Path\nfrom trash_scenes import *\n"
            f"root, home = Path({str(tmp_path / 'm')!r}), Path({str(tmp_path / 'home')!r})\n{work}"
        )
        (tmp_path / "m").mkdir()
        paths = os.pathsep.join([str(SCRIPT.parent), str(READERS)])
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f"{mount} && '{sys.executable}' {tmp_path}/work.py"],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        if "mount" in done.stderr and done.returncode == 32:
            pytest.skip("mounting is not permitted here")
        assert done.returncode == 0, done.stderr

    WORK = """
source = plain(root)
before = listing(root)
trash_one(source, home)
trash = Trash(home)  # a registry of other directories finds it by the note in the home
(entry,) = trash.entries()
assert entry.directory.parent == root / ".ravenxterm-trash", entry
assert entry.directory.stat().st_dev == root.stat().st_dev
trash.restore(entry.id)
assert listing(root) == before
trash_one(source, home)
assert trash.empty() > 0
assert list(root.glob(".ravenxterm-trash/*")) == list((home / "trash").iterdir()) == []
(root / ".ravenxterm-trash").rmdir()
(root / ".ravenxterm-trash").write_text("in the way")
plain(root)
before = listing(root)
try:
    trash_one(source, home)
except TrashError as error:
    assert "its own file system" in str(error), error
else:
    raise SystemExit("it was moved")
assert listing(root) == before
assert Trash(home, (root,)).entries() == []
"""

    def test_nothing_crosses_a_file_system(self, tmp_path):
        """On a file system of its own, the trash lies there; without a place, it is an error."""
        mount = f"mount -t tmpfs none {tmp_path}/m"
        self.on_file_systems(tmp_path, mount, self.WORK)

    FULL = """
source = plain(root)
stock = take_stock([source])
plan = stock.plan(first(stock))
(root / "home").mkdir()
with open(root / "filler", "wb", buffering=0) as filler:
    for size in (65536, 4096, 512, 1):
        try:
            while filler.write(bytes(size)) == size:
                pass
        except OSError:
            continue
before = listing(root)
try:
    Trash(root / "home", stock.roots).put(plan, name="it")
except TrashError as error:
    assert "No space left" in str(error) and "empty the trash" in str(error), error
else:
    raise SystemExit("it was moved")
after = listing(root)
assert {k: v for k, v in after.items() if "trash" not in k} == before, sorted(after)
assert Trash(root / "home", stock.roots).entries() == []
(root / "filler").unlink()
Trash(root / "home", stock.roots).put(plan, name="it")
"""

    def test_a_full_disk(self, tmp_path):
        """No room for the record: nothing moved or half-made, and the remedy is named."""
        self.on_file_systems(tmp_path, f"mount -t tmpfs -o size=512k none {tmp_path}/m", self.FULL)

    def test_one_file_system_at_two_places(self, tmp_path):
        """A bind mount has one device number, and renames across it fail: the next place."""
        (tmp_path / "real").mkdir()
        mount = f"mount --bind {tmp_path}/real {tmp_path}/m"
        self.on_file_systems(tmp_path, mount, self.WORK)


class TestOpenFiles:
    PROGRAM = """
import mmap, sys
file = open(sys.argv[1], "rb")
if sys.argv[2] == "mapped":
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file.close()
print("ready", flush=True)
sys.stdin.read()
"""

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
    @pytest.mark.parametrize("how", ["open", "mapped"])
    def test_a_process_that_has_it_open_is_named(self, tmp_path, how):
        """By its number and name, whether it holds the file or only a mapping of it."""
        path = weights(tmp_path / "new\nline.safetensors")
        stock = take_stock([DirectorySource(tmp_path)])
        items = stock.plan(first(stock)).items
        assert list(open_elsewhere(items)) == []
        child = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, str(path), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with child:
            assert child.stdout.readline() == "ready\n"
            (reason,) = open_elsewhere(items)
            child.stdin.close()
        assert f"process {child.pid} (" in reason
        assert list(open_elsewhere(items)) == []


def test_a_plan_changes_nothing(tmp_path, home):
    """Taking stock, planning and checking leave every byte and time as it was."""
    for name, make in SCENES.items():
        root = tmp_path / name
        source = make(root)
        before = listing(tmp_path)
        stock = take_stock([source])
        Trash(home, stock.roots).check(everywhere(stock))
        assert listing(tmp_path) == before
    assert not home.exists()
    assert trash_one(plain(tmp_path / "again"), home)
