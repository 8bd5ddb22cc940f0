"""Questions to a year of executions: the store beside SQLite and pandas, on the same rows.

Usage: ``python tests/benchmarks/bench_history.py [--rows N] [--limit S] [--without NAME]
[--directory PATH]``.

The rows of ``history_rows.py`` go into a store through its own schema, with the rollups that the
ingest writes; into SQLite, with an index on the time and one on model and time; and into a
pandas data frame in memory, strings as categories. Each is filled and asked in a process of its
own, one after the other, so that each has the machine for itself; what one of them cannot do
costs no other its place in the table. What does not fit in memory goes to the directory, and is
gone before the next one begins. The answers are compared before any time is printed.

Times are medians of warm runs in wall time: "store" is `Store.sql`, which opens and closes the
file, and "CPU" the CPU time of that; "open" is the same SQL on a connection that was held open,
which no product with several processes can have. What takes more than 20 s is asked once. SQLite
and pandas are broken off at the limit, where they next look: SQLite not within a sort, pandas when
it returns to Python. What goes on is said on stderr.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from history_peers import PEERS, OverLimitError, TooLargeError, plain, spilling_into
from history_questions import QUESTIONS, Question, Rows

#: No question is asked again after so long (s).
PATIENCE = 20.0
#: After so long (s) SQLite and pandas are broken off.
LIMIT = 120.0
SAME = 1e-9
STORE = "store"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and the median wall and CPU seconds of a warm run."""

    rows: Rows
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of asking one question in one way.

    Attributes
    ----------
    answer : Answer or None
        None where there is none.
    bare : Answer or None
        The answer on a connection that was held open.
    why : str
        Why there is none; empty where it was broken off at the limit.
    """

    answer: Answer | None
    bare: Answer | None = None
    why: str = ""


@dataclass(slots=True)
class Table:
    """What was found so far.

    Attributes
    ----------
    outcomes : dict of (str, int) to (dict of str to Outcome)
        By peer and place of the question, the outcome of each way by its label.
    failures : list of str
        A sentence for whatever went wrong.
    """

    outcomes: dict[tuple[str, int], dict[str, Outcome]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def check(question: Question, label: str, exact: Rows, other: Rows) -> None:
    """Fail if two answers differ, by more than an estimate of that label may."""
    tolerance = question.tolerance.get(label, {})
    both = [[tuple(map(plain, row)) for row in rows] for rows in (exact, other)]
    if question.keys:
        for rows in both:
            rows.sort(key=lambda row: row[: question.keys])
    where = f"{question.name}, {label}"
    assert len(both[0]) == len(both[1]), f"{where}: {len(both[0])} rows or {len(both[1])}"
    for one, two in zip(*both, strict=True):
        for column, (a, b) in enumerate(zip(one, two, strict=True)):
            numbers = isinstance(a, float) and isinstance(b, float)
            near = numbers and math.isclose(
                a, b, rel_tol=tolerance.get(column, SAME), abs_tol=1e-12
            )
            assert near or a == b, f"{where}: {one} or {two}"


def ask(action: Callable[[], Rows], repeat: int) -> Answer:
    """Ask once to warm up, then ``repeat`` times; what takes long is asked less often."""
    times: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(times) <= repeat and (len(times) < 2 or time.perf_counter() - begin < PATIENCE):
        wall, cpu = time.perf_counter(), time.process_time()
        rows = action()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        if times[0][0] > PATIENCE:
            break
    warm = times[1:] or times
    wall, cpu = (statistics.median(column) for column in zip(*warm, strict=True))
    return Answer([tuple(map(plain, row)) for row in rows], wall, cpu)


# --- in the process of a peer -------------------------------------------------------------------


def interview(
    pipe: Connection, name: str, place: Path, rows: int, seed: int, repeat: int, limit: float
) -> None:
    """Load one peer and ask it everything; send what comes of it as (kind, value)."""
    peer = PEERS[name](place, limit)
    try:
        pipe.send(("note", peer.load(rows, seed, lambda text: pipe.send(("step", text)))))
        for number, question in enumerate(QUESTIONS):
            pipe.send(("step", f"{name}: {question.name}"))
            for label, way, bare in peer.ways(question):
                outcome = _outcome(way, bare, repeat)
                pipe.send(("outcome", (number, label, outcome)))
        peer.close()
    except TooLargeError as error:
        pipe.send(("note", str(error)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are still to be asked
        pipe.send(("failure", f"{name}: {type(error).__name__}: {error}"))
    pipe.send(("end", None))


def _outcome(way: Callable[[], Rows], bare: Callable[[], Rows] | None, repeat: int) -> Outcome:
    try:
        return Outcome(ask(way, repeat), ask(bare, repeat) if bare else None)
    except OverLimitError:
        return Outcome(None)
    except Exception as error:  # noqa: BLE001 - one question that fails is no reason to lose the rest
        return Outcome(None, why=f"{type(error).__name__}: {error}")


# --- in the process that prints -----------------------------------------------------------------


def listen(name: str, options: argparse.Namespace, place: Path, begin: float, table: Table) -> None:
    """Ask one peer in a process of its own, and enter what comes of it into the table."""
    place.mkdir()
    ears, mouth = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(
        target=interview,
        args=(
            mouth, name, place, options.rows, options.seed, options.repeat, options.limit,
        ),
        daemon=True,
    )  # fmt: skip
    with spilling_into(place):
        child.start()
    mouth.close()
    ended = False
    try:
        with ears:
            while not ended:
                kind, value = ears.recv()
                ended = kind == "end"
                _enter(kind, value, name, begin, table)
    except EOFError:
        child.join()
        spent = ", as when the memory is spent" if child.exitcode == -signal.SIGKILL else ""
        table.failures.append(f"{name}: its process ended with {child.exitcode}{spent}")
    finally:
        if not ended:
            child.kill()
        child.join()
    shutil.rmtree(place)


def _enter(kind: str, value: Any, name: str, begin: float, table: Table) -> None:
    if kind == "step":
        print(f"{time.perf_counter() - begin:7.0f} s  {value}", file=sys.stderr, flush=True)
    elif kind == "note":
        print(value, flush=True)
    elif kind == "failure":
        table.failures.append(value)
    elif kind == "outcome":
        number, label, outcome = value
        table.outcomes.setdefault((name, number), {})[label] = outcome
        if outcome.why:
            table.failures.append(f"{name}, {QUESTIONS[number].name}: {outcome.why}")


def compare(question: Question, found: dict[str, dict[str, Outcome]]) -> str:
    """Compare all answers to a question; return which were compared with which.

    Raises
    ------
    AssertionError
        If two differ.
    """
    said = {
        (peer, label): outcome.answer.rows
        for peer, ways in found.items()
        for label, outcome in ways.items()
        if outcome.answer is not None
    }
    # The peers count every row. Without them the last way of the store does, if it has several.
    order = [key for key in said if key[0] != STORE] + [key for key in said if key[0] == STORE][
        ::-1
    ]
    if len(order) < 2:
        return "not compared with any other"
    first, *others = order
    for peer, label in others:
        check(question, label if peer == STORE else peer, said[first], said[peer, label])
    names = dict.fromkeys(
        peer if peer != STORE or first[0] != STORE else f"{label} of the store"
        for peer, label in others
    )
    with_whom = first[0] if first[0] != STORE else f"{first[1]} of the store"
    return f"{' and '.join(reversed(names))} compared with {with_whom}"


def line(name: str, mine: Outcome | None, theirs: list[Outcome | None], limit: float) -> str:
    """Return one line of the table."""
    answer = mine.answer if mine else None
    bare = mine.bare if mine else None
    text = f"{name:60}"
    for seconds in (answer and answer.wall, answer and answer.cpu, bare and bare.wall):
        text += f"{'–':>9}" if seconds is None else f"{seconds * 1e3:9,.0f}"
    for outcome in theirs:
        if outcome is None or outcome.why:
            text += f"{'–':>11}{'':10}"
            continue
        sign = "" if outcome.answer else "> "
        wall = outcome.answer.wall if outcome.answer else limit
        text += f"{f'{sign}{wall * 1e3:,.0f}':>11}"
        text += f"{f'{sign}{wall / answer.wall:.1f} ×':>10}" if answer else f"{'':10}"
    return text.rstrip()


def show(table: Table, names: list[str], limit: float) -> None:
    """Compare the answers, print the times of those that agree, and say what was compared."""
    peers = [
        name for name in names if name != STORE and any(key[0] == name for key in table.outcomes)
    ]
    header = "".join(f"{name:>11}{'':10}" for name in peers)
    print(f"{'ms':60}{STORE:>9}{'CPU':>9}{'open':>9}{header}".rstrip())
    compared: dict[str, list[str]] = {}
    for number, question in enumerate(QUESTIONS):
        found = {
            name: table.outcomes[name, number] for name in names if (name, number) in table.outcomes
        }
        if not found:
            continue
        try:
            compared.setdefault(compare(question, found), []).append(question.name)
        except AssertionError as error:
            table.failures.append(f"answers differ: {error}")
            print(f"{question.name:60}answers differ")
            continue
        theirs = [found.get(peer, {}).get("") for peer in peers]
        ours = found.get(STORE, {"": None})
        for place, (label, outcome) in enumerate(ours.items()):
            name = f"  {label}" if place else question.name + (f": {label}" if label else "")
            print(line(name, outcome, theirs, limit))
    for who, questions in compared.items():
        every = len(questions) == len(QUESTIONS)
        print(f"{who}: {'all questions' if every else '; '.join(questions)}")
    if any(
        not one.answer and not one.why for ways in table.outcomes.values() for one in ways.values()
    ):
        print(f"> is a question broken off after {limit:,.0f} s, whose answer is in no comparison")


def run(place: Path, options: argparse.Namespace) -> list[str]:
    """Fill everyone in ``place``, ask them, and print the table; return what went wrong."""
    print(
        f"{options.rows:,} executions of a year, seed {options.seed}; "
        f"Python {sys.version.split()[0]}, DuckDB {duckdb.__version__}, "
        f"SQLite {sqlite3.sqlite_version}, pandas {pd.__version__}",
        flush=True,
    )
    names = [name for name in PEERS if name not in options.without]
    table = Table()
    begin = time.perf_counter()
    try:
        for name in names:
            listen(name, options, place / name, begin, table)
    finally:
        # Whoever stops it after half an hour shall have what there is.
        if table.outcomes:
            show(table, names, options.limit)
        for failure in table.failures:
            print(failure, file=sys.stderr)
    print(f"{time.perf_counter() - begin:.0f} s in all")
    return table.failures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5, help="warm runs of each question")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="of SQLite and pandas for one question (s)"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=[name for name in PEERS if name != STORE],
        help="leave one out; SQLite takes longest to build",
    )  # fmt: skip
    parser.add_argument("--directory", type=Path, help="on the disk that counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        failures = run(Path(name), options)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
