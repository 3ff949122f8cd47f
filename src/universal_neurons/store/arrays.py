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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from universal_neurons.errors import UserError
from universal_neurons.store.chunks import StoredArray
from universal_neurons.store.files import again, reading, replacing
from universal_neurons.store.place import check_place, with_place
from universal_neurons.store.provenance import check_method


@contextmanager
def new_store(path: str | Path, attributes: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to be filled by `create_array`; it appears under `path` when it is complete."""
    with replacing(Path(path)) as folder:
        folder.mkdir()
        yield folder
        arrays = {
            found.parent.name: json.loads(found.read_text())
            for found in sorted(folder.glob("*/zarr.json"))
        }
        about = {**with_place(path, attributes), "arrays": list(arrays), "complete": True}
        # Snakemake later puts files of its own beside the arrays. So Zarr is told what there is, or
        # listing a store would warn of what it does not know.
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": about,
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": arrays,
            },
        }
        # As it is read again: with strings for keys.
        metadata = json.loads(json.dumps(group))
        metadata["attributes"]["digest"] = _digest(folder, metadata)
        (folder / "zarr.json").write_text(json.dumps(metadata, indent=2))


def _digest(path: Path, metadata: Mapping[str, Any]) -> str:
    """SHA-256 over the metadata of a store: its attributes and its arrays' shapes and codecs."""
    about = {name: x for name, x in metadata["attributes"].items() if name != "digest"}
    whole = {**metadata, "attributes": about}
    sha = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    for name in about["arrays"]:
        sha.update((path / name / "zarr.json").read_bytes())
    return sha.hexdigest()


class Store(Mapping[str, StoredArray]):
    """A complete store, as `open_store` finds it: its arrays by name.

    Attributes
    ----------
    path
        Where it is.
    metadata
        What its ``zarr.json`` says.
    attributes
        What is recorded with the arrays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metadata: dict[str, Any] = json.loads((self.path / "zarr.json").read_text())
        self.attributes: dict[str, Any] = self.metadata["attributes"]

    def read(
        self, name: str, rows: slice = slice(None), out: NDArray | None = None
    ) -> NDArray[Any]:
        """Read consecutive rows of an array, into `out` if it is given.

        Raises
        ------
        UserError
            If the store lacks the array, or its chunks are damaged.
        """
        with reading(self.path):
            array = self[name]
            start, stop, _ = rows.indices(array.shape[0])
            return array.read(start, max(start, stop), out)

    def __getitem__(self, name: str) -> StoredArray:
        arrays = self.metadata["consolidated_metadata"]["metadata"]
        return StoredArray(self.path / name, arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.attributes["arrays"])

    def __len__(self) -> int:
        return len(self.attributes["arrays"])


def open_store(path: str | Path) -> Store:
    """Open a complete store for reading.

    Raises
    ------
    UserError
        If there is no store at `path`, it lacks its completion mark or chunks, its metadata were
        changed, another version of the method made it, or it belongs elsewhere in its run.
    """
    try:
        store = Store(path)
        complete = store.attributes.get("complete")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a store; {again(path)}") from error
    if complete is not True:
        raise UserError(f"{path}: the store is incomplete; {again(path)}")
    with reading(path):
        if store.attributes.get("digest") != _digest(store.path, store.metadata):
            raise ValueError("its metadata are not those that were written")
        if lost := [name for name, array in store.items() if array.lacks_chunks()]:
            raise ValueError(f"chunks of {', '.join(lost)} are missing")
    check_method(path, store.attributes)
    check_place(path, store.attributes)
    return store


def attributes_of(path: str | Path) -> dict[str, Any]:
    """The attributes of a complete store."""
    return open_store(path).attributes


def create_array(
    store: Path, name: str, shape: tuple[int, ...], dtype: np.dtype | type | str
) -> StoredArray:
    """Make an array of a new store, still to be written."""
    return StoredArray.create(store / name, shape, dtype)


def write_arrays(
    path: str | Path, arrays: Iterable[tuple[str, NDArray]], attributes: Mapping[str, Any]
) -> None:
    """Write arrays as one store, each as soon as the iterable yields it with its name."""
    with new_store(path, attributes) as store:
        for name, values in arrays:
            values = np.asarray(values)
            create_array(store, name, values.shape or (1,), values.dtype)[:] = values


def read_arrays(path: str | Path) -> dict[str, NDArray]:
    """Read all arrays of a store into memory."""
    store = open_store(path)
    return {name: store.read(name) for name in store}


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
        store = open_store(path)
        pairs = enumerate(store.attributes.get(f"{name}s", []))
        found |= {(seed, other): store.read(f"{name}{i}") for i, (seed, other) in pairs}
    return found


class Added(Mapping[str, NDArray]):
    """The arrays of several stores, added name by name when they are asked for.

    Parameters
    ----------
    paths
        Stores with the same names and shapes, such as the partial sums of all shards.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._stores = [open_store(path) for path in paths]

    def running(self, name: str) -> Iterator[NDArray]:
        """Yield the totals of one store, two stores and so on; the next overwrites the last."""
        total: NDArray | None = None
        for store in self._stores:
            values = store.read(name)
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
        return iter(self._stores[0])

    def __len__(self) -> int:
        return len(self._stores[0])
