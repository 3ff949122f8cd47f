"""The columns of result tables: declared once, held to by what writes, reads and explains them."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tiny import ROOT

from universal_neurons.report import results
from universal_neurons.store.columns.declare import LAYER, SEED, STEP, TYPES, Column, Table
from universal_neurons.store.columns.registry import TABLES
from universal_neurons.store.tables import concatenate_table, read_table, write_table

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


PAIRS = Table(
    "pairs",
    "For tests.",
    (STEP, SEED, Column("other_seed", "seed", "", "Another."), LAYER),
    (Column("x", "int64", "", "Anything."),),
)
SEEDS = ["23", "late", "7", "11"]


def pairs(steps=(5,), seeds=("11", "23", "7")):
    """Rows in the order of the text."""
    rows = product(steps, seeds, seeds, range(2))
    table = pd.DataFrame(rows, columns=["step", "seed", "other_seed", "layer"])
    return table[table["seed"] != table["other_seed"]].assign(x=lambda t: np.arange(len(t)))


@pytest.mark.parametrize(
    "read", [pd.read_parquet, lambda path: pq.read_table(path).to_pandas(), read_table]
)
def test_seeds_are_read_back_in_the_order_of_the_configuration(tmp_path, read):
    parts = [tmp_path / f"{step}.parquet" for step in (5, 6)]
    for step, part in zip((5, 6), parts, strict=True):
        write_table(part, PAIRS, pairs([step]), {})
        assert pd.read_parquet(part)["seed"].tolist() == pairs()["seed"].tolist()
    concatenate_table(parts, tmp_path / "all.parquet", PAIRS, {}, SEEDS)
    found = read(tmp_path / "all.parquet")
    for column in ("seed", "other_seed"):
        assert found[column].dtype == pd.CategoricalDtype(SEEDS, ordered=True)
    assert found["seed"].unique().tolist() == ["23", "7", "11"]
    assert list(found.groupby("seed", observed=True).groups) == ["23", "7", "11"]
    assert not (found["seed"] == 7).any()
    assert set(found.loc[found["seed"] == "7", "other_seed"]) == {"23", "11"}
    # Sorted by step and both seeds, and the same rows.
    by = [["23", "late", "7", "11"].index(seed) for seed in found["seed"]]
    assert sorted(zip(found["step"], by, strict=True)) == list(zip(found["step"], by, strict=True))
    keys = PAIRS.names[:4]
    same = found.astype({"seed": "str", "other_seed": "str"}).sort_values(keys)
    expected = pairs([5, 6]).assign(x=lambda t: t["x"] % (len(t) // 2)).sort_values(keys)
    pd.testing.assert_frame_equal(
        same.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False
    )


def test_rows_of_one_seed_keep_their_order_and_what_is_read_can_be_written_again(tmp_path):
    rows = pairs().query("seed == '7'").sort_values("x", ascending=False)
    write_table(tmp_path / "t.parquet", PAIRS, rows, {}, SEEDS)
    found = pd.read_parquet(tmp_path / "t.parquet")
    assert found.query("other_seed == '23'")["layer"].tolist() == [1, 0]
    write_table(tmp_path / "u.parquet", PAIRS, found, {}, ["7", "11", "late", "23"])
    again = pd.read_parquet(tmp_path / "u.parquet")
    assert again["other_seed"].tolist() == ["11", "11", "23", "23"]
    with pytest.raises(ValueError, match="pairs.seed has seeds not of the run"):
        write_table(tmp_path / "v.parquet", PAIRS, rows, {}, ["23", "11"])


def test_the_mean_over_seeds_comes_before_them(tmp_path):
    rows = pairs().query("other_seed == '23'").assign(seed=["7", "7", "", ""])
    write_table(tmp_path / "t.parquet", PAIRS, rows, {}, ["7", "23"])
    assert pd.read_parquet(tmp_path / "t.parquet")["seed"].tolist() == ["", "", "7", "7"]


def test_every_table_of_a_run_and_its_parts_has_the_declared_columns(local, screened, direct):
    for folder in (local[0] / "results/exact", screened, direct):
        check_tables(folder, ["a", "b-x21", "1"])


def test_every_table_of_a_run_over_subsets_has_the_declared_columns(subsets):
    check_tables(subsets, ["a", "b"])


def check_tables(folder, seeds):
    """All tables of a run, and their parts, have the columns, types and order of rows declared."""
    files = {path: path.stem for path in folder.glob("*.parquet")}
    files |= {
        path: path.parts[len(folder.parts) + 1] for path in folder.glob("tables/**/*.parquet")
    }
    assert len(set(files.values())) > 12
    for path, name in files.items():
        found = pq.read_table(path)
        rows = TABLES[name].conform(found)
        if path.parent == folder and name != "untrained":
            rows = TABLES[name].order(rows, seeds)
        # Parquet knows no large strings within a dictionary.
        if len(rows):
            pd.testing.assert_frame_equal(found.to_pandas(), rows.to_pandas())
        assert found.schema.names == TABLES[name].names, path
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
        assert table.name in ("trace", "single") or f"`{table.name}.parquet`" in readme
        for column in table.columns:
            assert column.type in TYPES
            assert column.meaning.endswith("."), column.name
            assert column.meaning[0].upper() == column.meaning[0], column.name
            assert column.nullable == ("null" in column.meaning), f"{table.name}.{column.name}"
