"""All-pairs correlations of two models' neurons, and their rotated baseline.

Partial sums of products of codes are made per shard; they add up exactly. Everything else, the
correlations, the best matches and the baseline, comes from the added sums without a second pass
over the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons import moments
from universal_neurons.activations import Activations
from universal_neurons.calibration import read_calibration
from universal_neurons.encoding import LIMIT
from universal_neurons.jobs import progress
from universal_neurons.store import Added, read_arrays, write_arrays

KERNELS = ("auto", "int8", "float32")

# Tokens per product with exact sums: int8 products are added in int32, float32 holds integers up
# to 2**24.
INT8_TOKENS = (2**31 - 1) // LIMIT**2
FLOAT32_TOKENS = 2**24 // LIMIT**2

# Below this many operations NumPy is done before torch is imported.
SMALL = 2e11

# Tokens read at a time: two blocks of GPT-2 Small's 3,072 neurons are 100 MB of int8.
READ_TOKENS = 16384


def add_products(total: NDArray, a: NDArray, b: NDArray, kernel: str) -> None:
    """Add aᵀb to `total`.

    Parameters
    ----------
    total
        Shape (d_a, d_b); int64 for int8 codes (exact), float64 for float32 ones.
    a, b
        Codes of the same tokens, shapes (tokens, d_a) and (tokens, d_b), both int8 or both
        float32.
    kernel
        ``int8`` multiplies int8 codes with torch's int8 product; ``float32`` multiplies in
        float32, for int8 codes in blocks small enough to be exact, so both give the same bits.
    """
    # torch 2.13's int8 product is wrong for a single row on the CPU (a test found it).
    if kernel == "int8" and a.dtype == np.int8 and a.shape[1] > 1:
        import torch  # 1 s: not paid by small jobs

        into = torch.from_numpy(total)
        for i in range(0, len(a), INT8_TOKENS):
            rows = slice(i, i + INT8_TOKENS)
            into += torch._int_mm(torch.from_numpy(a[rows]).t(), torch.from_numpy(b[rows]))
        return
    for i in range(0, len(a), FLOAT32_TOKENS):
        rows = slice(i, i + FLOAT32_TOKENS)
        product = a[rows].astype(np.float32).T @ b[rows].astype(np.float32)
        np.add(total, product, out=total, casting="unsafe")


def _kernel(kernel: str, operations: float) -> str:
    if kernel != "auto":
        return kernel
    return "int8" if operations > SMALL else "float32"


def _zeros(d_a: int, d_b: int, store: Activations) -> NDArray:
    return np.zeros((d_a, d_b), np.int64 if store.encoding == "int8" else np.float64)


def cross_sums(
    a: Activations, b: Activations, layers: Sequence[int], kernel: str = "auto"
) -> Iterator[tuple[str, NDArray]]:
    """Sums of products of codes between some layers of one model and all layers of another.

    Parameters
    ----------
    a, b
        The two models' activations on the same shard.
    layers
        Layers of `a`.
    kernel
        One of `KERNELS`; ``auto`` takes int8 for all but small jobs.

    Yields
    ------
    name, sums
        For every layer i of `layers` and j of `b`, ``tile_name(i, j)`` and an array of shape
        (d_mlp of i, d_mlp of j), int64 or float64 (see `add_products`). The tiles of one layer of
        `a` are held in memory together.

    Raises
    ------
    UserError
        If the two were captured over different tokens.
    """
    a.check_same_tokens(b)
    d_a = sum(a.d_mlp[layer] for layer in layers)
    kernel = _kernel(kernel, 2 * a.n_tokens * d_a * sum(b.d_mlp))
    for layer in layers:
        tiles = [_zeros(a.d_mlp[layer], d_b, a) for d_b in b.d_mlp]
        for rows in progress(a.row_blocks(READ_TOKENS), f"blocks of layer {layer}"):
            codes = a.codes(layer, rows)
            for other, tile in enumerate(tiles):
                add_products(tile, codes, b.codes(other, rows), kernel)
        for other, tile in enumerate(tiles):
            yield tile_name(layer, other), tile


def within_sums(store: Activations, kernel: str = "auto") -> Iterator[tuple[str, NDArray]]:
    """Sums of products of codes within each layer of one model; see `cross_sums`."""
    kernel = _kernel(kernel, 2 * store.n_tokens * sum(d**2 for d in store.d_mlp))
    for layer, d_mlp in enumerate(store.d_mlp):
        total = _zeros(d_mlp, d_mlp, store)
        for rows in store.row_blocks(READ_TOKENS):
            codes = store.codes(layer, rows)
            add_products(total, codes, codes, kernel)
        yield tile_name(layer, layer), total


def tile_name(layer: int, other_layer: int) -> str:
    """Name of the array with the sums of a layer and another model's layer."""
    return f"{layer}x{other_layer}"


def rotation(seed: int, layer: int, draw: int, d_mlp: int) -> NDArray[np.float32]:
    """A random orthogonal matrix (Haar), shape (d_mlp, d_mlp).

    It depends on its arguments alone: all models, pairs and steps share the rotations. It is the
    Q of a Gaussian matrix's QR decomposition with the signs of R's diagonal (Mezzadri 2007,
    arXiv math-ph/0609050).
    """
    gaussian = np.random.default_rng([seed, layer, draw]).standard_normal((d_mlp, d_mlp))
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).astype(np.float32)


class Neurons:
    """One model's neurons in a correlation: statistics over the scored tokens of all shards.

    Parameters
    ----------
    d_mlp
        Number of neurons of every layer.
    sums
        Merged moments, as `moments.merge` returns them.
    scale
        Activation units per code, shape (N,).
    within
        Summed products of codes within each layer, by `tile_name`; see `within_sums`.

    Attributes
    ----------
    d_mlp
        Number of neurons of every layer.
    layers
        Slice of every layer among the model's N neurons.
    inverse_std
        1 / standard deviation; 0 for a dead neuron, so that its correlations are 0. Shape (N,).
    """

    def __init__(
        self,
        d_mlp: Sequence[int],
        sums: moments.Sums,
        scale: NDArray[np.float32],
        within: Mapping[str, NDArray],
    ) -> None:
        self.d_mlp = list(d_mlp)
        edges = np.cumsum([0, *d_mlp])
        self.layers = [slice(int(i), int(j)) for i, j in pairwise(edges)]
        self.n_tokens = int(sums["n_tokens"][0])
        self.code_sum = sums["code_sum"].astype(np.float64)
        self.scale = scale.astype(np.float64)
        std = moments.std(sums)
        self.inverse_std = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        self._within = within
        self._std = std

    @classmethod
    def read(
        cls, sums: Sequence[str | Path], within: Sequence[str | Path], calibration: str | Path
    ) -> Neurons:
        """Read the statistics of one (seed, step) from the stores of all its shards."""
        layers = read_calibration(calibration)
        return cls(
            [len(layer.centre) for layer in layers],
            moments.merge(map(read_arrays, sums)),
            np.concatenate([layer.ranges.scale for layer in layers]),
            Added(within),
        )

    def covariance_within(self, layer: int) -> NDArray[np.float64]:
        """Covariance of a layer's neurons, shape (d_mlp, d_mlp).

        The diagonal comes from the exact moments: that of the codes would contain the variance of
        the rounding.
        """
        own = self.layers[layer]
        matrix = covariance(self._within[tile_name(layer, layer)], self, own, self, own)
        np.fill_diagonal(matrix, self._std[own] ** 2)
        return matrix


def covariance(
    products: NDArray, a: Neurons, a_slice: slice, b: Neurons, b_slice: slice
) -> NDArray[np.float64]:
    """Covariance from sums of products of codes and sums of codes, in activation units squared."""
    outer = np.outer(a.code_sum[a_slice], b.code_sum[b_slice] / a.n_tokens)
    centred = products - outer
    centred *= (a.scale[a_slice] / a.n_tokens)[:, None]
    centred *= b.scale[b_slice]
    return centred


@dataclass
class Matches:
    """Best matches of some neurons among (part of) another model's.

    Attributes
    ----------
    best, lowest
        Largest and smallest correlation found, float64, shape (n,).
    index
        Which neuron (of all the other model's, counted through its layers) has the largest, int64.
    baseline
        Largest correlation with rotated neurons per draw, float64, shape (draws, n).
    """

    best: NDArray[np.float64]
    lowest: NDArray[np.float64]
    index: NDArray[np.int64]
    baseline: NDArray[np.float64]

    @classmethod
    def nothing(cls, n: int, draws: int) -> Matches:
        """The neutral element of `update`."""
        return cls(
            np.full(n, -np.inf),
            np.full(n, np.inf),
            np.full(n, -1, np.int64),
            np.full((draws, n), -np.inf),
        )

    def update(self, other: Matches, rows: slice = slice(None)) -> None:
        """Take in matches of the neurons `rows` among further neurons of the other model."""
        better = other.best > self.best[rows]
        self.best[rows] = np.where(better, other.best, self.best[rows])
        self.index[rows] = np.where(better, other.index, self.index[rows])
        self.lowest[rows] = np.minimum(self.lowest[rows], other.lowest)
        self.baseline[:, rows] = np.maximum(self.baseline[:, rows], other.baseline)


def _rotated_spread(r: NDArray[np.float32], covariance: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / standard deviation of the rotated neurons of a layer; 0 where there is no variance."""
    variance = np.einsum("ij,ij->i", r @ covariance, r)
    return np.where(variance > 0, 1 / np.sqrt(np.maximum(variance, 1e-38)), 0)


def match(
    products: Mapping[str, NDArray],
    a: Neurons,
    b: Neurons,
    layers: Sequence[int],
    *,
    draws: int,
    seed: int,
) -> tuple[Matches, Matches]:
    """Best matches between some layers of one model and all layers of another, both ways.

    The baseline of neuron i of one model rotates the neurons of the other within each layer:
    corr(i, (R m)_j) = (C Rᵀ)_ij / (σ_i √((R S Rᵀ)_jj)), with C the cross-covariance and S the
    other model's covariance within the layer (2401.12181, section 3, made with a random
    orthogonal R).

    Parameters
    ----------
    products
        Summed products of codes by `tile_name`.
    a, b
        The two models.
    layers
        Layers of `a`.
    draws, seed
        Number and seed of the rotations.

    Returns
    -------
    forward
        Of the neurons of those layers of `a`, in order, among all neurons of `b`.
    backward
        Of all neurons of `b` among those of the given layers of `a` only: `Matches.update` joins
        the results of all layers.
    """
    starts = np.cumsum([0, *(a.layers[i].stop - a.layers[i].start for i in layers)])
    forward = Matches.nothing(int(starts[-1]), draws)
    backward = Matches.nothing(len(b.inverse_std), draws)
    rotations_a = [_rotations(a, i, draws, seed) for i in layers]
    for j, b_slice in enumerate(progress(b.layers, "layers of the other seed")):
        rotations_b = _rotations(b, j, draws, seed)
        for place, i in enumerate(layers):
            a_slice = a.layers[i]
            cov = covariance(products[tile_name(i, j)], a, a_slice, b, b_slice)
            over_a = cov * a.inverse_std[a_slice, None]
            over_b = cov * b.inverse_std[b_slice]
            corr = over_a * b.inverse_std[b_slice]
            rows = slice(int(starts[place]), int(starts[place + 1]))
            forward.update(_best(corr, over_a.astype(np.float32), rotations_b, b_slice.start), rows)
            backward.update(
                _best(corr.T, over_b.T.astype(np.float32), rotations_a[place], a_slice.start),
                b_slice,
            )
    for found, inverse_std in (
        (forward, np.concatenate([a.inverse_std[a.layers[i]] for i in layers])),
        (backward, b.inverse_std),
    ):
        found.index[inverse_std == 0] = -1
    return forward, backward


Rotations = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def _rotations(neurons: Neurons, layer: int, draws: int, seed: int) -> Rotations:
    """Per draw the rotation of a layer and 1 / standard deviation of the rotated neurons."""
    within = neurons.covariance_within(layer).astype(np.float32)
    rotated = (rotation(seed, layer, draw, len(within)) for draw in range(draws))
    return [(r, _rotated_spread(r, within)) for r in rotated]


def _best(
    corr: NDArray[np.float64], over_std: NDArray[np.float32], rotations: Rotations, first: int
) -> Matches:
    """Matches of the rows of a tile; `first` is the number of its first column's neuron."""
    index = corr.argmax(1)
    baseline = [((over_std @ r.T) * inverse).max(1) for r, inverse in rotations]
    return Matches(
        best=corr[np.arange(len(corr)), index],
        lowest=corr.min(1),
        index=index + first,
        baseline=np.asarray(baseline, np.float64).reshape(len(rotations), len(corr)),
    )


def write_matches(
    path: str | Path,
    forward: Matches,
    backward: Matches,
    *,
    seed: str,
    other_seed: str,
    layers: Sequence[int],
    d_mlp: Sequence[int],
    other_d_mlp: Sequence[int],
    attributes: Mapping[str, Any],
) -> None:
    """Store what `match` found for some layers of a pair; `universality.matches_table` reads it."""
    arrays = {
        f"{way}_{name}": values
        for way, matches in (("forward", forward), ("backward", backward))
        for name, values in vars(matches).items()
    }
    names = {
        "seed": seed,
        "other_seed": other_seed,
        "layers": list(layers),
        "d_mlp": list(d_mlp),
        "other_d_mlp": list(other_d_mlp),
    }
    write_arrays(path, arrays.items(), {**attributes, **names})
