"""A run that is killed goes on to the same tables: the short form of support/kill.py."""

from __future__ import annotations

import random

import kill
import pandas as pd
import pytest
import tiny


@pytest.mark.slow
def test_a_run_killed_at_random_moments_gives_the_same_tables(real, tmp_path):
    whole, seconds = real
    tiny.make(tmp_path)
    assert kill.run_with_kills(tmp_path, 3, seconds / 2, random.Random(1)) > 0
    assert kill.differences(whole, tmp_path) == []


def test_different_tables_are_told_apart(tmp_path):
    for name, value in (("one", 0.1), ("other", 0.1 + 2**-55)):
        folder = tmp_path / name / "results/tiny"
        folder.mkdir(parents=True)
        for table in kill.TABLES:
            change = value if table == "matches" else 0.5
            pd.DataFrame({"x": [change]}).to_parquet(folder / f"{table}.parquet")
    assert kill.differences(tmp_path / "one", tmp_path / "one") == []
    assert kill.differences(tmp_path / "one", tmp_path / "other") == ["matches"]
