"""One behaviour suite over every source, each in its own layout."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import (
    DirectorySource,
    HuggingFaceSource,
    LlamaCppSource,
    LMStudioSource,
    OllamaSource,
    ScanCache,
    Skipped,
    discover,
    sources_for,
)

ABSENT = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'0' * 64}"}
REVISION = "0123456789abcdef0123456789abcdef01234567"


def directory(files, root, **options):
    root.mkdir(parents=True)
    return files.gguf_file(root / "small.gguf", **options)


def hub(files, root, repo="org/small", revision=REVISION, main=True, **options):
    """Lay out one revision of a repository as the hub's client does: links to blobs."""
    repository = root / f"models--{repo.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    snapshot.mkdir(parents=True)
    if main:
        (repository / "refs" / "main").write_text(revision)
    made = files.gguf_file(repository / "new.gguf", **options)
    blob = repository / "blobs" / hashlib.sha256(made.read_bytes()).hexdigest()
    made.rename(blob)
    link = snapshot / "small.gguf"
    link.symlink_to(os.path.relpath(blob, snapshot))
    return link


def ollama(files, root, tag="small/latest", layers=(), namespace="library", **options):
    """Lay out one tag as Ollama does: a manifest that names blobs by digest."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)

    def add(kind, content):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / f"sha256-{digest}").write_bytes(content)
        return {
            "mediaType": f"application/vnd.ollama.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }

    made = files.gguf_file(root / "new.gguf", **options)
    listed = [add("model", made.read_bytes()), *(add(*layer) for layer in layers)]
    made.unlink()
    manifest = root / "manifests" / "registry.ollama.ai" / namespace / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": listed}))
    return blobs / f"sha256-{listed[0]['digest'][7:]}"


#: For each source: its environment below a home, where its store then lies, and its layout.
SOURCES = {
    "directory": (
        lambda home: DirectorySource(home / "models", optional=True),
        "models",
        directory,
    ),
    "huggingface": (
        lambda home: HuggingFaceSource({"HOME": str(home)}),
        ".cache/huggingface/hub",
        hub,
    ),
    "ollama": (
        lambda home: OllamaSource({"OLLAMA_MODELS": str(home / "ollama")}),
        "ollama",
        ollama,
    ),
    "lm_studio": (
        lambda home: LMStudioSource({"HOME": str(home)}),
        ".lmstudio/models",
        lambda files, root, **options: directory(files, root / "org" / "repo", **options),
    ),
    "llama_cpp": (
        lambda home: LlamaCppSource({"HOME": str(home), "LLAMA_CACHE": str(home / "cache")}),
        "cache",
        directory,
    ),
}


@pytest.fixture(params=SOURCES)
def store(request, tmp_path):
    """The name of a source, the source itself, its store's place and its layout."""
    make, place, lay_out = SOURCES[request.param]
    return request.param, make(tmp_path), tmp_path / place, lay_out


def test_an_absent_store_is_empty_and_silent(store, tmp_path):
    """A store that this person does not have is neither created nor complained of."""
    _, source, place, _ = store
    assert list(source.discover()) == []
    assert place in source.roots()
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_its_store_is_found(store, files):
    """Facts, source, fingerprint and path are there; nothing is skipped."""
    name, source, place, lay_out = store
    path = lay_out(files, place)
    (model,) = source.discover()
    assert model.source == name
    assert model.path == path
    assert model.shards == (path,)
    assert model.size_bytes == path.stat().st_size
    assert (model.architecture, model.quantization) == ("llama", "Q4_0")
    assert model.task_types == ("text_generation",)
    assert model.attention.heads_kv == (2, 2)
    assert len(model.fingerprint) == 32
    assert model.name == ("small:latest" if name == "ollama" else "small")
    assert model.problems == ()
    assert source.labels(model) is not None


def test_the_fingerprint_is_that_of_the_bytes(store, files, tmp_path):
    """In whichever store a model lies, its fingerprint is the same."""
    _, source, place, lay_out = store
    lay_out(files, place)
    (tmp_path / "plain").mkdir()
    files.gguf_file(tmp_path / "plain" / "x.gguf")
    (plain,) = DirectorySource(tmp_path / "plain").discover()
    (model,) = source.discover()
    assert model.fingerprint == plain.fingerprint


def test_nothing_in_the_store_is_written(store, files):
    """A scan leaves every file and directory as it was."""
    _, source, place, lay_out = store
    lay_out(files, place)

    def state():
        return {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in place.rglob("*")}

    before = state()
    list(source.discover())
    assert state() == before


def test_a_truncated_model_is_skipped_with_the_reason(store, files):
    """A damaged file is named, and nothing is raised."""
    _, source, place, lay_out = store
    path = lay_out(files, place)
    path.write_bytes(path.read_bytes()[:-200])
    found = list(source.discover())
    assert [type(one) for one in found] == [Skipped]
    assert "truncated" in found[0].reason


def test_a_rescan_reads_nothing(store, files):
    """With the cache of the first scan the second reads no file."""
    _, source, place, lay_out = store
    lay_out(files, place)
    cache = ScanCache()
    first = discover([source], cache)
    second = discover([source], cache)
    assert (first.read, second.read) == (1, 0)
    assert first.models == second.models


def test_progress_is_told_the_file(store, files):
    """The callable hears of the file."""
    _, source, place, lay_out = store
    path = lay_out(files, place)
    heard = []
    list(source.discover(heard.append))
    assert heard == [path]


def test_no_models_dir_means_every_well_known_store(files, tmp_path):
    """All five stores are looked into; equal bytes are one model with all other places listed."""
    environment = {
        "HOME": str(tmp_path),
        "OLLAMA_MODELS": str(tmp_path / "ollama"),
        "LLAMA_CACHE": str(tmp_path / "cache"),
    }
    home = paths(tmp_path / "home")
    for seed, (name, (_, place, lay_out)) in enumerate(SOURCES.items()):
        lay_out(files, home.models if name == "directory" else tmp_path / place, seed=seed % 4)
    found = discover(sources_for(None, home, environment))
    assert not found.skipped
    assert {model.source for model in found.models.values()} == set(SOURCES) - {"llama_cpp"}
    shared = next(one for one in found.models.values() if one.source == "directory")
    assert shared.duplicates == (tmp_path / "cache" / "small.gguf",)
    assert len(found.models) == 4
    assert len(found.roots) >= 5


class TestHuggingFace:
    @pytest.mark.parametrize(
        ("variables", "place"),
        [
            ({"HF_HUB_CACHE": "x"}, "x"),
            ({"HUGGINGFACE_HUB_CACHE": "y"}, "y"),
            ({"HF_HOME": "z"}, "z/hub"),
            ({"XDG_CACHE_HOME": "c"}, "c/huggingface/hub"),
            ({}, ".cache/huggingface/hub"),
            ({"HF_HUB_CACHE": "x", "HF_HOME": "z"}, "x"),
        ],
    )
    def test_the_environment_is_honoured(self, tmp_path, variables, place):
        """Each variable of the hub's client moves the cache."""
        environment = {"HOME": str(tmp_path)} | {k: str(tmp_path / v) for k, v in variables.items()}
        assert HuggingFaceSource(environment).roots() == (tmp_path / place,)

    def test_revisions_with_the_same_blob_are_one_model(self, files, tmp_path):
        """A second revision that shares the file is another place of it."""
        old = hub(files, tmp_path, revision="f" * 40, main=False)
        current = hub(files, tmp_path)
        found = discover([HuggingFaceSource({}, tmp_path)])
        (model,) = found.models.values()
        assert model.path == current
        assert model.duplicates == (old,)

    def test_revisions_that_differ_are_told_apart(self, files, tmp_path):
        """Two revisions of other bytes have two names."""
        hub(files, tmp_path)
        hub(files, tmp_path, revision="f" * 40, main=False, seed=3)
        names = list(discover([HuggingFaceSource({}, tmp_path)]).models)
        assert len(set(names)) == 2
        assert all("small" in name for name in names)

    def test_a_generic_file_is_named_after_the_repository(self, files, tmp_path):
        """model.safetensors and its companions in a snapshot are the repository."""
        snapshot = tmp_path / "models--org--bert" / "snapshots" / REVISION
        files.write_config(snapshot, files.BERT, card="---\nlicense: mit\n---\n")
        files.safetensors_file(snapshot / "model.safetensors")
        ((name, model),) = discover([HuggingFaceSource({}, tmp_path)]).models.items()
        assert name == "org/bert"
        assert model.license == "mit"
        assert model.companion("tokenizer.json") == snapshot / "tokenizer.json"

    def test_interrupted_downloads_are_reported(self, files, tmp_path):
        """An unfinished blob, a link without its blob and a repository without snapshots."""
        link = hub(files, tmp_path)
        repository = tmp_path / "models--org--small"
        (repository / "blobs" / "abc.incomplete").write_bytes(b"GGUF")
        link.with_name("gone.gguf").symlink_to("../../blobs/none")
        (tmp_path / "models--org--empty" / "refs").mkdir(parents=True)
        (tmp_path / "datasets--org--data" / "snapshots").mkdir(parents=True)
        found = discover([HuggingFaceSource({}, tmp_path)])
        assert list(found.models) == ["small"]
        assert {one.path.name for one in found.skipped} == {
            "abc.incomplete",
            "gone.gguf",
            "models--org--empty",
        }

    def test_a_cache_given_by_its_path_is_recognised(self, files, tmp_path):
        """models_dir may be a hub cache itself."""
        hub(files, tmp_path / "hub")
        (source,) = sources_for(tmp_path / "hub", paths(tmp_path / "home"))
        assert source.name == "huggingface"


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
        ollama(files, tmp_path, layers=layers)
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


def test_lm_studio_follows_its_pointer(files, tmp_path):
    """The file that says where LM Studio keeps its things is honoured, and an odd one ignored."""
    pointer = tmp_path / ".lmstudio-home-pointer"
    pointer.write_text(str(tmp_path / "elsewhere"))
    source = LMStudioSource({"HOME": str(tmp_path)})
    directory(files, tmp_path / "elsewhere" / "models" / "org" / "repo")
    assert [model.name for model in source.discover()] == ["small"]
    for odd in ("relative", "", "a\0b"):
        pointer.write_text(odd)
        assert tmp_path / ".lmstudio" / "models" in source.roots()


def test_llama_cpp_has_a_default_place(tmp_path):
    """Without LLAMA_CACHE the cache lies in the person's cache directory."""
    (root,) = LlamaCppSource({"HOME": str(tmp_path)}).roots()
    assert root.is_relative_to(tmp_path)
    assert root.name == "llama.cpp"
