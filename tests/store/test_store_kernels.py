"""Two notebooks and a script on one store, recording and asking at once.

Ten seconds by default; RAVENXTERM_SOAK_SECONDS=300 makes it five minutes:
``RAVENXTERM_SOAK_SECONDS=300 pytest -s tests/store/test_store_kernels.py``.
"""

import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ravenxterm_lab.store import Store

jupyter_client = pytest.importorskip("jupyter_client", reason="needs the lab extra")

SECONDS = float(os.environ.get("RAVENXTERM_SOAK_SECONDS", "10"))

LOCKS = re.compile(r"\b(dead)?lock(s|ed|ing)?\b", re.IGNORECASE)

SETUP = """
from ravenxterm_lab import ModelManager
%load_ext ravenxterm_lab
manager = ModelManager([])
store = manager.store
recorded = 0
"""
# Cells as a person has them: a loop that records, a query as SQL, one from Python, an ingest.
CELLS = [
    """
for i in range(500):
    store.record_execution(model="{who}", task="t", metrics={{"latency": i / 1000, "step": i}})
    recorded += 1
""",
    "%%raven_sql\nSELECT model, count(*) AS runs, avg(latency) FROM executions GROUP BY model",
    """
query = "SELECT count(*) FROM executions WHERE model = ?"
assert manager.sql(query, ["{who}"]).fetchall() == [(recorded,)]
""",
    "store.ingest_now();",
    "%%raven_sql -o stats\nSELECT * FROM model_stats",
    "assert dict(stats.df()[['model', 'runs']].itertuples(index=False))['{who}'] == recorded",
]
SCRIPT = """
import sys, time
from ravenxterm_lab import ModelManager

manager = ModelManager([])
deadline, recorded, queries = time.monotonic() + float(sys.argv[1]), 0, 0
while time.monotonic() < deadline:
    for i in range(200):
        manager.store.record_execution(model="script", task="t", metrics={"latency": 0.1, "n": i})
        recorded += 1
    query = "SELECT count(*) FROM executions WHERE model = 'script'"
    assert manager.sql(query).fetchall() == [(recorded,)]
    queries += 1
    if queries % 20 == 0:
        manager.store.ingest_now()
assert not manager.store.problems, manager.store.problems
print(recorded, queries)
"""


class Notebook:
    """A kernel over sockets in a private directory, and what its cells said."""

    def __init__(self, who, scratch, environment):
        self.who = who
        self.cells = 0
        self.complaints = []
        self.manager = jupyter_client.KernelManager(
            kernel_name="python3", transport="ipc", ip=str(scratch / who)
        )
        # IPython warns on stderr of more than 1,000 outputs, as five minutes have.
        self.manager.start_kernel(
            env=environment,
            cwd=str(scratch),
            extra_arguments=["--InteractiveShell.cache_size=1000000"],
        )
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code):
        """Run one cell; an error, a word on stderr, or talk of locks anywhere is a complaint."""
        said, shown = [], []

        def hook(message):
            content = message["content"]
            if message["msg_type"] == "error":
                self.complaints.append(f"{content['ename']}: {content['evalue']}")
            elif message["msg_type"] == "stream":
                said.append(content["text"])
                if content["name"] == "stderr":
                    self.complaints.append(content["text"])
            elif message["msg_type"] in {"display_data", "execute_result"}:
                shown.append(content["data"].get("text/plain", ""))

        reply = self.client.execute_interactive(code, output_hook=hook, timeout=120)
        assert reply["content"]["status"] in {"ok", "error"}
        self.complaints += [text for text in said + shown if LOCKS.search(text)]
        self.cells += 1
        return "".join(said)

    def work(self, deadline):
        """Run the cells in turn until then."""
        try:
            while time.monotonic() < deadline and not self.complaints:
                for code in CELLS:
                    self.run(code.format(who=self.who) if "{who}" in code else code)
        except Exception as error:  # noqa: BLE001 - it belongs into the report of the test
            self.complaints.append(f"{type(error).__name__}: {error}")

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def scratch():
    """A directory whose name is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="rvnk"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


# jupyter_client leaves its event loops and sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_notebooks_and_a_script_record_and_ask_at_once(scratch):
    """No cell meets an error, each sees its own rows at once, and all rows are there in the end."""
    home = scratch / "home"
    environment = {
        **os.environ,
        "RAVENXTERM_HOME": str(home),
        "IPYTHONDIR": str(scratch / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
    }
    with contextlib.ExitStack() as stack:
        notebooks = [Notebook(who, scratch, environment) for who in ("one", "two")]
        for notebook in notebooks:
            stack.callback(notebook.close)
            notebook.run(SETUP)
        script = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(SECONDS)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(script.kill)
        deadline = time.monotonic() + SECONDS
        threads = [
            threading.Thread(target=n.work, args=(deadline,), daemon=True) for n in notebooks
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS + 240)
            assert not thread.is_alive(), "a cell hangs"
        out, err = script.communicate(timeout=240)
        assert (script.returncode, err) == (0, ""), err
        by_script, queries = map(int, out.split())
        counts = {"script": by_script}
        for notebook in notebooks:
            counts[notebook.who] = int(notebook.run("print(recorded)"))
        total = sum(counts.values())
        for notebook in notebooks:
            code = (
                "print(manager.sql('SELECT count(*) FROM executions').fetchall(), store.problems)"
            )
            assert notebook.run(code).strip() == f"[({total},)] []"
            assert notebook.complaints == []
        cells = sum(notebook.cells for notebook in notebooks)
    print(f"\n{SECONDS:.0f} s: {total:,} rows, {cells} cells, {queries} queries of the script")
    assert min(counts.values()) > 0
    with Store(home / "store", ingest=False) as store:
        store.ingest_now()
        found = store.sql("SELECT model, count(*) FROM executions GROUP BY model").fetchall()
        assert dict(found) == counts
        assert store.check().ok
    del notebook, notebooks, threads
    gc.collect()
