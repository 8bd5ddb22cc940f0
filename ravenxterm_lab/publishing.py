"""Execute a notebook, and write it as one HTML file that needs no network to be read."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ravenxterm_lab._imports import require
from ravenxterm_lab.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Published", "execute_notebook", "notebooks_directory"]

PLOTLY_MIME = "application/vnd.plotly.v1+json"
_CELL_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Published:
    """Where an executed notebook went: the notebook and its HTML."""

    notebook: Path
    html: Path


def notebooks_directory() -> Path:
    """Return the directory of the notebooks that come with this package.

    Raises
    ------
    ConfigurationError
        If this installation has none.
    """
    checkout = Path(__file__).resolve().parent.parent / "notebooks"
    packaged = Path(str(resources.files("ravenxterm_lab"))) / "_notebooks"
    for directory in (checkout, packaged):
        if any(directory.glob("*.ipynb")):
            return directory
    raise ConfigurationError("This installation of ravenxterm_lab holds no notebooks; reinstall.")


@contextmanager
def _private_jupyter() -> Iterator[Path]:
    """Keep Jupyter's connection files and IPython's history in a temporary directory."""
    names = ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    before = {name: os.environ.get(name) for name in names}
    # Short names: the path of a socket may have about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="rx-") as scratch:
        for number, name in enumerate(names):
            os.environ[name] = str(Path(scratch) / str(number))
        try:
            yield Path(scratch)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def execute_notebook(source: Path, target_directory: Path, *, progress: bool = True) -> Published:
    """Execute a notebook in a fresh kernel and write the result beside its HTML.

    Parameters
    ----------
    source : Path
        The notebook; it is not changed.
    target_directory : Path
        Gets ``<name>.ipynb`` and ``<name>.html``; created when needed.
    progress : bool
        Show a progress bar, in cells.

    Raises
    ------
    ConfigurationError
        If there is no such notebook, a cell fails (its error is named; what ran until then is
        written all the same), or the target cannot be written.
    MissingPackageError
        If the ``lab`` extra is not installed.
    """
    nbformat = require("nbformat", "to execute a notebook")
    nbclient = require("nbclient", "to execute a notebook")
    require("nbconvert", "to write a notebook as HTML")
    if not source.is_file():
        raise ConfigurationError(f"There is no notebook {source}.")
    notebook = nbformat.read(source, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    bar = tqdm(total=cells, desc=source.name, unit="cell", disable=not progress)

    def one_more(cell: Any, **_: Any) -> None:
        if cell.cell_type == "code":
            bar.update()

    failure = None
    with bar, _private_jupyter() as scratch:
        config = require("traitlets.config", "to execute a notebook").Config()
        # Sockets in the private directory instead of TCP ports that others could connect to.
        config.KernelManager.transport = "ipc"
        config.KernelManager.ip = str(scratch / "kernel")
        client = nbclient.NotebookClient(
            notebook,
            config=config,
            kernel_name="python3",
            timeout=_CELL_SECONDS,
            resources={"metadata": {"path": str(source.parent)}},
            on_cell_executed=one_more,
            # Saved widget state is megabytes a figure; what is saved must stay readable and small.
            store_widget_state=False,
        )
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            failure = error
    try:
        target_directory.mkdir(parents=True, exist_ok=True)
        published = Published(
            target_directory / source.name, target_directory / f"{source.stem}.html"
        )
        nbformat.write(notebook, published.notebook)
        published.html.write_text(as_html(notebook, source.stem), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot write to {target_directory}: {error}.") from error
    if failure is not None:
        raise ConfigurationError(
            f"A cell of {source.name} failed with {failure.ename}: {failure.evalue}. "
            f"What ran until then is in {published.notebook}."
        )
    return published


def as_html(notebook: Any, title: str) -> str:
    """Return an executed notebook as one HTML page without any outside request.

    plotly's script is put in once, from the installed package; nbconvert's links to script
    hosts (MathJax, RequireJS, widgets) are left out.
    """
    nbconvert = require("nbconvert", "to write a notebook as HTML")
    page = copy.deepcopy(notebook)
    page.metadata["title"] = title
    first = True
    for cell in page.cells:
        for output in cell.get("outputs", []):
            figure = output.get("data", {}).get(PLOTLY_MIME)
            if figure is not None:
                output["data"] = {"text/html": _figure_html(figure, with_script=first)}
                first = False
    exporter = nbconvert.HTMLExporter(
        mathjax_url="", require_js_url="", jquery_url="", widget_renderer_url="",
        mermaid_js_url="", embed_images=True,
    )  # fmt: skip
    body, _ = exporter.from_notebook_node(page)
    return str(body)


def _figure_html(figure: dict[str, Any], *, with_script: bool) -> str:
    import plotly.io

    return str(
        plotly.io.to_html(
            {"data": figure["data"], "layout": figure["layout"]},
            config=figure.get("config", {}),
            full_html=False,
            include_plotlyjs=with_script,
            include_mathjax=False,
            validate=False,
        )
    )


def copy_notebooks(target_directory: Path) -> list[Path]:
    """Copy the packaged notebooks to a place where they can be edited; existing ones are kept."""
    target_directory.mkdir(parents=True, exist_ok=True)
    copied = []
    for source in sorted(notebooks_directory().glob("*.ipynb")):
        target = target_directory / source.name
        if not target.exists():
            shutil.copyfile(source, target)
        copied.append(target)
    return copied
