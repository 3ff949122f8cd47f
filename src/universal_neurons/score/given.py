"""Scores past the token: what classes of tokens explain of a neuron, and the excess within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.activations.class_sums import KINDS
from universal_neurons.correlate.matches import Matches, StepMatches, layer_and_neuron
from universal_neurons.score.universality import mean_over_others
from universal_neurons.store.arrays import attributes_of, read_arrays


def with_given_matches(table: pd.DataFrame, matches: StepMatches) -> pd.DataFrame:
    """Add the best matches given classes of tokens to a table of matches.

    Parameters
    ----------
    table
        As `universality.matches_table` returns it.
    matches
        That it is of.

    Returns
    -------
    DataFrame
        With the columns ``given_{kind}_…`` of `columns.score.MATCHES`: null, or −1, where they are
        not known.
    """
    added = [table]
    for kind in KINDS:
        given = matches.given.get(kind, {})
        pairs = [
            _of_pair(given.get(key), len(found.lowest), matches.d_mlp[key[1]])
            for key, found in matches.found.items()
        ]
        added.append(pd.concat(pairs, ignore_index=True).add_prefix(f"given_{kind}_"))
    return pd.concat(added, axis=1)


def _of_pair(found: Matches | None, n: int, other_d_mlp: Sequence[int]) -> pd.DataFrame:
    index = np.full(n, -1) if found is None else found.index
    layer, neuron = (np.append(x, -1)[index] for x in layer_and_neuron(other_d_mlp))
    return pd.DataFrame(
        {
            "corr": np.full(n, np.nan) if found is None else found.best.clip(-1, 1),
            "layer": layer,
            "neuron": neuron,
            "baseline": (np.full(n, np.nan) if found is None else found.baseline.mean(0)),
        }
    )


def with_given(
    scores: pd.DataFrame,
    found: Mapping[str, Mapping[tuple[str, str], Matches]],
    stores: Sequence[str | Path],
) -> pd.DataFrame:
    """Add what classes of tokens explain of every neuron, and its excess given them.

    Parameters
    ----------
    scores
        One step's, with ``threshold``; sorted by seed, layer and neuron.
    found
        Best matches by the kinds of classes that they are given, where that is known, and by
        (seed, other seed), both ways.
    stores
        Of `given.write_given`, of all seeds, or none.

    Returns
    -------
    DataFrame
        With ``{kind}_r2``, ``excess_given_{kind}`` and ``universal_given_{kind}`` of all
        `class_sums.KINDS`, and ``token_coverage``; null where they are not known.
    """
    models = {attributes_of(path)["seed"]: path for path in stores}
    added: dict[str, Any] = {f"{kind}_r2": np.nan for kind in KINDS}
    added["token_coverage"] = np.nan
    if models:
        arrays = [read_arrays(models[seed]) for seed in sorted(models)]
        added = {f"{kind}_r2": np.concatenate([x[f"{kind}_r2"] for x in arrays]) for kind in KINDS}
        [coverage] = {attributes_of(path)["covered_token"] for path in stores}
        added["token_coverage"] = coverage
    for kind in KINDS:
        excess = _excess(found[kind]) if kind in found else np.full(len(scores), np.nan)
        universal = pd.array(excess > scores["threshold"].to_numpy(), dtype="boolean")
        universal[np.isnan(excess)] = pd.NA
        added |= {f"excess_given_{kind}": excess, f"universal_given_{kind}": universal}
    return scores.assign(**added)


def _excess(found: Mapping[tuple[str, str], Matches]) -> NDArray[np.float64]:
    """Mean over the other seeds of best match less baseline, of all neurons in order."""
    by_pair = {key: x.best.clip(-1, 1) - x.baseline.mean(0) for key, x in found.items()}
    return np.concatenate([*mean_over_others(by_pair).values()])
