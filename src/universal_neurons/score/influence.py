"""Standard errors from one pass over the best matches: what every group of documents contributed.

Tokens of a document are correlated, so whole documents are dealt into groups, and the groups are
resampled. The influence function of a correlation makes that cheap: with group g weighted w_g the
correlation becomes ρ + Σ_g (w_g − 1) I_g to first order, so jackknife and bootstrap need the I_g
only, and no pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.class_sums import TOKEN
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.matches import Matches, StepMatches
from universal_neurons.correlate.neurons import Captured, Neurons
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.prepare.reading import Corpus, Documents
from universal_neurons.store.arrays import Added, write_by_pair
from universal_neurons.store.files import again
from universal_neurons.store.same_run import check_same_run

Influences = Mapping[tuple[str, str], NDArray[np.float32]]

# Groups that the documents are dealt into.
GROUPS = 64
# Tokens read at a time, and more of small models: a read decodes whole chunks.
BLOCK_TOKENS = 2048
BLOCK_VALUES = 1 << 23


@dataclass(frozen=True)
class Within:
    """Models given the token: neurons less the means of the tokens' classes.

    Attributes
    ----------
    label
        Class of every scored token, counted from 0, int64, shape (tokens,).
    mean
        Mean codes of the classes, by seed, float32, shape (N, V).
    neurons
        With their standard deviations within classes and the mean 0, by seed.
    matches
        Given the token, by (seed, other seed).
    """

    label: NDArray[np.int64]
    mean: Mapping[str, NDArray[np.float32]]
    neurons: Mapping[str, Neurons]
    matches: Mapping[tuple[str, str], Matches]

    @classmethod
    def read(
        cls,
        stores: Mapping[str, str | Path],
        neurons: Mapping[str, Neurons],
        matches: Mapping[tuple[str, str], Matches],
        identity: NDArray[np.integer],
    ) -> Within:
        """Read the stores of `given.write_given`, by seed; `identity` is of all scored tokens.

        Raises
        ------
        UserError
            If one is of other tokens.
        """
        _, label, count = np.unique(identity, return_inverse=True, return_counts=True)
        mean, within = {}, {}
        for seed, path in stores.items():
            stored, own = Added([path]), neurons[seed]
            if not np.array_equal(stored["count"], count):
                raise UserError(f"{path}: sums by token are of other tokens; {again(path)}")
            mean[seed] = np.empty((len(own.std), len(count)), np.float32)
            for layer, place in enumerate(own.layers):
                np.divide(stored[f"sums{layer}"].T, count, out=mean[seed][place], casting="unsafe")
            nothing = np.zeros(len(own.std))
            within[seed] = Neurons(own.d_mlp, own.n_tokens, nothing, own.scale, stored["std"])
        return cls(label, mean, within, matches)


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
def _add_powers(x, edges, groups, sums):  # pragma: no cover - compiled
    """Add Σx and Σx² of every i to sums[i, g], g the group of a run."""
    for i in numba.prange(len(x)):
        for run in range(len(groups)):
            sx = xx = 0.0
            for t in range(edges[run], edges[run + 1]):
                u = np.float64(x[i, t])
                sx += u
                xx += u * u
            total = sums[i, groups[run]]
            total[0] += sx
            total[1] += xx


@numba.njit(parallel=True, cache=True, fastmath=True)
def _add_products(x, y, match, edges, groups, sums):  # pragma: no cover - compiled
    """Add Σxy of every i and match[i] to sums[i, g]."""
    for i in numba.prange(len(match)):
        for run in range(len(groups)):
            xy = 0.0
            for t in range(edges[run], edges[run + 1]):
                xy += np.float64(x[i, t]) * np.float64(y[match[i], t])
            sums[i, groups[run]] += xy


@numba.njit(parallel=True, cache=True)
def _take_out(x, mean, label):  # pragma: no cover - compiled
    """Take the mean of every token's class out of x[i], for the tokens that have a label."""
    for i in numba.prange(len(x)):
        for t in range(len(label)):
            x[i, t] -= mean[i, label[t]]


class _Sums:
    """Sums over groups of documents that the influences on some matches follow from.

    Parameters
    ----------
    neurons
        By seed.
    matches
        By (seed, other seed).
    n_groups
        Number of groups.
    """

    def __init__(
        self,
        neurons: Mapping[str, Neurons],
        matches: Mapping[tuple[str, str], Matches],
        n_groups: int,
    ) -> None:
        self._neurons, self._matches = neurons, matches
        self._powers = {seed: np.zeros((len(x.std), n_groups, 2)) for seed, x in neurons.items()}
        self._products = {key: np.zeros((len(x.best), n_groups)) for key, x in matches.items()}

    def add(
        self,
        values: Mapping[str, NDArray[np.float32]],
        edges: NDArray[np.int64],
        groups: NDArray[np.int64],
    ) -> None:
        """Add a block of tokens, of runs of one group each; values have the shape (N, tokens)."""
        for seed, sums in self._powers.items():
            _add_powers(values[seed], edges, groups, sums)
        for (seed, other), found in self._matches.items():
            pair = values[seed], values[other], found.index
            _add_products(*pair, edges, groups, self._products[seed, other])

    def influences(self, sizes: NDArray[np.int64]) -> dict[tuple[str, str], NDArray[np.float32]]:
        """Of groups of so many tokens, shape (groups, N), by (seed, other seed)."""
        found = {}
        for (seed, other), matches in self._matches.items():
            own, theirs = self._neurons[seed], self._neurons[other]
            # A dead neuron has index −1 and factor 0.
            powers = self._powers[seed], self._powers[other][matches.index]
            sums = self._products[seed, other], *powers
            found[seed, other] = _influences(sums, sizes, own, theirs, matches)
        return found


def influence(
    stores: Mapping[str, Sequence[Activations]],
    neurons: Mapping[str, Neurons],
    matches: Mapping[tuple[str, str], Matches],
    documents: Documents,
    within: Within | None = None,
) -> tuple[Influences, Influences]:
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
    within
        The models given the token, where that is to be measured, too.

    Returns
    -------
    influences, given
        By (seed, other seed), shape (groups, N), centred over the groups; 0 for dead neurons. Of
        the matches over all tokens, and of those given the token, of the neurons less their
        classes' means: these move with the groups' weights as well, which to first order changes
        nothing (their derivative of a sum of squares about them is 0).
    """
    first = next(iter(stores.values()))
    tokens = [store.token_index() for store in first]
    group = deal(documents.of_tokens(np.concatenate(tokens)), GROUPS)
    sizes = np.bincount(group)
    sums = _Sums(neurons, matches, len(sizes))
    left = _Sums(within.neurons, within.matches, len(sizes)) if within else None
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
        sums.add(codes, edges, here[runs])
        if within and left:
            label = within.label[starts[shard] + rows.start : starts[shard] + rows.stop]
            for seed, mean in within.mean.items():
                _take_out(codes[seed], mean, label)
            left.add(codes, edges, here[runs])
    if not within or not left:
        return sums.influences(sizes), {}
    # Of n tokens, n − V are left to vary.
    n, classes = int(sizes.sum()), next(iter(within.mean.values())).shape[1]
    more = np.float32(np.sqrt(n / max(1, n - classes)))
    return sums.influences(sizes), {key: x * more for key, x in left.influences(sizes).items()}


def _influences(
    sums: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    sizes: NDArray[np.int64],
    own: Neurons,
    other: Neurons,
    matches: Matches,
) -> NDArray[np.float32]:
    """From sums of codes, Σxy and either's Σx and Σx², to influences, shape (groups, N)."""
    xy, *powers = sums
    (sx, xx), (sy, yy) = (np.moveaxis(x, 2, 0) for x in powers)
    n, m = own.n_tokens, int(sizes.sum())
    mx = (own.code_sum / n)[:, None]
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
    corpus: Corpus,
    *,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the influences of one step: by (seed, other seed), see `influence`.

    Parameters
    ----------
    models
        By seed, with the activations to measure on; where all have what is known of them given the
        token, influences on the matches given it are measured, too.
    matches
        Stores of all pairs, see `matches.StepMatches.read`.
    corpus
        With its clusters.
    path
        Store to make, see `store.write_by_pair`; those given the token are its ``given``.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run, or of another corpus.
    """
    same = check_same_run([*matches, *(path for own in models.values() for path in own.paths())])
    documents = Documents.read(corpus.clusters, corpus.about)
    documents.check(same["corpus_sha256"], matches[0])
    stores = {seed: list(map(Activations, own.activations)) for seed, own in models.items()}
    neurons = {seed: Neurons.read(own.moments, own.calibration) for seed, own in models.items()}
    found = StepMatches.read(matches)
    within = None
    if TOKEN in found.given and all(own.given for own in models.values()):
        index = np.concatenate([store.token_index() for store in next(iter(stores.values()))])
        label = corpus.of_seed(next(iter(models))).identity.reshape(-1)[index]
        given = {seed: own.given for seed, own in models.items()}
        within = Within.read(given, neurons, found.given[TOKEN], label)
    plain, left = influence(stores, neurons, found.found, documents, within)
    write_by_pair(path, plain, {**attributes, **same}, given=left)
