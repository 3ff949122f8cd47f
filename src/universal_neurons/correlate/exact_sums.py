"""Exact sums of products of some pairs of neurons and of whole rows: one reading of two models.

Reading all codes of two models takes as long as the products that the screened mode makes of them,
so all that is wanted is added up while they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.activations.kernels import add_products, choose_kernel, zeros
from universal_neurons.activations.products import ahead
from universal_neurons.activations.reader import Activations
from universal_neurons.activations.rests import RestsByNeuron, add_dots
from universal_neurons.jobs import progress

# Tokens that are read at a time, of all layers of both models.
BLOCK_TOKENS = 4096

# Tokens of one dot product, of int8 codes and of others: few enough for codes of all layers to stay
# in the cache, and for int32 not to overflow.
DOT_TOKENS = {"int8": 256, "float32": 4096}


@dataclass(frozen=True)
class Wanted:
    """What to add up of two models.

    Attributes
    ----------
    rows
        Neurons of the first model to multiply with all of the second, and the reverse; int64,
        ascending, counted through the layers.
    first, second
        Pairs: neurons of the first and of the second model, int64, shape (pairs,).
    """

    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def exact_sums(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    wanted: Wanted,
    kernel: str = "auto",
) -> tuple[tuple[NDArray, NDArray], NDArray]:
    """Sums of products of codes over all tokens.

    Parameters
    ----------
    a_stores, b_stores
        The two models' shards.
    wanted
        What of.
    kernel
        See `kernels.choose_kernel`.

    Returns
    -------
    rows
        Of either model's rows, shapes (rows, N_b) and (rows, N_a); int64 (exact) or float64.
    pairs
        Of the pairs, shape (pairs,); the same.
    """
    models = a_stores, b_stores
    sizes = [sum(stores[0].d_mlp) for stores in models]
    operations = 2.0 * sum(store.n_tokens for store in a_stores)
    operations *= sum(len(rows) * n for rows, n in zip(wanted.rows, sizes[::-1], strict=True))
    kernel = choose_kernel(kernel, operations)
    blocks = [(s, rows) for s, x in enumerate(a_stores) for rows in x.row_blocks(BLOCK_TOKENS)]
    tokens = max(rows.stop - rows.start for _, rows in blocks)
    rows = [
        _Rows(chosen, own, other, kernel)
        for chosen, own, other in zip(wanted.rows, models, models[::-1], strict=True)
    ]
    pairs = _Pairs(models, wanted.first, wanted.second, tokens)
    read = _Blocks(models, tokens)
    loads = [partial(read, number, *block) for number, block in enumerate(blocks)]
    for one, other in progress(ahead(loads), "blocks of both models", total=len(loads)):
        rows[0].add(one, other)
        rows[1].add(other, one)
        pairs.add((one, other))
    return (rows[0].found(), rows[1].found()), pairs.found()


class _Blocks:
    """Read all layers of two models, in buffers that are used in turn."""

    def __init__(self, models: tuple[Sequence[Activations], ...], tokens: int) -> None:
        self._models = models
        self._buffers = [
            [[np.empty((tokens, d), np.int8) for d in stores[0].d_mlp] for stores in models]
            for _ in range(2)
        ]

    def __call__(self, number: int, shard: int, rows: slice) -> list[list[Codes]]:
        """Block so many, valid until the next but one is read."""
        return [
            [stores[shard].codes(i, rows, buffer) for i, buffer in enumerate(buffers)]
            for stores, buffers in zip(self._models, self._buffers[number % 2], strict=True)
        ]


class _Rows:
    """Sums of some neurons of one model with all of another."""

    def __init__(
        self,
        chosen: NDArray[np.int64],
        own: Sequence[Activations],
        other: Sequence[Activations],
        kernel: str,
    ) -> None:
        edges = np.cumsum([0, *own[0].d_mlp])
        self._of_layer = [chosen[(chosen >= i) & (chosen < j)] - i for i, j in pairwise(edges)]
        self._sums = [zeros(len(chosen), d, own[0].encoding) for d in other[0].d_mlp]
        self._kernel, self._some = kernel, bool(len(chosen))

    def add(self, own: Sequence[Codes], other: Sequence[Codes]) -> None:
        """Take a block of all layers of both."""
        if not self._some:
            return
        mine = Codes.side_by_side(
            [codes.take_neurons(some) for codes, some in zip(own, self._of_layer, strict=True)]
        )
        for j, theirs in enumerate(other):
            self._sums[j] = add_products(self._sums[j], mine, theirs, self._kernel)

    def found(self) -> NDArray:
        return np.hstack(self._sums)


@dataclass(frozen=True)
class _OfLayers:
    """The pairs of two layers: which of all they are, and the neurons by their numbers there."""

    layers: tuple[int, int]
    own: slice
    neurons: tuple[NDArray[np.int64], NDArray[np.int64]]


class _Pairs:
    """Sums of pairs of neurons."""

    def __init__(
        self,
        models: tuple[Sequence[Activations], Sequence[Activations]],
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        tokens: int,
    ) -> None:
        self._whole = models[0][0].encoding == "int8"
        fits = self._whole and _norm(models[0]) * _norm(models[1]) < 2.0**62
        self._sums = np.zeros(len(first), np.int64 if fits else np.float64)
        d_mlp = [stores[0].d_mlp for stores in models]
        edges = [np.cumsum([0, *d]) for d in d_mlp]
        # Pairs of two layers after each other: their codes stay in the cache.
        layer_a, layer_b = (
            np.searchsorted(own, index, side="right") - 1
            for own, index in zip(edges, (first, second), strict=True)
        )
        self._order = np.lexsort([second, first, layer_a, layer_b])
        self._pairs = first[self._order], second[self._order]
        both = np.stack([layer_a, layer_b])[:, self._order]
        starts = np.flatnonzero(np.diff(both, prepend=-1).any(0))
        self._of_layers = []
        for start, stop in pairwise([*starts, len(first)]):
            (i, j), own = both[:, start], slice(start, stop)
            neurons = self._pairs[0][own] - edges[0][i], self._pairs[1][own] - edges[1][j]
            self._of_layers.append(_OfLayers((i, j), own, neurons))
        dtype = np.int8 if self._whole else np.float32
        part = min(DOT_TOKENS["int8" if self._whole else "float32"], -(-tokens // 8) * 8)
        # A neuron's tokens side by side.
        self._by_neuron = [np.empty((sum(d), part if len(first) else 0), dtype) for d in d_mlp]

    def add(self, models: tuple[Sequence[Codes], Sequence[Codes]]) -> None:
        """Take a block of all layers of both."""
        if not len(self._sums):
            return
        dots = _dots_int8 if self._whole else _dots_float
        part = self._by_neuron[0].shape[1]
        for start in range(0, len(models[0][0]), part):
            for out, layers in zip(self._by_neuron, models, strict=True):
                _turn([codes.dense[start : start + part] for codes in layers], out)
            dots(*self._by_neuron, *self._pairs, self._sums)
        if self._whole:
            self._add_rests(*models)

    def _add_rests(self, a: Sequence[Codes], b: Sequence[Codes]) -> None:
        """Add what the dense codes lack."""
        rests_a, rests_b = (
            [RestsByNeuron.of(x.escapes, x.dense.shape[1], self._sums.dtype) for x in layers]
            for layers in (a, b)
        )
        for pairs in self._of_layers:
            i, j = pairs.layers
            dense, rests = (a[i].dense, b[j].dense), (rests_a[i], rests_b[j])
            add_dots(self._sums[pairs.own], dense, rests, pairs.neurons)

    def found(self) -> NDArray:
        sums = np.empty_like(self._sums)
        sums[self._order] = self._sums
        return sums


def _norm(stores: Sequence[Activations]) -> float:
    """Root of the summed squares of a neuron's codes over all tokens, at most."""
    escaped = [
        np.sqrt(sum(np.square(store.escapes(layer).rest).sum() for store in stores))
        for layer in range(len(stores[0].d_mlp))
    ]
    return LIMIT * np.sqrt(sum(store.n_tokens for store in stores)) + max(escaped)


def _turn(layers: Sequence[NDArray], out: NDArray) -> None:
    """Put a neuron's tokens side by side, and zeros after them.

    Parameters
    ----------
    layers
        Codes of some tokens, shape (tokens, d_mlp) each.
    out
        Shape (neurons of all layers, as many tokens or more).
    """
    first, n = 0, len(layers[0])
    for codes in layers:
        last = first + codes.shape[1]
        if codes.dtype == np.int8 and codes.shape[1] % 8 == 0:
            _transpose_eights(codes.view(np.uint64), out[first:last].view(np.uint64))
        else:
            _transpose(codes, out[first:last])
        first = last
    out[:, n:] = 0


@numba.njit(parallel=True, cache=True)
def _transpose(codes, out):  # pragma: no cover - compiled
    n, d = codes.shape
    for block in numba.prange((d + 63) // 64):
        for r0 in range(0, n, 64):
            for j in range(block * 64, min(d, block * 64 + 64)):
                for r in range(r0, min(n, r0 + 64)):
                    out[j, r] = codes[r, j]


@numba.njit(parallel=True, cache=True)
def _transpose_eights(codes, out):  # pragma: no cover - compiled
    """The same of bytes, eight of which are in a number: shapes (n, d / 8) and (d, n / 8).

    Blocks of eight rows and columns are turned in three steps that exchange halves, eight of them
    at once. What lies beyond the last row is that row again.
    """
    n, d = codes.shape
    bands = (n + 63) // 64
    for task in numba.prange(bands * ((d + 127) // 128)):
        start, left = task % bands * 64, task // bands * 128
        x = np.zeros((8, 64), np.uint64)
        for r in range(start, min(n, start + 64), 8):
            for first in range(left, min(d, left + 128), 64):
                width = min(64, d - first)
                for k in range(8):
                    row = codes[min(r + k, n - 1)]
                    for j in range(width):
                        x[k, j] = row[first + j]
                _exchange(x, 4, np.uint64(0x00000000FFFFFFFF))
                _exchange(x, 2, np.uint64(0x0000FFFF0000FFFF))
                _exchange(x, 1, np.uint64(0x00FF00FF00FF00FF))
                for j in range(width):
                    for k in range(8):
                        out[(first + j) * 8 + k, r // 8] = x[k, j]


@numba.njit(inline="always")
def _exchange(x, step, low):  # pragma: no cover - compiled
    """Exchange high halves of rows with the low halves of those `step` further on."""
    shift = np.uint64(8 * step)
    for i in range(0, 8, 2 * step):
        for k in range(i, i + step):
            for j in range(64):
                one, other = x[k, j], x[k + step, j]
                x[k, j] = (one & low) | ((other & low) << shift)
                x[k + step, j] = ((one >> shift) & low) | (other & ~low)


@numba.njit(parallel=True, cache=True)
def _dots_int8(a, b, first, second, sums):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        x, y = a[first[p]], b[second[p]]
        total = np.int32(0)
        for t in range(len(x)):
            total += np.int32(x[t]) * np.int32(y[t])
        sums[p] += total


@numba.njit(parallel=True, cache=True)
def _dots_float(a, b, first, second, sums):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        x, y = a[first[p]], b[second[p]]
        total = 0.0
        for t in range(len(x)):
            total += np.float64(x[t]) * np.float64(y[t])
        sums[p] += total
