"""Make room on disk once results stand: ``make prune`` (``python -m universal_neurons.prune``).

Activations are all of what a run holds but a few per cent, and partial sums most of the rest.
Without them nothing is to be done again as long as nothing changes. A seed added later is compared
with all others, so it needs their activations once more, but not what was already made of them:
that is what `pruned.json` remembers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from universal_neurons.status import bytes_in
from universal_neurons.store import read_json, replacing

# What can be dropped.
KINDS = ("activations", "sums")

# A seed, step and shard.
Cell = tuple[str, int, int]


def read_pruned(results: str | Path) -> list[Mapping[str, Any]]:
    """What was dropped from a run, earliest first: each the ``seeds``, ``steps`` and ``shards``."""
    path = Path(results) / "pruned.json"
    return list(read_json(path)) if path.exists() else []


def to_restore(pruned: Sequence[Mapping[str, Any]], cell: Cell, other: Cell) -> bool:
    """Whether a cell's activations are made once more to be compared with those of another.

    They are if they were dropped before the other cell was there. If both were dropped together
    they had been compared before.

    Parameters
    ----------
    pruned
        As `read_pruned` returns it.
    cell, other
        Seed, step and shard of the activations, and of those they are compared with.
    """

    def within(dropped: Mapping[str, Any], cell: Cell) -> bool:
        seed, step, shard = cell
        return seed in dropped["seeds"] and step in dropped["steps"] and shard < dropped["shards"]

    return any(within(dropped, cell) and not within(dropped, other) for dropped in pruned)


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
        with replacing(Path(results) / "pruned.json") as path:
            path.write_text(json.dumps([*read_pruned(results), grid], indent=1))
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
