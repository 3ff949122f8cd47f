"""Standard errors and intervals from influences: of neurons' scores, and of universal fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from universal_neurons.store.columns.declare import ALL_LAYERS

# Bootstrap draws of a fraction.
DRAWS = 1000
# Seeds whose mean has an interval: with one left out, the others must still have one another.
LEAST_SEEDS = 3

# Of a reference, and the seed left out of its matches if any: by layer, the universal fraction as
# observed and in every bootstrap draw, shape (1 + draws,).
Shares = Mapping[tuple[str, str | None], Mapping[int, NDArray[np.float64]]]


def standard_error(influences: NDArray) -> NDArray[np.float64]:
    """Standard error by the infinitesimal jackknife: √(G / (G − 1) Σ_g I_g²).

    Parameters
    ----------
    influences
        Shape (groups G, N), centred over the groups.

    Returns
    -------
    NDArray
        Shape (N,); NaN with a single group.
    """
    n = len(influences)
    if n < 2:
        return np.full(influences.shape[1], np.nan)
    return np.sqrt(n / (n - 1) * np.square(influences, dtype=np.float64).sum(0))


def fractions_table(
    universality: pd.DataFrame,
    matches: pd.DataFrame,
    influences: Mapping[tuple[str, str], NDArray[np.float32]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Universal fraction with 95 % intervals, per seed and over seeds, per layer and overall.

    Of one seed: groups of documents are resampled (bootstrap), the excess of every neuron follows
    from its influences, and se is the spread of the fraction above the thresholds. The other seeds
    are taken as given.

    Over S seeds, every one is a reference and a match of all others, so that their fractions are
    not independent. se² = what a jackknife says that leaves out one seed after the other in both
    roles + the part of the tokens' bootstrap variance that it can't see, as all seeds share the
    tokens; with the quantile of Student's t by Welch and Satterthwaite.

    Parameters
    ----------
    universality
        Of one step, rows of every seed in the order of its neurons, with ``step, seed, layer,
        threshold, universal``.
    matches
        Of that step, rows of every pair in the order of the seed's neurons, with ``seed,
        other_seed, best_corr, baseline_corr``.
    influences
        By (seed, other seed), shape (groups, N); none where activations were not stored.
    draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        `columns.fractions.FRACTIONS`. Without influences, or with those of a single group, nothing
        has an interval; with fewer seeds than `LEAST_SEEDS` the mean has none.
    """
    shares = _resampled(universality, matches, influences, draws, seed)
    rows = []
    for name, own in universality.groupby("seed", observed=True):
        for layer in (ALL_LAYERS, *np.unique(own["layer"])):
            found = own.loc[(own["layer"] == layer) | (layer == ALL_LAYERS), "universal"]
            se = shares[str(name), None][layer][1:].std(ddof=1) if shares else np.nan
            rows.append((str(name), int(layer), len(found), int(found.sum()), se))
    table = pd.DataFrame(rows, columns=["seed", "layer", "n_neurons", "n_universal", "se"])
    table["mean_fraction"] = table["n_universal"] / table["n_neurons"]
    table["quantile"] = scipy.stats.norm.ppf(0.975)
    seeds = list(table["seed"].unique())
    pooled = [_over_seeds(own, seeds, shares) for _, own in table.groupby("layer")]
    table = pd.concat([pd.DataFrame(pooled), table], ignore_index=True)
    half = table.pop("quantile") * table["se"]
    table["low"] = (table["mean_fraction"] - half).clip(0, 1)
    table["high"] = (table["mean_fraction"] + half).clip(0, 1)
    table["fraction"] = table["n_universal"] / table["n_neurons"]
    table.insert(0, "step", universality["step"].iloc[0])
    return table


def _resampled(
    universality: pd.DataFrame,
    matches: pd.DataFrame,
    influences: Mapping[tuple[str, str], NDArray[np.float32]],
    draws: int,
    seed: int,
) -> Shares:
    """Fractions of every reference, with all its matches and without each; none without groups."""
    n_groups = len(next(iter(influences.values()))) if influences else 1
    if n_groups == 1:
        return {}
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), draws) - 1
    # No weight moves in the first row: that is what was observed.
    weights = np.vstack([np.zeros(n_groups), drawn]).astype(np.float32)
    excess = matches["best_corr"] - matches["baseline_corr"]
    by_pair = excess.groupby([matches["seed"], matches["other_seed"]], observed=True)
    pairs = {(str(one), str(other)): own.to_numpy() for (one, other), own in by_pair}
    found: dict[tuple[str, str | None], dict[int, NDArray[np.float64]]] = {}
    for key, own in universality.groupby("seed", observed=True):
        name, layers, threshold = str(key), own["layer"].to_numpy(), own["threshold"].to_numpy()
        others = [other for one, other in pairs if one == name]
        for without in (None, *others):
            kept = [(name, other) for other in others if other != without]
            if kept:
                mean = np.mean([pairs[pair] for pair in kept], axis=0)
                moved = np.mean([influences[pair] for pair in kept], axis=0)
                found[name, without] = _shares(threshold - mean, moved, layers, weights)
    return found


def _shares(
    missing: NDArray[np.float64],
    influences: NDArray[np.float32],
    layers: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> dict[int, NDArray[np.float64]]:
    """Share of neurons moved by more than what they are missing, by layer and over all."""
    sizes, counts = {}, {}
    for layer in np.unique(layers):
        here = np.flatnonzero(layers == layer)
        counts[int(layer)] = (weights @ influences[:, here] > missing[here]).sum(1)
        sizes[int(layer)] = len(here)
    shares = {layer: counts[layer] / sizes[layer] for layer in counts}
    return {ALL_LAYERS: sum(counts.values()) / len(layers), **shares}


def _over_seeds(own: pd.DataFrame, seeds: Sequence[str], shares: Shares) -> dict[str, object]:
    """The row of the mean over seeds from the rows of every seed's layer, or of all layers."""
    layer, references = int(own["layer"].iloc[0]), list(own["seed"])
    row = {
        "seed": "",
        "layer": layer,
        "n_neurons": own["n_neurons"].sum(),
        "n_universal": own["n_universal"].sum(),
        "mean_fraction": own["mean_fraction"].mean(),
        "se": np.nan,
        "quantile": np.nan,
    }
    # A layer may be in one seed only, where models have different depths.
    if not shares or len(seeds) < LEAST_SEEDS or len(references) < 2:
        return row
    mean = np.mean([shares[name, None][layer] for name in references], axis=0)
    without = np.array(
        [
            np.mean([shares[name, left][layer] for name in references if name != left], axis=0)
            for left in seeds
        ]
    )
    between = jackknife_variance(without[:, 0])
    # Tokens also make the seeds differ from each other: that the jackknife has seen already.
    noise = without[:, 1:] - without[:, 1:].mean(1, keepdims=True)
    shared = max(0.0, mean[1:].var(ddof=1) - jackknife_variance(noise).mean())
    # Welch and Satterthwaite: only the part between seeds rests on few numbers.
    freedom = (len(references) - 1) * (1 + shared / between) ** 2 if between > 0 else np.inf
    return row | {
        "se": np.sqrt(between + shared),
        "quantile": scipy.stats.t.ppf(0.975, freedom),
    }


def jackknife_variance(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S − 1) / S Σ_s (θ₍₋s₎ − their mean)², along the first axis."""
    return (len(without) - 1) * without.var(0)


def jackknife_half_width(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half of the 95 % interval over S seeds, with Student's t of S − 1 degrees of freedom.

    Parameters
    ----------
    without
        The value without each seed, in all roles that it has, along the first axis.
    """
    return scipy.stats.t.ppf(0.975, len(without) - 1) * np.sqrt(jackknife_variance(without))
