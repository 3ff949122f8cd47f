"""Tokens as text: with their spaces, by name where they are no characters, by number without."""

from __future__ import annotations

from grids import tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from universal_neurons.describe.vocabulary import texts, vocabulary


def test_without_a_tokenizer_tokens_are_numbers(tmp_path):
    assert vocabulary(tmp_path, 3).to_dict("list") == {
        "token_id": [0, 1, 2],
        "text": ["#0", "#1", "#2"],
    }


def test_byte_level_tokens_keep_their_spaces_and_parts_of_characters_their_names(gpt2_tokenizer):
    found = texts(gpt2_tokenizer)
    ids = gpt2_tokenizer.get_vocab()
    assert len(found) == 50257
    assert found[ids["Ġthe"]] == " the"
    assert found[ids["the"]] == "the"
    assert found[ids["Ċ"]] == "\n"
    assert found[ids["âĢ"]] == "âĢ"
    assert found[50256] == "<|endoftext|>"
    assert "".join(found[i] for i in gpt2_tokenizer.encode(" Hello, world!\n\n")) == (
        " Hello, world!\n\n"
    )


def test_tokens_with_a_mark_for_the_space_keep_it():
    words = {"<unk>": 0, "\u2581the": 1, "the": 2, "a": 3, "\u2581": 4}
    backend = Tokenizer(models.BPE(words, [], unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert texts(made) == ["<unk>", " the", "the", "a", " "]


def test_ids_beyond_the_tokenizer_are_numbers(tmp_path):
    tokenizer(["a", "b"]).save_pretrained(tmp_path)
    found = vocabulary(tmp_path, 5)
    assert found["text"].str.strip().tolist() == ["<eos>", "a", "b", "#3", "#4"]
