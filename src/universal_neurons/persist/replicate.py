"""What noise leaves open about a score: the true one, and that of a second measurement.

A score close to a threshold crosses it by noise alone. How likely the true one is above it is what
is known of a neuron; how often a second measurement is, the most that persistence can be expected
to reach between steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

# Of the mixture that stands for true scores: normal components, as wide as they are apart, over the
# range of the scores. What is finer than a component is not asked for.
COMPONENTS = 40
ITERATIONS = 100


def probability_again(
    score: NDArray[np.floating], error: NDArray[np.floating], threshold: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Probability that another measurement of the same neuron, as noisy, is above its threshold.

    See `probability_above` for the parameters; of a second score e′ = μ + s ε′ it is P(e′ > θ | e).
    Where s is small beside the spread of scores this is Φ((e − θ) / (√2 s)) whatever the
    distribution.
    """
    return _above(score, error, threshold, again=True)


def probability_above(
    score: NDArray[np.floating], error: NDArray[np.floating], threshold: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Probability that a neuron's true score is above its threshold, given the measured one.

    A score e is a true one μ with normal noise of standard deviation s. Scores found high are on
    average too high, so μ is not e: its distribution over neurons, a mixture of normal components,
    is fitted by maximum likelihood (EM) to all scores with their own errors, and the probability is
    P(μ > θ | e) (empirical Bayes).

    Parameters
    ----------
    score, error, threshold
        Of neurons alike in kind, such as those of a layer at a step: e, s and θ, shape (neurons,).

    Returns
    -------
    array
        Shape (neurons,); NaN where the error is.
    """
    return _above(score, error, threshold, again=False)


def _above(
    score: NDArray[np.floating],
    error: NDArray[np.floating],
    threshold: NDArray[np.floating],
    *,
    again: bool,
) -> NDArray[np.float64]:
    probability = np.full(len(score), np.nan)
    known = ~np.isnan(error)
    if not known.any():
        return probability
    e, variance = score[known], np.square(error[known])
    low, high = e.min(), e.max()
    centre, width = np.linspace(low, high, COMPONENTS, retstep=True)
    # Scores that are all equal leave the components no width.
    width = max(width, np.finfo(float).eps)
    total = width**2 + variance[:, None]
    weight = _weights(norm.pdf(e[:, None], centre, np.sqrt(total)))
    # Given the component too, the true score is normal, and so is a second measurement.
    mean = centre + width**2 / total * (e[:, None] - centre)
    spread = np.sqrt(width**2 * variance[:, None] / total + again * variance[:, None])
    distance = mean - threshold[known][:, None]
    with np.errstate(divide="ignore"):  # without noise, a score is above the threshold or not
        above = norm.cdf(np.where(distance == 0, -np.inf, distance / spread))
    probability[known] = (weight * above).sum(1).clip(max=1)
    return probability


def _weights(likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior weights of components, shape (neurons, components), their shares fitted by EM."""
    share = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(ITERATIONS):
        share *= likelihood.T @ (1 / (likelihood @ share)) / len(likelihood)
    weight = likelihood * share
    return weight / weight.sum(1, keepdims=True)
