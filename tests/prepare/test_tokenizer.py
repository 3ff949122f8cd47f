"""A tokenizer gives every text all of its tokens, or a message that names its files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from grids import tokenizer as of_words

from universal_neurons.errors import UserError
from universal_neurons.prepare import corpus
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.tokenizer import (
    check_tokenizer,
    encode,
    identity,
    load_tokenizer,
    special_token_ids,
)
from universal_neurons.prepare.tokens import describe
from universal_neurons.prepare.training import train_tokenizer

TEXT = "It was the best of times,\nit was the worst of times: 1,859 Übel. " * 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A byte-level BPE tokenizer, trained and saved."""
    where = tmp_path_factory.mktemp("saved") / "tokenizer"
    train_tokenizer([Document(TEXT)], 290, where)
    return where


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to spoil."""
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def change(folder, name, **more):
    """Change what a JSON file of a tokenizer says."""
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def change_model(folder, **more):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    change(folder, "tokenizer.json", model={**model, **more})


def make_corpus(where, tokenizer):
    """The token ids of TEXT, as many as fit in sequences of 8."""
    (where / "a.txt").write_text(TEXT)
    options = {"source": "text", "path": str(where / "a.txt"), "text_key": "text"}
    options |= {"subset_key": None, "context_length": 8, "seed": 0}
    corpus.make(options, {"0": tokenizer}, where / "tokens.npy", where / "clusters.npy")
    return np.load(where / "tokens.npy")


ON = {
    "truncation": lambda bpe: bpe.enable_truncation(20),
    "padding": lambda bpe: bpe.enable_padding(length=4000),
    "padding to a multiple": lambda bpe: bpe.enable_padding(pad_to_multiple_of=512),
    "dropout": lambda bpe: setattr(bpe.model, "dropout", 0.5),
}


@pytest.mark.parametrize("what", ON)
def test_what_is_switched_on_in_a_saved_tokenizer_changes_no_token(what, saved, folder, tmp_path):
    expected = make_corpus(tmp_path, saved)
    other = load_tokenizer(folder)
    ON[what](other.backend_tokenizer)
    other.save_pretrained(folder)
    key = what.partition(" ")[0]
    said = json.loads((folder / "tokenizer.json").read_text())
    assert said["model"]["dropout"] if key == "dropout" else said[key]
    np.testing.assert_array_equal(make_corpus(tmp_path, folder), expected)


def written(name, content):
    return lambda folder: (folder / name).write_text(content)


def with_regex(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return lambda f: change(f, "tokenizer.json", pre_tokenizer={**split, "invert": False})


def with_end(token):
    return lambda folder: change(folder, "tokenizer_config.json", eos_token=token)


DAMAGED = {
    "eos_token that is a number": with_end(5),
    "eos_token that is a list": with_end(["<|endoftext|>"]),
    "eos_token that is a mapping": with_end({"a": 1}),
    "eos_token of half a character": with_end("\ud83d"),
    "a class that is a number": lambda f: change(f, "tokenizer_config.json", tokenizer_class=5),
    "added tokens in a list": written("added_tokens.json", "[1]"),
    "added tokens without a number": written("added_tokens.json", '{"a": "x"}'),
    "added tokens that are no JSON": written("added_tokens.json", "{"),
    "special tokens in a list": written("special_tokens_map.json", "[1]"),
    "a special token that is a number": written("special_tokens_map.json", '{"eos_token": 3}'),
    "a regex that does not end": with_regex("("),
    "a regex of a wrong range": with_regex("[z-a]"),
    "no JSON": written("tokenizer.json", "{"),
    "a list": written("tokenizer.json", "[]"),
    "an empty file": written("tokenizer.json", ""),
    "deep JSON": written("tokenizer.json", "[" * 100_000),
    "settings in a list": written("tokenizer_config.json", "[]"),
    "no model": lambda folder: change(folder, "tokenizer.json", model=None),
    "a negative id": lambda folder: change_model(folder, vocab={"a": -1}),
    "a merge of one": lambda folder: change_model(folder, merges=["a"]),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_tokenizer_is_named(folder, damage):
    DAMAGED[damage](folder)
    with pytest.raises(UserError, match=f"^{folder}: the tokenizer can't be loaded .*; correct"):
        load_tokenizer(folder)


def test_an_end_that_the_model_has_no_token_for_is_refused(folder):
    """It becomes a new token when the tokenizer is loaded, with an id that no model knows."""
    size = len(load_tokenizer(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": size}))
    assert load_tokenizer(folder).eos_token_id < size
    with_end("</s>")(folder)
    with pytest.raises(
        UserError, match=f"{folder}: eos_token '</s>' has the id {size}, beyond the"
    ):
        load_tokenizer(folder)


@pytest.mark.parametrize("end", [None, ""])
def test_a_tokenizer_without_an_end_is_named(folder, tmp_path, end):
    with_end(end)(folder)
    with pytest.raises(UserError, match=f"{folder}: the tokenizer has no end-of-text token"):
        make_corpus(tmp_path, folder)


def test_a_missing_tokenizer_is_named_with_its_path(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path / 'none'} has no tokenizer; put its files"):
        make_corpus(tmp_path, tmp_path / "none")


def test_a_text_that_a_tokenizer_fails_on_names_the_tokenizer(folder):
    model = {"type": "WordLevel", "vocab": {"times": 1}, "unk_token": "[UNK]"}
    change(folder, "tokenizer.json", model=model)
    with pytest.raises(UserError, match=f"{folder}: the tokenizer fails on a text .*UNK"):
        encode(load_tokenizer(folder), ["best times"])


def about(tmp_path, tokenizer):
    """What a corpus says of itself that the tokenizer made."""
    np.save(tmp_path / "ids.npy", np.zeros((2, 4), np.int32))
    return describe(tmp_path / "ids.npy", tokenizer, "text")


OTHER = {
    "vocabulary": lambda folder: train_tokenizer([Document(TEXT)], 280, folder),
    "tokens of the same text": lambda folder: change(
        folder, "tokenizer.json", normalizer={"type": "Lowercase"}
    ),
    "end-of-text token": with_end("t"),
}


@pytest.mark.parametrize("what", OTHER)
def test_a_model_with_another_tokenizer_is_named_with_what_differs(saved, folder, tmp_path, what):
    facts = about(tmp_path, load_tokenizer(saved))
    check_tokenizer(folder, facts)
    shutil.copytree(folder, tmp_path / "other")
    if what == "vocabulary":
        shutil.rmtree(tmp_path / "other")
    OTHER[what](tmp_path / "other")
    with pytest.raises(UserError, match=f"/other: its tokenizer differs from .* in .*{what}"):
        check_tokenizer(tmp_path / "other", facts)


def test_a_model_without_a_tokenizer_or_with_token_ids_is_not_compared(saved, tmp_path):
    (tmp_path / "none").mkdir()
    check_tokenizer(tmp_path / "none", about(tmp_path, load_tokenizer(saved)))
    check_tokenizer(saved, about(tmp_path, None))


def test_a_tokenizer_that_knows_few_characters_is_compared_all_the_same():
    """No token stands for what is unknown to it, so that the probing text has none."""
    one, two = of_words(["a", "b"]), of_words(["b", "a"])
    assert identity(one) == identity(of_words(["a", "b"]))
    assert identity(one)["vocabulary"] != identity(two)["vocabulary"]


def test_special_tokens_are_end_of_text_and_line_breaks_alone(gpt2_tokenizer):
    special = special_token_ids(gpt2_tokenizer)
    assert {198, 628, 50256} <= set(special)
    others = {gpt2_tokenizer.decode([i]) for i in special} - {"<|endoftext|>"}
    assert {text.strip("\r\n") for text in others} == {""}
    assert not {220, 197} & set(special), "a space or a tab is text"
