"""The rollups of a whole store at once, by the SQL of their own migration."""

from __future__ import annotations

from importlib import resources

import duckdb

__all__ = ["write_rollups"]


def write_rollups(connection: duckdb.DuckDBPyConnection) -> None:
    """Fill the empty rollups of the catalogue in use from its executions."""
    source = resources.files("ravenxterm_lab.store").joinpath("migrations", "0002_rollups.sql")
    for statement in connection.extract_statements(source.read_text("utf-8")):
        if statement.type == duckdb.StatementType.INSERT:
            connection.execute(statement)
