"""Sums of codes over classes of tokens: of one identity, of one previous token, of one position.

From them follows what a class alone says of a neuron (`correlate.explained`), and the covariances
that are left within the classes (`correlate.given`). Sums are kept for two halves of the documents
apart, so that what is learned from one half can be tried on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numba
import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Escapes
from universal_neurons.activations.encoding import LIMIT
from universal_neurons.activations.products import Reader, ahead, block_tokens
from universal_neurons.activations.reader import Activations
from universal_neurons.store.arrays import Added

# What tokens are classed by, in the names of arrays and columns.
KINDS = ("token", "previous_token", "position")
TOKEN = KINDS[0]

# Of the previous token where there is none, at the start of a sequence.
NO_TOKEN = -1

# Neurons that a thread adds up at a time.
_NEURONS = 256
# Sums that int32 holds.
_INT32 = 2.0**31


@dataclass(frozen=True)
class Groups:
    """Tokens by their class and the half of the documents that they are of.

    Attributes
    ----------
    label
        Class of every group, int64, shape (groups,); ascending, half 0 before half 1.
    half
        0 or 1, int8, shape (groups,).
    of_token
        Number of the group of every scored token, int64, shape (tokens,).
    """

    label: NDArray[np.int64]
    half: NDArray[np.int8]
    of_token: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.integer], halves: NDArray[np.integer]) -> Groups:
        """Group tokens; labels −1 or more, halves 0 or 1, both of shape (tokens,)."""
        keys, of_token = np.unique(2 * labels.astype(np.int64) + halves, return_inverse=True)
        return cls(keys // 2, (keys % 2).astype(np.int8), of_token)

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of tokens of every group, shape (groups,)."""
        return np.bincount(self.of_token, minlength=len(self.label))


def groups_of(
    sequences: NDArray[np.integer],
    identity: NDArray[np.integer],
    halves: NDArray[np.integer],
    token_index: NDArray[np.int64],
) -> dict[str, Groups]:
    """Group scored tokens in all `KINDS` of ways.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    identity
        What scored tokens are classed by as tokens, of the same shape: their ids, or what all
        models that are compared have there.
    halves
        Half of the documents that each sequence is of, 0 or 1, shape (sequences,).
    token_index
        The scored tokens: sequence number times context length plus position, shape (tokens,).
    """
    sequence, position = np.divmod(token_index, sequences.shape[1])
    previous = np.ma.getdata(sequences)[sequence, np.maximum(position - 1, 0)]
    before = np.where(position > 0, previous, NO_TOKEN)
    labels = dict(zip(KINDS, (identity[sequence, position], before, position), strict=True))
    own = halves[sequence]
    return {kind: Groups.of(label, own) for kind, label in labels.items()}


class LayerSums:
    """Sums of a layer's codes over groups of one shard's tokens, block by block.

    Parameters
    ----------
    groups
        Of the scored tokens, by kind.
    d_mlp
        Number of neurons.
    encoding
        Of the codes.

    Attributes
    ----------
    by_kind
        Shape (groups, d_mlp): exact integers in int32, or float64 where that holds too little or
        the codes are no integers.
    """

    def __init__(self, groups: Mapping[str, Groups], d_mlp: int, encoding: str) -> None:
        self._groups = groups
        # No sum is larger.
        self._most = float(LIMIT * max(len(own.of_token) for own in groups.values()))
        dtype = np.int32 if encoding == "int8" and self._most < _INT32 else np.float64
        self.by_kind: dict[str, NDArray] = {
            kind: np.zeros((len(own.label), d_mlp), dtype) for kind, own in groups.items()
        }

    def add(self, dense: NDArray, start: int) -> None:
        """Add the dense codes of tokens from number `start` on, shape (tokens, d_mlp)."""
        for kind, own in self._groups.items():
            _add(self.by_kind[kind], dense, own.of_token[start : start + len(dense)])

    def add_rests(self, escapes: Escapes) -> None:
        """Add what the dense codes lack; in float64 if int32 might not hold it."""
        if not len(escapes):
            return
        self._most += float(np.abs(escapes.rest).sum())
        for kind, own in self._groups.items():
            total = self.by_kind[kind]
            if self._most >= _INT32:
                total = self.by_kind[kind] = total.astype(np.float64, copy=False)
            place = own.of_token[escapes.row], escapes.neuron
            np.add.at(total, place, escapes.rest.astype(total.dtype))


def labels_of(groups: Mapping[str, Groups]) -> Iterator[tuple[str, NDArray]]:
    """Per kind ``{kind}_label``, ``_half`` and ``_count``, of shape (groups,)."""
    for kind, own in groups.items():
        yield f"{kind}_label", own.label
        yield f"{kind}_half", own.half
        yield f"{kind}_count", own.count


def class_sums(store: Activations, groups: Mapping[str, Groups]) -> Iterator[tuple[str, NDArray]]:
    """Sums of codes over the groups of one shard; `HalfSums` reads them.

    Parameters
    ----------
    store
        Its activations.
    groups
        Of its scored tokens, by kind.

    Yields
    ------
    name, values
        Those of `labels_of`, and per kind and layer i ``{kind}{i}``, see `LayerSums`.
    """
    yield from labels_of(groups)
    blocks = store.row_blocks(block_tokens(max(store.d_mlp)))
    read = Reader(max((rows.stop - rows.start for rows in blocks), default=0))
    for layer, d_mlp in enumerate(store.d_mlp):
        sums = LayerSums(groups, d_mlp, store.encoding)
        loads = [partial(read, store, layer, rows) for rows in blocks]
        for rows, codes in zip(blocks, ahead(loads), strict=True):
            sums.add(np.asarray(codes.dense), rows.start)
        sums.add_rests(store.escapes(layer))
        for kind, total in sums.by_kind.items():
            yield f"{kind}{layer}", total


@numba.njit(parallel=True, cache=True)
def _add(total, codes, group):  # pragma: no cover - compiled
    d_mlp = total.shape[1]
    for block in numba.prange((d_mlp + _NEURONS - 1) // _NEURONS):
        first = block * _NEURONS
        stop = min(first + _NEURONS, d_mlp)
        for r in range(len(group)):
            sums, row = total[group[r], first:stop], codes[r, first:stop]
            for j in range(stop - first):
                sums[j] += row[j]


class HalfSums:
    """The sums of all shards of a model by one kind of class, added.

    Parameters
    ----------
    stores
        Of `class_sums`, of all shards in any order.
    kind
        One of `KINDS`.

    Attributes
    ----------
    label
        Classes that occur, ascending, int64, shape (V,).
    count
        Their numbers of tokens in either half of the documents, int64, shape (2, V).
    """

    def __init__(self, stores: Sequence[str | Path], kind: str) -> None:
        self._stores, self._kind = [Added([path]) for path in stores], kind
        labels, halves, counts = (
            [store[f"{kind}_{name}"] for store in self._stores]
            for name in ("label", "half", "count")
        )
        self.label = np.unique(np.concatenate(labels))
        self._places = [
            (half, np.searchsorted(self.label, label))
            for half, label in zip(halves, labels, strict=True)
        ]
        self.count = np.zeros((2, len(self.label)), np.int64)
        for place, count in zip(self._places, counts, strict=True):
            self.count[place] += count

    def layer(self, layer: int) -> NDArray:
        """Sums of a layer's codes, shape (2, V, d_mlp), int32 or float64 as of `class_sums`."""
        parts = (store[f"{self._kind}{layer}"] for store in self._stores)
        total: NDArray | None = None
        largest = 0.0
        for place, part in zip(self._places, parts, strict=True):
            largest += float(np.abs(part).max(initial=0))
            if total is None:
                total = np.zeros((2, len(self.label), part.shape[1]), part.dtype)
            if total.dtype != np.float64 and (part.dtype == np.float64 or largest >= _INT32):
                total = total.astype(np.float64)
            total[place] += part
        assert total is not None
        return total
