"""Shared by the tests of the store: children that are forked, traced, limited and killed."""

import pytest
from store_zygote import Zygote


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    """Return the process that forks children; whatever it forked is dead afterwards."""
    process = Zygote(tmp_path_factory.mktemp("children"))
    yield process
    process.close()
