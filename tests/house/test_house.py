"""The house itself: lint, format, types, import rules, module size, docstrings, exports."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ravenxterm_lab

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "ravenxterm_lab"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ravenxterm_lab.__path__, "ravenxterm_lab.")
    if not module.name.endswith("__main__") and "_alias" not in module.name
)


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
        ["nbstripout", "--verify"],
    ],
    ids=" ".join,
)
def test_the_habit_holds(command: list[str]) -> None:
    """The tool that CONTRIBUTING.md names finds nothing."""
    tool = Path(sys.executable).parent / command[0]
    arguments = command[1:]
    if command[0] == "nbstripout":
        arguments = [
            *arguments,
            *(str(path) for path in (REPOSITORY / "notebooks").glob("*.ipynb")),
        ]
    done = subprocess.run(
        [tool, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


def test_a_module_can_be_read_in_one_sitting() -> None:
    """No module is longer than 460 lines; about 400 is what the style asks for."""
    long = {
        str(path.relative_to(REPOSITORY)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 460
    }
    assert long == {}


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_lists_as_public_is_there_and_documented(name: str) -> None:
    """Every module says what is public, and everything public has a docstring."""
    module = importlib.import_module(name)
    assert module.__doc__
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public}"
        if inspect.isclass(thing) and thing.__module__ == name:
            bare = [
                member
                for member, value in vars(thing).items()
                if not member.startswith("_")
                and (inspect.isfunction(value) or isinstance(value, (property, classmethod)))
                and not inspect.getdoc(getattr(thing, member))
            ]
            assert bare == [], f"{name}.{public}"


ROOMS = [
    "ravenxterm_lab",
    *(f"ravenxterm_lab.{room}" for room in (
        "demo", "discovery", "estimation", "hardware", "models", "plots", "readers", "runtimes",
        "selection", "store", "trash", "units", "widgets",
    )),
]  # fmt: skip


def parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in {"self", "cls"}]


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_exports_says_what_its_parameters_are(room: str) -> None:
    """A function or method with several parameters has numpydoc's section on them."""
    bare = []
    module = importlib.import_module(room)
    for name in module.__all__:
        thing = getattr(module, name)
        members = [(name, thing, ())] if inspect.isfunction(thing) else []
        if inspect.isclass(thing) and thing.__module__.startswith("ravenxterm_lab"):
            members += [
                (f"{name}.{key}", getattr(thing, key), thing.__mro__[1:])
                for key, value in vars(thing).items()
                if not key.startswith("_")
                and (inspect.isfunction(value) or isinstance(value, classmethod))
            ]
        for label, member, bases in members:
            # An override means what its base says; the fake NVML mirrors NVIDIA's functions.
            inherited = any(hasattr(base, label.rpartition(".")[2]) for base in bases)
            if inherited or ".nvml" in label or len(parameters(member)) < 2:
                continue
            if "Parameters\n" not in (inspect.getdoc(member) or ""):
                bare.append(label)
    assert bare == []


def test_both_import_names_give_the_same_things() -> None:
    """`ravenxterm.models` is `ravenxterm_lab.models`, object for object."""
    ours = importlib.import_module("ravenxterm_lab.models")
    seeds = importlib.import_module("ravenxterm.models")
    assert seeds.__all__ == ours.__all__
    assert all(getattr(seeds, name) is getattr(ours, name) for name in ours.__all__)


def test_nothing_that_is_looked_at_is_ever_unpickled_or_run() -> None:
    """No module of the package loads a pickle, evaluates text, or calls a shell."""
    forbidden = {"eval", "exec", "load", "loads", "system", "popen"}
    modules = {"pickle", "marshal", "dill", "joblib", "torch", "os", ""}
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                pair = (node.func.value.id, node.func.attr)
                if pair[0] in modules and pair[1] in forbidden:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_no_registry_host_and_no_machine_path_is_committed() -> None:
    """Files under version control name no package registry and no path of a developer's machine."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    hosts = re.compile(
        "python" + r"hosted|pypi\." + r"org|registry\.npm" + "js|/wo" + "rk/|/tmp/" + "w/"
    )
    found = [
        name
        for name in listed.stdout.split("\0")
        if name
        and not name.endswith((".png", ".parquet"))
        and hosts.search((REPOSITORY / name).read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []
