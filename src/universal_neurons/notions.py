"""Other notions of a universal neuron than an excess correlation above a threshold.

A best match can be one-sided: many neurons may have the same best match, which prefers another.
Mutual best matches, and groups of neurons that are each other's best match in all seeds, need no
threshold; leaving seeds out asks how well a neuron called universal predicts a seed not yet seen.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NEURON = ["step", "seed", "layer", "neuron"]
Partners = dict[tuple[str, str], NDArray[np.int64]]


def mutual_partners(matches: pd.DataFrame) -> Partners:
    """The mutual best matches of every pair of seeds (mutual nearest neighbours).

    Parameters
    ----------
    matches
        One step's ``seed, other_seed, layer, neuron, best_layer, best_neuron``, sorted by the first
        four, both directions of every pair; see `universality.matches_table`.

    Returns
    -------
    dict
        By (seed, other seed) and for every neuron of the seed, in order, the place among all
        neurons of the other of its best match if that one's best match is the neuron, else −1.
    """
    best: Partners = {}
    pairs = {key: matches.iloc[rows] for key, rows in rows_of_pairs(matches).items()}
    starts = {
        seed: np.cumsum([0, *table["layer"].value_counts(sort=False).sort_index()])
        for (seed, _), table in pairs.items()
    }
    for (seed, other), table in pairs.items():
        layer, neuron = table["best_layer"].to_numpy(), table["best_neuron"].to_numpy(np.int64)
        # A dead neuron has layer −1; it matches nothing.
        best[seed, other] = np.where(layer >= 0, starts[other][layer] + neuron, -1)
    found = {}
    for (seed, other), there in best.items():
        back = np.where(there >= 0, best[other, seed][there], -1)
        found[seed, other] = np.where(back == np.arange(len(there)), there, -1)
    return found


def rows_of_pairs(matches: pd.DataFrame) -> Partners:
    """By (seed, other seed), which rows of a table of matches are theirs."""
    grouped: Any = matches.groupby(["seed", "other_seed"], sort=False, observed=True)
    return grouped.indices


def groups_table(matches: pd.DataFrame, scores: pd.DataFrame, partners: Partners) -> pd.DataFrame:
    """Groups of neurons, one of each seed, every two of which are mutual best matches (cliques).

    Parameters
    ----------
    matches
        One step's, see `mutual_partners`, with ``best_corr``.
    scores
        The step's ``step, seed, layer, neuron, excess_corr, universal``, sorted by the first four.
    partners
        Of the matches, see `mutual_partners`.

    Returns
    -------
    DataFrame
        One row per group and seed: ``step, group, seed, layer, neuron, excess_corr, universal``,
        and of the group ``group_mean_corr`` and ``group_min_corr``, the mean and smallest
        correlation between its members. Groups are numbered by the former, the largest first.
    """
    seeds = list(dict.fromkeys(scores["seed"]))
    members = np.full((len(seeds), (scores["seed"] == seeds[0]).sum()), -1)
    members[0] = np.arange(members.shape[1])
    for i, seed in enumerate(seeds[1:], start=1):
        members[i] = partners[seeds[0], seed]
    members = members[:, (members >= 0).all(0)]
    for i, j in combinations(range(1, len(seeds)), 2):
        members = members[:, partners[seeds[i], seeds[j]][members[i]] == members[j]]
    corr, rows = matches["best_corr"].to_numpy(), rows_of_pairs(matches)
    between = np.array(
        [corr[rows[seeds[i], seeds[j]][members[i]]] for i, j in combinations(range(len(seeds)), 2)]
    )
    order = np.argsort(-between.mean(0), kind="stable")
    members, between = members[:, order], between[:, order]
    parts = []
    for seed, places in zip(seeds, members, strict=True):
        own = scores.loc[scores["seed"] == seed, [*NEURON, "excess_corr", "universal"]]
        part = own.iloc[places]
        part.insert(1, "group", np.arange(len(places)))
        parts.append(part.assign(group_mean_corr=between.mean(0), group_min_corr=between.min(0)))
    return pd.concat(parts).sort_values(["group", "seed"], ignore_index=True)


def add_notions(
    matches: pd.DataFrame, scores: pd.DataFrame, excess_threshold: float
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Add the other notions to one step's tables.

    Parameters
    ----------
    matches
        As `universality.matches_table` returns them.
    scores
        As `universality.universality_table` returns them.
    excess_threshold
        Above which a neuron counts as matched in a seed, and as universal.

    Returns
    -------
    matches
        With ``mutual``: whether the best match's best match is the neuron itself.
    scores
        With ``n_matched`` and ``n_mutual``, the number of other seeds where its excess correlation
        is above the threshold, and where it has a mutual best match; ``in_group``; and
        ``leave_one_out``: of the other seeds without which the neuron is still universal, the
        fraction where it is matched (NaN if there is no such seed, as with two seeds in all).
    groups
        See `groups_table`.
    """
    partners = mutual_partners(matches)
    pairs = rows_of_pairs(matches)
    mutual = np.zeros(len(matches), bool)
    for key, of_pair in pairs.items():
        mutual[of_pair] = partners[key] >= 0
    matches = matches.assign(mutual=mutual)
    excess = (matches["best_corr"] - matches["baseline_corr"]).to_numpy()
    seeds = list(dict.fromkeys(scores["seed"]))
    parts = []
    for seed in seeds:
        rows = np.array([pairs[seed, other] for other in seeds if other != seed])
        each = excess[rows]
        matched = each > excess_threshold
        own = scores[scores["seed"] == seed].assign(
            n_matched=matched.sum(0), n_mutual=mutual[rows].sum(0), leave_one_out=np.nan
        )
        if len(rows) > 1:
            # The mean over the other seeds less one.
            without = (each.sum(0) - each) / (len(rows) - 1) > excess_threshold
            cases = without.sum(0)
            own["leave_one_out"] = np.where(
                cases > 0, (matched & without).sum(0) / np.maximum(cases, 1), np.nan
            )
        parts.append(own)
    scores = pd.concat(parts, ignore_index=True)
    groups = groups_table(matches, scores, partners)
    grouped = pd.MultiIndex.from_frame(groups[NEURON])
    scores["in_group"] = pd.MultiIndex.from_frame(scores[NEURON]).isin(grouped)
    return matches, scores, groups
