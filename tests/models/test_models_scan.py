"""Scans against the store: what was read is remembered, and models that move keep their history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ravenxterm_lab.discovery import Skipped
from ravenxterm_lab.discovery.budget import Budget
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelManager, ModelRegistry, Workbench
from ravenxterm_lab.selection.evidence import Evidence

#: What a new process does: scan, and say what of it was read and what is different.
SCAN = """
import json, sys
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelRegistry, Workbench
opened = []
roots = sys.argv[2:]
def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(tuple(roots)):
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
profile = HardwareProfile.detect(measure_bandwidth=False)
bench = Workbench(sys.argv[1], hardware=profile)
registry = ModelRegistry(roots, workbench=bench)
report = registry.scan()
bench.store.close()
print(json.dumps({
    "read": report.read, "opened": opened, "added": report.added, "moved": report.moved,
    "changed": report.changed, "removed": report.removed,
    "models": {n: [m.fingerprint, m.quantization] for n, m in registry.available_models.items()},
    "skipped": [[str(s.path), s.reason] for s in report.skipped],
    "messages": [m.text for m in registry.messages],
}))
"""

#: Scans in one process while a file cannot be opened, and after that was allowed.
ALLOWED = """
import json, sys
from pathlib import Path
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import ModelRegistry, Workbench
home, directory = map(Path, sys.argv[1:])
bench = Workbench(home, hardware=HardwareProfile.detect(measure_bandwidth=False))
registry = ModelRegistry(directory, workbench=bench)
first = list(registry.available_models)
reasons = [one.reason for one in registry.last_scan.skipped]
second = registry.scan().added
(directory / "small.gguf").chmod(0o600)
third = registry.scan().added
bench.store.close()
print(json.dumps([first, reasons, second, third]))
"""


@pytest.fixture
def directory(files: ModuleType, tmp_path: Path) -> Path:
    """Return a directory with models of three formats, a shard set, and a broken file."""
    directory = tmp_path / "models"
    (directory / "bert").mkdir(parents=True)
    files.gguf_file(directory / "small.gguf")
    files.gguf_file(directory / "other.gguf", seed=1)
    files.onnx_file(directory / "graph.onnx")
    files.safetensors_file(directory / "bert" / "model.safetensors")
    files.write_config(directory / "bert", files.BERT)
    (directory / "broken.gguf").write_bytes(b"GGUF\x03\x00")
    return directory


@pytest.fixture
def bench(home: Path, profile: HardwareProfile) -> Iterator[Workbench]:
    made = Workbench(home, hardware=profile)
    yield made
    made.store.close()


def in_a_new_process(home: Path, *roots: Path) -> dict[str, object]:
    """Scan in a process of its own, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(home), *map(str, roots)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestAnotherProcess:
    def test_it_reads_nothing_that_did_not_change(self, directory: Path, home: Path) -> None:
        """A new process opens no file of a model, nor of its configuration, and says the same."""
        first = in_a_new_process(home, directory)
        assert first["read"] == 5
        again = in_a_new_process(home, directory)
        assert (again["read"], again["opened"]) == (0, [])
        assert again["models"] == first["models"]
        assert again["skipped"] == first["skipped"]
        assert [again[key] for key in ("added", "changed", "moved", "removed")] == [[], [], [], []]

    def test_it_reads_what_changed(self, files: ModuleType, directory: Path, home: Path) -> None:
        """A file of new content is read again, also if only its configuration changed."""
        first = in_a_new_process(home, directory)
        files.gguf_file(directory / "small.gguf", seed=7)
        config = directory / "bert" / "config.json"
        config.write_text(config.read_text() + " ")
        again = in_a_new_process(home, directory)
        assert (again["read"], again["changed"]) == (2, ["small"])
        assert again["models"]["small"] != first["models"]["small"]

    def test_nothing_is_recorded_when_nothing_changed(
        self, directory: Path, home: Path, bench: Workbench
    ) -> None:
        """A second scan leaves the store as it was."""
        in_a_new_process(home, directory)
        count = "SELECT (SELECT count(*) FROM scans), (SELECT count(*) FROM models)"
        before = bench.store.sql(count).fetchall()
        in_a_new_process(home, directory)
        assert bench.store.sql(count).fetchall() == before == [(5, 4)]

    def test_files_that_are_gone_are_said_to_be_once(
        self, files: ModuleType, directory: Path, home: Path, bench: Workbench
    ) -> None:
        """A row notes that a file is gone; what lies beside the directory is not judged."""
        beside = directory.with_name("models too")
        beside.mkdir()
        files.gguf_file(beside / "there.gguf", seed=5)
        in_a_new_process(home, directory)
        in_a_new_process(home, beside)
        (directory / "small.gguf").unlink()
        (beside / "there.gguf").unlink()
        for removed in (["small"], []):
            found = in_a_new_process(home, directory)
            assert (found["read"], found["removed"]) == (0, removed)
            rows = bench.store.sql("SELECT path FROM scans WHERE signature = ''").fetchall()
            assert rows == [(str(directory / "small.gguf"),)]
        # The same file comes back, and is read.
        files.gguf_file(directory / "small.gguf")
        assert in_a_new_process(home, directory)["read"] == 1
        assert in_a_new_process(home, directory)["read"] == 0

    def test_a_registry_notes_what_went_while_it_lived(
        self, directory: Path, bench: Workbench
    ) -> None:
        """Also what this process read itself; a scan that ends early notes nothing."""
        registry = ModelRegistry(directory, workbench=bench)
        registry.scan()
        gone = "SELECT count(*) FROM scans WHERE signature = ''"
        (directory / "small.gguf").unlink()
        full = registry._cache.budget
        registry._cache.budget = Budget(entries=1)
        registry.scan()
        assert bench.store.sql(gone).fetchall() == [(0,)]
        registry._cache.budget = full
        registry.scan()
        assert bench.store.sql(gone).fetchall() == [(1,)]

    def test_the_external_data_of_a_graph_counts(
        self, files: ModuleType, tmp_path: Path, home: Path
    ) -> None:
        """A graph is looked at again when only the file of its tensors changed."""
        root = tmp_path / "graphs"
        root.mkdir()
        files.onnx_file(root / "x.onnx", external="x.onnx_data")
        first = in_a_new_process(home, root)
        assert in_a_new_process(home, root)["read"] == 0
        data = root / "x.onnx_data"
        data.write_bytes(bytes(reversed(data.read_bytes())))
        again = in_a_new_process(home, root)
        assert again["read"] == 1
        assert again["models"]["x"][0] != first["models"]["x"][0]

    def test_facts_of_other_readers_are_not_trusted(
        self, directory: Path, home: Path, bench: Workbench
    ) -> None:
        """A row whose signature is not of this version is passed over."""
        ModelRegistry(directory, workbench=bench).scan()
        for path, facts in bench.store.sql("SELECT path, facts FROM scanned").fetchall():
            bench.store.record("scans", path=path, signature="older", facts=json.loads(facts))
        assert in_a_new_process(home, directory)["read"] == 5

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda facts: None,
            lambda facts: [],
            lambda facts: "\x00" * 10,
            lambda facts: {**facts, "fingerprint": "../../etc/passwd"},
            lambda facts: {**facts, "facts": {"model_type": "no such"}},
            lambda facts: {**facts, "facts": {**facts["facts"], "size_bytes": -1}},
            lambda facts: {**facts, "facts": {**facts["facts"], "size_bytes": "many"}},
            lambda facts: {**facts, "facts": {**facts["facts"], "external": ["../../x"]}},
            lambda facts: {**facts, "facts": {**facts["facts"], "attention": {"heads_kv": [1]}}},
            lambda facts: {**facts, "facts": {**facts["facts"], "__class__": "x"}},
            lambda facts: {**facts, "facts": {**facts["facts"], "notes": [["x"]]}},
            lambda facts: {**facts, "problems": {"a": 1}},
        ],
    )
    def test_a_hostile_row_breaks_no_scan(
        self,
        files: ModuleType,
        tmp_path: Path,
        home: Path,
        bench: Workbench,
        spoil: Callable[[dict[str, object]], object],
    ) -> None:
        """What is in the store under the right signature and makes no sense is read again."""
        root = tmp_path / "one"
        root.mkdir()
        files.gguf_file(root / "small.gguf")
        registry = ModelRegistry(root, workbench=bench)
        expected = registry.available_models
        [(path, signature, facts)] = bench.store.sql(
            "SELECT path, signature, facts FROM scanned"
        ).fetchall()
        bench.store.record("scans", path=path, signature=signature, facts=spoil(json.loads(facts)))
        again = ModelRegistry(root, workbench=bench)
        assert again.available_models == expected
        assert again.last_scan is not None
        assert again.last_scan.read == 1

    def test_a_store_that_cannot_be_read_costs_only_time(
        self, directory: Path, home: Path, bench: Workbench
    ) -> None:
        """The files are read, and a message says why."""
        ModelRegistry(directory, workbench=bench).scan()
        bench.store.ingest_now()
        bench.store.close()
        bench.store.database.write_bytes(b"no database" * 1000)
        found = in_a_new_process(home, directory)
        assert (found["read"], len(found["models"])) == (5, 4)
        assert any("read again" in text for text in found["messages"])

    def test_a_permission_is_not_remembered(self, directory: Path, home: Path) -> None:
        """A file that could not be opened is looked at again, although it is unchanged."""
        (directory / "small.gguf").chmod(0)
        # Who may read everything gives that up; a file of its own stays its own.
        drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        done = subprocess.run(
            [*(drop if os.geteuid() == 0 else []), sys.executable, "-c", ALLOWED, home, directory],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        first, reasons, second, third = json.loads(done.stdout)
        assert "small" not in first
        assert any("Permission denied" in reason for reason in reasons)
        assert second == []
        assert third == ["small"]


class TestMoved:
    def test_history_follows_a_rename(self, directory: Path, bench: Workbench) -> None:
        """What was recorded before counts for the model under its new name, as evidence too."""
        manager = ModelManager(directory, workbench=bench, seed=0)
        model = manager.registry.get("small")
        for _ in range(3):
            manager.record_execution_metrics(model, {"latency": 0.5, "throughput": 20.0})
        (directory / "small.gguf").rename(directory / "renamed.gguf")
        report = manager.scan()
        assert (report.moved, report.added, report.removed) == (("renamed",), (), ())
        assert report.moved_from["renamed"].startswith("small (")
        assert "moved" in str(report)
        assert manager.get_model_performance_history("renamed").runs == 3
        evidence = Evidence.from_store(
            bench.store, hardware=bench.hardware.fingerprint, now=bench.now()
        )
        key = (manager.registry.get("renamed").fingerprint, model.task_types[0])
        assert evidence.cells[key].runs == 3
        events = bench.store.sql("SELECT event, name FROM models ORDER BY ts, seq").fetchall()
        assert events[-1] == ("moved", "renamed")
        names = {name for (name,) in bench.store.sql("SELECT name FROM catalogue").fetchall()}
        assert names == {"renamed", "other", "graph", "bert"}

    def test_a_move_between_processes_and_directories(
        self, directory: Path, tmp_path: Path, home: Path
    ) -> None:
        """A model that lies in another directory now is known by its bytes."""
        in_a_new_process(home, directory)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (directory / "small.gguf").rename(elsewhere / "small.gguf")
        found = in_a_new_process(home, elsewhere)
        assert (found["moved"], found["added"]) == (["small"], [])
        found = in_a_new_process(home, directory)
        assert (found["removed"], found["moved"]) == ([], [])

    def test_a_copy_elsewhere_is_no_move(
        self, files: ModuleType, directory: Path, tmp_path: Path, home: Path
    ) -> None:
        """As long as the file that is known is there, another one of its bytes is new."""
        in_a_new_process(home, directory)
        copy = tmp_path / "models2"
        copy.mkdir()
        files.gguf_file(copy / "small.gguf")
        assert in_a_new_process(home, copy)["added"] == ["small"]

    def test_names_that_change_places(
        self, files: ModuleType, directory: Path, bench: Workbench
    ) -> None:
        """Two models that swap their names have both moved; a third under an old name is new."""
        registry = ModelRegistry(directory, workbench=bench)
        registry.scan()
        small, other = directory / "small.gguf", directory / "other.gguf"
        small.rename(directory / "x")
        other.rename(small)
        (directory / "x").rename(other)
        report = registry.scan()
        assert (report.moved, report.changed, report.added) == (("other", "small"), (), ())
        small.rename(directory / "third.gguf")
        files.gguf_file(small, seed=9)
        report = registry.scan()
        assert (report.moved, report.added, report.removed) == (("third",), ("small",), ())

    def test_what_changed_leaves_nothing_behind(
        self, files: ModuleType, directory: Path, bench: Workbench
    ) -> None:
        """The former content of a model is no entry of the catalogue any more."""
        registry = ModelRegistry(directory, workbench=bench)
        registry.scan()
        files.gguf_file(directory / "small.gguf", seed=5)
        assert registry.scan().changed == ("small",)
        rows = bench.store.sql("SELECT fingerprint FROM catalogue WHERE name = 'small'").fetchall()
        assert rows == [(registry.get("small").fingerprint,)]
        assert ModelRegistry(directory, workbench=bench).scan().changed == ()


def test_ctrl_c_leaves_the_registry_as_it_was(
    files: ModuleType, directory: Path, bench: Workbench
) -> None:
    """A scan that is interrupted changes nothing, and the next one goes on from there."""
    registry = ModelRegistry(directory, workbench=bench)
    registry.scan()
    before, report = dict(registry.available_models), registry.last_scan
    count = "SELECT (SELECT count(*) FROM scans), (SELECT count(*) FROM models)"
    recorded = bench.store.sql(count).fetchall()
    new = files.gguf_file(directory / "aaa.gguf", seed=3)
    (directory / "other.gguf").unlink()
    armed = True

    def interrupt(event: str, arguments: tuple[object, ...]) -> None:
        if armed and event == "open" and arguments[0] == str(new):
            raise KeyboardInterrupt

    sys.addaudithook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.scan()
    armed = False
    assert (dict(registry.available_models), registry.last_scan) == (before, report)
    assert bench.store.sql(count).fetchall() == recorded
    again = registry.scan()
    assert (again.added, again.removed, again.read) == (("aaa",), ("other",), 1)


def test_what_is_skipped_is_a_message(directory: Path, bench: Workbench) -> None:
    """The first of the files that are not listed is named with its reason."""
    registry = ModelRegistry(directory, workbench=bench)
    registry.scan(progress=True)
    assert registry.last_scan is not None
    (skipped,) = registry.last_scan.skipped
    assert isinstance(skipped, Skipped)
    assert "broken.gguf" in registry.messages[-1].text
    assert skipped.reason in registry.messages[-1].text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_listed(
    files: ModuleType, tmp_path: Path, bench: Workbench
) -> None:
    """A name of other bytes breaks neither the scan nor the record of it."""
    root = tmp_path / "odd"
    root.mkdir()
    made = files.gguf_file(root / "small.gguf")
    os.rename(made, os.fsencode(root) + b"/caf\xe9.gguf")  # noqa: PTH104 - a name of bytes
    registry = ModelRegistry(root, workbench=bench)
    assert len(registry.available_models) == 1
    assert len(bench.store.sql("FROM catalogue").fetchall()) == 1
    assert registry.scan().read == 0
