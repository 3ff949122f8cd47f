"""Token noise: scores of a sample of neurons from part of the shards.

Partial sums add up shard by shard, so their running totals hold the sums of fewer tokens: of the
first half of the shards, the first quarter and so on. The rest of the shards beside the first half
is a second measurement on other tokens, and the two halves say how reliable a score is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.products import tile_name
from universal_neurons.correlate.neurons import Neurons, standardised
from universal_neurons.store.arrays import Added


def shard_ranges(n_shards: int) -> list[tuple[int, int]]:
    """First shard of every point and the one after its last.

    The first … quarter and half of the shards, then all, then the second half; nothing of a single
    shard.
    """
    if n_shards == 1:
        return []
    nested = [n_shards >> i for i in reversed(range(n_shards.bit_length()))]
    return [*((0, stop) for stop in nested), (n_shards // 2, n_shards)]


def sampled(d_mlp: int) -> NDArray[np.int64]:
    """Which neurons of a layer are scored: a sixteenth, or 64 if that is more, evenly spaced."""
    n = min(d_mlp, max(64, d_mlp // 16))
    return np.arange(n) * d_mlp // n


@dataclass(frozen=True)
class BudgetPoints:
    """What `Budget` found of some layers of a pair.

    Attributes
    ----------
    shards
        Of every point the first shard and the one after the last.
    tokens
        Of every point the number of scored tokens.
    forward, backward
        Largest correlation and largest with rotated neurons, of the sampled neurons of the pair's
        first seed among those of the second and the reverse; float64, shape (2, points, n).
    """

    shards: Sequence[tuple[int, int]]
    tokens: Sequence[int]
    forward: NDArray[np.float64]
    backward: NDArray[np.float64]


class Budget:
    """Best matches and baseline of a pair's sampled neurons at every point.

    They are found among all neurons of the other model, with the first rotation alone; its weights
    and spread are those of all tokens at every point.

    Parameters
    ----------
    sums
        The partial sums of all shards, two or more.
    ranges
        Of the points, as `shard_ranges` returns them.
    a, b
        The two models at every point.

    Attributes
    ----------
    forward, backward
        Largest correlation and largest with rotated neurons, of the sampled neurons of `a` among
        those of `b` and the reverse, float64, shape (2, points, n); −∞ until `total` was asked for
        a tile with them.
    """

    def __init__(
        self,
        sums: Added,
        ranges: Sequence[tuple[int, int]],
        a: Sequence[Neurons],
        b: Sequence[Neurons],
    ) -> None:
        self._sums, self._ranges, self._a, self._b = sums, ranges, a, b
        self.forward, self.backward = (
            np.full((2, len(ranges), sum(len(sampled(d)) for d in models[0].d_mlp)), -np.inf)
            for models in (a, b)
        )

    def total(
        self,
        i: int,
        j: int,
        rotated_a: NDArray[np.float32],
        rotated_b: NDArray[np.float32],
    ) -> NDArray:
        """Sums over all shards of layer i of `a` and j of `b`; scores the points on the way.

        Parameters
        ----------
        i, j
            The layers.
        rotated_a, rotated_b
            Their first rotation, see `rotations.Baseline.matrices`.
        """
        rows, columns = sampled(self._a[0].d_mlp[i]), sampled(self._b[0].d_mlp[j])
        edges = {edge for edges in self._ranges for edge in edges}
        nothing = np.zeros((), np.int64)
        ahead, back = {0: nothing}, {0: nothing}
        for n_shards, total in enumerate(self._sums.running(tile_name(i, j)), start=1):
            if n_shards in edges:
                ahead[n_shards], back[n_shards] = total[rows], total[:, columns].T
        self._score(self.forward, ahead, self._a, i, self._b, j, rotated_b)
        self._score(self.backward, back, self._b, j, self._a, i, rotated_a)
        return total

    def _score(
        self,
        found: NDArray[np.float64],
        running: Mapping[int, NDArray],
        mine: Sequence[Neurons],
        layer: int,
        theirs: Sequence[Neurons],
        other: int,
        rotated: NDArray[np.float32],
    ) -> None:
        """Take in one model's sampled neurons of a layer among those of another's layer."""
        d_mlp = mine[0].d_mlp
        own, first = sampled(d_mlp[layer]), sum(len(sampled(d)) for d in d_mlp[:layer])
        products = [running[stop] - running[start] for start, stop in self._ranges]
        corr = np.stack(
            [
                standardised(p, x, x.layers[layer].start + own, y, y.layers[other])
                for p, x, y in zip(products, mine, theirs, strict=True)
            ]
        )
        # One product for all points.
        flat = corr.astype(np.float32).reshape(-1, corr.shape[-1])
        baseline = (flat @ rotated.T).max(1).reshape(corr.shape[:-1])
        here = found[:, :, first : first + len(own)]
        np.maximum(here, [corr.max(-1), baseline], out=here)

    def points(self) -> BudgetPoints:
        """All that was found."""
        tokens = [neurons.n_tokens for neurons in self._a]
        return BudgetPoints(self._ranges, tokens, self.forward, self.backward)
