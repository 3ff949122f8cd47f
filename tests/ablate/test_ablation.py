"""Replacing neurons: the ablated loss is that of edited weights, at a fraction of the work."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import (
    CONFIGS,
    VOCABULARY,
    edited,
    held_out,
    hugging_face_loss,
    layers,
    make,
    neurons,
    subject,
    tokens,
)
from torch import nn

from universal_neurons.ablate import ablation, controls, measure, predictions
from universal_neurons.errors import UserError


def ablate(model, sequences, universal, documents=None, **options):
    """`ablation.ablate`, by the facts of `architectures.neurons`."""
    names = ("mean", "std", "sparsity", "seed", "step")
    known = {name: options.pop(name) for name in names if name in options}
    text = held_out(sequences, documents, model)
    return ablation.ablate(subject(model, **known), text, universal, **options)


def universal_rows(table, kind="mean"):
    rows = table[(table["neuron_set"] == "universal") & (table["kind"] == kind)]
    return rows.set_index("layer")


@pytest.mark.parametrize("name", CONFIGS)
def test_ablated_loss_is_that_of_a_forward_pass_with_edited_weights(name):
    model, sequences = make(name), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, kinds=["mean", "zero"], controls=1, **facts)
    for layer in (-1, 0, 1, 2):
        replaced = facts["universal"] & ((layers(model) == layer) | (layer == -1))
        for kind, values in (("mean", facts["mean"]), ("zero", 0 * facts["mean"])):
            expected = hugging_face_loss(edited(model, replaced, values), sequences)
            row = universal_rows(table, kind).loc[layer]
            assert row["ablated_loss"] == pytest.approx(expected, rel=2e-6)
            assert row["kl"] > 1e-4, "the test must not be vacuous"


def test_a_model_is_left_as_it_was():
    model, sequences = make(), tokens()
    before = hugging_face_loss(model.module, sequences)
    ablate(model, sequences, seed="a", step=1, controls=2, **neurons(model))
    assert hugging_face_loss(model.module, sequences) == before


def test_clean_loss_is_the_models_own_loss():
    model, sequences = make(), tokens()
    table = ablate(model, sequences, seed="a", step=1, controls=1, **neurons(model))
    expected = hugging_face_loss(model.module, sequences)
    np.testing.assert_allclose(table["clean_loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        table["delta_loss"], table["ablated_loss"] - table["clean_loss"], atol=1e-12
    )


def test_standard_error_is_that_of_paired_differences_between_sequences():
    model, sequences = make(), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=0, **facts)
    other = edited(model, facts["universal"], facts["mean"])
    delta = [
        hugging_face_loss(other, one) - hugging_face_loss(model.module, one)
        for one in sequences[:, None]
    ]
    expected = np.std(delta, ddof=1) / np.sqrt(len(delta))
    assert universal_rows(table).loc[-1, "delta_loss_se"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("n", "documents"), [(1, None), (4, [7, 7, 7, 7])])
def test_one_document_has_no_standard_error(n, documents):
    model = make()
    options = {"seed": "a", "step": 1, "controls": 1, "documents": documents}
    table = ablate(model, tokens(n=n), **options, **neurons(model))
    errors = table[["delta_loss_se", "difference_se", "adjusted_difference_se"]]
    assert errors.isna().all(axis=None)
    assert table["delta_loss"].notna().all()


def by_document(values, documents):
    """Standard error of the mean of all values, from the sums of every document's deviations."""
    mean = math.fsum(values) / len(values)
    sums = dict.fromkeys(documents, 0.0)
    for value, name in zip(values, documents, strict=True):
        sums[name] += value - mean
    squares = math.fsum(total**2 for total in sums.values())
    return math.sqrt(squares * len(sums) / (len(sums) - 1)) / len(values)


def test_standard_errors_are_over_documents_not_over_their_sequences():
    """Of the loss change, of the difference to controls and of that at equal energy."""
    model, sequences, documents = make(), tokens(n=7), [4, 0, 4, 9, 0, 4, 9]
    facts = neurons(model)
    options = {"seed": "a", "step": 1, "controls": 2, **facts}
    row = universal_rows(ablate(model, sequences, documents=documents, **options)).loc[-1]
    drawn = drawn_controls(model, facts)
    sets = [facts["universal"], *(np.isin(np.arange(sum(model.d_mlp)), one) for one in drawn)]
    clean, *losses = (
        np.array([hugging_face_loss(module, one) for one in sequences[:, None]])
        for module in (model.module, *(edited(model, one, facts["mean"]) for one in sets))
    )
    own, control = losses[0] - clean, np.mean(losses[1:], 0) - clean
    expected = {
        "delta_loss_se": own,
        "difference_se": own - control,
        "adjusted_difference_se": own - row["energy_ratio"] * control,
    }
    for name, values in expected.items():
        assert row[name] == pytest.approx(by_document(values, documents), rel=1e-3)
        assert row[name] != pytest.approx(by_document(values, range(7)), rel=0.05)


def test_intervals_of_losses_cover_the_truth_by_document_but_not_by_sequence():
    """Half of the variance of a loss change is its document's, of 1 to 12 sequences each."""
    rng = np.random.default_rng(0)
    covered = {"documents": [], "sequences": []}
    for _ in range(1000):
        documents = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 13, 40)))
        shared = rng.normal(size=40)[documents]
        values = np.sqrt(0.5) * (shared + rng.normal(size=len(documents)))
        each = np.arange(len(documents))
        for name, groups in (("documents", documents), ("sequences", each)):
            se = measure.standard_error(values, groups)
            assert se == pytest.approx(by_document(values.tolist(), groups.tolist()), rel=1e-9)
            covered[name].append(abs(values.mean()) < 1.96 * se)
    assert 0.92 <= np.mean(covered["documents"]) <= 0.97
    assert np.mean(covered["sequences"]) < 0.75


def test_divergence_is_that_of_the_two_distributions():
    model, sequences = make("llama"), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=0, **facts)

    def log_p(module):
        with torch.no_grad():
            logits = module(input_ids=torch.from_numpy(sequences)).logits[:, :-1].double().numpy()
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    p, q = log_p(model.module), log_p(edited(model, facts["universal"], facts["mean"]))
    expected = (np.exp(p) * (p - q)).sum(-1).mean()
    assert universal_rows(table).loc[-1, "kl"] == pytest.approx(expected, rel=1e-5)


def test_neurons_that_nothing_reads_have_no_effect():
    model = make()
    facts = neurons(model)
    for projection, own in zip(
        model.projections,
        np.split(facts["universal"], np.cumsum(model.d_mlp)[:-1]),
        strict=True,
    ):
        projection.weight[torch.from_numpy(own)] = 0
    table = ablate(model, tokens(), seed="a", step=1, kinds=ablation.KINDS, controls=1, **facts)
    for kind in ablation.KINDS:
        rows = universal_rows(table, kind)
        np.testing.assert_allclose(rows["kl"], 0, atol=1e-7)
        np.testing.assert_allclose(rows["delta_loss"], 0, atol=1e-7)


def test_the_batch_size_and_the_loss_block_change_nothing(monkeypatch):
    model = make()
    options = {"seed": "a", "step": 1, "controls": 2, "kinds": ablation.KINDS, **neurons(model)}
    whole = ablate(model, tokens(), batch_tokens=10_000, **options)
    numbers = [
        *("clean_loss", "ablated_loss", "delta_loss", "delta_loss_se", "kl", "direct_delta_loss"),
        *("difference", "difference_se"),
    ]
    monkeypatch.setattr(predictions, "LOSS_BLOCK", 7 * VOCABULARY)
    for batch_tokens in (1, 2 * 9):
        parts = ablate(model, tokens(), batch_tokens=batch_tokens, **options)
        np.testing.assert_allclose(parts[numbers], whole[numbers], atol=2e-6)
        pd.testing.assert_frame_equal(parts.drop(columns=numbers), whole.drop(columns=numbers))


def test_a_resampled_neuron_takes_its_values_at_another_held_out_token(monkeypatch):
    # With one token to sample from, all positions take that token's activations.
    monkeypatch.setattr(measure, "RESAMPLE_TOKENS", 1)
    model, sequences = make(), tokens(n=3, length=5)
    facts = neurons(model)
    seen = []
    with model.tap(lambda layer, x: seen.append(x.flatten(0, 1))), torch.no_grad():
        model.module(input_ids=torch.from_numpy(sequences[:, :-1]))
    options = {"seed": "a", "step": 1, "controls": 1}
    resampled = ablate(model, sequences, kinds=["resample"], **options, **facts)
    losses = []
    for activations in torch.cat(seen, dim=1).double().numpy():
        table = ablate(model, sequences, **options, **{**facts, "mean": activations})
        losses.append(table["ablated_loss"])
    distance = np.abs(np.asarray(losses) - resampled["ablated_loss"].to_numpy()).max(1)
    assert np.sort(distance)[0] < 1e-6
    assert np.sort(distance)[1] > 1e-4


def test_a_resampled_neuron_keeps_its_value_where_all_tokens_are_alike():
    # Without absolute positions a repeated token has the same activations everywhere.
    model = make("llama")
    table = ablate(
        model,
        np.full((4, 9), 7),
        seed="a",
        step=1,
        kinds=["resample", "zero"],
        controls=1,
        **neurons(model),
    )
    np.testing.assert_allclose(universal_rows(table, "resample")["delta_loss"], 0, atol=1e-5)
    assert (universal_rows(table, "zero")["delta_loss"].abs() > 1e-3).all()


def test_resampled_tokens_differ_between_positions_and_random_seeds():
    model = make()
    facts = {"seed": "a", "step": 1, "kinds": ["resample"], "controls": 0, **neurons(model)}
    first, again, other = (
        ablate(model, tokens(), random_seed=s, **facts)["ablated_loss"] for s in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).all()


def test_nothing_before_the_replaced_neurons_is_computed_twice(monkeypatch):
    model = make()
    calls = Counter()

    def counting(cls):
        original = cls.forward

        def forward(self, *args, **kwargs):
            calls[self] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, "forward", forward)

    counting(type(model.blocks[0]))
    counting(type(model.blocks[0].attn))
    ablate(model, tokens(), seed="a", step=1, controls=2, **neurons(model))
    # One clean pass; three neuron sets in each of three layers, and in all layers (from 0 on);
    # with later blocks frozen, the same once more in their own blocks only.
    total, direct = [1 + 6, 1 + 6 + 3, 1 + 6 + 3 + 3], [6, 6, 6]
    assert [calls[block] for block in model.blocks] == np.add(total, direct).tolist()
    assert [calls[block.attn] for block in model.blocks] == [1, 1 + 6, 1 + 6 + 3]


def test_a_layer_without_universal_neurons_is_a_row_without_deltas():
    model = make()
    facts = neurons(model)
    facts["universal"][layers(model) == 1] = False
    table = ablate(model, tokens(), seed="a", step=1, kinds=["mean", "zero"], controls=3, **facts)
    empty = table[table["layer"] == 1]
    assert empty["kind"].tolist() == ["mean", "zero"]
    assert (empty["neuron_set"] == "universal").all()
    assert (empty["n_neurons"] == 0).all()
    assert empty["clean_loss"].notna().all()
    assert empty[["ablated_loss", "delta_loss", "delta_loss_se", "kl"]].isna().all(axis=None)
    others = table[table["layer"] != 1]
    contrast = [
        *("difference", "difference_se", "energy_ratio", "overlap"),
        *("adjusted_difference", "adjusted_difference_se"),
    ]
    assert others.drop(columns=[*contrast, "permutation_p", "dtype_error"]).notna().all(axis=None)
    assert others[contrast].notna().all(axis=1).equals(others["neuron_set"] == "universal")
    judged = (others["neuron_set"] == "universal") & others["comparable"]
    assert others["permutation_p"].notna().equals(judged)
    assert (others.groupby(["layer", "kind"]).size() == 1 + 3).all()
    assert (others["n_neurons"] == np.where(others["layer"] == -1, 8, 4)).all()


def test_without_any_universal_neuron_only_the_clean_model_is_run():
    model = make()
    facts = neurons(model) | {"universal": np.zeros(sum(model.d_mlp), bool)}
    passes = []
    model.module.register_forward_pre_hook(lambda *_: passes.append(1))
    table = ablate(
        model, tokens(), seed="a", step=1, kinds=["mean", "resample"], controls=3, **facts
    )
    assert len(passes) == 1
    assert table["layer"].tolist() == 2 * [-1, 0, 1, 2]
    expected = hugging_face_loss(model.module, tokens())
    np.testing.assert_allclose(table["clean_loss"], expected, rtol=1e-6)


def drawn_controls(model, facts):
    """The two control sets that `ablate` draws for seed a at step 1."""
    own = subject(model, **{name: facts[name] for name in ("mean", "std", "sparsity")})
    return own.controls(facts["universal"], "mean", 2, 0).sets


def test_controls_are_replaced_as_the_universal_neurons_are():
    model, sequences = make(), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=2, **facts)
    drawn = drawn_controls(model, facts)
    for layer in (-1, 0, 2):
        for draw, control in enumerate(drawn):
            replaced = np.isin(np.arange(sum(model.d_mlp)), control)
            replaced &= (layers(model) == layer) | (layer == -1)
            expected = hugging_face_loss(edited(model, replaced, facts["mean"]), sequences)
            row = table[(table["layer"] == layer) & (table["draw"] == draw)].iloc[0]
            assert row["ablated_loss"] == pytest.approx(expected, rel=2e-6)
            assert row["mean_norm"] == pytest.approx(
                np.hypot(facts["mean"], facts["std"])[replaced].mean()
            )


def test_a_planted_important_neuron_costs_more_than_its_controls():
    model = make()
    torch.manual_seed(3)
    model.projections[1].weight[5] *= 20
    # Text the model itself wrote: no other model predicts it better.
    text = torch.zeros(64, 1, dtype=torch.int64)
    for _ in range(15):
        with torch.no_grad():
            p = model.module(input_ids=text).logits[:, -1].softmax(-1)
        text = torch.cat([text, torch.multinomial(p, 1)], dim=1)
    n = sum(model.d_mlp)
    universal = np.zeros(n, bool)
    universal[model.d_mlp[0] + 5] = True
    facts = {
        "universal": universal,
        "mean": np.zeros(n),
        "std": np.ones(n),
        "sparsity": np.full(n, 0.5),
    }
    table = ablate(model, text.numpy(), seed="a", step=1, controls=20, **facts)
    for layer in (-1, 1):
        rows = table[table["layer"] == layer].set_index("neuron_set")
        own, controls = rows.loc["universal"], rows.loc["control"]
        assert own["delta_loss"] > controls["delta_loss"].max()
        assert own["delta_loss"] > 3 * own["delta_loss_se"]
        assert own["kl"] > 2 * controls["kl"].max()


def test_bfloat16_models_are_measured_in_float32():
    model = make()
    model.module.to(torch.bfloat16)
    table = ablate(
        model, tokens(), seed="a", step=1, kinds=ablation.KINDS, controls=1, **neurons(model)
    )
    assert np.isfinite(table["delta_loss"]).all()
    assert table["ablated_loss"].dtype == np.float64


def test_predictions_that_are_not_finite_name_the_model():
    model = make()
    model.projections[1].bias[0] = torch.nan
    with pytest.raises(UserError, match=r"seed x21, step 400: predictions are NaN"):
        ablate(model, tokens(), seed="x21", step=400, controls=1, **neurons(model))
    model = make()
    facts = neurons(model)
    facts["mean"][np.flatnonzero(facts["universal"])[0]] = np.nan
    with pytest.raises(UserError, match=r"seed x21, step 400: .* neurons of layer -1 replaced"):
        ablate(model, tokens(), seed="x21", step=400, controls=1, **facts)


def test_token_ids_beyond_the_vocabulary_are_refused():
    model, sequences = make(), tokens()
    sequences[2, 3] = VOCABULARY
    with pytest.raises(UserError, match="go from 0 to 40, but the model's vocabulary has 40"):
        ablate(model, sequences, seed="a", step=1, **neurons(model))


def test_a_wholly_universal_layer_has_no_controls():
    model = make()
    facts = neurons(model)
    facts["universal"][layers(model) == 0] = True
    table = ablate(model, tokens(), seed="a", step=1, controls=2, **facts)
    assert table.loc[table["layer"] == 0, "neuron_set"].tolist() == ["universal"]
    pooled = table[table["layer"] == -1].set_index("draw")["n_neurons"]
    assert pooled.to_dict() == {-1: 24 + 8, 0: 8, 1: 8}


def text_tokens(module, sequences):
    with torch.no_grad():
        return module(input_ids=torch.from_numpy(sequences)).logits[:, :-1]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_direct_effect_is_the_change_written_to_the_final_residual_stream(name):
    model, sequences = make(name), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=1, **facts)
    ids = torch.from_numpy(sequences)
    seen = {}
    with model.tap(lambda layer, x: seen.update({layer: x})), torch.no_grad():
        model.module(input_ids=ids)
    starts = np.cumsum([0, *model.d_mlp])
    for which in (-1, 0, 1, 2):
        change = torch.zeros(())
        for layer, projection in enumerate(model.projections):
            if which not in (-1, layer):
                continue
            own = slice(starts[layer], starts[layer + 1])
            chosen = torch.from_numpy(np.flatnonzero(facts["universal"][own]))
            mean = torch.from_numpy(facts["mean"][own]).float()
            weight = projection.weight.T if isinstance(projection, nn.Linear) else projection.weight
            change = change + (mean[chosen] - seen[layer][..., chosen]) @ weight[chosen]
        handle = model.blocks[-1].register_forward_hook(
            lambda _, inputs, out, change=change: (
                (out[0] + change, *out[1:]) if isinstance(out, tuple) else out + change
            )
        )
        expected = hugging_face_loss(model.module, sequences)
        handle.remove()
        row = universal_rows(table).loc[which]
        assert row["clean_loss"] + row["direct_delta_loss"] == pytest.approx(expected, rel=2e-6)
    # Nothing comes after the last layer, but something after the first.
    rows = universal_rows(table)
    assert rows.loc[2, "direct_delta_loss"] == pytest.approx(rows.loc[2, "delta_loss"], abs=1e-6)
    assert abs(rows.loc[0, "direct_delta_loss"] - rows.loc[0, "delta_loss"]) > 1e-4


def test_direct_effects_are_measured_for_the_universal_sets_and_a_few_controls():
    model = make()
    table = ablate(model, tokens(), seed="a", step=1, controls=6, **neurons(model))
    measured = table["direct_delta_loss"].notna()
    assert measured.equals(table["draw"] < ablation.DIRECT_CONTROLS)


def test_changed_predictions_are_those_of_the_edited_model():
    model, sequences = make(), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=0, **facts)
    before = text_tokens(model.module, sequences).argmax(-1)
    after = text_tokens(edited(model, facts["universal"], facts["mean"]), sequences).argmax(-1)
    share = (before != after).float().mean().item()
    assert 0 < share < 1
    assert universal_rows(table).loc[-1, "top1_change"] == pytest.approx(share)


def test_differences_are_paired_by_sequence():
    model, sequences = make(), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=2, **facts)
    drawn = drawn_controls(model, facts)
    sets = [facts["universal"], *(np.isin(np.arange(sum(model.d_mlp)), one) for one in drawn)]
    losses = np.array(
        [
            [hugging_face_loss(edited(model, one, facts["mean"]), s) for s in sequences[:, None]]
            for one in sets
        ]
    )
    paired = losses[0] - losses[1:].mean(0)
    row = universal_rows(table).loc[-1]
    assert row["difference"] == pytest.approx(paired.mean(), rel=1e-3)
    expected = paired.std(ddof=1) / np.sqrt(len(paired))
    assert row["difference_se"] == pytest.approx(expected, rel=1e-3)


def all_comparable(monkeypatch):
    monkeypatch.setattr(controls, "LEAST_OVERLAP", 0)
    monkeypatch.setattr(controls, "MOST_ENERGY_RATIO", np.inf)


def test_permutation_p_counts_the_controls_that_cost_as_much(monkeypatch):
    all_comparable(monkeypatch)
    model = make()
    table = ablate(model, tokens(), seed="a", step=1, controls=5, **neurons(model))
    for layer in (-1, 0, 1, 2):
        rows = table[table["layer"] == layer]
        own = rows.loc[rows["neuron_set"] == "universal"].iloc[0]
        costs = rows.loc[rows["neuron_set"] == "control", "delta_loss"]
        as_large = (costs >= own["delta_loss"]).sum()
        assert own["permutation_p"] == (1 + as_large) / 6


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_energy_is_the_squared_length_of_the_change_of_what_the_mlps_write(name):
    model, sequences = make(name), tokens()
    facts = neurons(model)
    seen = {}
    with model.tap(lambda layer, x: seen.update({layer: x})), torch.no_grad():
        model.module(input_ids=torch.from_numpy(sequences[:, :-1]))
    options = {"seed": "a", "step": 1, "kinds": ["mean", "zero"], "controls": 1}
    table = ablate(model, sequences, **options, **facts)
    starts = np.cumsum([0, *model.d_mlp])
    for kind, values in (("mean", facts["mean"]), ("zero", 0 * facts["mean"])):
        total = later = 0.0
        for layer, projection in enumerate(model.projections):
            own = slice(starts[layer], starts[layer + 1])
            chosen = np.flatnonzero(facts["universal"][own])
            x = seen[layer][..., chosen].double().numpy()
            weight = projection.weight.double().numpy()
            weight = weight.T if isinstance(projection, nn.Linear) else weight
            change = ((values[own][chosen] - x) @ weight[chosen]) ** 2
            expected = change.sum(-1)
            row = universal_rows(table, kind).loc[layer]
            assert row["energy"] == pytest.approx(expected.mean(), rel=1e-5)
            assert row["energy_later"] == pytest.approx(expected[:, 1:].mean(), rel=1e-5)
            total, later = total + expected.mean(), later + expected[:, 1:].mean()
        # Of all layers the sum: what is changed is the clean model's.
        row = universal_rows(table, kind).loc[-1]
        assert row["energy"] == pytest.approx(total, rel=1e-5)
        assert row["energy_later"] == pytest.approx(later, rel=1e-5)
        rows = table[(table["layer"] == 0) & (table["kind"] == kind)].set_index("neuron_set")
        ratio = rows.loc["universal", "energy"] / rows.loc["control", "energy"]
        own, control = rows.loc["universal"], rows.loc["control"]
        assert own["energy_ratio"] == pytest.approx(ratio)
        adjusted = own["delta_loss"] - ratio * control["delta_loss"]
        assert own["adjusted_difference"] == pytest.approx(adjusted, abs=1e-9)


def test_later_losses_leave_out_the_prediction_made_at_position_0():
    model, sequences = make(), tokens()
    facts = neurons(model)
    table = ablate(model, sequences, seed="a", step=1, controls=0, **facts)

    def later(module):
        logits = text_tokens(module, sequences)[:, 1:]
        targets = torch.from_numpy(sequences[:, 2:])
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()

    clean = later(model.module)
    row = universal_rows(table).loc[-1]
    assert row["clean_loss_later"] == pytest.approx(clean, rel=1e-6)
    change = later(edited(model, facts["universal"], facts["mean"])) - clean
    assert row["delta_loss_later"] == pytest.approx(change, abs=3e-6)
    assert abs(row["delta_loss_later"] - row["delta_loss"]) > 1e-4
    short = ablate(model, tokens(length=2), seed="a", step=1, controls=0, **facts)
    assert short[["clean_loss_later", "delta_loss_later", "energy_later"]].isna().all(axis=None)
    assert short["delta_loss"].notna().all()


def test_the_permutation_counts_a_set_drawn_twice_once(monkeypatch):
    all_comparable(monkeypatch)
    model = make()
    facts = neurons(model) | {"universal": np.arange(sum(model.d_mlp)) == 0}
    # Three others of its size, all alike in sparsity; eight draws of them.
    lengths = np.concatenate([np.linalg.norm(p.weight.numpy(), axis=1) for p in model.projections])
    std = np.where(np.arange(len(lengths)) < 4, 1.0, 100.0) / lengths
    facts |= {"std": std, "sparsity": np.full(len(std), 0.5)}
    table = ablate(model, tokens(), seed="a", step=1, controls=8, **facts)
    rows = table[table["layer"] == 0]
    costs = rows.loc[rows["neuron_set"] == "control", "delta_loss"].unique()
    assert len(costs) == 3
    own = rows.iloc[0]
    assert own["overlap"] == 1
    assert own["permutation_p"] == (1 + (costs >= own["delta_loss"]).sum()) / 4
    assert own["difference"] == pytest.approx(own["delta_loss"] - costs.mean())
