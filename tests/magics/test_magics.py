"""The magics in a real IPython shell: queries, errors in one line, and the Tab key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.magics.completion import Catalogue, suggest_sql

KNOWN = Catalogue(
    {"executions": ("model", "latency", "task"), "loads": ("model", "seconds")},
    ("count", "median"),
)


@pytest.fixture
def shell() -> Iterator[Any]:
    """Return a real IPython shell with the extension loaded."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    ip = InteractiveShell(config=config)
    ip.run_line_magic("load_ext", "ravenxterm_lab")
    yield ip
    ip.cleanup()


def test_the_magics_query_bind_and_explain(shell: Any, tmp_path: Path) -> None:
    """%%raven_sql binds $name, stores with -o, gives polars with -p; errors are one line."""
    import polars as pl
    from IPython.core.error import UsageError

    from ravenxterm_lab import ModelManager

    manager = ModelManager(tmp_path / "none")
    shell.user_ns["manager"] = manager
    manager.record_execution_metrics("mine", {"latency": 0.5})
    shell.user_ns["wanted"] = "mine"
    query = "SELECT latency FROM executions WHERE model = $wanted"
    assert shell.run_cell_magic("raven_sql", "", query).fetchall() == [(0.5,)]
    assert isinstance(shell.run_cell_magic("raven_sql", "-p", query), pl.DataFrame)
    assert shell.run_cell_magic("raven_sql", "-o kept", query) is None
    assert shell.user_ns["kept"].fetchall() == [(0.5,)]
    assert "executions" in str(shell.run_line_magic("raven", "status"))
    assert len(shell.run_line_magic("raven", "select embedding")) == 0
    for line, cell, expected in (
        ("", "SELECT $unknown_name", r"\$unknown_name is not a variable"),
        ("", "DELETE FROM executions", "read-only"),
        ("", "SELEC 1", "syntax error"),
        ("--what", "SELECT 1", "does not know"),
    ):
        with pytest.raises(UsageError, match=expected) as caught:
            shell.run_cell_magic("raven_sql", line, cell)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="Did you mean 'status'"):
        shell.run_line_magic("raven", "statu")


@pytest.mark.parametrize(
    ("query", "typed", "first", "absent"),
    [
        ("SELECT la| FROM executions", "la", ["latency"], []),
        ("SELECT e.| FROM executions AS e", "", ["model", "latency", "task"], ["seconds", "FROM"]),
        ("SELECT '€', \"e\".la| FROM executions e", "la", ["latency"], []),
        ("SELECT l.se| FROM executions JOIN loads l USING (model)", "se", ["seconds"], []),
        ("FROM |", "", ["executions", "loads"], ["model", "SELECT"]),
        ("FROM executions, |", "", ["executions", "loads"], ["model"]),
        ("SELECT model, | FROM executions", "", ["model", "latency"], ["seconds"]),
        ("WITH mine AS (SELECT 1) FROM |", "", ["mine", "executions"], ["model"]),
        ("SELECT med|", "med", ["median("], ["model"]),
        ("gro|", "gro", ["GROUP BY"], ["latency"]),
        ("SELECT $w|", "$w", ["$wanted"], ["$_private", "$module"]),
        ("SELECT 'la|", "la", [], ["latency"]),
        ("SELECT 1 -- la|", "la", [], ["latency"]),
        ("SELECT 1 -- why\n, la| FROM executions", "la", ["latency"], []),
        ("SELECT nothing.| FROM executions", "", [], ["model"]),
    ],
)
def test_what_may_stand_at_the_cursor(
    query: str, typed: str, first: list[str], absent: list[str]
) -> None:
    """Columns of the tables in the query, tables after FROM, variables after $; none in texts."""
    cursor = query.index("|")
    variables = {"wanted": 1, "_private": 2, "module": pytest}
    written, found = suggest_sql(query.replace("|", ""), cursor, KNOWN, variables)
    texts = [suggestion.text for suggestion in found]
    assert written == typed
    assert texts[: len(first)] == first
    assert bool(texts) == bool(first)
    assert not set(absent) & set(texts)


@given(st.text(alphabet="SELECT FROM,.'\"$-/*()\n\\ä€x\0", max_size=40), st.data())
def test_no_query_however_broken_raises(query: str, data: st.DataObject) -> None:
    """Whatever was typed so far, and wherever the cursor is."""
    cursor = data.draw(st.integers(0, len(query)))
    typed, found = suggest_sql(query, cursor, KNOWN, {})
    assert query[:cursor].endswith(typed)
    assert all(one.text.lower().startswith(typed.lower()) for one in found)


def complete(shell: Any, cell: str) -> list[str]:
    """Press Tab where the bar is, as Jupyter does."""
    from IPython.core.completer import provisionalcompleter, rectify_completions

    cursor = cell.index("|")
    text = cell.replace("|", "", 1)
    with provisionalcompleter():
        found = list(rectify_completions(text, shell.Completer.completions(text, cursor)))
    return [text[one.start : one.start] + one.text for one in found]


def test_the_tab_key_knows_tables_columns_variables_tasks_and_models(
    shell: Any, tmp_path: Path
) -> None:
    """In the real completer; what the magics suggest is not mixed with Python names."""
    from ravenxterm_lab import ModelManager

    shell.user_ns["manager"] = ModelManager(tmp_path / "none")
    shell.user_ns["wanted"] = "mine"
    assert complete(shell, "%%raven_sql\nSELECT time_to| FROM executions") == [
        "time_to_first_token"
    ]
    assert complete(shell, "%%raven_sql -p\nSELECT * FROM hardware_sam|") == ["hardware_samples"]
    assert complete(shell, "%%raven_sql\nFROM executions\nWHERE model = $wan|") == ["$wanted"]
    assert complete(shell, "%%raven_sql --pol|") == ["--polars"]
    assert complete(shell, "%raven st|") == ["status"]
    assert "wanted" in complete(shell, "wan|")


@pytest.mark.models
def test_the_tab_key_knows_tasks_and_models(shell: Any, demo_directory: Path) -> None:
    """Those that were found on this machine."""
    from ravenxterm_lab import ModelManager

    shell.user_ns["manager"] = ModelManager(demo_directory)
    assert complete(shell, "%raven select text_g|") == ["text_generation"]
    assert complete(shell, "%raven why silero|") == ["silero_vad", "silero_vad_16k"]
    assert complete(shell, "%raven why smollm2-135m-instruct.q4_1|") == [
        "SmolLM2-135M-Instruct.Q4_1"
    ]


def test_loading_the_extension_twice_suggests_once(shell: Any) -> None:
    """A cell that loads it is often run again."""
    before = len(shell.Completer.custom_matchers)
    shell.run_line_magic("reload_ext", "ravenxterm_lab")
    assert len(shell.Completer.custom_matchers) == before
    assert complete(shell, "%raven st|") == ["status"]
