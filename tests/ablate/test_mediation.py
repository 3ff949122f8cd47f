"""By which way single neurons act: against losses worked out by hand, and for planted neurons."""

import numpy as np
import pandas as pd
import pytest
import torch
from architectures import (
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

from universal_neurons.ablate.mediation import NEURONS, mediation
from universal_neurons.models.residual import Residual
from universal_neurons.store.columns.ablate import MEDIATION
from universal_neurons.store.columns.roles import ROLES
from universal_neurons.store.tables import write_table

CORPUS = np.random.default_rng(3).geometric(0.1, (30, 9)) % VOCABULARY


def role_table(path, model, named):
    """A table of roles in which some neurons, by their place among all, have one."""
    n = sum(model.d_mlp)
    layer = layers(model)
    made = {c.name: np.zeros(n) for c in ROLES.columns if c.type in ("float64", "float32")}
    made |= {c.name: [[]] * n for c in ROLES.columns if c.type.startswith("list")}
    made |= {c.name: np.zeros(n, np.int64) for c in ROLES.columns if c.type.startswith("int")}
    made |= {"step": 1, "seed": "a", "layer": layer, "gate_category": [None] * n}
    made["neuron"] = np.concatenate([np.arange(d) for d in model.d_mlp])
    made["w_out_norm"] = np.arange(n, dtype=float)
    made["role"] = pd.Series([named.get(i) for i in range(n)], dtype=object)
    write_table(path, ROLES, pd.DataFrame(made)[ROLES.names], {})
    return path


def measured(tmp_path, model, named, sequences, tokens=9999):
    made = {k: v for k, v in neurons(model).items() if k != "universal"}
    roles = role_table(tmp_path / "roles.parquet", model, named)
    table = mediation(
        subject(model, **made),
        held_out(sequences, model=model),
        roles,
        CORPUS,
        tokens=tokens,
        random_seed=1,
    )
    return MEDIATION.conform(table).to_pandas(), made["mean"]


def read_out(module, norm, sequences):
    """What the final norm is given, float64."""
    found = []
    handle = norm.register_forward_pre_hook(lambda _, given: found.append(given[0].double()))
    with torch.no_grad():
        module(input_ids=torch.from_numpy(sequences[:, :-1]))
    handle.remove()
    return found[0]


def by_hand(model, replaced, mean, sequences):
    """Loss changes in float64: in all, with the clean norm's scale, with frequencies kept."""
    residual = Residual(model)
    norm = residual._final_norm
    gain = (
        1
        if getattr(norm, "weight", None) is None
        else norm.weight.double() + residual.places.gain_offset
    )
    shift = 0 if getattr(norm, "bias", None) is None else norm.bias.double()
    head = model.module.get_output_embeddings()
    weight = head.weight.double()
    bias = 0 if head.bias is None else head.bias.double()
    other = edited(model, replaced, mean)
    path = next(name for name, part in model.module.named_modules() if part is norm)
    streams = (
        read_out(model.module, norm, sequences),
        read_out(other, other.get_submodule(path), sequences),
    )
    if residual.centred:
        streams = [x - x.mean(-1, keepdim=True) for x in streams]
    epsilon = getattr(norm, "eps", getattr(norm, "variance_epsilon", 1e-5))
    scale = [(x.square().mean(-1, keepdim=True) + epsilon).rsqrt() for x in streams]

    def logits(x, by):
        return (x * by * gain + shift) @ weight.T + bias

    def loss(z):
        z = z - z.logsumexp(-1, keepdim=True)
        targets = torch.from_numpy(sequences[:, 1:])[..., None]
        return -z.gather(-1, targets).mean().item()

    clean, total = logits(streams[0], scale[0]), logits(streams[1], scale[1])
    log = np.log(np.bincount(CORPUS.ravel(), minlength=VOCABULARY) + 1)
    along = torch.from_numpy((log - log.mean()) / np.linalg.norm(log - log.mean()))
    kept = total + ((clean - total) @ along)[..., None] * along
    return (
        loss(total) - loss(clean),
        loss(total) - loss(logits(streams[1], scale[0])),
        loss(total) - loss(kept),
    )


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "olmo", "gemma3_text"])
def test_each_way_is_the_loss_worked_out_by_hand(tmp_path, name):
    model, sequences = make(name), tokens()
    named = {3: "entropy", sum(model.d_mlp) - 2: "token frequency"}
    table, mean = measured(tmp_path, model, named, sequences)
    assert len(table) == 4
    assert set(table["role"].dropna()) == set(named.values())
    starts = np.cumsum([0, *model.d_mlp])
    for row in table.itertuples():
        replaced = np.arange(sum(model.d_mlp)) == starts[row.layer] + row.neuron
        expected = by_hand(model, replaced, mean, sequences)
        found = row.delta_loss, row.through_norm, row.through_frequency
        np.testing.assert_allclose(found, expected, atol=5e-6)


def test_of_an_encoder_the_effect_at_masked_tokens_goes_either_way(tmp_path):
    model, sequences = make("bert"), tokens()
    clean = hugging_face_loss(model.module, sequences)
    table, mean = measured(tmp_path, model, {3: "entropy"}, sequences)
    starts = np.cumsum([0, *model.d_mlp])
    for row in table.itertuples():
        at = starts[row.layer] + row.neuron
        other = edited(model, np.arange(len(mean)) == at, mean)
        changed = hugging_face_loss(other, sequences)
        assert row.delta_loss == pytest.approx(changed - clean, abs=2e-6)
    assert table[["through_norm", "through_frequency"]].notna().all(axis=None)


def test_what_no_token_reads_acts_through_the_norm_alone(tmp_path):
    model, sequences = make(), tokens()
    module, last = model.module, len(model.d_mlp) - 1
    unread = torch.randn(16, generator=torch.Generator().manual_seed(0))
    unread = (unread - unread.mean()) / (unread - unread.mean()).norm()
    gain = module.transformer.ln_f.weight
    weight = module.lm_head.weight
    weight.sub_(torch.outer((weight * gain) @ unread, unread / gain))
    model.output_weight(last)[5] = 3 * unread
    at = sum(model.d_mlp[:last]) + 5
    table, _ = measured(tmp_path, model, {at: "entropy"}, sequences)
    [row] = table[table["role"] == "entropy"].itertuples()
    assert abs(row.delta_loss) > 1e-3
    assert row.through_norm == pytest.approx(row.delta_loss, rel=1e-3)
    [other] = table[table["role"].isna()].itertuples()
    assert other.layer == last
    assert abs(other.through_norm - other.delta_loss) > 1e-3


def test_those_with_the_largest_output_weights_are_measured(tmp_path):
    model = make()
    named = dict.fromkeys(range(12), "entropy")
    table, _ = measured(tmp_path, model, named, tokens())
    having = table[table["role"] == "entropy"]
    assert having["neuron"].tolist() == list(range(12 - NEURONS, 12))
    assert len(table) == 2 * NEURONS


def test_the_first_sequences_are_read_as_far_as_the_tokens_go(tmp_path):
    model, sequences = make(), tokens()
    length = sequences.shape[1]
    some, _ = measured(tmp_path, model, {3: "entropy"}, sequences, tokens=3 * length + 1)
    whole, _ = measured(tmp_path, model, {3: "entropy"}, sequences[:3])
    pd.testing.assert_frame_equal(some, whole)


def test_a_model_without_such_neurons_has_no_rows(tmp_path):
    assert measured(tmp_path, make(), {0: "partition"}, tokens())[0].empty
