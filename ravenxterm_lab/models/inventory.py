"""What the store knows of the models: the catalogue, and what earlier scans read of the files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab.exceptions import QueryError, StoreError
from ravenxterm_lab.models.scan_report import Known

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ravenxterm_lab.discovery import ScanCache
    from ravenxterm_lab.metadata import ModelMetadata
    from ravenxterm_lab.models.scan_report import Changes
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["known_models", "recall", "record_changes", "record_read"]

_BELOW = "EXISTS (FROM (SELECT unnest($roots::VARCHAR[]) AS root) WHERE starts_with(path, root))"
_CATALOGUE = "SELECT name, path, fingerprint FROM catalogue"
_SCANNED = f"SELECT path, signature, facts FROM scanned WHERE {_BELOW}"  # noqa: S608 - a constant


def recall(bench: Workbench, cache: ScanCache, roots: Iterable[Path]) -> None:
    """Fill a cache with what earlier processes read; a store that fails becomes a message.

    Parameters
    ----------
    bench : Workbench
    cache : ScanCache
    roots : iterable of Path
        Only what lies below them is of use.
    """
    below = [_text(root) for root in roots]
    if not below:
        return
    inside, exact = _prefixes(below), set(below)
    try:
        rows = bench.store.sql(_SCANNED, {"roots": below}).fetchall()
        cache.remember(row for row in rows if row[0].startswith(inside) or row[0] in exact)
    except (StoreError, QueryError) as error:
        bench.messages.add(
            "warning", "store", f"What earlier scans read cannot be recalled, so files are read "
            f"again: {error}",
        )  # fmt: skip


def known_models(
    bench: Workbench, roots: Sequence[Path], models: Mapping[str, ModelMetadata]
) -> list[Known]:
    """Return the models of the catalogue that this scan can say something of.

    Another registry may have looked elsewhere: its models are not removed by this scan, but
    one of them may have been moved to where it looks.

    Parameters
    ----------
    bench : Workbench
    roots : sequence of Path
        Where the scan looked.
    models : mapping of str to ModelMetadata
        What it found, by name.
    """
    try:
        rows = bench.store.sql(_CATALOGUE).fetchall()
    except (StoreError, QueryError) as error:
        bench.messages.add("warning", "store", f"The catalogue cannot be read: {error}")
        return []
    exact = {_text(root) for root in roots}
    here = _prefixes(exact)
    marks = {model.fingerprint for model in models.values()}
    found = []
    for name, path, fingerprint in rows:
        if not name or not path or not fingerprint:
            continue
        inside = path.startswith(here) or path in exact
        if inside or (fingerprint in marks and not _is_there(path)):
            found.append(Known(name, path, fingerprint))
    return found


def record_changes(bench: Workbench, changes: Changes, models: Mapping[str, ModelMetadata]) -> None:
    """Record every change of the catalogue."""
    for known in changes.gone:
        bench.record(
            "models", event="removed", name=known.name, fingerprint=known.fingerprint,
            path=known.path,
        )  # fmt: skip
    for event, names in (
        ("added", changes.added),
        ("changed", changes.changed),
        ("moved", changes.moved),
    ):
        for name in names:
            model = models[name]
            bench.record(
                "models",
                event=event,
                fingerprint=model.fingerprint,
                name=name,
                model_type=model.model_type.value,
                path=_text(model.path),
                size_bytes=model.size_bytes,
                quantization=model.quantization,
                architecture=model.architecture,
                parameter_count=model.parameter_count,
                context_length=model.context_length,
                task_types=list(model.task_types),
                license=model.license,
                source=model.source,
            )


def record_read(bench: Workbench, cache: ScanCache) -> None:
    """Record what was read, for the first scan of the next process, and which files are gone."""
    for item in cache.news():
        # A name that is not UTF-8 cannot be written: such a file is read by each process.
        if item.path != _text(item.path):
            continue
        fields = {"path": item.path, "signature": item.signature, "facts": item.facts}
        if bench.record("scans", **fields) is None:
            return
    # An empty signature says that the file is gone.
    for path in cache.lost():
        if path != _text(path) or _is_there(path):
            continue
        if bench.record("scans", path=path, signature="") is None:
            return


def _prefixes(roots: Iterable[str]) -> tuple[str, ...]:
    """Return what the paths of all files below some directories begin with."""
    return tuple(os.path.join(root, "") for root in roots)  # noqa: PTH118 - a prefix


def _text(path: Path | str) -> str:
    return os.fspath(path).encode("utf-8", "replace").decode("utf-8")


def _is_there(path: str) -> bool:
    with suppress(OSError, ValueError):
        return Path(path).exists()
    return True
