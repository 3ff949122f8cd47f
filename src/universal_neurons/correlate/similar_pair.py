"""Similarity of every two layers of a pair of models, and of neurons to whole layers, stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.products import tile_name
from universal_neurons.correlate import similarity
from universal_neurons.correlate.neurons import Captured, Neurons, standardised
from universal_neurons.correlate.rotations import covariance_within
from universal_neurons.correlate.similarity import Layer
from universal_neurons.jobs import progress
from universal_neurons.store.arrays import Added, attributes_of, read_arrays, write_arrays
from universal_neurons.store.same_run import check_same_run

# Width above which what takes spectra is computed of layers of like depth only: twelve pairs of
# layers of GPT-2 Small in place of 144 (docs/performance.md).
WIDE = 1024

# The measures of two layers.
MEASURES = ("cka", "pwcca", "procrustes", "soft_matching", "unmatched_mass", "matched_corr")


class Within:
    """One model's neurons with the covariances of its layers.

    Parameters
    ----------
    captured
        Where its moments are.
    within
        Its within-layer sums, of all shards.
    """

    def __init__(self, captured: Captured, within: Sequence[str | Path]) -> None:
        layers = read_calibration(captured.calibration)
        self._sums = moments.merge(map(read_arrays, captured.moments))
        self._scale = np.concatenate([layer.ranges.scale for layer in layers])
        self._products = Added(within)
        d_mlp = [len(layer.centre) for layer in layers]
        self.neurons = Neurons.of(d_mlp, self._sums, self._scale)

    def layer(self, number: int) -> Layer:
        """What is needed of one layer, in float32."""
        products = self._products[tile_name(number, number)]
        own = self.neurons.layers[number]
        covariance = covariance_within(products, self._sums, self._scale, own)
        return Layer.of(covariance, np.float32)


@dataclass(frozen=True)
class PairSimilarity:
    """How alike the layers of two seeds are at one step.

    Attributes
    ----------
    seed, other_seed
        The pair.
    measures
        Of `MEASURES` by name: float64, shape (layers of `seed`, layers of `other_seed`), NaN where
        it was not computed.
    forward, backward
        Share of variance of every neuron of `seed`, and of `other_seed`, that all neurons of one
        layer of the other seed explain, the largest over its layers (`similarity.explained`);
        float64, shape (N,), NaN for a dead neuron.
    """

    seed: str
    other_seed: str
    measures: Mapping[str, NDArray[np.float64]]
    forward: NDArray[np.float64]
    backward: NDArray[np.float64]

    def write(self, path: str | Path, attributes: Mapping[str, Any]) -> None:
        """Store it; `read` reads it."""
        arrays = {**self.measures, "forward": self.forward, "backward": self.backward}
        pair = {"seed": self.seed, "other_seed": self.other_seed}
        write_arrays(path, arrays.items(), {**attributes, **pair})

    @classmethod
    def read(cls, path: str | Path) -> PairSimilarity:
        """Read what `write` stored."""
        about, arrays = attributes_of(path), read_arrays(path)
        measures = {name: arrays[name] for name in MEASURES}
        forward, backward = arrays["forward"], arrays["backward"]
        return cls(about["seed"], about["other_seed"], measures, forward, backward)


def like_depth(n: int, other: int) -> NDArray[np.bool_]:
    """Which layers of two models lie at like depth: each with the nearest ones, shape (n, other).

    With as many layers in both: the diagonal.
    """
    depth, other_depth = (np.linspace(0, 1, layers) for layers in (n, other))
    apart = np.abs(depth[:, None] - other_depth)
    return (apart == apart.min(0)) | (apart == apart.min(1)[:, None])


def compare(
    total: Callable[[int, int], NDArray], a: Within, b: Within
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64], NDArray[np.float64]]:
    """Compare every layer of a model with every layer of another.

    Parameters
    ----------
    total
        Summed products of the codes of a layer of `a` and one of `b`.
    a, b
        The models.

    Returns
    -------
    measures, forward, backward
        See `PairSimilarity`.
    """
    one, other = a.neurons, b.neurons
    shape = len(one.layers), len(other.layers)
    near = like_depth(*shape)
    measures = {name: np.full(shape, np.nan) for name in MEASURES}
    forward, backward = (np.full(len(x.std), -np.inf) for x in (one, other))
    theirs = [b.layer(j) for j in range(shape[1])]
    for i, a_slice in enumerate(progress(one.layers, "layers")):
        mine = a.layer(i)
        for j, b_slice in enumerate(other.layers):
            corr = standardised(total(i, j), one, a_slice, other, b_slice).astype(np.float32)
            for found, here, r2 in (
                (forward, a_slice, similarity.explained(corr.T, theirs[j], one.n_tokens)),
                (backward, b_slice, similarity.explained(corr, mine, one.n_tokens)),
            ):
                found[here] = np.maximum(found[here], r2)
            spectra = near[i, j] or max(corr.shape) <= WIDE
            for name, value in _measures(corr, mine, theirs[j], spectra=bool(spectra)).items():
                measures[name][i, j] = value
    for found, neurons in ((forward, one), (backward, other)):
        found[neurons.std == 0] = np.nan
    return measures, forward, backward


def _measures(corr: NDArray, a: Layer, b: Layer, *, spectra: bool) -> dict[str, float]:
    unmatched, mean = similarity.matched(corr)
    found = {
        "cka": similarity.cka(corr, a, b),
        "soft_matching": similarity.soft_matching(corr),
        "unmatched_mass": unmatched,
        "matched_corr": mean,
    }
    if spectra:
        found["pwcca"] = similarity.pwcca(corr, a, b)
        found["procrustes"] = similarity.procrustes(corr, a, b)
    return found


def compare_pair(
    sums: Sequence[str | Path],
    a: Captured,
    b: Captured,
    within: tuple[Sequence[str | Path], Sequence[str | Path]],
    *,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Compare the layers of two models and store it, see `PairSimilarity`.

    Parameters
    ----------
    sums
        Their partial sums, of all blocks of layers and of each all shards; `products.cross_sums`.
    a, b
        The two models.
    within
        Within-layer sums of either, of all shards.
    path
        Store to make.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*sums, *a.paths(), *b.paths(), *within[0], *within[1]])
    n = len(a.moments)
    blocks = [Added(sums[i : i + n]) for i in range(0, len(sums), n)]
    of_block = {name: block for block in blocks for name in block}
    one, other = Within(a, within[0]), Within(b, within[1])

    def total(i: int, j: int) -> NDArray:
        name = tile_name(i, j)
        return of_block[name][name]

    found = compare(total, one, other)
    PairSimilarity(a.seed, b.seed, *found).write(path, {**attributes, **same})
