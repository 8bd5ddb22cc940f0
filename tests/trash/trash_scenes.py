"""Stores to trash from, and a loop that kills a child at every change of the file system.

Run as a program, it takes lines of JSON, ``[DIRECTORY, SCENE, JOB, WHAT]``: it does the job again
and again in a child, which is killed with SIGKILL, or gets an error, right before its first,
second, … change of the file system, and prints as JSON what was then found wrong.
"""

from __future__ import annotations

import errno
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
from ravenxterm_lab.exceptions import TrashError
from ravenxterm_lab.trash.holdings import Stock, take_stock
from ravenxterm_lab.trash.trash import Trash

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

    root.mkdir(exist_ok=True)
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


def job_empty(source: Source, home: Path) -> None:
    """Delete what is in the trash."""
    Trash(home, take_stock([source]).roots).empty()


def job_finish(source: Source, home: Path) -> None:
    """Complete what was interrupted."""
    trash = Trash(home, take_stock([source]).roots)
    for entry in trash.entries():
        trash.finish(entry.id)


JOBS = {"trash": job_trash, "restore": job_restore, "empty": job_empty}


def stopped_before(number: int, job, source: Source, home: Path, *, kill: bool) -> int:
    """Do a job in a child; before its call of that number it is killed, or gets an error.

    Return the child's status: 0 when it came to an end, 1 after a TrashError, -9 when killed.
    """
    child = os.fork()
    if child == 0:
        left = number

        def counting(call):
            def counted(*arguments, **options):
                nonlocal left
                left -= 1
                if left == -1 and kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                if left == -1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(arguments[0]))
                return call(*arguments, **options)

            return counted

        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
        try:
            job(source, home)
        except TrashError:
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - the parent says what it was
            print(repr(error), file=sys.stderr)
            os._exit(2)
        os._exit(3 if left >= 0 else 0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -signal.SIGKILL
    if os.WEXITSTATUS(status) == 2:
        raise SystemExit("the job failed with an error that is not ours")
    return os.WEXITSTATUS(status)


def wrong_after(directory: Path, scene: str, job: str, what: str) -> dict[str, object]:
    """Stop a job before each of its calls in turn, undo, and say how often and what differs."""
    root, home = directory / "store", directory / "home"
    wrong: list[object] = []
    number = 0
    while True:
        for place in (root, home):
            shutil.rmtree(place, ignore_errors=True)
        source = SCENES[scene](root)
        before = listing(root)
        if job in {"finish", "restore", "empty"}:
            trash_one(source, home)
        gone = listing(root)
        if job == "finish":
            job_restore(source, home)
        victim = JOBS["trash" if job == "finish" else job]
        status = stopped_before(number, victim, source, home, kill=what == "kill")
        if status == 3:
            return {"stops": number, "wrong": wrong}
        entries = Trash(home, take_stock([source]).roots).entries()
        if any(one.state not in {"complete", "interrupted"} for one in entries):
            wrong.append([number, "state", [one.state for one in entries]])
        if what == "error" and job == "trash" and status == 1 and listing(root) != before:
            wrong.append([number, "not undone"])
        if job == "finish" and entries:
            job_finish(source, home)
            if sorted(listing(root)) != sorted(gone):
                wrong.append([number, "not all of it went"])
        if job == "empty" and not entries:
            job_empty(source, home)
            if listing(root) != gone or list((home / "trash").iterdir()):
                wrong.append([number, "not all of it was deleted"])
        else:
            job_restore(source, home)
            after = listing(root)
            if after != before:
                keys = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
                wrong.append([number, sorted(keys)])
        if Trash(home, (root,)).entries():
            wrong.append([number, "something is still in the trash"])
        number += 1


def race(directory: Path, scene: str, rounds: int) -> list[list[int]]:
    """Let two processes trash one model at once; return the exit codes of each round."""
    found = []
    for number in range(rounds):
        root, home = directory / f"store{number}", directory / "home"
        source = SCENES[scene](root)
        stock = take_stock([source])
        plan = stock.plan(first(stock))
        ready, go = os.pipe()
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os.close(go)
                os.read(ready, 1)
                try:
                    Trash(home, stock.roots).put(plan, name="it")
                except TrashError as error:
                    os._exit(1 if "no longer what was looked at" in str(error) else 2)
                os._exit(0)
            children.append(child)
        os.close(ready)
        os.close(go)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        found.append(sorted(os.WEXITSTATUS(status) for status in statuses))
        if [one.state for one in Trash(home, stock.roots).entries()] != ["complete"]:
            found.append([-1])
        job_restore(source, home)
    return found


def main() -> None:
    """Play what each line asks for."""
    for line in sys.stdin:
        directory, *arguments = json.loads(line)
        if arguments[0] == "race":
            found: object = race(Path(directory), arguments[1], 10)
        else:
            found = wrong_after(Path(directory), *arguments)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
