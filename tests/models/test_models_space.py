"""What models take, what could be freed, and the trash, as the registry offers them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from trash_scenes import REVISIONS, hub, listing, ollama, plain, weights

from ravenxterm_lab.exceptions import TrashError, UnknownModelError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelRegistry, Workbench
from ravenxterm_lab.runtimes import LoadOptions
from ravenxterm_lab.runtimes.fake import FakeRuntime
from ravenxterm_lab.store import Store

DAY = 24 * 3600


@pytest.fixture
def bench(home: Path, profile: HardwareProfile) -> Iterator[Workbench]:
    """A workbench on a home of its own, with a fake runtime."""
    made = Workbench(home, hardware=profile, runtimes=[FakeRuntime("fake")])
    yield made
    made.store.close()


def days_ago(home: Path, days: float) -> Store:
    """Return a store that records as if it were some days ago."""
    return Store(home / "store", clock=lambda: time.time_ns() - int(days * DAY * 1e9), ingest=False)


def of(report, name):
    return next(one for one in report if one.model.name == name)


class TestWhatItTakes:
    def test_each_file_is_counted_once(self, tmp_path, bench):
        """Links and hard links take nothing, a copy takes its own, and the total is all inodes."""
        root = tmp_path / "m"
        path = weights(root / "a.safetensors")
        size = path.stat().st_size
        (root / "link.safetensors").symlink_to("a.safetensors")
        os.link(path, root / "hard.safetensors")
        shutil.copy(path, root / "z-copy.safetensors")
        report = ModelRegistry(root, workbench=bench).space()
        (one,) = report
        assert (one.bytes, one.freed_bytes, one.places) == (2 * size, 2 * size, 4)
        assert one.duplicate_bytes == report.duplicate_bytes == size
        assert report.bytes == 2 * size
        # Keeping `a` keeps its hard link's bytes too; the copy is what would be freed.
        assert [(copy.path.name, copy.is_link, copy.freed_bytes) for copy in report.copies] == [
            ("z-copy.safetensors", False, size)
        ]
        (link,) = (copy for copy in one.copies if copy.is_link)
        names = {link.path.name, *(name.name for name in link.names)}
        assert (names, link.freed_bytes) == ({"hard.safetensors", "link.safetensors"}, 0)

    def test_two_names_of_one_copy_are_one_copy(self, tmp_path, bench):
        """Hard links to each other free nothing alone, and together what they hold."""
        path = weights(tmp_path / "m" / "a.safetensors")
        shutil.copy(path, tmp_path / "m" / "b.safetensors")
        os.link(tmp_path / "m" / "b.safetensors", tmp_path / "m" / "c.safetensors")
        (copy,) = ModelRegistry(tmp_path / "m", workbench=bench).space().copies
        assert (copy.path.name, [name.name for name in copy.names]) == (
            "b.safetensors", ["c.safetensors"]
        )  # fmt: skip
        assert copy.freed_bytes == path.stat().st_size

    def test_revisions_share_their_blobs(self, tmp_path, bench):
        """Two revisions take the weights once, and the older one frees only what is its own."""
        hub(tmp_path / "hub")
        blobs = tmp_path / "hub" / "models--org--tiny" / "blobs"
        total = sum(blob.stat().st_size for blob in blobs.iterdir())
        (one,) = ModelRegistry(tmp_path / "hub", workbench=bench).space()
        assert one.bytes == one.freed_bytes == total + 40  # the ref to a revision is a file too
        (copy,) = one.copies
        assert REVISIONS[1] in str(copy.path)
        assert copy.is_link
        assert copy.freed_bytes == one.duplicate_bytes == (blobs / "c1").stat().st_size

    def test_those_that_free_the_most_come_first(self, tmp_path, bench):
        """Sorted by what could be freed; each model's own row adds up to the total."""
        for rows, name in ((10, "small"), (1000, "large"), (100, "middle")):
            weights(tmp_path / "m" / f"{name}.safetensors", rows, rows)
        report = ModelRegistry(tmp_path / "m", workbench=bench).space()
        assert [one.model.name for one in report] == ["large", "middle", "small"]
        assert sum(one.bytes for one in report) == report.bytes
        assert report.reclaimable_bytes == 0  # each is new, and there is one of each

    def test_leftovers(self, tmp_path, bench):
        """Unfinished downloads and orphaned blobs, the largest first."""
        ollama(tmp_path / "ol")
        partial = tmp_path / "ol" / "blobs" / f"sha256-{'a' * 64}-partial"
        partial.write_bytes(b"x" * 1000)
        Path(f"{partial}-0").write_bytes(b"{}")
        weights(tmp_path / "m" / "a.safetensors")
        (tmp_path / "m" / "b.gguf.part").write_bytes(b"x" * 2000)
        registry = ModelRegistry([tmp_path / "m", tmp_path / "ol"], workbench=bench)
        report = registry.space()
        assert [(one.kind, one.source, one.bytes) for one in report.leftovers] == [
            ("incomplete", "directory", 2000),
            ("incomplete", "ollama", 1002),
            ("orphan", "ollama", len(b"nobody's")),
        ]
        assert report.leftover_bytes == report.reclaimable_bytes == 3002 + len(b"nobody's")

    def test_frames_hold_the_same(self, tmp_path, bench):
        """polars, pandas and Arrow have a row for each model, and times are times."""
        plain(tmp_path / "m")
        report = ModelRegistry(tmp_path / "m", workbench=bench).space()
        (one,) = report
        row = report.pl().row(0, named=True)
        assert row == report.to_arrow().to_pylist()[0]
        assert row["bytes"] == one.bytes == report.df()["bytes"][0]
        assert row["known_since"] == one.known_since
        assert row["usage"] == "new"


class TestLastUse:
    def registry(self, tmp_path, home, profile):
        for number, name in enumerate(("fresh", "stale", "never", "loaded", "new")):
            weights(tmp_path / "m" / f"{name}.safetensors", number)
        found = ModelRegistry(
            tmp_path / "m", workbench=Workbench(tmp_path / "other", hardware=profile)
        )
        marks = {name: model.fingerprint for name, model in found.available_models.items()}
        for name in ("fresh", "stale", "never", "loaded"):
            with days_ago(home, 100) as store:
                store.record("models", event="added", fingerprint=marks[name], name=name)
        with days_ago(home, 40.5) as store:
            store.record_execution(model="s", fingerprint=marks["stale"], metrics={"latency": 1.0})
            store.record_execution(model="f", fingerprint=marks["fresh"], metrics={"latency": 1.0})
        with days_ago(home, 2.5) as store:
            store.record_execution(model="f", fingerprint=marks["fresh"], metrics={"latency": 1.0})
            store.record("loads", model="l", fingerprint=marks["loaded"], success=True)

    def test_never_used_is_not_the_same_as_not_used_for_long(self, tmp_path, home, profile, bench):
        """By the fingerprint, from executions and loads; one that came just now is not unused."""
        self.registry(tmp_path, home, profile)
        report = ModelRegistry(tmp_path / "m", workbench=bench).space(30)
        assert {one.model.name: one.usage for one in report} == {
            "fresh": "used", "stale": "unused", "never": "never", "loaded": "used", "new": "new",
        }  # fmt: skip
        assert {one.model.name for one in report.unused} == {"stale", "never"}
        assert (of(report, "fresh").runs, of(report, "loaded").runs) == (2, 0)
        assert report.unused_bytes == sum(one.freed_bytes for one in report.unused) > 0
        text = str(report)
        assert "40 days ago: unused" in text
        assert "never used; first seen 100 days ago" in text
        assert "none recorded; first seen today" in text

    def test_the_limit_is_the_person_s(self, tmp_path, home, profile, bench):
        """For another number of days, others are unused."""
        self.registry(tmp_path, home, profile)
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        unused = {days: {one.model.name for one in registry.space(days).unused}
                  for days in (200, 50, 1, 0)}  # fmt: skip
        assert unused == {
            200: set(), 50: {"never"}, 1: {"fresh", "stale", "never", "loaded"},
            0: {"fresh", "stale", "never", "loaded", "new"},
        }  # fmt: skip
        for days in (-1, float("nan"), "30", True):
            with pytest.raises(TrashError, match="unused_days must be"):
                registry.space(days)

    def test_a_moved_model_keeps_its_last_use(self, tmp_path, home, profile, bench):
        """History follows the fingerprint, not the path."""
        self.registry(tmp_path, home, profile)
        (tmp_path / "m" / "fresh.safetensors").rename(tmp_path / "m" / "renamed.safetensors")
        report = ModelRegistry(tmp_path / "m", workbench=bench).space()
        assert of(report, "renamed").usage == "used"


class TestTrash:
    def test_there_and_back(self, tmp_path, bench):
        """It leaves the registry with the next scan, is listed, comes back, and is the same."""
        plain(tmp_path / "m")
        before = listing(tmp_path / "m")
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        (item,) = registry.trash("llama")
        assert registry.scan().removed == ("llama",)
        assert "llama" not in registry
        (listed,) = registry.trashed()
        assert (listed.id, listed.name, listed.state) == (item.id, "llama", "complete")
        assert registry.space().trash_bytes == listed.bytes == item.bytes > 0
        assert registry.restore("llama").items[0].state == "restored"
        assert listing(tmp_path / "m") == before
        assert registry.scan().added == ("llama",)
        assert len(registry.trashed()) == 0

    def test_a_dry_run_changes_nothing(self, tmp_path, home, bench):
        """It says just what the real one then does."""
        hub(tmp_path / "s" / "hub")
        plain(tmp_path / "s" / "m")
        roots = [tmp_path / "s" / "hub", tmp_path / "s" / "m"]
        registry = ModelRegistry(roots, workbench=bench)
        names = list(registry.available_models)
        before = listing(tmp_path / "s")
        planned = registry.trash(names, everywhere=True, dry_run=True)
        assert listing(tmp_path / "s") == before
        assert not (home / "trash").exists()
        assert {one.state for one in planned} == {"planned"}
        done = registry.trash(names, everywhere=True)
        assert [one.files for one in done] == [one.files for one in planned]
        assert planned.bytes == done.bytes == registry.empty_trash(confirm=True)
        assert not registry.scan().models

    def test_space_says_what_emptying_frees(self, tmp_path, bench):
        """For every model: freed_bytes is what trash(everywhere=True) and emptying give back."""
        for make in (hub, ollama, plain):
            make(tmp_path / make.__name__)
        weights(tmp_path / "plain" / "more" / "x.safetensors", 5)
        shutil.copytree(tmp_path / "plain" / "more", tmp_path / "plain" / "again")
        roots = [tmp_path / make.__name__ for make in (hub, ollama, plain)]
        registry = ModelRegistry(roots, workbench=bench)
        freed = {one.model.name: one.freed_bytes for one in registry.space()}
        assert len(freed) == 5
        for name, promised in freed.items():
            registry.trash(name, everywhere=True)
            registry.restore(name)
            (item,) = registry.trash(name, everywhere=True, dry_run=True)
            assert item.bytes == promised
        registry.trash("tiny:1b")
        assert registry.empty_trash(confirm=True) == freed["tiny:1b"]

    def test_other_places_stay(self, tmp_path, bench):
        """One place by default, which the report says; a copy by its path; all on request."""
        path = weights(tmp_path / "m" / "a.safetensors")
        copies = [tmp_path / "m" / name for name in ("b.safetensors", "c.safetensors")]
        for copy in copies:
            shutil.copy(path, copy)
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        (item,) = registry.trash(copies[0])
        assert (item.path, path.exists(), copies[1].exists()) == (copies[0], True, True)
        assert any("everywhere=True" in note for note in item.notes)
        registry.restore(item.id)
        (item,) = registry.trash(registry.get("a"))
        assert item.path == path
        registry.restore("a")
        registry.trash("a", everywhere=True)
        assert not any(one.exists() for one in (path, *copies))

    def test_what_two_models_share_goes_with_the_last(self, tmp_path, bench):
        """Several at once take the tokenizer that each alone would leave."""
        for seed, name in enumerate(("a", "b")):
            weights(tmp_path / "m" / f"{name}.safetensors", seed)
        (tmp_path / "m" / "tokenizer.json").write_text("{}")
        before = listing(tmp_path / "m")
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        report = registry.trash(["a", "b"])
        assert list((tmp_path / "m").iterdir()) == []
        for one in report:
            registry.restore(one.id)
        assert listing(tmp_path / "m") == before

    def test_a_loaded_model_is_in_use(self, tmp_path, bench):
        """While it is in memory it stays, whatever name or link it is called by."""
        path = weights(tmp_path / "m" / "a.safetensors")
        (tmp_path / "m" / "b.safetensors").symlink_to(path)
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        bench.preferences = bench.preferences.updated(keep_alive_seconds=1000)
        with bench.pool.acquire(bench.runtimes[0], registry.get("a"), LoadOptions()):
            pass
        before = listing(tmp_path / "m")
        for dry_run in (True, False):
            with pytest.raises(TrashError, match=r"it is loaded; manager\.close"):
                registry.trash("a", dry_run=dry_run)
        assert listing(tmp_path / "m") == before
        bench.pool.unload_idle()
        assert len(registry.trash("a")) == 1
        bench.pool.close()

    def test_leftovers_go_once_they_are_quiet(self, tmp_path, bench):
        """A download that may be going on is refused; an old one goes with all its parts."""
        (tmp_path / "m").mkdir()
        part = tmp_path / "m" / "a.gguf.part"
        part.write_bytes(b"x" * 100)
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        (leftover,) = registry.space().leftovers
        with pytest.raises(TrashError, match="a download may be going on"):
            registry.trash(leftover.path)
        os.utime(part, (0, 0))
        registry.trash(leftover.path)
        assert not part.exists()
        registry.restore(part.name)
        assert part.read_bytes() == b"x" * 100

    def test_names_that_are_not_there(self, tmp_path, bench):
        """A suggestion for a near name; one of several wrong names moves nothing."""
        weights(tmp_path / "m" / "gemma.safetensors")
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        before = listing(tmp_path / "m")
        with pytest.raises(UnknownModelError, match=r"Did you mean 'gemma'"):
            registry.trash(["gemma", "gema"])
        with pytest.raises(UnknownModelError, match="The trash is empty"):
            registry.restore("gemma")
        assert listing(tmp_path / "m") == before
        assert len(registry.trash([])) == 0

    def test_a_model_that_changed_since_the_scan(self, tmp_path, bench):
        """Other weights of that name are another model: scan again."""
        path = weights(tmp_path / "m" / "a.safetensors")
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        assert "a" in registry
        path.unlink()
        weights(path, 9)
        with pytest.raises(TrashError, match="no longer what was scanned"):
            registry.trash("a")
        registry.scan()
        assert len(registry.trash("a")) == 1

    def test_an_interrupted_move_is_undone_or_completed(self, tmp_path, bench):
        """It is listed as such; restore brings back, trash of its id goes on; never emptied."""
        plain(tmp_path / "m")
        before = listing(tmp_path / "m")
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        (item,) = registry.trash("llama")
        # As a kill would leave it: some files are back, others are not.
        (directory,) = (bench.paths.home / "trash").iterdir()
        item.files[0].parent.mkdir(parents=True)
        (directory / "000000").rename(item.files[0])
        (listed,) = registry.trashed()
        assert listed.state == "interrupted"
        assert item.id in str(registry.trashed())
        assert registry.empty_trash(confirm=True) == 0
        (done,) = registry.trash(item.id)
        assert (done.state, done.bytes) == ("complete", item.bytes)
        assert not item.files[0].exists()
        registry.restore(item.id)
        assert {k: v[1] for k, v in listing(tmp_path / "m").items()} == {
            k: v[1] for k, v in before.items()
        }

    def test_emptying_must_be_asked_for(self, tmp_path, bench):
        """Without confirm=True nothing is deleted, and the message says what would be."""
        plain(tmp_path / "m")
        registry = ModelRegistry(tmp_path / "m", workbench=bench)
        (item,) = registry.trash("llama")
        for options in ({}, {"confirm": 1}, {"older_than_days": 0}):
            with pytest.raises(TrashError, match="the trash holds 1 model"):
                registry.empty_trash(**options)
        assert registry.empty_trash(older_than_days=1, confirm=True) == 0
        assert registry.empty_trash(older_than_days=0, confirm=True) == item.bytes


def test_cards_escape_what_files_are_called(tmp_path, bench):
    """Markup and line breaks in a file's name reach neither the HTML nor another line."""
    raw = os.fsencode(tmp_path) + b"/m/<img src=x>\n\x1b[2Jevil\xff.safetensors"
    path = weights(tmp_path / "m" / "x.safetensors")
    os.rename(path, raw)  # noqa: PTH104 - a name of bytes
    shutil.copy(raw, tmp_path / "m" / "<b>copy.safetensors")
    (tmp_path / "m" / "<i>\n.part").write_bytes(b"x")
    registry = ModelRegistry(tmp_path / "m", workbench=bench)
    (name,) = registry.available_models
    cards = [registry.space(0), registry.trash(name, everywhere=True, dry_run=True)]
    cards += [registry.trash(name, everywhere=True), registry.trashed()]
    cards.append(registry.restore(name))
    for card in cards:
        shown = card._repr_mimebundle_()
        for tag in ("<img", "<b>", "<i>"):
            assert tag not in shown["text/html"]
        assert "\x1b" not in shown["text/plain"] + shown["text/html"]
        assert "\nevil" not in shown["text/plain"]
        assert shown["text/html"].encode("utf-8", "replace")
    assert datetime.now(UTC).replace(tzinfo=None) >= cards[0].time
