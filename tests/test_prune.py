"""Dropped activations: nothing is planned without them, and a later seed restores only those."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pandas as pd
import pytest
import tiny

from universal_neurons import prune


def dropped(seeds, steps=(1,), shards=1):
    return {"seeds": list(seeds), "steps": list(steps), "shards": shards}


def test_what_was_dropped_is_restored_for_what_came_later_and_for_nothing_else():
    first = [dropped("ab")]
    assert not prune.to_restore(first, ("a", 1, 0), ("b", 1, 0)), "compared before"
    assert prune.to_restore(first, ("a", 1, 0), ("c", 1, 0)), "a seed came later"
    assert not prune.to_restore(first, ("c", 1, 0), ("a", 1, 0)), "its activations are there"
    assert not prune.to_restore(first, ("a", 2, 0), ("b", 2, 0)), "a step came later"
    assert not prune.to_restore(first, ("a", 1, 1), ("b", 1, 1)), "a shard came later"
    # What a pair was made from stays the same when activations are dropped again.
    again = [*first, dropped("abc")]
    assert prune.to_restore(again, ("a", 1, 0), ("c", 1, 0))
    assert not prune.to_restore(again, ("c", 1, 0), ("a", 1, 0))
    assert prune.to_restore(again, ("c", 1, 0), ("d", 1, 0))


def make_prune(where, kind):
    dry = tiny.snakemake(where, "--dry-run", "--cores", "1")
    command = [sys.executable, "-m", "universal_neurons.prune", "config.yaml", kind]
    return subprocess.run(
        command, cwd=where, input=dry.stdout, text=True, capture_output=True, check=False
    )


@pytest.mark.slow
def test_a_pruned_run_plans_nothing_and_a_seed_added_later_gives_the_same_tables(tmp_path):
    where = tmp_path / "pruned"
    config = tiny.make(where, ("a", "b", "c"), shards=2)
    two = {**config, "models": {**config["models"], "seeds": ["a", "b"]}}
    tiny.configure(where, two)
    refused = make_prune(where, "activations")
    assert refused.returncode != 0
    assert "nothing was dropped" in refused.stderr
    assert tiny.snakemake(where, "--cores", "2").returncode == 0
    for kind in prune.KINDS:
        done = make_prune(where, kind)
        assert done.returncode == 0, done.stderr
        assert not (where / "results/tiny" / kind).exists()
        assert tiny.planned(where) == {}
    tiny.configure(where, config)
    jobs = tiny.planned(where)
    expected = {"restore": 4, "capture_first": 1, "capture": 1, "correlate": 4, "match": 2}
    assert {rule: jobs.get(rule, 0) for rule in expected} == expected
    result = tiny.snakemake(where, "--cores", "2")
    assert result.returncode == 0, result.stdout
    assert tiny.planned(where) == {}
    assert not list((where / "results/tiny").glob("restored/*/*/*")), "restored for a time only"

    whole = tmp_path / "whole"
    tiny.make(whole, ("a", "b", "c"), shards=2)
    assert tiny.snakemake(whole, "--cores", "2").returncode == 0
    for name in ("matches", "universality", "ablation", "neurons"):
        mine, theirs = (
            pd.read_parquet(run / f"results/tiny/{name}.parquet") for run in (where, whole)
        )
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    shutil.rmtree(whole)
