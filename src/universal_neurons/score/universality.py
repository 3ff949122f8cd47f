"""From best matches of pairs to a universality score for every neuron."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.correlate.audit import Screening
from universal_neurons.correlate.matches import Matches, StepMatches, layer_and_neuron
from universal_neurons.score.fractions import standard_error

logger = logging.getLogger(__name__)


def mean_over_others(by_pair: Mapping[tuple[str, str], NDArray]) -> dict[str, NDArray]:
    """Mean over the other seeds, by seed in order, of arrays by (seed, other seed)."""
    return {
        seed: np.mean([found for key, found in by_pair.items() if key[0] == seed], axis=0)
        for seed in sorted({seed for seed, _ in by_pair})
    }


def matches_table(
    matches: StepMatches,
    step: int,
    influences: Mapping[tuple[str, str], NDArray] | None = None,
) -> pd.DataFrame:
    """Best matches of one step as a table, both directions of every pair.

    Parameters
    ----------
    matches
        Of all pairs.
    step
        The step they belong to.
    influences
        By (seed, other seed), see `influence.influence`; none where activations were not
        stored.

    Returns
    -------
    DataFrame
        `columns.score.MATCHES` but for its last columns, which `notions` adds; sorted by seed,
        other seed, layer and neuron.
    """
    frames = []
    for key, found in matches.found.items():
        d_mlp, other_d_mlp = (matches.d_mlp[seed] for seed in key)
        table = _pair_table(found, step, *key, d_mlp, other_d_mlp, matches.screenings.get(key))
        error = standard_error(influences[key]) if influences else np.nan
        table.insert(list(table.columns).index("best_corr") + 1, "best_corr_se", error)
        frames.append(table)
    return pd.concat(frames, ignore_index=True)


def _pair_table(
    matches: Matches,
    step: int,
    seed: str,
    other_seed: str,
    d_mlp: Sequence[int],
    other_d_mlp: Sequence[int],
    screening: Screening | None,
) -> pd.DataFrame:
    layer, neuron = layer_and_neuron(d_mlp)
    draws = len(matches.baseline)
    baseline_se = matches.baseline.std(0, ddof=1) / np.sqrt(draws) if draws > 1 else np.nan
    if screening:
        # Of estimates from a sample there is the sample's error, too.
        baseline_se = np.hypot(
            baseline_se, np.where(matches.certified, screening.baseline_error or 0, 0)
        )
    # A dead neuron has index −1, which picks the −1 appended here.
    other_layer, other_neuron = (np.append(x, -1) for x in layer_and_neuron(other_d_mlp))
    return pd.DataFrame(
        {
            "step": step,
            "seed": seed,
            "other_seed": other_seed,
            "layer": layer,
            "neuron": neuron,
            # Rounding noise can carry an estimate just past 1.
            "best_corr": matches.best.clip(-1, 1),
            "best_layer": other_layer[matches.index],
            "best_neuron": other_neuron[matches.index],
            "baseline_corr": matches.baseline.mean(0),
            "baseline_se": baseline_se,
            "min_corr": matches.lowest.clip(-1, 1),
            "best_by": np.where(matches.certified, "certificate", "comparison"),
            "baseline_by": np.where(matches.certified, "sample", "all tokens"),
        }
    )


def with_choices(scores: pd.DataFrame, found: Mapping[tuple[str, str], Matches]) -> pd.DataFrame:
    """Add the excess with one rotation by either choice of ``baseline.standardise``.

    Both take the same rotation, so that they differ by the choice alone.

    Parameters
    ----------
    scores
        As `universality_table` returns it.
    found
        The matches that they are of, by (seed, other seed).

    Returns
    -------
    DataFrame
        With columns ``first_rotation_excess``, of the run's choice, and ``other_choice_excess``,
        NaN where the other one was not computed.
    """

    def excess(kind: str) -> NDArray[np.float64]:
        by_pair = {
            key: matches.best.clip(-1, 1) - getattr(matches, kind)[0]
            for key, matches in found.items()
            if len(getattr(matches, kind))
        }
        means = mean_over_others(by_pair)
        return np.concatenate([*means.values()]) if means else np.full(len(scores), np.nan)

    return scores.assign(
        first_rotation_excess=excess("baseline"), other_choice_excess=excess("other_baseline")
    )


def universality_table(
    matches: pd.DataFrame, influences: Mapping[str, NDArray] | None = None
) -> pd.DataFrame:
    """Score every neuron: its excess correlation, averaged over the other seeds.

    The excess correlation (2401.12181, eq. 3) is the mean over the other seeds of the largest
    correlation less its rotated baseline.

    Parameters
    ----------
    matches
        As `matches_table` returns it.
    influences
        On the mean over the other seeds, by seed: see `mean_over_others`.

    Returns
    -------
    DataFrame
        `columns.score.UNIVERSALITY` up to ``excess_se``, sorted by step, seed, layer and neuron. In
        the standard error those of tokens and of rotations are added in squares.
    """
    keys = ["step", "seed", "layer", "neuron"]
    # A mean over S seeds of means over rotations; nothing is known of one rotation's error.
    table = matches.assign(square=matches["baseline_se"].fillna(0) ** 2)
    by_neuron = table.groupby(keys, sort=True)
    scores = (
        by_neuron[["best_corr", "baseline_corr"]]
        .mean()
        .rename(columns={"best_corr": "max_corr"})
        .reset_index()
    )
    scores["excess_corr"] = scores["max_corr"] - scores["baseline_corr"]
    if influences:
        tokens = np.concatenate([standard_error(influences[seed]) for seed in sorted(influences)])
        rotations = by_neuron["square"].sum() / by_neuron.size() ** 2
        scores["excess_se"] = np.sqrt(tokens**2 + rotations.to_numpy())
    else:
        scores["excess_se"] = np.nan
    return scores
