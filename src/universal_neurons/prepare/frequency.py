"""How often tokens are in a corpus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from universal_neurons.models.forward import parts_of


def token_counts(sequences: NDArray[np.integer], vocabulary: int) -> NDArray[np.int64]:
    """How often every token id below `vocabulary` is in sequences, shape (vocabulary,)."""
    counts = np.zeros(vocabulary, np.int64)
    for part in parts_of(sequences):
        # Held-out text may have tokens that a model lacks; its own jobs say so.
        counts += np.bincount(np.ma.getdata(part).ravel(), minlength=vocabulary)[:vocabulary]
    return counts


def log_frequency(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithm of every token's count plus one, with mean 0 and length 1 (or 0), shape as given.

    One more of each, for tokens that don't occur. The direction of token frequency of 2406.16254.
    """
    log = np.log(counts + 1.0)
    if not log.size:
        return log
    log -= log.mean()
    length = np.linalg.norm(log)
    return log / length if length else log
