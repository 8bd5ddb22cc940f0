"""Compare our GGUF header walk with ``gguf.GGUFReader``, side by side in one run.

Run by hand: ``python tests/benchmarks/bench_readers.py``. It writes a header of the shape of
Llama 3's (128,256 tokens, 280,147 merges, 291 tensors) to a temporary directory, and measures
each reader in a fresh process: CPU seconds of one read, and the peak of its resident memory
above that of the same process before the read. With ``--hub N`` it scans a hub cache of N
repositories, two revisions and twelve files each, beside a bare walk.
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
_WALK = """
import os, time, sys
start = time.process_time()
todo, seen = [sys.argv[1]], 0
while todo:
    with os.scandir(todo.pop()) as entries:
        for entry in entries:
            entry.stat()
            seen += 1
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
print(time.process_time() - start, seen)
"""
_SCAN = """
import sys, time
from pathlib import Path
from ravenxterm_lab.discovery import HuggingFaceSource, ScanCache, discover
source, cache = HuggingFaceSource({}, Path(sys.argv[1])), ScanCache()
for _ in range(2):
    start = time.process_time()
    found = discover([source], cache)
    print(time.process_time() - start, len(found.models))
"""


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


def write_hub(root: Path, repositories: int) -> None:
    """Lay out a hub cache: two revisions of twelve linked files each."""
    import json

    import numpy as np
    from safetensors.numpy import save

    for number in range(repositories):
        repository = root / f"models--org--repo{number}"
        (repository / "blobs").mkdir(parents=True)
        weights = save({"w": np.full((8, 8), number, np.float32)})
        config = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
        contents = {"model.safetensors": weights, "config.json": config.encode()}
        contents |= {f"extra{i}.txt": b"x" for i in range(10)}
        for name, content in contents.items():
            (repository / "blobs" / name).write_bytes(content)
        for revision in ("a" * 40, "b" * 40):
            snapshot = repository / "snapshots" / revision
            snapshot.mkdir(parents=True)
            for name in contents:
                (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / name)


def _run(code: str, path: Path) -> list[list[float]]:
    done = subprocess.run(
        [sys.executable, "-c", code, os.fspath(path)], capture_output=True, text=True, check=True
    )
    return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--hub", type=int, default=0, metavar="REPOSITORIES")
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
        if options.hub:
            root = Path(folder) / "hub"
            root.mkdir()
            write_hub(root, options.hub)
            ((walk, entries),) = _run(_WALK, root)
            (cold, models), (again, _) = _run(_SCAN, root)
            print(f"hub cache of {options.hub} repositories: {entries:.0f} entries")
            print(f"bare walk {walk:.3f} CPU-s; {models:.0f} models found")
            print(f"cold scan {cold / walk:.1f} times the walk, rescan {again / walk:.1f} times")


if __name__ == "__main__":
    main()
