"""Imports run downwards: from the report to what everyone uses, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tiny import ROOT

PACKAGE = ROOT / "src/universal_neurons"

# What each package, or module at the top, may import beside itself.
EVERYONE = {"devices", "errors", "jobs", "method"}
ALLOWED = {
    "errors": set(),
    "method": set(),
    "jobs": {"errors"},
    "devices": {"errors", "jobs"},
    "store": EVERYONE,
    "forks": set(),
    "models": {"store"},
    "activations": {"store"},
    "prepare": {"models", "store"},
    "capture": {"activations", "models", "prepare", "store"},
    "correlate": {"activations", "prepare", "store"},
    "score": {"activations", "capture", "correlate", "models", "prepare", "store"},
    "ablate": {"activations", "models", "prepare", "store"},
    "persist": {"models", "store"},
    "describe": {"activations", "models", "prepare", "store"},
    "report": {"persist", "score", "store"},
    "explorer": {"store"},
    "plan": {"activations", "models", "prepare", "store"},
    "api": {"activations", "correlate", "models", "store"},
    "export": {"api", "store"},
    "commands": {
        "activations",
        "api",
        "capture",
        "correlate",
        "export",
        "plan",
        "prepare",
        "report",
        "store",
    },
}


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> set[str]:
    """Modules of the package that a file imports, by dotted name below it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("universal_neurons"):
            below = node.module.removeprefix("universal_neurons").removeprefix(".")
            names = [f"{below}.{alias.name}".removeprefix(".") for alias in node.names]
            found |= {name if module_file(name) else below for name in names}
    return found - {""}


def module_file(name: str) -> Path | None:
    path = PACKAGE / name.replace(".", "/")
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("package", sorted({package_of(file) for file in FILES} - {"__init__"}))
def test_a_package_imports_only_what_lies_below_it(package):
    for file in FILES:
        if package_of(file) == package:
            others = {name.partition(".")[0] for name in imported(file)} - {package}
            assert others <= ALLOWED[package] | EVERYONE, file


def test_no_module_imports_itself_by_way_of_others():
    edges = {file: {module_file(name) for name in imported(file)} - {None} for file in FILES}
    done: set[Path] = set()

    def visit(file: Path, way: tuple[Path, ...]) -> None:
        assert file not in way, " -> ".join(f.name for f in (*way, file))
        if file not in done:
            for other in edges[file]:
                visit(other, (*way, file))
            done.add(file)

    for file in FILES:
        visit(file, ())


def test_modules_and_functions_are_of_a_size_to_read():
    """450 lines a module, 80 lines and 8 parameters a function; compiled kernels take more."""
    for file in FILES:
        text = file.read_text()
        assert len(text.splitlines()) <= 450, file
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef):
                continue
            if any("njit" in ast.unparse(decorator) for decorator in node.decorator_list):
                continue
            where = f"{file.relative_to(PACKAGE)}: {node.name}"
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
            assert len(named) <= 8, f"{where}: {len(named)} parameters"
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 80, f"{where}: {lines} lines"


@pytest.mark.parametrize(
    "script", sorted((ROOT / "workflow/scripts").glob("*.py")), ids=lambda path: path.stem
)
def test_a_script_is_a_call_and_its_hand_over(script):
    """At most 8 lines below the imports, as the formatter spreads them, and no control flow."""
    text = script.read_text()
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    below = text.splitlines()[imports[-1].end_lineno :]
    assert len([line for line in below if line.strip()]) <= 8
    steering = ast.If | ast.IfExp | ast.For | ast.While | ast.Try | ast.FunctionDef | ast.Lambda
    assert not [node for node in ast.walk(tree) if isinstance(node, steering)]
