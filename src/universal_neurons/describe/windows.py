"""Activations at chosen places of the corpus, with what is around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from universal_neurons.models.forward import forward
from universal_neurons.models.load import Model

# Tokens of a window before and after the one it is about.
BEFORE, AFTER = 10, 5

# Of the forward passes; results depend on it only by rounding.
BATCH_TOKENS = 4096

# Takes a layer, its activations of a batch, float32, shape (sequences, context length, neurons),
# and the number of the batch's first sequence among those that are read.
Take = Callable[[int, NDArray[np.float32], int], None]


def read_neurons(
    model: Model,
    sequences: NDArray[np.integer],
    neurons: Sequence[NDArray[np.integer]],
    take: Take,
) -> None:
    """Run a model over sequences and hand on what some of its neurons do, batch by batch.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length).
    neurons
        By layer the neurons to read; of a layer without any nothing is handed on.
    take
        What gets their activations.
    """
    columns = [torch.from_numpy(own).to(model.device) for own in neurons]
    first = 0

    def read(layer: int, x: torch.Tensor) -> None:
        if len(columns[layer]):
            take(layer, x[..., columns[layer]].float().cpu().numpy(), first)

    done = 0
    with model.tap(read):
        for batch in forward(model, sequences, BATCH_TOKENS):
            first, done = done, done + len(batch)


def places(position: NDArray[np.integer]) -> NDArray[np.int64]:
    """Positions of the windows about some, shape (..., window), also off the ends of a sequence."""
    return np.asarray(position, np.int64)[..., None] + np.arange(-BEFORE, AFTER + 1)


def windows(
    x: NDArray[np.float32],
    sequence: NDArray[np.integer],
    at: NDArray[np.integer],
    column: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Activations in windows.

    Parameters
    ----------
    x
        Activations, shape (sequences, context length, neurons).
    sequence, column
        Indices into it, of one shape (...).
    at
        Positions, shape (..., window).

    Returns
    -------
    array
        Shape (..., window); NaN off the ends of a sequence.
    """
    last = x.shape[1] - 1
    found = x[sequence[..., None], at.clip(0, last), column[..., None]]
    found[(at < 0) | (at > last)] = np.nan
    return found


def lists(values: NDArray, inside: NDArray[np.bool_]) -> pa.ListArray:
    """Windows as lists of what lies inside their sequences.

    Parameters
    ----------
    values, inside
        Shape (windows, window).
    """
    offsets = np.concatenate([[0], inside.sum(1).cumsum()])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values[inside]))
