"""Result tables (Parquet) that say where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from universal_neurons.store import replacing


def write_table(path: str | Path, table: pd.DataFrame, attributes: Mapping[str, Any]) -> None:
    """Write a table as Parquet; it appears under `path` when it is whole.

    `attributes` (provenance) are JSON under the key ``universal_neurons`` of the schema's metadata.
    """
    _write(path, pa.Table.from_pandas(table, preserve_index=False), attributes)


def concatenate_tables(
    paths: Iterable[str | Path], out: str | Path, attributes: Mapping[str, Any]
) -> None:
    """Write the rows of several Parquet files with the same columns as one file."""
    tables = [pq.read_table(path, partitioning=None) for path in paths]
    _write(out, pa.concat_tables(tables, promote_options="permissive"), attributes)


def _write(path: str | Path, table: pa.Table, attributes: Mapping[str, Any]) -> None:
    metadata = {**(table.schema.metadata or {}), b"universal_neurons": json.dumps(attributes)}
    with replacing(Path(path)) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")
