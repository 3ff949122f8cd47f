"""How often chance reaches a neuron's excess correlation: null distributions, p- and q-values.

Every null answers another doubt. Would a random rotation of the other seed's neurons match as well?
Would models that were never trained, or that read other text? A neuron is held against neurons of
its layer that are about as heavy-tailed: how far an excess strays by chance depends on that. The
leading null is that of random directions: would any neurons match as well that read what the other
seed's neurons read?
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from universal_neurons.correlate.matches import Matches
from universal_neurons.score.universality import mean_over_others

# Bins of `histograms`, in units of correlation.
BIN_WIDTH = 0.02

# The null that p- and q-values are against, where there is one; else they are against all others.
LEADING = "random directions"

# Parts that the neurons of a layer are sorted into by kurtosis, if each has so many: fewer would
# mix what strays little with what strays far, smaller ones leave too few values for small p-values.
STRATA, LEAST_IN_STRATUM = 5, 50


def with_strata(scores: pd.DataFrame, effective_tokens: ArrayLike) -> pd.DataFrame:
    """Sort the live neurons of every seed and layer into equal parts by kurtosis.

    Parameters
    ----------
    scores
        One step's ``seed, layer, baseline_corr``.
    effective_tokens
        Of its neurons: the fewer, the larger the kurtosis (`moments.moments`).

    Returns
    -------
    DataFrame
        `scores` with ``stratum``, 0 (smallest kurtosis) to `STRATA` − 1; fewer where they would
        have less than `LEAST_IN_STRATUM` neurons. 0 for a dead neuron.
    """
    alive = live(scores)
    tokens = pd.Series(effective_tokens, scores.index)[alive]
    grouped = tokens.groupby([scores.loc[alive, "seed"], scores.loc[alive, "layer"]], observed=True)
    place = grouped.rank("first", ascending=False).to_numpy() - 1
    stratum = np.zeros(len(scores), np.int64)
    size = grouped.transform("size").to_numpy()
    stratum[alive] = (size // LEAST_IN_STRATUM).clip(1, STRATA) * place // size
    return scores.assign(stratum=stratum)


def left_out_excess(baseline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Excess of every rotation over the others: a neuron's excess were its match a rotation.

    Were the other seed's own basis no better than a random rotation of it, the best correlation
    would be one more draw like those of the baseline. So a draw less the mean of the others is an
    excess under that null. With D draws its variance is D²/(D²−1) times that of a neuron's excess,
    which is less the mean of all D: slightly conservative.

    Parameters
    ----------
    baseline
        Largest correlation with rotated neurons, shape (draws, N).

    Returns
    -------
    ndarray
        Shape (draws, N); no rows with fewer than two draws.
    """
    draws = len(baseline)
    if draws < 2:
        return np.empty((0, baseline.shape[1]))
    return (baseline - baseline.mean(0)) * (draws / (draws - 1))


def live(scores: pd.DataFrame) -> NDArray[np.bool_]:
    """Which neurons are not dead: those are correlated with nothing."""
    return scores["baseline_corr"].to_numpy() != 0


def rotated_null(matches: Mapping[tuple[str, str], Matches], scores: pd.DataFrame) -> pd.DataFrame:
    """Excess of rotated neurons over other rotated neurons, averaged over the other seeds.

    Parameters
    ----------
    matches
        By (seed, other seed), see `matches.StepMatches`.
    scores
        One step's ``layer, stratum, baseline_corr``, sorted by seed, layer and neuron.

    Returns
    -------
    DataFrame
        ``layer, stratum, excess``, one row per draw and live neuron, all seeds as one; see
        `left_out_excess`.
    """
    by_pair = {pair: left_out_excess(found.baseline) for pair, found in sorted(matches.items())}
    excess = np.hstack(list(mean_over_others(by_pair).values()))
    named = scores[["layer", "stratum"]]
    empty = named[:0].assign(excess=0.0)
    return pd.concat([empty, *(named.assign(excess=draw)[live(scores)] for draw in excess)])


def permuted_null(permuted: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Excess of neurons whose match read other sequences, all seeds as one: that of noise.

    Parameters
    ----------
    permuted
        Scores by the matches of `permuted.permuted_pair`: ``excess_corr, baseline_corr``.
    scores
        Of the same neurons, in the same order: ``layer, stratum``.

    Returns
    -------
    DataFrame
        ``layer, stratum, excess``, one row per neuron that is live in the sample.
    """
    excess = permuted["excess_corr"].to_numpy()
    return scores[["layer", "stratum"]].assign(excess=excess)[live(permuted)]


def random_null(
    excess: Mapping[tuple[str, str], NDArray[np.float64]], scores: pd.DataFrame
) -> pd.DataFrame:
    """Excess of neurons among random directions of the other seeds' inputs, all seeds as one.

    Parameters
    ----------
    excess
        By (seed, other seed), shape (draws, N), see `random_directions.random_step`.
    scores
        Of the same neurons, in the order of seeds: ``layer, stratum``.

    Returns
    -------
    DataFrame
        ``layer, stratum, excess``, one row per draw and neuron that is live in the sample.
    """
    draws = np.hstack(list(mean_over_others(excess).values()))
    named = scores[["layer", "stratum"]]
    return pd.concat([named.assign(excess=draw)[np.isfinite(draw)] for draw in draws])


def leading(names: Collection[str]) -> list[str]:
    """Of the names of nulls, those that p-values are against: the leading one, or all without."""
    return [LEADING] if LEADING in names else list(names)


def untrained_null(scores: pd.DataFrame) -> pd.DataFrame:
    """Excess of the neurons of untrained models, all seeds as one.

    Parameters
    ----------
    scores
        Of step 0, or from `untrained.untrained_scores`: ``layer, stratum, excess_corr,
        baseline_corr``.

    Returns
    -------
    DataFrame
        ``layer, stratum, excess``, one row per live neuron. A stratum is of the untrained neurons:
        the heaviest tails of one are held against the heaviest of the other.
    """
    found = scores.loc[live(scores), ["layer", "stratum", "excess_corr"]]
    return found.rename(columns={"excess_corr": "excess"})


def p_values(scores: pd.DataFrame, null: pd.DataFrame) -> NDArray[np.float64]:
    """How often a null reaches the excess of every neuron.

    p = (1 + number of null values ≥ excess) / (1 + number of null values), over all null values of
    the neuron's layer and stratum, of any seed: it takes their distributions as one.

    Parameters
    ----------
    scores
        ``layer, stratum, baseline_corr, excess_corr``.
    null
        ``layer, stratum, excess``.

    Returns
    -------
    ndarray
        float64, shape (rows of `scores`,): 1 for a dead neuron, NaN where the null has no values.
    """
    p = np.full(len(scores), np.nan)
    excess = scores["excess_corr"].to_numpy()
    for rows, known in _values_by_stratum(scores, null):
        if len(known):
            reached = len(known) - np.searchsorted(known, excess[rows], side="left")
            p[rows] = (1 + reached) / (1 + len(known))
    p[~live(scores)] = 1
    return p


def _values_by_stratum(
    scores: pd.DataFrame, null: pd.DataFrame
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The rows of every layer and stratum, and the null's values for them, ascending."""
    own = ["layer", "stratum"]
    values = {key: np.sort(part) for key, part in null.groupby(own)["excess"]}
    grouped: Any = scores.groupby(own)
    for key, rows in grouped.indices.items():
        yield rows, values.get(key, np.empty(0))


def with_p_values(scores: pd.DataFrame, nulls: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Add p-values and a Benjamini-Hochberg q-value to every neuron's score.

    Parameters
    ----------
    scores
        One step's ``seed, layer, stratum, baseline_corr, excess_corr``.
    nulls
        By name, see `p_values`; those without any values say nothing, nor of a layer that they
        lack, where models have different depths.

    Returns
    -------
    DataFrame
        `scores` with ``p_value``, the largest over the nulls (NaN if none has values), and
        ``q_value`` (within a seed).
    """
    p, q = np.full((2, len(scores)), np.nan)
    for null in nulls.values():
        if len(null):
            p = np.fmax(p, p_values(scores, null))
    for rows in scores.groupby("seed", observed=True).indices.values():
        known = rows[np.isfinite(p[rows])]
        q[known] = stats.false_discovery_control(p[known])
    return scores.assign(p_value=p, q_value=q)


def excess_thresholds(
    scores: pd.DataFrame, nulls: Mapping[str, pd.DataFrame], rate: float
) -> NDArray[np.float64]:
    """The excess above which q-values are below a rate, in every neuron's seed, layer and stratum.

    A p-value falls with the excess within a stratum of a seed's layer, and a q-value with the
    p-value within a seed. So the largest p-value with a q-value below the rate says how many null
    values may reach an excess, and the next of them is the threshold. It is not below 0: to be
    matched worse than rotated neurons is not to be universal.

    Parameters
    ----------
    scores, nulls
        As `with_p_values` returns and takes them.
    rate
        A false discovery rate.

    Returns
    -------
    ndarray
        float64, shape (rows of `scores`,); infinite where no excess is large enough.
    """
    thresholds = np.full(len(scores), -np.inf)
    p, passing = scores["p_value"].to_numpy(), scores["q_value"].to_numpy() < rate
    most = np.zeros(len(scores))
    for rows in scores.groupby("seed", observed=True).indices.values():
        most[rows] = p[rows].max(initial=0, where=passing[rows])
    for null in nulls.values():
        for rows, known in _values_by_stratum(scores, null):
            if len(known):
                # Null values that may reach it, by the formula of `p_values`, up to rounding.
                reached = (most[rows] * (1 + len(known)) + 1e-6).astype(np.int64) - 1
                # Next to none there is nothing but infinity.
                own = np.array([-np.inf, *known, np.inf])[len(known) - reached]
                thresholds[rows] = np.maximum(thresholds[rows], own)
    return np.where(np.isneginf(thresholds), np.inf, np.maximum(thresholds, 0))


def histograms(nulls: Mapping[str, pd.DataFrame], step: int) -> pd.DataFrame:
    """Distribution of excess correlation under every null, all seeds and layers as one.

    Returns
    -------
    DataFrame
        `columns.score.NULLS`, bins of `BIN_WIDTH`.
    """
    parts = []
    for name, null in nulls.items():
        # Rounded first: 0.3 / 0.02 is a hair below 15.
        place = np.floor(np.round(null["excess"].to_numpy() / BIN_WIDTH, 9))
        bins, n = np.unique(place, return_counts=True)
        edges = {"low": bins * BIN_WIDTH, "high": (bins + 1) * BIN_WIDTH}
        parts.append(pd.DataFrame({"step": step, "null": name, **edges, "n": n}))
    return pd.concat(parts, ignore_index=True)
