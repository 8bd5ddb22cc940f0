"""A process that records as fast as told, and says what it recorded; tests kill it."""

import os
import sys
import time
from pathlib import Path

# Loaded first, so that the ingest is in full swing when the process is killed.
import duckdb
import numpy as np  # noqa: F401 - see above
import pyarrow as pa  # noqa: F401 - see above

from ravenxterm_lab.store import Store

if duckdb.__version__.startswith("1."):
    # It would import it itself, at the first ingest.
    import pandas as pd  # noqa: F401 - see above


def main() -> None:
    """Usage: store_worker.py DIRECTORY INTERVAL COUNT PAUSE; a line per event on stdout."""
    directory, interval, count, pause = sys.argv[1:]
    store = Store(Path(directory), ingest_interval=float(interval))
    for i in range(int(count)):
        metrics: dict[str, object] = {"latency": float(i)}
        if i % 3 == 0:
            metrics |= {"i": i, "text": "x" * (i % 50)}
        identity = store.record_execution(model=f"m{i % 5}", metrics=metrics)
        os.write(1, f"{identity} {i}\n".encode())
        if i % 20 == 0:
            time.sleep(float(pause))
    store.close()


if __name__ == "__main__":
    main()
