"""int8 codes are unbiased, reproducible and say how much they clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from universal_neurons import encoding
from universal_neurons.rounding import Dither, bits, encode_int8, stored

CPU = torch.device("cpu")


def uniform(tokens, neurons, **who):
    dither = Dither(who.get("seed", "a"), who.get("step", 1), who.get("layer", 0), neurons, CPU)
    return dither(np.arange(tokens)).numpy().astype(np.float64)


def test_dither_is_uniform_and_decorrelated():
    n = 20_000
    u = uniform(n, 40)
    assert -0.5 <= u.min() < -0.499
    assert 0.499 < u.max() <= 0.5
    # Means and variances of every neuron within 5 standard errors of a uniform distribution's.
    assert np.abs(u.mean(0)).max() < 5 * np.sqrt(1 / 12 / n)
    assert np.abs(u.var(0) - 1 / 12).max() < 5 * np.sqrt(1 / 180 / n)
    limit = 5 / np.sqrt(n)
    between_neurons = np.corrcoef(u.T) - np.eye(40)
    assert np.abs(between_neurons).max() < limit
    assert abs(np.corrcoef(u[1:].ravel(), u[:-1].ravel())[0, 1]) < 5 / np.sqrt(u.size)
    # Carry bits too: products of a rounding's parity must be balanced between neurons.
    low = (u * 2**16 % 1 > 0.5).astype(float)
    assert np.abs(np.corrcoef(low.T) - np.eye(40)).max() < limit


@pytest.mark.parametrize("other", [{"seed": "b"}, {"step": 2}, {"layer": 1}])
def test_dither_of_other_models_and_layers_is_independent(other):
    n = 20_000
    a, b = uniform(n, 8), uniform(n, 8, **other)
    assert np.abs(np.corrcoef(a.T, b.T)[:8, 8:]).max() < 5 / np.sqrt(n)


def test_dither_depends_on_the_token_and_not_on_the_batch():
    dither = Dither("a", 1, 0, 5, CPU)
    whole = dither(np.arange(100))
    parts = torch.cat([dither(np.arange(i, i + 10)) for i in range(0, 100, 10)])
    torch.testing.assert_close(whole, parts, rtol=0, atol=0)


def test_sums_of_products_of_codes_are_unbiased_where_nearest_rounding_is_not():
    # A neuron whose values sit mostly between two codes: nearest rounding flattens it.
    rng = np.random.default_rng(0)
    n = 200_000
    shared = rng.random(n)
    x = np.stack([0.2 + 0.25 * shared, 40 * rng.standard_normal(n)], 1).astype(np.float32)
    y = np.stack([0.3 + 0.15 * shared, 40 * rng.standard_normal(n)], 1).astype(np.float32)
    one, zero = torch.ones(2), torch.zeros(2)

    def codes(values, name):
        dither = Dither(name, 1, 0, 2, CPU)(np.arange(n))
        return encode_int8(torch.from_numpy(values), one, zero, dither)[0].numpy().astype(float)

    a, b = codes(x, "a"), codes(y, "b")
    true = np.cov(x[:, 0], y[:, 0])[0, 1]
    measured = np.cov(a[:, 0], b[:, 0])[0, 1]
    nearest = np.cov(np.rint(x[:, 0]), np.rint(y[:, 0]))[0, 1]
    error = np.std((a[:, 0] - a[:, 0].mean()) * (b[:, 0] - b[:, 0].mean())) / np.sqrt(n)
    assert abs(measured - true) < 5 * error
    assert abs(nearest - true) > 5 * error


@given(
    st.floats(-1e3, 1e3, width=32), st.floats(2**-10, 100, width=32), st.floats(-100, 100, width=32)
)
@settings(deadline=None)
def test_a_code_is_one_of_the_two_around_the_value(value, scale, offset):
    x = torch.tensor([[value]])
    dither = Dither("a", 1, 0, 1, CPU)(np.arange(1))
    code, clipped = encode_int8(x, torch.tensor([scale]), torch.tensor([offset]), dither)
    exact = (np.float64(value) - offset) / scale
    if abs(exact) < 126:
        assert abs(code.item() - exact) < 1 + 1e-3 * abs(exact)
        assert clipped.item() == 0
    elif abs(exact) > 129:
        assert code.item() == np.sign(exact) * 127
        assert clipped.item() == 1


def test_ranges_cover_the_sample_with_headroom_and_silent_neurons_get_the_median():
    low = np.array([-1, 0, 5, -0.1], np.float32)
    high = np.array([3, 4, 5, -0.1], np.float32)
    found = encoding.ranges(low, high, low.astype(float), encoding="int8", headroom=0.5)
    np.testing.assert_allclose(found.scale * 127, [3, 3, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(found.offset, [1, 2, 5, -0.1], rtol=1e-6)
    dead = encoding.ranges(low[2:3], high[2:3], low[2:3].astype(float), encoding="int8", headroom=0)
    assert dead.scale[0] > 0


@pytest.mark.parametrize(("name", "error"), [("bfloat16", 2**-8), ("float32", 0)])
def test_float_encodings_come_back(name, error):
    x = torch.randn(50, 7)
    ranges = encoding.Ranges(np.ones(7, np.float32), np.full(7, 0.5, np.float32))
    back = encoding.decode(bits(stored(x, name)), name, ranges)
    np.testing.assert_allclose(back, x.numpy(), rtol=error + 1e-6, atol=1e-6)
