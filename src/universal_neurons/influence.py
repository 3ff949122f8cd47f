"""Standard errors from one pass over the best matches: what every group of sequences contributed.

Tokens of a sequence are correlated, so whole sequences are dealt into groups, and the groups are
resampled. The influence function of a correlation makes that cheap: with group g weighted w_g the
correlation becomes ρ + Σ_g (w_g − 1) I_g to first order, so jackknife and bootstrap need the I_g
only, and no pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numba
import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from universal_neurons.activations import Activations
from universal_neurons.correlation import Matches, Neurons
from universal_neurons.jobs import progress

# Groups that the sequences are dealt into.
GROUPS = 64
# Tokens read at a time.
BLOCK_TOKENS = 2048
# Bootstrap draws of a fraction.
DRAWS = 1000


def deal(sequence: NDArray[np.int64], n_groups: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal whole sequences into groups at random.

    Parameters
    ----------
    sequence
        Number of every token's sequence, shape (tokens,).
    n_groups
        Number of groups; fewer are used where there are fewer sequences.
    seed
        Of the dealing.

    Returns
    -------
    NDArray
        Group of every token, int64, shape (tokens,).
    """
    known, place = np.unique(sequence, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(known))
    return order[place] % min(n_groups, len(known))


@numba.njit(parallel=True, cache=True, fastmath=True)
def _add_sums(x, y, match, edges, groups, sums):  # pragma: no cover - compiled
    """Add Σxy, Σx, Σy, Σx², Σy² of every i and match[i] to sums[i, g], g the group of a run."""
    for i in numba.prange(len(match)):
        for run in range(len(groups)):
            xy = sx = sy = xx = yy = 0.0
            for t in range(edges[run], edges[run + 1]):
                u, v = np.float64(x[i, t]), np.float64(y[match[i], t])
                xy += u * v
                sx += u
                sy += v
                xx += u * u
                yy += v * v
            total = sums[i, groups[run]]
            total[0] += xy
            total[1] += sx
            total[2] += sy
            total[3] += xx
            total[4] += yy


def influence(
    stores: Mapping[str, Sequence[Activations]],
    neurons: Mapping[str, Neurons],
    matches: Mapping[tuple[str, str], Matches],
    context_length: int,
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Influence of every group of sequences on the correlations of all pairs' best matches.

    I_g = Σ_{t in g} [z_t z'_t − ρ (z_t² + z'_t²) / 2] / n, with z and z' the standardised
    activations of a neuron and its match: the influence function of Pearson's correlation (Devlin,
    Gnanadesikan & Kettenring 1975), which allows for means and variances being estimated. All
    models' activations are read once.

    Parameters
    ----------
    stores
        Activations by seed: all shards, or the first ones. From m of n tokens the influences are
        scaled by √(m / n), so that they give the errors of all n.
    neurons
        Statistics over all tokens, by seed.
    matches
        By (seed, other seed), see `universality.read_matches`.
    context_length
        Tokens per sequence of the corpus.

    Returns
    -------
    dict
        By (seed, other seed), shape (groups, N), centred over the groups; 0 for dead neurons.
    """
    first = next(iter(stores.values()))
    tokens = [store.token_index() for store in first]
    group = deal(np.concatenate(tokens) // context_length, GROUPS)
    sizes = np.bincount(group)
    sums = {key: np.zeros((len(found.best), len(sizes), 5)) for key, found in matches.items()}
    codes = {
        seed: np.empty((len(own.std), min(BLOCK_TOKENS, max(map(len, tokens)))), np.float32)
        for seed, own in neurons.items()
    }
    blocks = [
        (shard, slice(i, min(i + BLOCK_TOKENS, len(index))))
        for shard, index in enumerate(tokens)
        for i in range(0, len(index), BLOCK_TOKENS)
    ]
    starts = np.cumsum([0, *map(len, tokens)])
    for shard, rows in progress(blocks, "blocks of best matches"):
        for seed, own in neurons.items():
            for layer, place in enumerate(own.layers):
                values = stores[seed][shard].codes(layer, rows).whole()
                codes[seed][place, : len(values)] = values.T
        here = group[starts[shard] + rows.start : starts[shard] + rows.stop]
        runs = np.flatnonzero(np.diff(here, prepend=-1))
        edges = np.append(runs, len(here))
        for (seed, other), found in matches.items():
            _add_sums(codes[seed], codes[other], found.index, edges, here[runs], sums[seed, other])
    return {
        (seed, other): _influences(
            sums[seed, other], sizes, neurons[seed], neurons[other], matches[seed, other]
        )
        for seed, other in matches
    }


def _influences(
    sums: NDArray[np.float64],
    sizes: NDArray[np.int64],
    own: Neurons,
    other: Neurons,
    matches: Matches,
) -> NDArray[np.float32]:
    """From sums of codes to influences, shape (groups, N)."""
    xy, sx, sy, xx, yy = np.moveaxis(sums, 2, 0)
    n, m = own.n_tokens, int(sizes.sum())
    mx = (own.code_sum / n)[:, None]
    # A dead neuron has index −1 and factor 0.
    my = (other.code_sum / n)[matches.index, None]
    fx, fy = own.factor[:, None], other.factor[matches.index, None]
    cross = fx * fy * (xy - mx * sy - my * sx + sizes * mx * my)
    square = fx**2 * (xx - 2 * mx * sx + sizes * mx**2)
    other_square = fy**2 * (yy - 2 * my * sy + sizes * my**2)
    found = cross - matches.best[:, None] * (square + other_square) / 2
    found[own.factor == 0] = 0
    found -= found.mean(1, keepdims=True)
    return (found.T / np.sqrt(float(m) * n)).astype(np.float32)


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
    threshold: float,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Universal fraction with 95 % intervals, per seed and over seeds, per layer and overall.

    Of one seed: groups of sequences are resampled (bootstrap), the excess of every neuron follows
    from its influences, and se is the spread of the fraction above the threshold. Over S seeds:
    tokens and seeds vary together, as in the multi-bootstrap of 2106.16163, but by formula instead
    of drawing seeds, which with few seeds makes intervals too narrow: se² = variance between
    seeds / S + mean bootstrap covariance of two seeds (what the tokens that all share add), with
    the quantile of Student's t by Welch and Satterthwaite.

    Parameters
    ----------
    universality
        Of one step, rows of every seed in the order of its neurons, with ``step, seed, layer,
        excess_corr, universal``.
    influences
        By seed, on the mean over the other seeds, shape (groups, N); none where activations were
        not stored.
    threshold
        Of `universal`.
    draws, seed
        Of the bootstrap.

    Returns
    -------
    DataFrame
        One row per (step, seed, layer), layer −1 for all, seed "" for the mean over seeds, with
        ``n_neurons, n_universal, fraction, se, low, high``; the last three NaN without influences.
    """
    rng = np.random.default_rng(seed)
    n_groups = len(next(iter(influences.values()))) if influences else 1
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), draws) - 1.0
    rows = []
    resampled: dict[tuple[str, int], NDArray] = {}
    for name, own in universality.groupby("seed", observed=True):
        layers = own["layer"].to_numpy()
        excess = own["excess_corr"].to_numpy()
        for layer in (-1, *np.unique(layers)):
            here = np.flatnonzero((layers == layer) | (layer < 0))
            found = own["universal"].to_numpy()[here]
            if n_groups > 1:
                resampled[str(name), layer] = np.array(
                    [
                        np.mean(excess[here] + w @ influences[str(name)][:, here] > threshold)
                        for w in weights
                    ]
                )
            rows.append((str(name), int(layer), len(here), int(found.sum()), found.mean()))
    table = pd.DataFrame(rows, columns=["seed", "layer", "n_neurons", "n_universal", "fraction"])
    table["se"] = [
        resampled[key].std(ddof=1) if n_groups > 1 else np.nan
        for key in zip(table["seed"], table["layer"], strict=True)
    ]
    table["quantile"] = scipy.stats.norm.ppf(0.975)
    pooled = []
    for layer in sorted(set(table["layer"])):
        own = table[table["layer"] == layer]
        n_seeds = len(own)
        between = own["fraction"].var(ddof=1) / n_seeds
        shared = np.nan
        # A layer may be in one seed only, where models have different depths.
        if n_groups > 1 and n_seeds > 1:
            together = np.cov([resampled[name, layer] for name in own["seed"]])
            shared = max(0.0, together[~np.eye(n_seeds, dtype=bool)].mean())
        # Welch and Satterthwaite: only the part between seeds rests on few numbers.
        freedom = (n_seeds - 1) * (1 + shared / between) ** 2 if between > 0 else np.inf
        pooled.append(
            {
                "seed": "",
                "layer": layer,
                "n_neurons": own["n_neurons"].sum(),
                "n_universal": own["n_universal"].sum(),
                "fraction": own["fraction"].mean(),
                "se": np.sqrt(between + shared),
                "quantile": scipy.stats.t.ppf(0.975, freedom),
            }
        )
    table = pd.concat([pd.DataFrame(pooled), table], ignore_index=True)
    half = table.pop("quantile") * table["se"]
    table["low"] = (table["fraction"] - half).clip(0, 1)
    table["high"] = (table["fraction"] + half).clip(0, 1)
    table.insert(0, "step", universality["step"].iloc[0])
    return table
