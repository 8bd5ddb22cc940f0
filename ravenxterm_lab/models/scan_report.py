"""What a scan found, against what was known before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.tables import Card, Displayed, Table
from ravenxterm_lab.units import format_bytes, format_number, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ravenxterm_lab.discovery import Skipped
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Changes", "Known", "ScanReport", "compare"]

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Known:
    """A model as it was known before a scan.

    Attributes
    ----------
    name, path : str
        Its name, and its first file.
    fingerprint : str
        Its identity.
    """

    name: str
    path: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences between two scans.

    Attributes
    ----------
    added, changed, moved : tuple of str
        Names that they have now.
    moved_from : mapping of str to Known
        For each that moved, how it was known before.
    removed : tuple of str
        Names of those that are not there any more.
    gone : tuple of Known
        Files' contents that are not there any more: those that were removed, and what those
        that changed were before.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    moved_from: Mapping[str, Known] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    gone: tuple[Known, ...] = ()


def compare(before: Iterable[Known], models: Mapping[str, ModelMetadata]) -> Changes:
    """Say what is different now; a model is known by its fingerprint, then by its name.

    Parameters
    ----------
    before : iterable of Known
        One for each fingerprint.
    models : mapping of str to ModelMetadata
        What is there now, by name.
    """
    by_mark = {known.fingerprint: known for known in before}
    marks = {model.fingerprint for model in models.values()}
    gone = {mark: known for mark, known in by_mark.items() if mark not in marks}
    gone_names = {known.name for known in gone.values()}
    added: list[str] = []
    changed: list[str] = []
    moved: dict[str, Known] = {}
    for name, model in models.items():
        known = by_mark.get(model.fingerprint)
        if known is None:
            (changed if name in gone_names else added).append(name)
        elif (known.name, known.path) != (name, str(model.path)):
            moved[name] = known
    replaced = set(changed)
    return Changes(
        added=tuple(added),
        changed=tuple(changed),
        moved=tuple(moved),
        moved_from=moved,
        removed=tuple(sorted({k.name for k in gone.values()} - replaced)),
        gone=tuple(gone.values()),
    )


@dataclass(frozen=True, slots=True)
class ScanReport(Displayed):
    """What a scan found.

    Attributes
    ----------
    added, changed, removed : tuple of str
        Names, against the scan before (or the catalogue in the store for the first one).
    skipped : tuple of Skipped
        Files and directories that are not listed, each with the reason.
    roots : tuple of Path
        Where it looked.
    models, bytes : int
        All that is known now; each byte counted once.
    seconds : float
        How long it took.
    moved : tuple of str
        Names of models that were known under another path or name before.
    moved_from : mapping of str to str
        For each of them, the name and the path that it had.
    read : int
        Models whose files were read; the others had not changed.
    next_step : str
        What to run where none was found.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    roots: tuple[Any, ...]
    models: int
    bytes: int
    seconds: float
    moved: tuple[str, ...] = ()
    moved_from: Mapping[str, str] = field(default_factory=dict)
    read: int = 0
    next_step: str = ""

    def _card(self) -> Card:
        count = format_number(self.models, "model")
        title = f"{count}, {format_bytes(self.bytes)}, in {format_seconds(self.seconds)}"
        where = ", ".join(str(root) for root in self.roots) or "nowhere: no directory exists"
        tables = [
            Table([f"{kind} ({len(names)})"], [[name] for name in names[:_SHOWN]])
            for kind, names in (
                ("added", self.added),
                ("changed", self.changed),
                ("removed", self.removed),
            )
            if names
        ]
        if self.moved:
            rows = [[name, self.moved_from.get(name, "")] for name in self.moved[:_SHOWN]]
            tables.append(Table([f"moved ({len(self.moved)})", "was"], rows))
        if self.skipped:
            rows = [[str(item.path), item.reason] for item in self.skipped[:_SHOWN]]
            tables.append(Table([f"skipped ({len(self.skipped)})", "why"], rows))
        note = f"Looked in {where}; {self.read} read, the others unchanged"
        if not self.models and self.next_step:
            note = f"Looked in {where}. No models yet: {self.next_step}."
        return Card(title, note, tables)
