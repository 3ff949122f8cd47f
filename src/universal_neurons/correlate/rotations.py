"""Random rotations of the baseline, and the spread of a model's neurons under them.

They depend on neither data nor pair, so they are made once for a run, and the spread once for a
model: a decomposition of GPT-2 Small's 60 rotations takes longer than all else that matching one
layer does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.products import tile_name
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.jobs import progress
from universal_neurons.store.arrays import Added, attributes_of, read_arrays, write_arrays
from universal_neurons.store.same_run import check_same_run

Rotations = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Rotating:
    """How a baseline rotates neurons.

    Attributes
    ----------
    draws
        Number of rotations of each layer.
    standardise
        Whether neurons are divided by their standard deviation before they are rotated. Without it
        a rotated neuron is a mixture of those that vary most.
    """

    draws: int
    standardise: bool = False

    @property
    def other(self) -> Rotating:
        """The other choice, of the first rotation alone: to see how much the choice matters."""
        return Rotating(1, not self.standardise)

    def amplitude(self, std: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard deviations that neurons of the given ones are rotated with: 0 of dead ones."""
        return (std > 0).astype(np.float64) if self.standardise else std


def rotation(seed: int, layer: int, draw: int, d_mlp: int) -> NDArray[np.float32]:
    """A random orthogonal matrix (Haar), shape (d_mlp, d_mlp).

    It depends on its arguments alone: all models, pairs and steps share the rotations. It is the
    Q of a Gaussian matrix's QR decomposition with the signs of R's diagonal (Mezzadri 2007,
    arXiv math-ph/0609050).
    """
    gaussian = np.random.default_rng([seed, layer, draw]).standard_normal((d_mlp, d_mlp))
    q, r = np.linalg.qr(gaussian)
    return (q * np.sign(np.diag(r))).astype(np.float32)


def rotation_name(d_mlp: int, layer: int, draw: int) -> str:
    """Name of a rotation among a run's."""
    return f"{d_mlp}_{layer}_{draw}"


def write_rotations(
    path: str | Path,
    layers: Collection[tuple[int, int]],
    *,
    draws: int,
    seed: int,
    attributes: Mapping[str, Any],
) -> None:
    """Store the rotations of a run.

    Parameters
    ----------
    path
        Store to make; its arrays are named by `rotation_name`.
    layers
        Width and number of every kind of layer.
    draws, seed
        Number of rotations of each, and their seed.
    attributes
        Recorded with them.
    """

    def arrays() -> Iterator[tuple[str, NDArray]]:
        for d_mlp, layer in progress(sorted(layers), "layers"):
            for draw in range(draws):
                yield rotation_name(d_mlp, layer, draw), rotation(seed, layer, draw, d_mlp)

    write_arrays(path, arrays(), attributes)


def covariance_of_codes(
    products: NDArray, code_sum: NDArray, scale: NDArray[np.float32], n_tokens: int
) -> NDArray[np.float64]:
    """Covariance of a layer's neurons by their codes, that of the rounding among it.

    Parameters
    ----------
    products
        Summed products of the codes, shape (d_mlp, d_mlp).
    code_sum, scale
        Summed codes of the neurons, and activation units per code, shape (d_mlp,).
    n_tokens
        Number of tokens.
    """
    total, factor = code_sum.astype(np.float64), scale.astype(np.float64)
    matrix = products - np.outer(total, total / n_tokens)
    matrix *= (factor / n_tokens)[:, None]
    matrix *= factor
    return matrix


def covariance_within(
    products: NDArray, sums: moments.Sums, scale: NDArray[np.float32], own: slice
) -> NDArray[np.float64]:
    """Covariance of a layer's neurons, shape (d_mlp, d_mlp).

    The diagonal comes from the exact moments: that of the codes would contain the variance of
    the rounding.

    Parameters
    ----------
    products
        Summed products of the layer's codes, see `products.within_sums`.
    sums
        Merged moments of the model.
    scale
        Activation units per code of the model's neurons.
    own
        The layer's place among them.
    """
    n_tokens = int(sums["n_tokens"][0])
    matrix = covariance_of_codes(products, sums["code_sum"][own], scale[own], n_tokens)
    np.fill_diagonal(matrix, moments.std(sums)[own] ** 2)
    return matrix


def write_rotated_std(
    path: str | Path,
    *,
    sums: Sequence[str | Path],
    within: Sequence[str | Path],
    calibration: str | Path,
    rotations: str | Path,
    rotating: Rotating,
    attributes: Mapping[str, Any],
) -> None:
    """Store the standard deviations of a model's neurons under the run's rotations.

    Arrays ``std``, float32, shape (draws, N), of `rotated_std` with S from the exact moments, and
    ``other_std``, shape (1, N), of `Rotating.other`.

    Parameters
    ----------
    path
        Store to make.
    sums, within
        Moments and within-layer sums of all shards.
    calibration, rotations
        Stores of the model and of the run.
    rotating
        How neurons are rotated.
    attributes
        Recorded with them.
    """
    same = check_same_run([*sums, *within, calibration, rotations])
    layers = read_calibration(calibration)
    merged = moments.merge(map(read_arrays, sums))
    products, matrices = Added(within), Added([rotations])
    scale = np.concatenate([layer.ranges.scale for layer in layers])
    found = {"std": rotating, "other_std": rotating.other}
    std = {name: np.empty((kind.draws, len(scale)), np.float32) for name, kind in found.items()}
    start = 0
    for layer, about in enumerate(progress(layers, "layers")):
        d_mlp = len(about.centre)
        own = slice(start, start + d_mlp)
        start += d_mlp
        within_layer = covariance_within(products[tile_name(layer, layer)], merged, scale, own)
        for name, kind in found.items():
            std[name][:, own] = rotated_std(within_layer, matrices, layer, kind)
    how = {"standardise": rotating.standardise}
    write_arrays(path, std.items(), {**attributes, **how, **same})


def rotated_std(
    covariance: NDArray[np.float64], rotations: Rotations, layer: int, rotating: Rotating
) -> NDArray[np.float32]:
    """Standard deviations of a layer's neurons under its rotations: √((R S Rᵀ)_jj).

    Of standardised neurons S is their correlation matrix, with 0 for dead ones. The squares are
    taken in the layer's own unit: float32 holds those of 1e-19 to 1e19 only.

    Parameters
    ----------
    covariance
        S, shape (d_mlp, d_mlp).
    rotations
        A run's.
    layer
        Number of the layer.
    rotating
        How its neurons are rotated.

    Returns
    -------
    ndarray
        Shape (draws, d_mlp); exactly 0 where there is no variance.
    """
    d_mlp = len(covariance)
    std = np.sqrt(covariance.diagonal())
    if rotating.standardise:
        inverse = np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        covariance = covariance * inverse[:, None] * inverse
    unit = _exponent(rotating.amplitude(std))
    scaled = np.ldexp(covariance, -2 * unit).astype(np.float32)
    rotated = np.empty((rotating.draws, d_mlp), np.float32)
    for draw in range(rotating.draws):
        r = rotations[rotation_name(d_mlp, layer, draw)]
        variance = np.einsum("ij,ij->i", r @ scaled, r)
        rotated[draw] = np.ldexp(np.sqrt(np.maximum(variance, 0)), unit)
    return rotated


def _exponent(std: NDArray) -> int:
    """Of the power of two above a layer's largest standard deviation.

    Numbers in that unit have the bits that they have in any other.
    """
    return int(np.frexp(std.max())[1])


class Baseline:
    """Rotations of one model's layers, ready to be multiplied with correlations.

    Parameters
    ----------
    neurons
        The model.
    rotations
        Its rotations; see `write_rotations`.
    spread
        Standard deviations of its rotated neurons, float32, shape (draws, N), from
        `write_rotated_std`.
    standardise
        See `Rotating`.
    other
        The same model by `Rotating.other`, where that is wanted.
    """

    def __init__(
        self,
        neurons: Neurons,
        rotations: Rotations,
        spread: NDArray,
        *,
        standardise: bool = False,
        other: Baseline | None = None,
    ) -> None:
        self._neurons, self._rotations, self._spread = neurons, rotations, spread
        self._rotating = Rotating(len(spread), standardise)
        self.other = other

    @property
    def draws(self) -> int:
        """Number of rotations of each layer."""
        return self._rotating.draws

    @classmethod
    def read(cls, neurons: Neurons, rotations: str | Path, spread: str | Path) -> Baseline:
        """Read what was stored for the run and for this model, with the other choice."""
        matrices, stored = Added([rotations]), read_arrays(spread)
        standardise = attributes_of(spread)["standardise"]
        other = cls(neurons, matrices, stored["other_std"], standardise=not standardise)
        return cls(neurons, matrices, stored["std"], standardise=standardise, other=other)

    def matrices(self, layer: int) -> list[NDArray[np.float32]]:
        """Per draw M with corr(x, rotated neuron j) = Σ_k corr(x, neuron k) M_jk.

        M_jk = R_jk σ_k / √((R S Rᵀ)_jj), shape (d_mlp, d_mlp); of standardised neurons σ_k is 1.
        """
        own = self._neurons.layers[layer]
        d_mlp = own.stop - own.start
        std = self._rotating.amplitude(self._neurons.std[own])
        unit = _exponent(std)
        std = np.ldexp(std, -unit).astype(np.float32)
        spread = np.ldexp(self._spread[:, own], -unit)
        inverse = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
        found = []
        for draw in range(self.draws):
            matrix = self._rotations[rotation_name(d_mlp, layer, draw)] * inverse[draw, :, None]
            matrix *= std
            found.append(matrix)
        return found

    def best(self, corr: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest correlations with rotated neurons, given those with all neurons of the model.

        Parameters
        ----------
        corr
            Shape (n, N).

        Returns
        -------
        NDArray
            Shape (draws, n).
        """
        found = np.full((self.draws, len(corr)), -np.inf)
        for layer, own in enumerate(self._neurons.layers):
            tile = corr[:, own].astype(np.float32)
            np.maximum(found, [(tile @ m.T).max(1) for m in self.matrices(layer)], out=found)
        return found


def rotated_best(
    corr: NDArray[np.float32],
    rotated_a: Sequence[NDArray[np.float32]],
    rotated_b: Sequence[NDArray[np.float32]],
    room: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest correlations of a tile's neurons with rotated ones, per draw.

    Parameters
    ----------
    corr
        Correlations of two layers, shape (d_a, d_b).
    rotated_a, rotated_b
        Their rotations, see `Baseline.matrices`.
    room
        Where the products go, shape (d_a, d_b).

    Returns
    -------
    forward, backward
        Of the rows with rotated columns, shape (draws, d_a), and the reverse, (draws, d_b).
    """
    forward = [np.matmul(corr, matrix.T, out=room).max(1) for matrix in rotated_b]
    backward = [np.matmul(matrix, corr, out=room).max(0) for matrix in rotated_a]
    return np.asarray(forward, np.float64), np.asarray(backward, np.float64)
