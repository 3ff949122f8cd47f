"""Whether a neuron that was universal would be so again if it were measured anew at the same step.

A score close to a threshold crosses it by noise alone. How often is the most that persistence can
be expected to reach between steps.
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

    A score e is a true one μ with normal noise of standard deviation s. Scores found high are on
    average too high, so μ is not e: its distribution over neurons, a mixture of normal components,
    is fitted by maximum likelihood (EM) to all scores with their own errors, and the probability is
    that of e′ given e, P(μ + s ε′ > θ | e) (empirical Bayes). Where s is small beside the spread
    of scores this is Φ((e − θ) / (√2 s)) whatever the distribution.

    Parameters
    ----------
    score, error, threshold
        Of neurons alike in kind, such as those of a layer at a step: e, s and θ, shape (neurons,).

    Returns
    -------
    array
        Shape (neurons,); NaN where the error is.
    """
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
    again = np.sqrt(width**2 * variance[:, None] / total + variance[:, None])
    distance = mean - threshold[known][:, None]
    with np.errstate(divide="ignore"):  # without noise, a score is above the threshold or not
        above = norm.cdf(np.where(distance == 0, -np.inf, distance / again))
    probability[known] = (weight * above).sum(1).clip(max=1)
    return probability


def _weights(likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior weights of components, shape (neurons, components), their shares fitted by EM."""
    share = np.full(likelihood.shape[1], 1 / likelihood.shape[1])
    for _ in range(ITERATIONS):
        share *= likelihood.T @ (1 / (likelihood @ share)) / len(likelihood)
    weight = likelihood * share
    return weight / weight.sum(1, keepdims=True)
