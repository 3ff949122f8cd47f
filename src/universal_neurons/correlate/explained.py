"""How much of a neuron the class of a token explains: its identity, the one before, its position.

Formulas and their reasons are in docs/method.md. Everything is in units of codes, which cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Neurons at a time: float64 sums of 50,000 classes then take 100 MB.
_NEURONS = 256

# Standard errors that what is left within classes must be above 0, to be told from the rounding.
CLEAR = 5.0

# Share of the variance that must be left: below it products in float32 (errors of 1e-6 of a
# correlation) would be of the size of what they are to find.
LEAST_LEFT = 1e-4

# Largest mean variance of stochastic rounding, in squared codes: f (1 − f) over f.
ROUNDING = 1 / 6


@dataclass(frozen=True)
class Spread:
    """Sums of squares about the mean of a layer's neurons over all tokens, in squared codes.

    Attributes
    ----------
    n_tokens
        Number of tokens.
    code_sum
        Summed codes, float64, shape (d_mlp,).
    codes
        Sum of squares of the codes, that of their rounding among it, float64, shape (d_mlp,).
    exact
        That of the activations, from exact moments, in the same unit, float64, shape (d_mlp,).
    rounded
        Whether codes are rounded stochastically (int8).
    """

    n_tokens: int
    code_sum: NDArray[np.float64]
    codes: NDArray[np.float64]
    exact: NDArray[np.float64]
    rounded: bool

    @property
    def rounding(self) -> NDArray[np.float64]:
        """Mean variance of the rounding of a code, shape (d_mlp,)."""
        return np.maximum(0, self.codes - self.exact) / self.n_tokens

    def of(self, neurons: slice) -> Spread:
        """Those of some neurons."""
        code_sum, codes, exact = (x[neurons] for x in (self.code_sum, self.codes, self.exact))
        return Spread(self.n_tokens, code_sum, codes, exact, self.rounded)


def left_within(count: NDArray[np.int64], sums: NDArray, spread: Spread) -> NDArray[np.float64]:
    """Share of every neuron's variance that is left within the classes.

    Q − Σ_v T_v² / n_v + V e: Q the exact sum of squares, T_v the sum of centred codes of class v,
    V the number of classes and e the mean variance of the rounding, of which every T_v² / n_v has
    one.

    Parameters
    ----------
    count
        Tokens of every class, shape (V,), none 0.
    sums
        Sums of their codes, shape (V, d_mlp).
    spread
        Of the layer.

    Returns
    -------
    NDArray
        Shape (d_mlp,), in [0, 1]: exactly 0 where it can't be told from the rounding (`CLEAR`
        standard errors), or is less than `LEAST_LEFT`, and of a dead neuron.
    """
    left = np.zeros(sums.shape[1])
    for first in range(0, len(left), _NEURONS):
        own = slice(first, first + _NEURONS)
        some = spread.of(own)
        total = _centred(sums[:, own], count, some)
        between = np.einsum("vi,vi->i", total, total / count[:, None])
        rest = some.exact - between + len(count) * some.rounding
        # Of 2 Σ b e, b the class's part of an activation and e its rounding.
        noise = np.maximum(some.rounding, ROUNDING if spread.rounded else 0)
        error = 2 * np.sqrt(np.maximum(between, 0) * noise)
        floor = np.maximum(CLEAR * error, LEAST_LEFT * some.exact)
        clear = (some.exact > 0) & (rest > floor)
        left[own] = np.divide(rest, some.exact, out=np.zeros_like(rest), where=clear)
    return left.clip(0, 1)


def covered(count: NDArray[np.int64]) -> float:
    """Share of the tokens whose class occurs in both halves; `count` has the shape (2, V)."""
    return float(count[:, (count > 0).all(0)].sum() / count.sum())


def r2(count: NDArray[np.int64], sums: NDArray, spread: Spread) -> NDArray[np.float64]:
    """Share of variance that the class explains in documents it was not learned from.

    Of the tokens whose class occurs in both halves of the documents: 1 − Σ (x − p)² / Σ (x − μ)²,
    with p the class's mean in the other half, drawn to the mean μ of all tokens by n / (n + k), n
    the tokens that it is of. k = w / b is the neuron's own ratio of variance within classes and
    between them, by analysis of variance (Henderson's method I; the best linear predictor of a
    random effect, Robinson 1991, Statistical Science 6:15).

    Parameters
    ----------
    count
        Tokens of every class in either half, shape (2, V).
    sums
        Sums of their codes, shape (2, V, d_mlp).
    spread
        Of the layer.

    Returns
    -------
    NDArray
        Shape (d_mlp,), in [0, 1]; 0 of a dead neuron, NaN if no class occurs in both halves.
    """
    found = np.zeros(sums.shape[2])
    for first in range(0, len(found), _NEURONS):
        own = slice(first, first + _NEURONS)
        found[own] = _r2(count, sums[:, :, own], spread.of(own))
    return found.clip(0, 1)


def _centred(sums: NDArray, count: NDArray[np.int64], spread: Spread) -> NDArray[np.float64]:
    return sums - count[..., None] * (spread.code_sum / spread.n_tokens)


def _r2(count: NDArray[np.int64], sums: NDArray, spread: Spread) -> NDArray[np.float64]:
    halves, n = _centred(sums, count, spread), count.sum(0).astype(np.float64)
    both = (count > 0).all(0)
    if not both.any():
        return np.full(sums.shape[2], np.nan)
    total = halves.sum(0)
    squares = total**2 / n[:, None]
    # Variance within classes and between them, that of the rounding in the former.
    between, classes, n_tokens = squares.sum(0), len(n), spread.n_tokens
    within = np.maximum(0, spread.codes - between) / max(1, n_tokens - classes)
    effective = n_tokens - (n**2).sum() / n_tokens
    spreads = np.maximum(0, between - (classes - 1) * within) / max(effective, 1e-9)
    gain = np.zeros(sums.shape[2])
    for own, other in ((0, 1), (1, 0)):
        learned, tried = (count[half, both][:, None].astype(np.float64) for half in (other, own))
        weight = np.divide(
            learned * spreads,
            learned * spreads + within,
            out=np.zeros((len(learned), len(gain))),
            where=spreads > 0,
        )
        predicted = weight * halves[other, both] / learned
        gain += (2 * predicted * halves[own, both] - tried * predicted**2).sum(0)
        # What the rounding of the learned mean takes from it.
        gain += spread.rounding * (tried * weight**2 / learned).sum(0)
    # Tokens of the other classes: exact where a class has one token; where it has several, their
    # spread within the class is that of all classes.
    alone = n[~both]
    rest = np.maximum(0, within - spread.rounding)
    left_out = squares[~both].sum(0) - len(alone) * spread.rounding + (alone - 1).sum() * rest
    variance = spread.exact - np.maximum(0, left_out)
    known = (spread.exact > 0) & (variance > 0)
    return np.divide(gain, variance, out=np.zeros_like(gain), where=known)
