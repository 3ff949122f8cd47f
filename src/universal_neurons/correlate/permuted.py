"""Best matches between models that read different text: what chance and noise alone match.

Whole sequences of one model are paired with other sequences of the other model. What the two had in
common through the text is gone; how active their neurons are, and for how long, stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.kernels import add_products, choose_kernel, zeros
from universal_neurons.activations.products import Reader, block_tokens, paired
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.neurons import Captured, Neurons, part, standardised
from universal_neurons.correlate.sample import code_sums
from universal_neurons.store.arrays import attributes_of, write_by_pair
from universal_neurons.store.same_run import check_same_run

# Share of a run's tokens that is paired anew, and how many it is at least.
SAMPLE = 0.1
MIN_TOKENS = 8192


@dataclass(frozen=True)
class Kept:
    """Part of a model's store that is paired with as much of another's.

    Attributes
    ----------
    rows
        Consecutive rows of the store: whole sequences.
    places
        Which of them, ascending.
    """

    rows: slice
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)


# Of either model; places of the same number are tokens at the same position of their sequences.
Pairing = tuple[Kept, Kept]


def pair_sequences(
    token_index: NDArray[np.int64], context_length: int, n_tokens: int, block: int
) -> list[Pairing]:
    """Pair every sequence with the one half of the sample away.

    A sequence's neighbours may be of the same document; those half the sample away are not. Tokens
    are paired with those at the same position; where one of the two is not scored none is.

    Parameters
    ----------
    token_index
        Of a shard's scored tokens: sequence number times context length plus position.
    context_length
        Tokens per sequence.
    n_tokens
        Of the sample: the shard's first sequences, about so many tokens.
    block
        Tokens of a pairing, about.

    Returns
    -------
    list
        Every sequence of the sample is once among the rows of `a` and once among those of `b`; none
        if there are fewer than two.
    """
    sequence = token_index // context_length
    starts = np.flatnonzero(np.diff(sequence, prepend=-1))
    n = int(np.searchsorted(starts, n_tokens))
    edges = np.append(starts, len(sequence))
    half, step = n // 2, max(1, block // context_length)
    found = []
    # Partners of the last ones are the first ones again.
    for first, last, shift in ((0, n - half, half), (n - half, n, half - n)):
        for i in range(first, last if half else 0, step):
            j = min(i + step, last)
            rows_a = slice(int(edges[i]), int(edges[j]))
            rows_b = slice(int(edges[i + shift]), int(edges[j + shift]))
            partner = np.repeat(sequence[starts[i + shift : j + shift]], np.diff(edges[i : j + 1]))
            wanted = partner * context_length + token_index[rows_a] % context_length
            there = token_index[rows_b]
            place = np.searchsorted(there, wanted).clip(max=len(there) - 1)
            kept = np.flatnonzero(there[place] == wanted)
            found.append((Kept(rows_a, kept), Kept(rows_b, place[kept])))
    return found


def permuted_best(
    a_store: Activations,
    b_store: Activations,
    a: Neurons,
    b: Neurons,
    pairings: Sequence[Pairing],
    kernel: str = "auto",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest correlations between all neurons of two models that read different sequences.

    Parameters
    ----------
    a_store, b_store
        Activations of two models on the same shard.
    a, b
        Their statistics over all tokens.
    pairings
        From `sample_of`, at least one.
    kernel
        See `kernels.choose_kernel`.

    Returns
    -------
    forward, backward
        Of every neuron of `a` with those of `b`, and the reverse, float64, shapes (N_a,) and
        (N_b,); 0 for a dead neuron. The standard deviations are those of all tokens, as in the
        matches, or those of the sample where they are larger: a neuron that is rarely active, but
        is in the sample, would have correlations above 1.

    Raises
    ------
    UserError
        If the two were captured over different tokens.
    """
    a_store.check_same_tokens(b_store)
    n_tokens = sum(len(kept) for kept, _ in pairings)
    kernel = choose_kernel(kernel, 2 * n_tokens * len(a.std) * len(b.std))
    forward, backward = np.full(len(a.std), -np.inf), np.full(len(b.std), -np.inf)
    read = Reader(max(own.rows.stop - own.rows.start for both in pairings for own in both))
    room = np.empty((max(a.d_mlp), max(b.d_mlp)))
    of_a, of_b = _Sample(a, n_tokens), _Sample(b, n_tokens)
    for layer, own in enumerate(a.layers):
        tiles = [zeros(a.d_mlp[layer], d_b, a_store.encoding) for d_b in b.d_mlp]
        mine = partial(_codes, read, a_store, layer, 0)
        others = [partial(_codes, read, b_store, j, 1) for j in range(len(b.d_mlp))]
        what = f"blocks of permuted layer {layer}"
        for _, other, codes_a, codes_b in paired(pairings, mine, others, what):
            if other == 0:
                of_a.add(codes_a, own)
            if layer == 0:
                of_b.add(codes_b, b.layers[other])
            tiles[other] = add_products(tiles[other], codes_a, codes_b, kernel)
        of_a.finish(own)
        if layer == 0:
            of_b.finish(slice(None))
        for tile, theirs in zip(tiles, b.layers, strict=True):
            corr = standardised(tile, of_a, own, of_b, theirs, part(room, tile.shape))
            np.maximum(forward[own], corr.max(1), out=forward[own])
            np.maximum(backward[theirs], corr.max(0), out=backward[theirs])
    return forward, backward


def _codes(read: Reader, store: Activations, layer: int, side: int, pairing: Pairing) -> Codes:
    """What is paired of a layer of the first (0) or second (1) model."""
    own = pairing[side]
    return read(store, layer, own.rows).take_rows(own.places)


class _Sample(Neurons):
    """A model's statistics in a sample, with what `neurons.standardised` asks of a model."""

    def __init__(self, neurons: Neurons, n_tokens: int) -> None:
        self.n_tokens, self.factor = n_tokens, neurons.factor.copy()
        self.code_sum, self._squares = np.zeros((2, len(neurons.factor)))

    def add(self, codes: Codes, where: slice) -> None:
        """Take in the codes of a layer."""
        total, squares = code_sums(codes)
        self.code_sum[where] += total
        self._squares[where] += squares
        # Of which at most a quarter is rounding.
        self._noise = 0.25 if codes.dense.dtype == np.int8 else 0.0

    def finish(self, where: slice) -> None:
        """Standardise by the sample where it varies more than all tokens."""
        mean = self.code_sum[where] / self.n_tokens
        variance = self._squares[where] / self.n_tokens - mean**2 - self._noise
        with np.errstate(divide="ignore"):
            of_sample = 1 / np.sqrt(variance.clip(min=0))
        self.factor[where] = np.minimum(self.factor[where], of_sample)


def sample_of(store: Activations, context_length: int, n_tokens: int) -> list[Pairing]:
    """The pairings of a run, from its first shard.

    Parameters
    ----------
    store
        Activations of a model on the first shard; all models have the same rows.
    context_length
        Tokens per sequence.
    n_tokens
        Scored tokens of all shards.
    """
    wanted = max(MIN_TOKENS, int(SAMPLE * n_tokens))
    return pair_sequences(
        store.token_index(), context_length, wanted, block_tokens(max(store.d_mlp))
    )


def permuted_pair(
    a: Captured,
    b: Captured,
    context_length: int,
    kernel: str,
    *,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the best matches with other sequences of two models, both ways.

    Parameters
    ----------
    a, b
        The two models, with their activations on the first shard.
    context_length
        Tokens per sequence.
    kernel
        See `kernels.choose_kernel`.
    path
        Store to make, see `arrays.write_by_pair`; without pairs if the sample has one sequence.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*a.paths(), *b.paths()])
    one, other = (attributes_of(x.moments[0])["seed"] for x in (a, b))
    a_store, b_store = (Activations(x.activations[0]) for x in (a, b))
    a_neurons, b_neurons = (Neurons.read(x.moments, x.calibration) for x in (a, b))
    found = {}
    if pairings := sample_of(a_store, context_length, a_neurons.n_tokens):
        ways = permuted_best(a_store, b_store, a_neurons, b_neurons, pairings, kernel)
        found[one, other], found[other, one] = ways
    write_by_pair(path, found, {**attributes, **same})
