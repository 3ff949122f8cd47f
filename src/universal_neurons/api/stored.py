"""A model's stored activations, all shards as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.reader import Activations
from universal_neurons.errors import UserError

# A pruned model's shards may have been captured again; of several folders the first counts.
FOLDERS = ("activations", "restored")


class StoredLayers(Sequence[NDArray[np.float32]]):
    """Layers of a model, each read when it is asked for.

    ``layers[3]`` are the activations of layer 3, float32, shape (scored tokens, d_mlp).

    Parameters
    ----------
    paths
        Stores of all shards, in order.

    Raises
    ------
    UserError
        If a store is missing or incomplete.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._shards = [Activations(path) for path in paths]
        self.d_mlp = self._shards[0].d_mlp

    @property
    def n_tokens(self) -> int:
        """Number of scored tokens."""
        return sum(shard.n_tokens for shard in self._shards)

    def __len__(self) -> int:
        return len(self.d_mlp)

    def __getitem__(self, layer: int) -> NDArray[np.float32]:  # type: ignore[override]
        layer = range(len(self))[layer]
        return np.concatenate([shard.activations(layer) for shard in self._shards])

    def of_neuron(self, layer: int, neuron: int) -> NDArray[np.float32]:
        """Activations of one neuron, shape (scored tokens,), read a chunk at a time."""
        return np.concatenate([*self._parts(layer, neuron)])

    def _parts(self, layer: int, neuron: int) -> Iterator[NDArray[np.float32]]:
        for shard in self._shards:
            for rows in shard.row_blocks(1):
                yield shard.activations(layer, rows)[:, neuron]

    @cached_property
    def token_ids(self) -> NDArray[np.int32]:
        """The scored tokens, shape (scored tokens,)."""
        return np.concatenate([shard.token_ids() for shard in self._shards])

    @cached_property
    def token_index(self) -> NDArray[np.int64]:
        """Their places in the corpus: sequence number times context length plus position."""
        return np.concatenate([shard.token_index() for shard in self._shards])

    def __repr__(self) -> str:
        shape = " + ".join(map(str, self.d_mlp))
        return f"<activations of {shape} neurons at {self.n_tokens:,} tokens>"


def stored_layers(run: Path, seed: str, step: int) -> StoredLayers:
    """The stored activations of a model of a run.

    Raises
    ------
    UserError
        If they were not stored, or dropped since.
    """
    for folder in FOLDERS:
        where = run / folder / f"seed{seed}" / f"step{step}"
        if shards := sorted(where.glob("shard*.zarr"), key=_number):
            return StoredLayers(shards)
    raise UserError(
        f"{run}: no activations of seed {seed} at step {step} are stored (capture.store: false, "
        "capture.keep: false, or `make prune`); run.model(…) still has the model"
    )


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("shard"))
