"""Activations as bytes: int8 with unbiased stochastic rounding, bfloat16, float32.

A code `c` of a neuron stands for the activation `offset + scale * c`. Sums of products are taken
over `c`, so scale and offset enter only at the end. int8 codes lie within ±127; values beyond have
larger ones, which are kept beside them (`codes`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENCODINGS = ("int8", "bfloat16", "float32")

# Codes lie in [-LIMIT, LIMIT]. The range is symmetric so that a product is at most LIMIT**2 and
# 2**31 / LIMIT**2 tokens can't overflow an int32 sum.
LIMIT = 127

# Fraction of the calibration's tokens, on either side, that the int8 range need not hold.
TAIL = 1 / 2000

# Half of the int8 range in standard deviations, at most. A correlation's rounding error is then
# 6 / 127 / √(6 n) for either neuron: 8.6e-5 of 50,000 tokens.
WIDEST = 6.0

# Step of a neuron that is constant in the sample, where nothing tells its unit: fine enough for
# activations of 1e-12, coarse enough for codes of 1e22 to be float32.
FINEST = 2.0**-50

# No step is smaller: its inverse must be a float32.
SMALLEST = 2.0**-126


@dataclass(frozen=True)
class Ranges:
    """What a neuron's codes mean: activation = offset + scale * code.

    Attributes
    ----------
    scale, offset
        float32, shape (d_mlp,). For the float encodings they only keep the sums of products near
        1: the offset is about the neuron's mean, the scale a power of two about its standard
        deviation. The stored values are neither shifted nor scaled.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """What the calibration saw of one layer; arrays of shape (d_mlp,), float64.

    Attributes
    ----------
    low, high
        Smallest and largest activation.
    low_tail, high_tail
        The activations that at most `TAIL` of the tokens lie below and above.
    mean, std
        Mean and (population) standard deviation.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    low_tail: NDArray[np.float64]
    high_tail: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def ranges(sample: Sample, *, encoding: str, headroom: float) -> Ranges:
    """Fix the codes of one layer from a calibration sample, every neuron from its own values.

    Parameters
    ----------
    sample
        What was seen of the layer.
    encoding
        One of `ENCODINGS`.
    headroom
        Fraction by which the int8 range exceeds that of the sample without its tails, since a
        larger corpus has more extreme values.

    Notes
    -----
    Values beyond the range are not lost (`codes.Escapes`), so it need not hold the largest ones:
    half of it is at most `WIDEST` standard deviations, which bounds the rounding's error of a
    correlation (docs/method.md), and at least one, since finer steps would gain nothing. Where it
    can't hold both tails it holds the bulk and as much as it can of the longer one.

    0 is the exact value of a code, so that what a ReLU gives most of the time is not rounded. A
    neuron that is constant in the sample has steps so fine that whatever it does later escapes and
    is exact to 16 bits, whatever its unit.
    """
    if encoding != "int8":
        unit = np.where(sample.std > 0, np.ldexp(1.0, np.frexp(sample.std)[1]), 1.0)
        unit = np.clip(unit, SMALLEST, 1 / SMALLEST)
        return Ranges(unit.astype(np.float32), sample.mean.astype(np.float32))
    middle = (sample.high_tail + sample.low_tail) / 2
    half = (1 + headroom) * (sample.high_tail - sample.low_tail) / 2
    half = np.clip(half, sample.std, WIDEST * sample.std)
    offset = np.clip(
        middle,
        np.minimum(sample.mean, sample.high_tail - half),
        np.maximum(sample.mean, sample.low_tail + half),
    )
    constant = sample.low == sample.high
    scale = np.where(constant, FINEST, np.maximum(half / LIMIT, SMALLEST)).astype(np.float32)
    snapped = scale * np.rint(offset / scale)
    return Ranges(scale, np.where(constant, sample.low, snapped).astype(np.float32))


def values_of(array: NDArray, encoding: str) -> NDArray[np.float32]:
    """Stored bfloat16 (as bits) or float32 activations as float32."""
    if encoding == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
