"""Stores (Zarr v3) that are complete or absent.

Whatever is written goes to a sibling name first and is renamed when it is whole, so that a killed
job leaves nothing that could be taken for a result. A store also ends with a completion mark, and
one without it is refused. Every chunk carries a CRC-32C checksum, which Zarr verifies on reading;
the mark carries a digest of all metadata, and missing chunks, which Zarr would read as zeros, are
looked for when a store is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from universal_neurons.errors import UserError
from universal_neurons.store.files import again, reading, replacing
from universal_neurons.store.place import check_place, with_place
from universal_neurons.store.provenance import check_method
from universal_neurons.store.zarr_adapter import consolidated

# About the size of a chunk before compression: large enough for zstd and the file system to run at
# full speed, small enough that a buffer of one chunk per layer stays within a few hundred MB.
CHUNK_BYTES = 8 << 20


@contextmanager
def new_store(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
    """Create a Zarr v3 group, to be filled in the block; it appears under `path` when complete."""
    with replacing(Path(path)) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        yield group
        # Snakemake later puts files of its own beside the arrays. So their names are recorded, and
        # Zarr is told what there is, or listing a store would warn of what it does not know.
        group = consolidated(temporary)
        about = with_place(path, attributes)
        # At once: every update writes all metadata anew.
        names = sorted(group.array_keys())
        group.update_attributes({**about, "arrays": names, "complete": True})
        group.update_attributes({"digest": _digest(temporary, names)})


def _digest(path: Path, arrays: Any) -> str:
    """SHA-256 over the metadata of a store: its attributes and its arrays' shapes and codecs."""
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"].pop("digest", None)
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in arrays:
        sha.update((path / name / "zarr.json").read_bytes())
    return sha.hexdigest()


def _lost_chunks(path: Path, group: zarr.Group) -> list[str]:
    """Names of the arrays that lack chunks."""
    arrays = dict(group.arrays())
    return [
        name
        for name in names_of(group)
        if sum(len(files) for _, _, files in os.walk(path / name / "c")) < arrays[name].nchunks
    ]


def open_store(path: str | Path) -> zarr.Group:
    """Open a complete store for reading.

    Raises
    ------
    UserError
        If there is no store at `path`, it lacks its completion mark or chunks, its metadata were
        changed, another version of the method made it, or it belongs elsewhere in its run.
    """
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
    except (OSError, ValueError, KeyError, TypeError, zarr.errors.BaseZarrError) as error:
        raise UserError(f"{path}: not a store; {again(path)}") from error
    if group.attrs.get("complete") is not True:
        raise UserError(f"{path}: the store is incomplete; {again(path)}")
    with reading(path):
        if group.attrs.get("digest") != _digest(Path(path), names_of(group)):
            raise ValueError("its metadata are not those that were written")
        if lost := _lost_chunks(Path(path), group):
            raise ValueError(f"chunks of {', '.join(lost)} are missing")
    check_method(path, group.attrs)
    check_place(path, group.attrs)
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
    with reading(path):
        return {name: np.asarray(group[name][...]) for name in names_of(group)}  # type: ignore[index]


def write_by_pair(
    path: str | Path,
    arrays: Mapping[tuple[str, str], NDArray],
    attributes: Mapping[str, Any],
    **further: Mapping[tuple[str, str], NDArray],
) -> None:
    """Write one array per (seed, other seed) as a store, and further ones; `read_by_pair` reads it.

    Those of `arrays` are named ``pair``, further ones as they are here.
    """
    named = {"pair": arrays, **further}
    every = ((f"{name}{i}", x) for name, own in named.items() for i, x in enumerate(own.values()))
    pairs = {f"{name}s": [list(pair) for pair in own] for name, own in named.items()}
    write_arrays(path, every, {**attributes, **pairs})


def read_by_pair(paths: Iterable[str | Path], name: str = "pair") -> dict[tuple[str, str], NDArray]:
    """The arrays of stores of `write_by_pair`: those of a name, of which there may be none."""
    found: dict[tuple[str, str], NDArray] = {}
    for path in paths:
        arrays, pairs = read_arrays(path), attributes_of(path).get(f"{name}s", [])
        found |= {(seed, other): arrays[f"{name}{i}"] for i, (seed, other) in enumerate(pairs)}
    return found


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
        self._paths = list(paths)
        self._groups = [open_store(path) for path in paths]

    def running(self, name: str) -> Iterator[NDArray]:
        """Yield the totals of one store, two stores and so on; the next overwrites the last."""
        total: NDArray | None = None
        for path, group in zip(self._paths, self._groups, strict=True):
            with reading(path):
                values = np.asarray(group[name][...])  # type: ignore[index]
            if total is None:
                total = values
            elif total.dtype == values.dtype:
                total += values
            else:  # sums too large for int64 are in float64
                total = total + values
            yield total

    def __getitem__(self, name: str) -> NDArray:
        *_, total = self.running(name)
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(names_of(self._groups[0]))

    def __len__(self) -> int:
        return len(names_of(self._groups[0]))
