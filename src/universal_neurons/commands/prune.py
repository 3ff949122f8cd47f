"""Make room on disk once results stand: ``make prune``.

Activations are all of what a run holds but a few per cent, and partial sums most of the rest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_neurons.commands.plans import pending
from universal_neurons.commands.status import bytes_in
from universal_neurons.errors import UserError
from universal_neurons.plan.config import load_config
from universal_neurons.plan.pruned import add_pruned
from universal_neurons.plan.sections import Config

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


def of_run(config: str | Path, kind: str, snakefile: Path | None = None) -> str:
    """Drop what a run holds of a kind, if it is finished, and say what that freed.

    Parameters
    ----------
    config
        Its configuration file.
    kind
        One of `KINDS`.
    snakefile
        Of the workflow; where Snakemake looks for it if None.

    Raises
    ------
    UserError
        If something is still to be done: nothing is dropped then.
    """
    run = Config.of(load_config(config))
    if left := pending(Path(config), snakefile):
        raise UserError(
            f"the run {run.run} is not finished: {len(left)} files are still to be made, such as "
            f"{left[0]}; nothing was dropped"
        )
    results, models = Path("results", run.run), run.models
    grid = {"seeds": models.seeds, "steps": models.steps, "shards": run.corpus.shards}
    freed = prune(results, kind, grid)
    return f"{results / kind}: dropped, {freed / 1e9:.2f} GB freed"
