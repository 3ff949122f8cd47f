"""Round activations to codes on the model's device: stochastic rounding for int8."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes, significant
from universal_neurons.activations.encoding import LIMIT

# Odd multiplier of the dither's hash (2**32 divided by the golden ratio), as a signed int32.
MULTIPLIER = 0x9E3779B1 - (1 << 32)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea and Flood 2014), elementwise."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Dither:
    """Uniform numbers for stochastic rounding that depend on nothing but where they are used.

    The number of a (token, neuron) is a hash of (seed, step, layer, token index, neuron): codes
    are the same whatever the batch size, the sharding and the order. Numbers are independent
    between tokens and between models, which is what makes sums of products of two models' codes
    unbiased; within one token and model they are pairwise decorrelated (tested).

    Parameters
    ----------
    seed, step, layer
        Whose activations are rounded.
    d_mlp
        Number of neurons of the layer.
    device
        Where the numbers are made.
    """

    def __init__(self, seed: str, step: int, layer: int, d_mlp: int, device: torch.device) -> None:
        key = hashlib.sha256(f"{seed}\n{step}\n{layer}".encode()).digest()
        self._token_key = np.frombuffer(key, np.uint64, 1)[0]
        neuron_key = np.frombuffer(key, np.uint64, 1, 8)[0]
        self._device = device
        self._neuron = self._words(neuron_key, np.arange(d_mlp))

    def _words(self, key: np.uint64, index: NDArray[np.integer]) -> torch.Tensor:
        with np.errstate(over="ignore"):
            bits = _mix(index.astype(np.uint64) + key) >> np.uint64(32)
        return torch.from_numpy(bits.astype(np.uint32).view(np.int32)).to(self._device)

    def words(self, token_index: NDArray[np.integer]) -> tuple[torch.Tensor, torch.Tensor]:
        """Key of every token and of every neuron, int32, from which `__call__` makes its hash."""
        return self._words(self._token_key, token_index), self._neuron

    def __call__(self, token_index: NDArray[np.integer]) -> torch.Tensor:
        """Uniform numbers in [-1/2, 1/2], float32, shape (tokens, d_mlp).

        Parameters
        ----------
        token_index
            Shape (tokens,): each token's position in the corpus.
        """
        token, neuron = self.words(token_index)
        hashed = token[:, None] ^ neuron
        hashed.mul_(MULTIPLIER)
        hashed.bitwise_xor_(hashed >> 15).mul_(MULTIPLIER)
        return hashed.to(torch.float32).mul_(2.0**-32)


def encode_int8(
    x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, dither: torch.Tensor
) -> Codes:
    """Round activations to codes whose expected value is exact.

    code = floor((x - offset) / scale + u), u uniform on [0, 1).

    Parameters
    ----------
    x
        Shape (tokens, d_mlp), any float dtype.
    scale, offset
        float32, shape (d_mlp,).
    dither
        u - 1/2, float32, shape (tokens, d_mlp); overwritten.
    """
    deviation = x.to(torch.float32) - offset
    code = dither.addcmul_(deviation, 1 / scale).add_(0.5).floor_()
    row, neuron = torch.nonzero(code.abs() > LIMIT, as_tuple=True)
    whole = code[row, neuron].cpu().numpy()
    escapes = Escapes(row.cpu().numpy(), neuron.to(torch.int32).cpu().numpy(), significant(whole))
    return Codes(code.clamp_(-LIMIT, LIMIT).to(torch.int8), escapes)


def stored(x: torch.Tensor, encoding: str) -> torch.Tensor:
    """A float tensor as it is stored, bfloat16 or float32 (see `bits`)."""
    return x.to({"bfloat16": torch.bfloat16, "float32": torch.float32}[encoding])


def bits(values: torch.Tensor) -> NDArray:
    """Stored values as a NumPy array: bfloat16, which Zarr v3 has not, as its bits in uint16.

    `encoding.values_of` turns the bits back.
    """
    values = values.cpu()
    if values.dtype == torch.bfloat16:
        return values.view(torch.uint16).numpy()
    return values.numpy()
