"""Compare our GGUF header walk with ``gguf.GGUFReader``, side by side in one run.

Run by hand: ``python tests/benchmarks/bench_readers.py``. It writes a header of the shape of
Llama 3's (128,256 tokens, 280,147 merges, 291 tensors) to a temporary directory, and measures
each reader in a fresh process: CPU seconds of one read, and the peak of its resident memory
above that of the same process before the read.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOKENS, MERGES, TENSORS = 128_256, 280_147, 291

_MEASURE = """
import resource, sys, time
from pathlib import Path
path = Path(sys.argv[1])

def peak():
    # On Linux ru_maxrss survives exec and would show the parent's peak.
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

{setup}
base = peak()
start = time.process_time()
{read}
seconds = time.process_time() - start
print(seconds, peak() - base)
"""
_READERS = {
    "gguf.GGUFReader": ("import gguf", "gguf.GGUFReader(path)"),
    "ravenxterm_lab.readers": (
        "from ravenxterm_lab.readers import read_facts",
        "assert read_facts(path).vocabulary_size",
    ),
}


def write_header(path: Path) -> None:
    """Write a GGUF file with a large vocabulary and hardly any weights."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (("block_count", 32), ("context_length", 8192), ("embedding_length", 4096)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.attention.head_count", 32)
    writer.add_uint32("llama.attention.head_count_kv", 8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number:x}" for number in range(TOKENS)])
    writer.add_token_types([1] * TOKENS)
    writer.add_token_merges([f"tok{number % 977} en{number:x}" for number in range(MERGES)])
    for number in range(TENSORS):
        writer.add_tensor(f"blk.{number}.ffn_up.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _run(code: str, path: Path) -> list[list[float]]:
    done = subprocess.run(
        [sys.executable, "-c", code, os.fspath(path)], capture_output=True, text=True, check=True
    )
    return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        write_header(path)
        print(f"{TOKENS:,} tokens, {MERGES:,} merges, {path.stat().st_size / 1e6:.1f} MB")
        best = {}
        for name, (setup, read) in _READERS.items():
            code = _MEASURE.format(setup=setup, read=read)
            runs = [_run(code, path)[0] for _ in range(options.repeat)]
            best[name] = min(seconds for seconds, _ in runs)
            peak = max(peak for _, peak in runs)
            print(f"{name:24} {best[name]:8.4f} CPU-s  {peak / 2**20:8.1f} MiB")
        theirs, ours = best.values()
        print(f"{theirs / ours:.0f} times faster (best of {options.repeat})")


if __name__ == "__main__":
    main()
