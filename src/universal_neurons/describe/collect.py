"""What is collected of a layer's chosen neurons while a model reads the corpus once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from universal_neurons.describe.windows import AFTER, BEFORE, places, windows

# Contexts with the largest activations, between two quantiles, and drawn from all tokens.
TOP, OF_BAND, RANDOM = 20, 5, 10
BANDS = {
    "0.99-0.999": (0.99, 0.999),
    "0.9-0.99": (0.9, 0.99),
    "0.5-0.9": (0.5, 0.9),
    "0-0.5": (0, 0.5),
}

# Bins of a histogram; tokens listed, and how often each must occur.
BINS, TOKENS, OCCURRENCES = 256, 20, 10


@dataclass(frozen=True)
class Batch:
    """Consecutive sequences.

    Attributes
    ----------
    first
        Number of the first one in the corpus.
    tokens
        Token ids, shape (sequences, context length).
    scored
        Which of them count, of the same shape.
    subset
        Number of the subset that each is of, of the same shape; None if there are none.
    """

    first: int
    tokens: NDArray[np.integer]
    scored: NDArray[np.bool_]
    subset: NDArray[np.integer] | None


@dataclass(frozen=True)
class Contexts:
    """Contexts of a layer's neurons.

    Attributes
    ----------
    activation
        Of the neuron at the token, float32, shape (contexts, neurons); −inf where there is no
        context.
    sequence, position
        Where the token is, of the same shape.
    windows
        Activations about it, shape (contexts, neurons, window); NaN off the ends of a sequence.
    """

    activation: NDArray[np.float32]
    sequence: NDArray[np.integer]
    position: NDArray[np.integer]
    windows: NDArray[np.float32]

    @classmethod
    def none(cls, n_neurons: int) -> Contexts:
        """No contexts yet."""
        nothing = np.empty((0, n_neurons), np.int64)
        window = np.empty((0, n_neurons, BEFORE + 1 + AFTER), np.float32)
        return cls(nothing.astype(np.float32), nothing, nothing, window)

    @classmethod
    def at(
        cls, x: NDArray[np.float32], sequence: NDArray[np.integer], position: NDArray[np.integer]
    ) -> Contexts:
        """Those at given places (contexts, neurons) of activations (sequences, length, neurons)."""
        column = np.broadcast_to(np.arange(x.shape[2]), sequence.shape)
        found = x[sequence, position, column]
        return cls(found, sequence, position, windows(x, sequence, places(position), column))

    def largest(self, n: int) -> Contexts:
        """The `n` with the largest activations, largest first; of equal ones the earlier."""
        order = np.argsort(-self.activation, axis=0, kind="stable")[:n]
        return Contexts(
            np.take_along_axis(self.activation, order, 0),
            np.take_along_axis(self.sequence, order, 0),
            np.take_along_axis(self.position, order, 0),
            np.take_along_axis(self.windows, order[..., None], 0),
        )

    def and_then(self, others: Contexts) -> Contexts:
        """These and others."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Contexts(*(np.concatenate(pair) for pair in pairs))


class Top:
    """The contexts of the largest activations, of every sequence one at most."""

    def __init__(self, n_neurons: int) -> None:
        self.contexts = Contexts.none(n_neurons)

    def add(self, x: NDArray[np.float32], batch: Batch) -> None:
        """Take activations of shape (sequences, context length, neurons)."""
        counted = np.where(batch.scored[..., None], x, -np.inf)
        position = counted.argmax(1)
        sequence = np.broadcast_to(np.arange(len(x))[:, None], position.shape)
        found = Contexts.at(x, sequence, position)
        peak = counted.max(1)
        new = Contexts(peak, batch.first + sequence, position, found.windows)
        self.contexts = self.contexts.and_then(new).largest(TOP)


class Histogram:
    """Counts of activations in `BINS` bins of one width, as `numpy.histogram` has them.

    Parameters
    ----------
    low, high
        Smallest and largest activation, shape (neurons,): where they are equal, the bins are those
        of ½ about them. What lies beyond by rounding is counted at the ends.
    n_subsets
        Number of subsets to tell apart; 1 if there are none.
    """

    def __init__(self, low: NDArray, high: NDArray, n_subsets: int) -> None:
        one = low == high
        self.low = np.where(one, low - 0.5, low).astype(np.float64)
        self.high = np.where(one, high + 0.5, high).astype(np.float64)
        edges = np.linspace(self.low, self.high, BINS + 1, axis=1)
        # The next float32 above an edge parts the same activations.
        near = edges.astype(np.float32)
        self._edges = np.where(near < edges, np.nextafter(near, np.float32(np.inf)), near)
        self._edges[:, 0], self._edges[:, -1] = -np.inf, np.inf
        self.counts = np.zeros((n_subsets, len(low), BINS), np.int32)

    def add(self, x: NDArray[np.float32], batch: Batch) -> None:
        """Take activations of shape (sequences, context length, neurons)."""
        values, neuron = x[batch.scored], np.arange(x.shape[2], dtype=np.int32)
        near = (values - self.low) * (BINS / (self.high - self.low))
        place = near.clip(0, BINS - 1).astype(np.int32) + (BINS + 1) * neuron
        # Rounding may be off by one bin: the edges decide.
        place -= values < self._edges.take(place)
        place += values >= self._edges.take(place + 1)
        place -= neuron
        if batch.subset is not None:
            place += self.counts[0].size * batch.subset[batch.scored, None].astype(np.int32)
        found = np.bincount(place.ravel(), minlength=self.counts.size)
        self.counts += found.reshape(self.counts.shape)


class TokenSums:
    """Sums of activations by token.

    Parameters
    ----------
    token_ids
        The tokens, ascending.
    n_neurons
        Number of neurons.
    """

    def __init__(self, token_ids: NDArray[np.integer], n_neurons: int) -> None:
        self._ids = token_ids
        self.sums = np.zeros((len(token_ids), n_neurons))

    def add(self, x: NDArray[np.float32], batch: Batch) -> None:
        """Take activations of shape (sequences, context length, neurons)."""
        counted = batch.scored & np.isin(batch.tokens, self._ids)
        if not counted.any():
            return
        which = np.searchsorted(self._ids, batch.tokens[counted])
        order = np.argsort(which, kind="stable")
        kinds, starts = np.unique(which[order], return_index=True)
        self.sums[kinds] += np.add.reduceat(x[counted][order], starts, axis=0, dtype=np.float64)


class Sample:
    """Activations of some sequences, to draw contexts from.

    Parameters
    ----------
    sequences
        Their numbers in the corpus, ascending.
    context_length
        Tokens of each.
    n_neurons
        Number of neurons.
    """

    def __init__(self, sequences: NDArray[np.integer], context_length: int, n_neurons: int) -> None:
        self._sequences = sequences
        self._x = np.empty((len(sequences), context_length, n_neurons), np.float32)
        self._scored = np.zeros(self._x.shape[:2], bool)

    def add(self, x: NDArray[np.float32], batch: Batch) -> None:
        """Take activations of shape (sequences, context length, neurons)."""
        first, last = np.searchsorted(self._sequences, [batch.first, batch.first + len(x)])
        rows = self._sequences[first:last] - batch.first
        self._x[first:last], self._scored[first:last] = x[rows], batch.scored[rows]

    def contexts(self, rng: np.random.Generator) -> dict[str, Contexts]:
        """Contexts by band, of every neuron `OF_BAND` between two quantiles and `RANDOM` of all.

        Fewer where the sample has fewer. A band from p to q has the tokens of ranks ⌊pn⌋ to ⌈qn⌉ of
        the n scored ones; those that are equal are in random order.
        """
        places = rng.permutation(np.argwhere(self._scored))
        sequence, position = places.T
        n, n_neurons = len(places), self._x.shape[2]
        order = np.argsort(self._x[sequence, position], axis=0, kind="stable")

        def drawn(start: int, stop: int, size: int) -> NDArray[np.int64]:
            size = min(size, stop - start)
            draws = [rng.choice(stop - start, size, replace=False) for _ in range(n_neurons)]
            return start + np.array(draws, np.int64).T

        def at(tokens: NDArray[np.int64]) -> Contexts:
            found = Contexts.at(self._x, sequence[tokens], position[tokens]).largest(len(tokens))
            return Contexts(
                found.activation, self._sequences[found.sequence], found.position, found.windows
            )

        found = {}
        for band, (low, high) in BANDS.items():
            ranks = drawn(int(np.floor(low * n)), int(np.ceil(high * n)), OF_BAND)
            found[band] = at(np.take_along_axis(order, ranks, 0))
        return {**found, "random": at(drawn(0, n, RANDOM))}
