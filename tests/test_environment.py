"""What is installed: the lock file, the conda environment and the package's metadata agree."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lines) -> dict[str, str]:
    """Package to version of lines ``name==version``."""
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, version in pairs}


LOCK = pins((ROOT / "requirements.lock").read_text().splitlines())


def conda_pins() -> dict[str, str]:
    environment = yaml.safe_load((ROOT / "envs/universal-neurons.yaml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    return pins(pip)


def test_the_conda_environment_has_the_pins_of_the_lock_file():
    found = conda_pins()
    assert found == {name: LOCK.get(name) for name in found}


def test_the_conda_environment_has_all_the_package_needs():
    needed = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert set(conda_pins()) == needed


@pytest.mark.parametrize(
    "requirement",
    [*PROJECT["dependencies"], *(r for e in PROJECT["optional-dependencies"].values() for r in e)],
)
def test_the_lock_file_meets_every_requirement(requirement):
    requirement = Requirement(requirement)
    assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_all_that_the_library_imports_is_required():
    """A package that only happens to be installed is missing on another machine."""
    names = {"yaml": "pyyaml"}
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for file in (ROOT / "src/universal_neurons").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    imported -= {*sys.stdlib_module_names, "universal_neurons"}
    needed = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert {canonicalize_name(names.get(name, name)) for name in imported} <= needed
