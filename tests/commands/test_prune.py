"""Dropped activations: nothing is planned without them, and a later seed restores only those."""

from __future__ import annotations

import pandas as pd
import pytest
import tiny
from grids import SEEDS

from universal_neurons.commands import prune
from universal_neurons.errors import UserError
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


def stored(folder):
    """A seed's activations of 3,000 bytes; returns their folder."""
    store = folder / "seeda/step1/shard0.zarr"
    store.mkdir(parents=True)
    (store / "c").write_bytes(bytes(3000))
    return folder / "seeda"


def test_a_folder_that_is_a_link_is_emptied_where_it_leads(tmp_path):
    seed = stored(tmp_path / "large disk")
    (tmp_path / "large disk/other").write_text("not of the run")
    (tmp_path / "run").mkdir()
    folder = tmp_path / "run/activations"
    folder.symlink_to("../large disk")
    assert prune.prune(tmp_path / "run", "activations", dropped("a")) == 3000
    assert not seed.exists()
    assert folder.is_symlink(), "a later seed's go there too"
    assert [path.name for path in folder.iterdir()] == ["other"]
    assert pruned.read_pruned(tmp_path / "run") == [dropped("a")]


def test_links_within_a_folder_are_named_and_nothing_is_dropped(tmp_path):
    seed = stored(tmp_path / "elsewhere")
    folder = tmp_path / "run/activations"
    other = stored(folder).rename(folder / "seedb")
    (folder / "seeda").symlink_to(seed)
    with pytest.raises(UserError, match=f"{folder}/seeda: a link.*nothing was dropped.*{seed}"):
        prune.prune(tmp_path / "run", "activations", dropped("ab"))
    assert prune.bytes_in(seed) == prune.bytes_in(other) == 3000
    assert pruned.read_pruned(tmp_path / "run") == []


def test_what_cannot_be_removed_is_not_called_freed(tmp_path, monkeypatch):
    stored(tmp_path / "run/sums")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(prune.shutil, "rmtree", refuse)
    with pytest.raises(
        UserError, match="run/sums: can't be removed, 3.0 kB are left: .*Permission"
    ):
        prune.prune(tmp_path / "run", "sums", {})


def make_prune(where, kind):
    return tiny.universal_neurons(where, "prune", "--what", kind)


@pytest.mark.slow
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
