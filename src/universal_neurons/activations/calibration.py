"""How one model's activations are encoded: fixed once for all shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.activations.encoding import Ranges
from universal_neurons.store.arrays import read_arrays, write_arrays


@dataclass(frozen=True)
class Calibration:
    """One layer's codes and the centre of its power sums; shapes (d_mlp,)."""

    ranges: Ranges
    centre: NDArray[np.float64]


def write_calibration(
    path: str | Path, layers: Sequence[Calibration], attributes: Mapping[str, Any]
) -> None:
    """Store a calibration; see `read_calibration`."""
    arrays: dict[str, NDArray] = {}
    for i, layer in enumerate(layers):
        arrays[f"scale{i}"] = layer.ranges.scale
        arrays[f"offset{i}"] = layer.ranges.offset
        arrays[f"centre{i}"] = layer.centre
    write_arrays(path, arrays.items(), attributes)


def read_calibration(path: str | Path) -> list[Calibration]:
    """Read what `write_calibration` stored."""
    arrays = read_arrays(path)
    return [
        Calibration(Ranges(arrays[f"scale{i}"], arrays[f"offset{i}"]), arrays[f"centre{i}"])
        for i in range(len(arrays) // 3)
    ]
