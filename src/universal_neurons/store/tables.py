"""Result tables (Parquet) with the columns declared for them, that say where they come from.

A table is renamed into place when it is whole, and its pages carry checksums that are verified on
reading; what is damaged or was made by another version of the method is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from universal_neurons.store.columns.declare import Table
from universal_neurons.store.columns.registry import TABLES
from universal_neurons.store.files import reading, replacing
from universal_neurons.store.place import check_place, with_place
from universal_neurons.store.provenance import check_method


def write_table(
    path: str | Path,
    table: Table,
    rows: pd.DataFrame | pa.Table,
    attributes: Mapping[str, Any],
    seeds: Sequence[str] | None = None,
) -> None:
    """Write the rows of a table as Parquet; the file appears when it is whole.

    Parameters
    ----------
    path
        Of the file.
    table
        What its columns are declared to be.
    rows
        With these columns, in any order.
    attributes
        Provenance: JSON under the key ``universal_neurons`` of the schema's metadata.
    seeds
        Of the run, in the order that rows and categories get, see `Table.order`; a part, which does
        not depend on it, is written without.
    """
    found = table.conform(rows)
    _write(path, found if seeds is None else table.order(found, seeds), attributes)


def read_table(
    path: str | Path, columns: Sequence[str] | None = None, filters: Any = None
) -> pd.DataFrame:
    """Read a table, or some of its columns, or the rows that pass `filters` (see pyarrow).

    Raises
    ------
    UserError
        If it is missing, damaged, lacks a column, was made by another version of the method or
        belongs elsewhere in its run.
    """
    return _read(path, columns, filters).to_pandas()


def read_part(path: str | Path, table: Table) -> pd.DataFrame:
    """Read a whole table, or a part of it, that has the declared columns and no row twice.

    Raises
    ------
    UserError
        If it has not, or see `read_table`.
    """
    return _read_part(path, table).to_pandas()


def _read_part(path: str | Path, table: Table) -> pa.Table:
    with reading(path):
        found = table.conform(_read(path))
        table.check_keys(found)
    return found


def attributes_of(path: str | Path) -> dict[str, Any]:
    """What was recorded with a table."""
    with reading(path):
        return _attributes(pq.read_schema(path))


def _attributes(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(b"universal_neurons", b"{}"))


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
        about = _attributes(table.schema)
        check_method(path, about)
        check_place(path, about)
    return table


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def write_tables(
    paths: Mapping[str, str | Path],
    tables: Mapping[str, pd.DataFrame | pa.Table],
    attributes: Mapping[str, Any],
) -> None:
    """Write tables under the paths of the same names, see `write_table`."""
    for name, rows in tables.items():
        write_table(paths[name], TABLES[name], rows, attributes)


def concatenate_tables(
    parts: Sequence[str | Path],
    out: Sequence[str | Path],
    attributes: Mapping[str, Any],
    seeds: Sequence[str],
) -> None:
    """Join the parts of many tables, see `concatenate_table`.

    Parameters
    ----------
    parts
        The files, all of the first table before those of the second, of each the same number.
    out
        A file to make for every table, which its name says.
    attributes, seeds
        See `write_table`.
    """
    n = len(parts) // len(out)
    for i, path in enumerate(out):
        own, table = parts[i * n : (i + 1) * n], TABLES[Path(path).stem]
        concatenate_table(own, path, table, attributes, seeds)


def concatenate_table(
    parts: Iterable[str | Path],
    out: str | Path,
    table: Table,
    attributes: Mapping[str, Any],
    seeds: Sequence[str],
) -> None:
    """Write the rows of any number of parts of a table as one file; see `write_table`.

    Raises
    ------
    UserError
        See `read_part`.
    """
    found = []
    for part in parts:
        with reading(part):
            found.append(table.order(_read_part(part, table), seeds))
    if not found:
        nothing = table.conform(pd.DataFrame(columns=table.names))
        found.append(table.order(nothing, seeds))
    _write(out, pa.concat_tables(found), attributes)


def _write(path: str | Path, table: pa.Table, attributes: Mapping[str, Any]) -> None:
    about = json.dumps(with_place(path, attributes))
    metadata = {**(table.schema.metadata or {}), b"universal_neurons": about}
    with replacing(Path(path)) as temporary:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            temporary,
            compression="zstd",
            write_page_checksum=True,
        )
