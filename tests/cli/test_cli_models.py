"""`raven-lab models …`, in a process of its own, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trash_scenes import listing, plain, weights


@pytest.fixture
def raven(tmp_path, home):
    def run(*words: str, json_too: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ravenxterm_lab.cli", "models", *words,
             *(["--json"] if json_too else [])],
            capture_output=True, text=True, check=False,
            env={**os.environ, "RAVENXTERM_HOME": str(home)},
        )  # fmt: skip

    return run


def parsed(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_list_space_trash_restore_empty(raven, tmp_path):
    """Each command prints JSON whose numbers the next one confirms."""
    plain(tmp_path / "m")
    before = listing(tmp_path / "m")
    where = ("--models-dir", str(tmp_path / "m"))
    assert [one["name"] for one in parsed(raven(*where))] == ["llama"]
    assert [one["name"] for one in parsed(raven(*where, "list"))] == ["llama"]
    space = parsed(raven("space", *where, "--unused-days", "0"))
    (model,) = space["models"]
    assert space["unused_bytes"] == model["freed_bytes"] == space["bytes"] > 0
    planned = parsed(raven("trash", *where, "llama", "--dry-run"))
    assert planned["bytes"] == model["freed_bytes"]
    assert listing(tmp_path / "m") == before
    moved = parsed(raven(*where, "trash", "llama"))
    assert parsed(raven(*where, "trash"))["items"][0]["id"] == moved["items"][0]["id"]
    assert parsed(raven(*where, "restore", "llama"))["action"] == "restored"
    assert listing(tmp_path / "m") == before
    parsed(raven(*where, "trash", "llama"))
    refused = raven(*where, "empty-trash")
    assert refused.returncode == 1
    assert "cannot be undone" in refused.stderr
    assert parsed(raven(*where, "empty-trash", "--yes", "--older-than-days", "1")) == {
        "freed_bytes": 0
    }
    assert parsed(raven(*where, "empty-trash", "-y")) == {"freed_bytes": moved["bytes"]}


def test_people_read_cards(raven, tmp_path):
    """Without --json the same facts are sentences and tables; an error is one line."""
    weights(tmp_path / "m" / "gemma.safetensors")
    where = ("--models-dir", str(tmp_path / "m"))
    assert "could be freed" in raven(*where, "space", json_too=False).stdout
    assert "moved to the trash" in raven(*where, "trash", "gemma", json_too=False).stdout
    done = raven(*where, "restore", "gema", json_too=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Did you mean 'gemma'?" in done.stderr
    assert "Freed" in raven(*where, "empty-trash", "--yes", json_too=False).stdout
    assert not Path(tmp_path / "m" / "gemma.safetensors").exists()
