"""Whether a model's universal neurons stay universal from one step to later ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom

from universal_neurons.persist.replicate import probability_again
from universal_neurons.persist.trajectories import JUDGED, KEYS, leaving_threshold
from universal_neurons.store.columns.declare import ALL_LAYERS

# Neurons of a layer that count as alike in how much they have changed.
ALIKE = 20

# What is asked of the scores.
SCORES = [*KEYS, *JUDGED]


def persistence(
    trajectories: pd.DataFrame, scores: pd.DataFrame, exit_threshold: float | None = None
) -> pd.DataFrame:
    """Overlap of the universal neurons of a seed between every step and every later one.

    With U_t the universal neurons at step t, a neuron being the same when it has the same layer
    and index in the same seed, the persistence from t to t' is |U_t ∩ U_t'| / |U_t| (arXiv
    2508.00903).

    Parameters
    ----------
    trajectories
        One row per seed, step, layer and neuron, with these columns, ``universal`` (bool) and
        ``self_corr`` (to the next step; NaN where nothing was traced).
    scores
        The same rows with the columns `SCORES`.
    exit_threshold
        That of `trajectories.trajectories`.

    Returns
    -------
    DataFrame
        `columns.persist.PERSISTENCE`, seeds in their order of first appearance. The p-value is that
        of the hypergeometric upper tail; ½ is added to all four counts of the odds ratio (Haldane
        1956, Anscombe 1956), so that it is finite; q-values leave out the rows of all layers, which
        repeat the others. The ceiling is the mean of `replicate.probability_again`, fitted to a
        step's neurons of a layer of all seeds. A single step gives no rows.

    Raises
    ------
    ValueError
        If the steps of a seed don't have the same neurons, or a row comes twice.
    """
    own = trajectories[[*KEYS, "universal", "self_corr"]]
    table = own.merge(scores[SCORES], on=KEYS, how="left")
    table["again"] = _again(table, exit_threshold)
    seeds = table.groupby("seed", sort=False, observed=True)
    result = pd.concat([_of_seed(str(seed), part) for seed, part in seeds], ignore_index=True)
    tested = (result["layer"] != ALL_LAYERS) & result["p_value"].notna()
    q_value = np.full(len(result), np.nan)
    if tested.any():
        q_value[tested] = false_discovery_control(result.loc[tested, "p_value"])
    return result.assign(q_value=q_value)


def _again(table: pd.DataFrame, exit_threshold: float | None) -> NDArray[np.float64]:
    """Probability that a replicate finds each neuron above what it must not fall below to stay."""
    score, error = (table[name].to_numpy(float) for name in ("excess_corr", "excess_se"))
    bound = leaving_threshold(table["threshold"].to_numpy(float), exit_threshold)
    again = np.full(len(table), np.nan)
    for rows in table.groupby(["step", "layer"]).indices.values():
        again[rows] = probability_again(score[rows], error[rows], bound[rows])
    return again


def _of_seed(seed: str, table: pd.DataFrame) -> pd.DataFrame:
    layers, steps, (universal, again, self_corr) = _matrices(
        seed, table, ["universal", "again", "self_corr"]
    )
    sets = universal.astype(bool)
    again = np.where(sets, again, 0)
    alike = _alike_between(layers, self_corr)
    parts = []
    for layer in (ALL_LAYERS, *np.unique(layers).tolist()):
        here = np.full(len(layers), True) if layer == ALL_LAYERS else layers == layer
        rows = _of_layer(seed, layer, steps, sets[:, here], again[:, here].sum(1))
        within = {pair: group[here] for pair, group in alike.items()}
        parts.append(rows.assign(**_against_alike(rows, sets[:, here], within)))
    return pd.concat(parts, ignore_index=True)


def _matrices(
    seed: str, table: pd.DataFrame, names: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The layer of each neuron, the seed's steps in order, and columns by step and neuron."""
    steps, row = np.unique(table["step"].to_numpy(np.int64), return_inverse=True)
    layer = table["layer"].to_numpy(np.int64)
    width = int(table["neuron"].max()) + 1
    column = layer * width + table["neuron"].to_numpy(np.int64)
    # Layers may differ in width, so some columns belong to no neuron.
    shape = (len(steps), (int(layer.max()) + 1) * width)
    present = np.zeros(shape, bool)
    present[row, column] = True
    exists = present[0]
    if not (present == exists).all() or present.sum() != len(table):
        raise ValueError(f"seed {seed}: every step must have each neuron once")
    values = np.zeros((len(names), *shape))
    for i, name in enumerate(names):
        values[i, row, column] = table[name].to_numpy(float)
    return np.flatnonzero(exists) // width, steps, values[:, :, exists]


def _alike_between(
    layers: NDArray[np.int64], self_corr: NDArray[np.float64]
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """By pair of steps (places in order), a number for each neuron that those alike share.

    Neurons of a layer are put in order of their correlation with themselves between the steps and
    cut into groups of about `ALIKE`. Over several steps the correlation is the product of those
    between, as it would be if changes were independent of one another. No pair where it is unknown.
    """
    groups = {}
    for i in range(len(self_corr) - 1):
        product = np.ones(len(layers))
        for j in range(i + 1, len(self_corr)):
            product = product * self_corr[j - 1].clip(min=0)
            if np.isnan(product).any():
                break
            group, first = np.empty(len(layers), np.int64), 0
            for layer in np.unique(layers):
                here = np.flatnonzero(layers == layer)
                n = max(1, len(here) // ALIKE)
                order = here[np.argsort(product[here], kind="stable")]
                group[order] = first + np.arange(len(here)) * n // len(here)
                first += n
            groups[i, j] = group
    return groups


def _of_layer(
    seed: str,
    layer: int,
    steps: NDArray[np.int64],
    sets: NDArray[np.bool_],
    again: NDArray[np.float64],
) -> pd.DataFrame:
    """Rows of one seed and layer.

    `sets` has shape (steps, neurons); `again`, shape (steps,), is the number of its neurons that a
    replicate is expected to find.
    """
    i, j = np.triu_indices(len(steps), k=1)
    # float32 counts exactly up to 2**24 neurons, and its matrix product is fast.
    both = (sets.astype(np.float32) @ sets.T.astype(np.float32)).astype(np.int64)
    size = both.diagonal()
    n_from, n_to, n_both, n_neurons = size[i], size[j], both[i, j], sets.shape[1]
    p_value = hypergeom.sf(n_both - 1, n_neurons, n_from, n_to)
    neither = n_neurons - n_from - n_to + n_both
    odds_ratio = (
        (n_both + 0.5) * (neither + 0.5) / ((n_from - n_both + 0.5) * (n_to - n_both + 0.5))
    )
    return pd.DataFrame(
        {
            "seed": pd.Series([seed] * len(i), dtype="str"),
            "layer": np.full(len(i), layer, np.int64),
            "from_step": steps[i],
            "to_step": steps[j],
            "n_from": n_from,
            "n_to": n_to,
            "n_both": n_both,
            "persistence": _ratio(n_both, n_from),
            "jaccard": _ratio(n_both, n_from + n_to - n_both),
            "ceiling": _ratio(again[i], n_from),
            "chance": n_to / n_neurons,
            "p_value": np.where(n_from > 0, p_value, np.nan),
            "odds_ratio": np.where(n_from > 0, odds_ratio, np.nan),
        }
    )


def _against_alike(
    rows: pd.DataFrame,
    sets: NDArray[np.bool_],
    alike: dict[tuple[int, int], NDArray[np.int64]],
) -> dict[str, NDArray[np.float64]]:
    """Columns of how the overlaps would be if they depended on the groups of neurons alike only."""
    chance, p_value = np.full((2, len(rows)), np.nan)
    for row, (i, j) in enumerate(combinations(range(len(sets)), 2)):
        if (i, j) in alike and sets[i].any():
            expected, p_value[row] = overlap_by_chance(sets[i], sets[j], alike[i, j])
            chance[row] = expected / sets[i].sum()
    return {"matched_chance": chance, "matched_p_value": p_value}


def overlap_by_chance(
    first: NDArray[np.bool_], second: NDArray[np.bool_], group: NDArray[np.int64]
) -> tuple[float, float]:
    """Expected overlap of two sets drawn at random within groups, and how often it is as large.

    Parameters
    ----------
    first, second
        Membership, shape (neurons,).
    group
        Number of each neuron's group, shape (neurons,). Each keeps its members of either set.

    Returns
    -------
    float, float
        Σ_g a_g b_g / n_g, and the exact upper tail of the sum of the groups' hypergeometric
        variables (of the observed overlap or more).
    """
    n, a, b = (np.bincount(group, w) for w in (None, first, second))
    some = (a > 0) & (b > 0)
    density = np.ones(1)
    for size, own, other in zip(n[some], a[some].astype(int), b[some].astype(int), strict=True):
        counts = np.arange(min(own, other) + 1)
        density = np.convolve(density, hypergeom.pmf(counts, size, own, other))
    observed = int((first & second).sum())
    expected = float((a[some] * b[some] / n[some]).sum())
    return expected, float(density[observed:].sum().clip(0, 1))


def _ratio(part: NDArray, whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
