"""Codes of a layer: one byte each, and the few that a byte can't hold beside them.

A value far outside the calibration sample's has a code beyond int8's. It escapes: the dense array
holds the nearest code there is, and a sparse list the whole one. Nothing is cut off, and whoever
adds up codes adds the difference, so sums stay exact integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.encoding import LIMIT

# Whole codes keep so many significant bits: an error of at most 2⁻¹⁶, below that of any code in a
# byte; and products of two leave float64 room to add up many without rounding.
SIGNIFICANT_BITS = 16


def significant(code: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round whole codes to `SIGNIFICANT_BITS`; those below 2¹⁶ stay as they are."""
    dropped = 24 - SIGNIFICANT_BITS
    bits = np.ascontiguousarray(code, np.float32).view(np.uint32)
    half, mask = np.uint32(1 << (dropped - 1)), np.uint32((1 << 32) - (1 << dropped))
    return ((bits + half) & mask).view(np.float32)


@dataclass(frozen=True)
class Escapes:
    """Codes beyond int8's of some tokens of a layer, in the order of the tokens.

    Attributes
    ----------
    row
        Which of the tokens, int64, shape (n,), ascending.
    neuron
        Which of the layer's neurons, int32, shape (n,).
    code
        The whole code, an integer, float32, shape (n,).
    """

    row: NDArray[np.int64]
    neuron: NDArray[np.int32]
    code: NDArray[np.float32]

    @classmethod
    def none(cls) -> Escapes:
        """No escapes."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))

    @classmethod
    def join(cls, parts: Iterable[Escapes]) -> Escapes:
        """Those of consecutive tokens, whose rows count on."""
        parts = [cls.none(), *parts]
        return cls(
            np.concatenate([part.row for part in parts]),
            np.concatenate([part.neuron for part in parts]),
            np.concatenate([part.code for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.row)

    def arrays(self) -> dict[str, NDArray]:
        """By the names in a store, to which the layer's number is added; `of` reads them."""
        return {"escape_row": self.row, "escape_neuron": self.neuron, "escape_code": self.code}

    @classmethod
    def of(cls, read: Callable[[str], NDArray]) -> Escapes:
        """From what reads an array of a store by its name."""
        return cls(read("escape_row"), read("escape_neuron"), read("escape_code"))

    @property
    def rest(self) -> NDArray[np.float64]:
        """What the dense array lacks: the whole code less the nearest one of int8."""
        whole = self.code.astype(np.float64)
        return whole - np.copysign(LIMIT, whole)

    def moved(self, rows: int) -> Escapes:
        """The same of tokens that are so many rows further on."""
        return Escapes(self.row + rows, self.neuron, self.code)

    def between(self, start: int, stop: int) -> Escapes:
        """Those of the rows start to stop - 1, counted from start."""
        first, last = np.searchsorted(self.row, [start, stop])
        here = slice(int(first), int(last))
        return Escapes(self.row[here] - start, self.neuron[here], self.code[here])

    def in_order(self) -> Escapes:
        """The same, sorted by token."""
        order = np.argsort(self.row, kind="stable")
        return Escapes(self.row[order], self.neuron[order], self.code[order])

    def take_rows(self, rows: NDArray[np.int64]) -> Escapes:
        """Those of some tokens, ascending, counted among them."""
        place, kept = _among(self.row, rows)
        return Escapes(place, self.neuron[kept], self.code[kept])

    def take_neurons(self, neurons: NDArray[np.int64]) -> Escapes:
        """Those of some neurons, ascending, counted among them."""
        place, kept = _among(self.neuron, neurons)
        return Escapes(self.row[kept], place.astype(np.int32), self.code[kept])


def _among(
    values: NDArray[np.integer], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the values that are among the chosen, ascending, ones: their places there and here."""
    place = np.searchsorted(chosen, values)
    place[place == len(chosen)] = 0
    kept = np.flatnonzero(chosen[place] == values) if len(chosen) else place[:0]
    return place[kept], kept


@dataclass(frozen=True)
class Codes:
    """Codes of some tokens of a layer, or of some of its neurons.

    Attributes
    ----------
    dense
        Shape (tokens, neurons): int8, cut to ±127 where a code escapes; or float32, the activation
        less the offset. A NumPy array, or a tensor on the models' device.
    escapes
        The codes that were cut.
    """

    dense: Any
    escapes: Escapes

    @classmethod
    def of(cls, dense: Any) -> Codes:
        """Codes none of which escapes."""
        return cls(dense, Escapes.none())

    @classmethod
    def side_by_side(cls, parts: Sequence[Codes]) -> Codes:
        """Codes of the same tokens and further neurons."""
        widths = [part.dense.shape[1] for part in parts]
        firsts = np.cumsum([0, *widths[:-1]])
        own = [
            Escapes(part.escapes.row, part.escapes.neuron + np.int32(first), part.escapes.code)
            for part, first in zip(parts, firsts, strict=True)
        ]
        dense = np.ascontiguousarray(np.hstack([part.dense for part in parts]))
        return cls(dense, Escapes.join(own).in_order())

    def __len__(self) -> int:
        return len(self.dense)

    def take_rows(self, rows: NDArray[np.int64]) -> Codes:
        """Those of some tokens, ascending."""
        return Codes(self.dense[rows], self.escapes.take_rows(rows))

    def take_neurons(self, neurons: NDArray[np.int64]) -> Codes:
        """Those of some neurons, ascending."""
        return Codes(self.dense[:, neurons], self.escapes.take_neurons(neurons))

    def whole(self) -> NDArray[np.float32]:
        """All codes as they are, float32, shape (tokens, neurons)."""
        full = np.asarray(self.dense).astype(np.float32)
        full[self.escapes.row, self.escapes.neuron] = self.escapes.code
        return full
