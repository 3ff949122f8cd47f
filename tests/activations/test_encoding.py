"""int8 codes are unbiased and reproducible, fit every neuron, and lose nothing beyond them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from universal_neurons.activations import encoding
from universal_neurons.activations.codes import significant
from universal_neurons.activations.rounding import Dither, bits, encode_int8, stored

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
        return encode_int8(torch.from_numpy(values), one, zero, dither).whole().astype(float)

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
    codes = encode_int8(x, torch.tensor([scale]), torch.tensor([offset]), dither)
    exact = (np.float64(value) - offset) / scale
    (code,) = codes.whole().ravel()
    assert abs(code - exact) < 1 + 1e-3 * abs(exact)
    if abs(exact) < 126:
        assert not len(codes.escapes)
    elif abs(exact) > 129:
        assert codes.dense.item() == np.sign(exact) * 127
        assert codes.escapes.code == code


@pytest.mark.parametrize(("name", "error"), [("bfloat16", 2**-8), ("float32", 0)])
def test_float_encodings_come_back(name, error):
    x = torch.randn(50, 7)
    back = encoding.values_of(bits(stored(x, name)), name)
    np.testing.assert_allclose(back, x.numpy(), rtol=error + 1e-6, atol=1e-6)


def sample(x):
    """What a calibration would see of activations of shape (tokens, neurons)."""
    x = np.asarray(x, np.float64)
    place = 1 + int(encoding.TAIL * len(x))
    ordered = np.sort(x, 0)
    return encoding.Sample(
        low=x.min(0),
        high=x.max(0),
        low_tail=ordered[place - 1],
        high_tail=ordered[-place],
        mean=x.mean(0),
        std=x.std(0),
    )


def ranges_of(x, headroom=0.5):
    return encoding.ranges(sample(x), encoding="int8", headroom=headroom)


@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.floats(0, 2))
@settings(deadline=None)
def test_a_step_is_a_small_part_of_the_standard_deviation_and_zero_is_a_code(
    seed, exponent, headroom
):
    rng = np.random.default_rng(seed)
    kinds = [
        rng.standard_normal(4000),
        np.maximum(rng.standard_normal(4000) - 1, 0) ** 2,
        rng.standard_cauchy(4000),
        (rng.random(4000) < 0.001) * 1.0,
        5 + rng.standard_normal(4000),
    ]
    x = np.stack(kinds, 1) * 10.0**exponent
    x[0, 3] = 10.0**exponent
    found = ranges_of(x, headroom)
    std = x.std(0)
    assert (found.scale <= 1.001 * encoding.WIDEST * std / encoding.LIMIT).all()
    assert (found.scale >= 0.999 * std / encoding.LIMIT).all()
    zero = -found.offset / found.scale
    assert np.abs(zero - np.rint(zero)).max() < 1e-3
    # The bulk is within, as Chebyshev says.
    assert (np.abs(x - found.offset) > 128 * found.scale).mean(0).max() < 0.028


def test_a_neurons_range_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((2000, 30)), 0)
    alone = ranges_of(x[:, :1])
    for loud in (1e-6, 1e6):
        found = ranges_of(np.hstack([x[:, :1], loud * x[:, 1:]]))
        assert found.scale[0] == alone.scale[0]
        assert found.offset[0] == alone.offset[0]


def test_a_neuron_that_is_constant_in_the_sample_has_its_value_for_a_code_and_fine_steps():
    x = np.zeros((100, 3))
    x[:, 0] = np.arange(100)
    x[:, 2] = -0.17
    found = ranges_of(x)
    assert found.offset[1] == 0
    assert found.offset[2] == np.float32(-0.17)
    assert (found.scale[1:] > 0).all()
    assert (found.scale[1:] <= 1e-6 * found.scale[0]).all()
    assert (ranges_of(x[:, 1:]).scale > 0).all(), "no neuron of the layer lives"


def test_long_tails_on_one_side_are_held_where_the_other_is_short():
    """Squared ReLU: six standard deviations either way would lose what is beyond the sixth."""
    x = np.maximum(np.random.default_rng(0).standard_normal((50_000, 1)) - 1, 0) ** 2
    found = ranges_of(x)
    assert found.offset[0] - 127.5 * found.scale[0] <= 0
    assert found.offset[0] + 127 * found.scale[0] > 11 * x.std()


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=20))
def test_whole_codes_keep_sixteen_bits(values):
    code = np.floor(np.array(values, np.float32))
    kept = significant(code)
    small = code < 2**16
    np.testing.assert_array_equal(kept[small], code[small])
    np.testing.assert_allclose(kept, code, rtol=2.0**-16)
    mantissa, _ = np.frexp(kept.astype(np.float64))
    assert (mantissa * 2**16 % 1 == 0).all()
