"""Best matches, rotated baseline and excess correlation of two arrays of activations."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import (
    Baseline,
    Rotating,
    Rotations,
    rotated_std,
    rotation,
    rotation_name,
)
from universal_neurons.errors import UserError

# Tokens that are centred at a time.
BLOCK = 8192


def correlate_arrays(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    *,
    draws: int = 5,
    seed: int = 0,
    standardise: bool = False,
) -> pd.DataFrame:
    """Best match of every neuron of `a` among those of `b`, in excess of a rotated baseline.

    What a run does with two layers, for activations that somebody has: Pearson's correlation over
    the tokens, its largest value over the neurons of `b` less its largest value over randomly
    rotated ones (2401.12181, eq. 3, for one other model). All in float64 but the products with
    rotations, which are in float32 as in a run.

    Parameters
    ----------
    a, b
        Activations of two models at the same tokens, shapes (tokens, n_a) and (tokens, n_b).
    draws, seed
        Number of random rotations of the neurons of `b`, and their seed: as `baseline.draws` and
        `baseline.seed` of a configuration.
    standardise
        Whether neurons are divided by their standard deviation before they are rotated, see
        `baseline.standardise`.

    Returns
    -------
    DataFrame
        One row per neuron of `a`: ``neuron``, ``best_corr``, ``best_neuron`` (−1 for a dead one,
        whose correlations are 0), ``min_corr``, ``mutual`` (whether the match's best match is the
        neuron itself), ``baseline_corr`` (mean over the rotations) and ``excess_corr``.

    Raises
    ------
    UserError
        If the arrays don't have two axes and the same tokens, fewer than two of them, a value that
        is not finite, or no rotation is asked for.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.random.default_rng(0).standard_normal((1000, 8))
    >>> correlate_arrays(a, -a[:, ::-1] * 3).best_corr.lt(0.2).all()
    np.True_
    """
    a, b = np.asarray(a), np.asarray(b)
    _check(a, b, draws)
    mean_a, mean_b = (_finite_mean(x, name) for x, name in ((a, "a"), (b, "b")))
    cross, within = _products(a, mean_a, b, mean_b), _products(b, mean_b, b, mean_b)
    std_a, std_b = _std(a, mean_a), _std(b, mean_b)
    covariance = within / len(b)
    np.fill_diagonal(covariance, std_b**2)
    scale = np.multiply.outer(std_a, std_b) * len(a)
    corr = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
    rotations: Rotations = {
        rotation_name(b.shape[1], 0, draw): rotation(seed, 0, draw, b.shape[1])
        for draw in range(draws)
    }
    rotating = Rotating(draws, standardise)
    ones = np.ones(b.shape[1])
    neurons = Neurons([b.shape[1]], len(b), 0 * ones, ones, std_b)
    spread = rotated_std(covariance, rotations, 0, rotating)
    baseline = Baseline(neurons, rotations, spread, standardise=standardise)
    best, back = corr.argmax(1), corr.argmax(0)
    dead, here = std_a == 0, np.arange(len(std_a))
    expected = np.where(dead, 0, baseline.best(corr).mean(0))
    highest = corr.max(1).clip(-1, 1)
    return pd.DataFrame(
        {
            "neuron": here,
            "best_corr": highest,
            "best_neuron": np.where(dead, -1, best),
            "min_corr": corr.min(1).clip(-1, 1),
            "mutual": ~dead & (back[best] == here),
            "baseline_corr": expected,
            "excess_corr": highest - expected,
        }
    )


def _check(a: NDArray, b: NDArray, draws: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise UserError(
            f"activations are arrays (tokens, neurons) of the same tokens, not {a.shape} and "
            f"{b.shape}"
        )
    if len(a) < 2 or 0 in (a.shape[1], b.shape[1]):
        raise UserError("a correlation needs at least two tokens, and a neuron on either side")
    if draws < 1:
        raise UserError("draws: the baseline needs at least one rotation")


def _blocks(n_tokens: int) -> list[slice]:
    return [slice(i, i + BLOCK) for i in range(0, n_tokens, BLOCK)]


def _finite_mean(x: NDArray, name: str) -> NDArray[np.float64]:
    mean = np.sum([x[rows].sum(0, dtype=np.float64) for rows in _blocks(len(x))], axis=0) / len(x)
    if not np.isfinite(mean).all():
        neuron = int(np.flatnonzero(~np.isfinite(mean))[0])
        raise UserError(f"{name}: neuron {neuron} has NaN or infinite activations")
    return mean


def _products(
    a: NDArray, mean_a: NDArray[np.float64], b: NDArray, mean_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Summed products of deviations from the means, shape (n_a, n_b)."""
    total = np.zeros((a.shape[1], b.shape[1]))
    for rows in _blocks(len(a)):
        total += (a[rows] - mean_a).T @ (b[rows] - mean_b)
    return total


def _std(x: NDArray, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Population standard deviation; exactly 0 for a constant neuron."""
    total = np.sum([((x[rows] - mean) ** 2).sum(0) for rows in _blocks(len(x))], axis=0)
    return np.where((x == x[0]).all(0), 0.0, np.sqrt(total / len(x)))
