"""Summaries of the result tables over seeds, of which `findings.Findings` keeps those shared.

Every function takes a table of `results/<run>/` (columns as in the README) and returns a small one.
Tables can have millions of rows, so all of it is done by column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from universal_neurons.score.nulls import BIN_WIDTH
from universal_neurons.store.columns.declare import ALL_LAYERS


def chance_curve(universality: pd.DataFrame, nulls: pd.DataFrame) -> pd.DataFrame:
    """Neurons above every tenth of excess correlation at the last step, found and by chance.

    Parameters
    ----------
    universality
        Columns ``step, excess_corr``.
    nulls
        Columns ``step, null, low, n``, see `nulls.histograms`.

    Returns
    -------
    DataFrame
        One row per ``threshold`` 0.1, 0.2 … 0.9: ``found``, the share of neurons of all seeds above
        it, and per null with values a column of its name, the share of its values.
    """
    excess = universality.loc[universality["step"] == universality["step"].max(), "excess_corr"]
    thresholds = np.arange(1, 10) / 10
    table = pd.DataFrame({"threshold": thresholds})
    table["found"] = [(excess > threshold).mean() for threshold in thresholds]
    shown = nulls[nulls["step"] == nulls["step"].max()]
    for name, null in shown.groupby("null", observed=True):
        # Thresholds lie between bins, up to rounding.
        above = [null.loc[null["low"] > threshold - 1e-6, "n"].sum() for threshold in thresholds]
        table[str(name)] = np.array(above) / null["n"].sum()
    return table


class Suggestion(NamedTuple):
    """A threshold of excess correlation, and the shares of neurons and of chance above it."""

    threshold: float
    found: float
    by_chance: float


def suggested_threshold(
    universality: pd.DataFrame, nulls: pd.DataFrame, rate: float
) -> Suggestion | None:
    """The smallest threshold that keeps chance to `rate` of the neurons above it.

    Parameters
    ----------
    universality
        Columns ``step, excess_corr``; the last step counts.
    nulls
        Columns ``step, null, low, n``, see `nulls.histograms`.
    rate
        Largest share of the values of any null above the threshold over that of the neurons.

    Returns
    -------
    Suggestion or None
        The threshold is a multiple of `BIN_WIDTH`; none if no threshold is high enough or there is
        no null.
    """
    excess = universality.loc[universality["step"] == universality["step"].max(), "excess_corr"]
    last = nulls[nulls["step"] == nulls["step"].max()]
    for place in range(1, int(np.ceil(excess.max() / BIN_WIDTH)) if len(last) else 0):
        threshold = round(place * BIN_WIDTH, 9)
        found = float((excess > threshold).mean())
        # Thresholds lie between bins, up to rounding.
        above = last["n"].where(last["low"] > threshold - 1e-6, 0).groupby(last["null"]).sum()
        by_chance = float((above / last.groupby("null")["n"].sum()).max())
        if by_chance <= rate * found:
            return Suggestion(threshold, found, by_chance)
    return None


MUTUAL = "mutual match in every other seed"


def agreement(universality: pd.DataFrame, rate: float) -> pd.DataFrame:
    """How far notions of a universal neuron agree at the last step.

    Parameters
    ----------
    universality
        Columns ``step, seed, universal, q_value, assigned_universal, n_matched,
        n_mutual, n_mutual_permuted, in_group``.
    rate
        The false discovery rate of neurons better than the leading null.

    Returns
    -------
    DataFrame
        One row per notion, its name the index: ``count`` (neurons of all seeds), ``by_noise`` (the
        same of models that read other sequences, where it is known), and for every notion a column
        with the Jaccard index of the two sets (NaN if both are empty).
    """
    last = universality[universality["step"] == universality["step"].max()]
    others = last["seed"].nunique() - 1
    sets = {
        "universal": last["universal"].to_numpy(bool),
        f"better than the leading null (q < {rate:g})": (last["q_value"] < rate).to_numpy(),
        "universal, one to one": last["assigned_universal"].to_numpy(bool),
        "matched in every other seed": (last["n_matched"] == others).to_numpy(),
        MUTUAL: (last["n_mutual"] == others).to_numpy(),
        "in a group": last["in_group"].to_numpy(bool),
    }
    rows = {
        name: {"count": one.sum()}
        | {other: (one & two).sum() / max((one | two).sum(), 1) for other, two in sets.items()}
        for name, one in sets.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    noise = last["n_mutual_permuted"]
    table.insert(1, "by_noise", np.nan)
    table.loc[MUTUAL, "by_noise"] = np.nan if noise.isna().any() else (noise == others).sum()
    empty = [name for name, one in sets.items() if not one.any()]
    table.loc[empty, empty] = np.nan
    return table


def universal_counts(universality: pd.DataFrame) -> pd.DataFrame:
    """Count the universal neurons of every model, per layer and overall.

    Parameters
    ----------
    universality
        Columns step, seed, layer, universal; one row per neuron.

    Returns
    -------
    DataFrame
        Columns step, seed, layer (-1 = all layers), n_neurons, n_universal, fraction.
    """
    by_layer = (
        universality.groupby(["step", "seed", "layer"], observed=True)["universal"]
        .agg(n_neurons="size", n_universal="sum")
        .reset_index()
    )
    overall = (
        by_layer.groupby(["step", "seed"], observed=True)[["n_neurons", "n_universal"]]
        .sum()
        .reset_index()
        .assign(layer=ALL_LAYERS)
    )
    counts = pd.concat([overall, by_layer], ignore_index=True)
    counts["n_universal"] = counts["n_universal"].astype("int64")
    counts["fraction"] = counts["n_universal"] / counts["n_neurons"]
    return counts[["step", "seed", "layer", "n_neurons", "n_universal", "fraction"]]


def pooled_counts(counts: pd.DataFrame) -> pd.DataFrame:
    """Pool `universal_counts` over seeds.

    Returns
    -------
    DataFrame
        One row per step and layer: step, layer, n_seeds, n_neurons, n_universal, fraction (of the
        pooled neurons), lowest and highest (fraction of any one seed).
    """
    pooled = (
        counts.groupby(["step", "layer"])
        .agg(
            n_seeds=("fraction", "size"),
            n_neurons=("n_neurons", "sum"),
            n_universal=("n_universal", "sum"),
            lowest=("fraction", "min"),
            highest=("fraction", "max"),
        )
        .reset_index()
    )
    pooled["fraction"] = pooled["n_universal"] / pooled["n_neurons"]
    return pooled


def budget_over_seeds(token_budget: pd.DataFrame) -> pd.DataFrame:
    """Average the agreement of scores from fewer tokens over seeds.

    Returns
    -------
    DataFrame
        One row per step, n_shards and part, sorted by them: n_tokens, n_seeds, n_neurons and
        n_universal (summed), jaccard, rank_corr and reliability (means over the seeds that have
        one).
    """
    return (
        token_budget.groupby(["step", "n_shards", "part"])
        .agg(
            n_tokens=("n_tokens", "first"),
            n_seeds=("n_tokens", "size"),
            n_neurons=("n_neurons", "sum"),
            n_universal=("n_universal", "sum"),
            jaccard=("jaccard", "mean"),
            rank_corr=("rank_corr", "mean"),
            reliability=("reliability", "mean"),
        )
        .reset_index()
    )


def partial_rank_correlation(
    table: pd.DataFrame, first: str, second: str, given: Sequence[str], within: str
) -> float:
    """Spearman's correlation of two columns given others: of what they leave of the ranks.

    Parameters
    ----------
    first, second, given
        Columns of numbers. All are ranked over the whole table.
    within
        A column of groups, which are also given: ranks are taken less their means by group.

    Returns
    -------
    float
        Pearson's correlation of the residuals of the two columns' ranks after a linear regression
        on those of `given`; NaN where one of the two is left without any variation.
    """
    ranks = table[[first, second, *given]].rank()
    centred = ranks - ranks.groupby(table[within], observed=True).transform("mean")
    known = centred[list(given)].to_numpy()
    pair = centred[[first, second]].to_numpy()
    residuals = pair - known @ np.linalg.lstsq(known, pair, rcond=None)[0]
    # A regression leaves rounding errors of what it explains.
    if (np.linalg.norm(residuals, axis=0) <= 1e-9 * np.linalg.norm(ranks, axis=0)[:2]).any():
        return np.nan
    return float(np.corrcoef(residuals.T)[0, 1])
