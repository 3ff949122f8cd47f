"""Results in the formats of other tools: ``universal-neurons export KIND results/<run>``."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from universal_neurons.api.run import Run, open_run
from universal_neurons.errors import UserError
from universal_neurons.store.files import replacing


def csv(results: Path, table: str, output: Path | None) -> str:
    """Write a table of a run as CSV; cells with lists hold JSON.

    Raises
    ------
    UserError
        If the run has no such table.
    """
    found = open_run(results).table(table).copy()
    for name in found.select_dtypes(object):
        found[name] = found[name].map(_cell)
    return _write_csv(found, output or Path(f"{table}.csv"))


def gurnee(results: Path, seed: str | None, step: int | None, output: Path | None) -> str:
    """Write the columns of the published ``universal.csv``, see `export.gurnee`."""
    from universal_neurons.export.gurnee import DIFFERENCES, universal_csv

    run = open_run(results)
    table = universal_csv(run, seed or run.seeds[0], _step(run, step))
    return f"{_write_csv(table, output or Path('universal.csv'))}\n{DIFFERENCES}"


def rosetta(
    results: Path, seeds: Sequence[str] | None, step: int | None, output: Path | None
) -> str:
    """Write the mutual matches of two seeds, see `export.rosetta`."""
    from universal_neurons.export.rosetta import best_buddies

    run = open_run(results)
    one, other = seeds or run.seeds[:2]
    found = best_buddies(run, one, other, _step(run, step))
    path = output or Path("best_buddies.json")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=2))
    return f"{path}: {len(found)} pairs of seed {one} (model 1) and {other} (model 2)"


def neuronpedia(results: Path, seed: str | None, model_id: str, output: Path | None) -> str:
    """Write features and activations of a seed, see `export.neuronpedia`."""
    from universal_neurons.export.neuronpedia import DIFFERENCES, bundle

    run = open_run(results)
    files = bundle(run, seed or run.seeds[0], model_id)
    folder = output or Path("neuronpedia")
    with replacing(folder) as temporary:
        for name, lines in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
            path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return f"{folder}: {len(files)} files\n{DIFFERENCES}"


def _step(run: Run, step: int | None) -> int:
    return run.steps[-1] if step is None else step


def _cell(value: object) -> object:
    """A list as JSON, anything else as it is."""
    return json.dumps(value.tolist()) if isinstance(value, np.ndarray) else value


def _write_csv(table: pd.DataFrame, path: Path) -> str:
    if path.exists() and path.is_dir():
        raise UserError(f"--output {path}: is a folder; give a file")
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return f"{path}: {len(table):,} rows"
