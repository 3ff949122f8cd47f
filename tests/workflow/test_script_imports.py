"""A job imports the large libraries that it uses and no other: on a cluster each pays for them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from tiny import ROOT

LARGE = ("torch", "transformers", "matplotlib", "numba", "pandas", "datasets")
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))

TABLES = frozenset({"pandas"})
SUMS = frozenset({"numba"})
MODELS = frozenset({"torch", "transformers"})
# What a script may import of them; the others none.
USED = {
    **dict.fromkeys(
        (
            *("ablate", "contexts", "describe", "doses", "effects", "examples", "mediate"),
            "trace",
        ),
        MODELS | TABLES,
    ),
    **dict.fromkeys(("capture", "capture_first", "restore"), MODELS | SUMS),
    **dict.fromkeys(("direct", "direct_first", "direct_more"), MODELS | SUMS),
    **dict.fromkeys(("given", "influence", "match", "permuted", "refine", "screen"), SUMS),
    **dict.fromkeys(("tokenizer", "train"), MODELS),
    **dict.fromkeys(("concatenate", "join_effects", "persistence", "trajectories"), TABLES),
    "vocabulary": TABLES,
    **dict.fromkeys(("models", "neurons", "report", "score", "subsets"), TABLES | SUMS),
    "explorer": TABLES,
    "figures": TABLES | SUMS | {"matplotlib"},
    "random_directions": MODELS | SUMS,
    "untrained": MODELS | SUMS | TABLES,
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_imports_only_what_its_job_uses(script):
    imports = [
        ast.unparse(node)
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    code = "\n".join([*imports, "import sys", "print(*sys.modules)"])
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(run.stdout.split()) & set(LARGE) == USED.get(script.stem, set())
