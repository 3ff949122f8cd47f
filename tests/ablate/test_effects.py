"""Single neurons and doses: estimates against exact ablations, and sets of a known size."""

from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import (
    edited,
    held_out,
    hugging_face_loss,
    layers,
    make,
    neurons,
    subject,
    tokens,
)

from universal_neurons.ablate import doses as module_of_doses
from universal_neurons.ablate import effects as module
from universal_neurons.ablate.doses import CONTROLS, DOSES, doses
from universal_neurons.ablate.effects import attribution, effects
from universal_neurons.ablate.scored import with_scores
from universal_neurons.store.columns.ablate import EFFECTS, SINGLE
from universal_neurons.store.tables import write_table


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_attribution_is_the_slope_of_the_loss_towards_the_mean(name):
    model, sequences = make(name), tokens()
    mean = neurons(model)["mean"]
    text = held_out(sequences, model=model)
    estimate = attribution(model, text, mean, np.random.default_rng(0))[0]
    # The last position predicts no next token.
    read = slice(None, None if text.masking else -1)
    starts = np.cumsum([0, *model.d_mlp])
    for layer, neuron in ((0, 3), (1, 7), (2, 11)):

        def towards(share, at, x, layer=layer, neuron=neuron):
            if at != layer:
                return None
            x = x.clone()
            gap = mean[starts[layer] + neuron] - x[..., neuron]
            x[:, read, neuron] += share * gap[:, read]
            return x

        losses = []
        for share in (0.01, -0.01):
            with model.tap(partial(towards, share)):
                losses.append(hugging_face_loss(model.module, sequences))
        slope = (losses[0] - losses[1]) / 0.02
        assert estimate[starts[layer] + neuron] == pytest.approx(slope, rel=0.02, abs=2e-4)


def test_batches_make_no_difference_and_the_model_is_left_alone():
    model, sequences = make(), tokens()
    mean = neurons(model)["mean"]
    before = hugging_face_loss(model.module, sequences)
    whole, parts = (
        attribution(model, held_out(sequences), mean, np.random.default_rng(0), batch_tokens=size)
        for size in (1000, 1)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-6)
    assert hugging_face_loss(model.module, sequences) == before


def test_the_second_order_is_that_of_the_divergence():
    """KL(clean ‖ moved by a share s of the way) = s² times it, for small s."""
    model, sequences = make(), tokens(n=600)
    mean = neurons(model)["mean"]
    estimate = attribution(model, held_out(sequences), mean, np.random.default_rng(0))[1]
    ids = torch.from_numpy(sequences[:, :-1])
    starts = np.cumsum([0, *model.d_mlp])

    def towards(at, x, layer, neuron):
        if at != layer:
            return None
        x = x.clone()
        x[..., neuron] += 0.03 * (mean[starts[layer] + neuron] - x[..., neuron])
        return x

    with torch.no_grad():
        clean = model.module(input_ids=ids).logits.double().log_softmax(-1)
    for layer, neuron in ((0, 3), (1, 7), (2, 11)):
        with model.tap(partial(towards, layer=layer, neuron=neuron)), torch.no_grad():
            moved = model.module(input_ids=ids).logits.double().log_softmax(-1)
        divergence = (clean.exp() * (clean - moved)).sum(-1).mean().item() / 0.03**2
        assert estimate[starts[layer] + neuron] == pytest.approx(divergence, rel=0.25)


def facts(model):
    made = neurons(model)
    return {k: made[k] for k in ("mean", "std", "sparsity")}


def random_excess(model):
    return np.random.default_rng(5).normal(size=sum(model.d_mlp))


def scored(excess):
    return pd.DataFrame({"excess_corr": excess})


def test_the_sample_is_ablated_exactly():
    model, sequences = make(), tokens()
    made = facts(model)
    table = effects(subject(model, **made), held_out(sequences))
    assert len(table) == sum(model.d_mlp)
    sample = table[table["sampled"] != ""]
    assert len(sample) == module.SAMPLE
    assert (table["delta_loss"].notna() == (table["sampled"] != "")).all()
    largest = table["attributed_delta_loss"].abs().nlargest(module.SAMPLE // 2).index
    assert set(table.index[table["sampled"] == "top"]) == set(largest)
    clean = hugging_face_loss(model.module, sequences)
    np.testing.assert_allclose(table["clean_loss"], clean, rtol=1e-6)
    for i in sample.index[:4]:
        replaced = np.arange(len(table)) == i
        exact = hugging_face_loss(edited(model, replaced, made["mean"]), sequences) - clean
        assert table.loc[i, "delta_loss"] == pytest.approx(exact, abs=3e-6)


def test_effects_get_the_scores_of_their_own_neurons(tmp_path):
    model, parts = make(), []
    for seed, step in product("ab", (1, 2)):
        rows = effects(subject(model, **facts(model), seed=seed, step=step), held_out(tokens(n=1)))
        parts.append(tmp_path / f"{seed}{step}.parquet")
        write_table(parts[-1], SINGLE, rows, {})
    made = pd.concat(map(pd.read_parquet, parts), ignore_index=True)
    scores = made[["step", "seed", "layer", "neuron"]].sample(frac=1, random_state=0)
    scores["excess_corr"] = np.random.default_rng(1).normal(size=len(scores))
    scores.assign(seed=pd.Categorical(scores["seed"], ["b", "a"], ordered=True)).to_parquet(
        tmp_path / "universality.parquet"
    )
    found = with_scores(parts, tmp_path / "universality.parquet")
    assert sorted(found.columns) == sorted(EFFECTS.names)
    expected = scores.sort_index()["excess_corr"]
    np.testing.assert_array_equal(found["excess_corr"], expected)
    pd.testing.assert_frame_equal(found[made.columns[:-2]], made[made.columns[:-2]])


def test_small_effects_are_what_the_first_order_says():
    model, sequences = make(), tokens()
    for projection in model.projections:
        projection.weight *= 0.02
    table = effects(subject(model, **facts(model)), held_out(sequences))
    sample = table[table["sampled"] == "top"]
    np.testing.assert_allclose(
        sample["attributed_delta_loss"], sample["delta_loss"], rtol=0.1, atol=1e-6
    )


def test_doses_take_the_top_of_all_neurons_by_excess():
    model, sequences = make(), tokens()
    excess, made = random_excess(model), facts(model)
    table = doses(subject(model, **made), held_out(sequences), scored(excess), named=())
    top = table[table["neuron_set"] == "top"].set_index("dose")
    assert top.index.tolist() == list(DOSES)
    matched = table[table["neuron_set"].isin(["top", "control"])]
    assert (matched.groupby("dose").size() == 1 + CONTROLS).all()
    clean = hugging_face_loss(model.module, sequences)
    order = np.argsort(-excess)
    for dose, row in top.iterrows():
        replaced = np.isin(np.arange(len(excess)), order[: max(1, round(dose * len(excess)))])
        assert row["n_neurons"] == replaced.sum()
        exact = hugging_face_loss(edited(model, replaced, made["mean"]), sequences) - clean
        assert row["delta_loss"] == pytest.approx(exact, abs=3e-6)
        controls = table[(table["dose"] == dose) & (table["neuron_set"] == "control")]
        assert (controls["n_neurons"] == row["n_neurons"]).all()
        assert row["difference"] == pytest.approx(
            row["delta_loss"] - controls["delta_loss"].mean(), abs=1e-9
        )


def test_others_are_of_all_sizes_in_the_layers_shares_and_in_no_named_set(monkeypatch):
    model, sequences = make(), tokens(n=2)
    excess, seen = random_excess(model), []
    universal = excess > np.sort(excess)[-20]
    real = module_of_doses.measure_as_asked

    def measure(accuracy, subject, text, runs, *rest, **options):
        seen.extend(run.neurons for run in runs)
        return real(accuracy, subject, text, runs, *rest, **options)

    monkeypatch.setattr(module_of_doses, "measure_as_asked", measure)
    scores = scored(excess).assign(universal=universal, none=False)
    named = ("universal", "none")
    table = doses(subject(model, **facts(model)), held_out(sequences), scores, named=named)
    assert set(table["neuron_set"]) == {"top", "control", "universal", "others"}
    row = table[table["neuron_set"] == "universal"].iloc[0]
    assert (row["n_neurons"], row["draw"]) == (universal.sum(), -1)
    assert row["dose"] == universal.mean()
    others = table[table["neuron_set"] == "others"]
    assert others["n_neurons"].is_monotonic_increasing
    assert others["n_neurons"].max() > 2 * universal.sum()
    assert others[["delta_loss", "energy"]].notna().all(axis=None)
    assert others[["difference", "energy_ratio"]].isna().all(axis=None)
    shares = np.bincount(layers(model)[universal], minlength=3) / universal.sum()
    for one in seen:
        if one.name == "others":
            assert not universal[one.neurons].any()
            found = np.bincount(layers(model)[one.neurons], minlength=3)
            np.testing.assert_allclose(found, shares * len(one.neurons), atol=1.5)
