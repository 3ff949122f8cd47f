"""What a run can leave out: ablation, tracing, or all stages after one of its tables."""

from __future__ import annotations

import shutil

import pytest
import tiny
import yaml

from universal_neurons.plan.config import resolve
from universal_neurons.plan.counts import counts
from universal_neurons.plan.grid import Grid
from universal_neurons.store.columns.registry import TABLES
from universal_neurons.store.tables import read_table

WITHOUT = {"ablation": {"kinds": []}, "persistence": {"trace_tokens": 0}}


@pytest.fixture
def without(local, tmp_path):
    """A copy of the finished run whose configuration leaves out ablation and tracing."""
    where, config = local
    shutil.copytree(where, tmp_path / "copy", symlinks=True)
    tiny.configure(tmp_path / "copy", {**config, **WITHOUT})
    return tmp_path / "copy"


def test_what_is_left_out_is_not_planned(without, monkeypatch):
    expected = {"concatenate_ablation", "concatenate_doses", "join_effects", "trajectories"}
    expected |= {"persistence"}
    drawn = {"models", "figures", "report", "explorer"}
    # Contexts are of the neurons with the largest effects, too.
    expected |= {"concatenate_examples", "concatenate_contexts"}
    described = {"examples": 3, "contexts": 6}
    assert tiny.planned(without) == dict.fromkeys({*expected, *drawn}, 1) | described
    new = tiny.planned(without, "--config", "run=new")
    assert not {"ablate", "doses", "effects", "mediate", "trace"} & {*new}
    monkeypatch.chdir(without)
    config = resolve(yaml.safe_load((without / "config.yaml").read_text()))
    assert counts(Grid.of(config)) == {**new, "all": 1}


@pytest.mark.slow
def test_without_ablation_and_tracing_there_are_tables_and_a_report_that_say_so(without):
    tiny.finish(without)
    results = without / "results/exact"
    for name in ("ablation", "doses", "effects", "mediation"):
        table = read_table(results / f"{name}.parquet")
        assert table.empty
        assert list(table.columns) == TABLES[name].names
    trajectories = read_table(results / "trajectories.parquet")
    assert len(trajectories)
    assert (trajectories["next_layer"] == -1).all()
    assert read_table(results / "models.parquet")["heldout_loss"].isna().all()
    report = (results / "report.html").read_text()
    assert "Nothing was ablated (ablation.kinds is empty, or no model has a head)." in report
    assert "Neurons were not traced from step to step (persistence.trace_tokens is 0)." in report
    assert "The held-out loss was not measured." in report


def test_a_table_as_target_makes_what_it_needs_and_nothing_else(local):
    where, _ = local
    scores = tiny.planned(where, "results/new/universality.parquet", "--config", "run=new")
    assert not {"ablate", "trace", "persistence", "figures", "report"} & {*scores}
    assert scores["score"] == 2
    neurons = tiny.planned(where, "results/new/neurons.parquet", "--config", "run=new")
    assert {*neurons} == {"corpus", "capture_first", "capture", "neurons"}
