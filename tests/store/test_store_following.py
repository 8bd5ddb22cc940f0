"""What is recorded from now on, told from the spool alone, whoever records and ingests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ravenxterm_lab.store import Store

TABLES = ("executions", "feedback")
_CHILD = """
import sys
from pathlib import Path
from ravenxterm_lab.store import Store
with Store(Path(sys.argv[1]), ingest=False) as store:
    for line in sys.stdin:
        store.record_execution(model=line.strip(), metrics={"latency": 1.0})
        print(flush=True)
"""


def names(news: tuple[dict[str, object], bool]) -> list[str]:
    table = news[0].get("executions")
    return [] if table is None else table["model"].to_pylist()  # type: ignore[index]


def test_each_event_is_told_once_whoever_records_it(tmp_path: Path) -> None:
    """What a reader saw is no news; what this and another process record later is, once."""
    with Store(tmp_path, ingest=False) as store:
        store.record_execution(model="before", metrics={"latency": 1.0})
        follower = store.follow(TABLES)
        with store.snapshot() as reader:
            follower.start_from(reader)
        assert follower.news() == ({}, True)
        store.record_execution(model="mine", metrics={"latency": 1.0})
        store.record("messages", level="info", text="not asked for")
        tables, sure = follower.news()
        assert (names((tables, sure)), sorted(tables), sure) == (["mine"], ["executions"], True)
        assert follower.news() == ({}, True)
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, tmp_path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        for name in ("theirs", "again"):
            child.stdin.write(f"{name}\n")
            child.stdin.flush()
            child.stdout.readline()
            assert names(follower.news()) == [name]
        child.stdin.close()
        assert child.wait() == 0
        child.stdout.close()


def test_an_ingest_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Rows taken before anyone asked are told from the spool; that the file changed is said."""
    with Store(tmp_path, ingest=False) as store:
        store.record_execution(model="a", metrics={"latency": 1.0})
        follower = store.follow(TABLES)
        with store.snapshot() as reader:
            follower.start_from(reader)
        store.record_execution(model="b", metrics={"latency": 1.0})
        store.ingest_now()
        news = follower.news()
        assert (names(news), news[1]) == (["b"], False)
        assert follower.news() == ({}, True)
        store.record_execution(model="c", metrics={"latency": 1.0})
        assert names(follower.news()) == ["c"]


def test_what_went_with_its_segment_is_not_certain(tmp_path: Path) -> None:
    """A process that recorded and ended, and whose rows were ingested, leaves no trace to read."""
    with Store(tmp_path, ingest=False) as store:
        store.record_execution(model="a", metrics={"latency": 1.0})
        follower = store.follow(TABLES)
        with store.snapshot() as reader:
            follower.start_from(reader)
        with Store(tmp_path, ingest=False) as other:
            other.record_execution(model="b", metrics={"latency": 1.0})
        store.ingest_now()
        news, sure = follower.news()
        assert not sure
        assert "b" not in names((news, sure))


def test_nothing_is_there_to_follow_yet(tmp_path: Path) -> None:
    """A store that does not exist has no news until someone records."""
    with Store(tmp_path / "none", ingest=False) as store:
        follower = store.follow(TABLES)
        with store.snapshot() as reader:
            follower.start_from(reader)
        assert follower.news() == ({}, True)
        store.record_execution(model="first", metrics={"latency": 1.0})
        assert names(follower.news()) == ["first"]
