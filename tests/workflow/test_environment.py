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

ROOT = Path(__file__).parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, GROUPS = METADATA["project"], METADATA["dependency-groups"]
LOCK = {
    package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
}
EXTRAS = PROJECT["optional-dependencies"]


def conda_pins() -> dict[str, str]:
    environment = yaml.safe_load((ROOT / "envs/universal-neurons.yaml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    pairs = (line.split("==") for line in pip)
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def names(requirements) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_the_conda_environment_has_the_pins_of_the_lock_file():
    found = conda_pins()
    assert found == {name: LOCK[name]["version"] for name in found}


def test_the_conda_environment_has_all_the_package_and_the_demo_need():
    assert set(conda_pins()) == names([*PROJECT["dependencies"], *EXTRAS["demo"]])


@pytest.mark.parametrize(
    "requirement",
    [
        *PROJECT["dependencies"],
        *(r for extra in EXTRAS.values() for r in extra),
        *(r for group in GROUPS.values() for r in group if isinstance(r, str)),
    ],
)
def test_the_lock_file_meets_every_requirement(requirement):
    requirement = Requirement(requirement)
    found = LOCK[canonicalize_name(requirement.name)]["version"]
    assert requirement.specifier.contains(found)


def test_the_lock_file_names_the_public_index_only_and_a_hash_of_every_file():
    for name, package in LOCK.items():
        if name == PROJECT["name"]:
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}, name
        for file in [*package.get("wheels", []), *filter(None, [package.get("sdist")])]:
            assert file["url"].startswith("https://files.pythonhosted.org/"), name
            assert file["hash"].startswith("sha256:"), name


def test_the_make_target_brings_all_that_torch_needs_for_a_cpu():
    """It installs torch apart from the lock, which is asked for torch's own needs by this group."""
    needed = {
        canonicalize_name(need["name"])
        for need in LOCK["torch"]["dependencies"]
        if not need["name"].startswith(("cuda-", "nvidia-", "triton"))
    }
    assert needed <= names(GROUPS["torch-cpu"])


def test_all_that_the_library_imports_is_required():
    """A package that only happens to be installed is missing on another machine."""
    distributions = {"yaml": "pyyaml"}
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for file in (ROOT / "src/universal_neurons").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    imported -= {*sys.stdlib_module_names, "universal_neurons"}
    found = {canonicalize_name(distributions.get(name, name)) for name in imported}
    assert found <= names([*PROJECT["dependencies"], *EXTRAS["speech"]])
