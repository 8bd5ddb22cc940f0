"""Models inside installed Python packages, found without importing any."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import sysconfig

import pytest
from stores import LAYERS, distribution, package

from ravenxterm_lab.discovery import DirectorySource, PackagesSource, discover
from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.models import ModelRegistry
from ravenxterm_lab.trash.holdings import take_stock


def scan(*sites):
    return discover([PackagesSource([str(site) for site in sites])])


def reasons(found):
    return {one.path.name: one.reason for one in found.skipped}


@pytest.fixture
def gguf(files, tmp_path):
    return files.gguf_file(tmp_path / "new.gguf", layers=LAYERS).read_bytes()


class TestWhatIsFound:
    def test_the_built_distribution_is_one(self, files, tmp_path):
        """``importlib.metadata`` reads its name and the same list of files."""
        path = package(files, tmp_path, layers=LAYERS)
        (dist,) = importlib.metadata.distributions(path=[str(tmp_path)])
        assert dist.metadata["Name"] == "tiny-detector"
        listed = [dist.locate_file(one) for one in dist.files if one.suffix == ".gguf"]
        assert listed == [path]

    def test_no_package_is_imported(self, files, tmp_path):
        """The package ends the interpreter when it is imported, and it is not."""
        package(files, tmp_path, layers=LAYERS)
        (model,) = scan(tmp_path).models.values()
        assert model.name == "tiny-detector/small"
        assert "tiny_detector" not in sys.modules
        assert any("tiny-detector" in note for note in model.notes)

    def test_a_name_that_holds_the_packages_name_is_kept(self, gguf, tmp_path):
        """silero_vad.onnx of silero-vad needs no prefix; a generic file gets its package's name."""
        distribution(tmp_path, "silero-vad", {"silero_vad/data/silero_vad.gguf": gguf})
        distribution(tmp_path, "magik", {"magik/models/standard_v3/model.gguf": gguf + b""})
        names = set(scan(tmp_path).models)
        assert names in ({"silero_vad"}, {"magik/standard_v3"})  # the same bytes: one entry
        found = list(PackagesSource([str(tmp_path)]).discover())
        assert {model.name for model in found} == {"silero_vad", "magik/standard_v3"}

    def test_formats_and_companions(self, files, tmp_path, gguf):
        """ONNX and safetensors count; the files beside a model belong to it."""
        onnx = files.onnx_file(tmp_path / "new.onnx").read_bytes() + bytes(0)
        tensors = files.safetensors_file(tmp_path / "new.safetensors").read_bytes()
        inside = {
            "pkg/a/model.onnx": onnx,
            "pkg/a/tokenizer.json": b"{}",
            "pkg/b/model.safetensors": tensors,
            "pkg/small.gguf": gguf,
        }
        info = distribution(tmp_path / "site", "pkg", inside)
        record = info / "RECORD"
        # The tests' files are smaller than what counts; only what the list says of them is read.
        rows = [row.rsplit(",", 1) for row in record.read_text().splitlines()]
        record.write_text("".join(f"{row},{'50000' if size else ''}\n" for row, size in rows))
        found = scan(tmp_path / "site")
        assert found.skipped == []
        assert sorted(found.models) == ["pkg/a", "pkg/b", "pkg/small"]
        assert [path.name for path in found.models["pkg/a"].companions] == ["tokenizer.json"]

    def test_what_is_small_or_a_tests_is_left_out(self, gguf, tmp_path):
        """Fixtures are no models, and nothing is said of them."""
        distribution(
            tmp_path, "pkg",
            {
                "pkg/tests/data/x.gguf": gguf,
                "pkg/backend/test/x.gguf": gguf,
                "pkg/tiny.gguf": gguf[:1000],
                "pkg/notes.pkl": gguf,
            },
        )  # fmt: skip
        found = scan(tmp_path)
        assert (found.models, found.skipped) == ({}, [])

    def test_files_that_the_package_does_not_list_are_not_its_models(self, gguf, tmp_path):
        """What somebody put beside them is no part of the package."""
        distribution(tmp_path, "pkg", {"pkg/a.gguf": gguf})
        (tmp_path / "pkg" / "mine.gguf").write_bytes(gguf)
        assert list(scan(tmp_path).models) == ["pkg/a"]

    def test_the_real_environment_is_looked_into(self):
        """Every distribution of this interpreter is read without an exception or a complaint."""
        site = sysconfig.get_paths()["purelib"]
        found = scan(site)
        assert all(model.source == "packages" for model in found.models.values())
        assert all(one.reason.isprintable() for one in found.skipped)

    def test_two_names_of_one_directory_are_looked_into_once(self, files, tmp_path):
        """lib64 is often a link to lib."""
        path = package(files, tmp_path / "lib", layers=LAYERS)
        (tmp_path / "lib64").symlink_to("lib")
        (model,) = scan(tmp_path / "lib", tmp_path / "lib64", tmp_path / "none").models.values()
        assert (model.path, model.duplicates) == (path, ())


class TestSpace:
    def test_its_files_are_never_moved_to_the_trash(self, files, tmp_path):
        """A model that its package owns stays where it is, and the refusal names the package."""
        package(files, tmp_path / "site", layers=LAYERS)
        copy = tmp_path / "mine" / "small.gguf"
        copy.parent.mkdir()
        copy.write_bytes(next((tmp_path / "site").glob("tiny*/models/small.gguf")).read_bytes())
        packages, mine = PackagesSource([str(tmp_path / "site")]), DirectorySource(copy.parent)
        stock = take_stock([packages, mine])
        assert [one.path for one in stock.holdings] == [copy]
        (model,) = discover([packages]).models.values()
        assert "goes when that goes" in model.notes[-1]
        assert (packages.removable(), mine.removable()) == (False, True)

    def test_the_registry_refuses_to_trash_it(self, files, tmp_path, monkeypatch):
        """The message says which package it is part of; nothing has moved."""
        path = package(files, tmp_path / "site", layers=LAYERS)
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
        monkeypatch.setenv("HOME", str(tmp_path))
        registry = ModelRegistry(home=tmp_path / "home")
        with pytest.raises(TrashError, match="part of the Python package tiny-detector"):
            registry.trash("tiny-detector/small")
        assert path.exists()


class TestTheList:
    def test_it_is_read_again_only_when_it_changes(self, gguf, tmp_path):
        """A list of the same time, size and inode is remembered; another one is read."""
        info = distribution(tmp_path, "pkg", {"pkg/a.gguf": gguf})
        source = PackagesSource([str(tmp_path)])
        assert list(discover([source]).models) == ["pkg/a"]
        record = info / "RECORD"
        status = record.stat()
        changed = record.read_text().replace("a.gguf", "b.gguf")
        (tmp_path / "pkg" / "b.gguf").write_bytes(gguf)
        record.write_text(changed)
        os.utime(record, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert list(discover([source]).models) == ["pkg/a"]
        os.utime(record, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert list(discover([source]).models) == ["pkg/b"]
        for path in info.iterdir():
            path.unlink()
        info.rmdir()
        assert discover([source]).models == {}

    @pytest.mark.parametrize(
        "name", ["../../../../etc/model.gguf", "/etc/model.gguf", "a/../../../../x.gguf"]
    )
    def test_a_list_cannot_lead_out_of_the_environment(self, gguf, tmp_path, name):
        """A file outside is named and not looked at."""
        site = tmp_path / "env" / "lib" / "site-packages"
        distribution(site, "pkg", {"pkg/a.gguf": gguf}, more={name: 100_000})
        found = scan(site)
        assert list(found.models) == ["pkg/a"]
        assert "not followed" in found.skipped[0].reason

    def test_files_beside_site_packages_belong_to_the_environment(self, gguf, tmp_path):
        """``share/`` of the environment is where some packages put their data."""
        site = tmp_path / "lib" / "env" / "lib" / "python3" / "site-packages"
        distribution(site, "pkg", {"../../../share/pkg/a.gguf": gguf})
        (model,) = scan(site).models.values()
        assert model.path == tmp_path / "lib" / "env" / "share" / "pkg" / "a.gguf"
        distribution(site, "odd", {"../../../../share/pkg/b.gguf": gguf})
        assert "not followed" in scan(site).skipped[0].reason

    def test_what_is_listed_and_gone_is_said(self, gguf, tmp_path):
        """A file that was deleted by hand is named with the remedy."""
        distribution(tmp_path, "pkg", {"pkg/a.gguf": gguf}, more={"pkg/gone.gguf": 100_000})
        found = scan(tmp_path)
        assert list(found.models) == ["pkg/a"]
        assert "install the package again" in reasons(found)["gone.gguf"]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ",,\n",
            "x.gguf",
            "x.gguf,,99999999999999999999999999\n",
            "x.gguf,,-1\n",
            'a"b.gguf,,100000,extra\n',
            '"unclosed.gguf,,100000\n',
            "\x00.gguf,,100000\n",
            ".gguf,,100000\n" * 100,
        ],
    )
    def test_a_list_that_is_garbage(self, tmp_path, text):
        """It is read as far as it makes sense, and nothing is raised."""
        info = distribution(tmp_path, "pkg", {})
        (info / "RECORD").write_text(text)
        assert scan(tmp_path).models == {}

    def test_names_with_commas_quotes_and_bytes(self, gguf, tmp_path):
        """A list is CSV; a name that is no text is still a name."""
        odd = {"pkg/a,b.gguf": gguf, 'pkg/a"b.gguf': gguf + b"1", "pkg/\udcff.gguf": gguf + b"22"}
        distribution(tmp_path, "pkg", odd)
        found = scan(tmp_path)
        listed = [*found.models.values(), *found.skipped]
        assert {one.path.name for one in listed} == {"a,b.gguf", 'a"b.gguf', "\udcff.gguf"}

    def test_a_list_that_would_block_or_is_huge(self, tmp_path):
        """A FIFO is not opened, and a list beyond its cap is not read."""
        info = distribution(tmp_path, "pkg", {})
        (info / "RECORD").unlink()
        os.mkfifo(info / "RECORD")
        huge = distribution(tmp_path, "huge", {})
        with (huge / "RECORD").open("r+b") as stream:
            stream.truncate(33 * 2**20)
        found = scan(tmp_path)
        assert sorted("at most" in one.reason for one in found.skipped) == [False, True]

    def test_a_distribution_without_a_list_is_nothing(self, tmp_path):
        """Debian's packages keep none."""
        info = distribution(tmp_path, "pkg", {})
        (info / "RECORD").unlink()
        found = scan(tmp_path)
        assert (found.models, found.skipped) == ({}, [])
