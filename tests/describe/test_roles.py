"""Roles follow from weights: planted ones are found, and numbers equal those worked out by hand."""

from __future__ import annotations

import architectures
import numpy as np
import pandas as pd
import pytest
import torch
from pipeline import VOCABULARY, gpt2

from universal_neurons.describe.chance import Chance, cosine_p, share_p, upper_p
from universal_neurons.describe.logits import Logits
from universal_neurons.describe.roles import RoleCutoffs, gate_category, roles
from universal_neurons.models.residual import Residual
from universal_neurons.store.columns.roles import ROLES

CUTOFFS = RoleCutoffs(
    kurtosis=10,
    partition_variance=0.005,
    entropy_layers=2,
    entropy_variance=0.001,
    entropy_kurtosis=8,
    entropy_penalty=1,
    null_space=0.01,
    frequency_cos=0.5,
    attention_cos=0.3,
    false_discovery_rate=0.05,
    draws=1000,
    seed=0,
)
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (40, 16))
COUNTS = np.bincount(TOKENS.ravel(), minlength=VOCABULARY)
PROMOTING, SUPPRESSING, SILENT, STEERING = 5, 9, 14, 21


def found(model, counts=COUNTS, **changes):
    table = roles(model, TOKENS, counts, RoleCutoffs(**{**vars(CUTOFFS), **changes}))
    made = ROLES.conform(table.assign(seed="a", step=1)).to_pandas()
    return made.set_index(["layer", "neuron"])


def planted():
    """A GPT-2 of which four neurons of layer 1 or 0 write in directions of known use."""
    model = gpt2(3, n_embd=32, d_mlp=40)
    module = model.module
    unembedding = module.lm_head.weight
    # Two dimensions beside the mean that no token reads.
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)))[0]
    unread = basis - basis.mean(0)
    unread = torch.linalg.qr(unread)[0][:, :2]
    gain = module.transformer.ln_f.weight
    gain.copy_(torch.linspace(0.5, 2, 32))
    unembedding.sub_((unembedding * gain) @ unread @ unread.T / gain)
    # One token reads a direction that no other does.
    own = unembedding[17] * gain
    own = (own - own.mean()) / (own - own.mean()).norm()
    others = torch.arange(VOCABULARY) != 17
    unembedding[others] -= torch.outer((unembedding[others] * gain) @ own, own / gain)
    out = model.output_weight(1)
    out[PROMOTING], out[SUPPRESSING], out[SILENT] = 3 * own, -3 * own, 2 * unread[:, 0]
    return model, Residual(model).unembedding().double().numpy()


def by_hand(model, layer, neuron):
    """What a neuron adds to the logits, float64: the final norm's gain and both centrings."""
    module = model.module
    weight = module.lm_head.weight.double().numpy()
    gain = module.transformer.ln_f.weight.double().numpy()
    written = model.output_weight(layer)[neuron].double().numpy()
    logits = weight @ (gain * (written - written.mean()))
    return logits - logits.mean()


def test_promoted_and_suppressed_tokens_are_those_of_the_unembedding_times_the_output_weights():
    model, _ = planted()
    table = found(model)
    assert table.loc[1, PROMOTING].promoted_ids[0] == 17
    assert table.loc[1, SUPPRESSING].suppressed_ids[0] == 17
    for layer, neuron in ((0, 0), (1, 30)):
        logits, row = by_hand(model, layer, neuron), table.loc[layer, neuron]
        order = np.argsort(-logits)
        assert row.promoted_ids.tolist() == order[:10].tolist()
        assert row.suppressed_ids.tolist() == order[::-1][:10].tolist()
        assert row.logit_var == pytest.approx(logits.var(), 1e-5)
        log = np.log(COUNTS + 1)
        assert row.frequency_cos == pytest.approx(np.corrcoef(log, logits)[0, 1], abs=1e-5)


def test_moments_are_those_of_the_cosines():
    model, read = planted()
    table = found(model)
    for layer, neuron in ((0, 7), (1, 30)):
        written = model.output_weight(layer)[neuron].double().numpy()
        written -= written.mean()
        cosine = read @ written / np.linalg.norm(read, axis=1) / np.linalg.norm(written)
        z, row = (cosine - cosine.mean()) / cosine.std(), table.loc[layer, neuron]
        expected = [cosine.mean(), cosine.var(), (z**3).mean(), (z**4).mean()]
        measured = row[["vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt"]].astype(float)
        np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-6)
        assert row.promoted_cos[0] == pytest.approx(cosine[row.promoted_ids[0]], 1e-5)


def test_planted_roles_are_found_and_no_others():
    table = found(planted()[0])
    named = table["role"].dropna().to_dict()
    expected = {(1, PROMOTING): "prediction", (1, SUPPRESSING): "suppression"}
    assert {key: named.get(key) for key in expected} == expected
    assert named[1, SILENT] == "entropy"
    others = table.drop(index=[*expected, (1, SILENT)])
    assert not set(others["role"].dropna()) & {"entropy", "prediction", "suppression"}


def test_what_no_token_reads_is_in_the_null_space():
    table = found(planted()[0])
    assert table.loc[(1, SILENT), "null_space"] == pytest.approx(1, abs=1e-5)
    assert table.loc[(1, SILENT), "null_space_q"] < 1e-3
    assert pd.isna(table.loc[(1, SILENT), "vocab_kurt"])
    assert table.drop(index=[(1, SILENT)])["null_space"].max() < 0.5


def test_a_neuron_along_what_a_head_reads_of_the_first_position_steers_its_attention():
    model, _ = planted()
    # It is never active, so that it leaves the keys as they are.
    model.blocks[0].mlp.c_fc.weight[:, STEERING] = 0
    model.blocks[0].mlp.c_fc.bias[STEERING] = -30
    heads = Residual(model).attention(TOKENS[:256, 0])
    out = model.output_weight(0)
    out[STEERING] = 2 * heads[1][1].float()
    row = found(model).loc[0, STEERING]
    assert (row.attention_layer, row.attention_head) == (1, 1)
    assert row.attention_cos == pytest.approx(1, abs=1e-5)
    assert row.attention_q < 0.05
    # The scores of the head itself: adding the direction to the normed stream raises them.
    length = torch.linalg.vector_norm(heads[1][1]).item()
    assert row.attention_score == pytest.approx(length, 1e-5)
    assert found(model).loc[1, "attention_score"].isna().all()


def test_attention_to_the_first_position_is_what_the_module_computes():
    """Query times key of the block's own projection, with its norm's scale as it is."""
    model = gpt2(4)
    block = model.blocks[1]
    torch.nn.init.normal_(block.ln_1.weight)
    torch.nn.init.normal_(block.ln_1.bias)
    (heads,) = Residual(model).attention(TOKENS[:1, 0])[1:]
    ids = torch.from_numpy(TOKENS[:1, :1])
    hidden = model.module(ids, output_hidden_states=True).hidden_states[1]
    key = block.attn.c_attn(block.ln_1(hidden))[0, 0, 16:32]
    x, added = torch.randn(2, 16, dtype=torch.float64)
    x, added = x - x.mean(), added - added.mean()

    def score(stream):
        """Of both heads, with the scale of x, which a small change of the stream leaves."""
        norm = (x.square().mean() + block.ln_1.eps).sqrt()
        normed = stream / norm * block.ln_1.weight + block.ln_1.bias
        query = normed.float() @ block.attn.c_attn.weight[:, :16]
        return (query.view(2, 8) * key.view(2, 8)).sum(1) / 8**0.5 * norm

    difference = score(x + added) - score(x)
    np.testing.assert_allclose(difference, heads @ added, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "opt", "opt post-norm", "bloom", "bloom post-norm"),
        *("gpt_bigcode", "gpt_bigcode keys by head"),
    ],
)
def test_attention_to_two_keys_differs_as_the_modules_own_probabilities(name):
    """By another query at the third position; keys without places are those of first tokens."""
    model = architectures.make(name)
    where, module = model.places.attention, model.module
    for path, part in module.named_modules():
        if path.endswith(("wpe", "embed_positions")):
            part.weight.zero_()
    module.set_attn_implementation("eager")
    queries = []
    projection = model.blocks[0].get_submodule(where.query)
    hook = projection.register_forward_pre_hook(lambda _, given: queries.append(given[0][0, -1]))
    ids = torch.tensor([[3, 8, 11], [3, 8, 27]])
    ratios = []
    for one in ids:
        probability = module(one[None], output_attentions=True).attentions[0][0, :, 2].log()
        ratios.append(probability[:, 0] - probability[:, 1])
    hook.remove()
    residual = Residual(model)
    norm = residual._norm(model.blocks[0], where.norm)
    gain = 1 if norm is None else norm.weight
    difference = ((queries[0] - queries[1]) / gain).double()
    reads = residual.attention([3])[0] - residual.attention([8])[0]
    expected = ratios[0] - ratios[1]
    assert expected.abs().max() > 0.1
    np.testing.assert_allclose(reads @ difference, expected, rtol=1e-3, atol=1e-4)


def linear_head(model):
    """What predicts tokens, its nonlinearity left out and its norm's length taken as 1."""
    decoder, head = model.module.get_output_embeddings(), model.places.masked_head
    if head is None:
        return decoder
    transform, norm = (model.module.get_submodule(path) for path in (head.transform, head.norm))

    def predicted(x):
        x = x @ transform.weight.T
        x = (x - x.mean(-1, keepdim=True)) * norm.weight
        return x @ decoder.weight.T

    return predicted


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert"])
def test_what_a_layer_writes_goes_through_the_norms_of_all_that_follow(name):
    """By the modules' own norms, one after the other, at the length that a stream has there."""
    model = architectures.make(name)
    residual = Residual(model)
    norms = [
        norm
        for block in model.blocks
        for norm in block.modules()
        if isinstance(norm, torch.nn.LayerNorm)
    ]
    assert len(norms) == 6
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    written = residual.outputs(0)
    expected = written
    # That after attention in layer 0 is before the MLP; the last is a part of the unembedding.
    for norm in norms[1:-1]:
        expected = (expected - expected.mean(1, keepdim=True)) * norm.weight
    expected = expected - expected.mean(1, keepdim=True)
    torch.testing.assert_close(residual.at_end(0, written), expected)
    torch.testing.assert_close(residual.at_end(2, written), written)


def test_tokens_promoted_by_an_encoder_are_those_whose_logits_its_head_raises():
    """In the module's own head, where its nonlinearity is a line: a little of a direction more."""
    model = architectures.make("bert")
    model.module.cls.predictions.transform.dense.bias.add_(60)
    residual = Residual(model)
    read = residual.unembedding()
    stream, gain = torch.randn(16, dtype=torch.float64), residual._final_norm.weight.double()
    head = model.module.cls.double()
    less, more = (head(gain * (stream + s * read[7])) for s in (-1e-5, 1e-5))
    assert np.corrcoef(more - less, read @ read[7])[0, 1] > 0.99


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_folded_weights_give_the_logits_and_inputs_of_the_module(name):
    """Norms with gains, shifts and offsets, at a stream with mean 0 and mean square 1."""
    model = architectures.make(name)
    for parameter in model.module.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    residual = Residual(model)
    x = torch.randn(7, residual.d_model)
    x = torch.nn.functional.layer_norm(x, x.shape[1:], eps=0)
    final, head = residual._final_norm, linear_head(model)
    logits = head(x if final is None else final(x))
    logits = logits - logits.mean(1, keepdim=True)
    shift = 0 if final is None or getattr(final, "bias", None) is None else head(final.bias)
    shift = shift - torch.as_tensor(shift).float().mean()
    np.testing.assert_allclose(x.double() @ residual.unembedding().T + shift, logits, atol=2e-3)
    norm = residual._norm(model.blocks[0], *residual.places.norm)
    normed = x if norm is None else norm(x)
    own = [projection(normed) for projection in dict.fromkeys(model.input_projections[0])]
    for (weight, bias), expected in zip(
        residual.inputs(0), torch.cat(own, -1).split(model.d_mlp[0], -1), strict=True
    ):
        np.testing.assert_allclose(x.double() @ weight.T + bias, expected, atol=2e-3)


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_every_architecture_has_roles_or_says_what_it_lacks(name):
    model = architectures.make(name)
    tokens = TOKENS % architectures.VOCABULARY
    table = roles(model, tokens, np.ones(architectures.VOCABULARY, int), CUTOFFS)
    ROLES.conform(table.assign(seed="a", step=1))
    gated = len(model.input_projections[0]) == 2
    assert table["gate_category"].notna().all() == gated
    unknown = not name.startswith(("gpt2", "gpt_bigcode", "opt", "bloom"))
    assert table["attention_score"].isna().all() == unknown


def test_without_a_head_no_tokens_are_promoted_and_what_logits_say_is_null():
    model = architectures.make("llama")
    model.module.lm_head = None
    table = roles(model, TOKENS % architectures.VOCABULARY, COUNTS, CUTOFFS)
    table = ROLES.conform(table.assign(seed="a", step=1)).to_pandas()
    unknown = ["vocab_mean", "vocab_var", "vocab_kurt", "logit_var", "null_space", "null_space_q"]
    assert table[unknown].isna().all(axis=None)
    assert table[["w_in_norm", "w_out_norm", "in_out_cos", "in_out_q"]].notna().all(axis=None)
    assert {len(ids) for ids in table["promoted_ids"]} == {0}
    assert table["role"].isna().all()


def test_categories_of_gated_neurons():
    angles = {
        "enrichment": (0.9, 0.9, 0.9),
        "conditional enrichment": (0.9, 0.1, 0.1),
        "depletion": (-0.9, 0.9, -0.9),
        "conditional depletion": (-0.9, 0.1, 0.0),
        "proportional change": (0.1, -0.9, 0.1),
        "orthogonal output": (0.1, 0.2, 0.3),
        "atypical orthogonal output": (0.1, 0.2, -0.8),
        "atypical enrichment": (0.6, 0.6, 0.1),
    }
    assert gate_category(*np.array(list(angles.values())).T) == list(angles)


def test_chances_are_those_of_random_directions():
    drawn = Chance(20_000, 1).directions(24, True)
    assert drawn.mean(1).abs().max() < 1e-12
    cosine = drawn @ (drawn[0] / torch.linalg.vector_norm(drawn[0]))
    basis = torch.linalg.qr(drawn[:3].T)[0]
    share = (drawn @ basis).square().sum(1).numpy()
    for p in (cosine_p(cosine[3:].numpy(), 23), share_p(share[3:], 3, 23)):
        for level in (0.01, 0.1, 0.5):
            assert (p <= level).mean() == pytest.approx(level, abs=4 * (level / 20_000) ** 0.5)


def test_a_tail_goes_on_beyond_the_sample_and_is_not_too_thin():
    rng = np.random.default_rng(0)
    sample, fresh = 3 + 0.2 * rng.standard_normal((2, 20_000))
    p = upper_p(fresh, sample[:2000])
    for level in (0.001, 0.01, 0.1):
        assert (p <= level).mean() < 2 * level
    far = upper_p(np.array([3.0, 4.0, 6.0, 30.0]), sample)
    assert (np.diff(far) < 0).all()
    assert far[-1] < 1e-9
    assert np.isnan(upper_p(np.array([np.nan]), sample)).all()


def test_of_random_weights_as_few_have_a_role_as_chance_has_it():
    model = gpt2(8, n_embd=32, d_mlp=400)
    for layer in (0, 1):
        torch.nn.init.normal_(model.output_weight(layer))
    table = found(model)
    assert table["role"].notna().mean() < 0.01


def test_the_null_space_leaves_out_what_layer_norms_take_out():
    model = gpt2(3)
    logits = Logits.of(Residual(model), COUNTS)
    space = logits.null_space(0.2)
    assert space.shape == (16, 3)
    assert space.sum(0).abs().max() < 1e-6
