"""The command line: one entry, commands that start fast, mistakes without a traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tiny

from universal_neurons.commands import plans
from universal_neurons.commands.__main__ import main
from universal_neurons.errors import UserError

COMMANDS = ["estimate", "status", "prune", "compare", "compare-published"]


def test_the_installed_script_is_this_command_line():
    project = tomllib.loads((tiny.ROOT / "pyproject.toml").read_text())["project"]
    (name, value), *others = project["scripts"].items()
    assert (name, others) == ("universal-neurons", [])
    assert EntryPoint(name, value, "console_scripts").load() is main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="^0$"):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize("command", ["estimate", "status", "prune"])
def test_a_missing_configuration_is_named_without_a_traceback(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: config.yaml: can't be read"):
        main([command])
    with pytest.raises(SystemExit, match=r"^error: other.yaml: can't be read"):
        main([command, "other.yaml"])


def test_the_command_line_starts_without_what_a_command_may_not_need():
    code = (
        "import sys, universal_neurons.commands.__main__\n"
        "sys.exit({'torch', 'pandas', 'numpy', 'zarr'} & set(sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_remains_of_a_run_are_the_jobs_of_its_dry_run(tmp_path, monkeypatch):
    config = tiny.make(tmp_path)
    jobs = tiny.planned(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in tiny.environment().items():
        monkeypatch.setenv(name, value)
    snakefile = tiny.ROOT / "Snakefile"
    left = plans.remaining("config.yaml", snakefile)
    assert Counter(job.rule for job in left) == {"all": 1, **jobs}
    # Of both seeds' jobs, which a dry run lists in any order.
    first = Path("results/tiny/activations/seeda/step10/shard0.zarr")
    [capture] = [job for job in left if job.rule == "capture_first" and job.output == first]
    assert capture.log == Path("results/tiny/logs/capture/seeda/step10/shard0.log")
    assert capture.benchmark == Path("results/tiny/benchmarks/capture/seeda/step10/shard0.tsv")
    tiny.configure(tmp_path, {**config, "runn": "x"})
    with pytest.raises(UserError) as error:
        plans.remaining("config.yaml", snakefile)
    said = str(error.value)
    assert "runn: unknown key; did you mean run?" in said
    assert "Traceback" not in said
    assert "profile" not in said
    assert "  File" not in said


@pytest.mark.parametrize("command", ["status", "prune"])
def test_a_folder_without_the_workflow_is_told_where_to_name_it(command, tmp_path, monkeypatch):
    tiny.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: no Snakefile in {tmp_path}: .*--snakefile"):
        main([command])
    with pytest.raises(SystemExit, match="^error: no other: .*--snakefile"):
        main([command, "--snakefile", "other"])


def test_the_whole_grid_is_costed_without_the_workflow(tmp_path, monkeypatch, capsys):
    tiny.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    main(["estimate"])
    said = capsys.readouterr().out
    assert "total" in said
    assert "What is still to do is not known" in said
