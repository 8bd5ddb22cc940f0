"""Killed at each system call that changes a file: nothing acknowledged is lost, nothing doubled.

strace delivers the SIGKILL on entry to the n-th call, so that every state that a crash can
leave between two calls is visited in turn, and not only those that chance hits upon.
"""

import random

import pytest
from store_scenes import CALLS, leftovers, nothing, old_samples, version_1

#: Of the calls there are few of these, and each is a step of its own.
STEPS = {"rename", "renameat2", "unlink", "unlinkat", "ftruncate", "fallocate", "mkdir", "rmdir"}
#: How often these are made depends on how the threads take turns.
UNSTEADY = {"futex", "getrandom", "madvise", "sched_yield", "munmap", "mmap", "mprotect"}
SHORT = 8
#: To fill a segment first takes its time.
SHORTER = {"roll": 5}

SCENES = {
    "record": (nothing, "record", (101, 4)),
    "first-ingest": (nothing, "ingest", (101, 4)),
    "later-ingest": (leftovers, "ingest", (101, 4)),
    "roll": (nothing, "roll", (101, 3)),
    "migration": (version_1, "ingest", (101, 4)),
    "compaction": (leftovers, "compact", (101, 4)),
    "export": (leftovers, "export", (101, 4)),
    "retention": (old_samples, "trim", (101, 4)),
}


def kill_everywhere(scene, name, choose, calls=CALLS):
    prepare, job, arguments = SCENES[name]
    prepare(scene)
    counts = scene.points(job, arguments, calls)
    points = choose([(call, n + 1) for call in sorted(counts) for n in range(counts[call])])
    wrong, missed, again = {}, [], 0
    for call, last in points:
        killed, number = False, last
        # How often DuckDB writes differs by some calls from run to run: a job that ended
        # before its call came is checked as well, and then killed a little earlier.
        while not killed and number:
            again += number != last
            killed, complaints = scene.kill_at(job, arguments, call, number)
            if complaints:
                wrong[call, number] = complaints
            number -= max(number // 8, 1)
        if not killed:
            missed.append((call, last))
    print(f"\n{name}: {len(points)} crash points of {sum(counts.values())}, {again} once more")
    assert (wrong, missed) == ({}, [])
    assert points


@pytest.mark.parametrize("name", SCENES)
def test_a_kill_at_a_call_that_changes_a_file_loses_and_doubles_nothing(scene, name):
    """A sample of the calls, with each step between commit and removal in it."""
    rng = random.Random(name)
    most = SHORTER.get(name, SHORT)

    def some(points):
        steps = [point for point in points if point[0] in STEPS]
        others = [point for point in points if point[0] not in STEPS]
        chosen = rng.sample(steps, min(len(steps), most))
        return chosen + rng.sample(others, min(len(others), most - len(chosen) // 2))

    kill_everywhere(scene, name, some)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_kill_at_every_call_that_changes_a_file_loses_and_doubles_nothing(scene, name):
    """Each of them, one after the other."""
    kill_everywhere(scene, name, lambda points: points)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_kill_at_any_call_loses_and_doubles_nothing(scene, name):
    """A sample of all calls, those included that only read, lock, map or close."""
    rng = random.Random(name)

    def some(points):
        steady = [point for point in points if point[0] not in UNSTEADY]
        return rng.sample(steady, min(len(steady), 150))

    kill_everywhere(scene, name, some, calls="all")
