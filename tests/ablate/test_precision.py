"""Ablated passes in bfloat16 say what those in float32 do; text is read as far as it must be."""

import math

import numpy as np
import pytest
import torch
import transformers
from architectures import CONFIGS, held_out, make, neurons, subject, tokens, wrap

from universal_neurons.ablate import ablation, precision
from universal_neurons.ablate.differences import Differences
from universal_neurons.ablate.measure import NeuronSet, Replacement, Run, measure
from universal_neurons.ablate.precision import Accuracy
from universal_neurons.errors import UserError

# Times of products on a processor with instructions for all of these types.
FAST = {"float32": 1.0, "bfloat16": 0.25, "int8": 0.1}


def runs_of(model, universal, kind="mean"):
    """The universal neurons of all layers and of each, in total and directly."""
    layer = np.repeat(np.arange(len(model.d_mlp)), model.d_mlp)
    sets = [
        NeuronSet(one, "universal", -1, np.flatnonzero(universal & ((layer == one) | (one < 0))))
        for one in (-1, *range(len(model.d_mlp)))
    ]
    return [Run(one, kind, direct) for one in sets for direct in (False, True)]


def both(model, text, runs, mean, *, int8=True):
    """Measured in float32 and by differences."""
    replacement = Replacement(model, mean)
    return [
        measure(model, text, runs, replacement, name="a", batch_tokens=20, how=how)
        for how in (None, Differences(model, int8=int8))
    ]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("int8", [False, True])
def test_differences_in_bfloat16_are_within_some_hundredths_of_the_change(name, int8):
    """In total and directly, in all architectures; over so few positions errors hardly average."""
    model = make(name)
    facts = neurons(model)
    runs = runs_of(model, facts["universal"])
    exact, narrow = both(model, held_out(tokens(), model=model), runs, facts["mean"], int8=int8)
    size = np.abs(exact.delta).mean(1)
    assert (size > 1e-3).all(), "the test must not be vacuous"
    assert (np.abs(narrow.delta - exact.delta).mean(1) < 0.03 * size).all()
    np.testing.assert_allclose(narrow.kl, exact.kl, rtol=0.03, atol=1e-5)
    np.testing.assert_allclose(narrow.clean, exact.clean, rtol=1e-6)
    # Of 40 positions two, where two tokens are as likely.
    assert (np.abs(narrow.top1 - exact.top1).mean(1) < 0.06).all()


def test_a_small_change_is_known_as_well_as_a_large_one():
    """Errors are in proportion to the change, so that none vanishes in the rounding."""
    model, text = make(), held_out(tokens())
    facts = neurons(model)
    run = runs_of(model, facts["universal"])[:1]
    means = model_means(model, text)
    for scale in (1.0, 1e-2, 1e-3):
        near = means + scale * (facts["mean"] - means)
        replacement = Replacement(model, near)
        exact, narrow = (
            measure(model, text, run, replacement, name="a", how=how)
            for how in (None, Differences(model, int8=True))
        )
        assert np.abs(narrow.delta - exact.delta).max() < 0.01 * np.abs(exact.delta).max() + 1e-6


def test_what_the_ablated_neurons_write_themselves_is_not_rounded():
    """Directly, only the unembedding is, and that to second order."""
    model = make()
    facts = neurons(model)
    runs = runs_of(model, facts["universal"])
    exact, narrow = both(model, held_out(tokens()), runs, facts["mean"])
    direct = [run.direct for run in runs]
    error, size = np.abs(narrow.delta - exact.delta).mean(1), np.abs(exact.delta).mean(1)
    assert (error[direct] < 2e-3 * size[direct]).all()


def model_means(model, text):
    """Mean activation of every neuron."""
    found = {}
    with model.tap(lambda layer, x: found.__setitem__(layer, x.flatten(0, 1).mean(0))):
        model.module(input_ids=torch.from_numpy(text.sequences[:, :-1]))
    return torch.cat([found[layer] for layer in sorted(found)]).double().numpy()


def test_neurons_that_write_nothing_change_nothing():
    model, text = make(), held_out(tokens())
    facts = neurons(model)
    for layer, projection in enumerate(model.projections):
        first = sum(model.d_mlp[:layer])
        own = facts["universal"][first : first + model.d_mlp[layer]]
        projection.weight[torch.from_numpy(own)] = 0
    runs = runs_of(model, facts["universal"])
    _, narrow = both(model, text, runs, facts["mean"])
    np.testing.assert_allclose(narrow.delta, 0, atol=1e-6)
    assert not narrow.top1.any()


def test_a_model_is_left_as_it_was():
    model, text = make(), held_out(tokens())
    facts = neurons(model)
    runs = runs_of(model, facts["universal"])
    before, _ = both(model, text, runs, facts["mean"])
    after, _ = both(model, text, runs, facts["mean"])
    assert (before.delta == after.delta).all()
    assert not any("forward" in vars(module) for module in model.module.modules())


@pytest.fixture(scope="module")
def trained():
    """A GPT-2 that has learned which of 40 tokens follows which, and text to hold it against."""
    rng = np.random.default_rng(0)
    following = rng.integers(0, 40, (40, 3))
    text = np.empty((200, 32), np.int64)
    text[:, 0] = rng.integers(0, 40, 200)
    for t in range(1, 32):
        text[:, t] = following[text[:, t - 1], rng.integers(0, 3, 200)]
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, pad_token_id=0))
    optimiser = torch.optim.AdamW(module.parameters(), 1e-2)
    for step in range(60):
        batch = torch.from_numpy(text[step % 10 * 16 : step % 10 * 16 + 16])
        loss = module(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 1.8, "log 40 is 3.7, log 3 is 1.1"
    return wrap(module.eval().requires_grad_(False)), text[160:]


def table(trained, accuracy, documents=None, **options):
    model, sequences = trained
    mean = model_means(model, held_out(sequences))
    n = len(mean)
    universal = np.arange(n) % 16 == 0
    about = subject(model, mean, np.ones(n), np.full(n, 0.5))
    text = held_out(sequences, documents)
    return ablation.ablate(about, text, universal, accuracy, controls=3, **options)


def test_losses_of_a_trained_model_are_within_a_tenth_of_their_standard_errors(trained):
    exact, narrow = (table(trained, Accuracy(dtype)) for dtype in ("float32", "bfloat16"))
    for name in ("delta_loss", "difference"):
        gap = np.abs(narrow[name] - exact[name]) / exact[f"{name}_se"]
        assert gap.max() < 0.1
    assert set(exact["dtype"]) == {"float32"}
    assert exact["dtype_error"].isna().all()
    assert set(narrow["dtype"]) == {"bfloat16"}
    assert (narrow["dtype_error"] < 0.1).all()
    assert (narrow["delta_loss"] != exact["delta_loss"]).any()


def test_small_models_run_in_float32_and_large_ones_as_the_check_allows(trained, monkeypatch):
    exact = table(trained, Accuracy("float32"))
    assert table(trained, Accuracy()).equals(exact)
    monkeypatch.setattr(precision, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(precision, "_seconds", lambda weight: FAST)
    assert set(table(trained, Accuracy())["dtype"]) == {"bfloat16"}
    monkeypatch.setattr(precision, "_seconds", lambda weight: FAST | {"bfloat16": 0.9})
    assert table(trained, Accuracy()).equals(exact)


def test_what_changes_losses_is_not_taken(trained, monkeypatch):
    monkeypatch.setattr(precision, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(precision, "_seconds", lambda weight: FAST)
    monkeypatch.setattr(precision, "TOLERANCE", 1e-9)
    assert table(trained, Accuracy()).equals(table(trained, Accuracy("float32")))
    with pytest.raises(UserError, match=r"ablation\.dtype: seed a, step 1: bfloat16 changes"):
        table(trained, Accuracy("bfloat16"))


def test_where_int8_changes_losses_all_is_in_bfloat16(trained, monkeypatch):
    monkeypatch.setattr(precision, "_seconds", lambda weight: FAST)
    errors = iter([0.2, 0.05])
    monkeypatch.setattr(precision, "_error", lambda *_: next(errors))
    found = table(trained, Accuracy("bfloat16"))
    assert set(found["dtype_error"]) == {0.05}
    assert set(found["dtype"]) == {"bfloat16"}


def test_text_is_read_until_standard_errors_are_as_asked_for(trained):
    """All sets are measured on the same text, and as if there were no more."""
    names = ["delta_loss_se", "difference_se"]
    whole = table(trained, Accuracy())
    target = 1.08 * whole[names].max(axis=None)
    found = table(trained, Accuracy(target_se=target), batch_tokens=32)
    (read,) = set(found["heldout_tokens"])
    assert 30 * 32 <= read < whole["heldout_tokens"].iloc[0]
    assert found[names].max(axis=None) <= target
    model, sequences = trained
    part = table((model, sequences[: read // 32]), Accuracy(), batch_tokens=32)
    # The means that replace activations are of the text here.
    assert len(part) == len(found)
    assert math.isclose(part["clean_loss"].iloc[0], found["clean_loss"].iloc[0], rel_tol=1e-6)
    before = table(trained, Accuracy(target_se=target), batch_tokens=32, documents=[0] * 40)
    assert set(before["heldout_tokens"]) == {40 * 32}, "too few documents to trust their error"
