"""Digests, which other tests rest on, see every bit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from digest import digest, digests

TABLE = {
    "x": [0.1, np.nan, 3.0],
    "name": ["a", None, "c"],
    "n": [1, 2, 3],
    "is": [True, False, True],
}


def written(path, table, about="one"):
    made = pa.Table.from_pandas(pd.DataFrame(table)).replace_schema_metadata({"about": about})
    pq.write_table(made, path)
    return path


def test_a_digest_is_of_the_values_alone(tmp_path):
    one = written(tmp_path / "one.parquet", TABLE)
    turned = dict(reversed(TABLE.items()))
    assert digest(one) == digest(written(tmp_path / "other.parquet", turned, "other"))
    assert set(digests(tmp_path)) == {"one", "other"}


@pytest.mark.parametrize(
    "change",
    [
        {"x": [np.nextafter(0.1, 1), np.nan, 3.0]},
        {"x": [0.1, 0.0, 3.0]},
        {"name": ["a", "", "c"]},
        {"n": np.array([1, 2, 3], np.int32)},
        {"is": [True, False, False]},
        {"x": [3.0, np.nan, 0.1]},
        {"y": [1, 1, 1]},
    ],
)
def test_a_digest_sees_every_change(tmp_path, change):
    one = written(tmp_path / "one.parquet", TABLE)
    assert digest(one) != digest(written(tmp_path / "other.parquet", {**TABLE, **change}))
