"""Other notions of a universal neuron than an excess correlation above a threshold.

A best match can be one-sided: many neurons may have the same best match, which prefers another.
Mutual best matches, and groups of neurons that are each other's best match in all seeds, need no
threshold; a one-to-one assignment gives no neuron to two others; leaving seeds out asks how well a
neuron called universal predicts a seed not yet seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from universal_neurons.correlate.matches import Matches

NEURON = ["step", "seed", "layer", "neuron"]
Partners = dict[tuple[str, str], NDArray[np.int64]]


def mutual_partners(found: Mapping[tuple[str, str], Matches]) -> Partners:
    """The mutual best matches of every pair of seeds (mutual nearest neighbours).

    Parameters
    ----------
    found
        By (seed, other seed), both ways; see `matches.StepMatches`.

    Returns
    -------
    dict
        By (seed, other seed) and for every neuron of the seed, in order, the place among all
        neurons of the other of its best match if that one's best match is the neuron, else −1.
    """
    partners = {}
    for (seed, other), matches in found.items():
        there = matches.index
        back = found[other, seed].index[there]
        # A dead neuron has index −1; it matches nothing.
        mutual = (there >= 0) & (back == np.arange(len(there)))
        partners[seed, other] = np.where(mutual, there, -1)
    return partners


def assignment(
    forward: Matches, backward: Matches
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Assign neurons of two models one to one so that their correlations have the largest sum.

    Only the candidates of either side can be assigned to each other, if their correlation is
    positive; a neuron may stay unassigned.

    Parameters
    ----------
    forward, backward
        Matches of all N neurons of a model among those of another, and the reverse.

    Returns
    -------
    partner
        int64, shape (N,): which neuron of the other, −1 if unassigned.
    corr
        float64, shape (N,): its correlation, NaN if unassigned.
    """
    n, width = len(forward.candidates), len(backward.candidates)
    edges = []
    for matches in (forward, backward):
        known = (matches.candidates >= 0) & (matches.candidate_corr > 0)
        mine = np.broadcast_to(np.arange(len(known))[:, None], known.shape)[known]
        edges.append((mine, matches.candidates[known], matches.candidate_corr[known]))
    (rows, columns, corr), (back_columns, back_rows, back_corr) = edges
    # A partner of its own, as good as a correlation of 0, lets every neuron stay unassigned.
    own, total = np.arange(n), width + n
    places = np.concatenate([rows, back_rows, own]) * total
    places += np.concatenate([columns, back_columns, width + own])
    places, first = np.unique(places, return_index=True)
    corr = np.concatenate([corr, back_corr, np.zeros(n)])[first]
    # A cost of zero would be no edge.
    cost = csr_array((2 - corr, (places // total, places % total)), shape=(n, total))
    _, partner = min_weight_full_bipartite_matching(cost)
    corr = corr[np.searchsorted(places, own * total + partner)]
    assigned = partner < width
    return np.where(assigned, partner, np.int64(-1)), np.where(assigned, corr, np.nan)


def rows_of_pairs(matches: pd.DataFrame) -> Partners:
    """By (seed, other seed), which rows of a table of matches are theirs."""
    grouped: Any = matches.groupby(["seed", "other_seed"], sort=False, observed=True)
    return grouped.indices


def cliques(partners: Partners, seeds: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Groups of neurons, one of each seed, every two of which are mutual best matches.

    Parameters
    ----------
    partners
        See `mutual_partners`.
    seeds
        All of them, at least two.

    Returns
    -------
    dict
        By seed, the place of its member in every group, int64, shape (groups,).
    """
    first, *others = seeds
    members = np.array(
        [np.arange(len(partners[first, others[0]]))] + [partners[first, other] for other in others]
    )
    members = members[:, (members >= 0).all(0)]
    for i, j in combinations(range(1, len(seeds)), 2):
        members = members[:, partners[seeds[i], seeds[j]][members[i]] == members[j]]
    return dict(zip(seeds, members, strict=True))


def groups_table(
    found: Mapping[tuple[str, str], Matches], scores: pd.DataFrame, partners: Partners
) -> pd.DataFrame:
    """The groups of a step (`cliques`).

    Parameters
    ----------
    found
        One step's, see `mutual_partners`.
    scores
        The step's ``step, seed, layer, neuron, excess_corr, universal``, sorted by the first four.
    partners
        Of the matches, see `mutual_partners`.

    Returns
    -------
    DataFrame
        `columns.score.GROUPS` but for ``n_permuted``.
    """
    groups = cliques(partners, list(dict.fromkeys(scores["seed"])))
    between = np.array(
        [found[one, other].best[groups[one]].clip(-1, 1) for one, other in combinations(groups, 2)]
    )
    order = np.argsort(-between.mean(0), kind="stable")
    between = between[:, order]
    parts = []
    for seed, places in groups.items():
        own = scores.loc[scores["seed"] == seed, [*NEURON, "excess_corr", "universal"]]
        part = own.iloc[places[order]]
        part.insert(1, "group", np.arange(len(places)))
        parts.append(part.assign(group_mean_corr=between.mean(0), group_min_corr=between.min(0)))
    return pd.concat(parts).sort_values(["group", "seed"], ignore_index=True)


def add_notions(
    matches: pd.DataFrame,
    scores: pd.DataFrame,
    found: Mapping[tuple[str, str], Matches],
    permuted: Mapping[tuple[str, str], Matches],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Add the other notions to one step's tables.

    Parameters
    ----------
    matches
        As `universality.matches_table` returns them.
    scores
        As `criterion.Criterion.judge` returns them.
    found
        What the matches were made of, see `matches.StepMatches`.
    permuted
        The same of models that read other sequences; empty where activations were not stored.

    Returns
    -------
    matches, scores, groups
        `columns.score.MATCHES`, `UNIVERSALITY` and `GROUPS`.
    """
    partners, by_noise = mutual_partners(found), mutual_partners(permuted)
    pairs = rows_of_pairs(matches)
    seeds = list(dict.fromkeys(scores["seed"]))
    names = {seed: scores.loc[scores["seed"] == seed, ["layer", "neuron"]] for seed in seeds}
    mutual, assigned = np.zeros(len(matches), bool), np.empty(len(matches))
    assigned_layer, assigned_neuron = np.empty((2, len(matches)), np.int32)
    for seed, other in combinations(seeds, 2):
        partner, corr = assignment(found[seed, other], found[other, seed])
        there = np.flatnonzero(partner >= 0)
        back, back_corr = np.full(len(names[other]), -1), np.full(len(names[other]), np.nan)
        back[partner[there]], back_corr[partner[there]] = there, corr[there]
        for key, place, values in (
            ((seed, other), partner, corr),
            ((other, seed), back, back_corr),
        ):
            of_pair = pairs[key]
            mutual[of_pair] = partners[key] >= 0
            # Rounding noise can carry an estimate just past 1.
            assigned[of_pair] = values.clip(max=1)
            # A neuron without a partner has place −1, which picks the −1 appended here.
            layer, neuron = (np.append(x, -1) for x in names[key[1]].to_numpy().T)
            assigned_layer[of_pair], assigned_neuron[of_pair] = layer[place], neuron[place]
    matches = matches.assign(
        mutual=mutual,
        assigned_corr=assigned,
        assigned_layer=assigned_layer,
        assigned_neuron=assigned_neuron,
    )
    baseline = matches["baseline_corr"].to_numpy()
    excess = matches["best_corr"].to_numpy() - baseline
    assigned_excess = np.nan_to_num(assigned) - baseline
    parts = []
    for seed in seeds:
        rows = np.array([pairs[seed, other] for other in seeds if other != seed])
        one_to_one, own = assigned_excess[rows], scores[scores["seed"] == seed]
        threshold = own["threshold"].to_numpy()
        share, cases = _leave_one_out(excess[rows], threshold)
        noise = [by_noise[seed, other] >= 0 for other in seeds if (seed, other) in by_noise]
        parts.append(
            own.assign(
                assigned_excess=one_to_one.mean(0),
                assigned_universal=one_to_one.mean(0) > threshold,
                n_matched=(excess[rows] > threshold).sum(0),
                n_mutual=mutual[rows].sum(0),
                n_assigned=(one_to_one > threshold).sum(0),
                n_mutual_permuted=np.sum(noise, axis=0, dtype=float) if noise else np.nan,
                leave_one_out=share,
                leave_one_out_cases=cases,
            )
        )
    scores = pd.concat(parts, ignore_index=True)
    groups = groups_table(found, scores, partners)
    groups["n_permuted"] = float(len(cliques(by_noise, seeds)[seeds[0]])) if by_noise else np.nan
    grouped = pd.MultiIndex.from_frame(groups[NEURON])
    scores["in_group"] = pd.MultiIndex.from_frame(scores[NEURON]).isin(grouped)
    return matches, scores, groups


def _leave_one_out(
    excess: NDArray[np.float64], threshold: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of the other seeds without which a neuron is universal, the share where it is matched.

    `excess` has shape (other seeds, N), `threshold` (N,); NaN where there is no such seed. Beside
    it the number of those seeds.
    """
    if len(excess) < 2:
        return np.full(excess.shape[1], np.nan), np.zeros(excess.shape[1], np.int64)
    # The mean over the other seeds less one.
    without = (excess.sum(0) - excess) / (len(excess) - 1) > threshold
    cases = without.sum(0)
    matched = (without & (excess > threshold)).sum(0)
    return np.where(cases > 0, matched / np.maximum(cases, 1), np.nan), cases
