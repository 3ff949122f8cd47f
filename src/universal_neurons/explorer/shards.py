"""Facts and arrays as classic scripts, which a page loads from files without a server.

Browsers let a page that was opened from a file load no data but scripts. So a shard is a script of
one call, ``explorer.put(name, text)``. Every character of the text holds seven bits of deflated
bytes (base64 would take a tenth more room): the length of a header (uint32, little-endian), the
header as JSON, and its arrays one after another. Nothing of what a run holds is ever part of a
script's own text, whatever tokens and names contain.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the characters with seven bits, those that may not stand in a string of a script as they are.
ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r"}
# Types of arrays that the pages know, by NumPy's name; float16 has the three digits that are shown.
TYPES = {"uint8": "u1", "uint16": "u2", "uint32": "u4", "int8": "i1", "float16": "f2"}


def write_shard(
    folder: Path,
    name: str,
    facts: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write a shard as the script ``<name>.js``.

    Parameters
    ----------
    folder
        Where to.
    name
        Letters, digits and hyphens.
    facts
        What JSON can hold, without NaN.
    arrays
        One-dimensional, of a type in `TYPES`.
    """
    text = characters(zlib.compress(packed(facts, arrays or {})))
    for character, escaped in ESCAPES.items():
        text = text.replace(character, escaped)
    script = f'explorer.put("{name}", "{text}");\n'
    (folder / f"{name}.js").write_bytes(script.encode("ascii"))


def characters(data: bytes) -> str:
    """Characters of seven bits each, the lowest bits of a byte first; the last may have zeros."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    bits = np.concatenate([bits, np.zeros(-len(bits) % 7, np.uint8)])
    return np.packbits(bits.reshape(-1, 7), axis=1, bitorder="little").tobytes().decode("ascii")


def packed(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a shard before they are deflated.

    Arrays of more than one byte per value are stored as planes, all low bytes first: they deflate
    better so.
    """
    listed = [[name, TYPES[array.dtype.name], len(array)] for name, array in arrays.items()]
    header = json.dumps({"facts": facts, "arrays": listed}, separators=(",", ":"), allow_nan=False)
    encoded = header.encode("ascii")
    planes = (_planes(array) for array in arrays.values())
    return b"".join([len(encoded).to_bytes(4, "little"), encoded, *planes])


def _planes(array: NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return little.view(np.uint8).reshape(len(little), array.itemsize).T.tobytes()


def short(value: Any) -> Any:
    """A value as JSON holds it: four significant digits, None where there is none."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return None if value is None else str(value)
