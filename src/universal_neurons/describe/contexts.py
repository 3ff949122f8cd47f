"""What other models do in the contexts of chosen neurons: at other steps, and in other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from universal_neurons.describe.windows import AFTER, BEFORE, lists, places, read_neurons, windows
from universal_neurons.models.load import Model
from universal_neurons.prepare.reading import Corpus
from universal_neurons.store.tables import read_table

KEYS = ("step", "seed", "layer", "neuron", "band", "rank")


def wanted(
    examples: Sequence[str | Path], matches: Sequence[str | Path], seed: str, step: int
) -> pd.DataFrame:
    """Which of a model's neurons to read, and where.

    Parameters
    ----------
    examples
        Parts of `columns.examples.EXAMPLES`: of the model's own seed, or of the others.
    matches
        The part of `columns.score.MATCHES` of their step: one, or none for the model's own seed.
    seed, step
        The model's names.

    Returns
    -------
    DataFrame
        Columns `KEYS` of the example, its ``sequence`` and ``position``, and ``other_seed``,
        ``other_step``, ``other_layer``, ``other_neuron`` of the model's neuron: the one of the same
        layer and index, or the best match. A dead neuron has none.
    """
    columns = [*KEYS, "sequence", "position"]
    found = pd.concat([read_table(path, columns) for path in examples], ignore_index=True)
    if not matches:
        found = found.assign(other_layer=found["layer"], other_neuron=found["neuron"])
    for path in matches:
        keys, best = ["seed", "layer", "neuron"], ["best_layer", "best_neuron"]
        of_model = [("other_seed", "==", seed), ("best_layer", ">=", 0)]
        found = found.merge(read_table(path, [*keys, *best], of_model), on=keys)
        found = found.rename(columns={name: f"other_{name[5:]}" for name in best})
    return found.assign(other_seed=seed, other_step=step)


def contexts_in(model: Model, corpus: Corpus, found: pd.DataFrame) -> pa.Table:
    """Read a model's neurons in a corpus, see `contexts`, whose tokenizer may be another's."""
    seeds, sequence = found["seed"].to_numpy(), found["sequence"].to_numpy()
    at = corpus.positions(seeds, sequence, places(found["position"].to_numpy()))
    return contexts(model, corpus.sequences, found, at)


def contexts(
    model: Model,
    sequences: NDArray[np.integer],
    found: pd.DataFrame,
    at: NDArray[np.integer] | None = None,
) -> pa.Table:
    """Run a model over the sequences that hold contexts and read its neurons there.

    Parameters
    ----------
    model
        The model.
    sequences
        Of the corpus, shape (sequences, context length).
    found
        What to read, as `wanted` returns it.
    at
        Positions of the windows' tokens, shape (contexts, window), in a model of another tokenizer
        (`Corpus.positions`); −1 where it has none, and the activation is not known (NaN).

    Returns
    -------
    Table
        `columns.examples.CONTEXTS`.
    """
    held, row = np.unique(found["sequence"], return_inverse=True)
    layer, neuron, position = (
        found[name].to_numpy() for name in ("other_layer", "other_neuron", "position")
    )
    window = places(position)
    inside = (window >= 0) & (window < sequences.shape[1])
    at = window if at is None else at
    own = [np.unique(neuron[layer == i]) for i in range(len(model.d_mlp))]
    # Those of a layer lie together, and within it those of a sequence.
    order = np.lexsort([row, layer])
    place = (layer * len(held) + row)[order]
    read = np.empty((len(found), BEFORE + 1 + AFTER), np.float32)

    def take(i: int, x: NDArray[np.float32], first: int) -> None:
        here = i * len(held) + first
        start, stop = np.searchsorted(place, [here, here + len(x)])
        which = order[start:stop]
        column = np.searchsorted(own[i], neuron[which])
        read[which] = windows(x, row[which] - first, at[which], column)

    read_neurons(model, sequences[held], own, take)
    table = pa.Table.from_pandas(found.drop(columns=["sequence", "position"]), preserve_index=False)
    return table.append_column("activations", lists(read, inside))
