"""What a person may ask: one read-only statement, and errors of one line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import QueryError, did_you_mean
from ravenxterm_lab.store.database import reason
from ravenxterm_lab.store.schema import ROLLUPS, TABLES

if TYPE_CHECKING:
    import duckdb

__all__ = ["ROWS_OF", "VIEWS", "check_statement", "names_rollups", "one_line"]

#: The views of ``views.sql``.
VIEWS = (
    "calibration",
    "catalogue",
    "hardware",
    "hourly",
    "judgements",
    "last_24h",
    "model_stats",
    "scanned",
)

#: Tables whose rows a view shows as they are, and that view.
ROWS_OF = {
    "executions": "last_24h",
    "hardware_samples": "hardware",
    "models": "catalogue",
    "scans": "scanned",
}

# ``query`` and ``query_table`` may build the name of a table out of pieces.
_ROLLUPS = re.compile("|".join((*ROLLUPS, "model_stats", "hourly", "query")), re.IGNORECASE)
_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(ANALYZE\b)?\s*(\([^)]*\))?", re.IGNORECASE)
_PIVOT = re.compile(r"\s*(FROM\b.*|WITH\b.*)?\b(PIVOT|UNPIVOT)\b", re.IGNORECASE | re.DOTALL)
_PRAGMA = re.compile(r"(\s|--[^\n]*\n|/\*.*?\*/)*PRAGMA\b", re.IGNORECASE | re.DOTALL)
_MISSING_TABLE = re.compile(r"Table with name (.+?) does not exist")
_MISSING_COLUMN = re.compile(
    r'(?:Referenced column|does not have a column named) "([^"]+)"'
    r"(?: not found in FROM clause)?(?:.*Candidate bindings: (.*))?"
)
_OF_TABLE = re.compile(r'(?:Table|Values list) "([^"]+)" does not have a column')
# DuckDB lists every signature, which made lines of 5,000 characters.
_SIGNATURES = re.compile(r"\s*Candidate functions:.*")
_ALLOWED = (
    "Only one read-only statement is allowed: SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, "
    "SUMMARIZE, PIVOT or EXPLAIN."
)


def check_statement(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Let one read-only statement through.

    Raises
    ------
    QueryError
        If there is none, more than one, one that writes or configures, or a syntax error.
    """
    import duckdb

    if not isinstance(query, str):
        raise QueryError(f"A query must be a string, got {type(query).__name__}. {_ALLOWED}")
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(one_line(error)) from error
    kinds = [statement.type.name for statement in statements]
    # DuckDB 1.5 makes two statements of a PIVOT, of which the first collects its columns.
    if kinds == ["CREATE", "SELECT"] and _PIVOT.match(query):
        return
    if len(kinds) != 1:
        raise QueryError(f"The query holds {len(kinds)} statements. {_ALLOWED}")
    kind = kinds[0]
    # DuckDB 1.5 also makes a SELECT of some pragmas.
    if _PRAGMA.match(query):
        kind = "PRAGMA"
    if kind == "EXPLAIN":
        check_statement(connection, _EXPLAIN.sub("", query, count=1))
    elif not (kind == "SELECT" or (kind == "MULTI" and _PIVOT.match(query))):
        raise QueryError(f"{kind} is not allowed here. {_ALLOWED}")


def names_rollups(query: str) -> bool:
    """Say whether a query may read the rollups, by the words in it."""
    return _ROLLUPS.search(query) is not None


def one_line(error: Exception) -> str:
    """Return what DuckDB said as one line, with a suggestion from our own tables."""
    text = reason(error)
    missing = _MISSING_TABLE.search(text)
    if missing:
        known = [*TABLES, *ROLLUPS, *VIEWS]
        return f"There is no table {missing[1]!r}.{did_you_mean(missing[1], known)}"
    missing = _MISSING_COLUMN.search(text)
    if missing:
        near = re.findall(r'"([^"]+)"', missing[2] or "")
        # DuckDB's candidates are those of the tables in the query, the nearest first.
        known = near or sorted({c for table in TABLES.values() for c in table.all_columns})
        where = _OF_TABLE.search(text)
        if where and missing[1] in known:
            # Of a view DuckDB names no candidates, and that another table has it is no help.
            return f"{where[1]!r} has no column {missing[1]!r}. DESCRIBE lists those of a table."
        return f"There is no column {missing[1]!r}.{did_you_mean(missing[1], known)}"
    return _SIGNATURES.sub("", text)
