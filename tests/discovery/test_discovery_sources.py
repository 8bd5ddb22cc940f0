"""What is particular to one source: its places, its names, its layers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from stores import LAYERS, add_blob, directory, hub, llama_cpp, ollama, package

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import (
    LlamaCppSource,
    LMStudioSource,
    OllamaSource,
    discover,
    sources_for,
)

ABSENT = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'0' * 64}"}


def reasons(found):
    return {one.path.name: one.reason for one in found.skipped}


def test_no_models_dir_means_every_well_known_store(files, tmp_path):
    """All stores are looked into; equal bytes are one model with all other places listed."""
    environment = {
        "HOME": str(tmp_path),
        "OLLAMA_MODELS": str(tmp_path / "ollama"),
        "LLAMA_CACHE": str(tmp_path / "cache"),
    }
    home = paths(tmp_path / "home")
    mine = directory(files, home.models, seed=1)
    hub(files, tmp_path / ".cache" / "huggingface" / "hub", seed=2)
    ollama(files, tmp_path / "ollama", seed=3)
    directory(files, tmp_path / ".lmstudio" / "models" / "org" / "repo", seed=4)
    copy = llama_cpp(files, tmp_path / "cache", seed=1)
    sources = sources_for(None, home, environment)
    found = discover(sources)
    models = [model for model in found.models.values() if model.source != "packages"]
    assert sorted(model.source for model in models) == [
        "directory", "huggingface", "lm_studio", "ollama",
    ]  # fmt: skip
    shared = next(one for one in models if one.source == "directory")
    assert (shared.path, shared.duplicates) == (mine, (copy,))
    assert [source.name for source in sources][:6] == [
        "directory", "huggingface", "ollama", "lm_studio", "llama_cpp", "packages",
    ]  # fmt: skip


def test_installed_packages_are_among_the_well_known_stores(files, tmp_path, monkeypatch):
    """A model in a package on ``sys.path`` is found without a models_dir."""
    path = package(files, tmp_path / "site", layers=LAYERS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    environment = {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "none")}
    found = discover(sources_for(None, paths(tmp_path / "home"), environment))
    assert found.models["tiny-detector/small"].path == path


class TestOllama:
    @pytest.mark.parametrize(
        ("namespace", "tag", "name"),
        [
            ("library", "llama3/8b", "llama3:8b"),
            ("someone", "model/q4", "someone/model:q4"),
        ],
    )
    def test_names_are_those_that_ollama_shows(self, files, tmp_path, namespace, tag, name):
        """library/ is left out, another owner is kept."""
        ollama(files, tmp_path, tag, namespace=namespace)
        assert list(discover([OllamaSource({}, tmp_path)]).models) == [name]

    def test_layers_become_companions_and_the_license(self, files, tmp_path):
        """Projector and template are attached; the license text's first line is kept."""
        layers = [
            ("projector", b"GGUFp"),
            ("template", b"{{ .Prompt }}"),
            ("license", b"\nMIT License\nfoo"),
        ]
        ollama(files, tmp_path, parts=layers)
        (model,) = OllamaSource({}, tmp_path).discover()
        assert [path.read_bytes() for path in model.companions] == [b"GGUFp", b"{{ .Prompt }}"]
        assert model.license == "MIT License"

    def test_two_tags_of_one_blob_are_one_model(self, files, tmp_path):
        """The second tag is a note: there is only one file."""
        ollama(files, tmp_path, "small/a")
        ollama(files, tmp_path, "small/b")
        (model,) = discover([OllamaSource({}, tmp_path)]).models.values()
        assert (model.name, model.duplicates) == ("small:a", ())
        assert "also named small:b" in model.notes

    @pytest.mark.parametrize(
        ("manifest", "word"),
        [
            ("{", "JSON"),
            ('{"layers": 5}', "no layers"),
            ('{"layers": ["x"]}', "not an object"),
            ('{"layers": [{"digest": "sha256:../../../../etc/passwd"}]}', "not followed"),
            ('{"layers": [{"digest": "sha256-../blobs/x", "mediaType": "model"}]}', "not followed"),
            ('{"layers": []}', "0 layers"),
            (json.dumps({"layers": [ABSENT]}), "Pull it again"),
        ],
    )  # fmt: skip
    def test_manifests_that_lie(self, tmp_path, manifest, word):
        """A damaged manifest, a digest that is a path and a missing blob are skipped."""
        path = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "x" / "latest"
        path.parent.mkdir(parents=True)
        path.write_text(manifest)
        (found,) = OllamaSource({}, tmp_path).discover()
        assert word in found.reason

    def test_a_blob_of_another_size_is_a_problem(self, files, tmp_path):
        """A blob that is longer than its manifest says is not used."""
        blob = ollama(files, tmp_path)
        with blob.open("ab") as stream:
            stream.write(b"x")
        (model,) = OllamaSource({}, tmp_path).discover()
        assert "the manifest says" in model.problems[0]

    def test_a_store_given_by_its_path_is_recognised(self, files, tmp_path):
        """models_dir may be an Ollama store itself."""
        ollama(files, tmp_path / "store")
        (source,) = sources_for(tmp_path / "store", paths(tmp_path / "home"))
        assert source.name == "ollama"

    def test_other_registries_and_owners(self, files, tmp_path):
        """A model of hf.co keeps its host and its owner in the name."""
        ollama(files, tmp_path, "small-GGUF/Q4_0", namespace="org", host="hf.co")
        ollama(files, tmp_path, "small/latest", host="registry.example.com:5000", seed=2)
        found = discover([OllamaSource({}, tmp_path)])
        assert sorted(found.models) == [
            "hf.co/org/small-GGUF:Q4_0",
            "registry.example.com:5000/library/small:latest",
        ]
        assert found.skipped == []

    def test_every_layer_has_its_part(self, files, tmp_path):
        """Projector, adapter, template, parameters, system and messages are companions."""
        kinds = ("projector", "adapter", "template", "params", "system", "messages")
        ollama(files, tmp_path, parts=[(kind, kind.encode()) for kind in kinds])
        (model,) = OllamaSource({}, tmp_path).discover()
        assert [path.read_bytes().decode() for path in model.companions] == list(kinds)
        blob = next(path for path in model.companions if path.read_bytes() == b"projector")
        blob.unlink()
        (model,) = OllamaSource({}, tmp_path).discover()
        assert "missing projector blob" in model.problems[0]

    def test_an_adapter_makes_another_model_of_the_same_weights(self, files, tmp_path):
        """Tags with and without one are two entries; what belongs to one is not the other's."""
        ollama(files, tmp_path, "small/a", parts=[("template", b"one")])
        ollama(files, tmp_path, "small/b", parts=[("template", b"two")])
        ollama(files, tmp_path, "tuned/a", parts=[("adapter", b"GGUF lora")])
        found = discover([OllamaSource({}, tmp_path)])
        assert sorted(found.models) == ["small:a", "tuned:a"]
        assert {
            name: [path.read_bytes() for path in model.companions]
            for name, model in found.models.items()
        } == {"small:a": [b"one"], "tuned:a": [b"GGUF lora"]}
        assert found.models["tuned:a"].shards == found.models["small:a"].shards

    @pytest.mark.parametrize("place", ["x", "library/x", "a/b/c/d/e", "registry.ollama.ai/../x/y"])
    def test_a_file_where_no_manifest_belongs(self, tmp_path, place):
        """Only host/namespace/model/tag is a manifest; what is elsewhere is named."""
        path = tmp_path / "manifests" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        (found,) = OllamaSource({}, tmp_path).discover()
        assert "host/namespace/model/tag" in found.reason

    def test_a_manifest_that_is_a_link_to_nothing_or_would_block(self, files, tmp_path):
        """The link is named, the FIFO is not opened, and the rest is found."""
        ollama(files, tmp_path)
        folder = tmp_path / "manifests/registry.ollama.ai/library/small"
        (folder / "gone").symlink_to("nowhere")
        os.mkfifo(folder / "fifo")
        found = discover([OllamaSource({}, tmp_path)])
        assert list(found.models) == ["small:latest"]
        assert "does not exist" in reasons(found)["gone"]

    def test_what_the_system_leaves_is_no_manifest(self, files, tmp_path):
        """A hidden file among the manifests is nothing."""
        ollama(files, tmp_path)
        for folder in ("", "registry.ollama.ai/library/small"):
            (tmp_path / "manifests" / folder / ".DS_Store").write_bytes(b"x")
        found = discover([OllamaSource({}, tmp_path)])
        assert (list(found.models), found.skipped) == (["small:latest"], [])

    def test_a_pull_that_is_not_finished(self, files, tmp_path):
        """Its blob and how far its parts are; the file itself has its full length at once."""
        ollama(files, tmp_path)
        blob = tmp_path / "blobs" / f"sha256-{'a' * 64}-partial"
        with blob.open("wb") as stream:
            stream.truncate(300_000_000)
        for number, completed in enumerate([100_000_000, 20_000_000]):
            part = {"N": number, "Offset": 0, "Size": 150_000_000, "Completed": completed}
            blob.with_name(f"{blob.name}-{number}").write_text(json.dumps(part))
        found = discover([OllamaSource({}, tmp_path)])
        assert list(found.models) == ["small:latest"]
        reason = reasons(found)[blob.name]
        assert "114.4 MiB of 286.1 MiB so far" in reason

    @pytest.mark.parametrize(
        "part", [b"", b"{", b'{"Completed": -5}', b'{"Completed": 1e99}', b"[]"]
    )
    def test_a_part_that_lies(self, files, tmp_path, part):
        """How far a pull is stays unknown; nothing is raised."""
        ollama(files, tmp_path)
        blob = tmp_path / "blobs" / f"sha256-{'a' * 64}-partial"
        blob.write_bytes(b"GGUF")
        blob.with_name(f"{blob.name}-0").write_bytes(part)
        found = discover([OllamaSource({}, tmp_path)])
        assert "not finished" in reasons(found)[blob.name]

    def test_blobs_that_no_manifest_names(self, files, tmp_path):
        """They are counted with their bytes, unless a manifest could not be read."""
        ollama(files, tmp_path)
        add_blob(tmp_path / "blobs", b"x" * 4_000_000, "sha256-")
        found = discover([OllamaSource({}, tmp_path)])
        assert "1 blob belongs to no model (3.8 MiB)" in reasons(found)["blobs"]
        (tmp_path / "manifests/registry.ollama.ai/library/small/broken").write_text("{")
        assert "blobs" not in reasons(discover([OllamaSource({}, tmp_path)]))

    def test_a_model_of_many_tensors_is_named(self, files, tmp_path):
        """One blob a tensor is what only Ollama's own engine loads."""
        ollama(files, tmp_path)
        manifest = tmp_path / "manifests/registry.ollama.ai/library/small/latest"
        manifest.write_text(manifest.read_text().replace("image.model", "image.tensor"))
        (found,) = OllamaSource({}, tmp_path).discover()
        assert "1 tensors, each a blob of its own" in found.reason

    @pytest.mark.parametrize(
        ("stated", "place"),
        [
            ("/m", "/m"),
            ("~/m", "{home}/m"),
            (' "/m" ', "/m"),
            ("'/a b'", "/a b"),
            ("m", "{here}/m"),
        ],
    )
    def test_the_environment_is_honoured(self, tmp_path, stated, place):
        """OLLAMA_MODELS as Ollama reads it: without quotes and spaces around it."""
        source = OllamaSource({"HOME": str(tmp_path), "OLLAMA_MODELS": stated})
        assert source.roots() == (Path(place.format(home=tmp_path, here=Path.cwd())),)

    @pytest.mark.parametrize("stated", ["", "  ", '""'])
    def test_an_empty_variable_is_none(self, tmp_path, stated):
        """Ollama takes it for one that is not set."""
        source = OllamaSource({"HOME": str(tmp_path), "OLLAMA_MODELS": stated})
        assert source.roots()[0] == tmp_path / ".ollama" / "models"


class TestLMStudio:
    def test_its_pointer_is_followed(self, files, tmp_path):
        """The file that says where its home is is honoured, and an odd one ignored."""
        pointer = tmp_path / ".lmstudio-home-pointer"
        pointer.write_text(f"{tmp_path / 'elsewhere'}\n")
        source = LMStudioSource({"HOME": str(tmp_path)})
        directory(files, tmp_path / "elsewhere" / "models" / "org" / "repo")
        assert [model.name for model in source.discover()] == ["small"]
        for odd in ("relative", "", "a\0b"):
            pointer.write_text(odd)
            assert tmp_path / ".lmstudio" / "models" in source.roots()

    @pytest.mark.parametrize(
        "place",
        [".lmstudio/models", ".cache/lm-studio/models", ".lmstudio/.internal/bundled-models"],
    )
    def test_each_of_its_folders_is_looked_into(self, files, tmp_path, place):
        """The folder of today, that of older versions, and what it brings along."""
        directory(files, tmp_path / place / "org" / "repo")
        found = discover([LMStudioSource({"HOME": str(tmp_path)})])
        assert (list(found.models), found.skipped) == (["small"], [])

    def test_the_folder_in_its_settings_is_looked_into(self, files, tmp_path):
        """``downloadsFolder`` moves the models; settings that are garbage move nothing."""
        settings = tmp_path / ".lmstudio" / "settings.json"
        settings.parent.mkdir()
        settings.write_text(json.dumps({"downloadsFolder": str(tmp_path / "big disk")}))
        directory(files, tmp_path / "big disk" / "org" / "repo")
        source = LMStudioSource({"HOME": str(tmp_path)})
        assert [model.name for model in source.discover()] == ["small"]
        for odd in ("{", "[]", '{"downloadsFolder": 5}', '{"downloadsFolder": "relative"}', ""):
            settings.write_text(odd)
            assert list(source.discover()) == []

    def test_a_projector_belongs_to_the_models_beside_it(self, files, tmp_path):
        """It is attached to the models of its own repository alone."""
        root = tmp_path / ".lmstudio" / "models" / "org"
        directory(files, root / "seeing")
        projector = files.gguf_file(root / "seeing" / "mmproj-small-f16.gguf", arch="clip")
        files.gguf_file(directory(files, root / "blind").with_name("blind.gguf"), seed=2)
        (root / "blind" / "small.gguf").unlink()
        found = discover([LMStudioSource({"HOME": str(tmp_path)})])
        assert {name: model.companions for name, model in found.models.items()} == {
            "small": (projector,),
            "blind": (),
        }
        assert found.skipped == []

    def test_a_download_that_is_not_finished_is_named(self, files, tmp_path):
        """LM Studio writes ``downloading_<file>.part`` beside the others."""
        root = tmp_path / ".lmstudio" / "models" / "org" / "repo"
        directory(files, root)
        (root / "downloading_big.gguf.part").write_bytes(b"GGUF")
        found = discover([LMStudioSource({"HOME": str(tmp_path)})])
        assert list(found.models) == ["small"]
        assert "not finished" in reasons(found)["downloading_big.gguf.part"]

    def test_a_model_is_labelled_by_its_repository(self, files, tmp_path):
        """Equal names in two repositories have the repositories in them."""
        for seed, owner in enumerate(["one", "two"]):
            directory(files, tmp_path / ".lmstudio" / "models" / owner / owner, seed=seed)
        found = discover([LMStudioSource({"HOME": str(tmp_path)})])
        assert sorted(found.models) == ["one/small", "two/small"]


class TestLlamaCpp:
    @pytest.mark.parametrize(
        ("variables", "place"),
        [
            ({"LLAMA_CACHE": "/l"}, "/l"),
            ({"LLAMA_CACHE": "~/l"}, "{home}/l"),
            ({"LLAMA_CACHE": "l"}, "{here}/l"),
            ({"LLAMA_CACHE": "/l", "XDG_CACHE_HOME": "/c"}, "/l"),
        ],
    )
    def test_its_variable_is_honoured(self, tmp_path, variables, place):
        """LLAMA_CACHE names the cache itself."""
        (root,) = LlamaCppSource({"HOME": str(tmp_path)} | variables).roots()
        assert root == Path(place.format(home=tmp_path, here=Path.cwd()))

    @pytest.mark.parametrize("variables", [{}, {"LLAMA_CACHE": ""}])
    def test_it_has_a_default_place(self, tmp_path, variables):
        """Without LLAMA_CACHE, or with an empty one, it lies in the person's cache directory."""
        (root,) = LlamaCppSource({"HOME": str(tmp_path)} | variables).roots()
        assert root.is_relative_to(tmp_path)
        assert root.name == "llama.cpp"

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no XDG_CACHE_HOME")
    def test_the_cache_directory_may_be_moved(self, tmp_path):
        """XDG_CACHE_HOME counts; an empty one does not, as in llama.cpp."""
        for stated, place in (("/c", "/c/llama.cpp"), ("", f"{tmp_path}/.cache/llama.cpp")):
            environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": stated}
            assert LlamaCppSource(environment).roots() == (Path(place),)

    def test_a_projector_belongs_to_its_own_repository(self, files, tmp_path):
        """In the flat layout the prefix of the name says which that is."""
        llama_cpp(files, tmp_path, "org/seeing", "a.gguf")
        projector = llama_cpp(files, tmp_path, "org/seeing", "mmproj-f16.gguf", arch="clip")
        llama_cpp(files, tmp_path, "org/blind", "b.gguf", seed=2)
        found = discover([LlamaCppSource({"LLAMA_CACHE": str(tmp_path)})])
        assert {name: model.companions for name, model in found.models.items()} == {
            "org_seeing_a": (projector,),
            "org_blind_b": (),
        }
        assert found.skipped == []

    def test_shards_and_what_is_missing(self, files, tmp_path):
        """A split model is one entry; without its second file it says so."""
        for number in (1, 2):
            llama_cpp(
                files, tmp_path, "org/big", f"big-{number:05d}-of-00002.gguf", seed=number,
                general={"split.no": number - 1, "split.count": 2},
                tensors={f"blk.{number}.ffn_up.weight": ((8, 64), files.Q.F32)},
            )  # fmt: skip
        source = LlamaCppSource({"LLAMA_CACHE": str(tmp_path)})
        (model,) = source.discover()
        assert (model.name, len(model.shards), model.problems) == ("org_big_big", 2, ())
        model.shards[1].unlink()
        (model,) = source.discover()
        assert model.problems == ("missing shard 2 of 2: org_big_big-00002-of-00002.gguf",)

    def test_a_download_that_is_not_finished_is_named(self, files, tmp_path):
        """llama.cpp writes ``<file>.downloadInProgress``."""
        path = llama_cpp(files, tmp_path)
        path.with_name("org_small_big.gguf.downloadInProgress").write_bytes(b"GGUF")
        found = discover([LlamaCppSource({"LLAMA_CACHE": str(tmp_path)})])
        assert list(found.models) == ["org_small_small"]
        assert "not finished" in reasons(found)["org_small_big.gguf.downloadInProgress"]

    def test_both_layouts_in_one_place(self, files, tmp_path):
        """What an older and a newer version downloaded is found side by side."""
        llama_cpp(files, tmp_path, "org/old", "old.gguf", seed=1)
        hub(files, tmp_path, "org/new", name="new.gguf", seed=2)
        found = discover([LlamaCppSource({"LLAMA_CACHE": str(tmp_path)})])
        assert sorted(found.models) == ["new", "org_old_old"]
        assert found.skipped == []
        assert {model.source for model in found.models.values()} == {"llama_cpp"}
