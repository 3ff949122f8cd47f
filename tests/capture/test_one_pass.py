"""The compiled pass over activations does what torch does step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from universal_neurons.activations.calibration import Calibration
from universal_neurons.activations.encoding import Ranges
from universal_neurons.activations.rounding import Dither, encode_int8
from universal_neurons.capture.layer_pass import LayerPass
from universal_neurons.capture.power_sums import PowerSums

CPU = torch.device("cpu")


def layer_pass(d_mlp, scale, offset):
    calibration = Calibration(
        Ranges(np.full(d_mlp, scale, np.float32), np.full(d_mlp, offset, np.float32)),
        np.full(d_mlp, float(offset)),
    )
    return LayerPass(calibration, Dither("a", 1, 0, d_mlp, CPU), "int8", CPU)


@given(
    tokens=st.integers(1, 60),
    d_mlp=st.integers(1, 600),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=30, deadline=None)
def test_codes_and_sums_are_those_of_separate_tensor_operations(tokens, d_mlp, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(tokens, d_mlp, generator=generator)).to(dtype)
    # Only some tokens are scored, in two batches of one length.
    kept = torch.randperm(tokens, generator=generator)[: tokens // 2 + 1].sort().values
    scale, offset = 0.05, 0.3
    compiled = layer_pass(d_mlp, scale, offset)
    sums = PowerSums(torch.full((d_mlp,), float(np.float32(offset)), dtype=torch.float64))
    dither = Dither("a", 1, 0, d_mlp, CPU)
    code_sum = np.zeros(d_mlp)
    escapes = np.zeros(d_mlp, np.int64)
    for start in (0, 1000):
        place = kept.numpy() + start
        codes = compiled.add(x, kept, place)
        expected = encode_int8(
            x[kept],
            torch.full((d_mlp,), scale),
            torch.full((d_mlp,), offset),
            dither(place),
        )
        # The order of two roundings may differ, on the edge between two codes.
        off = np.abs(codes.whole() - expected.whole())
        assert off.max() <= 1
        assert (off != 0).sum() <= 1 + 1e-4 * off.size
        assert (np.diff(codes.escapes.row) >= 0).all()
        assert codes.dense.abs().max() <= 127
        code_sum += codes.whole().sum(0, dtype=np.float64)
        escapes += np.bincount(expected.escapes.neuron, minlength=d_mlp)
        assert sums.update(x[kept])
    found = compiled.arrays()
    np.testing.assert_array_equal(found["code_sum"], code_sum)
    assert np.abs(found["escapes"] - escapes).sum() <= 2
    assert escapes.sum() > 0 or d_mlp * tokens < 2000
    for name, values in sums.arrays().items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_value_that_is_not_finite_is_noticed(bad, dtype):
    x = torch.zeros(5, 7, dtype=dtype)
    place = np.arange(5)
    assert layer_pass(7, 1.0, 0.0).add(x, torch.arange(5), place) is not None
    x[3, 6] = bad
    assert layer_pass(7, 1.0, 0.0).add(x, torch.arange(5), place) is None
    # Unless the token is not scored.
    others = torch.tensor([0, 1, 2, 4])
    assert layer_pass(7, 1.0, 0.0).add(x, others, others.numpy()) is not None


def test_the_number_of_threads_does_not_matter():
    x = torch.randn(50, 700)
    results = []
    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        one = layer_pass(700, 0.05, 0.0)
        codes = one.add(x, torch.arange(50), np.arange(50)).whole()
        results.append((codes, one.arrays()))
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(results[0][0], results[1][0])
    for name, values in results[0][1].items():
        np.testing.assert_array_equal(values, results[1][1][name])
