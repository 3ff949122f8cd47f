"""Losses by the change of final hidden states are those of the logits, whatever is rounded."""

import numpy as np
import pytest
import scipy.special
import torch

from universal_neurons.ablate.head import HEAD_BLOCK, HeadDifferences, Unembedding

TOKENS, WIDTH, VOCABULARY = 60, 48, HEAD_BLOCK + 300
WAYS = pytest.mark.parametrize("int8", [False, True])


def made(change, *, sharpness=1.0, outlier=1.0):
    """A head, hidden states and how much they change, in proportion to `change`."""
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(VOCABULARY, WIDTH, generator=rng) * sharpness / WIDTH**0.5
    hidden, changed = torch.randn(2, TOKENS, WIDTH, generator=rng)
    # An entry of hidden states is large, and its column small.
    matrix[:, 3] /= outlier
    hidden[:, 3] *= outlier
    changed[:, 3] *= outlier
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=rng)
    return matrix, hidden, hidden + change * changed, targets


def exactly(matrix, hidden, changed, targets):
    """Loss, KL and whether another token is the likeliest, in float64."""
    logits = (h.double().numpy() @ matrix.double().numpy().T for h in (hidden, changed))
    p, q = (one - scipy.special.logsumexp(one, axis=1, keepdims=True) for one in logits)
    kl = (np.exp(p) * (p - q)).sum(1)
    return -q[np.arange(TOKENS), targets], kl, (p.argmax(1) != q.argmax(1)).astype(float)


def found(int8, matrix, hidden, changed, targets):
    head = HeadDifferences(hidden @ matrix.T, targets, hidden, Unembedding(matrix, int8=int8))
    return [one.double().numpy() for one in (head.loss, *head.compare(changed))]


@WAYS
@pytest.mark.parametrize("change", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("outlier", [1.0, 100.0])
def test_losses_are_those_of_the_logits_to_second_order_in_what_is_rounded(int8, change, outlier):
    case = made(change, outlier=outlier)
    clean, loss, kl, other = found(int8, *case)
    exact_clean, _, _ = exactly(case[0], case[1], case[1], case[3])
    exact_loss, exact_kl, exact_other = exactly(*case)
    np.testing.assert_allclose(clean, exact_clean, rtol=1e-5)
    np.testing.assert_allclose(kl, exact_kl, rtol=2e-2, atol=1e-6)
    # What is of first order is not rounded.
    assert np.abs(loss - exact_loss).max() < 0.02 * exact_kl.max() + 1e-5
    assert np.abs(other - exact_other).mean() < 0.05


@WAYS
def test_no_change_is_exactly_none(int8):
    matrix, hidden, _, targets = made(0)
    clean, loss, kl, other = found(int8, matrix, hidden, hidden, targets)
    assert (loss == clean).all()
    assert not kl.any()
    assert not other.any()


@WAYS
def test_a_token_that_becomes_e_to_the_200_times_as_likely_is_no_overflow(int8):
    case = made(3.0, sharpness=60.0)
    _, loss, kl, other = found(int8, *case)
    exact_loss, exact_kl, exact_other = exactly(*case)
    assert exact_kl.max() > 200
    # Logits change by some 200, of which int8 knows a hundredth.
    np.testing.assert_allclose(kl, exact_kl, rtol=0.02, atol=6)
    np.testing.assert_allclose(loss, exact_loss, rtol=0.02, atol=6)
    assert (other == exact_other).all()
