"""The part of the store that answers: SQL for people, and what this package asks all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.store.database import state_of
from ravenxterm_lab.store.following import Follower
from ravenxterm_lab.store.reading import run_query

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ravenxterm_lab.store.reading import Mark, Reader, Readers
    from ravenxterm_lab.store.result import QueryResult

__all__ = ["Asking"]


class Asking:
    """The part of `Store` that answers."""

    _directory: Path
    _readers: Readers

    def sql(
        self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None
    ) -> QueryResult:
        """Run one read-only query over everything recorded so far, by every process.

        Parameters
        ----------
        query : str
            One statement that reads: SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW,
            SUMMARIZE, PIVOT or EXPLAIN. It can reach neither files nor Python variables.
        params : sequence or mapping, optional
            Values for ``?`` or ``$name``.

        Returns
        -------
        QueryResult
            Materialised; an absent store has empty tables.

        Raises
        ------
        QueryError
            If it is anything else, or DuckDB refuses it; the message is one line.
        StoreError
            If the store cannot be read.
        StoreVersionError
            If a newer version of this package made it; it is left untouched.
        """
        return run_query(self._readers, query, params)

    def rows(self, query: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a query that this package wrote, before each choice: `sql` for little, in less time.

        Parameters
        ----------
        query : str
            One SELECT; it is not looked at before DuckDB does.
        params : mapping
            Values for ``$name``.

        Returns
        -------
        list of tuple
            Python values.

        Raises
        ------
        QueryError
            If DuckDB refuses it.
        StoreError
            If the store cannot be read.
        """
        with self._readers.open() as reader:
            return reader.rows(query, params)

    @property
    def blank(self) -> bool:
        """Whether nothing was ever recorded here, so that there is nothing to open."""
        from ravenxterm_lab.store.snapshot import list_segments

        if self._directory.exists() and not self._directory.is_dir():
            return False
        return state_of(self._directory) is None and not list_segments(self._directory / "spool")

    def snapshot(self) -> AbstractContextManager[Reader]:
        """Open the store for several queries of this package that see the same rows.

        Returns
        -------
        context manager of Reader
            With ``rows`` and ``mark`` as here. Nobody can write to the database before the end
            of the block, so that it has to be short.

        Raises
        ------
        StoreError
            On entering, if the store cannot be read.
        """
        return self._readers.open()

    def mark(self, tables: Sequence[str]) -> Mark:
        """Return what stays the same as long as no process records or removes rows of some tables.

        Parameters
        ----------
        tables : sequence of str
            Which; changes of a row in place, of which there are none, are not seen.

        Raises
        ------
        StoreError
            If the store cannot be read.
        """
        return self._readers.mark(tables)

    def follow(self, tables: Collection[str]) -> Follower:
        """Return what tells again and again, in little time, what any process recorded since.

        Parameters
        ----------
        tables : collection of str
            Whose rows are told.
        """
        return Follower(self._directory, tables)
