"""Sums over classes of tokens of models that run side by side, without stored activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.class_sums import Groups, LayerSums, labels_of
from universal_neurons.activations.codes import Codes


class DirectClasses:
    """Those of all layers of several models, block by block, held in the processor's memory.

    Parameters
    ----------
    d_mlp
        Number of neurons of every layer, by seed.
    groups
        Of the shard's scored tokens, by kind.
    encoding
        Of the codes.
    """

    def __init__(
        self, d_mlp: Mapping[str, Sequence[int]], groups: Mapping[str, Groups], encoding: str
    ) -> None:
        self._groups, self._start = groups, 0
        self._sums = {
            seed: [LayerSums(groups, width, encoding) for width in own]
            for seed, own in d_mlp.items()
        }

    def add(self, codes: Mapping[str, Sequence[Codes]]) -> None:
        """Add the codes of the next tokens of all models, layer by layer."""
        for seed, layers in codes.items():
            for sums, own in zip(self._sums[seed], layers, strict=True):
                sums.add(np.ascontiguousarray(own.dense.cpu().numpy()), self._start)
                sums.add_rests(own.escapes.moved(self._start))
        self._start += len(layers[0])

    def of_seed(self, seed: str) -> Iterator[tuple[str, NDArray]]:
        """A model's, as `class_sums.class_sums` yields them."""
        yield from labels_of(self._groups)
        for layer, sums in enumerate(self._sums[seed]):
            for kind, total in sums.by_kind.items():
                yield f"{kind}{layer}", total
