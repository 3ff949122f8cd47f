"""The command line: one entry, commands that start fast, mistakes without a traceback."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
import tiny

from universal_neurons.commands import plans
from universal_neurons.commands.__main__ import main
from universal_neurons.errors import UserError

COMMANDS = ["estimate", "status", "prune", "compare"]


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


def test_all_files_of_a_run_that_has_not_begun_are_pending(tmp_path, monkeypatch):
    config = tiny.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    left = plans.pending(tmp_path / "config.yaml", tiny.ROOT / "Snakefile")
    assert "results/tiny/report.html" in left
    assert "results/tiny/activations/seeda/step10/shard0.zarr" in left
    with pytest.raises(SystemExit, match=rf"{len(left)} files are still to be made, such as"):
        main(["prune", "--snakefile", str(tiny.ROOT / "Snakefile")])
    tiny.configure(tmp_path, {**config, "runn": "x"})
    with pytest.raises(UserError, match=r"runn: unknown key; did you mean run\?"):
        plans.pending(tmp_path / "config.yaml", tiny.ROOT / "Snakefile")
