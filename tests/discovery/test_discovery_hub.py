"""The hub cache: as the hub's own client makes it, and where it is not whole."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest
from stores import LAYERS, OLDER, REVISION, add_blob, hub

from ravenxterm_lab.config import paths
from ravenxterm_lab.discovery import (
    HuggingFaceSource,
    ScanCache,
    discover,
    huggingface,
    sources_for,
)
from ravenxterm_lab.discovery import contents as contents_of

FILES = {"small.gguf": None, "config.json": b'{"model_type": "llama"}', "onnx/model.onnx": None}


class _Hub(http.server.BaseHTTPRequestHandler):
    """Answers the two requests that the client makes for a file: its head and its bytes."""

    contents: dict[str, bytes] = {}  # noqa: RUF012 - set once by the fixture
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        name = self.path.partition("?")[0].partition("/resolve/")[2].partition("/")[2]
        raw = self.contents.get(name)
        self.send_response(200 if raw is not None else 404)
        if raw is None:
            self.send_header("X-Error-Code", "EntryNotFound")
            raw = b""
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(raw).hexdigest()}"')
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if body:
            self.wfile.write(raw)

    def log_message(self, *_):
        pass


_DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download, scan_cache_dir
from huggingface_hub.errors import EntryNotFoundError
for name in sys.argv[2:]:
    try:
        hf_hub_download("org/small", name, cache_dir=sys.argv[1])
    except EntryNotFoundError:
        pass
found = scan_cache_dir(sys.argv[1])
assert not found.warnings, found.warnings
"""


@pytest.fixture
def contents(files, tmp_path):
    gguf = files.gguf_file(tmp_path / "new.gguf", layers=LAYERS)
    onnx = files.onnx_file(tmp_path / "new.onnx")
    made = {"small.gguf": gguf.read_bytes(), "onnx/model.onnx": onnx.read_bytes()}
    return made | {"config.json": b'{"model_type": "llama"}'}


@pytest.fixture
def downloaded(contents, tmp_path):
    """A cache that ``hf_hub_download`` made, from a server on this machine's loopback."""
    handler = type("Handler", (_Hub,), {"contents": contents})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            name: value for name, value in os.environ.items() if "proxy" not in name.lower()
        } | {
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HOME": str(tmp_path / "hf"),
        }
        subprocess.run(
            [sys.executable, "-c", _DOWNLOAD, str(tmp_path / "hub"), *contents, "absent.json"],
            env=environment,
            check=True,
            timeout=120,
        )
        server.shutdown()
    return tmp_path / "hub"


def tree(root):
    """Return where each file and link of a cache's repositories lies, and what it leads to."""
    found = {}
    for path in root.glob("models--*/**/*"):
        inside = str(path.relative_to(root))
        if path.is_symlink():
            found[inside] = str(path.readlink())
        elif path.is_file():
            found[inside] = path.read_bytes()
    return found


class TestWholeRepositories:
    def test_the_builder_lays_out_what_the_client_downloads(
        self, downloaded, contents, files, tmp_path
    ):
        """Refs, blobs and links of these tests are those of ``hf_hub_download``."""
        for name, raw in contents.items():
            hub(files, tmp_path / "built", name=name, content=raw)
        real = {path: one for path, one in tree(downloaded).items() if "/.no_exist/" not in path}
        assert tree(tmp_path / "built") == real

    def test_what_the_client_downloaded_is_found(self, downloaded):
        """Both models of the repository, each once, nothing skipped, ``.no_exist`` not entered."""
        assert list(downloaded.glob("models--*/.no_exist/*/absent.json"))
        found = discover([HuggingFaceSource({}, downloaded)])
        assert found.skipped == []
        assert set(found.models) == {"small", "org/small"}
        companions = found.models["org/small"].companions
        assert [path.name for path in companions] == ["config.json"]

    def test_a_second_revision_that_shares_its_blobs_is_the_same_model(self, files, tmp_path):
        """Links of two revisions to one blob are two paths of one entry, the current one first."""
        old = hub(files, tmp_path, revision=OLDER, main=False)
        new = hub(files, tmp_path)
        found = discover([HuggingFaceSource({}, tmp_path)])
        (model,) = found.models.values()
        assert (model.path, model.duplicates, found.skipped) == (new, (old,), [])

    def test_shards_that_two_revisions_share_are_read_once(self, files, tmp_path, monkeypatch):
        """As a single file is; a set that is not the same in both is read in both."""
        opened = []
        window = contents_of.FileWindow
        monkeypatch.setattr(
            contents_of, "FileWindow", lambda path: opened.append(path.name) or window(path)
        )
        names = [f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
        for number, name in enumerate(names):
            for revision in (OLDER, REVISION):
                split = {"split.no": None, "split.count": None}
                hub(files, tmp_path, revision=revision, name=name, seed=number, general=split)
        (model,) = discover([HuggingFaceSource({}, tmp_path)]).models.values()
        assert sorted(opened) == names
        assert (len(model.shards), len(model.duplicates), model.problems) == (2, 2, ())
        hub(files, tmp_path, revision="e" * 40, name=names[0], seed=0)
        opened.clear()
        models = discover([HuggingFaceSource({}, tmp_path)]).models.values()
        assert sorted(one.problems != () for one in models) == [False, True]
        assert sorted(opened) == [names[0], *names]

    def test_revisions_that_differ_are_told_apart(self, files, tmp_path):
        """Two revisions of other bytes have two names, with the revision in them."""
        hub(files, tmp_path)
        hub(files, tmp_path, revision=OLDER, main=False, seed=3)
        names = list(discover([HuggingFaceSource({}, tmp_path)]).models)
        assert len(set(names)) == 2
        assert all("small" in name for name in names)

    def test_a_blob_in_the_store_that_repositories_share(self, files, tmp_path):
        """A blob that is a link into ``<cache>/blobs`` is read through it and is no left-over."""
        paths_ = [hub(files, tmp_path, repo=f"org/{name}") for name in ("a", "b")]
        payload = tmp_path / "blobs" / "ab" / ("ab" * 32)
        payload.parent.mkdir(parents=True)
        for link in paths_:
            blob = link.resolve()
            payload.write_bytes(blob.read_bytes())
            blob.unlink()
            blob.symlink_to(os.path.relpath(payload, blob.parent))
        found = discover([HuggingFaceSource({}, tmp_path)])
        (model,) = found.models.values()
        assert (model.path, model.duplicates, found.skipped) == (*paths_[:1], (paths_[1],), [])

    def test_a_payload_that_the_shared_store_lost(self, files, tmp_path):
        """The link that leads nowhere is named, and the other blobs are still counted."""
        link = hub(files, tmp_path)
        blob = link.resolve()
        blob.unlink()
        blob.symlink_to("../../blobs/ab/none")
        add_blob(blob.parent, b"x" * 1_000_000)
        found = discover([HuggingFaceSource({}, tmp_path)])
        reasons = {one.path.name: one.reason for one in found.skipped}
        assert found.models == {}
        assert "does not exist" in reasons["small.gguf"]
        assert "no snapshot" in reasons["blobs"]

    def test_an_onnx_folder_and_shards_of_a_repository(self, files, tmp_path):
        """Shards are one model, and onnx/ has the tokenizer of the repository above it."""
        for seed in (1, 2):
            made = files.safetensors_file(tmp_path / "new", seed=seed, prefix=f"{seed}.")
            name = f"model-0000{seed}-of-00002.safetensors"
            hub(files, tmp_path / "hub", name=name, content=made.read_bytes())
        made = files.onnx_file(tmp_path / "new")
        hub(files, tmp_path / "hub", name="onnx/model.onnx", content=made.read_bytes())
        config = json.dumps(files.BERT).encode()
        hub(files, tmp_path / "hub", name="config.json", content=config)
        hub(files, tmp_path / "hub", name="tokenizer.json", content=b"{}")
        found = discover([HuggingFaceSource({}, tmp_path / "hub")])
        assert found.skipped == []
        assert sorted(found.models) == ["org/small-F32.onnx", "org/small-F32.safetensors"] or set(
            found.models
        ) == {"org/small.onnx", "org/small.safetensors"}
        for model in found.models.values():
            assert model.companion("tokenizer.json").parent.name == REVISION
            assert model.problems == ()
        first = tmp_path / "hub/models--org--small/snapshots" / REVISION
        (first / "model-00001-of-00002.safetensors").unlink()
        found = discover([HuggingFaceSource({}, tmp_path / "hub")])
        problems = [problem for model in found.models.values() for problem in model.problems]
        assert problems == ["missing shard 1 of 2: model-00001-of-00002.safetensors"]


class TestInconsistentRepositories:
    """The hub's own scan leaves such a repository out; here the rest of it is found."""

    def scan(self, root):
        found = discover([HuggingFaceSource({}, root)])
        return found, {str(one.path.relative_to(root)): one.reason for one in found.skipped}

    def test_a_ref_to_a_revision_that_is_not_there(self, files, tmp_path):
        """The ref is named, and the revision that is there is found."""
        hub(files, tmp_path)
        refs = tmp_path / "models--org--small" / "refs"
        (refs / "v2").write_text(OLDER)
        (refs / "refs" / "pr").mkdir(parents=True)
        (refs / "refs" / "pr" / "1").write_text(OLDER)
        found, reasons = self.scan(tmp_path)
        assert list(found.models) == ["small"]
        assert set(reasons) == {
            "models--org--small/refs/v2",
            "models--org--small/refs/refs/pr/1",
        }
        assert all("ffffffffffff" in one and "not here" in one for one in reasons.values())

    @pytest.mark.parametrize(
        "content", [b"../../../../etc", b"", b"\xff\xfe\0", b"main", b"g" * 40, b"a" * 10_000]
    )
    def test_a_ref_that_is_garbage_is_not_followed(self, files, tmp_path, content):
        """What is no revision is not made into a path."""
        hub(files, tmp_path)
        (tmp_path / "models--org--small" / "refs" / "odd").write_bytes(content)
        found, reasons = self.scan(tmp_path)
        assert list(found.models) == ["small"]
        assert "no revision" in reasons["models--org--small/refs/odd"]

    def test_a_ref_is_read_again_only_when_it_changed(self, files, tmp_path, monkeypatch):
        """A rescan opens no ref that is as it was, and sees one that was moved."""
        hub(files, tmp_path)
        ref = tmp_path / "models--org--small" / "refs" / "v2"
        ref.write_text(OLDER)
        opened = []
        read_text = huggingface.read_text
        monkeypatch.setattr(
            huggingface,
            "read_text",
            lambda path, limit: opened.append(path) or read_text(path, limit),
        )
        cache, source = ScanCache(), HuggingFaceSource({}, tmp_path)
        for _ in range(2):
            assert [one.path for one in discover([source], cache).skipped] == [ref]
        assert sorted(opened) == [ref.with_name("main"), ref]
        ref.write_text(REVISION)
        os.utime(ref, ns=(1, 1))
        assert not discover([source], cache).skipped
        assert opened[2:] == [ref]

    def test_a_ref_that_would_block_is_not_opened(self, files, tmp_path):
        """A FIFO among the refs does not stop the scan."""
        hub(files, tmp_path)
        os.mkfifo(tmp_path / "models--org--small" / "refs" / "v3")
        found, _ = self.scan(tmp_path)
        assert list(found.models) == ["small"]

    @pytest.mark.parametrize("name", ["other.gguf", "tokenizer.json"])
    def test_a_link_to_a_blob_that_is_not_there(self, files, tmp_path, name):
        """A file of any kind whose blob is missing is named; the rest is found."""
        link = hub(files, tmp_path)
        link.with_name(name).symlink_to("../../blobs/none")
        found, reasons = self.scan(tmp_path)
        assert list(found.models) == ["small"]
        (reason,) = reasons.values()
        assert "does not exist" in reason

    def test_blobs_without_a_snapshot(self, files, tmp_path):
        """What a deleted revision left is counted, with its bytes."""
        hub(files, tmp_path)
        repository = tmp_path / "models--org--small"
        add_blob(repository / "blobs", b"x" * 1_000_000)
        add_blob(repository / "blobs", b"y" * 1_000_000)
        _, reasons = self.scan(tmp_path)
        assert list(reasons) == ["models--org--small/blobs"]
        assert "2 blobs belong to no snapshot (1.9 MiB)" in reasons["models--org--small/blobs"]

    def test_a_repository_of_blobs_alone(self, tmp_path):
        """Without snapshots the bytes are still said."""
        add_blob(tmp_path / "models--org--gone" / "blobs", b"x" * 3_000_000)
        found, reasons = self.scan(tmp_path)
        assert found.models == {}
        assert "1 blob belongs to no snapshot (2.9 MiB)" in reasons["models--org--gone"]
        assert "no snapshots at all" in reasons["models--org--gone"]

    def test_unfinished_downloads(self, files, tmp_path):
        """Each is named with the bytes so far, under both names that the client has used."""
        hub(files, tmp_path)
        blobs = tmp_path / "models--org--small" / "blobs"
        (blobs / ("a" * 64 + ".incomplete")).write_bytes(bytes(2_500_000))
        (blobs / ("b" * 64 + ".0123abcd.incomplete")).write_bytes(bytes(10))
        found, reasons = self.scan(tmp_path)
        assert list(found.models) == ["small"]
        assert sorted(reasons.values()) == [
            "a download that is not finished: 10 B so far; it was not read",
            "a download that is not finished: 2.4 MiB so far; it was not read",
        ]

    @pytest.mark.parametrize(
        ("made", "reason"),
        [
            ("models--org--x/refs/", "nothing of it was downloaded"),
            ("models--org--x/blobs/a.incomplete", "interrupted"),
            ("models--org--x", "a file where the directory of a repository"),
            ("models--org--x/snapshots", "is not a directory"),
            ("models--org--x/snapshots/stray", "a file where the directory of a revision"),
        ],
    )
    def test_what_is_not_where_it_should_be(self, tmp_path, made, reason):
        """Each odd thing has its reason."""
        path = tmp_path / made
        if made.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        found, reasons = self.scan(tmp_path)
        assert found.models == {}
        assert any(reason in one for one in reasons.values()), reasons

    def test_what_the_system_leaves_is_nothing(self, files, tmp_path):
        """``.DS_Store`` and the like are no part of a repository."""
        link = hub(files, tmp_path)
        repository = tmp_path / "models--org--small"
        for folder in (repository, repository / "refs", repository / "blobs", link.parent.parent):
            (folder / ".DS_Store").write_bytes(b"x")
        found, reasons = self.scan(tmp_path)
        assert (list(found.models), reasons) == (["small"], {})

    def test_a_repository_that_may_not_be_looked_into(self, files, tmp_path):
        """Its reason is the permission, not that nothing was downloaded."""
        from stores import nobody

        hub(files, tmp_path / "hub")
        hub(files, tmp_path / "hub", repo="org/closed", seed=2)
        closed = tmp_path / "hub" / "models--org--closed"
        closed.chmod(0)
        try:
            with nobody(tmp_path):
                found, reasons = self.scan(tmp_path / "hub")
        finally:
            closed.chmod(0o755)
        assert list(found.models) == ["small"]
        assert reasons
        assert all("ermission" in one for one in reasons.values())


class TestPlaces:
    ENVIRONMENTS = (
        {},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "$WHERE/hf"},
        {"HF_HOME": "relative"},
        {"HF_HOME": ""},
        {"HF_HUB_CACHE": "~/x/${WHERE}"},
        {"HF_HUB_CACHE": ""},
        {"HF_HUB_CACHE": "relative/hub", "HF_HOME": "/elsewhere"},
        {"HUGGINGFACE_HUB_CACHE": "~/y"},
        {"HUGGINGFACE_HUB_CACHE": "/y", "HF_HUB_CACHE": "/z"},
        {"XDG_CACHE_HOME": "/c"},
        {"XDG_CACHE_HOME": "~/c"},
        {"XDG_CACHE_HOME": ""},
        {"XDG_CACHE_HOME": "/c", "HF_HOME": "/h"},
        {"HF_HOME": "~nosuchuser/h"},
        {"HF_HOME": "$UNKNOWN/h"},
    )

    def test_the_cache_lies_where_the_client_says(self, tmp_path):
        """For every variable, relative, empty or with ~, the place is the client's own."""
        code = (
            "import importlib, json, os, sys\n"
            "from huggingface_hub import constants\n"
            "for one in json.loads(sys.argv[1]):\n"
            "    os.environ.clear(); os.environ.update(one)\n"
            "    print(os.path.abspath(importlib.reload(constants).HF_HUB_CACHE))\n"
        )
        environments = [
            {"HOME": str(tmp_path), "WHERE": str(tmp_path / "w")} | one for one in self.ENVIRONMENTS
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(environments)],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        ours = [str(HuggingFaceSource(one).roots()[0]) for one in environments]
        assert [os.path.normpath(one) for one in ours] == done.stdout.splitlines()

    def test_a_cache_given_by_its_path_is_recognised(self, files, tmp_path):
        """``models_dir`` may be a hub cache, and plain models beside its repositories count."""
        hub(files, tmp_path / "hub", layers=LAYERS)
        (tmp_path / "hub" / "plain").mkdir()
        files.gguf_file(tmp_path / "hub" / "plain" / "mine.gguf", seed=5)
        files.gguf_file(tmp_path / "hub" / "top.gguf", seed=6)
        (source,) = sources_for(tmp_path / "hub", paths(tmp_path / "home"))
        assert source.name == "huggingface"
        found = discover([source])
        assert sorted(found.models) == ["mine", "small", "top"]
        assert found.skipped == []
