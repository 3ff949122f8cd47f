"""Token noise: how scores of fewer tokens, and of two halves of them, agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from universal_neurons.correlate.budget import BudgetPoints, sampled
from universal_neurons.score.universality import mean_over_others
from universal_neurons.store.columns.score import TOKEN_BUDGET

# A convention: the Jaccard index of half the tokens with all, and the reliability, from which on
# token noise is called small.
ENOUGH = 0.9


def budget_table(
    budgets: Iterable[tuple[str, str, BudgetPoints]],
    step: int,
    thresholds: Mapping[str, ArrayLike],
) -> pd.DataFrame:
    """How scores of fewer tokens, and of two halves of them, agree at one step.

    Parameters
    ----------
    budgets
        Of every pair of seeds, in any grouping of layers; see `matches.StepMatches`.
    step
        The step they belong to.
    thresholds
        Excess correlation above which the sampled neurons of every seed, see `sampled_thresholds`,
        count as universal.

    Returns
    -------
    DataFrame
        `columns.score.TOKEN_BUDGET`; no rows without `budgets` (a single shard, screened mode).
        The reliability of all tokens is 2 corr / (1 + corr), by Spearman and Brown.
    """
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for a, b, points in budgets:
        ranges, tokens = points.shards, points.tokens
        for key, values in (((a, b), points.forward), ((b, a), points.backward)):
            found[key] = np.maximum(found.get(key, -np.inf), values)
    rows = []
    for seed, (best, baseline) in mean_over_others(found).items():
        excess = best - baseline
        names = ["first"] * (len(excess) - 2) + ["all", "second half"]
        for name, (start, stop), n_tokens, own in zip(names, ranges, tokens, excess, strict=True):
            other = excess[-3 if name == "second half" else -2]
            one, two = own > thresholds[seed], other > thresholds[seed]
            either = (one | two).sum()
            corr = _corr(own, other)
            # A negative correlation says no more than none.
            reliability = 2 * max(corr, 0) / (1 + max(corr, 0))
            rows.append(
                {
                    "step": step,
                    "seed": seed,
                    "part": name,
                    "n_shards": stop - start,
                    "n_tokens": n_tokens,
                    "n_neurons": len(own),
                    "n_universal": one.sum(),
                    "jaccard": (one & two).sum() / either if either else np.nan,
                    "rank_corr": _corr(rankdata(own), rankdata(other)),
                    "corr": corr,
                    "reliability": reliability if name == "second half" else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=TOKEN_BUDGET.names)


def sampled_thresholds(scores: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Thresholds of the neurons that budgets are of, by seed.

    Parameters
    ----------
    scores
        One step's ``seed, layer, threshold``, sorted by seed, layer and neuron.
    """
    found = {}
    for seed, own in scores.groupby("seed", observed=True):
        layers = own.groupby("layer")["threshold"]
        found[str(seed)] = np.concatenate(
            [layer.to_numpy()[sampled(len(layer))] for _, layer in layers]
        )
    return found


def _corr(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Pearson correlation; NaN if one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm > 0 else np.nan
