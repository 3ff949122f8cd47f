"""A neuron's unit says nothing of it: results hold from 1e-30 to 1e30, beside neurons of any size.

Activations are float32, whose squares end at 1e38 and 1e-45.
"""

from __future__ import annotations

import numpy as np
import planted
import pytest
import torch
from pipeline import baseline, neurons, run_capture, run_match

from universal_neurons.activations import moments
from universal_neurons.activations.reader import Activations
from universal_neurons.capture.power_sums import SubsetSums
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.refine import refine
from universal_neurons.correlate.rotations import rotation
from universal_neurons.correlate.screen import Sampling, Side, screen
from universal_neurons.persist.trace import trace
from universal_neurons.store.arrays import read_arrays

N_TOKENS, D_MLP, DRAWS = 8000, 12, 2
TOLERANCE = {"int8": 5e-3, "bfloat16": 5e-3, "float32": 1e-5}

# Factors of the neurons of two layers.
UNITS = {
    "small": np.full((2, D_MLP), 1e-30),
    "large": np.full((2, D_MLP), 1e30),
    "one at 1e20": np.vstack([np.r_[1e20, np.ones(D_MLP - 1)], np.ones(D_MLP)]),
    "any": 10.0 ** np.random.default_rng(0).permutation(np.linspace(-30, 30, 24)).reshape(2, -1),
}


def layers_of(seed, units):
    """Activations with partners in other seeds, float32."""
    own, shared = np.random.default_rng([1, seed]), np.random.default_rng(2)
    kinds = [shared.standard_normal((N_TOKENS, D_MLP)) for _ in units]
    noise = [own.standard_normal((N_TOKENS, D_MLP)) for _ in units]
    return [((x + y) * c).astype(np.float32) for x, y, c in zip(kinds, noise, units, strict=True)]


def standardised(x):
    """Of mean square 1, float64, whatever the unit."""
    x = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    return x / np.sqrt((x**2).mean(0))


def corr(x, y):
    return standardised(x).T @ standardised(y) / len(x)


def rotated_best(own, layers):
    """Largest correlations with another model's rotated neurons, shape (draws, neurons)."""
    turned = [
        [y.astype(np.float64) @ rotation(0, i, draw, D_MLP).astype(np.float64).T for draw in (0, 1)]
        for i, y in enumerate(layers)
    ]
    return np.max([[corr(own, z).max(1) for z in draws] for draws in turned], 0)


def capture(layers, where, name, encoding):
    return run_capture(
        planted.model(layers),
        planted.tokens(N_TOKENS),
        where / name,
        seed=name,
        splits=(80,),
        exclude=(),
        encoding=encoding,
        batch_tokens=4000,
    )


@pytest.mark.parametrize(
    ("encoding", "units"),
    [*(("int8", name) for name in UNITS), ("bfloat16", "any"), ("float32", "any")],
)
def test_matches_and_baselines_are_those_of_float64_in_any_unit(encoding, units, tmp_path):
    models = {name: layers_of(i, UNITS[units]) for i, name in enumerate("ab")}
    shards = {name: capture(x, tmp_path, name, encoding) for name, x in models.items()}
    exact = StepMatches.read(run_match(shards["a"], shards["b"], tmp_path, draws=DRAWS)).found
    sides = [
        Side(
            [Activations(shard / "activations.zarr") for shard in shards[name]],
            neurons(shards[name]),
            baseline(shards[name], DRAWS),
        )
        for name in "ab"
    ]
    screens = screen(*sides, (0, 1), Sampling(1.0, 4), planted.documents(N_TOKENS))
    screened, _ = refine(*sides, screens)
    for name, other, other_way in (("a", "b", screened[0]), ("b", "a", screened[1])):
        own = np.hstack(models[name])
        expected = corr(own, np.hstack(models[other]))
        rotated = rotated_best(own, models[other])
        assert rotated.min() > 0.001, "a baseline of 0 would be the error looked for"
        for found in (exact[name, other], other_way):
            atol = TOLERANCE[encoding]
            np.testing.assert_allclose(found.best, expected.max(1), atol=atol)
            np.testing.assert_allclose(found.baseline, rotated, atol=atol)


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_traces_are_those_of_float64_in_any_unit(units):
    one, other = (layers_of(seed, units) for seed in (0, 1))
    table = trace(planted.model(one), planted.model(other), planted.tokens(N_TOKENS))
    expected = corr(np.hstack(one), np.hstack(other))
    np.testing.assert_allclose(table["next_corr"], expected.max(1), atol=1e-5)
    np.testing.assert_allclose(table["self_corr"], expected.diagonal(), atol=1e-5)


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_moments_also_of_subsets_are_those_of_float64_in_any_unit(units, tmp_path):
    x = layers_of(0, units)
    shards = capture(x, tmp_path, "a", "int8")
    sums = moments.merge(read_arrays(shard / "moments.zarr") for shard in shards)
    np.testing.assert_allclose(moments.std(sums), np.hstack(x).std(0, dtype=np.float64), rtol=1e-9)
    first = torch.from_numpy(x[0])
    subsets = SubsetSums(first[:4000].double().mean(0), 2)
    labels = np.arange(N_TOKENS) % 2
    for rows in (slice(0, 5000), slice(5000, N_TOKENS)):
        subsets.update(first[rows], labels[rows])
    found = subsets.arrays()
    mean, square = found["subset_powers"] / found["subset_tokens"]
    for label in (0, 1):
        expected = x[0][label::2].astype(np.float64).std(0)
        np.testing.assert_allclose(np.sqrt(square - mean**2)[label], expected, rtol=1e-4)
