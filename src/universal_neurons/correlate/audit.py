"""What neurons compared with all others say of those whose matches rest on the sample.

A random part of the certified neurons is compared with all neurons on all tokens like those without
a certificate. How many of their certificates were wrong bounds the error rate of the others', and
how far the sample's baseline was from that of all tokens corrects the others'.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Share of the certified neurons that is audited, and how many at least; all where there are fewer.
SHARE, LEAST = 0.01, 100


@dataclass(frozen=True)
class Screening:
    """How the best matches of one seed's neurons in another were found, and how well.

    Attributes
    ----------
    n_tokens, sampled_tokens
        Tokens in all, and of the sample.
    rare, undecided
        Neurons compared with all: because the sample can't speak for them, for lack of a
        certificate.
    certified, audited, wrong
        Certified neurons, how many of these were compared with all nevertheless, and how many of
        the latter had a better match than the certified one.
    baseline_shift, baseline_error
        Over the audited neurons: mean of the exact less the sampled baseline, and root mean square
        of what the correction leaves (see `correct`); None where there was nothing to correct.
    """

    n_tokens: int
    sampled_tokens: int
    rare: int
    undecided: int
    certified: int
    audited: int
    wrong: int
    baseline_shift: float | None
    baseline_error: float | None


def choose(certified: NDArray[np.bool_], seed: int = 0) -> NDArray[np.int64]:
    """Which of the certified neurons are audited: at random by a seed, in ascending order."""
    found = np.flatnonzero(certified)
    n = min(len(found), max(LEAST, round(SHARE * len(found))))
    return np.sort(np.random.default_rng(seed).choice(found, n, replace=False))


def among(certified: NDArray[np.bool_], early: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the certified neurons are audited: those of `early`, and further ones up to `LEAST`.

    Parameters
    ----------
    certified
        Shape (n,).
    early
        Neurons that were chosen at random (`choose`) before any was certified, ascending.
    """
    found = early[certified[early]]
    others = certified.copy()
    others[found] = False
    lacking = max(0, min(LEAST, int(certified.sum())) - len(found))
    more = np.random.default_rng(1).choice(np.flatnonzero(others), lacking, replace=False)
    return np.sort(np.concatenate([found, more]))


def correct(
    sampled: NDArray[np.float64], exact: NDArray[np.float64], audited: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """Baselines of all tokens, estimated from the sample's (regression estimator of two phases).

    Parameters
    ----------
    sampled
        Of all neurons per draw, shape (draws, n).
    exact
        On all tokens, of the audited ones, shape (draws, audited).
    audited
        Which these are, at least three.

    Returns
    -------
    estimate
        Shape (draws, n), between −1 and 1.
    error
        Root mean square error of its mean over the draws, from what is left over the audited
        neurons and the line's two degrees of freedom.
    """
    known = sampled[:, audited]
    centre, variance = known.mean(), known.var()
    slope = ((known - centre) * exact).mean() / variance if variance else 0.0
    estimate = exact.mean() + slope * (sampled - centre)
    left = (exact - estimate[:, audited]).mean(0)
    error = np.sqrt(np.square(left).sum() / (len(audited) - 2))
    return estimate.clip(-1, 1), float(error)
