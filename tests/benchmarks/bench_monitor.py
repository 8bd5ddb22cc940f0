"""What the hardware monitor costs: CPU time of one core, and memory over an hour of samples.

    python tests/benchmarks/bench_monitor.py [--seconds 20] [--gpus 1] [--hour] [--directory PATH]

Each row is a process of its own that does nothing else for so long: the CPU time of the whole
process (all threads, the store's too) is set against the time. ``idle`` is a process that only
sleeps; ``psutil`` a loop that asks psutil for the same figures (CPU, memory, this process) and
keeps nothing: what a person would write without this package. GPUs are invented ones, so that
the cost of a driver is not in it. With ``--hour``, 3,600 samples are taken at full speed, with the
store, again and again, and the growth of the resident memory is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("idle", "psutil", "monitor", "monitor+store")
RATES = (1.0, 10.0)


def spent() -> float:
    """CPU seconds of this process, in all of its threads."""
    return time.process_time()


def psutil_loop(interval: float, seconds: float) -> int:
    """Ask psutil in a plain loop."""
    import psutil

    process, taken = psutil.Process(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        psutil.cpu_percent()
        psutil.virtual_memory()
        process.memory_info()
        process.cpu_percent()
        taken += 1
        time.sleep(interval)
    return taken


def monitor_loop(interval: float, seconds: float, gpus: int, home: str | None) -> int:
    """Run the monitor, into a store or into memory only."""
    from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareMonitor, HardwareProfile

    nvml = FakeNvml(*(FakeGpu() for _ in range(gpus)))
    if home is None:
        monitor = HardwareMonitor(interval, nvml=nvml).start()
    else:
        from ravenxterm_lab.models import Workbench
        from ravenxterm_lab.models.monitoring import Monitoring

        profile = HardwareProfile.detect(nvml=nvml, measure_bandwidth=False)
        bench = Workbench(home, hardware=profile, runtimes=())
        monitor = Monitoring(bench, nvml=nvml).start(interval)
    while not monitor.samples:
        time.sleep(0.01)
    if home is not None:
        # Importing DuckDB and making the database (0.4 s of CPU) happen once, monitor or not.
        bench.store.ingest_now()
    begun, first = spent(), len(monitor.samples)
    time.sleep(seconds)
    used, taken = spent() - begun, len(monitor.samples) - first
    monitor.stop()
    report(used, seconds, taken)
    if home is not None:
        rows = bench.store.sql("SELECT count(*) FROM hardware_samples").fetchall()[0][0]
        assert rows >= taken * max(1, gpus), f"{rows} rows of {taken} samples"
    return taken


def report(used: float, seconds: float, taken: int) -> None:
    """Print the figures of this process for the one that started it."""
    print(json.dumps({"cpu": used, "seconds": seconds, "samples": taken}))


def child(kind: str, interval: float, seconds: float, gpus: int, home: str) -> None:
    """Do one kind of work in this process and report its CPU time."""
    if kind.startswith("monitor"):
        monitor_loop(interval, seconds, gpus, home if kind.endswith("store") else None)
        return
    if kind == "psutil":
        psutil_loop(interval, 2 * interval)  # imports and first calls are not what is measured
    begun, taken = spent(), 0
    if kind == "psutil":
        taken = psutil_loop(interval, seconds)
    else:
        time.sleep(seconds)
    report(spent() - begun, seconds, taken)


def resident() -> int:
    """Resident bytes of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def hour(gpus: int, home: str) -> None:
    """Take 3,600 samples at full speed, four times over, and print how memory grows."""
    from ravenxterm_lab.hardware import FakeGpu, FakeNvml, HardwareProfile
    from ravenxterm_lab.models import Workbench
    from ravenxterm_lab.models.monitoring import Monitoring

    nvml = FakeNvml(*(FakeGpu() for _ in range(gpus)))
    profile = HardwareProfile.detect(nvml=nvml, measure_bandwidth=False)
    bench = Workbench(home, hardware=profile, runtimes=())
    monitor = Monitoring(bench, nvml=nvml).start(10.0)
    before = resident()
    for number in range(1, 5):
        begun = time.thread_time()
        for _ in range(3600):
            monitor.sample_now()
        cost = (time.thread_time() - begun) / 3600
        bench.store.ingest_now()
        now = resident()
        print(
            f"hour {number}: {(now - before) / 2**20:+.1f} MiB, {cost * 1e6:.0f} µs a sample "
            "in the thread that takes it, store included"
        )
        before = now
    monitor.stop()


def main() -> None:
    """Start a process for each row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--hour", action="store_true")
    parser.add_argument("--child", choices=KINDS)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--directory", type=Path, help="where the stores are made and removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as home:
        if options.child:
            child(options.child, options.interval, options.seconds, options.gpus, home)
            return
        if options.hour:
            hour(options.gpus, home)
            return
    print(f"{'kind':<15}{'rate':>8}{'samples':>9}{'CPU ms':>9}{'of one core':>13}")
    for rate in RATES:
        for kind in KINDS:
            line = [
                sys.executable, str(Path(__file__)), "--child", kind, "--interval", str(1 / rate),
                "--seconds", str(options.seconds), "--gpus", str(options.gpus),
                *(["--directory", str(options.directory)] if options.directory else []),
            ]  # fmt: skip
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            seen = json.loads(done.stdout)
            share = seen["cpu"] / seen["seconds"]
            print(
                f"{kind:<15}{rate:>5.0f} Hz{seen['samples']:>9}{seen['cpu'] * 1e3:>9.1f}"
                f"{share:>12.3%}"
            )


if __name__ == "__main__":
    main()
