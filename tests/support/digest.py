"""A digest of every table of a run: two runs with the same values print the same lines.

``python tests/support/digest.py results/demo`` prints the SHA-256 of the values of each Parquet
file: its columns in the order of their names, its rows in the order of the file, without what the
file says about where it comes from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def digest(path: Path) -> str:
    """Of the values of one table. NaN equals NaN; 0 and -0, or int32 and int64, differ."""
    table, sha = pq.read_table(path), hashlib.sha256()
    for name in sorted(table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        is_number = pa.types.is_primitive(column.type)
        kind = str(column.type) if is_number else "objects"
        sha.update(json.dumps([name, kind, len(column)]).encode())
        if is_number:
            sha.update(np.asarray(column.is_null()).tobytes())
            values = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
            sha.update(values.to_numpy(zero_copy_only=False).tobytes())
        else:
            sha.update(json.dumps(column.to_pylist(), default=str).encode())
    return sha.hexdigest()


def digests(results: Path) -> dict[str, str]:
    """Of all tables of a run, by name."""
    return {path.stem: digest(path) for path in sorted(results.glob("*.parquet"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="folders of runs")
    for results in parser.parse_args().results:
        found = digests(results)
        if not found:
            parser.error(f"{results} has no tables")
        for name, value in found.items():
            print(value, f"{results.name}/{name}.parquet", flush=True)


if __name__ == "__main__":
    main()
