"""Similarity of layers as a table, and of neurons to whole layers, from the stores of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.correlate.similar_pair import PairSimilarity, like_depth
from universal_neurons.score.universality import mean_over_others
from universal_neurons.store.columns.score import SIMILARITY


def read_similarities(paths: Sequence[str | Path]) -> list[PairSimilarity]:
    """Those of all pairs of a step, in the order of their seeds."""
    return sorted(map(PairSimilarity.read, paths), key=lambda pair: (pair.seed, pair.other_seed))


def similarity_table(pairs: Sequence[PairSimilarity], step: int) -> pd.DataFrame:
    """How alike every two layers of every pair of seeds are.

    Parameters
    ----------
    pairs
        As `read_similarities` returns them; may be none.
    step
        The step they belong to.

    Returns
    -------
    DataFrame
        `columns.score.SIMILARITY`.
    """
    frames = [pd.DataFrame(columns=SIMILARITY.names)]
    for pair in pairs:
        shape = next(iter(pair.measures.values())).shape
        layer, other = (place.ravel() for place in np.indices(shape, np.int32))
        values = {name: found.ravel() for name, found in pair.measures.items()}
        names = {"step": step, "seed": pair.seed, "other_seed": pair.other_seed}
        frames.append(pd.DataFrame({**names, "layer": layer, "other_layer": other, **values}))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def of_like_depth(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `similarity_table` whose layers are of like depth, see `like_depth`."""
    own, other = table["layer"].to_numpy(), table["other_layer"].to_numpy()
    chosen = np.zeros(len(table), bool)
    grouped = table.groupby(["step", "seed", "other_seed"], sort=False, observed=True)
    for rows in grouped.indices.values():
        near = like_depth(own[rows].max() + 1, other[rows].max() + 1)
        chosen[rows] = near[own[rows], other[rows]]
    return table[chosen]


def regression_r2(pairs: Sequence[PairSimilarity], n_neurons: int) -> NDArray[np.float64]:
    """What other seeds' layers explain of every neuron's variance, mean over the other seeds.

    Parameters
    ----------
    pairs
        Of all pairs, or none.
    n_neurons
        Number of neurons of all seeds.

    Returns
    -------
    ndarray
        Shape (n_neurons,), seed by seed in order; NaN where it is not known.
    """
    by_pair = {}
    for pair in pairs:
        by_pair[pair.seed, pair.other_seed] = pair.forward
        by_pair[pair.other_seed, pair.seed] = pair.backward
    if not by_pair:
        return np.full(n_neurons, np.nan)
    return np.concatenate([*mean_over_others(by_pair).values()])
