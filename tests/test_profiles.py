"""The profiles agree, and what rules ask a scheduler for grows with the attempt."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from snakemake_logger_plugin_stages import STAGE_OF

ROOT = Path(__file__).parent.parent
RULES = {file.name: file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk")}


def profile(name):
    return yaml.safe_load((ROOT / f"workflow/profiles/{name}/config.yaml").read_text())


def rules_there_are():
    named = re.findall(r"^ *(?:use )?rule (\w+)(?: as (\w+))?", "\n".join(RULES.values()), re.M)
    return {new or name for name, new in named}


def test_the_slurm_profile_repeats_the_default_one():
    """--workflow-profile replaces the default profile, whose settings keep reruns right."""
    default, slurm = profile("default"), profile("slurm")
    del default["logger"]  # a terminal that is watched; submitted runs seldom are
    assert {key: slurm.get(key) for key in default} == default


def test_the_slurm_profile_names_rules_that_there_are():
    rules = rules_there_are()
    assert set(profile("slurm")["groups"]) <= rules
    text = (ROOT / "workflow/profiles/slurm/config.yaml").read_text()
    examples = re.findall(r"^#   (\w+): \{", text, re.MULTILINE)
    assert examples
    assert set(examples) <= rules


def test_every_rule_is_of_a_stage_that_the_terminal_shows():
    assert set(STAGE_OF) == {*rules_there_are(), "all"}


def test_every_rule_asks_for_more_at_a_further_attempt():
    for name, text in RULES.items():
        for line in re.findall(r"^ +(?:mem_mb|runtime)=.*$", text, re.MULTILINE):
            assert "=growing(" in line, f"{name}: {line.strip()}"
