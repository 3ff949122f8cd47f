"""What neurons match among random directions of other models' real MLP inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations import moments
from universal_neurons.activations.kernels import add_products, choose_kernel, zeros
from universal_neurons.activations.products import Reader, block_tokens, paired, tile_name
from universal_neurons.activations.reader import Activations
from universal_neurons.capture.directions import RandomNeurons, input_moments
from universal_neurons.capture.run import Cell, capture_sample
from universal_neurons.correlate.neurons import Neurons, standardised
from universal_neurons.correlate.rotations import (
    Baseline,
    Rotating,
    Rotations,
    covariance_within,
    rotated_std,
)
from universal_neurons.jobs import progress
from universal_neurons.store.arrays import Added, read_arrays, write_by_pair
from universal_neurons.store.same_run import check_same_run

# Rotations of fewer bytes are read once, others whenever they are used.
HELD = 1 << 28


@dataclass(frozen=True)
class Drawing:
    """How random directions are drawn and matched.

    Attributes
    ----------
    draws
        Random directions in place of every neuron.
    sequences
        Scored sequences, the first ones, on which they are matched.
    seed
        Of the directions.
    """

    draws: int
    sequences: int
    seed: int


class Populations:
    """A model's own neurons, and random ones in place of them, on a sample.

    Parameters
    ----------
    where
        Folder in which `capture_sample` stored a `RandomNeurons`.
    n_layers
        Layers of the model itself.
    """

    def __init__(self, where: Path, n_layers: int) -> None:
        self.store, self.n_layers = Activations(where / "activations.zarr"), n_layers
        self._whole = Neurons.read([where / "moments.zarr"], where / "calibration.zarr")
        self._sums = moments.merge([read_arrays(where / "moments.zarr")])
        self._within = Added([where / "within.zarr"])

    def layers(self, population: int) -> range:
        """Layers of the store: of the model itself (0), or of draw `population` − 1."""
        return range(population * self.n_layers, (population + 1) * self.n_layers)

    def neurons(self, population: int) -> Neurons:
        """Statistics of one of them."""
        of, whole = self.layers(population), self._whole
        own = slice(whole.layers[of[0]].start, whole.layers[of[-1]].stop)
        statistics = (whole.code_sum[own], whole.scale[own], whole.std[own])
        return Neurons([whole.d_mlp[i] for i in of], whole.n_tokens, *statistics)

    def baseline(self, population: int, rotations: Rotations, rotating: Rotating) -> Baseline:
        """The run's rotations of one of them."""
        spread = []
        for layer, stored in enumerate(self.layers(population)):
            products = self._within[tile_name(stored, stored)]
            own, scale = self._whole.layers[stored], self._whole.scale.astype(np.float32)
            covariance = covariance_within(products, self._sums, scale, own)
            spread.append(rotated_std(covariance, rotations, layer, rotating))
        together = np.concatenate(spread, axis=1)
        of = self.neurons(population)
        return Baseline(of, rotations, together, standardise=rotating.standardise)


class RandomMatches:
    """Matches of other models' neurons among one draw of a model's random ones.

    Parameters
    ----------
    other
        The model.
    draw
        Which of its random neurons.
    rotations, rotating
        The run's rotations, and how neurons are rotated.
    kernel
        See `kernels.add_products`.
    """

    def __init__(
        self, other: Populations, draw: int, rotations: Rotations, rotating: Rotating, kernel: str
    ) -> None:
        self._store, self._layers, self._kernel = other.store, other.layers(1 + draw), kernel
        self._neurons = other.neurons(1 + draw)
        self._baseline = other.baseline(1 + draw, rotations, rotating)

    def excess(self, own: Populations) -> NDArray[np.float64]:
        """Excess correlation of another model's neurons with them.

        As that of a run, `universality.universality_table`, with the random neurons in place of
        the model's own, in the best match and in the rotated baseline alike.

        Parameters
        ----------
        own
            The other model.

        Returns
        -------
        ndarray
            Shape (N of `own`,); NaN for a neuron that is constant in the sample.
        """
        a, b = own.neurons(0), self._neurons
        blocks = own.store.row_blocks(block_tokens(max(a.d_mlp + b.d_mlp)))
        excess = np.empty(len(a.std))
        for layer, rows in enumerate(a.layers):
            read = Reader(max((block.stop - block.start for block in blocks), default=0))
            others = [partial(read, self._store, j) for j in self._layers]
            tiles = [zeros(a.d_mlp[layer], d, own.store.encoding) for d in b.d_mlp]
            mine, what = partial(read, own.store, layer), f"blocks of layer {layer}"
            for _, j, codes, theirs in paired(blocks, mine, others, what):
                tiles[j] = add_products(tiles[j], codes, theirs, self._kernel)
            corr = np.empty((a.d_mlp[layer], len(b.std)))
            for columns, tile in zip(b.layers, tiles, strict=True):
                standardised(tile, a, rows, b, columns, corr[:, columns])
            excess[rows] = corr.max(1).clip(-1, 1) - self._baseline.best(corr).mean(0)
        excess[a.std == 0] = np.nan
        return excess


def random_step(
    cells: Sequence[Cell],
    drawing: Drawing,
    *,
    rotations: str | Path,
    rotating: Rotating,
    kernel: str,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store what the neurons of a step match among random directions of the other seeds' inputs.

    Parameters
    ----------
    cells
        All seeds at the step.
    drawing
        How many directions, and on what tokens.
    rotations, rotating
        See `RandomMatches`.
    kernel
        See `kernels.choose_kernel`.
    path
        Store to make: per (seed, other seed) the excess, shape (draws, N), see
        `arrays.read_by_pair`. Beside it is the room for what is removed at the end: the
        activations of all models on the sample.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the models are not of one run, or no token of the sample is scored.
    """
    with TemporaryDirectory(dir=Path(path).parent, prefix=".random-") as name:
        folders = {cell.seed: Path(name, str(i)) for i, cell in enumerate(cells)}
        found = {
            cell.seed: _populations(cell, folders[cell.seed], drawing)
            for cell in progress(cells, "models")
        }
        stores = [folder / "activations.zarr" for folder in folders.values()]
        same = check_same_run([*stores, rotations])
        first, *others = found.values()
        for another in others:
            first.store.check_same_tokens(another.store)
        neurons = sum(len(of.neurons(0).std) for of in found.values())
        size = 4 * rotating.draws * sum(d_mlp**2 for d_mlp in first.neurons(0).d_mlp)
        matrices = read_arrays(rotations) if size < HELD else Added([rotations])
        # Of all pairs together: each alone may be too few to look for the fastest one.
        kernel = choose_kernel(kernel, 2 * drawing.draws * first.store.n_tokens * neurons**2)
        excess: dict[tuple[str, str], list[NDArray]] = {pair: [] for pair in permutations(found, 2)}
        for other, draw in progress([*product(found, range(drawing.draws))], "draws"):
            among = RandomMatches(found[other], draw, matrices, rotating, kernel)
            for seed in found:
                if seed != other:
                    excess[seed, other].append(among.excess(found[seed]))
        by_pair = {pair: np.stack(draws) for pair, draws in excess.items()}
        write_by_pair(path, by_pair, {**attributes, **same})


def _populations(cell: Cell, where: Path, drawing: Drawing) -> Populations:
    """Run a model over the sample, with random neurons beside its own."""
    options, tokens = cell.options, cell.tokens[: drawing.sequences]
    asked = (cell.exclude, options.exclude_positions, options.batch_tokens)
    inputs = input_moments(cell.model, tokens, *asked)
    key = [drawing.seed, cell.step, *cell.seed.encode()]
    model = RandomNeurons.of(cell.model, inputs, drawing.draws, key)
    about = cell.attributes
    capture_sample(model, tokens, (cell.seed, cell.step), cell.exclude, options, where, about)
    return Populations(where, len(cell.model.d_mlp))
