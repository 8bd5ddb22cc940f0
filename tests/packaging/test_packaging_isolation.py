"""What the package touches: nothing outside its home, and no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.models]

# The main job but for the download: scan, rank, run two tasks, record, query, execute a notebook.
WORK = """
import sys
from pathlib import Path
from ravenxterm_lab import ModelManager, plots
from ravenxterm_lab.publishing import execute_notebook, notebooks_directory
manager = ModelManager(sys.argv[1])
run = manager.run("text_generation", "Say hello.", parameters={"max_tokens": 4})
manager.feedback(run, 1.0)
manager.run("embedding", ["a", "b"])
manager.update_preferences(performance_mode="speed")
plots.history(manager)
manager.cleanup_resources()
published = execute_notebook(
    notebooks_directory() / "01_quickstart.ipynb", Path(sys.argv[2]), progress=False
)
assert manager.sql("FROM executions").rows >= 4, manager.messages
print(published.html)
"""


@pytest.fixture
def job(demo_directory: Path, home: Path, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command of the main job and an environment whose HOME is empty."""
    (home / "models").mkdir(parents=True)
    (home / "models" / "demo").symlink_to(demo_directory)
    script = tmp_path / "work.py"
    script.write_text(WORK)
    empty = tmp_path / "person"
    empty.mkdir()
    environment = {
        **os.environ,
        "HOME": str(empty),
        "RAVENXTERM_HOME": str(home),
        # Python's own byte code beside the installed modules is not this package's doing.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return [sys.executable, str(script), str(demo_directory), str(home / "out")], environment


def test_nothing_outside_the_home_and_the_temporary_directory_is_written(
    job: tuple[list[str], dict[str, str]], home: Path, tmp_path: Path
) -> None:
    """No file is created, written, renamed or removed anywhere else, as strace sees it."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    command, environment = job
    trace = tmp_path / "trace"
    calls = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,symlink,link"
    done = subprocess.run(
        [strace, "-f", "-qq", "-s", "4096", "-o", str(trace), "-e", f"trace={calls}", *command],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    allowed = (str(home), "/dev/", "/proc/", os.path.realpath(tempfile.gettempdir()) + "/")
    person = environment["HOME"]
    outside = []
    for line in trace.read_text(errors="replace").splitlines():
        if " = -1 " in line or (
            re.search(r"\bopen(at)?\(", line) and not re.search(r"O_(WRONLY|RDWR|CREAT)", line)
        ):
            continue
        # Relative paths are removals inside a directory that was opened, and checked, before.
        paths = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
        if any(
            path.startswith(person) or (path.startswith("/") and not path.startswith(allowed))
            for path in paths
        ):
            outside.append(line)
    assert outside == []
    assert list(Path(person).iterdir()) == []


def test_everything_but_the_download_works_without_a_network(
    job: tuple[list[str], dict[str, str]], tmp_path: Path
) -> None:
    """In a network namespace with no interface up, the whole job runs."""
    unshare = shutil.which("unshare")
    prefix = [unshare or "", "-n"] if os.geteuid() == 0 else [unshare or "", "-rn"]
    if unshare is None or subprocess.run([*prefix, "true"], check=False).returncode != 0:
        pytest.skip("network namespaces are not available here")
    command, environment = job
    done = subprocess.run(
        [*prefix, *command], capture_output=True, text=True, check=False, env=environment,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    page = Path(done.stdout.strip()).read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]*"', page) == []
