"""What files were made with is known wherever they are: Snakemake's records lie with them."""

from __future__ import annotations

import shutil

import pytest
import snakemake.api  # before its parts, which import each other
import snakemake.workflow
import tiny
from snakemake.persistence import MetadataRecord

from universal_neurons.plan.records import keep_records

RUN = "results/tiny"
ABLATED = {"ablate": 2, "doses": 2, "effects": 2, "mediate": 2, "concatenate_ablation": 1}
ABLATED |= {"concatenate_doses": 1, "join_effects": 1, "models": 1, "figures": 1, "report": 1}
# Contexts are of the neurons with the largest effects, too.
ABLATED |= {"examples": 2, "contexts": 2, "concatenate_examples": 1, "concatenate_contexts": 1}
ABLATED |= {"explorer": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, and its configuration."""
    where = tmp_path_factory.mktemp("finished")
    config = tiny.make(where)
    tiny.finish(where)
    return where, config


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run without Snakemake's own folder, and its configuration."""
    where, config = finished
    there = tmp_path / "copy"
    shutil.copytree(where, there, ignore=shutil.ignore_patterns(".snakemake"))
    return there, config


@pytest.mark.slow
def test_copied_results_plan_what_a_changed_setting_needs_and_nothing_else(run):
    where, config = run
    assert tiny.planned(where) == {}
    tiny.configure(where, {**config, "ablation": {"seed": 1}})
    assert tiny.planned(where) == ABLATED
    tiny.finish(where)
    assert tiny.planned(where) == {}
    tiny.configure(where, config)
    assert tiny.planned(where) == ABLATED


@pytest.mark.slow
def test_results_put_in_place_of_others_are_known_by_their_own_records(run, finished, tmp_path):
    """Snakemake's own folder is of the others."""
    where, config = run
    whole, _ = finished
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    tiny.configure(other, {**config, "ablation": {"seed": 1}})
    tiny.finish(other)
    shutil.rmtree(where / "results")
    shutil.copytree(other / "results", where / "results")
    shutil.copytree(whole / ".snakemake", where / ".snakemake")
    assert tiny.planned(where) == ABLATED


def test_results_of_earlier_versions_have_the_records_of_snakemakes_folder(finished, tmp_path):
    whole, config = finished
    where = tmp_path / "earlier"
    shutil.copytree(whole, where)
    shutil.rmtree(where / RUN / "records")
    assert tiny.planned(where) == {}
    tiny.configure(where, {**config, "ablation": {"seed": 1}})
    assert tiny.planned(where) == ABLATED


def test_a_job_that_begins_leaves_no_record_of_what_was_there_before(tmp_path, monkeypatch):
    """Killed, it may leave a new file: nothing must be said of that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(snakemake.workflow, "FilePersistence", snakemake.workflow.FilePersistence)
    keep_records(RUN)
    path, of_another_run = f"{RUN}/a.parquet", "results/other/a.parquet"
    own = snakemake.workflow.FilePersistence(path=tmp_path / "own")
    for name in (path, of_another_run):
        own._write_record(name, MetadataRecord(rule=name))
    elsewhere = snakemake.workflow.FilePersistence(path=tmp_path / "elsewhere")
    assert elsewhere._read_record(path).rule == path
    assert elsewhere._read_record(of_another_run) is None
    own._mark_incomplete(path, None)
    elsewhere._clear_cache()
    assert elsewhere._read_record(path) is None


def test_a_plan_leaves_nothing_in_the_results(tmp_path):
    tiny.make(tmp_path)
    assert tiny.planned(tmp_path)
    assert not (tmp_path / "results").exists()
