"""Arrays of a store, written and read by version 3 of the Zarr format.

Zarr for Python decodes a chunk into fresh memory and copies it, which takes half as much processor
time again as decoding it in place, and products have none to spare. And it hands every request from
thread to thread: of a small array 0.7 ms to read and 2 ms to write, of which a run has thousands
(docs/performance.md). Here they take 0.03 and 0.2 ms. Zarr reads what this writes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc, zstd
from numpy.typing import NDArray

# About the size of a chunk before compression: large enough for zstd and the file system to run at
# full speed, small enough that a buffer of one chunk per layer stays within a few hundred MB.
CHUNK_BYTES = 8 << 20
CHECKSUM_BYTES = 4

# Several chunks are encoded and decoded in threads of our own.
blosc.use_threads = False


class StoredArray:
    """An array of a store: chunks of whole rows, compressed, each with a checksum (CRC-32C).

    Parameters
    ----------
    folder
        Where it is.
    metadata
        What its ``zarr.json`` says.

    Attributes
    ----------
    shape, dtype
        As of NumPy's arrays.
    chunk_rows
        Rows of a chunk.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self.dtype = np.dtype(metadata["data_type"])
        self.chunk_rows: int = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        # By Blosc, which helps wide types; one-byte types have nothing to shuffle.
        self._shuffled = metadata["codecs"][1]["name"] == "blosc"

    @classmethod
    def create(
        cls, folder: Path, shape: tuple[int, ...], dtype: np.dtype | type | str
    ) -> StoredArray:
        """Make an array, its chunks still to be written."""
        dtype = np.dtype(dtype)
        row_bytes = max(1, math.prod(shape[1:]) * dtype.itemsize)
        rows = max(1, min(shape[0], CHUNK_BYTES // row_bytes))
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": (rows, *shape[1:])},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": dtype.type(0).item(),
            "codecs": _codecs(dtype),
            "attributes": {},
        }
        folder.mkdir()
        (folder / "zarr.json").write_text(json.dumps(metadata))
        return cls(folder, metadata)

    def lacks_chunks(self) -> bool:
        """Whether there are fewer files than chunks."""
        found = sum(len(files) for _, _, files in os.walk(self._folder / "c"))
        return found < math.ceil(self.shape[0] / self.chunk_rows)

    def read(self, start: int, stop: int, out: NDArray | None = None) -> NDArray[Any]:
        """Read the rows from `start` to before `stop`.

        Parameters
        ----------
        start, stop
            The first row and the one after the last.
        out
            Where they go, contiguous, shape (stop - start, ...); fresh memory if not given.

        Raises
        ------
        ValueError, RuntimeError, OSError
            If a chunk is damaged or missing.
        """
        if out is None:
            out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        size = self.chunk_rows

        def read(chunk: int) -> None:
            first, last = max(start, chunk * size), min(stop, (chunk + 1) * size)
            rows = out[first - start : last - start]
            if len(rows) == size:
                self._decode_into(rows, chunk)
            else:
                whole = np.empty((size, *self.shape[1:]), self.dtype)
                self._decode_into(whole, chunk)
                rows[:] = whole[first % size :][: len(rows)]

        chunks = range(start // size, math.ceil(stop / size))
        if len(chunks) == 1:
            read(chunks[0])
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(read, chunks))
        return out

    def __setitem__(self, rows: slice, values: Any) -> None:
        """Write whole chunks: rows from the start of one to the end of one or of the array.

        Raises
        ------
        ValueError
            If they begin or end elsewhere.
        """
        start, stop, _ = rows.indices(self.shape[0])
        size = self.chunk_rows
        if start % size or (stop % size and stop < self.shape[0]):
            raise ValueError(f"{self.name}: rows {start} to {stop} are no chunks of {size}")
        given = np.broadcast_to(np.asarray(values, self.dtype), (stop - start, *self.shape[1:]))
        for first in range(start, stop, size):
            self._encode(given[first - start :][:size], first // size)

    @property
    def name(self) -> str:
        """Its name in its store."""
        return self._folder.name

    def chunk_file(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self._folder.joinpath("c", str(chunk), *("0" for _ in self.shape[1:]))

    def _encode(self, rows: NDArray, chunk: int) -> None:
        if len(rows) < self.chunk_rows:
            # Chunks have one shape; what lies beyond the array is of no account.
            whole = np.zeros((self.chunk_rows, *self.shape[1:]), self.dtype)
            whole[: len(rows)] = rows
            rows = whole
        rows = np.ascontiguousarray(rows)
        if self._shuffled:
            stored = blosc.compress(rows, b"zstd", clevel=1, shuffle=blosc.SHUFFLE)
        else:
            stored = zstd.compress(rows, level=1)
        place = self.chunk_file(chunk)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as file:
            file.write(stored)
            file.write(_checksum(stored))

    def _decode_into(self, rows: NDArray, chunk: int) -> None:
        found = np.frombuffer(self.chunk_file(chunk).read_bytes(), np.uint8)
        stored, checksum = found[:-CHECKSUM_BYTES], found[-CHECKSUM_BYTES:]
        if _checksum(stored) != checksum.tobytes():
            raise ValueError(f"the checksum of chunk {chunk} of {self.name} is wrong")
        (blosc if self._shuffled else zstd).decompress(stored, rows)


def _codecs(dtype: np.dtype) -> list[dict[str, Any]]:
    """Bytes of numbers, compressed, with a checksum, as the format has it."""
    order: dict[str, Any]
    if dtype.itemsize == 1:
        order = {"name": "bytes"}
        compressor: dict[str, Any] = {
            "name": "zstd",
            "configuration": {"level": 1, "checksum": False},
        }
    else:
        order = {"name": "bytes", "configuration": {"endian": "little"}}
        zstd_of_shuffled = {
            "cname": "zstd",
            "clevel": 1,
            "shuffle": "shuffle",
            "typesize": dtype.itemsize,
            "blocksize": 0,
        }
        compressor = {"name": "blosc", "configuration": zstd_of_shuffled}
    return [order, compressor, {"name": "crc32c"}]


def _checksum(stored: bytes | NDArray[np.uint8]) -> bytes:
    return google_crc32c.value(stored).to_bytes(CHECKSUM_BYTES, "little")
