"""The profiles agree, and what rules ask a scheduler for grows with the attempt."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from planning import RULES, rule_names

from snakemake_logger_plugin_stages import STAGE_OF

ROOT = Path(__file__).parents[2]


def profile(name):
    return yaml.safe_load((ROOT / f"workflow/profiles/{name}/config.yaml").read_text())


def test_the_slurm_profile_repeats_the_default_one():
    """--workflow-profile replaces the default profile, whose settings keep reruns right."""
    default, slurm = profile("default"), profile("slurm")
    del default["logger"]  # a terminal that is watched; submitted runs seldom are
    assert {key: slurm.get(key) for key in default} == default


def test_the_slurm_profile_names_rules_that_there_are():
    rules = rule_names(RULES)
    assert set(profile("slurm")["groups"]) <= rules
    text = (ROOT / "workflow/profiles/slurm/config.yaml").read_text()
    examples = re.findall(r"^#   (\w+): \{", text, re.MULTILINE)
    assert examples
    assert set(examples) <= rules


def test_every_rule_is_of_a_stage_that_the_terminal_shows():
    assert set(STAGE_OF) == {*rule_names(RULES), "all"}


def test_every_rule_asks_for_what_its_jobs_need_and_for_more_at_a_further_attempt():
    for name, text in RULES.items():
        for block in re.split(r"^ *(?=(?:use )?rule \w)", text, flags=re.MULTILINE)[1:]:
            header = block.partition("\n")[0]
            asked = re.findall(r"^ +resources:\n +(.*)$", block, re.MULTILINE)
            # A rule made of another one asks for the same, if it does not say otherwise.
            assert len(asked) == 1 or header.startswith("use rule"), f"{name}: {header}"
            assert all(re.fullmatch(r'\*\*asks\("\w+"\),', line) for line in asked), header
    helpers = RULES["common.smk"]
    asks = helpers.partition("def asks(")[2].partition("\n\n\n")[0]
    assert set(re.findall(r'"(\w+)": needed', asks)) == {"mem_mb", "runtime"}
    assert "growing(amount) for name, amount in amounts.items()" in asks


def test_rules_of_a_stage_are_in_the_file_of_its_name():
    stages = ["prepare", "capture", "direct", "correlate", "score", "ablate", "persist"]
    stages += ["describe", "report", "explorer"]
    assert set(RULES) == {f"{name}.smk" for name in [*stages, "common"]}
    assert "rule correlate:" in RULES["correlate.smk"]
    assert "rule score:" in RULES["score.smk"]
    included = re.findall(r'rules/(\w+)\.smk"', (ROOT / "Snakefile").read_text())
    assert included == ["common", *stages]
