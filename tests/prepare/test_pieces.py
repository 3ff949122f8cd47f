"""Long texts are cut in pieces whose tokens are the whole text's, in memory that does not grow."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import taken
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from universal_neurons.prepare import pieces as pieces_module
from universal_neurons.prepare import text as text_module
from universal_neurons.prepare.pieces import pieces
from universal_neurons.prepare.text import Document, documents, text_files
from universal_neurons.prepare.tokenizer import encode
from universal_neurons.prepare.tokens import splits_of, tokenise

ODD = (
    "def f(x):\n\n\n        return  x**2   # naïve cafe\u0301\r\n\t\t東京は大きい。привет, "
    "мир! 🙂🙂 1234567 3.14 don't IT'LL <b>…</b>      \u00a0\u2003  ----==== "
)
# Digits in threes, as Llama 3 has them.
THREES = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
)
IN_ONE = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "GPT-2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "with a space in front": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "digits in threes": (None, THREES),
    "composed": (normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "marks in front of words": (None, pre_tokenizers.Metaspace()),
    "words": (normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()),
    "Gemma": (normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")),
    "Llama 2": (IN_ONE, None),
}


def english():
    """The first addresses of the bundled text."""
    return "\n".join(document.text for document in documents(text_files("bundled", None)[:4]))


def trained(kind):
    """A BPE tokenizer that takes texts apart in one of the known ways."""
    bpe = Tokenizer(models.BPE(unk_token="?"))
    bpe.normalizer, before = KINDS[kind]
    if before is not None:
        bpe.pre_tokenizer = before
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["?"], initial_alphabet=letters, show_progress=False
    )
    # Words and what is between them, as a tokenizer without words learns from all of the text.
    bpe.train_from_iterator((english()[:20_000] + ODD).split(". "), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="?", unk_token="?")


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: trained(kind) for kind in KINDS}


@pytest.fixture
def small_pieces(monkeypatch):
    """As if texts were long."""
    for name, value in {"PIECE": 300, "LONGEST": 50_000}.items():
        monkeypatch.setattr(pieces_module, name, value)


def ids_in_pieces(tokenizer, parts):
    cut = list(pieces(parts, splits_of(tokenizer)))
    assert "".join(piece.text for piece in cut) == "".join(part.text for part in parts)
    assert [piece.ends for piece in cut[:-1]] == [False] * (len(cut) - 1)
    assert cut[-1].ends
    return [i for piece in cut for i in encode(tokenizer, [piece.text])[0]], len(cut)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_the_pieces_are_those_of_the_text(tokenizers, small_pieces, kind):
    text = (english() + ODD * 20)[-49_000:]
    whole = encode(tokenizers[kind], [text])[0]
    found, n = ids_in_pieces(tokenizers[kind], [Document(text)])
    assert found == whole
    assert n == 1 if kind == "Llama 2" else n > 50


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_text_and_no_way_it_comes_in_parts_changes_a_token(tokenizers, small_pieces, data):
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    words = st.one_of(st.text(max_size=9), st.sampled_from(["the", " ", "\n", "1", "a" * 400, ODD]))
    text = "".join(data.draw(st.lists(words, min_size=100, max_size=200)))
    edges = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    starts, stops = [0, *edges], [*edges, len(text)]
    parts = [Document(text[a:b], ends=False) for a, b in zip(starts, stops, strict=True)]
    parts[-1] = parts[-1]._replace(ends=True)
    assert ids_in_pieces(tokenizers[kind], parts)[0] == encode(tokenizers[kind], [text])[0]


def test_a_file_in_parts_is_the_corpus_of_its_whole_text(tokenizers, tmp_path, monkeypatch):
    text = english()
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    made = []
    for name, piece, part in (("a.jsonl", 1 << 30, 1 << 30), ("a.txt", 300, 1000)):
        monkeypatch.setattr(pieces_module, "PIECE", piece)
        monkeypatch.setattr(text_module, "PART", part)
        made.append(tmp_path / f"{name}.npy")
        given = {None: documents([tmp_path / name])}
        tokenise(given, tokenizers["GPT-2"], 32, seed=0, out=made[-1], clusters=tmp_path / "c.npy")
    np.testing.assert_array_equal(*map(np.load, made))


@pytest.mark.parametrize("text", [ODD * 1000, "a" * 120_000, " " * 120_000], ids=["odd", "a", " "])
def test_a_text_without_a_sure_place_to_cut_is_cut_with_one_warning(
    tokenizers, small_pieces, text, caplog
):
    with caplog.at_level(logging.WARNING):
        _, n = ids_in_pieces(tokenizers["Llama 2"], [Document(text)])
    assert n == 3
    assert [record.message for record in caplog.records] == [pieces_module.UNSURE % 50_000]


PREPARATION = """
import sys
from universal_neurons.prepare import tokens, text
from universal_neurons.prepare.tokenizer import load_tokenizer
from pathlib import Path
where, name = Path(sys.argv[1]), sys.argv[2]
tokenizer = load_tokenizer(where)
def make(name):
    documents = text.documents([where / name])
    files = {"out": where / "ids.npy", "clusters": where / "clusters.npy"}
    tokens.tokenise({None: documents}, tokenizer, 64, seed=0, **files)
make("small.txt")
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_a_document(tokenizers, tmp_path):
    """In one piece a text took 90 to 130 times its size."""
    tokenizers["GPT-2"].save_pretrained(tmp_path)
    speech = english()
    for name, size in (("small.txt", 10_000), ("4.txt", 4_000_000), ("20.txt", 20_000_000)):
        with (tmp_path / name).open("w") as file:
            for _ in range(-(-size // len(speech))):
                file.write(speech)
    some, many = (taken(PREPARATION, "make(name)", tmp_path, f"{n}.txt") for n in (4, 20))
    assert many < some + 20e6
    assert many < 150e6
