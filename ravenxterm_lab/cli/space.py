"""What ``raven-lab models space`` and its neighbours do; parsing is next door."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.units import format_bytes

if TYPE_CHECKING:
    import argparse

    from ravenxterm_lab.models import ModelRegistry, TrashReport

__all__ = ["empty_trash", "restore", "space", "trash"]


def _registry(options: argparse.Namespace) -> ModelRegistry:
    from ravenxterm_lab.models import ModelRegistry

    return ModelRegistry(options.models_dir, home=options.home)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, default=str)
    print()


def space(options: argparse.Namespace) -> None:
    """Print what the models take and what could be freed."""
    report = _registry(options).space(options.unused_days)
    if not options.json:
        print(report)
        return
    _print_json({
        "bytes": report.bytes, "reclaimable_bytes": report.reclaimable_bytes,
        "unused_bytes": report.unused_bytes, "duplicate_bytes": report.duplicate_bytes,
        "leftover_bytes": report.leftover_bytes, "trash_bytes": report.trash_bytes,
        "unused_days": report.unused_days,
        "models": [
            {
                "name": one.model.name, "path": one.model.path, "bytes": one.bytes,
                "freed_bytes": one.freed_bytes, "duplicate_bytes": one.duplicate_bytes,
                "last_used": one.last_used, "known_since": one.known_since, "runs": one.runs,
                "usage": one.usage,
                "copies": [
                    {
                        "path": copy.path, "names": [str(name) for name in copy.names],
                        "source": copy.source, "is_link": copy.is_link,
                        "freed_bytes": copy.freed_bytes,
                    }
                    for copy in one.copies
                ],
            }
            for one in report
        ],
        "leftovers": [
            {"path": one.path, "kind": one.kind, "source": one.source, "bytes": one.bytes}
            for one in report.leftovers
        ],
    })  # fmt: skip


def trash(options: argparse.Namespace) -> None:
    """Move models to the trash, or print what is in it."""
    registry = _registry(options)
    if options.names:
        report = registry.trash(
            options.names, everywhere=options.everywhere, dry_run=options.dry_run
        )
    else:
        report = registry.trashed()
    _show(options, report)


def restore(options: argparse.Namespace) -> None:
    """Move models back."""
    registry = _registry(options)
    for name in options.names:
        _show(options, registry.restore(name))


def empty_trash(options: argparse.Namespace) -> None:
    """Delete what is in the trash."""
    freed = _registry(options).empty_trash(options.older_than_days, confirm=options.yes)
    if options.json:
        _print_json({"freed_bytes": freed})
    else:
        print(f"Freed {format_bytes(freed)}.")


def _show(options: argparse.Namespace, report: TrashReport) -> None:
    if not options.json:
        print(report)
        return
    _print_json({
        "action": report.action, "bytes": report.bytes,
        "items": [
            {
                "id": one.id, "name": one.name, "path": one.path, "source": one.source,
                "state": one.state, "bytes": one.bytes, "time": one.time, "notes": one.notes,
                "files": [str(path) for path in one.files],
            }
            for one in report
        ],
    })  # fmt: skip
