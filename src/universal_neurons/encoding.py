"""Activations as bytes: int8 with unbiased stochastic rounding, bfloat16, float32.

An encoded value `c` of a neuron stands for the activation `offset + scale * c`. The sums of
`universal_neurons.correlation` are taken over `c`, so scale and offset enter only at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENCODINGS = ("int8", "bfloat16", "float32")

# Codes lie in [-LIMIT, LIMIT]. The range is symmetric so that a product is at most LIMIT**2 and
# 2**31 / LIMIT**2 tokens can't overflow an int32 sum.
LIMIT = 127


@dataclass(frozen=True)
class Ranges:
    """What a neuron's codes mean: activation = offset + scale * code.

    Attributes
    ----------
    scale, offset
        float32, shape (d_mlp,). For the float encodings the scale is 1 and the offset, about the
        neuron's mean, only keeps the sums of products small; the stored values are not shifted.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


def ranges(
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    mean: NDArray[np.float64],
    *,
    encoding: str,
    headroom: float,
) -> Ranges:
    """Fix the codes of one layer from a calibration sample.

    Parameters
    ----------
    low, high, mean
        Shape (d_mlp,): the smallest, largest and mean activation in the sample.
    encoding
        One of `ENCODINGS`.
    headroom
        Fraction by which the int8 range exceeds the range of the sample, since a larger corpus
        has more extreme values.

    Notes
    -----
    No range is narrower than the median of its layer. A neuron that fires once in 100,000 tokens
    is silent in the sample, and a range cut to its silence would clip just the values that matter.
    A range too wide costs little: rounding is unbiased, and its noise averages out over tokens.
    """
    if encoding != "int8":
        return Ranges(np.ones_like(low), mean.astype(np.float32))
    half = (high.astype(np.float64) - low) / 2
    live = half > 0
    half = np.maximum(half, np.median(half[live]) if live.any() else 1.0)
    centre = (high.astype(np.float64) + low) / 2
    return Ranges(
        (half * (1 + headroom) / LIMIT).astype(np.float32),
        centre.astype(np.float32),
    )


def codes(array: NDArray, encoding: str, offset: NDArray[np.float32]) -> NDArray:
    """Stored values as the codes that sums are taken over: int8, or float32 less the offset."""
    if encoding == "int8":
        return array
    if encoding == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array - offset


def decode(array: NDArray, encoding: str, ranges: Ranges) -> NDArray[np.float32]:
    """Stored values as activations, float32, same shape."""
    return codes(array, encoding, ranges.offset) * ranges.scale + ranges.offset
