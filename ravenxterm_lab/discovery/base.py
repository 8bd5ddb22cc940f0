"""The contract of a source of models, and what a scan brings home.

A source knows one store's layout. It only ever reads: it creates, changes and deletes nothing.
It raises nothing for what it finds: whatever cannot be taken becomes a ``Skipped`` with the
reason. One scan runs in one thread at a time; a source keeps no state between scans (that is
the cache's part).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ravenxterm_lab.discovery.cache import ScanCache
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["Discovery", "Skipped", "Source"]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was found and not taken.

    Attributes
    ----------
    path : Path
    reason : str
        One printable line, with the remedy where there is one.
    source : str
        The store it was found in.
    """

    path: Path
    reason: str
    source: str = "directory"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What one scan found.

    Attributes
    ----------
    models : dict of str to ModelMetadata
        By unique name, sorted.
    skipped : list of Skipped
    seconds : float
        Wall time of the scan.
    roots : tuple of Path
        Every directory that was looked into, whether it exists or not.
    read : int
        Models whose files were read, rather than known from an earlier scan.
    """

    models: dict[str, ModelMetadata] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0
    roots: tuple[Path, ...] = ()
    read: int = 0


class Source(ABC):
    """One store of models.

    Attributes
    ----------
    name : str
        Becomes ``ModelMetadata.source``.

    Notes
    -----
    Another package adds a source by an entry point of the group ``ravenxterm_lab.sources``: a
    class that takes one argument, the environment (a mapping of str to str). The entry point's
    name becomes ``ModelMetadata.source``; what such a source raises becomes a ``Skipped``.

    Examples
    --------
    A store whose models are plain files needs no more than a place:

    >>> from pathlib import Path
    >>> from ravenxterm_lab.discovery import DirectorySource
    >>> class AcmeSource(DirectorySource):
    ...     def __init__(self, environment):
    ...         super().__init__(Path(environment.get("ACME_MODELS", "/opt/acme")), optional=True)
    >>> list(AcmeSource({"ACME_MODELS": "/nonexistent"}).discover())
    []
    """

    name: ClassVar[str]

    @abstractmethod
    def roots(self) -> tuple[Path, ...]:
        """Return the directories that it looks into, whether they exist or not."""

    @abstractmethod
    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        """Yield every model, and everything that looks like one and cannot be taken.

        Parameters
        ----------
        progress : callable, optional
            Is told each model's first file before it is looked at.
        cache : ScanCache, optional
            What earlier scans read; files that did not change are not read again.
        """

    def removable(self) -> bool:
        """Say whether a model's files are its own, so that they may be moved to the trash.

        Returns
        -------
        bool
            False where something else owns them, as the package manager does those of a package.
        """
        return True

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:
        """Return what tells this model from others of its name, the best first.

        Parameters
        ----------
        model : ModelMetadata
            One that this source found.

        Returns
        -------
        tuple of str
            Such as its directory's or its repository's name; may be empty.
        """
        from ravenxterm_lab.discovery.naming import parent_labels

        return parent_labels(model, self.roots())
