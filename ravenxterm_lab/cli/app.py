"""``raven-lab app``: the dashboard as a page of its own, served by Voilà to this machine only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ravenxterm_lab._imports import require
from ravenxterm_lab.config import HOME_VARIABLE, paths

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "app", "write_dashboard"]

_CELL = """\
from ravenxterm_lab import ModelManager
from ravenxterm_lab.widgets import Dashboard

manager = ModelManager()
Dashboard(manager)"""

# Beside this module lie a template without links to other machines, and a setting by which the
# browser itself is told to ask none: widgets are scripts in the page and from blobs, and plotly
# makes styles and pictures as it goes.
_PLACE = Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--port", type=int, default=8866, metavar="N", help="default: 8866")
    parser.add_argument(
        "--theme", choices=["light", "dark"], default="light", help="default: light"
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("extra", nargs="*", help="passed on to Voilà, after --")


def app(options: argparse.Namespace) -> None:
    """Serve the dashboard: this process becomes Voilà's, so that what ends it ends the page too.

    It listens on this machine's own address and asks for a token, which is in the address that
    it prints. A page that is open has a kernel of its own, which ends with it; one whose page was
    lost ends when it has been idle for five minutes.
    """
    require("voila", "to serve the dashboard as an app")
    place = paths(options.home)
    notebook = write_dashboard(place.notebooks)
    command = [
        sys.executable, "-m", "voila", str(notebook),
        "--template=raven-lab", f"--theme={options.theme}", f"--port={options.port}",
        "--token", "--Voila.ip=127.0.0.1",
        *(["--no-browser"] if options.no_browser else []), *options.extra,
    ]  # fmt: skip
    environment = {
        **os.environ,
        HOME_VARIABLE: str(place.home),
        "JUPYTER_PATH": _first(_PLACE, "JUPYTER_PATH"),
        "JUPYTER_CONFIG_PATH": _first(_PLACE / "voila", "JUPYTER_CONFIG_PATH"),
    }
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter


def _first(place: Path, variable: str) -> str:
    """Return what a variable of paths becomes when a place comes before the others."""
    return os.pathsep.join([str(place), *filter(None, [os.environ.get(variable)])])


def write_dashboard(directory: Path) -> Path:
    """Write the notebook that shows the dashboard, unless there is one; return its path.

    Parameters
    ----------
    directory : Path
        Gets ``dashboard.ipynb``; created when needed.
    """
    nbformat = require("nbformat", "to write the dashboard's notebook")
    path = directory / "dashboard.ipynb"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(_CELL)],
            metadata={
                "title": "RavenXTerm Lab",
                "kernelspec": {
                    "display_name": "Python 3", "language": "python", "name": "python3"
                },
            },
        )  # fmt: skip
        nbformat.write(notebook, path)
    return path
