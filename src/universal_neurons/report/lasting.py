"""Summaries over seeds of what becomes of neurons from step to step, see `summaries`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t


def persistence_over_seeds(persistence: pd.DataFrame) -> pd.DataFrame:
    """Summarise persistence over the seeds that have universal neurons at the earlier step.

    Parameters
    ----------
    persistence
        Columns seed, layer, from_step, to_step, n_from, n_both, persistence, ceiling, chance,
        p_value, matched_chance, matched_p_value.

    Returns
    -------
    DataFrame
        One row per layer, from_step and to_step, also where no seed has any universal neuron:
        n_seeds (with n_from > 0), n_from and n_both (summed), persistence, ceiling, chance (means
        over those seeds; NaN without any), lowest and highest (persistence of any one seed),
        pooled, pooled_ceiling and pooled_chance (the same over the pooled neurons), p_max and
        n_significant (largest p-value; seeds with p < 0.05) and matched, whether chance and p are
        those of neurons alike in how much they changed, or of any, as where these were not traced.
    """
    keys = ["layer", "from_step", "to_step"]
    groups = persistence[keys].drop_duplicates().sort_values(keys)
    some = persistence[persistence["n_from"] > 0]
    matched = bool(some["matched_chance"].notna().all())
    if matched:
        some = some.assign(chance=some["matched_chance"], p_value=some["matched_p_value"])
    summary = (
        some.assign(
            expected=some["n_from"] * some["chance"],
            again=some["n_from"] * some["ceiling"],
            significant=some["p_value"] < 0.05,
        )
        .groupby(keys)
        .agg(
            n_seeds=("n_from", "size"),
            n_from=("n_from", "sum"),
            n_both=("n_both", "sum"),
            persistence=("persistence", "mean"),
            ceiling=("ceiling", "mean"),
            chance=("chance", "mean"),
            lowest=("persistence", "min"),
            highest=("persistence", "max"),
            expected=("expected", "sum"),
            again=("again", lambda counts: counts.sum(skipna=False)),
            p_max=("p_value", "max"),
            n_significant=("significant", "sum"),
        )
        .reset_index()
    )
    summary = groups.merge(summary, on=keys, how="left")
    summary["pooled"] = summary["n_both"] / summary["n_from"]
    summary["pooled_chance"] = summary.pop("expected") / summary["n_from"]
    summary["pooled_ceiling"] = summary.pop("again") / summary["n_from"]
    counts = ["n_seeds", "n_from", "n_both", "n_significant"]
    summary[counts] = summary[counts].fillna(0).astype("int64")
    return summary.assign(matched=matched)


def consecutive(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows whose to_step is the step right after from_step."""
    steps = np.unique(summary[["from_step", "to_step"]].to_numpy(dtype="int64"))
    following = dict(zip(steps[:-1].tolist(), steps[1:].tolist(), strict=True))
    return summary[summary["from_step"].map(following) == summary["to_step"]]


def moves(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Whether neurons are their own best match at the next step, universal ones and others.

    Parameters
    ----------
    trajectories
        Columns seed, layer, neuron, step, universal, next_layer, next_neuron, self_corr.

    Returns
    -------
    DataFrame
        One row per step but the last and ``universal``: n (neurons with a best match), stayed
        (share whose best match has the same layer and index), lowest and highest (of any one
        seed), self_corr (median correlation with the neuron of the same layer and index) and
        chance (one in the neurons of a model).
    """
    known = trajectories[trajectories["next_layer"] >= 0]
    size = trajectories.groupby(["seed", "step"], observed=True).size().mean()
    same = (known["next_layer"] == known["layer"]) & (known["next_neuron"] == known["neuron"])
    known = known.assign(stayed=same)
    by_seed = known.groupby(["step", "universal", "seed"], observed=True)["stayed"].mean()
    range_of = by_seed.groupby(["step", "universal"]).agg(lowest="min", highest="max")
    pooled = known.groupby(["step", "universal"]).agg(
        n=("stayed", "size"), stayed=("stayed", "mean"), self_corr=("self_corr", "median")
    )
    return pooled.join(range_of).assign(chance=1 / size).reset_index()


def kept_more(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Whether universal neurons are their own best match more often than others, seed by seed.

    Parameters
    ----------
    trajectories
        As of `moves`.

    Returns
    -------
    DataFrame
        One row per step, the index, at which a seed has neurons of both kinds: n_seeds (that
        have), difference (mean over them of the shares' difference, universal neurons less
        others), low and high (95 %, Student's over the seeds; NaN with one).
    """
    known = trajectories[trajectories["next_layer"] >= 0]
    same = (known["next_layer"] == known["layer"]) & (known["next_neuron"] == known["neuron"])
    by_seed = known.assign(stayed=same).groupby(["step", "seed", "universal"], observed=True)
    share = by_seed["stayed"].mean().unstack().reindex(columns=[True, False])
    difference = (share[True] - share[False]).dropna().groupby("step")
    n, mean = difference.size(), difference.mean()
    half = t.ppf(0.975, n - 1) * difference.sem()
    return pd.DataFrame({"n_seeds": n, "difference": mean, "low": mean - half, "high": mean + half})


def emerged(trajectories: pd.DataFrame) -> pd.DataFrame:
    """Share of a layer's neurons that have been universal at a step or before it.

    Returns
    -------
    DataFrame
        One row per layer and step: layer, step, share (mean over seeds), and the lowest and
        highest share of a seed.
    """
    after = trajectories["emergence_step"].between(0, trajectories["step"])
    table = trajectories.assign(share=after)
    by_seed = table.groupby(["layer", "step", "seed"], observed=True)["share"].mean()
    return (
        by_seed.groupby(["layer", "step"])
        .agg(share="mean", lowest="min", highest="max")
        .reset_index()
    )
