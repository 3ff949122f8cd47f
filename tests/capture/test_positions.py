"""Positions that are not scored, and how much of the variance is at the first one."""

from __future__ import annotations

import numpy as np
import pytest
from pipeline import EXCLUDED, gpt2, module_activations, random_tokens, run_capture

from universal_neurons.activations import moments
from universal_neurons.activations.reader import Activations
from universal_neurons.errors import UserError
from universal_neurons.models.forward import scored
from universal_neurons.persist.trace import standardised_activations, trace
from universal_neurons.store.arrays import read_arrays
from universal_neurons.store.same_run import check_same_run

LENGTH = 16


def merged(shards):
    return moments.merge(read_arrays(shard / "moments.zarr") for shard in shards)


def sinking(seed=1):
    """A model one of whose neurons is active at position 0 alone."""
    model = gpt2(seed)
    model.module.transformer.wpe.weight[0] *= 30
    return model


@pytest.mark.parametrize("encoding", ["int8", "float32"])
def test_the_share_of_the_first_position_is_that_of_the_squares_about_the_mean(encoding, tmp_path):
    tokens, model = random_tokens(), sinking()
    shards = run_capture(model, tokens, tmp_path, seed="a", splits=(5, 40), encoding=encoding)
    found = moments.first_position_share(merged(shards))
    x = np.hstack(module_activations(model, tokens))
    first = np.arange(tokens.size)[scored(tokens, EXCLUDED).ravel()] % LENGTH == 0
    squares = (x - x.mean(0)) ** 2
    np.testing.assert_allclose(found, squares[first].sum(0) / squares.sum(0), atol=1e-5)
    assert found.max() > 0.5, "the test must not be vacuous"
    even = moments.first_position_share(
        merged(run_capture(gpt2(1), tokens, tmp_path / "b", seed="a"))
    )
    assert np.median(even) < 3 / LENGTH


def test_excluded_positions_enter_no_sum_and_no_store(tmp_path):
    tokens, model = random_tokens(), sinking()
    shards = run_capture(
        model, tokens, tmp_path, seed="a", splits=(9,), encoding="float32", positions=[0, 3]
    )
    x = np.hstack(module_activations(model, tokens))
    position = np.arange(tokens.size)[scored(tokens, EXCLUDED).ravel()] % LENGTH
    x = x[~np.isin(position, [0, 3])]
    sums = merged(shards)
    assert sums["n_tokens"] == len(x)
    np.testing.assert_allclose(moments.moments(sums)["mean"], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(moments.std(sums), x.std(0), rtol=1e-4)
    assert (moments.first_position_share(sums) == 0).all()
    for shard in shards:
        index = Activations(shard / "activations.zarr").token_index()
        assert not np.isin(index % LENGTH, [0, 3]).any()


def test_stores_of_other_positions_are_not_combined(tmp_path):
    tokens = random_tokens()
    one, other = (
        run_capture(gpt2(1), tokens, tmp_path / name, seed="a", positions=positions)[0]
        for name, positions in (("a", []), ("b", [15]))
    )
    with pytest.raises(UserError, match="differ in exclude_positions"):
        check_same_run([one / "moments.zarr", other / "moments.zarr"])
    a, b = (Activations(where / "activations.zarr") for where in (one, other))
    with pytest.raises(UserError, match="different exclude_positions"):
        a.check_same_tokens(b)


def test_excluded_positions_are_not_traced_either():
    tokens, model = random_tokens(), sinking()
    position = np.arange(tokens.size)[scored(tokens, EXCLUDED).ravel()] % LENGTH
    for positions in ([], [0], [3, 15]):
        found = standardised_activations(model, tokens, EXCLUDED, positions)
        for x, expected in zip(found, module_activations(model, tokens), strict=True):
            left = expected[~np.isin(position, positions)]
            left = left - left.mean(0)
            np.testing.assert_allclose(x, left / np.linalg.norm(left, axis=0), atol=1e-4)
    with pytest.raises(UserError, match="no token of the sample is scored"):
        trace(model, model, tokens, EXCLUDED, range(LENGTH))
