"""Fractions of neurons that are universal beyond more than rotations, and in seeds not yet seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from universal_neurons.score.fractions import fractions_table
from universal_neurons.score.local_fdr import null_share
from universal_neurons.score.new_seed import new_seed_table
from universal_neurons.score.notions import rows_of_pairs
from universal_neurons.score.universality import mean_over_others
from universal_neurons.store.columns.declare import ALL_LAYERS

Influences = Mapping[tuple[str, str], NDArray[np.float32]]

# What they are called in `columns.fractions.FRACTIONS`.
BEYOND_RANDOM, GIVEN_TOKEN = "beyond_random", "given_token"


class Kind(NamedTuple):
    """A way to be universal: the mean excess over the other seeds is above a threshold.

    Attributes
    ----------
    threshold
        Of every row of `universality`.
    excess
        Of every row of `matches`; NaN where it is not known.
    influences
        Of the groups of documents on the excess, by (seed, other seed); none where not known.
    """

    threshold: pd.Series
    excess: pd.Series
    influences: Influences


def fractions_of_kinds(
    universality: pd.DataFrame,
    matches: pd.DataFrame,
    influences: Influences,
    within: Influences,
    beyond: NDArray[np.float64] | None,
) -> pd.DataFrame:
    """Fractions of all kinds, with the probability that a new seed has a match of such a neuron.

    Parameters
    ----------
    universality
        Of one step, see `fractions.fractions_table`; with ``p_value``.
    matches
        Of that step, with ``given_token_corr, given_token_baseline``.
    influences, within
        See `fractions.fractions_table`: on excess, and on excess given the token; there may be
        none.
    beyond
        Excess above which a neuron is beyond random directions, shape (rows of `universality`,);
        None without that null.

    Returns
    -------
    DataFrame
        `columns.fractions.FRACTIONS`. What was not compared is null.
    """
    table = fractions_table(universality, matches, influences)
    excess = matches["best_corr"] - matches["baseline_corr"]
    kinds = {"": Kind(universality["threshold"], excess, influences)}
    given = matches["given_token_corr"] - matches["given_token_baseline"]
    nothing = pd.Series(np.inf, universality.index)
    known = beyond is not None
    threshold = pd.Series(beyond, universality.index) if known else nothing
    kinds[BEYOND_RANDOM] = Kind(threshold, excess if known else excess * np.nan, influences)
    kinds[GIVEN_TOKEN] = Kind(universality["threshold"], given, within)
    for name, kind in kinds.items():
        if name:
            table = table.merge(_fraction(universality, matches, kind, name), on=["seed", "layer"])
        found = _new_seed(universality, matches, kind, name).assign(seed="")
        table = table.merge(found, on=["seed", "layer"], how="left")
    return table.assign(expected_beyond_random=_expected(universality, table, known))


def _named(kind: str, column: str) -> str:
    return f"{kind}_{column}" if kind else column


def _by_pair(matches: pd.DataFrame, kind: Kind) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Excess by (seed, other seed), shape (N,)."""
    excess = kind.excess.to_numpy()
    return {pair: excess[rows] for pair, rows in rows_of_pairs(matches).items()}


def _fraction(
    universality: pd.DataFrame, matches: pd.DataFrame, kind: Kind, name: str
) -> pd.DataFrame:
    """``seed, layer, name, name_low, name_high``, ends of single seeds where tokens have theirs."""
    pairs = _by_pair(matches, kind)
    unknown = bool(kind.excess.isna().all())
    # Without influences only the seeds move the fraction.
    still = {pair: np.zeros((2, len(own)), np.float32) for pair, own in pairs.items()}
    mean = np.concatenate([*mean_over_others(pairs).values()])
    above = mean > kind.threshold.to_numpy()
    judged = universality.assign(threshold=kind.threshold, universal=above)
    own = matches.assign(best_corr=kind.excess, baseline_corr=0.0)
    found = fractions_table(judged, own, kind.influences or still)
    if not kind.influences:
        found.loc[found["seed"] != "", ["low", "high"]] = np.nan
    # Where no excess could pass, none of a resample could either: that is no interval.
    if np.isinf(kind.threshold.to_numpy()).all():
        found[["low", "high"]] = np.nan
    columns = {"mean_fraction": name, "low": f"{name}_low", "high": f"{name}_high"}
    found = found.rename(columns=columns)[["seed", "layer", *columns.values()]]
    if unknown:
        found[list(columns.values())] = np.nan
    return found


def _new_seed(
    universality: pd.DataFrame, matches: pd.DataFrame, kind: Kind, name: str
) -> pd.DataFrame:
    seeds = universality["seed"]
    threshold = {str(s): x.to_numpy() for s, x in kind.threshold.groupby(seeds, observed=True)}
    layer = {str(s): x.to_numpy() for s, x in universality["layer"].groupby(seeds, observed=True)}
    found = new_seed_table(_by_pair(matches, kind), threshold, layer).drop(columns="cases")
    new = {"new_seed": "new_seed", "low": "new_seed_low", "high": "new_seed_high"}
    return found.rename(columns={old: _named(name, column) for old, column in new.items()})


def _expected(universality: pd.DataFrame, table: pd.DataFrame, known: bool) -> NDArray[np.float64]:
    """Expected number of neurons better than random directions, see `local_fdr.null_share`."""
    expected = np.full(len(table), np.nan)
    if known:
        for i, (seed, layer) in enumerate(zip(table["seed"], table["layer"], strict=True)):
            rows = np.full(len(universality), True)
            if layer != ALL_LAYERS:
                rows &= (universality["layer"] == layer).to_numpy()
            if seed:
                rows &= (universality["seed"] == seed).to_numpy()
            p = universality.loc[rows, "p_value"].to_numpy(float)
            expected[i] = (1 - null_share(p)) * (~np.isnan(p)).sum()
    return expected
