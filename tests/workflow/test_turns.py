"""What a run holds on disk: as simulated, a step at a time where it is temporary."""

from __future__ import annotations

import pytest
import tiny
from room import peak_disk_ratio

# Jobs that compute; joins and reports run for any new seed.
COMPUTED = ("capture_first", "capture", "correlate", "given", "match", "similarity", "permuted")


@pytest.mark.slow
def test_the_simulated_peak_is_that_of_a_run_which_leaves_no_sums(tmp_path):
    assert peak_disk_ratio(tmp_path) == pytest.approx(1, rel=0.15)
    for kind in ("activations", "sums", "classes"):
        assert not list((tmp_path / "results/room" / kind).rglob("*.zarr"))
    assert tiny.planned(tmp_path) == {}


@pytest.mark.slow
def test_without_its_sums_a_run_is_whole_and_a_new_seed_runs_new_cells_only(tmp_path):
    config = tiny.make(tmp_path, seeds=("a", "b", "c"), steps=(10, 20), shards=2)
    config["correlate"] = {"keep_sums": False}
    config["models"]["seeds"] = ["a", "b"]
    tiny.configure(tmp_path, config)
    tiny.finish(tmp_path)
    assert not list((tmp_path / "results/tiny/sums").rglob("*.zarr"))
    assert tiny.planned(tmp_path) == {}
    config["models"]["seeds"].append("c")
    tiny.configure(tmp_path, config)
    jobs = tiny.planned(tmp_path)
    # A model and two pairs more at both steps, of two shards each.
    assert [jobs[rule] for rule in COMPUTED] == [2, 2, 8, 2, 4, 4, 4]
