"""How often chance reaches a neuron's excess correlation: null distributions, p- and q-values.

Every null answers another doubt. Would a random rotation of the other seed's neurons match as well?
Would models that were never trained? A neuron is beyond chance if it is beyond all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from universal_neurons.correlate.matches import Matches
from universal_neurons.score.universality import mean_over_others

# Bins of `histograms`, in units of correlation.
BIN_WIDTH = 0.02


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
        One step's ``seed, layer, baseline_corr``, sorted by seed, layer and neuron.

    Returns
    -------
    DataFrame
        ``seed, layer, excess``, one row per draw and live neuron; see `left_out_excess`.
    """
    by_pair = {pair: left_out_excess(found.baseline) for pair, found in sorted(matches.items())}
    excess = np.hstack(list(mean_over_others(by_pair).values()))
    named = scores[["seed", "layer"]]
    empty = named[:0].assign(excess=0.0)
    return pd.concat([empty, *(named.assign(excess=draw)[live(scores)] for draw in excess)])


def permuted_null(
    best: Mapping[tuple[str, str], NDArray[np.float64]], scores: pd.DataFrame
) -> pd.DataFrame:
    """Excess of neurons whose best match read other sequences, averaged over the other seeds.

    All seeds as one: with one value per neuron, the smallest p-value would otherwise be that of a
    single seed's layer.

    Parameters
    ----------
    best
        By (seed, other seed), see `permuted.permuted_best`.
    scores
        As for `rotated_null`.

    Returns
    -------
    DataFrame
        ``layer, excess``, one row per live neuron; none without a sample.
    """
    named = scores.loc[live(scores), ["layer"]]
    if not best:
        return named[:0].assign(excess=0.0)
    mean = np.concatenate(list(mean_over_others(dict(sorted(best.items()))).values()))
    return named.assign(excess=(mean - scores["baseline_corr"].to_numpy())[live(scores)])


def untrained_null(scores: pd.DataFrame) -> pd.DataFrame:
    """Excess of the neurons of untrained models, all seeds as one.

    Parameters
    ----------
    scores
        Of step 0, or from `untrained.untrained_scores`: ``layer, excess_corr, baseline_corr``.

    Returns
    -------
    DataFrame
        ``layer, excess``, one row per live neuron.
    """
    found = scores.loc[live(scores), ["layer", "excess_corr"]]
    return found.rename(columns={"excess_corr": "excess"})


def p_values(scores: pd.DataFrame, null: pd.DataFrame) -> NDArray[np.float64]:
    """How often a null reaches the excess of every neuron.

    p = (1 + number of null values ≥ excess) / (1 + number of null values), over all null values of
    the neuron's layer, and seed if the null has any: it takes their distributions as one.

    Parameters
    ----------
    scores
        ``seed, layer, baseline_corr, excess_corr``.
    null
        ``layer, excess`` and, if it differs between seeds, ``seed``.

    Returns
    -------
    ndarray
        float64, shape (rows of `scores`,): 1 for a dead neuron, NaN where the null has no values.
    """
    p = np.full(len(scores), np.nan)
    excess = scores["excess_corr"].to_numpy()
    for rows, known in _values_by_layer(scores, null):
        if len(known):
            reached = len(known) - np.searchsorted(known, excess[rows], side="left")
            p[rows] = (1 + reached) / (1 + len(known))
    p[~live(scores)] = 1
    return p


def _values_by_layer(
    scores: pd.DataFrame, null: pd.DataFrame
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """The rows of every seed and layer, and the null's values that hold for them, ascending."""
    of_layer, values = null["layer"].to_numpy(), null["excess"].to_numpy()
    grouped: Any = scores.groupby(["seed", "layer"], observed=True)
    for (seed, layer), rows in grouped.indices.items():
        here = of_layer == layer
        if "seed" in null:
            here &= (null["seed"] == seed).to_numpy()
        yield rows, np.sort(values[here])


def with_p_values(scores: pd.DataFrame, nulls: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Add p-values and a Benjamini-Hochberg q-value to every neuron's score.

    Parameters
    ----------
    scores
        One step's ``seed, layer, baseline_corr, excess_corr``.
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
    """The excess above which q-values are below a rate, in every neuron's seed and layer.

    A p-value falls with the excess within a seed and layer, and a q-value with the p-value within a
    seed. So the largest p-value with a q-value below the rate says how many null values may reach
    an excess, and the next of them is the threshold. It is not below 0: to be matched worse than
    rotated neurons is not to be universal.

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
        for rows, known in _values_by_layer(scores, null):
            if len(known):
                # Null values that may reach it, by the formula of `p_values`, up to rounding.
                reached = int(most[rows[0]] * (1 + len(known)) + 1e-6) - 1
                # Next to none there is nothing but infinity.
                own = [-np.inf, *known, np.inf][len(known) - reached]
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
