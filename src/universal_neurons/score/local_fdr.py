"""How many neurons are better than a null in all, and how likely each single one is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

# P-values above it are taken as those of neurons that are no better than the null (Storey 2002).
NULL_ONLY = 0.5


def null_share(p_values: NDArray[np.float64]) -> float:
    """Estimated share π₀ of neurons that are no better than the null.

    (1 + #{p > ½}) / (½ n), at most 1 (Storey 2002, doi 10.1111/1467-9868.00346, with the 1 of
    Storey, Taylor and Siegmund 2004): p-values of neurons that are no better are uniform, and few
    others are above ½. So n (1 − π₀) is the expected number of better neurons, whichever they are.

    Parameters
    ----------
    p_values
        Of neurons that share a null, shape (n,), of which NaN are left out.

    Returns
    -------
    float
        NaN without p-values.
    """
    known = p_values[~np.isnan(p_values)]
    if not len(known):
        return np.nan
    return min(1.0, (1 + (known > NULL_ONLY).sum()) / (len(known) * (1 - NULL_ONLY)))


def local_fdr(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a neuron is no better than the null, given its p-value.

    Of the neurons about p the share π₀ / f(p) is no better (Efron et al. 2001, doi
    10.1198/016214501753382129), with π₀ of `null_share` and f the falling density of largest
    likelihood (Grenander 1956), the slope of the least concave majorant of the p-values'
    distribution. It follows noise of the p-values: the sum of 1 less these is more than
    `null_share` leaves, where nothing is better by 2 % of 2,560 neurons.

    Parameters
    ----------
    p_values
        Of neurons that share a null, shape (n,).

    Returns
    -------
    ndarray
        Shape (n,), NaN where the p-value is.
    """
    found = np.full(len(p_values), np.nan)
    known = ~np.isnan(p_values)
    n = int(known.sum())
    if not n:
        return found
    values, place, count = np.unique(p_values[known], return_inverse=True, return_counts=True)
    # Beyond the largest p-value there is nothing up to 1.
    width, share = np.diff(values, prepend=0, append=1), np.append(count, 0) / n
    wide = width > 0
    density = np.full(len(width), np.inf)
    density[wide] = isotonic_regression(
        share[wide] / width[wide], weights=width[wide], increasing=False
    ).x
    null = null_share(p_values)
    found[known] = null / np.maximum(density[:-1][place], null)
    return found


def with_local_fdr(scores: pd.DataFrame) -> pd.DataFrame:
    """Add ``local_fdr``, within every seed, to one step's ``seed, p_value``."""
    found = np.full(len(scores), np.nan)
    p = scores["p_value"].to_numpy(float)
    for rows in scores.groupby("seed", observed=True).indices.values():
        found[rows] = local_fdr(p[rows])
    return scores.assign(local_fdr=found)
