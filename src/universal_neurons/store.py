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
import shlex
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

import universal_neurons
from universal_neurons.errors import UserError
from universal_neurons.method import METHOD_VERSION
from universal_neurons.zarr_adapter import chunk_file

# About the size of a chunk before compression: large enough for zstd and the file system to run at
# full speed, small enough that a buffer of one chunk per layer stays within a few hundred MB.
CHUNK_BYTES = 8 << 20

WEIGHTS = "the weights of "


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


def provenance(config: Mapping[str, Any], *kinds: str, **more: Any) -> dict[str, Any]:
    """What every store and table records about its origin.

    `kinds` name the parts of `method.METHOD_VERSION` that made it: readers refuse other versions.
    """
    return {
        "universal_neurons": universal_neurons.__version__,
        "config_hash": config_hash(config),
        "method": {kind: METHOD_VERSION[kind] for kind in kinds},
        **more,
    }


def again(path: str | Path) -> str:
    """How to make a file or store again, for messages."""
    return f"remove it and run snakemake again:  rm -r {shlex.quote(str(path))}"


def check_writable(folder: str | Path) -> None:
    """Refuse a folder, or the place it would be made in, that can't be written.

    Raises
    ------
    UserError
        If it is on a read-only file system or belongs to somebody else.
    """
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        raise UserError(
            f"{there}: can't be written; make it writable, or run in another folder (`snakemake "
            "--directory`), then run the same command again: finished jobs stay"
        )


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a store or file is read into a `UserError` that names it."""
    try:
        yield
    except (ValueError, KeyError, OSError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise UserError(f"{path}: damaged ({error}); {again(path)}") from error


def check_method(path: str | Path, attributes: Mapping[str, Any]) -> None:
    """Refuse what another version of the method made."""
    for kind, version in attributes.get("method", {}).items():
        if version != METHOD_VERSION.get(kind):
            raise UserError(
                f"{path}: made by version {version} of the method '{kind}', this is version "
                f"{METHOD_VERSION.get(kind)}; {again(path)}"
            )


def read_json(path: str | Path) -> Any:
    """Read a JSON file that an earlier job wrote."""
    with reading(path):
        return json.loads(Path(path).read_text())


@contextmanager
def new_store(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[zarr.Group]:
    """Create a Zarr v3 group, to be filled in the block; it appears under `path` when complete."""
    with replacing(Path(path)) as temporary:
        group = zarr.create_group(temporary, zarr_format=3)
        yield group
        # The names are recorded because Snakemake later puts files of its own beside the arrays.
        group.attrs.update({**attributes, "arrays": sorted(group.array_keys()), "complete": True})
        group.attrs.update({"digest": _digest(temporary, group.attrs["arrays"])})


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
    return [
        name
        for name in names_of(group)
        if sum(len(files) for _, _, files in os.walk(path / name / "c")) < group[name].nchunks  # type: ignore[union-attr]
    ]


def open_store(path: str | Path) -> zarr.Group:
    """Open a complete store for reading.

    Raises
    ------
    UserError
        If there is no store at `path`, it lacks its completion mark or chunks, its metadata were
        changed, or another version of the method made it.
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
    return group


def check_same_run(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Refuse to combine stores that don't belong together; returns what they have in common.

    What two stores both record must agree: the corpus, what was scored of it, and the weights of
    every (seed, step). Stores in one folder are shards and must follow each other.

    Parameters
    ----------
    paths
        Inputs of a job; those that are no stores are passed over.

    Returns
    -------
    dict
        To be recorded with what is made of them: ``corpus_sha256``, ``exclude``, ``encoding`` and
        ``models``, the digest of the weights by ``seed/step``.

    Raises
    ------
    UserError
        Naming two stores that differ.
    """
    first: dict[str, tuple[Any, str]] = {}
    ends: dict[Path, int] = {}
    for path in (str(path) for path in paths if str(path).endswith(".zarr")):
        attributes = attributes_of(path)
        shared = ("corpus_sha256", "exclude", "encoding")
        facts = {key: attributes[key] for key in shared if key in attributes}
        models = dict(attributes.get("models", {}))
        if "model_sha256" in attributes and "seed" in attributes:
            name = f"{attributes['seed']}/{attributes['step']}"
            models[name] = attributes["model_sha256"]
        facts |= {f"{WEIGHTS}{name}": digest for name, digest in models.items()}
        for key, value in facts.items():
            known, where = first.setdefault(key, (value, path))
            if known != value:
                raise UserError(
                    f"{path} and {where} differ in {key} ({value} and {known}): they are not of "
                    f"one run; the older one: {again(path)}"
                )
        if "sequences" in attributes:
            start, stop = attributes["sequences"]
            if start != ends.get(Path(path).parent, start):
                raise UserError(
                    f"{path}: has sequences {start} to {stop}, which do not follow those of the "
                    f"shard before it; {again(path)}"
                )
            ends[Path(path).parent] = stop
    found = {key: value for key, (value, _) in first.items()}
    weights = {key: found.pop(key) for key in list(found) if key.startswith(WEIGHTS)}
    return {**found, "models": {key.removeprefix(WEIGHTS): weights[key] for key in weights}}


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
    path: str | Path, arrays: Mapping[tuple[str, str], NDArray], attributes: Mapping[str, Any]
) -> None:
    """Write one array per (seed, other seed) as a store; `read_by_pair` reads it."""
    named = ((f"pair{i}", values) for i, values in enumerate(arrays.values()))
    write_arrays(path, named, {**attributes, "pairs": [list(pair) for pair in arrays]})


def read_by_pair(path: str | Path) -> dict[tuple[str, str], NDArray]:
    """The arrays of `write_by_pair`."""
    arrays = read_arrays(path)
    pairs = attributes_of(path)["pairs"]
    return {(seed, other): arrays[f"pair{i}"] for i, (seed, other) in enumerate(pairs)}


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


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk, and give back the memory that holds a copy of it.

    A shard is larger than that memory or soon pushes other files out of it, and taking fresh memory
    for every chunk costs more than compressing it (docs/performance.md).
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class RowWriter:
    """Append rows to an array, writing whole chunks in order.

    Full chunks wait for `write_full`, which compresses those of many writers side by side. Threads
    that compress while a model runs would cost more: they hold up the model's threads, which wait
    for each other after every operation.

    Parameters
    ----------
    array
        As made by `create_array`.
    """

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        self._spare: list[NDArray] = []
        self._full: list[tuple[int, NDArray]] = []
        self._buffer = np.empty(array.chunks, array.dtype)
        self._filled = self._start = 0

    def append(self, rows: NDArray) -> None:
        """Add rows after those already there; they are copied."""
        while len(rows):
            n = min(len(rows), len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + n] = rows[:n]
            self._filled += n
            rows = rows[n:]
            if self._filled == len(self._buffer):
                self._next()

    def _next(self) -> None:
        self._full.append((self._start, self._buffer[: self._filled]))
        self._start, self._filled = self._start + self._filled, 0
        self._buffer = self._spare.pop() if self._spare else np.empty_like(self._buffer)

    def _write(self, start: int, rows: NDArray) -> None:
        self._array[start : start + len(rows)] = rows
        if len(rows) == len(self._buffer):
            self._spare.append(rows)
            _to_disk(self._chunk_file(start))

    def _chunk_file(self, start: int) -> Path:
        chunk = (start // self._array.chunks[0], *(0 for _ in self._array.shape[1:]))
        return chunk_file(self._array, chunk)

    @staticmethod
    def write_full(writers: Sequence[RowWriter], threads: Executor) -> None:
        """Write the full chunks of several arrays."""
        waiting = [(writer, *chunk) for writer in writers for chunk in writer._full]
        for writer in writers:
            writer._full.clear()
        for future in [threads.submit(w._write, start, rows) for w, start, rows in waiting]:
            future.result()

    @staticmethod
    def close(writers: Sequence[RowWriter], threads: Executor) -> None:
        """Write what is left.

        Raises
        ------
        ValueError
            If fewer rows were appended than an array has.
        """
        for writer in writers:
            if writer._filled:
                writer._next()
        RowWriter.write_full(writers, threads)
        for writer in writers:
            if writer._start != writer._array.shape[0]:
                raise ValueError(
                    f"{writer._array.name}: {writer._start} rows instead of "
                    f"{writer._array.shape[0]}"
                )
