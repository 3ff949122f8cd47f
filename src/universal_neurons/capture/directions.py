"""Neurons that read random directions of a model's real MLP inputs: a null for its own.

What two models' neurons have in common through the inputs that all neurons of a layer read, such as
the token at hand, and through their nonlinearity, random directions have in common too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.models.forward import forward, scored
from universal_neurons.models.load import Model, OnLayer

# Variance of a direction of the inputs, each divided by its root mean square, that is no more than
# rounding: in units of the squared precision of the model's dtype, whose rounding makes 1/12 of it,
# and at least what products in float32 bear.
ROUNDING, LEAST_VARIANCE = 4, 1e-10


@dataclass(frozen=True)
class InputMoments:
    """Mean and covariance of the inputs of a layer's MLP over the scored tokens.

    Attributes
    ----------
    mean
        float64, shape (d_model,).
    covariance
        float64, shape (d_model, d_model).
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def whitening(self, precision: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The pseudo-inverse square root of the covariance, and the projector on its range.

        Both are of the inputs divided by their root mean squares, in which rounding is alike in all
        directions. A layer norm leaves one direction without variance: what has less than
        `ROUNDING` · precision² (`LEAST_VARIANCE` at least) is left out. The symmetric root
        depends on the covariance alone, not on the signs of its eigenvectors.

        Parameters
        ----------
        precision
            Distance of 1 to the next number of the model's dtype.

        Returns
        -------
        root
            W with W Σ Wᵀ = `projector`, shape (d_model, d_model): rows are of the scaled inputs,
            columns of the inputs themselves.
        projector
            Shape (d_model, d_model).
        """
        scale = np.sqrt(self.covariance.diagonal() + self.mean**2)
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        variance, vectors = np.linalg.eigh(self.covariance * inverse[:, None] * inverse)
        kept = variance > max(ROUNDING * precision**2, LEAST_VARIANCE)
        vectors = vectors[:, kept]
        root = (vectors / np.sqrt(variance[kept])) @ vectors.T
        return root * inverse, vectors @ vectors.T


def input_moments(
    model: Model,
    sequences: NDArray[np.integer],
    exclude: Sequence[int],
    positions: Sequence[int],
    batch_tokens: int,
) -> list[InputMoments]:
    """Run a model and take the moments of every layer's MLP inputs.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    exclude, positions
        Token ids and positions that are not scored.
    batch_tokens
        Tokens per forward pass.

    Raises
    ------
    UserError
        If no token is scored.
    """
    n_tokens = int(scored(sequences, exclude, positions).sum())
    if n_tokens == 0:
        raise UserError(
            "nulls.random_directions.tokens: no token of the sample is scored; use more"
        )
    sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(layer: int, x: torch.Tensor) -> None:
        x = x.flatten(0, -2)[rows].double()
        parts = x.sum(0), x.T @ x
        known = sums.get(layer)
        sums[layer] = (known[0] + parts[0], known[1] + parts[1]) if known else parts

    with model.tap_inputs(add):
        for batch in forward(model, sequences, batch_tokens):
            rows = torch.from_numpy(scored(batch, exclude, positions).ravel()).to(model.device)
    found = []
    for layer in range(len(model.blocks)):
        total, products = (part.cpu().numpy() for part in sums[layer])
        mean = total / n_tokens
        found.append(InputMoments(mean, products / n_tokens - np.outer(mean, mean)))
    return found


@dataclass(frozen=True)
class Directions:
    """Random directions that a layer's neurons read in place of their own.

    Attributes
    ----------
    weights
        Of every input projection (one, or gate and up), float32, shape (d_mlp, projections,
        d_model).
    means
        Means of what they read, float32, shape (d_mlp, projections).
    centre
        Mean of the inputs, float32, shape (d_model,).
    """

    weights: torch.Tensor
    means: torch.Tensor
    centre: torch.Tensor

    @classmethod
    def draw(
        cls, model: Model, layer: int, inputs: InputMoments, rng: np.random.Generator
    ) -> Directions:
        """Directions uniform in the whitened inputs, one for every neuron of the layer.

        With w a neuron's weights, b its bias, μ and Σ the mean and covariance of the inputs, it
        reads w·μ + b on average, with variance s² = wᵀΣw. A random one reads
        s hᵀ Σ^(−1/2) (x − μ) + w·μ + b, h uniform on the sphere: mean and variance are the same.
        For gate and up, two orthonormal h and the square root of the neuron's 2 × 2 covariance of
        both in place of s also keep how they correlate.

        Parameters
        ----------
        model, layer
            Whose neurons.
        inputs
            Of that layer.
        rng
            Of the directions.
        """
        pairs = model.input_weights(layer)
        own, bias = (
            np.stack([each.double().cpu().numpy() for each in kind], 1)
            for kind in zip(*pairs, strict=True)
        )
        variance, vectors = np.linalg.eigh(_times(own, inputs.covariance) @ own.swapaxes(1, 2))
        size = (vectors * np.sqrt(variance.clip(min=0))[:, None]) @ vectors.swapaxes(1, 2)
        precision = torch.finfo(pairs[0][0].dtype).eps
        root, projector = inputs.whitening(precision)
        gaussian = _times(rng.standard_normal((len(own), len(pairs), own.shape[2])), projector)
        # Q alone, with R's diagonal positive, is uniform: see `rotations.rotation`.
        q, r = np.linalg.qr(gaussian.swapaxes(1, 2))
        h = q.swapaxes(1, 2) * np.sign(np.diagonal(r, axis1=1, axis2=2))[..., None]
        made = _times(size @ h, root), own @ inputs.mean + bias, inputs.mean
        return cls(*(torch.from_numpy(each).float().to(model.device) for each in made))

    def read(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the neurons read of inputs: per projection a tensor of shape (..., d_mlp).

        In float32 at least, about the mean, as some directions have weights far above their
        variance; then in the dtype of the inputs.
        """
        centred = x.float() - self.centre
        return [
            torch.nn.functional.linear(centred, weight, mean).to(x.dtype)
            for weight, mean in zip(self.weights.unbind(1), self.means.unbind(1), strict=True)
        ]


def _times(rows: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """All rows, shape (n, k, d), times one matrix, (d, d), as one product.

    NumPy makes n of them, each so small that threads wait for each other most of the time.
    """
    return (rows.reshape(-1, rows.shape[2]) @ matrix).reshape(rows.shape)


@dataclass(frozen=True)
class RandomNeurons(Model):
    """A model with layers of random neurons after its own, which leave what it does as it is.

    Layer L·k + l has the neurons of layer l of L with their directions of draw k − 1, read from the
    real inputs of that layer's MLP, with its nonlinearity.

    Attributes
    ----------
    directions
        By draw, then by layer.
    """

    directions: Sequence[Sequence[Directions]]

    @classmethod
    def of(
        cls, model: Model, inputs: Sequence[InputMoments], draws: int, key: Sequence[int]
    ) -> RandomNeurons:
        """With directions that depend on `key`, draw and layer.

        Parameters
        ----------
        model
            The model.
        inputs
            Of its layers, see `input_moments`.
        draws
            Number of random neurons in place of each.
        key
            Numbers that tell the model from others.
        """
        drawn = [
            [
                Directions.draw(model, layer, of, np.random.default_rng([draw, layer, *key]))
                for layer, of in enumerate(inputs)
            ]
            for draw in range(draws)
        ]
        return cls(model.module, model.blocks, model.projections, model.device, drawn)

    @cached_property
    def d_mlp(self) -> tuple[int, ...]:
        """Number of neurons of every layer, the random ones too."""
        return super().d_mlp * (1 + len(self.directions))

    @contextmanager
    def tap(self, on_layer: OnLayer) -> Iterator[None]:
        """As `Model.tap`; what is returned for a random layer is let go."""

        def read(layer: int, x: torch.Tensor) -> None:
            for draw, directions in enumerate(self.directions, start=1):
                made = self.activate(layer, directions[layer].read(x))
                on_layer(draw * len(self.blocks) + layer, made)

        with super().tap(on_layer), self.tap_inputs(read):
            yield
