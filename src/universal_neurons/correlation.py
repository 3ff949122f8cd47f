"""Best matches between two models' neurons, and their rotated baseline, from added sums.

Partial sums of products of codes are made per shard (`products`); they add up exactly. Everything
else, the correlations, the best matches and the baseline, comes from the added sums without a
second pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons import moments
from universal_neurons.calibration import read_calibration
from universal_neurons.jobs import progress
from universal_neurons.products import tile_name
from universal_neurons.rotations import Rotations, rotation_name
from universal_neurons.store import Added, read_arrays, write_arrays

if TYPE_CHECKING:
    from universal_neurons.budget import Budget

# Best matches kept per neuron and direction, for a one-to-one assignment (`notions`).
CANDIDATES = 8


class Neurons:
    """One model's neurons in a correlation: statistics over the scored tokens of all shards.

    Parameters
    ----------
    d_mlp
        Number of neurons of every layer.
    sums
        Merged moments, as `moments.merge` returns them.
    scale
        Activation units per code, shape (N,).

    Attributes
    ----------
    d_mlp
        Number of neurons of every layer.
    layers
        Slice of every layer among the model's N neurons.
    n_tokens
        Number of scored tokens.
    code_sum, scale, std
        Summed codes, activation units per code, and standard deviation (0 for a dead neuron) of
        every neuron, float64, shape (N,).
    factor
        What standardises codes: scale / std, and 0 for a dead neuron, so that its correlations are
        0. Shape (N,).
    """

    def __init__(
        self, d_mlp: Sequence[int], sums: moments.Sums, scale: NDArray[np.float32]
    ) -> None:
        self.d_mlp = list(d_mlp)
        edges = np.cumsum([0, *d_mlp])
        self.layers = [slice(int(i), int(j)) for i, j in pairwise(edges)]
        self.n_tokens = int(sums["n_tokens"][0])
        self.code_sum = sums["code_sum"].astype(np.float64)
        self.scale = scale.astype(np.float64)
        self.std = moments.std(sums)
        self.factor = np.divide(
            self.scale, self.std, out=np.zeros_like(self.std), where=self.std > 0
        )

    @classmethod
    def read(cls, sums: Sequence[str | Path], calibration: str | Path) -> Neurons:
        """Read the statistics of one (seed, step) from the stores of all its shards."""
        return cls.read_parts(sums, calibration, [])[0]

    @classmethod
    def read_parts(
        cls,
        sums: Sequence[str | Path],
        calibration: str | Path,
        ranges: Sequence[tuple[int, int]],
    ) -> list[Neurons]:
        """Read those of all shards and of each of some ranges (first shard, end) of them."""
        layers = read_calibration(calibration)
        d_mlp = [len(layer.centre) for layer in layers]
        scale = np.concatenate([layer.ranges.scale for layer in layers])
        shards = list(map(read_arrays, sums))
        cuts = [(0, len(shards)), *ranges]
        return [cls(d_mlp, moments.merge(shards[i:j]), scale) for i, j in cuts]


def standardised(
    products: NDArray,
    a: Neurons,
    a_slice: slice | NDArray[np.int64],
    b: Neurons,
    b_slice: slice | NDArray[np.int64],
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Correlations from sums of products of codes and sums of codes; 0 for a dead neuron."""
    out = np.empty(products.shape) if out is None else out
    np.outer(a.code_sum[a_slice], b.code_sum[b_slice] / -a.n_tokens, out=out)
    out += products
    out *= (a.factor[a_slice] / a.n_tokens)[:, None]
    out *= b.factor[b_slice]
    return out


@dataclass
class Matches:
    """Best matches of some neurons among (part of) another model's.

    Attributes
    ----------
    candidates
        The neurons (of all the other model's, counted through its layers) with the largest
        correlations, int64, shape (n, `CANDIDATES`), best first, of equal ones the first; −1 where
        fewer are known.
    candidate_corr
        Their correlations, float64, shape (n, `CANDIDATES`).
    lowest
        Smallest correlation found, float64, shape (n,).
    baseline
        Largest correlation with rotated neurons per draw, float64, shape (draws, n).
    certified
        Whether the best match rests on a certificate (`screening`) instead of a comparison with all
        neurons, bool, shape (n,).
    """

    candidates: NDArray[np.int64]
    candidate_corr: NDArray[np.float64]
    lowest: NDArray[np.float64]
    baseline: NDArray[np.float64]
    certified: NDArray[np.bool_]

    @classmethod
    def nothing(cls, n: int, draws: int) -> Matches:
        """The neutral element of `update`."""
        return cls(
            np.full((n, CANDIDATES), -1, np.int64),
            np.full((n, CANDIDATES), -np.inf),
            np.full(n, np.inf),
            np.full((draws, n), -np.inf),
            np.zeros(n, bool),
        )

    @property
    def best(self) -> NDArray[np.float64]:
        """Largest correlation found, float64, shape (n,)."""
        return self.candidate_corr[:, 0]

    @property
    def index(self) -> NDArray[np.int64]:
        """Whose it is, int64, shape (n,)."""
        return self.candidates[:, 0]

    def take(
        self, corr: NDArray[np.float64], rows: NDArray[np.int64], others: NDArray[np.int64]
    ) -> None:
        """Take in correlations of the neurons `rows` with the neurons `others` of the other model.

        Parameters
        ----------
        corr
            float64, shape (rows, others), in C or Fortran order.
        rows, others
            Numbers of neurons, each at most once; a pair may be taken in repeatedly.
        """
        _take(corr, rows, others, self.candidates, self.candidate_corr, self.lowest)

    def take_pairs(
        self, rows: NDArray[np.int64], others: NDArray[np.int64], corr: NDArray[np.float64]
    ) -> None:
        """Take in correlations of single pairs of neurons, three arrays of the same length."""
        _take_pairs(rows, others, corr, self.candidates, self.candidate_corr, self.lowest)

    def update(self, other: Matches, rows: slice = slice(None)) -> None:
        """Take in matches of the neurons `rows` among further neurons of the other model."""
        better = other.best > self.best[rows]
        self.certified[rows] = np.where(better, other.certified, self.certified[rows])
        here = np.arange(len(self.lowest))[rows]
        known = other.candidates >= 0
        self.take_pairs(
            np.broadcast_to(here[:, None], known.shape)[known],
            other.candidates[known],
            other.candidate_corr[known],
        )
        # A dead neuron has no candidate and the correlation 0.
        best, none = self.candidate_corr[rows], (self.candidates[rows] < 0) & ~known
        np.maximum(best, other.candidate_corr, out=best, where=none)
        self.lowest[rows] = np.minimum(self.lowest[rows], other.lowest)
        self.baseline[:, rows] = np.maximum(self.baseline[:, rows], other.baseline)

    def clear(self, dead: NDArray[np.bool_]) -> None:
        """Leave neurons without a match: correlation 0, number −1."""
        self.candidates[dead] = -1
        self.candidate_corr[dead] = self.lowest[dead] = 0


@numba.njit(cache=True)
def _insert(x, other, row, candidates, best):  # pragma: no cover - compiled
    """Put a correlation in its place among a neuron's best; equal ones stand by number."""
    k = best.shape[1]
    for place in range(k):
        if candidates[row, place] == other:
            return
    place = k - 1
    if x == best[row, place] and other > candidates[row, place] >= 0:
        return
    while place > 0 and (
        best[row, place - 1] < x
        or (best[row, place - 1] == x and candidates[row, place - 1] > other)
    ):
        best[row, place] = best[row, place - 1]
        candidates[row, place] = candidates[row, place - 1]
        place -= 1
    best[row, place] = x
    candidates[row, place] = other


@numba.njit(parallel=True, cache=True)
def _take(corr, rows, others, candidates, best, lowest):  # pragma: no cover - compiled
    # Blocks of rows: near in memory in either order of the array.
    last = best.shape[1] - 1
    for block in numba.prange((len(rows) + 63) // 64):
        stop = min(len(rows), block * 64 + 64)
        for j in range(len(others)):
            for i in range(block * 64, stop):
                x, row = corr[i, j], rows[i]
                if x >= best[row, last]:
                    _insert(x, others[j], row, candidates, best)
                lowest[row] = min(lowest[row], x)


@numba.njit(cache=True)
def _take_pairs(rows, others, corr, candidates, best, lowest):  # pragma: no cover - compiled
    last = best.shape[1] - 1
    for i in range(len(rows)):
        row = rows[i]
        if corr[i] >= best[row, last]:
            _insert(corr[i], others[i], row, candidates, best)
        lowest[row] = min(lowest[row], corr[i])


def mean_over_others(by_pair: Mapping[tuple[str, str], NDArray]) -> dict[str, NDArray]:
    """Mean over the other seeds, by seed in order, of arrays by (seed, other seed)."""
    return {
        seed: np.mean([found for key, found in by_pair.items() if key[0] == seed], axis=0)
        for seed in sorted({seed for seed, _ in by_pair})
    }


class Baseline:
    """Rotations of one model's layers, ready to be multiplied with correlations.

    Parameters
    ----------
    neurons
        The model.
    rotations
        Its rotations; see `rotations.write_rotations`.
    spread
        Standard deviations of its rotated neurons, float32, shape (draws, N), from
        `rotations.rotated_std`.
    """

    def __init__(self, neurons: Neurons, rotations: Rotations, spread: NDArray) -> None:
        self._neurons, self._rotations = neurons, rotations
        self.draws = len(spread)
        self._inverse = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)

    @classmethod
    def read(cls, neurons: Neurons, rotations: str | Path, spread: str | Path) -> Baseline:
        """Read what the module `rotations` stored for the run and for this model."""
        return cls(neurons, Added([rotations]), read_arrays(spread)["std"])

    def matrices(self, layer: int) -> list[NDArray[np.float32]]:
        """Per draw M with corr(x, rotated neuron j) = Σ_k corr(x, neuron k) M_jk.

        M_jk = R_jk σ_k / √((R S Rᵀ)_jj), shape (d_mlp, d_mlp).
        """
        own = self._neurons.layers[layer]
        d_mlp = own.stop - own.start
        found = []
        for draw in range(self.draws):
            matrix = np.asarray(self._rotations[rotation_name(d_mlp, layer, draw)])
            matrix *= self._inverse[draw, own, None]
            matrix *= self._neurons.std[own].astype(np.float32)
            found.append(matrix)
        return found


def match(
    products: Mapping[str, NDArray],
    a: Neurons,
    b: Neurons,
    layers: Sequence[int],
    *,
    baseline_a: Baseline,
    baseline_b: Baseline,
    budget: Budget | None = None,
) -> tuple[Matches, Matches]:
    """Best matches between some layers of one model and all layers of another, both ways.

    The baseline of neuron i of one model rotates the neurons of the other within each layer:
    corr(i, (R m)_j) = (C Rᵀ)_ij / (σ_i √((R S Rᵀ)_jj)), with C the cross-covariance and S the
    other model's covariance within the layer (2401.12181, section 3, made with a random
    orthogonal R).

    Parameters
    ----------
    products
        Summed products of codes by `tile_name`.
    a, b
        The two models.
    layers
        Layers of `a`.
    baseline_a, baseline_b
        Their rotations.
    budget
        Reads the products and scores a sample of the neurons on fewer tokens meanwhile.

    Returns
    -------
    forward
        Of the neurons of those layers of `a`, in order, among all neurons of `b`.
    backward
        Of all neurons of `b` among those of the given layers of `a` only: `Matches.update` joins
        the results of all layers.
    """
    starts = np.cumsum([0, *(a.d_mlp[i] for i in layers)])
    forward = Matches.nothing(int(starts[-1]), baseline_b.draws)
    backward = Matches.nothing(len(b.std), baseline_a.draws)
    rotated_a = [baseline_a.matrices(i) for i in layers]
    # Fresh memory for every tile would cost more than what is done with it.
    widest = max(a.d_mlp), max(b.d_mlp)
    double, single, product = (np.empty(widest, t) for t in (np.float64, np.float32, np.float32))
    for j, b_slice in enumerate(progress(b.layers, "layers of the other seed")):
        rotated_b = baseline_b.matrices(j)
        for place, i in enumerate(layers):
            a_slice = a.layers[i]
            shape = a.d_mlp[i], b.d_mlp[j]
            total = (
                budget.total(i, j, rotated_a[place][0], rotated_b[0])
                if budget
                else products[tile_name(i, j)]
            )
            corr = standardised(total, a, a_slice, b, b_slice, part(double, shape))
            tile = part(single, shape)
            tile[...] = corr
            room = part(product, shape)
            rows = slice(int(starts[place]), int(starts[place + 1]))
            ahead, back = rotated_best(tile, rotated_a[place], rotated_b, room)
            mine, theirs = np.arange(a_slice.start, a_slice.stop), np.arange(len(b.std))[b_slice]
            forward.take(corr, mine - a_slice.start + rows.start, theirs)
            backward.take(corr.T, theirs, mine)
            for found, where, of_tile in ((forward, rows, ahead), (backward, b_slice, back)):
                np.maximum(found.baseline[:, where], of_tile, out=found.baseline[:, where])
    for found, neurons, own in ((forward, a, layers), (backward, b, range(len(b.d_mlp)))):
        found.clear(np.concatenate([neurons.std[neurons.layers[i]] for i in own]) == 0)
    return forward, backward


def part(buffer: NDArray, shape: tuple[int, int]) -> NDArray:
    """A contiguous array of that shape in a buffer's memory."""
    return buffer.reshape(-1)[: shape[0] * shape[1]].reshape(shape)


def rotated_best(
    corr: NDArray[np.float32],
    rotated_a: Sequence[NDArray[np.float32]],
    rotated_b: Sequence[NDArray[np.float32]],
    room: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest correlations of a tile's neurons with rotated ones, per draw.

    Parameters
    ----------
    corr
        Correlations of two layers, shape (d_a, d_b).
    rotated_a, rotated_b
        Their rotations, see `Baseline.matrices`.
    room
        Where the products go, shape (d_a, d_b).

    Returns
    -------
    forward, backward
        Of the rows with rotated columns, shape (draws, d_a), and the reverse, (draws, d_b).
    """
    forward = [np.matmul(corr, matrix.T, out=room).max(1) for matrix in rotated_b]
    backward = [np.matmul(matrix, corr, out=room).max(0) for matrix in rotated_a]
    return np.asarray(forward, np.float64), np.asarray(backward, np.float64)


def write_matches(
    path: str | Path,
    forward: Matches,
    backward: Matches,
    *,
    seed: str,
    other_seed: str,
    layers: Sequence[int],
    d_mlp: Sequence[int],
    other_d_mlp: Sequence[int],
    attributes: Mapping[str, Any],
    budget: Budget | None = None,
) -> None:
    """Store what `match` found for some layers of a pair; `universality.matches_table` reads it."""
    arrays = {
        f"{way}_{name}": values
        for way, matches in (("forward", forward), ("backward", backward))
        for name, values in vars(matches).items()
    }
    names = {
        "seed": seed,
        "other_seed": other_seed,
        "layers": list(layers),
        "d_mlp": list(d_mlp),
        "other_d_mlp": list(other_d_mlp),
    }
    if budget:
        arrays |= budget.arrays()
        names |= budget.attributes()
    write_arrays(path, arrays.items(), {**attributes, **names})
