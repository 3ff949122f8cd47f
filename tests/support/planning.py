"""Grids without files, and the texts of the rules, for tests of the plan."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from universal_neurons.models.shape import Shape
from universal_neurons.plan.config import resolve
from universal_neurons.plan.grid import Grid
from universal_neurons.plan.sections import Config

ROOT = Path(__file__).parents[2]
RULES = {file.name: file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk")}
SMALL, GPT2_SMALL = Shape(2, 256), Shape(12, 3072)


# A configuration to change: its files need not be there.
PLAIN = Config.of(
    resolve(
        {
            "run": "r",
            "models": {"seeds": ["0", "1", "2"], "steps": [1, 2]},
            "corpus": {
                "source": "bundled", "tokens": 1000, "heldout_tokens": 100, "context_length": 10,
            },
            "correlate": {"sample": 0.1},
            "persistence": {"trace_tokens": 500},
        }
    )
)  # fmt: skip


def grid(shape=SMALL, seeds=("0", "1", "2"), sections=None, **corpus):
    """A grid of models of one size; `sections` and `corpus` change the configuration."""
    sections = {"models": {"seeds": list(seeds)}, "corpus": corpus, **(sections or {})}
    changes = {name: replace(getattr(PLAIN, name), **keys) for name, keys in sections.items()}
    return Grid(replace(PLAIN, **changes), dict.fromkeys(seeds, shape), None)


def rule_names(files):
    """Names of the rules of rule files' texts, by file."""
    named = re.findall(r"^ *(?:use )?rule (\w+)(?: as (\w+))?", "\n".join(files.values()), re.M)
    return {new or name for name, new in named}
