"""Plain directories: shards, companions, names, links, and what is hostile."""

from __future__ import annotations

import json
import os

import pytest

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import DirectorySource, ScanCache, discover, sources_for
from ravenxterm_lab.exceptions import ConfigurationError
from ravenxterm_lab.metadata import ModelType


def scan(root, cache=None, **options):
    return discover([DirectorySource(root)], cache, **options)


def reasons(found):
    return {one.path.name: one.reason for one in found.skipped}


class TestNames:
    def test_a_gguf_file_is_named_after_itself(self, files, tmp_path):
        """The stem of the file, not general.name."""
        general = {"general.name": "Something Else"}
        files.gguf_file(tmp_path / "SmolLM2.Q4_1.gguf", general=general)
        assert list(scan(tmp_path).models) == ["SmolLM2.Q4_1"]

    @pytest.mark.parametrize(
        ("place", "name"),
        [
            ("minilm/model.safetensors", "minilm"),
            ("minilm/model/model.safetensors", "minilm"),
            ("own-name.safetensors", "own-name"),
            ("models--org--minilm/snapshots/" + "a" * 40 + "/model.safetensors", "org/minilm"),
        ],
    )
    def test_a_generic_file_is_named_after_its_directory(self, files, tmp_path, place, name):
        """model.safetensors takes the nearest directory's name that says something."""
        path = tmp_path / "root" / place
        path.parent.mkdir(parents=True)
        files.safetensors_file(path)
        assert list(scan(tmp_path / "root").models) == [name]

    def test_names_are_unique_and_stable(self, files, tmp_path):
        """Directory, quantization, format, file and fingerprint tell equal names apart."""
        for seed, folder in enumerate(["a", "b"]):
            (tmp_path / folder).mkdir()
            files.gguf_file(tmp_path / folder / "x.gguf", seed=seed)
        (tmp_path / "m" / "onnx").mkdir(parents=True)
        files.safetensors_file(tmp_path / "m" / "model.safetensors")
        files.onnx_file(tmp_path / "m" / "onnx" / "model.onnx")
        files.onnx_file(tmp_path / "m" / "onnx" / "model_quantized.onnx", int8=True)
        first = scan(tmp_path)
        assert sorted(first.models) == ["a/x", "b/x", "m-F32.onnx", "m-F32.safetensors", "m-INT8"]
        assert all(model.name == name for name, model in first.models.items())
        assert scan(tmp_path).models == first.models

    def test_names_are_printable(self, files, tmp_path):
        """Line breaks, control characters and undecodable bytes do not get into a name."""
        raw = os.fsencode(tmp_path) + b"/a\n\x1b[31m\xff<b>.gguf"
        files.gguf_file(tmp_path / "x.gguf")
        (tmp_path / "x.gguf").rename(os.fsdecode(raw))
        (name,) = scan(tmp_path).models
        assert name.isprintable()
        assert name.encode()
        assert name == "a__[31m_<b>"


class TestShards:
    def gguf_shards(self, files, folder, count=3):
        folder.mkdir(exist_ok=True)
        kind = files.Q.F32
        for number in range(count):
            files.gguf_file(
                folder / f"big-{number + 1:05d}-of-{count:05d}.gguf",
                general={"split.no": number, "split.count": count},
                tensors={f"blk.{number}.ffn_up.weight": ((8, 64), kind)},
                tokens=16 if number == 0 else 0,
                seed=number,
            )
        return sorted(folder.glob("big-*.gguf"))

    def test_gguf_shards_are_one_model(self, files, tmp_path):
        """Size, parameters and bytes are summed; the keys come from the first shard."""
        shards = self.gguf_shards(files, tmp_path / "m")
        ((name, model),) = scan(tmp_path).models.items()
        assert name == "big"
        assert model.shards == tuple(shards)
        assert model.path == shards[0]
        assert model.size_bytes == sum(path.stat().st_size for path in shards)
        assert model.parameter_count == model.active_parameter_count == 3 * 8 * 64
        assert model.tensor_bytes == {"F32": 3 * 8 * 64 * 4}
        assert model.vocabulary_size == 16
        assert model.problems == ()

    @pytest.mark.parametrize("gone", [1, 2, 3])
    def test_a_missing_shard_is_a_problem(self, files, tmp_path, gone):
        """An incomplete set stays one model, with what is missing named."""
        self.gguf_shards(files, tmp_path)[gone - 1].unlink()
        (model,) = scan(tmp_path).models.values()
        assert model.problems == (f"missing shard {gone} of 3: big-{gone:05d}-of-00003.gguf",)
        assert len(model.shards) == 2

    def test_a_damaged_shard_is_a_problem(self, files, tmp_path):
        """One truncated shard does not hide the model, and makes it unusable."""
        shard = self.gguf_shards(files, tmp_path)[1]
        shard.write_bytes(shard.read_bytes()[:-100])
        (model,) = scan(tmp_path).models.values()
        assert "truncated" in model.problems[0]

    def test_a_thousand_missing_shards_are_summed_up(self, files, tmp_path):
        """A name that claims 99999 shards costs neither time nor a long message."""
        files.safetensors_file(tmp_path / "model-00001-of-99999.safetensors")
        (model,) = scan(tmp_path).models.values()
        assert len(model.problems) == 9
        assert model.problems[-1] == "missing 99990 more shards"

    @pytest.mark.parametrize("with_index", [True, False])
    def test_safetensors_shards(self, files, tmp_path, with_index):
        """With and without an index, the shards are one model that is named by its directory."""
        folder = tmp_path / "llama"
        files.write_config(folder, files.LLAMA)
        names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
        for seed, name in enumerate(names):
            files.safetensors_file(folder / name, prefix=f"{seed}.", seed=seed)
        if with_index:
            index = {"weight_map": {f"{seed}.x": name for seed, name in enumerate(names)}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        ((name, model),) = scan(tmp_path).models.items()
        assert name == "llama"
        assert [path.name for path in model.shards] == names
        assert model.parameter_count == 2 * (160 + 64 + 8)
        assert model.task_types == ("text_generation",)
        (folder / names[0]).unlink()
        (model,) = scan(tmp_path).models.values()
        assert model.problems == (f"missing shard 1 of 2: {names[0]}",)

    @pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", 7])
    def test_an_index_cannot_lead_out_of_its_directory(self, files, tmp_path, name):
        """A shard index that names another directory's file is skipped; the file is not opened."""
        files.safetensors_file(tmp_path / "own.safetensors")
        index = {"weight_map": {"a": name, "b": "own.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        found = scan(tmp_path)
        assert list(found.models) == ["own"]
        assert "not followed" in reasons(found)["model.safetensors.index.json"]

    def test_an_index_alone_is_skipped(self, tmp_path):
        """An index whose shards were not downloaded is not a model."""
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        found = scan(tmp_path)
        assert not found.models
        assert "none of which is here" in found.skipped[0].reason

    def test_a_shard_under_another_name_says_so(self, files, tmp_path):
        """A file that says it is a shard and is not named like one cannot be loaded."""
        files.gguf_file(tmp_path / "x.gguf", general={"split.no": 0, "split.count": 2})
        (model,) = scan(tmp_path).models.values()
        assert "one of 2 shards" in model.problems[0]


class TestCompanions:
    def test_files_beside_a_model_belong_to_it(self, files, tmp_path):
        """Tokenizer and configuration are attached, and found by name."""
        files.write_config(tmp_path / "bert", files.BERT)
        files.safetensors_file(tmp_path / "bert" / "model.safetensors")
        (tmp_path / "bert" / "1_Pooling").mkdir()
        (tmp_path / "bert" / "1_Pooling" / "config.json").write_text("{}")
        (model,) = scan(tmp_path).models.values()
        names = [str(path.relative_to(tmp_path / "bert")) for path in model.companions]
        assert names == ["tokenizer.json", "config.json", "1_Pooling/config.json"]
        assert model.companion("tokenizer.json") == tmp_path / "bert" / "tokenizer.json"

    def test_an_onnx_folder_uses_the_repository_above(self, files, tmp_path):
        """A model in onnx/ gets tokenizer, configuration and license from one level up."""
        files.write_config(tmp_path / "bert", files.BERT, card="---\nlicense: mit\n---\n")
        (tmp_path / "bert" / "onnx").mkdir()
        files.onnx_file(tmp_path / "bert" / "onnx" / "model.onnx")
        ((name, model),) = scan(tmp_path).models.items()
        assert name == "bert"
        assert model.companion("tokenizer.json") == tmp_path / "bert" / "tokenizer.json"
        assert (model.license, model.architecture) == ("mit", "bert")

    def test_nothing_above_the_root_is_attached(self, files, tmp_path):
        """What lies above the scanned directory is not the model's."""
        files.write_config(tmp_path, files.BERT)
        (tmp_path / "onnx").mkdir()
        files.onnx_file(tmp_path / "onnx" / "model.onnx")
        (model,) = scan(tmp_path / "onnx").models.values()
        assert model.companions == ()

    def test_a_projector_is_attached_to_its_models(self, files, tmp_path):
        """A projector belongs to the models beside it and is none itself."""
        projector = files.gguf_file(tmp_path / "mmproj-x.gguf", arch="clip")
        files.gguf_file(tmp_path / "a.gguf", seed=1)
        files.gguf_file(tmp_path / "b.gguf", seed=2)
        found = scan(tmp_path)
        assert list(found.models) == ["a", "b"]
        assert all(model.companions == (projector,) for model in found.models.values())
        assert not found.skipped

    def test_a_lonely_projector_adapter_or_vocabulary_is_skipped(self, files, tmp_path):
        """What is no model by itself is named with the reason."""
        files.gguf_file(tmp_path / "mmproj-x.gguf", arch="clip")
        files.gguf_file(tmp_path / "lora.gguf", general={"general.type": "adapter"})
        files.gguf_file(tmp_path / "vocab.gguf", tensors={})
        found = scan(tmp_path)
        assert not found.models
        kinds = {name: reason.split(",")[0] for name, reason in reasons(found).items()}
        assert kinds == {
            "mmproj-x.gguf": "a projector",
            "lora.gguf": "an adapter",
            "vocab.gguf": "a vocabulary",
        }

    def test_external_data_counts_as_weights(self, files, tmp_path):
        """The file that holds an ONNX model's tensors is part of it; a missing one is a problem."""
        path = files.onnx_file(tmp_path / "x.onnx", external="x.onnx_data")
        data = tmp_path / "x.onnx_data"
        (model,) = scan(tmp_path).models.values()
        assert model.shards == (path, data)
        assert model.size_bytes == path.stat().st_size + data.stat().st_size
        data.unlink()
        (model,) = scan(tmp_path).models.values()
        assert model.problems == ("missing external data: x.onnx_data",)


class TestDuplicates:
    def test_the_same_bytes_are_one_model(self, files, tmp_path):
        """A copy, a hard link and a symlink are listed as other places of one model."""
        first = files.gguf_file(tmp_path / "a.gguf")
        (tmp_path / "copy.gguf").write_bytes(first.read_bytes())
        (tmp_path / "hard.gguf").hardlink_to(first)
        (tmp_path / "soft.gguf").symlink_to(first)
        (model,) = scan(tmp_path).models.values()
        assert model.path == first
        assert sorted(path.name for path in model.duplicates) == [
            "copy.gguf",
            "hard.gguf",
            "soft.gguf",
        ]

    def test_two_roots_that_overlap_do_not_double(self, files, tmp_path):
        """One file reached through two sources is no duplicate of itself."""
        (tmp_path / "in").mkdir()
        files.gguf_file(tmp_path / "in" / "a.gguf")
        found = discover([DirectorySource(tmp_path), DirectorySource(tmp_path / "in")])
        (model,) = found.models.values()
        assert model.duplicates == ()

    def test_history_follows_a_move(self, files, tmp_path):
        """A renamed model has another name and path and the same fingerprint."""
        path = files.gguf_file(tmp_path / "a.gguf")
        (before,) = scan(tmp_path).models.values()
        (tmp_path / "new").mkdir()
        path.rename(tmp_path / "new" / "b.gguf")
        (after,) = scan(tmp_path).models.values()
        assert (before.name, after.name) == ("a", "b")
        assert before.fingerprint == after.fingerprint


class TestWhatIsWrong:
    def test_a_missing_directory_is_empty_with_a_message(self, tmp_path):
        """Nothing is found, the reason is said, nothing is created."""
        found = scan(tmp_path / "absent")
        assert (found.models, len(found.skipped)) == ({}, 1)
        assert "does not exist" in found.skipped[0].reason
        assert not (tmp_path / "absent").exists()
        assert found.roots == (tmp_path / "absent",)

    def test_links_in_a_circle_end(self, files, tmp_path):
        """Each directory is looked into once, however many links lead to it."""
        (tmp_path / "a" / "b").mkdir(parents=True)
        files.gguf_file(tmp_path / "a" / "b" / "x.gguf")
        (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
        (tmp_path / "again").symlink_to(tmp_path / "a" / "b")
        (tmp_path / "self").symlink_to(tmp_path / "self")
        (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
        found = scan(tmp_path)
        assert list(found.models) == ["x"]
        assert found.models["x"].duplicates == ()
        assert "cannot be followed" in reasons(found)["loop.gguf"]

    def test_a_link_to_everything_is_not_followed(self, files, tmp_path):
        """A link to a directory above the root would scan the machine; it is skipped."""
        root = tmp_path / "root"
        root.mkdir()
        files.gguf_file(tmp_path / "outside.gguf")
        (root / "up").symlink_to(tmp_path)
        (root / "all").symlink_to("/")
        found = scan(root)
        assert not found.models
        assert all("not followed" in reasons(found)[name] for name in ("up", "all"))

    def test_a_link_to_another_disk_is_followed(self, files, tmp_path):
        """A directory that is linked in from elsewhere is scanned."""
        (tmp_path / "disk").mkdir()
        (tmp_path / "root").mkdir()
        files.gguf_file(tmp_path / "disk" / "x.gguf")
        (tmp_path / "root" / "more").symlink_to(tmp_path / "disk")
        assert list(scan(tmp_path / "root").models) == ["x"]

    def test_nothing_but_regular_files_is_opened(self, tmp_path):
        """A FIFO, a device and a broken link with a model's suffix are named and not opened."""
        os.mkfifo(tmp_path / "fifo.gguf")
        (tmp_path / "zero.onnx").symlink_to("/dev/zero")
        (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
        found = reasons(scan(tmp_path))
        assert "not opened" in found["fifo.gguf"]
        assert "not opened" in found["zero.onnx"]
        assert "does not exist" in found["gone.safetensors"]

    def test_an_unreadable_directory_is_named(self, files, tmp_path):
        """A directory without permission is skipped with the reason; the rest is found."""
        files.gguf_file(tmp_path / "x.gguf")
        closed = tmp_path / "closed"
        closed.mkdir()
        closed.chmod(0)
        user = os.geteuid()
        opened = [
            parent for parent in (tmp_path, *tmp_path.parents) if parent.stat().st_uid == user
        ]
        modes = {parent: parent.stat().st_mode for parent in opened}
        if user == 0:  # root may read everything: be somebody else for a moment
            for parent in opened:
                parent.chmod(modes[parent] | 0o055)
            os.seteuid(65534)
        try:
            found = scan(tmp_path)
        finally:
            os.seteuid(user)
            for parent, mode in modes.items():
                parent.chmod(mode)
            closed.chmod(0o700)
        assert list(found.models) == ["x"]
        assert "Permission denied" in reasons(found)["closed"]

    def test_damaged_files_are_named_and_the_rest_is_found(self, files, tmp_path):
        """Truncated, foreign and unfinished files have a reason each."""
        files.gguf_file(tmp_path / "good.gguf")
        bad = files.gguf_file(tmp_path / "bad.gguf", seed=1)
        bad.write_bytes(bad.read_bytes()[:-10])
        (tmp_path / "page.safetensors").write_text("<html>log in</html>")
        (tmp_path / "x.gguf.part").write_bytes(b"GGUF")
        (tmp_path / "firmware.bin").write_bytes(b"\x7fELF" + bytes(100))
        found = scan(tmp_path)
        assert list(found.models) == ["good"]
        assert set(reasons(found)) == {"bad.gguf", "page.safetensors", "x.gguf.part"}
        assert "truncated" in reasons(found)["bad.gguf"]
        assert "not finished" in reasons(found)["x.gguf.part"]
        assert all(one.reason.isprintable() for one in found.skipped)

    def test_a_pickle_that_would_run_something_is_listed_with_its_problem(self, files, tmp_path):
        """It is found, never loaded, and carries what it would import."""
        program = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R."
        files.torch_file(tmp_path / "evil.pt", pickle_bytes=program)
        (model,) = scan(tmp_path).models.values()
        assert model.model_type is ModelType.PYTORCH
        assert "os.system" in model.problems[0]


class TestRescan:
    def test_unchanged_files_are_not_read_again(self, files, tmp_path):
        """The second scan reads nothing and finds the same."""
        files.write_config(tmp_path / "a", files.BERT)
        files.safetensors_file(tmp_path / "a" / "model.safetensors")
        files.gguf_file(tmp_path / "x.gguf")
        cache = ScanCache()
        first, second = scan(tmp_path, cache), scan(tmp_path, cache)
        assert (first.read, second.read) == (2, 0)
        assert first.models == second.models

    def test_a_changed_file_or_config_is_read_again(self, files, tmp_path):
        """A replaced file and a changed configuration are noticed; a removed model is forgotten."""
        folder = tmp_path / "a"
        files.write_config(folder, files.BERT)
        path = files.safetensors_file(folder / "model.safetensors")
        cache = ScanCache()
        (before,) = scan(tmp_path, cache).models.values()
        files.write_config(folder, files.BERT | {"max_position_embeddings": 4096})
        found = scan(tmp_path, cache)
        assert (found.read, found.models["a"].context_length) == (1, 4096)
        files.safetensors_file(path, seed=5)
        found = scan(tmp_path, cache)
        assert (found.read, found.models["a"].fingerprint != before.fingerprint) == (1, True)
        path.unlink()
        assert not scan(tmp_path, cache).models
        assert len(cache) == 0

    def test_progress_is_told(self, files, tmp_path, capsys):
        """A callable hears of each model's first file; True draws a bar on stderr only."""
        path = files.gguf_file(tmp_path / "x.gguf")
        heard = []
        scan(tmp_path, progress=heard.append)
        assert heard == [path]
        assert scan(tmp_path, progress=True).models
        assert capsys.readouterr().out == ""


class TestGivenPaths:
    def test_one_several_or_a_file(self, files, tmp_path):
        """A path, several paths and a single file are all taken."""
        home = paths(tmp_path / "home")
        for seed, folder in enumerate(["a", "b"]):
            (tmp_path / folder).mkdir()
            files.gguf_file(tmp_path / folder / f"{folder}.gguf", seed=seed)
            files.gguf_file(tmp_path / folder / f"{folder}2.gguf", seed=seed + 5)
        one = discover(sources_for(str(tmp_path / "a"), home))
        both = discover(sources_for([tmp_path / "a", tmp_path / "b"], home))
        single = discover(sources_for(tmp_path / "b" / "b.gguf", home))
        assert list(one.models) == ["a", "a2"]
        assert list(both.models) == ["a", "a2", "b", "b2"]
        assert list(single.models) == ["b"]
        assert not (tmp_path / "home").exists()

    @pytest.mark.parametrize("given", ["", "  ", "a\0b", 5, b"a", [None], [b"a"], {"a": 1}])
    def test_what_is_no_path_is_an_error(self, tmp_path, given):
        """An empty path, one with a NUL, and what is no path at all are refused at once."""
        with pytest.raises(ConfigurationError, match="models_dir"):
            sources_for(given, paths(tmp_path))
