"""Make room on disk once results stand: ``make prune``.

Activations are all of what a run holds but a few per cent, and partial sums most of the rest.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from universal_neurons.commands.status import bytes_in
from universal_neurons.plan.pruned import add_pruned

# What can be dropped.
KINDS = ("activations", "sums")


def prune(results: str | Path, kind: str, grid: Mapping[str, Any]) -> int:
    """Drop a run's activations or partial sums; returns the number of bytes freed.

    Parameters
    ----------
    results
        Directory ``results/<run>`` of a finished run.
    kind
        One of `KINDS`.
    grid
        Its ``seeds``, ``steps`` and number of ``shards``.
    """
    folder = Path(results) / kind
    size = bytes_in(folder)
    if kind == "activations":
        # First: a run that is interrupted here has forgotten nothing.
        add_pruned(results, grid)
    shutil.rmtree(folder, ignore_errors=True)
    return size


def main() -> None:
    """Drop what the command line names, if the dry run on standard input plans nothing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path, help="the run's configuration")
    parser.add_argument("kind", choices=KINDS)
    given = parser.parse_args()
    config = yaml.safe_load(given.config.read_text())
    plan = sys.stdin.read()
    if "Nothing to be done" not in plan:
        sys.exit(f"{plan}\nThe run is not finished (or see above): nothing was dropped.")
    results = Path("results", config["run"])
    grid = {
        "seeds": [str(seed) for seed in config["models"]["seeds"]],
        "steps": list(config["models"]["steps"]),
        "shards": config["corpus"].get("shards", 1),
    }
    freed = prune(results, given.kind, grid)
    print(f"{results / given.kind}: dropped, {freed / 1e9:.2f} GB freed")


if __name__ == "__main__":
    main()
