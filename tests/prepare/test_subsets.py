"""Subsets of a corpus: every token keeps its own, and each one's statistics are its tokens'."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from pipeline import EXCLUDED, gpt2, random_tokens
from tiny import CONTEXT

from universal_neurons.capture import capture
from universal_neurons.errors import UserError
from universal_neurons.prepare import text as text_module
from universal_neurons.prepare import tokens as tokens_module
from universal_neurons.prepare.subsets import Subsets
from universal_neurons.report.results import subset_preferences
from universal_neurons.score.describe import subsets_table

TEXTS = ["Call me Ishmael.", "It was the best of times,\nit was the worst of times."]


def test_every_token_keeps_the_subset_of_its_document(tmp_path, gpt2_tokenizer):
    """The two subsets use different words, so a token tells where it is from."""
    lines = [
        {"text": "cat " * 9, "meta": {"set": "animals"}},
        {"text": "red blue " * 4, "meta": {"set": "colours"}},
    ] * 20
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pd.DataFrame(lines).to_parquet(tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        documents = text_module.documents([tmp_path / name], subset_key="meta.set")
        names, _ = tokens_module.tokenise(
            {None: documents},
            gpt2_tokenizer,
            8,
            seed=0,
            out=tmp_path / "tokens.npy",
            clusters=tmp_path / "clusters.npy",
            subsets=tmp_path / "subsets.npy",
        )
        assert names == ["animals", "colours"]
        tokens, labels = np.load(tmp_path / "tokens.npy"), np.load(tmp_path / "subsets.npy")
        assert tokens.shape == labels.shape
        cat = np.isin(tokens, gpt2_tokenizer.encode("cat cat"))
        colour = np.isin(tokens, gpt2_tokenizer.encode("red blue red"))
        assert (labels[cat] == 0).all()
        assert (labels[colour] == 1).all()
        assert cat.any()
        assert colour.any()


def test_several_corpora_are_subsets_by_name_in_equal_parts(tmp_path, gpt2_tokenizer):
    def endless(text):
        while True:
            yield text_module.Document(text)

    # Far less than a batch of documents, of which each corpus gives at least one.
    names, _ = tokens_module.tokenise(
        {"short": endless(TEXTS[0]), "long": endless(TEXTS[1])},
        gpt2_tokenizer,
        8,
        seed=0,
        out=tmp_path / "tokens.npy",
        clusters=tmp_path / "clusters.npy",
        subsets=tmp_path / "subsets.npy",
        enough=100,
    )
    assert names == ["short", "long"]
    lengths = [len(gpt2_tokenizer.encode(text)) + 1 for text in TEXTS]
    found = np.bincount(np.load(tmp_path / "subsets.npy").ravel()) / tokens_module.BATCH
    # But for what is left where documents are cut into sequences.
    np.testing.assert_allclose(found, lengths, rtol=0.1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a", "meta": {}}, "a.jsonl:1 has no text 'meta.set'; it has text, meta"),
        ({"text": "a", "meta": "x"}, "a.jsonl:1 has no text 'meta.set'"),
        ({"text": "a", "meta": {"set": 3}}, "a.jsonl:1 has no text 'meta.set'"),
    ],
)
def test_a_document_without_a_subset_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match="corpus.subset_key: .*" + message):
        list(text_module.documents([tmp_path / "a.jsonl"], subset_key="meta.set"))


def test_a_field_of_unique_values_is_refused_as_subset(tmp_path, gpt2_tokenizer):
    documents = (text_module.Document("a", str(i)) for i in range(1000))
    files = {"out": tmp_path / "tokens.npy", "clusters": tmp_path / "clusters.npy"}
    with pytest.raises(UserError, match="corpus.subset_key: more than 256 subsets"):
        tokens_module.tokenise({None: documents}, gpt2_tokenizer, 8, seed=0, **files)


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_statistics_of_subsets_are_those_of_their_tokens(tmp_path, encoding):
    """Against float64 NumPy, from activations taken by a hook; two shards add up."""
    model, tokens = gpt2(3), random_tokens(40)
    labels = np.random.default_rng(1).integers(0, 3, tokens.shape).astype(np.int16)
    labels[labels == 1] = 2  # the middle subset has no token
    seen = [[] for _ in model.d_mlp]
    with model.tap(lambda layer, x: seen[layer].append(x.double().numpy())), torch.no_grad():
        model.module(torch.from_numpy(tokens))
    calibration = capture.calibrate(
        model,
        tokens,
        name="a",
        exclude=EXCLUDED,
        encoding=encoding,
        headroom=0.5,
        batch_tokens=100,
    )
    subsets = Subsets(["b", "none", "a"], labels)
    encoder = capture.Encoder("a", 7, calibration, encoding, EXCLUDED, 100, subsets)
    stores = []
    for start, stop in ((0, 15), (15, 40)):
        stores.append(tmp_path / f"moments{start}.zarr")
        capture.capture(
            model,
            tokens,
            (start, stop),
            encoder,
            tmp_path / f"activations{start}.zarr",
            stores[-1],
            attributes={},
        )
    table = subsets_table(stores, ["b", "none", "a"])
    assert list(table["subset"][:3]) == ["a", "b", "none"]
    x = np.concatenate([np.concatenate(layer).reshape(tokens.size, -1) for layer in seen], 1)
    for name, label in (("b", 0), ("a", 2)):
        own = x[((labels == label) & ~np.isin(tokens, EXCLUDED)).ravel()]
        found = table[table["subset"] == name]
        assert (found["n_tokens"] == len(own)).all()
        np.testing.assert_allclose(found["mean"], own.mean(0), atol=1e-5)
        np.testing.assert_allclose(found["std"], own.std(0), atol=1e-5)
        np.testing.assert_allclose(found["sparsity"], (own > 0).mean(0))
    empty = table[table["subset"] == "none"]
    assert (empty["n_tokens"] == 0).all()
    assert empty[["mean", "std", "sparsity"]].isna().all(axis=None)


def test_the_report_counts_where_neurons_are_most_active(tmp_path):
    neurons = {"step": 5, "seed": "a", "layer": 0, "neuron": [0, 1, 2]}
    universal = pd.DataFrame({**neurons, "universal": [True, False, True]})
    universal.to_parquet(tmp_path / "universality.parquet")
    means = {"code": [3.0, 0.0, 1.0], "law": [1.0, 2.0, 1.0], "none": [np.nan] * 3}
    parts = [
        pd.DataFrame(
            {**neurons, "subset": name, "n_tokens": 0 if name == "none" else 9, "mean": mean}
        ).assign(std=1.0)
        for name, mean in means.items()
    ]
    earlier = parts[0].assign(step=1, mean=[9.0, 9.0, 9.0])
    pd.concat([*parts, earlier]).to_parquet(tmp_path / "subsets.parquet")
    found = subset_preferences(tmp_path).set_index("subset")
    # Neuron 2 has the same mean everywhere and prefers nothing.
    assert found["n_neurons"].to_dict() == {"code": 1, "law": 1}
    assert found["n_universal"].to_dict() == {"code": 1, "law": 0}


def test_a_workflow_over_two_corpora_has_a_table_of_subsets(subsets):
    table = pd.read_parquet(subsets / "subsets.parquet")
    assert set(table["subset"]) == {"x", "y"}
    neurons = pd.read_parquet(subsets / "neurons.parquet")
    assert len(table) == 2 * len(neurons)
    assert table.groupby(["seed", "neuron", "layer"])["n_tokens"].sum().iloc[0] > 0.9 * 40 * CONTEXT
    assert "Subsets of the corpus" in (subsets / "report.html").read_text()
