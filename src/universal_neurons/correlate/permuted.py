"""Best matches between models that read different text: what noise alone matches.

Whole sequences of one model are paired with other sequences of the other model. What the two had in
common through the text is gone; how active their neurons are, and for how long, stays. The excess
of such matches, over their own rotated baseline, is a check on noise.
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
from universal_neurons.activations.products import (
    Reader,
    ahead,
    block_tokens,
    paired,
    tile_name,
)
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.match import match
from universal_neurons.correlate.matches import Matches, PairMatches
from universal_neurons.correlate.neurons import Captured, Neurons
from universal_neurons.correlate.rotations import (
    Baseline,
    Rotating,
    Rotations,
    covariance_of_codes,
    rotated_std,
)
from universal_neurons.correlate.sample import code_sums
from universal_neurons.store.arrays import Added
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


def permuted_matches(
    a: Paired, b: Paired, rotations: Rotations, rotating: Rotating, kernel: str = "auto"
) -> tuple[Matches, Matches]:
    """Best matches, and their rotated baseline, of two models that read different sequences.

    As `match.match` has them of all tokens, with everything from the sample, the standard
    deviations of the codes too: no correlation is above 1, and the excess is that of noise.

    Parameters
    ----------
    a, b
        The two models.
    rotations, rotating
        The run's rotations, and how neurons are rotated.
    kernel
        See `kernels.choose_kernel`.

    Returns
    -------
    forward, backward
        Of every neuron of `a` among those of `b`, and the reverse. A neuron that is constant in
        the sample is dead.

    Raises
    ------
    UserError
        If the two were captured over different tokens.
    """
    a.store.check_same_tokens(b.store)
    kernel = choose_kernel(kernel, 2 * a.n_tokens * sum(a.store.d_mlp) * sum(b.store.d_mlp))
    (of_a, baseline_a), (of_b, baseline_b) = (
        x.statistics(rotations, rotating, kernel) for x in (a, b)
    )
    forward = Matches.nothing(len(of_a.std), rotating.draws)
    backward = Matches.nothing(len(of_b.std), rotating.draws)
    places = range(len(a.kept))
    others = [partial(b.codes, j) for j in range(len(of_b.d_mlp))]
    for layer, own in enumerate(of_a.layers):
        tiles = {
            tile_name(layer, j): zeros(of_a.d_mlp[layer], d_b, a.store.encoding)
            for j, d_b in enumerate(of_b.d_mlp)
        }
        what = f"blocks of permuted layer {layer}"
        for _, j, mine, theirs in paired(places, partial(a.codes, layer), others, what):
            name = tile_name(layer, j)
            tiles[name] = add_products(tiles[name], mine, theirs, kernel)
        of_layer, of_others = match(
            tiles, of_a, of_b, [layer], baseline_a=baseline_a, baseline_b=baseline_b
        )
        forward.update(of_layer, own)
        backward.update(of_others)
    return forward, backward


class Paired:
    """What is paired of a model's store.

    Parameters
    ----------
    store
        Activations of a shard.
    scale
        Activation units per code, shape (N,).
    kept
        One side of the pairings.
    """

    def __init__(self, store: Activations, scale: NDArray, kept: Sequence[Kept]) -> None:
        self.store, self.kept, self._scale = store, kept, scale
        self._read = Reader(max((own.rows.stop - own.rows.start for own in kept), default=0))

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are paired; with none, as if of one: then all neurons are dead."""
        return max(1, sum(map(len, self.kept)))

    def codes(self, layer: int, place: int) -> Codes:
        """Those of a layer in one of the pairings, valid until the next but one is read."""
        own = self.kept[place]
        return self._read(self.store, layer, own.rows).take_rows(own.places)

    def statistics(
        self, rotations: Rotations, rotating: Rotating, kernel: str
    ) -> tuple[Neurons, Baseline]:
        """Statistics of all that is paired, from the codes, and the rotations with their spread."""
        d_mlp, n_tokens = self.store.d_mlp, self.n_tokens
        scales = np.split(self._scale, np.cumsum(d_mlp)[:-1])
        code_sum, std, spread = [], [], []
        for layer, (d, scale) in enumerate(zip(d_mlp, scales, strict=True)):
            products, total = zeros(d, d, self.store.encoding), np.zeros(d)
            reads = [partial(self.codes, layer, place) for place in range(len(self.kept))]
            for codes in ahead(reads):
                products = add_products(products, codes, codes, kernel)
                total += code_sums(codes)[0]
            covariance = covariance_of_codes(products, total, scale, n_tokens)
            code_sum.append(total)
            std.append(np.sqrt(covariance.diagonal().clip(min=0)))
            spread.append(rotated_std(covariance, rotations, layer, rotating))
        neurons = Neurons(
            d_mlp, n_tokens, np.concatenate(code_sum), self._scale, np.concatenate(std)
        )
        together = np.concatenate(spread, axis=1)
        return neurons, Baseline(neurons, rotations, together, standardise=rotating.standardise)


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
    *,
    rotations: str | Path,
    rotating: Rotating,
    kernel: str,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the best matches of two models that read different sequences.

    Parameters
    ----------
    a, b
        The two models, with their activations on the first shard.
    context_length
        Tokens per sequence.
    rotations, rotating
        The run's rotations, and how neurons are rotated.
    kernel
        See `kernels.choose_kernel`.
    path
        Store to make, see `matches.PairMatches`; all neurons are dead in it if the sample has one
        sequence.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*a.paths(), *b.paths(), rotations])
    stores = [Activations(x.activations[0]) for x in (a, b)]
    of_all = [Neurons.read(x.moments, x.calibration) for x in (a, b)]
    pairings = sample_of(stores[0], context_length, of_all[0].n_tokens)
    one, other = (
        Paired(store, neurons.scale, [both[side] for both in pairings])
        for side, (store, neurons) in enumerate(zip(stores, of_all, strict=True))
    )
    PairMatches(
        a.seed,
        b.seed,
        range(len(one.store.d_mlp)),
        one.store.d_mlp,
        other.store.d_mlp,
        *permuted_matches(one, other, Added([rotations]), rotating, kernel),
        "permuted",
    ).write(path, {**attributes, **same})
