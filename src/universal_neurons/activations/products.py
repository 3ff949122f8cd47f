"""Partial sums of products of two models' codes, read while the block before is multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes
from universal_neurons.activations.kernels import (
    add_products,
    choose_device,
    choose_kernel,
    on_device,
    zeros,
)
from universal_neurons.activations.reader import Activations
from universal_neurons.jobs import progress
from universal_neurons.store.arrays import write_arrays
from universal_neurons.store.same_run import check_same_run

B = TypeVar("B")
M = TypeVar("M")
T = TypeVar("T")

# Codes read at a time: 21,845 tokens of GPT-2 Small's 3,072 neurons. Shorter products spend their
# time adding to int64, longer ones only take memory (docs/performance.md).
BLOCK_BYTES = 64 << 20


def block_tokens(d_mlp: int) -> int:
    """Tokens of codes to read at a time."""
    return max(1024, BLOCK_BYTES // d_mlp)


def ahead(loads: Sequence[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of `loads`, each made by a thread while the one before is worked on."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(load) for load in loads[:1]]
        for load in [*loads[1:], None]:
            if load is not None:
                waiting.append(pool.submit(load))
            if waiting:
                yield waiting.pop(0).result()


def paired(
    blocks: Sequence[B],
    own: Callable[[B], M],
    others: Sequence[Callable[[B], T]],
    what: str,
) -> Iterator[tuple[B, int, M, T]]:
    """Read blocks of some layers and of several others, the next while one is worked on.

    Parameters
    ----------
    blocks
        What is read at a time.
    own
        Reads a block of the layers; what it returns must last until all others had theirs.
    others
        Read a block of the others.
    what
        Plural noun for the progress.

    Yields
    ------
    block, other, mine, theirs
        The block, number of the other, and what was read of both.
    """
    reads: tuple[Callable[[B], Any], ...] = (own, *others)
    made: Iterator[Any] = ahead([partial(read, block) for block in blocks for read in reads])
    for block in progress(blocks, what):
        mine = next(made)
        for other in range(len(others)):
            yield block, other, mine, next(made)


class Reader:
    """Read codes into two buffers per store in turn: one can be filled while the other is used."""

    def __init__(self, tokens: int, device: str = "cpu") -> None:
        self._tokens, self._device = tokens, device
        self._buffers: dict[tuple[int, int], list[NDArray]] = {}

    def __call__(self, store: Activations, layer: int, rows: slice) -> Codes:
        """A block of codes, valid until the next but one of the same store is read."""
        return on_device(store.codes(layer, rows, self.buffer(store, layer)), self._device)

    def buffer(self, store: Activations, layer: int) -> NDArray[np.int8]:
        """The store's buffer whose turn it is."""
        key = id(store), store.d_mlp[layer]
        if key not in self._buffers:
            self._buffers[key] = [np.empty((self._tokens, key[1]), np.int8) for _ in range(2)]
        pair = self._buffers[key]
        pair.reverse()
        return pair[0]


def cross_sums(
    a: Activations,
    b: Activations,
    layers: Sequence[int],
    kernel: str = "auto",
    device: str = "cpu",
) -> Iterator[tuple[str, NDArray]]:
    """Sums of products of codes between some layers of one model and all layers of another.

    A block of `b` is read and decoded once for all of those layers, while the block before is
    multiplied. Memory does not grow with the number of tokens: it is that of the sums and of two
    blocks of codes of every layer of `layers`, and of one of `b`.

    Parameters
    ----------
    a, b
        The two models' activations on the same shard.
    layers
        Layers of `a`.
    kernel, device
        See `choose_kernel` and `choose_device`. On a GPU the sums are held there.

    Yields
    ------
    name, sums
        For every layer i of `layers` and j of `b`, ``tile_name(i, j)`` and an array of shape
        (d_mlp of i, d_mlp of j), int64 or float64 (see `add_products`).

    Raises
    ------
    UserError
        If the two were captured over different tokens.
    """
    a.check_same_tokens(b)
    d_a = sum(a.d_mlp[layer] for layer in layers)
    operations = 2 * a.n_tokens * d_a * sum(b.d_mlp)
    where = choose_device(device, kernel, operations)
    kernel = choose_kernel(kernel, operations, where)
    widest = max(a.d_mlp + b.d_mlp)
    blocks = a.row_blocks(block_tokens(widest))
    tokens = max((rows.stop - rows.start for rows in blocks), default=0)
    own, other = [partial(Reader(tokens, where), a, i) for i in layers], Reader(tokens, where)
    tiles = [[zeros(a.d_mlp[i], d_b, a.encoding, where) for d_b in b.d_mlp] for i in layers]
    steps = paired(
        blocks,
        lambda rows: [read(rows) for read in own],
        [partial(other, b, j) for j in range(len(b.d_mlp))],
        f"blocks of {len(layers)} layers",
    )
    for _, j, mine, theirs in steps:
        for row, codes in zip(tiles, mine, strict=True):
            row[j] = add_products(row[j], codes, theirs, kernel)
    for layer, row in zip(layers, tiles, strict=True):
        for j, tile in enumerate(row):
            yield tile_name(layer, j), _array(tile)


def _array(tile: Any) -> NDArray:
    return tile if isinstance(tile, np.ndarray) else tile.cpu().numpy()


def tile_name(layer: int, other_layer: int) -> str:
    """Name of the array with the sums of a layer and another model's layer."""
    return f"{layer}x{other_layer}"


def within_sums(
    store: Activations, kernel: str = "auto", device: str = "cpu"
) -> Iterator[tuple[str, NDArray]]:
    """Sums of products of codes within each layer of one model; see `cross_sums`."""
    operations = 2 * store.n_tokens * sum(d**2 for d in store.d_mlp)
    where = choose_device(device, kernel, operations)
    kernel = choose_kernel(kernel, operations, where)
    blocks = store.row_blocks(block_tokens(max(store.d_mlp)))
    read = Reader(max((rows.stop - rows.start for rows in blocks), default=0), where)
    for layer, d_mlp in enumerate(store.d_mlp):
        total = zeros(d_mlp, d_mlp, store.encoding, where)
        for codes in ahead([partial(read, store, layer, rows) for rows in blocks]):
            total = add_products(total, codes, codes, kernel)
        yield tile_name(layer, layer), _array(total)


def sum_pair(
    a: str | Path,
    b: str | Path,
    layers: Sequence[int],
    kernel: str,
    at_once: int | None = None,
    device: str = "cpu",
    *,
    path: str | Path,
    attributes: Mapping[str, Any],
) -> None:
    """Store the partial sums of a pair of models on one shard; see `cross_sums`.

    Parameters
    ----------
    a, b
        Stores of their activations.
    layers, kernel, device
        See `cross_sums`.
    at_once
        Layers of `a` whose sums are held at a time; all if None.
    path
        Store to make.
    attributes
        Recorded with it.

    Raises
    ------
    UserError
        If the two are not of one run.
    """
    same = check_same_run([a, b])
    one, other = Activations(a), Activations(b)
    same["sequences"] = one.attributes["sequences"]
    size = at_once or len(layers)
    parts = [layers[start : start + size] for start in range(0, len(layers), size)]
    sums = chain.from_iterable(cross_sums(one, other, part, kernel, device) for part in parts)
    write_arrays(path, sums, {**attributes, **same})
