"""What DuckDB rewrites in place is saved first, so that a kill within a write costs nothing.

A checkpoint puts new metadata into the free parts of the metadata blocks that the file rests
on, and writes each such block as a whole. A process that is killed within that write leaves
a block with half of each, and a file that cannot be opened (met once in 1,000 trials of
``tests/store/test_store_kills.py``, with DuckDB 2.0.1). So the blocks are copied into a
journal beside the file first. It is removed when the file was closed; who finds one
afterwards puts the blocks back, unless the headers, which a checkpoint writes last, show
that it was complete.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import StoreError
from ravenxterm_lab.store import database
from ravenxterm_lab.store.locks import alone_with, exclusive_gate, shared_gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

__all__ = ["JOURNAL", "attach_for_writing", "detach_written", "settled_gate", "upgrade"]

JOURNAL = f"{database.DATABASE}.journal"

#: Three headers of this size stand before the first block.
_HEADER = 4096
_HEADERS = 3 * _HEADER
#: Checksum of what follows; size of a block, and number of blocks. Then come the headers, and
#: for each block its number and its content.
_HEAD = struct.Struct("=III")
_NUMBER = struct.Struct("=q")
#: All metadata blocks are saved up to this many; of more, those that have free parts.
_ALL = 8
_PATIENCE = 60.0


def attach_for_writing(connection: duckdb.DuckDBPyConnection, directory: Path) -> None:
    """Attach the file for writing, with a journal; the exclusive gate is the caller's.

    A file of an older schema is brought to the current one.

    Raises
    ------
    StoreError
        If DuckDB cannot open it.
    StoreVersionError
        If a newer version of this package made it.
    OSError
        If the journal cannot be written; nothing is attached then.
    """
    _restore(directory)
    # One checkpoint a journal: a log that a killed process left is brought into the file first.
    path = directory / database.DATABASE
    if any(Path(f"{one}.wal").exists() for one in (path, path.resolve())):
        _save(connection, directory)
        database.attach_unchecked(connection, directory, read_only=False)
        connection.execute(f"CHECKPOINT {database.CATALOGUE}")
        detach_written(connection, directory)
    current = _save(connection, directory)
    # Without this, a long transaction may make a checkpoint of its own.
    connection.execute("SET checkpoint_threshold = '1TB'")
    database.attach_unchecked(connection, directory, read_only=False)
    if not current:
        database.migrate(connection)


def detach_written(connection: duckdb.DuckDBPyConnection, directory: Path) -> None:
    """Detach the file, which makes a checkpoint, and remove the journal."""
    connection.execute(f"DETACH {database.CATALOGUE}")
    (directory / JOURNAL).unlink(missing_ok=True)


@contextlib.contextmanager
def settled_gate(directory: Path, *, create: bool = False) -> Iterator[bool]:
    """Hold the gate among readers, over a file that no dead process left half-written.

    Yields
    ------
    bool
        As `shared_gate`.

    Raises
    ------
    StoreError
        If the gate, or the right to mend the file, is not to be had.
    """
    while True:
        with shared_gate(directory, create=create) as gated:
            # With the gate, there is no living process that may be writing.
            if not (directory / JOURNAL).exists():
                yield gated
                return
        with exclusive_gate(directory, patience=_PATIENCE) as obtained:
            if not obtained:
                raise StoreError(
                    f"{directory / database.DATABASE} was left by a process that was killed, and "
                    f"has been kept busy for {_PATIENCE:.0f} s. Try again; nothing is lost."
                )
            try:
                _restore(directory)
            except OSError as error:
                raise StoreError(
                    f"{directory / database.DATABASE} was left half-written by a process that was "
                    f"killed, and cannot be mended ({error.strerror}). Make it writable once."
                ) from error


def upgrade(directory: Path) -> None:
    """Bring a file that an older version made to the current schema.

    Raises
    ------
    StoreError
        If it cannot be written, or stays busy for a minute.
    """
    connection = database.connect()
    with contextlib.closing(connection), exclusive_gate(directory, patience=_PATIENCE) as obtained:
        if not obtained:
            raise StoreError(
                f"{directory / database.DATABASE} was made by an older version of ravenxterm-lab "
                "and has to be upgraded once, but has been kept busy for "
                f"{_PATIENCE:.0f} s. Try again."
            )
        with contextlib.closing(connection):
            attach_for_writing(connection, directory)
            detach_written(connection, directory)


def _save(connection: duckdb.DuckDBPyConnection, directory: Path) -> bool:
    """Write the journal; say whether the schema of the file is the current one."""
    path = directory / database.DATABASE
    # Which blocks hold metadata is asked with the file open for reading; it is closed again
    # before another descriptor of it is, which would drop DuckDB's lock.
    current = database.attach(connection, directory, read_only=True)
    name = [database.CATALOGUE]
    found = connection.execute(
        "SELECT block_id, free_blocks FROM pragma_metadata_info(?)", name
    ).fetchall()
    [(size,)] = connection.execute(
        "SELECT block_size FROM pragma_database_size() WHERE database_name = ?", name
    ).fetchall()
    connection.execute(f"DETACH {database.CATALOGUE}")
    chosen = [block for block, free in found if free or len(found) <= _ALL]
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.pread(fd, _HEADERS, 0)]
        for block in chosen:
            parts += [_NUMBER.pack(block), os.pread(fd, size, _HEADERS + block * size)]
    finally:
        os.close(fd)
    content = b"".join(parts)
    draft = directory / f"{JOURNAL}.new"
    with draft.open("wb") as file:
        file.write(_HEAD.pack(zlib.crc32(content), size, len(chosen)) + content)
    draft.rename(directory / JOURNAL)
    return current


def _restore(directory: Path) -> None:
    """Put the blocks back where a checkpoint was broken off; the exclusive gate is the caller's."""
    journal, path = directory / JOURNAL, directory / database.DATABASE
    if not journal.exists():
        return
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        journal.unlink(missing_ok=True)
        return
    try:
        # Where somebody deleted the lock files, its writer may be alive in spite of the gate.
        if not alone_with(fd, path, patience=_PATIENCE):
            raise StoreError(
                f"{path} is open in another process, which keeps it from being mended. Close it "
                "there; nothing is lost."
            )
        with contextlib.suppress(FileNotFoundError):
            _put_back(fd, journal.read_bytes())
    finally:
        os.close(fd)
    journal.unlink(missing_ok=True)


def _put_back(fd: int, raw: bytes) -> None:
    checksum, size, count = _HEAD.unpack_from(raw.ljust(_HEAD.size, b"\0"))
    content = raw[_HEAD.size :]
    same = os.pread(fd, _HEADERS, 0) == content[:_HEADERS]
    if not same or zlib.crc32(content) != checksum:
        return
    step = _NUMBER.size + size
    for at in range(_HEADERS, _HEADERS + count * step, step):
        (block,) = _NUMBER.unpack_from(content, at)
        os.pwrite(fd, content[at + _NUMBER.size : at + step], _HEADERS + block * size)
    os.fsync(fd)
