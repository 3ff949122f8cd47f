"""What Zarr has under private names, or warns of: the file to look at when its version changes."""

from __future__ import annotations

import warnings
from pathlib import Path

import zarr
from numpy.typing import NDArray
from zarr.core.buffer.cpu import NDBuffer


def read_into(array: zarr.Array, selection: tuple[slice, ...], out: NDArray) -> None:
    """Read a part of an array into memory that is already there."""
    array.get_basic_selection(selection, out=NDBuffer.from_numpy_array(out))


def consolidated(path: str | Path) -> zarr.Group:
    """A group whose own metadata hold those of all its arrays from now on.

    Zarr for Python has that for version 3 of the format too, which does not describe it: other
    readers pass over it.
    """
    with warnings.catch_warnings(action="ignore", category=zarr.errors.ZarrUserWarning):
        return zarr.consolidate_metadata(str(path), zarr_format=3)


def chunk_file(array: zarr.Array, chunk: tuple[int, ...]) -> Path:
    """The file of a chunk of an array in a local store."""
    place = array.store_path
    return Path(str(place.store.root), place.path, array.metadata.encode_chunk_key(chunk))  # type: ignore[attr-defined]
