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

# What can be dropped, and what a run has in the folders.
KINDS = {"activations": "seed*", "sums": "step*", "classes": "seed*"}


def prune(results: str | Path, kind: str, grid: Mapping[str, Any]) -> int:
    """Drop a run's activations or partial sums; returns the number of bytes freed.

    A folder that is a link to another disk is emptied there, and stays: what is made later goes
    there too.

    Parameters
    ----------
    results
        Directory ``results/<run>`` of a finished run.
    kind
        One of `KINDS`.
    grid
        Its ``seeds``, ``steps`` and number of ``shards``.

    Raises
    ------
    UserError
        If there is a link in the folder, which might lead anywhere; nothing is dropped then. Or if
        something can't be removed.
    """
    folder = Path(results) / kind
    whole = [folder] if folder.is_dir() and not folder.is_symlink() else []
    dropped = whole or sorted(folder.glob(KINDS[kind]))
    if link := next((path for path in map(_first_link, dropped) if path), None):
        raise UserError(
            f"{link}: a link, which prune follows only in place of {folder}; nothing was dropped: "
            f"remove it by hand with what it leads to, {link.resolve()}"
        )
    size = sum(map(bytes_in, dropped))
    if kind == "activations":
        # First: a run that is interrupted here has forgotten nothing.
        add_pruned(results, grid)
    try:
        for path in dropped:
            shutil.rmtree(path)
    except OSError as error:
        left = in_bytes(sum(map(bytes_in, dropped)))
        raise UserError(f"{folder}: can't be removed, {left} are left: {error}") from error
    return size


def _first_link(folder: Path) -> Path | None:
    """The folder if it is a link, or the first one in it."""
    return next((path for path in (folder, *folder.rglob("*")) if path.is_symlink()), None)


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
