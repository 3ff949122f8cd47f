"""Whether a model's universal neurons stay universal from one step to later ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom

from universal_neurons.store.columns.declare import ALL_LAYERS


def persistence(universality: pd.DataFrame) -> pd.DataFrame:
    """Overlap of the universal neurons of a seed between every step and every later one.

    With U_t the universal neurons at step t, a neuron being the same when it has the same layer
    and index in the same seed, the persistence from t to t' is |U_t ∩ U_t'| / |U_t| (arXiv
    2508.00903).

    Parameters
    ----------
    universality
        One row per seed, step, layer and neuron, with these columns and ``universal`` (bool).

    Returns
    -------
    DataFrame
        `columns.persist.PERSISTENCE`, seeds in their order of first appearance. The p-value is that
        of the hypergeometric upper tail; ½ is added to all four counts of the odds ratio (Haldane
        1956, Anscombe 1956), so that it is finite; q-values leave out the rows of all layers, which
        repeat the others. A single step gives no rows.

    Raises
    ------
    ValueError
        If the steps of a seed don't have the same neurons, or a row comes twice.
    """
    seeds = universality.groupby("seed", sort=False, observed=True)
    table = pd.concat([_of_seed(str(seed), part) for seed, part in seeds], ignore_index=True)
    tested = (table["layer"] != ALL_LAYERS) & table["p_value"].notna()
    q_value = np.full(len(table), np.nan)
    if tested.any():
        q_value[tested] = false_discovery_control(table.loc[tested, "p_value"])
    return table.assign(q_value=q_value)


def _of_seed(seed: str, table: pd.DataFrame) -> pd.DataFrame:
    steps, layers, universal = _matrix(seed, table)
    pooled = [(ALL_LAYERS, universal)]
    by_layer = [(int(layer), universal[:, layers == layer]) for layer in np.unique(layers)]
    return pd.concat(
        [_of_layer(seed, layer, steps, sets) for layer, sets in pooled + by_layer],
        ignore_index=True,
    )


def _matrix(
    seed: str, table: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The seed's steps in order, the layer of each neuron, and which is universal at which step."""
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
    universal = np.zeros(shape, bool)
    universal[row, column] = table["universal"].to_numpy(bool)
    return steps, np.flatnonzero(exists) // width, universal[:, exists]


def _of_layer(
    seed: str, layer: int, steps: NDArray[np.int64], sets: NDArray[np.bool_]
) -> pd.DataFrame:
    """Rows of one seed and layer; `sets` has shape (steps, neurons)."""
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
            "chance": n_to / n_neurons,
            "p_value": np.where(n_from > 0, p_value, np.nan),
            "odds_ratio": np.where(n_from > 0, odds_ratio, np.nan),
        }
    )


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
