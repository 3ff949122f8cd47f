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

# Tokens of one dot product: its codes then stay in the cache, and int32 can't overflow.
DOT_TOKENS = 4096


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
    blocks = [(s, rows) for s, x in enumerate(a_stores) for rows in x.row_blocks(DOT_TOKENS)]
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
        self._d_mlp = [stores[0].d_mlp for stores in models]
        # Pairs of two layers after each other: their codes stay in the cache.
        layer_a, layer_b = (
            np.searchsorted(np.cumsum(d), index, side="right")
            for d, index in zip(self._d_mlp, (first, second), strict=True)
        )
        self._order = np.lexsort([second, first, layer_a, layer_b])
        self._pairs = first[self._order], second[self._order]
        dtype = np.int8 if self._whole else np.float32
        rows = tokens if len(first) else 0
        self._by_neuron = [np.empty((sum(d), rows), dtype) for d in self._d_mlp]

    def add(self, models: tuple[Sequence[Codes], Sequence[Codes]]) -> None:
        """Take a block of all layers of both."""
        if not len(self._sums):
            return
        for out, layers in zip(self._by_neuron, models, strict=True):
            start = 0
            for codes in layers:
                width = codes.dense.shape[1]
                _transpose(codes.dense, out[start : start + width])
                start += width
        n = len(models[0][0])
        # Parts short enough for int32, whatever the chunks.
        dots = _dots_int8 if self._whole else _dots_float
        for t in range(0, n, DOT_TOKENS):
            dots(*self._by_neuron, t, min(DOT_TOKENS, n - t), *self._pairs, self._sums)
        if self._whole:
            rests_a, rests_b = (
                RestsByNeuron.of([codes.escapes for codes in layers], d, self._sums.dtype)
                for layers, d in zip(models, self._d_mlp, strict=True)
            )
            a, b = self._by_neuron
            add_dots(self._sums, a, b, rests_a, rests_b, *self._pairs)

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


@numba.njit(parallel=True, cache=True)
def _transpose(codes, out):  # pragma: no cover - compiled
    n, d = codes.shape
    for block in numba.prange((d + 63) // 64):
        for r0 in range(0, n, 64):
            for j in range(block * 64, min(d, block * 64 + 64)):
                for r in range(r0, min(n, r0 + 64)):
                    out[j, r] = codes[r, j]


@numba.njit(parallel=True, cache=True)
def _dots_int8(a, b, start, n, first, second, sums):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        x, y = a[first[p], start : start + n], b[second[p], start : start + n]
        total = np.int32(0)
        for t in range(n):
            total += np.int32(x[t]) * np.int32(y[t])
        sums[p] += total


@numba.njit(parallel=True, cache=True)
def _dots_float(a, b, start, n, first, second, sums):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        x, y = a[first[p], start : start + n], b[second[p], start : start + n]
        total = 0.0
        for t in range(n):
            total += np.float64(x[t]) * np.float64(y[t])
        sums[p] += total
