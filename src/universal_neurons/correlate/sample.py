"""The screened mode's sample: groups of documents, and how correlations spread over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.activations.products import Reader
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.errors import UserError
from universal_neurons.prepare.reading import Documents

# Groups of the sample: enough degrees of freedom for a far quantile, few enough to be long.
GROUPS = 32

# A neuron is rare if its variance sits in fewer than this fraction of the groups, in effect (its
# participation ratio), or if the sample holds less than half or more than twice its variance.
PARTICIPATION = 0.75

# Squared codes that int32 holds the sum of.
SQUARES = (2**31 - 1) // LIMIT**2


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of one shard's store, of whole sequences."""

    shard: int
    rows: slice

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start


def sample_groups(
    stores: Sequence[Activations], fraction: float, documents: Documents, seed: int = 0
) -> list[list[Piece]]:
    """Choose the sample: random runs of whole sequences, dealt by document into `GROUPS` groups.

    A run is about two chunks of the store, so that little is decoded in vain; less if that would
    leave fewer than two runs per group. All that the sample has of a document is in one group: what
    sequences of a document have in common would otherwise be in all groups, and they would spread
    by less than samples of documents do. Documents of one run alone stay together, so that little
    is read twice, and so do neighbours whose documents are not known. Groups are of about equal
    size.

    Parameters
    ----------
    stores
        A model's shards; all models have the same rows.
    fraction
        Of the tokens to sample.
    documents
        Of the corpus.
    seed
        Of the choice.

    Raises
    ------
    UserError
        If there are fewer documents, or runs of them, than groups.
    """
    rng = np.random.default_rng(seed)
    pieces: list[Piece] = []
    of_run: list[int] = []
    of_document: list[int] = []
    for run, (shard, rows) in enumerate(_runs(stores, fraction, documents.context_length, rng)):
        document = documents.of_tokens(stores[shard].token_index()[rows])
        starts = np.flatnonzero(np.diff(document, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(document)]):
            pieces.append(Piece(shard, slice(rows.start + start, rows.start + stop)))
            of_run.append(run)
            of_document.append(document[start])
    group = _deal(_units(of_run, of_document), list(map(len, pieces)), rng)
    return [[pieces[i] for i in np.flatnonzero(group == g)] for g in range(GROUPS)]


def _runs(
    stores: Sequence[Activations], fraction: float, context_length: int, rng: np.random.Generator
) -> list[tuple[int, slice]]:
    """Random runs of whole sequences: shard and rows, in the order of the stores."""
    n_tokens = sum(store.n_tokens for store in stores)
    length = max(1, int(min(2 * stores[0].chunk_tokens, n_tokens * fraction / (2 * GROUPS))))
    runs = []
    for shard, store in enumerate(stores):
        sequence = store.token_index() // context_length
        starts = np.flatnonzero(np.diff(sequence, prepend=-1))
        near = np.searchsorted(starts, np.arange(0, store.n_tokens, length))
        edges = [*np.unique(starts[near[near < len(starts)]]), store.n_tokens]
        runs += [(shard, slice(int(i), int(j))) for i, j in pairwise(edges)]
    n_runs = min(len(runs), max(2 * GROUPS, round(fraction * len(runs))))
    return [runs[i] for i in np.sort(rng.permutation(len(runs))[:n_runs])]


def _units(of_run: Sequence[int], of_document: Sequence[int]) -> NDArray[np.int64]:
    """What is dealt, by piece: a document of several runs, or all others of a run together."""
    _, document = np.unique(of_document, return_inverse=True)
    runs = np.bincount(np.unique([document, of_run], axis=1)[0])
    shared = runs[document] > 1
    unit = np.where(shared, document, len(runs) + np.asarray(of_run))
    return np.unique(unit, return_inverse=True)[1]


def _deal(
    unit: NDArray[np.int64], sizes: Sequence[int], rng: np.random.Generator
) -> NDArray[np.int64]:
    """The group of every piece: units (numbers from 0) are dealt, groups get about equal sizes."""
    total = np.bincount(unit, sizes)
    if len(total) < GROUPS:
        raise UserError(
            f"correlate.mode: screened needs at least {GROUPS} documents, or runs of them, in its "
            f"sample (correlate.sample), which has {len(total)}; use exact"
        )
    order = rng.permutation(len(total))
    group, filled = np.zeros(len(total), np.int64), np.zeros(GROUPS)
    # The largest first, each into the smallest group so far.
    for i in order[np.argsort(-total[order], kind="stable")]:
        group[i] = filled.argmin()
        filled[group[i]] += total[i]
    return group[unit]


class GroupReader:
    """Read the codes of a layer for a group of pieces, in buffers that are used in turn."""

    def __init__(self, groups: Sequence[Sequence[Piece]]) -> None:
        self._read = Reader(max(sum(map(len, group)) for group in groups))

    def __call__(self, stores: Sequence[Activations], layer: int, group: Sequence[Piece]) -> Codes:
        """Codes of shape (tokens of the group, d_mlp)."""
        first = stores[0]
        spans = [(stores[shard], *_span(own)) for shard, own in _chunks(stores, group)]
        if first.encoding != "int8":
            parts = [store.codes(layer, rows).dense[kept] for store, rows, kept in spans]
            return Codes.of(np.concatenate(parts))
        buffer = self._read.buffer(first, layer)
        start, escapes = 0, []
        for store, rows, kept in spans:
            stop = start + len(kept)
            if len(kept) == rows.stop - rows.start:
                codes = store.codes(layer, rows, buffer[start:])
            else:
                codes = store.codes(layer, rows).take_rows(kept)
                buffer[start:stop] = codes.dense
            escapes.append(codes.escapes.moved(start))
            start = stop
        return Codes(buffer[:start], Escapes.join(escapes))


def _chunks(
    stores: Sequence[Activations], group: Sequence[Piece]
) -> Iterator[tuple[int, list[Piece]]]:
    """Shards and pieces to read at once, so that every chunk, decoded whole, is decoded once."""
    own: list[Piece] = []
    for piece in group:
        if own:
            last, chunk = own[-1], stores[own[-1].shard].chunk_tokens
            apart = piece.rows.start // chunk > (last.rows.stop - 1) // chunk
            if last.shard != piece.shard or apart:
                yield last.shard, own
                own = []
        own.append(piece)
    yield own[0].shard, own


def _span(pieces: Sequence[Piece]) -> tuple[slice, NDArray[np.int64]]:
    """The rows from the first to the last of some pieces, and which of them are theirs."""
    start = pieces[0].rows.start
    kept = [np.arange(piece.rows.start - start, piece.rows.stop - start) for piece in pieces]
    return slice(start, pieces[-1].rows.stop), np.concatenate(kept)


class Spread:
    """Mean correlation over the groups and its spread, for one pair of layers (Welford)."""

    def __init__(self, d_a: int, d_b: int) -> None:
        self.mean = np.zeros((d_a, d_b), np.float32)
        self.squares = np.zeros((d_a, d_b), np.float32)
        self.n_tokens = 0

    def update(self, products: NDArray, n_tokens: int, a: GroupSums, b: GroupSums) -> None:
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
class GroupSums:
    """A layer's codes in one group: what centring and standardising their products takes.

    `mean` and `factor` are the layer's over all tokens; `total` is the group's summed codes,
    `energy` its mean squared standardised activation.
    """

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]
    total: NDArray[np.float64]
    energy: NDArray[np.float64]

    @classmethod
    def of(cls, codes: Codes, neurons: Neurons, own: slice) -> GroupSums:
        mean, factor = neurons.code_sum[own] / neurons.n_tokens, neurons.factor[own]
        total, squares = code_sums(codes)
        energy = squares - 2 * mean * total + len(codes) * mean**2
        return cls(mean, factor, total, energy * factor**2 / len(codes))


def code_sums(codes: Codes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the codes of every neuron and of their squares."""
    whole = codes.dense.dtype == np.int8
    total, squares = _column_sums(codes.dense, np.int32 if whole else np.float64)
    found = codes.escapes
    for sums, power in ((total, 1), (squares, 2)):
        dense = found.code.astype(np.float64) - found.rest
        sums += np.bincount(
            found.neuron, found.code.astype(float) ** power - dense**power, len(sums)
        )
    return total, squares


@numba.njit(parallel=True, cache=True)
def _column_sums(codes, kind):  # pragma: no cover - compiled
    """Sums of codes and of their squares: added in numbers of a kind for as long as int32 holds."""
    n, d = codes.shape
    total, squares = np.zeros(d), np.zeros(d)
    for block in numba.prange((d + 255) // 256):
        first, last = block * 256, min(d, block * 256 + 256)
        for start in range(0, n, SQUARES):
            some, of_some = np.zeros(256, kind), np.zeros(256, kind)
            for r in range(start, min(n, start + SQUARES)):
                row = codes[r, first:last]
                for j in range(len(row)):
                    value = kind(row[j])
                    some[j] += value
                    of_some[j] += value * value
            for j in range(last - first):
                total[first + j] += some[j]
                squares[first + j] += of_some[j]
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


def rare(energy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which neurons a sample can't speak for, from mean squares per group, shape (GROUPS, n).

    The mean square is in units of the neuron's variance over all tokens, so it is 1 on average.
    """
    total = energy.sum(0)
    squares = (energy**2).sum(0)
    participation = np.divide(total**2, squares, out=np.zeros_like(total), where=squares > 0)
    mean = total / len(energy)
    return (participation < PARTICIPATION * len(energy)) | (mean < 0.5) | (mean > 2)
