"""A run over one model behind two tokenizers: its neurons are found where tokens of both end."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import two_tokenizers

from universal_neurons import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The finished run of `two_tokenizers.make`."""
    where = tmp_path_factory.mktemp("unlike")
    two_tokenizers.make(where)
    tiny.finish(where)
    return open_run(where / "results/aligned")


@pytest.mark.slow
def test_every_neuron_is_found_behind_the_other_tokenizer(run):
    matches = run.table("matches")
    for (seed, other), found in matches.groupby(["seed", "other_seed"], observed=True):
        place = np.argsort(two_tokenizers.order_of(other))
        expected = place[two_tokenizers.order_of(seed)[found["neuron"]]]
        assert (found["best_neuron"] == expected).all()
        assert (found["best_layer"] == found["layer"]).all()
        assert found["best_corr"].min() > 0.995
    # These neurons follow from the token alone, and all models have the same tokens.
    scores = run.table("universality")
    assert scores["token_r2"].min() > 0.99
    assert scores["excess_given_token"].abs().max() < 0.05


@pytest.mark.slow
def test_contexts_of_the_other_tokenizer_say_what_is_read_at_the_same_end(run):
    examples, contexts = run.table("examples"), run.table("contexts")
    keys = ["seed", "layer", "neuron", "band", "rank"]
    of_pairs = examples[examples["seed"] == "c"].set_index(keys)
    there = contexts[(contexts["seed"] == "c") & (contexts["other_seed"] == "a")].set_index(keys)
    assert len(there) == len(of_pairs)
    unknown = 0
    for key, row in there.iterrows():
        own, other = of_pairs.loc[key, "activations"], row["activations"]
        known = np.isfinite(other)
        np.testing.assert_allclose(other[known], own[known], atol=1e-4)
        unknown += (~known).sum()
        at = of_pairs.loc[key, "position"] - of_pairs.loc[key, "start"]
        assert known[at]
    assert unknown


@pytest.mark.slow
def test_tokens_are_named_by_their_own_tokenizer(run):
    examples = run.table("examples")
    for seed, letters in (("a", True), ("c", False)):
        found = examples[examples["seed"] == seed]["token_ids"]
        pieces = {run.text([token]).strip() for ids in found for token in ids}
        assert all(len(piece) < 2 for piece in pieces) == letters
    roles = run.table("roles")
    first = roles.groupby("seed", observed=True)["promoted_ids"].first()
    assert max(first["a"]) < min(first["c"])


@pytest.mark.slow
def test_losses_are_of_every_models_own_tokens(run):
    losses = run.table("models").set_index("seed")["heldout_loss"]
    assert losses["a"] == pytest.approx(losses["b"], abs=1e-4)
    assert abs(losses["a"] - losses["c"]) > 1e-3
