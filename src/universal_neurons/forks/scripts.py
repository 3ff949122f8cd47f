"""Snakemake's Python scripts as forks of a server, where jobs run on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from snakemake.script import PythonScript

from universal_neurons.forks.server import End, Server, fork

# Address of a server that is there already; "0" where every job is to be a process of its own.
FORKS = "UNIVERSAL_NEURONS_FORKS"
# What Snakemake itself tells the jobs of threads.
THREADS = ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB", "NUMEXPR")


def run_scripts_as_forks() -> None:
    """Let this process's Snakemake run its scripts as forks from now on.

    As long as the server imports, and where it can't serve, jobs are processes of their own as
    usual, and so are those in an environment or container of their own. Snakemake measures and
    logs both alike, and the results are the same.
    """
    given = os.environ.get(FORKS)
    if given == "0" or sys.platform != "linux":
        return
    server = None if given else Server(os.environ)
    as_process = PythonScript.execute_script

    def execute_script(self: Any, fname: str, edit: bool = False) -> None:
        address = given or (server.address if server and server.serves else None)
        if not address or self.conda_env or self.container_img or self.env_modules:
            as_process(self, fname, edit)
            return
        begun = time.time()
        with fork(address, [fname], os.getcwd(), _environment(self)) as job:
            end = job.wait()
        if end.code:
            raise subprocess.CalledProcessError(end.code, [sys.executable, fname])
        if self.bench_record:
            _record(self.bench_record, time.time() - begun, end)

    PythonScript.execute_script = execute_script


def _record(record: Any, seconds: float, end: End) -> None:
    """Fill in Snakemake's record of a job.

    Snakemake itself would look at the process every now and then, which takes a twentieth of a
    small run's processor time and misses what jobs do after the last look.
    """
    record.running_time, record.data_collected = seconds, True
    record.cpu_time, record.cpu_usage = end.processor, 100 * end.processor
    record.max_rss, record.io_in, record.io_out = end.memory, end.read, end.written


def _environment(script: Any) -> dict[str, str]:
    """The environment that Snakemake would give to a script."""
    threads = {f"{name}_NUM_THREADS": str(script.threads) for name in THREADS}
    folder = script.resources.get("tmpdir")
    folders = dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), folder) if folder else {}
    return {**os.environ, **threads, **folders}
