"""Compare a scan with a bare walk and with ``huggingface_hub``, side by side in one run.

Run by hand: ``python tests/benchmarks/bench_scan.py``. It lays out a hub cache (repositories of
two revisions, of which the second changed the model card; twelve linked files each, small real
safetensors and GGUF files among them) and measures, each in a process of its own, a walk by
``os.scandir`` that looks at every entry, ``huggingface_hub.scan_cache_dir``, and our scan: cold
(nothing is remembered; headers are read), again in the same process, and in a new process that
finds in the store what an earlier one read. Then it scans plain directories of ever more models
of mixed formats. Every figure is a median of CPU seconds, user and system together. ``--header``
adds the header of a large vocabulary beside ``gguf.GGUFReader`` (`bench_readers`), so that one
command prints the whole table of speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: Runs one thing and prints its CPU seconds and what it found, one line each time.
_CHILD = """
import json, os, sys, time
way, root, home = sys.argv[1:]
def measured(act):
    start = time.process_time()
    found = act()
    print(time.process_time() - start, found, flush=True)
if way == "walk":
    def act():
        todo, seen = [root], 0
        while todo:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    entry.stat()
                    seen += 1
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        return seen
    measured(act)
elif way == "huggingface_hub":
    from huggingface_hub import scan_cache_dir
    measured(lambda: len(scan_cache_dir(root).repos))
elif way == "scan":
    from pathlib import Path
    from ravenxterm_lab.discovery import DirectorySource, HuggingFaceSource, ScanCache, discover
    hub = any(name.startswith("models--") for name in os.listdir(root))
    source = HuggingFaceSource({}, Path(root)) if hub else DirectorySource(Path(root))
    cache = ScanCache()
    for _ in range(2):
        measured(lambda: len(discover([source], cache).models))
elif way == "recalled":
    from pathlib import Path
    from ravenxterm_lab.discovery import HuggingFaceSource, ScanCache, discover
    from ravenxterm_lab.models import Workbench
    from ravenxterm_lab.models.inventory import recall
    source, cache, bench = HuggingFaceSource({}, Path(root)), ScanCache(), Workbench(home)
    bench.store.sql("SELECT 1")  # the import of DuckDB is no part of it
    measured(lambda: recall(bench, cache, source.roots()) or 0)
    measured(lambda: len(discover([source], cache).models))
    assert cache.misses == 0
    bench.store.close()
elif way == "registry":
    from ravenxterm_lab.models import ModelRegistry, Workbench
    bench = Workbench(home)
    bench.hardware, bench.runtimes  # what is looked at once a process is no part of a scan
    registry = ModelRegistry(root, workbench=bench)
    for _ in range(2):
        measured(lambda: registry.scan().models)
    bench.store.close()
"""
_REVISIONS = ("a" * 40, "b" * 40)
_CARD = "---\nlicense: apache-2.0\npipeline_tag: text-generation\n---\n# Revision {}\n"


def write_safetensors(path: Path, number: int) -> None:
    """Write a small file of a few tensors, different for each number."""
    import numpy as np
    from safetensors.numpy import save_file

    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight")
    save_file({name: np.full((8, 8), number, np.float32) for name in names}, path)


def write_gguf(path: Path, number: int) -> None:
    """Write a small decoder with its geometry and a short vocabulary."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (("block_count", 2), ("context_length", 2048), ("embedding_length", 64)):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_uint32("llama.attention.head_count_kv", 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{index}" for index in range(32)])
    for index in range(2):
        writer.add_tensor(f"blk.{index}.ffn_up.weight", np.full((2, 32), number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hub(root: Path, repositories: int) -> None:
    """Lay out a hub cache as the hub's own client does."""
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
        "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 2048,
        "vocab_size": 32,
    }  # fmt: skip
    others = (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
        "generation_config.json", "merges.txt", "LICENSE", ".gitattributes", "USE_POLICY.md",
    )  # fmt: skip
    for number in range(repositories):
        repository = root / f"models--org--repo{number}"
        blobs = repository / "blobs"
        blobs.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(_REVISIONS[1])
        weights = f"repo{number}.gguf" if number % 2 else "model.safetensors"
        (write_gguf if number % 2 else write_safetensors)(blobs / weights, number)
        (blobs / "config.json").write_text(json.dumps(config))
        for name in others:
            (blobs / name).write_text(f'{{"of": "{name}"}}')
        for revision in _REVISIONS:
            card = f"README.{revision[:4]}"
            (blobs / card).write_text(_CARD.format(revision))
            snapshot = repository / "snapshots" / revision
            snapshot.mkdir(parents=True)
            for name in (weights, "config.json", *others):
                (snapshot / name).symlink_to(Path("..", "..", "blobs", name))
            (snapshot / "README.md").symlink_to(Path("..", "..", "blobs", card))


def write_plain(root: Path, models: int) -> None:
    """Lay out models as people keep them: single files, and directories with a tokenizer."""
    for number in range(models):
        if number % 2:
            folder = root / f"shelf{number // 100}"
            folder.mkdir(exist_ok=True, parents=True)
            write_gguf(folder / f"model{number}.Q8_0.gguf", number)
        else:
            folder = root / f"family{number // 100}" / f"model{number}"
            folder.mkdir(parents=True)
            write_safetensors(folder / "model.safetensors", number)
            (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
            (folder / "tokenizer.json").write_text("{}")


def run(way: str, root: Path, home: Path) -> list[tuple[float, int]]:
    """Run one way in a process of its own; CPU seconds and what it found, for each time."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, way, os.fspath(root), os.fspath(home)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = (line.split() for line in done.stdout.splitlines())
    return [(float(seconds), int(found)) for seconds, found in rows]


def medians(ways: dict[str, tuple[str, int]], root: Path, home: Path, repeat: int) -> dict:
    """Return median CPU seconds and the count found by label; each way is run in turn.

    A way is a word for the child, and which of the times that it measures.
    """
    seconds: dict[str, list[float]] = {label: [] for label in ways}
    counts = {}
    for _ in range(repeat):
        rows = {way: run(way, root, home) for way in dict.fromkeys(way for way, _ in ways.values())}
        for label, (way, index) in ways.items():
            taken, counts[label] = rows[way][index]
            seconds[label].append(taken)
    return {label: (statistics.median(seconds[label]), counts[label]) for label in ways}


def show_hub(folder: Path, repositories: int, repeat: int) -> None:
    """Print the table of the hub cache."""
    root = folder / "hub"
    root.mkdir()
    write_hub(root, repositories)
    home = folder / "home"
    run("registry", root, home)
    table = medians(
        {
            "os.scandir and stat": ("walk", 0),
            "huggingface_hub.scan_cache_dir": ("huggingface_hub", 0),
            "scan, cold, headers read": ("scan", 0),
            "scan, again": ("scan", 1),
            "query for what earlier scans read": ("recalled", 0),
            "scan, new process, from that": ("recalled", 1),
            "registry, new process, all in all": ("registry", 0),
            "registry, again": ("registry", 1),
        },
        root,
        home,
        repeat,
    )
    walk = table["os.scandir and stat"][0]
    print(f"hub cache of {repositories:,} repositories, 2 revisions, 12 files each")
    for label, (seconds, found) in table.items():
        print(f"  {label:38} {seconds:8.3f} CPU-s  {seconds / walk:6.2f} x  {found:,} found")


def show_plain(folder: Path, sizes: list[int], repeat: int) -> None:
    """Print the time of a model in directories of ever more models."""
    print("plain directories, models of mixed formats     cold, per model    again")
    for size in sizes:
        root = folder / f"plain{size}"
        root.mkdir()
        write_plain(root, size)
        ways = {"cold": ("scan", 0), "again": ("scan", 1)}
        table = medians(ways, root, folder / "home", repeat)
        (cold, found), (again, _) = table["cold"], table["again"]
        print(f"  {found:8,} models {cold:20.3f} CPU-s {cold / size * 1e6:8.1f} µs "
              f"{again / size * 1e6:8.1f} µs")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repositories", type=int, default=1000)
    parser.add_argument("--models", type=int, nargs="*", default=[1000, 3000, 10_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to lay out the files")
    parser.add_argument("--header", action="store_true", help="with one large GGUF header")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        folder = Path(name)
        if options.repositories:
            show_hub(folder, options.repositories, options.repeat)
        show_plain(folder, options.models, options.repeat)
    if options.header:
        readers = Path(__file__).with_name("bench_readers.py")
        subprocess.run([sys.executable, readers], check=True)


if __name__ == "__main__":
    main()
