"""LOAD and RUN: one interface over the engines, each in a worker process of its own.

The adapters themselves (`ravenxterm_lab.runtimes.llama_cpp`,
`ravenxterm_lab.runtimes.onnx` and `ravenxterm_lab.runtimes.fasttext`) are found through entry
points, like anybody else's.
"""

from __future__ import annotations

from ravenxterm_lab.runtimes.base import DEFAULT_CONTEXT, LoadedModel, LoadOptions, Runtime
from ravenxterm_lab.runtimes.plugins import RuntimeNote, discover_runtimes, installed_runtimes
from ravenxterm_lab.runtimes.pool import ModelPool
from ravenxterm_lab.runtimes.process import usable_threads
from ravenxterm_lab.runtimes.reports import LoadReport, MemoryUse, RunResult
from ravenxterm_lab.runtimes.residents import Resident
from ravenxterm_lab.runtimes.served import ServerRuntime

__all__ = [
    "DEFAULT_CONTEXT",
    "LoadOptions",
    "LoadReport",
    "LoadedModel",
    "MemoryUse",
    "ModelPool",
    "Resident",
    "RunResult",
    "Runtime",
    "RuntimeNote",
    "ServerRuntime",
    "discover_runtimes",
    "installed_runtimes",
    "usable_threads",
]
