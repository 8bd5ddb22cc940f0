"""Stores to trash from, and a loop that kills a child at every change of the file system.

Run as a program, ``trash_scenes.py DIRECTORY SCENE JOB``: it does the job once to count the
calls, then once for each of them in a child that is killed with SIGKILL right before it, and
prints as JSON what was then found wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ravenxterm_lab.discovery import (
    DirectorySource,
    HuggingFaceSource,
    LMStudioSource,
    OllamaSource,
    Source,
)
from ravenxterm_lab.discovery.holdings import Stock, take_stock
from ravenxterm_lab.discovery.trash import Trash

#: Every call by which the trash changes what the next process finds.
CALLS = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "symlink")
REVISIONS = ("1" * 40, "2" * 40)


def weights(path: Path, seed: int = 0, rows: int = 16) -> Path:
    """Write a small safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    save_file({"embed.weight": values}, path)
    return path


def plain(root: Path) -> Source:
    """Two shards with their index, a config and a tokenizer, in a directory of their own."""
    folder = root / "deep" / "llama"
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for seed, name in enumerate(names):
        weights(folder / name, seed)
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    folder.chmod(0o750)
    return DirectorySource(root)


def lm_studio(root: Path) -> Source:
    """Two models of one publisher in one repository."""
    for seed, name in enumerate(("a", "b")):
        weights(root / ".lmstudio" / "models" / "org" / "repo" / f"{name}.safetensors", seed)
    return LMStudioSource({"HOME": str(root)})


def hub(root: Path) -> Source:
    """A repository with two revisions that share the weights and differ in the config."""
    repository = root / "models--org--tiny"
    for folder in ("blobs", "refs", ".no_exist/" + REVISIONS[0]):
        (repository / folder).mkdir(parents=True)
    weights(repository / "blobs" / "w")
    for number, revision in enumerate(REVISIONS):
        config = repository / "blobs" / f"c{number}"
        config.write_text(json.dumps({"model_type": "bert", "number": number}))
        snapshot = repository / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to("../../blobs/w")
        for name in ("config.json", "README.md"):
            (snapshot / name).symlink_to(f"../../blobs/c{number}")
    (repository / "refs" / "main").write_text(REVISIONS[0])
    (repository / ".no_exist" / REVISIONS[0] / "adapter_config.json").touch()
    return HuggingFaceSource({}, root)


def ollama(root: Path) -> Source:
    """Two tags that share a license, and a blob that no manifest names."""
    import model_files

    def blob(content: bytes) -> str:
        import hashlib

        digest = hashlib.sha256(content).hexdigest()
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "blobs" / f"sha256-{digest}").write_bytes(content)
        return f"sha256:{digest}"

    root.mkdir()
    for seed, tag in enumerate(("1b", "2b")):
        made = model_files.gguf_file(root / "new.gguf", seed=seed)
        layers = [("model", made.read_bytes()), ("license", b"MIT"), ("params", tag.encode())]
        made.unlink()
        kind = "application/vnd.ollama.image."
        manifest = {
            "schemaVersion": 2,
            "config": {"digest": blob(b"{}" + tag.encode())},
            "layers": [{"mediaType": kind + name, "digest": blob(raw)} for name, raw in layers],
        }
        path = root / "manifests" / "registry.ollama.ai" / "library" / "tiny" / tag
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
    blob(b"nobody's")
    return OllamaSource({}, root)


SCENES = {one.__name__: one for one in (plain, lm_studio, hub, ollama)}


def listing(*roots: Path) -> dict[str, object]:
    """Return everything below some directories: permissions, and contents or targets."""
    found: dict[str, object] = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            for name in (*folders, *names):
                path = Path(folder, name)
                status = path.lstat()
                inside: object = None
                if stat.S_ISLNK(status.st_mode):
                    inside = str(path.readlink())
                elif stat.S_ISREG(status.st_mode):
                    inside = (status.st_ino, status.st_mtime_ns, path.read_bytes().hex())
                found[str(path)] = (stat.S_IMODE(status.st_mode), inside)
    return found


def first(stock: Stock, name: str = "") -> list[object]:
    """Return the first place of the first model, or of one of a name."""
    model = next(one.model for one in stock.holdings if one.model and name in one.model.name)
    return [stock.of(model)[0]]


def trash_one(source: Source, home: Path) -> str:
    """Move one place of the first model to the trash; return its id."""
    stock = take_stock([source])
    trash = Trash(home, stock.roots)
    (entry,) = trash.put(stock.plan(first(stock)), name="it")
    return entry.id


def job_trash(source: Source, home: Path) -> None:
    """Move a model to the trash."""
    trash_one(source, home)


def job_restore(source: Source, home: Path) -> None:
    """Bring back what is in the trash."""
    trash = Trash(home, take_stock([source]).roots)
    for entry in trash.entries():
        trash.restore(entry.id)


def job_finish(source: Source, home: Path) -> None:
    """Complete what was interrupted."""
    trash = Trash(home, take_stock([source]).roots)
    for entry in trash.entries():
        trash.finish(entry.id)


JOBS = {"trash": job_trash, "restore": job_restore, "finish": job_finish}


def killed_before(number: int, job, source: Source, home: Path) -> bool:
    """Do a job in a child that is killed before its call of that number; say if it was."""
    child = os.fork()
    if child == 0:
        left = number

        def counting(call):
            def counted(*arguments, **options):
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return counted

        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
        try:
            job(source, home)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the job failed by itself")
    return os.WIFSIGNALED(status)


def wrong_after_kills(directory: Path, scene: str, job: str) -> dict[str, object]:
    """Kill a job before each of its calls, undo, and return the number of kills and what differs.

    ``finish`` is the exception: what is killed is a move, and then it is finished.
    """
    root, home = directory / "store", directory / "home"
    wrong, number = [], 0
    while True:
        for place in (root, home):
            shutil.rmtree(place, ignore_errors=True)
        source = SCENES[scene](root)
        before = listing(root)
        if job == "finish":
            trash_one(source, home)
            gone = sorted(listing(root))
            job_restore(source, home)
        if job == "restore":
            trash_one(source, home)
        victim = JOBS["trash" if job == "finish" else job]
        if not killed_before(number, victim, source, home):
            break
        stock = take_stock([source])
        entries = Trash(home, stock.roots).entries()
        if any(one.state not in {"complete", "interrupted"} for one in entries):
            wrong.append([number, [one.state for one in entries]])
        if job == "finish" and entries:
            job_finish(source, home)
            if sorted(listing(root)) != gone:
                wrong.append([number, "not all of it went"])
        job_restore(source, home)
        after = listing(root)
        if after != before:
            keys = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
            wrong.append([number, sorted(keys)])
        left = [one.id for one in Trash(home, stock.roots).entries()]
        if left:
            wrong.append([number, left])
        number += 1
    return {"kills": number, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(wrong_after_kills(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
