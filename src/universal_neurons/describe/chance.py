"""What directions drawn at random would show: p-values of a neuron's weights against them.

A random direction is a unit vector uniform on the sphere of what the residual stream can hold. Of
an angle, and of the share that lies in a subspace, its distribution is known; of other statistics
a seeded sample is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

# Share of a sample whose largest values say how its tail goes on.
TAIL = 0.02


@dataclass(frozen=True)
class Chance:
    """How random directions are drawn.

    Attributes
    ----------
    draws
        Number of them.
    seed
        Of the draws.
    """

    draws: int
    seed: int

    def directions(self, d_model: int, centred: bool) -> torch.Tensor:
        """Unit vectors, float64, shape (draws, d_model); with mean 0 if `centred`."""
        rng = np.random.default_rng([self.seed, d_model, centred])
        drawn = rng.standard_normal((self.draws, d_model))
        if centred:
            drawn -= drawn.mean(1, keepdims=True)
        return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def cosine_p(cosine: NDArray[np.floating], dimensions: int) -> NDArray[np.float64]:
    """Chance that a random direction has a cosine as far from 0 with a given one.

    Its square has the distribution Beta(1/2, (d − 1)/2) in d dimensions.
    """
    return stats.beta.sf(np.square(cosine).clip(0, 1), 0.5, (dimensions - 1) / 2)


def share_p(share: NDArray[np.floating], of: int, dimensions: int) -> NDArray[np.float64]:
    """Chance that a random direction has as large a share of its square in a subspace.

    The share has the distribution Beta(k/2, (d − k)/2) for k of d dimensions.

    Parameters
    ----------
    share
        Of the squared length, 0 to 1.
    of, dimensions
        k and d, k < d.
    """
    return stats.beta.sf(share.clip(0, 1), of / 2, (dimensions - of) / 2)


def upper_p(values: NDArray[np.floating], sample: NDArray[np.floating]) -> NDArray[np.float64]:
    """Chance that a random direction has as large a value, given a sample of n such values.

    Within the sample it is (1 + values as large) / (1 + n). In its largest fiftieth, where that
    would be coarse, and beyond, the tail of values above t is that of a power law, P(x) ∝ x^(−a),
    with Hill's estimate 1/a = mean ln(x/t): of statistics that are nearly normal, as sums over a
    vocabulary are, it falls more slowly than their own.

    Parameters
    ----------
    values
        NaN has a p-value of NaN.
    sample
        Of random directions, shape (n,), not negative.
    """
    ordered = np.sort(sample)
    n, k = len(ordered), max(1, int(TAIL * len(ordered)))
    larger = n - np.searchsorted(ordered, values, side="left")
    p = (1 + larger) / (1 + n)
    above, start = ordered[n - k :], ordered[max(n - k - 1, 0)]
    if start > 0 and (spread := np.log(above / start).mean()) > 0:
        far = values > start
        tail = (1 + k) / (1 + n) * np.power(values[far] / start, -1 / spread)
        # No less than the smallest number: exact zeros would hide which is the smallest.
        p[far] = np.maximum(tail, np.finfo(np.float64).tiny)
    return np.where(np.isnan(values), np.nan, p)


def q_values(p: NDArray[np.floating]) -> NDArray[np.float64]:
    """False discovery rates (Benjamini and Hochberg) of p-values; NaN stays NaN."""
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    q[known] = stats.false_discovery_control(p[known])
    return q
