"""Result tables (Parquet) that say where they come from.

A table is renamed into place when it is whole, and its pages carry checksums that are verified on
reading; what is damaged or was made by another version of the method is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from universal_neurons.store.files import reading, replacing
from universal_neurons.store.provenance import check_method


def write_table(path: str | Path, table: pd.DataFrame, attributes: Mapping[str, Any]) -> None:
    """Write a table as Parquet; it appears under `path` when it is whole.

    `attributes` (provenance) are JSON under the key ``universal_neurons`` of the schema's metadata.
    """
    _write(path, pa.Table.from_pandas(table, preserve_index=False), attributes)


def read_table(
    path: str | Path, columns: Sequence[str] | None = None, filters: Any = None
) -> pd.DataFrame:
    """Read a table, or some of its columns, or the rows that pass `filters` (see pyarrow).

    Raises
    ------
    UserError
        If it is missing, damaged, lacks a column or was made by another version of the method.
    """
    return _read(path, columns, filters).to_pandas()


def _read(path: str | Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    with reading(path):
        table = pq.read_table(
            path,
            columns=None if columns is None else list(columns),
            filters=filters,
            partitioning=None,
            page_checksum_verification=True,
        )
        if columns is not None and (missing := set(columns) - set(table.column_names)):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        about = (table.schema.metadata or {}).get(b"universal_neurons", b"{}")
        check_method(path, json.loads(about))
    return table


def write_tables(
    paths: Mapping[str, str | Path],
    tables: Mapping[str, pd.DataFrame],
    attributes: Mapping[str, Any],
) -> None:
    """Write tables under the paths of the same names, see `write_table`."""
    for name, table in tables.items():
        write_table(paths[name], table, attributes)


def concatenate_tables(
    parts: Sequence[str | Path], out: Sequence[str | Path], attributes: Mapping[str, Any]
) -> None:
    """Write the rows of several Parquet files with the same columns as one file, for many tables.

    Parameters
    ----------
    parts
        The files, all of the first table before those of the second, of each the same number.
    out
        A file to make for every table.
    attributes
        Recorded with it.
    """
    n = len(parts) // len(out)
    for i, path in enumerate(out):
        tables = [_read(part) for part in parts[i * n : (i + 1) * n]]
        _write(path, pa.concat_tables(tables, promote_options="permissive"), attributes)


def _write(path: str | Path, table: pa.Table, attributes: Mapping[str, Any]) -> None:
    metadata = {**(table.schema.metadata or {}), b"universal_neurons": json.dumps(attributes)}
    with replacing(Path(path)) as temporary:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )
