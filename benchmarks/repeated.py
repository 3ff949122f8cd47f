"""Models of several layers from activations of one: what a job of a whole model does, at its shape.

Synthetic activations of twelve layers would take the benchmark's time to make. What jobs do with a
layer does not depend on which one it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import Baseline, rotation_name
from universal_neurons.correlate.screen import Side
from universal_neurons.store.arrays import Added, read_arrays


class RepeatedLayer(Activations):
    """A store whose only layer is read, decoded each time, as every one of several.

    Of all its tokens, or of the first ones.
    """

    def __init__(self, path: str | Path, n_layers: int, n_tokens: int | None = None) -> None:
        super().__init__(path)
        self.d_mlp = self.d_mlp * n_layers
        self.n_tokens = n_tokens or self.n_tokens

    def stored(
        self, layer: int, rows: slice = slice(None), buffer: NDArray | None = None
    ) -> NDArray:
        """The layer's values."""
        return super().stored(0, rows, buffer)

    def codes(self, layer: int, rows: slice = slice(None), buffer: NDArray | None = None) -> Codes:
        """The layer's codes."""
        return super().codes(0, rows, buffer)

    def escapes(self, layer: int) -> Escapes:
        """The layer's codes beyond int8's."""
        return super().escapes(0)


class RepeatedRotations(Mapping[str, NDArray[np.float32]]):
    """Rotations of one layer, read each time, as those of every one of several."""

    def __init__(self, path: str | Path, d_mlp: int) -> None:
        self._stored, self._d_mlp = Added([path]), d_mlp

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        draw = int(name.rpartition("_")[2])
        return self._stored[rotation_name(self._d_mlp, 0, draw)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def repeated(
    stores: Sequence[Activations], one: Neurons, rotations: str | Path, rotated: str | Path, n: int
) -> Side:
    """A model of n layers that are all alike.

    Parameters
    ----------
    stores, one
        Activations and statistics of a model of one layer.
    rotations, rotated
        Stores of its rotations and of its spread under them.
    n
        Number of layers.
    """
    tiled = (np.tile(x, n) for x in (one.code_sum, one.scale, one.std))
    neurons = Neurons(one.d_mlp * n, one.n_tokens, *tiled)
    spread = np.tile(read_arrays(rotated)["std"], n)
    baseline = Baseline(neurons, RepeatedRotations(rotations, one.d_mlp[0]), spread)
    return Side([RepeatedLayer(store.path, n) for store in stores], neurons, baseline)
