"""Random neurons have their neurons' mean and variance, and leave the model as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from architectures import CONFIGS, VOCABULARY, make

from universal_neurons.capture.directions import Directions, RandomNeurons, input_moments
from universal_neurons.errors import UserError

EXCLUDED, POSITIONS = (0, 7), (1,)
SEQUENCES = np.random.default_rng(0).integers(0, VOCABULARY, (60, 9))
COUNTED = ~np.isin(SEQUENCES, EXCLUDED)
COUNTED[:, POSITIONS] = False


def moments(model):
    return input_moments(model, SEQUENCES, EXCLUDED, POSITIONS, batch_tokens=100)


def run(model):
    """A model's logits, and by layer its MLPs' scored inputs and what its taps are handed."""
    inputs, tapped = {}, {}
    rows = torch.from_numpy(COUNTED.ravel())

    def into(kept):
        return lambda layer, x: kept.update({layer: x.flatten(0, -2)[rows]})

    with torch.inference_mode(), model.tap(into(tapped)), model.tap_inputs(into(inputs)):
        logits = model.module(torch.from_numpy(SEQUENCES)).logits
    return logits, inputs, tapped


def read(x, weights):
    """What neurons read, by weight and bias, in float64: shape (tokens, projections, d_mlp)."""
    x = x.double().numpy()
    return np.stack([x @ w.double().numpy().T + b.double().numpy() for w, b in weights], 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_random_neurons_have_mean_and_covariance_of_the_neurons_they_stand_for(name):
    model = make(name)
    drawn = RandomNeurons.of(model, moments(model), 2, [1, 2])
    logits, inputs, tapped = run(drawn)
    assert torch.equal(logits, run(model)[0]), "the model itself goes on unchanged"
    assert drawn.d_mlp == 3 * model.d_mlp
    assert len(tapped) == 9
    for draw in range(2):
        for layer, directions in enumerate(drawn.directions[draw]):
            own = read(inputs[layer], model.input_weights(layer))
            made = directions.read(inputs[layer])
            random = np.stack([each.double().numpy() for each in made], 1)
            assert np.abs(np.corrcoef(own[:, 0].T, random[:, 0].T)).min() < 0.9
            for one, other in zip(own.T, random.T, strict=True):
                size = one.std(1).max()
                np.testing.assert_allclose(other.mean(1), one.mean(1), atol=1e-5 * size)
                np.testing.assert_allclose(np.cov(other), np.cov(one), atol=1e-5 * size**2)
            # Its activation is the layer's own function of that.
            expected = model.activate(layer, made)
            torch.testing.assert_close(tapped[3 * (1 + draw) + layer], expected)


@pytest.mark.parametrize(("name", "rank"), [("gpt2", 15), ("llama", 16)])
def test_directions_are_uniform_in_the_whitened_inputs(name, rank):
    """Of 16 dimensions a layer norm leaves 15; the root mean square of Llama's all of them."""
    model = make(name)
    x = run(model)[1][2].double().numpy()
    basis = np.linalg.svd(x - x.mean(0), full_matrices=False)[0][:, :rank]
    of, found = moments(model)[2], []
    for seed in range(100):
        drawn = Directions.draw(model, 2, of, np.random.default_rng(seed))
        for weight in drawn.weights.double().unbind(1):
            reads = (x - x.mean(0)) @ weight.numpy().T
            unit = basis.T @ reads / np.linalg.norm(reads, axis=0)
            np.testing.assert_allclose(np.linalg.norm(unit, axis=0), 1, rtol=1e-5)
            found.append(unit)
    units = np.hstack(found)
    n = units.shape[1]
    assert np.abs(units.mean(1)).max() < 5 / np.sqrt(n * rank)
    # Squares of coordinates have the variance 2/rank², products of two of them half as much.
    error = units @ units.T / n - np.eye(rank) / rank
    assert np.abs(error).max() < 5 * np.sqrt(2 / n) / rank


def test_rounding_of_bfloat16_is_no_direction():
    """The one direction that a layer norm takes away has variance by rounding alone."""
    model = make("gpt2")
    of = moments(model)[1]
    noise = np.random.default_rng(0).normal(size=(10000, 16)) * 2.0**-8 / np.sqrt(3)
    size = np.sqrt(of.covariance.diagonal() + of.mean**2)
    rounded = type(of)(of.mean, of.covariance + np.cov((noise * size).T))
    assert np.trace(rounded.whitening(2.0**-7)[1]) == pytest.approx(15)
    assert np.trace(rounded.whitening(2.0**-23)[1]) == pytest.approx(16)


def test_directions_depend_on_key_draw_and_layer_alone():
    model = make("llama")
    of = moments(model)
    one, again, other = (RandomNeurons.of(model, of, 2, [0, step]) for step in (1, 1, 2))
    weights = [d.weights for draw in one.directions for d in draw]
    for found, same in zip(weights, [d for draw in again.directions for d in draw], strict=True):
        assert torch.equal(found, same.weights)
    weights += [d.weights for draw in other.directions for d in draw]
    flat = np.stack([w.numpy().ravel() for w in weights])
    correlations = np.corrcoef(flat) - np.eye(len(flat))
    # 768 numbers each, half of them of the same scale.
    assert np.abs(correlations).max() < 0.25


def test_tokens_that_are_not_scored_count_for_nothing():
    model = make("gpt2")
    found = moments(model)
    _, inputs, _ = run(model)
    for layer, of in enumerate(found):
        x = inputs[layer].double().numpy()
        np.testing.assert_allclose(of.mean, x.mean(0), atol=1e-7)
        np.testing.assert_allclose(of.covariance, np.cov(x.T, bias=True), atol=1e-7)
    with pytest.raises(UserError, match="nulls.random_directions.tokens: no token"):
        input_moments(model, SEQUENCES, range(VOCABULARY), (), batch_tokens=100)
