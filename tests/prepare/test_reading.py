"""What jobs read of a corpus is what was made of it and what the configuration asks for."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import tiny

from universal_neurons.errors import UserError
from universal_neurons.prepare import corpus as corpus_module
from universal_neurons.prepare.clusters import write_clusters
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokens import FACTS, read_facts
from universal_neurons.store.files import write_json

ASKED = {"tokens": 40 * 8, "heldout_tokens": 16 * 8, "train": False}


@pytest.fixture
def corpus(tmp_path):
    """A corpus of 60 sequences, and a file that says which are scored and held out."""
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 50, (60, 8)))
    options = {"source": "tokens", "path": tmp_path / "ids.npy", "context_length": 8}
    about = corpus_module.make(
        options, {"0": tmp_path}, tmp_path / "tokens.npy", tmp_path / "c.npy"
    )
    write_json(tmp_path / "corpus.json", about)
    write_json(tmp_path / "selection.json", corpus_module.select(about, **ASKED))
    files = {"about": tmp_path / "corpus.json", "clusters": tmp_path / "c.npy"}
    return Corpus(tmp_path / "tokens.npy", **files)


def test_the_held_out_sequences_are_those_that_the_selection_names(corpus, tmp_path):
    found = corpus.held_out(tmp_path / "selection.json", **ASKED)
    np.testing.assert_array_equal(found.sequences, np.load(tmp_path / "ids.npy")[40:56])
    # The documents of a token file are not known.
    np.testing.assert_array_equal(found.documents, np.arange(40, 56))


def test_held_out_sequences_come_with_the_documents_that_they_are_of(corpus, tmp_path):
    documents = np.random.default_rng(0).integers(0, 9, 60)
    write_clusters(tmp_path / "c.npy", documents)
    found = corpus.held_out(tmp_path / "selection.json", **ASKED)
    np.testing.assert_array_equal(found.documents, documents[40:56])


@pytest.mark.parametrize("said", ["{}", "null", "[]", "3"])
def test_a_selection_that_says_nothing_is_refused(corpus, tmp_path, said):
    path = tmp_path / "selection.json"
    path.write_text(said)
    with pytest.raises(UserError, match=f"{path}: not what the configuration asks for.*rm -r"):
        corpus.held_out(path, **ASKED)


def test_a_selection_of_other_sequences_is_refused(corpus, tmp_path):
    """Held-out sequences among the scored ones would go unnoticed."""
    path = tmp_path / "selection.json"
    chosen = json.loads(path.read_text())
    write_json(path, {**chosen, "heldout_start": 0, "heldout_stop": 16})
    with pytest.raises(UserError, match=f"{path}: not what the configuration asks for"):
        corpus.held_out(path, **ASKED)
    write_json(path, chosen)
    with pytest.raises(UserError, match=f"{path}: not what the configuration asks for"):
        corpus.held_out(path, **{**ASKED, "tokens": 41 * 8})


@pytest.mark.parametrize("said", ["{}", "null", "[]", '"x"', '{"sha256": 3}', ""])
def test_a_corpus_without_its_facts_is_damaged(corpus, tmp_path, said):
    path = tmp_path / "corpus.json"
    path.write_text(said)
    with pytest.raises(UserError, match=f"{path}: damaged"):
        read_facts(path)


@pytest.mark.parametrize("key", FACTS)
def test_every_fact_of_a_corpus_must_be_there(corpus, tmp_path, key):
    path = tmp_path / "corpus.json"
    write_json(path, {name: value for name, value in read_facts(path).items() if name != key})
    with pytest.raises(UserError, match=f"{path}: damaged .it lacks {key}.*rm -r"):
        _ = corpus.sequences


def test_tokens_in_another_shape_are_not_those_of_the_corpus(corpus, tmp_path):
    """Their digest is the same."""
    np.save(tmp_path / "tokens.npy", np.load(tmp_path / "tokens.npy").reshape(120, 4))
    with pytest.raises(UserError, match="tokens.npy: damaged, or not the tokens of"):
        _ = corpus.sequences


@pytest.mark.parametrize("table", ["ablation", "doses", "trace"])
def test_jobs_that_run_models_over_tokens_again_check_them(local, tmp_path, table):
    where = tmp_path / "copy"
    shutil.copytree(local[0], where)
    tokens, results = where / "results/exact/corpus/tokens.npy", where / "results/exact"
    before = os.stat(tokens)
    data = bytearray(tokens.read_bytes())
    data[-4] ^= 1
    tokens.write_bytes(data)
    os.utime(tokens, ns=(before.st_atime_ns, before.st_mtime_ns))
    target = min((results / f"tables/{table}").rglob("step10.parquet"))
    done = tiny.snakemake(where, "--force", str(target.relative_to(where)))
    assert done.returncode != 0
    assert "results/exact/corpus/tokens.npy: damaged, or not the tokens of" in done.stdout
    assert "Traceback" not in done.stdout
