"""Snakemake asks once what it would ask again for every job, though the answer is the same.

None of this changes what is planned or run, but how long it takes (docs/performance.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def ask_once() -> None:
    """Let this process's Snakemake remember sizes, parameters and scripts from now on."""
    _sizes()
    _parameters()
    _scripts()


def _sizes() -> None:
    """Sizes of inputs.

    It prefers jobs with large inputs, and to compare those that are ready it asks the file system
    for all their inputs at every step: for a third of its own time in grids of small jobs. Inputs
    of a job that is ready are there, and change no more.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    async def update_input_sizes(self: Any, jobs: Iterable[Any]) -> None:
        for path in {path for job in jobs for path in job.input} - self._input_sizes.keys():
            self._input_sizes[path] = await path.size() if await path.exists() else None

    JobScheduler.update_input_sizes = update_input_sizes


def _parameters() -> None:
    """Names of the parameters of the rules' functions.

    It inspects a function whenever it calls it, some twenty times per job.
    """
    from snakemake import common, rules

    ask: Callable[[Any], Mapping[str, Any]] = common.get_function_params
    known: dict[tuple[Any, bool], Mapping[str, Any]] = {}

    def get_function_params(function: Any) -> Mapping[str, Any]:
        # Methods are new objects at every look: known by their function.
        key = getattr(function, "__func__", function), inspect.ismethod(function)
        if key not in known:
            known[key] = ask(function)
        return known[key]

    common.get_function_params = rules.get_function_params = get_function_params


def _scripts() -> None:
    """Whether a rule's script is there; ours have no wildcards in their names."""
    from snakemake.dag import ScriptProcessor

    check = ScriptProcessor.process_job
    checked: set[tuple[str, Any]] = set()

    def process_job(self: Any, job: Any) -> None:
        key = self.script_type, job.rule
        if key not in checked:
            check(self, job)
            checked.add(key)

    ScriptProcessor.process_job = process_job
