"""The tables of the store: their kinds on disk, their columns and the types of these.

The SQL in ``migrations`` is what creates them; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "COMMON",
    "CONTEXT",
    "INTERRUPTED",
    "IN_SLOT",
    "KIND_OF",
    "MAX_PAYLOAD",
    "PACKABLE",
    "ROLLUPS",
    "SCHEMA_VERSION",
    "TABLES",
    "ExecutionId",
    "Table",
]

#: The highest number among ``migrations/*.sql``.
SCHEMA_VERSION = 10

#: The most that one event may hold beside its fixed fields (bytes).
MAX_PAYLOAD = 16 * 1024 * 1024

#: Every table begins with these; they follow from the slot and its segment.
COMMON: Mapping[str, str] = MappingProxyType(
    {"ts": "TIMESTAMP", "session": "VARCHAR", "seq": "UBIGINT"}
)

#: The recorded ``failure`` of a run that the person stopped: no evidence about the model.
INTERRUPTED = "interrupted"

#: What repeats from one execution to the next is written once per segment.
CONTEXT = (
    "model",
    "fingerprint",
    "task",
    "device",
    "runtime",
    "settings",
    "hardware",
    "external",
)


class ExecutionId(NamedTuple):
    """Which event it is, among all processes that ever recorded.

    Attributes
    ----------
    session : str
        The recording process (a forked child has one of its own).
    seq : int
        Number of the event within its session, from 1.

    Examples
    --------
    >>> str(ExecutionId("19a0c1", 7)), ExecutionId.parse("19a0c1:7").seq
    ('19a0c1:7', 7)
    """

    session: str
    seq: int

    def __str__(self) -> str:
        return f"{self.session}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> ExecutionId:
        """Read what ``str()`` wrote.

        Raises
        ------
        ValueError
            If it is not of the form ``session:seq``.
        """
        session, colon, seq = text.rpartition(":")
        if not (session and colon and seq.isascii() and seq.isdigit()):
            raise ValueError(f"{text!r} is not an execution id; it must read 'session:seq'.")
        return cls(session, int(seq))


#: The metrics that have a place of their own in every slot, in this order.
IN_SLOT = ("latency", "throughput", "memory_efficiency", "success")

#: The other metrics that are numbers, and have columns; beside these, numbers go to ``num``.
PACKABLE = frozenset(
    {"time_to_first_token", "tokens_in", "tokens_out", "peak_memory", "energy", "quality"}
)


@dataclass(frozen=True, slots=True)
class Table:
    """One table of events.

    Attributes
    ----------
    kind : int
        The byte that marks it in a segment; never reused for another table.
    columns : mapping of str to str
        DuckDB types by column, in order, without those of `COMMON`.
    """

    kind: int
    columns: Mapping[str, str]

    @property
    def all_columns(self) -> dict[str, str]:
        """Types by column with those of `COMMON` first, as the SQL creates them."""
        return {**COMMON, **self.columns}


def _columns(columns: str) -> Mapping[str, str]:
    pairs = (column.split(" ", 1) for column in columns.replace("\n", " ").split("; "))
    return MappingProxyType({name.strip(): sql.strip() for name, sql in pairs})


def _table(kind: int, columns: str) -> Table:
    return Table(kind, _columns(columns))


TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "executions": _table(
            1,
            "model VARCHAR; fingerprint VARCHAR; task VARCHAR; device VARCHAR; runtime VARCHAR; "
            "settings VARCHAR; hardware VARCHAR; selection VARCHAR; external BOOLEAN; "
            "latency DOUBLE; throughput DOUBLE; memory_efficiency DOUBLE; success BOOLEAN; "
            "time_to_first_token DOUBLE; tokens_in UBIGINT; tokens_out UBIGINT; "
            "peak_memory UBIGINT; energy DOUBLE; quality DOUBLE; error VARCHAR; "
            "num MAP(VARCHAR, DOUBLE); extra JSON",
        ),
        "selections": _table(
            2,
            "selection VARCHAR; task VARCHAR; chosen VARCHAR; fingerprint VARCHAR; "
            "probability DOUBLE; policy VARCHAR; requirements JSON; preferences JSON; "
            "reason VARCHAR; hardware VARCHAR; seed UBIGINT; machine JSON",
        ),
        "candidates": _table(
            3,
            "selection VARCHAR; model VARCHAR; fingerprint VARCHAR; rank UINTEGER; score DOUBLE; "
            "feasible BOOLEAN; reason VARCHAR; parts JSON; constraint_name VARCHAR; "
            "probability DOUBLE; drawn DOUBLE; reliability DOUBLE; device VARCHAR; "
            "settings VARCHAR; memory_bytes UBIGINT; memory_measured BOOLEAN; "
            "decode_rate DOUBLE; time_to_first_token DOUBLE; load_seconds DOUBLE; "
            "resident BOOLEAN",
        ),
        "loads": _table(
            4,
            "model VARCHAR; fingerprint VARCHAR; runtime VARCHAR; device VARCHAR; "
            "settings VARCHAR; hardware VARCHAR; success BOOLEAN; seconds DOUBLE; "
            "memory_bytes UBIGINT; anonymous_bytes UBIGINT; file_bytes UBIGINT; "
            "predicted_bytes UBIGINT; buffers JSON; failure VARCHAR; error VARCHAR; engine VARCHAR",
        ),
        "predictions": _table(
            5,
            "execution VARCHAR; model VARCHAR; fingerprint VARCHAR; task VARCHAR; "
            "quantity VARCHAR; tier VARCHAR; predicted DOUBLE; low DOUBLE; high DOUBLE; "
            "actual DOUBLE; engine VARCHAR; device VARCHAR; settings VARCHAR; hardware VARCHAR; "
            "level DOUBLE; spread DOUBLE; verdict VARCHAR; failure VARCHAR; basis JSON",
        ),
        "hardware_samples": _table(
            6,
            "hardware VARCHAR; cpu_percent DOUBLE; memory_used UBIGINT; "
            "memory_available UBIGINT; process_memory UBIGINT; gpu INTEGER; gpu_percent DOUBLE; "
            "gpu_memory_used UBIGINT; gpu_power DOUBLE; gpu_temperature DOUBLE; "
            "cpu_power DOUBLE; process_anonymous UBIGINT; process_file UBIGINT; "
            "process_cpu_percent DOUBLE; gpu_clock DOUBLE",
        ),
        "preference_changes": _table(7, "field VARCHAR; old JSON; new JSON"),
        "messages": _table(8, "level VARCHAR; subject VARCHAR; text VARCHAR"),
        "feedback": _table(9, "execution VARCHAR; quality DOUBLE; note VARCHAR"),
        "models": _table(
            10,
            "fingerprint VARCHAR; name VARCHAR; model_type VARCHAR; path VARCHAR; "
            "size_bytes UBIGINT; quantization VARCHAR; architecture VARCHAR; "
            "parameter_count UBIGINT; context_length UBIGINT; task_types VARCHAR[]; "
            "license VARCHAR; source VARCHAR; event VARCHAR",
        ),
        "scans": _table(11, "path VARCHAR; signature VARCHAR; facts JSON"),
        "changes": _table(
            12,
            "metric VARCHAR; model VARCHAR; fingerprint VARCHAR; task VARCHAR; runtime VARCHAR; "
            "device VARCHAR; settings VARCHAR; hardware VARCHAR; since UBIGINT; "
            "first_execution VARCHAR; noticed UBIGINT; noticed_execution VARCHAR; "
            "before DOUBLE; after DOUBLE; runs UBIGINT; statistic DOUBLE",
        ),
    }
)

KIND_OF: Mapping[str, int] = MappingProxyType({name: table.kind for name, table in TABLES.items()})

#: Types by column of the tables of sums, which follow from the executions.
ROLLUPS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "execution_hours": _columns(
            "hour TIMESTAMP; model VARCHAR; fingerprint VARCHAR; task VARCHAR; device VARCHAR; "
            "runtime VARCHAR; settings VARCHAR; hardware VARCHAR; external BOOLEAN; "
            "merged BOOLEAN; runs UBIGINT; succeeded UBIGINT; interrupted UBIGINT; "
            "latency_count UBIGINT; latency_sum DOUBLE; latency_min DOUBLE; latency_max DOUBLE; "
            "throughput_count UBIGINT; throughput_sum DOUBLE; "
            "ln_throughput_count UBIGINT; ln_throughput_sum DOUBLE; "
            "ln_work_count UBIGINT; ln_work_sum DOUBLE; "
            "time_to_first_token_count UBIGINT; time_to_first_token_sum DOUBLE; "
            "quality_count UBIGINT; quality_sum DOUBLE; "
            "tokens_in DOUBLE; tokens_out DOUBLE; energy DOUBLE; "
            "peak_memory UBIGINT; peak_memory_succeeded UBIGINT; last_run TIMESTAMP"
        ),
        "execution_histograms": _columns(
            "day TIMESTAMP; model VARCHAR; fingerprint VARCHAR; task VARCHAR; hardware VARCHAR; "
            "quantity VARCHAR; merged BOOLEAN; runs UBIGINT; "
            "buckets INTEGER[]; exact DOUBLE[]; counts UBIGINT[]"
        ),
    }
)
