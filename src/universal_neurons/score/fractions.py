"""Standard errors and intervals from influences: of neurons' scores, and of universal fractions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from universal_neurons.store.columns.declare import ALL_LAYERS

# Bootstrap draws of a fraction.
DRAWS = 1000


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
    influences: Mapping[str, NDArray[np.float32]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Universal fraction with 95 % intervals, per seed and over seeds, per layer and overall.

    Of one seed: groups of sequences are resampled (bootstrap), the excess of every neuron follows
    from its influences, and se is the spread of the fraction above the thresholds. Over S seeds:
    tokens and seeds vary together, as in the multi-bootstrap of 2106.16163, but by formula instead
    of drawing seeds, which with few seeds makes intervals too narrow: se² = variance between
    seeds / S + mean bootstrap covariance of two seeds (what the tokens that all share add), with
    the quantile of Student's t by Welch and Satterthwaite.

    Parameters
    ----------
    universality
        Of one step, rows of every seed in the order of its neurons, with ``step, seed, layer,
        excess_corr, threshold, universal``.
    influences
        By seed, on the mean over the other seeds, shape (groups, N); none where activations were
        not stored.
    draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        `columns.score.FRACTIONS`.
    """
    rng = np.random.default_rng(seed)
    n_groups = len(next(iter(influences.values()))) if influences else 1
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), draws) - 1.0
    rows = []
    resampled: dict[tuple[str, int], NDArray] = {}
    for name, own in universality.groupby("seed", observed=True):
        layers = own["layer"].to_numpy()
        excess, threshold = own["excess_corr"].to_numpy(), own["threshold"].to_numpy()
        for layer in (ALL_LAYERS, *np.unique(layers)):
            here = np.flatnonzero((layers == layer) | (layer == ALL_LAYERS))
            found = own["universal"].to_numpy()[here]
            if n_groups > 1:
                resampled[str(name), layer] = np.array(
                    [
                        np.mean(excess[here] + w @ influences[str(name)][:, here] > threshold[here])
                        for w in weights
                    ]
                )
            rows.append((str(name), int(layer), len(here), int(found.sum())))
    table = pd.DataFrame(rows, columns=["seed", "layer", "n_neurons", "n_universal"])
    table["mean_fraction"] = table["n_universal"] / table["n_neurons"]
    table["se"] = [
        resampled[key].std(ddof=1) if n_groups > 1 else np.nan
        for key in zip(table["seed"], table["layer"], strict=True)
    ]
    table["quantile"] = scipy.stats.norm.ppf(0.975)
    pooled = [_over_seeds(own, resampled) for _, own in table.groupby("layer")]
    table = pd.concat([pd.DataFrame(pooled), table], ignore_index=True)
    half = table.pop("quantile") * table["se"]
    table["low"] = (table["mean_fraction"] - half).clip(0, 1)
    table["high"] = (table["mean_fraction"] + half).clip(0, 1)
    table["fraction"] = table["n_universal"] / table["n_neurons"]
    table.insert(0, "step", universality["step"].iloc[0])
    return table


def _over_seeds(
    own: pd.DataFrame, resampled: Mapping[tuple[str, int], NDArray[np.float64]]
) -> dict[str, object]:
    """The row of the mean over seeds from the rows of every seed's layer, or of all layers.

    `resampled` are the fractions of bootstrap draws by (seed, layer), if there are any.
    """
    layer, n_seeds = int(own["layer"].iloc[0]), len(own)
    between = own["mean_fraction"].var(ddof=1) / n_seeds
    shared = np.nan
    # A layer may be in one seed only, where models have different depths.
    if resampled and n_seeds > 1:
        together = np.cov([resampled[name, layer] for name in own["seed"]])
        shared = max(0.0, together[~np.eye(n_seeds, dtype=bool)].mean())
    # Welch and Satterthwaite: only the part between seeds rests on few numbers.
    freedom = (n_seeds - 1) * (1 + shared / between) ** 2 if between > 0 else np.inf
    return {
        "seed": "",
        "layer": layer,
        "n_neurons": own["n_neurons"].sum(),
        "n_universal": own["n_universal"].sum(),
        "mean_fraction": own["mean_fraction"].mean(),
        "se": np.sqrt(between + shared),
        "quantile": scipy.stats.t.ppf(0.975, freedom),
    }
