"""``%raven`` and ``%%raven_sql``: a thin layer over the manager, for a notebook's cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager

__all__ = ["register"]


def register(ipython: Any) -> None:
    """Register the magics with an IPython shell, and what the Tab key suggests in them.

    They use the variable ``manager`` of the notebook where it is a ``ModelManager``, else one
    of their own.

    Parameters
    ----------
    ipython : IPython.core.interactiveshell.InteractiveShell
        The shell that loads the extension. Loading it again changes nothing.
    """
    from IPython.core.magic import register_cell_magic, register_line_magic

    from ravenxterm_lab.magics.commands import act, guarded, query, words_of
    from ravenxterm_lab.magics.completion import matcher_for

    own: list[ModelManager] = []

    def manager() -> ModelManager:
        from ravenxterm_lab.models import ModelManager

        named = ipython.user_ns.get("manager")
        if isinstance(named, ModelManager):
            return named
        if not own:
            own.append(ModelManager())
        return own[0]

    def raven(line: str) -> Any:
        """%raven status | models | scan | select TASK | why MODEL."""
        return guarded(lambda: act(manager(), words_of(line)))

    def raven_sql(line: str, cell: str) -> Any:
        """%%raven_sql [-p | --polars] [-o NAME]: one read-only query; $name binds a variable."""
        return guarded(lambda: query(manager(), ipython, words_of(line), cell))

    register_line_magic(raven)
    register_cell_magic(raven_sql)
    matchers = ipython.Completer.custom_matchers
    matchers[:] = [known for known in matchers if not hasattr(known, "ravenxterm_lab")]
    matchers.append(matcher_for(ipython, manager))
