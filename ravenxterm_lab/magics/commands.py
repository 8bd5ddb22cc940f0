"""What the magics do: each asks the manager, and tells an error in one line."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RavenXTermError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravenxterm_lab.models import ModelManager

__all__ = ["ACTIONS", "act", "guarded", "query", "words_of"]

#: What may follow ``%raven``.
ACTIONS = ("models", "scan", "select", "status", "why")


def guarded(action: Callable[[], Any]) -> Any:
    """Run an action; an error of ours becomes one line, since a traceback would hide it.

    Parameters
    ----------
    action : callable
        Without arguments.

    Raises
    ------
    UsageError
        IPython's, which it prints without a traceback.
    """
    from IPython.core.error import UsageError

    try:
        return action()
    except RavenXTermError as error:
        raise UsageError(str(error)) from None


def words_of(line: str) -> list[str]:
    """Split a magic's line as a shell does.

    Parameters
    ----------
    line : str
        What follows the magic's name.

    Raises
    ------
    UsageError
        If a quotation mark is left open.
    """
    from IPython.core.error import UsageError

    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{line.strip()!r} cannot be read: {error}.") from None


def act(manager: ModelManager, words: list[str]) -> Any:
    """Do what ``%raven`` is asked; without a word it shows the status.

    Parameters
    ----------
    manager : ModelManager
        Whose models and history.
    words : list of str
        One of `ACTIONS`, then a task or a model's name.

    Raises
    ------
    UsageError
        If there is no such action, or a model's name is missing.
    """
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
    hint = "%raven why MODEL" if action == "why" else did_you_mean(action, ACTIONS)
    raise UsageError(f"%raven cannot {action}. {hint.strip()}")


def query(manager: ModelManager, ipython: Any, words: list[str], text: str) -> Any:
    """Run the query of a ``%%raven_sql`` cell, with ``$name`` bound from the notebook.

    Parameters
    ----------
    manager : ModelManager
        Whose store.
    ipython : IPython.core.interactiveshell.InteractiveShell
        Whose variables are bound and set.
    words : list of str
        Options: ``-p`` or ``--polars``; ``-o NAME``.
    text : str
        One read-only query.

    Returns
    -------
    QueryResult, polars.DataFrame or None
        None where ``-o`` put the answer into a variable.

    Raises
    ------
    UsageError
        On an unknown option, a variable that does not exist, or a query that cannot be read.
    """
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
    if target is not None and not target.isidentifier():
        raise UsageError(f"-o {target}: a variable cannot have this name.")
    import duckdb

    try:
        names = duckdb.extract_statements(text)[0].named_parameters if text.strip() else set()
    except duckdb.Error as error:
        raise UsageError(str(error).splitlines()[0]) from None
    unknown = [name for name in sorted(names) if name not in ipython.user_ns]
    if unknown:
        raise UsageError(f"${unknown[0]} is not a variable of this notebook.")
    result = manager.sql(text, {name: ipython.user_ns[name] for name in names} or None)
    answer: Any = result.pl() if polars else result
    if target is None:
        return answer
    ipython.user_ns[target] = answer
    return None
