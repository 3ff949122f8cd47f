"""Products of classes' scores, of which the rare ones are rounded: against float64."""

from __future__ import annotations

import numpy as np
import pytest

from universal_neurons.correlate import class_scores
from universal_neurons.correlate.class_scores import FREQUENT, Scores

CLASSES, WIDTH = 3000, 48


def heavy(seed):
    """Scores with tails that no byte holds, in units of 1e-12 to 1; neuron 0 is dead."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    scores = shared.standard_t(2, (CLASSES, WIDTH)) + own.standard_t(2, (CLASSES, WIDTH))
    # One that responds to a single rare class, as its partner does.
    scores[:, 1] = 1e-4 * own.standard_normal(CLASSES)
    scores[-1, 1] = 1
    scores[:, 0] = 0
    return (scores * np.logspace(-12, 0, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def models():
    return heavy(1), heavy(2)


@pytest.fixture(scope="module")
def count():
    return 1 + np.random.default_rng(3).geometric(0.001, CLASSES)


def relative(found, a, b):
    """Errors of products, by the norms of what is multiplied."""
    exact = a.astype(np.float64).T @ b
    norms = np.outer(*(np.linalg.norm(x.astype(np.float64), axis=0) for x in (a, b)))
    error = np.zeros_like(exact)
    return np.divide(found - exact, norms, out=error, where=norms > 0)


def test_rounded_products_have_errors_of_1e_5_whatever_the_tails(models, count):
    a, b = models
    own, other = (
        Scores.of(x, count, name, rounded=True) for x, name in zip(models, "ab", strict=True)
    )
    assert len(own.frequent) == FREQUENT
    assert len(own.coarse.escapes) > 0
    error = relative(own.product(other), a, b)
    # Of two independent remainders, uniform over a step either way at most: WIDEST / 127 root mean
    # squares squared, over 6, and the root of the number of classes in place of that number.
    expected = (class_scores.WIDEST / 127) ** 2 / 6 / np.sqrt(CLASSES - FREQUENT)
    assert np.sqrt((error**2).mean()) < expected
    assert np.abs(error).max() < 6 * expected
    assert abs(error.mean()) < 4 * expected / np.sqrt(error.size)


def test_rounding_depends_on_the_model_alone(models, count):
    [first, again, other] = (
        Scores.of(models[0], count, name, rounded=True) for name in ("a", "a", "b")
    )
    assert np.array_equal(first.coarse.dense, again.coarse.dense)
    assert not np.array_equal(first.coarse.dense, other.coarse.dense)


@pytest.mark.parametrize(("n", "rounded"), [(FREQUENT, True), (CLASSES, False)])
def test_few_classes_and_those_of_float_codes_are_multiplied_as_they_are(n, rounded, models, count):
    a, b = (Scores.of(x[:n], count[:n], "", rounded=rounded) for x in models)
    assert np.array_equal(a.product(b), models[0][:n].T @ models[1][:n])
