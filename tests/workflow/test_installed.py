"""What `pip install .` installs is whole, and works in any folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import tiny

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
DOCUMENTS = [tiny.ROOT / "README.md", *(tiny.ROOT / "docs").glob("*.md")]


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what is built from: a build writes beside it."""
    where = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    shutil.copytree(tiny.ROOT / "src", where / "clone/src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(tiny.ROOT / name, where / "clone")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", f"{where}", f"{where / 'clone'}")
    (built,) = where.glob("*.whl")
    return built


def test_the_wheel_has_every_file_of_the_packages(wheel):
    source = wheel.parent / "clone/src"
    packages = [path for path in source.iterdir() if path.suffix != ".egg-info"]
    files = (path for package in packages for path in package.rglob("*") if path.is_file())
    names = {str(path.relative_to(source)) for path in files}
    assert {"universal_neurons/plan/config.schema.yaml", "universal_neurons/py.typed"} < names
    assert names <= set(zipfile.ZipFile(wheel).namelist())


def test_the_installed_commands_work_in_a_folder_that_knows_nothing_of_the_source(wheel, tmp_path):
    site, study = tmp_path / "site", tmp_path / "study"
    run(*PIP, "install", "--quiet", "--no-deps", "--target", f"{site}", f"{wheel}")
    tiny.make(study)
    (study / "config.yaml").rename(study / "my.yaml")
    given = {"cwd": study, "env": {**os.environ, "PYTHONPATH": f"{site}"}}
    used = "import universal_neurons; print(universal_neurons.__file__)"
    assert run(sys.executable, "-c", used, **given).startswith(f"{site}/")
    said = run(sys.executable, f"{site}/bin/universal-neurons", "estimate", "my.yaml", **given)
    assert re.search(r"^total +\d\d ", said, re.MULTILINE)
    assert "estimate" in run(sys.executable, "-m", "universal_neurons.commands", "--help", **given)


def test_the_documents_name_no_package_that_is_on_no_index():
    named = [line for file in DOCUMENTS for line in file.read_text().splitlines()]
    installs = [line for line in named if "pip install" in line]
    assert installs
    assert not [line for line in installs if "universal-neurons" in line]
