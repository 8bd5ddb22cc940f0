"""Shared by the tests of the store: children that are forked, traced, limited and killed."""

import shutil

import pytest
from store_scenes import Scene
from store_zygote import Zygote


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return the process that forks children."""
    process = Zygote(tmp_path_factory.mktemp("children"))
    yield process
    process.close()


@pytest.fixture
def zygote(loaded):
    """Return the process that forks children; whatever it forked is dead afterwards."""
    yield loaded
    loaded.rest()


@pytest.fixture
def scene(zygote, tmp_path):
    """Return a place where a child does a job under strace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    return Scene(zygote, tmp_path)
