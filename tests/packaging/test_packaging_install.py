"""The package as people install it: wheel and editable, on the oldest and a newer Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.packaging, pytest.mark.models]
REPOSITORY = Path(__file__).resolve().parents[2]
SEED = REPOSITORY.parent / "shared" / "seed" / "model_management.md"

# Runs in the fresh environment: every seed block on its own, with its placeholders made real.
RUN_SEED = """
import re, sys
from pathlib import Path
from ravenxterm.models import ModelManager, ModelRegistry
import ravenxterm.models, ravenxterm_lab
seed, models, expected = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
blocks = re.findall(r"^```python\\n(.*?)^```$", seed.read_text(encoding="utf-8"), re.M | re.S)
manager = ModelManager(models)
name = next(n for n in manager.registry.available_models if "Q4_1" in n)
for block in blocks:
    code = block.replace("/path/to/models", models).replace('"model_name"', repr(name))
    exec(compile(code, str(seed), "exec"), {
        "manager": manager, "model": manager.registry[name],
        "available_models": ModelRegistry(models).available_models,
    })
run = manager.run("text_generation", "Say hello.", parameters={"max_tokens": 4})
assert run.result.tokens_out, run
assert expected in Path(ravenxterm_lab.__file__).as_posix(), ravenxterm_lab.__file__
assert not (Path(ravenxterm.models.__file__).parents[1] / "__init__.py").exists()
print(len(blocks), "blocks", sys.version_info[:2])
"""


def interpreter(version: str) -> str:
    """Return a Python of that version on this machine, or skip."""
    names = [f"python{version}"]
    roots = [Path.home() / ".pyenv" / "versions", Path("/root/.pyenv/versions")]
    names += [
        str(p / "bin" / "python3") for root in roots for p in sorted(root.glob(f"{version}.*"))
    ]
    for name in names:
        found = shutil.which(name)
        if found is None:
            continue
        done = subprocess.run(
            [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and done.stdout.strip() == version:
            return found
    pytest.skip(f"there is no Python {version} on this machine")


def pip(python: Path, *words: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", *words, "-q", "--disable-pip-version-check"],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once."""
    target = tmp_path_factory.mktemp("dist")
    pip(Path(sys.executable), "wheel", "--no-deps", "-w", str(target), ".")
    return next(target.glob("*.whl"))


def test_the_wheel_holds_both_names_the_notebooks_and_no_strays(wheel: Path) -> None:
    """Two import names, the SQL, notebooks, the sample; no tests, no `ravenxterm/__init__.py`."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ravenxterm/models/__init__.py", "ravenxterm/models/py.typed"} <= names
    assert "ravenxterm/__init__.py" not in names
    notebooks = {path.name for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert {f"ravenxterm_lab/_notebooks/{name}" for name in notebooks} <= names
    page = {"voila.json", "templates/raven-lab/conf.json", "templates/raven-lab/index.html.j2"}
    assert {f"ravenxterm_lab/cli/voila/{name}" for name in page} <= names
    sample = {path.name for path in (REPOSITORY / "data" / "sample").iterdir()}
    assert {f"ravenxterm_lab/_sample/{name}" for name in sample} <= names
    assert any(name.endswith("0001_initial.sql") for name in names)
    top = {name.split("/")[0] for name in names}
    assert {re.sub(r"-.*", "", name) for name in top} == {"ravenxterm", "ravenxterm_lab"}
    assert not any("_alias" in name for name in names)


@pytest.mark.skipif(not SEED.is_file(), reason="the seed document is not beside this checkout")
@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_the_seed_runs_from_a_wheel_and_from_an_editable_install(
    version: str, wheel: Path, demo_directory: Path, home: Path, tmp_path: Path
) -> None:
    """Every seed block runs verbatim after either kind of installation."""
    subprocess.run([interpreter(version), "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    script = tmp_path / "run_seed.py"
    script.write_text(RUN_SEED)
    # The seed's `ModelManager()` looks into the home's own models, among other places.
    (home / "models").mkdir(parents=True)
    (home / "models" / "demo").symlink_to(demo_directory)
    models = demo_directory / "smollm2-135m-instruct"
    for kind, where in (("wheel", "site-packages"), ("editable", REPOSITORY.as_posix())):
        if kind == "wheel":
            pip(python, "install", "-c", "constraints.txt", f"{wheel}[runtimes]")
        else:
            pip(python, "install", "--no-deps", "-e", ".")
        done = subprocess.run(
            [python, script, SEED, models, where], capture_output=True, text=True, check=False,
            cwd=tmp_path, env={**os.environ, "RAVENXTERM_HOME": str(home)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.splitlines()[-1].startswith("8 blocks")
