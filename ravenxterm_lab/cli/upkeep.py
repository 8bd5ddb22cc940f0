"""What ``raven-lab store`` does; parsing is next door."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import StoreError

if TYPE_CHECKING:
    import argparse

    from ravenxterm_lab.store import Store

__all__ = ["check", "compact", "export", "info", "restore"]


def _store(options: argparse.Namespace) -> Store:
    from ravenxterm_lab.config import paths
    from ravenxterm_lab.store import Store

    # Nothing is recorded here, and what is to be moved is moved by the command itself.
    return Store(paths(options.home).store, ingest=False)


def _show(options: argparse.Namespace, report: object, facts: dict[str, Any]) -> None:
    if options.json:
        json.dump(facts, sys.stdout, indent=2, default=str)
        print()
    else:
        print(report)


def _facts(report: object, *names: str) -> dict[str, Any]:
    return {name: getattr(report, name) for name in names}


def info(options: argparse.Namespace) -> None:
    """Print what the store holds."""
    found = _store(options).info()
    busy = found.ingesting
    _show(options, found, {
        **_facts(
            found, "path", "rows", "sessions", "bytes", "database_bytes", "spool_bytes",
            "bytes_per_row", "segments", "pending", "lag", "last_ingest", "schema_version",
            "problems",
        ),
        "ingesting": None if busy is None else _facts(busy, "pid", "since"),
    })  # fmt: skip


def check(options: argparse.Namespace) -> int:
    """Audit the store; 1 when there is a problem."""
    report = _store(options).check()
    _show(options, report, {
        **_facts(
            report, "ok", "path", "events", "pending", "removed", "gaps", "duplicates", "beyond",
            "damaged", "skipped", "rollup_hours", "problems", "seconds",
        ),
        "sessions": len(report.sessions),
    })  # fmt: skip
    return 0 if report.ok else 1


def compact(options: argparse.Namespace) -> None:
    """Compact the database."""
    report = _store(options).compact(force=not options.if_worthwhile)
    _show(options, report, _facts(
        report, "done", "path", "rows", "bytes_before", "bytes_after", "freed", "seconds",
    ))  # fmt: skip


def export(options: argparse.Namespace) -> None:
    """Export rows, and remove them if asked to."""
    report = _store(options).export(
        options.path,
        table=options.table,
        since=_time("--since", options.since),
        until=_time("--until", options.until),
        remove=options.remove,
    )
    _show(options, report, _facts(
        report, "path", "files", "table", "rows", "bytes", "first", "last", "removed", "seconds",
    ))  # fmt: skip


def restore(options: argparse.Namespace) -> None:
    """Bring exported rows back."""
    report = _store(options).restore(options.path)
    facts = _facts(report, "path", "files", "rows", "seconds")
    _show(options, report, {**facts, "added": dict(report.added), "known": dict(report.known)})


def _time(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise StoreError(
            f"{name} {text!r} is no time; write it as 2026-01-31 or 2026-01-31T12:00:00+01:00."
        ) from error
