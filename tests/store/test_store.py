"""Stores and tables are complete or absent, and damage is noticed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from universal_neurons.errors import UserError
from universal_neurons.store import arrays as arrays_module
from universal_neurons.store import chunks, provenance
from universal_neurons.store import rows as rows_module
from universal_neurons.store.columns.declare import SEED, STEP, Column, Table
from universal_neurons.store.tables import concatenate_table, write_table

ARRAYS = {"a": np.arange(12).reshape(3, 4), "b": np.array([0.5, np.nan])}


def test_arrays_come_back(tmp_path):
    arrays_module.write_arrays(tmp_path / "s.zarr", ARRAYS.items(), {"note": "x"})
    (tmp_path / "s.zarr/.snakemake_timestamp").touch()
    found = arrays_module.read_arrays(tmp_path / "s.zarr")
    assert set(found) == set(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert arrays_module.attributes_of(tmp_path / "s.zarr")["note"] == "x"


def test_an_interrupted_store_leaves_what_was_there_before(tmp_path):
    path = tmp_path / "s.zarr"

    def interrupted():
        yield "a", np.zeros(3)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        arrays_module.write_arrays(path, interrupted(), {})
    assert list(tmp_path.iterdir()) == []
    arrays_module.write_arrays(path, ARRAYS.items(), {})
    with pytest.raises(OSError, match="disk full"):
        arrays_module.write_arrays(path, interrupted(), {})
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]
    assert set(arrays_module.read_arrays(path)) == set(ARRAYS)
    arrays_module.write_arrays(path, [("c", np.ones(1))], {})
    assert set(arrays_module.read_arrays(path)) == {"c"}


def test_what_is_no_complete_store_is_refused(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "unmarked.zarr", zarr_format=3)
    for name in ("missing.zarr", "empty.zarr", "unmarked.zarr"):
        with pytest.raises(UserError, match=f"{name}: .*run snakemake again"):
            arrays_module.open_store(tmp_path / name)


def test_a_flipped_byte_is_noticed(tmp_path):
    values = np.random.default_rng(0).integers(-127, 128, (50, 50)).astype(np.int8)
    arrays_module.write_arrays(tmp_path / "s.zarr", [("x", values)], {})
    (chunk,) = (p for p in (tmp_path / "s.zarr/x/c").rglob("*") if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(UserError, match="s.zarr: damaged .*checksum"):
        arrays_module.read_arrays(tmp_path / "s.zarr")


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
@settings(deadline=None, max_examples=30)
def test_rows_appended_in_any_pieces_make_the_same_array(tmp_path_factory, pieces, chunk):
    rows = np.random.default_rng(0).integers(-9, 9, (sum(pieces), 3))
    path = tmp_path_factory.mktemp("rows") / "s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", chunk * 24)
        with arrays_module.new_store(path, {}) as group, ThreadPoolExecutor(2) as threads:
            writer = rows_module.RowWriter(
                arrays_module.create_array(group, "x", rows.shape, rows.dtype)
            )
            for piece in np.split(rows, np.cumsum(pieces)[:-1]) if pieces else []:
                writer.append(piece)
                if len(piece) % 2:
                    rows_module.RowWriter.write_full([writer], threads)
            rows_module.RowWriter.close([writer], threads)
    np.testing.assert_array_equal(arrays_module.read_arrays(path)["x"], rows)


@given(st.integers(1, 40), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=30)
def test_rows_read_in_place_are_those_that_zarr_reads(tmp_path_factory, n, chunk, data):
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    dtype = data.draw(st.sampled_from([np.int8, np.float32, np.int64]))
    columns = data.draw(st.sampled_from([(), (3,), (2, 3)]))
    values = np.random.default_rng(n).integers(-127, 128, (n, *columns)).astype(dtype)
    path = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", values[0].nbytes * chunk)
        arrays_module.write_arrays(path / "s.zarr", [("x", values)], {})
    store = arrays_module.open_store(path / "s.zarr")
    found = np.zeros((stop - start, *values.shape[1:]), dtype)
    assert store.read("x", slice(start, stop), found) is found
    zarrs = zarr.open_group(path / "s.zarr", mode="r")["x"]
    np.testing.assert_array_equal(found, zarrs[start:stop])
    np.testing.assert_array_equal(found, values[start:stop])
    np.testing.assert_array_equal(store.read("x"), values)


def test_missing_rows_are_an_error(tmp_path):
    with (
        arrays_module.new_store(tmp_path / "s.zarr", {}) as group,
        ThreadPoolExecutor(1) as threads,
    ):
        writer = rows_module.RowWriter(arrays_module.create_array(group, "x", (3, 2), np.int8))
        writer.append(np.zeros((2, 2), np.int8))
        with pytest.raises(ValueError, match="2 rows instead of 3"):
            rows_module.RowWriter.close([writer], threads)


@pytest.mark.filterwarnings("error")
def test_listing_a_store_does_not_warn_of_snakemakes_own_file(tmp_path):
    arrays = {"a": np.arange(3), "b": np.ones(2)}
    arrays_module.write_arrays(tmp_path / "s.zarr", arrays.items(), {})
    (tmp_path / "s.zarr/.snakemake_timestamp").touch()
    store = zarr.open(tmp_path / "s.zarr", mode="r")
    assert sorted(store) == ["a", "b"]
    np.testing.assert_array_equal(store["a"][:], arrays["a"])
    assert set(arrays_module.read_arrays(tmp_path / "s.zarr")) == {"a", "b"}


def test_stores_add_up_name_by_name(tmp_path):
    for i in range(3):
        arrays = {"a": np.full((2, 2), 10**i), "b": np.array([i])}
        arrays_module.write_arrays(tmp_path / f"{i}.zarr", arrays.items(), {})
    total = arrays_module.Added([tmp_path / f"{i}.zarr" for i in range(3)])
    np.testing.assert_array_equal(total["a"], np.full((2, 2), 111))
    assert {name: values.sum() for name, values in total.items()} == {"a": 444, "b": 3}


def test_tables_keep_their_types_and_say_where_they_come_from(tmp_path):
    first = pd.DataFrame({"seed": ["0"], "step": [5], "x": [np.nan]})
    second = pd.DataFrame({"seed": ["1"], "step": [6], "x": [0.25]})
    about = provenance.provenance({"run": "r"}, corpus_sha256="abc")
    x = Column("x", "float64", "", "Anything; or null.", nullable=True)
    declared = Table("t", "For tests.", (SEED, STEP), (x,))
    for name, table in (("a", first), ("b", second)):
        write_table(tmp_path / name, declared, table, about)
    concatenate_table(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "all", declared, about, ["1", "0"]
    )
    expected = pd.concat([first, second], ignore_index=True)
    expected["seed"] = pd.Categorical(expected["seed"], ["1", "0"], ordered=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "all"), expected)
    metadata = pq.read_schema(tmp_path / "all").metadata[b"universal_neurons"]
    assert json.loads(metadata) == about


LISTED = "from universal_neurons.store.provenance import provenance"


def test_saying_where_a_table_comes_from_does_not_load_torch():
    listed = f"import sys; {LISTED}; print(provenance({{}}), 'torch' in sys.modules, sep='\\n')"
    command = [sys.executable, "-c", listed]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    about, loaded = map(ast.literal_eval, said.splitlines())
    assert about["cpu"]
    assert "cpu_capability" not in about
    assert not loaded


def test_the_kernels_that_the_processor_chooses_are_recorded():
    """As many as there are: PyTorch can be made to use those of an older processor."""
    listed = f"import torch; {LISTED}; print(provenance({{}}))"
    said = [
        subprocess.run(
            [sys.executable, "-c", listed],
            env={**os.environ, **chosen},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for chosen in ({}, {"ATEN_CPU_CAPABILITY": "default"})
    ]
    own, older = map(ast.literal_eval, said)
    assert own["cpu"] == older["cpu"]
    assert "DEFAULT" in older["cpu_capability"].upper()
    assert own["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_the_config_hash_does_not_depend_on_the_order_of_keys():
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert provenance.config_hash(one) == provenance.config_hash(two)
    assert provenance.config_hash(one) != provenance.config_hash({**one, "a": 2})
