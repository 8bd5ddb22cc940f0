"""The ``raven-lab`` command.

scan, models, select, run, bench, estimate, sql, store, status, demo, lab, app, notebook.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ravenxterm_lab import __version__
from ravenxterm_lab.cli import app, bench, commands, space, upkeep
from ravenxterm_lab.exceptions import RavenXTermError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; by default those of the process.

    Returns
    -------
    int
        0 when it worked, 1 when it did not (one line on standard error says why), 130 when
        it was interrupted; unusable arguments exit with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or 0)
    except RavenXTermError as error:
        print(f"raven-lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("raven-lab: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (such as `head`) has seen enough; a traceback would help nobody.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raven-lab", description=__doc__)
    parser.add_argument("--version", action="version", version=f"raven-lab {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, *, models: bool = True) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--home", help="instead of RAVENXTERM_HOME")
        sub.add_argument("--json", action="store_true", help="print JSON")
        if models:
            sub.add_argument(
                "--models-dir", action="append", metavar="DIR",
                help="where to look (may be repeated); default: the well-known stores",
            )  # fmt: skip
        return sub

    add(
        "scan",
        commands.scan,
        "Look for models, and say what was added, changed, removed and skipped.",
    )
    _add_models(
        add("models", commands.models, "List the models, see what could be freed, free it.")
    )
    select = add("select", commands.select, "Rank the models for a task, with reasons.")
    select.add_argument("task", help="such as text_generation or embedding")
    select.add_argument("--top-k", type=int, metavar="N", help="at most N candidates")
    run = add(
        "run", commands.run, "Select a model, run it, record the execution, print the answer."
    )
    run.add_argument("task", help="such as text_generation or embedding")
    run.add_argument("input", help="the prompt or text; - reads standard input")
    run.add_argument("--max-tokens", type=int, default=128, metavar="N")
    for sub in (select, run):
        sub.add_argument(
            "-r", "--require", action="append", default=[], metavar="KEY=VALUE",
            help="a requirement, such as max_size_bytes=2e9 or quantizations=Q4_0,Q8_0",
        )  # fmt: skip
    bench.add_arguments(add("bench", bench.bench, "Run models side by side, and record every run."))
    estimate = add(
        "estimate", commands.estimate, "Say what models take and how fast they are, before a load."
    )
    estimate.add_argument("name", nargs="?", help="a model; without one: all of them")
    estimate.add_argument(
        "--hardware", metavar="TEXT", help='another machine, such as "RTX 4090 24GB, 64 GiB RAM"'
    )
    estimate.add_argument("--context", type=int, metavar="N", help="tokens to make room for")
    sql = add("sql", commands.sql, "Run one read-only SQL query over everything that was recorded.")
    sql.add_argument("query")
    _add_store(verbs)
    add("status", commands.status, "Show models, hardware, memory, history and messages.")
    demo = add(
        "demo", commands.demo, "Fetch a small set of real models, run them, and show the result.",
        models=False,
    )  # fmt: skip
    demo.add_argument("-y", "--yes", action="store_true", help="download without asking")
    demo.add_argument("--with-gemma", action="store_true", help="fetch Gemma 3 270M too (232 MiB)")
    demo.add_argument("--fetch-only", action="store_true", help="only bring the models")
    lab = add("lab", commands.lab, "Open JupyterLab on the notebooks.", models=False)
    lab.add_argument("extra", nargs="*", help="passed on to JupyterLab, after --")
    app.add_arguments(
        add("app", app.app, "Serve the dashboard as a page of its own.", models=False)
    )
    notebook = add(
        "notebook", commands.notebook, "Execute a notebook and write its HTML.", models=False
    )
    notebook.add_argument("notebook", help="a path, or a name from the packaged notebooks")
    notebook.add_argument("--out", metavar="DIR", help="default: $RAVENXTERM_HOME/notebooks")
    return parser


def _add_models(models: argparse.ArgumentParser) -> None:
    actions = models.add_subparsers(metavar="ACTION", help="without one: list")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        # What was given before the action holds unless it is given again.
        for option in ("--home", "--models-dir"):
            sub.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS,
                             action="append" if option == "--models-dir" else "store")  # fmt: skip
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
        )
        return sub

    add("list", commands.models, "List the models with their facts.")
    used = add("space", space.space, "Show what they take on disk, and what could be freed.")
    used.add_argument(
        "--unused-days", type=float, default=30.0, metavar="N", help="default: 30 days"
    )
    trash = add(
        "trash", space.trash, "Move models to the trash; without names, show what is in it."
    )
    trash.add_argument("names", nargs="*", metavar="NAME", help="a model, a copy's path, an id")
    trash.add_argument("--everywhere", action="store_true", help="every copy of them too")
    trash.add_argument("--dry-run", action="store_true", help="only say what would move")
    restore = add("restore", space.restore, "Move models back from the trash to where they were.")
    restore.add_argument("names", nargs="+", metavar="NAME", help="a model, or an id")
    empty = add("empty-trash", space.empty_trash, "Delete what is in the trash for good.")
    empty.add_argument("-y", "--yes", action="store_true", help="required: it cannot be undone")
    empty.add_argument(
        "--older-than-days", type=float, metavar="N", help="only what was trashed so long ago"
    )


def _add_store(verbs: Any) -> None:
    text = "Look after the metric store: info, check, compact, export, restore."
    store = verbs.add_parser("store", help=text, description=text)
    actions = store.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--home", help="instead of RAVENXTERM_HOME")
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    add("info", upkeep.info, "Show rows, bytes, what waits, its lag, and who ingests.")
    add(
        "check",
        upkeep.check,
        "Prove that no event is missing and none is there twice; exit code 1 if one is.",
    )
    compact = add("compact", upkeep.compact, "Rewrite the database, and give free space back.")
    compact.add_argument(
        "--if-worthwhile", action="store_true", help="only where much is to be gained"
    )
    export = add("export", upkeep.export, "Write rows as Parquet, and remove them on request.")
    export.add_argument(
        "path", help="NAME.parquet for one file, any other name for a directory of months"
    )
    export.add_argument("--table", default="executions", help="default: executions")
    for name, help_text in (("--since", "from this time on"), ("--until", "before this time")):
        export.add_argument(
            name, metavar="TIME", help=f"{help_text}, such as 2026-01-31 or 2026-01-31T12:00 (UTC)"
        )
    export.add_argument(
        "--remove", action="store_true", help="then remove exactly these rows from the database"
    )
    restore = add("restore", upkeep.restore, "Bring rows back that an export wrote, each once.")
    restore.add_argument("path", help="a Parquet file, or a directory of them")
