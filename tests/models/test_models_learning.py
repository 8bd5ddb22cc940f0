"""The evidence in memory against the store's query and the tally; changes are said once."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models import Workbench
from ravenxterm_lab.models.learning import Learning
from ravenxterm_lab.models.messages import MessageLog
from ravenxterm_lab.selection import CellEvidence, Evidence
from ravenxterm_lab.selection.tally import Tally
from ravenxterm_lab.store import ExecutionId, Store
from ravenxterm_lab.store.schema import INTERRUPTED

BEGIN = datetime(2027, 1, 15, 8, tzinfo=UTC)
GIB = 2**30
MACHINE = HardwareProfile(
    cpu_architecture="x86_64",
    cpu_name="made up",
    cpu_cores=8,
    cpu_threads=16,
    instruction_sets=("avx2",),
    total_memory=16 * GIB,
    available_memory=12 * GIB,
    memory_bandwidth=40e9,
)


class Clock:
    """Nanoseconds; every look is a second later, so that executions have an order."""

    def __init__(self, at: datetime = BEGIN) -> None:
        self.now = int(at.timestamp()) * 10**9

    def __call__(self) -> int:
        self.now += 10**9
        return self.now


def on(home: Path, clock: Clock) -> Workbench:
    """Return a workbench of which several may share a home, with a clock of the test."""
    bench = Workbench(home, hardware=MACHINE, runtimes=[])
    bench.store.close()
    bench.store = Store(bench.paths.store, clock=clock, ingest=False)
    bench.messages = MessageLog(bench.store)
    bench.now = lambda: text_of(clock)  # type: ignore[method-assign]
    return bench


@contextmanager
def several(count: int) -> Iterator[list[Workbench]]:
    """Yield workbenches on one home and one clock, as notebooks side by side have."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as home:
        benches = [on(Path(home), clock) for _ in range(count)]
        yield benches
        for bench in benches:
            bench.store.close()


def text_of(clock: Clock) -> str:
    return str(datetime.fromtimestamp(clock.now / 1e9, UTC).replace(tzinfo=None))


def asked(bench: Workbench) -> Evidence:
    """Return what the query over the store says."""
    now = datetime.fromisoformat(bench.now()).replace(second=0, microsecond=0)
    return Evidence.from_store(bench.store, hardware=bench.hardware.fingerprint, now=str(now))


def same(one: Evidence, other: Evidence, rel: float = 1e-9) -> None:
    """Fail unless both say the same, but for the order in which numbers were added."""
    assert one.cells.keys() == other.cells.keys()
    for place, cell in one.cells.items():
        for name in (field.name for field in fields(CellEvidence)):
            mine, theirs = getattr(cell, name), getattr(other.cells[place], name)
            if theirs is not None:
                theirs = pytest.approx(theirs, rel=rel, abs=1e-9)
            assert mine == theirs, (place, name)


def run(bench: Workbench, rate: float = 60.0, **more: Any) -> ExecutionId:
    """Record one execution as a notebook does."""
    context = {
        "model": "SmolLM2",
        "fingerprint": "f",
        "task": "text_generation",
        "hardware": bench.hardware.fingerprint,
    }
    metrics: dict[str, Any] = {
        "throughput": rate,
        "tokens_out": 50,
        "time_to_first_token": 3 / rate,
    }
    for name, value in more.items():
        (context if name in {*context, "settings", "device", "runtime"} else metrics)[name] = value
    recorded = bench.record_execution(metrics=metrics, **context)
    assert recorded is not None
    return recorded


steps = st.one_of(
    st.tuples(
        st.just("run"), st.integers(0, 1), st.sampled_from(["a", "b"]),
        st.sampled_from([None, "here", "there"]),
        st.sampled_from([None, "ctx=512 kv=f16", "ctx=4096 kv=f16", "ctx=512 kv=q8_0"]),
        st.integers(1, 12), st.booleans(), st.integers(0, 9),
    ),
    st.tuples(st.just("ask"), st.integers(0, 1)),
    st.tuples(st.just("judge"), st.integers(0, 1), st.integers(0, 400), st.floats(0, 1)),
    st.tuples(st.just("ingest"), st.integers(0, 1)),
    st.tuples(st.just("turn")),
)  # fmt: skip


@settings(
    max_examples=20, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.lists(steps, min_size=5, max_size=40), st.integers(0, 10**6))
def test_what_is_kept_in_memory_is_what_the_store_says(
    log: list[tuple[Any, ...]], seed: int
) -> None:
    """Two notebooks record, judge, ingest and ask in any order; speeds and qualities jump.

    Whoever is asked says what the query says that starts from nothing, and what a third says
    that was not there before; no change is recorded twice.
    """
    noise = random.Random(seed)
    with several(3) as benches:
        learners = [Learning(bench) for bench in benches]
        factor, done = 1.0, []
        for kind, *what in log:
            if kind == "turn":
                factor = 1 / 3 if factor == 1 else 1.0
            elif kind == "run":
                who, model, place, text, times, good, odd = what
                bench = benches[who]
                hardware = bench.hardware.fingerprint if place == "here" else place
                for _ in range(times):
                    more: dict[str, Any] = {}
                    if odd == 0:
                        more["failure"] = INTERRUPTED
                    if odd % 2:
                        more["quality"] = min(max(noise.gauss(0.2 + 0.6 * factor, 0.1), 0), 1)
                    done.append(
                        run(
                            bench, 60 * factor * noise.lognormvariate(0, 0.1), fingerprint=model,
                            hardware=hardware, settings=text, success=good or odd > 4, **more,
                        )
                    )  # fmt: skip
            elif kind == "judge" and done:
                which = done[what[1] % len(done)]
                benches[what[0]].record("feedback", execution=str(which), quality=what[2])
            elif kind == "ingest":
                benches[what[0]].store.ingest_now()
            elif kind == "ask":
                same(learners[what[0]].evidence(), asked(benches[what[0]]))
        for bench, learner in zip(benches, learners, strict=True):
            same(learner.evidence(), asked(bench))
            assert learner.evidence().parts.keys() == asked(bench).parts.keys()
        query = "SELECT metric, fingerprint, task, settings, first_execution FROM changes"
        changes = benches[0].store.sql(query).fetchall()
        assert len(changes) == len(set(changes))
        texts = [m.text for bench in benches for m in bench.messages]
        assert len(texts) == len(changes)


@settings(
    max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.booleans(), st.integers(0, 9)), min_size=1, max_size=8
    ),
    st.sampled_from([1, 3, 1000]),
    st.integers(0, 10**6),
)
def test_the_tally_says_the_same_and_notices_the_same(
    regimes: list[tuple[int, bool, int]], every: int, seed: int
) -> None:
    """Speed and quality jump between regimes; asked after each run, or once at the end.

    Failed, interrupted and other machines' runs are among them, and some judgements come after
    everything else; the tally gets every execution with its final quality.
    """
    noise = random.Random(seed)
    with several(1) as [bench]:
        learner, tally = Learning(bench), Tally()
        changes, late = [], []
        number = 0
        for times, slow, kind in regimes:
            for _ in range(times):
                number += 1
                factor = 1 / 3 if slow else 1.0
                rate = 60 * factor * noise.lognormvariate(0, 0.05)
                quality = float(noise.random() < 0.2 + 0.7 * factor) if kind % 3 else None
                good, stopped = noise.random() > 0.1, noise.random() < 0.05
                here = noise.random() > 0.1
                # Only where nobody asks before: a judgement can show a change of its own.
                judged = every == 1000 and noise.random() < 0.2
                more: dict[str, Any] = {"failure": INTERRUPTED} if stopped else {}
                if quality is not None and not judged:
                    more["quality"] = quality
                place = bench.hardware.fingerprint if here else "there"
                which = run(bench, rate, hardware=place, success=good and not stopped, **more)
                if judged and quality is not None:
                    late.append((which, quality))
                if not stopped:
                    clock = bench.store._clock
                    at = datetime.fromtimestamp(clock.now / 1e9, UTC)  # type: ignore[attr-defined]
                    changes += tally.observe(
                        "f", "text_generation", at, quality=quality, ln_speed=math.log(rate),
                        ln_work=math.log(50), first_token=3 / rate, succeeded=good, here=here,
                    )  # fmt: skip
                if number % every == 0:
                    learner.evidence()
        for which, quality in late:
            bench.record("feedback", execution=str(which), quality=quality)
        found = learner.evidence()
        rows = bench.store.sql(
            "SELECT metric, make_timestamp(since::BIGINT), runs FROM changes ORDER BY seq"
        ).fetchall()
        mine = [(one.metric, one.at.replace(tzinfo=None), one.n) for one in changes]
        assert sorted(rows) == sorted(mine)
        now = datetime.fromisoformat(bench.now()).replace(second=0, tzinfo=UTC)
        theirs = tally.evidence(now)
        # An hour counts as a whole, and outcomes fade within days.
        same(found, theirs, rel=1e-2)
        same(Learning(bench).evidence(), found)


def test_a_slower_model_is_said_once_and_only_what_came_since_counts() -> None:
    """The message names the factor and the time; a later notebook says nothing again."""
    with several(3) as [bench, beside, later]:
        one, other = Learning(bench), Learning(beside)
        for _ in range(20):
            run(bench)
            one.evidence()
        other.evidence()
        for _ in range(4):
            run(beside, 20.0)
            one.evidence()
            other.evidence()
        cell = one.evidence().cell("f", "text_generation")
        assert cell.speed_mean == pytest.approx(math.log(20))
        assert cell.speed_n == pytest.approx(4, rel=2e-3)
        assert cell.first_token_mean == pytest.approx(3 / 20)
        assert (cell.runs, cell.work_n) == (24, 24)
        same(other.evidence(), one.evidence())
        same(Learning(later).evidence(), one.evidence())
        said = [(m.level, m.subject, m.text) for b in (bench, beside, later) for m in b.messages]
        [(level, subject, text)] = said
        assert (level, subject) == ("warning", "SmolLM2")
        assert text == "SmolLM2 became 3.0× slower at 08:00; re-learning"
        assert bench.store.sql("SELECT text FROM messages").fetchall() == [(text,)]


def test_a_judgement_that_comes_late_shows_a_change(tmp_path: Path) -> None:
    """Thumbs down on runs of yesterday: what came before the first of them counts no more."""
    bench = on(tmp_path, Clock())
    learner = Learning(bench)
    for _ in range(20):
        run(bench, quality=1.0)
    since = [run(bench) for _ in range(12)]
    assert learner.evidence().cell("f", "text_generation").quality_n == 20
    for one in since:
        bench.record("feedback", execution=str(one), quality=0.0)
    cell = learner.evidence().cell("f", "text_generation")
    assert (cell.quality_n, cell.quality_mean) == (12, 0.0)
    assert cell.speed_n == pytest.approx(32, rel=2e-3)
    [message] = bench.messages
    assert "quality of SmolLM2 fell from 1.00 to 0.00" in message.text
    [first] = bench.store.sql("SELECT first_execution FROM changes").fetchall()
    assert first == (str(since[0]),)
    # One of those before the change is judged anew: it counts no more than it did.
    bench.record("feedback", execution="nobody:1", quality=1.0)
    same(learner.evidence(), asked(bench))
    bench.store.close()


def test_a_change_on_another_engine_or_machine_is_none_here(tmp_path: Path) -> None:
    """GPU and CPU in turn are two speeds, and so is another machine; none is a change."""
    bench = on(tmp_path, Clock())
    learner = Learning(bench)
    for number in range(30):
        gpu = number % 2
        run(
            bench, 200.0 if gpu else 20.0, device="cuda" if gpu else "cpu", runtime="llama_cpp",
            settings="ctx=4096 kv=f16 device=cuda" if gpu else f"ctx={512 + number} kv=f16",
        )  # fmt: skip
        run(bench, 5.0, hardware="there")
        learner.evidence()
    assert not bench.messages
    assert len(bench.store.sql("FROM changes")) == 0
    assert len(learner.evidence().parts["f", "text_generation"][0]) == 2
    bench.store.close()


def test_a_store_that_takes_no_lock_is_no_reason_to_forget(tmp_path: Path) -> None:
    """What changed counts in this process, and the message says that it is not recorded."""
    bench = on(tmp_path, Clock())
    learner = Learning(bench)
    for rate in (*[60.0] * 20, *[20.0] * 4):
        run(bench, rate)
    # A directory where the lock would be: it can be opened by nobody, whatever their rights.
    (bench.store.path / "changes.lock").mkdir()
    cell = learner.evidence().cell("f", "text_generation")
    assert cell.speed_mean == pytest.approx(math.log(20))
    [message] = bench.messages
    assert "3.0× slower" in message.text
    assert "Not recorded" in message.text
    assert len(bench.store.sql("FROM changes")) == 0
    bench.store.close()


def test_what_is_kept_for_days_counts_by_its_age(tmp_path: Path) -> None:
    """Asleep, a computer counts no seconds: nothing is read anew, and every run has its age."""
    clock = Clock()
    bench = on(tmp_path, clock)
    learner = Learning(bench, clock=lambda: 0.0)
    run(bench)
    assert learner.evidence().cell("f", "text_generation").speed_n == pytest.approx(1, rel=2e-3)
    for number, hours in enumerate((2, 30, 400)):
        clock.now += hours * 3600 * 10**9
        run(bench, 60.0 + number, success=number != 1)
        same(learner.evidence(), asked(bench))
    # A run that a wrong clock says to be of next year counts as one of this hour.
    clock.now += 365 * 86400 * 10**9
    run(bench)
    clock.now -= 365 * 86400 * 10**9
    same(learner.evidence(), asked(bench), rel=1e-3)
    bench.store.close()


def test_what_was_restored_is_seen(tmp_path: Path) -> None:
    """Rows that come by another way than the spool count at once."""
    bench = on(tmp_path / "home", Clock())
    source = on(tmp_path / "source", Clock(BEGIN - timedelta(days=300)))
    for _ in range(7):
        run(source)
    source.store.ingest_now()
    source.store.export(tmp_path / "rows.parquet")
    learner = Learning(bench)
    run(bench)
    assert learner.evidence().cell("f", "text_generation").runs == 1
    bench.store.restore(tmp_path / "rows.parquet")
    assert learner.evidence().cell("f", "text_generation").runs == 8
    same(learner.evidence(), asked(bench))
    for each in (source, bench):
        each.store.close()


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_models_learning import MACHINE, run
from ravenxterm_lab.models import Workbench
bench = Workbench(sys.argv[1], hardware=MACHINE, runtimes=[])
seen = []
for line in sys.stdin:
    rate = float(line)
    if rate:
        run(bench, rate)
    cell = bench.learning.evidence().cell("f", "text_generation")
    print(cell.runs, cell.speed_n, cell.speed_mean, len(bench.messages), flush=True)
bench.store.close()
"""


def test_two_processes_on_one_store_say_a_change_once(tmp_path: Path) -> None:
    """Each counts what the other recorded a moment ago; both end with the same, one has said it."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _CHILD, tmp_path, Path(__file__).parent],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    bench = Workbench(tmp_path, hardware=MACHINE, runtimes=[])

    def there(rate: float) -> list[float]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{rate}\n")
        child.stdin.flush()
        return [float(word) for word in child.stdout.readline().split()]

    total = 0
    for number in range(24):
        rate = 60.0 if number < 16 else 20.0
        total += 2
        run(bench, rate)
        [runs, *_] = there(rate)
        assert runs == total
        cell = bench.learning.evidence().cell("f", "text_generation")
        assert cell.runs == total
    child.stdin.write("0\n")
    child.stdin.flush()
    runs, n, mean, said = (float(word) for word in child.stdout.readline().split())
    cell = bench.learning.evidence().cell("f", "text_generation")
    assert (runs, n) == (48, pytest.approx(cell.speed_n, rel=1e-3))
    assert mean == pytest.approx(math.log(20)) == cell.speed_mean
    assert said + len(bench.messages) == 1
    assert len(bench.store.sql("FROM changes")) == 1
    assert bench.store.sql("SELECT count(*) FROM messages").fetchall() == [(1,)]
    child.stdin.close()
    assert child.wait() == 0
    child.stdout.close()
    bench.store.close()
