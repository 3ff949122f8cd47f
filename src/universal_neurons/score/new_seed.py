"""Whether neurons that some seeds have in common have a match in a seed not yet seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.score.fractions import jackknife_half_width
from universal_neurons.store.columns.declare import ALL_LAYERS

# With a seed left out twice, as the new one and by the jackknife, two others must be left.
LEAST_SEEDS = 4


def new_seed_table(
    excess: Mapping[tuple[str, str], NDArray[np.float64]],
    threshold: Mapping[str, NDArray[np.float64]],
    layer: Mapping[str, NDArray[np.int64]],
) -> pd.DataFrame:
    """Probability that a neuron universal in some seeds is matched in another, over all neurons.

    Every seed is the new one in turn. A case is a neuron whose mean excess over the seeds that are
    left is above its threshold; it is matched if its excess with the new seed is. The probability
    is that of all cases as one. Its 95 % interval is that of a jackknife which leaves out one seed
    after the other in all roles, as reference, as match and as the new one, with Student's t of
    S − 1 degrees of freedom.

    Parameters
    ----------
    excess
        Of every neuron of a seed with its match in another, by (seed, other seed), shape (N,).
    threshold, layer
        By seed, of its neurons, shape (N,).

    Returns
    -------
    DataFrame
        ``layer`` (`ALL_LAYERS` first), ``cases``, ``new_seed``, ``low``, ``high``; NaN without
        cases, and the ends with fewer than `LEAST_SEEDS` seeds.
    """
    seeds = sorted(threshold)
    layers = [ALL_LAYERS, *np.unique(np.concatenate([layer[seed] for seed in seeds])).tolist()]
    cases, matched = _counts(excess, threshold, layer, layers, seeds)
    table = pd.DataFrame({"layer": layers, "cases": cases.astype(np.int64)})
    table["new_seed"] = _share(matched, cases)
    half = np.full(len(layers), np.nan)
    if len(seeds) >= LEAST_SEEDS:
        without = np.array(
            [
                _share(
                    *_counts(excess, threshold, layer, layers, [s for s in seeds if s != left])[
                        ::-1
                    ]
                )
                for left in seeds
            ]
        )
        half = jackknife_half_width(without)
    table["low"] = (table["new_seed"] - half).clip(0, 1)
    table["high"] = (table["new_seed"] + half).clip(0, 1)
    return table


def _counts(
    excess: Mapping[tuple[str, str], NDArray[np.float64]],
    threshold: Mapping[str, NDArray[np.float64]],
    layer: Mapping[str, NDArray[np.int64]],
    layers: Sequence[int],
    seeds: Sequence[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cases, and those matched, by layer, among some seeds."""
    cases, matched = np.zeros((2, len(layers)))
    place = {number: i for i, number in enumerate(layers)}
    for seed in seeds:
        others = [other for other in seeds if other != seed]
        if len(others) < 2:
            continue
        own = np.array([excess[seed, other] for other in others])
        # The mean over the others less the new one.
        universal = (own.sum(0) - own) / (len(others) - 1) > threshold[seed]
        found = universal & (own > threshold[seed])
        rows = np.array([place[int(number)] for number in layer[seed]])
        for count, which in ((cases, universal), (matched, found)):
            np.add.at(count, rows, which.sum(0))
            count[0] += which.sum()
    return cases, matched


def _share(matched: NDArray[np.float64], cases: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(matched, cases, out=np.full(len(cases), np.nan), where=cases > 0)
