"""Trees of a size that nobody has: a million entries, ten thousand levels.

By hand: ``pytest -m slow -s tests/discovery/test_discovery_scale.py``. Each scan runs in a process
of its own, which prints its CPU seconds and by how much it grew. No time is asserted: it depends
on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from ravenxterm_lab.discovery import DirectorySource, ScanCache, discover

def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as lines:
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

cache, before, seconds = ScanCache(), peak(), []
for _ in range(2):
    start = time.process_time()
    found = discover([DirectorySource(Path(sys.argv[1]))], cache)
    seconds.append(time.process_time() - start)
print(json.dumps({
    "models": len(found.models), "seconds": seconds, "bytes": peak() - before,
    "skipped": [[str(one.path), one.reason] for one in found.skipped],
}))
"""


def scanned(root):
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, root], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    first, again = found["seconds"]
    print(
        f"\n{root.name}: {first:.2f} CPU-s, again {again:.2f} CPU-s, {found['bytes'] / 2**20:.0f} "
        f"MiB, {found['models']} models, skipped: {[reason for _, reason in found['skipped']]}"
    )
    return found


@pytest.fixture
def root(request, tmp_path):
    """Give a directory that is gone after the test: pytest would keep three of a million files."""
    made = tmp_path / request.node.name
    made.mkdir()
    yield made
    # What Python has for it ends where a path is too long.
    subprocess.run(["rm", "-rf", made], check=True)


def touch(directory, count):
    for number in range(count):
        os.close(os.open(f"{directory}/file{number}.dat", os.O_CREAT | os.O_WRONLY, 0o600))


def test_a_million_entries(files, root):
    """Half of them in one directory, half in a thousand: every model is found, in 128 MiB."""
    flat = root / "flat"
    flat.mkdir()
    touch(flat, 500_000)
    files.gguf_file(flat / "zz.gguf", seed=1)
    for number in range(1000):
        folder = root / f"a{number % 10}" / f"b{number % 100}" / f"c{number}"
        folder.mkdir(parents=True)
        touch(folder, 498)
        if number % 100 == 0:
            files.gguf_file(folder / f"model{number}.gguf", seed=number + 2)
    found = scanned(root)
    assert found["models"] == 11
    assert found["skipped"] == []
    assert found["bytes"] < 128 << 20


def test_ten_thousand_levels(files, root):
    """A chain of directories deeper than any path can say ends at a depth, and says so."""
    files.gguf_file(root / "top.gguf")
    here = os.open(root, os.O_RDONLY)
    for _ in range(10_000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found = scanned(root)
    assert found["models"] == 1
    assert [reason for _, reason in found["skipped"]] == [
        "what lies more than 40 levels deep was not scanned"
    ]
    assert found["bytes"] < 32 << 20


def test_a_hundred_thousand_directories_and_a_link_to_each(files, root):
    """Directories and links to them, in a star: each is walked once."""
    files.gguf_file(root / "top.gguf")
    for number in range(100_000):
        (root / f"d{number}").mkdir()
        (root / f"l{number}").symlink_to(f"d{(number + 1) % 100_000}")
    found = scanned(root)
    assert found["models"] == 1
    assert found["skipped"] == []
    assert found["bytes"] < 256 << 20
