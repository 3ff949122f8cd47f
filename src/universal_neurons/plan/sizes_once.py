"""Snakemake looks up how large a job's inputs are once, in place of each time that a job ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def ask_sizes_once() -> None:
    """Let this process's Snakemake remember the sizes of inputs from now on.

    It prefers jobs with large inputs, and to compare those that are ready it asks the file system
    for all their inputs at every step: for a third of its own time in grids of small jobs. Inputs
    of a job that is ready are there, and change no more.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    async def update_input_sizes(self: Any, jobs: Iterable[Any]) -> None:
        for path in {path for job in jobs for path in job.input} - self._input_sizes.keys():
            self._input_sizes[path] = await path.size() if await path.exists() else None

    JobScheduler.update_input_sizes = update_input_sizes
