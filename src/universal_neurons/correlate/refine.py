"""Best matches on all tokens, of what `screen` left open: candidates, and whole rows of neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.activations.kernels import add_products, choose_kernel, zeros
from universal_neurons.activations.products import ahead, block_tokens
from universal_neurons.activations.reader import Activations
from universal_neurons.activations.rests import RestsByNeuron, add_dots
from universal_neurons.correlate.candidates import Screened, Screens
from universal_neurons.correlate.matches import Matches, PairMatches
from universal_neurons.correlate.neurons import Captured, Neurons, standardised
from universal_neurons.jobs import logger, progress
from universal_neurons.store.arrays import attributes_of
from universal_neurons.store.same_run import check_same_run

# Tokens of one dot product: its codes then stay in the cache, and int32 can't overflow.
DOT_TOKENS = 4096

# Sums that the exact pass holds at a time.
EXACT_BYTES = 1 << 30


def _by_layer(stores: Sequence[Activations], rows: int) -> list[tuple[int, slice]]:
    return [(s, block) for s, store in enumerate(stores) for block in store.row_blocks(rows)]


@numba.njit(parallel=True, cache=True)
def _transpose(codes, out):  # pragma: no cover - compiled
    n, d = codes.shape
    for block in numba.prange((d + 63) // 64):
        for r0 in range(0, n, 64):
            for j in range(block * 64, min(d, block * 64 + 64)):
                for r in range(r0, min(n, r0 + 64)):
                    out[j, r] = codes[r, j]


@numba.njit(parallel=True, cache=True)
def _dots_int16(a, b, start, n, first, second, sums):  # pragma: no cover - compiled
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


def _norm(stores: Sequence[Activations]) -> float:
    """Root of the summed squares of a neuron's codes over all tokens, at most."""
    escaped = [
        np.sqrt(sum(np.square(store.escapes(layer).rest).sum() for store in stores))
        for layer in range(len(stores[0].d_mlp))
    ]
    return LIMIT * np.sqrt(sum(store.n_tokens for store in stores)) + max(escaped)


def pair_sums(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> NDArray:
    """Sums of products of codes of some pairs of neurons over all tokens.

    Parameters
    ----------
    a_stores, b_stores
        The two models' shards.
    first, second
        Neurons of `a` and of `b`, counted through the layers, shape (pairs,).

    Returns
    -------
    NDArray
        int64 (exact) or float64, shape (pairs,).
    """
    whole = a_stores[0].encoding == "int8"
    if not len(first):
        return np.zeros(0)
    fits = whole and _norm(a_stores) * _norm(b_stores) < 2.0**62
    sums = np.zeros(len(first), np.int64 if fits else np.float64)
    # Processors multiply and add int16 in one instruction, int8 only by way of int32.
    dtype = np.int16 if whole else np.float32
    blocks = _by_layer(a_stores, DOT_TOKENS)
    rows = max(block.stop - block.start for _, block in blocks)
    by_neuron = [np.empty((sum(stores[0].d_mlp), rows), dtype) for stores in (a_stores, b_stores)]
    starts = [np.cumsum([0, *stores[0].d_mlp]) for stores in (a_stores, b_stores)]
    # Pairs of two layers after each other: their codes stay in the cache.
    layer_a, layer_b = (
        np.searchsorted(edges, index, side="right")
        for edges, index in zip(starts, (first, second), strict=True)
    )
    order = np.lexsort([second, first, layer_a, layer_b])
    sorted_first, sorted_second = first[order], second[order]
    ordered = np.zeros_like(sums)
    dots = _dots_int16 if whole else _dots_float
    for shard, block in progress(blocks, "blocks of candidates"):
        order_of_layers = [
            (side, layer) for side in (0, 1) for layer in range(len(starts[side]) - 1)
        ]
        loads = [
            partial((a_stores, b_stores)[side][shard].codes, layer, block)
            for side, layer in order_of_layers
        ]
        escapes: tuple[list[Escapes], list[Escapes]] = ([], [])
        for (side, layer), codes in zip(order_of_layers, ahead(loads), strict=True):
            place = slice(starts[side][layer], starts[side][layer + 1])
            _transpose(codes.dense, by_neuron[side][place])
            escapes[side].append(codes.escapes)
        # Parts short enough for int32, whatever the chunks.
        n = block.stop - block.start
        for t in range(0, n, DOT_TOKENS):
            dots(*by_neuron, t, min(DOT_TOKENS, n - t), sorted_first, sorted_second, ordered)
        if whole:
            rests_a, rests_b = (
                RestsByNeuron.of(found, stores[0].d_mlp, sums.dtype)
                for found, stores in zip(escapes, (a_stores, b_stores), strict=True)
            )
            a, b = by_neuron
            add_dots(ordered, a, b, rests_a, rests_b, sorted_first, sorted_second)
    sums[order] = ordered
    return sums


def row_sums(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    rows: NDArray[np.int64],
    kernel: str = "auto",
) -> Iterator[tuple[NDArray[np.int64], NDArray]]:
    """Sums of products of codes of some neurons of `a` with all of `b` over all tokens.

    Yields
    ------
    rows, sums
        As many of the neurons as `EXACT_BYTES` holds, and their sums, shape (rows, N_b).
    """
    encoding = a_stores[0].encoding
    d_b = b_stores[0].d_mlp
    n_tokens = sum(store.n_tokens for store in a_stores)
    edges_a = np.cumsum([0, *a_stores[0].d_mlp])
    size = max(1, EXACT_BYTES // (8 * sum(d_b)))
    blocks = _by_layer(a_stores, block_tokens(max(a_stores[0].d_mlp + d_b)))
    kernel = choose_kernel(kernel, 2 * n_tokens * len(rows) * sum(d_b))
    for at in range(0, len(rows), size):
        chosen = rows[at : at + size]
        sums = [zeros(len(chosen), d, encoding) for d in d_b]
        for shard, block in progress(blocks, f"blocks of {len(chosen)} neurons"):
            codes_a = Codes.side_by_side(
                [
                    a_stores[shard]
                    .codes(layer, block)
                    .take_neurons(chosen[(chosen >= start) & (chosen < stop)] - start)
                    for layer, (start, stop) in enumerate(pairwise(edges_a))
                ]
            )
            loads = [partial(b_stores[shard].codes, j, block) for j in range(len(d_b))]
            for j, codes in enumerate(ahead(loads)):
                sums[j] = add_products(sums[j], codes_a, codes, kernel)
        yield chosen, np.hstack(sums)


def refine(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    a: Neurons,
    b: Neurons,
    screens: Screens,
    kernel: str = "auto",
) -> tuple[Matches, Matches]:
    """Best matches of all neurons of two models, from what `screen` found.

    Parameters
    ----------
    a_stores, b_stores
        Activations of the two models, all shards.
    a, b
        Their statistics over all tokens.
    screens
        What the sample says of all layers of `a`.
    kernel
        See `kernels.choose_kernel`.

    Returns
    -------
    forward, backward
        Of all neurons of `a` among those of `b`, and the other way round. Best matches are those of
        all tokens, to the bit; `Matches.certified` says which rest on the certificate, the others
        on a comparison with all neurons. `lowest` is exact for the latter; for the former it is the
        correlation, on all tokens, with the neuron that had the lowest one in the sample. The
        baseline is that of the sample.
    """
    sides = (
        _Side(a, screens.forward, Matches.nothing(len(a.std), len(screens.forward.baseline))),
        _Side(b, screens.backward, Matches.nothing(len(b.std), len(screens.backward.baseline))),
    )
    stores = (a_stores, b_stores)

    def complete(side: int, rows: NDArray[np.int64]) -> None:
        """Compare some neurons of one model with all of the other."""
        mine, theirs = sides[side].matches, sides[1 - side].matches
        for chosen, sums in row_sums(stores[side], stores[1 - side], rows, kernel):
            # Always first model by second, for the same rounding as in the exact mode.
            if side == 0:
                corr = standardised(sums, a, chosen, b, slice(None))
            else:
                corr = standardised(sums.T, a, slice(None), b, chosen).T
            mine.take(corr, chosen, np.arange(corr.shape[1]))
            theirs.take(corr.T, np.arange(corr.shape[1]), chosen)

    for number, side in enumerate(sides):
        complete(number, np.flatnonzero(side.rare))
    first, second = _pairs(sides)
    corr = a.code_sum[first] * (b.code_sum[second] / -a.n_tokens)
    corr += pair_sums(a_stores, b_stores, first, second)
    corr *= a.factor[first] / a.n_tokens
    corr *= b.factor[second]
    sides[0].matches.take_pairs(first, second, corr)
    sides[1].matches.take_pairs(second, first, corr)
    completed = sum(int(side.rare.sum()) for side in sides)
    for number, (name, side) in enumerate(zip(("first seed", "second seed"), sides, strict=True)):
        open_rows = side.certify()
        complete(number, open_rows)
        completed += len(open_rows)
        logger.info(
            "%s: %d neurons certified, %d compared with all for lack of a certificate, %d because "
            "they are rarely active",
            *(name, side.matches.certified.sum(), len(open_rows), side.rare.sum()),
        )
    n_a, n_b = len(a.std), len(b.std)
    logger.info(
        "%.3g of the exact mode's operations",
        screens.sampled / a.n_tokens + (len(first) + completed / 2 * (n_a + n_b)) / (n_a * n_b),
    )
    for side in sides:
        side.finish()
    return sides[0].matches, sides[1].matches


@dataclass
class _Side:
    """One model's neurons while they are matched."""

    neurons: Neurons
    screened: Screened
    matches: Matches

    @property
    def live(self) -> NDArray[np.bool_]:
        return self.neurons.std > 0

    @property
    def rare(self) -> NDArray[np.bool_]:
        return self.screened.rare & self.live

    def certify(self) -> NDArray[np.int64]:
        """Note which best matches no other neuron's bound exceeds; the neurons left open."""
        asked = self.live & ~self.rare
        certified = asked & (self.screened.candidates.rest <= self.matches.best)
        self.matches.certified[:] = certified
        return np.flatnonzero(asked & ~certified)

    def finish(self) -> None:
        """Fill in the baseline, and what a dead neuron has."""
        self.matches.baseline = np.where(self.live, self.screened.baseline, 0.0)
        self.matches.clear(~self.live)


def _pairs(sides: tuple[_Side, _Side]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (neuron of `a`, neuron of `b`) to refine: candidates and the lowest, either way."""
    keys = []
    width = len(sides[1].neurons.std)
    for number, side in enumerate(sides):
        found = side.screened.candidates
        index = np.column_stack([found.index, found.lowest_index])
        mine = np.broadcast_to(np.arange(len(index))[:, None], index.shape)
        wanted = (index >= 0) & (side.live & ~side.rare)[:, None]
        one, other = (mine[wanted], index[wanted])[:: 1 if number == 0 else -1]
        keys.append(one * width + other)
    unique = np.unique(np.concatenate(keys))
    return unique // width, unique % width


def refine_pair(
    a: Captured,
    b: Captured,
    screens: Sequence[str | Path],
    kernel: str,
    *,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the best matches of all neurons of two models, see `refine`.

    Parameters
    ----------
    a, b
        The two models, with all their activations.
    screens
        Stores of `screen.screen_pair`, of all layers of `a`.
    kernel
        See `kernels.choose_kernel`.
    path
        Store to make; see `matches.PairMatches`.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*screens, *a.paths(), *b.paths()])
    one, other = (Neurons.read(x.moments, x.calibration) for x in (a, b))
    a_stores, b_stores = (list(map(Activations, x.activations)) for x in (a, b))
    found = refine(a_stores, b_stores, one, other, Screens.read(screens), kernel)
    PairMatches(
        attributes_of(a.moments[0])["seed"],
        attributes_of(b.moments[0])["seed"],
        range(len(one.d_mlp)),
        one.d_mlp,
        other.d_mlp,
        *found,
        "screened",
    ).write(path, {**attributes, **same})
