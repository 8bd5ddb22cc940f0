"""Sources from other packages: the entry points of the group ``ravenxterm_lab.sources``.

A package names a class that follows ``Source`` in its ``pyproject.toml``::

    [project.entry-points."ravenxterm_lab.sources"]
    my_store = "my_package.sources:MyStoreSource"

It is made with one argument, the environment (a mapping of str to str), for every registry of the
well-known stores; nothing of another package is imported for a registry whose directories were
given. Whatever such a class does wrong becomes a ``Skipped`` that names its distribution.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.discovery.base import Skipped, Source
from ravenxterm_lab.discovery.naming import printable
from ravenxterm_lab.metadata import ModelMetadata
from ravenxterm_lab.readers import fingerprint
from ravenxterm_lab.readers.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from ravenxterm_lab.discovery.cache import ScanCache

__all__ = ["ENTRY_POINT_GROUP", "plugin_sources"]

ENTRY_POINT_GROUP = "ravenxterm_lab.sources"
# A stranger's module may even end the interpreter when it is imported; a notebook must go on.
_ANYTHING = (Exception, SystemExit)


def plugin_sources(environment: Mapping[str, str], taken: Collection[str] = ()) -> list[Source]:
    """Return the sources that other packages bring, in the order of their names.

    Parameters
    ----------
    environment : mapping of str to str
        Is handed to each.
    taken : collection of str
        Names of sources that there are already.

    Returns
    -------
    list of Source
        One for each entry point; where it cannot be used, one that yields a ``Skipped`` with the
        reason. Nothing is raised.
    """
    try:
        points = sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda one: one.name)
    except _ANYTHING as error:
        reason = f"the installed packages' entry points cannot be read ({_said(error)})"
        return [_Unusable(Skipped(Path(), clean(reason, 400), ENTRY_POINT_GROUP))]
    names = set(taken)
    found: list[Source] = []
    for point in points:
        guarded = _load(point, environment, names)
        names.add(point.name)
        found.append(guarded)
    return found


def _load(
    point: metadata.EntryPoint, environment: Mapping[str, str], names: Collection[str]
) -> Source:
    package, place = _origin(point)
    label = f"the source {clean(point.name, 80)!r} of the package {package}"

    def unusable(reason: str) -> Source:
        return _Unusable(Skipped(place, clean(f"{label} {reason}", 400), printable(point.name)))

    if point.name in names:
        return unusable("has a name that another source has already; it was left out")
    try:
        source = point.load()(environment)
    except _ANYTHING as error:
        return unusable(f"cannot be used ({_said(error)}); update or remove the package")
    if not isinstance(source, Source):
        return unusable(f"is not a Source: {point.value} makes a {type(source).__name__}")
    return _Guarded(source, printable(point.name), label, place)


class _Unusable(Source):
    """Stands for an entry point that gave no source."""

    name: ClassVar[str] = "plugin"

    def __init__(self, reason: Skipped) -> None:
        self._reason = reason

    def roots(self) -> tuple[Path, ...]:
        return ()

    def discover(
        self,
        progress: Callable[[Path], None] | None = None,  # noqa: ARG002 - the contract's
        cache: ScanCache | None = None,  # noqa: ARG002 - the contract's
    ) -> Iterator[ModelMetadata | Skipped]:
        yield self._reason

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:  # noqa: ARG002 - the contract's
        return ()


class _Guarded(Source):
    """Keeps whatever another package's source raises or yields from ending the scan."""

    name: ClassVar[str] = "plugin"

    def __init__(self, source: Source, name: str, label: str, place: Path) -> None:
        self._source = source
        self._called = name
        self._label = label
        self._place = place

    def roots(self) -> tuple[Path, ...]:
        try:
            return tuple(Path(one) for one in self._source.roots())
        except _ANYTHING:
            return ()  # ``discover`` says what is wrong with it

    def discover(
        self, progress: Callable[[Path], None] | None = None, cache: ScanCache | None = None
    ) -> Iterator[ModelMetadata | Skipped]:
        try:
            for root in self._source.roots():
                Path(root)
            for one in self._source.discover(progress, cache):
                yield self._checked(one)
        except _ANYTHING as error:
            reason = f"{self._label} failed ({_said(error)}); update or remove the package"
            yield Skipped(self._place, clean(reason, 400), self._called)

    def labels(self, model: ModelMetadata) -> tuple[str, ...]:
        try:
            return tuple(printable(one) for one in self._source.labels(model))
        except _ANYTHING:
            return ()  # the model is told apart by its facts instead

    def removable(self) -> bool:
        try:
            return self._source.removable() is True
        except _ANYTHING:
            return False

    def _checked(self, found: object) -> ModelMetadata | Skipped:
        place = self._place
        try:
            if isinstance(found, Skipped):
                return Skipped(Path(found.path), clean(found.reason, 400), self._called)
            if isinstance(found, ModelMetadata):
                place = Path(found.path)
                return self._completed(found)
            reason = f"yields a {type(found).__name__}, neither a model nor a Skipped"
        except _ANYTHING as error:
            reason = f"yields what cannot be used ({_said(error)})"
        return Skipped(place, clean(f"{self._label} {reason}", 400), self._called)

    def _completed(self, found: ModelMetadata) -> ModelMetadata:
        path = Path(found.path)
        shards = tuple(Path(one) for one in found.shards) or (path,)
        return replace(
            found,
            name=printable(found.name),
            path=path,
            shards=shards,
            # Without one, all models of the source would be taken for the same.
            fingerprint=found.fingerprint or fingerprint(shards),
            source=self._called,
            quantization=clean(found.quantization, 80) or None,
            architecture=clean(found.architecture, 80) or None,
            license=clean(found.license) or None,
            task_types=_cleaned(found.task_types, 80),
            problems=_cleaned(found.problems, 400),
            notes=_cleaned(found.notes, 400),
        )


def _cleaned(texts: Iterable[str], limit: int) -> tuple[str, ...]:
    """Return what of some texts can be shown, each once."""
    kept = (clean(text, limit) for text in texts)
    return tuple(dict.fromkeys(text for text in kept if text))


def _origin(point: metadata.EntryPoint) -> tuple[str, Path]:
    """Return the name of an entry point's distribution, and where it is installed."""
    try:
        if point.dist is not None:
            return clean(point.dist.name, 80), Path(str(point.dist.locate_file("")))
    except _ANYTHING:
        pass  # its metadata is broken too; its value still says whose it is
    return clean(point.value.partition(":")[0].partition(".")[0], 80), Path()


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
