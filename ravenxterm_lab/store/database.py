"""DuckDB: connections, the file, its schema and its watermarks. The gates are the caller's.

The file is opened by nothing but DuckDB: closing any other descriptor of it would drop
the lock that DuckDB holds on it (POSIX record locks belong to the process).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError, StoreVersionError
from ravenxterm_lab.store.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

__all__ = [
    "CATALOGUE",
    "DATABASE",
    "ROW_GROUP",
    "attach",
    "attach_new",
    "attach_unchecked",
    "confine",
    "connect",
    "create",
    "literal",
    "migrate",
    "read_watermarks",
    "reason",
    "state_of",
    "view_comments",
    "views",
    "worn",
    "write_watermarks",
]

DATABASE = "main.duckdb"
#: The name under which the file is attached; views over it live in the memory of the reader.
CATALOGUE = "ingested"

#: The oldest DuckDB that can read the file: 1.5.
_STORAGE_VERSION = "v1.5.0"
#: Rows that are compressed together. Each pass of the ingest rewrites the last group that is
#: not full, while queries wait: a quarter of DuckDB's own size bounds that, and queries take
#: no longer over it.
ROW_GROUP = 30_720
_PACKAGE = "ravenxterm_lab.store"
#: A connection that is kept grows: each block and buffer that a statement used leaves a node in
#: DuckDB's eviction queues, which it purges when memory runs short, or at a length of tens of
#: thousands in each of them (its pull request 10594). Above so many nodes a new one is due.
_MOST_NODES = 20_000
#: The queues are looked at once in so many uses; DuckDB 1.5 does not show them, and there a
#: connection serves for a fixed number of uses.
_LOOK_EVERY, _MOST_UNSEEN = 64, 512
#: The files that DuckDB may find beside each other after a death in a commit or a checkpoint.
_SUFFIXES = ("", ".wal", ".wal.checkpoint", ".wal.recovery")

#: What helps, by what the reason says; a damaged file is the one that is moved aside.
_REMEDIES = {
    "Too many open files": "Raise the limit of open files (ulimit -n).",
    "No space left": "Free space on the disk.",
    "Permission denied": "Make it readable, and the directory too.",
    "Conflicting lock": "Close it there: this package holds it for moments only.",
    "replaying WAL": "Its log, the file of this name and .wal, is damaged or another's: move that "
    "aside; what the log alone held is lost, everything else is kept.",
    "": "Move it aside to begin a new one; what still waits in the spool is kept.",
}

# DuckDB starts threads and takes locks of the whole process while it connects; a fork
# at that moment would leave them locked for ever in the child.
_connecting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_connecting.acquire,
        after_in_parent=_connecting.release,
        after_in_child=_connecting.release,
    )


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """Open an empty database in memory that reaches for no network and no Python variable.

    Raises
    ------
    StoreError
        If DuckDB cannot start.
    """
    with _connecting:
        import duckdb

        config: dict[str, Any] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "temp_directory": _temporary_directory(),
        }
        if threads is not None:
            config["threads"] = threads
        if not duckdb.__version__.startswith("1."):
            # Eight threads for each connection would wait for files in the cloud.
            config["async_threads"] = 0
        try:
            connection = duckdb.connect(":memory:", config=config)
            connection.execute("SET TimeZone = 'UTC'")
            # On by itself in a notebook, and printed from any thread, that of the ingest too.
            connection.execute("SET enable_progress_bar = false")
        except duckdb.Error as error:
            raise StoreError(
                f"DuckDB cannot start ({reason(error)}); nothing is lost. Raise the limit of "
                "open files (ulimit -n), or free memory."
            ) from error
        return connection


def worn(connection: duckdb.DuckDBPyConnection, uses: int) -> bool:
    """Say whether a connection that is kept has gathered so much that a new one is due.

    Parameters
    ----------
    connection : DuckDBPyConnection
        With no statement under way.
    uses : int
        How often it was used so far; the answer to most numbers is False, for nothing.
    """
    import duckdb

    if uses % _LOOK_EVERY:
        return False
    try:
        query = "SELECT sum(approximate_size) FROM duckdb_eviction_queues()"
        nodes = connection.execute(query).fetchall()[0][0]
    except duckdb.CatalogException:
        return uses >= _MOST_UNSEEN
    return int(nodes or 0) > _MOST_NODES


def _temporary_directory() -> str:
    """Return where large queries may spill; nowhere when no such directory can be written."""
    try:
        return str(Path(tempfile.gettempdir()) / f"ravenxterm-{os.getpid()}")
    except FileNotFoundError:
        return ""


def literal(value: object) -> str:
    """Return a text or a path as SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def reason(error: Exception) -> str:
    """Return what DuckDB said as one line, without the lines of the query that it shows."""
    return " ".join(str(error).split("\n\nLINE", 1)[0].split())


def _migrations() -> list[tuple[int, str, str]]:
    found = []
    for entry in resources.files(_PACKAGE).joinpath("migrations").iterdir():
        number, _, name = entry.name.partition("_")
        if entry.name.endswith(".sql"):
            found.append((int(number), name.removesuffix(".sql"), entry.read_text("utf-8")))
    return sorted(found)


def _views_file(name: str) -> tuple[str, str]:
    """Return the definitions of a file of views, and their comments."""
    sql = resources.files(_PACKAGE).joinpath(name).read_text("utf-8")
    definitions, begin, comments = sql.partition("\nCOMMENT ON ")
    return definitions, begin + comments


def views(*, outside: bool = False) -> str:
    """Return the SQL that creates the views for people, in the file or ``outside`` of it."""
    sql = _views_file("views.sql")[0] + _views_file("rollup_views.sql")[0]
    # A reader shows no table of its own for this one; in the file it has to go by its bare
    # name, for the file may be attached under any.
    table = "FROM hardware_minutes"
    return sql.replace(table, table.replace(" ", f" {CATALOGUE}.")) if outside else sql


def view_comments() -> str:
    """Return the SQL that describes the views for people."""
    return _views_file("views.sql")[1] + _views_file("rollup_views.sql")[1]


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the schema version of the attached file, 0 for an empty one."""
    import duckdb

    newest = f"SELECT max(version) FROM {CATALOGUE}.schema_version"  # noqa: S608 - our own names
    try:
        # Fetched to its end: DuckDB 2 lets an unfinished result block what comes next.
        rows = connection.execute(newest).fetchall()
    except duckdb.CatalogException:
        return 0
    return int(rows[0][0] or 0)


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring what is attached as `CATALOGUE` to the current schema, in one transaction."""
    version = _version(connection)
    if version == SCHEMA_VERSION:
        return
    connection.execute(f"USE {CATALOGUE}")
    connection.execute("BEGIN")
    for number, name, sql in _migrations():
        if number > version:
            connection.execute(sql)
            connection.execute(
                "INSERT INTO schema_version VALUES (?, ?, now() AT TIME ZONE 'UTC')",
                [number, name],
            )
    connection.execute(views())
    connection.execute(view_comments())
    connection.execute("COMMIT")
    connection.execute("USE memory")


def create(directory: Path) -> None:
    """Create the file with its schema; under its final name it is never half-made."""
    path = directory / DATABASE
    draft = directory / f"{DATABASE}.new"
    for leftover in (draft, Path(f"{draft}.wal")):
        leftover.unlink(missing_ok=True)
    connection = connect(threads=1)
    try:
        attach_new(connection, draft, CATALOGUE)
        migrate(connection)
        connection.execute(f"DETACH {CATALOGUE}")
    finally:
        connection.close()
    draft.chmod(0o600)
    # The logs of a file that was moved aside would make DuckDB refuse the new one.
    now = time.time_ns()
    for suffix in _SUFFIXES[1:]:
        with contextlib.suppress(FileNotFoundError):
            (directory / f"{DATABASE}{suffix}").rename(directory / f"{DATABASE}.{now}{suffix}")
    draft.rename(path)


def attach_new(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    """Create a file that the oldest supported DuckDB can read, and attach it as ``name``."""
    connection.execute(
        f"ATTACH {literal(path)} AS {name} (STORAGE_VERSION '{_STORAGE_VERSION}', "
        f"ROW_GROUP_SIZE {ROW_GROUP})"
    )


def attach(connection: duckdb.DuckDBPyConnection, directory: Path, *, read_only: bool) -> bool:
    """Attach the file as `CATALOGUE`; say whether its schema is the current one.

    Raises
    ------
    StoreError
        If DuckDB cannot open it.
    StoreVersionError
        If a newer version of this package made it; it was not changed.
    """
    with _opening(directory):
        attach_unchecked(connection, directory, read_only=read_only)
        version = _version(connection)
    if version > SCHEMA_VERSION:
        connection.execute(f"DETACH {CATALOGUE}")
        raise StoreVersionError(
            f"{directory / DATABASE} has schema version {version}, made by a newer version of "
            f"ravenxterm-lab; this one knows version {SCHEMA_VERSION}. It was left untouched. "
            "Upgrade with: pip install --upgrade ravenxterm-lab"
        )
    return version == SCHEMA_VERSION


def attach_unchecked(
    connection: duckdb.DuckDBPyConnection, directory: Path, *, read_only: bool
) -> None:
    """Attach the file as `CATALOGUE`, whose schema is known to be one of ours.

    Raises
    ------
    StoreError
        If DuckDB cannot open it.
    """
    how = "READ_ONLY" if read_only else f"ROW_GROUP_SIZE {ROW_GROUP}"
    with _opening(directory):
        connection.execute(f"ATTACH {literal(directory / DATABASE)} AS {CATALOGUE} ({how})")


@contextlib.contextmanager
def _opening(directory: Path) -> Iterator[None]:
    """Say what helps, where DuckDB cannot open the file."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        remedy = next(remedy for sign, remedy in _REMEDIES.items() if sign in str(error))
        raise StoreError(
            f"{directory / DATABASE} cannot be opened by DuckDB ({reason(error)}). {remedy}"
        ) from error


def confine(connection: duckdb.DuckDBPyConnection, directory: Path) -> None:
    """From now on, let a connection reach no file but the database, and no setting."""
    path = directory / DATABASE
    # DuckDB asks about the name that a link leads to, which may be on another disk.
    names = {f"{one}{suffix}" for one in (path, path.resolve()) for suffix in _SUFFIXES}
    allowed = ", ".join(literal(name) for name in sorted(names))
    connection.execute(f"SET allowed_paths = [{allowed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def state_of(directory: Path) -> tuple[int, ...] | None:
    """Return what changes with every write to the file; None where there is none.

    Inode, size, and time of the last change: whoever writes holds the gate for longer than the
    clock of a file system takes to tick.
    """
    # stat() opens nothing, so it is safe beside DuckDB's locks.
    try:
        stat = (directory / DATABASE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def read_watermarks(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return, by session, the first sequence number that was not ingested.

    Raises
    ------
    StoreError
        If the file is damaged there.
    """
    import duckdb

    query = f"SELECT session, next_seq FROM {CATALOGUE}.watermarks"  # noqa: S608 - our own names
    try:
        return dict(connection.execute(query).fetchall())
    except duckdb.Error as error:
        raise StoreError(
            f"The watermarks in {DATABASE} cannot be read ({reason(error)}). {_REMEDIES['']}"
        ) from error


def write_watermarks(
    connection: duckdb.DuckDBPyConnection, before: dict[str, int], after: dict[str, int]
) -> None:
    """Write the watermarks that differ from ``before``, within the caller's transaction."""
    for session, next_seq in after.items():
        if session not in before:
            insert = f"INSERT INTO {CATALOGUE}.watermarks VALUES (?, ?)"  # noqa: S608 - our own names
            connection.execute(insert, [session, next_seq])
        elif before[session] != next_seq:
            update = f"UPDATE {CATALOGUE}.watermarks SET next_seq = ? WHERE session = ?"  # noqa: S608 - our own names
            connection.execute(update, [next_seq, session])
