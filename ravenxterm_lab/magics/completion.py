"""What the Tab key suggests in ``%raven`` lines and ``%%raven_sql`` cells."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RavenXTermError
from ravenxterm_lab.magics.commands import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ravenxterm_lab.models import ModelManager

__all__ = ["Catalogue", "Suggestion", "matcher_for", "suggest_sql"]

_FRAGMENT = re.compile(r"\$?\w*\Z")
_QUALIFIER = re.compile(r'(?:(\w+)|"([^"]+)")\.\Z')
# What a table's name follows; a comma continues FROM.
_TABLE_WORDS = frozenset({"FROM", "JOIN", "DESCRIBE", "SUMMARIZE"})
# After these words, or at the start, comes something that is no table.
_CLAUSE_WORDS = frozenset({
    "SELECT", "WHERE", "GROUP", "BY", "ORDER", "HAVING", "QUALIFY", "LIMIT", "ON", "USING", "AND",
    "OR", "NOT", "CASE", "WHEN", "THEN", "ELSE", "FILTER", "DISTINCT", "WITH", "UNION", "OVER",
})  # fmt: skip
_KEYWORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "HAVING", "QUALIFY", "LIMIT", "JOIN",
    "LEFT JOIN", "ON", "USING", "AS", "AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE",
    "IS NULL", "IS NOT NULL", "CASE", "WHEN", "THEN", "ELSE", "END", "DISTINCT", "FILTER",
    "OVER", "WITH", "UNION ALL", "INTERVAL", "DESC", "ASC", "NULLS LAST", "ALL", "DESCRIBE",
    "SUMMARIZE",
)  # fmt: skip
_OPTIONS = ("-p", "--polars", "-o", "--output")
#: What can be bound as a parameter.
_BINDABLE = (str, int, float, bool, bytes, list, tuple, dict, dt.date, dt.timedelta)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One completion: the text that replaces what was typed, and what kind of thing it is."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a query can name.

    Attributes
    ----------
    tables : mapping of str to tuple of str
        Columns by table or view, in order.
    functions : tuple of str
        Scalar and aggregate functions.
    """

    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    functions: tuple[str, ...] = ()

    @classmethod
    def of(cls, manager: ModelManager) -> Catalogue:
        """Ask the store for its tables, and DuckDB for its functions.

        Parameters
        ----------
        manager : ModelManager
            Whose store.

        Raises
        ------
        StoreError, QueryError
            If the store cannot be read.
        """
        tables: dict[str, list[str]] = {}
        for table, column in manager.sql(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal "
            "GROUP BY ALL ORDER BY table_name, min(column_index)"
        ).fetchall():
            tables.setdefault(table, []).append(column)
        functions = manager.sql(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE function_type IN ('scalar', 'aggregate', 'macro') "
            "AND regexp_full_match(function_name, '[a-z][a-z0-9_]*') ORDER BY 1"
        ).fetchall()
        return cls(
            {table: tuple(columns) for table, columns in tables.items()},
            tuple(name for (name,) in functions),
        )


def suggest_sql(
    query: str, cursor: int, catalogue: Catalogue, variables: Mapping[str, Any]
) -> tuple[str, list[Suggestion]]:
    """Say what may stand at the cursor of a query.

    Parameters
    ----------
    query : str
        The whole cell below its first line; the part behind the cursor counts too, since the
        tables of a ``SELECT`` follow its columns.
    cursor : int
        Offset into the query (characters).
    catalogue : Catalogue
        Tables, columns and functions.
    variables : mapping of str to object
        The notebook's; those that a parameter can hold are suggested after ``$``.

    Returns
    -------
    tuple of str and list of Suggestion
        What was typed of the name, and the completions, the likeliest kind first.

    Examples
    --------
    >>> known = Catalogue({"executions": ("model", "latency")})
    >>> suggest_sql("SELECT la FROM executions", 9, known, {})
    ('la', [Suggestion(text='latency', kind='column')])
    """
    before = query[:cursor]
    found = _FRAGMENT.search(before)
    typed = found[0] if found else ""
    if _in_text_or_comment(query, cursor):
        return typed, []
    if typed.startswith("$"):
        bound = (name for name, value in variables.items() if _can_be_bound(name, value))
        return typed, _matching(typed, [(f"${name}", "variable") for name in sorted(bound)])
    own, aliases = _names_in(query)
    qualifier = _QUALIFIER.search(before[: len(before) - len(typed)])
    if qualifier:
        table = qualifier[1] or qualifier[2]
        table = aliases.get(table.lower(), table)
        of_it = catalogue.tables.get(table.lower(), ())
        return typed, _matching(typed, [(column, "column") for column in of_it])
    tables = [(name, "table") for name in (*sorted(own), *catalogue.tables)]
    if _after_table_word(before[: len(before) - len(typed)]):
        return typed, _matching(typed, tables)
    mentioned = [t for t in dict.fromkeys(aliases.values()) if t in catalogue.tables]
    columns = [(c, "column") for t in mentioned for c in catalogue.tables[t]]
    if not mentioned:
        columns = [(c, "column") for known in catalogue.tables.values() for c in known]
    names = [(name, "alias") for name in aliases if name not in catalogue.tables]
    words = [(word, "keyword") for word in _KEYWORDS]
    functions = [(f"{name}(", "function") for name in catalogue.functions] if typed else []
    return typed, _matching(typed, [*columns, *names, *words, *functions, *tables])


def matcher_for(ipython: Any, manager: Callable[[], ModelManager]) -> Any:
    """Return a matcher (IPython's API, version 2) for both magics.

    Parameters
    ----------
    ipython : IPython.core.interactiveshell.InteractiveShell
        Whose variables are suggested.
    manager : callable
        Returns the manager to ask; nothing is asked before the Tab key was pressed in one of
        the two magics.
    """
    from IPython.core.completer import SimpleCompletion, context_matcher

    known: list[tuple[ModelManager, Catalogue]] = []

    def catalogue() -> Catalogue:
        asked = manager()
        if not known or known[0][0] is not asked:
            known[:] = [(asked, Catalogue.of(asked))]
        return known[0][1]

    @context_matcher(identifier="ravenxterm_lab")  # type: ignore[untyped-decorator]
    def match(context: Any) -> dict[str, Any]:
        nothing: dict[str, Any] = {"completions": [], "suppress": False}
        lines = context.full_text.split("\n")
        before = lines[context.cursor_line][: context.cursor_position]
        try:
            if context.cursor_line == 0 and before.startswith("%%raven_sql "):
                typed, found = _suggest_words(before, [(option, "option") for option in _OPTIONS])
            elif lines[0].startswith("%%raven_sql") and context.cursor_line > 0:
                above = "\n".join([*lines[1 : context.cursor_line], before])
                whole = "\n".join(lines[1:])
                typed, found = suggest_sql(whole, len(above), catalogue(), ipython.user_ns)
            elif before.lstrip().startswith("%raven "):
                typed, found = _suggest_line(before.lstrip(), manager)
            else:
                return nothing
        except RavenXTermError:
            # A store that cannot be read says so when the query is run.
            return nothing
        return {
            "completions": [SimpleCompletion(text=s.text, type=s.kind) for s in found],
            "matched_fragment": typed,
            "suppress": True,
            "ordered": True,
        }

    match.ravenxterm_lab = True
    return match


def _suggest_line(before: str, manager: Callable[[], ModelManager]) -> tuple[str, list[Suggestion]]:
    words = before.split(" ")
    if len(words) == 2:
        return _suggest_words(before, [(action, "action") for action in ACTIONS])
    models = manager().registry.available_models
    if words[1] == "select":
        tasks = sorted({task for model in models.values() for task in model.task_types})
        return _suggest_words(before, [(task, "task") for task in tasks])
    if words[1] == "why":
        return _suggest_words(before, [(name, "model") for name in sorted(models)])
    return words[-1], []


def _suggest_words(before: str, words: Iterable[tuple[str, str]]) -> tuple[str, list[Suggestion]]:
    typed = before.rsplit(" ", 1)[-1]
    return typed, _matching(typed, words)


def _matching(typed: str, names: Iterable[tuple[str, str]]) -> list[Suggestion]:
    start = typed.lower()
    unique = dict.fromkeys((text, kind) for text, kind in names if text.lower().startswith(start))
    shown: dict[str, Suggestion] = {}
    for text, kind in unique:
        shown.setdefault(text, Suggestion(text, kind))
    return list(shown.values())


def _can_be_bound(name: str, value: object) -> bool:
    return not name.startswith("_") and isinstance(value, _BINDABLE) and name not in {"In", "Out"}


def _tokens(query: str) -> list[tuple[str, str]]:
    """Return DuckDB's own tokens of a query, comments left out: kind and text of each."""
    import duckdb

    # Its offsets count bytes.
    raw = query.encode("utf-8", "replace")
    marks = [(offset, kind.name) for offset, kind in duckdb.tokenize(raw.decode())]
    ends = [*(offset for offset, _ in marks), len(raw)][1:]
    tokens = zip(marks, ends, strict=True) if marks else ()
    return [
        (kind, raw[at:end].decode("utf-8", "replace"))
        for (at, kind), end in tokens
        if kind != "comment" or end == len(raw)
    ]


def _in_text_or_comment(query: str, cursor: int) -> bool:
    tokens = _tokens(query[:cursor])
    if not tokens:
        return False
    kind, written = tokens[-1]
    if kind == "comment":
        return not written.rstrip(" ").endswith(("\n", "*/"))
    written = written.rstrip()
    return kind == "string_const" and (len(written) == 1 or not written.endswith("'"))


def _names_in(query: str) -> tuple[set[str], dict[str, str]]:
    """Return the query's own tables (WITH), and the table behind each name that it uses."""
    tokens = [(kind, text.strip()) for kind, text in _tokens(query) if kind != "comment"]
    own: set[str] = set()
    aliases: dict[str, str] = {}
    for index, (kind, text) in enumerate(tokens):
        after = [word for _, word in tokens[index + 1 : index + 3]]
        if kind == "identifier" and after[:1] == ["AS"] and after[1:2] == ["("]:
            own.add(text)
        word = text.upper()
        if word not in _TABLE_WORDS and not (text == "," and _in_from(tokens[:index])):
            continue
        if index + 1 >= len(tokens) or tokens[index + 1][0] != "identifier":
            continue
        table = tokens[index + 1][1].strip('"').lower()
        aliases.setdefault(table, table)
        rest = tokens[index + 2 : index + 4]
        if rest and rest[0][1].upper() == "AS":
            rest = rest[1:]
        if rest and rest[0][0] == "identifier":
            aliases[rest[0][1].strip('"').lower()] = table
    return {name.lower() for name in own}, aliases


def _in_from(tokens: list[tuple[str, str]]) -> bool:
    for _, text in reversed(tokens):
        word = text.upper()
        if word in _TABLE_WORDS:
            return True
        if word in _CLAUSE_WORDS or text in {"(", ")"}:
            return False
    return False


def _after_table_word(before: str) -> bool:
    tokens = [(kind, text.strip()) for kind, text in _tokens(before) if kind != "comment"]
    if not tokens:
        return False
    last = tokens[-1][1].upper()
    return last in _TABLE_WORDS or (last == "," and _in_from(tokens[:-1]))
