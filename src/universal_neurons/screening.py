"""Best matches from a sample of the tokens, certified, refined and completed on all of them.

1. All pairs are correlated on a sample of the tokens, cut into groups of whole sequences. Every
   correlation gets an upper confidence bound from its spread over the groups.
2. The few neurons with the largest bounds are every neuron's candidates. They are correlated on all
   tokens. A neuron is certified if its best candidate exceeds the bounds of all others.
3. Neurons that can't be certified, and those too rarely active for a sample to speak for, are
   correlated with all others on all tokens.

docs/method.md derives the certificate. The baseline is that of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import scipy.stats
from numpy.typing import NDArray

from universal_neurons.activations import Activations
from universal_neurons.codes import Codes, Escapes
from universal_neurons.correlation import (
    Baseline,
    Matches,
    Neurons,
    part,
    rotated_best,
    standardised,
)
from universal_neurons.encoding import LIMIT
from universal_neurons.errors import UserError
from universal_neurons.jobs import logger, progress
from universal_neurons.products import (
    Reader,
    add_products,
    ahead,
    block_tokens,
    choose_kernel,
    zeros,
)
from universal_neurons.rests import RestsByNeuron, add_dots
from universal_neurons.store import attributes_of, read_arrays

# Groups of the sample: enough degrees of freedom for a far quantile, few enough to be long.
GROUPS = 32

# Probability that a neuron's certificate is wrong, at most.
ERROR = 1e-6

# A neuron is rare if its variance sits in fewer than this fraction of the groups, in effect (its
# participation ratio), or if the sample holds less than half or more than twice its variance.
PARTICIPATION = 0.75

# Tokens of one dot product: its codes then stay in the cache, and int32 can't overflow.
DOT_TOKENS = 4096

# Sums that the exact pass holds at a time.
EXACT_BYTES = 1 << 30


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one shard's store: some whole sequences."""

    shard: int
    rows: slice

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start


def sample_groups(
    stores: Sequence[Activations], fraction: float, context_length: int, seed: int = 0
) -> list[list[Piece]]:
    """Choose the sample: random runs of whole sequences, in `GROUPS` groups of about equal size.

    A run is about two chunks of the store, so that little is decoded in vain; less if that would
    leave fewer than two runs per group.

    Parameters
    ----------
    stores
        A model's shards; all models have the same rows.
    fraction
        Of the tokens to sample.
    context_length
        Tokens per sequence of the corpus.
    seed
        Of the choice.

    Raises
    ------
    UserError
        If there are fewer sequences than groups.
    """
    n_tokens = sum(store.n_tokens for store in stores)
    chunk = stores[0].row_blocks(1)[0].stop if stores[0].n_tokens else 1
    length = max(1, int(min(2 * chunk, n_tokens * fraction / (2 * GROUPS))))
    pieces = []
    for shard, store in enumerate(stores):
        sequence = store.token_index() // context_length
        starts = np.flatnonzero(np.diff(sequence, prepend=-1))
        near = np.searchsorted(starts, np.arange(0, store.n_tokens, length))
        edges = [*np.unique(starts[near[near < len(starts)]]), store.n_tokens]
        pieces += [Piece(shard, slice(int(i), int(j))) for i, j in pairwise(edges)]
    if len(pieces) < GROUPS:
        raise UserError(
            f"correlate.mode: screened needs at least {GROUPS} sequences with scored tokens, the "
            "corpus has fewer; use exact"
        )
    n_pieces = min(len(pieces), max(2 * GROUPS, round(fraction * len(pieces))))
    order = np.random.default_rng(seed).permutation(len(pieces))[:n_pieces]
    return [
        sorted((pieces[i] for i in order[g::GROUPS]), key=lambda p: (p.shard, p.rows.start))
        for g in range(GROUPS)
    ]


class GroupReader:
    """Read the codes of a layer for a group of pieces, in buffers that are used in turn."""

    def __init__(self, groups: Sequence[Sequence[Piece]]) -> None:
        self._read = Reader(max(sum(map(len, group)) for group in groups))

    def __call__(self, stores: Sequence[Activations], layer: int, group: Sequence[Piece]) -> Codes:
        """Codes of shape (tokens of the group, d_mlp)."""
        first = stores[0]
        if first.encoding != "int8":
            parts = [stores[p.shard].codes(layer, p.rows).dense for p in group]
            return Codes.of(np.concatenate(parts))
        buffer = self._read.buffer(first, layer)
        start, escapes = 0, []
        for piece in group:
            own = buffer[start : start + len(piece)]
            escapes.append(stores[piece.shard].codes(layer, piece.rows, own).escapes.moved(start))
            start += len(piece)
        return Codes(buffer[:start], Escapes.join(escapes))


class Spread:
    """Mean correlation over the groups and its spread, for one pair of layers (Welford)."""

    def __init__(self, d_a: int, d_b: int) -> None:
        self.mean = np.zeros((d_a, d_b), np.float32)
        self.squares = np.zeros((d_a, d_b), np.float32)
        self.n_tokens = 0

    def update(self, products: NDArray, n_tokens: int, a: _GroupSums, b: _GroupSums) -> None:
        """Take the sums of products of one group."""
        self.n_tokens += n_tokens
        _welford(
            products,
            n_tokens,
            self.n_tokens,
            a.mean,
            a.total,
            a.factor,
            b.mean,
            b.total - n_tokens * b.mean,
            b.factor,
            self.mean,
            self.squares,
        )


@dataclass
class _GroupSums:
    """A layer's codes in one group: what centring and standardising their products takes.

    `mean` and `factor` are the layer's over all tokens; `total` is the group's summed codes,
    `energy` its mean squared standardised activation.
    """

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]
    total: NDArray[np.float64]
    energy: NDArray[np.float64]

    @classmethod
    def of(cls, codes: Codes, neurons: Neurons, own: slice) -> _GroupSums:
        mean, factor = neurons.code_sum[own] / neurons.n_tokens, neurons.factor[own]
        total, squares = code_sums(codes)
        energy = squares - 2 * mean * total + len(codes) * mean**2
        return cls(mean, factor, total, energy * factor**2 / len(codes))


def code_sums(codes: Codes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the codes of every neuron and of their squares."""
    total, squares = _column_sums(codes.dense)
    found = codes.escapes
    for sums, power in ((total, 1), (squares, 2)):
        dense = found.code.astype(np.float64) - found.rest
        sums += np.bincount(
            found.neuron, found.code.astype(float) ** power - dense**power, len(sums)
        )
    return total, squares


@numba.njit(parallel=True, cache=True)
def _column_sums(codes):  # pragma: no cover - compiled
    """Sums of codes and of their squares."""
    n, d = codes.shape
    total, squares = np.zeros(d), np.zeros(d)
    for block in numba.prange((d + 255) // 256):
        for r in range(n):
            for j in range(block * 256, min(d, block * 256 + 256)):
                value = np.float64(codes[r, j])
                total[j] += value
                squares[j] += value * value
    return total, squares


@numba.njit(parallel=True, cache=True)
def _welford(
    products, n, n_all, mean_a, total_a, factor_a, mean_b, centred_b, factor_b, mean, squares
):  # pragma: no cover - compiled
    weight = n / n_all
    for i in numba.prange(products.shape[0]):
        scale = factor_a[i] / n
        for j in range(products.shape[1]):
            centred = products[i, j] - mean_a[i] * centred_b[j] - total_a[i] * mean_b[j]
            value = centred * scale * factor_b[j]
            delta = value - mean[i, j]
            centre = mean[i, j] + delta * weight
            mean[i, j] = centre
            squares[i, j] += n * delta * (value - centre)


class Candidates:
    """The neurons with the largest bounds, of every neuron of a direction.

    Attributes
    ----------
    index
        int64, shape (n, k): which neurons; −1 where there are fewer.
    bound
        Their upper bounds, float32, descending, shape (n, k).
    rest
        Largest bound of all others, float32, shape (n,).
    lowest, lowest_index
        Smallest correlation in the sample, float32, and whose, int64; shape (n,).
    """

    def __init__(self, n: int, k: int) -> None:
        self.index = np.full((n, k), -1, np.int64)
        self.bound = np.full((n, k), -np.inf, np.float32)
        self.rest = np.full(n, -np.inf, np.float32)
        self.lowest = np.full(n, np.inf, np.float32)
        self.lowest_index = np.full(n, -1, np.int64)

    def take(
        self, spread: Spread, width: float, allowed: NDArray[np.bool_], first: int, *, axis: int
    ) -> None:
        """Take in a tile: bounds are means plus `width` times the root of the summed squares."""
        step = _take_rows if axis == 1 else _take_columns
        step(
            spread.mean,
            spread.squares,
            width,
            allowed,
            first,
            self.index,
            self.bound,
            self.rest,
            self.lowest,
            self.lowest_index,
        )

    def join(self, other: Candidates) -> None:
        """Take in candidates among further neurons."""
        k = self.index.shape[1]
        index = np.hstack([self.index, other.index])
        bound = np.hstack([self.bound, other.bound])
        order = np.argsort(-bound, axis=1, kind="stable")
        dropped = np.take_along_axis(bound, order[:, k:], 1).max(1)
        self.index = np.take_along_axis(index, order[:, :k], 1)
        self.bound = np.take_along_axis(bound, order[:, :k], 1)
        self.rest = np.maximum(np.maximum(self.rest, other.rest), dropped)
        lower = other.lowest < self.lowest
        self.lowest = np.where(lower, other.lowest, self.lowest)
        self.lowest_index = np.where(lower, other.lowest_index, self.lowest_index)


@numba.njit(cache=True)
def _insert(x, column, row, index, bound, rest):  # pragma: no cover - compiled
    k = bound.shape[1]
    if x <= bound[row, k - 1]:
        rest[row] = max(rest[row], x)
        return
    rest[row] = max(rest[row], bound[row, k - 1])
    place = k - 1
    while place > 0 and bound[row, place - 1] < x:
        bound[row, place] = bound[row, place - 1]
        index[row, place] = index[row, place - 1]
        place -= 1
    bound[row, place] = x
    index[row, place] = column


@numba.njit(parallel=True, cache=True)
def _take_rows(
    mean, squares, width, allowed, first, index, bound, rest, lowest, lowest_index
):  # pragma: no cover - compiled
    for i in numba.prange(mean.shape[0]):
        for j in range(mean.shape[1]):
            if allowed[j]:
                x = np.float32(mean[i, j] + width * np.sqrt(squares[i, j]))
                _insert(x, first + j, i, index, bound, rest)
            if mean[i, j] < lowest[i]:
                lowest[i] = mean[i, j]
                lowest_index[i] = first + j


@numba.njit(parallel=True, cache=True)
def _take_columns(
    mean, squares, width, allowed, first, index, bound, rest, lowest, lowest_index
):  # pragma: no cover - compiled
    for block in numba.prange((mean.shape[1] + 63) // 64):
        for i in range(mean.shape[0]):
            for j in range(block * 64, min(mean.shape[1], block * 64 + 64)):
                if allowed[i]:
                    x = np.float32(mean[i, j] + width * np.sqrt(squares[i, j]))
                    _insert(x, first + i, j, index, bound, rest)
                if mean[i, j] < lowest[j]:
                    lowest[j] = mean[i, j]
                    lowest_index[j] = first + i


def rare(energy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which neurons a sample can't speak for, from mean squares per group, shape (GROUPS, n).

    The mean square is in units of the neuron's variance over all tokens, so it is 1 on average.
    """
    total = energy.sum(0)
    squares = (energy**2).sum(0)
    participation = np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)
    mean = total / len(energy)
    return (participation < PARTICIPATION * len(energy)) | (mean < 0.5) | (mean > 2)


def screen(
    a_stores: Sequence[Activations],
    b_stores: Sequence[Activations],
    a: Neurons,
    b: Neurons,
    layers: Sequence[int],
    *,
    baseline_a: Baseline,
    baseline_b: Baseline,
    sample: float,
    candidates: int,
    context_length: int,
    kernel: str = "auto",
    error: float = ERROR,
) -> dict[str, NDArray]:
    """Correlate some layers of one model with all of another on a sample of the tokens.

    Parameters
    ----------
    a_stores, b_stores
        Activations of the two models, all shards.
    a, b
        Their statistics over all tokens.
    layers
        Layers of `a`.
    baseline_a, baseline_b
        Their rotations.
    sample
        Fraction of the tokens.
    candidates
        Neurons to refine per neuron and direction.
    context_length
        Tokens per sequence of the corpus.
    kernel
        See `products.choose_kernel`.
    error
        Probability of a wrong certificate, per neuron.

    Returns
    -------
    dict
        What `read_screens` joins: per direction (``forward``: neurons of those layers of `a` among
        all of `b`; ``backward``: neurons of `b` among those of these layers) the arrays of
        `Candidates` and ``baseline``; ``rare_a`` (of those layers) and ``rare_b``.
    """
    for one, other in zip(a_stores, b_stores, strict=True):
        one.check_same_tokens(other)
    groups = sample_groups(a_stores, sample, context_length)
    sizes = [sum(map(len, group)) for group in groups]
    fraction = sum(sizes) / a.n_tokens
    # Standard error of the mean over groups, in units of the root of the summed squares, times
    # Student's quantile, times the finite population's correction.
    width = scipy.stats.t.isf(error, GROUPS - 1) * np.sqrt(
        max(0.0, 1 - fraction) / (GROUPS - 1) / sum(sizes)
    )
    kernel = choose_kernel(kernel, 2 * sum(sizes) * sum(a.d_mlp[i] for i in layers) * sum(b.d_mlp))
    widest = max(a.d_mlp), max(b.d_mlp)
    scratch = zeros(*widest, a_stores[0].encoding)
    room = np.empty(widest, np.float32)
    starts = np.cumsum([0, *(a.d_mlp[i] for i in layers)])
    forward = Candidates(int(starts[-1]), candidates)
    backward = Candidates(sum(b.d_mlp), candidates)
    baseline = {
        "forward": np.empty((baseline_b.draws, int(starts[-1]))),
        "backward": np.full((baseline_a.draws, sum(b.d_mlp)), -np.inf),
    }
    baseline["forward"].fill(-np.inf)
    rare_a, rare_b = np.zeros(int(starts[-1]), bool), np.zeros(sum(b.d_mlp), bool)
    read = GroupReader(groups)
    for place, layer in enumerate(layers):
        own, rows = a.layers[layer], slice(int(starts[place]), int(starts[place + 1]))
        what = f"blocks of layer {layer} ({place + 1} of {len(layers)})"
        spreads = [Spread(a.d_mlp[layer], d) for d in b.d_mlp]
        energy_a = np.zeros((GROUPS, a.d_mlp[layer]))
        energy_b = np.zeros((GROUPS, sum(b.d_mlp)))
        order = [(g, j) for g in range(GROUPS) for j in (None, *range(len(b.d_mlp)))]
        loads = [
            partial(read, a_stores, layer, groups[g])
            if j is None
            else partial(read, b_stores, j, groups[g])
            for g, j in order
        ]
        for (g, j), codes in zip(progress(order, what), ahead(loads), strict=True):
            if j is None:
                codes_a, sums_a = codes, _GroupSums.of(codes, a, own)
                energy_a[g] = sums_a.energy
                continue
            sums_b = _GroupSums.of(codes, b, b.layers[j])
            energy_b[g, b.layers[j]] = sums_b.energy
            products = part(scratch, (a.d_mlp[layer], b.d_mlp[j]))
            products.fill(0)
            products = add_products(products, codes_a, codes, kernel)
            spreads[j].update(products, len(codes), sums_a, sums_b)
        rare_a[rows], rare_b = rare(energy_a), rare(energy_b)
        allowed_a = ~rare_a[rows] & (a.factor[own] > 0)
        rotated_a = baseline_a.matrices(layer)
        for j, spread in enumerate(spreads):
            theirs = b.layers[j]
            allowed_b = ~rare_b[theirs] & (b.factor[theirs] > 0)
            mine = _view(forward, rows)
            mine.take(spread, width, allowed_b, theirs.start, axis=1)
            _view(backward, theirs).take(spread, width, allowed_a, own.start, axis=0)
            ahead_, back = rotated_best(
                spread.mean, rotated_a, baseline_b.matrices(j), part(room, spread.mean.shape)
            )
            for target, where, found in (("forward", rows, ahead_), ("backward", theirs, back)):
                part_of = baseline[target][:, where]
                np.maximum(part_of, found, out=part_of)
    return {
        **{f"forward_{k}": v for k, v in vars(forward).items()},
        **{f"backward_{k}": v for k, v in vars(backward).items()},
        "forward_baseline": baseline["forward"],
        "backward_baseline": baseline["backward"],
        "rare_a": rare_a,
        "rare_b": rare_b,
        "sampled": np.array([sum(sizes)]),
    }


def _view(candidates: Candidates, rows: slice) -> Candidates:
    """The candidates of some rows, sharing memory."""
    view = Candidates.__new__(Candidates)
    for name, values in vars(candidates).items():
        setattr(view, name, values[rows])
    return view


@dataclass
class Screened:
    """What was found on the sample, of one direction: `Candidates`, baseline, rare neurons."""

    candidates: Candidates
    baseline: NDArray[np.float64]
    rare: NDArray[np.bool_]


def read_screens(paths: Sequence[str | Path]) -> tuple[Screened, Screened, int]:
    """Join the stores of all layers of a pair: forward, backward, number of sampled tokens."""
    # A job has a run of layers; in their order the rows follow each other.
    paths = sorted(paths, key=lambda path: attributes_of(path)["layers"][0])
    stores = [read_arrays(path) for path in paths]

    def candidates(store: Mapping[str, NDArray], way: str) -> Candidates:
        found = Candidates(0, 1)
        for name in vars(found):
            setattr(found, name, store[f"{way}_{name}"])
        return found

    forward = Candidates(0, 1)
    for name in vars(forward):
        setattr(forward, name, np.concatenate([store[f"forward_{name}"] for store in stores]))
    backward = candidates(stores[0], "backward")
    for store in stores[1:]:
        backward.join(candidates(store, "backward"))
    return (
        Screened(
            forward,
            np.concatenate([store["forward_baseline"] for store in stores], axis=1),
            np.concatenate([store["rare_a"] for store in stores]),
        ),
        Screened(
            backward,
            np.max([store["backward_baseline"] for store in stores], axis=0),
            stores[0]["rare_b"],
        ),
        int(stores[0]["sampled"][0]),
    )


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
    screens: Sequence[str | Path],
    *,
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
        Stores of what `screen` returned, of all layers of `a`.
    kernel
        See `products.choose_kernel`.

    Returns
    -------
    forward, backward
        Of all neurons of `a` among those of `b`, and the other way round. Best matches are those of
        all tokens, to the bit; `Matches.certified` says which rest on the certificate, the others
        on a comparison with all neurons. `lowest` is exact for the latter; for the former it is the
        correlation, on all tokens, with the neuron that had the lowest one in the sample. The
        baseline is that of the sample.
    """
    in_sample_a, in_sample_b, sampled = read_screens(screens)
    sides = (
        _Side(a, in_sample_a, Matches.nothing(len(a.std), len(in_sample_a.baseline))),
        _Side(b, in_sample_b, Matches.nothing(len(b.std), len(in_sample_b.baseline))),
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
    completed = 0
    for number, side in enumerate(sides):
        certified = side.live & ~side.rare & (side.screened.candidates.rest <= side.matches.best)
        side.matches.certified[:] = certified
        open_rows = np.flatnonzero(side.live & ~side.rare & ~certified)
        complete(number, open_rows)
        completed += len(open_rows) + int(side.rare.sum())
        logger.info(
            "%s: %d neurons certified, %d compared with all for lack of a certificate, %d because "
            "they are rarely active",
            ("first seed", "second seed")[number],
            certified.sum(),
            len(open_rows),
            side.rare.sum(),
        )
    n_a, n_b = len(a.std), len(b.std)
    logger.info(
        "%.3g of the exact mode's operations",
        sampled / a.n_tokens + len(first) / (n_a * n_b) + completed / 2 * (n_a + n_b) / (n_a * n_b),
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
