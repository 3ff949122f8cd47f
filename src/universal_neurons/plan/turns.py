"""Where activations or sums are temporary, steps take turns: one is read before the next is made.

All captures of a grid can run at the start, and on a cluster they would: the activations of all
steps would lie on the disk together, though each lies there for its own step's jobs alone.
Snakemake's priorities order jobs that wait for the same cores, but hold none back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# Rules that make what is temporary, and those that read it; one does both in a job.
MAKERS = {"capture_first", "capture", "direct_first", "direct", "direct_more", "random_directions"}
READERS = {"correlate", "given", "match", "similarity", "screen", "refine", "influence", "permuted"}
READERS |= {"random_directions"}


def take_turns() -> None:
    """Let this process's Snakemake hold a step's makers back until earlier steps are read.

    Readers need makers of their own step only, so the first step that is not read can always go on.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    select = JobScheduler.job_selector

    def job_selector(self: Any, jobs: Collection[Any]) -> Collection[Any]:
        # Failed jobs are in neither: they hold up no other step where a run goes on.
        unread = [job for job in [*self.remaining_jobs, *self.running] if _is_of(job, READERS)]
        first = min(map(_step, unread), default=0)
        return select(self, {job for job in jobs if not _is_of(job, MAKERS) or _step(job) <= first})

    JobScheduler.job_selector = job_selector


def _is_of(job: Any, rules: Collection[str]) -> bool:
    """Groups of jobs (`--groups`) are of none."""
    return not job.is_group() and job.rule.name in rules


def _step(job: Any) -> int:
    return int(job.wildcards.step)
