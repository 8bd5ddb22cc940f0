"""The rollups of a whole store at once, by the SQL of their own migrations."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from ravenxterm_lab.store.schema import ROLLUPS

if TYPE_CHECKING:
    import duckdb

__all__ = ["write_rollups"]

_MIGRATIONS = ("0002_rollups.sql", "0004_histogram_lists.sql")


def write_rollups(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the rollups of the catalogue in use anew from its executions."""
    for table in ROLLUPS:
        connection.execute(f"DROP TABLE {table}")
    migrations = resources.files("ravenxterm_lab.store").joinpath("migrations")
    for name in _MIGRATIONS:
        connection.execute(migrations.joinpath(name).read_text("utf-8"))
