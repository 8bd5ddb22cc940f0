"""`raven-lab store`, in a process of its own, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

from ravenxterm_lab.store import Store


def raven(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ravenxterm_lab.cli", "store", *words],
        capture_output=True, text=True, check=False,
        env={**os.environ, "RAVENXTERM_HOME": str(home)},
    )  # fmt: skip


def parsed(home: Path, *words: str) -> dict[str, object]:
    done = raven(home, *words, "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def filled(home: Path) -> Path:
    """A home whose store has ten executions, all of them waiting."""
    with Store(home / "store", ingest=False) as store:
        for i in range(10):
            store.record_execution(model="m", metrics={"latency": float(i)})
    return home


def test_info_check_export_compact_agree(filled: Path, tmp_path: Path) -> None:
    """Each command prints JSON whose numbers the next one confirms."""
    info = parsed(filled, "info")
    assert (info["rows"]["executions"], info["pending"], info["ingesting"]) == (10, 10, None)
    assert info["lag"] >= 0
    check = parsed(filled, "check")
    assert (check["ok"], check["events"], check["sessions"]) == (True, 10, 1)
    target = tmp_path / "out.parquet"
    export = parsed(filled, "export", str(target), "--since", "2020-01-01", "--remove")
    assert (export["rows"], export["removed"]) == (10, 10)
    assert len(pl.read_parquet(target)) == 10
    compact = parsed(filled, "compact")
    assert compact["done"] is True
    assert parsed(filled, "compact", "--if-worthwhile")["done"] is False
    after = parsed(filled, "check")
    assert (after["ok"], after["events"], after["removed"]) == (True, 0, 10)
    restored = parsed(filled, "restore", str(target))
    assert (restored["rows"], restored["known"]) == (10, {"executions": 0})
    after = parsed(filled, "check")
    assert (after["ok"], after["events"], after["removed"]) == (True, 10, 0)


def test_people_read_cards(filled: Path) -> None:
    """Without --json the same facts are sentences and tables."""
    assert "10 in 1 segment," in raven(filled, "info").stdout
    assert "The store is whole" in raven(filled, "check").stdout


def test_a_gap_is_an_exit_code(filled: Path) -> None:
    """A script can tell; the sentence says which numbers."""
    with Store(filled / "store", ingest=False) as store:
        store.ingest_now()
    with duckdb.connect(str(filled / "store" / "main.duckdb")) as connection:
        connection.execute("DELETE FROM executions WHERE seq = 4")
    done = raven(filled, "check")
    assert done.returncode == 1
    assert "1 event missing" in done.stdout
    assert " 4." in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["export", "x.parquet", "--since", "yesterday"], "is no time"),
        (["export", "x.parquet", "--table", "execution"], "Did you mean 'executions'"),
        (["export", "x.parquet", "--since", "2026-01-02", "--until", "2026-01-01"], "before"),
        (["export", "x.csv"], "Parquet"),
        (["restore", "x.parquet"], "no Parquet file"),
        (["export", "x.parquet"], "nothing was ever recorded"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(home: Path, words: list[str], expected: str) -> None:
    """No traceback reaches a person, and nothing is created."""
    done = raven(home, *words)
    assert done.returncode == 1
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not home.exists()


def test_an_absent_store_is_whole_and_empty(home: Path) -> None:
    """Looking creates nothing."""
    for words in (["info"], ["check"], ["compact"]):
        assert raven(home, *words).returncode == 0
    assert not home.exists()
