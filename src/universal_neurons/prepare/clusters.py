"""Which sequences are of the same documents, and an order that keeps held-out documents unseen.

Sequences of one document are alike, so what is drawn at random, resampled or held out is documents.
A cluster is a long document, or consecutive short ones; it is cut into sequences by itself, so that
no sequence has text of two clusters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.store.files import again, replacing

logger = logging.getLogger(__name__)

# Sequences that short documents are joined to. What is left of a cluster's text when it is cut into
# whole sequences, half a sequence on average, is dropped: 6 % of the text at clusters of 8.
LEAST_SEQUENCES = 8

# A document of more than this fraction of the corpus is taken for many, of `PIECE` of the corpus
# each: whole, it would leave few clusters to draw from, or none to hold out.
LARGEST, PIECE = 1 / 20, 1 / 128

# Clusters in the first half of the order are shuffled sequence by sequence, so that few scored
# tokens are of many documents, and so are those in the last tenth, for the held-out ones. Training
# (models.source: train) stops where that tenth starts, whatever the configuration asks to score.
# Between them clusters come one after another: more than a tenth can be held out from their end.
FRONT_SHARE, TRAINING_SHARE = 0.5, 0.9
# Fractions of the corpus that can be held out differ by this.
GRAIN = 0.001


def split_large(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Split clusters that are too large a part of the corpus into runs of their sequences.

    Parameters
    ----------
    sizes
        Number of sequences of every cluster, in the order of the text.

    Returns
    -------
    NDArray
        Number of sequences of every cluster and run, int64.
    """
    total = sum(sizes)
    piece = max(1, int(total * PIECE))
    found: list[int] = []
    n_large = 0
    for size in sizes:
        if size > max(1, total * LARGEST):
            n_large += 1
            n_pieces = -(-size // piece)
            found += np.diff(np.arange(n_pieces + 1) * size // n_pieces).tolist()
        else:
            found.append(size)
    if n_large:
        logger.warning(
            "%d of %d documents, or runs of short ones, are more than %.0f %% of the corpus: parts "
            "of them stand for documents, and held-out text may be of documents that are scored or "
            "trained on; give more documents to keep them apart",
            *(n_large, len(sizes), 100 * LARGEST),
        )
    return np.array(found, np.int64)


def arrange(
    sizes: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """Order sequences at random, so that a part of the order's end shares no cluster with the rest.

    Parameters
    ----------
    sizes
        Number of sequences of every cluster, in the order of the text.
    seed
        Of the order.

    Returns
    -------
    order, cluster, edges
        The sequences in their new order and the cluster of each, int64, shape (sequences,); and
        places in the order, ascending, that have different clusters on either side.
    """
    rng = np.random.default_rng(seed)
    permuted = rng.permutation(len(sizes))
    place = np.empty_like(permuted)
    place[permuted] = np.arange(len(sizes))
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    order = np.argsort(place[cluster], kind="stable")
    starts = np.cumsum(sizes[permuted]) - sizes[permuted]
    shares = np.append(np.arange(FRONT_SHARE, TRAINING_SHARE, GRAIN), TRAINING_SHARE)
    wanted = (shares * len(order)).astype(np.int64)
    edges = np.unique(starts[np.searchsorted(starts, wanted, "right") - 1])
    rng.shuffle(order[: edges[0]])
    rng.shuffle(order[edges[-1] :])
    return order, cluster[order], edges.tolist()


def halves_of(cluster: NDArray[np.int64]) -> NDArray[np.int8]:
    """Deal clusters to two halves of the documents, in turn, in the order in which they appear.

    Both halves are about as large in any first part of the order, and more scored sequences move
    none.

    Parameters
    ----------
    cluster
        Of every sequence, shape (sequences,).

    Returns
    -------
    NDArray
        0 or 1 of every sequence, int8, shape (sequences,).
    """
    _, first, place = np.unique(cluster, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return (rank[place] % 2).astype(np.int8)


def write_clusters(path: str | Path, cluster: NDArray[np.int64]) -> None:
    """Write the cluster of every sequence (.npy, int64, shape (sequences,))."""
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        np.save(file, cluster.astype(np.int64))


def read_clusters(path: str | Path, n_sequences: int) -> NDArray[np.int64]:
    """Read the cluster of every sequence, int64, shape (sequences,).

    Raises
    ------
    UserError
        If the file can't be read or is something else.
    """
    try:
        cluster = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); {again(path)}") from error
    if cluster.shape != (n_sequences,) or cluster.dtype != np.int64 or cluster.min() < 0:
        raise UserError(f"{path}: damaged, or of another corpus; {again(path)}")
    return cluster
