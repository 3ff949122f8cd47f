"""Standard errors from one pass over the best matches: what every group of documents contributed.

Tokens of a document are correlated, so whole documents are dealt into groups, and the groups are
resampled. The influence function of a correlation makes that cheap: with group g weighted w_g the
correlation becomes ρ + Σ_g (w_g − 1) I_g to first order, so jackknife and bootstrap need the I_g
only, and no pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.matches import Matches, StepMatches
from universal_neurons.correlate.neurons import Captured, Neurons
from universal_neurons.jobs import progress
from universal_neurons.prepare.reading import Documents
from universal_neurons.store.arrays import write_by_pair
from universal_neurons.store.same_run import check_same_run

# Groups that the documents are dealt into.
GROUPS = 64
# Tokens read at a time, and more of small models: a read decodes whole chunks.
BLOCK_TOKENS = 2048
BLOCK_VALUES = 1 << 23


def deal(cluster: NDArray[np.int64], n_groups: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal whole clusters into groups at random.

    Parameters
    ----------
    cluster
        Number of every token's cluster, shape (tokens,), see `prepare.clusters`.
    n_groups
        Number of groups; fewer are used where there are fewer clusters.
    seed
        Of the dealing.

    Returns
    -------
    NDArray
        Group of every token, int64, shape (tokens,).
    """
    known, place = np.unique(cluster, return_inverse=True)
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
    documents: Documents,
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Influence of every group of documents on the correlations of all pairs' best matches.

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
        By (seed, other seed), see `matches.StepMatches`.
    documents
        Of the corpus.

    Returns
    -------
    dict
        By (seed, other seed), shape (groups, N), centred over the groups; 0 for dead neurons.
    """
    first = next(iter(stores.values()))
    tokens = [store.token_index() for store in first]
    group = deal(documents.of_tokens(np.concatenate(tokens)), GROUPS)
    sizes = np.bincount(group)
    sums = {key: np.zeros((len(found.best), len(sizes), 5)) for key, found in matches.items()}
    widest = max(len(own.std) for own in neurons.values())
    block = min(max(BLOCK_TOKENS, BLOCK_VALUES // widest), max(map(len, tokens)))
    codes = {seed: np.empty((len(own.std), block), np.float32) for seed, own in neurons.items()}
    blocks = [
        (shard, slice(i, min(i + block, len(index))))
        for shard, index in enumerate(tokens)
        for i in range(0, len(index), block)
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


def influence_of_step(
    models: Mapping[str, Captured],
    matches: Sequence[str | Path],
    clusters: str | Path,
    about: str | Path,
    *,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the influences of one step: by (seed, other seed), see `influence`.

    Parameters
    ----------
    models
        By seed, with the activations to measure on.
    matches
        Stores of all pairs, see `matches.StepMatches.read`.
    clusters
        File with the cluster of every sequence of the corpus.
    about
        What is known of the corpus (``corpus.json``).
    path
        Store to make, see `store.write_by_pair`.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run, or of another corpus.
    """
    same = check_same_run([*matches, *(path for own in models.values() for path in own.paths())])
    documents = Documents.read(clusters, about)
    documents.check(same["corpus_sha256"], matches[0])
    found = influence(
        {seed: list(map(Activations, own.activations)) for seed, own in models.items()},
        {seed: Neurons.read(own.moments, own.calibration) for seed, own in models.items()},
        StepMatches.read(matches).found,
        documents,
    )
    write_by_pair(path, found, {**attributes, **same})
