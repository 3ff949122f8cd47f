"""Sums over classes of tokens as scores, whose products are the covariance of the classes' means.

A language's tokens are few that are frequent and tens of thousands that are rare. The frequent
classes' scores are multiplied in float32; those of all others as two int8 codes each, a coarse one
and what it lacks, which takes half the time and is as precise (docs/method.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.encoding import LIMIT, SMALLEST
from universal_neurons.activations.kernels import add_products, choose_kernel, zeros
from universal_neurons.correlate.neurons import Neurons

# Classes whose scores are multiplied in float32: the most frequent ones. All of a small run.
FREQUENT = 1024

# Half of the range of coarse codes in root mean squares; those beyond escape.
WIDEST = 12.0

# Classes whose sums are standardised at a time, in float64, and rounded at a time: so many stay in
# the cache.
_ROWS, _ROUNDED_ROWS = 64, 1024


def class_scores(
    sums: NDArray, count: NDArray[np.int64], neurons: Neurons, own: slice
) -> NDArray[np.float32]:
    """Sums over classes whose products are the covariance of the classes' means.

    Z_vi = (T_vi − n_v μ_i) s_i / (σ_i √(n_v N)), so that Σ_v Z_vi Z_vj is the part of the
    correlation of i and j that the means of the classes make.

    Parameters
    ----------
    sums, count
        Summed codes of the classes, shape (V, d_mlp), and their numbers of tokens, (V,).
    neurons
        The model's, over all tokens.
    own
        The layer's place among them.

    Returns
    -------
    NDArray
        Shape (V, d_mlp); 0 for a dead neuron.
    """
    scores = np.empty(sums.shape, np.float32)
    mean = neurons.code_sum[own] / neurons.n_tokens
    factor = neurons.factor[own] / np.sqrt(neurons.n_tokens)
    for first in range(0, len(sums), _ROWS):
        rows = slice(first, first + _ROWS)
        n = count[rows, None].astype(np.float64)
        scores[rows] = (sums[rows] - n * mean) * factor / np.sqrt(n)
    return scores


@dataclass(frozen=True)
class Scores:
    """A layer's `class_scores` as they are multiplied.

    Attributes
    ----------
    frequent
        Those of the most frequent classes, float32, shape (at most `FREQUENT`, d_mlp).
    coarse
        Codes of all others, a class in place of a token, rounded stochastically.
    fine
        What the coarse codes lack, in units of 1 / `LIMIT` of theirs.
    step
        Score per coarse code, float64, shape (d_mlp,).
    """

    frequent: NDArray[np.float32]
    coarse: Codes
    fine: Codes
    step: NDArray[np.float64]

    @classmethod
    def of(
        cls, scores: NDArray[np.float32], count: NDArray[np.int64], name: str, *, rounded: bool
    ) -> Scores:
        """Round the scores of rare classes.

        Parameters
        ----------
        scores, count
            Of all classes, see `class_scores`.
        name
            Of the model, the layer and the kind of class: it seeds the rounding, which must be
            independent between the models that are multiplied.
        rounded
            Whether any are to be rounded; else all are multiplied in float32.
        """
        if not rounded or len(scores) <= FREQUENT:
            none = Codes.of(np.empty((0, scores.shape[1]), np.int8))
            return cls(scores, none, none, np.zeros(scores.shape[1]))
        order = np.argsort(-count, kind="stable")
        frequent, rare = np.sort(order[:FREQUENT]), np.sort(order[FREQUENT:])
        return cls(scores[frequent], *_rounded(scores[rare], name))

    def product(self, other: Scores) -> NDArray[np.float32]:
        """Part of the correlations with another model's layer that the classes' means make.

        Products of what coarse codes lack with one another are left out: rounded independently,
        they have the mean 0.

        Returns
        -------
        NDArray
            Shape (d_mlp, other's d_mlp).
        """
        found = self.frequent.T @ other.frequent
        if not len(self.coarse):
            return found
        rows, columns = found.shape
        kernel = _kernel(2 * len(self.coarse) * found.size)
        whole, parts = [(self.coarse, other.coarse)], [(self.coarse, other.fine)]
        parts.append((self.fine, other.coarse))
        for pairs, unit in ((whole, other.step), (parts, other.step / LIMIT)):
            total = zeros(rows, columns, "int8")
            for mine, theirs in pairs:
                total = add_products(total, mine, theirs, kernel)
            for row, sums, step in zip(found, total, self.step, strict=True):
                row += sums * (step * unit)
        return found


@cache
def _kernel(operations: int) -> str:
    return choose_kernel("auto", operations)


def _rounded(scores: NDArray[np.float32], name: str) -> tuple[Codes, Codes, NDArray[np.float64]]:
    """Coarse and fine codes, and the score that a coarse one stands for."""
    import torch  # 1 s: not paid by small runs

    from universal_neurons.activations.rounding import Dither, encode_int8

    squares = np.einsum("vi,vi->i", scores, scores)
    step = np.maximum(WIDEST * np.sqrt(squares / len(scores)) / LIMIT, SMALLEST)
    step = step.astype(np.float32)
    scale, nothing = torch.from_numpy(step), torch.zeros(len(step))
    dither = Dither(name, 0, 0, len(step), torch.device("cpu"))
    coarse, fine = (np.empty(scores.shape, np.int8) for _ in range(2))
    escapes = []
    for first in range(0, len(scores), _ROUNDED_ROWS):
        some = scores[first : first + _ROUNDED_ROWS]
        here = slice(first, first + len(some))
        random = dither(np.arange(first, first + len(some)))
        codes = encode_int8(torch.from_numpy(some), scale, nothing, random)
        coarse[here] = codes.dense.numpy()
        escapes.append(codes.escapes.moved(first))
        lacking = some / step - codes.whole()
        fine[here] = np.rint(np.multiply(lacking, LIMIT, out=lacking), out=lacking)
    return Codes(coarse, Escapes.join(escapes)), Codes.of(fine), step.astype(np.float64)
