"""What is known of captured models given classes of tokens, made as the workflow makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pipeline import write_rotated, write_rotations

from universal_neurons.activations import products
from universal_neurons.activations.class_sums import KINDS, class_sums, groups_of
from universal_neurons.activations.reader import Activations
from universal_neurons.correlate.given import write_given
from universal_neurons.correlate.match import match_pair
from universal_neurons.correlate.matches import StepMatches
from universal_neurons.correlate.neurons import Captured
from universal_neurons.correlate.rotations import Rotating
from universal_neurons.store.arrays import read_arrays, write_arrays


def write_classes(
    shards: Sequence[Path], sequences: NDArray[np.integer], halves: NDArray[np.integer]
) -> list[Path]:
    """Store the sums over classes of every shard; `sequences` are the tokens' identities."""
    for shard in shards:
        store = Activations(shard / "activations.zarr")
        groups = groups_of(sequences, sequences, halves, store.token_index())
        write_arrays(shard / "classes.zarr", class_sums(store, groups), {})
    return [shard / "classes.zarr" for shard in shards]


def store_given(
    shards: Sequence[Path],
    sequences: NDArray[np.integer],
    halves: NDArray[np.integer],
    path: Path,
    rotations: Path,
    rotating: Rotating,
    kinds: Sequence[str] = KINDS,
) -> dict[str, NDArray]:
    """What is known of a captured model given classes of tokens; made at `path`."""
    moments = [shard / "moments.zarr" for shard in shards]
    write_given(
        path,
        Captured(moments, shards[0].parent / "calibration.zarr"),
        within=[shard / "within.zarr" for shard in shards],
        classes=write_classes(shards, sequences, halves),
        rotations=rotations,
        rotating=rotating,
        kinds=kinds,
        attributes={},
    )
    return read_arrays(path)


def given_of(
    shards: Sequence[Path], sequences: NDArray[np.integer], halves: NDArray[np.integer]
) -> dict[str, NDArray]:
    """The same of a single model."""
    where = shards[0].parent
    write_rotations(where / "rotations.zarr", [shards], 1)
    return store_given(
        *(shards, sequences, halves, where / "given.zarr", where / "rotations.zarr", Rotating(1))
    )


def match_given(
    models: Sequence[Sequence[Path]],
    sequences: NDArray[np.integer],
    halves: NDArray[np.integer],
    where: Path,
    *,
    draws: int = 2,
    standardise: bool = False,
) -> tuple[StepMatches, list[dict[str, NDArray]]]:
    """Matches of two captured models, given classes too, and what is stored of either."""
    rotations, rotating = where / "rotations.zarr", Rotating(draws, standardise)
    write_rotations(rotations, models, draws)
    captured, stored = [], []
    for i, shards in enumerate(models):
        rotated, given = where / f"rotated{i}.zarr", where / f"given{i}.zarr"
        write_rotated(rotated, shards, rotations, rotating)
        stored.append(store_given(shards, sequences, halves, given, rotations, rotating))
        moments = [shard / "moments.zarr" for shard in shards]
        calibration = shards[0].parent / "calibration.zarr"
        captured.append(Captured(moments, calibration, rotated=rotated, given=given))
    sums = [where / f"sums{i}.zarr" for i in range(len(models[0]))]
    layers = range(len(Activations(models[0][0] / "activations.zarr").d_mlp))
    for path, *pair in zip(sums, *models, strict=True):
        one, other = (shard / "activations.zarr" for shard in pair)
        products.sum_pair(one, other, layers, "auto", path=path, attributes={})
    path = where / "matches.zarr"
    match_pair(sums, *captured, layers, rotations=rotations, path=path, attributes={})
    return StepMatches.read([path]), stored
