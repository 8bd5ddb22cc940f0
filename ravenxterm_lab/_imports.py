"""Optional packages: a missing one fails when it is used, and names the extra to install."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from ravenxterm_lab.exceptions import MissingPackageError

__all__ = ["is_installed", "require"]

_EXTRA_OF = {
    "xllamacpp": "runtimes",
    "onnxruntime": "runtimes",
    "tokenizers": "runtimes",
    "fasttext": "runtimes",
    "gguf": "runtimes",
    "jupyterlab": "lab",
    "nbclient": "lab",
    "nbconvert": "lab",
    "nbformat": "lab",
    "voila": "voila",
}


def is_installed(package: str) -> bool:
    """Say whether a top-level package could be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, why: str) -> Any:
    """Import and return an optional package.

    Parameters
    ----------
    package : str
        The name to import.
    why : str
        What needs it, to complete the sentence "… is needed …".

    Raises
    ------
    MissingPackageError
        If it is not installed; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        root = package.partition(".")[0]
        extra = _EXTRA_OF.get(root)
        target = f'"ravenxterm-lab[{extra}]"' if extra else root
        raise MissingPackageError(
            f"{root} is needed {why} and cannot be imported ({error}). "
            f"Install it with: pip install {target}",
            name=root,
        ) from error
