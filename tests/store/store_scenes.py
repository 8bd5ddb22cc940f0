"""Stores to begin with, and jobs done on a copy of them by a child that strace holds."""

import collections
import os
import re
import shutil
import signal
from importlib import resources

import duckdb
from store_zygote import Tracer, exported

#: Every call by which a store changes what the next process finds.
CALLS = (
    "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,ftruncate,fallocate,"
    "pwrite64,pwritev,write,fsync,fdatasync,msync,copy_file_range,sendfile,link,linkat,rmdir"
)


class Scene:
    """A store to begin with, and a job that a child will be killed in."""

    def __init__(self, zygote, directory):
        self.zygote = zygote
        self.directory = directory
        self.template = directory / "template"
        self.before = directory / "before"
        self.place = directory / "store"
        self.said = directory / "said"
        self.fifo = directory / "fifo"
        self.output = ""
        os.mkfifo(self.fifo)

    def run(self, job, arguments, *options):
        """Do the job on a copy of the template under strace; return the child's exit code."""
        shutil.rmtree(self.place, ignore_errors=True)
        if self.template.exists():
            shutil.copytree(self.template, self.place)
        self.said.unlink(missing_ok=True)
        exported(self.place).unlink(missing_ok=True)
        child = self.zygote.start(job, self.place, self.said, *arguments, fifo=self.fifo)
        tracer = Tracer(child, self.fifo, *options)
        code = child.wait()
        tracer.finish()
        self.output = child.said()
        assert code in {0, -signal.SIGKILL}, self.output
        return code

    def points(self, job, arguments, calls):
        """Return how often the job makes each call."""
        trace = self.directory / "trace"
        assert self.run(job, arguments, "-o", str(trace), "-e", f"trace={calls}") == 0
        assert self.complaints(0) == []
        by_thread = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.M))
        # strace numbers the calls of each thread by themselves.
        counts = collections.Counter()
        for (_, call), count in by_thread.items():
            counts[call] = max(counts[call], count)
        return counts

    def complaints(self, surplus):
        """Return what the next process finds wrong."""
        return self.zygote.verify(self.place, [self.before, self.said], surplus)

    def kill_at(self, job, arguments, call, number, *, check=True):
        """Kill the job on entry to a call; return whether it got that far, and what is wrong."""
        options = ("-o", os.devnull, "-e", f"trace={call}")
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        killed = self.run(job, arguments, *options, "-e", inject) == -signal.SIGKILL
        # An event may be recorded and the process killed before it could say so.
        return killed, self.complaints(1) if check else []


def nothing(scene):
    """No store at all."""


def leftovers(scene):
    """A database, a segment that was closed, and one of a process that was killed."""
    scene.zygote.run("ingest", scene.template, scene.before, 1, 10)
    scene.zygote.run("record", scene.template, scene.before, 21, 10)
    scene.zygote.run("record_unsealed", scene.template, scene.before, 41, 10)


def old_samples(scene):
    """A database with executions, and samples that are older than they are kept."""
    leftovers(scene)
    scene.zygote.run("sample", scene.template, 300)


def version_1(scene):
    """A database as the first version made it, and a segment."""
    scene.zygote.run("record", scene.template, scene.before, 1, 10)
    scripts = resources.files("ravenxterm_lab.store").joinpath("migrations")
    path = scene.template / "main.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS old (STORAGE_VERSION 'v1.5.0')")
        connection.execute("USE old")
        connection.execute(scripts.joinpath("0001_initial.sql").read_text())
        connection.execute("INSERT INTO schema_version VALUES (1, 'initial', now()::TIMESTAMP)")
        connection.execute(
            "INSERT INTO executions BY NAME SELECT now()::TIMESTAMP AS ts, 'old' AS session, "
            "i AS seq, 'm' || (i * 10 % 5) AS model, i * 10.0 AS latency, true AS success "
            "FROM range(1, 101) t(i)"
        )
        connection.execute("INSERT INTO watermarks VALUES ('old', 101)")
    with scene.before.open("a") as said:
        said.writelines(f"old:{i} {i * 10}\n" for i in range(1, 101))
