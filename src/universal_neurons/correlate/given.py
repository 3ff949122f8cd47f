"""Correlations given the token: what two neurons have in common within the tokens of one identity.

A covariance within classes is that of all tokens less that of the classes' means. So it follows
from the sums that `match` has, and from every model's sums over the tokens of a class
(`class_sums`), without another pass over pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.class_sums import KINDS, HalfSums
from universal_neurons.activations.products import tile_name
from universal_neurons.correlate import explained
from universal_neurons.correlate.explained import Spread
from universal_neurons.correlate.matches import Matches
from universal_neurons.correlate.neurons import Neurons
from universal_neurons.correlate.rotations import (
    Baseline,
    Rotating,
    covariance_within,
    rotated_std,
)
from universal_neurons.correlate.search import Search
from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.store.arrays import Added, attributes_of, read_arrays, write_arrays
from universal_neurons.store.same_run import check_same_run

# Rotations of the baseline given the token: the first ones of the run's.
DRAWS = 2

# By which correlations are conditioned.
TOKEN = KINDS[0]

# Classes whose sums are standardised at a time, in float64.
_ROWS = 4096


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


def write_given(
    path: str | Path,
    *,
    sums: Sequence[str | Path],
    within: Sequence[str | Path],
    classes: Sequence[str | Path],
    calibration: str | Path,
    rotations: str | Path,
    rotating: Rotating,
    attributes: Mapping[str, Any],
) -> None:
    """Store what the classes of tokens explain of a model, and its spread given the token.

    Arrays, N being the neurons of the model: ``{kind}_r2``, float64, shape (N,), of
    `explained.r2`; ``std``, float64, shape (N,), the standard deviations within tokens of one
    identity; ``rotated_std``, float32, shape (draws, N), those of rotated neurons; ``count``,
    int64, shape (V,), and per layer i ``sums{i}``, shape (V, d_mlp), of the tokens' identities.

    Parameters
    ----------
    path
        Store to make.
    sums, within, classes
        Moments, within-layer sums and sums over classes of all shards.
    calibration, rotations
        Stores of the model and of the run.
    rotating
        How neurons are rotated; of its draws the first `DRAWS`.
    attributes
        Recorded with them.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*sums, *within, *classes, calibration, rotations])
    merged = moments.merge(map(read_arrays, sums))
    scale = np.concatenate([layer.ranges.scale for layer in read_calibration(calibration)])
    neurons = Neurons.read(sums, calibration)
    by_kind = {kind: HalfSums(classes, kind) for kind in KINDS}
    products, matrices = Added(within), Added([rotations])
    rotating = Rotating(min(rotating.draws, DRAWS), rotating.standardise)
    rounded = same["encoding"] == "int8"
    found: dict[str, list[NDArray]] = {f"{kind}_r2": [] for kind in KINDS}
    found |= {"std": [], "rotated_std": []}

    def arrays() -> Iterator[tuple[str, NDArray]]:
        count = by_kind[TOKEN].count.sum(0)
        yield "count", count
        for layer, own in enumerate(progress(neurons.layers, "layers")):
            within_layer = products[tile_name(layer, layer)]
            spread = _spread(within_layer.diagonal(), neurons, own, rounded)
            for kind, halves in by_kind.items():
                sums_of_layer = halves.layer(layer)
                found[f"{kind}_r2"].append(explained.r2(halves.count, sums_of_layer, spread))
                if kind == TOKEN:
                    total = sums_of_layer.sum(0, dtype=sums_of_layer.dtype)
            yield f"sums{layer}", total
            left = explained.left_within(count, total, spread)
            covariance = covariance_within(within_layer, merged, scale, own)
            std = neurons.std[own] * np.sqrt(left)
            _take_out(covariance, class_scores(total, count, neurons, own), neurons.std[own], std)
            found["std"].append(std)
            found["rotated_std"].append(rotated_std(covariance, matrices, layer, rotating))
        for name, parts in found.items():
            yield name, np.concatenate(parts, axis=-1)

    whose = attributes_of(sums[0])
    about = {"seed": whose["seed"], "step": whose["step"], "standardise": rotating.standardise}
    about |= {f"covered_{kind}": explained.covered(own.count) for kind, own in by_kind.items()}
    write_arrays(path, arrays(), {**attributes, **about, **same})


def _spread(squares: NDArray, neurons: Neurons, own: slice, rounded: bool) -> Spread:
    """Of a layer, from the summed squares of its codes and the exact moments."""
    code_sum, n_tokens = neurons.code_sum[own], neurons.n_tokens
    exact = n_tokens * (neurons.std[own] / neurons.scale[own]) ** 2
    codes = squares.astype(np.float64) - code_sum * (code_sum / n_tokens)
    return Spread(n_tokens, code_sum, codes, exact, rounded)


def _take_out(
    covariance: NDArray[np.float64],
    scores: NDArray[np.float32],
    std: NDArray[np.float64],
    left: NDArray[np.float64],
) -> None:
    """Make a covariance one within classes, in place; `left` are the standard deviations there."""
    between = (scores.T @ scores).astype(np.float64)
    between *= std[:, None]
    between *= std
    covariance -= between
    covariance[left == 0] = 0
    covariance[:, left == 0] = 0
    np.fill_diagonal(covariance, left**2)


class Given:
    """One model's neurons given the token.

    Parameters
    ----------
    path
        Store of `write_given`.
    neurons
        Statistics over all tokens.
    rotations
        The run's.

    Attributes
    ----------
    within
        The neurons with their standard deviations within tokens of one identity.
    baseline
        Their rotations.
    count
        Number of tokens of every identity, shape (V,).
    """

    def __init__(self, path: str | Path, neurons: Neurons, rotations: str | Path) -> None:
        self._neurons, self._sums = neurons, Added([path])
        std, spread = self._sums["std"], self._sums["rotated_std"]
        self.within = Neurons(neurons.d_mlp, neurons.n_tokens, neurons.code_sum, neurons.scale, std)
        standardise = attributes_of(path)["standardise"]
        self.baseline = Baseline(self.within, Added([rotations]), spread, standardise=standardise)
        self.count = self._sums["count"]

    def scores(self, layer: int) -> NDArray[np.float32]:
        """A layer's `class_scores`."""
        own = self._neurons.layers[layer]
        return class_scores(self._sums[f"sums{layer}"], self.count, self._neurons, own)

    def stretch(self, own: slice) -> NDArray[np.float64]:
        """σ over the standard deviation within tokens, of some neurons; 0 where nothing is left."""
        left = self.within.std[own]
        return np.divide(self._neurons.std[own], left, out=np.zeros_like(left), where=left > 0)


def check_same_tokens(a: Given, b: Given) -> None:
    """Refuse two models whose sums are of different tokens.

    Raises
    ------
    UserError
        If they are.
    """
    if not np.array_equal(a.count, b.count):
        raise UserError("the two models' sums by token are of different tokens; run them anew")


class GivenToken:
    """Best matches of two models given the token, from the correlations that `match` makes.

    Parameters
    ----------
    a, b
        The two models.
    layers
        Layers of `a`.

    Raises
    ------
    UserError
        If the two are of different tokens.
    """

    def __init__(self, a: Given, b: Given, layers: Sequence[int]) -> None:
        check_same_tokens(a, b)
        self._a, self._b, self._layers = a, b, layers
        self._search = Search(a.within, b.within, layers, a.baseline, b.baseline)
        self._scores_a = [a.scores(i) for i in layers]
        self._scores_b = np.empty((0, 0), np.float32)

    def turn_to(self, other: int) -> None:
        """Go on with a layer of `b`."""
        self._scores_b = self._b.scores(other)
        self._search.turn_to(other)

    def take(self, corr: NDArray[np.float64], place: int, other: int) -> None:
        """As `Search.take`, with the correlations over all tokens; they are changed in place."""
        corr -= self._scores_a[place].T @ self._scores_b
        corr *= self._a.stretch(self._a.within.layers[self._layers[place]])[:, None]
        corr *= self._b.stretch(self._b.within.layers[other])
        self._search.take(corr, place, other)

    def found(self) -> tuple[Matches, Matches]:
        """As `Search.found`."""
        return self._search.found()
