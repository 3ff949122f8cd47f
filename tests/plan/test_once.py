"""What Snakemake asks once, in place of once per job."""

from __future__ import annotations

import threading

from snakemake.scheduling.job_scheduler import JobScheduler

from universal_neurons.plan import once


class Scheduler:
    """What a look at the jobs that are ready takes of Snakemake's."""

    def __init__(self) -> None:
        self._open_jobs = threading.Semaphore(0)


def test_looks_at_the_jobs_that_are_ready_do_not_multiply(monkeypatch):
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", None)
    once._reevaluations()
    ask, scheduler, other = JobScheduler._schedule_reevalutation, Scheduler(), Scheduler()
    for _ in range(2):
        for _ in range(50):
            ask(scheduler, 0.05)
        ask(other, 0.05)
        assert scheduler._open_jobs.acquire(timeout=5)
        assert not scheduler._open_jobs.acquire(timeout=0.2)
        assert other._open_jobs.acquire(timeout=5)
