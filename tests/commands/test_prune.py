"""Dropped activations: nothing is planned without them, and a later seed restores only those."""

from __future__ import annotations

import pandas as pd
import tiny
from grids import SEEDS

from universal_neurons.commands import prune
from universal_neurons.plan import pruned


def dropped(seeds, steps=(1,), shards=1):
    return {"seeds": list(seeds), "steps": list(steps), "shards": shards}


def test_what_was_dropped_is_restored_for_what_came_later_and_for_nothing_else():
    first = [dropped("ab")]
    assert not pruned.to_restore(first, ("a", 1, 0), ("b", 1, 0)), "compared before"
    assert pruned.to_restore(first, ("a", 1, 0), ("c", 1, 0)), "a seed came later"
    assert not pruned.to_restore(first, ("c", 1, 0), ("a", 1, 0)), "its activations are there"
    assert not pruned.to_restore(first, ("a", 2, 0), ("b", 2, 0)), "a step came later"
    assert not pruned.to_restore(first, ("a", 1, 1), ("b", 1, 1)), "a shard came later"
    # What a pair was made from stays the same when activations are dropped again.
    again = [*first, dropped("abc")]
    assert pruned.to_restore(again, ("a", 1, 0), ("c", 1, 0))
    assert not pruned.to_restore(again, ("c", 1, 0), ("a", 1, 0))
    assert pruned.to_restore(again, ("c", 1, 0), ("d", 1, 0))


def make_prune(where, kind):
    return tiny.universal_neurons(where, "prune", "--what", kind)


def test_a_pruned_run_plans_nothing_and_a_seed_added_later_gives_the_same_tables(local, tmp_path):
    """The tables are those of the shared run at one of its steps, of which each has its own."""
    whole, config = local
    for name in ("my models", "tokens.npy"):
        (tmp_path / name).symlink_to(whole / name)
    config = {**config, "run": "pruned", "models": {**config["models"], "steps": [20]}}
    two = {**config, "models": {**config["models"], "seeds": SEEDS[:2]}}
    tiny.configure(tmp_path, two)
    jobs = tiny.planned(tmp_path)
    refused = make_prune(tmp_path, "activations")
    assert refused.returncode != 0
    (said,) = refused.stdout.strip().splitlines()
    assert f"not finished, {sum(jobs.values()) + 1} jobs are still to do (" in said
    assert "nothing was dropped" in said
    tiny.finish(tmp_path)
    for kind in prune.KINDS:
        done = make_prune(tmp_path, kind)
        assert done.returncode == 0, done.stdout
        assert not (tmp_path / "results/pruned" / kind).exists()
        assert tiny.planned(tmp_path) == {}
    tiny.configure(tmp_path, config)
    jobs = tiny.planned(tmp_path)
    expected = {"restore": 4, "capture_first": 1, "capture": 1, "correlate": 4, "match": 2}
    assert {rule: jobs.get(rule, 0) for rule in expected} == expected
    tiny.finish(tmp_path)
    assert tiny.planned(tmp_path) == {}
    assert not list((tmp_path / "results/pruned").glob("restored/*/*/*")), (
        "restored for a time only"
    )
    for name in ("matches", "universality", "ablation", "neurons"):
        mine, theirs = (
            pd.read_parquet(results / f"{name}.parquet")
            for results in (tmp_path / "results/pruned", whole / "results/exact")
        )
        theirs = theirs[theirs["step"] == 20].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
