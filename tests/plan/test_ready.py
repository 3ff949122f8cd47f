"""What would end a job is refused before any: models, tokenizers and texts that are not fit."""

from __future__ import annotations

import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from universal_neurons.errors import UserError
from universal_neurons.plan.config import resolve
from universal_neurons.plan.ready import notes, ready_grid
from universal_neurons.prepare.corpus import source_files
from universal_neurons.prepare.text import Document
from universal_neurons.prepare.training import train_tokenizer

SHAPE = {"n_layer": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 50}
MODELS = [f"{seed}/{step}" for seed in "ab" for step in (10, 20)]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration whose files are fit, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for model in MODELS:
        describe(tmp_path / model)
        (tmp_path / model / "model.safetensors").write_bytes(b"weights")
        (tmp_path / model / "tokenizer.json").touch()
    (tmp_path / "text.jsonl").write_text('{"text": "words", "of": {"set": "x"}}\n' * 200)
    np.save("tokens.npy", np.zeros((60, 16), np.int32))
    return {
        "run": "r",
        "models": {"seeds": ["a", "b"], "steps": [10, 20], "path": "{seed}/{step}"},
        "corpus": {
            "source": "text",
            "path": "text.jsonl",
            "tokens": 320,
            "heldout_tokens": 160,
            "context_length": 16,
        },
    }


def describe(model, **changes):
    model.mkdir(parents=True, exist_ok=True)
    (model / "config.json").write_text(json.dumps({**SHAPE, **changes}))


def refusal(config):
    with pytest.raises(UserError) as error:
        ready_grid(resolve(config))
    return str(error.value)


def test_files_that_are_fit_are_planned_without_a_note(config):
    assert ready_grid(resolve(config)).steps == [10, 20]
    assert notes(resolve(config)) == []


def test_sequences_beyond_a_models_context_are_refused(config, tmp_path):
    describe(tmp_path / "b/20", n_positions=8)
    said = refusal(config)
    assert said.startswith("corpus.context_length: 16 is more than the 8 tokens")
    assert "b/20/config.json" in said


def test_a_model_without_weights_is_named(config, tmp_path):
    (tmp_path / "b/10/model.safetensors").unlink()
    assert refusal(config).startswith("models.path: b/10 has no weights; looked for")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; copy or download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
    ],
)
def test_a_file_of_weights_without_any_is_named(config, tmp_path, content, message):
    (tmp_path / "b/10/model.safetensors").unlink()
    (tmp_path / "b/10/pytorch_model.bin").write_bytes(content)
    assert refusal(config).startswith(f"models.path: b/10/pytorch_model.bin {message}")


def test_a_first_model_without_a_tokenizer_is_named(config, tmp_path):
    (tmp_path / "a/10/tokenizer.json").unlink()
    assert refusal(config).startswith("models.tokenizer: a/10 has no tokenizer; ")
    config["corpus"].update(source="tokens", path="tokens.npy")
    assert ready_grid(resolve(config))


def test_a_tokenizer_may_lie_beside_the_models(config, tmp_path):
    for model in MODELS:
        (tmp_path / model / "tokenizer.json").unlink()
    config["models"]["tokenizer"] = "shared"
    assert refusal(config).startswith("models.tokenizer: shared has no tokenizer; ")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/tokenizer.json").touch()
    assert ready_grid(resolve(config))
    assert notes(resolve(config)) == []


def test_later_models_without_a_tokenizer_are_noted(config, tmp_path):
    for model in ("a/20", "b/10"):
        (tmp_path / model / "tokenizer.json").unlink()
    assert ready_grid(resolve(config))
    [note] = notes(resolve(config))
    assert note.startswith("2 of 4 models have no tokenizer of their own, such as a/20: ")


def test_a_sample_too_small_for_the_number_of_universal_neurons_is_warned_of(config):
    config["corpus"]["tokens"] = 59_277
    config["correlate"] = {"mode": "screened"}
    [note] = notes(resolve(config))
    assert note.startswith("WARNING: correlate.sample asks for 2,963 tokens.")
    config["correlate"]["sample"] = 0.4
    assert notes(resolve(config)) == []


def test_a_later_model_of_another_vocabulary_needs_its_tokenizer(config, tmp_path):
    describe(tmp_path / "b/10", vocab_size=51)
    assert ready_grid(resolve(config))
    (tmp_path / "b/10/tokenizer.json").unlink()
    assert refusal(config).startswith("models.path: b/10 has no tokenizer and another vocab_size")


def test_unlike_tokenizers_are_found_before_any_job_and_may_be_aligned(config, tmp_path):
    for seed, text in (("a", "to have or to have not"), ("b", "so it goes and so it went")):
        train_tokenizer([Document(text)] * 9, 260, tmp_path / f"tokenizer-{seed}")
        shutil.copy(tmp_path / f"tokenizer-{seed}/tokenizer.json", tmp_path / f"{seed}/10")
    said = refusal(config)
    assert said.startswith("b/10: its tokenizer differs from the one the corpus is made with")
    assert "corpus.align: bytes correlates them" in said
    config["corpus"]["align"] = "bytes"
    assert ready_grid(resolve(config))


@pytest.mark.parametrize("key", ["n_layer", "n_embd", "n_inner"])
def test_an_absurd_size_is_named_with_its_file_and_key(config, tmp_path, key):
    describe(tmp_path / "a/10", **{key: 2_000_000_000})
    assert f"a/10/config.json: {key} is 2,000,000,000; at most" in refusal(config)


def write_parquet(path):
    pd.DataFrame({"text": ["words"], "of": ["x"]}).to_parquet(path)


@pytest.mark.parametrize(
    ("key", "name", "write"),
    [
        ("text_key", "a.jsonl", lambda p: p.write_text('{"text": "x"}\n')),
        ("text_key", "a.jsonl.gz", lambda p: p.write_bytes(gzip.compress(b'{"text": "x"}\n'))),
        ("text_key", "a.parquet", write_parquet),
        ("subset_key", "a.jsonl", lambda p: p.write_text('{"text": "x"}\n')),
        ("subset_key", "a.parquet", write_parquet),
        ("subset_key", "a.txt", lambda p: p.write_text("words " * 1000)),
    ],
)
def test_a_field_that_the_text_has_not_is_named_with_a_file(config, tmp_path, key, name, write):
    write(tmp_path / name)
    config["corpus"].update({"path": name, key: "missing"})
    said = refusal(config)
    assert said.startswith(f"corpus.{key}: {name}")
    assert ("missing" in said) != (name == "a.txt")


def test_a_parquet_file_that_is_none_is_named(config, tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    config["corpus"]["path"] = "a.parquet"
    assert refusal(config).startswith("corpus.path: a.parquet: can't be read")


def test_a_list_of_files_is_one_corpus_and_every_file_is_taken_once(config, tmp_path):
    for name in ("b.txt", "a.txt", "odd [1].txt"):
        (tmp_path / name).write_text("words " * 500)
    config["corpus"]["path"] = ["odd [1].txt", "*.txt", "text.jsonl", "a.txt"]
    resolved = resolve(config)
    assert ready_grid(resolved)
    expected = ["odd [1].txt", "a.txt", "b.txt", "text.jsonl"]
    assert source_files(resolved["corpus"]) == expected
    config["corpus"]["path"] = ["a.txt", "none.txt"]
    assert refusal(config) == "corpus.path: no file matches 'none.txt'"


def test_a_text_with_braces_in_its_name_is_refused(config, tmp_path):
    (tmp_path / "a{b}.txt").write_text("words " * 500)
    config["corpus"]["path"] = "*.txt"
    assert refusal(config).startswith("corpus.path: a{b}.txt has braces in its name")


def test_a_grid_of_more_jobs_than_can_be_planned_is_refused(config):
    config["models"] = {"source": "train", "seeds": list(range(100)), "steps": list(range(200))}
    said = refusal(config)
    assert said.startswith("models.seeds, models.steps, corpus.shards: the grid has 4,")
    assert "more than the 200,000" in said


def test_parts_of_speech_without_spacy_are_refused_before_any_job(config, monkeypatch):
    config["families"] = {"speech": "en_core_web_sm"}
    monkeypatch.setattr("universal_neurons.prepare.speech.find_spec", lambda name: None)
    assert refusal(config).startswith("families.speech: spaCy is not installed; install it with")
