"""Encoders' text: framed as they expect it, and masked the same for all of them."""

import json

import encoders
import numpy as np
import pytest
from encoders import CLS, CONTEXT, MASK, PAD, SEP, WORDS

from universal_neurons.errors import UserError
from universal_neurons.prepare import corpus
from universal_neurons.prepare.masking import SHARE, Masking, special_tokens
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokenizer import load_tokenizer
from universal_neurons.prepare.tokens import excluded
from universal_neurons.store.files import write_json

SHARES = {"tokens": 100 * CONTEXT, "heldout_tokens": 20 * CONTEXT, "train": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of encoders, its files and what is known of it."""
    where = tmp_path_factory.mktemp("corpus")
    encoders.text(where / "text.jsonl")
    folder = encoders.wordpiece(where / "tokenizer")
    (folder / "config.json").write_text(json.dumps(encoders.bert(0).config.to_dict()))
    config = {
        "source": "text",
        "path": str(where / "text.jsonl"),
        "text_key": "text",
        "subset_key": "set",
        "context_length": CONTEXT,
        "seed": 3,
        "align": "none",
    }
    options = corpus.sequence_options(config, "masked")
    files = (where / "tokens.npy", where / "clusters.npy", where / "subsets.npy")
    about = corpus.make(options, {"0": folder}, *files)
    write_json(where / "corpus.json", about)
    return where, about


def test_every_sequence_is_framed_and_documents_are_joined_by_what_separates_texts(made):
    where, about = made
    tokens = np.load(where / "tokens.npy")
    assert tokens.shape == (about["n_sequences"], CONTEXT)
    assert (tokens[:, 0] == CLS).all()
    assert (tokens[:, -1] == SEP).all()
    inner = tokens[:, 1:-1]
    assert not np.isin(inner, (CLS, PAD, MASK)).any()
    # Every second document ends within a cluster's sequences.
    assert (inner == SEP).sum() == 30
    known = {encoders.VOCABULARY.index(word) for word in (".", *WORDS)}
    assert set(np.unique(inner)) <= known | {SEP}
    subsets = np.load(where / "subsets.npy")
    assert subsets.shape == tokens.shape
    assert (subsets[:, 0] == subsets[:, 1]).all()


def test_decoders_read_what_they_did(made):
    """The framed sequences are those that the same text gives without frames, two shorter."""
    where, _ = made
    config = {"source": "text", "path": str(where / "text.jsonl"), "text_key": "text"}
    config |= {"subset_key": None, "context_length": CONTEXT - 2, "seed": 3}
    options = corpus.sequence_options({**config, "align": "none"})
    assert options == config
    folder = encoders.wordpiece(where / "ended")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]"})
    )
    about = corpus.make(options, {"0": folder}, where / "plain.npy", where / "plain_clusters.npy")
    assert "masking" not in about
    plain, framed = np.load(where / "plain.npy"), np.load(where / "tokens.npy")
    np.testing.assert_array_equal(framed[:, 1:-1], plain)
    np.testing.assert_array_equal(
        np.load(where / "clusters.npy"), np.load(where / "plain_clusters.npy")
    )


def test_special_tokens_are_never_scored_whatever_is_excluded(made):
    _, about = made
    never = {PAD, CLS, SEP, MASK}
    assert never <= set(excluded("auto", about))
    assert set(excluded([7], about)) == never | {7}
    assert set(excluded([], about)) == never
    assert excluded([7], {"special_token_ids": [0]}) == [7]


def test_held_out_text_has_a_share_of_its_tokens_masked_by_the_seed_alone(made):
    where, about = made
    write_json(where / "selection.json", corpus.select(about, **SHARES))
    files = Corpus(where / "tokens.npy", where / "corpus.json", clusters=where / "clusters.npy")
    text, again = (files.held_out(where / "selection.json", **SHARES) for _ in range(2))
    assert text.loss_kind == "masked"
    hidden = text.inputs != text.sequences
    assert (text.inputs[hidden] == MASK).all()
    assert not np.isin(text.sequences[hidden], about["masking"]["never"]).any()
    assert (hidden.sum(1) == round(SHARE * (CONTEXT - 2))).all()
    np.testing.assert_array_equal(text.targets, text.sequences[hidden].reshape(len(hidden), -1))
    np.testing.assert_array_equal(text.inputs, again.inputs)
    special = about["masking"]
    other = Masking.draw(text.sequences, special, 4).where
    assert (other != text.masking.where).any()
    # All positions of text are masked alike.
    many = Masking.draw(np.tile(text.sequences, (200, 1)), special, 0).where
    share = np.bincount(many.ravel(), minlength=CONTEXT) / len(many)
    assert share[[0, -1]].tolist() == [0, 0]
    assert share[1:-1].std() < 0.01


def test_sequences_of_padding_are_refused():
    padded = np.full((2, CONTEXT), PAD)
    padded[:, :2] = CLS, 9
    with pytest.raises(UserError, match=r"fewer than the 2 tokens that are to be masked"):
        Masking.draw(padded, {"never": [PAD, CLS], "mask": MASK}, 0)


def test_a_tokenizer_must_name_what_frames_and_masks(tmp_path):
    with pytest.raises(UserError, match=r"models.tokenizer: missing"):
        special_tokens(None)
    folder = encoders.wordpiece(tmp_path)
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]"}
    tokenizer = load_tokenizer(_as_json(folder))
    assert special_tokens(tokenizer)["mask"] == MASK
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(UserError, match=r"names no sep_token"):
        special_tokens(load_tokenizer(folder))


def _as_json(folder):
    """The tokenizer saved once more, as newer versions do."""
    (folder / "config.json").write_text(json.dumps(encoders.bert(0).config.to_dict()))
    load_tokenizer(folder).save_pretrained(folder)
    return folder
