"""Partial sums straight from the models: several seeds run side by side and nothing is stored.

For a device whose products are faster than any disk, and for corpora whose activations no disk
would hold. The codes are those of `capture`, so the sums have the same bits as those of stored
activations on the same device.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.activations.calibration import read_calibration
from universal_neurons.activations.class_sums import Groups, groups_of
from universal_neurons.activations.codes import Codes
from universal_neurons.activations.kernels import (
    SMALL,
    add_products,
    choose_kernel,
    empty_codes,
    measured_rates,
    zeros,
)
from universal_neurons.activations.products import tile_name
from universal_neurons.capture.capture import Encoder, EscapeList, moment_arrays, warn_of_escapes
from universal_neurons.capture.direct_classes import DirectClasses
from universal_neurons.capture.run import Cell, fix_codes
from universal_neurons.jobs import logger
from universal_neurons.models.forward import scored
from universal_neurons.models.load import Model
from universal_neurons.store.arrays import write_arrays

# Tokens whose codes are multiplied at a time; five GPT-2 Small have 1.5 GB of them. A GPU takes as
# long to add 8192 tokens' products to the sums as a third of the products themselves.
BLOCK_TOKENS = {"cpu": 8192, "cuda": 32768}

Pair = tuple[str, str]


class _Codes:
    """Codes of one model's layers, until there are enough for a product."""

    def __init__(self, model: Model, encoder: Encoder, tokens: int) -> None:
        self._int8 = encoder.encoding == "int8"
        dtype = torch.int8 if self._int8 else torch.float32
        self._ranges = [
            [
                torch.from_numpy(x).to(model.device)
                for x in (layer.ranges.offset, layer.ranges.scale)
            ]
            for layer in encoder.calibration
        ]
        self._layers = [empty_codes(tokens, d_mlp, dtype, model.device) for d_mlp in model.d_mlp]
        self._d_mlp = model.d_mlp
        self.clear()

    def clear(self) -> None:
        """Forget what was taken."""
        self.filled = 0
        self._escapes = [EscapeList(d_mlp, len(self._d_mlp)) for d_mlp in self._d_mlp]

    def take(self, layer: int, codes: Codes) -> None:
        """Take a layer's batch, see `LayerPass.add`; the last layer's completes the batch."""
        dense = codes.dense
        stop = self.filled + len(dense)
        offset, scale = self._ranges[layer]
        self._layers[layer][self.filled : stop] = (
            dense if self._int8 else (dense.float() - offset) / scale
        )
        self._escapes[layer].append(codes)
        if layer == len(self._layers) - 1:
            self.filled = stop

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> Codes:
        return Codes(self._layers[layer][: self.filled], self._escapes[layer].joined())


class _Products:
    """Sums of products of codes, on the models' device, and how fast they are made.

    Parameters
    ----------
    models
        By seed.
    tiles
        What is added up: seed, other seed and their layers.
    encoding
        Of the codes.
    kernel
        See `kernels.choose_kernel`.
    positions
        Number of tokens, at most.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        tiles: Sequence[tuple[str, str, int, int]],
        encoding: str,
        kernel: str,
        positions: int,
    ) -> None:
        self._device = next(iter(models.values())).device
        self._sums = {
            (a, b, i, j): torch.as_tensor(
                zeros(models[a].d_mlp[i], models[b].d_mlp[j], encoding, str(self._device))
            )
            for a, b, i, j in tiles
        }
        # Of a token.
        self._operations = 2 * sum(total.numel() for total in self._sums.values())
        operations = positions * self._operations
        int8 = encoding == "int8"
        self._kernel = choose_kernel(kernel, operations, str(self._device)) if int8 else "float32"
        self._start, self._seconds, self._tokens = time.perf_counter(), 0.0, 0

    def add(self, codes: Mapping[str, _Codes]) -> None:
        """Add the products of all codes that were taken, by seed, and forget those."""
        self._wait()
        start = time.perf_counter()
        blocks = {(seed, i): own[i] for seed, own in codes.items() for i in range(len(own))}
        for (a, b, i, j), total in self._sums.items():
            self._sums[a, b, i, j] = add_products(total, blocks[a, i], blocks[b, j], self._kernel)
        self._wait()
        self._seconds += time.perf_counter() - start
        self._tokens += next(iter(codes.values())).filled
        for own in codes.values():
            own.clear()

    def _wait(self) -> None:
        """A GPU works on while the next lines run."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def of_pair(self, a: str, b: str) -> dict[str, NDArray]:
        """Those of two seeds, by `products.tile_name`."""
        return {
            tile_name(i, j): total.cpu().numpy()
            for (one, other, i, j), total in self._sums.items()
            if (one, other) == (a, b)
        }

    def log(self) -> None:
        """Say how fast it was, and how near the products were to what the device can do."""
        whole = time.perf_counter() - self._start
        operations = self._tokens * self._operations
        rate = operations / self._seconds if self._seconds else 0.0
        share = ""
        # A job so small that no kernel was measured needs no comparison either.
        if operations >= SMALL:
            share = f", {rate / measured_rates(str(self._device))[self._kernel]:.0%} of its peak"
        logger.info(
            "%d tokens, %.0f a second; products (%s on %s): %.0f G operations per second%s, "
            "%.0f %% of the time",
            self._tokens,
            self._tokens / whole,
            self._kernel,
            self._device,
            rate / 1e9,
            share,
            100 * self._seconds / whole,
        )


@dataclass(frozen=True)
class Sums:
    """What `direct_sums` adds up.

    Attributes
    ----------
    cross
        Per pair the arrays of `products.cross_sums`, by name.
    within
        Per seed those of `products.within_sums`; empty unless asked for.
    classes
        Over classes of tokens, of all seeds; None unless asked for.
    moments
        Per seed the parts that `moments.merge` takes.
    """

    cross: dict[Pair, dict[str, NDArray]]
    within: dict[str, dict[str, NDArray]]
    classes: DirectClasses | None
    moments: dict[str, dict[str, NDArray]]


def direct_sums(
    models: Mapping[str, Model],
    encoders: Mapping[str, Encoder],
    tokens: NDArray[np.integer],
    sequences: tuple[int, int],
    *,
    pairs: Sequence[Pair],
    layers: Sequence[int],
    own: Mapping[str, Groups] | None = None,
    kernel: str = "auto",
) -> Sums:
    """Run several models over one shard and add up the products of their codes.

    All sums are held on the models' device.

    Parameters
    ----------
    models
        By seed, on one device.
    encoders
        By seed, how their activations become codes.
    tokens, sequences
        See `capture.Encoder.run`.
    pairs
        Pairs of seeds to correlate.
    layers
        Layers of each pair's first seed; all layers of the second.
    own
        Also make every model's own sums: within layers, and over these groups of the scored tokens
        (by kind; {} for none).
    kernel
        See `kernels.choose_kernel`.

    Raises
    ------
    UserError
        See `capture.capture`.
    """
    first, within = next(iter(encoders.values())), own is not None
    block = BLOCK_TOKENS[next(iter(models.values())).device.type]
    codes = {
        seed: _Codes(model, encoders[seed], block + first.batch_tokens)
        for seed, model in models.items()
    }
    passes = {seed: encoders[seed].passes(model) for seed, model in models.items()}
    positions = (sequences[1] - sequences[0]) * tokens.shape[1]
    tiles = _tiles(models, pairs, layers, within)
    products = _Products(models, tiles, first.encoding, kernel, positions)
    widths = {seed: model.d_mlp for seed, model in models.items()}
    classes = DirectClasses(widths, own, first.encoding) if own else None

    def add() -> None:
        if classes:
            classes.add({seed: [x[i] for i in range(len(x))] for seed, x in codes.items()})
        products.add(codes)

    runs = [
        encoders[seed].run(model, tokens, sequences, passes[seed], codes[seed].take)
        for seed, model in models.items()
    ]
    n_tokens = 0
    for batch in zip(*runs, strict=True):
        n_tokens += len(batch[0][0])
        if next(iter(codes.values())).filled >= block:
            add()
    add()
    products.log()
    moments = {seed: moment_arrays(own, n_tokens) for seed, own in passes.items()}
    for seed, sums in moments.items():
        warn_of_escapes(encoders[seed].name, sums, models[seed].d_mlp)
    return Sums(
        {(a, b): products.of_pair(a, b) for a, b in pairs},
        {seed: products.of_pair(seed, seed) for seed in models} if within else {},
        classes,
        moments,
    )


def _tiles(
    models: Mapping[str, Model], pairs: Sequence[Pair], layers: Sequence[int], within: bool
) -> list[tuple[str, str, int, int]]:
    """What is added up: seed, other seed and their layers."""
    tiles = [(a, b, i, j) for a, b in pairs for i in layers for j in range(len(models[b].d_mlp))]
    if within:
        tiles += [(seed, seed, i, i) for seed in models for i in range(len(models[seed].d_mlp))]
    return tiles


@dataclass(frozen=True)
class Step:
    """All seeds of a step, and what is to be added up of them over one shard.

    Attributes
    ----------
    cells
        The models.
    sequences
        First sequence of the shard and the one after its last.
    pairs, layers, kernel
        See `direct_sums`.
    """

    cells: Sequence[Cell]
    sequences: tuple[int, int]
    pairs: Sequence[Pair]
    layers: Sequence[int]
    kernel: str

    def groups(self) -> dict[str, Groups]:
        """Classes of the scored tokens of the shard."""
        cell, (start, stop) = self.cells[0], self.sequences
        exclude, positions = cell.exclude, cell.options.exclude_positions
        counts = scored(cell.tokens[start:stop], exclude, positions)
        index = start * counts.shape[1] + np.flatnonzero(counts)
        return groups_of(cell.tokens, cell.corpus.identity, cell.corpus.halves, index)

    def add_up(
        self, calibration: Sequence[str | Path], own: Mapping[str, Groups] | None = None
    ) -> Sums:
        """See `direct_sums`; with the calibration of every cell."""
        tokens = self.cells[0].tokens
        encoders = {
            cell.seed: cell.encoder(read_calibration(path))
            for cell, path in zip(self.cells, calibration, strict=True)
        }
        return direct_sums(
            {cell.seed: cell.model for cell in self.cells},
            encoders,
            tokens,
            self.sequences,
            pairs=self.pairs,
            layers=self.layers,
            own=own,
            kernel=self.kernel,
        )

    def write_cross(self, sums: Sums, paths: Sequence[str | Path]) -> None:
        """Store the sums of every pair."""
        by_seed = {cell.seed: cell for cell in self.cells}
        for pair, path in zip(self.pairs, paths, strict=True):
            both = {
                f"{seed}/{by_seed[seed].step}": by_seed[seed].attributes["model_sha256"]
                for seed in pair
            }
            about = {**self._attributes(by_seed[pair[0]], sums), "models": both}
            write_arrays(path, sums.cross[pair].items(), about)

    def write_own(
        self,
        sums: Sums,
        moments: Sequence[str | Path],
        within: Sequence[str | Path],
        classes: Sequence[str | Path],
    ) -> None:
        """Store the moments, the sums within layers and those over classes of every seed."""
        for i, cell in enumerate(self.cells):
            about = self._attributes(cell, sums)
            write_arrays(moments[i], sums.moments[cell.seed].items(), about)
            write_arrays(within[i], sums.within[cell.seed].items(), about)
            if sums.classes:
                write_arrays(classes[i], sums.classes.of_seed(cell.seed), about)

    def _attributes(self, cell: Cell, sums: Sums) -> dict[str, Any]:
        n_tokens = int(sums.moments[cell.seed]["n_tokens"][0])
        encoder = cell.encoder([])
        return {
            **cell.attributes,
            **encoder.attributes(cell.model, self.sequences, n_tokens),
        }


def sum_shard(
    step: Step,
    *,
    calibration: Sequence[str | Path],
    sums: Sequence[str | Path],
    moments: Sequence[str | Path],
    within: Sequence[str | Path],
    classes: Sequence[str | Path] = (),
) -> None:
    """Store the sums of all pairs and seeds of a step over one shard, for a first block of layers.

    Parameters
    ----------
    step
        The models and the shard.
    calibration
        Stores of the models' codes, by seed.
    sums
        Stores to make, by pair; see `products.cross_sums`.
    moments, within, classes
        Stores to make, by seed; see `moments.merge`, `products.within_sums` and
        `class_sums.class_sums`, which are not made without stores.

    Raises
    ------
    UserError
        See `capture.capture` and `run.Cell.tokens`.
    """
    found = step.add_up(calibration, step.groups() if classes else {})
    step.write_cross(found, sums)
    step.write_own(found, moments, within, classes)


def sum_first_shard(
    step: Step,
    *,
    calibration: Sequence[str | Path],
    facts: Sequence[str | Path],
    sums: Sequence[str | Path],
    moments: Sequence[str | Path],
    within: Sequence[str | Path],
    classes: Sequence[str | Path] = (),
) -> None:
    """Fix the codes of all seeds (`run.fix_codes`), then `sum_shard`."""
    for cell, store, path in zip(step.cells, calibration, facts, strict=True):
        fix_codes(cell, calibration=store, facts=path)
    own = {"moments": moments, "within": within, "classes": classes}
    sum_shard(step, calibration=calibration, sums=sums, **own)


def sum_more_layers(
    step: Step, *, calibration: Sequence[str | Path], sums: Sequence[str | Path]
) -> None:
    """Store the sums of all pairs over one shard, for a further block of layers.

    Parameters
    ----------
    step, calibration, sums
        See `sum_shard`.

    Raises
    ------
    UserError
        See `sum_shard`.
    """
    step.write_cross(step.add_up(calibration), sums)
