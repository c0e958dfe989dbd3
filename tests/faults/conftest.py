"""One server a worker: it takes ten seconds until it has imported all that commands need."""

from __future__ import annotations

import pytest

from faults.server import Server, compile_shim


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """The compiled shim; None where there is no C compiler."""
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def server(tmp_path_factory, shim):
    """A process that forks a child a command."""
    with Server(tmp_path_factory.mktemp("server"), shim=shim) as running:
        yield running


@pytest.fixture
def injector(server, shim):
    """The same, which can spoil calls."""
    if shim is None:
        pytest.skip("needs Linux and a C compiler")
    return server
