"""Best matches of two models and their rotated baselines, taken in tile by tile, both ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from universal_neurons.correlate.matches import Matches
from universal_neurons.correlate.neurons import Neurons, part
from universal_neurons.correlate.rotations import Baseline, rotated_best


class Search:
    """What has been found between some layers of one model and all layers of another.

    Parameters
    ----------
    a, b
        The two models.
    layers
        Layers of `a`.
    baseline_a, baseline_b
        Their rotations.
    """

    def __init__(
        self,
        a: Neurons,
        b: Neurons,
        layers: Sequence[int],
        baseline_a: Baseline,
        baseline_b: Baseline,
    ) -> None:
        self._a, self._b, self._layers = a, b, layers
        self._baseline_b = baseline_b
        self._starts = np.cumsum([0, *(a.d_mlp[i] for i in layers)])
        self.forward, self.backward = (
            Matches.nothing(n, baseline.draws, compared=baseline.other is not None)
            for n, baseline in ((int(self._starts[-1]), baseline_b), (len(b.std), baseline_a))
        )
        self.rotated_a = [_with_other(baseline_a, i) for i in layers]
        self.rotated_b: list[NDArray[np.float32]] = []
        # Fresh memory for every tile would cost more than what is done with it.
        widest = max(a.d_mlp), max(b.d_mlp)
        self._single, self._product = np.empty(widest, np.float32), np.empty(widest, np.float32)

    def turn_to(self, other: int) -> None:
        """Go on with a layer of `b`."""
        self.rotated_b = _with_other(self._baseline_b, other)

    def take(self, corr: NDArray[np.float64], place: int, other: int) -> None:
        """Take in the correlations of two layers: of `layers[place]` of `a`, and `other` of `b`."""
        a_slice, b_slice = self._a.layers[self._layers[place]], self._b.layers[other]
        tile, room = (part(buffer, corr.shape) for buffer in (self._single, self._product))
        tile[...] = corr
        rows = slice(int(self._starts[place]), int(self._starts[place + 1]))
        ahead, back = rotated_best(tile, self.rotated_a[place], self.rotated_b, room)
        mine, theirs = np.arange(a_slice.start, a_slice.stop), np.arange(len(self._b.std))[b_slice]
        self.forward.take(corr, mine - a_slice.start + rows.start, theirs)
        self.backward.take(corr.T, theirs, mine)
        self.forward.take_baseline(ahead, rows)
        self.backward.take_baseline(back, b_slice)

    def found(self) -> tuple[Matches, Matches]:
        """Matches of `a`'s neurons of the layers in order, and of all of `b`: none of dead ones."""
        for matches, neurons, own in (
            (self.forward, self._a, self._layers),
            (self.backward, self._b, range(len(self._b.d_mlp))),
        ):
            matches.clear(np.concatenate([neurons.std[neurons.layers[i]] for i in own]) == 0)
        return self.forward, self.backward


def _with_other(baseline: Baseline, layer: int) -> list[NDArray[np.float32]]:
    """A layer's rotations, and last the one of the other choice where there is one."""
    other = baseline.other.matrices(layer) if baseline.other else []
    return [*baseline.matrices(layer), *other]
