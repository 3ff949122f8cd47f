"""Make room on disk once results stand: ``make prune``.

Activations are all of what a run holds but a few per cent, and partial sums most of the rest.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_neurons.commands.plans import remaining
from universal_neurons.commands.status import bytes_in
from universal_neurons.errors import UserError
from universal_neurons.plan.config import load_config
from universal_neurons.plan.pruned import add_pruned
from universal_neurons.plan.sections import Config
from universal_neurons.plan.units import in_bytes

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
    if left := Counter(job.rule for job in remaining(config, snakefile)):
        rules = [f"{jobs} of {rule}" for rule, jobs in left.items()]
        some = ", ".join(rules[:3]) + (", ..." if len(rules) > 3 else "")
        raise UserError(
            f"the run {run.run} is not finished, {left.total()} jobs are still to do ({some}): "
            "nothing was dropped; run snakemake to the end first"
        )
    results, models = Path("results", run.run), run.models
    grid = {"seeds": models.seeds, "steps": models.steps, "shards": run.corpus.shards}
    freed = prune(results, kind, grid)
    return f"{results / kind}: dropped, {in_bytes(freed)} freed"
