"""Local false discovery rates of planted mixtures."""

import numpy as np
import pytest
from scipy import stats

from universal_neurons.score.local_fdr import local_fdr, null_share


def mixture(rng, n, share, shift=3.0):
    better = rng.random(n) < share
    z = rng.normal(size=n) + shift * better
    return stats.norm.sf(z), better, z


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_expected_number_is_that_of_the_neurons_that_are_better(share):
    expected, truth = 0.0, 0
    for seed in range(40):
        p, better, _ = mixture(np.random.default_rng(seed), 2560, share)
        expected += 2560 * (1 - null_share(p)) / 40
        truth += better.sum() / 40
    assert expected == pytest.approx(truth, abs=0.012 * 2560)


def test_a_single_neuron_is_as_likely_better_as_its_rate_says():
    p, _, z = mixture(np.random.default_rng(0), 200_000, 0.1)
    true = 0.9 * stats.norm.pdf(z) / (0.9 * stats.norm.pdf(z) + 0.1 * stats.norm.pdf(z - 3))
    found = local_fdr(p)
    # Where the density is a staircase of many p-values; the first of all are single.
    many = (p > 1e-4) & (p < 0.5)
    assert np.abs(found - true)[many].max() < 0.1
    assert np.abs(found - true)[many].mean() < 0.02
    assert (np.diff(found[np.argsort(p)]) >= 0).all()


def test_p_values_of_a_counted_null_are_told_by_their_ties():
    p = np.concatenate([np.full(50, 1 / 501), np.arange(1, 501) / 501])
    found = local_fdr(p)
    assert (found[:51] < 0.05).all()
    assert 550 * (1 - null_share(p)) == pytest.approx(50, abs=5)


def test_where_there_is_no_p_value_nothing_is_said():
    nothing = np.array([np.nan, np.nan])
    assert np.isnan(local_fdr(nothing)).all()
    assert np.isnan(null_share(nothing))
    found = local_fdr(np.array([np.nan, 0.2, 1.0, 1.0]))
    assert np.isnan(found[0])
    assert (found[1:] <= 1).all()
    assert (found[1:] > 0).all()
