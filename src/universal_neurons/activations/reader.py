"""Read the activations that a capture job stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.codes import Codes, Escapes
from universal_neurons.activations.encoding import Ranges, values_of
from universal_neurons.errors import UserError
from universal_neurons.store.arrays import open_store


class Activations:
    """The activations of one (seed, step, shard), read block by block.

    Parameters
    ----------
    path
        The store ``activations/seed{seed}/step{step}/shard{shard}.zarr``.

    Attributes
    ----------
    d_mlp
        Number of neurons of every layer.
    n_tokens
        Number of scored tokens.
    encoding
        ``int8``, ``bfloat16`` or ``float32``.

    Raises
    ------
    UserError
        If the store is missing or incomplete.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._store = open_store(path)
        self.attributes: dict[str, Any] = self._store.attributes
        self.d_mlp: tuple[int, ...] = tuple(self.attributes["d_mlp"])
        self.n_tokens: int = self.attributes["n_tokens"]
        self.encoding: str = self.attributes["encoding"]
        self._escapes: dict[int, Escapes] = {}

    def ranges(self, layer: int) -> Ranges:
        """Scale and offset of a layer's codes."""
        return Ranges(self._store.read(f"scale{layer}"), self._store.read(f"offset{layer}"))

    def stored(
        self, layer: int, rows: slice = slice(None), buffer: NDArray | None = None
    ) -> NDArray:
        """A layer's values as stored, shape (tokens, d_mlp).

        With a `buffer` of at least that many rows they are read into it: memory that is used again
        is several times faster than fresh memory.
        """
        if buffer is not None:
            buffer = buffer[: len(range(self.n_tokens)[rows])]
        return self._store.read(f"layer{layer}", rows, buffer)

    def codes(self, layer: int, rows: slice = slice(None), buffer: NDArray | None = None) -> Codes:
        """A layer's codes, of shape (tokens, d_mlp).

        `buffer` is used by int8 codes; see `stored`.
        """
        if self.encoding == "int8":
            start, stop, _ = rows.indices(self.n_tokens)
            escapes = self.escapes(layer).between(start, max(start, stop))
            return Codes(self.stored(layer, rows, buffer), escapes)
        values, ranges = values_of(self.stored(layer, rows), self.encoding), self.ranges(layer)
        return Codes.of((values - ranges.offset) / ranges.scale)

    def escapes(self, layer: int) -> Escapes:
        """A layer's codes beyond int8's."""
        if layer not in self._escapes:
            self._escapes[layer] = Escapes.of(lambda name: self._store.read(f"{name}{layer}"))
        return self._escapes[layer]

    def activations(self, layer: int, rows: slice = slice(None)) -> NDArray[np.float32]:
        """A layer's activations, decoded, shape (tokens, d_mlp)."""
        if self.encoding != "int8":
            return values_of(self.stored(layer, rows), self.encoding)
        ranges = self.ranges(layer)
        return self.codes(layer, rows).whole() * ranges.scale + ranges.offset

    def token_ids(self) -> NDArray[np.int32]:
        """The scored tokens, shape (tokens,)."""
        return self._store.read("token_id")

    def token_index(self) -> NDArray[np.int64]:
        """Their places in the corpus: sequence number times context length plus position."""
        return self._store.read("token_index")

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk of the first layer: what is decoded at a time."""
        return self._store["layer0"].chunk_rows

    def row_blocks(self, rows: int) -> list[slice]:
        """Consecutive slices of at most about `rows` tokens, on the stores' chunk boundaries."""
        step = max(1, rows // self.chunk_tokens) * self.chunk_tokens
        return [slice(i, min(i + step, self.n_tokens)) for i in range(0, self.n_tokens, step)]

    def check_same_tokens(self, other: Activations) -> None:
        """Refuse to combine stores of different tokens.

        Raises
        ------
        UserError
            If the two were captured over different sequences, exclusions or encodings.
        """
        same = ("corpus_sha256", "sequences", "exclude", "exclude_positions", "encoding")
        for key in (*same, "n_tokens"):
            mine, theirs = self.attributes[key], other.attributes[key]
            if mine != theirs:
                raise UserError(
                    f"{self.path} and {other.path} were captured with different {key} ({mine} and "
                    f"{theirs}); remove the older one and run snakemake again"
                )
