"""What Zarr has under private names, or warns of: the file to look at when its version changes."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
from numcodecs import zstd
from numpy.typing import NDArray


def read_rows(array: zarr.Array, start: int, stop: int, out: NDArray) -> None:
    """Read rows of one byte per value into memory that is already there.

    Zarr decodes a chunk into fresh memory and copies it, which takes half as much processor time
    again as decoding it in place; the products have none to spare.

    Parameters
    ----------
    array
        As `arrays.create_array` makes it: chunks of whole rows, zstd, a CRC-32C at the end.
    start, stop
        The first row and the one after the last.
    out
        Where they go, contiguous, shape (stop - start, columns).

    Raises
    ------
    ValueError, RuntimeError, OSError
        If a chunk is damaged or missing.
    """
    size = array.chunks[0]

    def read(chunk: int) -> None:
        stored = np.frombuffer(chunk_file(array, (chunk, 0)).read_bytes(), np.uint8)
        if google_crc32c.value(stored[:-4]) != int.from_bytes(stored[-4:].tobytes(), "little"):
            raise ValueError(f"the checksum of chunk {chunk} of {array.name} is wrong")
        first, last = max(start, chunk * size), min(stop, (chunk + 1) * size)
        rows = out[first - start : last - start]
        if len(rows) == size:
            zstd.decompress(stored[:-4], rows)
        else:
            whole = np.empty((size, *out.shape[1:]), out.dtype)
            zstd.decompress(stored[:-4], whole)
            rows[:] = whole[first % size :][: len(rows)]

    chunks = range(start // size, -(-stop // size))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(read, chunks))


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
