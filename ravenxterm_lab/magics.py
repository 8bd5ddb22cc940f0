"""``%raven`` and ``%%raven_sql``: a thin layer over the manager, for a notebook's cells."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RavenXTermError, did_you_mean

if TYPE_CHECKING:
    from ravenxterm_lab.models import ModelManager

__all__ = ["register"]

_ACTIONS = ("models", "scan", "select", "status", "why")


def register(ipython: Any) -> None:
    """Register the magics with an IPython shell.

    They use the variable ``manager`` of the notebook where it is a ``ModelManager``, else one
    of their own.
    """
    from IPython.core.magic import register_cell_magic, register_line_magic

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
        return _guarded(lambda: _act(manager(), shlex.split(line)))

    def raven_sql(line: str, cell: str) -> Any:
        """%%raven_sql [-p | --polars] [-o NAME]: one read-only query; $name binds a variable."""
        return _guarded(lambda: _query(manager(), ipython, shlex.split(line), cell))

    register_line_magic(raven)
    register_cell_magic(raven_sql)


def _guarded(action: Any) -> Any:
    """Run an action; an error of ours becomes one line, since a traceback would hide it."""
    from IPython.core.error import UsageError

    try:
        return action()
    except RavenXTermError as error:
        raise UsageError(str(error)) from None


def _act(manager: ModelManager, words: list[str]) -> Any:
    from IPython.core.error import UsageError

    action, rest = (words[0], words[1:]) if words else ("status", [])
    if action == "status":
        return manager.get_system_status()
    if action == "models":
        return manager.registry
    if action == "scan":
        return manager.scan(progress=True)
    if action == "select":
        return manager.get_model_recommendations(rest[0] if rest else "text_generation")
    if action == "why" and rest:
        return manager.why_not(rest[0])
    hint = "%raven why MODEL" if action == "why" else did_you_mean(action, _ACTIONS)
    raise UsageError(f"%raven cannot {action}. {hint.strip()}")


def _query(manager: ModelManager, ipython: Any, words: list[str], query: str) -> Any:
    from IPython.core.error import UsageError

    polars, target = False, None
    while words:
        word = words.pop(0)
        if word in {"-p", "--polars"}:
            polars = True
        elif word in {"-o", "--output"} and words:
            target = words.pop(0)
        else:
            raise UsageError(f"%%raven_sql does not know {word!r}: use -p or --polars, -o NAME.")
    import duckdb

    try:
        names = duckdb.extract_statements(query)[0].named_parameters if query.strip() else set()
    except duckdb.Error as error:
        raise UsageError(str(error).splitlines()[0]) from None
    unknown = [name for name in sorted(names) if name not in ipython.user_ns]
    if unknown:
        raise UsageError(f"${unknown[0]} is not a variable of this notebook.")
    result = manager.sql(query, {name: ipython.user_ns[name] for name in names} or None)
    answer: Any = result.pl() if polars else result
    if target is None:
        return answer
    ipython.user_ns[target] = answer
    return None
