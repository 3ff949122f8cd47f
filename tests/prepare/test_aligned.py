"""Sequences of several tokenizers start at one byte, and pair tokens that end at one."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
import two_tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.implementations import (
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    SentencePieceBPETokenizer,
)
from transformers import PreTrainedTokenizerFast

from universal_neurons.errors import UserError
from universal_neurons.prepare import corpus
from universal_neurons.prepare.aligned import (
    INSIDE,
    UNSHARED,
    Reader,
    across,
    byte_ends,
    require_own,
)
from universal_neurons.prepare.reading import Corpus
from universal_neurons.prepare.tokenizer import check_tokenizer
from universal_neurons.store.files import write_json

TEXT = "The naïve café 🙂 said:  hello world\n\n東京, and so  on. "
LENGTH = 8


def fast(backend, **more):
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", **more)


def trained(kind, text=TEXT, **options):
    made = kind(**options)
    made.train_from_iterator([text] * 20, vocab_size=300, special_tokens=["<end>", "[UNK]"])
    return made._tokenizer


def read(backend, text=TEXT):
    [found] = Reader(["a"], fast(backend), []).read([text])
    return found


def test_byte_ends_are_those_of_the_encoded_text():
    assert byte_ends(TEXT).tolist() == [len(TEXT[:i].encode()) for i in range(len(TEXT) + 1)]
    assert byte_ends("").tolist() == [0]


@pytest.mark.parametrize("trim", [False, True])
def test_tokens_of_bytes_end_where_they_complete_a_character(trim):
    backend = trained(ByteLevelBPETokenizer, "The naive  cafe said:", trim_offsets=trim)
    ids, ends = read(backend)
    # A token's name has a letter for each of its bytes.
    true = list(accumulate(len(backend.id_to_token(i)) for i in ids))
    whole = set(byte_ends(TEXT).tolist())
    assert ends.tolist() == [end if end in whole else INSIDE for end in true]
    assert INSIDE in ends
    assert ends[-1] == len(TEXT.encode())


@pytest.mark.parametrize("kind", [BertWordPieceTokenizer, SentencePieceBPETokenizer])
def test_words_end_at_their_last_letter(kind):
    backend = trained(kind)
    ids, ends = read(backend)
    assert (np.diff(ends) > 0).all()
    for i, end in zip(ids, ends.tolist(), strict=True):
        name = backend.id_to_token(i).removeprefix("##").replace("▁", " ").strip()
        if name and name not in ("[UNK]", "<unk>"):
            said = TEXT.encode()[:end].decode().lower()
            assert (
                said.replace("ï", "i")
                .replace("é", "e")
                .endswith(name.lower().replace("ï", "i").replace("é", "e"))
            )


def test_a_mark_before_the_first_word_moves_no_end():
    letters = {letter: i for i, letter in enumerate(["<end>", "▁", *"abc"])}
    backend = Tokenizer(models.BPE(letters, []))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    assert read(backend, "ab c")[1][-4:].tolist() == [1, 2, 3, 4]


def test_a_tokenizer_that_knows_no_places_is_refused():
    class Slow:
        name_or_path, eos_token_id = "slow", 0

    with pytest.raises(UserError, match=r"corpus\.align: slow: .* save it as tokenizer\.json"):
        Reader(["a"], Slow(), [])


def words():
    backend = Tokenizer(models.WordLevel({"<end>": 0, "a": 1, "b": 2}, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast(backend)


def make(where, tokenizers, documents, **more):
    """Save tokenizers and make the corpus of some documents; what is known of it."""
    directories = {}
    for seed, tokenizer in tokenizers.items():
        directories[seed] = where / f"tokenizer {seed}"
        tokenizer.save_pretrained(directories[seed])
    path = {}
    for name, texts in documents.items():
        path[name] = str(where / f"{name}.jsonl")
        lines = "".join(f'{{"text": "{one}"}}\n' for one in texts)
        (where / f"{name}.jsonl").write_text(lines)
    options = {"source": "text", "path": path, "text_key": "text", "subset_key": None}
    options |= {"context_length": LENGTH, "seed": 0, "align": "bytes"}
    options |= {"exclude_token_ids": "auto", "exclude_positions": [], **more}
    files = [where / f"{name}.npy" for name in ("tokens", "clusters", "subsets")]
    about = corpus.make(options, directories, *files, 30)
    write_json(where / "corpus.json", about)
    return about


def corpus_in(where, seed):
    files = [where / name for name in ("tokens.npy", "corpus.json", "subsets.npy", "clusters.npy")]
    return Corpus(*files).of_seed(seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of two subsets in letters (a, b) and in pairs (c)."""
    where = tmp_path_factory.mktemp("made")
    letters = two_tokenizers.of_letters()
    tokenizers = {"a": letters, "b": letters, "c": two_tokenizers.of_pairs()}
    texts = two_tokenizers.text(20, 200)
    make(where, tokenizers, {"x": texts[:10], "y": texts[10:]})
    return where


def said(tokenizer, ids):
    """What tokens say, and where each ends."""
    names = tokenizer.convert_ids_to_tokens(ids.tolist())
    return "".join(names), list(accumulate(map(len, names)))


def test_scored_are_the_tokens_that_end_where_those_of_the_others_do(made):
    a, c = (corpus_in(made, seed).sequences for seed in "ac")
    letters, pairs = two_tokenizers.of_letters(), two_tokenizers.of_pairs()
    assert a.shape == c.shape
    for own, other in zip(a, c, strict=True):
        (text, ends), (other_text, other_ends) = (
            said(tokenizer, row.data) for tokenizer, row in ((letters, own), (pairs, other))
        )
        common = min(len(text), len(other_text))
        assert text[:common] == other_text[:common]
        shared = set(ends) & set(other_ends)
        for row, own_ends, tokenizer in ((own, ends, letters), (other, other_ends, pairs)):
            ids = row.data.tolist()
            expected = [
                end in shared and i != tokenizer.eos_token_id
                for i, end in zip(ids, own_ends, strict=True)
            ]
            assert (~np.ma.getmaskarray(row)).tolist() == expected


def test_no_text_is_left_out_between_sequences(made):
    """What the tokenizer with the shorter tokens reads are the documents, in pieces."""
    whole = "".join(two_tokenizers.text(20, 200))
    letters = two_tokenizers.of_letters()
    read = [said(letters, row.data)[0] for row in corpus_in(made, "a").sequences]
    assert all(one.replace(two_tokenizers.END, "") in whole for one in read)
    about = corpus_in(made, "a").facts
    assert about["bytes_per_token"] < corpus_in(made, "c").facts["bytes_per_token"]
    n_common = sum(len(row) for row in read)
    assert n_common > 0.9 * len(whole)


def test_what_all_tokenizers_have_at_a_token_has_one_number(made):
    a, c = (corpus_in(made, seed) for seed in "ac")
    counted = [~np.ma.getmaskarray(one.sequences) for one in (a, c)]
    identities = [one.identity[mask] for one, mask in zip((a, c), counted, strict=True)]
    np.testing.assert_array_equal(*identities)
    kinds = [one.sequences.data[mask] for one, mask in zip((a, c), counted, strict=True)]
    by_number = dict(zip(identities[0], zip(*kinds, strict=True), strict=True))
    assert len(set(by_number.values())) == len(by_number)
    for number, kind in zip(identities[0], zip(*kinds, strict=True), strict=True):
        assert by_number[number] == kind
    assert (a.identity[~counted[0]] == UNSHARED).all()


def test_tokens_have_the_subset_of_their_document(made):
    for seed in "ac":
        one = corpus_in(made, seed)
        assert one.labels.names == ["x", "y"]
        assert one.labels.labels.shape == one.sequences.shape
    np.testing.assert_array_equal(
        corpus_in(made, "a").labels.labels[:, 0], corpus_in(made, "c").labels.labels[:, 0]
    )


def test_positions_in_another_tokenizer_are_those_of_the_same_end(made):
    a, c = (corpus_in(made, seed) for seed in "ac")
    n = len(a.sequences)
    at = np.tile(np.arange(-1, LENGTH + 1), (n, 1))
    seeds = np.array(["a"] * n, object)
    found = c.positions(seeds, np.arange(n), at)
    np.testing.assert_array_equal(corpus_in(made, "b").positions(seeds, np.arange(n), at), at)
    letters, pairs = two_tokenizers.of_letters(), two_tokenizers.of_pairs()
    for i in range(n):
        ends = said(letters, a.sequences[i].data)[1]
        other = said(pairs, c.sequences[i].data)[1]
        for place, there in zip(at[i].tolist(), found[i].tolist(), strict=True):
            scored = 0 <= place < LENGTH and not np.ma.getmaskarray(a.sequences)[i, place]
            assert (there >= 0) == scored
            assert not scored or ends[place] == other[there]


def test_across_skips_what_is_not_scored():
    home = np.array([[5, UNSHARED, 6, 7]])
    own = np.array([[UNSHARED, 5, 6, UNSHARED, 7]])
    found = across(home, own, np.array([0]), np.array([[-1, 0, 1, 2, 3, 4]]))
    assert found.tolist() == [[-1, 1, -1, 2, 4, -1]]


def test_one_tokenizer_for_all_seeds_makes_the_corpus_of_no_alignment(tmp_path):
    letters, texts = two_tokenizers.of_letters(), two_tokenizers.text(20, 200)
    aligned, plain = tmp_path / "aligned", tmp_path / "plain"
    for where, how in ((aligned, "bytes"), (plain, "none")):
        where.mkdir()
        seeds = {"a": letters, "b": letters} if how == "bytes" else {"a": letters}
        make(where, seeds, {"x": texts}, align=how)
    a, b = (corpus_in(where, "a") for where in (aligned, plain))
    np.testing.assert_array_equal(a.sequences.data, b.sequences)
    np.testing.assert_array_equal(
        np.load(aligned / "clusters.npy"), np.load(plain / "clusters.npy")
    )
    scored = ~np.isin(b.sequences, letters.eos_token_id)
    np.testing.assert_array_equal(~np.ma.getmaskarray(a.sequences), scored)


def test_excluded_positions_of_any_tokenizer_are_not_scored(tmp_path):
    tokenizers = {"a": two_tokenizers.of_letters(), "c": two_tokenizers.of_pairs()}
    make(tmp_path, tokenizers, {"x": two_tokenizers.text(20, 200)}, exclude_positions=[0, 3])
    counts = []
    for seed in tokenizers:
        counted = ~np.ma.getmaskarray(corpus_in(tmp_path, seed).sequences)
        assert not counted[:, [0, 3]].any()
        counts.append(counted.sum(1))
    np.testing.assert_array_equal(*counts)


def test_the_numbers_of_tokens_of_a_run_are_of_one_tokenizer_each(made):
    a, c = (corpus_in(made, seed).facts for seed in "ac")
    assert (a["first_id"], c["first_id"]) == (0, 30)
    assert a["n_ids"] == c["n_ids"] == 30


def test_a_seed_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"corpus\.align: bytes takes .* seed b has none in"):
        require_own({"b": tmp_path})


def test_a_seed_that_the_corpus_was_not_made_for_is_refused(made):
    with pytest.raises(UserError, match="has no tokens of seed d"):
        _ = corpus_in(made, "d").facts


def test_a_model_of_another_tokenizer_is_refused_with_the_key(made, tmp_path):
    words().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="corpus.align: bytes correlates them where"):
        check_tokenizer(tmp_path, corpus_in(made, "a").facts)
    check_tokenizer(made / "tokenizer c", corpus_in(made, "c").facts)
