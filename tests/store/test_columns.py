"""The columns of result tables: declared once, held to by what writes, reads and explains them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tiny import ROOT

from universal_neurons.report import results
from universal_neurons.store.columns.declare import TYPES, Column, Table
from universal_neurons.store.columns.registry import TABLES
from universal_neurons.store.tables import write_table

TABLE = Table(
    "t",
    "For tests.",
    (Column("seed", "text", "", "A seed."), Column("layer", "int32", "", "A layer.")),
    (Column("x", "float64", "m", "A length.", nullable=True), Column("yes", "bool", "", "Or no.")),
)
ROWS = pd.DataFrame({"x": [0.5, np.nan], "yes": [True, False], "layer": [0, 1], "seed": ["a", "b"]})


def test_columns_are_written_in_the_declared_order_and_type(tmp_path):
    write_table(tmp_path / "t.parquet", TABLE, ROWS, {})
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == ["seed", "layer", "x", "yes"]
    assert [str(kind) for kind in schema.types] == ["large_string", "int32", "double", "bool"]
    found = pd.read_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found, ROWS[schema.names].astype({"layer": "int32"}))


def test_a_table_without_rows_has_the_declared_types_too(tmp_path):
    write_table(tmp_path / "t.parquet", TABLE, pd.DataFrame(columns=TABLE.names), {})
    assert pq.read_schema(tmp_path / "t.parquet").types == [TYPES[c.type] for c in TABLE.columns]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.assign(z=1), "t has undeclared columns: z"),
        (ROWS.drop(columns="x"), "t has no column x"),
        (ROWS.assign(x=["a", "b"]), "t.x is .*string, not float64"),
        (ROWS.assign(x=[1, 2]), "t.x is int64, not float64"),
        (ROWS.assign(layer=[0.0, 1.5]), "t.layer is double, not int32"),
        (ROWS.assign(layer=[0, 2**40]), "not in range"),
        (ROWS.assign(seed=[0, 1]), "t.seed is int64, not text"),
        (ROWS.assign(yes=[0, 1]), "t.yes is int64, not bool"),
        (ROWS.assign(seed=["a", None]), "t.seed lacks values"),
    ],
)
def test_a_table_that_differs_from_its_declaration_is_not_written(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_table(tmp_path / "t.parquet", TABLE, rows, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("run", ["local", "screened", "direct", "subsets"])
def test_every_table_of_a_run_and_its_parts_has_the_declared_columns(run, request):
    made = request.getfixturevalue(run)
    folder = made[0] / "results/exact" if run == "local" else made
    files = {path: path.stem for path in folder.glob("*.parquet")}
    files |= {
        path: path.parts[len(folder.parts) + 1] for path in folder.glob("tables/**/*.parquet")
    }
    assert len(set(files.values())) > 12
    for path, name in files.items():
        found = pq.read_table(path)
        assert found.schema.equals(TABLES[name].conform(found).schema), path
        keys = found.select([column.name for column in TABLES[name].keys]).to_pandas()
        assert not keys.duplicated().any(), path


def test_the_report_asks_for_declared_columns():
    for name, columns in results.COLUMNS.items():
        assert set(columns) <= set(TABLES[name].names), name


def test_the_page_of_tables_is_what_the_declarations_say():
    made = subprocess.run([sys.executable, ROOT / "docs/tables.py"], stdout=subprocess.PIPE)
    assert made.stdout.decode() == (ROOT / "docs/tables.md").read_text(), "run `make tables`"


def test_every_column_is_explained_in_a_sentence_and_the_readme_names_every_table():
    readme = (ROOT / "README.md").read_text()
    for table in TABLES.values():
        assert table.about.endswith(".")
        assert table.name == "trace" or f"`{table.name}.parquet`" in readme
        for column in table.columns:
            assert column.type in TYPES
            assert column.meaning.endswith("."), column.name
            assert column.meaning[0].upper() == column.meaning[0], column.name
            assert column.nullable == ("null" in column.meaning), f"{table.name}.{column.name}"
