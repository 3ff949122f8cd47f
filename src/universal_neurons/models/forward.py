"""Run a model over tokens, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.jobs import progress
from universal_neurons.models.load import Model


def forward(
    model: Model, sequences: NDArray[np.integer], batch_tokens: int
) -> Iterator[NDArray[np.integer]]:
    """Run the model batch by batch, yielding each batch of sequences before it is run.

    The network stops before the unembedding, since only activations are wanted.

    Parameters
    ----------
    sequences
        Token ids, shape (sequences, context length); those of a masked array are read like others.

    Raises
    ------
    UserError
        If a token id is beyond the vocabulary, or the sequences exceed the model's context.
    """
    length = sequences.shape[1]
    limit = model.context
    if limit is not None and length > limit:
        raise UserError(f"corpus.context_length: {length} is more than the model's {limit}")
    size = max(1, batch_tokens // length)
    starts = range(0, len(sequences), size)
    for start in progress(starts, "tokens", each=size * length):
        batch = sequences[start : start + size]
        read = np.ma.getdata(batch)
        if read.min() < 0 or read.max() >= model.vocab_size:
            raise UserError(
                f"corpus.path: token id {read.max()} is beyond the model's vocabulary of "
                f"{model.vocab_size}: the corpus was made with another tokenizer"
            )
        yield batch
        with torch.inference_mode():
            model.read(torch.from_numpy(read.astype(np.int64)).to(model.device))


def scored(
    sequences: NDArray[np.integer], exclude: Sequence[int], positions: Sequence[int] = ()
) -> NDArray[np.bool_]:
    """Which token positions count, shape (sequences, context length).

    Parameters
    ----------
    sequences
        Token ids; those that are masked don't count (`reading.Corpus.sequences`).
    exclude
        Token ids that don't.
    positions
        Positions in every sequence that don't, from 0.
    """
    counts = ~np.isin(np.ma.getdata(sequences), np.asarray(exclude, dtype=np.int64))
    if np.ma.isMaskedArray(sequences):
        counts &= ~np.ma.getmaskarray(sequences)
    counts[:, list(positions)] = False
    return counts


def parts_of(sequences: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """Parts of a corpus small enough to work on in memory."""
    for i in range(0, len(sequences), 4096):
        yield sequences[i : i + 4096]
