"""No document is on both sides of scored and held-out, or trained and held-out, sequences."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from universal_neurons.errors import UserError
from universal_neurons.prepare import clusters, corpus
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.tokens import describe, tokenise

LENGTH, END = 8, 0


@pytest.fixture(scope="module")
def tokenizer():
    """Document i is the word i again and again, and word i is token i: tokens name documents."""
    vocabulary = {"end": END, **{str(i): i for i in range(1, 3000)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="end"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="end", unk_token="end")


def make(where, tokenizer, lengths):
    """A corpus of documents of these lengths: its facts, tokens and clusters."""
    texts = (Document(" ".join([str(i + 1)] * n)) for i, n in enumerate(lengths))
    files = {"out": where / "tokens.npy", "clusters": where / "clusters.npy"}
    subsets, edges = tokenise({None: texts}, tokenizer, LENGTH, seed=0, **files)
    about = describe(files["out"], tokenizer, "text") | {"subsets": subsets, "edges": edges}
    cluster = clusters.read_clusters(files["clusters"], about["n_sequences"])
    return about, np.load(files["out"]), cluster


def documents_of(sequences):
    return set(np.unique(sequences)) - {END}


LENGTHS = {
    "long": np.random.default_rng(0).integers(30, 200, 300),
    "short": np.random.default_rng(1).integers(1, 9, 2500),
    "mixed": np.exp(np.random.default_rng(2).normal(2, 1.5, 1000)).astype(int) + 1,
}


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize(("tokens", "heldout"), [(500, 100), (0.5, 200), (0.6, 0.07), (0.4, 0.3)])
def test_no_document_is_both_scored_or_trained_on_and_held_out(
    kind, tokens, heldout, tokenizer, tmp_path
):
    about, sequences, _ = make(tmp_path, tokenizer, LENGTHS[kind])
    total = sequences.size
    tokens, heldout = (int(n if n >= 1 else n * total) for n in (tokens, heldout))
    train = heldout <= total / 10
    chosen = corpus.select(about, tokens=tokens, heldout_tokens=heldout, train=train)
    held = sequences[chosen["heldout_start"] : chosen["heldout_stop"]]
    scored = sequences[: chosen["n_scored"]]
    assert (len(scored), len(held)) == (tokens // LENGTH, heldout // LENGTH)
    assert not documents_of(held) & documents_of(scored)
    assert len(documents_of(held)) > 5
    if train:
        assert not documents_of(held) & documents_of(sequences[: chosen["n_train"]])
        assert 0.84 < chosen["n_train"] / len(sequences) <= 0.9


def test_few_scored_sequences_are_of_many_documents(tokenizer, tmp_path):
    about, sequences, _ = make(tmp_path, tokenizer, [400] * 300)
    chosen = corpus.select(about, tokens=800, heldout_tokens=400, train=True)
    assert len(documents_of(sequences[: chosen["n_scored"]])) > 60
    assert len(documents_of(sequences[chosen["heldout_start"] :])) > 20


@pytest.mark.parametrize("kind", LENGTHS)
def test_a_document_is_in_one_cluster_and_little_text_is_lost(kind, tokenizer, tmp_path):
    _, sequences, cluster = make(tmp_path, tokenizer, LENGTHS[kind])
    of = [documents_of(sequences[cluster == c]) for c in np.unique(cluster)]
    assert sum(map(len, of)) == len(set.union(*of))
    assert len(of) > 50
    assert sequences.size > 0.93 * (LENGTHS[kind] + 1).sum()
    if kind == "long":
        assert np.mean([len(documents) for documents in of]) < 1.6


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=80),
    tokens=st.integers(1, 800),
    more=st.integers(0, 800),
    heldout=st.integers(1, 100),
    more_heldout=st.integers(0, 100),
)
def test_asking_for_more_keeps_what_was_chosen_and_clusters_apart(
    sizes, tokens, more, heldout, more_heldout
):
    order, cluster, edges = clusters.arrange(clusters.split_large(sizes), 3)
    assert sorted(order) == list(range(sum(sizes)))
    about = {"n_sequences": len(order), "context_length": 1, "source": "text", "edges": edges}

    def choose(tokens, heldout):
        chosen = corpus.select(about, tokens=tokens, heldout_tokens=heldout, train=False)
        held = set(range(chosen["heldout_start"], chosen["heldout_stop"]))
        return set(range(chosen["n_scored"])), held

    try:
        large = choose(tokens + more, heldout + more_heldout)
    except UserError:
        return
    small = choose(tokens, heldout)
    assert small[0] <= large[0]
    assert small[1] <= large[1]
    assert not set(cluster[sorted(large[0])]) & set(cluster[sorted(large[1])])


def test_a_book_is_taken_in_parts_with_a_warning(tokenizer, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        about, _, cluster = make(tmp_path, tokenizer, [20_000])
    assert "1 of 1 documents, or runs of short ones, are more than 5 % of the corpus" in caplog.text
    assert len(np.unique(cluster)) > 100
    chosen = corpus.select(about, tokens=10_000, heldout_tokens=1000, train=True)
    held = cluster[chosen["heldout_start"] :]
    assert not set(held) & set(cluster[: chosen["n_train"]])


def test_documents_that_are_held_out_leave_fewer_to_score_and_the_error_says_how_many(
    tokenizer, tmp_path
):
    about, sequences, _ = make(tmp_path, tokenizer, LENGTHS["long"])
    total = sequences.size
    with pytest.raises(UserError, match=r"corpus.tokens: .* of other documents, .*ask for fewer"):
        corpus.select(about, tokens=total - 80, heldout_tokens=80, train=False)
    corpus.select(about, tokens=int(total * 0.84), heldout_tokens=80, train=False)


@pytest.mark.parametrize(("tokens", "heldout"), [(980, 20), (800, 200), (600, 400), (500, 500)])
@pytest.mark.parametrize("size", [1, 8, 20])
def test_a_quarter_more_than_asked_for_is_enough(tokens, heldout, size):
    sizes = [size] * ((tokens + heldout) * 5 // 4 // size)
    order, _, edges = clusters.arrange(clusters.split_large(sizes), 0)
    about = {"n_sequences": len(order), "context_length": 1, "source": "text", "edges": edges}
    corpus.select(about, tokens=tokens, heldout_tokens=heldout, train=False)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), int), np.zeros(3, int), np.array([0, -1])])
def test_a_file_that_holds_no_clusters_is_refused(wrong, tmp_path):
    np.save(tmp_path / "clusters.npy", wrong)
    with pytest.raises(UserError, match=r"clusters.npy: damaged, .*rm -r"):
        clusters.read_clusters(tmp_path / "clusters.npy", 2)
    (tmp_path / "clusters.npy").write_bytes(b"x")
    with pytest.raises(UserError, match=r"clusters.npy: can't be read .*rm -r"):
        clusters.read_clusters(tmp_path / "clusters.npy", 2)
