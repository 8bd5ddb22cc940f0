"""Every notebook runs with real models, stays small, and can be read without a network."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest

from ravenxterm_lab.exceptions import ConfigurationError
from ravenxterm_lab.publishing import PLOTLY_MIME, copy_notebooks, execute_notebook

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.models
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_result_is_small_and_whole(
    source: Path, demo_directory: Path, home: Path
) -> None:
    """No cell fails, every code cell ran, the file is under 100 kB, the HTML asks nobody."""
    (home / "models").mkdir(parents=True)
    (home / "models" / "demo").symlink_to(demo_directory)
    before = source.read_bytes()
    published = execute_notebook(source, home / "out", progress=False)
    assert source.read_bytes() == before
    notebook = nbformat.read(published.notebook, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert any(PLOTLY_MIME in output.get("data", {}) for output in outputs)
    assert published.notebook.stat().st_size < 100_000
    page = published.html.read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]*"', page) == []
    assert page.count('class="plotly-graph-div"') == sum(
        PLOTLY_MIME in output.get("data", {}) for output in outputs
    )


def test_committed_notebooks_hold_no_outputs() -> None:
    """What is under version control was stripped."""
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path.name


def write(path: Path, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(notebook, path)
    return path


def test_a_failing_cell_is_named_and_what_ran_is_kept(tmp_path: Path) -> None:
    """The error says which exception it was; the outputs until then are on disk."""
    source = write(tmp_path / "n.ipynb", "print('first')", "1 / 0", "print('never')")
    with pytest.raises(ConfigurationError, match=r"n\.ipynb failed with ZeroDivisionError"):
        execute_notebook(source, tmp_path / "out", progress=False)
    assert "first" in (tmp_path / "out" / "n.html").read_text()


def test_a_notebook_s_kernel_writes_no_jupyter_files_into_the_home_of_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connection files and history go to a temporary directory, and the environment is restored."""
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.delenv("IPYTHONDIR", raising=False)
    (tmp_path / "person").mkdir()
    source = write(tmp_path / "n.ipynb", "import os; print(os.environ['JUPYTER_RUNTIME_DIR'])")
    published = execute_notebook(source, tmp_path / "out", progress=False)
    place = nbformat.read(published.notebook, as_version=4).cells[0].outputs[0].text.strip()
    assert not Path(place).exists()
    assert list((tmp_path / "person").iterdir()) == []
    assert "IPYTHONDIR" not in os.environ


def test_copies_for_editing_keep_what_a_person_changed(tmp_path: Path) -> None:
    """Packaged notebooks are copied once; an edited copy is left alone."""
    copied = copy_notebooks(tmp_path / "mine")
    assert [path.name for path in copied] == [path.name for path in NOTEBOOKS]
    copied[0].write_text("edited")
    copy_notebooks(tmp_path / "mine")
    assert copied[0].read_text() == "edited"
