"""Weights as people have them: any file format and float type, with or without prefix and head."""

from __future__ import annotations

import json

import architectures
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from universal_neurons.ablate.ablation import ablate
from universal_neurons.ablate.doses import doses
from universal_neurons.ablate.effects import effects
from universal_neurons.errors import UserError
from universal_neurons.models import load as models
from universal_neurons.prepare.tokenizer import encode, load_tokenizer
from universal_neurons.store.columns import ablate as columns

DECODERS = ("gpt_neox", "llama", "olmo", "phi")
ENCODERS = tuple(kind for kind, places in models.ARCHITECTURES.items() if places.masked_head)
SEQUENCES = np.random.default_rng(0).integers(3, architectures.VOCABULARY, (8, 9))


def write(where, config, weights, form="safetensors", parts=1):
    """A model directory with weights whole or in parts, of safetensors or pickled, old or new."""
    config.save_pretrained(where)
    end = "safetensors" if form == "safetensors" else "bin"
    stem = "model" if form == "safetensors" else "pytorch_model"
    names = [f"{stem}-{i:05}-of-{parts:05}.{end}" for i in range(parts)]
    if parts == 1:
        names = [f"{stem}.{end}"]
    split = {name: dict(list(weights.items())[i::parts]) for i, name in enumerate(names)}
    for name, part in split.items():
        if form == "safetensors":
            save_file({k: v.clone().contiguous() for k, v in part.items()}, where / name)
        else:
            torch.save(part, where / name, _use_new_zipfile_serialization=form == "bin")
    if parts > 1:
        index = {"weight_map": {key: name for name, part in split.items() for key in part}}
        (where / f"{stem}.{end}.index.json").write_text(json.dumps(index))
    return where


def activations(model):
    found = {}
    with torch.no_grad(), model.tap(lambda layer, x: found.update({layer: x})):
        model.module.base_model(torch.from_numpy(SEQUENCES))
    return [found[layer] for layer in sorted(found)]


@pytest.mark.parametrize(
    ("form", "parts", "dtype"),
    [
        ("safetensors", 1, "float16"),
        ("safetensors", 3, "bfloat16"),
        ("bin", 1, "float32"),
        ("bin", 3, "float16"),
        ("bin of torch 1.5", 1, "bfloat16"),
        ("bin of torch 1.5", 3, "float32"),
    ],
)
def test_weights_are_the_same_in_every_format(form, parts, dtype, tmp_path):
    module = architectures.make("gpt_neox").module.to(getattr(torch, dtype))
    model = models.load(write(tmp_path, module.config, module.state_dict(), form, parts))
    expected, found = module.state_dict(), model.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in expected)


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "bloom", "falcon", *ENCODERS])
def test_weights_without_the_models_prefix_are_those_with_it(name, tmp_path):
    """So GPT-2 and BLOOM were published."""
    module = architectures.make(name).module
    prefix = f"{module.base_model_prefix}."
    bare = {key.removeprefix(prefix): weight for key, weight in module.state_dict().items()}
    model = models.load(write(tmp_path, module.config, bare, "bin"))
    assert model.digest() == architectures.wrap(module).digest()


@pytest.mark.parametrize("name", ["bloom", "falcon", "gemma3_text"])
def test_a_head_that_is_the_embedding_is_not_missing(name, tmp_path):
    module = architectures.make(name).module
    model = models.load(write(tmp_path, module.config, module.base_model.state_dict()))
    assert model.has_head
    assert model.digest() == architectures.wrap(module).digest()


@pytest.mark.parametrize(
    ("name", "prefixed"),
    [("llama", True), ("bert", True), *((name, False) for name in DECODERS + ENCODERS)],
)
def test_without_a_head_activations_are_there_and_no_head_is_drawn(name, prefixed, tmp_path):
    whole = architectures.make(name)
    body = whole.module.base_model.state_dict()
    prefix = f"{whole.module.base_model_prefix}." if prefixed else ""
    where = write(tmp_path, whole.module.config, {prefix + k: v for k, v in body.items()})
    model = models.load(where)
    assert whole.has_head
    assert not model.has_head
    assert all(key.startswith(whole.module.base_model_prefix) for key in model.module.state_dict())
    assert model.digest() == models.load(where).digest()
    for found, expected in zip(activations(model), activations(whole), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(TypeError):  # no loss of a head drawn at random
        model.module(torch.from_numpy(SEQUENCES))


def test_what_else_is_missing_is_named(tmp_path):
    """Part of a head, or of the body, is a damaged model."""
    module = architectures.make("phi").module
    for missing in (
        ["lm_head.bias"],
        ["model.layers.1.mlp.fc2.weight"],
        ["lm_head.bias", "lm_head.weight", "model.layers.1.mlp.fc2.weight"],
    ):
        weights = {k: v for k, v in module.state_dict().items() if k not in missing}
        where = write(tmp_path / str(len(weights)) / missing[-1], module.config, weights)
        with pytest.raises(UserError, match=f"weights are missing: {', '.join(missing)}"):
            models.load(where)


def test_without_a_head_losses_have_no_rows(tmp_path, caplog):
    module = architectures.make("llama").module
    model = models.load(write(tmp_path, module.config, module.base_model.state_dict()))
    facts = architectures.neurons(model)
    universal = facts.pop("universal")
    subject = architectures.subject(model, **facts)
    text = architectures.held_out(SEQUENCES)
    scores = None  # never looked at
    for table, rows in {
        columns.ABLATION: ablate(subject, text, universal),
        columns.DOSES: doses(subject, text, scores, kind="mean"),
        columns.SINGLE: effects(subject, text),
    }.items():
        assert table.conform(rows).num_rows == 0
        assert f"no head to predict tokens with: no rows in {table.name}" in caplog.text


@pytest.mark.parametrize(("word", "expected"), [("The", [5, 6, 7, 8]), ("an", [1, 6, 7, 8])])
def test_a_vocabulary_alone_is_a_tokenizer(word, expected, tmp_path):
    """BERT's first releases have a vocab.txt and nothing else: case counts if it has capitals."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", word, "neuron", "##s", "fire"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 9}))
    tokenizer = load_tokenizer(tmp_path)
    assert encode(tokenizer, ["The neurons fire"]) == [expected]
    if word == "an":
        assert encode(tokenizer, ["AN neurons fire"]) == [[5, 6, 7, 8]]
