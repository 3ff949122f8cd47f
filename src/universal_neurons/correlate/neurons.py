"""A model's neurons in a correlation: their statistics over the tokens that are correlated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.store.arrays import attributes_of, read_arrays


@dataclass(frozen=True)
class Captured:
    """Where what was captured of one (seed, step) is.

    Attributes
    ----------
    moments
        Stores of all shards, see `moments.merge`.
    calibration
        Its store, see `calibration`.
    activations
        Stores of all shards, or of the first ones, where they are needed.
    rotated
        Its spread under the run's rotations, where that is needed; see `rotations`.
    given
        What it is given classes of tokens, where that is known; see `given.write_given`.
    """

    moments: Sequence[str | Path]
    calibration: str | Path
    activations: Sequence[str | Path] = ()
    rotated: str | Path = ""
    given: str | Path = ""

    @classmethod
    def of_seeds(
        cls,
        seeds: Sequence[str],
        moments: Sequence[str | Path],
        calibration: Sequence[str | Path],
        activations: Sequence[str | Path],
        given: Sequence[str | Path] = (),
    ) -> dict[str, Captured]:
        """All seeds at one step, from stores listed shard by shard, in each by seed."""
        n, last = len(seeds), given or [""] * len(seeds)
        return {
            seed: cls(moments[i::n], calibration[i], activations[i::n], given=last[i])
            for i, seed in enumerate(seeds)
        }

    @property
    def seed(self) -> str:
        """Whose it is."""
        return attributes_of(self.moments[0])["seed"]

    def paths(self) -> list[str | Path]:
        """All stores, for `store.check_same_run`."""
        single = [path for path in (self.rotated, self.given) if path]
        return [*self.moments, self.calibration, *self.activations, *single]


class Neurons:
    """One model's neurons in a correlation: statistics over the tokens that are correlated.

    Parameters
    ----------
    d_mlp
        Number of neurons of every layer.
    n_tokens
        Number of tokens.
    code_sum, scale, std
        See the attributes; of any type.

    Attributes
    ----------
    d_mlp
        Number of neurons of every layer.
    layers
        Slice of every layer among the model's N neurons.
    n_tokens
        Number of tokens.
    code_sum, scale, std
        Summed codes, activation units per code, and standard deviation (0 for a dead neuron) of
        every neuron, float64, shape (N,).
    factor
        What standardises codes: scale / std, and 0 for a dead neuron, so that its correlations are
        0. Shape (N,).
    """

    def __init__(
        self,
        d_mlp: Sequence[int],
        n_tokens: int,
        code_sum: NDArray,
        scale: NDArray,
        std: NDArray[np.float64],
    ) -> None:
        self.d_mlp, self.n_tokens, self.std = list(d_mlp), n_tokens, std
        edges = np.cumsum([0, *d_mlp])
        self.layers = [slice(int(i), int(j)) for i, j in pairwise(edges)]
        self.code_sum = code_sum.astype(np.float64)
        self.scale = scale.astype(np.float64)
        self.factor = np.divide(self.scale, std, out=np.zeros_like(std), where=std > 0)

    @classmethod
    def of(cls, d_mlp: Sequence[int], sums: moments.Sums, scale: NDArray) -> Neurons:
        """Those of merged moments, as `moments.merge` returns them: σ is the exact one."""
        n_tokens = int(sums["n_tokens"][0])
        return cls(d_mlp, n_tokens, sums["code_sum"], scale, moments.std(sums))

    @classmethod
    def read(cls, sums: Sequence[str | Path], calibration: str | Path) -> Neurons:
        """Read the statistics of one (seed, step) from the stores of all its shards."""
        return cls.read_parts(sums, calibration, [])[0]

    @classmethod
    def read_parts(
        cls,
        sums: Sequence[str | Path],
        calibration: str | Path,
        ranges: Sequence[tuple[int, int]],
    ) -> list[Neurons]:
        """Read those of all shards and of each of some ranges (first shard, end) of them."""
        layers = read_calibration(calibration)
        d_mlp = [len(layer.centre) for layer in layers]
        scale = np.concatenate([layer.ranges.scale for layer in layers])
        shards = list(map(read_arrays, sums))
        cuts = [(0, len(shards)), *ranges]
        return [cls.of(d_mlp, moments.merge(shards[i:j]), scale) for i, j in cuts]


def standardised(
    products: NDArray,
    a: Neurons,
    a_slice: slice | NDArray[np.int64],
    b: Neurons,
    b_slice: slice | NDArray[np.int64],
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Correlations from sums of products of codes and sums of codes; 0 for a dead neuron."""
    out = np.empty(products.shape) if out is None else out
    np.outer(a.code_sum[a_slice], b.code_sum[b_slice] / -a.n_tokens, out=out)
    out += products
    out *= (a.factor[a_slice] / a.n_tokens)[:, None]
    out *= b.factor[b_slice]
    return out


def part(buffer: NDArray, shape: tuple[int, int]) -> NDArray:
    """A contiguous array of that shape in a buffer's memory."""
    return buffer.reshape(-1)[: shape[0] * shape[1]].reshape(shape)
