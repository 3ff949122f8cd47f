"""The workflow as a part of another one: docs/module/Snakefile."""

from __future__ import annotations

import json

import pytest
import tiny
import yaml

from universal_neurons.plan.config import resolve

EXAMPLE = tiny.ROOT / "docs/module"


def snakemake(where, *arguments):
    """Run the example on the tiny grid in `where`."""
    tiny.configure(where, {"rows": 3, "universal_neurons": tiny.make(where)})
    return tiny.snakemake(where, "--snakefile", str(EXAMPLE / "Snakefile"), *arguments)


def test_another_workflow_plans_what_its_own_rules_need(tmp_path):
    result = snakemake(tmp_path, "--dry-run", "--quiet", "rules")
    assert result.returncode == 0, result.stdout
    planned = dict(line.split() for line in result.stdout.splitlines() if len(line.split()) == 2)
    assert planned["most_universal"] == planned["un_score"] == planned["un_match"] == "1"
    assert planned["un_capture_first"] == "2"
    assert not {"un_report", "un_ablate", "un_all", "all"} & set(planned)


@pytest.mark.slow
def test_its_jobs_see_their_own_part_of_the_configuration(tmp_path):
    result = snakemake(tmp_path, "results/tiny/calibration/seeda/step10.json")
    assert result.returncode == 0, result.stdout
    facts = json.loads((tmp_path / "results/tiny/calibration/seeda/step10.json").read_text())
    assert (facts["source"], facts["d_mlp"]) == ("local", 40)


def test_the_examples_configuration_is_valid():
    config = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    assert resolve(config["universal_neurons"])["run"] == "module"
