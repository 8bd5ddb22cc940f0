"""Killed with -9 at random moments: writers, ingesters, readers, all at work on one store."""

import random
import statistics
import time
from dataclasses import dataclass, field

import pytest
from store_zygote import parse_said

from ravenxterm_lab.store import Store

#: Kills of one store; then the next begins, so that none grows too large to count each time.
KILLS_OF_A_STORE = 25
POOL = 4

EVENTS = "SELECT session, seq, latency FROM executions"
TOTALS = "SELECT count(*), count(DISTINCT (session, seq)) FROM executions"


@dataclass
class Tally:
    """What the trials came to."""

    trials: int = 0
    killed: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    lost: int = 0
    duplicates: int = 0
    recoveries: list[float] = field(default_factory=list)

    def __str__(self):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.killed.items()))
        return (
            f"{self.trials} trials ({kinds}): {self.acknowledged:,} acknowledged rows, "
            f"{self.lost} lost, {self.duplicates} duplicates, recovery p50 "
            f"{statistics.median(self.recoveries):.3f} s, max {max(self.recoveries):.3f} s"
        )


class Battle:
    """One store, and the children at work on it."""

    def __init__(self, zygote, directory, rng, tally):
        self.zygote, self.directory, self.rng, self.tally = zygote, directory, rng, tally
        self.place = directory / "store"
        self.alive, self.saids = [], []
        self.count = 0

    def start(self):
        """Start one more child; two writers at least are always at work."""
        writers = sum(kind == "writer" for _, kind, _ in self.alive)
        kind = self.rng.choice(["writer", "ingester", "reader"]) if writers >= 2 else "writer"
        said = None
        if kind == "writer":
            said = self.directory / f"said-{len(self.saids)}"
            self.saids.append(said)
            arguments = ["write_on", self.place, said, 0.01, 0.004]
        else:
            arguments = ["ingest_on" if kind == "ingester" else "read_on", self.place]
        self.alive.append((self.zygote.start(*arguments), kind, said))

    def kill_one(self):
        """Kill a child at random; then the store is opened, and every row that it said is there."""
        while len(self.alive) < POOL:
            self.start()
        time.sleep(self.rng.random() * 0.08)
        child, kind, said = self.alive.pop(self.rng.randrange(len(self.alive)))
        child.kill()
        died = time.perf_counter()
        # Until it was killed it met with no error.
        assert (child.said(), child.code) == ("", -9), kind
        with Store(self.place, ingest=False) as store:
            [(count, distinct)] = store.sql(TOTALS).fetchall()
            self.tally.recoveries.append(time.perf_counter() - died)
            self.tally.duplicates += count - distinct
            assert count >= self.count, "rows that were there are gone"
            self.count = count
            if said is not None:
                self.compare(store, [said])
            assert store.problems == []
        self.tally.trials += 1
        self.tally.killed[kind] = self.tally.killed.get(kind, 0) + 1

    def compare(self, store, saids):
        """Look for the rows of writers that are dead by now; return how many they said."""
        expected = {}
        for said in saids:
            expected |= parse_said(said)
        sessions = sorted({session for session, _ in expected})
        query = f"{EVENTS} WHERE session IN (SELECT unnest($sessions))"
        rows = store.sql(query, {"sessions": sessions}).fetchall()
        found = {(session, seq): value for session, seq, value in rows}
        self.tally.duplicates += len(rows) - len(found)
        self.tally.lost += sum(found.get(key) != value for key, value in expected.items())
        # At most the one event of each whose acknowledgement was cut off.
        assert len(found) - len(expected) <= len(saids)
        return len(expected)

    def finish(self):
        """Kill the rest, and look at every row, before and after the last ingest."""
        for child, kind, _ in self.alive:
            child.kill()
            assert child.said() == "", kind
        with Store(self.place, ingest=False) as store:
            self.compare(store, self.saids)
            store.ingest_now()
            self.tally.acknowledged += self.compare(store, self.saids)
            assert list((self.place / "spool").glob("*.rec")) == []
            assert store.problems == []
            assert store.check().ok


def fight(zygote, directory, trials, seed):
    rng, tally = random.Random(seed), Tally()
    for number in range(-(-trials // KILLS_OF_A_STORE)):
        (directory / str(number)).mkdir()
        battle = Battle(zygote, directory / str(number), rng, tally)
        try:
            for _ in range(min(KILLS_OF_A_STORE, trials - tally.trials)):
                battle.kill_one()
        finally:
            battle.finish()
    print(f"\n{tally}")
    assert (tally.trials, tally.lost, tally.duplicates) == (trials, 0, 0)
    assert tally.acknowledged > 100 * trials


def test_200_kills_at_random_moments_lose_and_double_nothing(zygote, tmp_path):
    """After each kill the store is opened and counted, and what the dead process said is there."""
    fight(zygote, tmp_path, 200, seed=20260201)


@pytest.mark.slow
def test_1000_kills_at_random_moments_lose_and_double_nothing(zygote, tmp_path):
    """The same, five times as long; prints what it came to."""
    fight(zygote, tmp_path, 1000, seed=20260202)
