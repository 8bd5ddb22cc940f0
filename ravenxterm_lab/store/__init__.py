"""Record: every execution, from every process, kept and queryable at once.

`Store.record_execution` appends to a memory-mapped segment of this process's own; one
process at a time moves what waits into ``main.duckdb``; `Store.sql` unites both. See the
module docstrings of ``segments``, ``recorder``, ``ingest``, ``rollups`` and ``reading``, in
this order; the upkeep is in ``audit``, ``export``, ``restoring``, ``retention`` and
``compaction``.
"""

from ravenxterm_lab.store.audit import CheckReport
from ravenxterm_lab.store.compaction import CompactionReport
from ravenxterm_lab.store.export import ExportReport
from ravenxterm_lab.store.info import StoreInfo
from ravenxterm_lab.store.restoring import RestoreReport
from ravenxterm_lab.store.result import QueryResult
from ravenxterm_lab.store.schema import ExecutionId
from ravenxterm_lab.store.store import Store

__all__ = [
    "CheckReport",
    "CompactionReport",
    "ExecutionId",
    "ExportReport",
    "QueryResult",
    "RestoreReport",
    "Store",
    "StoreInfo",
]
