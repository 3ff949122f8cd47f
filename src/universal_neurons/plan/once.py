"""Snakemake asks once what it would ask again for every job, though the answer is the same.

None of this changes what is planned or run, but how long it takes (docs/performance.md).
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def ask_once() -> None:
    """Let this process's Snakemake remember what it asked for from now on."""
    _reevaluations()
    _sizes()
    _parameters()
    _scripts()


def _reevaluations() -> None:
    """Another look at the jobs that are ready.

    After every look it asks for another one a second later, in case that it may not start more jobs
    in this second. That one asks again, and so on: there is such a chain of looks for every job
    that ever ended, hundreds of looks per second in the end. One that is to come is enough.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    waiting: set[Any] = set()

    def schedule_reevaluation(self: Any, delay: float) -> None:
        if self in waiting:
            return

        def look() -> None:
            waiting.discard(self)
            self._open_jobs.release()

        waiting.add(self)
        timer = threading.Timer(delay, look)
        timer.daemon = True  # or Snakemake would wait for it when everything is done
        timer.start()

    JobScheduler._schedule_reevalutation = schedule_reevaluation


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
