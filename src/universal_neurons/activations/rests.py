"""Add what escaped from int8 codes to their sums of products, on the CPU (compiled)."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes

# Rows of the sums that a thread works on at a time, so that what it adds to their columns stays in
# the second-level cache; and rows written to side by side, no more than the first level has ways.
_BAND = 16
_LINES = 8


def add_rests(
    total: NDArray, a: Codes, b: Codes, products: NDArray[np.int32] | None = None
) -> None:
    """Add R_aᵀ B + A'ᵀ R_b to `total`, in place.

    B are the whole codes of `b`, A' the dense ones of `a`, R the rests: so that with A'ᵀ B', which
    `kernels.add_products` adds, the sums are those of whole codes. Sums stay integers.

    Parameters
    ----------
    total
        int64 or float64, shape (d_a, d_b), rows contiguous.
    a, b
        int8 codes of the same tokens.
    products
        A'ᵀ B', to be added too, unless it is.
    """
    mine, theirs = a.escapes, b.escapes
    # By neuron, so that a row of the sums, or a column, is added to at once.
    order_a, order_b = (np.argsort(x.neuron, kind="stable") for x in (mine, theirs))
    row = mine.row[order_a]
    edges = np.arange(0, len(total) + _BAND, _BAND)
    columns, starts = np.unique(theirs.neuron[order_b], return_index=True)
    rest_b = theirs.rest.astype(total.dtype)
    _add(
        total,
        np.asarray(a.dense),
        np.asarray(b.dense),
        row,
        mine.neuron[order_a],
        mine.rest[order_a].astype(total.dtype),
        np.searchsorted(mine.neuron[order_a], edges),
        # Where the other model's escapes at the same token are.
        np.searchsorted(theirs.row, row),
        np.searchsorted(theirs.row, row, side="right"),
        theirs.neuron,
        rest_b,
        columns,
        np.append(starts, len(order_b)),
        theirs.row[order_b],
        rest_b[order_b],
        np.empty((0, 0), np.int32) if products is None else products,
        numba.get_num_threads(),
    )


@numba.njit(parallel=True, cache=True)
def _add(
    total,
    a,
    b,
    row_a,
    neuron_a,
    rest_a,
    bands,
    first_b,
    last_b,
    neuron_b,
    rest_b,
    columns,
    starts,
    row_of,
    rest_of,
    products,
    threads,
):  # pragma: no cover - compiled
    """Bands of rows of the sums, each by one thread; `row_of` and `rest_of` are b's by column."""
    n_bands = len(bands) - 1
    for thread in numba.prange(threads):
        # What a band's columns get, a column after the other: written at once it would go to as
        # many cache lines as there are rows, all in the same few places of the cache.
        local = np.empty((len(columns), _BAND), total.dtype)
        for band in range(thread, n_bands, threads):
            start, stop = band * _BAND, min(band * _BAND + _BAND, len(total))
            if len(products):
                for i in range(start, stop):
                    sums, more = total[i], products[i]
                    for j in range(len(sums)):
                        sums[j] += more[j]
            for e in range(bands[band], bands[band + 1]):
                sums, codes, rest = total[neuron_a[e]], b[row_a[e]], rest_a[e]
                for j in range(len(codes)):
                    sums[j] += rest * codes[j]
                for k in range(first_b[e], last_b[e]):
                    sums[neuron_b[k]] += rest * rest_b[k]
            local[:] = 0
            for k in range(len(columns)):
                sums = local[k]
                for e in range(starts[k], starts[k + 1]):
                    codes, rest = a[row_of[e], start:stop], rest_of[e]
                    for i in range(len(codes)):
                        sums[i] += rest * codes[i]
            for first in range(start, stop, _LINES):
                last = min(first + _LINES, stop)
                for k in range(len(columns)):
                    for i in range(first, last):
                        total[i, columns[k]] += local[k, i - start]


@dataclass(frozen=True)
class RestsByNeuron:
    """The rests of a layer's neurons on some tokens.

    Attributes
    ----------
    edges
        Where every neuron's begin, and the end; int64, shape (d_mlp + 1,).
    row
        Which token a rest is of, ascending for every neuron; int64, shape (n,).
    rest
        int64 or float64, shape (n,).
    """

    edges: NDArray[np.int64]
    row: NDArray[np.int64]
    rest: NDArray

    @classmethod
    def of(cls, escapes: Escapes, d_mlp: int, dtype: np.dtype) -> RestsByNeuron:
        """Sort a layer's escapes."""
        order = np.argsort(escapes.neuron, kind="stable")
        edges = np.searchsorted(escapes.neuron[order], np.arange(d_mlp + 1))
        return cls(edges, escapes.row[order], escapes.rest[order].astype(dtype))


def add_dots(
    sums: NDArray,
    dense: tuple[NDArray[np.int8], NDArray[np.int8]],
    rests: tuple[RestsByNeuron, RestsByNeuron],
    neurons: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """Add what the dense codes lack to sums of products of pairs of two layers, in place.

    Parameters
    ----------
    sums
        int64 or float64, shape (pairs,).
    dense
        The layers' dense codes, shape (tokens, d_mlp).
    rests
        Their rests on the same tokens.
    neurons
        The pairs: neurons of either layer, shape (pairs,).
    """
    if not sum(len(x.rest) for x in rests):
        return
    mine, theirs = ((x.edges, x.row, x.rest) for x in rests)
    _add_dots(sums, *dense, *mine, *theirs, *neurons)


@numba.njit(parallel=True, cache=True)
def _add_dots(
    sums, a, b, edges_a, row_a, rest_a, edges_b, row_b, rest_b, first, second
):  # pragma: no cover - compiled
    for p in numba.prange(len(first)):
        i, j = first[p], second[p]
        k, stop = edges_b[j], edges_b[j + 1]
        for e in range(k, stop):
            sums[p] += rest_b[e] * a[row_b[e], i]
        for e in range(edges_a[i], edges_a[i + 1]):
            sums[p] += rest_a[e] * b[row_a[e], j]
            while k < stop and row_b[k] < row_a[e]:
                k += 1
            if k < stop and row_b[k] == row_a[e]:
                sums[p] += rest_a[e] * rest_b[k]
