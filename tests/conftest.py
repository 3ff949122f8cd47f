"""Settings of the whole test run, and the runs that many tests look at."""

import os

# Small products on two threads spend their time waiting for each other. Set before NumPy and
# torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import fork_server
import grids
import pytest


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """The folder of a finished run over random local models and token ids, and its config."""
    where = tmp_path_factory.mktemp("local")
    config = grids.make(where)
    grids.run(where, config)
    return where, config


@pytest.fixture(scope="session")
def screened(local):
    """Results of the same grid in the screened mode."""
    return grids.run(*local, mode="screened")


@pytest.fixture(scope="session")
def direct(local):
    """Results of the same grid without stored activations."""
    return grids.run(*local, mode="direct")


def pytest_sessionfinish():
    fork_server.stop()
