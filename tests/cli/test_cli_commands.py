"""The command line, in a process of its own, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def raven(home: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ravenxterm_lab.cli", *words],
        capture_output=True, text=True, input=stdin, check=False,
        env={**os.environ, "RAVENXTERM_HOME": str(home), "COLUMNS": "100"},
    )  # fmt: skip


@pytest.mark.models
def test_scan_models_select_run_sql_status_in_json(demo_directory: Path, home: Path) -> None:
    """Each command prints JSON that the next one's facts agree with."""
    where = ("--models-dir", str(demo_directory), "--json")
    scan = json.loads(raven(home, "scan", *where).stdout)
    models = json.loads(raven(home, "models", *where).stdout)
    assert scan["models"] == len(models) >= 5
    ranked = json.loads(raven(home, "select", "text-generation", *where).stdout)
    assert len(ranked["recommendations"]) + len(ranked["rejected"]) == len(models)
    run = json.loads(
        raven(home, "run", "text_generation", "Say hello.", "--max-tokens", "4",
              "-r", "quantizations=Q4_1", *where).stdout
    )  # fmt: skip
    assert run["tokens_out"] <= 4
    assert run["success"] is True
    rows = json.loads(raven(home, "sql", "SELECT model FROM executions", "--json").stdout)
    assert rows == [{"model": run["model"]}]
    status = json.loads(raven(home, "status", *where).stdout)
    assert status["rows"]["executions"] == 1
    host = status["devices"][0]
    assert (host["device"], host["budget_bytes"]) == ("RAM", status["memory_budget"])


@pytest.mark.models
def test_tables_are_printed_for_people(demo_directory: Path, home: Path) -> None:
    """Without --json the same facts are tables with units."""
    done = raven(home, "models", "--models-dir", str(demo_directory))
    assert done.returncode == 0
    assert "93.8 MiB" in done.stdout
    assert done.stderr == ""


@pytest.mark.models
def test_estimates_are_printed_before_anything_is_loaded(demo_directory: Path, home: Path) -> None:
    """One model or all of them, here or on a machine that is described in a line."""
    where = ("--models-dir", str(demo_directory), "--json")
    every = json.loads(raven(home, "estimate", *where).stdout)
    assert len(every) == len(json.loads(raven(home, "models", *where).stdout))
    name = next(row["model"] for row in every if "Q4_1" in row["model"])
    here = json.loads(raven(home, "estimate", name, *where, "--context", "2048").stdout)
    assert here["context_length"] == 2048
    assert here["memory"]["tier"] == "formula"
    there = json.loads(
        raven(home, "estimate", name, *where, "--hardware", "RTX 4090 24GB, 64 GiB RAM").stdout
    )
    assert there["device"] == "cuda"
    assert there["decode_rate"]["value"] > 2 * here["decode_rate"]["value"]
    assert raven(home, "estimate", "nothing", *where).returncode == 1


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["select", "text_generatoin"], 1, "Did you mean 'text_generation'?"),
        (["select", "embedding", "-r", "max_size"], 1, "KEY=VALUE"),
        (["select", "embedding", "-r", "max_size=1"], 1, "Did you mean 'max_size_bytes'?"),
        (["sql", "DROP TABLE executions"], 1, "read-only"),
        (["run", "embedding", "x"], 1, "raven-lab: No models yet: put models into"),
        (["notebook", "no-such-notebook"], 1, "There is no notebook"),
        (["demo"], 1, "--yes"),
        (["frobnicate"], 2, "invalid choice"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    home: Path, tmp_path: Path, words: list[str], code: int, expected: str
) -> None:
    """No traceback reaches a person; the line says what was wrong."""
    if words[0] in {"select", "run"}:
        words = [*words, "--models-dir", str(tmp_path / "empty")]
    done = raven(home, *words, stdin="")
    assert done.returncode == code
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_history_is_no_error(home: Path) -> None:
    """A query on a store that does not exist yet has no rows, and creates nothing."""
    done = raven(home, "sql", "SELECT count(*) AS n FROM executions", "--json")
    assert json.loads(done.stdout) == [{"n": 0}]
    assert not (home / "store").exists()


def test_a_closed_pipe_is_no_traceback(home: Path) -> None:
    """Piping into a reader that stops early ends quietly."""
    query = f"'{sys.executable}' -m ravenxterm_lab.cli sql 'FROM range(100000)' --json | head -1"
    done = subprocess.run(
        ["/bin/sh", "-c", query], capture_output=True, text=True, check=False,
        env={**os.environ, "RAVENXTERM_HOME": str(home)},
    )  # fmt: skip
    assert done.stdout == "[\n"
    assert "Traceback" not in done.stderr
