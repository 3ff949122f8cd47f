"""Correlations given classes of tokens: what two neurons have in common within one class.

Classes are those of `class_sums.KINDS`: tokens of one identity, of one token before, or of one
position.

A covariance within classes is that of all tokens less that of the classes' means. So it follows
from the sums that `match` has, and from every model's sums over the tokens of a class
(`class_sums`), without another pass over pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.class_sums import KINDS, TOKEN, HalfSums
from universal_neurons.activations.products import tile_name
from universal_neurons.correlate import explained
from universal_neurons.correlate.class_scores import Scores, class_scores
from universal_neurons.correlate.explained import Spread
from universal_neurons.correlate.matches import Matches
from universal_neurons.correlate.neurons import Captured, Neurons
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

# Rotations of the baseline given a class: the first ones of the run's.
DRAWS = 2

_Finder = TypeVar("_Finder")


def write_given(
    path: str | Path,
    model: Captured,
    *,
    within: Sequence[str | Path],
    classes: Sequence[str | Path],
    rotations: str | Path,
    rotating: Rotating,
    kinds: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Store what the classes of tokens explain of a model, and its spread within some of them.

    Arrays, N being the neurons of the model: ``{kind}_r2``, float64, shape (N,), of
    `explained.r2`, of all kinds; and of `kinds`, by the names that `array_of` gives them, ``std``,
    float64, shape (N,), the standard deviations within classes; ``rotated_std``, float32, shape
    (draws, N), those of rotated neurons; ``count``, int64, shape (V,), and per layer i ``sums{i}``,
    shape (V, d_mlp), of the classes.

    Parameters
    ----------
    path
        Store to make.
    model
        Its moments and calibration.
    within, classes
        Within-layer sums and sums over classes of all shards.
    rotations
        The run's.
    rotating
        How neurons are rotated; of its draws the first `DRAWS`.
    kinds
        Of `KINDS`, those by which correlations are to be conditioned.
    attributes
        Recorded with them.

    Raises
    ------
    UserError
        If the stores are not of one run.
    """
    same = check_same_run([*model.paths(), *within, *classes, rotations])
    merged = moments.merge(map(read_arrays, model.moments))
    scale = np.concatenate([layer.ranges.scale for layer in read_calibration(model.calibration)])
    neurons = Neurons.read(model.moments, model.calibration)
    by_kind = {kind: HalfSums(classes, kind) for kind in KINDS}
    products, matrices = Added(within), Added([rotations])
    rotating = Rotating(min(rotating.draws, DRAWS), rotating.standardise)
    found: dict[str, list[NDArray]] = {f"{kind}_r2": [] for kind in KINDS}
    found |= {array_of(kind, x): [] for kind in kinds for x in ("std", "rotated_std")}

    def arrays() -> Iterator[tuple[str, NDArray]]:
        for kind in kinds:
            yield array_of(kind, "count"), by_kind[kind].count.sum(0)
        for layer, own in enumerate(progress(neurons.layers, "layers")):
            within_layer = products[tile_name(layer, layer)]
            spread = _spread(within_layer.diagonal(), neurons, own, same["encoding"] == "int8")
            for kind, halves in by_kind.items():
                sums_of_layer = halves.layer(layer)
                found[f"{kind}_r2"].append(explained.r2(halves.count, sums_of_layer, spread))
                if kind not in kinds:
                    continue
                count = halves.count.sum(0)
                total = sums_of_layer.sum(0, dtype=sums_of_layer.dtype)
                yield array_of(kind, f"sums{layer}"), total
                std = neurons.std[own] * np.sqrt(explained.left_within(count, total, spread))
                covariance = covariance_within(within_layer, merged, scale, own)
                between = class_scores(total, count, neurons, own)
                _take_out(covariance, between, neurons.std[own], std)
                rotated = rotated_std(covariance, matrices, layer, rotating)
                found[array_of(kind, "std")].append(std)
                found[array_of(kind, "rotated_std")].append(rotated)
        for name, parts in found.items():
            yield name, np.concatenate(parts, axis=-1)

    about = {name: attributes_of(model.moments[0])[name] for name in ("seed", "step")}
    about |= {"standardise": rotating.standardise, "kinds": list(kinds)}
    about |= {f"covered_{kind}": explained.covered(own.count) for kind, own in by_kind.items()}
    write_arrays(path, arrays(), {**attributes, **about, **same})


def array_of(kind: str, name: str) -> str:
    """Name in a store of `write_given` of an array by a kind of class.

    Those given the token were there before there were others, and are called as they were.
    """
    return name if kind == TOKEN else f"{kind}_{name}"


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
    """One model's neurons given the class of a token.

    Parameters
    ----------
    path
        Store of `write_given`.
    neurons
        Statistics over all tokens.
    rotations
        The run's.
    kind
        One of the store's kinds of classes.

    Attributes
    ----------
    within
        The neurons with their standard deviations within classes.
    baseline
        Their rotations.
    count
        Number of tokens of every class, shape (V,).
    """

    def __init__(
        self, path: str | Path, neurons: Neurons, rotations: str | Path, kind: str = TOKEN
    ) -> None:
        self._neurons, self._sums, self._kind = neurons, Added([path]), kind
        std, spread = self._of("std"), self._of("rotated_std")
        self.within = Neurons(neurons.d_mlp, neurons.n_tokens, neurons.code_sum, neurons.scale, std)
        about = attributes_of(path)
        standardise = about["standardise"]
        self.baseline = Baseline(self.within, Added([rotations]), spread, standardise=standardise)
        self.count = self._of("count")
        self._name, self._int8 = f"{about['seed']} {kind}", about["encoding"] == "int8"

    def _of(self, name: str) -> NDArray:
        return self._sums[array_of(self._kind, name)]

    def scores(self, layer: int) -> NDArray[np.float32]:
        """A layer's `class_scores`."""
        own = self._neurons.layers[layer]
        return class_scores(self._of(f"sums{layer}"), self.count, self._neurons, own)

    def to_multiply(self, layer: int) -> Scores:
        """The same, as two whole layers are multiplied; of int8 codes they are rounded, too."""
        name = f"{self._name} {layer}"
        return Scores.of(self.scores(layer), self.count, name, rounded=self._int8)

    def stretch(self, own: slice) -> NDArray[np.float64]:
        """σ over the standard deviation within classes of some neurons; 0 where nothing is left."""
        left = self.within.std[own]
        return np.divide(self._neurons.std[own], left, out=np.zeros_like(left), where=left > 0)


def read_given(
    models: Sequence[tuple[str | Path, Neurons]], rotations: str | Path
) -> dict[str, tuple[Given, Given]]:
    """Two models by every kind of class that correlations are conditioned by.

    Parameters
    ----------
    models
        Store of `write_given` (empty where there is none) and statistics over all tokens, of both.
    rotations
        The run's.

    Raises
    ------
    UserError
        If the two are of different tokens.
    """
    if not all(path for path, _ in models):
        return {}
    # Stores without the attribute are of before there were others.
    kinds, others = (attributes_of(path).get("kinds", [TOKEN]) for path, _ in models)
    found = {}
    for kind in kinds:
        if kind in others:
            a, b = (Given(*model, rotations, kind) for model in models)
            if not np.array_equal(a.count, b.count):
                raise UserError(
                    f"the two models' sums by {kind} are of different tokens; run them anew"
                )
            found[kind] = a, b
    return found


def each_its_own(
    finders: Sequence[_Finder], corr: NDArray[np.float64]
) -> Iterator[tuple[_Finder, NDArray[np.float64]]]:
    """Hand every finder correlations that it may change: copies, but to the last one."""
    for number, finder in enumerate(finders, start=1):
        yield finder, corr if number == len(finders) else corr.copy(order="K")


class GivenSearch:
    """Best matches of two models given the class of a token, from what `match` makes.

    Parameters
    ----------
    a, b
        The two models, of the same tokens.
    layers
        Layers of `a`.
    """

    def __init__(self, a: Given, b: Given, layers: Sequence[int]) -> None:
        self._a, self._b, self._layers = a, b, layers
        self._search = Search(a.within, b.within, layers, a.baseline, b.baseline)
        self._scores_a = [a.to_multiply(i) for i in layers]

    def turn_to(self, other: int) -> None:
        """Go on with a layer of `b`."""
        self._scores_b = self._b.to_multiply(other)
        self._search.turn_to(other)

    def take(self, corr: NDArray[np.float64], place: int, other: int) -> None:
        """As `Search.take`, with the correlations over all tokens; they are changed in place."""
        corr -= self._scores_a[place].product(self._scores_b)
        corr *= self._a.stretch(self._a.within.layers[self._layers[place]])[:, None]
        corr *= self._b.stretch(self._b.within.layers[other])
        self._search.take(corr, place, other)

    def found(self) -> tuple[Matches, Matches]:
        """As `Search.found`."""
        return self._search.found()
