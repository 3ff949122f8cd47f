"""Correlations of two arrays against float64 NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from universal_neurons import correlate_arrays
from universal_neurons.errors import UserError


def arrays(seed=0, tokens=3000, n=12, m=9):
    """Neurons of very different units and rarity; the first three are planted in both."""
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_t(3, (tokens, k)) * 10.0 ** rng.integers(-6, 7, k) for k in (n, m))
    for i in range(3):
        b[:, i + 2] = -4 + 1e-5 * a[:, i]
    a[:, 5] = 7.5
    return a, b


def test_best_matches_are_numpys():
    a, b = arrays()
    found = correlate_arrays(a, b)
    with np.errstate(invalid="ignore"):
        corr = np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :]
    live = found.neuron != 5
    assert np.allclose(found.best_corr[live], corr.max(1)[live], atol=1e-12)
    assert np.allclose(found.min_corr[live], corr.min(1)[live], atol=1e-12)
    assert (found.best_neuron[live] == corr.argmax(1)[live]).all()
    assert (found.best_neuron[:3] == [2, 3, 4]).all()
    assert found.mutual[:3].all()


def test_the_baseline_is_that_of_rotated_activations():
    """Neurons rotated token by token, then correlated: no covariance is used."""
    a, b = arrays()
    found = correlate_arrays(a, b, draws=3, seed=11)
    expected = []
    for draw in range(3):
        gaussian = np.random.default_rng([11, 0, draw]).standard_normal((b.shape[1],) * 2)
        q, r = np.linalg.qr(gaussian)
        rotated = b @ (q * np.sign(np.diag(r))).T
        with np.errstate(invalid="ignore"):
            corr = np.corrcoef(a.T, rotated.T)[: a.shape[1], a.shape[1] :]
        expected.append(corr.max(1))
    live = found.neuron != 5
    assert np.allclose(found.baseline_corr[live], np.mean(expected, 0)[live], atol=2e-5)
    assert np.allclose(found.excess_corr, found.best_corr - found.baseline_corr)


def test_a_dead_neuron_has_no_match_and_correlation_0():
    dead = correlate_arrays(*arrays()).iloc[5]
    assert dead.best_corr == dead.baseline_corr == dead.excess_corr == 0
    assert dead.best_neuron == -1
    assert not dead.mutual


@given(st.integers(-8, 8), st.floats(-5, 5), st.booleans())
def test_units_and_offsets_do_not_matter(exponent, offset, standardise):
    a, b = arrays(1, tokens=200, n=6, m=5)
    a = a[:, :4]
    one = correlate_arrays(a, b, draws=1, standardise=standardise)
    scaled = a / a.std(0) * 2.0**exponent + offset * 2.0**exponent
    other = correlate_arrays(scaled, b, draws=1, standardise=standardise)
    assert np.allclose(
        one[["best_corr", "excess_corr"]], other[["best_corr", "excess_corr"]], atol=1e-6
    )


def test_half_precision_is_added_in_float64():
    a = np.random.default_rng(0).normal(300, 50, (40_000, 3)).astype(np.float16)
    assert np.allclose(correlate_arrays(a, a).best_corr, 1, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.ones((4, 2)), np.ones((5, 2)), "same tokens"),
        (np.ones(4), np.ones((4, 2)), "same tokens"),
        (np.ones((1, 2)), np.ones((1, 2)), "at least two tokens"),
        (np.array([[1.0, np.nan]] * 3), np.ones((3, 2)), "a: neuron 1 has NaN"),
    ],
)
def test_what_cannot_be_correlated_is_refused(a, b, said):
    with pytest.raises(UserError, match=said):
        correlate_arrays(a, b)
