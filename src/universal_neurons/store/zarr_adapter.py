"""What Zarr offers under private names only: the one file to look at when its version changes."""

from __future__ import annotations

from pathlib import Path

import zarr
from numpy.typing import NDArray
from zarr.core.buffer.cpu import NDBuffer


def read_into(array: zarr.Array, selection: tuple[slice, ...], out: NDArray) -> None:
    """Read a part of an array into memory that is already there."""
    array.get_basic_selection(selection, out=NDBuffer.from_numpy_array(out))


def chunk_file(array: zarr.Array, chunk: tuple[int, ...]) -> Path:
    """The file of a chunk of an array in a local store."""
    place = array.store_path
    return Path(str(place.store.root), place.path, array.metadata.encode_chunk_key(chunk))  # type: ignore[attr-defined]
