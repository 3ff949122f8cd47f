"""Stores (Zarr v3) that are complete or absent.

Whatever is written goes to a sibling name first and is renamed when it is whole, so that a killed
job leaves nothing that could be taken for a result. A store also ends with a completion mark, and
one without it is refused. Every chunk carries a CRC-32C checksum; Zarr verifies it on reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

import universal_neurons
from universal_neurons.errors import UserError

# About the size of a chunk before compression: large enough for zstd and the file system to run at
# full speed, small enough that a buffer of one chunk per layer stays within a few hundred MB.
CHUNK_BYTES = 8 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a sibling name to write to; rename it to `path` if the block succeeds.

    What a failed block wrote is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def config_hash(config: Mapping[str, Any]) -> str:
    """Hexadecimal digest of a resolved configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def provenance(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What every store and table records about its origin."""
    return {
        "universal_neurons": universal_neurons.__version__,
        "config_hash": config_hash(config),
        **more,
    }


@contextmanager
def new_store(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
    """Create a Zarr v3 group, to be filled in the block; it appears under `path` when complete."""
    with replacing(Path(path)) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        yield group
        # The names are recorded because Snakemake later puts files of its own beside the arrays.
        group.attrs.update({**attributes, "arrays": sorted(group.array_keys()), "complete": True})


def open_store(path: str | Path) -> zarr.Group:
    """Open a complete store for reading.

    Raises
    ------
    UserError
        If there is no store at `path`, or it lacks its completion mark.
    """
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path}: not a store; remove it and run snakemake again") from error
    if group.attrs.get("complete") is not True:
        raise UserError(f"{path}: the store is incomplete; remove it and run snakemake again")
    return group


def attributes_of(path: str | Path) -> dict[str, Any]:
    """The attributes of a complete store."""
    return dict(open_store(path).attrs)


def create_array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype | type | str
) -> zarr.Array:
    """Create a compressed array of whole rows per chunk, each chunk with a checksum."""
    dtype = np.dtype(dtype)
    row_bytes = max(1, int(np.prod(shape[1:])) * dtype.itemsize)
    rows = max(1, min(shape[0], CHUNK_BYTES // row_bytes))
    # Blosc shuffles bytes first, which helps wide types; one-byte types have nothing to shuffle.
    compressor = (
        ZstdCodec(level=1)
        if dtype.itemsize == 1
        else BloscCodec(cname="zstd", clevel=1, typesize=dtype.itemsize, shuffle="shuffle")
    )
    return group.create_array(
        name,
        shape=shape,
        chunks=(rows, *shape[1:]),
        dtype=dtype,
        serializer=BytesCodec(),
        compressors=(compressor, Crc32cCodec()),
        fill_value=0,
        # Zarr skips chunks of fill values; written ones can be told from lost ones.
        config={"write_empty_chunks": True},
    )


def write_arrays(
    path: str | Path, arrays: Iterable[tuple[str, NDArray]], attributes: Mapping[str, Any]
) -> None:
    """Write arrays as one store, each as soon as the iterable yields it with its name."""
    with new_store(path, attributes) as group:
        for name, values in arrays:
            values = np.asarray(values)
            create_array(group, name, values.shape or (1,), values.dtype)[...] = values


def read_arrays(path: str | Path) -> dict[str, NDArray]:
    """Read all arrays of a store into memory."""
    group = open_store(path)
    return {name: np.asarray(group[name][...]) for name in names_of(group)}  # type: ignore[index]


def names_of(group: zarr.Group) -> list[str]:
    """Names of the arrays of a complete store."""
    return list(group.attrs["arrays"])  # type: ignore[arg-type]


class Added(Mapping[str, NDArray]):
    """The arrays of several stores, added name by name when they are asked for.

    Parameters
    ----------
    paths
        Stores with the same names and shapes, such as the partial sums of all shards.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._groups = [open_store(path) for path in paths]

    def __getitem__(self, name: str) -> NDArray:
        first, *others = (group[name] for group in self._groups)
        total = np.asarray(first[...])  # type: ignore[index]
        for array in others:
            total += array[...]  # type: ignore[index]
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(names_of(self._groups[0]))

    def __len__(self) -> int:
        return len(names_of(self._groups[0]))


class RowWriter:
    """Append rows to an array, writing whole chunks in order.

    Parameters
    ----------
    array
        As made by `create_array`.
    thread
        Compresses and writes a chunk while the next one is filled; one thread may serve many
        writers.
    """

    def __init__(self, array: zarr.Array, thread: Executor) -> None:
        self._array = array
        self._thread = thread
        self._writing: Future[None] | None = None
        self._buffer, self._other = (np.empty(array.chunks, array.dtype) for _ in range(2))
        self._filled = self._written = 0

    def append(self, rows: NDArray) -> None:
        """Add rows after those already there; they are copied."""
        while len(rows):
            n = min(len(rows), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + n] = rows[:n]
            self._filled += n
            rows = rows[n:]
            if self._filled == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        self._wait()
        start, self._written = self._written, self._written + self._filled
        self._writing = self._thread.submit(
            self._array.__setitem__,
            slice(start, self._written),
            self._buffer[: self._filled],
        )
        self._buffer, self._other = self._other, self._buffer
        self._filled = 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def close(self) -> None:
        """Write what is buffered.

        Raises
        ------
        ValueError
            If fewer rows were appended than the array has.
        """
        if self._filled:
            self._flush()
        self._wait()
        if self._written != self._array.shape[0]:
            raise ValueError(
                f"{self._array.name}: {self._written} rows instead of {self._array.shape[0]}"
            )
